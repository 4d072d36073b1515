//! The promises of draining and removing, over random sequences of commands and ticks.

mod support;

use proptest::prelude::*;
use serin_model::{
    decide::{Candidate, Command, DrainWish, RefusalKind, Source},
    drain::{DRAIN_DEFAULT, DRAIN_MAX, Drain, Drained},
    event::Event,
    manifest::Manifest,
    name::{EndpointId, VersionName},
    plan::{Plan, RollbackStrategy},
    service::Version,
    snapshot::{Observed, Snapshot},
    state::State,
    words::event_in_words,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use support::{World, apply, tools};

fn name(version: &str) -> VersionName {
    version.parse().unwrap()
}

fn url(endpoint: &str) -> String {
    format!("http://127.0.0.1:9001/{endpoint}")
}

/// A manifest of versions with endpoints, and what a rule and a fallback lead to.
fn manifest(versions: &[(&str, &[&str])], rule_to: Option<&str>) -> Manifest {
    let versions: BTreeMap<_, _> = versions
        .iter()
        .map(|(version, endpoints)| {
            let endpoints: Vec<_> = endpoints.iter().map(|endpoint| url(endpoint)).collect();
            (*version, serde_json::json!({ "endpoints": endpoints }))
        })
        .collect();
    let rules: Vec<_> = rule_to
        .map(|to| serde_json::json!({ "name": "some", "priority": 1, "to": { to: 1 } }))
        .into_iter()
        .collect();
    let service = serde_json::json!({
        "protocol": "mcp", "path": "/mcp", "stable": "v1", "versions": versions, "rules": rules,
    });
    serde_json::from_value(serde_json::json!({ "services": { "tools": service } })).unwrap()
}

fn whole() -> Manifest {
    manifest(&[("v1", &["a", "b"]), ("v2", &["c", "d"])], None)
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.apply(&whole(), false, false).unwrap();
        world
    }

    fn apply(
        &mut self,
        manifest: &Manifest,
        prune: bool,
        at_once: bool,
    ) -> Result<Vec<Event>, RefusalKind> {
        self.run(&apply(manifest.clone(), Source::Request, prune, at_once))
    }

    fn apply_beside(
        &mut self,
        manifest: &Manifest,
        unhealthy: &[u32],
    ) -> Result<Vec<Event>, RefusalKind> {
        self.run(&Command::Apply {
            manifest: Box::new(manifest.clone()),
            source: Source::Request,
            prune: false,
            at_once: false,
            silent: unhealthy.iter().map(|id| EndpointId(*id)).collect(),
        })
    }

    fn drain(&mut self, what: Drained, cap: Duration) -> Result<Vec<Event>, RefusalKind> {
        self.drain_beside(what, cap, &[])
    }

    fn drain_beside(
        &mut self,
        what: Drained,
        cap: Duration,
        unhealthy: &[u32],
    ) -> Result<Vec<Event>, RefusalKind> {
        self.run(&Command::Drain(Box::new(DrainWish {
            service: tools(),
            what,
            cap,
            reason: "maintenance".into(),
            silent: unhealthy.iter().map(|id| EndpointId(*id)).collect(),
        })))
    }

    fn undrain(&mut self, what: Drained) -> Result<Vec<Event>, RefusalKind> {
        self.run(&Command::Undrain {
            service: tools(),
            what,
            reason: String::new(),
        })
    }

    fn start(&mut self, to: &str) -> Result<Vec<Event>, RefusalKind> {
        let plan: Plan = serde_json::from_str(
            r#"{"phases": [{"share": "5 %", "hold": "60s"}, {"share": "100 %"}], "evidence": "trials 1"}"#,
        )
        .unwrap();
        self.begin(tools(), Candidate::Version(name(to)), plan)
    }

    fn promote(&mut self) -> Result<Vec<Event>, RefusalKind> {
        self.run(&Command::Promote {
            service: tools(),
            full: true,
            overridden: Some("sure".into()),
            assessment: None,
        })
    }

    fn roll_back(&mut self, strategy: RollbackStrategy) -> Result<Vec<Event>, RefusalKind> {
        self.run(&Command::Rollback {
            service: tools(),
            strategy,
            reason: "complaints".into(),
        })
    }

    fn tick(&mut self, unhealthy: &[u32]) -> Vec<Event> {
        let unhealthy = unhealthy.iter().map(|id| EndpointId(*id)).collect();
        self.run(&Command::EndDrains { unhealthy }).unwrap()
    }

    fn version(&self, version: &str) -> &Version {
        &self.state.services[&tools()].versions[&name(version)]
    }

    /// The endpoints that can be reached, and whether they take callers.
    fn routes(&self) -> BTreeMap<String, (u32, bool)> {
        let snapshot = Snapshot::build(&self.state, &Observed::default());
        let versions = snapshot.services[0].versions.iter();
        versions
            .flat_map(|version| &version.endpoints)
            .map(|e| (e.url.clone(), (e.id.0, !e.is_draining)))
            .collect()
    }

    fn route(&self, endpoint: &str) -> Option<(u32, bool)> {
        self.routes().get(&url(endpoint)).copied()
    }
}

