//! Endpoints that refuse, hang, reset, say that they cannot, or are slow: what their callers get, and that nothing is sent twice that a
//! server may have run.

use crate::support::{
    Answer, CALL, Client, PATIENCE, Reply, Running, Seen, Server, build, piece, pieces, reply,
    service, soon,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serin_gateway::{Keyring, Loads};
use serin_model::{
    name::EndpointId,
    observe::{Outcome, Rejection, Sealed},
    route::Live as _,
    service::{Protocol, VersionStage},
    snapshot::{EndpointRoute, ServiceRoute},
};
use serin_route::standing::{OnFailure, Standing};
use socket2::{Domain, SockRef, Socket, Type};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

/// A port at which nobody listens, and nobody else can.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A server that reads what comes and never answers: it hangs, or resets the connection.
struct Silent {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Silent {
    async fn start(resets: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                if stream.read(&mut head).await.unwrap_or_default() > 0 {
                    count.fetch_add(1, Relaxed);
                }
                if resets {
                    SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                } else {
                    held.push(stream);
                }
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

/// A plain HTTP service `tools` at `/mcp` with one version per list of endpoints, whose callers are told apart by `X-User`.
fn plain(versions: &[&[SocketAddr]]) -> ServiceRoute {
    let names = ["v1", "v2", "v3"];
    let builds: Vec<_> = names
        .iter()
        .take(versions.len())
        .map(|name| build(name, &[]))
        .collect();
    let mut service = service(&builds, None);
    service.protocol = Protocol::Http;
    service.settings.affinity_header = Some("x-user".to_owned());
    // The tests count attempts; what is tried again after a while has tests of its own.
    service.settings.retries.attempts = 1;
    for (at, (version, addresses)) in service.versions.iter_mut().zip(versions).enumerate() {
        let endpoints = addresses.iter().zip(0..).map(|(address, number)| {
            let id = u32::try_from(at + 1).unwrap() * 10 + number;
            EndpointRoute::new(EndpointId(id), format!("http://{address}"))
        });
        version.endpoints = endpoints.collect();
    }
    service
}

/// The gateway with how it thinks that the endpoints do.
fn start(service: ServiceRoute) -> (Running, Arc<Loads>) {
    start_with(service, usize::MAX)
}

fn start_with(service: ServiceRoute, requests_max: usize) -> (Running, Arc<Loads>) {
    let loads = Arc::new(Loads::default());
    let given = loads.clone();
    let keys = Keyring::ephemeral().unwrap();
    let running = Running::with(vec![service], keys, |options| {
        options.loads = given;
        options.requests_max = requests_max;
    });
    (running, loads)
}

fn fine(seen: &Seen) -> Reply {
    reply(200, &[], seen.path.clone())
}

async fn healthy() -> Server {
    Server::start(|seen| async move { fine(&seen) }).await
}

async fn ask(client: &mut Client, user: usize) -> Answer {
    let user = user.to_string();
    client
        .ask("POST", "/mcp/do", &[("x-user", &user)], "it")
        .await
}

/// Waits until an endpoint does as it should.
async fn until(loads: &Loads, endpoint: u32, is_so: impl Fn(Standing) -> bool) {
    let waiting = async {
        while !is_so(loads.standing(EndpointId(endpoint))) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
    assert!(in_time, "{:?}", loads.standing(EndpointId(endpoint)));
}

#[tokio::test]
async fn clients_that_send_their_bodies_slowly_are_no_failures_of_an_endpoint() {
    let server = healthy().await;
    let mut service = plain(&[&[server.address]]);
    service.settings.response_timeout = Duration::from_secs(1);
    let loads = Arc::new(Loads::default());
    let given = loads.clone();
    let keys = Keyring::ephemeral().unwrap();
    let mut gateway = Running::with(vec![service], keys, |options| {
        options.loads = given;
        options.body_silence = Duration::from_millis(700);
    });
    let head = format!(
        "POST /mcp/do HTTP/1.1\r\nhost: {}\r\ncontent-length: 6\r\nconnection: close\r\n\r\n",
        gateway.address
    );
    let send = async |pieces: usize| {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for piece in 0..pieces {
            if piece > 0 {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            stream.write_all(b"a").await.unwrap();
        }
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        said
    };
    // It takes longer than the endpoint has to answer, but the endpoint is not who is waited for.
    let whole = send(6).await;
    assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
    let slow = async || {
        let said = send(1).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    };
    // As many failures would open its breaker.
    tokio::join!(slow(), slow(), slow(), slow(), slow());
    assert_eq!(loads.standing(EndpointId(10)), Standing::default());
    assert_eq!(ask(&mut gateway.client().await, 1).await.status, 200);
    gateway.observed.rejection(Rejection::Body, 5).await;
    gateway
        .observed
        .outcome("v1", "none", Outcome::Cancelled, 5)
        .await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_nobody_a_call() {
    let (_port, dead) = refusing();
    let server = healthy().await;
    let (mut gateway, loads) = start(plain(&[&[dead, server.address]]));
    let mut client = gateway.client().await;
    for user in 0..60 {
        assert_eq!(ask(&mut client, user).await.status, 200, "{user}");
    }
    assert_eq!(server.seen().len(), 60);
    assert!(loads.standing(EndpointId(10)).is_open);
    assert!(!loads.standing(EndpointId(11)).is_open);
    // Five showed it, and from then on nobody goes there.
    gateway
        .observed
        .outcome("v1", "none", Outcome::Transport, 5)
        .await;
    gateway
        .observed
        .outcome("v1", "none", Outcome::Ok, 60)
        .await;
}

#[tokio::test]
async fn what_a_server_may_have_run_is_not_sent_again() {
    for (resets, status, outcome) in [
        (true, 502, Outcome::Transport),
        (false, 504, Outcome::Timeout),
    ] {
        let broken = Silent::start(resets).await;
        let server = healthy().await;
        let mut service = plain(&[&[broken.address, server.address]]);
        service.versions[0].endpoints[0].response_timeout = Some(Duration::from_millis(40));
        service.settings.outliers.failures_percent = 0;
        let (mut gateway, loads) = start(service);
        let mut client = gateway.client().await;
        let mut failed = 0;
        for user in 0..60 {
            let answer = ask(&mut client, user).await;
            if answer.status == 200 {
                continue;
            }
            failed += 1;
            assert_eq!(answer.status, status, "{}", answer.text());
            assert_eq!(broken.requests(), failed);
        }
        // A call each, and no more once the breaker is open.
        assert_eq!((failed, broken.requests(), server.seen().len()), (5, 5, 55));
        assert!(loads.standing(EndpointId(10)).is_open);
        gateway.observed.outcome("v1", "none", outcome, 5).await;
    }
}

#[tokio::test]
async fn unavailable_counts_and_passes_while_errors_are_answers() {
    for (status, opens) in [
        (502, true),
        (503, true),
        (504, true),
        (500, false),
        (429, false),
        (404, false),
    ] {
        let broken = Server::answering(move |_| reply(status, &[], "no")).await;
        let server = healthy().await;
        let (gateway, loads) = start(plain(&[&[broken.address, server.address]]));
        let mut client = gateway.client().await;
        let mut statuses = Vec::new();
        for user in 0..40 {
            statuses.push(ask(&mut client, user).await.status);
        }
        let failed = statuses.iter().filter(|seen| **seen == status).count();
        assert_eq!(broken.seen().len(), failed, "{status}");
        assert_eq!(
            failed + server.seen().len(),
            40,
            "{status}: each was sent once"
        );
        assert_eq!(failed == 5, opens, "{status}: {failed}");
        assert_eq!(loads.standing(EndpointId(10)).is_open, opens, "{status}");
    }
}

/// A server that says 503 until it is mended, and then holds each request until it may go on.
async fn flapping(good: Arc<AtomicUsize>, gate: Arc<Semaphore>) -> Server {
    Server::start(move |_| {
        let (good, gate) = (good.clone(), gate.clone());
        async move {
            if good.load(Relaxed) == 0 {
                return reply(503, &[], "broken");
            }
            gate.acquire().await.unwrap().forget();
            reply(200, &[], "mended")
        }
    })
    .await
}

#[tokio::test]
async fn one_request_at_a_time_shows_whether_it_works_again() {
    let (good, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let server = flapping(good.clone(), gate.clone()).await;
    let mut service = plain(&[&[server.address]]);
    service.settings.on_failure = OnFailure::FailClosed;
    service.settings.breaker.failures = 3;
    service.settings.breaker.open = Duration::from_millis(1);
    let (mut gateway, loads) = start(service);
    let mut client = gateway.client().await;
    for _ in 0..3 {
        until(&loads, 10, |standing| !standing.is_open).await;
        assert_eq!(ask(&mut client, 0).await.text(), "broken");
    }
    // Open, then half open: the first one in is the probe, the others are told to come again.
    good.store(1, Relaxed);
    until(&loads, 10, |standing| !standing.is_open).await;
    let mut first = gateway.client().await;
    let probe = tokio::spawn(async move { ask(&mut first, 1).await });
    until(&loads, 10, |standing| standing.in_flight == 1).await;
    for user in 2..8 {
        let refused = ask(&mut client, user).await;
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (503, Some("10"))
        );
        assert!(refused.text().contains("nothing was sent"));
    }
    assert_eq!(server.seen().len(), 4);
    gateway.observed.rejection(Rejection::Unusable, 6).await;

    // The client of the probe goes away: another one is let in.
    probe.abort();
    until(&loads, 10, |standing| {
        !standing.is_open && standing.in_flight == 0
    })
    .await;
    let mut second = gateway.client().await;
    let probe = tokio::spawn(async move { ask(&mut second, 9).await });
    until(&loads, 10, |standing| standing.in_flight == 1).await;
    assert_eq!(ask(&mut client, 10).await.status, 503);
    gate.add_permits(100);
    assert_eq!(soon(probe).await.unwrap().text(), "mended");
    until(&loads, 10, |standing| !standing.is_open).await;
    for user in 0..5 {
        assert_eq!(ask(&mut client, user).await.text(), "mended");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_too_often_is_ejected_and_others_are_kept() {
    let flaky = || async {
        let n = Arc::new(AtomicUsize::new(0));
        Server::answering(move |_| {
            // Never two failures in a row: its breaker stays closed.
            let status = if n.fetch_add(1, Relaxed).is_multiple_of(2) {
                503
            } else {
                200
            };
            reply(status, &[], "")
        })
        .await
    };
    let (first, second, server) = (flaky().await, flaky().await, healthy().await);
    let mut service = plain(&[&[first.address, second.address, server.address]]);
    service.settings.outliers.requests = 10;
    service.settings.outliers.window = Duration::from_hours(1);
    service.settings.panic_below_percent = 0;
    let (gateway, loads) = start(service);
    let mut client = gateway.client().await;
    for user in 0..300 {
        ask(&mut client, user).await;
    }
    // At most half of three.
    let ejected = [10, 11, 12].map(|id| loads.standing(EndpointId(id)).is_ejected);
    assert_eq!(ejected.iter().filter(|is| **is).count(), 1, "{ejected:?}");
    assert!(!ejected[2]);
    let alone = if ejected[0] { &first } else { &second };
    assert!(alone.seen().len() <= 12, "{}", alone.seen().len());
    let all = first.seen().len() + second.seen().len() + server.seen().len();
    assert_eq!(all, 300);
}

#[tokio::test]
async fn another_version_takes_the_place_of_one_that_is_gone() {
    let (_port, dead) = refusing();
    let server = healthy().await;
    let mut service = plain(&[&[dead], &[server.address]]);
    service.versions[0].fallback = vec![1];
    let (mut gateway, loads) = start(service);
    let mut client = gateway.client().await;
    for user in 0..20 {
        let answer = ask(&mut client, user).await;
        assert_eq!((answer.status, answer.version()), (200, "v2"));
    }
    assert_eq!(server.seen().len(), 20);
    assert!(loads.standing(EndpointId(10)).is_open);
    // What failed counts against the version at which it failed.
    gateway
        .observed
        .outcome("v1", "none", Outcome::Transport, 5)
        .await;
    gateway
        .observed
        .outcome("v2", "none", Outcome::Ok, 20)
        .await;
}

#[tokio::test]
async fn sessions_stay_where_they_are_though_their_version_has_a_fallback() {
    let (stays, other) = (Server::mcp("one").await, Server::mcp("two").await);
    let mut service = service(&[build("v1", &[&stays]), build("v2", &[&other])], None);
    service.versions[0].fallback = vec![1];
    service.settings.retries.attempts = 2;
    service.settings.retries.backoff = Duration::from_millis(1);
    let (mut gateway, _) = start(service);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    stays.stop();
    let answer = client.legacy(&session, CALL).await;
    assert_eq!(
        (answer.status, answer.version()),
        (502, "v1"),
        "{}",
        answer.text()
    );
    assert!(other.seen().is_empty());
    let session = client.initialize().await;
    assert_eq!((session.status, session.version()), (200, "v2"));
    let session = session.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.legacy(&session, CALL).await.version(), "v2");
    gateway.observed.outcome("v2", "add", Outcome::Ok, 1).await;
}

#[tokio::test]
async fn a_session_with_state_is_not_ended_by_a_breaker_or_an_ejection() {
    const CALLS: usize = 30;
    for (fails, answered) in [
        // Its breaker opens after five.
        ((|n| n < 5) as fn(usize) -> bool, 5),
        // Two of three: never so many in a row, but it is ejected.
        (|n| n % 3 != 2, CALLS),
    ] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let at = Server::answering(move |seen| {
            let id = seen.json()["id"].clone();
            match seen.rpc_method().as_str() {
                "tools/call" if fails(counted.fetch_add(1, Relaxed)) => reply(503, &[], ""),
                "initialize" => {
                    let result = serde_json::json!({ "protocolVersion": "2025-11-25" });
                    let answer =
                        serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result });
                    let headers = [
                        ("content-type", "application/json"),
                        ("mcp-session-id", "s"),
                    ];
                    reply(200, &headers, answer.to_string())
                }
                _ => {
                    let answer = serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": {} });
                    reply(
                        200,
                        &[("content-type", "application/json")],
                        answer.to_string(),
                    )
                }
            }
        })
        .await;
        let other = Server::mcp("other").await;
        let mut service = service(&[build("v1", &[&at, &other])], None);
        service.settings.on_failure = OnFailure::FailClosed;
        let (gateway, loads) = start(service);
        let mut client = gateway.client().await;
        let session = loop {
            let begun = client.initialize().await;
            if !at.seen().is_empty() {
                break begun.header("mcp-session-id").unwrap().to_owned();
            }
        };
        let level =
            r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}"#;
        assert_eq!(client.legacy(&session, level).await.status, 200);
        for n in 0..CALLS {
            let answer = client.legacy(&session, CALL).await;
            let is_refused = n >= answered;
            let want = if fails(n) || is_refused { 503 } else { 200 };
            assert_eq!(answer.status, want, "{n}: {}", answer.text());
            assert_eq!(answer.header("retry-after").is_some(), is_refused, "{n}");
        }
        assert_eq!(calls.load(Relaxed), answered);
        let standing = loads.standing(EndpointId(10));
        assert_eq!(standing.is_open, answered < CALLS, "{standing:?}");
        assert_eq!(standing.is_ejected, answered == CALLS, "{standing:?}");
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_initialised_elsewhere_counts_against_the_endpoint() {
    let down = Server::answering(|_| reply(503, &[], "")).await;
    let silent = Server::start(|_| std::future::pending()).await;
    for broken in [&down, &silent] {
        let lived = Server::mcp("lived").await;
        let versions = [build("v1", &[broken]), build("v2", &[&lived])];
        let mut begun = service(&versions, Some(100.0));
        begun.settings.breaker.failures = 1;
        begun.settings.response_timeout = Duration::from_millis(300);
        let (gateway, loads) = start(begun.clone());
        let mut client = gateway.client().await;
        let session = client.initialize().await;
        assert_eq!((session.status, session.version()), (200, "v2"));
        let session = session.header("mcp-session-id").unwrap().to_owned();
        let mut withdrawn = begun;
        withdrawn.split = None;
        withdrawn.versions[1].stage = VersionStage::Withdrawn;
        let stable = withdrawn.versions[0].endpoints[0].id;
        gateway.swap(vec![withdrawn]);
        assert_eq!(client.legacy(&session, CALL).await.status, 404);
        until(&loads, stable.0, |standing| standing.is_open).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_up_in_time_is_tried_again() {
    let (port, address) = refusing();
    let mut service = plain(&[&[address]]);
    service.settings.retries.attempts = 10;
    // Open, it would not be waited for.
    service.settings.breaker.failures = 0;
    let (mut gateway, _) = start(service);
    let mut client = gateway.client().await;
    let asking = tokio::spawn(async move { ask(&mut client, 1).await });
    let failed = |seen: &[serin_model::observe::Sealed]| {
        let cells = seen.iter().flat_map(|sealed| &sealed.cells);
        cells
            .map(|(_, counts)| counts.of(Outcome::Transport))
            .sum::<u64>()
            > 0
    };
    gateway.observed.until(failed).await;
    port.listen(16).unwrap();
    port.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(port.into()).unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = hyper::service::service_fn(|_| async {
            Ok::<_, std::io::Error>(reply(200, &[], "late"))
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(stream), answer)
            .await;
    });
    assert_eq!(soon(asking).await.unwrap().text(), "late");
    served.abort();
}

#[tokio::test]
async fn without_attempts_it_is_said_at_once() {
    let (_port, dead) = refusing();
    let mut service = plain(&[&[dead]]);
    service.settings.retries.attempts = 0;
    let (mut gateway, loads) = start(service);
    let mut client = gateway.client().await;
    for _ in 0..8 {
        let answer = ask(&mut client, 1).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("nothing was sent"));
    }
    // It fails open: the breaker keeps nobody away from the only endpoint.
    gateway
        .observed
        .outcome("v1", "none", Outcome::Transport, 8)
        .await;
    assert!(loads.standing(EndpointId(10)).is_open);
}

/// A server whose answers wait for a permit; an open stream is a GET.
async fn slow(gate: Arc<Semaphore>, opened: Arc<Notify>) -> Server {
    Server::start(move |seen| {
        let (gate, opened) = (gate.clone(), opened.clone());
        async move {
            if seen.method == "GET" {
                opened.notify_one();
                let (pieces, answer) = pieces("text/event-stream");
                std::mem::forget(pieces);
                return answer;
            }
            gate.acquire().await.unwrap().forget();
            reply(200, &[("content-type", "application/json")], "{}")
        }
    })
    .await
}

#[tokio::test]
async fn a_version_and_the_gateway_take_so_many_calls_at_a_time_and_any_number_of_streams() {
    for of_version in [true, false] {
        let (gate, opened) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let server = slow(gate.clone(), opened.clone()).await;
        let mut service = service(&[build("v1", &[&server])], None);
        service.versions[0].in_flight_max = of_version.then_some(2);
        let (mut gateway, loads) = start_with(service, if of_version { 100 } else { 2 });
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut client = gateway.client().await;
            let accept = [("accept", "text/event-stream")];
            streams.push((client.begin("GET", "/mcp", &accept, "").await, client));
        }
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = gateway.client().await;
            held.push(tokio::spawn(async move {
                client
                    .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
                    .await
            }));
        }
        until(&loads, 10, |standing| standing.in_flight == 2).await;
        let mut client = gateway.client().await;
        let more = client
            .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
            .await;
        assert_eq!((more.status, more.header("retry-after")), (503, Some("1")));
        assert!(more.text().contains("nothing was sent"), "{}", more.text());
        gateway.observed.rejection(Rejection::Overload, 1).await;
        gate.add_permits(3);
        for held in held {
            assert_eq!(soon(held).await.unwrap().status, 200);
        }
        until(&loads, 10, |standing| standing.in_flight == 0).await;
        let after = client
            .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
            .await;
        assert_eq!(after.status, 200);
        assert_eq!(server.count("tools/call"), 3);
    }
}

#[tokio::test]
async fn an_endpoint_that_drains_keeps_whom_it_has_and_takes_nobody_else() {
    let (leaving, stays) = (Server::mcp("leaving").await, Server::mcp("stays").await);
    let mut service = service(&[build("v1", &[&leaving, &stays])], None);
    let (gateway, _) = start(service.clone());
    let mut client = gateway.client().await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let session = client.initialize().await;
        sessions.push(session.header("mcp-session-id").unwrap().to_owned());
    }
    let there = leaving.count("initialize");
    assert!(there > 0 && stays.count("initialize") > 0);
    service.versions[0].endpoints[0].is_draining = true;
    gateway.swap(vec![service]);
    for session in &sessions {
        assert_eq!(client.legacy(session, CALL).await.status, 200);
    }
    assert_eq!(leaving.count("tools/call"), there);
    for _ in 0..20 {
        assert_eq!(client.initialize().await.status, 200);
    }
    assert_eq!(leaving.count("initialize"), there);
}

#[tokio::test]
async fn the_least_busy_endpoint_is_asked() {
    let gate = Arc::new(Semaphore::new(0));
    let server = slow(gate.clone(), Arc::new(Notify::new())).await;
    let other = healthy().await;
    let mut service = plain(&[&[server.address, other.address]]);
    service.versions[0].balance = serin_route::weigh::Balance::LeastRequests;
    let (gateway, loads) = start(service);
    let mut held = Vec::new();
    // Ties are broken either way: until one is held at the slow one.
    while loads.standing(EndpointId(10)).in_flight == 0 {
        let mut client = gateway.client().await;
        let (before, user) = (other.seen().len(), held.len());
        held.push(tokio::spawn(async move { ask(&mut client, user).await }));
        let came = async {
            while loads.standing(EndpointId(10)).in_flight == 0 && other.seen().len() == before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon(came).await;
        until(&loads, 11, |standing| standing.in_flight == 0).await;
    }
    let mut client = gateway.client().await;
    let before = other.seen().len();
    for user in 0..20 {
        assert_eq!(ask(&mut client, user).await.status, 200);
    }
    assert_eq!((server.seen().len(), other.seen().len()), (1, before + 20));
    gate.add_permits(10);
    for held in held {
        assert_eq!(soon(held).await.unwrap().status, 200);
    }
}

/// Sends a request over HTTP/2; the connection is held with the answer.
async fn over_http2(address: SocketAddr, path: &str) -> (Response<Incoming>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = (TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = http2::handshake(io.0, io.1).await.unwrap();
    let connection = tokio::spawn(async { connection.await.unwrap_or_default() });
    let request = Request::get(format!("http://{address}{path}"));
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
    (soon(answer).await.unwrap(), connection)
}

#[tokio::test]
async fn clients_that_take_nothing_of_their_answers_lose_their_places() {
    let large = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let server = Server::answering(move |seen| {
        let is_large = seen.path.ends_with("large");
        reply(
            200,
            &[],
            if is_large {
                large.clone()
            } else {
                "small".into()
            },
        )
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.protocol = Protocol::Http;
    tools.versions[0].in_flight_max = Some(2);
    let loads = Arc::new(Loads::default());
    let given = loads.clone();
    let mut gateway = Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.loads = given;
        options.untaken_max = Duration::from_millis(100);
    });
    // The one reads nothing, the other gives its stream no room. What it pings for is not that.
    let mut first = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "GET /mcp/large HTTP/1.1\r\nhost: {}\r\n\r\n",
        gateway.address
    );
    first.write_all(head.as_bytes()).await.unwrap();
    let (second, connection) = over_http2(gateway.address, "/mcp/large").await;
    let of_none = serin_model::observe::NO_TOOL;
    (gateway.observed)
        .outcome("v1", of_none, Outcome::Cancelled, 2)
        .await;
    assert_eq!(loads.standing(EndpointId(10)).in_flight, 0);
    let mut client = gateway.client().await;
    assert_eq!(client.get("/mcp/small").await.text(), "small");
    // Who comes back for it gets no half of it for the whole.
    assert!(soon(second.into_body().collect()).await.is_err());
    connection.abort();
}

#[tokio::test]
async fn a_call_that_is_answered_has_no_place_though_its_stream_stays_open() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = held.clone();
    let server = Server::answering(move |seen| {
        let (sender, answer) = pieces("text/event-stream");
        let id = seen.json()["id"].clone();
        let result = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\n");
        sender.send(piece(&result)).unwrap();
        keep.lock().unwrap().push(sender);
        answer
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.versions[0].in_flight_max = Some(1);
    tools.settings.idle_timeout = Duration::from_millis(500);
    let (mut gateway, loads) = start(tools);
    let headers = [
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut clients = [gateway.client().await, gateway.client().await];
    let mut open = Vec::new();
    for client in &mut clients {
        let mut answer = client.begin("POST", "/mcp", &headers, CALL).await;
        assert_eq!(answer.status(), 200);
        let first = soon(answer.body_mut().frame()).await.unwrap().unwrap();
        let first = first.into_data().unwrap();
        assert!(first.starts_with(b"data: "), "{first:?}");
        assert_eq!(loads.standing(EndpointId(10)).in_flight, 0);
        open.push(answer);
    }
    // What is said to be open agrees with that.
    let has_none = |sealed: &Sealed| sealed.open.iter().all(|(.., open)| open.calls == 0);
    let was_open = |sealed: &Sealed| !sealed.open.is_empty();
    (gateway.observed)
        .until(|seen| {
            seen.iter()
                .rfind(|sealed| was_open(sealed))
                .is_some_and(has_none)
        })
        .await;
    // A server ought to end its stream with the answer. One that does not is not waited for longer than for a byte.
    for answer in &mut open {
        assert!(soon(answer.body_mut().frame()).await.is_none());
    }
    gateway.observed.outcome("v1", "add", Outcome::Ok, 2).await;
    assert_eq!(held.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_notification_has_no_place_once_its_stream_is_open() {
    let server = Server::answering(move |_| {
        let (sender, answer) = pieces("text/event-stream");
        sender.send(piece(": here\n\n")).unwrap();
        std::mem::forget(sender);
        answer
    })
    .await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.versions[0].in_flight_max = Some(1);
    let (gateway, loads) = start(tools);
    let headers = [
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "notifications/progress"),
    ];
    let note = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.client().await;
        let answer = client.begin("POST", "/mcp", &headers, note).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(loads.standing(EndpointId(10)).in_flight, 0);
        held.push((client, answer));
    }
}
