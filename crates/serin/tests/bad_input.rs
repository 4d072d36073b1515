//! Bad input: each gets a clear refusal, and doing what the refusal says makes the problem go away.

mod support;

use reqwest::StatusCode;
use serde_json::{Value, json};
use serin_testbed::sample::{Running, ToolSet};
use std::{net::TcpListener, path::Path};
use support::{PATIENCE, Serin, run, sample, stderr, two_versions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const PLAN: &str =
    "phases: [{ share: 50 %, hold: 10h }, { share: 100 % }]\nevidence: trials 1000000\n";

struct World {
    folder: TempDir,
    serin: Serin,
    http: reqwest::Client,
    _samples: [Running; 2],
}

impl World {
    async fn begin() -> Self {
        let samples = [
            sample("v1", ToolSet::V1).await,
            sample("v2", ToolSet::V1).await,
        ];
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("plan.yaml"), PLAN).unwrap();
        let serin = Serin::start(
            folder.path(),
            &two_versions(&samples[0].url(), &samples[1].url()),
        )
        .await;
        Self {
            folder,
            serin,
            http: reqwest::Client::new(),
            _samples: samples,
        }
    }

    async fn post(
        &self,
        path: &str,
        session: Option<&str>,
        body: impl Into<String>,
    ) -> (StatusCode, String) {
        let mut request = self
            .http
            .post(self.serin.url(path))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25")
            .body(body.into());
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn initialize(&self) -> String {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
        let response = self
            .http
            .post(self.serin.url("/mcp"))
            .header("accept", "application/json, text/event-stream")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["mcp-session-id"]
            .to_str()
            .unwrap()
            .to_owned()
    }
}

/// The texts in backticks of the `help:` line.
fn suggestions(said: &str) -> Vec<String> {
    let help = said
        .split("help: ")
        .nth(1)
        .unwrap_or_else(|| panic!("no help in {said}"));
    help.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

async fn check(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = run(folder, &[&["check"], arguments].concat()).await;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(stderr(&output)),
        _ => panic!("{}: {}", output.status, stderr(&output)),
    }
}

#[tokio::test]
async fn malformed_yaml() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("serin.yaml");
    std::fs::write(
        &file,
        "gateway: { listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }\n",
    )
    .unwrap();
    let said = check(folder.path(), &[]).await.unwrap_err();
    assert!(
        said.contains("serin.yaml:2:6") && said.contains("brackets"),
        "{said}"
    );
    let refused = run(folder.path(), &["run"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("serin.yaml:2:6"),
        "{}",
        stderr(&refused)
    );
    // The bracket.
    std::fs::write(
        &file,
        "gateway: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\n",
    )
    .unwrap();
    check(folder.path(), &[]).await.unwrap();
}

/// They may be there where it runs, so they are warnings.
#[tokio::test]
async fn files_and_variables_that_are_not_here() {
    let folder = TempDir::new().unwrap();
    let file = "gateway: { listen: 127.0.0.1:0, tls: { cert: no.pem, key: no-key.pem } }\nlimiter: { redis: env:SERIN_TEST_NOT_SET }\n\
         services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions: { v1: { endpoints: [http://127.0.0.1:1/mcp] } }\n    \
         settings:\n      auth: serin\n      upstream: { credential: 'env:SERIN_TEST_NOT_SET_EITHER', ca: /no-ca.pem }\n      \
         jwt: { issuer: 'https://id.example/', audience: a, jwks: 'file:/no-jwks.json' }\napi: { v1: { service: toolz } }\n";
    std::fs::write(folder.path().join("serin.yaml"), file).unwrap();
    let checked = run(folder.path(), &["check"]).await;
    let said = stderr(&checked);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    for part in [
        "no.pem",
        "SERIN_TEST_NOT_SET is not set",
        "env:SERIN_TEST_NOT_SET_EITHER",
        "/no-ca.pem",
        "/no-jwks.json",
        "did you mean `tools`?",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn an_unknown_field() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("serin.yaml");
    let text = "gatway: { listen: 127.0.0.1:0 }\n";
    std::fs::write(&file, text).unwrap();
    let said = check(folder.path(), &[]).await.unwrap_err();
    assert!(
        said.contains("serin.yaml:1:1") && said.contains("`gatway`"),
        "{said}"
    );
    std::fs::write(&file, text.replace("gatway", &suggestions(&said)[0])).unwrap();
    check(folder.path(), &[]).await.unwrap();
}

#[tokio::test]
async fn a_plan_whose_shares_fall() {
    let world = World::begin().await;
    let file = world.folder.path().join("falls.yaml");
    let plan = |second: &str| {
        format!(
            "phases:\n  - {{ share: 20 %, hold: 1h }}\n  - {{ share: {second} %, hold: 1h }}\n  - {{ share: 100 % }}\n"
        )
    };
    std::fs::write(&file, plan("10")).unwrap();
    let said = check(world.folder.path(), &["--plan", "falls.yaml"])
        .await
        .unwrap_err();
    assert!(
        said.contains("10 % after 20 %") && said.contains("falls.yaml") && said.contains("rise"),
        "{said}"
    );
    let start = [
        "rollout",
        "start",
        "tools",
        "--to",
        "v2",
        "--plan",
        "falls.yaml",
    ];
    assert!(
        world
            .serin
            .refused(&start)
            .await
            .contains("10 % after 20 %")
    );
    // The server says so too, to those who ask it without the command line.
    let falls =
        json!({ "phases": [{ "share": "20 %", "hold": "1h" }, { "share": "10 %", "hold": "1h" }] });
    let body = json!({ "to": "v2", "plan": falls });
    let url = format!("{}/admin/v1/services/tools/rollout", world.serin.admin);
    let response = world
        .http
        .post(url)
        .bearer_auth(world.serin.token())
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem: Value = response.json().await.unwrap();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("phases[1].share"),
        "{problem}"
    );
    // Let them rise.
    std::fs::write(&file, plan("30")).unwrap();
    check(world.folder.path(), &["--plan", "falls.yaml"])
        .await
        .unwrap();
    world.serin.cli(&start).await;
}

#[tokio::test]
async fn a_version_that_does_not_exist() {
    let world = World::begin().await;
    let said = world
        .serin
        .refused(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v3",
            "--plan",
            "plan.yaml",
        ])
        .await;
    assert!(said.contains("no version `v3`"), "{said}");
    let known = said.split("the versions are: ").nth(1).unwrap().trim();
    let other = known.split(", ").last().unwrap();
    world
        .serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            other,
            "--plan",
            "plan.yaml",
        ])
        .await;
    let said = world
        .serin
        .refused(&["rollout", "start", "tool", "--to", "v2"])
        .await;
    assert!(said.contains("the services are: tools"), "{said}");
}

