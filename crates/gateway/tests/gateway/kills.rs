//! What is killed: the very next request is refused, and what is under way is cut.

use crate::{
    gates::{call, message, names, session, testing, tools},
    support::*,
};
use arc_swap::ArcSwap;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serin_flags::{
    Kill, Kills, Latch,
    kill::{Cause, Position, Priority},
};
use serin_gateway::Keyring;
use serin_model::{
    observe::{Outcome, Rejection},
    service::Protocol,
    snapshot::ServiceRoute,
};
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The latch of a gateway, and the book behind it.
#[derive(Clone, Default)]
pub(crate) struct Switchboard {
    latch: Arc<ArcSwap<Latch>>,
    kills: Arc<std::sync::Mutex<Kills>>,
}

impl Switchboard {
    fn put(&self, target: &str, position: Position, grace_seconds: u32) {
        let mut kills = self.kills.lock().unwrap();
        let generation = kills.generation() + 1;
        assert!(kills.take(Kill {
            target: target.parse().unwrap(),
            generation,
            position,
            at: Timestamp::now(),
            actor: "tester".into(),
            reason: "a test".into(),
            cause: Cause::Manual,
            priority: Priority::default(),
            grace_seconds,
            attempts: 0,
        }));
        self.latch.store(Arc::new(kills.latch()));
    }

    pub(crate) fn kill(&self, target: &str) {
        self.put(target, Position::Killed, 0);
    }

    pub(crate) fn revive(&self, target: &str) {
        self.put(target, Position::Revived, 0);
    }

    pub(crate) fn start(&self, services: Vec<ServiceRoute>) -> Running {
        let latch = self.latch.clone();
        Running::with(services, Keyring::ephemeral().unwrap(), |options| {
            options.latch = latch;
        })
    }
}

#[tokio::test]
async fn everything_of_a_service_is_refused_by_system_environment_service_and_tenant() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let mut mcp = service(&[build("v1", &[&server])], None);
    mcp.settings.tenant_header = Some("x-tenant".into());
    let mut http = mcp.clone();
    (http.name, http.path, http.protocol) =
        ("plain".parse().unwrap(), "/api".into(), Protocol::Http);
    let mut gateway = board.start(vec![mcp, http]);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let before = server.seen().len();
    let mut refused = 0;
    for (target, api, what) in [
        ("system", true, "everything here is switched off"),
        (
            "environment:development",
            true,
            "everything here is switched off",
        ),
        ("service:tools", false, "service `tools` is switched off"),
        ("tenant:acme", true, "your tenant is switched off"),
    ] {
        board.kill(target);
        let of = [
            ("x-tenant", "acme"),
            ("mcp-session-id", &*session),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        let mut answers = vec![
            client.modern("tools/list", None, &of[..1], "{}").await,
            client.ask("POST", "/mcp", &of, call("add")).await,
            client.ask("GET", "/mcp", &of, "").await,
        ];
        if api {
            answers.push(client.ask("GET", "/api/x", &of[..1], "").await);
        }
        for answer in answers {
            assert_eq!(answer.status, 503, "{target}");
            assert!(answer.text().starts_with(what), "{}", answer.text());
            assert_eq!(answer.header("retry-after"), Some("30"));
            assert!(answer.text().contains("switched off"), "{}", answer.text());
            refused += 1;
        }
        assert_eq!(client.get("/health").await.status, 200);
        assert_eq!(server.seen().len(), before);
        board.revive(target);
    }
    board.kill("environment:production");
    board.kill("tenant:other");
    assert_eq!(client.legacy(&session, call("add")).await.status, 200);
    gateway.observed.rejection(Rejection::Kill, refused).await;
    let seen = gateway.observed.counts().into_values();
    assert_eq!(
        seen.map(|counts| counts.of(Outcome::Http5xx)).sum::<u64>(),
        0
    );
}

