//! Clients that read slowly keep their answers.

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serin_gateway::Keyring;
use serin_model::service::Protocol;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::MissedTickBehavior,
};

/// Much more than all buffers on its way.
const LARGE_BYTES: usize = 16 * 1024 * 1024;
/// Beyond what the system would take at once from a gateway that gave it as much as it likes.
const READING: Duration = Duration::from_secs(5);

/// A gateway whose clients may take nothing for a second.
async fn gateway() -> Running {
    let large = Bytes::from(vec![b'x'; LARGE_BYTES]);
    let server = Server::answering(move |_| reply(200, &[], large.clone())).await;
    let mut tools = service(&[build("v1", &[&server])], None);
    tools.protocol = Protocol::Http;
    Running::with(vec![tools], Keyring::ephemeral().unwrap(), |options| {
        options.untaken_max = Duration::from_secs(1);
    })
}

#[tokio::test]
async fn who_reads_slowly_by_http1_is_not_given_up() {
    let gateway = gateway().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut stream = socket.connect(gateway.address).await.unwrap();
    let head = format!(
        "GET /mcp/large HTTP/1.1\r\nhost: {}\r\n\r\n",
        gateway.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (begun, mut taken) = (Instant::now(), 0);
    // 600 KB a second.
    let mut buffer = vec![0; 60_000];
    let mut timer = tokio::time::interval(Duration::from_millis(100));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < READING {
        timer.tick().await;
        let read = soon(stream.read_exact(&mut buffer)).await;
        taken += read.unwrap_or_else(|error| panic!("{error} after {taken} bytes"));
    }
    assert!(taken < LARGE_BYTES);
}

#[tokio::test]
async fn who_reads_slowly_by_http2_is_not_given_up() {
    let gateway = gateway().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/mcp/large", gateway.address));
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
    let mut body = soon(answer).await.unwrap().into_body();
    let (begun, mut taken) = (Instant::now(), 0);
    while begun.elapsed() < READING {
        let frame = soon(body.frame()).await.expect("there is more");
        let frame = frame.unwrap_or_else(|error| panic!("{error} after {taken} bytes"));
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        taken += bytes;
        // 300 KB a second.
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / 300_000.0)).await;
    }
    assert!(taken < LARGE_BYTES);
}
