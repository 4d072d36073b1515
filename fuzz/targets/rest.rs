//! The body of a call of REST: nothing, or one call of MCP of that tool with those arguments.

use serin_gateway::outside;

/// Reads it.
pub(crate) fn run(data: &[u8]) {
    outside::rest(data);
}
