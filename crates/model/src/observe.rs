//! What the data plane tells the control plane: one observation a call, summed up by core and sealed every 100 ms.

use crate::{
    name::{RolloutId, ServiceName, VersionName},
    share::Share,
};
use serde::{Deserialize, Serialize};
use serin_flags::{FlagKey, Reason};
use serin_judge::{LogHistogram, ValueSum, trial::Report};
use std::sync::Arc;

/// How a call ended. The order is that of [`Counts::outcomes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Answered with a question to the client; neutral.
    InputRequired,
    /// The tool broke: `isError` inside a good answer.
    ToolError,
    /// The caller used the tool wrongly, and the answer says so.
    CalledBadly,
    /// A JSON-RPC error.
    RpcError,
    /// An HTTP status from 400 to 499.
    #[serde(rename = "http_4xx")]
    Http4xx,
    /// An HTTP status from 500.
    #[serde(rename = "http_5xx")]
    Http5xx,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Transport,
    /// The client went away first; left out of every rate.
    Cancelled,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::InputRequired,
        Self::ToolError,
        Self::CalledBadly,
        Self::RpcError,
        Self::Http4xx,
        Self::Http5xx,
        Self::Timeout,
        Self::Transport,
        Self::Cancelled,
    ];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::InputRequired => "input_required",
            Self::ToolError => "tool_error",
            Self::CalledBadly => "called_badly",
            Self::RpcError => "rpc_error",
            Self::Http4xx => "http_4xx",
            Self::Http5xx => "http_5xx",
            Self::Timeout => "timeout",
            Self::Transport => "transport",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the version is to blame. A 4xx is not counted here: callers cause it too, so plans compare its rate
    /// (`client_errors`) with stable's instead.
    pub const fn is_bad(self) -> bool {
        matches!(
            self,
            Self::ToolError | Self::RpcError | Self::Http5xx | Self::Timeout | Self::Transport
        )
    }
}

/// The era of a call, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallEra {
    /// MCP to 2025-11-25.
    Legacy,
    /// MCP from 2026-07-28.
    Modern,
    /// Not MCP.
    None,
}

impl CallEra {
    /// The value of the `era` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
            Self::None => "none",
        }
    }
}

/// The label of calls that name no tool, such as `tools/list`.
pub const NO_TOOL: &str = "none";
/// The label of a tool that the version's `tools/list` does not name.
pub const UNKNOWN_TOOL: &str = "unknown";
/// The label of the tools beyond [`TOOL_LABELS_MAX`].
pub const OTHER_TOOL: &str = "other";
/// Most tools of a version that have a label of their own.
pub const TOOL_LABELS_MAX: usize = 200;

/// What a cell counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CellKey {
    /// The service called.
    pub service: ServiceName,
    /// The version that answered, or should have.
    pub version: VersionName,
    /// The tool, or one of the labels above.
    pub tool: Arc<str>,
    /// The era of the call.
    pub era: CallEra,
}

/// The calls of one cell that ended in one period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls by [`Outcome`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Of the 4xx, those that were 401 or 403.
    pub auth_failures: u64,
    /// Seconds to the first event or byte. Failed calls are not in it.
    pub first_byte: LogHistogram,
    /// Seconds to the last byte. Failed calls are not in it; neither are streams without an end of their own.
    pub last_byte: LogHistogram,
    /// Seconds after which clients left calls: those that count as cancelled, but for the ones whose end says nothing about
    /// the version, because the rest may come another way or it was the gateway that dropped them.
    #[serde(default)]
    pub left: LogHistogram,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of answers.
    pub response_bytes: u64,
}

impl Counts {
    /// Calls with an outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Calls that count: all but the cancelled.
    pub fn calls(&self) -> u64 {
        self.outcomes.iter().sum::<u64>() - self.of(Outcome::Cancelled)
    }

    /// Calls for which the version is to blame.
    pub fn bad(&self) -> u64 {
        Outcome::ALL
            .iter()
            .filter(|o| o.is_bad())
            .map(|o| self.of(*o))
            .sum()
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        self.auth_failures += other.auth_failures;
        self.first_byte.merge(&other.first_byte);
        self.last_byte.merge(&other.last_byte);
        self.left.merge(&other.left);
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }
}

