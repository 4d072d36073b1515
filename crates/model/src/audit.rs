//! The audit trail of requests: what is kept of each. Rows are made by the data plane and written by the control side.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// One request and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// When it came, in microseconds since 1970.
    pub at_micros: i64,
    /// Whose it was; empty where nobody said.
    pub tenant: Box<str>,
    /// Who of the tenant: the id of a key, or the subject of a token.
    pub subject: Option<Box<str>>,
    /// The hash of the key, hex; empty without one.
    pub key_hash: Box<str>,
    /// The path without its query.
    pub endpoint: Box<str>,
    /// The HTTP method.
    pub method: Box<str>,
    /// The status that the client got.
    pub status: u16,
    /// Milliseconds from the request's head to the last byte of its answer.
    pub duration_ms: u32,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// What the client called itself, cut.
    pub user_agent: Option<Box<str>>,
    /// Why it failed, cut.
    pub error: Option<Box<str>>,
    /// The service, where one was found.
    pub service: Option<Box<str>>,
    /// The version that answered.
    pub version: Option<Box<str>>,
    /// The JSON-RPC method, where there is one.
    pub rpc_method: Option<Box<str>>,
    /// The tool that was called.
    pub tool: Option<Box<str>>,
    /// How the call ended, as the label `outcome`; for a request that was turned away, the label `reason`.
    pub outcome: &'static str,
    /// The arguments, redacted; only where they are recorded.
    pub arguments: Option<Box<str>>,
}

/// Whether rows can still be kept. Where they must be and cannot, the data plane answers 503.
#[derive(Clone, Debug, Default)]
pub struct AuditGate(Arc<AtomicBool>);

impl AuditGate {
    /// Whether requests must be refused, because they could not be recorded.
    pub fn is_shut(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Says so, or takes it back.
    pub fn shut(&self, shut: bool) {
        self.0.store(shut, Relaxed);
    }
}
