//! Rules: `JsonLogic` with flagd's operators.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A targeting rule, as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule {
    source: Value,
}

impl Rule {
    /// A rule from its JSON.
    pub const fn new(source: Value) -> Self {
        Self { source }
    }

    /// As it was written.
    pub const fn source(&self) -> &Value {
        &self.source
    }
}
