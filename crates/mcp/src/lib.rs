//! MCP as a gateway sees it: eras, envelope, SSE, response scanner, tool-contract difference. Pure.
//!
//! The gateway forwards original bytes. This crate tells it what those bytes mean and where to put
//! other ones:
//!
//! - [`era`]: which protocol version a peer speaks, and what that allows;
//! - [`header`]: the MCP headers of a modern request and whether they agree with its body;
//! - [`envelope`]: a bounded look at a request body, and [`envelope::splice`] to put upstream
//!   values back where the client returned ours;
//! - [`scan`]: the push scanner a response passes through: outcome, first event, minted values;
//! - [`contract`]: what changed between two `tools/list` results;
//! - [`error`]: the gateway's own JSON-RPC error bodies.
//!
//! Requests and responses share one JSON grammar (`json`): what the envelope refuses and what the
//! scanner calls malformed is the same thing.
//!
//! **Architecture invariant:** no I/O, no clock, no async, no panic on outside data; every buffer
//! has a named limit.

pub mod contract;
pub mod envelope;
pub mod era;
pub mod error;
pub mod header;
mod json;
pub mod scan;
pub mod sse;

pub use json::{MAX_DEPTH, Syntax};

/// A kind of value that one version made, that a client must bring back, and that the gateway
/// therefore replaces by a sealed value of its own naming that version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Minted {
    /// `result.nextCursor` in a list, `params.cursor` in the next request.
    Cursor,
    /// The id of a task, wherever it stands.
    TaskId,
    /// `result.requestState` of an `input_required` result, `params.requestState` in the retry.
    RequestState,
}

/// The `_meta` key of a legacy message that belongs to a task (2025-11-25, "Related Task Metadata").
pub(crate) const META_RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// The `_meta` key every modern request carries (2026-07-28).
pub(crate) const META_PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
