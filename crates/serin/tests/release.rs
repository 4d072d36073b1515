//! Rollouts of flags: callers of one version who have the flag are compared with those who have not.

mod support;

use serde_json::{Value, json};
use serin_testbed::{
    faults::{Fault, FaultKind},
    population::{Population, PopulationOptions},
    sample::{Running, ToolSet},
};
use support::{Serin, sample};
use tempfile::TempDir;

/// Climbs as the erlmcp staging procedure does, in seconds.
const PLAN: &str = "phases: [{ share: 10 %, hold: 1s }, { share: 25 %, hold: 1s }, { share: 50 %, hold: 1s }, { share: 100 %, hold: 1s }]\n\
    thresholds: { error_rate: { critical: 10 %, min_samples: 20, window: 30s } }\njudge: { block: 1s }\nevidence: trials 5\n";

struct World {
    serin: Serin,
    v1: Running,
    folder: TempDir,
    population: Population,
}

impl World {
    async fn start() -> Self {
        let v1 = sample("v1", ToolSet::V1).await;
        let folder = TempDir::new().unwrap();
        let services = format!(
            "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions:\n      v1: {{ endpoints: [{}] }}\n",
            v1.url()
        );
        let serin = Serin::start(folder.path(), &services).await;
        let mut options = PopulationOptions::new(serin.url("/mcp"));
        options.calls_per_second = Some(150.0);
        options.calls_per_session = 4;
        options.list_tools = false;
        let population = Population::start(options).unwrap();
        std::fs::write(folder.path().join("plan.yaml"), PLAN).unwrap();
        Self {
            serin,
            v1,
            folder,
            population,
        }
    }

    async fn create_flag(&self) {
        let flag = json!({"state": "DISABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "serin": {"offVariant": "off"}});
        let file = self.folder.path().join("flag.json");
        std::fs::write(&file, flag.to_string()).unwrap();
        self.serin
            .cli(&[
                "flag",
                "create",
                "new_search",
                "--file",
                "flag.json",
                "--reason",
                "test",
            ])
            .await;
    }

    async fn release(&self) {
        self.serin
            .cli(&[
                "rollout",
                "start",
                "tools",
                "--flag",
                "new_search",
                "--plan",
                "plan.yaml",
            ])
            .await;
    }

    async fn flag(&self) -> Value {
        let said = self
            .serin
            .cli(&["flag", "get", "new_search", "--json"])
            .await;
        serde_json::from_str(&said).unwrap()
    }

    async fn ended(&self, status: &str) -> Value {
        self.serin
            .until(status, |rollout| rollout["status"] == status)
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_flag_climbs_to_everybody() {
    let world = World::start().await;
    world.create_flag().await;
    world.release().await;
    let rollout = world.ended("promoted").await;
    assert_eq!(rollout["to"], "v1+new_search", "{rollout:#}");
    let flag = world.flag().await;
    assert_eq!(flag["flag"]["state"], "ENABLED", "{flag:#}");
    let said = world
        .serin
        .cli(&["flag", "eval", "new_search", "--key", "anybody", "--json"])
        .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["value"], true, "{said:#}");
    world.population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_that_breaks_calls_is_switched_off_and_the_others_never_notice() {
    let world = World::start().await;
    world.create_flag().await;
    let broken = FaultKind::ToolError {
        message: "broken".to_owned(),
    };
    // The server follows the header that the gateway sends it.
    let fault = Fault::new(broken).with_flag("new_search=on");
    world.v1.faults().set(fault).unwrap();
    world.release().await;
    let rollout = world.ended("rolled_back").await;
    let reason = rollout["ended_reason"].as_str().unwrap();
    assert!(
        reason.contains("error") || reason.contains("worse than stable"),
        "{reason}"
    );
    assert!(world.v1.faults().strikes() > 0);
    let flag = world.flag().await;
    assert_eq!(flag["flag"]["state"], "DISABLED", "{flag:#}");
    world.population.stop().await;
    let said = world
        .serin
        .cli(&["flag", "eval", "new_search", "--key", "anybody", "--json"])
        .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (said["value"].as_bool(), said["reason"].as_str()),
        (Some(false), Some("DISABLED")),
        "{said:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_that_a_flag_is_killed_meanwhile() {
    let world = World::start().await;
    world.create_flag().await;
    let plan = "phases: [{ share: 50 %, hold: 1h }, { share: 100 % }]\n";
    std::fs::write(world.folder.path().join("plan.yaml"), plan).unwrap();
    world.release().await;
    assert_eq!(world.flag().await["share"], 50.0);
    world
        .serin
        .cli(&["kill", "flag:new_search", "--reason", "it burns"])
        .await;
    world
        .serin
        .until("seen to be killed", |rollout| rollout["killed"].is_string())
        .await;
    let said = world.serin.cli(&["rollout", "status", "tools"]).await;
    assert!(
        said.contains("flag:new_search is killed (it burns), and nobody gets new_search"),
        "{said}"
    );
    assert_eq!(world.flag().await["share"], 0.0);
    world.population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_takes_no_flag_back() {
    let world = World::start().await;
    world.create_flag().await;
    let plan = "phases: [{ share: 50 %, hold: 1h }, { share: 100 % }]\n";
    std::fs::write(world.folder.path().join("plan.yaml"), plan).unwrap();
    world.release().await;
    world.v1.crash();
    let rollout = world
        .serin
        .until("calls of both sides have failed", |rollout| {
            let bad = |arm: &str| rollout["arms"][arm]["bad"].as_u64().unwrap_or_default();
            bad("stable") >= 30 && bad("candidate") >= 30
        })
        .await;
    assert_eq!(rollout["status"], "running", "{rollout:#}");
    world.population.stop().await;
}