#[tokio::test]
async fn a_second_rollout() {
    let world = World::begin().await;
    let start = [
        "rollout",
        "start",
        "tools",
        "--to",
        "v2",
        "--plan",
        "plan.yaml",
    ];
    world.serin.cli(&start).await;
    let said = world.serin.refused(&start).await;
    assert!(said.contains("has a rollout to v2 under way"), "{said}");
    let command = suggestions(&said)[0].clone();
    let arguments: Vec<_> = command.strip_prefix("serin ").unwrap().split(' ').collect();
    world.serin.cli(&arguments).await;
    world.serin.cli(&start).await;
}

#[tokio::test]
async fn a_candidate_that_is_down() {
    let v1 = sample("v1", ToolSet::V1).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("plan.yaml"), PLAN).unwrap();
    let services = two_versions(&v1.url(), &format!("http://{address}/mcp"));
    let serin = Serin::start(folder.path(), &services).await;
    let start = [
        "rollout",
        "start",
        "tools",
        "--to",
        "v2",
        "--plan",
        "plan.yaml",
    ];
    let said = serin.refused(&start).await;
    assert!(
        said.contains(&address.to_string()) && said.contains("does not answer"),
        "{said}"
    );
    let command = suggestions(&said)[0].clone();
    let shown = serin
        .cli(
            &command
                .strip_prefix("serin ")
                .unwrap()
                .split(' ')
                .collect::<Vec<_>>(),
        )
        .await;
    assert!(shown.contains(&address.to_string()), "{shown}");
    // Mend it.
    let options = serin_testbed::sample::SampleOptions {
        listen: address,
        ..serin_testbed::sample::SampleOptions::new("v2", "v2", ToolSet::V1)
    };
    let _v2 = serin_testbed::sample::Sample::start(options).await.unwrap();
    serin.cli(&start).await;
}

