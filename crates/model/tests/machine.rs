//! The promises of the rollout machine, over random sequences of commands and observations.

mod support;

use proptest::prelude::*;
use serin_judge::{
    Assessment, Check, Finding, Level, Limit, Metric, Scope, Verdict,
    sequential::{Distrust, Progress, Proof},
};
use serin_model::{
    decide::{Candidate, Command, RefusalKind, Source, Start},
    event::{Event, Preflight, PreflightCheck, PreflightResult},
    manifest::Manifest,
    plan::{Evidence, Plan, RollbackStrategy},
    rollout::Status,
    service::VersionStage,
    share::Share,
    snapshot::{Observed, Snapshot},
};
use std::time::Duration;
use support::{World, apply, start, tools};

const TRIALS: u64 = 100;

fn manifest() -> Manifest {
    serde_json::from_str(
        r#"{"services": {"tools": {"protocol": "mcp", "path": "/mcp", "stable": "v1", "versions": {
            "v1": {"endpoints": ["http://127.0.0.1:9001/mcp"]}, "v2": {"endpoints": ["http://127.0.0.1:9002/mcp"]},
            "v3": {"endpoints": []}}}}}"#,
    )
    .unwrap()
}

fn plan(auto_promote: bool, inconclusive: &str) -> Plan {
    serde_json::from_str(&format!(
        r#"{{"phases": [{{"share": "5 %", "hold": "60s"}}, {{"share": "25 %", "hold": "60s"}}, {{"share": "100 %"}}],
            "evidence": "trials {TRIALS}", "auto_promote": {auto_promote}, "inconclusive": "{inconclusive}"}}"#
    ))
    .unwrap()
}

impl World {
    fn new() -> Self {
        Self::of(manifest())
    }

    fn start(&mut self, to: &str, plan: Plan) -> Result<Vec<Event>, RefusalKind> {
        self.begin(tools(), version(to), plan)
    }

    fn judge(&mut self, assessment: Assessment) -> Result<Vec<Event>, RefusalKind> {
        let Some(rollout) = self.state.latest(&tools()).map(|r| r.id) else {
            return Ok(vec![]);
        };
        self.run(&Command::Judge {
            rollout,
            assessment: Box::new(assessment),
        })
    }
}

fn version(name: &str) -> Candidate {
    Candidate::Version(name.parse().unwrap())
}

fn assessment(trials: u64, level: Option<Level>) -> Assessment {
    let findings = level.map(|level| Finding {
        metric: Metric::ErrorRate,
        scope: Scope::All,
        level: Some(level),
        check: Check::Fail,
        limit: Limit::Percent(1.0),
        candidate: Some(0.5),
        stable: Some(0.0),
        samples: trials,
        stable_too: false,
    });
    let verdict = if level == Some(Level::Critical) {
        Verdict::Regression
    } else {
        Verdict::Continue
    };
    Assessment {
        verdict,
        findings: findings.into_iter().collect(),
        criteria: vec![],
        trials,
        calls: trials,
        stable_calls: trials,
        fresh: true,
        values: vec![],
        proof: None,
        unstored: 0,
        basis: None,
    }
}

/// What the sequential judge may have to say.
#[derive(Clone, Copy, Debug)]
enum Proven {
    Nothing,
    Worse,
    Slower,
    Safe,
    /// A comparison that does not count, however it looks.
    SetAside,
}

fn with_proof(mut assessment: Assessment, proven: Proven) -> Assessment {
    let reached = Progress {
        log10: 3.0,
        needed: 2.0,
    };
    let mut proof = Proof {
        stable_trials: assessment.trials,
        ..Proof::default()
    };
    match proven {
        Proven::Nothing => {}
        Proven::Worse => {
            proof.regression = true;
            proof.worse = reached;
            assessment.verdict = Verdict::Regression;
        }
        Proven::Slower => proof.slower = reached,
        Proven::Safe => {
            proof.safe = reached;
            if assessment.verdict == Verdict::Continue {
                assessment.verdict = Verdict::Safe;
            }
        }
        Proven::SetAside => {
            proof.slower = reached;
            proof.distrust = Some(Distrust::Sentinel);
        }
    }
    assessment.proof = Some(Box::new(proof));
    assessment
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Start {
        to: usize,
        auto_promote: bool,
        inconclusive: usize,
    },
    Share(u16),
    Promote {
        full: bool,
        overridden: bool,
        trials: u64,
    },
    Pause,
    Resume,
    Abort,
    Rollback,
    Judge {
        trials: u64,
        level: Option<Level>,
        proven: Proven,
    },
    Signal(bool),
    Catastrophe,
    Apply {
        prune: bool,
    },
}

