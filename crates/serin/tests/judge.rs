//! The judge in charge of real rollouts: real processes, real clients, faults that no threshold of the plan looks at.

mod support;

use serde_json::Value;
use serin_testbed::{
    faults::{Fault, FaultKind},
    population::{Population, PopulationOptions},
    sample::{Running, ToolSet},
};
use std::time::Duration;
use support::{Serin, sample, two_versions};
use tempfile::TempDir;

/// The judge alone, with blocks as short as they may be. `REST` is what a test adds.
const PLAN: &str = "phases: [{ share: 50 %, hold: 2s, deadline: 50s }, { share: 100 % }]\ninconclusive: hold\n\
     judge: { mode: sequential, block: 1s REST }\n";

/// Two versions, a gateway in front, and clients with ever new sessions: each makes a few trials.
struct World {
    serin: Serin,
    v1: Running,
    v2: Running,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let (v1, v2) = (
            sample("v1", ToolSet::V1).await,
            sample("v2", ToolSet::V1).await,
        );
        let folder = TempDir::new().unwrap();
        let services = two_versions(&v1.url(), &v2.url());
        let serin = Serin::start(folder.path(), &services).await;
        Self {
            serin,
            v1,
            v2,
            folder,
        }
    }

    fn population(
        &self,
        calls_per_second: f64,
        change: impl FnOnce(&mut PopulationOptions),
    ) -> Population {
        let mut options = PopulationOptions::new(self.serin.url("/mcp"));
        options.calls_per_second = Some(calls_per_second);
        options.calls_per_session = 4;
        options.list_tools = false;
        change(&mut options);
        Population::start(options).unwrap()
    }

    async fn roll_out(&self, rest: &str, evidence: &str) {
        let plan = PLAN.replace("REST", rest) + &format!("evidence: {evidence}\n");
        self.roll_out_by(&plan).await;
    }

    async fn roll_out_by(&self, plan: &str) {
        std::fs::write(self.folder.path().join("judged.yaml"), plan).unwrap();
        self.serin
            .cli(&[
                "rollout",
                "start",
                "tools",
                "--to",
                "v2",
                "--plan",
                "judged.yaml",
            ])
            .await;
    }

    async fn rolled_back(&self) -> Value {
        self.serin
            .until("rolled back", |r| r["status"] == "rolled_back")
            .await
    }
}

