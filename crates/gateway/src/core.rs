//! One core of the data plane: a thread with its own runtime, connections, pool and counters.

use crate::{
    Options, admit, affinity, audit, body,
    connection::{self, Connection, Tap},
    limit::{self, Limiter},
    loads::Loads,
    observe::{Counters, Warnings},
    pool::Pool,
    rest,
    seal::Keyring,
    session::{self, Sessions},
};
use arc_swap::{ArcSwap, Cache};
use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::Timestamp;
use serin_flags::{Latch, kill::Stop};
use serin_model::{
    name::ServiceName,
    observe::{Rejection, Sealed},
    snapshot::Snapshot,
};
use serin_tenancy::TierName;
use serin_tls::{Acceptor, Stream, Trusts};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
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
/// Time from one look at the kills and flags to the next, for what is under way; a new request looks for itself.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// Stops whose probing calls are counted; there are hardly ever two.
const PROBES_MAX: usize = 1000;
/// Sweeps from one look at a client connection to the next.
const CONNECTION_CHECK_EVERY: Duration = Duration::from_secs(5);
/// The same where heads have less time.
const CONNECTION_CHECK_LEAST: Duration = Duration::from_millis(10);
/// Wait after a connection could not be accepted: file descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Silence on an HTTP/2 connection after which its peer is asked whether it is there, and the time for its answer. Clients that
/// sleep are asked by the system alone: a connection without a stream may be silent until it counts as idle.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIME_MAX: Duration = Duration::from_secs(20);
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

/// What a core tells its connections.
#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    /// Counts up when kills or flags changed: what is under way looks whether it may go on.
    alarm: u64,
}

/// What the cores share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) keys: Arc<Keyring>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) limiter: Limiter,
    /// How the endpoints do.
    pub(crate) loads: Arc<Loads>,
    /// Open connections by core.
    pub(crate) connections: Vec<AtomicUsize>,
    /// What endpoints at `https://` are checked by.
    pub(crate) trusts: Arc<Trusts>,
}

