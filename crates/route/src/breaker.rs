//! The circuit breaker of an endpoint: after so many failures in a row nothing is sent there for a while, then a few requests
//! show whether it works again.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a breaker opens, and how it closes again. The Cortex seed's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Failures in a row after which it opens; 0: never.
    pub failures: u32,
    /// For how long it stays open.
    #[serde(with = "text::duration")]
    pub open: Duration,
    /// How many requests at a time then show whether the endpoint works again, and how many must succeed in a row.
    pub probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            open: Duration::from_mins(1),
            probes: 1,
        }
    }
}
