//! Affinity over a history of changes: a caller goes elsewhere only by a rule, by a rollback, or because an endpoint is lost.

use proptest::prelude::*;
use serin_model::{
    name::{EndpointId, RolloutId},
    route::{Caller, Destination, Ruled, Rules, Unloaded, route},
    rule::Rule,
    service::Protocol,
    share::Share,
    snapshot::{EndpointRoute, ServiceRoute, Split, VersionRoute},
};
use serin_route::source::{Source, Who, first};
use uuid::Uuid;

const CALLERS: u8 = 60;
/// Callers from here on fit the rule, if there is one.
const RULED_FROM: u8 = 40;

/// A change of the service.
#[derive(Clone, Debug)]
enum Change {
    /// The share of the rollout, in percent; a lower one is a rollback of those who leave.
    Share(u8),
    /// The part of the candidate in the rule, from 1 to 99 of 100; without one the rule goes.
    Rule(Option<u8>),
    /// An endpoint of a version, lost or back.
    Endpoint(usize, usize, bool),
    /// Nothing that concerns callers: another setting.
    Else,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = prop_oneof![
        4 => (0..=100_u8).prop_map(Change::Share),
        2 => prop::option::of(1..=99_u8).prop_map(Change::Rule),
        3 => (0..2_usize, 0..4_usize, any::<bool>()).prop_map(|(version, at, is_back)| Change::Endpoint(version, at, is_back)),
        1 => Just(Change::Else),
    ];
    prop::collection::vec(one, 1..25)
}

/// By what the callers of a service are known, and how one of them says it.
fn sources() -> impl Strategy<Value = (Source, &'static str)> {
    let cookie = serde_json::from_str(r#"{ "name": "at" }"#).unwrap();
    prop::sample::select(vec![
        (Source::Header("x-user".into()), "x-user"),
        (Source::Cookie(cookie), "cookie"),
        (Source::Tenant, "tenant"),
        (Source::Address, "address"),
    ])
}

fn key(source: &Source, said: &'static str, caller: u8) -> Vec<u8> {
    let value = match said {
        "cookie" => format!("a=b; at=caller-{caller}"),
        _ => format!("caller-{caller}"),
    };
    let mut headers = http::HeaderMap::new();
    if matches!(said, "x-user" | "cookie") {
        headers.insert(said, value.parse().unwrap());
    }
    let who = Who {
        headers: &headers,
        tenant: Some(&value),
        principal: None,
        address: [198, 51, 100, caller].into(),
    };
    first(std::slice::from_ref(source), &who, |_| None)
        .unwrap()
        .key()
}

fn start() -> ServiceRoute {
    let version = |name: &str, from: u32| {
        let endpoints = (from..from + 4)
            .map(|id| EndpointRoute::new(EndpointId(id), format!("http://127.0.0.1:{id}/mcp")));
        VersionRoute::new(name.parse().unwrap(), endpoints.collect())
    };
    let split = Split::new(RolloutId(Uuid::from_u128(7)), 1, Share::ZERO);
    let mut service = ServiceRoute::new(
        "tools".parse().unwrap(),
        Protocol::Mcp,
        "/mcp",
        vec![version("v1", 10), version("v2", 20)],
    );
    service.split = Some(split);
    // All that are left are used, however few.
    service.settings.panic_below_percent = 0;
    service
}

fn rule(part: u8) -> Rules {
    let rule: Rule = serde_json::from_value(serde_json::json!({
        "name": "some", "priority": 1, "to": { "v1": 100 - part, "v2": part }, "strategy": "percentage",
    }))
    .unwrap();
    Rules::compile(&[rule])
}

fn change(service: &mut ServiceRoute, change: &Change) {
    match *change {
        Change::Share(percent) => {
            service.split.as_mut().unwrap().share =
                Share::from_percent(f64::from(percent)).unwrap();
        }
        Change::Rule(part) => service.rules = part.map(rule).unwrap_or_default(),
        Change::Endpoint(version, at, is_back) => {
            service.versions[version].endpoints[at].healthy = is_back;
        }
        Change::Else => service.settings.body_bytes_max += 1,
    }
}

fn go(service: &ServiceRoute, key: &[u8], is_ruled: bool) -> Destination {
    let rule = service.rules.iter().next().filter(|_| is_ruled);
    let caller = Caller::New {
        key: Some(key),
        chosen: None,
        rule: rule.map(|rule| Ruled { rule, by: None }),
        stable_only: false,
    };
    route(service, caller, &Unloaded).unwrap()
}

/// The share of the rollout, or the part of the rule, that a caller is under.
fn part(service: &ServiceRoute, is_ruled: bool) -> (bool, f64) {
    match service.rules.iter().next().filter(|_| is_ruled) {
        Some(route) => {
            let mut places = route.places(service);
            let part = places.find(|(version, _)| *version == 1);
            (true, part.map_or(0.0, |(_, weight)| f64::from(weight)))
        }
        None => (false, service.split.as_ref().unwrap().share.percent()),
    }
}

proptest! {
    #[test]
    fn affinity_breaks_by_a_rule_a_rollback_or_a_lost_endpoint_alone(changes in changes(), (source, said) in sources()) {
        let mut service = start();
        let keys: Vec<_> = (0..CALLERS).map(|caller| key(&source, said, caller)).collect();
        for step in &changes {
            let before = service.clone();
            change(&mut service, step);
            for (caller, key) in keys.iter().enumerate() {
                let is_ruled = caller >= usize::from(RULED_FROM);
                let (was, is) = (go(&before, key, is_ruled), go(&service, key, is_ruled));
                prop_assert_eq!(is, go(&service, key, is_ruled), "asked twice");
                let (by_before, part_before) = part(&before, is_ruled);
                let (by_now, part_now) = part(&service, is_ruled);
                // The rule came or went: what decides is another thing.
                if by_before == by_now {
                    let towards = is.version.cmp(&was.version);
                    prop_assert!(towards.is_eq() || Some(towards) == part_now.partial_cmp(&part_before), "{:?}", step);
                }
                if was.version == is.version && was.endpoint != is.endpoint {
                    // Theirs was lost, or the one is back that is theirs.
                    let Change::Endpoint(version, at, is_back) = *step else {
                        panic!("{step:?} moved a caller between endpoints");
                    };
                    let its = if is_back { is.endpoint } else { was.endpoint };
                    let was_last = !before.versions[version].endpoints.iter().any(|e| e.healthy)
                        || !service.versions[version].endpoints.iter().any(|e| e.healthy);
                    prop_assert!(version == is.version && (its == at || was_last), "{:?}", step);
                }
                if matches!(step, Change::Else) {
                    prop_assert_eq!(was, is);
                }
            }
        }
    }
}
