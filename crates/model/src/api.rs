//! Versions of the public API: what stands behind `/v1/tools`, and for how long.

use crate::name::ServiceName;
use jiff::civil::Date;
use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr};

/// The name of a version: `v1`, `v2`. The newest also answers below `/api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion(pub u16);

/// A text is not the name of an API version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an API version: write `v1`, `v2` and so on")]
pub struct ApiVersionError(String);

impl FromStr for ApiVersion {
    type Err = ApiVersionError;

    fn from_str(text: &str) -> Result<Self, ApiVersionError> {
        let number = text
            .strip_prefix('v')
            .filter(|digits| !digits.starts_with('0') && !digits.starts_with('+'));
        number
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| ApiVersionError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// One version of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSpec {
    /// The service whose tools it has.
    pub service: ServiceName,
    /// Its tools, names or beginnings with a `*`. None: all that the service has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Since when it has been announced that it will end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Date>,
    /// From when on its answers carry `Deprecation` (RFC 9745).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Date>,
    /// From when on it answers 410; said before in `Sunset` (RFC 8594).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Date>,
    /// Where people read how to move on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide: Option<String>,
}
