//! What the gateway tells the control plane.

use crate::support::*;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serin_model::{
    name::RolloutId,
    observe::{CallEra, Counts, Outcome, STREAK_URGENT, Sealed},
    service::Protocol,
};
use std::time::Duration;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use uuid::Uuid;

fn streak(seen: &[Sealed]) -> u32 {
    let all = seen.iter().flat_map(|sealed| &sealed.streaks);
    all.map(|(_, _, streak)| *streak).max().unwrap_or_default()
}

#[tokio::test]
async fn every_outcome_is_told_from_the_others() {
    let result = |text: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{text}}}"#);
    let server = Server::answering(move |seen| match seen.header("x-want").unwrap() {
        "ok" => json(result(
            r#"{"content":[{"type":"text","text":"\"isError\":true"}]}"#,
        )),
        "input" => json(result(
            r#"{"resultType":"input_required","requestState":"s"}"#,
        )),
        "tool" => json(result(r#"{"isError" : true,"content":[]}"#)),
        "badly" => json(result(
            r#"{"content":[{"type":"text","text":"Input validation error: x"}],"isError":true}"#,
        )),
        "rpc" => json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}"#),
        "events" => reply(
            200,
            &[("content-type", "text/event-stream")],
            format!(
                "id: 1\ndata:\n\ndata: {}\n\n",
                result(r#"{"isError":true}"#)
            ),
        ),
        "garbage" => json("{\"jsonrpc\":"),
        "401" => reply(401, &[("www-authenticate", "Bearer")], "who?"),
        "404" => reply(404, &[], "what?"),
        _ => reply(500, &[], "oh"),
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    for want in [
        "ok", "input", "tool", "badly", "rpc", "events", "garbage", "401", "404", "500",
    ] {
        client
            .modern("tools/call", Some("add"), &[("x-want", want)], "{}")
            .await;
    }
    gateway
        .observed
        .outcome("v1", "add", Outcome::Http5xx, 1)
        .await;
    let counts = gateway.observed.counts();
    let counts = &counts[&("v1".to_owned(), "add".to_owned(), CallEra::Modern)];
    let all = Outcome::ALL.map(|outcome| counts.of(outcome));
    //          ok in tool badly rpc 4xx 5xx time transport cancelled
    assert_eq!(all, [1, 1, 2, 1, 2, 2, 1, 0, 0, 0]);
    assert_eq!(counts.auth_failures, 1);
    assert_eq!(
        (counts.first_byte.count(), counts.last_byte.count()),
        (2, 2)
    );
    assert!(counts.request_bytes > 0 && counts.response_bytes > 0);
    assert_eq!(streak(&gateway.observed.seen), 0);
}

#[tokio::test]
async fn only_listed_tools_are_labels() {
    let server = Server::mcp("one").await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    for (method, name) in [
        ("tools/call", "greet"),
        ("tools/call", "made-up"),
        ("tools/list", ""),
        ("prompts/get", "greet"),
    ] {
        client.modern(method, Some(name), &[], "{}").await;
    }
    gateway.observed.outcome("v1", "none", Outcome::Ok, 2).await;
    gateway
        .observed
        .outcome("v1", "greet", Outcome::Ok, 1)
        .await;
    gateway
        .observed
        .outcome("v1", "unknown", Outcome::Ok, 1)
        .await;
    assert_eq!(gateway.observed.counts().len(), 3);
}

#[tokio::test]
async fn priming_is_no_first_byte() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |seen| {
        if seen.rpc_method() == "initialize" {
            return reply(200, &[("mcp-session-id", "up")], "{}");
        }
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
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
    let headers = [("mcp-session-id", session.as_str())];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece("id: 1\nretry: 10\ndata:\n\n")).unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    // The tool works for a while.
    let works = Duration::from_millis(120);
    tokio::time::sleep(works).await;
    pieces
        .send(piece(
            "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n",
        ))
        .unwrap();
    drop(pieces);
    soon(response.body_mut().collect()).await.unwrap();
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
    let counts = gateway.observed.counts();
    let counts = &counts[&("v1".to_owned(), "add".to_owned(), CallEra::Legacy)];
    let first = counts.first_byte.quantile_seconds(0.5).unwrap();
    assert!(first >= works.as_secs_f64(), "{first}");
}

#[tokio::test]
async fn a_resumable_stream_that_closes_early_is_not_held_against_the_version() {
    let server = Server::answering(|seen| {
        if seen.rpc_method() == "initialize" {
            return reply(200, &[("mcp-session-id", "up")], "{}");
        }
        reply(
            200,
            &[("content-type", "text/event-stream")],
            if seen.header("x-id").is_some() {
                "id: 1\ndata:\n\n"
            } else {
                "data:\n\n"
            },
        )
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
    let headers = [("mcp-session-id", session.as_str()), ("x-id", "1")];
    client.ask("POST", "/mcp", &headers, CALL).await;
    client.ask("POST", "/mcp", &headers[..1], CALL).await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::Transport, 1)
        .await;
}

#[tokio::test]
async fn a_cancelled_legacy_call_does_not_count() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |seen| match seen.rpc_method().as_str() {
        "initialize" => reply(200, &[("mcp-session-id", "up")], "{}"),
        "tools/call" => {
            let (pieces, reply) = pieces("text/event-stream");
            sender.send(pieces).unwrap();
            reply
        }
        _ => reply(202, &[], ""),
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
    let headers = [("mcp-session-id", session.as_str())];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(
        gateway.client().await.legacy(&session, cancel).await.status,
        202
    );
    pieces.send(piece("data: {\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32000,\"message\":\"cancelled\"}}\n\n")).unwrap();
    drop(pieces);
    soon(response.body_mut().collect()).await.unwrap();
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
}

#[tokio::test]
async fn a_dead_version_is_reported_at_once() {
    let server = Server::mcp("one").await;
    let mut gateway = Running::with(
        vec![service(&[build("v1", &[&server])], None)],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| options.cores = 1,
    );
    let mut client = gateway.client().await;
    assert_eq!(
        client
            .modern("tools/call", Some("add"), &[], "{}")
            .await
            .status,
        200
    );
    server.stop();
    for _ in 0..STREAK_URGENT {
        let answer = client.modern("tools/call", Some("add"), &[], "{}").await;
        assert_eq!(
            (answer.status, answer.version()),
            (502, "v1"),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains("version `v1` of service `tools`"));
    }
    gateway
        .observed
        .until(|seen| streak(seen) >= STREAK_URGENT)
        .await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::Transport, STREAK_URGENT.into())
        .await;
}

#[tokio::test]
async fn a_streak_ends_with_its_rollout_and_a_cancelled_call_reports_none() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    two.stop();
    let rolling = |rollout| {
        let mut tools = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(100.0));
        if let Some(split) = &mut tools.split {
            split.rollout = RolloutId(Uuid::from_u128(rollout));
        }
        // One attempt a call: the streak counts attempts.
        tools.settings.retries.attempts = 0;
        vec![tools]
    };
    let mut gateway = Running::with(
        rolling(1),
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| options.cores = 1,
    );
    let mut client = gateway.client().await;
    let failures = 2 * STREAK_URGENT;
    for _ in 0..failures {
        let answer = client.modern("tools/call", Some("add"), &[], "{}").await;
        assert_eq!(answer.status, 502);
    }
    gateway
        .observed
        .until(|seen| streak(seen) == failures)
        .await;
    gateway.observed.seen.clear();

    // The same version again, alive but slow: its first caller goes away.
    let listener = tokio::net::TcpListener::bind(two.address).await.unwrap();
    gateway.swap(rolling(2));
    let mut slow = client_of_a_modern_call(gateway.address).await;
    let (held, _) = soon(listener.accept()).await.unwrap();
    slow.shutdown().await.unwrap();
    drop(slow);
    gateway
        .observed
        .outcome("v2", "add", Outcome::Cancelled, 1)
        .await;
    // Dead again: its streak begins anew.
    drop((held, listener));
    let answer = client.modern("tools/call", Some("add"), &[], "{}").await;
    assert_eq!(answer.status, 502);
    gateway.observed.until(|seen| streak(seen) > 0).await;
    let streaks: Vec<_> = gateway
        .observed
        .seen
        .iter()
        .flat_map(|s| &s.streaks)
        .collect();
    assert_eq!(streaks.len(), 1, "{streaks:?}");
    assert_eq!(streaks[0].2, 1);
}

