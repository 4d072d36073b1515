//! One core of the data plane: a thread with its own runtime, connections, pool and counters.

use crate::{
    Options, admit, affinity,
    connection::{self, Connection, Tap},
    observe::{Counters, Warnings},
    pool::Pool,
    seal::Keyring,
    session::{self, Sessions},
};
use arc_swap::{ArcSwap, Cache};
use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use serin_model::{
    observe::{Rejection, Sealed},
    snapshot::Snapshot,
};
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    task::spawn_local,
};

/// Time from one look at idle connections to the next.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Sweeps from one look at a client connection to the next.
const CONNECTION_CHECK_EVERY: Duration = Duration::from_secs(5);
/// Wait after a connection could not be accepted: file descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most streams a client may have open on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Smallest buffer that hyper takes for a head.
const HEAD_BYTES_MIN: usize = 8192;

/// What a connection in excess is told.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 54\r\n\r\nThe gateway has too many connections; try again later\n";

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new connections; what runs may finish until then.
    Draining(Instant),
    /// What still runs is dropped.
    Cut,
}

/// What the cores share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) keys: Arc<Keyring>,
    pub(crate) sessions: Arc<Sessions>,
    /// Open connections by core.
    pub(crate) loads: Vec<AtomicUsize>,
}

/// One core.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) counters: Rc<Counters>,
    pub(crate) warnings: Warnings,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    index: usize,
    phase: watch::Sender<Phase>,
    /// Requests under way.
    in_flight: Rc<Cell<u32>>,
    connection_ended: Notify,
}

/// A connection on its way from the acceptor to a core.
pub(crate) type Accepted = (std::net::TcpStream, SocketAddr);

impl Core {
    pub(crate) fn new(
        index: u16,
        shared: Arc<Shared>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        observations: mpsc::Sender<Sealed>,
    ) -> Self {
        let counters = Counters::new(index, observations, shared.options.hung_after);
        Self {
            shared,
            pool: Pool::default(),
            counters: Rc::new(counters),
            warnings: Warnings::default(),
            snapshot: RefCell::new(Cache::new(snapshot)),
            index: usize::from(index),
            phase: watch::Sender::new(Phase::Running),
            in_flight: Rc::default(),
            connection_ended: Notify::new(),
        }
    }

    /// The routing table as it is now.
    pub(crate) fn with_snapshot<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(self.snapshot.borrow_mut().load())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.shared.sessions
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// Runs until the shutdown is over; returns how many requests it cut.
    pub(crate) async fn run(
        self: Rc<Self>,
        mut accepted: mpsc::UnboundedReceiver<Accepted>,
        mut gateway: watch::Receiver<Phase>,
    ) -> u32 {
        let counters = self.counters.clone();
        spawn_local(async move { counters.keep_sealing().await });
        let core = self.clone();
        spawn_local(async move { core.keep_sweeping().await });
        let server = Rc::new(self.server());
        let until = loop {
            tokio::select! {
                Some((stream, peer)) = accepted.recv() => {
                    self.clone().take(stream, peer, server.clone());
                }
                changed = gateway.changed() => match (changed, *gateway.borrow()) {
                    (Ok(()), Phase::Draining(until)) => break until,
                    (Ok(()), _) => {}
                    // The handle was dropped without a shutdown.
                    (Err(_), _) => break Instant::now(),
                }
            }
        };
        self.phase.send_replace(Phase::Draining(until));
        // Those that were accepted before the shutdown count as connected.
        accepted.close();
        while let Some((stream, peer)) = accepted.recv().await {
            self.clone().take(stream, peer, server.clone());
        }
        let drained = async {
            while self.load().load(Relaxed) > 0 {
                self.connection_ended.notified().await;
            }
        };
        let in_time = tokio::time::timeout_at(until.into(), drained).await.is_ok();
        let in_flight = if in_time { 0 } else { self.in_flight.get() };
        self.counters.cutting();
        self.phase.send_replace(Phase::Cut);
        while self.load().load(Relaxed) > 0 {
            self.connection_ended.notified().await;
        }
        self.counters.seal();
        in_flight
    }