fn proven() -> impl Strategy<Value = Proven> {
    prop_oneof![
        8 => Just(Proven::Nothing),
        1 => Just(Proven::Worse),
        1 => Just(Proven::Slower),
        2 => Just(Proven::Safe),
        1 => Just(Proven::SetAside),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let level = prop_oneof![6 => Just(None), 1 => Just(Some(Level::Warning)), 1 => Just(Some(Level::Critical))];
    let step = prop_oneof![
        4 => (0_u64..200).prop_map(Step::Wait),
        4 => (0_usize..3, any::<bool>(), 0_usize..3)
            .prop_map(|(to, auto_promote, inconclusive)| Step::Start { to, auto_promote, inconclusive }),
        2 => (0_u16..=100).prop_map(Step::Share),
        2 => (any::<bool>(), any::<bool>(), 0_u64..200)
            .prop_map(|(full, overridden, trials)| Step::Promote { full, overridden, trials }),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Abort),
        1 => Just(Step::Rollback),
        8 => (0_u64..200, level, proven()).prop_map(|(trials, level, proven)| Step::Judge { trials, level, proven }),
        1 => any::<bool>().prop_map(Step::Signal),
        1 => Just(Step::Catastrophe),
        1 => any::<bool>().prop_map(|prune| Step::Apply { prune }),
    ];
    prop::collection::vec(step, 0..60)
}

