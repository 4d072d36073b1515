//! What is explained is what happens.

use super::*;
use crate::{
    name::EndpointId,
    route::{Rules, Unloaded, route},
    service::Protocol,
    snapshot::{Split, VersionRoute},
};
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::json;
use serin_route::weigh::Balance;
use uuid::Uuid;

/// Endpoints that do as they are told.
struct Told(BTreeMap<EndpointId, Standing>);

impl Live for Told {
    fn standing(&self, endpoint: EndpointId) -> Standing {
        self.0.get(&endpoint).copied().unwrap_or_default()
    }

    fn now_ms(&self) -> u64 {
        1_000_000
    }

    fn turn(&self, _: u64) -> u64 {
        panic!("an explanation takes nobody's turn")
    }

    fn next_turn(&self, _: u64) -> u64 {
        5
    }
}

fn version(name: &str, ids: &[u32]) -> VersionRoute {
    let endpoint =
        |id: &u32| EndpointRoute::new(EndpointId(*id), format!("http://127.0.0.1:{id}/mcp"));
    VersionRoute::new(name.parse().unwrap(), ids.iter().map(endpoint).collect())
}

fn service(rules: serde_json::Value, share: Option<f64>) -> ServiceRoute {
    let versions = vec![version("v1", &[1, 2, 3]), version("v2", &[4, 5])];
    let rules: Vec<crate::rule::Rule> = serde_json::from_value(rules).unwrap();
    ServiceRoute {
        rules: Rules::compile(&rules),
        split: share.map(|share| {
            Split::new(
                RolloutId(Uuid::from_u128(3)),
                1,
                Share::from_percent(share).unwrap(),
            )
        }),
        ..ServiceRoute::new("tools".parse().unwrap(), Protocol::Mcp, "/mcp", versions)
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn question(headers: &HeaderMap) -> Question<'_> {
    let address = [192, 0, 2, 1].into();
    Question {
        request: Request {
            headers,
            method: "POST",
            host: "localhost",
            path: "",
            query: None,
            tenant: Some("acme"),
            role: None,
            tools: &["search"],
            address,
        },
        who: Who {
            headers,
            tenant: Some("acme"),
            principal: None,
            address,
        },
        begins_session: false,
        chosen: None,
        since_1970: Duration::ZERO,
    }
}

fn told(service: &ServiceRoute, question: &Question<'_>) -> Explanation {
    explain(service, question, &|_| false, &Unloaded)
}

fn some_rules() -> serde_json::Value {
    json!([
        {"name": "beta", "priority": 10, "to": "v2",
            "when": {"all": [{"header": {"name": "X-Beta", "equals": "true"}}, {"tenant": {"one_of": ["acme"]}}]}},
        {"name": "blocked", "priority": 9, "refuse": {"status": 451},
            "when": {"any": [{"header": {"name": "X-Bad", "present": true}}, {"tool": {"prefix": "drop_"}}]}},
        {"name": "spread", "priority": 5, "to": {"v1": 1, "v2": 1}, "when": {"not": {"header": {"name": "X-Plain", "present": true}}}},
        {"name": "rest", "priority": 1, "limit": {"rate": "1000/s", "burst": 100}},
    ])
}

#[test]
fn rules_are_named_with_what_is_not_so() {
    let service = service(some_rules(), None);
    for (sent, fits, why, version) in [
        (
            headers(&[("x-beta", "true")]),
            "beta",
            "rule `beta` leads to `v2`",
            Some("v2"),
        ),
        (
            headers(&[("x-bad", "1")]),
            "blocked",
            "rule `blocked` refuses it with 451",
            None,
        ),
        (
            headers(&[("x-plain", "1")]),
            "rest",
            "nothing else says where it goes: `v1` is stable",
            Some("v1"),
        ),
    ] {
        let said = told(&service, &question(&sent));
        let last = said.rules.last().unwrap();
        assert_eq!((last.name.as_str(), last.fits), (fits, true), "{said:#?}");
        assert!(
            said.rules.iter().rev().skip(1).all(|rule| !rule.fits),
            "{said:#?}"
        );
        assert_eq!(said.version_why, why);
        assert_eq!(said.version.as_ref().map(VersionName::as_str), version);
        assert_eq!(said.rules.len() + said.rules_not_asked, 4);
    }
    let plain = headers(&[("x-plain", "1")]);
    let said = told(&service, &question(&plain));
    let whys: Vec<_> = said.rules.iter().map(|rule| rule.why.as_str()).collect();
    assert_eq!(
        whys,
        [
            "not so: header `X-Beta` is `true`",
            "none of: (header `X-Bad` is there or a tool called begins with `drop_`)",
            "header `X-Plain` is there after all",
            "it is for all requests"
        ]
    );
    assert_eq!(
        said.limit.as_deref(),
        Some("1000/second of all together, 100 at once")
    );
}

#[test]
fn the_key_is_shown_unless_it_may_be_a_secret() {
    let mut service = service(json!([]), Some(50.0));
    service.settings.affinity = serde_json::from_value(
        json!([{"header": "X-User"}, {"header": "X-Api-Key"}, {"cookie": {"name": "serin"}}]),
    )
    .unwrap();
    for (sent, source, value) in [
        (
            headers(&[("x-user", "kim")]),
            "header `X-User`",
            Some("kim"),
        ),
        (
            headers(&[("x-api-key", "s3cret")]),
            "header `X-Api-Key`",
            Some("hash "),
        ),
        (
            headers(&[("cookie", "serin=abc")]),
            "cookie `serin`",
            Some("hash "),
        ),
        (
            headers(&[]),
            "cookie `serin`, which it is given with the answer",
            None,
        ),
    ] {
        let said = told(&service, &question(&sent));
        assert_eq!(said.key.source, source);
        match (said.key.value.as_deref(), value) {
            (Some(shown), Some(value)) => assert!(shown.starts_with(value), "{shown}"),
            (shown, value) => assert_eq!(shown, value),
        }
        let text = serde_json::to_string(&said).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(said.bucket.is_some(), value.is_some());
    }
    service.settings.affinity.clear();
    let authorized = headers(&[("authorization", "Basic c2VjcmV0")]);
    let said = told(&service, &question(&authorized));
    assert_eq!(said.key.source, "hash of `Authorization`");
    assert!(!serde_json::to_string(&said).unwrap().contains("c2VjcmV0"));
}

#[test]
fn who_is_new_each_time_is_drawn() {
    let service = service(json!([]), Some(25.0));
    let sent = headers(&[]);
    let mut asked = question(&sent);
    asked.begins_session = true;
    let said = told(&service, &asked);
    assert_eq!((said.version, said.endpoint), (None, None));
    assert_eq!(said.key.source, "the session that begins");
    let candidate = said.chances.iter().filter(|to| to.version.as_str() == "v2");
    let percent: f64 = candidate.map(|to| to.percent).sum();
    assert!((20.0..30.0).contains(&percent), "{percent}");
    assert_eq!(said.endpoints.len(), 5);
    asked.chosen = Some(1);
    let said = told(&service, &asked);
    assert_eq!(said.version.as_ref().map(VersionName::as_str), Some("v2"));
    assert_eq!(said.version_why, "`v2` was chosen by hand");
}

#[test]
fn callers_who_take_turns_are_drawn_by_their_weights() {
    for balance in [Balance::RoundRobin, Balance::LeastRequests] {
        let mut service = service(json!([]), Some(25.0));
        service.versions[0].balance = balance;
        service.versions[0].endpoints[0].weight = 3;
        let sent = headers(&[]);
        let mut asked = question(&sent);
        asked.begins_session = true;
        let said = told(&service, &asked);
        let of = |id: u32| {
            let url = format!("http://127.0.0.1:{id}/mcp");
            let to = said
                .chances
                .iter()
                .find(|to| to.endpoint.as_ref() == Some(&url));
            to.map_or(0.0, |to| to.percent)
        };
        // Three quarters of all, three of five of them at the heaviest.
        for (id, percent) in [(1, 45.0), (2, 15.0), (3, 15.0)] {
            assert!(
                (of(id) - percent).abs() < 5.0,
                "{balance:?}: {:?}",
                said.chances
            );
        }
    }
}

#[test]
fn past_what_is_killed_and_nowhere_if_stable_is_too() {
    let service = service(json!([]), Some(100.0));
    let sent = headers(&[]);
    let said = explain(
        &service,
        &question(&sent),
        &|version| version == 1,
        &Unloaded,
    );
    assert_eq!(said.version.as_ref().map(VersionName::as_str), Some("v1"));
    assert!(
        said.version_why
            .ends_with("`v2` is killed, so its callers go to `v1`"),
        "{said:#?}"
    );
    let said = explain(&service, &question(&sent), &|_| true, &Unloaded);
    assert_eq!(said.version, None);
    assert!(
        said.endpoint_why.starts_with("503: it is killed"),
        "{said:#?}"
    );
}

#[test]
fn a_version_that_cannot_serve_falls_back_or_refuses() {
    let mut service = service(json!([{"name": "all", "priority": 1, "to": "v2"}]), None);
    let open = Standing {
        is_open: true,
        ..Standing::default()
    };
    let live = Told(BTreeMap::from([
        (EndpointId(4), open),
        (EndpointId(5), open),
    ]));
    let sent = headers(&[]);
    let ask = |service: &ServiceRoute| explain(service, &question(&sent), &|_| false, &live);
    let said = ask(&service);
    assert_eq!(said.version.as_ref().map(VersionName::as_str), Some("v2"));
    assert!(
        said.endpoint_why.contains("on_failure: fail_open"),
        "{said:#?}"
    );
    assert!(said.endpoints.iter().all(|endpoint| endpoint.breaker_open));
    service.settings.on_failure = serin_route::standing::OnFailure::FailClosed;
    let said = ask(&service);
    assert_eq!(said.version, None);
    assert!(said.endpoint_why.contains("fail_closed"), "{said:#?}");
    service.versions[1].fallback = vec![0];
    let said = ask(&service);
    assert_eq!(said.version.as_ref().map(VersionName::as_str), Some("v1"));
    assert!(
        said.version_why.ends_with("and `v1` is its fallback"),
        "{said:#?}"
    );
}

proptest! {
    #[test]
    fn an_explanation_says_where_the_request_goes(
        user in "[a-z]{1,8}", beta: bool, plain: bool, share in proptest::option::of(0..=100_u8),
        unhealthy: [bool; 5], open: [bool; 5], balance in 0..3_usize, chosen in proptest::option::of(0..2_usize),
    ) {
        let mut service = service(some_rules(), share.map(f64::from));
        service.settings.affinity_header = Some("x-user".to_owned());
        let balance = [Balance::Hash, Balance::RoundRobin, Balance::LeastRequests][balance];
        let mut standings = BTreeMap::new();
        for version in &mut service.versions {
            version.balance = balance;
            for endpoint in &mut version.endpoints {
                let at = endpoint.id.0 as usize - 1;
                endpoint.healthy = !unhealthy[at];
                standings.insert(endpoint.id, Standing { is_open: open[at], in_flight: endpoint.id.0 % 3, ..Standing::default() });
            }
        }
        let live = Told(standings);
        let mut sent = headers(&[("x-user", &user)]);
        for (name, is_there) in [("x-beta", beta), ("x-plain", plain)] {
            if is_there {
                sent.insert(name, "true".parse().unwrap());
            }
        }
        let mut asked = question(&sent);
        asked.chosen = chosen;
        let said = explain(&service, &asked, &|_| false, &live);
        let rule = service.rules.find(&asked.request).map(|rule| Ruled { rule, by: None });
        let key = [b"h", user.as_bytes()].concat();
        let caller = Caller::New { key: Some(&key), chosen, rule, stable_only: false };
        let to = route(&service, caller, &Glance(&live)).unwrap();
        let version = &service.versions[to.version];
        prop_assert_eq!(said.version.as_ref(), Some(&version.name));
        prop_assert_eq!(said.endpoint.as_ref(), Some(&version.endpoints[to.endpoint].url));
        let chosen: Vec<_> = said.endpoints.iter().filter(|endpoint| endpoint.chosen).collect();
        prop_assert_eq!(chosen.len(), 1);
        prop_assert_eq!(chosen[0].id, version.endpoints[to.endpoint].id);
        prop_assert_eq!(said.bucket.is_some(), to.by_split.is_some());
        if let Some(bucket) = said.bucket {
            prop_assert_eq!(bucket.bucket < bucket.below, to.version == 1);
        }
    }
}

#[test]
fn what_a_server_may_read_otherwise_is_refused_as_the_gateway_does() {
    let service = service(
        json!([
            {"name": "admin", "priority": 3, "refuse": {"status": 404}, "when": {"path": {"prefix": "/admin"}}},
            {"name": "deletes", "priority": 2, "refuse": {"status": 405}, "when": {"method": {"equals": "DELETE"}}},
            {"name": "slow", "priority": 1, "limit": {"rate": "10/s"}, "when": {"path": {"prefix": "/slow"}}},
        ]),
        None,
    );
    let none = headers(&[]);
    let over = headers(&[("x-http-method-override", " delete")]);
    for (path, sent, refused, otherwise) in [
        ("/admin", &none, Some(404), None),
        ("/%61dmin", &none, Some(404), Some("admin")),
        ("//admin", &none, Some(404), Some("admin")),
        ("/adm%69n", &none, Some(404), Some("admin")),
        ("/ADMIN", &none, None, None),
        ("/a/../x", &none, Some(400), None),
        ("/a/%2e%2e/x", &none, Some(400), None),
        ("/x", &over, Some(405), Some("deletes")),
        ("/%73low", &none, None, Some("slow")),
        ("/X", &none, None, None),
    ] {
        let mut question = question(sent);
        question.request.path = path;
        let said = told(&service, &question);
        assert_eq!(said.refusal.map(|refuse| refuse.status), refused, "{path}");
        assert_eq!(said.version.is_none(), refused.is_some(), "{path}");
        let names: Vec<_> = said.rules_otherwise.iter().map(String::as_str).collect();
        assert_eq!(names, Vec::from_iter(otherwise), "{path}");
        assert_eq!(said.limit.is_some(), otherwise == Some("slow"), "{path}");
    }
}

#[test]
fn a_place_that_takes_no_callers_is_named_with_why() {
    let rules = json!([{"name": "r", "priority": 1, "to": {"v1": 50, "v2": 50}}]);
    let mut drained = service(rules.clone(), None);
    for endpoint in &mut drained.versions[1].endpoints {
        endpoint.is_draining = true;
    }
    let mut withdrawn = service(rules, None);
    withdrawn.versions[1].stage = crate::service::VersionStage::Withdrawn;
    let to = |place: &str| service(json!([{"name": "r", "priority": 1, "to": place}]), None);
    let none = headers(&[]);
    for (service, why) in [
        (drained, Some("`v2` is drained")),
        (withdrawn, Some("`v2` is withdrawn")),
        (to("candidate"), Some("no rollout is under way")),
        (to("v9"), Some("`v9` is not there")),
        (to("v2"), None),
    ] {
        let said = told(&service, &question(&none)).version_why;
        assert!(why.is_none_or(|why| said.contains(why)), "{said}");
        assert_eq!(
            said.contains("stable takes its callers"),
            why.is_some(),
            "{said}"
        );
    }
}