fn endpoint(name: &str) -> Drained {
    Drained::Endpoint(url(name))
}

fn version(of: &str) -> Drained {
    Drained::Version(name(of))
}

fn in_words(events: &[Event]) -> Vec<String> {
    events.iter().map(event_in_words).collect()
}

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_drained_endpoint_takes_no_callers_and_is_out_at_the_cap() {
    let mut world = World::new();
    assert_eq!(world.route("a"), Some((0, true)));
    assert_eq!(world.drain(endpoint("a"), MINUTE).unwrap().len(), 1);
    assert_eq!(world.route("a"), Some((0, false)), "who is there stays");
    assert_eq!(world.tick(&[0]), vec![], "it is for its sessions to say");
    // Another cap.
    world.wait(Duration::from_secs(59));
    assert_eq!(world.drain(endpoint("a"), MINUTE).unwrap().len(), 1);
    world.wait(Duration::from_secs(59));
    assert_eq!(world.tick(&[]), vec![]);
    world.wait(Duration::from_secs(1));
    assert_eq!(world.tick(&[]).len(), 1);
    assert_eq!(world.tick(&[]), vec![], "once");
    assert_eq!(world.route("a"), None);
    assert_eq!(world.drain(endpoint("a"), MINUTE).unwrap(), vec![]);
    // Who was told to begin elsewhere is not found there again.
    assert_eq!(world.undrain(endpoint("a")).unwrap().len(), 1);
    assert_eq!(world.route("a"), Some((4, true)));
    assert_eq!(world.undrain(endpoint("a")).unwrap(), vec![]);
}

#[test]
fn a_drain_that_is_taken_back_in_time_changes_nothing() {
    let mut world = World::new();
    let before = world.routes();
    world.drain(version("v2"), MINUTE).unwrap();
    assert_eq!(world.route("c"), Some((2, false)));
    assert_eq!(world.undrain(version("v2")).unwrap().len(), 1);
    assert_eq!(world.routes(), before);
    world.drain(version("v2"), MINUTE).unwrap();
    world.wait(MINUTE);
    world.tick(&[]);
    assert_eq!((world.route("c"), world.route("d")), (None, None));
    world.undrain(version("v2")).unwrap();
    assert_eq!(
        (world.route("c"), world.route("d")),
        (Some((4, true)), Some((5, true)))
    );
}

#[test]
fn the_cap_holds_also_before_a_tick_has_said_so() {
    let mut world = World::new();
    world.drain(endpoint("a"), MINUTE).unwrap();
    world.wait(MINUTE);
    assert_eq!(world.undrain(endpoint("a")).unwrap().len(), 2);
    assert_eq!(world.route("a"), Some((4, true)), "under another id");
    // Another cap comes too late.
    world.drain(version("v2"), MINUTE).unwrap();
    world.wait(MINUTE);
    assert_eq!(world.drain(version("v2"), MINUTE).unwrap(), vec![]);
    assert_eq!(world.tick(&[]).len(), 1);
    // So does a file that names again what has left.
    let mut world = World::new();
    let fewer = manifest(&[("v1", &["a"])], None);
    world.apply(&fewer, true, false).unwrap();
    world.wait(DRAIN_DEFAULT);
    assert_eq!(world.apply(&fewer, true, false).unwrap(), vec![]);
    world.apply(&whole(), true, false).unwrap();
    let ids = ["a", "b", "c", "d"].map(|endpoint| world.route(endpoint).unwrap().0);
    assert_eq!(ids, [0, 4, 5, 6]);
}