#[tokio::test]
async fn a_kill_while_the_body_comes_is_in_time() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let body = call("add");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        gateway.address,
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // The head is in: another request on the way back has seen the gateway work.
    gateway.client().await.get("/health").await;
    board.kill("service:tools");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn callers_of_a_killed_version_get_stable_at_once() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let board = Switchboard::default();
    let at = || {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(100.0),
        )]
    };
    let gateway = board.start(at());
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    assert_eq!(client.legacy(&session, CALL).await.version(), "v2");
    let modern = r#"{"name":"add"}"#;
    assert_eq!(
        client
            .modern("tools/call", Some("add"), &[], modern)
            .await
            .version(),
        "v2"
    );
    board.kill("version:tools/v2");
    let before = two.seen().len();
    assert_eq!(client.legacy(&session, CALL).await.version(), "v1");
    assert_eq!(
        client
            .modern("tools/call", Some("add"), &[], modern)
            .await
            .version(),
        "v1"
    );
    assert_eq!(client.initialize().await.version(), "v1");
    assert_eq!(two.seen().len(), before);
    board.kill("version:tools/v1");
    for answer in [
        client.legacy(&session, CALL).await,
        client.modern("tools/call", Some("add"), &[], modern).await,
        client.initialize().await,
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    board.revive("version:tools/v1");
    assert_eq!(client.legacy(&session, CALL).await.version(), "v1");
    board.revive("version:tools/v2");
    assert_eq!(
        client
            .modern("tools/call", Some("add"), &[], modern)
            .await
            .version(),
        "v2"
    );
}

#[tokio::test]
async fn what_a_killed_version_made_opens_nowhere_else() {
    let server = Server::answering(|_| {
        json(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"2"}}"#)
    })
    .await;
    let other = tools(false).await;
    let board = Switchboard::default();
    let builds = [build("v1", &[&other]), build("v2", &[&server])];
    let gateway = board.start(vec![service(&builds, Some(100.0))]);
    let mut client = gateway.client().await;
    let list = client.modern("tools/list", None, &[], "{}").await;
    let cursor = message(&list)["result"]["nextCursor"].clone();
    board.kill("version:tools/v2");
    let params = serde_json::json!({ "cursor": cursor }).to_string();
    let answer = client.modern("tools/list", None, &[], &params).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (400, &serde_json::json!(-31005))
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_killed_tool_is_refused_by_name_and_leaves_the_list() {
    let server = tools(true).await;
    let board = Switchboard::default();
    let mut gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let list = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#;
    assert_eq!(names(&client.legacy(&session, list).await).len(), 3);
    for target in ["tool:tools/search", "tool:*/search"] {
        board.kill(target);
        let before = server.count("tools/call");
        for answer in [
            client.legacy(&session, call("search")).await,
            client
                .modern("tools/call", Some("search"), &[], r#"{"name":"search"}"#)
                .await,
        ] {
            assert_eq!(answer.status, 200);
            let error = &answer.json()["error"];
            assert_eq!(error["code"], -31006);
            assert!(error["message"].as_str().unwrap().contains("`search`"));
        }
        // A header that names another tool.
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "add"),
        ];
        assert_eq!(
            client
                .ask("POST", "/mcp", &headers, call("search"))
                .await
                .status,
            400
        );
        assert_eq!(
            names(&client.legacy(&session, list).await),
            ["add", "admin.drop"]
        );
        let listed = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(names(&listed), ["add", "admin.drop"]);
        assert_eq!(message(&listed)["result"]["cacheScope"], "private");
        assert_eq!(server.count("tools/call"), before);
        assert_eq!(client.legacy(&session, call("add")).await.status, 200);
        board.revive(target);
        let back = client
            .modern("tools/call", Some("search"), &[], r#"{"name":"search"}"#)
            .await;
        assert!(message(&back)["error"].is_null());
        assert_eq!(names(&client.legacy(&session, list).await).len(), 3);
    }
    gateway.observed.rejection(Rejection::Kill, 4).await;
}

#[tokio::test]
async fn of_what_is_tried_again_one_call_in_so_many_goes_through() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    for target in [
        "system",
        "service:tools",
        "version:tools/v1",
        "tool:tools/add",
    ] {
        board.put(target, Position::Probing { one_in: 4 }, 0);
        let before = server.count("tools/call");
        for _ in 0..12 {
            client.legacy(&session, call("add")).await;
        }
        assert_eq!(server.count("tools/call") - before, 3, "{target}");
        board.revive(target);
    }
}

#[tokio::test]
async fn a_batch_takes_one_turn_at_a_tool_and_none_if_it_does_not_pass() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let batch = |tools: &[&str]| {
        let calls: Vec<_> = tools.iter().map(|tool| call(tool)).collect();
        format!("[{}]", calls.join(","))
    };
    board.put("tool:tools/add", Position::Probing { one_in: 2 }, 0);
    board.put("tool:tools/greet", Position::Probing { one_in: 3 }, 0);
    board.kill("tool:tools/search");
    let before = server.seen().len();
    let mut passed = Vec::new();
    for tools in [
        &["add", "add"][..],
        // It would be let through, were the other one not killed.
        &["greet", "search"],
        &["greet", "add"],
        // The turn of `greet` was kept.
        &["greet", "add"],
        &["add"],
        &["add"],
    ] {
        client.legacy(&session, batch(tools)).await;
        passed.push(server.seen().len() - before);
    }
    assert_eq!(passed, [1, 1, 1, 2, 2, 3]);
}