/// What one core of the data plane saw since its last message.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    /// The core.
    pub core: u16,
    /// Counts up by one a message of this core.
    pub sequence: u64,
    /// The calls that ended.
    pub cells: Vec<(CellKey, Counts)>,
    /// What the calls of young affinity keys have shown, and which keys are new: what the judge counts.
    pub trials: Vec<Trials>,
    /// Numbers found in structured results, by service, version and name.
    pub values: Vec<(ServiceName, VersionName, Arc<str>, ValueSum)>,
    /// For each version that has just failed again, how many transport failures in a row this core has seen: the catastrophic
    /// guard's input. A core sends at once, not at the timer, when a streak reaches [`STREAK_URGENT`].
    pub streaks: Vec<(ServiceName, VersionName, u32)>,
    /// Calls and streams open now, in the versions that had traffic since the last message; in others nothing has changed.
    pub open: Vec<(ServiceName, VersionName, Open)>,
    /// Requests turned away, by service (where one was found) and reason.
    pub rejections: Vec<(Option<ServiceName>, Rejection, u64)>,
    /// Who proved who they are, and who did not, by the label `result`.
    pub auth: Vec<(&'static str, u64)>,
    /// Requests over a limit, by service and limit (`key`, `tenant` or `service`).
    pub limited: Vec<(ServiceName, &'static str, u64)>,
    /// Times that a fallback was used, by what failed.
    pub degraded: Vec<(&'static str, u64)>,
    /// What was done that requests reach an endpoint that serves them, by service.
    pub detours: Vec<(ServiceName, Detour, u64)>,
    /// Requests that a rule was for, by service and the rule's name.
    pub rules: Vec<(ServiceName, Arc<str>, u64)>,
    /// Seconds spent in the gateway, upstream excluded.
    pub overhead: Vec<(ServiceName, LogHistogram)>,
    /// Answers of flags, by flag, variant and reason.
    pub flags: Vec<(FlagKey, Arc<str>, Reason, u64)>,
    /// What became of the sessions of withdrawn versions.
    pub moved: Vec<(ServiceName, Moved)>,
}

/// Transport failures in a row at which a core reports at once.
pub const STREAK_URGENT: u32 = 5;

/// What a core saw of a service's rollout, in the judge's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    /// The service.
    pub service: ServiceName,
    /// The rollout.
    pub rollout: RolloutId,
    /// Its step: what was seen in another one is dropped.
    pub step: u32,
    /// The share in that step.
    pub share: Share,
    /// What was seen.
    pub report: Report,
}

/// What is open at the moment of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Calls not yet answered to the last byte.
    pub calls: u64,
    /// Event streams and subscriptions.
    pub streams: u64,
}

/// What is done that requests reach an endpoint that serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detour {
    /// A request was tried again that no endpoint had taken.
    Retry,
    /// A version took the place of one of which no endpoint may be used.
    Fallback,
}

impl Detour {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Retry, Self::Fallback];
}

/// What became of sessions whose version was withdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Went on with stable.
    pub rebound: u64,
    /// Got a 404.
    pub ended: u64,
}

/// Why a request was turned away by the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// The body is too large or not what the protocol allows.
    Body,
    /// No such service.
    Route,
    /// The Host header is not one of ours.
    Host,
    /// The Origin header is not one of ours.
    Origin,
    /// The session id is not one of ours, or its time is over.
    Session,
    /// An override names a version that does not exist.
    Version,
    /// Too much at once.
    Overload,
    /// None of the version's endpoints may be used.
    Unusable,
    /// A flag hides it.
    Flag,
    /// It is killed.
    Kill,
    /// Who asks is not known.
    Auth,
    /// Who asks may not.
    Scope,
    /// Too many in too short a time.
    RateLimit,
    /// It could not be recorded, and must be.
    Audit,
    /// A rule of its service refuses it.
    Rule,
}

impl Rejection {
    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Route => "route",
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Session => "session",
            Self::Version => "version",
            Self::Overload => "overload",
            Self::Unusable => "unusable",
            Self::Flag => "flag",
            Self::Kill => "kill",
            Self::Auth => "auth",
            Self::Scope => "scope",
            Self::RateLimit => "rate_limit",
            Self::Audit => "audit",
            Self::Rule => "rule",
        }
    }
}
