//! Sessions whose version was taken back, and servers that forget.

use crate::support::*;
use http_body_util::BodyExt as _;
use serin_gateway::Keyring;
use serin_model::{
    observe::{Outcome, Sealed},
    service::{Rebind, VersionStage},
    snapshot::ServiceRoute,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn withdrawn(one: &Server, two: &Server) -> ServiceRoute {
    let mut candidate = build("v2", &[two]);
    candidate.stage = VersionStage::Withdrawn;
    service(&[build("v1", &[one]), candidate], None)
}

fn rolling(one: &Server, two: &Server) -> ServiceRoute {
    service(&[build("v1", &[one]), build("v2", &[two])], Some(100.0))
}

fn moved(seen: &[Sealed]) -> (u64, u64) {
    let all = seen.iter().flat_map(|sealed| &sealed.moved);
    all.fold((0, 0), |(rebound, ended), (_, moved)| {
        (rebound + moved.rebound, ended + moved.ended)
    })
}

#[tokio::test]
async fn an_idle_session_goes_on_with_stable_behind_its_clients_back() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let mut gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    assert_eq!(client.legacy(&session, CALL).await.version(), "v2");
    gateway.swap(vec![withdrawn(&one, &two)]);
    let before = two.seen().len();
    for _ in 0..3 {
        let mut client = gateway.client().await;
        let answer = client.legacy(&session, CALL).await;
        assert_eq!(
            (answer.status, answer.version()),
            (200, "v1"),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains("one"));
    }
    assert_eq!(two.seen().len(), before);
    let methods: Vec<_> = one.seen().iter().map(Seen::rpc_method).collect();
    let call = "tools/call";
    assert_eq!(
        methods,
        ["initialize", "notifications/initialized", call, call, call]
    );
    let init = one.seen()[0].json();
    assert_eq!(init["params"]["clientInfo"]["name"], "test");
    assert_eq!(one.last().header("mcp-session-id"), Some("one-1"));
    gateway.observed.until(|seen| moved(seen) == (1, 0)).await;
}

#[tokio::test]
async fn many_requests_at_once_move_a_session_once() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    gateway.swap(vec![withdrawn(&one, &two)]);
    let address = gateway.address;
    let calls = (0..12).map(|_| {
        let session = session.clone();
        async move {
            Client::connect(address)
                .await
                .legacy(&session, CALL)
                .await
                .status
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses, [200; 12]);
    assert_eq!(one.count("initialize"), 1);
}

#[tokio::test]
async fn sessions_with_state_or_where_it_is_forbidden_get_404_and_start_again() {
    let subscribe =
        r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"x:y"}}"#;
    let answer_to_server = r#"{"jsonrpc":"2.0","id":"s1","result":{}}"#;
    for (message, rebind) in [
        (subscribe, Rebind::Stateless),
        (answer_to_server, Rebind::Stateless),
        (CALL, Rebind::Never),
    ] {
        let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
        let mut gateway = Running::start(vec![rolling(&one, &two)]);
        let mut client = gateway.client().await;
        let session = client
            .initialize()
            .await
            .header("mcp-session-id")
            .unwrap()
            .to_owned();
        assert!(client.legacy(&session, message).await.status < 300);
        let mut after = withdrawn(&one, &two);
        after.settings.rebind = rebind;
        gateway.swap(vec![after]);
        let answer = client.legacy(&session, CALL).await;
        assert_eq!(answer.status, 404, "{message}");
        assert!(answer.text().contains("initialize again"));
        gateway.observed.until(|seen| moved(seen) == (0, 1)).await;
        let again = client.initialize().await;
        assert_eq!(again.version(), "v1");
        let again = again.header("mcp-session-id").unwrap().to_owned();
        assert_eq!(client.legacy(&again, CALL).await.status, 200);
    }
}

