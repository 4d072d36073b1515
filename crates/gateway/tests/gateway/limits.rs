//! What the gateway refuses, and that doing what it says helps.

use crate::support::*;
use serin_gateway::Keyring;
use serin_model::{observe::Rejection, service::Protocol};

fn limited(server: &Server) -> Running {
    let mut tools = service(&[build("v1", &[server])], None);
    tools.settings.body_bytes_max = 1000;
    Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.uri_bytes_max = 100;
        options.head_bytes_max = 8192;
    })
}

fn call_of(bytes: usize) -> String {
    let empty = CALL.replace("{}", r#"{"x":""}"#);
    CALL.replace(
        "{}",
        &format!(r#"{{"x":"{}"}}"#, "a".repeat(bytes - empty.len())),
    )
}

#[tokio::test]
async fn bodies_are_taken_up_to_the_limit() {
    let server = Server::mcp("one").await;
    let mut gateway = limited(&server);
    let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\nConnection: close";
    for (bytes, want) in [(1000, 200), (1001, 413)] {
        let body = call_of(bytes);
        assert_eq!(body.len(), bytes);
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
            gateway.address
        );
        let sized = format!("{head}Content-Length: {bytes}\r\n\r\n{body}");
        let chunked =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{body}\r\n0\r\n\r\n");
        for request in [sized, chunked] {
            let answer = raw(gateway.address, &request, "").await;
            assert_eq!(status(&answer), want, "{answer}");
            assert!(
                want == 200 || answer.contains("raise its `body_bytes_max`"),
                "{answer}"
            );
        }
    }
    assert_eq!(server.seen().len(), 2);
    gateway.observed.rejection(Rejection::Body, 2).await;
}

#[tokio::test]
async fn the_limit_of_bodies_can_be_raised() {
    let server = Server::mcp("one").await;
    let mut tools = service(&[build("v1", &[&server])], None);
    let gateway = Running::start(vec![tools.clone()]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    let body = call_of(5 << 20);
    // Refused by its head: while it still sent the body, a client might not read the answer.
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        gateway.address,
        body.len()
    );
    let answer = raw(gateway.address, &head, "").await;
    assert_eq!(status(&answer), 413);
    assert!(answer.contains("raise its `body_bytes_max`"), "{answer}");
    tools.settings.body_bytes_max = body.len();
    gateway.swap(vec![tools]);
    assert_eq!(client.legacy(&session, body.clone()).await.status, 200);
    assert_eq!(server.last().body.len(), body.len());
}

#[tokio::test]
async fn hosts_and_origins_of_others_are_refused() {
    let server = Server::mcp("one").await;
    let mut gateway = limited(&server);
    let mut client = gateway.client().await;
    let port = gateway.address.port();
    let local = format!("localhost:{port}");
    let own_origin = format!("http://localhost:{port}");
    let call = |headers: Vec<(&'static str, String)>| {
        let mut all = vec![
            ("mcp-protocol-version", "2026-07-28".to_owned()),
            ("mcp-method", "tools/call".to_owned()),
        ];
        all.extend(headers);
        all
    };
    for (headers, want) in [
        (vec![("host", "evil.example".to_owned())], 403),
        (vec![("host", format!("evil.example:{port}"))], 403),
        (vec![("host", local.clone())], 200),
        (vec![("host", "[::1]".to_owned())], 200),
        (vec![("origin", "http://evil.example".to_owned())], 403),
        (vec![("origin", "null".to_owned())], 403),
        (
            vec![("origin", "http://127.0.0.1.evil.example".to_owned())],
            403,
        ),
        (vec![("origin", own_origin)], 200),
        (vec![("origin", "http://127.0.0.1:6274".to_owned())], 200),
    ] {
        let shown = format!("{headers:?}");
        let headers = call(headers);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = client.ask("POST", "/mcp", &headers, CALL).await;
        assert_eq!(answer.status, want, "{shown}");
        let says =
            answer.text().contains("gateway.hosts") || answer.text().contains("gateway.origins");
        assert_eq!(says, want == 403, "{}", answer.text());
    }
    let none = raw(
        gateway.address,
        "GET /mcp HTTP/1.1\r\nConnection: close\r\n\r\n",
        "",
    )
    .await;
    assert_eq!(status(&none), 400);
    gateway.observed.rejection(Rejection::Host, 3).await;
    gateway.observed.rejection(Rejection::Origin, 3).await;
}

#[tokio::test]
async fn hosts_and_origins_can_be_added() {
    let server = Server::mcp("one").await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.hosts = vec!["tools.example".into()];
    let gateway = Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.origins = vec!["https://console.example".into()];
    });
    let mut client = gateway.client().await;
    let headers = [
        ("host", "TOOLS.example"),
        ("origin", "https://console.example"),
        ("mcp-protocol-version", "2026-07-28"),
    ];
    assert_eq!(client.ask("POST", "/mcp", &headers, CALL).await.status, 200);
    assert_eq!(
        client
            .ask("POST", "/mcp", &[("host", "localhost")], CALL)
            .await
            .status,
        404,
        "another host's service"
    );
}

