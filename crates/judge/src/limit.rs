//! What is measured, and the limits that plans set on it, as people write them.

use serde::{Deserialize, Serialize, de::Error as _};
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
            _ => Unit::Seconds,
        }
    }

    /// On which side of its limit it is bad.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Availability | Self::Throughput => Direction::Min,
            _ => Direction::Max,
        }
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
        }
    }

    /// A value of this metric, for people.
    pub fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Ratio => format!("{} %", trim(value * 100.0, 2)),
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
    "`{0}` is not a limit; write `1 %`, `500ms` or `1000/s` for a value of its own, `+10 %`, `+0.2pp` or `+20 % +0.2pp` for a difference to stable"
)]
pub struct LimitError(String);

impl Limit {
    /// The value it means, as a ratio, in seconds or calls a second, given stable's; nothing when stable's is needed and not known.
    pub fn resolve(self, metric: Metric, stable: Option<f64>) -> Option<f64> {
        match self {
            Self::Percent(percent) => Some(percent / 100.0),
            Self::Seconds(value) | Self::PerSecond(value) => Some(value),
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
            (Self::Seconds(_), Unit::Seconds)
            | (Self::PerSecond(_), Unit::PerSecond)
            | (Self::AgainstStable { .. }, Unit::Ratio) => true,
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
        } else {
            text.strip_suffix('s').and_then(number).map(Limit::Seconds)
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
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
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
        for bad in ["", "fast", "-1 %", "+5", "NaN %", "1e999s", "5", "%", "+"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
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
            !Limit::AgainstStable {
                percent: 10.0,
                points: 1.0
            }
            .fits(Metric::LatencyP95)
        );
    }
}