#[test]
fn the_cap_holds_for_a_rollback_before_a_tick_has_said_so() {
    let mut world = World::new();
    world.start("v2").unwrap();
    world.promote().unwrap();
    world.drain(version("v1"), MINUTE).unwrap();
    world.wait(MINUTE);
    world.roll_back(RollbackStrategy::Immediate).unwrap();
    let back = ["a", "b"].map(|endpoint| world.route(endpoint));
    let others = [Some((4, true)), Some((5, true))];
    assert_eq!(back, others, "sessions of before the cap are gone");
    // Before the cap they are there again.
    let mut world = World::new();
    let before = world.routes();
    world.start("v2").unwrap();
    world.promote().unwrap();
    world.drain(version("v1"), MINUTE).unwrap();
    world.roll_back(RollbackStrategy::Immediate).unwrap();
    assert_eq!(world.routes(), before);
}

#[test]
fn what_everybody_needs_cannot_be_drained() {
    let mut world = World::new();
    let conflict = Err(RefusalKind::Conflict);
    assert_eq!(world.drain(version("v1"), MINUTE), conflict);
    world.drain(endpoint("a"), MINUTE).unwrap();
    assert_eq!(world.drain(endpoint("b"), MINUTE), conflict);
    world.undrain(endpoint("a")).unwrap();
    // The other one does not answer.
    assert_eq!(world.drain_beside(endpoint("a"), MINUTE, &[1]), conflict);
    assert!(world.drain_beside(endpoint("b"), MINUTE, &[1]).is_ok());
    // Neither can the candidate's.
    world.start("v2").unwrap();
    assert_eq!(world.drain(version("v2"), MINUTE), conflict);
    world.drain(endpoint("c"), MINUTE).unwrap();
    assert_eq!(world.drain(endpoint("d"), MINUTE), conflict);
    // A manifest cannot leave one without an endpoint that takes callers either.
    let without = manifest(&[("v1", &["a", "b"]), ("v2", &["c"])], None);
    assert_eq!(world.apply(&without, false, false), conflict);
    let without = manifest(&[("v1", &["b"]), ("v2", &["c", "d"])], None);
    assert_eq!(world.apply(&without, false, true), conflict);
}

#[test]
fn a_drain_says_why_what_and_for_how_long() {
    let mut world = World::new();
    let wish = |what: Drained, cap, reason: &str| {
        Command::Drain(Box::new(DrainWish {
            service: tools(),
            what,
            cap,
            reason: reason.to_owned(),
            silent: BTreeSet::new(),
        }))
    };
    for (command, kind) in [
        (wish(version("v2"), MINUTE, " "), RefusalKind::Invalid),
        (
            wish(version("v2"), DRAIN_MAX + MINUTE, "x"),
            RefusalKind::Invalid,
        ),
        (wish(version("v9"), MINUTE, "x"), RefusalKind::NotFound),
        (wish(endpoint("z"), MINUTE, "x"), RefusalKind::NotFound),
    ] {
        assert_eq!(world.run(&command), Err(kind), "{command:?}");
    }
    assert!(world.drain(version("v2"), DRAIN_MAX).is_ok());
    // What is drained as a whole is let go as a whole.
    assert_eq!(world.undrain(endpoint("c")), Err(RefusalKind::Conflict));
    world.undrain(version("v2")).unwrap();
    world.drain(endpoint("c"), MINUTE).unwrap();
    assert_eq!(world.undrain(version("v2")), Err(RefusalKind::Conflict));
}

#[test]
fn a_rollout_cannot_begin_to_what_is_drained_and_a_rollback_goes_there_all_the_same() {
    let mut world = World::new();
    world.drain(version("v2"), MINUTE).unwrap();
    assert_eq!(world.start("v2"), Err(RefusalKind::Conflict));
    world.undrain(version("v2")).unwrap();
    world.start("v2").unwrap();
    world.promote().unwrap();
    world.drain(version("v1"), MINUTE).unwrap();
    world.drain(endpoint("a"), MINUTE).unwrap();
    world.wait(MINUTE);
    world.tick(&[]);
    world.roll_back(RollbackStrategy::Immediate).unwrap();
    assert_eq!(world.state.services[&tools()].stable, name("v1"));
    assert!(world.version("v1").is_open());
    assert_eq!(world.route("b"), Some((5, true)));
    assert_eq!(world.route("a"), None, "there is another one");
}

