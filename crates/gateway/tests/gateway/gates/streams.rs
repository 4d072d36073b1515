//! Streams where something is closed: they show nothing of it, and tell when it opens.

use super::{admin_tools, answer_to, behind, flags, gated, next, session, start, tools};
use crate::support::*;
use http_body_util::BodyExt as _;
use std::sync::Arc;

#[tokio::test]
async fn who_sees_other_tools_than_before_hears_of_it_and_nobody_else() {
    let server = tools(false).await;
    let table = |admin: bool, other: bool| {
        let mut table = flags(&[("admin", admin), ("other", other)]);
        let blocked = (
            "blocked".parse().unwrap(),
            [("admin".parse().unwrap(), "off".into())].into(),
        );
        table.overrides = Arc::new([blocked].into());
        table
    };
    // The known tools are the same ones in every table.
    let known: Arc<[Arc<str>]> = ["add".into(), "admin.drop".into()].into();
    let services = || {
        let mut services = behind(&server, admin_tools(), &table(false, false));
        services[0].versions[0].tools = known.clone();
        services
    };
    let gateway = start(services(), &table(false, false));
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let open = |tenant: &'static str| {
        let session = session.clone();
        let address = gateway.address;
        async move {
            let headers = [
                ("accept", "text/event-stream"),
                ("mcp-session-id", session.as_str()),
                ("mcp-protocol-version", "2025-11-25"),
                ("x-tenant", tenant),
            ];
            let mut client = Client::connect(address).await;
            let stream = client.begin("GET", "/mcp", &headers, "").await;
            (client, stream)
        }
    };
    let (_kept, mut legacy) = open("acme").await;
    let (_kept2, mut blocked) = open("blocked").await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ];
    let listen = r#"{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true}}}"#;
    let mut listener = gateway.client().await;
    let mut modern = listener.begin("POST", "/mcp", &headers, listen).await;
    assert_eq!(next(&mut legacy).await, ": here\n\n");
    assert_eq!(next(&mut blocked).await, ": here\n\n");
    assert!(next(&mut modern).await.contains("acknowledged"));
    // A flag that opens nothing for anybody.
    gateway.swap_flags(services(), table(false, true));
    let quiet = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        legacy.body_mut().frame(),
    );
    assert!(quiet.await.is_err());
    let flipped = std::time::Instant::now();
    gateway.swap_flags(services(), table(true, true));
    assert!(
        next(&mut legacy)
            .await
            .contains("notifications/tools/list_changed")
    );
    let heard = next(&mut modern).await;
    assert!(
        heard.contains("notifications/tools/list_changed"),
        "{heard}"
    );
    assert!(
        heard.contains(r#""io.modelcontextprotocol/subscriptionId":"L""#),
        "{heard}"
    );
    assert!(
        flipped.elapsed() < std::time::Duration::from_secs(1),
        "{:?}",
        flipped.elapsed()
    );
    let quiet = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        blocked.body_mut().frame(),
    );
    assert!(quiet.await.is_err(), "to this tenant nothing has changed");
}

/// A server whose sessions get this stream.
async fn streaming(stream: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::answering(move |seen| {
        if seen.method == "GET" {
            return stream();
        }
        let headers = [
            ("content-type", "application/json"),
            ("mcp-session-id", "s-1"),
        ];
        reply(200, &headers, r#"{"jsonrpc":"2.0","id":0,"result":{}}"#)
    })
    .await
}

#[tokio::test]
async fn an_event_larger_than_is_held_passes_where_nothing_is_gated_and_nowhere_else() {
    let server = streaming(|| {
        let event = format!("data: {}\n\ndata: 1\n\n", "x".repeat(9 * 1024 * 1024));
        reply(200, &[("content-type", "text/event-stream")], event)
    })
    .await;
    let table = flags(&[("admin", false)]);
    for is_gated in [false, true] {
        let service = service(&[build("v1", &[&server])], None);
        let gated = gated(service.clone(), admin_tools(), &table);
        let gateway = start(vec![if is_gated { gated } else { service }], &table);
        let mut client = gateway.client().await;
        let id = session(&mut client).await;
        let headers = [("mcp-session-id", &*id), ("accept", "text/event-stream")];
        let stream = client.begin("GET", "/mcp", &headers, "").await;
        let read = soon(stream.into_body().collect()).await;
        assert_eq!(read.is_err(), is_gated);
        if let Ok(read) = read {
            let read = read.to_bytes();
            assert!(read.len() > 9 * 1024 * 1024 && read.ends_with(b"x\n\ndata: 1\n\n"));
        }
    }
}

#[tokio::test]
async fn what_comes_by_a_stream_agrees_too_however_it_is_cut() {
    let ask = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#;
    let list =
        r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"admin.drop"},{"name":"add"}]}}"#;
    let text = format!("id: 1\r\ndata: {ask}\r\n\r\nid: 2\ndata: {list}\n\n: end\n\n");
    let server = streaming(move || {
        let (sender, reply) = pieces("text/event-stream");
        for cut in text.as_bytes().chunks(7) {
            sender
                .send(piece(std::str::from_utf8(cut).unwrap()))
                .unwrap();
        }
        tokio::spawn(async move { sender.closed().await });
        reply
    })
    .await;
    let table = flags(&[("admin", false), ("elicitation", false)]);
    let services = behind(&server, admin_tools(), &table);
    // The features are open when the session begins, and closed afterwards.
    let open = flags(&[("admin", false), ("elicitation", true)]);
    let gateway = start(services.clone(), &open);
    let mut client = gateway.client().await;
    let id = session(&mut client).await;
    gateway.swap_flags(services, table);
    let headers = [
        ("mcp-session-id", &*id),
        ("last-event-id", "0"),
        ("accept", "text/event-stream"),
    ];
    let mut stream = client.begin("GET", "/mcp", &headers, "").await;
    let mut heard = String::new();
    while !heard.contains(": end\n\n") {
        heard += &next(&mut stream).await;
    }
    let kept = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"add"}]}}"#;
    // A line end may be cut between its two bytes.
    assert_eq!(
        heard.replace('\n', "|").replace("||", "|"),
        format!("id: 1|id: 2|data: {kept}|: end|")
    );
    answer_to(&server, "q").await;
}

#[tokio::test]
async fn a_stream_that_a_modern_caller_opens_shows_nothing_closed() {
    let list = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"admin.drop"}]}}"#;
    // The end of the last event is missing: some clients take it all the same.
    let text = format!("event: endpoint\ndata: /messages\n\ndata: {list}\n\ndata: {list}\n");
    let server = Server::answering(move |_| {
        reply(200, &[("content-type", "text/event-stream")], text.clone())
    })
    .await;
    let table = flags(&[("admin", false)]);
    let gateway = start(behind(&server, admin_tools(), &table), &table);
    let mut client = gateway.client().await;
    for version in ["2026-07-28", "2024-11-05"] {
        let headers = [("mcp-protocol-version", version)];
        let heard = client.ask("GET", "/mcp", &headers, "").await;
        assert!(heard.text().contains("data: /messages"), "{}", heard.text());
        assert!(!heard.text().contains("admin"), "{}", heard.text());
        assert_eq!(heard.text().matches(r#""tools":[]"#).count(), 2);
    }
}
