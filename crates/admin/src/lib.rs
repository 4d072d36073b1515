//! The admin API, health and metrics.
//!
//! One router on one listener that `main` has bound: `/health`, `/ready` and `/metrics` for anyone who reaches it, and
//! everything else behind the local token ([`access`]); flags, for `OpenFeature` clients, also behind a token of their own. Whatever is refused is an RFC 9457 problem document ([`problem`]).
//!
//! **Invariant:** this crate changes nothing itself. Each route is a command to, or a question of, [`Control`].

pub mod access;
mod api;
mod extract;
mod metrics;
mod ofrep;
pub mod problem;

pub use access::{Access, TOKEN_CHARS, Token, TokenError};
pub use api::openapi;

use axum::{Router, serve::ListenerExt as _};
use prometheus_client::registry::Registry;
use serin_control::Control;
use std::{io, sync::Arc};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// What the binary is, for `serin_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The release.
    pub version: &'static str,
    /// The commit it was built from.
    pub revision: &'static str,
}

/// Where the admin API listens: bound by `main`, so that an upgrade can hand it on.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A socket in the file system, readable by its owner alone.
    Unix(UnixListener),
}

/// What every route can reach.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) control: Control,
    pub(crate) access: Arc<Access>,
    pub(crate) registry: Arc<Registry>,
    /// Cancelled when the process begins to end: streams that would never end by themselves end then.
    pub(crate) stop: CancellationToken,
    /// The event streams of flags that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    /// The limit on changes of flags.
    pub(crate) writes: Arc<api::flags::Writes>,
}

/// The router by itself: what [`serve`] serves.
pub fn router(control: Control, access: Access, build: Build, stop: CancellationToken) -> Router {
    let registry = Arc::new(metrics::registry(control.clone(), build));
    api::router(App {
        control,
        access: Arc::new(access),
        registry,
        stop,
        streams: ofrep::places(),
        writes: Arc::default(),
    })
}

/// Serves until `stop` is cancelled and the calls in flight are answered.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: Listener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let stopped = stop.cancelled_owned();
    match listener {
        Listener::Tcp(listener) => {
            // Answers are small and a watcher waits for each.
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "an admin connection keeps Nagle's delay");
                }
            });
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        }
        Listener::Unix(listener) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        }
    }
}
