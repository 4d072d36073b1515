//! Protocol versions and the two eras they fall into.
//!
//! Legacy versions start with `initialize` and may keep a session; modern ones are stateless.

use std::fmt;

/// The version a legacy request without `MCP-Protocol-Version` is taken to speak
/// (2025-06-18, "Protocol Version Header").
pub const ASSUMED_LEGACY: ProtocolVersion = ProtocolVersion::V2025_03_26;

/// First of the modern versions.
const FIRST_MODERN: Date = Date(*b"2026-07-28");

/// How a peer speaks to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// `initialize`, sessions, GET streams: everything up to 2025-11-25.
    Legacy,
    /// Stateless: each request carries its version, from 2026-07-28 on.
    Modern,
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        })
    }
}

/// An ISO date in its ten ASCII bytes: they order as the days do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Date([u8; 10]);

impl Date {
    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 10] = text.as_bytes().try_into().ok()?;
        let shaped = bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        let [.., m1, m2, _, d1, d2] = bytes;
        let (month, day) = ([m1, m2], [d1, d2]);
        let real = (*b"01"..=*b"12").contains(&month) && (*b"01"..=*b"31").contains(&day);
        (shaped && real).then_some(Self(bytes))
    }
}

/// A version of the protocol, named by its date.
///
/// Holds any date: a gateway must route a version it has never heard of and leave the refusal
/// (-32022 with `supported`) to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProtocolVersion(Date);

impl ProtocolVersion {
    /// HTTP+SSE with an `endpoint` event.
    pub const V2024_11_05: Self = Self(Date(*b"2024-11-05"));
    /// Streamable HTTP; the only version with batches.
    pub const V2025_03_26: Self = Self(Date(*b"2025-03-26"));
    /// `MCP-Protocol-Version` on each request after `initialize`.
    pub const V2025_06_18: Self = Self(Date(*b"2025-06-18"));
    /// Last legacy version: resumable streams, experimental tasks.
    pub const V2025_11_25: Self = Self(Date(*b"2025-11-25"));
    /// First modern version.
    pub const V2026_07_28: Self = Self(FIRST_MODERN);

    /// The versions this gateway has been written against, oldest first.
    pub const KNOWN: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// Reads the value of an `MCP-Protocol-Version` header or of a `protocolVersion` field.
    ///
    /// # Errors
    /// The text is not a date `YYYY-MM-DD`.
    pub fn parse(text: &str) -> Result<Self, BadVersion> {
        Date::parse(text.trim_matches([' ', '\t']))
            .map(Self)
            .ok_or_else(|| BadVersion {
                shown: text.chars().take(BadVersion::SHOWN_CHARS).collect(),
            })
    }

    /// Dates from 2026-07-28 on are modern, known or not; everything before is legacy.
    pub fn era(self) -> Era {
        if self.0 >= FIRST_MODERN {
            Era::Modern
        } else {
            Era::Legacy
        }
    }

    /// Whether this is one of [`ProtocolVersion::KNOWN`].
    pub fn is_known(self) -> bool {
        Self::KNOWN.contains(&self)
    }

    /// JSON-RPC batches came with 2025-03-26 and left with 2025-06-18.
    pub fn allows_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Whether a client must send `MCP-Protocol-Version` after `initialize` (from 2025-06-18 on).
    pub fn requires_version_header(self) -> bool {
        self >= Self::V2025_06_18
    }

    /// Whether the server must compare `Mcp-Method` and `Mcp-Name` with the body, so that a gateway
    /// may route by them.
    pub fn has_trusted_headers(self) -> bool {
        self.era() == Era::Modern
    }

    /// The date as it travels.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits and hyphens ever get in.
        std::str::from_utf8(&self.0.0).unwrap_or_default()
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protocol version that is not a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "protocol version {shown:?} is not a date such as \"2025-11-25\"; send one the server supports"
)]
pub struct BadVersion {
    shown: String,
}

impl BadVersion {
    /// Characters of the offending text that are shown.
    const SHOWN_CHARS: usize = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fall_into_eras() {
        for (text, era, known, batches) in [
            ("2024-11-05", Era::Legacy, true, false),
            ("2025-03-26", Era::Legacy, true, true),
            ("2025-06-18", Era::Legacy, true, false),
            ("2025-11-25", Era::Legacy, true, false),
            ("2026-07-28", Era::Modern, true, false),
            ("2026-07-27", Era::Legacy, false, false),
            ("2031-01-01", Era::Modern, false, false),
            (" 2025-11-25\t", Era::Legacy, true, false),
        ] {
            let version = ProtocolVersion::parse(text).unwrap();
            assert_eq!(version.era(), era, "{text}");
            assert_eq!(version.is_known(), known, "{text}");
            assert_eq!(version.allows_batches(), batches, "{text}");
            assert_eq!(version.has_trusted_headers(), era == Era::Modern, "{text}");
            assert_eq!(version.to_string(), text.trim());
        }
        assert!(!ASSUMED_LEGACY.requires_version_header());
        assert!(ProtocolVersion::V2025_06_18.requires_version_header());
    }

    #[test]
    fn what_is_not_a_date_is_refused() {
        for text in [
            "",
            "2025",
            "DRAFT-2026-v1",
            "2025-13-01",
            "2025-00-10",
            "2025-01-32",
            "2025/01/02",
            "2025-1-001",
            "２０２５-01-02",
            "2025-11-25 x",
        ] {
            assert!(ProtocolVersion::parse(text).is_err(), "{text}");
        }
        let long = ProtocolVersion::parse(&"9".repeat(10_000)).unwrap_err();
        assert!(long.to_string().len() < 150);
    }
}