#[test]
fn what_leaves_the_manifest_drains_and_is_gone_then() {
    let mut world = World::new();
    let fewer = manifest(&[("v1", &["a"])], None);
    assert_eq!(world.apply(&fewer, true, false).unwrap().len(), 1);
    assert_eq!(world.apply(&fewer, true, false).unwrap(), vec![], "again");
    for (endpoint, route) in [
        ("a", Some((0, true))),
        ("b", Some((1, false))),
        ("c", Some((2, false))),
    ] {
        assert_eq!(world.route(endpoint), route, "{endpoint}");
    }
    let leaves = |drain: &Option<Drain>| drain.as_ref().is_some_and(|drain| drain.is_leaving);
    assert!(leaves(&world.version("v2").drain));
    assert!(
        !world
            .version("v2")
            .endpoints
            .iter()
            .any(|e| leaves(&e.drain))
    );
    assert_eq!(world.undrain(endpoint("b")), Err(RefusalKind::Conflict));
    // It comes back before it is gone.
    assert_eq!(world.apply(&whole(), true, false).unwrap().len(), 1);
    assert_eq!(world.routes(), World::new().routes());
    world.apply(&fewer, true, false).unwrap();
    world.wait(DRAIN_DEFAULT);
    assert_eq!(world.tick(&[]).len(), 2);
    assert_eq!(world.version("v1").endpoints.len(), 1);
    assert!(
        !world.state.services[&tools()]
            .versions
            .contains_key(&name("v2"))
    );
    // And after: it is another one.
    world.apply(&whole(), true, false).unwrap();
    assert_eq!(world.route("b"), Some((4, true)));
}

#[test]
fn an_endpoint_that_leaves_one_version_and_serves_another_is_meant_where_it_serves() {
    let moved = manifest(&[("v1", &["b"]), ("v2", &["c", "d", "a"])], None);
    let goes = manifest(&[("v1", &["a", "b", "c", "d"])], None);
    for (next, moved, from, to) in [(moved, "a", "v1", "v2"), (goes, "c", "v2", "v1")] {
        let mut world = World::new();
        world.apply(&next, true, false).unwrap();
        let drains = |world: &World, of: &str| {
            let version = world.version(of);
            let mut endpoints = version.endpoints.iter();
            let endpoint = endpoints.find(|e| e.url == url(moved)).unwrap();
            (version.drain.clone(), endpoint.drain.clone())
        };
        let (serves, leaves) = (drains(&world, to), drains(&world, from));
        assert_eq!(serves, (None, None));
        assert_eq!(world.drain(endpoint(moved), MINUTE).unwrap().len(), 1);
        assert_ne!(drains(&world, to), serves);
        assert_eq!(world.undrain(endpoint(moved)).unwrap().len(), 1);
        assert_eq!(drains(&world, to), serves);
        assert_eq!(world.undrain(endpoint(moved)).unwrap(), vec![], "again");
        assert_eq!(drains(&world, from), leaves, "not a longer cap either");
    }
    // Where it only leaves, that is what is meant.
    let mut world = World::new();
    let fewer = manifest(&[("v1", &["a"])], None);
    world.apply(&fewer, true, false).unwrap();
    for leaving in ["b", "c"] {
        assert_eq!(world.undrain(endpoint(leaving)), Err(RefusalKind::Conflict));
    }
    world.drain(endpoint("b"), Duration::ZERO).unwrap();
    assert_eq!(world.version("v1").endpoints.len(), 1);
}

#[test]
fn what_leaves_and_does_not_answer_is_gone_at_once() {
    let mut world = World::new();
    world
        .apply(&manifest(&[("v1", &["a"])], None), true, false)
        .unwrap();
    assert_eq!(world.tick(&[2]), vec![], "one of v2 answers");
    assert_eq!(world.tick(&[1]).len(), 1);
    assert_eq!(world.tick(&[2, 3]).len(), 1);
    assert_eq!(world.routes().len(), 1);
}

