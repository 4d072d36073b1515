//! Attempts after the first: how many a request may make, and how many all requests together.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a request is tried that no endpoint can have taken: only then is it ever tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Attempts after the first. The Cortex seed's three.
    pub attempts: u32,
    /// Share of a core's requests of the last seconds that may be tried again, in percent, beside a few that always may.
    pub budget_percent: u8,
    /// Wait before an endpoint is tried for the second time, doubled each time, with jitter; another one is tried at once.
    #[serde(with = "text::duration")]
    pub backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget_percent: 20,
            // Not the seed's second: a caller waits for it.
            backoff: Duration::from_millis(25),
        }
    }
}
