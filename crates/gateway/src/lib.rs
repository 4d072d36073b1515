//! The data plane: accept, admit, route, forward, observe.
//!
//! A request's way is a straight line through the modules of these names:
//!
//! - `core` accepts: a thread a core, each with its own runtime, connections, pool and counters;
//! - `admit` says what a request is and whether it may pass;
//! - `serin_model::route` decides, purely, which version and endpoint it goes to;
//! - `forward` sends it there and the answer back, through the scanner and unbuffered;
//! - `observe` counts it once and tells the control plane every 100 ms.
//!
//! Beside the line: `auth` (whose a request is), `audit` (a row of each request), `access` (what flags and kills leave of a service),
//! `limit` (how much a caller may do), `kills` (calls that are cut), `sieve` and `lists` (answers that must agree with flags and kills),
//! `trials` (what of it the judge compares), `seal` and `session` (what clients hold for us), `rebind` (sessions that must move), `rest`
//! (plain HTTP for tools), `affinity`, `headers`, `body`, `framing`, `pool`, `connection`, `refusal`.
//!
//! **Architecture invariants.** No lock is taken on the way of an ordinary request, but for the buckets of one that is limited. The
//! routing table is read anew for every request, and so are the kills, so a new one acts on the very next. The gateway knows nothing of
//! the control plane: they meet in `serin-model`. A session costs no memory here. What a client or server sends is forwarded byte for
//! byte but for the values the gateway minted; where a header and a body of a modern request disagree, the specification makes the server
//! refuse, so both pass as they are. Only where a flag, a kill, a scope or a limit may close something by name are bodies read and
//! compared, and lists and capabilities changed.

mod access;
mod admit;
mod affinity;
mod audit;
mod auth;
#[doc(hidden)]
pub mod bench;
mod body;
mod connection;
mod core;
mod forward;
mod framing;
mod headers;
mod kills;
mod limit;
mod lists;
mod loads;
mod observe;
#[doc(hidden)]
pub mod outside;
mod pool;
mod rebind;
mod refusal;
mod rest;
mod seal;
mod session;
mod sieve;
mod trials;

pub use audit::AuditTo;
pub use auth::sign::Signer;
pub use limit::{Backend, BackendError, OnFailure};
pub use loads::Loads;
pub use seal::{Keyring, KeyringError};

use crate::core::{Core, Phase, Shared};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use limit::Limiter;
use observe::Counters;
use serin_flags::{Environment, Latch};
use serin_model::{observe::Sealed, route, snapshot::Snapshot};
use session::Sessions;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{LocalSet, spawn_local},
};

/// Most cores.
pub const CORES_MAX: usize = 256;

/// Age at which a call counts as timed out when its client drops it unanswered, unless set. Common clients wait for 30 s to
/// 60 s; who drops a call within seconds has changed their mind, who does so later has waited in vain.
pub const HUNG_AFTER: Duration = Duration::from_secs(10);

/// Time for a head from its first byte, unless set: who has one sends it in one piece, and who sends it in drops holds a place.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Time without a byte of a body, unless set: a phone that changes its network is back by then.
pub const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Time from which on the rate of a collected body counts, unless set.
pub const BODY_GRACE: Duration = Duration::from_secs(10);

/// Least rate of a collected body: a tenth of the slowest line that people still have.
pub const BODY_BYTES_PER_SECOND_MIN: usize = 1024;

/// Time for which a client may ask for no more of an answer, unless set. Its system may have buffers of 32 MB and take the answer of one who
/// reads slowly by the megabyte, with minutes in between.
pub const UNTAKEN_MAX: Duration = Duration::from_mins(5);

/// Time without a call after which a session ends that REST keeps for a caller, unless set. Servers hold each in memory, and a new one
/// costs two short messages.
pub const REST_IDLE_MAX: Duration = Duration::from_mins(5);