fn take(world: &mut World, step: &Step) -> Result<Vec<Event>, RefusalKind> {
    let service = tools();
    let reason = "because".to_owned();
    match step {
        Step::Wait(seconds) => {
            world.wait(Duration::from_secs(*seconds));
            Ok(vec![])
        }
        Step::Start {
            to,
            auto_promote,
            inconclusive,
        } => {
            let inconclusive = ["hold", "extend", "rollback"][*inconclusive];
            world.start(["v1", "v2", "v3"][*to], plan(*auto_promote, inconclusive))
        }
        Step::Share(percent) => {
            let share = Share::from_percent(f64::from(*percent)).unwrap();
            world.run(&Command::SetShare {
                service,
                share,
                reason,
            })
        }
        Step::Promote {
            full,
            overridden,
            trials,
        } => world.run(&Command::Promote {
            service,
            full: *full,
            overridden: overridden.then_some(reason),
            assessment: Some(Box::new(assessment(*trials, None))),
        }),
        Step::Pause => world.run(&Command::Pause { service, reason }),
        Step::Resume => world.run(&Command::Resume { service }),
        Step::Abort => world.run(&Command::Abort { service, reason }),
        Step::Rollback => world.run(&Command::Rollback {
            service,
            strategy: RollbackStrategy::Immediate,
            reason,
        }),
        Step::Judge {
            trials,
            level,
            proven,
        } => world.judge(with_proof(assessment(*trials, *level), *proven)),
        Step::Signal(critical) => world.run(&Command::Signal {
            service,
            signal: ["complaint", "critical_bug"][usize::from(*critical)].to_owned(),
            reason,
        }),
        Step::Catastrophe => match world.state.active(&service).map(|r| r.id) {
            Some(rollout) => world.run(&Command::Catastrophe {
                rollout,
                cause: reason,
            }),
            None => Ok(vec![]),
        },
        Step::Apply { prune } => world.run(&apply(manifest(), Source::Request, *prune, false)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_promises_hold_over_any_history(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            let before = world.state.clone();
            let outcome = take(&mut world, step);
            if outcome.is_err() {
                prop_assert_eq!(&before, &world.state, "a refused change changes nothing");
            }
            // One active rollout a service.
            prop_assert!(world.state.rollouts.iter().filter(|r| !r.status.is_terminal()).count() <= 1);
            for rollout in &world.state.rollouts {
                // A terminal rollout never moves again.
                if let Some(earlier) = before.rollout(rollout.id).filter(|r| r.status.is_terminal()) {
                    prop_assert_eq!(earlier, rollout);
                }
                // Shares only take the plan's values, or one set by hand.
                let planned = rollout.plan.phases.iter().any(|phase| phase.share == rollout.share);
                let none = rollout.share == Share::ZERO && rollout.status.is_terminal();
                prop_assert!(planned || rollout.share_by_hand || none, "{:?}", rollout.share);
                prop_assert_eq!(rollout.share == Share::FULL, rollout.status == Status::Promoted);
            }
            // What routes is stable alone unless a rollout is under way, and stable serves.
            let service = &world.state.services[&tools()];
            prop_assert_eq!(service.versions[&service.stable].stage, VersionStage::Serving);
            let route = Snapshot::build(&world.state, &Observed::default());
            prop_assert_eq!(route.services[0].split.is_some(), world.state.active(&tools()).is_some());
        }
        // Each way to 100 % had the evidence that the plan asks for, or a reason.
        for recorded in &world.log {
            let (evidence, overridden) = match &recorded.event {
                Event::Promoted { evidence, overridden, .. } => (evidence, overridden),
                Event::PhaseEntered { share, evidence, overridden, .. } if *share == Share::FULL => (evidence, overridden),
                Event::ShareSet { share, reason, .. } => {
                    prop_assert!(*share < Share::FULL && !reason.is_empty());
                    continue;
                }
                _ => continue,
            };
            let shown = evidence.as_ref().is_some_and(|e| {
                e.trials >= TRIALS && e.findings.is_empty() && e.regression().is_none() && e.slower().is_none()
            });
            prop_assert!(shown || overridden.is_some(), "{:?}", recorded.event);
        }
        prop_assert_eq!(world.folded(), world.state);
    }

    #[test]
    fn abort_wins_from_every_phase_and_twice_is_once(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            let _ = take(&mut world, step);
        }
        let abort = Command::Abort { service: tools(), reason: "stop".into() };
        if world.state.active(&tools()).is_some() {
            prop_assert_eq!(world.run(&abort).unwrap().len(), 1);
            let rollout = world.state.latest(&tools()).unwrap();
            prop_assert_eq!((rollout.status, rollout.share), (Status::Aborted, Share::ZERO));
            prop_assert_eq!(world.state.services[&tools()].stable.as_str(), rollout.from.as_str());
            prop_assert_eq!(world.run(&abort).unwrap(), vec![]);
            prop_assert_eq!(world.judge(assessment(TRIALS * 2, None)).unwrap(), vec![]);
        }
    }
}