#[test]
fn at_once_is_at_once() {
    let mut world = World::new();
    world.drain(endpoint("d"), MINUTE).unwrap();
    world
        .apply(&manifest(&[("v1", &["a"])], None), true, true)
        .unwrap();
    assert_eq!(world.routes().len(), 1);
    assert_eq!(world.state.services[&tools()].versions.len(), 1);
    // What was on its way out goes now.
    let mut world = World::new();
    let fewer = manifest(&[("v1", &["a"])], None);
    world.apply(&fewer, false, false).unwrap();
    assert_eq!(world.routes().len(), 4);
    let said = in_words(&world.apply(&fewer, false, true).unwrap());
    assert_eq!(
        said,
        [format!(
            "endpoint {} of version v1 of service tools is drained",
            url("b")
        )]
    );
    assert_eq!(world.routes().len(), 3, "v2 stays: it is not pruned");
    assert_eq!(world.apply(&fewer, false, true).unwrap(), vec![]);
}

#[test]
fn what_is_gone_at_once_is_named() {
    let mut world = World::new();
    let fewer = manifest(&[("v1", &["a"])], None);
    let gone = [
        format!(
            "service tools changed; leaving it: {} of v1, version v2",
            url("b")
        ),
        format!(
            "endpoint {} of version v1 of service tools is drained",
            url("b")
        ),
        "version v2 of service tools is drained".to_owned(),
    ];
    let events = world.apply(&fewer, true, true).unwrap();
    assert_eq!(in_words(&events), gone);
    // What was drained to its end, too.
    let mut world = World::new();
    world.drain(version("v2"), Duration::ZERO).unwrap();
    world.drain(endpoint("b"), Duration::ZERO).unwrap();
    let events = world.apply(&fewer, true, false).unwrap();
    assert_eq!(in_words(&events), gone);
    assert_eq!(world.state.services[&tools()].versions.len(), 1);
    assert_eq!(world.version("v1").endpoints.len(), 1);
}

#[test]
fn what_everybody_needs_is_not_replaced_by_what_nobody_has_seen_answer() {
    let conflict = Err(RefusalKind::Conflict);
    let of = |v1: &[&str], v2: &[&str]| manifest(&[("v1", v1), ("v2", v2)], None);
    let both: &[&str] = &["c", "d"];
    let mut world = World::new();
    assert_eq!(world.apply(&of(&["z"], both), false, false), conflict);
    assert_eq!(world.apply_beside(&of(&["b", "z"], both), &[1]), conflict);
    // Neither is the last one, beside what has not answered yet.
    world.apply(&of(&["a", "z"], both), false, true).unwrap();
    assert_eq!(world.apply_beside(&of(&["z"], both), &[4]), conflict);
    assert_eq!(world.drain_beside(endpoint("a"), MINUTE, &[4]), conflict);
    let mut world = World::new();
    // Nobody loses anything by it, or somebody says so.
    assert!(world.apply_beside(&of(&["z"], both), &[0, 1]).is_ok());
    let mut world = World::new();
    assert!(world.apply(&of(&["z"], both), false, true).is_ok());
    // In two steps; and back, whatever became of the new one.
    let mut world = World::new();
    assert!(world.apply(&of(&["b", "z"], both), false, false).is_ok());
    assert!(world.apply(&of(&["z"], both), false, false).is_ok());
    assert!(world.apply(&of(&["b"], both), false, false).is_ok());
    // Others than stable and the candidate serve nobody who has nowhere else to go.
    assert!(world.apply(&of(&["b"], &["y"]), false, false).is_ok());
    world.start("v2").unwrap();
    assert_eq!(world.apply(&of(&["b"], &["x"]), false, false), conflict);
}

