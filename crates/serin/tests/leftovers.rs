//! Nothing is left behind: no process, no port, no file but the store, however `serin run` ends.

mod support;

use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
};
use support::{Serin, processes, two_versions};
use tempfile::TempDir;

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// What may stay: what the store is made of, and what the test itself put there.
const KEPT: [&str; 11] = [
    "serin.yaml",
    "serin.log",
    "serin.db",
    "serin.blocks.db",
    "serin.keys",
    "serin.db.token",
    "kept",
    "serin.kills",
    "serin.db.flags-token",
    "serin.audit.db",
    "serin.signing",
];

async fn ends(signal: Signal, code: Option<i32>, arguments: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let services = two_versions("http://127.0.0.1:9/mcp", "http://127.0.0.1:9/mcp2");
    let serin = Serin::start_with(
        folder.path(),
        &services,
        "127.0.0.1:0",
        "socket: admin.sock",
        arguments,
    )
    .await
    .unwrap();
    let address = serin.gateway.trim_start_matches("http://").to_owned();
    assert!(folder.path().join("admin.sock").exists());
    assert!(
        !processes(folder.path()).is_empty(),
        "the test can see the process"
    );
    let status = serin.end_by(signal).await;
    assert_eq!(status.code(), code, "{status}");
    assert_eq!(processes(folder.path()), Vec::<PathBuf>::new());
    TcpListener::bind(&address).expect("the port is free again");
    folder
}

fn only_the_store_is_left(folder: &Path) {
    let kept = KEPT.map(|name| folder.join(name));
    let odd: Vec<_> = files(folder)
        .into_iter()
        .filter(|path| !kept.contains(path))
        .collect();
    assert_eq!(odd, Vec::<PathBuf>::new());
}

#[tokio::test]
async fn after_an_interrupt() {
    only_the_store_is_left(ends(Signal::INT, Some(0), &[]).await.path());
}

#[tokio::test]
async fn after_a_request_to_terminate() {
    only_the_store_is_left(ends(Signal::TERM, Some(0), &[]).await.path());
}

#[tokio::test]
async fn after_a_panic() {
    let folder = ends(Signal::USR2, Some(1), &["--panic-on-usr2"]).await;
    only_the_store_is_left(folder.path());
    let log = std::fs::read_to_string(folder.path().join("serin.log")).unwrap();
    assert!(
        log.contains("asked to panic") && log.contains("a thread panicked"),
        "{log}"
    );
}

#[tokio::test]
async fn what_a_kill_leaves_the_next_start_takes_over() {
    let folder = ends(Signal::KILL, None, &[]).await;
    assert!(
        folder.path().join("admin.sock").exists(),
        "nobody can tidy up after a kill"
    );
    let services = std::fs::read_to_string(folder.path().join("serin.yaml")).unwrap();
    let services = &services[services.find("services:").unwrap()..];
    let serin = Serin::start_with(
        folder.path(),
        services,
        "127.0.0.1:0",
        "socket: admin.sock",
        &[],
    )
    .await
    .unwrap();
    assert!(serin.cli(&["service", "list"]).await.contains("tools"));
    assert_eq!(serin.end_by(Signal::TERM).await.code(), Some(0));
    only_the_store_is_left(folder.path());
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = TempDir::new().unwrap();
    let said = Serin::start_with(folder.path(), "", &address, "socket: admin.sock", &[])
        .await
        .err()
        .unwrap();
    assert!(
        said.contains(&address) && said.contains("gateway.listen"),
        "{said}"
    );
    assert_eq!(
        files(folder.path()),
        ["serin.log", "serin.yaml"]
            .map(|name| folder.path().join(name))
            .into()
    );
    // What the message says to do: free the port.
    drop(taken);
    Serin::start_with(folder.path(), "", &address, "socket: admin.sock", &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn lost_sealing_keys_are_not_replaced_unasked() {
    let folder = ends(Signal::TERM, Some(0), &[]).await;
    std::fs::remove_file(folder.path().join("serin.keys")).unwrap();
    let said = Serin::start_with(folder.path(), "", "127.0.0.1:0", "socket: admin.sock", &[])
        .await
        .err()
        .unwrap();
    assert!(said.contains("--new-keys"), "{said}");
    let arguments = ["--new-keys"];
    Serin::start_with(
        folder.path(),
        "",
        "127.0.0.1:0",
        "socket: admin.sock",
        &arguments,
    )
    .await
    .unwrap();
    assert!(folder.path().join("serin.keys").exists());
}
