//! Clients that send in drops: they lose their place, and others lose nothing.

use crate::support::*;
use serin_gateway::{
    BODY_BYTES_PER_SECOND_MIN, BODY_GRACE, BODY_SILENCE_MAX, HEAD_TIME_MAX, Keyring, Options,
};
use serin_model::{observe::Rejection, service::Protocol};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A short time, in place of those that people are given.
const SHORT: Duration = Duration::from_millis(200);

fn running(server: &Server, protocol: Protocol, change: impl FnOnce(&mut Options)) -> Running {
    let mut tools = service(&[build("v1", &[server])], None);
    tools.protocol = protocol;
    Running::with(vec![tools], Keyring::ephemeral().unwrap(), change)
}

/// Sends one drop after another until the gateway has enough; what it said, and how long that took.
async fn drip(gateway: &Running, head: &str, drop: &str, every: Duration) -> (String, Duration) {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let mut said = Vec::new();
    let dripping = async {
        let mut timer = tokio::time::interval(every);
        loop {
            timer.tick().await;
            if writing.write_all(drop.as_bytes()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let reading = async {
        // Whatever comes after the answer, the connection is of no use.
        let mut buffer = [0; 4096];
        while let Ok(n) = reading.read(&mut buffer).await
            && n > 0
        {
            said.extend_from_slice(&buffer[..n]);
            if !said.is_empty() {
                break;
            }
        }
    };
    tokio::select! {
        () = dripping => {}
        () = soon(reading) => {}
    }
    (String::from_utf8_lossy(&said).into_owned(), begun.elapsed())
}

fn post(gateway: &Running) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
        gateway.address
    )
}

#[test]
fn people_are_given_enough() {
    let options = Options::for_listener(([127, 0, 0, 1], 80).into());
    assert_eq!(options.head_timeout, HEAD_TIME_MAX);
    assert_eq!(options.body_silence, BODY_SILENCE_MAX);
    assert_eq!(options.body_grace, BODY_GRACE);
    assert_eq!(HEAD_TIME_MAX, Duration::from_secs(10));
    assert_eq!(BODY_SILENCE_MAX, Duration::from_secs(30));
}

#[tokio::test]
async fn a_head_in_drops_is_cut_and_others_are_served() {
    let server = Server::mcp("one").await;
    let gateway = running(&server, Protocol::Mcp, |options| {
        options.head_timeout = SHORT;
    });
    let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n", gateway.address);
    let slow = drip(&gateway, &head, "X: 1\r\n", Duration::from_millis(20));
    let others = async {
        let mut client = gateway.client().await;
        for _ in 0..20 {
            client.initialize().await;
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    let ((said, took), ()) = tokio::join!(slow, others);
    assert_eq!(said, "");
    assert!(took >= SHORT, "{took:?}");
    // A connection that is kept for later is not slow.
    let mut client = gateway.client().await;
    client.initialize().await;
    tokio::time::sleep(SHORT * 3).await;
    client.initialize().await;
}

#[tokio::test]
async fn a_preface_in_drops_is_a_head_in_drops() {
    let server = Server::mcp("one").await;
    let gateway = running(&server, Protocol::Mcp, |options| {
        options.head_timeout = SHORT;
    });
    for begun in ["PR", "\r\nG"] {
        let (said, _) = drip(&gateway, begun, "", SHORT).await;
        assert_eq!(said, "");
    }
}

#[tokio::test]
async fn a_collected_body_keeps_pace() {
    let server = Server::mcp("one").await;
    for (what, every, drop) in [
        ("silent", Duration::from_mins(1), ""),
        ("in drops", Duration::from_millis(20), " "),
    ] {
        let mut gateway = running(&server, Protocol::Mcp, |options| {
            options.body_silence = if what == "silent" {
                SHORT
            } else {
                Duration::from_mins(1)
            };
            options.body_grace = if what == "silent" {
                Duration::from_mins(1)
            } else {
                SHORT
            };
        });
        let (said, took) = drip(&gateway, &post(&gateway), drop, every).await;
        assert_eq!(status(&said), 408, "{what}: {said}");
        assert!(said.contains("too slowly"), "{what}: {said}");
        assert!(took >= SHORT, "{what}: {took:?}");
        gateway.observed.rejection(Rejection::Body, 1).await;
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_body_that_keeps_pace_may_take_longer_than_the_grace() {
    let server = Server::mcp("one").await;
    let gateway = running(&server, Protocol::Mcp, |options| options.body_grace = SHORT);
    // Twice as fast as it must be, for longer than it would have at none.
    let bytes = BODY_BYTES_PER_SECOND_MIN;
    let body = format!("{CALL}{}", " ".repeat(bytes - CALL.len()));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\nContent-Length: {bytes}\r\n\r\n",
        gateway.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in body.as_bytes().chunks(bytes.div_ceil(10)) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(SHORT / 4).await;
    }
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(status(&said), 200, "{said}");
}

#[tokio::test]
async fn a_streamed_body_is_not_silent_for_long() {
    let server = Server::start(async |_| json("{}")).await;
    let mut gateway = running(&server, Protocol::Http, |options| {
        options.body_silence = SHORT;
    });
    let head = format!("{}{{", post(&gateway));
    let (said, took) = drip(&gateway, &head, "", Duration::from_mins(1)).await;
    assert_eq!(status(&said), 408, "{said}");
    assert!(took >= SHORT, "{took:?}");
    gateway.observed.rejection(Rejection::Body, 1).await;
    // Who goes on sending may take as long as it takes.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = post(&gateway).replace("100000", "10\r\nConnection: close");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(SHORT / 4).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(status(&said), 200, "{said}");
}