#[tokio::test]
async fn a_version_that_is_tried_again_does_not_get_its_old_sessions_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    // With a restart the gateway forgets where it moved the session to.
    for restarts in [false, true] {
        let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
        let keys = if restarts {
            Keyring::create(&path).unwrap()
        } else {
            Keyring::ephemeral().unwrap()
        };
        let mut gateway = Running::with(vec![rolling(&one, &two)], keys, |_| {});
        let mut client = gateway.client().await;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let session = client.initialize().await;
            sessions.push(session.header("mcp-session-id").unwrap().to_owned());
        }
        let (used, idle) = (&sessions[0], &sessions[1]);
        assert_eq!(client.legacy(used, CALL).await.version(), "v2");
        let withdrawn_at = Some(jiff::Timestamp::now());
        gateway.swap(vec![withdrawn(&one, &two)]);
        assert_eq!(client.legacy(used, CALL).await.version(), "v1");
        let mut candidate = build("v2", &[&two]);
        candidate.withdrawn_at = withdrawn_at;
        let again = || service(&[build("v1", &[&one]), candidate.clone()], Some(100.0));
        gateway.swap(vec![again()]);
        let calls = two.count("tools/call");
        if restarts {
            drop(client);
            gateway.gateway.shutdown(PATIENCE).await;
            gateway = Running::with(vec![again()], Keyring::open(&path).unwrap(), |_| {});
            client = gateway.client().await;
        }
        for session in [used, idle] {
            let answer = client.legacy(session, CALL).await;
            let want = if restarts { (404, "") } else { (200, "v1") };
            assert_eq!((answer.status, answer.version()), want);
        }
        assert_eq!(two.count("tools/call"), calls);
        // One that begins now does belong there.
        let session = client.initialize().await;
        let session = session.header("mcp-session-id").unwrap().to_owned();
        assert_eq!(client.legacy(&session, CALL).await.version(), "v2");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_counts_as_withdrawn() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    gateway.swap(vec![service(&[build("v1", &[&one])], None)]);
    let answer = client.legacy(&session, CALL).await;
    assert_eq!((answer.status, answer.version()), (200, "v1"));
}

#[tokio::test]
async fn a_call_in_flight_finishes_where_it_began() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let one = Server::mcp("one").await;
    let two = Server::answering(move |seen| {
        if seen.rpc_method() == "initialize" {
            return reply(
                200,
                &[
                    ("mcp-session-id", "two-1"),
                    ("content-type", "application/json"),
                ],
                "{}",
            );
        }
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![rolling(&one, &two)]);
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
    gateway.swap(vec![withdrawn(&one, &two)]);
    // The next one is elsewhere.
    assert_eq!(
        gateway
            .client()
            .await
            .legacy(&session, CALL)
            .await
            .version(),
        "v1"
    );
    let text = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[]}}\n\n";
    pieces.send(piece(text)).unwrap();
    drop(pieces);
    let body = soon(response.body_mut().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, text);
}

#[tokio::test]
async fn an_open_stream_ends_when_its_session_has_to_move() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let one = Server::mcp("one").await;
    let two = Server::answering(move |seen| {
        if seen.rpc_method() == "initialize" {
            return reply(
                200,
                &[
                    ("mcp-session-id", "two-1"),
                    ("content-type", "application/json"),
                ],
                "{}",
            );
        }
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("accept", "text/event-stream"),
    ];
    let mut response = client.begin("GET", "/mcp", &headers, "").await;
    let pieces = soon(receiver.recv()).await.unwrap();
    gateway.swap(vec![withdrawn(&one, &two)]);
    assert!(soon(response.body_mut().frame()).await.is_none());
    soon(pieces.closed()).await;
}

