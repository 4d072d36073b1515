//! Kill switches: what is killed by itself, when, and how it comes back.

use serde::{Deserialize, Serialize};
use serin_flags::Target;

/// A kill switch as it stands in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSwitch {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it kills.
    pub target: Target,
}
