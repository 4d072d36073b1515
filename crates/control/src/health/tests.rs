//! The monitor over hours that pass at once.

use super::*;
use proptest::prelude::*;
use serin_judge::LogHistogram;
use serin_model::{
    decide::{Candidate, Command, Source, Start, decide},
    drain::Drain,
    event::{Actor, Preflight, Recorded},
    manifest::Manifest,
    name::RolloutId,
    observe::{CallEra, CellKey, Counts, NO_TOOL, Outcome},
};
use uuid::Uuid;

/// When the hours begin, a second into a window.
const BEGAN: f64 = 1_700_000_011.0;

fn tools() -> ServiceName {
    "tools".parse().unwrap()
}

fn version(name: &str) -> VersionName {
    name.parse().unwrap()
}

/// A service with two versions, and a monitor that looks each second.
struct World {
    health: Health,
    state: State,
    observed: Observed,
    now: f64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            health: Health::new(BEGAN),
            state: State::default(),
            observed: Observed::default(),
            now: BEGAN,
        };
        let manifest: Manifest = serde_json::from_str(
            r#"{"services": {"tools": {"protocol": "mcp", "path": "/mcp", "stable": "v1", "versions": {
                "v1": {"endpoints": ["http://127.0.0.1:9001/mcp", "http://127.0.0.1:9011/mcp"], "metrics": "http://127.0.0.1:9001/metrics"},
                "v2": {"endpoints": ["http://127.0.0.1:9002/mcp"]}}}}}"#,
        )
        .unwrap();
        world.run(&Command::Apply {
            manifest: Box::new(manifest),
            source: Source::Start,
            prune: false,
            at_once: false,
            silent: std::collections::BTreeSet::new(),
        });
        world.look();
        world
    }

    fn run(&mut self, command: &Command) {
        let at = timestamp(self.now);
        for event in decide(&self.state, command, at).unwrap() {
            let position = self.state.position + 1;
            self.state.apply(&Recorded {
                position,
                at,
                actor: Actor::named("ops"),
                epoch: 1,
                event,
            });
        }
    }

    fn start(&mut self, plan: &str) {
        self.run(&Command::Start(Box::new(Start {
            rollout: RolloutId(Uuid::from_u128(1)),
            service: tools(),
            candidate: Candidate::Version(version("v2")),
            plan_name: "test".into(),
            plan: serde_json::from_str(plan).unwrap(),
            reason: String::new(),
            preflight: Preflight::default(),
            accept_breaking: false,
        })));
        self.look();
    }

    fn look(&mut self) {
        self.health.close(self.now, &self.state, &self.observed);
    }

    /// Calls of a version, so many of them bad, each so long.
    fn calls(&mut self, version_name: &str, good: u64, bad: u64, seconds: f64) {
        self.cell(version_name, "search", good, bad, seconds);
    }

    fn cell(&mut self, version_name: &str, tool: &str, good: u64, bad: u64, seconds: f64) {
        let mut counts = Counts::default();
        counts.outcomes[Outcome::Ok as usize] = good;
        counts.outcomes[Outcome::Http5xx as usize] = bad;
        let mut times = LogHistogram::default();
        (0..good).for_each(|_| times.record(seconds));
        counts.first_byte = times.clone();
        counts.last_byte = times;
        let key = CellKey {
            service: tools(),
            version: version(version_name),
            tool: tool.into(),
            era: CallEra::Legacy,
        };
        self.health.add(&Sealed {
            cells: vec![(key, counts)],
            ..Sealed::default()
        });
    }

    fn memory(&mut self, bytes: u64) {
        let sample = Resources {
            samples: 1,
            cpu_millis: 1_500,
            observed_millis: 15_000,
            memory_bytes: bytes,
            memory_samples: 1,
            restarts: 0,
        };
        self.health
            .add_resources(&tools(), &version("v1"), &Ok(sample));
    }

    /// Lets a window pass in which something happens at its begin.
    fn window(&mut self, each: impl FnOnce(&mut Self)) {
        each(self);
        self.pass(WINDOW_SECONDS);
    }

    fn pass(&mut self, seconds: f64) {
        self.now += seconds;
        self.look();
    }

    fn windows(&self, name: &str, minutes: u32) -> Vec<Window> {
        let all = self.health.metrics(&tools(), minutes, self.now);
        all.into_iter()
            .find(|of| of.version.as_str() == name)
            .map(|of| of.windows)
            .unwrap_or_default()
    }

    fn subjects(&self) -> Vec<(String, Level)> {
        let issues = self.health.issues(&tools());
        let shown = |issue: &Issue| (format!("{} {}", issue.version, issue.subject), issue.level);
        issues.iter().map(shown).collect()
    }
}

