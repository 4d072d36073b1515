//! Bodies that take their time on the way to an endpoint: who is waited for, and who is to blame.

use crate::support::*;
use serin_gateway::{Keyring, Loads, Options};
use serin_model::{
    name::EndpointId,
    observe::{NO_TOOL, Outcome},
    route::Live as _,
    service::Protocol,
    snapshot::{EndpointRoute, ServiceRoute},
};
use serin_route::standing::{OnFailure, Standing};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// A plain HTTP service at `/mcp` with one endpoint, of number 10.
fn plain(endpoint: SocketAddr) -> ServiceRoute {
    let mut service = service(&[build("v1", &[])], None);
    service.protocol = Protocol::Http;
    let url = format!("http://{endpoint}");
    service.versions[0].endpoints = vec![EndpointRoute::new(EndpointId(10), url)];
    service
}

fn start(service: ServiceRoute, change: impl FnOnce(&mut Options)) -> (Running, Arc<Loads>) {
    let loads = Arc::new(Loads::default());
    let given = loads.clone();
    let running = Running::with(vec![service], Keyring::ephemeral().unwrap(), |options| {
        options.loads = given;
        change(options);
    });
    (running, loads)
}

/// The head of an upload, without its body.
async fn upload(gateway: &Running, framing: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /mcp/do HTTP/1.1\r\nhost: {}\r\n{framing}\r\nconnection: close\r\n\r\n",
        gateway.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Sends one byte after another.
async fn send_steadily(stream: &mut TcpStream, bytes: usize, every: Duration) {
    for _ in 0..bytes {
        tokio::time::sleep(every).await;
        if stream.write_all(b"x").await.is_err() {
            return;
        }
    }
}

/// Waits until the endpoint does as it should.
async fn until(loads: &Loads, is_so: impl Fn(Standing) -> bool) {
    soon(async {
        while !is_so(loads.standing(EndpointId(10))) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn said_to(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // A broken connection ends what was said too.
    let _ = soon(stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// An endpoint that begins to answer with the first byte of a body of so many, and ends its answer with the last.
async fn answers_early(body_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut has_begun) = (Vec::new(), false);
                while stream.read_buf(&mut read).await.unwrap_or_default() > 0 {
                    let end = memchr::memmem::find(&read, b"\r\n\r\n");
                    let of_body = end.map_or(0, |end| read.len() - end - 4);
                    let mut say = String::new();
                    if of_body > 0 && !std::mem::replace(&mut has_begun, true) {
                        say +=
                            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
                    }
                    if of_body == body_bytes {
                        say += "4\r\ndone\r\n0\r\n\r\n";
                    }
                    stream.write_all(say.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_slow_upload_keeps_no_endpoint_out_that_is_back() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let server = Server::answering(move |_| {
        let status = if down.load(Relaxed) { 503 } else { 200 };
        reply(status, &[], "said")
    })
    .await;
    let mut service = plain(server.address);
    service.settings.breaker.failures = 1;
    service.settings.breaker.open = Duration::from_millis(200);
    service.settings.on_failure = OnFailure::FailClosed;
    let (gateway, loads) = start(service, |_| {});
    let mut client = gateway.client().await;
    assert_eq!(client.get("/mcp/x").await.status, 503);
    assert!(loads.standing(EndpointId(10)).is_open);
    is_down.store(false, Relaxed);
    until(&loads, |standing| !standing.is_open).await;
    // It is well again, and the first to come, which shows it, takes its time.
    let mut probe = upload(&gateway, "content-length: 100000").await;
    probe.write_all(b"x").await.unwrap();
    until(&loads, |standing| standing.in_flight == 1).await;
    let uploading = send_steadily(&mut probe, 100_000, Duration::from_millis(20));
    let others = async {
        while client.get("/mcp/x").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = uploading => panic!("{}", said_to(probe).await),
        () = soon(others) => {}
    }
    assert_eq!(loads.standing(EndpointId(10)).in_flight, 1, "the upload");
}

#[tokio::test]
async fn an_upload_in_a_talk_waits_for_the_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.unwrap();
        // It thinks about the first message for longer than other bodies have to come at their rate.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
        stream.write_all(answer).await.unwrap();
        while stream.read(&mut buffer).await.unwrap_or_default() > 0 {}
    };
    tokio::spawn(endpoint);
    let (gateway, _) = start(plain(address), |options| {
        options.body_grace = Duration::from_millis(100);
    });
    let mut stream = upload(&gateway, "transfer-encoding: chunked").await;
    stream.write_all(b"5\r\nfirst\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    let n = soon(stream.read(&mut buffer)).await.unwrap();
    let said = String::from_utf8_lossy(&buffer[..n]);
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

#[tokio::test]
async fn the_time_that_a_client_takes_to_send_is_not_held_against_a_version() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let (mut gateway, _) = start(plain(server.address), |_| {});
    let mut stream = upload(&gateway, "content-length: 15").await;
    let begun = Instant::now();
    send_steadily(&mut stream, 15, Duration::from_millis(100)).await;
    let sending_seconds = begun.elapsed().as_secs_f64();
    assert!(said_to(stream).await.ends_with("fine"));
    gateway
        .observed
        .outcome("v1", NO_TOOL, Outcome::Ok, 1)
        .await;
    let counts = gateway.observed.counts().into_values().next().unwrap();
    let first_byte = counts.first_byte.quantile_seconds(0.5).unwrap();
    assert!(
        first_byte < sending_seconds / 2.0,
        "{first_byte} s, after {sending_seconds} s in which it was sent"
    );
}

#[tokio::test]
async fn an_endpoint_that_answers_early_is_not_to_blame_for_a_client_that_stops_sending() {
    let mut service = plain(answers_early(100).await);
    service.settings.idle_timeout = Duration::from_millis(300);
    let (mut gateway, loads) = start(service, |_| {});
    let stops = async || {
        let mut stream = upload(&gateway, "content-length: 100").await;
        stream.write_all(b"abc").await.unwrap();
        let said = said_to(stream).await;
        assert!(said.contains("begun") && !said.contains("done"), "{said}");
    };
    // As many failures would open its breaker.
    tokio::join!(stops(), stops(), stops(), stops(), stops());
    (gateway.observed)
        .outcome("v1", NO_TOOL, Outcome::Cancelled, 5)
        .await;
    assert_eq!(loads.standing(EndpointId(10)), Standing::default());
}

#[tokio::test]
async fn an_upload_that_goes_on_behind_an_early_answer_is_a_sign_of_life() {
    let mut service = plain(answers_early(15).await);
    service.settings.idle_timeout = Duration::from_secs(1);
    let (gateway, _) = start(service, |_| {});
    let mut stream = upload(&gateway, "content-length: 15").await;
    send_steadily(&mut stream, 15, Duration::from_millis(100)).await;
    let said = said_to(stream).await;
    assert!(said.contains("done"), "{said}");
}

#[tokio::test]
async fn an_endpoint_that_reads_an_upload_steadily_is_waited_for() {
    const BODY_BYTES: usize = 4 * 1024 * 1024;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A megabyte and a half a second.
        let (mut buffer, mut read) = (vec![0; 45_000], 0);
        let mut timer = tokio::time::interval(Duration::from_millis(30));
        while read < BODY_BYTES {
            timer.tick().await;
            read += stream.read(&mut buffer).await.unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
        stream.write_all(answer).await.unwrap();
    });
    let mut service = plain(address);
    service.settings.response_timeout = Duration::from_millis(1200);
    let (gateway, _) = start(service, |_| {});
    let mut stream = upload(&gateway, &format!("content-length: {BODY_BYTES}")).await;
    // It may break: then what was said tells why.
    let _ = soon(stream.write_all(&vec![b'x'; BODY_BYTES])).await;
    let said = said_to(stream).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}