#[test]
fn a_good_candidate_is_promoted_phase_by_phase() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    assert_eq!(
        world.judge(assessment(TRIALS, None)).unwrap(),
        vec![],
        "the hold is not over"
    );
    world.wait(Duration::from_mins(1));
    assert_eq!(
        world.judge(assessment(TRIALS - 1, None)).unwrap(),
        vec![],
        "too few trials"
    );
    assert_eq!(world.judge(assessment(TRIALS, None)).unwrap().len(), 1);
    assert_eq!(
        world.state.active(&tools()).unwrap().share,
        "25 %".parse().unwrap()
    );
    world.wait(Duration::from_mins(1));
    let events = world.judge(assessment(TRIALS, None)).unwrap();
    assert!(
        matches!(
            events[..],
            [Event::PhaseEntered { .. }, Event::Promoted { .. }]
        ),
        "{events:?}"
    );
    let service = &world.state.services[&tools()];
    assert_eq!(service.stable.as_str(), "v2");
    assert_eq!(
        service.versions[&"v1".parse().unwrap()].stage,
        VersionStage::Draining
    );
    // And back again, by hand.
    let rollback = Command::Rollback {
        service: tools(),
        strategy: RollbackStrategy::Immediate,
        reason: "complaints".into(),
    };
    assert_eq!(world.run(&rollback).unwrap().len(), 1);
    let service = &world.state.services[&tools()];
    assert_eq!(service.stable.as_str(), "v1");
    assert_eq!(
        service.versions[&"v2".parse().unwrap()].stage,
        VersionStage::Withdrawn
    );
    assert_eq!(world.run(&rollback).unwrap(), vec![], "twice is once");
    // When it was withdrawn outlives another try.
    let withdrawn_at = |world: &World| {
        world.state.services[&tools()].versions[&"v2".parse().unwrap()].withdrawn_at
    };
    let then = Some(world.now);
    assert_eq!(withdrawn_at(&world), then);
    world.wait(Duration::from_mins(1));
    world.start("v2", plan(true, "extend")).unwrap();
    assert_eq!(withdrawn_at(&world), then);
    let snapshot = Snapshot::build(&world.state, &Observed::default());
    assert_eq!(snapshot.services[0].versions[1].withdrawn_at, then);
}

#[test]
fn a_phase_does_not_pass_on_a_breach_that_has_not_lasted_yet() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    world.wait(Duration::from_secs(61));
    let mut pending = assessment(TRIALS, Some(Level::Critical));
    pending.verdict = Verdict::Continue;
    pending.findings[0].check = Check::Pending;
    assert_eq!(world.judge(pending).unwrap(), vec![]);
}

#[test]
fn after_a_restart_time_alone_passes_no_phase() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    world.wait(Duration::from_secs(61));
    let restarted = Assessment {
        fresh: false,
        ..assessment(TRIALS, None)
    };
    assert_eq!(world.judge(restarted).unwrap(), vec![]);
    assert_eq!(world.judge(assessment(TRIALS, None)).unwrap().len(), 1);
}

#[test]
fn the_longest_time_ends_a_rollout_that_waits_for_a_decision_too() {
    let mut world = World::new();
    let plan = Plan {
        longest: Some(Duration::from_mins(10)),
        ..plan(true, "hold")
    };
    world.start("v2", plan).unwrap();
    world.wait(Duration::from_secs(121));
    world.judge(assessment(0, None)).unwrap();
    assert_eq!(
        world.state.latest(&tools()).unwrap().status,
        Status::Inconclusive
    );
    world.wait(Duration::from_mins(10));
    world.judge(assessment(0, None)).unwrap();
    assert_eq!(
        world.state.latest(&tools()).unwrap().status,
        Status::RolledBack
    );
}