#[tokio::test]
async fn an_upload_that_its_client_breaks_off_is_not_held_against_the_version() {
    let server = Server::answering(|_| json("{}")).await;
    let mut web = service(&[build("v1", &[&server])], None);
    web.protocol = Protocol::Http;
    let mut gateway = Running::start(vec![web]);
    let host = gateway.address;
    let uploads = u64::from(STREAK_URGENT) + 1;
    for n in 1..=uploads {
        let mut stream = TcpStream::connect(host).await.unwrap();
        let head = format!("POST /mcp HTTP/1.1\r\nhost: {host}\r\ncontent-length: 100\r\n\r\nabc");
        stream.write_all(head.as_bytes()).await.unwrap();
        let is_open = |open: &Sealed| open.open.iter().any(|(.., open)| open.calls > 0);
        let last = gateway.observed.seen.len();
        gateway
            .observed
            .until(|seen| seen[last..].iter().any(is_open))
            .await;
        drop(stream);
        gateway
            .observed
            .outcome("v1", "none", Outcome::Cancelled, n)
            .await;
    }
    let counts = gateway.observed.counts();
    assert_eq!(counts.values().map(Counts::calls).sum::<u64>(), 0);
    assert_eq!(streak(&gateway.observed.seen), 0);
}

/// A connection that has sent a modern call and does not read its answer.
async fn client_of_a_modern_call(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: add\r\ncontent-length: {}\r\n\r\n{CALL}",
        CALL.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_cannot_be_reached_and_the_attempt_counts() {
    let (good, dead) = (Server::mcp("one").await, Server::mcp("dead").await);
    dead.stop();
    let mut gateway = Running::start(vec![service(&[build("v1", &[&dead, &good])], None)]);
    let mut client = gateway.client().await;
    let mut failed = 0;
    // Half of the callers prefer the dead one.
    for caller in 0..20 {
        let token = format!("Bearer {caller}");
        let answer = client
            .modern(
                "tools/call",
                Some("add"),
                &[("authorization", &token)],
                "{}",
            )
            .await;
        assert_eq!(answer.status, 200);
        failed += 1;
    }
    gateway
        .observed
        .outcome("v1", "add", Outcome::Ok, failed)
        .await;
    let counts = gateway.observed.counts();
    let counts = &counts[&("v1".to_owned(), "add".to_owned(), CallEra::Modern)];
    let attempts = counts.of(Outcome::Transport);
    assert!((1..20).contains(&attempts), "{attempts}");
    assert_eq!(good.seen().len(), 20, "never twice");
}

#[tokio::test]
async fn a_session_is_not_tried_elsewhere() {
    let (one, other) = (Server::mcp("one").await, Server::mcp("other").await);
    let mut tools = service(&[build("v1", &[&one, &other])], None);
    // Where it may be, it is initialised anew first.
    tools.settings.rebind = serin_model::service::Rebind::Never;
    let gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let (home, away) = if one.seen().is_empty() {
        (&other, &one)
    } else {
        (&one, &other)
    };
    home.stop();
    let mut answer = client.legacy(&session, CALL).await;
    if answer.status == 502 {
        // It met the connection as that was closed: the server may have seen it, so it ends there.
        answer = client.legacy(&session, CALL).await;
    }
    // Its client begins again.
    assert_eq!(answer.status, 404);
    assert!(away.seen().is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_is_the_versions_fault_and_never_repeated() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece(": one\n\n")).unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    pieces.send(Err(std::io::Error::other("crash"))).unwrap();
    assert!(
        soon(response.body_mut().collect()).await.is_err(),
        "cut, not ended"
    );
    gateway
        .observed
        .outcome("v1", "add", Outcome::Transport, 1)
        .await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn silence_is_a_time_out_before_and_within_an_answer() {
    let server = Server::start(|seen| async move {
        if seen.header("x-never").is_some() {
            return std::future::pending().await;
        }
        let (pieces, reply) = pieces("application/octet-stream");
        pieces.send(piece("begun")).unwrap();
        // Kept for longer than anybody waits.
        tokio::spawn(async move { pieces.closed().await });
        reply
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.response_timeout = Duration::from_millis(100);
    tools.settings.idle_timeout = Duration::from_millis(100);
    let mut gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let answer = client
        .modern("tools/call", Some("add"), &[("x-never", "1")], "{}")
        .await;
    assert_eq!(answer.status, 504);
    assert!(
        answer.text().contains("response_timeout"),
        "{}",
        answer.text()
    );
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let first = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "begun");
    assert!(soon(response.body_mut().collect()).await.is_err());
    gateway
        .observed
        .outcome("v1", "add", Outcome::Timeout, 2)
        .await;
}

#[tokio::test]
async fn a_tool_that_hangs_in_an_event_stream_is_a_time_out() {
    let server = Server::start(|_| async move {
        let (pieces, reply) = pieces("text/event-stream");
        pieces
            .send(piece("id: 1\ndata:\n\n: still here\n\n"))
            .unwrap();
        tokio::spawn(async move { pieces.closed().await });
        reply
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.response_timeout = Duration::from_millis(100);
    let mut gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    assert!(soon(response.body_mut().collect()).await.is_err());
    gateway
        .observed
        .outcome("v1", "add", Outcome::Timeout, 1)
        .await;
}

const PROGRESS: &str =
    "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";
const ASKS: &str =
    "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"elicitation/create\",\"params\":{}}\n\n";
const RESULT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
const MODERN_CALL: [(&str, &str); 3] = [
    ("mcp-protocol-version", "2026-07-28"),
    ("mcp-method", "tools/call"),
    ("mcp-name", "add"),
];

/// A server whose event streams are written by the test.
async fn by_pieces() -> (Server, tokio::sync::mpsc::UnboundedReceiver<Pieces>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    (server, receiver)
}

/// Begins a call and has its server say something.
async fn begun(
    gateway: &Running,
    receiver: &mut tokio::sync::mpsc::UnboundedReceiver<Pieces>,
    first: &str,
) -> (Client, ::http::Response<hyper::body::Incoming>, Pieces) {
    let mut client = gateway.client().await;
    let mut response = client.begin("POST", "/mcp", &MODERN_CALL, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece(first)).unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    (client, response, pieces)
}

#[tokio::test]
async fn a_call_that_hangs_after_an_event_is_a_time_out() {
    let (server, mut receiver) = by_pieces().await;
    let long = Duration::from_mins(1);
    let short = Duration::from_millis(200);
    for (response_timeout, idle_timeout, keeps_alive) in [
        (long, short, false),
        (short, long, false),
        (short, long, true),
    ] {
        let mut tools = service(&[build("v1", &[&server])], None);
        tools.settings.response_timeout = response_timeout;
        tools.settings.idle_timeout = idle_timeout;
        let mut gateway = Running::start(vec![tools]);
        let (_client, response, pieces) = begun(&gateway, &mut receiver, PROGRESS).await;
        let pings = tokio::spawn(async move {
            while keeps_alive && pieces.send(piece(": ping\n\n")).is_ok() {
                tokio::time::sleep(short / 8).await;
            }
            pieces.closed().await;
        });
        assert!(soon(response.into_body().collect()).await.is_err());
        soon(pings).await.unwrap();
        gateway
            .observed
            .outcome("v1", "add", Outcome::Timeout, 1)
            .await;
    }
}

#[tokio::test]
async fn a_call_may_take_longer_than_the_time_outs_while_it_says_so_or_asks_its_client() {
    let (server, mut receiver) = by_pieces().await;
    let max = Duration::from_millis(800);
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.response_timeout = max;
    tools.settings.idle_timeout = max;
    let mut gateway = Running::start(vec![tools]);
    let (_one, works, working) = begun(&gateway, &mut receiver, PROGRESS).await;
    let (_two, asks, asking) = begun(&gateway, &mut receiver, ASKS).await;
    for _ in 0..9 {
        tokio::time::sleep(max / 8).await;
        working.send(piece(PROGRESS)).unwrap();
    }
    for pieces in [working, asking] {
        pieces.send(piece(RESULT)).unwrap();
    }
    for response in [works, asks] {
        soon(response.into_body().collect()).await.unwrap();
    }
    gateway.observed.outcome("v1", "add", Outcome::Ok, 2).await;
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_after_long_is_a_time_out() {
    let hung_after = Duration::from_millis(100);
    let begin = |server: &Server, protocol| {
        let mut tools = service(&[build("v1", &[server])], None);
        tools.protocol = protocol;
        let keys = serin_gateway::Keyring::ephemeral().unwrap();
        Running::with(vec![tools], keys, |options| options.hung_after = hung_after)
    };
    let silent = Server::start(|_| std::future::pending()).await;
    for (protocol, tool) in [(Protocol::Mcp, "add"), (Protocol::Http, "none")] {
        let mut gateway = begin(&silent, protocol);
        let stream = client_of_a_modern_call(gateway.address).await;
        tokio::time::sleep(2 * hung_after).await;
        drop(stream);
        gateway
            .observed
            .outcome("v1", tool, Outcome::Timeout, 1)
            .await;
    }
    // A tool that began to answer, a download, and a tool that waits for its client.
    let (server, mut receiver) = by_pieces().await;
    for (protocol, first, tool, outcome) in [
        (Protocol::Mcp, PROGRESS, "add", Outcome::Timeout),
        (Protocol::Http, PROGRESS, "none", Outcome::Cancelled),
        (Protocol::Mcp, ASKS, "add", Outcome::Cancelled),
    ] {
        let mut gateway = begin(&server, protocol);
        let (client, response, _pieces) = begun(&gateway, &mut receiver, first).await;
        tokio::time::sleep(2 * hung_after).await;
        drop((client, response));
        gateway.observed.outcome("v1", tool, outcome, 1).await;
    }
}

#[tokio::test]
async fn a_call_that_was_cancelled_before_it_was_answered_at_all_does_not_count() {
    let server = Server::start(|seen| async move {
        match seen.rpc_method().as_str() {
            "initialize" => reply(200, &[("mcp-session-id", "up")], "{}"),
            "tools/call" => std::future::pending().await,
            _ => reply(202, &[], ""),
        }
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.settings.response_timeout = Duration::from_millis(500);
    let keys = serin_gateway::Keyring::ephemeral().unwrap();
    let mut gateway = Running::with(vec![tools], keys, |options| {
        options.hung_after = Duration::ZERO;
    });
    let mut client = gateway.client().await;
    let answer = client.initialize().await;
    let session = answer.header("mcp-session-id").unwrap().to_owned();
    let (mut other, of) = (gateway.client().await, session.clone());
    let call = tokio::spawn(async move { other.legacy(&of, CALL).await.status });
    let sent = async {
        while server.count("tools/call") == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(sent).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(client.legacy(&session, cancel).await.status, 202);
    assert_eq!(soon(call).await.unwrap(), 504);
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
}

#[tokio::test]
async fn calls_that_the_gateway_cuts_are_not_held_against_the_version() {
    let silent = Server::start(|_| std::future::pending()).await;
    let keys = serin_gateway::Keyring::ephemeral().unwrap();
    let tools = service(&[build("v1", &[&silent])], None);
    let Running {
        address,
        gateway,
        mut observed,
        ..
    } = Running::with(vec![tools], keys, |options| {
        options.hung_after = Duration::ZERO;
    });
    let _stream = client_of_a_modern_call(address).await;
    let is_open = |sealed: &Sealed| sealed.open.iter().any(|(.., open)| open.calls > 0);
    observed.until(|seen| seen.iter().any(is_open)).await;
    assert_eq!(gateway.shutdown(Duration::ZERO).await.cut, 1);
    observed.outcome("v1", "add", Outcome::Cancelled, 1).await;
}

#[tokio::test]
async fn keys_are_counted_once_and_only_under_a_rollout() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let builds = || [build("v1", &[&one]), build("v2", &[&two])];
    let mut gateway = Running::with(
        vec![service(&builds(), None)],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| options.cores = 1,
    );
    let mut client = gateway.client().await;
    client.modern("tools/call", Some("add"), &[], "{}").await;
    gateway.swap(vec![service(&builds(), Some(50.0))]);
    for round in 0..3 {
        for caller in 0..10 {
            let token = format!("Bearer {caller}");
            client
                .modern(
                    "tools/call",
                    Some("add"),
                    &[("authorization", &token)],
                    "{}",
                )
                .await;
        }
        if round == 0 {
            client.initialize().await;
        }
    }
    let count = |seen: &[Sealed]| {
        seen.iter()
            .flat_map(|s| &s.trials)
            .map(|trials| trials.report.keys.len())
            .sum::<usize>()
    };
    gateway.observed.until(|seen| count(seen) == 11).await;
    let last = gateway.observed.seen.len();
    gateway.observed.until(|seen| seen.len() > last + 3).await;
    assert_eq!(count(&gateway.observed.seen), 11);
}

#[tokio::test]
async fn an_idle_core_says_so() {
    let mut gateway = Running::start(vec![]);
    let cores = |seen: &[Sealed], core| seen.iter().filter(|sealed| sealed.core == core).count();
    gateway
        .observed
        .until(|seen| cores(seen, 0) > 2 && cores(seen, 1) > 2)
        .await;
    let sequence = |core| {
        gateway
            .observed
            .seen
            .iter()
            .filter(move |s| s.core == core)
            .map(|s| s.sequence)
    };
    assert!(sequence(1).eq(0..sequence(1).count() as u64));
}

#[tokio::test]
async fn bytes_are_counted() {
    let server = Server::answering(|_| json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)).await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let answer = gateway
        .client()
        .await
        .modern("tools/call", Some("add"), &[], "{}")
        .await;
    let sent: Bytes = server.last().body;
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
    let counts = gateway.observed.counts();
    let counts = &counts[&("v1".to_owned(), "add".to_owned(), CallEra::Modern)];
    assert_eq!(
        (counts.request_bytes, counts.response_bytes),
        (sent.len() as u64, answer.body.len() as u64)
    );
}
