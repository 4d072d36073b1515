//! Which endpoints of a version may be used now.

use serde::{Deserialize, Serialize};

/// What becomes of a request when no endpoint may be used, and no other version is to take its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is sent to one of them all the same: what is known of them may be old.
    #[default]
    FailOpen,
    /// It is refused with 503 and a time to come again: servers that are down are left alone.
    FailClosed,
}

/// How an endpoint does, as those see it who send requests there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests under way there, without open streams.
    pub in_flight: u32,
    /// Its breaker takes nothing now.
    pub is_open: bool,
    /// It is ejected.
    pub is_ejected: bool,
    /// Since when it may be used again, in milliseconds of the same clock as the caller's `now`; none if it always could.
    pub back_since_ms: Option<u64>,
}
