//! Where Serin runs.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Where Serin runs. Flags and notices differ by it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// A developer's machine.
    #[default]
    #[serde(alias = "dev")]
    Development,
    /// Automatic tests.
    Test,
    /// The last stop before production.
    Staging,
    /// A production of its own for candidates; candidates evaluate flags as this one.
    Canary,
    /// Production.
    #[serde(alias = "prod")]
    Production,
}

impl Environment {
    /// All of them, from the first to see a change to the last.
    pub const ALL: [Self; 5] = [
        Self::Development,
        Self::Test,
        Self::Staging,
        Self::Canary,
        Self::Production,
    ];

    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Test => "test",
            Self::Staging => "staging",
            Self::Canary => "canary",
            Self::Production => "production",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Why a text is no environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an environment: write development, test, staging, canary or production (dev and prod are short for the first and last)"
)]
pub struct EnvironmentError(String);

impl FromStr for Environment {
    type Err = EnvironmentError;

    fn from_str(text: &str) -> Result<Self, EnvironmentError> {
        let found = Self::ALL.into_iter().find(|e| e.label() == text);
        match (found, text) {
            (Some(found), _) => Ok(found),
            (None, "dev") => Ok(Self::Development),
            (None, "prod") => Ok(Self::Production),
            _ => Err(EnvironmentError(text.chars().take(80).collect())),
        }
    }
}
