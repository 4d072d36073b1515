//! What is measured, and the limits that plans set on it, as people write them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is measured on each arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Calls for which the version is to blame, of all calls.
    ErrorRate,
    /// The rest: calls that went well, of all calls.
    Availability,
    /// Calls answered with a status from 400 to 499, of all calls.
    ClientErrors,
    /// Calls answered 401 or 403, of all calls.
    AuthFailures,
    /// Median seconds to the last byte.
    LatencyP50,
    /// 95th percentile of seconds to the last byte.
    LatencyP95,
    /// 99th percentile of seconds to the last byte.
    LatencyP99,
    /// Median seconds to the first byte.
    FirstByteP50,
    /// 95th percentile of seconds to the first byte.
    FirstByteP95,
    /// 99th percentile of seconds to the first byte.
    FirstByteP99,
    /// Calls a second.
    Throughput,
    /// Processor time that the version uses, in cores: 0.9 is 90 % of one core.
    Cpu,
    /// Bytes of memory that the version holds.
    Memory,
    /// How often the version's process began anew.
    Restarts,
}

/// What a metric is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// From 0 to 1, written in percent.
    Ratio,
    /// Seconds, written as a duration.
    Seconds,
    /// Calls a second, written `1000/s`.
    PerSecond,
    /// Processor cores, written in percent of one core: four cores are `400 %`.
    Cores,
    /// Bytes, written `512MB` or `512MiB`.
    Bytes,
    /// How many, written `3`.
    Count,
}

/// On which side of its limit a metric is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Above.
    Max,
    /// Below.
    Min,
}

impl Metric {
    /// What it is measured in.
    pub const fn unit(self) -> Unit {
        match self {
            Self::ErrorRate | Self::Availability | Self::ClientErrors | Self::AuthFailures => {
                Unit::Ratio
            }
            Self::Throughput => Unit::PerSecond,
            Self::Cpu => Unit::Cores,
            Self::Memory => Unit::Bytes,
            Self::Restarts => Unit::Count,
            Self::LatencyP50
            | Self::LatencyP95
            | Self::LatencyP99
            | Self::FirstByteP50
            | Self::FirstByteP95
            | Self::FirstByteP99 => Unit::Seconds,
        }
    }

    /// On which side of its limit it is bad.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Availability | Self::Throughput => Direction::Min,
            _ => Direction::Max,
        }
    }

    /// Whether it is read from the version's own metrics, and not counted from its calls.
    pub const fn is_resource(self) -> bool {
        matches!(self, Self::Cpu | Self::Memory | Self::Restarts)
    }

    /// As it stands in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::Availability => "availability",
            Self::ClientErrors => "client_errors",
            Self::AuthFailures => "auth_failures",
            Self::LatencyP50 => "latency_p50",
            Self::LatencyP95 => "latency_p95",
            Self::LatencyP99 => "latency_p99",
            Self::FirstByteP50 => "first_byte_p50",
            Self::FirstByteP95 => "first_byte_p95",
            Self::FirstByteP99 => "first_byte_p99",
            Self::Throughput => "throughput",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Restarts => "restarts",
        }
    }

    /// A value of this metric, for people.
    pub fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Ratio | Unit::Cores => format!("{} %", trim(value * 100.0, 2)),
            Unit::Bytes => show_bytes(value),
            Unit::Count => trim(value, 1),
            Unit::PerSecond => format!("{}/s", trim(value, 1)),
            Unit::Seconds if value.is_infinite() => "endless".to_owned(),
            Unit::Seconds if value < 1.0 => format!("{} ms", trim(value * 1000.0, 1)),
            Unit::Seconds => format!("{} s", trim(value, 2)),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A limit, with its numbers as they were written, so that it reads back exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// `1 %`
    Percent(f64),
    /// `500ms`, `2s`
    Seconds(f64),
    /// `1000/s`
    PerSecond(f64),
    /// `512MB`, `1.5GiB`
    Bytes(f64),
    /// `3`
    Count(f64),
    /// `+20 %`, `+0.2pp`, `+20 % +0.2pp`: so much worse than stable, as a part of stable's value and in percentage points.
    AgainstStable {
        /// Percent of stable's value.
        percent: f64,
        /// Percentage points; for ratios only.
        points: f64,
    },
}

/// Why a text is not a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a limit; write `1 %`, `500ms`, `1000/s`, `512MB` or `3` for a value of its own, `+10 %`, `+0.2pp` or `+20 % +0.2pp` for a difference to stable"
)]
pub struct LimitError(String);

