//! Serves the router: who connects, with TLS or without, and for how long.
//!
//! Peers are bounded in number, in the time of a handshake and in the time of a head: whoever reaches the port could otherwise hold
//! it without a token.

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use serin_tls::{Acceptor, Stream};
use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time for a head, from the answer before it: who keeps a connection for later makes another one by then.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How HTTP/2 begins (RFC 9113 section 3.4): by then it is known which HTTP a connection speaks.
const PREFACE_BYTES: usize = 24;
/// Connections at a time: some people with a screen each, a few watchers of flags for each of their services. Others wait.
const CONNECTIONS_MAX: usize = 4096;
/// Silence on an HTTP/2 connection after which its peer is asked whether it is there, and the time for its answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIME_MAX: Duration = Duration::from_secs(20);
/// Wait after a connection could not be accepted: file descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the admin API listens: bound by `main`, so that an upgrade can hand it on.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A port that speaks TLS.
    Tls(TcpListener, Acceptor),
    /// A socket in the file system, readable by its owner alone.
    Unix(UnixListener),
}

/// What serves each connection.
#[derive(Clone)]
struct Server {
    head_time_max: Duration,
    http: auto::Builder<TokioExecutor>,
    router: Router,
    stop: CancellationToken,
}

/// Serves until `stop` is cancelled and the calls in flight are answered.
///
/// # Errors
/// Never: what cannot be accepted is tried again.
pub async fn serve(listener: Listener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let server = Server {
        head_time_max: HEAD_TIME_MAX,
        http: http(HEAD_TIME_MAX),
        router,
        stop: stop.clone(),
    };
    serve_by(server, listener, stop).await
}

async fn serve_by(server: Server, listener: Listener, stop: CancellationToken) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let accepted = match &listener {
                Listener::Tcp(listener) | Listener::Tls(listener, _) => {
                    (listener.accept().await).map(|(stream, _)| Peer::Tcp(stream))
                }
                Listener::Unix(listener) => {
                    (listener.accept().await).map(|(stream, _)| Peer::Unix(stream))
                }
            };
            let acceptor = match &listener {
                Listener::Tls(_, acceptor) => Some(acceptor.clone()),
                Listener::Tcp(_) | Listener::Unix(_) => None,
            };
            match accepted {
                Ok(peer) => {
                    tasks.spawn(server.clone().take(peer, acceptor, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn http(head_time_max: Duration) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time_max);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME_MAX);
    http
}

/// Who connects.
enum Peer {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Server {
    async fn take(self, peer: Peer, acceptor: Option<Acceptor>, _place: OwnedSemaphorePermit) {
        let stream = match peer {
            Peer::Unix(stream) => return self.speak(stream).await,
            Peer::Tcp(stream) => stream,
        };
        // Answers are small and a watcher waits for each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "an admin connection keeps Nagle's delay");
        }
        let Some(acceptor) = acceptor else {
            return self.speak(Stream::Plain(stream)).await;
        };
        let shaken = tokio::select! {
            shaken = acceptor.accept(stream) => shaken,
            () = self.stop.cancelled() => return,
        };
        match shaken {
            Ok(stream) => self.speak(stream).await,
            Err(error) => tracing::debug!(%error, "no TLS with a peer of the admin API"),
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let stream = TokioIo::new(Opening {
            stream,
            left_bytes: PREFACE_BYTES,
            until: Box::pin(tokio::time::sleep(self.head_time_max)),
        });
        let service = TowerToHyperService::new(self.router);
        let mut serving = pin!(self.http.serve_connection(stream, service));
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection to the admin API broke");
        }
    }
}

/// A connection whose first bytes must come in time: until then nobody knows which HTTP it speaks, and no other time runs.
struct Opening<S> {
    stream: S,
    left_bytes: usize,
    until: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.left_bytes == 0 {
            return read;
        }
        let read_bytes = buffer.filled().len() - before;
        this.left_bytes = this.left_bytes.saturating_sub(read_bytes);
        match read {
            Poll::Pending => {
                ready!(this.until.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(_) => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    const TIME: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn listening() -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = Server {
            head_time_max: TIME,
            http: http(TIME),
            router: Router::new().route("/", get(async || "fine")),
            stop: stop.clone(),
        };
        tokio::spawn(serve_by(server, Listener::Tcp(listener), stop.clone()));
        (address, stop)
    }

    #[tokio::test]
    async fn who_sends_a_head_in_drops_is_let_go_and_others_are_served() {
        let (address, stop) = listening().await;
        let mut slow = Vec::new();
        // One of them may yet become HTTP/2, and one says nothing.
        for begun in ["GET / HTTP/1.1\r\nHost: a\r\n", "PR", ""] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        let mut quick = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        quick.write_all(request).await.unwrap();
        let mut said = String::new();
        let reading = quick.read_to_string(&mut said);
        timeout(PATIENCE, reading).await.unwrap().unwrap();
        assert!(said.ends_with("fine"), "{said}");
        for mut stream in slow {
            let mut rest = Vec::new();
            let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            closed.expect("it is closed").ok();
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn it_stops_with_idle_connections() {
        let (address, stop) = listening().await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut said = [0; 12];
        idle.read_exact(&mut said).await.unwrap();
        stop.cancel();
        let mut rest = Vec::new();
        timeout(PATIENCE, idle.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
    }
}
