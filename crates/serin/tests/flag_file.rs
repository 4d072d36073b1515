//! The file of flags: read at start, followed while Serin runs, and never partly taken.

mod support;

use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path};
use support::{PATIENCE, Serin};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const SERVICES: &str = "flags: { file: flags.json, poll: 200ms }\n\
    services:\n  tools: { protocol: mcp, path: /mcp, stable: v1, versions: { v1: { endpoints: [http://127.0.0.1:9/mcp] } } }\n";

fn document(state: &str) -> String {
    let flag =
        json!({"state": state, "variants": {"on": true, "off": false}, "defaultVariant": "on"});
    json!({"flags": {"new_search": flag}}).to_string()
}

/// Replaces a file as editors and package managers do.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

async fn is_on(serin: &Serin) -> bool {
    let said = serin.cli(&["flag", "eval", "new_search", "--json"]).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    said["value"] == true
}

async fn list(serin: &Serin) -> Value {
    serde_json::from_str(&serin.cli(&["flag", "list", "--json"]).await).unwrap()
}

async fn until(what: &str, serin: &Serin, is: impl AsyncFn(&Serin) -> bool) {
    let began = Instant::now();
    while !is(serin).await {
        assert!(began.elapsed() < PATIENCE, "{what}: {}", serin.log());
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn stale(serin: &Serin) -> Option<String> {
    list(serin).await["file"]["stale"]
        .as_str()
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_file_says_is_in_force_from_the_start_and_follows_it() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("flags.json");
    fs::write(&file, document("ENABLED")).unwrap();
    let serin = Serin::start(folder.path(), SERVICES).await;
    assert!(is_on(&serin).await);
    replace(&file, &document("DISABLED"));
    until("disabled by the file", &serin, async |s: &Serin| {
        !is_on(s).await
    })
    .await;
    // Half of a document changes nothing, and says so; the whole one does.
    replace(&file, &document("ENABLED")[..40]);
    until("stale", &serin, async |s: &Serin| stale(s).await.is_some()).await;
    assert!(!is_on(&serin).await);
    replace(&file, &document("ENABLED"));
    until("enabled by the file", &serin, async |s: &Serin| {
        is_on(s).await
    })
    .await;
    assert_eq!(stale(&serin).await, None);
    // A file that is gone takes nothing with it.
    fs::remove_file(&file).unwrap();
    until("stale", &serin, async |s: &Serin| stale(s).await.is_some()).await;
    assert!(is_on(&serin).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_at_the_start_leaves_what_was_read_before() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("flags.json");
    fs::write(&file, document("ENABLED")).unwrap();
    let serin = Serin::start(folder.path(), SERVICES).await;
    assert!(is_on(&serin).await);
    fs::write(&file, "{").unwrap();
    let serin = serin.kill_and_restart(folder.path()).await;
    assert!(is_on(&serin).await);
    assert!(stale(&serin).await.is_some());
    // A flag may say that it is off as long as its file cannot be read after a start.
    let mut careful: Value = serde_json::from_str(&document("ENABLED")).unwrap();
    careful["serin"] = json!({"flags": {"new_search": {"failMode": "off"}}});
    replace(&file, &careful.to_string());
    until("read again", &serin, async |s: &Serin| {
        stale(s).await.is_none()
    })
    .await;
    assert!(is_on(&serin).await);
    fs::write(&file, "{").unwrap();
    let serin = serin.kill_and_restart(folder.path()).await;
    assert!(!is_on(&serin).await);
    replace(&file, &careful.to_string());
    until("read again", &serin, async |s: &Serin| is_on(s).await).await;
    // Nothing was ever read: the flag is not there, which means off.
    let empty = TempDir::new().unwrap();
    fs::write(empty.path().join("flags.json"), "{").unwrap();
    let serin = Serin::start(empty.path(), SERVICES).await;
    let refused = serin.refused(&["flag", "eval", "new_search"]).await;
    assert!(refused.contains("no flag `new_search`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_links_of_a_config_map_are_followed_when_they_are_swapped() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, state) in [("..1", "DISABLED"), ("..2", "ENABLED")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("flags.json"), document(state)).unwrap();
    }
    // As the kubelet does: the file leads through `..data`, which is replaced by renaming another link over it.
    symlink("..1", at("..data")).unwrap();
    symlink("..data/flags.json", at("flags.json")).unwrap();
    let serin = Serin::start(folder.path(), SERVICES).await;
    assert!(!is_on(&serin).await);
    symlink("..2", at("..next")).unwrap();
    fs::rename(at("..next"), at("..data")).unwrap();
    until("enabled by the swap", &serin, async |s: &Serin| {
        is_on(s).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_by_hand_holds_until_the_author_of_the_file_speaks_again() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("flags.json");
    fs::write(&file, document("ENABLED")).unwrap();
    let serin = Serin::start(folder.path(), SERVICES).await;
    serin
        .cli(&[
            "flag",
            "set",
            "new_search",
            "--disable",
            "--reason",
            "incident 7",
        ])
        .await;
    assert!(!is_on(&serin).await);
    let serin = serin.kill_and_restart(folder.path()).await;
    assert!(!is_on(&serin).await);
    let mut owned: Value = serde_json::from_str(&document("ENABLED")).unwrap();
    owned["serin"] = json!({"flags": {"new_search": {"owner": "search-team"}}});
    replace(&file, &owned.to_string());
    until("enabled by its author", &serin, async |s: &Serin| {
        is_on(s).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_waits_for_a_release_is_taken_when_that_ends() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("flags.json");
    let document = |released: &str, other: &str| {
        let flag = |state: &str| json!({"state": state, "variants": {"on": true, "off": false}, "defaultVariant": "on"});
        json!({"flags": {"released": flag(released), "new_search": flag(other)}}).to_string()
    };
    fs::write(&file, document("DISABLED", "ENABLED")).unwrap();
    fs::write(
        folder.path().join("plan.yaml"),
        "phases: [{ share: 10 %, hold: 1h }, { share: 100 % }]\n",
    )
    .unwrap();
    let serin = Serin::start(folder.path(), SERVICES).await;
    serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--flag",
            "released",
            "--plan",
            "plan.yaml",
        ])
        .await;
    replace(&file, &document("ENABLED", "DISABLED"));
    until("stale", &serin, async |s: &Serin| stale(s).await.is_some()).await;
    let why = stale(&serin).await.unwrap();
    assert!(why.contains("`released` is under a rollout"), "{why}");
    assert!(is_on(&serin).await);
    serin
        .cli(&["rollout", "abort", "tools", "--reason", "enough"])
        .await;
    until("taken", &serin, async |s: &Serin| stale(s).await.is_none()).await;
    assert!(!is_on(&serin).await);
    // It waited without filling the log.
    assert_eq!(serin.log().matches("is not taken").count(), 1);
}