/// One core.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) counters: Rc<Counters>,
    pub(crate) warnings: Warnings,
    /// What REST remembers of endpoints and sessions.
    pub(crate) rest: rest::Memory,
    /// Those that are on their way.
    pub(crate) answers: body::Answers,
    /// The rows of its requests, where they are kept.
    pub(crate) audit: Option<Rc<audit::Sink>>,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    latch: RefCell<Cache<Arc<ArcSwap<Latch>>, Arc<Latch>>>,
    /// The rules of limits, as they follow from the routing table.
    limits: RefCell<limit::Plans>,
    /// What a request wants of buckets; kept for its memory.
    pub(crate) wants: RefCell<Vec<limit::Want>>,
    /// The way to the buckets that gateways share.
    pub(crate) limiter: limit::Connection,
    index: usize,
    state: watch::Sender<State>,
    alarm: Cell<u64>,
    /// Calls that asked at a stop that lets some through, by when and what it stops.
    probes: RefCell<HashMap<(Timestamp, &'static str), u32>>,
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
        let latch = Cache::new(shared.options.latch.clone());
        let audit = shared.options.audit.clone().map(audit::Sink::new);
        let audit = audit.map(Rc::new);
        Self {
            pool: Pool::new(shared.trusts.clone()),
            shared,
            counters: Rc::new(counters),
            warnings: Warnings::default(),
            rest: rest::Memory::default(),
            answers: body::Answers::default(),
            audit,
            snapshot: RefCell::new(Cache::new(snapshot)),
            latch: RefCell::new(latch),
            limits: RefCell::default(),
            wants: RefCell::default(),
            limiter: limit::Connection::default(),
            index: usize::from(index),
            state: watch::Sender::new(State {
                phase: Phase::Running,
                alarm: 0,
            }),
            alarm: Cell::new(0),
            probes: RefCell::default(),
            in_flight: Rc::default(),
            connection_ended: Notify::new(),
        }
    }

    /// The routing table as it is now.
    pub(crate) fn with_snapshot<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(self.snapshot.borrow_mut().load())
    }

    /// The rules of limits for callers of a tier at a service.
    pub(crate) fn limits_of(&self, service: &ServiceName, tier: Option<&TierName>) -> limit::Plan {
        let mut snapshot = self.snapshot.borrow_mut();
        let mut limits = self.limits.borrow_mut();
        limits.find(snapshot.load(), service, tier)
    }

    /// What is killed now; nothing if nothing is.
    pub(crate) fn latch(&self) -> Option<Arc<Latch>> {
        let mut latch = self.latch.borrow_mut();
        let latch = latch.load();
        (!latch.is_open()).then(|| latch.clone())
    }

    /// Another number whenever kills or flags changed.
    pub(crate) fn alarm(&self) -> u64 {
        self.alarm.get()
    }

    /// Whether a stop lets this call through, to see whether it works again: the first of so many.
    pub(crate) fn probes(&self, stop: &Stop, scope: &'static str) -> bool {
        stop.one_in.is_some() && self.probe_all(&[stop], scope)
    }

    /// Whether all of these stops let a call through. Where one does not, the turn that another would have let it have is kept for the
    /// next call.
    pub(crate) fn probe_all(&self, stops: &[&Stop], scope: &'static str) -> bool {
        let mut probes = self.probes.borrow_mut();
        if probes.len() >= PROBES_MAX {
            probes.clear();
        }
        let mut has_turn = |stop: &&&Stop| {
            let asked = *probes.entry((stop.at, scope)).or_default();
            (stop.one_in).is_some_and(|one_in| asked.is_multiple_of(one_in.max(1)))
        };
        let (turns, waits): (Vec<&&Stop>, Vec<&&Stop>) = stops.iter().partition(&mut has_turn);
        let passes = waits.is_empty();
        for stop in if passes { turns } else { waits } {
            let asked = probes.entry((stop.at, scope)).or_default();
            *asked = asked.wrapping_add(1);
        }
        passes
    }

    fn set_phase(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = phase);
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.shared.sessions
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.borrow().phase != Phase::Running
    }

    /// Runs until the shutdown is over; returns how many requests it cut.
    pub(crate) async fn run(
        self: Rc<Self>,
        mut accepted: mpsc::UnboundedReceiver<Accepted>,
        mut gateway: watch::Receiver<Phase>,
    ) -> u32 {
        let counters = self.counters.clone();
        spawn_local(async move { counters.keep_sealing().await });
        if let Some(audit) = self.audit.clone() {
            spawn_local(async move { audit.keep_flushing().await });
        }
        let core = self.clone();
        spawn_local(async move { core.keep_sweeping().await });
        let core = self.clone();
        spawn_local(async move { core.keep_watching().await });
        if let Some(backend) = self.shared.limiter.backend.clone() {
            let core = self.clone();
            spawn_local(async move { core.limiter.keep(&core.shared.limiter, &backend).await });
        }
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
        self.set_phase(Phase::Draining(until));
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
        self.set_phase(Phase::Cut);
        while self.load().load(Relaxed) > 0 {
            self.connection_ended.notified().await;
        }
        self.count_fallbacks();
        self.counters.seal();
        if let Some(audit) = &self.audit {
            audit.finish().await;
        }
        in_flight
    }

    fn load(&self) -> &AtomicUsize {
        &self.shared.connections[self.index]
    }

    async fn keep_sweeping(self: &Rc<Self>) {
        let mut timer = tokio::time::interval(SWEEP_EVERY);
        loop {
            timer.tick().await;
            self.pool.sweep();
            self.rest.sweep(self);
            self.answers.sweep(self.options().untaken_max);
            if self.index == 0 {
                self.sessions().sweep(session::now_seconds());
                self.shared.limiter.sweep();
                self.with_snapshot(|snapshot| self.shared.loads.sweep(snapshot));
            }
            self.count_fallbacks();
        }
    }

    /// What took the place of something that did not answer.
    fn count_fallbacks(&self) {
        if let Some((dependency, n)) = self.shared.limiter.outage.take() {
            self.counters.degraded(dependency, n);
        }
    }

    /// Wakes what is under way when kills or flags changed.
    async fn keep_watching(&self) {
        let look = || {
            let latch = self.latch.borrow_mut().load().clone();
            let table = self.with_snapshot(|table| (table.position, table.flags_revision));
            (latch, table)
        };
        let (mut latch, mut table) = look();
        let mut timer = tokio::time::interval(WATCH_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let now = look();
            if !Arc::ptr_eq(&now.0, &latch) || now.1 != table {
                (latch, table) = now;
                self.alarm.set(self.alarm.get() + 1);
                self.state.send_modify(|state| state.alarm += 1);
            }
        }
    }

    fn server(&self) -> auto::Builder<StreamExecutor> {
        let options = self.options();
        let mut server = auto::Builder::new(StreamExecutor(self.state.subscribe()));
        let head_bytes_max = options.head_bytes_max.max(HEAD_BYTES_MIN);
        server
            .http1()
            .max_headers(options.headers_max)
            .max_buf_size(head_bytes_max);
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIME_MAX)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX));
        server
    }

    /// Serves a connection until it ends.
    fn take(
        self: Rc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        server: Rc<auto::Builder<StreamExecutor>>,
    ) {
        spawn_local(async move {
            let core = Connected(self);
            if let Err(error) = core.0.serve(stream, peer, &server).await {
                tracing::debug!(%error, "a connection could not be served");
            }
        });
    }

    /// TLS with a client, unless the shutdown is over before.
    async fn shake_hands(&self, acceptor: &Acceptor, stream: TcpStream) -> io::Result<Stream> {
        let mut state = self.state.subscribe();
        let cut = state.wait_for(|state| state.phase == Phase::Cut);
        tokio::select! {
            shaken = acceptor.accept(stream) => shaken,
            _ = cut => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn serve(
        self: &Rc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        server: &auto::Builder<StreamExecutor>,
    ) -> io::Result<()> {
        let stream = TcpStream::from_std(stream)?;
        let stream = match &self.options().tls {
            None => Stream::Plain(stream),
            Some(acceptor) => Box::pin(self.shake_hands(acceptor, stream)).await?,
        };
        let is_trusted = affinity::is_trusted(peer.ip(), &self.options().trusted_proxies);
        let mut connection = Connection::new(peer, is_trusted, self.in_flight.clone());
        connection.is_tls = stream.is_tls();
        let connection = Rc::new(connection);
        let service = service_fn(|request| {
            let (core, connection) = (self.clone(), connection.clone());
            async move { Ok::<_, Infallible>(admit::serve(core, connection, request).await) }
        });
        let io = TokioIo::new(Tap {
            stream,
            connection: connection.clone(),
        });
        let mut serving = pin!(server.serve_connection(io, service));
        let mut state = self.state.subscribe();
        let head_timeout = self.options().head_timeout;
        let check_every = CONNECTION_CHECK_EVERY.min(head_timeout.max(CONNECTION_CHECK_LEAST));
        let mut check = tokio::time::interval(check_every);
        let mut is_draining = false;
        loop {
            let now = state.borrow_and_update().phase;
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
                // On an alarm too: what is under way is polled again and looks whether it may go on.
                _ = state.changed() => {}
                _ = check.tick() => {
                    let is_idle = connection.idle_for().is_some_and(|idle| idle > self.options().idle_timeout);
                    let is_slow = connection.in_head_for().is_some_and(|time| time > head_timeout);
                    if is_idle || is_slow {
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
                let loads = || shared.connections.iter().map(|count| count.load(Relaxed));
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
    shared.connections[core].fetch_add(1, Relaxed);
    cores[core].send((stream, peer)).map_err(|_| {
        // The core is stopping already.
        shared.connections[core].fetch_sub(1, Relaxed);
        io::Error::from(io::ErrorKind::BrokenPipe)
    })
}

/// Runs the streams of an HTTP/2 connection on its core, and polls them again on an alarm.
#[derive(Clone)]
struct StreamExecutor(watch::Receiver<State>);

impl<F> Executor<F> for StreamExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let mut state = self.0.clone();
        spawn_local(async move {
            let mut future = pin!(future);
            loop {
                tokio::select! {
                    _ = &mut future => return,
                    changed = state.changed() => {
                        if changed.is_err() {
                            break;
                        }
                    }
                }
            }
            future.await;
        });
    }
}
