//! Which rule fits a request, and which version it leads to.

use super::{Live, key_hash, served_by};
use crate::{
    access::other_readings,
    rule::{Place, Rule, Target},
    service::{ServiceSettings, VersionStage},
    snapshot::ServiceRoute,
};
use foldhash::quality::FixedState;
use serin_route::{
    condition::{Matcher, Request, with_lookalikes},
    source::{Source, Sources},
    weigh::{self, Strategy},
};
use std::{cmp::Reverse, hash::BuildHasher as _, iter::once, sync::Arc};

/// Where frameworks look for another method than the request's. In other spellings they go no further, so nobody has to look there.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Most readings of one request that rules are asked about: twice that of the largest batch by another method, with lookalikes. What has
/// more is made to have them.
pub const READINGS_MAX: usize = 1024;

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

    /// Those beside `found` that fit a request as a server may read it otherwise than it is written: by another method that a header
    /// names, by another reading of its path, by headers whose names look alike, call by call of a batch, and by several of these at
    /// once. What they refuse and limit holds too; where they lead does not. None if there are more than [`READINGS_MAX`] readings.
    pub fn find_others(
        &self,
        request: &Request<'_>,
        found: Option<&RuleRoute>,
    ) -> Option<Vec<&RuleRoute>> {
        let other_headers = with_lookalikes(request.headers);
        let (other_methods, other_paths) = (other_methods(request), other_readings(request.path));
        let headers = || once(request.headers).chain(&other_headers);
        let methods = || once(request.method).chain(other_methods.iter().map(String::as_str));
        let paths = || once(request.path).chain(other_paths.iter().map(String::as_str));
        let calls = request.tools.chunks(1);
        let calls = calls.filter(|_| request.tools.len() > 1);
        let tools = || once(request.tools).chain(calls.clone());
        let mut others: Vec<&RuleRoute> = Vec::new();
        let mut readings = 0;
        for headers in headers() {
            for method in methods() {
                for path in paths() {
                    for tools in tools() {
                        readings += 1;
                        if readings == 1 {
                            // As it is written.
                            continue;
                        }
                        if readings > READINGS_MAX {
                            return None;
                        }
                        let reading = Request {
                            headers,
                            method,
                            path,
                            tools,
                            ..*request
                        };
                        let Some(other) = self.find(&reading) else {
                            continue;
                        };
                        let is_known = |known: &RuleRoute| std::ptr::eq(known, other);
                        if !found.is_some_and(is_known)
                            && !others.iter().any(|known| is_known(known))
                        {
                            others.push(other);
                        }
                    }
                }
            }
        }
        Some(others)
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

/// The methods that a request has in headers.
fn other_methods(request: &Request<'_>) -> Vec<String> {
    let mut methods = Vec::new();
    for name in METHOD_OVERRIDES {
        for method in request.headers.get_all(name) {
            let Ok(method) = method.to_str() else {
                continue;
            };
            let method = method.trim().to_ascii_uppercase();
            if method != request.method && !methods.contains(&method) {
                methods.push(method);
            }
        }
    }
    methods
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
            let cycle = ("rule", service.name.as_str(), &*self.rule.name);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        name::{EndpointId, RolloutId},
        route::{Unloaded, tests::version},
        service::Protocol,
        share::Share,
        snapshot::Split,
    };
    use proptest::prelude::*;
    use serin_route::standing::Standing;
    use std::cell::Cell;
    use uuid::Uuid;

    /// Versions v1 (stable) to v4, with an endpoint each that is called as the version is.
    fn service() -> ServiceRoute {
        let versions = (1..).zip(["v1", "v2", "v3", "v4"]);
        let versions = versions.map(|(id, name)| version(name, &[id])).collect();
        ServiceRoute::new("tools".parse().unwrap(), Protocol::Mcp, "/mcp", versions)
    }

    fn rule(to: &str, strategy: &str) -> RuleRoute {
        let json = format!(r#"{{"name": "r", "priority": 1, "to": {to}, "strategy": {strategy}}}"#);
        RuleRoute::new(&serde_json::from_str(&json).unwrap())
    }

    /// Counts turns, and what is under way at each endpoint.
    #[derive(Default)]
    struct Counted {
        turns: Cell<u64>,
        loads: [Cell<u32>; 5],
    }

    impl Live for Counted {
        fn standing(&self, endpoint: EndpointId) -> Standing {
            let in_flight = self.loads[endpoint.0 as usize].get();
            Standing {
                in_flight,
                ..Standing::default()
            }
        }

        fn now_ms(&self) -> u64 {
            0
        }

        fn turn(&self, _: u64) -> u64 {
            self.turns.replace(self.turns.get() + 1)
        }
    }

    #[test]
    fn every_strategy_meets_the_weights() {
        const CALLERS: u32 = 10_000;
        let service = service();
        for (strategy, is_exact) in [
            ("\"percentage\"", false),
            ("\"weighted\"", false),
            ("\"round_robin\"", true),
            ("\"least_requests\"", true),
            (r#"{"header": "X-User"}"#, false),
            (r#"{"cookie": {"name": "user"}}"#, false),
            ("\"ip_hash\"", false),
        ] {
            let rule = rule(r#"{"v1": 60, "v2": 30, "v4": 10}"#, strategy);
            let (live, mut hits) = (Counted::default(), [0_u32; 4]);
            for caller in 0..CALLERS {
                // Who has both goes by what the strategy says: all have the same key.
                let caller = caller.to_be_bytes();
                let by = rule.source().map(|_| caller.as_slice());
                let key = by.map_or(caller.as_slice(), |_| b"the same");
                let to = rule.version(&service, Some(key), by, &live).unwrap();
                hits[to] += 1;
                // What comes stays under way.
                live.loads[to + 1].set(live.loads[to + 1].get() + 1);
            }
            for (got, want) in hits.into_iter().zip([6_000, 3_000, 0, 1_000]) {
                // The keys are always the same ones; their standard deviation would be less than 50.
                let most = if is_exact { 5 } else { 200 };
                assert!(got.abs_diff(want) <= most, "{strategy}: {hits:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_weight_that_grows_only_wins_callers_and_a_version_that_goes_moves_only_its_own(
            key: Vec<u8>, weights in (1..50_u32, 1..50_u32, 1..50_u32), more in 1..50_u32
        ) {
            let (one, two, three) = weights;
            let at = |two: u32, service: &ServiceRoute| {
                let to = format!(r#"{{"v2": {one}, "v3": {two}, "v4": {three}}}"#);
                rule(&to, "null").version(service, Some(&key), None, &Unloaded).unwrap()
            };
            let before = at(two, &service());
            let after = at(two + more, &service());
            prop_assert!(after == before || after == 2);

            let mut less = service();
            less.versions[2].stage = VersionStage::Withdrawn;
            let after = at(two, &less);
            prop_assert_eq!(after, if before == 2 { 0 } else { before });
        }
    }

    #[test]
    fn a_place_is_what_it_is_now_and_stable_if_it_cannot_be() {
        let at = |service: &ServiceRoute, to: &str| {
            let rule = rule(to, "null");
            rule.version(service, Some(b"k"), None, &Unloaded).unwrap()
        };
        let mut service = service();
        for (to, want) in [
            (r#""v2""#, 1),
            (r#""stable""#, 0),
            (r#""candidate""#, 0),
            (r#""gone""#, 0),
            (r#"{"v3": 1}"#, 2),
        ] {
            assert_eq!(at(&service, to), want, "{to}");
        }
        service.versions[1].stage = VersionStage::Withdrawn;
        service.versions[2].endpoints[0].is_draining = true;
        service.versions[3].stage = VersionStage::Draining;
        for (to, want) in [(r#""v2""#, 0), (r#""v3""#, 0), (r#""v4""#, 3)] {
            assert_eq!(at(&service, to), want, "{to}");
        }
        service.split = Some(split(3));
        assert_eq!(at(&service, r#""candidate""#), 3);
        service.stable = 3;
        assert_eq!(at(&service, r#""stable""#), 3);
        assert_eq!(at(&service, r#""v2""#), 3);
    }

    fn split(candidate: usize) -> Split {
        Split::new(RolloutId(Uuid::from_u128(3)), candidate, Share::ZERO)
    }

    #[test]
    fn who_cannot_be_known_again_gets_stable_and_a_rule_without_a_place_decides_nothing() {
        let service = service();
        let several = rule(r#"{"v2": 1, "v3": 1}"#, r#"{"header": "X-User"}"#);
        assert_eq!(several.version(&service, None, None, &Unloaded), Some(0));
        let by_key = several.version(&service, Some(b"k"), None, &Unloaded);
        assert!(matches!(by_key, Some(1 | 2)));
        let one = rule(r#""v2""#, "null");
        assert_eq!(one.version(&service, None, None, &Unloaded), Some(1));
        let none =
            RuleRoute::new(&serde_json::from_str(r#"{"name": "r", "priority": 1}"#).unwrap());
        assert_eq!(none.version(&service, Some(b"k"), None, &Unloaded), None);
        assert_eq!(none.places(&service).count(), 0);
    }

    #[test]
    fn the_greatest_priority_comes_first_and_what_is_off_is_not_there() {
        let rules: Vec<Rule> = serde_json::from_str(
            r#"[{"name": "all", "priority": 1}, {"name": "off", "priority": 9, "enabled": false},
                {"name": "acme", "priority": 5, "when": {"tenant": {"equals": "acme"}}}]"#,
        )
        .unwrap();
        let rules = Rules::compile(&rules);
        let headers = http::HeaderMap::new();
        let named = |tenant: &str| {
            let request = Request {
                headers: &headers,
                method: "GET",
                host: "a",
                path: "",
                query: None,
                tenant: Some(tenant),
                role: None,
                tools: &[],
                address: [127, 0, 0, 1].into(),
            };
            rules
                .find(&request)
                .map(|route| route.rule.name.to_string())
        };
        assert_eq!(named("acme").as_deref(), Some("acme"));
        assert_eq!(named("other").as_deref(), Some("all"));
        assert!(!rules.is_empty() && !rules.ask_for_tools());
        assert!(Rules::compile(&[]).is_empty());
    }
}