impl Limit {
    /// The value it means, in the metric's unit, given stable's; nothing when stable's is needed and not known.
    pub fn resolve(self, metric: Metric, stable: Option<f64>) -> Option<f64> {
        match self {
            Self::Percent(percent) => Some(percent / 100.0),
            Self::Seconds(value)
            | Self::PerSecond(value)
            | Self::Bytes(value)
            | Self::Count(value) => Some(value),
            Self::AgainstStable { percent, points } => {
                let stable = stable.filter(|s| s.is_finite())?;
                let slack = stable * percent / 100.0 + points / 100.0;
                Some(match metric.direction() {
                    Direction::Max => stable + slack,
                    Direction::Min => stable - slack,
                })
            }
        }
    }

    /// Whether it is written in the metric's unit.
    pub fn fits(self, metric: Metric) -> bool {
        match (self, metric.unit()) {
            (Self::Percent(percent), Unit::Ratio) => percent <= 100.0,
            (Self::Percent(_), Unit::Cores)
            | (Self::Seconds(_), Unit::Seconds)
            | (Self::PerSecond(_), Unit::PerSecond)
            | (Self::Bytes(_), Unit::Bytes)
            | (Self::Count(_), Unit::Count)
            | (Self::AgainstStable { .. }, Unit::Ratio) => true,
            // So many percent more than no restart is no restart.
            (Self::AgainstStable { .. }, Unit::Count) => false,
            (Self::AgainstStable { points, .. }, _) => points == 0.0,
            _ => false,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent} %"),
            Self::Seconds(seconds) if seconds < 1.0 => write!(f, "{}ms", seconds * 1000.0),
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
            Self::PerSecond(rate) => write!(f, "{rate}/s"),
            Self::Bytes(bytes) => {
                let (name, size) = unit_of(bytes);
                write!(f, "{}{name}", bytes / size)
            }
            Self::Count(count) => write!(f, "{count}"),
            Self::AgainstStable {
                percent,
                points: 0.0,
            } => write!(f, "+{percent} %"),
            Self::AgainstStable {
                percent: 0.0,
                points,
            } => write!(f, "+{points}pp"),
            Self::AgainstStable { percent, points } => write!(f, "+{percent} % +{points}pp"),
        }
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        parse(text.trim()).ok_or_else(|| LimitError(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<Limit> {
    let Some(parts) = text.strip_prefix('+') else {
        return if let Some(percent) = text.strip_suffix('%') {
            number(percent).map(Limit::Percent)
        } else if let Some(rate) = text.strip_suffix("/s") {
            number(rate).map(Limit::PerSecond)
        } else if let Some(millis) = text.strip_suffix("ms") {
            number(millis).map(|millis| Limit::Seconds(millis / 1000.0))
        } else if let Some(seconds) = text.strip_suffix('s') {
            number(seconds).map(Limit::Seconds)
        } else if text.ends_with('B') {
            bytes(text).map(Limit::Bytes)
        } else {
            number(text).map(Limit::Count)
        };
    };
    let (mut percent, mut points) = (0.0, 0.0);
    for part in parts.split('+').map(str::trim) {
        if let Some(value) = part.strip_suffix("pp") {
            points += number(value)?;
        } else {
            percent += number(part.strip_suffix('%')?)?;
        }
    }
    Some(Limit::AgainstStable { percent, points })
}

/// The units in which bytes are written, larger ones first; `B` ends them all, so it is the last to be tried.
const BYTE_UNITS: [(&str, f64); 8] = [
    ("TiB", 1_099_511_627_776.0),
    ("TB", 1e12),
    ("GiB", 1_073_741_824.0),
    ("GB", 1e9),
    ("MiB", 1_048_576.0),
    ("MB", 1e6),
    ("KiB", 1024.0),
    ("kB", 1e3),
];

fn bytes(text: &str) -> Option<f64> {
    BYTE_UNITS
        .into_iter()
        .chain([("B", 1.0)])
        .find_map(|(unit, size)| Some(number(text.strip_suffix(unit)?)? * size))
}

/// The largest unit of which it is a whole number, so that it reads back exactly.
fn unit_of(bytes: f64) -> (&'static str, f64) {
    BYTE_UNITS
        .into_iter()
        .find(|(_, size)| bytes >= *size && bytes % size == 0.0)
        .unwrap_or(("B", 1.0))
}

fn show_bytes(value: f64) -> String {
    let decimal = BYTE_UNITS
        .into_iter()
        .find(|(unit, size)| !unit.contains('i') && value >= *size);
    let (unit, size) = decimal.unwrap_or(("B", 1.0));
    format!("{} {unit}", trim(value / size, 1))
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

/// At most so many decimals, without zeros at the end.
fn trim(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// A limit as it stands in a file: a text, or a bare number where it is a count.
struct Written;

impl serde::de::Visitor<'_> for Written {
    type Value = Limit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a limit such as `1 %`, `500ms` or `+10 %`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Limit, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Limit, E> {
        Ok(Limit::Count(count as f64))
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Limit, E> {
        self.visit_str(&count.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, count: f64) -> Result<Limit, E> {
        self.visit_str(&count.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_as_people_write_them() {
        for (text, expected) in [
            ("1 %", Limit::Percent(1.0)),
            ("0.1%", Limit::Percent(0.1)),
            ("500ms", Limit::Seconds(0.5)),
            ("2s", Limit::Seconds(2.0)),
            ("1000/s", Limit::PerSecond(1000.0)),
            ("512MB", Limit::Bytes(512e6)),
            ("1.5GiB", Limit::Bytes(1_610_612_736.0)),
            ("100 B", Limit::Bytes(100.0)),
            ("3", Limit::Count(3.0)),
            (
                "+10 %",
                Limit::AgainstStable {
                    percent: 10.0,
                    points: 0.0,
                },
            ),
            (
                "+0.5pp",
                Limit::AgainstStable {
                    percent: 0.0,
                    points: 0.5,
                },
            ),
            (
                "+20 % +0.2pp",
                Limit::AgainstStable {
                    percent: 20.0,
                    points: 0.2,
                },
            ),
        ] {
            assert_eq!(text.parse::<Limit>().unwrap(), expected, "{text}");
        }
        for bad in [
            "", "fast", "-1 %", "+5", "NaN %", "1e999s", "-5", "%", "+", "B", "5QB", "inf",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_count_may_be_a_bare_number() {
        for (json, expected) in [
            ("3", Some(Limit::Count(3.0))),
            ("\"3\"", Some(Limit::Count(3.0))),
            ("1.5", Some(Limit::Count(1.5))),
            ("-3", None),
            ("[]", None),
        ] {
            assert_eq!(serde_json::from_str(json).ok(), expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn limits_read_back_as_written(percent in 0_u32..10_000, points in 0_u32..1000) {
            let limit = Limit::AgainstStable { percent: f64::from(percent) / 100.0, points: f64::from(points) / 100.0 };
            prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
            let limit = Limit::Seconds(f64::from(points) / 1000.0);
            let back: Limit = limit.to_string().parse().unwrap();
            prop_assert!(matches!(back, Limit::Seconds(s) if (s - f64::from(points) / 1000.0).abs() < 1e-12));
            for limit in [Limit::Bytes(f64::from(percent)), Limit::Bytes(f64::from(percent) * 1024e3), Limit::Count(f64::from(percent))] {
                prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
            }
        }
    }

    #[test]
    fn values_as_people_read_them() {
        for (metric, value, expected) in [
            (Metric::ErrorRate, 0.0123, "1.23 %"),
            (Metric::LatencyP95, 0.25, "250 ms"),
            (Metric::Cpu, 1.5, "150 %"),
            (Metric::Memory, 123_456_789.0, "123.5 MB"),
            (Metric::Memory, 12.0, "12 B"),
            (Metric::Restarts, 2.0, "2"),
        ] {
            assert_eq!(metric.show(value), expected);
        }
    }

    #[test]
    fn a_difference_needs_a_stable() {
        let limit: Limit = "+20 % +0.2pp".parse().unwrap();
        assert_eq!(limit.resolve(Metric::ErrorRate, None), None);
        assert!((limit.resolve(Metric::ErrorRate, Some(0.01)).unwrap() - 0.014).abs() < 1e-12);
        assert!(limit.resolve(Metric::Availability, Some(0.99)).unwrap() < 0.99);
    }

    #[test]
    fn limits_must_be_in_the_unit_of_their_metric() {
        assert!(Limit::Percent(1.0).fits(Metric::ErrorRate));
        assert!(!Limit::Percent(1.0).fits(Metric::LatencyP95));
        assert!(!Limit::Seconds(1.0).fits(Metric::ErrorRate));
        assert!(
            Limit::Percent(400.0).fits(Metric::Cpu),
            "there are more cores"
        );
        assert!(!Limit::Percent(400.0).fits(Metric::ErrorRate));
        assert!(Limit::Bytes(5e8).fits(Metric::Memory));
        assert!(!Limit::Count(3.0).fits(Metric::Memory));
        let half_more = "+50 %".parse::<Limit>().unwrap();
        assert!(half_more.fits(Metric::Memory) && !half_more.fits(Metric::Restarts));
        assert!(
            !Limit::AgainstStable {
                percent: 10.0,
                points: 1.0
            }
            .fits(Metric::LatencyP95)
        );
    }
}
