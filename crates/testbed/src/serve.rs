//! A small HTTP/1.1 server that can be stopped, killed and told to reset a connection: what a test server needs and
//! `axum::serve` does not offer.

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// How long a clean stop waits for calls in flight. Streams that a client holds open for ever must not hold it up.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// After a failed accept (no descriptors left, say) the loop would spin; it takes a breath instead.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// An answer's body; an error in it cuts the connection.
pub(crate) type Body = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A body that is at hand.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// An answer whose body is at hand.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The client's address.
    #[cfg_attr(not(feature = "faults"), expect(dead_code, reason = "only faults ask"))]
    pub(crate) peer: SocketAddr,
    reset: Arc<AtomicBool>,
    raw: Arc<Mutex<Option<Raw>>>,
}

/// Bytes that stand in for an answer.
#[derive(Debug)]
struct Raw {
    bytes: Bytes,
    /// The connection is kept afterwards, as if the answer had been sent.
    stays: bool,
}

impl Connection {
    /// Makes the connection end in a TCP reset when it is closed, instead of an orderly end.
    #[cfg(feature = "faults")]
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Sends these bytes in place of the next answer, and closes the connection.
    #[cfg(feature = "faults")]
    pub(crate) fn say_instead(&self, bytes: impl Into<Bytes>) {
        self.say(bytes.into(), false);
    }

    /// Sends these bytes in place of the next answer, and goes on.
    #[cfg(feature = "faults")]
    pub(crate) fn say_and_stay(&self, bytes: impl Into<Bytes>) {
        self.say(bytes.into(), true);
    }

    #[cfg(feature = "faults")]
    fn say(&self, bytes: Bytes, stays: bool) {
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        *raw = Some(Raw { bytes, stays });
    }
}

/// A running server. Dropping it kills it: the listener and every connection are gone at once.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    kill: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `listen` (port 0 picks a free one) and answers with `handler`; `cleanup` runs when the server has ended,
    /// however it ended. `kill` ends it like a process that died.
    pub(crate) async fn start<H, F>(
        listen: SocketAddr,
        kill: CancellationToken,
        handler: H,
        cleanup: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>, Connection) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (stop, kill) = (stop.clone(), kill.clone());
            async move {
                tokio::select! {
                    () = kill.cancelled() => {}
                    () = accept(listener, stop, handler) => {}
                }
                cleanup.await;
            }
        });
        Ok(Self {
            address,
            stop,
            kill,
            task,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a killed process ends: no goodbye to anyone.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    /// Completes when the server was killed, by [`Server::kill`] or by its own handler.
    pub(crate) async fn killed(&self) {
        self.kill.cancelled().await;
    }

    /// Takes no new connection, lets calls in flight finish for up to half a second, and ends.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        // A panic of the accept loop has been printed by the panic hook; the server has ended either way.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

async fn accept<H, F>(listener: TcpListener, stop: CancellationToken, handler: H)
where
    H: Fn(Request<Incoming>, Connection) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_connection(stream, peer, stop.clone(), handler.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            }
        }
    }
    drop(listener);
    // Whatever is left after the grace is aborted with the set.
    let _ = tokio::time::timeout(STOP_GRACE, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn serve_connection<H, F>(
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Incoming>, Connection) -> F,
    F: Future<Output = Response<Body>>,
{
    // Small answers must not wait for Nagle; a socket that refuses is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let connection = Connection {
        peer,
        reset: Arc::default(),
        raw: Arc::default(),
    };
    let stream = Resettable {
        stream,
        reset: Arc::clone(&connection.reset),
        raw: Arc::clone(&connection.raw),
    };
    let service = service_fn(|request| {
        let response = handler(request, connection.clone());
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut served = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that went away, or a body that was cut on purpose: nobody is left to tell.
        _ = served.as_mut() => return,
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// A TCP stream that is reset, not closed, when its flag is up, and says other things than it was told to.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
    raw: Arc<Mutex<Option<Raw>>>,
}

impl Resettable {
    /// Writes what is to be said in place of the `whole` bytes that it was given; nothing where they are to be said.
    fn poll_instead(
        &mut self,
        context: &mut Context<'_>,
        whole: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        let mut said = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = said.as_mut()?;
        while !raw.bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &raw.bytes) {
                Poll::Ready(Ok(written)) => drop(raw.bytes.split_to(written)),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let stays = raw.stays;
        *said = None;
        Some(Poll::Ready(if stays {
            Ok(whole)
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }))
    }
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(said) = self.poll_instead(context, buffer.len()) {
            return said;
        }
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = buffers.iter().map(|buffer| buffer.len()).sum();
        if let Some(said) = self.poll_instead(context, whole) {
            return said;
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
