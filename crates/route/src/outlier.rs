//! Outliers: an endpoint that fails more often than it may is ejected for a while, whatever its probes say.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of failures in a window from which on it is ejected, in percent; 0: never.
    pub failures_percent: u8,
    /// Fewest requests in the window.
    pub requests: u32,
    /// The window.
    #[serde(with = "text::duration")]
    pub window: Duration,
    /// For how long it is ejected the first time; each further time so much longer, to ten times.
    #[serde(with = "text::duration")]
    pub eject: Duration,
    /// Most of a version's endpoints that may be ejected at a time, in percent; one always may if there are others.
    pub eject_percent_max: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_percent: 50,
            requests: 20,
            window: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            eject_percent_max: 50,
        }
    }
}
