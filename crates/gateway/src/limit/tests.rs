use super::*;
use proptest::prelude::*;
use serde_json::json;
use serin_model::{
    name::ServiceName,
    snapshot::{ServiceRoute, Snapshot},
};
use serin_tenancy::{Directory, LimitRule, Tier, TierName};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

fn rules(rules: &serde_json::Value) -> Vec<LimitRule> {
    serde_json::from_value(rules.clone()).unwrap()
}

/// A routing table with the service `tools` and these tiers.
fn snapshot(limits: &serde_json::Value, tiers: &[(&str, serde_json::Value)]) -> Arc<Snapshot> {
    let mut route = ServiceRoute {
        name: name(),
        ..crate::bench::service()
    };
    route.settings.limits = rules(limits);
    let tier = |(name, limits): &(&str, serde_json::Value)| {
        let limits = rules(limits);
        (name.parse().unwrap(), Arc::new(Tier { limits }))
    };
    let tiers: BTreeMap<TierName, Arc<Tier>> = tiers.iter().map(tier).collect();
    let directory = Directory::new(&BTreeMap::new(), &BTreeMap::new(), &tiers);
    Arc::new(Snapshot {
        services: [Arc::new(route)].into_iter().collect(),
        tenancy: Arc::new(directory),
        ..Snapshot::default()
    })
}

fn name() -> ServiceName {
    "tools".parse().unwrap()
}

fn caller<'a>(tenant: &'a str, subject: &'a str) -> Caller<'a> {
    Caller {
        tenant,
        subject: subject.as_bytes(),
        kind: b'k',
    }
}

fn calls<'a>(tools: &'a [(&'a str, u32)]) -> Request<'a> {
    Request {
        path: "/things/3",
        methods: &["POST"],
        count: tools.iter().map(|(_, n)| n).sum::<u32>().max(1),
        tools,
    }
}

/// Asks as often as it takes; how many passed, and why no more did.
fn until_over(
    limiter: &Limiter,
    plan: &Plan,
    caller: &Caller<'_>,
    request: &Request<'_>,
) -> (u32, &'static str) {
    let mut wants = Vec::new();
    plan.wants(limiter, caller, request, &mut wants);
    for n in 0..10_000 {
        if let Err(over) = limiter.take(&wants, NOW) {
            return (n, over.label);
        }
    }
    (10_000, "")
}

/// Some time, at which no bucket fills.
const NOW: u64 = 1 << 40;

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "it reads better")]
fn check(limits: serde_json::Value, request: &Request<'_>, want: (u32, &str)) {
    let (limiter, mut plans) = (Limiter::new(None), Plans::default());
    let plan = plans.find(&snapshot(&limits, &[]), &name(), None);
    assert_eq!(
        until_over(&limiter, &plan, &caller("acme", "a"), request),
        want,
        "{limits}"
    );
}

#[test]
fn the_narrowest_of_the_rules_that_apply_decides() {
    let one = json!([{ "per": "key", "rate": "100/hour" }]);
    check(one, &calls(&[]), (100, "key"));
    let two = json!([{ "per": "key", "rate": "100/hour" }, { "per": "tenant", "rate": "10/hour" }]);
    check(two, &calls(&[]), (10, "tenant"));
    check(
        json!([{ "rate": "100/hour", "burst": 7 }]),
        &calls(&[]),
        (7, "key"),
    );
    let slow_and_fast = json!([{ "rate": "5/second" }, { "rate": "100/hour" }]);
    check(slow_and_fast, &calls(&[]), (5, "key"));
    check(
        json!([{ "per": "service", "rate": "3/hour" }]),
        &calls(&[]),
        (3, "service"),
    );
}