#[test]
fn where_nobody_is_known_to_answer_any_may_be_drained_but_the_last() {
    let (nobody, conflict) = ([0, 1, 2, 3], Err(RefusalKind::Conflict));
    let mut world = World::new();
    // As removing it may be.
    let fewer = manifest(&[("v1", &["b"]), ("v2", &["c", "d"])], None);
    assert!(world.apply_beside(&fewer, &nobody).is_ok());
    let mut world = World::new();
    world.start("v2").unwrap();
    for (one, other) in [("a", "b"), ("c", "d")] {
        let mut drain = |of: &str| world.drain_beside(endpoint(of), MINUTE, &nobody);
        assert!(drain(one).is_ok());
        assert_eq!(drain(other), conflict, "callers go somewhere at least");
        assert!(drain(one).is_ok(), "another cap");
    }
    // What answers and takes no callers helps nobody, and is in nobody's way.
    let mut world = World::new();
    let more = manifest(&[("v1", &["a", "b", "z"]), ("v2", &["c", "d"])], None);
    world.apply(&more, false, false).unwrap();
    world.drain(endpoint("a"), MINUTE).unwrap();
    assert!(world.drain_beside(endpoint("b"), MINUTE, &[1, 4]).is_ok());
    world.undrain(endpoint("a")).unwrap();
    assert_eq!(world.drain_beside(endpoint("a"), MINUTE, &[4]), conflict);
}

#[test]
fn a_drain_without_time_is_over_with_the_command() {
    let mut world = World::new();
    assert_eq!(world.drain(endpoint("a"), Duration::ZERO).unwrap().len(), 2);
    assert_eq!(world.route("a"), None);
    assert_eq!(world.tick(&[]), vec![]);
    assert_eq!(world.undrain(endpoint("a")).unwrap().len(), 1);
    assert_eq!(
        world.route("a"),
        Some((4, true)),
        "sessions of before are gone"
    );
    // One that drains already, and a version with its endpoints.
    world.drain(version("v2"), MINUTE).unwrap();
    world.drain(version("v2"), Duration::ZERO).unwrap();
    assert_eq!((world.route("c"), world.route("d")), (None, None));
}

