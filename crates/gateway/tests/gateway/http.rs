//! Plain HTTP services, HTTP/2 clients, headers that must not pass.

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serin_model::{observe::Outcome, service::Protocol, snapshot::ServiceRoute};

fn web(server: &Server, path: &str) -> ServiceRoute {
    let mut web = service(&[build("v1", &[server])], None);
    web.protocol = Protocol::Http;
    web.path = path.into();
    web.versions[0].endpoints[0].url = format!("http://{}/base/", server.address);
    web
}

#[tokio::test]
async fn paths_queries_and_bodies_pass() {
    let server = Server::answering(|seen| {
        reply(
            201,
            &[("x-own", "1"), ("location", "/elsewhere")],
            seen.body.clone(),
        )
    })
    .await;
    let mut gateway = Running::start(vec![web(&server, "/api")]);
    let mut client = gateway.client().await;
    let answer = client
        .ask(
            "PUT",
            "/api/a%20b/c?x=1&y=%2F",
            &[("content-type", "text/x")],
            "hello",
        )
        .await;
    assert_eq!((answer.status, answer.text()), (201, "hello"));
    assert_eq!(answer.header("x-own"), Some("1"));
    assert_eq!(answer.header("location"), Some("/elsewhere"));
    assert_eq!(
        (answer.version(), answer.header("x-canary")),
        ("v1", Some("false"))
    );
    let seen = server.last();
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("PUT", "/base/a%20b/c?x=1&y=%2F")
    );
    assert_eq!(seen.header("host"), Some(&*server.address.to_string()));
    client.get("/api").await;
    assert_eq!(server.last().path, "/base/");
    client.get("/api?q=1").await;
    assert_eq!(server.last().path, "/base/?q=1");
    gateway.observed.outcome("v1", "none", Outcome::Ok, 3).await;
    let answer = client.get("/api/x/%2e%2e/%2e./secret").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("send it resolved"));
    let answer = client.get("/apix").await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains("served are `/api`"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn what_belongs_to_one_connection_does_not_pass() {
    let server = Server::answering(|_| {
        reply(
            200,
            &[
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=9"),
                ("x-own", "1"),
            ],
            "ok",
        )
    })
    .await;
    let gateway = Running::start(vec![web(&server, "/api")]);
    let mut client = gateway.client().await;
    let headers = [
        ("connection", "x-private, keep-alive"),
        ("x-private", "1"),
        ("te", "gzip"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "Basic x"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-port", "666"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("authorization", "Bearer t"),
    ];
    let answer = client.ask("GET", "/api", &headers, "").await;
    assert_eq!(answer.header("x-own"), Some("1"));
    for gone in ["x-hop", "keep-alive"] {
        assert_eq!(answer.header(gone), None);
    }
    let seen = server.last();
    for gone in [
        "x-private",
        "te",
        "upgrade",
        "proxy-authorization",
        "forwarded",
        "x-forwarded-prefix",
        "x-forwarded-port",
        "x-real-ip",
        "connection",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("authorization"), Some("Bearer t"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(
        seen.header("x-forwarded-host"),
        Some(&*gateway.address.to_string())
    );
}

#[tokio::test]
async fn the_host_that_was_checked_is_the_one_that_is_passed_on() {
    let server = Server::answering(|_| reply(200, &[], "ok")).await;
    let gateway = Running::start(vec![web(&server, "/api")]);
    let host = gateway.address;
    let ask = |target: String| async move {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        status(&raw(host, &request, "").await).as_u16()
    };
    assert_eq!(ask("/api".into()).await, 403);
    assert_eq!(ask(format!("http://evil.example@{host}/api")).await, 400);
    assert!(server.seen().is_empty());
    assert_eq!(ask(format!("http://{host}/api")).await, 200);
    let host = host.to_string();
    assert_eq!(server.last().header("x-forwarded-host"), Some(&*host));
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_client() {
    let server = Server::answering(|_| reply(200, &[], "ok")).await;
    let gateway = Running::with(
        vec![web(&server, "/api")],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| {
            options.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        },
    );
    let headers = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-prefix", "/shop"),
    ];
    gateway
        .client()
        .await
        .ask("GET", "/api", &headers, "")
        .await;
    let seen = server.last();
    let all: Vec<_> = seen.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(all, ["203.0.113.9", "127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.example"));
    assert_eq!(seen.header("x-forwarded-prefix"), Some("/shop"));
}

#[tokio::test]
async fn bodies_stream_both_ways_with_trailers() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, mut reply) = pieces("text/plain");
        reply
            .headers_mut()
            .insert("trailer", "x-sum".parse().unwrap());
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let gateway = Running::start(vec![web(&server, "/api")]);
    let request = format!(
        "GET /api HTTP/1.1\r\nHost: {}\r\nTE: trailers\r\nConnection: close\r\n\r\n",
        gateway.address
    );
    let reading = tokio::spawn(raw_owned(gateway.address, request));
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece("one")).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "9".parse().unwrap());
    pieces
        .send(Ok(hyper::body::Frame::trailers(trailers)))
        .unwrap();
    drop(pieces);
    let text = soon(reading).await.unwrap();
    assert!(text.contains("3\r\none\r\n0\r\nx-sum: 9\r\n\r\n"), "{text}");
}

async fn raw_owned(address: std::net::SocketAddr, request: String) -> String {
    raw(address, &request, "").await
}

#[tokio::test]
async fn http_2_clients_are_served() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let stream = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/mcp", gateway.address))
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "add")
        .body(Full::new(Bytes::from(CALL)))
        .unwrap();
    let calls = (0..20).map(|_| sender.send_request(request.clone()));
    for response in soon(futures_util::future::join_all(calls)).await {
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-serin-version"], "v1");
        let body = soon(response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert!(body.ends_with(br#""text":"one"}]}}"#), "{body:?}");
    }
    assert_eq!(
        server.last().header("x-forwarded-host"),
        Some(&*gateway.address.to_string())
    );
}

#[tokio::test]
async fn health_is_answered_by_the_gateway_itself() {
    let server = Server::answering(|_| reply(200, &[], "from the server")).await;
    let gateway = Running::start(vec![web(&server, "")]);
    let mut client = gateway.client().await;
    for path in ["/health", "/api/health", "/ready"] {
        let answer = client
            .ask("GET", path, &[("host", "10.1.2.3:8080")], "")
            .await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &"ok".into()),
            "{path}"
        );
        assert_eq!(answer.header("x-canary"), Some("false"));
    }
    assert_eq!(client.ask("POST", "/health", &[], "").await.status, 405);
    assert_eq!(client.get("/healthy").await.text(), "from the server");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn head_keeps_its_length_and_has_no_body() {
    let server = Server::answering(|_| reply(200, &[("content-length", "5")], "hello")).await;
    let gateway = Running::start(vec![web(&server, "/api")]);
    let mut client = gateway.client().await;
    let answer = client.ask("HEAD", "/api", &[], "").await;
    assert_eq!(
        (
            answer.status,
            answer.header("content-length"),
            answer.text()
        ),
        (200, Some("5"), "")
    );
    assert_eq!(client.get("/api").await.text(), "hello");
}