#[test]
fn rules_are_for_tools_paths_and_methods() {
    let tool = json!([{ "rate": "3/hour", "tools": ["add", "get_*"] }]);
    check(tool.clone(), &calls(&[("add", 1)]), (3, "tool"));
    check(tool.clone(), &calls(&[("get_entry", 1)]), (3, "tool"));
    check(tool.clone(), &calls(&[("other", 1)]), (10_000, ""));
    check(tool.clone(), &calls(&[]), (10_000, ""));
    // Each tool by itself, and each call of a batch.
    check(
        tool.clone(),
        &calls(&[("add", 1), ("get_entry", 1)]),
        (3, "tool"),
    );
    check(tool, &calls(&[("add", 2)]), (1, "tool"));
    check(
        json!([{ "rate": "6/hour" }]),
        &calls(&[("add", 2), ("other", 1)]),
        (2, "key"),
    );
    for (path, method, is_for) in [
        ("/things", "POST", true),
        ("/things", "GET", false),
        ("/other", "POST", false),
    ] {
        let limits = json!([{ "rate": "4/hour", "path": path, "methods": [method] }]);
        check(
            limits,
            &calls(&[]),
            if is_for { (4, "key") } else { (10_000, "") },
        );
    }
}

#[test]
fn callers_have_buckets_of_their_own() {
    let (limiter, mut plans) = (Limiter::new(None), Plans::default());
    let limits =
        json!([{ "per": "key", "rate": "10/hour" }, { "per": "tenant", "rate": "15/hour" }]);
    let plan = plans.find(&snapshot(&limits, &[]), &name(), None);
    let of = |caller: Caller<'_>| until_over(&limiter, &plan, &caller, &calls(&[]));
    assert_eq!(of(caller("acme", "a")), (10, "key"));
    assert_eq!(of(caller("acme", "b")), (5, "tenant"));
    assert_eq!(of(caller("globex", "a")), (10, "key"));
    // The subject of a token is no key, and names do not run into one another.
    let token = Caller {
        kind: b't',
        ..caller("initech", "a")
    };
    assert_eq!(of(token), (10, "key"));
    assert_eq!(of(caller("initech", "a")), (5, "tenant"));
    assert_eq!(of(caller("ini", "techka")), (10, "key"));
}

#[test]
fn who_is_refused_by_one_bucket_loses_nothing_of_another() {
    let (limiter, mut plans) = (Limiter::new(None), Plans::default());
    let limits =
        json!([{ "per": "tenant", "rate": "100/hour" }, { "per": "key", "rate": "10/hour" }]);
    let plan = plans.find(&snapshot(&limits, &[]), &name(), None);
    for (subject, want) in [("a", 10), ("a", 0), ("a", 0), ("b", 10)] {
        let passed = until_over(&limiter, &plan, &caller("acme", subject), &calls(&[]));
        assert_eq!(passed, (want, "key"));
    }
    let mut wants = Vec::new();
    plan.wants(&limiter, &caller("acme", "c"), &calls(&[]), &mut wants);
    let of_tenant = wants.iter().find(|want| want.label == "tenant").unwrap();
    let left = limiter.take(&[*of_tenant], NOW).unwrap().unwrap().remaining;
    assert_eq!(left, 79);
}

#[test]
fn a_changed_limit_is_in_force_at_once_and_gives_nothing_away() {
    let (limiter, mut plans) = (Limiter::new(None), Plans::default());
    let mut passed = |tier: &str, tiers: &[(&str, serde_json::Value)]| {
        let tier: TierName = tier.parse().unwrap();
        let plan = plans.find(&snapshot(&json!([]), tiers), &name(), Some(&tier));
        until_over(&limiter, &plan, &caller("acme", "a"), &calls(&[])).0
    };
    let per_key = |rate: &str| json!([{ "per": "key", "rate": rate }]);
    assert_eq!(passed("free", &[("free", per_key("100/hour"))]), 100);
    for rate in ["1000/hour", "10/hour", "10000/day", "5/second"] {
        assert_eq!(passed("free", &[("free", per_key(rate))]), 0, "{rate}");
    }
    let beside =
        json!([{ "per": "key", "rate": "100/hour" }, { "per": "key", "rate": "5/second" }]);
    assert_eq!(passed("free", &[("free", beside)]), 0);
    // Nor does another tier.
    assert_eq!(passed("pro", &[("pro", per_key("1000/hour"))]), 0);
    assert_eq!(passed("pro", &[("pro", json!([]))]), 10_000);
}

