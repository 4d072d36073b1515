//! How durations stand in files: `250ms`, `30s`, `2h`, `1h 30m`, `7d`, a day having 24 hours; and networks: `10.0.0.0/8`, `fd00::1`.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{borrow::Cow, net::IpAddr, time::Duration};

/// As much of outside text as a message carries.
const SHOWN_CHARS_MAX: usize = 80;

/// Reads a duration as people write it. Only whole, positive spans: `-3s` and `soon` are refused with what would do.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("`{text}` is not a duration; write for example 500ms, 30s, 10m, 2h or 1h 30m");
    let text = text.trim();
    let days = || {
        let span: jiff::Span = text.parse().ok()?;
        span.to_duration(jiff::SpanRelativeTo::days_are_24_hours())
            .ok()
    };
    let span = text.parse::<jiff::SignedDuration>().ok().or_else(days);
    Duration::try_from(span.ok_or_else(refuse)?).map_err(|_| refuse())
}

/// Writes a duration the way [`parse_duration`] reads it.
pub fn format_duration(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| "endless".to_owned(), |span| format!("{span:#}"))
}

/// Reads a network, or an address, which is a network of one.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().ok().map(|address: IpAddr| address.into());
    text.parse().ok().or_else(address).ok_or_else(|| {
        let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        format!("`{shown}` is not a network; write an address or a network such as `10.0.0.0/8`")
    })
}

/// What of a network is written otherwise than it is read, and what to write.
pub fn network_problem(net: &IpNet) -> Option<(String, String)> {
    let mapped = match net.addr() {
        IpAddr::V6(address) => address.to_ipv4_mapped().filter(|_| net.prefix_len() >= 96),
        IpAddr::V4(_) => None,
    };
    if let Some(address) = mapped {
        let help = format!("write `{address}/{}`", net.prefix_len() - 96);
        return Some(("addresses of IPv4 are looked at as such".to_owned(), help));
    }
    let (whole, address) = (net.trunc(), net.addr());
    (whole != *net).then(|| {
        (
            format!("`{net}` is an address within a range"),
            format!("write `{whole}` for the whole range, or `{address}` for the one address"),
        )
    })
}

/// For `#[serde(deserialize_with = "serin_route::text::networks")]`.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);
    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            parse_network(&text).map(Self).map_err(D::Error::custom)
        }
    }
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}

/// For `#[serde(with = "serin_route::text::duration")]`.
pub mod duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{borrow::Cow, time::Duration};

    /// Writes it as text.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*value))
    }

    /// Reads it from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(D::Error::custom)
    }
}

/// For `#[serde(with = "serin_route::text::duration_option", default)]`.
pub mod duration_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    /// Writes it as text, or null.
    pub fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(&super::format_duration(*value)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it from text, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for (text, seconds) in [
            ("2h", 7200.0),
            ("1h 30m", 5400.0),
            ("500ms", 0.5),
            ("24h", 86400.0),
            ("90s", 90.0),
            ("7d", 604_800.0),
            ("1d 12h", 129_600.0),
        ] {
            let duration = parse_duration(text).unwrap();
            assert!((duration.as_secs_f64() - seconds).abs() < 1e-9, "{text}");
            assert_eq!(
                parse_duration(&format_duration(duration)).unwrap(),
                duration,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "soon", "-3s", "-3d", "5", "1mo", "1y"] {
            assert!(parse_duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
