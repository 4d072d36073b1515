//! `serin status` of a system that people use.

mod support;

use serde_json::Value;
use serin_testbed::sample::ToolSet;
use std::process::Stdio;
use support::{PATIENCE, Serin, command, sample, two_versions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_system_is_on_one_page() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    serin
        .cli(&["kill", "tool:tools/search", "--reason", "it fails", "--yes"])
        .await;
    let page = serin.cli(&["status"]).await;
    for part in [
        "serin ",
        " development ",
        "tools  mcp /mcp  ",
        " stable  0 calls and 0 streams open",
        " registered  ",
        "    healthy  ",
        &v1.url(),
        &v2.url(),
        "0, 0 off",
        "tool:tools/search since ",
        " by tester: it fails",
        " rows, ",
        " appends",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let json: Value = serde_json::from_str(&serin.cli(&["status", "--json"]).await).unwrap();
    let version = &json["services"][0]["versions"][0];
    assert_eq!(version["name"], "v1", "{json:#}");
    assert_eq!(version["endpoints"][0]["url"], v1.url(), "{json:#}");
    assert_eq!(version["endpoints"][0]["breaker_open"], false, "{json:#}");
    assert_eq!(json["services"][0]["traffic"].as_array().unwrap().len(), 10);
    assert_eq!(json["kills"][0]["target"], "tool:tools/search");

    let drain = ["drain", "tools", "v2", "--for", "0s", "--reason", "moves"];
    serin.cli(&drain).await;
    let page = serin.cli(&["status"]).await;
    let line = page.lines().find(|line| line.contains(&v2.url()));
    assert!(
        line.is_some_and(|line| line.contains("    drained  ")),
        "{page}"
    );
    let explained = serin.cli(&["route", "explain", "tools"]).await;
    let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        explained.contains("drained, and therefore not shown: version `v2`"),
        "{explained}"
    );

    let mut watch = command(folder.path())
        .args(["--admin", &serin.admin, "status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut times = Vec::new();
    for _ in 0..2 {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap();
        let picture: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        times.push(picture["at"].as_str().unwrap().to_owned());
    }
    assert!(times[0] < times[1], "{times:?}");
}