#[test]
fn rules_are_compiled_once_for_a_routing_table() {
    let mut plans = Plans::default();
    let limits = json!([{ "rate": "10/hour" }]);
    let (first, second) = (snapshot(&limits, &[]), snapshot(&limits, &[]));
    let own = |plans: &mut Plans, of: &Arc<Snapshot>| plans.find(of, &name(), None).own.unwrap();
    let rules = own(&mut plans, &first);
    assert!(std::rc::Rc::ptr_eq(&rules, &own(&mut plans, &first)));
    assert!(!std::rc::Rc::ptr_eq(&rules, &own(&mut plans, &second)));
    let other: ServiceName = "other".parse().unwrap();
    assert!(plans.find(&first, &other, None).is_empty());
}

#[test]
fn threads_together_get_the_burst_and_no_more() {
    let limiter = Limiter::new(None);
    let want = Want {
        key: 7 << 64,
        limit: Limit {
            rate: "1000/hour".parse().unwrap(),
            burst: 1000,
        },
        count: 1,
        label: "key",
    };
    let passed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    if limiter.take(&[want], NOW).is_ok() {
                        passed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 1000);
}

#[test]
fn who_is_told_to_wait_is_told_of_the_longest_wait() {
    let limiter = Limiter::new(None);
    let want = |key, rate: &str| Want {
        key,
        limit: Limit {
            rate: rate.parse().unwrap(),
            burst: 1,
        },
        count: 1,
        label: "key",
    };
    let wants = [want(1, "1/second"), want(2, "1/hour")];
    let standing = limiter.take(&wants, NOW).unwrap().unwrap();
    assert_eq!(standing.remaining, 0);
    assert_eq!(standing.reset_after, Duration::from_hours(1));
    let over = limiter.take(&wants, NOW).unwrap_err();
    assert_eq!(over.retry_after, Some(Duration::from_hours(1)));
    let many = [Want {
        count: 2,
        ..want(3, "1/second")
    }];
    assert_eq!(limiter.take(&many, NOW).unwrap_err().retry_after, None);
}

#[test]
fn seconds_are_rounded_up() {
    for (ms, want) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (36_000, 36)] {
        assert_eq!(seconds(Duration::from_millis(ms)), want);
    }
}

proptest! {
    #[test]
    fn the_limiter_is_the_pure_bucket(
        steps in proptest::collection::vec((0..4_usize, 0..2_000_000_000_u64, 1..4_u32), 1..200),
        limits in proptest::collection::vec((1..100_u32, 1..20_u32), 4),
    ) {
        let limiter = Limiter::new(None);
        let limit = |at: usize| {
            let (count, burst) = limits[at];
            Limit { rate: format!("{count}/second").parse().unwrap(), burst }
        };
        let (mut pure, mut now) = ([0; 4], NOW);
        for (at, step, count) in steps {
            now += step;
            let want = Want { key: at as u128, limit: limit(at), count, label: "key" };
            let taken = limit(at).take(&mut pure[at], now, count);
            let (remaining, reset_after) = match limiter.take(&[want], now) {
                Ok(standing) => {
                    prop_assert_eq!(taken.retry_after, None);
                    let standing = standing.unwrap();
                    (standing.remaining, standing.reset_after)
                }
                Err(over) => {
                    prop_assert!(taken.retry_after.is_some());
                    if count <= limit(at).burst {
                        prop_assert_eq!(over.retry_after, taken.retry_after);
                    }
                    (over.standing.remaining, over.standing.reset_after)
                }
            };
            prop_assert_eq!((remaining, reset_after), (taken.remaining, taken.reset_after));
            limiter.buckets.sweep(now);
        }
    }
}