/// Most calls under way at a time, unless set: as many as there may be connections, each of which carries one with HTTP/1.1. Together
/// they may hold as many bodies in memory.
pub const REQUESTS_MAX: usize = 10_000;

/// How the gateway treats connections and requests, whatever the service.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that carry requests; the processor's cores unless set. From 1 to [`CORES_MAX`].
    pub cores: usize,
    /// Values of `Host` that are admitted beside those of the services, with a port or (for any port) without; `*` admits
    /// all. Against DNS rebinding: loopback names and the listener's address unless set.
    pub hosts: Vec<String>,
    /// Values of `Origin` that are admitted to MCP services beside loopback and the admitted hosts, such as
    /// `https://console.example`.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest head of a request, in bytes; at least 8 KiB. Beyond: 431.
    pub head_bytes_max: usize,
    /// Most headers of a request. Beyond: 431.
    pub headers_max: usize,
    /// Longest path and query, in bytes. Beyond: 414.
    pub uri_bytes_max: usize,
    /// Most connections of clients at a time. Beyond: 503.
    pub connections_max: usize,
    /// Most calls under way at a time, open streams left out; [`REQUESTS_MAX`] unless set. Beyond: 503.
    pub requests_max: usize,
    /// With TLS, who shakes hands with clients.
    pub tls: Option<serin_tls::Acceptor>,
    /// Time after which a connection without a complete request is closed.
    pub idle_timeout: Duration,
    /// Time for a head from its first byte; [`HEAD_TIME_MAX`] unless set. Beyond, the connection is closed.
    pub head_timeout: Duration,
    /// Time for the body of an MCP request, which is collected. Beyond: 408.
    pub body_timeout: Duration,
    /// Time without a byte of a body; [`BODY_SILENCE_MAX`] unless set. Beyond: 408.
    pub body_silence: Duration,
    /// Time from which on a collected body must have come at [`BODY_BYTES_PER_SECOND_MIN`] or faster; [`BODY_GRACE`] unless set.
    /// Below: 408.
    pub body_grace: Duration,
    /// Time for which a client may ask for no more of an answer that it is given piece by piece; [`UNTAKEN_MAX`] unless set. Beyond, the
    /// answer is given up.
    pub untaken_max: Duration,
    /// Age at which a tool's or a plain HTTP call that its client drops, unanswered and without `notifications/cancelled`,
    /// counts as timed out and not as cancelled; [`HUNG_AFTER`] unless set. Both versions are measured by it.
    pub hung_after: Duration,
    /// Time without a call after which a session ends that REST keeps for a caller; [`REST_IDLE_MAX`] unless set.
    pub rest_idle: Duration,
    /// Where the process runs: kills and flags may be of an environment.
    pub environment: Environment,
    /// What is killed. It is read for every request, so that a kill acts on the very next one.
    pub latch: Arc<ArcSwap<Latch>>,
    /// What tells signed requests from forged ones; without it none can be signed.
    pub signer: Option<Arc<Signer>>,
    /// Who fetches the keys of identity providers anew when a token names one that is not known, by where the keys are.
    pub key_fetcher: Option<mpsc::Sender<String>>,
    /// Where gateways share the buckets of rate limits; without one each has its own.
    pub limiter: Option<Backend>,
    /// Where a row of each request goes, if one is kept.
    pub audit: Option<AuditTo>,
    /// How the endpoints do: written by the gateway, read by whoever wants to know.
    pub loads: Arc<Loads>,
}

impl Options {
    /// Asks for the keys of an identity provider anew. Who cannot be asked now is asked by the next such token.
    pub(crate) fn ask_for_keys(&self, source: &str) {
        if let Some(fetcher) = &self.key_fetcher {
            let _ = fetcher.try_send(source.to_owned());
        }
    }