#[test]
fn windows_hold_what_came_in_them() {
    let mut world = World::new();
    world.calls("v1", 57, 3, 0.1);
    world.memory(1_000_000);
    world.pass(14.0);
    let running = world.windows("v1", 10);
    assert_eq!(running.len(), 1, "the running one is on show at once");
    assert!(running[0].running && running[0].calls == 60);
    world.pass(WINDOW_SECONDS);
    world.calls("v1", 10, 0, 0.2);
    world.pass(WINDOW_SECONDS);
    let windows = world.windows("v1", 10);
    let figures: Vec<_> = windows
        .iter()
        .map(|w| (w.calls, w.bad, w.running))
        .collect();
    assert_eq!(figures, [(60, 3, false), (10, 0, false)]);
    let first = &windows[0];
    assert!(
        (first.seconds - 29.0).abs() < 1e-3,
        "it began late: {}",
        first.seconds
    );
    assert!((first.calls_per_second - 60.0 / 29.0).abs() < 1e-3);
    assert!(
        first
            .latency_p50_seconds
            .is_some_and(|p50| (0.09..0.12).contains(&p50))
    );
    assert_eq!(
        first.latency_p99_seconds, None,
        "with 5 % failed it is endless"
    );
    assert_eq!(first.memory_bytes, Some(1e6));
    assert_eq!((first.restarts, windows[1].restarts), (Some(0), None));
    assert!(
        first
            .cpu_cores
            .is_some_and(|cores| (cores - 0.1).abs() < 1e-6)
    );
    assert_eq!(first.at.as_second() % 30, 0);
    assert!(world.windows("v2", 10).is_empty());
}

#[test]
fn calls_that_use_no_tool_can_fail_but_have_no_time() {
    let mut world = World::new();
    world.cell("v1", NO_TOOL, 10, 5, 9.0);
    world.pass(WINDOW_SECONDS);
    let window = &world.windows("v1", 10)[0];
    assert_eq!((window.calls, window.bad), (15, 5));
    assert_eq!(window.latency_p50_seconds, None);
}

#[test]
fn windows_are_kept_for_a_day_and_only_those_asked_for_are_shown() {
    let mut world = World::new();
    for _ in 0..WINDOWS_MAX + 200 {
        world.window(|world| world.calls("v1", 1, 0, 0.1));
    }
    assert_eq!(
        world.windows("v1", u32::MAX / 60).len(),
        WINDOWS_MAX as usize
    );
    assert_eq!(world.windows("v1", 10).len(), 20);
    world.pass(24.0 * 3600.0 + 60.0);
    assert!(world.windows("v1", 2 * 24 * 60).is_empty());
    assert!(world.health.histories.is_empty(), "nothing is left of it");
}

#[test]
fn the_number_of_versions_is_bounded() {
    let mut world = World::new();
    for version in 0..HISTORIES_MAX + 50 {
        world.window(|world| world.calls(&format!("v{version}"), 1, 0, 0.1));
    }
    assert_eq!(world.health.histories.len(), HISTORIES_MAX);
    assert!(
        world.windows("v0", 1000).is_empty(),
        "the one that was silent the longest went"
    );
    assert!(
        !world
            .windows(&format!("v{}", HISTORIES_MAX + 49), 1000)
            .is_empty()
    );
}

#[test]
fn a_clock_that_is_set_back_loses_the_future_and_nothing_else() {
    let mut world = World::new();
    for _ in 0..20 {
        world.window(|world| world.calls("v1", 1, 0, 0.1));
    }
    world.now -= 300.0;
    world.look();
    assert_eq!(world.windows("v1", 60).len(), 10);
    world.window(|world| world.calls("v1", 7, 0, 0.1));
    assert_eq!(
        world.windows("v1", 60).last().map(|window| window.calls),
        Some(7)
    );
}

