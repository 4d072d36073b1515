//! The commands, as processes.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// A server process that is killed when the test is done with it.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut process = testbed(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let url = line.trim().rsplit(' ').next().unwrap_or("").to_owned();
        Self { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn testbed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin-testbed"));
    command.args(arguments);
    command
}

#[test]
fn load_prints_json_and_populate_finds_nothing_wrong() {
    let upstream = Server::start(&["upstream"]);
    let load = ["load", "--url", &upstream.url, "--json", "--seconds", "0.2"];
    let load = testbed(&load).output().unwrap();
    assert!(load.status.success());
    let report: serde_json::Value = serde_json::from_slice(&load.stdout).unwrap();
    assert!(report["calls"].as_u64().unwrap() > 0);
    assert_eq!(report["errors"], 0);

    let sample = Server::start(&["sample", "--tools", "v2"]);
    let populate = ["populate", "--url", &sample.url, "--seconds", "0.5"];
    let populate = testbed(&populate).output().unwrap();
    assert!(populate.status.success());
    let lines = String::from_utf8(populate.stdout).unwrap();
    assert!(
        lines.contains(" 0 harmed, 0 gone, 0 moves, 0 mismatches"),
        "{lines}"
    );
}

#[test]
fn errors_name_their_cause() {
    let load = ["load", "--url", "http://127.0.0.1:1/mcp"];
    let load = testbed(&load).output().unwrap();
    assert_eq!(load.status.code(), Some(1));
    let error = String::from_utf8(load.stderr).unwrap();
    assert!(
        error.contains("cannot open a session: cannot connect to 127.0.0.1:1"),
        "{error}"
    );
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_sample_that_crashes_is_a_process_that_ends() {
    let mut sample = Server::start(&["sample", "--control"]);
    let site = sample.url.trim_end_matches("/mcp").to_owned();
    let http = reqwest::Client::new();
    let set = http
        .post(format!("{site}/faults"))
        .body(r#"{"kind": "crash", "target": "everything"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(set.status(), 200);
    http.get(format!("{site}/health")).send().await.unwrap_err();
    let status = tokio::task::spawn_blocking(move || sample.process.wait().unwrap());
    assert_eq!(status.await.unwrap().code(), Some(70));
}
