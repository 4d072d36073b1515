//! Legacy MCP: sessions behind tokens, streams, batches.

use crate::support::*;
use http_body_util::BodyExt as _;
use serin_gateway::Keyring;
use serin_model::{
    observe::{Outcome, Rejection},
    snapshot::ServiceRoute,
};
use serin_route::weigh::Balance;
use std::collections::HashSet;

#[tokio::test]
async fn a_session_stays_with_the_version_that_made_it() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let at = |share| {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(share),
        )]
    };
    let gateway = Running::start(at(50.0));
    let mut client = gateway.client().await;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        let answer = client.initialize().await;
        assert_eq!(answer.status, 200);
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        let canary = answer.header("x-canary").unwrap() == "true";
        assert_eq!(canary, answer.version() == "v2");
        sessions.push((session, answer.version().to_owned()));
    }
    let versions: HashSet<_> = sessions.iter().map(|(_, version)| version).collect();
    assert_eq!(versions.len(), 2, "both get some of 40");
    // Whatever becomes of the share, and over whatever connection.
    for share in [100.0, 1.0] {
        gateway.swap(at(share));
        let mut client = gateway.client().await;
        for (session, version) in &sessions {
            let answer = client.legacy(session, CALL).await;
            let name = if version == "v1" { "one" } else { "two" };
            assert_eq!((answer.status, answer.version()), (200, version.as_str()));
            assert!(answer.text().contains(name), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn the_server_sees_its_own_session_id_and_the_client_never_does() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    assert!(!session.contains("one-1") && session.len() < 1500);
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    let seen = server.last();
    assert_eq!(seen.header("mcp-session-id"), Some("one-1"));
    assert_eq!(seen.header("host"), Some(&*server.address.to_string()));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_server_without_sessions_is_pinned_all_the_same() {
    let server = |name: &'static str| {
        Server::answering(move |seen| {
            assert_eq!(seen.header("mcp-session-id"), None);
            json(format!(
                r#"{{"jsonrpc":"2.0","id":0,"result":{{"from":"{name}"}}}}"#
            ))
        })
    };
    let (one, two) = (server("one").await, server("two").await);
    let at = |share| {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(share),
        )]
    };
    let gateway = Running::start(at(100.0));
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    gateway.swap(at(0.0));
    assert!(client.legacy(&session, CALL).await.text().contains("two"));
}

#[tokio::test]
async fn bytes_are_forwarded_as_they_are_both_ways() {
    let odd = "{ \"jsonrpc\" :\t\"2.0\",\r\n \"x-unknown\":[1.0e2 ,\"\\u00fc\"], \"id\":  \"a b\" ,\"method\":\"tools/call\",\"params\":{\"name\":\"add\",\"arguments\":{\"n\":1.000}} } ";
    let back = "{\"result\" : {\"nextCursor\":\"c\", \"content\" :[ ]},\"id\":\"a b\",\"jsonrpc\":\"2.0\"}\n";
    let server = Server::answering(|seen| {
        if seen.rpc_method() == "initialize" {
            reply(200, &[("content-type", "application/json"), ("mcp-session-id", "s")], "{}")
        } else {
            json("{\"result\" : {\"nextCursor\":\"c\", \"content\" :[ ]},\"id\":\"a b\",\"jsonrpc\":\"2.0\"}\n")
        }
    })
    .await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    assert_eq!(server.last().text(), INITIALIZE);
    let answer = client.legacy(&session, odd).await;
    assert_eq!(server.last().text(), odd);
    assert_eq!(answer.text(), back);
}