#[tokio::test]
async fn two_ways_to_tell_a_length_are_refused() {
    let server = Server::mcp("one").await;
    let gateway = limited(&server);
    let host = gateway.address;
    let bytes = CALL.len();
    let chunked = format!("{bytes:x}\r\n{CALL}\r\n0\r\n\r\n");
    let both = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ];
    for lengths in both {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nMCP-Protocol-Version: 2026-07-28\r\n{lengths}\r\n\r\n{chunked}"
        );
        let answer = raw(gateway.address, &request, "").await;
        assert_eq!(status(&answer), 400, "{answer}");
        assert!(answer.contains("send one of them"));
    }
    assert!(server.seen().is_empty());
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nMCP-Protocol-Version: 2026-07-28\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
    );
    assert_eq!(status(&raw(gateway.address, &request, "").await), 200);
    assert_eq!(server.last().text(), CALL);
}

#[tokio::test]
async fn two_ways_to_tell_a_length_are_refused_behind_a_large_body() {
    let server = Server::answering(|_| json("{}")).await;
    let mut web = service(&[build("v1", &[&server])], None);
    web.protocol = Protocol::Http;
    let gateway = Running::start(vec![web]);
    let host = gateway.address;
    let post = |lengths: &str| format!("POST /mcp HTTP/1.1\r\nHost: {host}\r\n{lengths}\r\n\r\n");
    let body = "x".repeat(200_000);
    let large = post("Content-Length: 200000") + &body;
    let chunked = "1\r\na\r\n0\r\n\r\n";
    let fine = post("Transfer-Encoding: chunked\r\nConnection: close") + chunked;
    let answers = raw(host, &format!("{large}{fine}"), "").await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let both = post("Transfer-Encoding: chunked\r\nContent-Length: 3") + chunked;
    let answers = raw(host, &format!("{large}{both}"), "").await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::mcp("one").await;
    let gateway = limited(&server);
    let host = gateway.address;
    let many = "X: 1\r\n".repeat(120);
    for (request, want) in [
        (
            format!(
                "GET /mcp?{} HTTP/1.1\r\nHost: {host}\r\n\r\n",
                "a".repeat(200)
            ),
            414,
        ),
        (
            format!(
                "GET /mcp HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n\r\n",
                "a".repeat(9000)
            ),
            431,
        ),
        (
            format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\n{many}\r\n"),
            431,
        ),
        (
            format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\nX Y: 1\r\n\r\n"),
            400,
        ),
    ] {
        let answer = raw(gateway.address, &request, "\r\n\r\n").await;
        assert_eq!(status(&answer), want, "{answer}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn connections_in_excess_are_told_so() {
    let server = Server::mcp("one").await;
    let tools = service(&[build("v1", &[&server])], None);
    let mut gateway = Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.connections_max = 2;
    });
    let mut first = gateway.client().await;
    let mut second = gateway.client().await;
    assert_eq!(first.get("/health").await.status, 200);
    assert_eq!(second.get("/health").await.status, 200);
    let answer = raw(gateway.address, "", "").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.ends_with("try again later\n"), "{answer}");
    gateway.observed.rejection(Rejection::Overload, 1).await;
    drop(first);
    let retried = async {
        loop {
            let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
            if status(&raw(gateway.address, &request, "\r\n\r\n").await) == 200 {
                break;
            }
        }
    };
    soon(retried).await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let server = Server::mcp("one").await;
    let tools = service(&[build("v1", &[&server])], None);
    let gateway = Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.idle_timeout = std::time::Duration::from_millis(1);
    });
    // Half a head does not keep it open.
    assert_eq!(
        raw(gateway.address, "GET /mcp HTTP/1.1\r\nHo", "").await,
        ""
    );
}