#[test]
fn an_error_rate_becomes_an_issue_then_an_alert_and_goes() {
    let mut world = World::new();
    for _ in 0..2 {
        world.window(|world| world.calls("v1", 240, 60, 0.1));
    }
    let (availability, errors) = ("v1 availability".to_owned(), "v1 error_rate".to_owned());
    assert_eq!(world.subjects(), [(availability.clone(), Level::Critical)]);
    world.window(|world| world.calls("v1", 240, 60, 0.1));
    assert_eq!(
        world.subjects(),
        [(availability, Level::Critical), (errors, Level::Critical)]
    );
    assert_eq!(world.health.alerts(&tools()).active.len(), 2);
    for _ in 0..14 {
        world.window(|world| world.calls("v1", 2000, 0, 0.1));
    }
    assert!(world.subjects().is_empty());
    let alerts = world.health.alerts(&tools());
    assert_eq!((alerts.active.len(), alerts.resolved.len()), (0, 2));
}

#[test]
fn a_candidate_is_held_to_its_plan_and_stable_is_not() {
    let mut world = World::new();
    world.start(
        r#"{"phases": [{"share": "50 %", "hold": "1h"}, {"share": "100 %"}], "evidence": "trials 10",
            "thresholds": {"error_rate": {"warning": "1 %", "window": "1m"}, "latency_p95": {"critical": "+20 %", "window": "1m"}}}"#,
    );
    world.window(|world| {
        world.calls("v1", 970, 30, 0.1);
        world.calls("v2", 970, 30, 0.15);
    });
    assert_eq!(
        world.subjects(),
        [
            ("v2 latency_p95".to_owned(), Level::Critical),
            ("v2 error_rate".to_owned(), Level::Warning)
        ]
    );
    let (stable, candidate) = (version("v1"), version("v2"));
    let comparison = world
        .health
        .comparison(&tools(), &stable, Some(&candidate), world.now);
    assert_eq!(
        (comparison.stable_calls, comparison.candidate_calls),
        (1000, 1000)
    );
    let standing = |metric| {
        let row = comparison.rows.iter().find(|row| row.metric == metric);
        row.map(|row| row.standing)
    };
    assert_eq!(standing(Metric::ErrorRate), Some(Standing::Same));
    assert_eq!(standing(Metric::LatencyP50), Some(Standing::Worse));
    world.run(&Command::Abort {
        service: tools(),
        reason: String::new(),
    });
    world.window(|world| world.calls("v2", 970, 30, 0.15));
    assert!(world.subjects().is_empty(), "no plan holds it any more");
}

#[test]
fn traffic_that_stops_is_no_issue_and_keeps_none() {
    let mut world = World::new();
    for _ in 0..5 {
        world.window(|world| world.calls("v1", 50, 50, 0.1));
    }
    assert_eq!(world.subjects().len(), 2);
    for _ in 0..11 {
        world.pass(WINDOW_SECONDS);
    }
    assert!(world.subjects().is_empty());
}

#[test]
fn endpoints_that_fail_their_probes_are_issues_at_once() {
    let mut world = World::new();
    let ids: Vec<_> = world.state.services[&tools()]
        .versions
        .values()
        .flat_map(|version| &version.endpoints)
        .map(|endpoint| endpoint.id)
        .collect();
    world.observed.unhealthy.extend([ids[0], ids[2]]);
    world.pass(1.0);
    let issues = world.health.issues(&tools());
    assert_eq!(
        world.subjects(),
        [("v1 endpoint".to_owned(), Level::Warning)]
    );
    assert!(
        issues[0].text.contains("127.0.0.1:9001"),
        "{}",
        issues[0].text
    );
    world.observed.unhealthy.extend([ids[1]]);
    world.pass(1.0);
    let levels: Vec<_> = world
        .subjects()
        .into_iter()
        .map(|(_, level)| level)
        .collect();
    assert_eq!(levels, [Level::Critical; 2], "v2 has no callers yet");
    world.observed.unhealthy.clear();
    world.pass(1.0);
    assert!(world.subjects().is_empty());
    assert_eq!(
        world.health.alerts(&tools()).active.len(),
        2,
        "until the cool-down is over"
    );
}

/// Endpoints whose breakers are open.
struct Open(Vec<EndpointId>);

