//! Keys of flags and ids of tenants. Each is its own type, so that one cannot stand in for another.

use serde::{Deserialize, Serialize, de::Error as _};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Longest key of a flag and id of a tenant, in bytes: they stand in paths, file names of exports and log lines.
pub const KEY_BYTES_MAX: usize = 128;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: use 1 to {KEY_BYTES_MAX} letters, digits, `.`, `_` or `-`{more}")]
pub struct KeyError {
    what: &'static str,
    more: &'static str,
    text: String,
}

macro_rules! key {
    ($(#[$doc:meta])* $type:ident, $what:literal, $more:literal, $allowed:pat) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(Arc<str>);

        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, $allowed);
                if (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(fine) {
                    return Ok(Self(text.into()));
                }
                Err(KeyError { what: $what, more: $more, text: text.chars().take(80).collect() })
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

key!(
    /// The key of a flag. OFREP clients do not escape what they put into a path, so a key is plain.
    FlagKey, "a flag key", "", b'.' | b'_' | b'-');
key!(
    /// Who calls: a customer of a gateway with many.
    TenantId, "a tenant id", "; `@`, `:` and `+` may stand in it too", b'.' | b'_' | b'-' | b'@' | b':' | b'+');