    fn load(&self) -> &AtomicUsize {
        &self.shared.loads[self.index]
    }

    async fn keep_sweeping(&self) {
        let mut timer = tokio::time::interval(SWEEP_EVERY);
        loop {
            timer.tick().await;
            self.pool.sweep();
            if self.index == 0 {
                self.sessions().sweep(session::now_seconds());
            }
        }
    }

    fn server(&self) -> auto::Builder<LocalExecutor> {
        let options = self.options();
        let mut server = auto::Builder::new(LocalExecutor);
        let head_bytes_max = options.head_bytes_max.max(HEAD_BYTES_MIN);
        server
            .http1()
            .max_headers(options.headers_max)
            .max_buf_size(head_bytes_max);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX));
        server
    }

    /// Serves a connection until it ends.
    fn take(
        self: Rc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        server: Rc<auto::Builder<LocalExecutor>>,
    ) {
        spawn_local(async move {
            let core = Connected(self);
            if let Err(error) = core.0.serve(stream, peer, &server).await {
                tracing::debug!(%error, "a connection could not be served");
            }
        });
    }

    async fn serve(
        self: &Rc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        server: &auto::Builder<LocalExecutor>,
    ) -> io::Result<()> {
        let stream = TcpStream::from_std(stream)?;
        let is_trusted = affinity::is_trusted(peer.ip(), &self.options().trusted_proxies);
        let connection = Rc::new(Connection::new(peer, is_trusted, self.in_flight.clone()));
        let service = service_fn(|request| {
            let (core, connection) = (self.clone(), connection.clone());
            async move { Ok::<_, Infallible>(admit::serve(core, connection, request).await) }
        });
        let io = TokioIo::new(Tap {
            stream,
            connection: connection.clone(),
        });
        let mut serving = pin!(server.serve_connection(io, service));
        let mut phase = self.phase.subscribe();
        let mut check = tokio::time::interval(CONNECTION_CHECK_EVERY);
        let mut is_draining = false;
        loop {
            let now = *phase.borrow_and_update();
            match now {
                Phase::Cut => return Ok(()),
                Phase::Draining(_) if !is_draining => {
                    is_draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                Phase::Draining(_) | Phase::Running => {}
            }
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a client's connection broke");
                    }
                    return Ok(());
                }
                _ = phase.changed() => {}
                _ = check.tick() => {
                    if connection.idle_for().is_some_and(|idle| idle > self.options().idle_timeout) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A connection that counts as open, however it ends.
struct Connected(Rc<Core>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.load().fetch_sub(1, Relaxed);
        self.0.connection_ended.notify_one();
    }
}

/// Accepts connections and gives each to the core that has the fewest.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    cores: Vec<mpsc::UnboundedSender<Accepted>>,
    counters: Rc<Counters>,
    mut phase: watch::Receiver<Phase>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let loads = || shared.loads.iter().map(|load| load.load(Relaxed));
                if loads().sum::<usize>() >= shared.options.connections_max {
                    counters.reject(None, Rejection::Overload);
                    // The best effort: a client that does not read it sees the connection close.
                    let _ = stream.try_write(TOO_MANY);
                    continue;
                }
                let Some(least) = (0..cores.len()).zip(loads()).min_by_key(|(_, load)| *load)
                else {
                    return;
                };
                if let Err(error) = hand_over(stream, peer, least.0, &shared, &cores) {
                    tracing::debug!(%error, "a connection broke before it began");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; raise the limit of open files if this goes on");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    core: usize,
    shared: &Shared,
    cores: &[mpsc::UnboundedSender<Accepted>],
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    connection::keep_alive(&stream)?;
    let stream = stream.into_std()?;
    shared.loads[core].fetch_add(1, Relaxed);
    cores[core].send((stream, peer)).map_err(|_| {
        // The core is stopping already.
        shared.loads[core].fetch_sub(1, Relaxed);
        io::Error::from(io::ErrorKind::BrokenPipe)
    })
}

/// Runs what hyper spawns on the core of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}