#[tokio::test]
async fn the_client_of_a_moved_session_is_told_that_the_tools_may_have_changed() {
    let two = Server::mcp("two").await;
    let one = Server::answering(|seen| {
        let result = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
        match (seen.method.as_str(), seen.header("last-event-id")) {
            ("GET", None) => reply(
                200,
                &[("content-type", "text/event-stream")],
                "data: {}\n\n",
            ),
            ("GET", Some(_)) => reply(400, &[], "unknown event"),
            _ => reply(
                200,
                &[
                    ("content-type", "application/json"),
                    ("mcp-session-id", "new"),
                ],
                result,
            ),
        }
    })
    .await;
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    gateway.swap(vec![withdrawn(&one, &two)]);
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("last-event-id", "of-two"),
        ("accept", "text/event-stream"),
    ];
    let answer = client.ask("GET", "/mcp", &headers, "").await;
    assert_eq!(
        (answer.status, answer.version()),
        (200, "v1"),
        "{}",
        answer.text()
    );
    let events: Vec<_> = answer.text().split_inclusive("\n\n").collect();
    assert!(
        events[0].contains("notifications/tools/list_changed"),
        "{events:?}"
    );
    assert_eq!(events[1..], ["data: {}\n\n"]);
}

/// A server that forgets its sessions on demand.
async fn forgetful() -> (Server, std::sync::Arc<std::sync::Mutex<Option<String>>>) {
    let session = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (held, count) = (session.clone(), std::sync::atomic::AtomicUsize::new(0));
    let server = Server::answering(move |seen| {
        let mut held = held.lock().unwrap();
        if seen.rpc_method() == "initialize" {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let id = format!("up-{n}");
            *held = Some(id.clone());
            let body = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
            return reply(
                200,
                &[
                    ("mcp-session-id", &id),
                    ("content-type", "application/json"),
                ],
                body,
            );
        }
        if seen.header("mcp-session-id") != held.as_deref() {
            return reply(404, &[], "forgotten\n");
        }
        if seen.method == "DELETE" {
            *held = None;
            return reply(200, &[], "");
        }
        reply(
            200,
            &[("content-type", "application/json")],
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
        )
    })
    .await;
    (server, session)
}

#[tokio::test]
async fn a_server_that_was_started_anew_is_initialised_anew() {
    let (server, held) = forgetful().await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    for n in 1..3 {
        *held.lock().unwrap() = None;
        assert_eq!(client.legacy(&session, CALL).await.status, 200);
        assert_eq!(client.legacy(&session, CALL).await.status, 200);
        assert_eq!(
            server.last().header("mcp-session-id"),
            Some(&*format!("up-{n}"))
        );
    }
    assert_eq!(server.count("initialize"), 3);
}

#[tokio::test]
async fn what_cannot_be_taken_up_again_gets_the_servers_own_404() {
    let (server, held) = forgetful().await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let level =
        r#"{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"debug"}}"#;
    assert_eq!(client.legacy(&session, level).await.status, 200);
    *held.lock().unwrap() = None;
    let answer = client.legacy(&session, CALL).await;
    assert_eq!((answer.status, answer.text()), (404, "forgotten\n"));
}

#[tokio::test]
async fn an_answer_with_404_is_passed_on_and_not_sent_twice() {
    let begun = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
    let answer = "{\"jsonrpc\":\"2.0\", \"id\":7,\"error\":{\"code\":-1,\"message\":\"booked, but no receipt was found\"}}\n";
    let too_large = " ".repeat(200_000);
    for said in [answer, too_large.as_str()] {
        let text = said.to_owned();
        let server = Server::answering(move |seen| {
            let json = ("content-type", "application/json");
            match seen.rpc_method().as_str() {
                "initialize" => reply(200, &[json, ("mcp-session-id", "s")], begun),
                _ => reply(404, &[json], text.clone()),
            }
        })
        .await;
        let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = gateway.client().await;
        let session = client.initialize().await;
        let session = session.header("mcp-session-id").unwrap().to_owned();
        let got = client.legacy(&session, CALL).await;
        assert_eq!((got.status, got.text()), (404, said));
        assert_eq!(server.count("tools/call"), 1);
        assert_eq!(server.count("initialize"), 1);
    }
}

