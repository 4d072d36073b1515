//! The end of a gateway.

use crate::support::*;
use http_body_util::BodyExt as _;
use serin_gateway::ShutdownReport;
use serin_model::observe::Outcome;
use std::time::Duration;

#[tokio::test]
async fn a_call_under_way_finishes_and_nothing_new_begins() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let mut idle = gateway.client().await;
    assert_eq!(idle.get("/ready").await.status, 200);
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    let address = gateway.address;
    let stopping = tokio::spawn(gateway.gateway.shutdown(PATIENCE));
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    assert!(!stopping.is_finished());
    let text = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
    pieces.send(piece(text)).unwrap();
    drop(pieces);
    let body = soon(response.body_mut().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, text);
    assert_eq!(soon(stopping).await.unwrap(), ShutdownReport { cut: 0 });
    gateway.observed.outcome("v1", "add", Outcome::Ok, 1).await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_counted() {
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
    let report = soon(gateway.gateway.shutdown(Duration::from_millis(50))).await;
    assert_eq!(report, ShutdownReport { cut: 1 });
    assert!(soon(response.body_mut().collect()).await.is_err());
    soon(pieces.closed()).await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
}

#[tokio::test]
async fn a_gateway_without_a_table_is_not_ready() {
    let gateway = Running::start(vec![]);
    let mut client = gateway.client().await;
    // Position 1: the log was read, though nothing is served yet.
    assert_eq!(client.get("/ready").await.status, 200);
    let answer = client.get("/mcp").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("serin apply"), "{}", answer.text());
}