#[tokio::test]
async fn forged_tampered_foreign_and_missing_sessions() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let mut tampered = session.clone().into_bytes();
    tampered[30] = if tampered[30] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).unwrap();
    let before = server.seen().len();
    for bad in ["one-1", &tampered, &session[..session.len() - 1], "x"] {
        let answer = client.legacy(bad, CALL).await;
        assert_eq!(answer.status, 404, "{bad}");
        let said = answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(said.contains("initialize again"), "{said}");
    }
    assert_eq!(server.seen().len(), before, "none reached the server");
    // Doing what the message says helps.
    let again = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    assert_eq!(client.legacy(&again, CALL).await.status, 200);
    // So it does for a client that still sends the old id with it.
    let headers = [("mcp-session-id", "one-1")];
    assert_eq!(
        client
            .ask("POST", "/mcp", &headers, INITIALIZE)
            .await
            .status,
        200
    );
    // Without a session the server says what it thinks of that, byte for byte.
    let answer = client.legacy("", CALL).await;
    assert_eq!((answer.status, answer.text()), (404, r#"{"no":"session"}"#));
    let mut gateway = gateway;
    gateway.observed.rejection(Rejection::Session, 4).await;
}

#[tokio::test]
async fn a_session_outlives_a_restart_with_the_same_keys_and_its_time_alone_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let server = Server::mcp("one").await;
    let mut tools = service(&[build("v1", &[&server])], None);
    let first = Running::with(vec![tools.clone()], Keyring::create(&path).unwrap(), |_| {});
    let session = first.client().await.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    first.gateway.shutdown(PATIENCE).await;
    let second = Running::with(vec![tools.clone()], Keyring::open(&path).unwrap(), |_| {});
    let mut client = second.client().await;
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    tools.settings.session_ttl = std::time::Duration::ZERO;
    second.swap(vec![tools]);
    let over = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    assert_eq!(client.legacy(&over, CALL).await.status, 404);
    assert_eq!(
        client.legacy(&session, CALL).await.status,
        200,
        "it has its own time"
    );
}

#[tokio::test]
async fn the_oldest_protocol_goes_to_stable_alone() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let services = vec![service(
        &[build("v1", &[&one]), build("v2", &[&two])],
        Some(100.0),
    )];
    let gateway = Running::start(services);
    let mut client = gateway.client().await;
    let body = INITIALIZE.replace("2025-11-25", "2024-11-05");
    let answer = client.ask("POST", "/mcp", &[], body).await;
    assert_eq!(answer.version(), "v1");
    let answer = client
        .ask("GET", "/mcp", &[("accept", "text/event-stream")], "")
        .await;
    assert_eq!(answer.version(), "v1");
    assert_eq!(client.initialize().await.version(), "v2");
}

#[tokio::test]
async fn the_stream_and_the_messages_of_the_oldest_transport_meet() {
    let stable = [
        Server::mcp("a").await,
        Server::mcp("b").await,
        Server::mcp("c").await,
    ];
    let two = Server::mcp("two").await;
    let mut tools = service(
        &[
            build("v1", &[&stable[0], &stable[1], &stable[2]]),
            build("v2", &[&two]),
        ],
        Some(100.0),
    );
    tools.settings.affinity_header = Some("x-user".into());
    let gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    // Its stream says where its messages go, `initialize` among them, of whatever version its client asks for.
    for user in 0..20 {
        let user = user.to_string();
        let headers = [
            ("x-user", user.as_str()),
            ("content-type", "application/json"),
        ];
        client.ask("GET", "/mcp/sse", &headers, "").await;
        for (query, message) in [
            ("session_id=1", INITIALIZE),
            ("a=b&sessionId=1", INITIALIZE),
            ("session_id=1", CALL),
        ] {
            let path = format!("/mcp/messages?{query}");
            let answer = client.ask("POST", &path, &headers, message).await;
            assert_eq!(answer.version(), "v1");
        }
    }
    assert!(two.seen().is_empty());
    let seen_by = |server: &Server| -> Vec<(String, String)> {
        let seen = server.seen();
        let kinds = seen.iter().map(|seen| {
            let user = seen.header("x-user").unwrap().to_owned();
            (user, seen.method.to_string())
        });
        kinds.collect()
    };
    for server in &stable {
        let seen = seen_by(server);
        let of = |method: &str| seen.iter().filter(|(_, m)| m == method).count();
        assert!(of("GET") > 0, "each gets some of 20");
        assert_eq!(of("GET") * 3, of("POST"), "{seen:?}");
    }
}

