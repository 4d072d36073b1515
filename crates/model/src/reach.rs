//! What the scopes and the role of a caller leave of a service. Asked by [`crate::access`] alone, so that lists and calls agree.

use crate::access::{Asked, Denied};
use serin_tenancy::{Principal, Role};
use std::sync::Arc;

/// What an MCP client needs to be one, whatever it reaches. Tools are looked at by name; tasks, sessions and subscriptions are
/// their owner's.
const BASIC: [&str; 10] = [
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
];
/// What of the rest only reads.
const READS: [&str; 8] = [
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
];
/// Methods of HTTP that only read (RFC 9110, section 9.2.1).
const SAFE: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

/// Whether a caller reaches less of a service than there is.
pub fn is_limited(principal: &Principal, service: &str) -> bool {
    principal.role == Role::ReadOnly || !principal.scopes.reach_all_of(service)
}

/// What of a service the scopes and the role of a caller are asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) service: &'a str,
    /// The tools that say of themselves that they only read.
    pub(crate) read_only_tools: &'a [Arc<str>],
}

impl Reach<'_> {
    /// Refuses what is not within it. `is_in` says whether a tool belongs to a category.
    ///
    /// # Errors
    /// Whether the scopes or the role leave it out.
    pub(crate) fn check<'d>(
        self,
        asked: Asked<'_>,
        is_in: impl Fn(&str, &str) -> bool,
    ) -> Result<(), Denied<'d>> {
        let Self {
            principal, service, ..
        } = self;
        let scopes = &principal.scopes;
        let (is_reached, only_reads) = match asked {
            Asked::Tool(tool) => (
                scopes.reach_tool(service, tool, |category| is_in(category, tool)),
                self.read_only_tools.iter().any(|name| **name == *tool),
            ),
            Asked::Method(method) if is_basic(method) => (true, true),
            Asked::Method(method) => (scopes.reach_all_of(service), READS.contains(&method)),
            Asked::Route { method, .. } => (scopes.reach_all_of(service), SAFE.contains(&method)),
            Asked::Feature(_) => (true, true),
        };
        if !is_reached {
            return Err(Denied::Beyond);
        }
        if principal.role == Role::ReadOnly && !only_reads {
            return Err(Denied::Role);
        }
        Ok(())
    }
}

fn is_basic(method: &str) -> bool {
    BASIC.contains(&method) || method.starts_with("notifications/")
}
