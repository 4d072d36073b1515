//! Names and ids. Each is its own type, so that one cannot stand in for another.

use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr, sync::Arc};
use uuid::Uuid;

/// Longest name of a service or version, in bytes: names become metric labels and header values.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {what} name: use 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-` or `+`, and begin with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if first && text.len() <= NAME_BYTES_MAX && text.bytes().all(fine) {
        Ok(text.into())
    } else {
        let text = text.chars().take(80).collect();
        Err(NameError { what, text })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// What clients call: a path or host with a protocol.
    ServiceName, "service");
name!(
    /// A released build of a service.
    VersionName, "version");

/// One attempt to replace stable. Given by the caller of `decide`, never made inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(pub Uuid);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RolloutId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// One URL where a version runs. Assigned by the log, never used twice: session tokens name their endpoint by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub u32);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        for good in ["tools", "v1.5.0", "2.0.0-rc.1+build", "A"] {
            assert!(good.parse::<VersionName>().is_ok(), "{good}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-x", "a b", "ü", "a/b", "a\n", &long] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
        assert!("x".repeat(NAME_BYTES_MAX).parse::<ServiceName>().is_ok());
    }
}
