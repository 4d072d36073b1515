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
mod serve;

pub use access::{Access, TOKEN_CHARS, Token, TokenError};
pub use api::{openapi, routes, status};
pub use serve::{Listener, serve};

use axum::Router;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serin_config::Settings;
use serin_control::Control;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the binary is, for `serin_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The release.
    pub version: &'static str,
    /// The commit it was built from.
    pub revision: &'static str,
}

/// What every route can reach.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) control: Control,
    /// What the process was started with, beside its manifest.
    pub(crate) settings: Arc<Settings>,
    pub(crate) access: Arc<Access>,
    pub(crate) registry: Arc<Registry>,
    /// Cancelled when the process begins to end: streams that would never end by themselves end then.
    pub(crate) stop: CancellationToken,
    /// The event streams of flags that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    /// The limit on changes of flags.
    pub(crate) writes: Arc<api::flags::Writes>,
    pub(crate) build: Build,
    /// When the process began.
    pub(crate) began: Timestamp,
}

/// The router by itself: what [`serve`] serves.
pub fn router(
    control: Control,
    access: Access,
    build: Build,
    settings: Settings,
    stop: CancellationToken,
) -> Router {
    let registry = Arc::new(metrics::registry(control.clone(), build));
    api::router(App {
        control,
        settings: Arc::new(settings),
        access: Arc::new(access),
        registry,
        stop,
        streams: ofrep::places(),
        writes: Arc::default(),
        build,
        began: Timestamp::now(),
    })
}