impl Live for Open {
    fn standing(&self, endpoint: EndpointId) -> serin_route::standing::Standing {
        serin_route::standing::Standing {
            is_open: self.0.contains(&endpoint),
            ..Default::default()
        }
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn turn(&self, _: u64) -> u64 {
        0
    }
}

#[test]
fn a_version_none_of_whose_endpoints_may_be_used_is_an_issue() {
    let mut world = World::new();
    let service = &world.state.services[&tools()];
    let endpoints = service.versions.values().flat_map(|of| &of.endpoints);
    let ids: Vec<_> = endpoints.map(|endpoint| endpoint.id).collect();
    world.health.look_at(Arc::new(Open(vec![ids[0], ids[2]])));
    world.pass(1.0);
    assert!(world.subjects().is_empty(), "another one is there");
    world.health.look_at(Arc::new(Open(ids)));
    world.pass(1.0);
    assert_eq!(
        world.subjects(),
        [("v1 unusable".to_owned(), Level::Critical)]
    );
    let text = world.health.issues(&tools()).remove(0).text;
    assert!(text.starts_with("no endpoint of v1 may be used"), "{text}");
    world.health.look_at(Arc::new(Unloaded));
    world.pass(1.0);
    assert!(world.subjects().is_empty());
}

#[test]
fn a_service_that_refuses_for_want_of_room_is_an_issue_for_a_while() {
    let mut world = World::new();
    let service = world.state.services.get_mut(&tools()).unwrap();
    let v1 = service.versions.get_mut(&version("v1")).unwrap();
    v1.in_flight_max = Some(5);
    let shed = |world: &mut World, n| {
        world.health.add(&Sealed {
            rejections: vec![
                (Some(tools()), Rejection::Overload, n),
                (Some(tools()), Rejection::Kill, 9),
                (None, Rejection::Overload, 9),
            ],
            ..Sealed::default()
        });
    };
    let issues = |world: &World| -> Vec<String> {
        let issues = world.health.issues(&tools()).into_iter();
        issues.map(|issue| issue.text).collect()
    };
    let text = |n| {
        let limits = "`in_flight_max: 5` of v1, or `gateway.requests_max`";
        vec![format!(
            "{n} requests got 503 because as many were under way as may be: {limits}"
        )]
    };
    world.look();
    assert_eq!(issues(&world), [""; 0]);
    shed(&mut world, 3);
    world.look();
    assert_eq!(issues(&world), text(3));
    world.now += 40.0;
    shed(&mut world, 4);
    world.look();
    assert_eq!(issues(&world), text(7));
    world.now += 59.0;
    world.look();
    assert_eq!(issues(&world), text(7));
    world.now += 1.0;
    world.look();
    assert_eq!(issues(&world), [""; 0]);
    // It begins anew.
    shed(&mut world, 1);
    world.look();
    assert_eq!(issues(&world), text(1));
}

#[test]
fn what_drains_is_no_other_that_serves() {
    let mut world = World::new();
    let service = world.state.services.get_mut(&tools()).unwrap();
    let endpoints = &mut service.versions.get_mut(&version("v1")).unwrap().endpoints;
    endpoints[1].drain = Some(Drain {
        since: timestamp(BEGAN),
        until: timestamp(BEGAN + 3600.0),
        reason: "removed".to_owned(),
        is_leaving: true,
        is_over: false,
    });
    let (new, old) = (endpoints[0].id, endpoints[1].id);
    for (down, level) in [
        (&[old][..], Some(Level::Warning)),
        (&[new], Some(Level::Critical)),
        (&[new, old], Some(Level::Critical)),
        (&[], None),
    ] {
        world.observed.unhealthy = down.iter().copied().collect();
        world.pass(1.0);
        let worst = world
            .health
            .issues(&tools())
            .first()
            .map(|issue| issue.level);
        assert_eq!(worst, level, "{down:?}");
    }
}

#[test]
fn metrics_that_cannot_be_read_are_an_issue_after_three_times() {
    let mut world = World::new();
    for turn in 1..=4 {
        let why = Err("http://127.0.0.1:9001/metrics does not answer".to_owned());
        world.health.add_resources(&tools(), &version("v1"), &why);
        world.pass(1.0);
        assert_eq!(world.subjects().len(), usize::from(turn >= 3), "{turn}");
    }
    assert!(
        world.health.issues(&tools())[0]
            .text
            .contains("does not answer")
    );
    world.memory(1);
    world.pass(1.0);
    assert!(world.subjects().is_empty());
}

/// The memory after so many windows, and whether it must be called a leak then.
#[test]
fn memory_that_grows_steadily_is_a_leak_and_a_warm_up_is_none() {
    let mut noise = 0_u64;
    let mut noisy = move || {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (noise >> 40) % 200_000
    };
    let mib = 1024 * 1024;
    for (name, is_leak, memory) in [
        ("a leak", true, (|n: u64| n * 200_000) as fn(u64) -> u64),
        ("a slow one", false, |n| n * 20_000),
        ("level", false, |_| 0),
        ("a warm-up", false, |n| n.min(30) * 2_000_000),
        ("a fall", false, |n| 400_000_000 - n * 200_000),
        ("a saw", false, |n| n % 20 * 5_000_000),
    ] {
        let mut world = World::new();
        for window in 0..110 {
            world.window(|world| world.memory(100 * mib + memory(window) + noisy()));
        }
        let leaks = world.subjects();
        assert_eq!(leaks.len(), usize::from(is_leak), "{name}: {leaks:?}");
        if is_leak {
            let issue = &world.health.issues(&tools())[0];
            assert_eq!(issue.subject, Subject::MemoryLeak);
            assert!(
                issue.value.is_some_and(|v| (3.9e6..4.1e6).contains(&v)),
                "{issue:?}"
            );
        }
    }
}

#[test]
fn trends_say_where_each_metric_goes() {
    let mut world = World::new();
    for window in 0..60_u32 {
        world.window(|world| {
            let wobble = f64::from(window % 3) * 0.002;
            world.calls(
                "v1",
                50 + u64::from(window),
                1,
                0.1 + f64::from(window) * 0.005 + wobble,
            );
            world.memory(100_000_000 - u64::from(window) * 500_000);
        });
    }
    let trends = world.health.trends(&tools());
    assert_eq!(trends.len(), 1);
    let of = |metric| trends[0].trends.iter().find(|of| of.metric == metric);
    let direction = |metric| of(metric).map(|of| of.trend.direction);
    assert_eq!(direction(Metric::LatencyP50), Some(Direction::Rising));
    assert_eq!(direction(Metric::Throughput), Some(Direction::Rising));
    assert_eq!(direction(Metric::Memory), Some(Direction::Falling));
    assert_eq!(direction(Metric::Cpu), Some(Direction::Flat));
    let slope = of(Metric::LatencyP50)
        .and_then(|of| of.trend.slope)
        .unwrap();
    let expected = 0.005 / WINDOW_SECONDS;
    assert!(slope.low < expected && expected < slope.high, "{slope:?}");
    world.window(|world| world.calls("v2", 5, 0, 0.1));
    let trends = world.health.trends(&tools());
    assert!(
        trends[1]
            .trends
            .iter()
            .all(|of| of.trend.direction == Direction::Unknown)
    );
}

#[test]
fn a_service_that_is_removed_is_forgotten() {
    let mut world = World::new();
    world.window(|world| world.calls("v1", 50, 50, 0.1));
    world.state.services.clear();
    world.pass(1.0);
    assert!(world.health.issues(&tools()).is_empty());
    assert_eq!(world.windows("v1", 10).len(), 1, "its windows age away");
}

proptest! {
    /// Nothing is lost and nothing is counted twice, whenever somebody looks.
    #[test]
    fn every_call_is_in_one_window(steps in prop::collection::vec((0_u64..50, 0_u64..5, 0.0..100.0_f64), 1..60)) {
        let mut world = World::new();
        let (mut calls, mut bad) = (0, 0);
        for (good, failed, seconds) in steps {
            world.calls("v1", good, failed, 0.1);
            calls += good + failed;
            bad += failed;
            world.pass(seconds);
        }
        let windows = world.windows("v1", 24 * 60);
        prop_assert_eq!(windows.iter().map(|w| w.calls).sum::<u64>(), calls);
        prop_assert_eq!(windows.iter().map(|w| w.bad).sum::<u64>(), bad);
        prop_assert!(windows.windows(2).all(|pair| pair[0].at < pair[1].at));
        prop_assert!(windows.iter().all(|w| w.seconds > 0.0 && w.seconds <= WINDOW_SECONDS));
    }
}