#[test]
fn no_rule_or_fallback_leads_to_a_version_that_leaves() {
    let mut world = World::new();
    let both: &[(&str, &[&str])] = &[("v1", &["a", "b"]), ("v2", &["c", "d"])];
    world
        .apply(&manifest(both, Some("v2")), false, false)
        .unwrap();
    let only = manifest(&both[..1], Some("v2"));
    for (prune, at_once) in [(false, false), (true, false), (true, true)] {
        assert!(world.apply(&only, prune, at_once).is_err());
    }
    for place in ["stable", "candidate", "v1"] {
        let only = manifest(&both[..1], Some(place));
        assert!(world.apply(&only, true, false).is_ok(), "{place}");
    }
    // Not even while it drains.
    assert!(world.apply(&only, false, false).is_err());
    let mut with_fallback = manifest(&both[..1], None);
    let spec = with_fallback.services.get_mut(&tools()).unwrap();
    let v1 = spec.versions.get_mut(&name("v1")).unwrap();
    v1.fallback = vec![name("v2")];
    assert!(world.apply(&with_fallback, false, false).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Tick(Vec<u32>),
    Drain {
        what: usize,
        minutes: u64,
        unhealthy: Vec<u32>,
    },
    Undrain(usize),
    Apply {
        v1: Vec<bool>,
        v2: Vec<bool>,
        prune: bool,
        at_once: bool,
    },
    Start,
    Promote,
    Rollback,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let unhealthy = || prop::collection::vec(0..8_u32, 0..3);
    let endpoints = || prop::collection::vec(any::<bool>(), 2);
    let step = prop_oneof![
        3 => (0..90_u64).prop_map(Step::Wait),
        4 => unhealthy().prop_map(Step::Tick),
        6 => (0..6_usize, 0..90_u64, unhealthy()).prop_map(|(what, minutes, unhealthy)| Step::Drain { what, minutes, unhealthy }),
        3 => (0..6_usize).prop_map(Step::Undrain),
        4 => (endpoints(), endpoints(), any::<bool>(), any::<bool>())
            .prop_map(|(v1, v2, prune, at_once)| Step::Apply { v1, v2, prune, at_once }),
        2 => Just(Step::Start),
        1 => Just(Step::Promote),
        1 => Just(Step::Rollback),
    ];
    prop::collection::vec(step, 0..40)
}

fn what(index: usize) -> Drained {
    match index {
        0 => version("v1"),
        1 => version("v2"),
        index => endpoint(["a", "b", "c", "d"][index - 2]),
    }
}

fn take(world: &mut World, step: &Step) -> Result<Vec<Event>, RefusalKind> {
    match step {
        Step::Wait(minutes) => {
            world.wait(MINUTE * u32::try_from(*minutes).unwrap());
            Ok(vec![])
        }
        Step::Tick(unhealthy) => Ok(world.tick(unhealthy)),
        Step::Drain {
            what: index,
            minutes,
            unhealthy,
        } => {
            let cap = MINUTE * u32::try_from(*minutes).unwrap();
            world.drain_beside(what(*index), cap, unhealthy)
        }
        Step::Undrain(index) => world.undrain(what(*index)),
        Step::Apply {
            v1,
            v2,
            prune,
            at_once,
        } => {
            let named = |names: [&'static str; 2], has: &[bool]| {
                let all = names.into_iter().zip(has);
                all.filter(|(_, has)| **has)
                    .map(|(name, _)| name)
                    .collect::<Vec<_>>()
            };
            let (v1, v2) = (named(["a", "b"], v1), named(["c", "d"], v2));
            let mut versions = vec![("v1", v1.as_slice())];
            // Nobody writes a version without endpoints: the configuration refuses it.
            if v1.is_empty() {
                versions = vec![("v1", &["a"] as &[_])];
            }
            if !v2.is_empty() {
                versions.push(("v2", v2.as_slice()));
            }
            world.apply(&manifest(&versions, None), *prune, *at_once)
        }
        Step::Start => world.start("v2").or_else(|_| world.start("v1")),
        Step::Promote => world.promote(),
        Step::Rollback => world.roll_back(RollbackStrategy::Gradual),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_promises_of_drains_hold_over_any_history(steps in steps()) {
        let mut world = World::new();
        let mut gone: BTreeSet<u32> = BTreeSet::new();
        let mut reachable: BTreeSet<u32> = world.routes().values().map(|(id, _)| *id).collect();
        for step in &steps {
            let (before, before_now) = (world.state.clone(), world.now);
            let outcome = take(&mut world, step);
            if outcome.is_err() {
                prop_assert_eq!(&before, &world.state, "a refused change changes nothing");
            }
            let service = &world.state.services[&tools()];
            // Whoever begins has somewhere to go.
            prop_assert!(service.versions[&service.stable].is_open());
            if let Some(rollout) = world.state.active(&tools()) {
                prop_assert!(service.versions[&rollout.to].is_open());
            }
            // What is gone stays gone: its id is never used again, whatever comes back under its URL.
            let now: BTreeSet<u32> = world.routes().values().map(|(id, _)| *id).collect();
            gone.extend(reachable.difference(&now));
            prop_assert!(gone.is_disjoint(&now), "{gone:?} {now:?}");
            reachable = now;
            // What drains is over at its cap and, by hand, not before.
            let parts = |state: &State| -> Vec<Drain> {
                let versions = state.services[&tools()].versions.values();
                versions
                    .flat_map(|v| v.endpoints.iter().map(|e| &e.drain).chain([&v.drain]))
                    .flatten()
                    .cloned()
                    .collect()
            };
            for drain in parts(&world.state) {
                if matches!(step, Step::Tick(_)) {
                    prop_assert!(drain.is_over || world.now < drain.until);
                }
                prop_assert!(!drain.is_over || world.now >= drain.until);
                prop_assert!(!drain.is_over || !drain.is_leaving, "it would be gone");
            }
            // Nobody comes again to where sessions should have ended.
            if outcome.is_ok_and(|events| !events.is_empty()) {
                let late = |drain: &&Drain| !drain.is_over && before_now >= drain.until;
                let undone = matches!(
                    step,
                    Step::Undrain(_) | Step::Apply { .. } | Step::Rollback
                );
                prop_assert!(!undone || !parts(&world.state).iter().any(|drain| late(&drain)));
            }
        }
        // Applying what was applied changes nothing.
        let again = whole();
        if world.apply(&again, true, false).is_ok() {
            prop_assert_eq!(world.apply(&again, true, false).unwrap(), vec![]);
        }
        prop_assert_eq!(world.folded(), world.state);
    }
}
