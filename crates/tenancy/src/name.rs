//! Names of tiers.

use serde::{Deserialize, Serialize, de::Error as _};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Longest name of a tier, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// What a customer has bought: a set of limits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TierName(Arc<str>);

/// A text is no name of a tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a tier name: use 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`")]
pub struct NameError(String);

impl TierName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TierName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TierName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fine) {
            return Ok(Self(text.into()));
        }
        Err(NameError(text.chars().take(80).collect()))
    }
}

impl<'de> Deserialize<'de> for TierName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
