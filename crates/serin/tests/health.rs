//! `serin health` over a service that people use.

mod support;

use serde_json::Value;
use serin_testbed::{
    population::{Population, PopulationOptions},
    sample::ToolSet,
};
use std::time::Duration;
use support::{PATIENCE, Serin, sample, two_versions};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_of_a_service_reads_well() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    let quiet = serin.cli(&["health", "metrics", "tools"]).await;
    assert_eq!(quiet, "no calls in this time\n");
    let population = Population::start(PopulationOptions::new(serin.url("/mcp"))).unwrap();

    let seen = tokio::time::timeout(PATIENCE, async {
        loop {
            let json = serin
                .cli(&["health", "metrics", "tools", "--minutes", "5", "--json"])
                .await;
            let versions: Value = serde_json::from_str(&json).unwrap();
            if versions[0]["windows"][0]["calls"].as_u64() > Some(0) {
                assert_eq!(versions[0]["version"], "v1");
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    seen.await.expect("the calls are counted");
    // Sessions begin before tools are called, whose time is measured.
    let timed = tokio::time::timeout(PATIENCE, async {
        loop {
            let table = serin.cli(&["health", "metrics", "tools"]).await;
            if table.contains(" ms") {
                break table;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let table = timed.await.expect("the time of calls is measured");
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("TIME") && lines[0].ends_with("RESTARTS"),
        "{table}"
    );
    assert!(
        lines[1].contains(" v1 ") && lines[1].contains(" ms"),
        "{table}"
    );

    let comparison = serin.cli(&["health", "compare", "tools"]).await;
    assert!(comparison.contains("\nerror_rate "), "{comparison}");
    assert!(
        comparison.contains("no rollout under way in the last"),
        "{comparison}"
    );
    assert_eq!(
        serin.cli(&["health", "issues", "tools"]).await,
        "nothing is wrong\n"
    );
    assert_eq!(
        serin.cli(&["health", "alerts", "tools"]).await,
        "no alerts\n"
    );
    let trends = serin.cli(&["health", "trends", "tools", "--json"]).await;
    assert!(serde_json::from_str::<Value>(&trends).unwrap().is_array());

    let refused = serin.refused(&["health", "issues", "toolz"]).await;
    assert!(refused.contains("there is no service `toolz`"), "{refused}");
    let refused = serin
        .run(&["health", "metrics", "tools", "--minutes", "0"])
        .await;
    assert_eq!(refused.status.code(), Some(2), "a wrong use");
    population.stop().await;
}
