//! REST in front of small servers of both eras.

use crate::{kills::Switchboard, support::*};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use serin_model::{
    api::ApiSpec,
    observe::{Outcome, Rejection},
    snapshot::ServiceRoute,
};
use serin_route::{standing::OnFailure, weigh::Balance};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What a test server speaks.
#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Modern,
    Legacy,
}

const BOTH: [Speaks; 2] = [Speaks::Modern, Speaks::Legacy];

/// A server of one era whose tool `add` answers with `answers(arguments)`: the members of the message beside its id.
async fn server(
    name: &'static str,
    speaks: Speaks,
    answers: impl Fn(&Value) -> String + Send + Sync + 'static,
) -> Server {
    let sessions = AtomicUsize::new(0);
    Server::answering(move |seen| {
        let body = seen.json();
        let id = &body["id"];
        let version = seen.header("mcp-protocol-version").unwrap_or_default();
        let answer = |members: String| json(format!(r#"{{"jsonrpc":"2.0","id":{id},{members}}}"#));
        if speaks == Speaks::Legacy && version == "2026-07-28" {
            return reply(400, &[], "Bad Request: Unsupported protocol version");
        }
        if speaks == Speaks::Modern && version != "2026-07-28" {
            return reply(400, &[], "no sessions here");
        }
        if seen.method == "DELETE" {
            return reply(200, &[], "");
        }
        let known = format!("{name}-{}", sessions.load(Relaxed));
        match body["method"].as_str().unwrap_or_default() {
            "server/discover" => answer(r#""result":{"supportedVersions":["2026-07-28"]}"#.into()),
            "initialize" => {
                let session = format!("{name}-{}", sessions.fetch_add(1, Relaxed) + 1);
                let result = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}"#;
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                let headers = [("content-type", "application/json"), ("mcp-session-id", &*session)];
                reply(200, &headers, text)
            }
            _ if speaks == Speaks::Legacy && seen.header("mcp-session-id").is_none() => {
                reply(400, &[], format!("no session, want {known}"))
            }
            _ if id.is_null() => reply(202, &[], ""),
            "tools/list" => {
                let page = |tools: Value, next: Option<&str>| {
                    let mut result = json!({ "tools": tools });
                    if let Some(next) = next {
                        result["nextCursor"] = next.into();
                    }
                    answer(format!("\"result\":{result}"))
                };
                let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object", "properties": { "a": { "type": "number" } } } });
                match body["params"]["cursor"].as_str() {
                    None => page(json!([tool("add"), tool("greet")]), Some("two")),
                    Some("two") => page(json!([tool("secret")]), None),
                    Some(other) => answer(format!(r#""error":{{"code":-32602,"message":"cursor {other}"}}"#)),
                }
            }
            "tools/call" => answer(answers(&body["params"]["arguments"])),
            method => answer(format!(r#""error":{{"code":-32601,"message":"{method}"}}"#)),
        }
    })
    .await
}

/// Says its name and what it was given.
fn echo(name: &'static str) -> impl Fn(&Value) -> String + Send + Sync + 'static {
    move |arguments| {
        let text = arguments.to_string();
        let result = json!({ "content": [{ "type": "text", "text": name }], "structuredContent": { "given": text } });
        format!("\"result\":{result}")
    }
}

pub(crate) fn spec(tools: &[&str]) -> ApiSpec {
    ApiSpec {
        service: "tools".parse().unwrap(),
        tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
        announced: None,
        deprecated: None,
        sunset: None,
        guide: None,
    }
}

fn run(services: Vec<ServiceRoute>) -> Running {
    let running = Running::start(services.clone());
    running.swap_api(services, &[(1, spec(&["add", "gr*"])), (2, spec(&[]))]);
    running
}

async fn call(client: &mut Client, path: &str, body: impl Into<Bytes>) -> Answer {
    let headers = [("content-type", "application/json")];
    client.ask("POST", path, &headers, body).await
}

fn names(answer: &Answer) -> Vec<String> {
    let tools = answer.json()["tools"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let name = |tool: Value| tool["name"].as_str().unwrap().to_owned();
    tools.into_iter().map(name).collect()
}

#[tokio::test]
async fn tools_are_listed_shown_and_called_in_both_eras() {
    for speaks in BOTH {
        let server = server("one", speaks, echo("one")).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        let listed = client.get("/api/tools").await;
        assert_eq!(listed.status, 200, "{}", listed.text());
        assert_eq!(names(&listed), ["add", "greet", "secret"]);
        assert_eq!(listed.version(), "v1");
        assert_eq!(listed.header("x-canary"), Some("false"));
        assert_eq!(listed.header("content-type"), Some("application/json"));
        let shown = client.get("/api/tools/secret").await;
        assert_eq!(shown.json()["inputSchema"]["type"], "object");
        let called = call(
            &mut client,
            "/api/tool",
            r#"{"tool":"add","args":{"a":1.50}}"#,
        )
        .await;
        assert_eq!(called.status, 200, "{}", called.text());
        let result = &called.json()["result"];
        assert_eq!(result["content"][0]["text"], "one");
        // As it was written, to the last digit.
        assert_eq!(result["structuredContent"]["given"], r#"{"a":1.5}"#);
        assert!(server.last().text().contains("1.50"));
        let without = call(&mut client, "/api/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(without.json()["result"]["structuredContent"]["given"], "{}");
    }
}

#[tokio::test]
async fn a_modern_endpoint_is_asked_in_one_request() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    for _ in 0..3 {
        let called = call(&mut client, "/v2/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(called.status, 200, "{}", called.text());
    }
    assert_eq!(server.count("server/discover"), 1, "it is remembered");
    assert_eq!(server.seen().len(), 4);
    let seen = server.last();
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-name"), Some("add"));
    let meta = &seen.json()["params"]["_meta"];
    assert_eq!(
        meta["io.modelcontextprotocol/protocolVersion"],
        "2026-07-28"
    );
    assert_eq!(
        meta["io.modelcontextprotocol/clientCapabilities"],
        json!({})
    );
}

#[tokio::test]
async fn a_caller_keeps_a_legacy_session_that_is_begun_anew_when_it_is_lost() {
    let lost = Arc::new(Mutex::new(false));
    let is_lost = lost.clone();
    let known = Mutex::new(0);
    let server = Server::answering(move |seen| {
        let (body, mut known) = (seen.json(), known.lock().unwrap());
        let id = &body["id"];
        match body["method"].as_str().unwrap_or_default() {
            "initialize" => {
                *known += 1;
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"x","version":"1"}}}}}}"#);
                let session = format!("s{known}");
                let headers = [("content-type", "application/json"), ("mcp-session-id", &*session)];
                reply(200, &headers, text)
            }
            _ if seen.header("mcp-session-id").is_none() => reply(400, &[], "no session"),
            "notifications/initialized" => reply(202, &[], ""),
            // So large that it is not read: it may answer the call, which is not sent again.
            _ if std::mem::take(&mut *is_lost.lock().unwrap()) => reply(404, &[], vec![b' '; 100_000]),
            _ => json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)),
        }
    })
    .await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let mut called = async |key: &str| {
        let headers = [("content-type", "application/json"), ("authorization", key)];
        let body = r#"{"tool":"add"}"#;
        client.ask("POST", "/api/tool", &headers, body).await.status
    };
    assert_eq!(called("Bearer a").await, 200);
    assert_eq!(called("Bearer a").await, 200);
    assert_eq!(server.count("initialize"), 1);
    assert_eq!(called("Bearer b").await, 200);
    assert_eq!(
        server.count("initialize"),
        2,
        "another caller has another one"
    );
    *lost.lock().unwrap() = true;
    assert_eq!(called("Bearer a").await, 502);
    assert_eq!(called("Bearer a").await, 200);
    assert_eq!(server.count("initialize"), 3);
    let calls: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.rpc_method() == "tools/call")
        .collect();
    let last = calls.last().unwrap();
    assert_eq!(last.header("mcp-session-id"), Some("s3"));
    assert_eq!(last.header("authorization"), Some("Bearer a"));
    assert_eq!(last.header("mcp-protocol-version"), Some("2025-11-25"));
}

#[tokio::test]
async fn a_404_that_answers_a_call_is_no_lost_session() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let server = Server::answering(move |seen| {
        let body = seen.json();
        let id = &body["id"];
        if seen.header("mcp-protocol-version") == Some("2026-07-28") {
            return reply(400, &[], "Unsupported protocol version");
        }
        let of_json = ("content-type", "application/json");
        match seen.rpc_method().as_str() {
            "initialize" => {
                let result = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}"#;
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                reply(200, &[of_json, ("mcp-session-id", "s")], text)
            }
            "tools/call" if count.fetch_add(1, Relaxed) == 0 => {
                json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#))
            }
            "tools/call" => {
                let error = r#"{"code":-1,"message":"booked, but there is no receipt"}"#;
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
                reply(404, &[of_json], text)
            }
            _ => reply(202, &[], ""),
        }
    })
    .await;
    let gateway = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    for number in 1..3 {
        let answer = call(&mut client, "/v1/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(answer.status == 200, number == 1, "{}", answer.text());
        assert_eq!(calls.load(Relaxed), number, "sent once");
    }
    assert_eq!(server.count("initialize"), 1);
}