/// Every line of the proof about one thing, pooled.
fn line<'a>(rollout: &'a Value, aspect: &str) -> &'a Value {
    let lines = rollout["proof"]["lines"].as_array().unwrap();
    lines
        .iter()
        .find(|line| line["aspect"] == aspect && line["scope"] == "all")
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_one_tool_of_eight_is_rolled_back_and_attributed_to_it() {
    let world = World::start().await;
    let tools: Vec<_> = ToolSet::V1.names().take(8).map(str::to_owned).collect();
    let broken = tools[2].clone();
    let population = world.population(150.0, |options| {
        options.tools = tools.into_iter().map(|tool| (tool, 1)).collect();
    });
    let fault = FaultKind::ToolError {
        message: "broken".to_owned(),
    };
    world
        .v2
        .faults()
        .set(Fault::new(fault).on_tool(&broken))
        .unwrap();
    world.roll_out("", "trials 1000000").await;
    let rollout = world.rolled_back().await;
    let reason = rollout["ended_reason"].as_str().unwrap();
    assert!(
        reason.contains("worse than stable is proven") && reason.contains(&broken),
        "{reason}"
    );
    assert_eq!(rollout["proof"]["culprit"]["tool"], *broken, "{rollout:#}");
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_is_half_as_slow_again_is_held_and_never_promoted() {
    let world = World::start().await;
    let slow = |add_ms| Fault::new(FaultKind::Latency { add_ms });
    world.v1.faults().set(slow(60)).unwrap();
    world.v2.faults().set(slow(90)).unwrap();
    let population = world.population(100.0, |_| {});
    world.roll_out("", "trials 1000000").await;
    let rollout = world
        .serin
        .until("held", |r| {
            r["held"].is_string() || r["status"] == "rolled_back"
        })
        .await;
    let why = rollout["held"]
        .as_str()
        .or(rollout["ended_reason"].as_str());
    assert!(
        why.is_some_and(|why| why.contains("time to the")),
        "{rollout:#}"
    );
    let promote = world.serin.refused(&["rollout", "promote", "tools"]).await;
    // What lies between 1.5 and the critical 1.509 times is a busy machine's to decide; then it is over already.
    assert!(
        promote.contains("--override") || promote.contains("no rollout under way"),
        "{promote}"
    );
    let rollout = world.serin.rollout().await;
    assert_ne!(rollout["status"], "promoted", "{rollout:#}");
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_fails_fast_is_not_called_faster() {
    let world = World::start().await;
    world
        .v1
        .faults()
        .set(Fault::new(FaultKind::Latency { add_ms: 40 }))
        .unwrap();
    // Half of its calls fail at once, while stable takes its time; and nobody looks at errors.
    let fails = FaultKind::HttpStatus { status: 500 };
    let fails = Fault::new(fails).with_ratio(0.5);
    world.v2.faults().set(fails).unwrap();
    let population = world.population(100.0, |_| {});
    let plan = "phases: [{ share: 50 %, hold: 2s, deadline: 10s }, { share: 100 % }]\ninconclusive: hold\n\
        judge: { mode: threshold, modes: { latency: sequential }, block: 1s }\nevidence: safe\n";
    world.roll_out_by(plan).await;
    let rollout = world
        .serin
        .until("out of time", |r| r["status"] != "running")
        .await;
    assert_eq!(rollout["status"], "inconclusive", "{rollout:#}");
    assert!(rollout["trials"].as_u64() > Some(100), "{rollout:#}");
    let safe = line(&rollout, "last_byte")["safe"]["log10"].as_f64();
    assert!(safe.is_some_and(|safe| safe < 0.5), "{rollout:#}");
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_inside_the_results_of_a_tool_takes_the_candidate_back() {
    let world = World::start().await;
    let population = world.population(150.0, |_| {});
    // Entries have a few hundred words; this plan wants novels.
    let plan = "phases: [{ share: 50 %, hold: 2s, deadline: 50s }, { share: 100 % }]\nevidence: calls 20\n\
        values: { words: { tool: get_entry, pointer: /answer/words, critical: 20000, window: 10s, min_samples: 10 } }\n";
    world.roll_out_by(plan).await;
    let rollout = world.rolled_back().await;
    let reason = rollout["ended_reason"].as_str().unwrap();
    assert!(
        reason.contains("words of tool get_entry") && reason.contains("limit 20000"),
        "{reason}"
    );
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_that_stops_in_mid_phase_never_promotes() {
    let world = World::start().await;
    let population = world.population(150.0, |_| {});
    let plan = "phases: [{ share: 50 %, hold: 8s, deadline: 12s }, { share: 100 % }]\ninconclusive: hold\n\
        judge: { block: 1s }\nevidence: trials 50\n";
    world.roll_out_by(plan).await;
    world
        .serin
        .until("seen what its plan asks for", |r| {
            r["trials"].as_u64() >= Some(50) && r["proof"]["stable_trials"].as_u64() >= Some(50)
        })
        .await;
    population.stop().await;
    let rollout = world
        .serin
        .until("out of time", |r| r["status"] != "running")
        .await;
    assert_eq!(rollout["status"], "inconclusive", "{rollout:#}");
    assert!(
        rollout["missing"]
            .as_str()
            .is_some_and(|missing| missing.contains("no call lately")),
        "{rollout:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_hangs_until_its_clients_give_up_is_caught() {
    let world = World::start().await;
    let population = world.population(150.0, |options| {
        // Well before the gateway itself would call it hung.
        options.timeout = Duration::from_secs(1);
    });
    world.roll_out("", "trials 1000000").await;
    world
        .serin
        .until("sure of how long stable takes", |r| {
            r["arms"]["stable"]["calls"].as_u64() > Some(400)
        })
        .await;
    world.v2.faults().set(Fault::new(FaultKind::Hang)).unwrap();
    let rollout = world.rolled_back().await;
    let reason = rollout["ended_reason"].as_str().unwrap();
    assert!(reason.contains("worse than stable is proven"), "{reason}");
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promotion_rests_on_is_proven_again_from_the_log_after_two_kills() {
    let mut world = World::start().await;
    world.roll_out("", "trials 300").await;
    for trials in [60, 120] {
        let population = world.population(100.0, |_| {});
        world
            .serin
            .until("judged", |r| r["trials"].as_u64() >= Some(trials))
            .await;
        population.stop().await;
        world.serin = world.serin.kill_and_restart(world.folder.path()).await;
    }
    let population = world.population(100.0, |_| {});
    let rollout = world
        .serin
        .until("promoted", |r| r["status"] == "promoted")
        .await;
    population.stop().await;

    let replay = world
        .serin
        .run(&["rollout", "replay", "tools", "--json"])
        .await;
    assert_eq!(
        replay.status.code(),
        Some(0),
        "{}",
        support::stderr(&replay)
    );
    let replay: Value = serde_json::from_str(&support::stdout(&replay)).unwrap();
    let verified = replay["verified"].as_array().unwrap();
    assert!(
        verified.len() >= 2,
        "the phase and the promotion: {replay:#}"
    );
    for verdict in verified {
        assert_eq!(verdict["basis_found"], true, "{verdict}");
        assert_eq!(verdict["proof_same"], true, "{verdict}");
    }
    let end = replay["end"].as_str().unwrap();
    assert!(end.contains("promoted"), "{replay:#}");
    // And what it rests on is what the plan asked for.
    let explained = world
        .serin
        .cli(&["rollout", "explain", "tools", "--json"])
        .await;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    let events = explained["events"].as_array().unwrap();
    let promoted = events
        .iter()
        .find(|event| event["kind"] == "promoted")
        .unwrap();
    let evidence = &promoted["body"]["evidence"];
    assert!(evidence["trials"].as_u64() >= Some(300), "{evidence:#}");
    assert!(
        evidence["basis"]["blocks"].as_u64() > Some(0),
        "{evidence:#}"
    );
    assert_eq!(rollout["proof"]["regression"], false);
}