/// Sends the head of a request whose body is of a length, and reads the answer. The body does not follow: who is still sending
/// when the other side has answered and closed may not get to read the answer.
async fn announce(gateway: &str, length: usize) -> String {
    let address = gateway.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.expect("it answers and closes").unwrap();
    answer
}

#[tokio::test]
async fn a_body_that_is_too_large() {
    let world = World::begin().await;
    let body = |bytes: usize| {
        let filler = "x".repeat(bytes);
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "filler": filler } })
            .to_string()
    };
    let session = world.initialize().await;
    let said = announce(&world.serin.gateway, 5 << 20).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    let limit: usize = said
        .split("larger than ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let (status, said) = world.post("/mcp", Some(&session), body(limit - 200)).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    // And to the admin API.
    let url = format!("{}/admin/v1/apply", world.serin.admin);
    let apply = |bytes: usize| {
        let request = world
            .http
            .post(&url)
            .bearer_auth(world.serin.token())
            .body(format!("# {}\n", "x".repeat(bytes)));
        async move {
            let response = request.send().await.unwrap();
            (response.status(), response.text().await.unwrap())
        }
    };
    let (status, said) = apply(2 << 20).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{said}");
    let limit: usize = said
        .split("more than ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let (status, said) = apply(limit - 10).await;
    assert_eq!(status, StatusCode::OK, "{said}");
}

#[tokio::test]
async fn invalid_json_rpc() {
    let world = World::begin().await;
    let session = world.initialize().await;
    for (bad, part) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"#, "not valid JSON"),
        (r#"{"id":1,"method":"ping"}"#, r#""jsonrpc" must be "2.0""#),
    ] {
        let (status, said) = world.post("/mcp", Some(&session), bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let error: Value = serde_json::from_str(&said).unwrap();
        assert!(
            error["error"]["message"].as_str().unwrap().contains(part),
            "{said}"
        );
    }
    let (status, said) = world
        .post(
            "/mcp",
            Some(&session),
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{said}");
    // And to the admin API: bad JSON says what and where.
    let url = format!("{}/admin/v1/services/tools/rollout", world.serin.admin);
    for (bad, part) in [
        ("{\"to\": \"v2\",\n nonsense}", "line 2 column 2"),
        ("{\"too\": \"v2\"}", "unknown field `too`, expected"),
    ] {
        let response = world
            .http
            .post(&url)
            .bearer_auth(world.serin.token())
            .body(bad)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let problem: Value = response.json().await.unwrap();
        assert!(
            problem["detail"].as_str().unwrap().contains(part),
            "{problem}"
        );
    }
}

#[tokio::test]
async fn a_forged_session_id() {
    let world = World::begin().await;
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
    let session = world.initialize().await;
    let mut forged = session.clone().into_bytes();
    let last = forged.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { b'A' };
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    for bad in ["forged", &String::from_utf8(forged).unwrap()] {
        let (status, said) = world.post("/mcp", Some(bad), list).await;
        assert_eq!(
            status,
            StatusCode::NOT_FOUND,
            "at which clients must initialize again"
        );
        assert!(said.contains("initialize again"), "{said}");
    }
    let session = world.initialize().await;
    let (status, said) = world.post("/mcp", Some(&session), list).await;
    assert_eq!(status, StatusCode::OK, "{said}");
}

#[tokio::test]
async fn an_unknown_path() {
    let world = World::begin().await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let session = world.initialize().await;
    let (status, said) = world.post("/mpc", Some(&session), ping).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(said.contains("`/mpc`"), "{said}");
    let served = said.split('`').nth(3).unwrap();
    let (status, said) = world.post(served, Some(&session), ping).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    // And on the admin API.
    let get = |path: String| {
        let request = world
            .http
            .get(format!("{}{path}", world.serin.admin))
            .bearer_auth(world.serin.token());
        async move {
            let response = request.send().await.unwrap();
            (response.status(), response.json::<Value>().await.unwrap())
        }
    };
    let (status, problem) = get("/admin/v1/service".to_owned()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let described = suggestions(&format!("help: {}", problem["help"].as_str().unwrap()))[0].clone();
    let (status, description) = get(described.strip_prefix("GET ").unwrap().to_owned()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(description["paths"]["/admin/v1/services"].is_object());
    assert_eq!(get("/admin/v1/services".to_owned()).await.0, StatusCode::OK);
}