#[tokio::test]
async fn calls_take_turns_at_the_endpoints() {
    let names = |name| server(name, Speaks::Modern, echo(name));
    let (a, b) = (names("a").await, names("b").await);
    let mut tools = service(&[build("v1", &[&a, &b])], None);
    tools.versions[0].balance = Balance::RoundRobin;
    let gateway = run(vec![tools]);
    let mut client = gateway.client().await;
    for _ in 0..20 {
        let answer = call(&mut client, "/v1/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Each is asked once what it speaks, which takes a turn.
    let counts = [a.count("tools/call"), b.count("tools/call")];
    assert!(counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
}

#[tokio::test]
async fn who_keeps_no_cookies_keeps_a_session() {
    let server = server("one", Speaks::Legacy, echo("one")).await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.affinity = serde_json::from_str(r#"[{"cookie": {"name": "at"}}]"#).unwrap();
    let gateway = run(vec![tools]);
    let mut client = gateway.client().await;
    for _ in 0..5 {
        let answer = call(&mut client, "/v1/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(server.count("initialize"), 1);
}

#[tokio::test]
async fn a_session_from_while_its_version_was_killed_is_that_of_stable() {
    for speaks in BOTH {
        let one = server("one", speaks, echo("one")).await;
        let two = server("two", speaks, echo("two")).await;
        let builds = [build("v1", &[&one]), build("v2", &[&two])];
        let services = vec![service(&builds, Some(100.0))];
        let board = Switchboard::default();
        let gateway = board.start(services.clone());
        gateway.swap_api(services, &[(1, spec(&[]))]);
        let mut client = gateway.client().await;
        board.kill("version:tools/v2");
        let killed = call(&mut client, "/v1/tool", r#"{"tool":"add"}"#).await;
        board.revive("version:tools/v2");
        let revived = call(&mut client, "/v1/tool", r#"{"tool":"add"}"#).await;
        assert!(killed.text().contains("one"), "{}", killed.text());
        assert!(revived.text().contains("two"), "{}", revived.text());
    }
}

#[tokio::test]
async fn what_is_refused_over_rest_for_want_of_an_endpoint_counts_against_the_version() {
    let good = server("good", Speaks::Modern, echo("good")).await;
    let is_down = Arc::new(AtomicUsize::new(0));
    let down = is_down.clone();
    let candidate = Server::answering(move |seen| {
        let id = &seen.json()["id"];
        let result = r#"{"supportedVersions":["2026-07-28"],"content":[]}"#;
        match down.load(Relaxed) {
            0 => json(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
            )),
            _ => reply(503, &[], ""),
        }
    })
    .await;
    let builds = [build("v1", &[&good]), build("v2", &[&candidate])];
    let mut tools = service(&builds, Some(100.0));
    tools.settings.on_failure = OnFailure::FailClosed;
    tools.settings.breaker.failures = 1;
    let mut gateway = run(vec![tools]);
    let mut client = gateway.client().await;
    let add = r#"{"tool":"add"}"#;
    assert_eq!(call(&mut client, "/v2/tool", add).await.status, 200);
    is_down.store(1, Relaxed);
    for _ in 0..3 {
        let answer = call(&mut client, "/v2/tool", add).await;
        assert!(answer.status >= 500, "{}", answer.text());
    }
    let observed = &mut gateway.observed;
    observed.outcome("v2", "add", Outcome::Http5xx, 1).await;
    observed.outcome("v2", "add", Outcome::Transport, 2).await;
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_ended() {
    let server = server("one", Speaks::Legacy, echo("one")).await;
    let services = vec![service(&[build("v1", &[&server])], None)];
    let change = |options: &mut serin_gateway::Options| options.rest_idle = Duration::ZERO;
    let running = Running::with(
        services.clone(),
        serin_gateway::Keyring::ephemeral().unwrap(),
        change,
    );
    running.swap_api(services, &[(1, spec(&[]))]);
    let mut client = running.client().await;
    assert_eq!(
        call(&mut client, "/v1/tool", r#"{"tool":"add"}"#)
            .await
            .status,
        200
    );
    let ended = async {
        while server.last().method != "DELETE" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(ended).await;
    assert_eq!(server.last().header("mcp-session-id"), Some("one-1"));
}

#[tokio::test]
async fn a_version_has_its_own_tools_only() {
    for speaks in BOTH {
        let server = server("one", speaks, echo("one")).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        assert_eq!(names(&client.get("/v1/tools").await), ["add", "greet"]);
        assert_eq!(
            names(&client.get("/v2/tools").await),
            ["add", "greet", "secret"]
        );
        assert_eq!(client.get("/v1/tools/secret").await.status, 404);
        assert_eq!(client.get("/v2/tools/secret").await.status, 200);
        let secret = r#"{"tool":"secret"}"#;
        let before = server.count("tools/call");
        let refused = call(&mut client, "/v1/tool", secret).await;
        assert_eq!(refused.status, 404);
        assert_eq!(
            refused.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(refused.json()["tool"], "secret");
        assert_eq!(server.count("tools/call"), before, "nobody was asked");
        assert_eq!(call(&mut client, "/v2/tool", secret).await.status, 200);
        assert_eq!(
            call(&mut client, "/v1/tool", r#"{"tool":"greet"}"#)
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn json_rpc_at_a_version_has_its_own_tools_only() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let mut ask = async |path: &str, kind: &str, method: &str, params: &str, name: &str| {
        let mut headers = vec![
            ("content-type", kind),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        headers.extend((!name.is_empty()).then_some(("mcp-name", name)));
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
        );
        client.ask("POST", path, &headers, body).await
    };
    let listed = ask(
        "/v1",
        "application/json-rpc",
        "tools/list",
        r#""cursor":"two","#,
        "",
    )
    .await;
    assert_eq!(
        listed.json()["result"]["tools"],
        json!([]),
        "{}",
        listed.text()
    );
    assert_eq!(
        server.last().header("content-type"),
        Some("application/json")
    );
    let call = r#""name":"secret","arguments":{},"#;
    let hidden = ask("/v1", "application/json", "tools/call", call, "secret").await;
    assert_eq!(hidden.json()["error"]["code"], -32602, "{}", hidden.text());
    for path in ["/v2", "/mcp"] {
        let called = ask(path, "application/json", "tools/call", call, "secret").await;
        assert_eq!(
            called.json()["result"]["content"][0]["text"],
            "one",
            "{path}"
        );
    }
    let wrong = ask("/v1", "text/plain", "tools/list", "", "").await;
    assert_eq!(wrong.status, 415);
}

#[tokio::test]
async fn errors_have_a_status_of_their_own() {
    for (members, status, kind) in [
        (
            r#""result":{"isError":true,"content":[{"type":"text","text":"the database is gone"}]}"#,
            502,
            "tool_failed",
        ),
        (
            r#""result":{"isError":true,"content":[{"type":"text","text":"Input validation error: 'a' is a required property"}]}"#,
            422,
            "called_badly",
        ),
        (
            r#""error":{"code":-32602,"message":"a is missing"}"#,
            400,
            "invalid_arguments",
        ),
        (
            r#""error":{"code":-32603,"message":"oh"}"#,
            502,
            "tool_failed",
        ),
        (
            r#""error":{"code":-32042,"message":"go to","data":{}}"#,
            422,
            "needs_mcp_client",
        ),
        (
            r#""result":{"resultType":"input_required","inputRequests":{}}"#,
            422,
            "needs_mcp_client",
        ),
        (r#""nothing":1"#, 502, "bad_answer"),
    ] {
        for speaks in BOTH {
            let server = server("one", speaks, move |_| members.to_owned()).await;
            let running = run(vec![service(&[build("v1", &[&server])], None)]);
            let mut client = running.client().await;
            let answer = call(&mut client, "/api/tool", r#"{"tool":"add"}"#).await;
            let problem = answer.json();
            assert_eq!(answer.status, status, "{members}: {problem}");
            assert_eq!(problem["status"], status);
            assert_eq!(
                problem["type"],
                format!("urn:serin:problem:{kind}"),
                "{members}"
            );
            assert_eq!(problem["tool"], "add");
            assert_eq!(answer.version(), "v1");
        }
    }
}

#[tokio::test]
async fn a_tool_that_the_version_does_not_list_is_not_found() {
    let error = r#""error":{"code":-32602,"message":"what?"}"#;
    let server = server("one", Speaks::Modern, move |_| error.to_owned()).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let known = call(&mut client, "/v2/tool", r#"{"tool":"add"}"#).await;
    assert_eq!(known.status, 400);
    let unknown = call(&mut client, "/v2/tool", r#"{"tool":"nope"}"#).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    assert_eq!(unknown.json()["error"]["message"], "what?");
}

#[tokio::test]
async fn what_a_server_says_in_http_is_said_on_where_it_concerns_the_caller() {
    for (status, want) in [
        (401, 401),
        (403, 403),
        (404, 502),
        (429, 429),
        (500, 502),
        (503, 503),
    ] {
        let server = Server::answering(move |seen| {
            if seen.rpc_method() == "server/discover" {
                return json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
            }
            let headers = [("www-authenticate", "Bearer"), ("retry-after", "7")];
            reply(status, &headers, "said so")
        })
        .await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        let answer = call(&mut client, "/api/tool", r#"{"tool":"add"}"#).await;
        assert_eq!(answer.status, want, "{status}: {}", answer.text());
        assert_eq!(answer.json()["detail"], "said so");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
}

#[tokio::test]
async fn bodies_are_checked_before_anybody_is_asked() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.body_bytes_max = 10_000;
    let mut running = run(vec![tools]);
    let mut client = running.client().await;
    let deep = format!(
        r#"{{"tool":"add","args":{}1{}}}"#,
        "{\"a\":".repeat(1000),
        "}".repeat(1000)
    );
    let large = format!(
        r#"{{"tool":"add","args":{{"a":"{}"}}}}"#,
        "x".repeat(10_000)
    );
    for (body, status, detail) in [
        ("", 400, "cannot be read"),
        ("{", 400, "cannot be read"),
        ("[]", 400, "cannot be read"),
        (r#"{"args":{}}"#, 400, "missing field `tool`"),
        (
            r#"{"tool":"add","arguments":{}}"#,
            400,
            "unknown field `arguments`",
        ),
        (
            r#"{"tool":"add","tool":"greet"}"#,
            400,
            "duplicate field `tool`",
        ),
        (r#"{"tool":7}"#, 400, "cannot be read"),
        (r#"{"tool":""}"#, 400, "name of 1 to"),
        (r#"{"tool":"add","args":[1]}"#, 400, "not an object"),
        (r#"{"tool":"add","args":"x"}"#, 400, "not an object"),
        (&deep, 400, "nest"),
        (&large, 413, "larger than 10000 bytes"),
    ] {
        let answer = call(&mut client, "/api/tool", body.to_owned()).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        let problem = answer.json();
        assert!(
            problem["detail"].as_str().unwrap().contains(detail),
            "{shown}: {problem}"
        );
    }
    assert_eq!(server.count("tools/call"), 0);
    running.observed.rejection(Rejection::Body, 12).await;
}

#[tokio::test]
async fn a_body_of_another_type_is_refused_with_what_to_do() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let body = r#"{"tool":"add"}"#;
    for (kind, help) in [
        (Some("application/x-www-form-urlencoded"), "`curl -d`"),
        (Some("application/json-rpc"), "MCP at `/v2`"),
        (Some("text/plain"), "`application/json-rpc`"),
        (None, "`Content-Type: application/json`"),
    ] {
        let headers: Vec<_> = kind
            .into_iter()
            .map(|kind| ("content-type", kind))
            .collect();
        let answer = client.ask("POST", "/api/tool", &headers, body).await;
        assert_eq!(answer.status, 415, "{kind:?}");
        assert!(
            answer.json()["help"].as_str().unwrap().contains(help),
            "{}",
            answer.text()
        );
    }
    let headers = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(
        client.ask("POST", "/api/tool", &headers, body).await.status,
        200
    );
    // Only a body has a type.
    let headers = [("content-type", "text/plain")];
    assert_eq!(
        client.ask("GET", "/api/tools", &headers, "").await.status,
        200
    );
}

#[tokio::test]
async fn methods_and_paths_that_there_are_not_are_said() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    for (method, path, status, allow) in [
        ("POST", "/api/tools", 405, Some("GET, HEAD")),
        ("GET", "/api/tool", 405, Some("POST")),
        ("DELETE", "/v1/tools/add", 405, Some("GET, HEAD")),
        ("HEAD", "/api/tools", 200, None),
        ("GET", "/api", 404, None),
        ("GET", "/api/other", 404, None),
        ("GET", "/v7/tools", 400, None),
        ("GET", "/v7", 400, None),
        ("GET", "/v0/tools", 404, None),
    ] {
        let answer = client.ask(method, path, &[], "").await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (status, allow),
            "{method} {path}"
        );
    }
    let unknown = client.get("/v7/tools").await.json();
    assert_eq!(unknown["error"], "Unsupported API version");
    assert_eq!(unknown["supported_versions"], json!([1, 2]));
    let health = client.get("/api/health").await;
    assert_eq!(health.json()["status"], "ok");
}

#[tokio::test]
async fn services_keep_the_longer_path() {
    let [server, other] = [
        server("one", Speaks::Modern, echo("one")).await,
        Server::answering(|seen| reply(200, &[], seen.path.clone())).await,
    ];
    let tools = service(&[build("v1", &[&server])], None);
    let plain = |name: &str, path: &str| {
        let mut plain = service(&[build("v1", &[&other])], None);
        plain.name = name.parse().unwrap();
        plain.protocol = serin_model::service::Protocol::Http;
        plain.path = path.into();
        plain
    };
    let running = run(vec![plain("other", "/api/other"), tools, plain("root", "")]);
    let mut client = running.client().await;
    for (path, want) in [
        ("/api/other/x", "/mcp/x"),
        ("/v7/x", "/mcp/v7/x"),
        ("/x", "/mcp/x"),
    ] {
        assert_eq!(client.get(path).await.text(), want, "{path}");
    }
    assert_eq!(names(&client.get("/api/tools").await).len(), 3);
    assert_eq!(client.get("/v1/x").await.status, 404);
}

#[tokio::test]
async fn a_version_that_ends_says_so_and_is_gone_then() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let services = vec![service(&[build("v1", &[&server])], None)];
    let running = Running::start(services.clone());
    let dated = |deprecated: &str, sunset: &str| ApiSpec {
        deprecated: Some(deprecated.parse().unwrap()),
        sunset: Some(sunset.parse().unwrap()),
        guide: Some("https://docs.example/v3".into()),
        ..spec(&[])
    };
    let versions = [
        (1, dated("2020-01-01", "2020-06-01")),
        (2, dated("2020-01-01", "2999-12-31")),
        (3, spec(&[])),
    ];
    running.swap_api(services, &versions);
    let mut client = running.client().await;
    let ending = client.get("/v2/tools").await;
    assert_eq!(ending.status, 200);
    assert_eq!(ending.header("deprecation"), Some("@1577836800"));
    assert_eq!(
        ending.header("sunset"),
        Some("Tue, 31 Dec 2999 00:00:00 GMT")
    );
    let links: Vec<_> = ending
        .headers
        .get_all("link")
        .iter()
        .map(|link| link.to_str().unwrap())
        .collect();
    assert_eq!(
        links,
        [
            "<https://docs.example/v3>; rel=\"deprecation\"",
            "<https://docs.example/v3>; rel=\"sunset\"",
            "</v3/tools>; rel=\"successor-version\"",
        ]
    );
    // Refusals say it too.
    let refused = call(&mut client, "/v2/tool", "{").await;
    assert_eq!(
        (refused.status, refused.header("deprecation")),
        (400, Some("@1577836800"))
    );
    let gone = client.get("/v1/tools").await;
    assert_eq!(gone.status, 410);
    assert!(
        gone.json()["help"]
            .as_str()
            .unwrap()
            .contains("https://docs.example/v3")
    );
    assert_eq!(gone.json()["supported_versions"], json!([2, 3]));
    assert_eq!(gone.header("sunset"), Some("Mon, 01 Jun 2020 00:00:00 GMT"));
    let headers = [("content-type", "application/json")];
    assert_eq!(client.ask("POST", "/v1", &headers, CALL).await.status, 410);
    let newest = client.get("/api/tools").await;
    assert_eq!((newest.status, newest.header("sunset")), (200, None));
}

#[tokio::test]
async fn rest_and_mcp_callers_of_one_key_have_one_version() {
    for speaks in BOTH {
        let [one, two] = [
            server("one", speaks, echo("one")).await,
            server("two", speaks, echo("two")).await,
        ];
        let running = run(vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(50.0),
        )]);
        let mut client = running.client().await;
        let mut versions = vec![];
        for number in 0..12 {
            let key = format!("Bearer key-{number}");
            let headers = [
                ("content-type", "application/json"),
                ("authorization", &*key),
            ];
            let rest = client
                .ask("POST", "/api/tool", &headers, r#"{"tool":"add"}"#)
                .await;
            let name = rest.json()["result"]["content"][0]["text"].clone();
            assert_eq!(name, if rest.version() == "v1" { "one" } else { "two" });
            assert_eq!(
                rest.header("x-canary"),
                Some(if name == "two" { "true" } else { "false" })
            );
            if speaks == Speaks::Modern {
                let mcp = client
                    .modern(
                        "tools/call",
                        Some("add"),
                        &[("authorization", &key)],
                        r#"{"name":"add"}"#,
                    )
                    .await;
                assert_eq!(mcp.version(), rest.version(), "{key}");
            }
            let again = client.ask("GET", "/api/tools", &headers[1..], "").await;
            assert_eq!(again.version(), rest.version());
            versions.push(rest.version().to_owned());
        }
        versions.sort();
        versions.dedup();
        assert_eq!(versions, ["v1", "v2"]);
    }
}

#[tokio::test]
async fn a_call_is_counted_as_one_of_its_tool() {
    let server = server("one", Speaks::Legacy, echo("one")).await;
    let mut running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    for _ in 0..3 {
        call(&mut client, "/api/tool", r#"{"tool":"add"}"#).await;
    }
    running.observed.outcome("v1", "add", Outcome::Ok, 3).await;
}

/// A server whose calls are answered by events that the test sends.
async fn streaming(speaks: Speaks) -> (Server, Arc<Mutex<Vec<(Pieces, Value)>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let held = calls.clone();
    let answers = Server::answering(move |seen| {
        let body = seen.json();
        let id = &body["id"];
        let version = seen.header("mcp-protocol-version").unwrap_or_default();
        if speaks == Speaks::Legacy && version == "2026-07-28" {
            return reply(400, &[], "");
        }
        match body["method"].as_str().unwrap_or_default() {
            "server/discover" => json(format!(r#"{{"id":{id},"result":{{}}}}"#)),
            "initialize" => json(format!(
                r#"{{"id":{id},"result":{{"protocolVersion":"2025-11-25"}}}}"#
            )),
            "tools/call" => {
                let (pieces, reply) = pieces("text/event-stream");
                held.lock().unwrap().push((pieces, body));
                reply
            }
            _ => reply(202, &[], ""),
        }
    })
    .await;
    (answers, calls)
}

async fn taken(calls: &Mutex<Vec<(Pieces, Value)>>) -> (Pieces, Value) {
    let next = async {
        loop {
            if let Some(call) = calls.lock().unwrap().pop() {
                return call;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(next).await
}

const STREAM: [(&str, &str); 2] = [
    ("content-type", "application/json"),
    ("accept", "text/event-stream"),
];

#[tokio::test]
async fn progress_streams_as_events_and_then_the_result() {
    for speaks in BOTH {
        let (server, calls) = streaming(speaks).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        let answering = tokio::spawn(async move {
            let mut response = client
                .begin("POST", "/api/tool", &STREAM, r#"{"tool":"add"}"#)
                .await;
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            assert_eq!(response.headers()["x-serin-version"], "v1");
            let first = soon(response.body_mut().frame()).await.unwrap().unwrap();
            (response, first.into_data().unwrap())
        });
        let (pieces, asked) = taken(&calls).await;
        let token = &asked["params"]["_meta"]["progressToken"];
        assert!(token.is_u64(), "{asked}");
        let note = format!(
            "id: 1\ndata:\n\ndata: {{\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\"progress\":1}}}}\n\n"
        );
        pieces.send(piece(&note)).unwrap();
        // It comes before there is a result.
        let (response, first) = soon(answering).await.unwrap();
        let first = String::from_utf8(first.to_vec()).unwrap();
        assert!(
            first == "event: progress\ndata: {\"progress\":1}\n\n",
            "{first}"
        );
        let result = format!("data: {{\"id\":{},\"result\":{{\n", asked["id"])
            + "data: \"content\":[]}}\n\n";
        pieces.send(piece(&result)).unwrap();
        let rest = soon(response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(
            rest,
            "event: result\ndata: {\"result\":{ \"content\":[]}}\n\n"
        );
    }
}

#[tokio::test]
async fn an_error_ends_the_events() {
    for (said, status) in [
        (
            r#"data: {"id":ID,"error":{"code":-32603,"message":"oh"}}"#,
            502,
        ),
        (
            r#"data: {"id":ID,"result":{"isError":true,"content":[]}}"#,
            502,
        ),
        (
            r#"data: {"id":"x","method":"elicitation/create","params":{}}"#,
            422,
        ),
        ("data: {", 502),
        ("", 502),
    ] {
        let (server, calls) = streaming(Speaks::Legacy).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        let answering = tokio::spawn(async move {
            client
                .ask("POST", "/api/tool", &STREAM, r#"{"tool":"add"}"#)
                .await
        });
        let (pieces, asked) = taken(&calls).await;
        let said = said.replace("ID", &asked["id"].to_string());
        pieces.send(piece(&format!("{said}\n\n"))).unwrap();
        drop(pieces);
        let answer = soon(answering).await.unwrap();
        assert_eq!(answer.status, 200);
        let problem = answer
            .text()
            .strip_prefix("event: error\ndata: ")
            .unwrap_or_else(|| panic!("{}", answer.text()));
        let problem: Value = serde_json::from_str(problem.trim()).unwrap();
        assert_eq!(problem["status"], status, "{said}: {problem}");
    }
}

#[tokio::test]
async fn a_question_to_the_caller_is_refused_and_the_call_cancelled() {
    let (server, calls) = streaming(Speaks::Legacy).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let answering =
        tokio::spawn(async move { call(&mut client, "/api/tool", r#"{"tool":"add"}"#).await });
    let (pieces, asked) = taken(&calls).await;
    let question = r#"data: {"id":"q","method":"sampling/createMessage","params":{}}"#;
    pieces.send(piece(&format!("{question}\n\n"))).unwrap();
    let answer = soon(answering).await.unwrap();
    assert_eq!(answer.status, 422);
    assert!(
        answer.json()["help"]
            .as_str()
            .unwrap()
            .contains("needs an MCP client")
    );
    cancelled(&server, &asked).await;
}

#[tokio::test]
async fn who_goes_away_cancels_the_call() {
    for (speaks, headers) in [
        (Speaks::Legacy, &STREAM[..1]),
        (Speaks::Legacy, &STREAM[..]),
        (Speaks::Modern, &STREAM[..1]),
        (Speaks::Modern, &STREAM[..]),
    ] {
        let (server, calls) = streaming(speaks).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        let headers = headers.to_vec();
        let answering = tokio::spawn(async move {
            client
                .ask("POST", "/api/tool", &headers, r#"{"tool":"add"}"#)
                .await
        });
        let (pieces, asked) = taken(&calls).await;
        pieces.send(piece(": begun\n\n")).unwrap();
        answering.abort();
        soon(pieces.closed()).await;
        if speaks == Speaks::Legacy {
            cancelled(&server, &asked).await;
        }
    }
}

/// Waits until the server hears that a call is cancelled.
async fn cancelled(server: &Server, asked: &Value) {
    let hears = async {
        while server.count("notifications/cancelled") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(hears).await;
    let is_it = |seen: &Seen| seen.rpc_method() == "notifications/cancelled";
    let seen = server.seen().into_iter().find(is_it).unwrap();
    assert_eq!(seen.json()["params"]["requestId"], asked["id"]);
}

#[tokio::test]
async fn the_api_is_described() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let document = client.get("/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"][0]["url"], "/v1");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.contains_key("add.args") && !schemas.contains_key("secret.args"));
    let whole = client.get("/api/openapi.json").await.json();
    assert_eq!(whole["info"]["version"], "v2");
    assert_eq!(
        whole["components"]["schemas"]["secret.args"]["type"],
        "object"
    );
}

#[tokio::test]
async fn arguments_that_the_schema_does_not_allow_are_the_callers_fault() {
    let failed = r#""result":{"isError":true,"content":[{"type":"text","text":"boom"}]}"#;
    for speaks in BOTH {
        let server = server("one", speaks, move |_| failed.to_owned()).await;
        let running = run(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = running.client().await;
        for (body, status) in [
            (r#"{"tool":"add","args":{"a":1}}"#, 502),
            (r#"{"tool":"add","args":{"a":"x"}}"#, 422),
            (r#"{"tool":"secret","args":{"a":"x"}}"#, 422),
        ] {
            let answer = call(&mut client, "/api/tool", body).await;
            assert_eq!(answer.status, status, "{body}: {}", answer.text());
            let events = client.ask("POST", "/api/tool", &STREAM, body).await;
            let said = format!("\"status\":{status},");
            assert!(
                events.text().starts_with("event: error") && events.text().contains(&said),
                "{}",
                events.text()
            );
        }
    }
}

#[tokio::test]
async fn arguments_are_mirrored_in_headers_where_a_tool_asks_for_it() {
    let server = Server::answering(|seen| {
        let body = seen.json();
        let id = &body["id"];
        let answer =
            |status, members: &str| {
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},{members}}}"#);
                reply(status, &[("content-type", "application/json")], text)
            };
        let tool = r#"{"name":"add","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}"#;
        match body["method"].as_str().unwrap_or_default() {
            "tools/list" => answer(200, &format!(r#""result":{{"tools":[{tool}]}}"#)),
            "tools/call" if seen.header("mcp-param-region") != Some("eu") => {
                answer(400, r#""error":{"code":-32020,"message":"Mcp-Param-Region is missing"}"#)
            }
            _ => answer(200, r#""result":{"content":[]}"#),
        }
    })
    .await;
    let running = run(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = running.client().await;
    let body = r#"{"tool":"add","args":{"region":"eu"}}"#;
    let answer = call(&mut client, "/api/tool", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = r#"{"tool":"add","args":{"other":"eu"}}"#;
    let answer = call(&mut client, "/api/tool", body).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], -32020);
}

#[tokio::test]
async fn users_whom_a_server_may_tell_apart_share_no_session() {
    let server = server("one", Speaks::Legacy, echo("one")).await;
    let tools = service(&[build("v1", &[&server])], None);
    let keys = serin_gateway::Keyring::ephemeral().unwrap();
    let running = Running::with(vec![], keys, |options| options.cores = 1);
    running.swap_api(vec![tools], &[(1, spec(&[]))]);
    let mut client = running.client().await;
    let mut sessions = vec![];
    for (user, trace) in [("alice", "1"), ("bob", "2"), ("alice", "3")] {
        let headers = [("x-remote-user", user), ("x-request-id", trace)];
        let listed = client.ask("GET", "/api/tools/add", &headers, "").await;
        assert_eq!(listed.status, 200, "{}", listed.text());
        let last = server.last();
        assert_eq!(last.header("x-remote-user"), Some(user));
        sessions.push(last.header("mcp-session-id").map(str::to_owned));
    }
    assert!(sessions[0].is_some());
    assert_ne!(sessions[0], sessions[1]);
    assert_eq!(sessions[0], sessions[2]);
    assert_eq!(server.count("initialize"), 2);
}

#[tokio::test]
async fn the_api_is_there_under_the_hosts_of_its_service_alone() {
    let server = server("one", Speaks::Modern, echo("one")).await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.hosts = vec!["tools.example".into()];
    let running = run(vec![tools]);
    let mut client = running.client().await;
    let own = [("host", "tools.example")];
    assert_eq!(client.ask("GET", "/api/tools", &own, "").await.status, 200);
    let before = server.seen().len();
    for path in ["/api/tools", "/v1/tools", "/v2"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    assert_eq!(server.seen().len(), before);
}
