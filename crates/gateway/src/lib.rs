//! The data plane: accept, admit, route, forward, observe.
//!
//! A request's way is a straight line through the modules of these names:
//!
//! - `core` accepts: a thread a core, each with its own runtime, connections, pool and counters;
//! - `admit` says what a request is and whether it may pass;
//! - `route` decides, purely, which version and endpoint it goes to;
//! - `forward` sends it there and the answer back, through the scanner and unbuffered;
//! - `observe` counts it once and tells the control plane every 100 ms.
//!
//! Beside the line: `auth` (whose a request is), `access` (what flags and kills leave of a service), `kills` (calls that are cut), `limit` (how much
//! a caller may do), `sieve` and `lists` (answers that
//! must agree with both), `trials` (what of it the judge compares), `seal` and `session` (what clients hold for us), `rebind` (sessions
//! that must move), `affinity`, `headers`, `body`, `framing`, `pool`, `connection`, `refusal`.
//!
//! **Architecture invariants.** No lock is taken on the way of an ordinary request, but for the buckets of one that is limited. The routing table is read anew for every
//! request, and so are the kills, so a new one acts on the very next. The gateway knows nothing of the control plane: they meet in
//! `serin-model`. A session costs no memory here. What a client or server sends is forwarded byte for byte but for the values the
//! gateway minted; where a header and a body of a modern request disagree, the specification makes the server refuse, so both pass
//! as they are. Only where a flag or a kill may close something by name are bodies read and compared, and lists and capabilities
//! changed.

mod access;
mod admit;
mod affinity;
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
mod observe;
mod pool;
mod rebind;
mod refusal;
mod route;
mod seal;
mod session;
mod sieve;
mod trials;

pub use limit::{Backend, BackendError, OnFailure};
pub use seal::{Keyring, KeyringError};

use crate::core::{Core, Phase, Shared};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use limit::Limiter;
use observe::Counters;
use serin_flags::{Environment, Latch};
use serin_model::{observe::Sealed, snapshot::Snapshot};
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
    /// Time after which a connection without a complete request is closed.
    pub idle_timeout: Duration,
    /// Time for the body of an MCP request, which is collected. Beyond: 408.
    pub body_timeout: Duration,
    /// Age at which a tool's or a plain HTTP call that its client drops, unanswered and without `notifications/cancelled`,
    /// counts as timed out and not as cancelled; [`HUNG_AFTER`] unless set. Both versions are measured by it.
    pub hung_after: Duration,
    /// Where the process runs: kills and flags may be of an environment.
    pub environment: Environment,
    /// What is killed. It is read for every request, so that a kill acts on the very next one.
    pub latch: Arc<ArcSwap<Latch>>,
    /// Where gateways share the buckets of rate limits; without one each has its own.
    pub limiter: Option<Backend>,
}

impl Options {
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
            // As nginx's keep-alive time: clients are used to it.
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_mins(1),
            hung_after: HUNG_AFTER,
            environment: Environment::default(),
            latch: Arc::default(),
            limiter: None,
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
            options,
            keys: Arc::new(keys),
            sessions: Arc::new(Sessions::new(incarnation)),
            loads: (0..count).map(|_| AtomicUsize::new(0)).collect(),
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