#[test]
fn a_promotion_to_the_end_skips_no_phase_that_asks_for_something() {
    for (last, skips) in [
        (r#"{"share": "100 %", "hold": "1h"}"#, true),
        (r#"{"share": "100 %"}"#, false),
    ] {
        let plan = serde_json::from_str(&format!(
            r#"{{"phases": [{{"share": "10 %"}}, {last}], "evidence": "trials 1"}}"#
        ));
        let mut world = World::new();
        world.start("v2", plan.unwrap()).unwrap();
        let full = |overridden: Option<&str>| Command::Promote {
            service: tools(),
            full: true,
            overridden: overridden.map(str::to_owned),
            assessment: Some(Box::new(assessment(1, None))),
        };
        if skips {
            assert_eq!(world.run(&full(None)), Err(RefusalKind::Conflict), "{last}");
            assert_eq!(world.run(&full(Some("sure"))).unwrap().len(), 1);
        } else {
            assert_eq!(world.run(&full(None)).unwrap().len(), 1, "{last}");
        }
    }
}

#[test]
fn a_warning_holds_and_a_critical_breach_takes_back() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    world.wait(Duration::from_secs(61));
    assert!(matches!(
        world
            .judge(assessment(TRIALS, Some(Level::Warning)))
            .unwrap()[..],
        [Event::Held { .. }]
    ));
    assert_eq!(
        world
            .judge(assessment(TRIALS, Some(Level::Warning)))
            .unwrap(),
        vec![]
    );
    assert!(matches!(
        world.judge(assessment(TRIALS, None)).unwrap()[..],
        [Event::Released { .. }]
    ));
    let events = world
        .judge(assessment(TRIALS, Some(Level::Critical)))
        .unwrap();
    let [
        Event::RolledBack {
            reason, evidence, ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(
        reason.contains("error_rate") && reason.contains("50 %"),
        "{reason}"
    );
    assert!(evidence.is_some());
    let service = &world.state.services[&tools()];
    assert_eq!(
        service.versions[&"v2".parse().unwrap()].stage,
        VersionStage::Withdrawn
    );
}

#[test]
fn without_decision_time_runs_out_and_never_promotes() {
    for (policy, expected) in [("hold", "inconclusive"), ("rollback", "rolled_back")] {
        let mut world = World::new();
        world.start("v2", plan(true, policy)).unwrap();
        world.wait(Duration::from_secs(121));
        world.judge(assessment(0, None)).unwrap();
        assert_eq!(
            world.state.latest(&tools()).unwrap().status.label(),
            expected
        );
    }
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    for expected in ["running", "running", "inconclusive"] {
        world.wait(Duration::from_secs(121));
        world.judge(assessment(0, None)).unwrap();
        assert_eq!(
            world.state.latest(&tools()).unwrap().status.label(),
            expected
        );
    }
}

#[test]
fn the_time_of_a_pause_does_not_count() {
    let mut world = World::new();
    world.start("v2", plan(true, "hold")).unwrap();
    world
        .run(&Command::Pause {
            service: tools(),
            reason: "lunch".into(),
        })
        .unwrap();
    world.wait(Duration::from_hours(1));
    assert_eq!(world.judge(assessment(TRIALS, None)).unwrap(), vec![]);
    world.run(&Command::Resume { service: tools() }).unwrap();
    assert_eq!(world.judge(assessment(TRIALS, None)).unwrap(), vec![]);
    assert_eq!(
        world
            .state
            .active(&tools())
            .unwrap()
            .step_elapsed(world.now)
            .as_secs(),
        0
    );
}

#[test]
fn refusals_say_what_would_do() {
    let mut world = World::new();
    assert_eq!(
        world.start("v9", plan(true, "hold")),
        Err(RefusalKind::NotFound)
    );
    assert_eq!(
        world.start("v1", plan(true, "hold")),
        Err(RefusalKind::Conflict)
    );
    assert_eq!(
        world.start("v3", plan(true, "hold")),
        Err(RefusalKind::Conflict),
        "no endpoint"
    );
    world.start("v2", plan(true, "hold")).unwrap();
    assert_eq!(
        world.start("v2", plan(true, "hold")),
        Err(RefusalKind::Conflict),
        "one at a time"
    );
    let share = Command::SetShare {
        service: tools(),
        share: Share::FULL,
        reason: "now".into(),
    };
    assert_eq!(world.run(&share), Err(RefusalKind::Invalid));
    let share = Command::SetShare {
        service: tools(),
        share: Share::ZERO,
        reason: "  ".into(),
    };
    assert_eq!(world.run(&share), Err(RefusalKind::Invalid));
}

#[test]
fn pre_flight_decides_whether_a_rollout_begins() {
    for (result, accept_breaking, begins) in [
        (PreflightResult::Passed, false, true),
        (PreflightResult::Risky, false, true),
        (PreflightResult::Breaking, false, false),
        (PreflightResult::Breaking, true, true),
        (PreflightResult::Failed, true, false),
    ] {
        let mut world = World::new();
        let check = PreflightCheck {
            name: "contract".into(),
            result,
            detail: "tool `search` removed".into(),
        };
        let outcome = world.run(&Command::Start(Box::new(Start {
            preflight: Preflight {
                checks: vec![check],
                contract_differs: true,
            },
            accept_breaking,
            ..start(1, tools(), version("v2"), plan(true, "hold"))
        })));
        assert_eq!(outcome.is_ok(), begins, "{result:?} {accept_breaking}");
    }
}

#[test]
fn a_restart_with_the_same_file_changes_nothing_even_after_a_promotion() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    let full = Command::Promote {
        service: tools(),
        full: true,
        overridden: Some("sure".into()),
        assessment: None,
    };
    world.run(&full).unwrap();
    let again = apply(manifest(), Source::Start, false, false);
    assert_eq!(world.run(&again).unwrap(), vec![]);
    assert_eq!(world.state.services[&tools()].stable.as_str(), "v2");
}

#[test]
fn endpoints_keep_their_ids_and_ids_are_never_used_twice() {
    let mut world = World::new();
    let mut changed = manifest();
    let service = changed.services.get_mut(&tools()).unwrap();
    let v2 = service.versions.get_mut(&"v2".parse().unwrap()).unwrap();
    v2.endpoints = vec![
        "http://127.0.0.1:9003/mcp".into(),
        "http://127.0.0.1:9002/mcp".into(),
    ];
    world
        .run(&apply(changed, Source::Request, false, false))
        .unwrap();
    let ids = |world: &World| -> Vec<u32> {
        let versions = &world.state.services[&tools()].versions;
        versions
            .values()
            .flat_map(|v| &v.endpoints)
            .map(|e| e.id.0)
            .collect()
    };
    assert_eq!(ids(&world), [0, 2, 1]);
    world
        .run(&apply(manifest(), Source::Request, false, true))
        .unwrap();
    assert_eq!(ids(&world), [0, 1]);
    assert_eq!(world.state.next_endpoint, 3);
}

#[test]
fn two_services_may_not_claim_the_same_path() {
    let mut world = World::new();
    let mut changed = manifest();
    let twin = changed.services[&tools()].clone();
    changed.services.insert("twin".parse().unwrap(), twin);
    let twice = apply(changed, Source::Request, false, false);
    assert_eq!(world.run(&twice), Err(RefusalKind::Conflict));
}

#[test]
fn evidence_is_part_of_the_plan() {
    assert_eq!(plan(true, "hold").evidence(0), Evidence::Trials(TRIALS));
}

fn active(world: &World) -> &serin_model::rollout::Rollout {
    world.state.active(&tools()).unwrap()
}

#[test]
fn what_the_judge_proves_decides_without_any_threshold() {
    for (proven, expected) in [
        (Proven::Worse, "rolled_back"),
        (Proven::Slower, "held"),
        (Proven::SetAside, "comparison_set_aside"),
        (Proven::Safe, "phase_entered"),
        (Proven::Nothing, "phase_entered"),
    ] {
        let mut world = World::new();
        world.start("v2", plan(true, "extend")).unwrap();
        world.wait(Duration::from_mins(1));
        let events = world
            .judge(with_proof(assessment(TRIALS, None), proven))
            .unwrap();
        assert_eq!(events[0].kind(), expected, "{proven:?}");
    }
}

#[test]
fn a_comparison_that_is_set_aside_is_told_once_and_its_end_too() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    let aside = with_proof(assessment(0, None), Proven::SetAside);
    assert_eq!(
        world.judge(aside.clone()).unwrap()[0].kind(),
        "comparison_set_aside"
    );
    assert_eq!(world.judge(aside).unwrap(), vec![]);
    assert!(active(&world).set_aside.is_some());
    let again = with_proof(assessment(0, None), Proven::Nothing);
    assert_eq!(world.judge(again).unwrap()[0].kind(), "comparison_resumed");
    assert_eq!(active(&world).set_aside, None);
}

#[test]
fn safe_evidence_needs_the_verdict_and_calls_need_calls() {
    let mut plan = plan(true, "hold");
    for (evidence, proven, calls, passes) in [
        (Evidence::Safe, Proven::Nothing, 10_000, false),
        (Evidence::Safe, Proven::Safe, 1, true),
        (Evidence::Safe, Proven::SetAside, 10_000, false),
        (Evidence::Calls(50), Proven::Nothing, 49, false),
        (Evidence::Calls(50), Proven::Nothing, 50, true),
        (Evidence::Trials(50), Proven::Nothing, 49, false),
    ] {
        plan.evidence = evidence;
        let mut world = World::new();
        world.start("v2", plan.clone()).unwrap();
        world.wait(Duration::from_mins(1));
        world
            .judge(with_proof(assessment(calls, None), proven))
            .unwrap();
        assert_eq!(
            active(&world).phase == 1,
            passes,
            "{evidence} {proven:?} {calls}"
        );
    }
}

#[test]
fn signals_by_hand_hold_and_take_back_as_the_plan_says() {
    let mut world = World::new();
    world.start("v2", plan(true, "extend")).unwrap();
    let signal = |kind: &str| Command::Signal {
        service: tools(),
        signal: kind.to_owned(),
        reason: "customer 12".to_owned(),
    };
    assert_eq!(world.run(&signal("rumour")), Err(RefusalKind::Invalid));
    world.run(&signal("complaint")).unwrap();
    world.wait(Duration::from_mins(1));
    let events = world.judge(assessment(TRIALS, None)).unwrap();
    assert!(
        matches!(&events[..], [Event::Held { reason, .. }] if reason.contains("complaint")),
        "{events:?}"
    );
    let resume = Command::Resume { service: tools() };
    assert_eq!(world.run(&resume).unwrap()[0].kind(), "signals_settled");
    let released = world.judge(assessment(TRIALS, None)).unwrap();
    assert_eq!(released[0].kind(), "released");
    assert_eq!(world.run(&resume).unwrap(), vec![]);
    let events = world.run(&signal("critical_bug")).unwrap();
    assert!(
        matches!(&events[..], [Event::SignalGiven { .. }, Event::RolledBack { reason, .. }] if reason.contains("customer 12")),
        "{events:?}"
    );
}

#[test]
fn callers_change_version_only_between_versions_with_the_same_tools() {
    let mut plan = plan(true, "hold");
    plan.affinity.renew = Some(Duration::from_hours(1));
    let start = |contract_differs| {
        Command::Start(Box::new(Start {
            preflight: Preflight {
                contract_differs,
                ..Preflight::default()
            },
            ..start(7, tools(), version("v2"), plan.clone())
        }))
    };
    let mut world = World::new();
    assert_eq!(world.run(&start(true)), Err(RefusalKind::Conflict));
    world.run(&start(false)).unwrap();
    let route = Snapshot::build(&world.state, &Observed::default());
    let split = route.services[0].split.clone().unwrap();
    assert_eq!(split.renew, plan.affinity.renew);
}

#[test]
fn a_phase_passes_only_on_what_could_have_shown_something() {
    let thresholds = r#"{"error_rate": {"critical": "5 %"}}"#;
    let mut with_thresholds = plan(true, "hold");
    with_thresholds.thresholds = serde_json::from_str(thresholds).unwrap();
    let fine = || with_proof(assessment(TRIALS, None), Proven::Nothing);
    let aside = || with_proof(assessment(TRIALS, None), Proven::SetAside);
    let alone = || {
        let mut alone = fine();
        alone.proof.as_mut().unwrap().stable_trials = 0;
        alone
    };
    let unstored = || Assessment {
        unstored: 1,
        ..fine()
    };
    for (plan, shown, passes, why) in [
        (plan(true, "hold"), fine(), true, ""),
        (plan(true, "hold"), aside(), false, "nobody decides"),
        (with_thresholds.clone(), aside(), true, "thresholds do"),
        (plan(true, "hold"), alone(), false, "compared with nothing"),
        (plan(true, "hold"), unstored(), false, "on no disk"),
    ] {
        let mut world = World::new();
        world.start("v2", plan).unwrap();
        world.wait(Duration::from_mins(1));
        // The first look may have to say that the comparison is set aside.
        world.judge(shown.clone()).unwrap();
        world.judge(shown).unwrap();
        assert_eq!(active(&world).phase == 1, passes, "{why}");
    }
}