#[tokio::test]
async fn a_killed_flag_is_off_for_its_testers_too() {
    let server = tools(false).await;
    for target in ["flag:new_search", "flags", "version:tools/v1+new_search"] {
        let board = Switchboard::default();
        let (services, table) = testing(&server, 50.0);
        let gateway = board.start(services.clone());
        gateway.swap_flags(services, table);
        let mut client = gateway.client().await;
        let tester = [("content-type", "application/json"), ("x-canary", "true")];
        let begun = client.ask("POST", "/mcp", &tester, INITIALIZE).await;
        let id = begun.header("mcp-session-id").unwrap();
        board.kill(target);
        let params = r#"{"name":"add"}"#;
        for is_killed in [true, false] {
            let (version, said) = if is_killed {
                ("v1", "new_search=off")
            } else {
                ("v1+new_search", "new_search=on")
            };
            let called = client
                .modern("tools/call", Some("add"), &tester[1..], params)
                .await;
            assert_eq!(called.version(), version, "{target}");
            assert_eq!(server.last().header("x-serin-flags"), Some(said));
            let called = client.legacy(id, call("add")).await;
            assert_eq!(called.version(), version, "{target}");
            board.revive(target);
        }
    }
}

#[tokio::test]
async fn a_kill_of_stable_stops_both_sides_of_a_flag() {
    let server = slow().await;
    for percentage in [0.0, 100.0] {
        let board = Switchboard::default();
        let (services, table) = testing(&server, percentage);
        let gateway = board.start(services.clone());
        gateway.swap_flags(services, table);
        let mut client = gateway.client().await;
        let tester = [("content-type", "application/json"), ("x-canary", "true")];
        let begun = client.ask("POST", "/mcp", &tester, INITIALIZE).await;
        assert_eq!(begun.version(), "v1+new_search");
        let id = begun.header("mcp-session-id").unwrap();
        let headers = [("mcp-session-id", id), ("content-type", "application/json")];
        let mut answering = gateway.client().await;
        let mut answer = answering.begin("POST", "/mcp", &headers, call("add")).await;
        assert_eq!(answer.headers()["x-serin-version"], "v1+new_search");
        soon(answer.body_mut().frame()).await.unwrap().unwrap();
        board.kill("version:tools/v1");
        let cut = soon(answer.body_mut().frame()).await;
        assert!(cut.is_none_or(|frame| frame.is_err()));
        let params = r#"{"name":"add"}"#;
        for answer in [
            client.modern("tools/call", Some("add"), &[], params).await,
            client
                .modern("tools/call", Some("add"), &tester[1..], params)
                .await,
            client.legacy(id, call("add")).await,
            client.ask("POST", "/mcp", &tester, INITIALIZE).await,
        ] {
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
    }
}

/// A server whose calls last until they are dropped: silent, or in the middle of their answers.
async fn slow() -> Server {
    Server::start(|seen| async move {
        match seen.rpc_method().as_str() {
            "initialize" => {
                let headers = [
                    ("content-type", "application/json"),
                    ("mcp-session-id", "s-1"),
                ];
                let text = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
                reply(200, &headers, text)
            }
            _ if seen.text().contains("silent") => std::future::pending().await,
            _ => {
                let (sender, reply) = pieces("text/event-stream");
                sender
                    .send(piece(
                        "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n",
                    ))
                    .unwrap();
                tokio::spawn(async move { sender.closed().await });
                reply
            }
        }
    })
    .await
}

#[tokio::test]
async fn calls_and_streams_in_flight_are_cut_after_their_grace() {
    let server = slow().await;
    for (target, grace_seconds) in [
        ("system", 0),
        ("service:tools", 1),
        ("version:tools/v1", 0),
        ("tenant:acme", 0),
        ("tool:tools/add", 0),
        ("tool:*/unheard", 0),
    ] {
        let board = Switchboard::default();
        let mut route = service(&[build("v1", &[&server])], None);
        route.settings.tenant_header = Some("x-tenant".into());
        let mut gateway = board.start(vec![route]);
        let id = session(&mut gateway.client().await).await;
        let tool = if target.ends_with("unheard") {
            "unheard"
        } else {
            "add"
        };
        let headers = [
            ("mcp-session-id", &*id),
            ("mcp-protocol-version", "2025-11-25"),
            ("x-tenant", "acme"),
            ("content-type", "application/json"),
        ];
        let mut answering = gateway.client().await;
        let mut answer = answering.begin("POST", "/mcp", &headers, call(tool)).await;
        soon(answer.body_mut().frame()).await.unwrap().unwrap();
        let silent = call(tool).replace("\"arguments\":{}", "\"arguments\":{\"x\":\"silent\"}");
        let mut waiting = gateway.client().await;
        let before = server.count("tools/call");
        let waiting = waiting.ask("POST", "/mcp", &headers, silent);
        let kill = async {
            while server.count("tools/call") == before {
                tokio::task::yield_now().await;
            }
            board.put(target, Position::Killed, grace_seconds);
            std::time::Instant::now()
        };
        let (waited, killed) = tokio::join!(waiting, kill);
        assert_eq!(waited.status, 503, "{target}");
        let cut = soon(answer.body_mut().frame()).await;
        assert!(cut.is_none_or(|frame| frame.is_err()), "{target}");
        let took = killed.elapsed();
        let grace = Duration::from_secs(grace_seconds.into());
        // Timestamps of kills are finer than the clock by which the test waits.
        assert!(
            took + Duration::from_millis(20) >= grace,
            "{target}: {took:?}"
        );
        assert!(took < grace + Duration::from_secs(1), "{target}: {took:?}");
        gateway.observed.rejection(Rejection::Kill, 1).await;
        for (key, counts) in gateway.observed.counts() {
            let outcomes = [
                Outcome::Transport,
                Outcome::Cancelled,
                Outcome::Timeout,
                Outcome::Http5xx,
            ];
            assert!(
                outcomes.iter().all(|o| counts.of(*o) == 0),
                "{key:?} {counts:?}"
            );
        }
    }
}

#[tokio::test]
async fn streams_end_with_their_service() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let id = session(&mut client).await;
    let headers = [
        ("mcp-session-id", &*id),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    let mut stream = client.begin("GET", "/mcp", &headers, "").await;
    soon(stream.body_mut().frame()).await.unwrap().unwrap();
    // A tool that leaves is heard of, and does not end the stream. It is not one of the known tools, which are `add` and `greet`.
    board.kill("tool:tools/greet");
    let heard = soon(stream.body_mut().frame()).await.unwrap().unwrap();
    let heard = String::from_utf8(heard.into_data().unwrap().to_vec()).unwrap();
    assert!(heard.contains("list_changed"), "{heard}");
    board.kill("service:tools");
    assert!(soon(stream.body_mut().frame()).await.is_none());
}

#[tokio::test]
async fn on_a_shared_connection_only_the_killed_call_is_cut() {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let server = slow().await;
    let board = Switchboard::default();
    let gateway = board.start(vec![service(&[build("v1", &[&server])], None)]);
    let stream = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let http2 = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = http2.await.unwrap();
    tokio::spawn(connection);
    let mut begin = |tool: &str, more: &str| {
        let body = call(tool).replace(
            "\"arguments\":{}",
            &format!("\"arguments\":{{\"x\":\"{more}\"}}"),
        );
        let request = ::http::Request::post(format!("http://{}/mcp", gateway.address))
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", tool)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        sender.send_request(request)
    };
    let (killed, other, silent) = (begin("add", ""), begin("greet", ""), begin("add", "silent"));
    let mut killed = soon(killed).await.unwrap();
    let mut other = soon(other).await.unwrap();
    for answer in [&mut killed, &mut other] {
        soon(answer.body_mut().frame()).await.unwrap().unwrap();
    }
    let waited = async {
        while server.count("tools/call") < 3 {
            tokio::task::yield_now().await;
        }
        board.kill("tool:tools/add");
    };
    soon(waited).await;
    assert_eq!(soon(silent).await.unwrap().status(), 503);
    let cut = soon(killed.body_mut().frame()).await;
    assert!(cut.is_none_or(|frame| frame.is_err()));
    let goes_on = tokio::time::timeout(Duration::from_millis(200), other.body_mut().frame());
    assert!(goes_on.await.is_err(), "the other one goes on");
}