/// With two endpoints; for each of ten clients how many of its two requests either got.
async fn meetings_at(change: impl FnOnce(&mut ServiceRoute)) -> Vec<[usize; 2]> {
    let (a, b) = (Server::mcp("a").await, Server::mcp("b").await);
    let mut tools = service(&[build("v1", &[&a, &b])], None);
    change(&mut tools);
    let gateway = Running::start(vec![tools]);
    let mut meetings = Vec::new();
    for _ in 0..10 {
        let mut client = gateway.client().await;
        let before = [&a, &b].map(|server| server.seen().len());
        let headers = [("content-type", "application/json")];
        client.ask("GET", "/mcp/sse", &headers, "").await;
        let path = "/mcp/messages?session_id=1";
        client.ask("POST", path, &headers, CALL).await;
        let after = [&a, &b].map(|server| server.seen().len());
        meetings.push([after[0] - before[0], after[1] - before[1]]);
    }
    meetings
}

#[tokio::test]
async fn the_oldest_transport_meets_by_turns_and_without_cookies() {
    let by_turns = meetings_at(|tools| tools.versions[0].balance = Balance::RoundRobin).await;
    let with_cookies = meetings_at(|tools| {
        tools.settings.affinity = serde_json::from_str(r#"[{"cookie": {"name": "at"}}]"#).unwrap();
    })
    .await;
    for meetings in [by_turns, with_cookies] {
        let met = |at: &[usize; 2]| *at == [2, 0] || *at == [0, 2];
        assert!(meetings.iter().all(met), "{meetings:?}");
    }
}

#[tokio::test]
async fn streams_resume_and_sessions_end_where_they_live() {
    let server =
        Server::answering(
            |seen| match (seen.method.as_str(), seen.header("last-event-id")) {
                ("POST", _) => reply(
                    200,
                    &[
                        ("content-type", "application/json"),
                        ("mcp-session-id", "up"),
                    ],
                    "{}",
                ),
                ("GET", Some(id)) => reply(
                    200,
                    &[("content-type", "text/event-stream")],
                    format!("id: {id}\ndata: {{}}\n\n"),
                ),
                ("DELETE", _) => reply(204, &[], ""),
                _ => reply(405, &[], ""),
            },
        )
        .await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("last-event-id", "e-9"),
    ];
    let answer = client.ask("GET", "/mcp", &headers, "").await;
    assert_eq!(answer.text(), "id: e-9\ndata: {}\n\n");
    let answer = client.ask("DELETE", "/mcp", &headers[..1], "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(server.last().header("mcp-session-id"), Some("up"));
}

#[tokio::test]
async fn events_pass_one_by_one() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = Server::answering(move |seen| {
        if seen.rpc_method() == "initialize" {
            return reply(200, &[("mcp-session-id", "up")], "{}");
        }
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let headers = [("mcp-session-id", session.as_str())];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let pieces = receiver.recv().unwrap();
    for text in [
        "id: 1\ndata:\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n",
        ": comment\n\n",
    ] {
        pieces.send(piece(text)).unwrap();
        let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(pieces);
    assert!(soon(response.body_mut().frame()).await.is_none());
}

#[tokio::test]
async fn batches_pass_and_each_call_in_them_counts() {
    let server = Server::answering(|seen| {
        if seen.rpc_method() == "initialize" {
            return reply(200, &[("mcp-session-id", "up")], "{}");
        }
        json(r#"[{"jsonrpc":"2.0","id":2,"result":{"content":[],"isError":true}},{"jsonrpc":"2.0","id":1,"result":{"content":[]}}]"#)
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}, {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"greet"}},{"jsonrpc":"2.0","method":"notifications/progress"}]"#;
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("mcp-protocol-version", "2025-03-26"),
    ];
    let answer = client.ask("POST", "/mcp", &headers, batch).await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.last().text(), batch);
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
    gateway
        .observed
        .outcome("v1", "greet", Outcome::ToolError, 1)
        .await;
}

#[tokio::test]
async fn an_invalid_message_gets_a_json_rpc_error_and_a_valid_one_passes() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    for (body, code, says) in [
        ("{\"jsonrpc\":", -32700, "not valid JSON"),
        ("{}", -32600, "jsonrpc"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            -32600,
            "send each key once",
        ),
    ] {
        let answer = client.legacy(&session, body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"]),
            (400, &code.into()),
            "{body}"
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    let fixed = r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#;
    assert_eq!(client.legacy(&session, fixed).await.status, 200);
}