#[tokio::test]
async fn a_404_that_breaks_off_is_no_sign_of_a_forgotten_session() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |seen| {
        if seen.rpc_method() == "initialize" {
            return reply(200, &[("mcp-session-id", "s")], "{}");
        }
        let (pieces, mut reply) = pieces("application/json");
        *reply.status_mut() = http::StatusCode::NOT_FOUND;
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    let call = tokio::spawn(async move { client.legacy(&session, CALL).await });
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece("{\"jsonrpc\"")).unwrap();
    pieces.send(Err(std::io::Error::other("broken"))).unwrap();
    assert_eq!(soon(call).await.unwrap().status, 502);
    assert_eq!(server.count("initialize"), 1);
}

#[tokio::test]
async fn a_session_that_its_client_ended_stays_ended() {
    let (server, _) = forgetful().await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let session = client
        .initialize()
        .await
        .header("mcp-session-id")
        .unwrap()
        .to_owned();
    let headers = [("mcp-session-id", session.as_str())];
    assert_eq!(client.ask("DELETE", "/mcp", &headers, "").await.status, 200);
    assert_eq!(client.legacy(&session, CALL).await.status, 404);
    assert_eq!(server.count("initialize"), 1);
}

#[tokio::test]
async fn a_new_table_acts_on_the_very_next_request() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    for round in 0..50 {
        let (table, version) = if round % 2 == 0 {
            (withdrawn(&one, &two), "v1")
        } else {
            (rolling(&one, &two), "v2")
        };
        gateway.swap(vec![table]);
        let answer = client.modern("tools/call", Some("add"), &[], "{}").await;
        assert_eq!(answer.version(), version, "{round}");
    }
}

#[tokio::test]
async fn a_subscription_ends_when_its_version_is_taken_back() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let one = Server::mcp("one").await;
    let two = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![rolling(&one, &two)]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ];
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#;
    let mut response = client.begin("POST", "/mcp", &headers, body).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece("data: {}\n\n")).unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    gateway.swap(vec![withdrawn(&one, &two)]);
    assert!(soon(response.body_mut().frame()).await.is_none());
    soon(pieces.closed()).await;
}

#[tokio::test]
async fn a_body_that_comes_after_the_rollback_goes_to_stable() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let mut gateway = Running::start(vec![rolling(&one, &two)]);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (head, body) = (
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: add\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            gateway.address,
            CALL.len()
        ),
        CALL,
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The gateway asks for the body: it has found the service by then.
    let mut go_on = [0; 25];
    soon(stream.read_exact(&mut go_on)).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    gateway.swap(vec![withdrawn(&one, &two)]);
    stream.write_all(body.as_bytes()).await.unwrap();
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
    assert_eq!((one.seen().len(), two.seen().len()), (1, 0));
}

#[tokio::test]
async fn requests_that_wait_for_a_move_that_fails_give_up_together() {
    let one = Server::start(|_| std::future::pending()).await;
    let two = Server::mcp("two").await;
    let max = Duration::from_millis(500);
    let impatient = |mut service: ServiceRoute| {
        service.settings.response_timeout = max;
        vec![service]
    };
    let gateway = Running::start(impatient(rolling(&one, &two)));
    let mut client = gateway.client().await;
    let answer = client.initialize().await;
    let session = answer.header("mcp-session-id").unwrap();
    gateway.swap(impatient(withdrawn(&one, &two)));
    let began = std::time::Instant::now();
    let calls = (0..16).map(|_| async {
        let mut client = gateway.client().await;
        client.legacy(session, CALL).await.status
    });
    assert_eq!(futures_util::future::join_all(calls).await, [404; 16]);
    // One after the other they would take sixteen times as long.
    assert!(began.elapsed() < 6 * max, "{:?}", began.elapsed());
}
