//! Which rule fits a request, and which version it leads to.

use super::{Live, key_hash, served_by};
use crate::{
    rule::{Place, Rule, Target},
    service::{ServiceSettings, VersionStage},
    snapshot::ServiceRoute,
};
use foldhash::quality::FixedState;
use serin_route::{
    condition::{Matcher, Request},
    source::{Source, Sources},
    weigh::{self, Strategy},
};
use std::{cmp::Reverse, hash::BuildHasher as _, sync::Arc};

/// The rules of a service, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Arc<[RuleRoute]>,
    matcher: Arc<Matcher>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct RuleRoute {
    /// As it was written.
    pub rule: Rule,
    /// What its strategy goes by instead of what the caller is known again by.
    source: Option<Source>,
    /// Where it leads.
    to: Box<[Way]>,
}

/// One of the versions to which a rule leads.
#[derive(Clone, Debug)]
struct Way {
    place: Place,
    weight: u32,
    /// Names it among all places of all rules: by this, not by the version that it is now, callers are drawn.
    id: u64,
}

/// The rule that fits a request, and what the request has of what the rule goes by.
#[derive(Clone, Copy, Debug)]
pub struct Ruled<'a> {
    /// The rule.
    pub rule: &'a RuleRoute,
    /// The value of its [`RuleRoute::source`] in the request; without one, versions are chosen by the affinity key.
    pub by: Option<&'a [u8]>,
}

impl Rules {
    /// Of a list in any order; those that are off are left out.
    pub fn compile(rules: &[Rule]) -> Self {
        let mut rules: Vec<_> = rules.iter().filter(|rule| rule.enabled).collect();
        rules.sort_by_key(|rule| Reverse(rule.priority));
        let conditions = rules.iter().map(|rule| rule.when.as_ref());
        Self {
            matcher: Matcher::compile(conditions).into(),
            rules: rules.into_iter().map(RuleRoute::new).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any of them asks which tools are called: the message has to be read before the rule can be found.
    pub fn ask_for_tools(&self) -> bool {
        self.matcher.asks_tools()
    }

    /// The first that fits.
    pub fn find(&self, request: &Request<'_>) -> Option<&RuleRoute> {
        self.rules.get(self.matcher.first(request)?)
    }

    /// Whether the condition of a rule of [`Self::iter`] at a place holds, even if one before it does.
    pub fn fits(&self, at: usize, request: &Request<'_>) -> bool {
        self.matcher.holds(at, request)
    }

    /// All of them that are on, the highest priority first.
    pub fn iter(&self) -> impl Iterator<Item = &RuleRoute> {
        self.rules.iter()
    }
}

impl RuleRoute {
    fn new(rule: &Rule) -> Self {
        let source = match &rule.strategy {
            Some(Strategy::Header(name)) => Some(Source::Header(name.clone())),
            Some(Strategy::Cookie(cookie)) => Some(Source::Cookie(cookie.clone())),
            Some(Strategy::IpHash) => Some(Source::Address),
            Some(
                Strategy::Percentage
                | Strategy::Weighted
                | Strategy::RoundRobin
                | Strategy::LeastRequests,
            )
            | None => None,
        };
        let way = |place: &Place, weight: u32| Way {
            place: place.clone(),
            weight,
            id: key_hash(format!("{}\0{place}", rule.name).as_bytes()),
        };
        Self {
            rule: rule.clone(),
            source,
            to: match &rule.to {
                Some(Target::One(place)) => [way(place, 1)].into(),
                Some(Target::Weighted(places)) => {
                    places.iter().map(|(at, n)| way(at, *n)).collect()
                }
                None => [].into(),
            },
        }
    }

    /// What its strategy goes by instead of what the caller is known again by: a header, a cookie (given to who has none) or the address.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Where it may lead now, with weights: indices of the service's versions. What is withdrawn or gone is stable instead. Empty if
    /// the rule leads nowhere.
    pub fn places(&self, service: &ServiceRoute) -> impl Iterator<Item = (usize, u32)> {
        let places = self.to.iter();
        places.map(|way| (locate(service, &way.place), way.weight))
    }

    /// The version it leads to; none if that is where the request would go without it. `key` is what the caller is known again by, `by`
    /// the value of [`Self::source`]; whoever has neither gets stable, where that would decide.
    pub fn version(
        &self,
        service: &ServiceRoute,
        key: Option<&[u8]>,
        by: Option<&[u8]>,
        live: &(impl Live + ?Sized),
    ) -> Option<usize> {
        let chosen = match &*self.to {
            [] => return None,
            [_] => Some(0),
            several => self.choose(several, service, by.or(key), live),
        };
        let place = chosen.and_then(|chosen| self.to.get(chosen));
        Some(place.map_or(service.stable, |way| locate(service, &way.place)))
    }

    fn choose(
        &self,
        among: &[Way],
        service: &ServiceRoute,
        key: Option<&[u8]>,
        live: &(impl Live + ?Sized),
    ) -> Option<usize> {
        let turn = || {
            let cycle = (service.name.as_str(), &*self.rule.name);
            live.turn(FixedState::default().hash_one(cycle))
        };
        match self.rule.strategy.as_ref().unwrap_or(&Strategy::Weighted) {
            Strategy::RoundRobin => weigh::in_turn(turn(), among.iter().map(|way| way.weight)),
            Strategy::LeastRequests => {
                let loads = among.iter().map(|way| {
                    let load = in_flight(service, locate(service, &way.place), live);
                    (way.id, load, f64::from(way.weight))
                });
                weigh::least(turn(), loads)
            }
            Strategy::Percentage
            | Strategy::Weighted
            | Strategy::Header(_)
            | Strategy::Cookie(_)
            | Strategy::IpHash => {
                let ways = among.iter().map(|way| (way.id, f64::from(way.weight)));
                weigh::by_key(key_hash(key?), ways)
            }
        }
    }
}

/// By what callers of a rule's requests are known again, or else those of its service.
pub fn sources<'a>(settings: &'a ServiceSettings, rule: Option<&'a RuleRoute>) -> Sources<'a> {
    match rule {
        Some(route) if !route.rule.affinity.is_empty() => Sources::new(&route.rule.affinity),
        Some(_) | None => Sources {
            header: settings.affinity_header.as_deref(),
            list: &settings.affinity,
        },
    }
}

/// What is under way at a version.
fn in_flight(service: &ServiceRoute, version: usize, live: &(impl Live + ?Sized)) -> u32 {
    let endpoints = service
        .versions
        .get(version)
        .map(|version| &version.endpoints);
    let loads = endpoints
        .into_iter()
        .flatten()
        .map(|endpoint| live.standing(endpoint.id).in_flight);
    loads.fold(0, u32::saturating_add)
}

/// Which of the service's versions a place is now.
fn locate(service: &ServiceRoute, place: &Place) -> usize {
    // The side of a flag under release is told apart by the flag, whoever comes.
    let found = match place {
        Place::Stable => None,
        Place::Candidate => service.split.as_ref().map(|split| split.candidate),
        Place::Version(name) => service
            .versions
            .iter()
            .position(|version| version.name == *name),
    };
    let serves = |version: &usize| {
        let version = service.versions.get(*version);
        version.is_some_and(|version| {
            let takes = version
                .endpoints
                .iter()
                .any(|endpoint| !endpoint.is_draining);
            version.stage != VersionStage::Withdrawn && takes
        })
    };
    let found = found.filter(serves);
    found.map_or(service.stable, |version| served_by(service, version))
}