    /// The defaults for a listener.
    pub fn for_listener(address: SocketAddr) -> Self {
        Self {
            cores: thread::available_parallelism().map_or(1, Into::into),
            hosts: ["localhost", "127.0.0.1", "[::1]"]
                .map(str::to_owned)
                .into_iter()
                .chain([address.to_string()])
                .collect(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            uri_bytes_max: 8 * 1024,
            connections_max: 10_000,
            requests_max: REQUESTS_MAX,
            // As nginx's keep-alive time: clients are used to it.
            idle_timeout: Duration::from_secs(75),
            tls: None,
            head_timeout: HEAD_TIME_MAX,
            body_timeout: Duration::from_mins(1),
            body_silence: BODY_SILENCE_MAX,
            body_grace: BODY_GRACE,
            untaken_max: UNTAKEN_MAX,
            hung_after: HUNG_AFTER,
            rest_idle: REST_IDLE_MAX,
            environment: Environment::default(),
            latch: Arc::default(),
            signer: None,
            key_fetcher: None,
            limiter: None,
            audit: None,
            loads: Arc::default(),
        }
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    cores: Vec<oneshot::Receiver<u32>>,
}

/// What a shutdown did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Requests and streams that were still under way at the deadline and were dropped.
    pub cut: u32,
}

impl Gateway {
    /// Starts the cores on a listener that is bound already. It is ready for traffic when `snapshot` holds one that was
    /// built from the log.
    ///
    /// # Errors
    /// A thread or the listener's registration could not be had.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the cores hold them from now on"
    )]
    pub fn start(
        listener: TcpListener,
        options: Options,
        keys: Keyring,
        snapshot: Arc<ArcSwap<Snapshot>>,
        observations: mpsc::Sender<Sealed>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let count = options.cores.clamp(1, CORES_MAX);
        let incarnation = getrandom::u64().map_err(io::Error::other)?;
        let limiter = Limiter::new(options.limiter.clone());
        let shared = Arc::new(Shared {
            limiter,
            loads: options.loads.clone(),
            options,
            keys: Arc::new(keys),
            sessions: Arc::new(Sessions::new(incarnation)),
            connections: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            trusts: Arc::default(),
        });
        let (phase, watched) = watch::channel(Phase::Running);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let mut listener = Some(listener);
        let mut cores = Vec::with_capacity(count);
        for (index, accepted) in (0_u16..).zip(receivers) {
            let (shared, snapshot, observations, watched) = (
                shared.clone(),
                snapshot.clone(),
                observations.clone(),
                watched.clone(),
            );
            let first = listener.take().map(|listener| (listener, senders.clone()));
            let (done, report) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let run = move || {
                let local = LocalSet::new();
                let running = local.run_until(async move {
                    let core = Rc::new(Core::new(index, shared.clone(), snapshot, observations));
                    if let Some((listener, senders)) = first {
                        let listener = tokio::net::TcpListener::from_std(listener)?;
                        let counters: Rc<Counters> = core.counters.clone();
                        spawn_local(self::core::accept(
                            listener,
                            shared,
                            senders,
                            counters,
                            watched.clone(),
                        ));
                    }
                    io::Result::Ok(core.run(accepted, watched).await)
                });
                match runtime.block_on(running) {
                    Ok(cut) => drop(done.send(cut)),
                    Err(error) => tracing::error!(%error, "a core of the gateway could not start"),
                }
            };
            thread::Builder::new()
                .name(format!("gateway-{index}"))
                .spawn(run)?;
            cores.push(report);
        }
        Ok(Self {
            address,
            phase,
            cores,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets what is under way finish for at most `deadline`, drops the rest, and sends the last
    /// observations.
    pub async fn shutdown(self, deadline: Duration) -> ShutdownReport {
        self.phase
            .send_replace(Phase::Draining(Instant::now() + deadline));
        let mut report = ShutdownReport::default();
        for core in self.cores {
            // A core that is gone has cut what it carried; how much, nobody knows.
            report.cut += core.await.unwrap_or_default();
        }
        report
    }
}
