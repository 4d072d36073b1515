//! Rates, and the bucket that keeps them: the generic cell rate algorithm (ITU-T I.371), which is a token bucket whose whole state is one
//! moment.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{fmt, str::FromStr, time::Duration};

/// Most requests in a rate, and most of a burst: beyond it nothing is limited.
const COUNT_MAX: u32 = 10_000_000;

/// So many in a time: `100/hour`, `10000/minute`, `5/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many, 1 to ten million.
    pub count: u32,
    /// In which time.
    pub period: Period,
}

/// The times of rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Period {
    const ALL: [(Self, &'static str, &'static str, u64); 4] = [
        (Self::Second, "second", "s", 1),
        (Self::Minute, "minute", "m", 60),
        (Self::Hour, "hour", "h", 3600),
        (Self::Day, "day", "d", 86_400),
    ];

    const fn about(self) -> (&'static str, u64) {
        let (_, name, _, seconds) = Self::ALL[self as usize];
        (name, seconds)
    }

    /// Its length.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.about().1)
    }
}

/// A text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a rate: write for example `100/hour`, with second, minute, hour or day, and 1 to {COUNT_MAX} requests"
)]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let read = || {
            let (count, period) = text.split_once('/')?;
            let (count, period) = (count.trim().parse().ok()?, period.trim());
            let (period, ..) = Period::ALL
                .into_iter()
                .find(|(_, long, short, _)| *long == period || *short == period)?;
            (1..=COUNT_MAX)
                .contains(&count)
                .then_some(Self { count, period })
        };
        read().ok_or_else(|| RateError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.about().0)
    }
}

impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Whose requests a limit counts together. Always by service: a loop at one must not starve the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Those of a key (or of a subject of a token).
    #[default]
    Key,
    /// Those of a tenant.
    Tenant,
    /// All callers'.
    Service,
}

/// A limit as somebody writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    /// Whose requests are counted together.
    #[serde(default)]
    pub per: Per,
    /// How many in which time.
    pub rate: Rate,
    /// How many at once after a quiet time; as many as the rate has, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Only calls of these tools, names or beginnings with a `*`; each tool is counted by itself. None: every request.
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tools: Vec<String>,
    /// Only requests below this path of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only these methods. None: all.
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub methods: Vec<String>,
}

/// A list that is written has something in it: an empty one would not stand for nothing, but for everything.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::deserialize(from)?;
    if list.is_empty() {
        return Err(D::Error::custom(
            "there is nothing in this list; write what is to be limited, or remove the field to limit all",
        ));
    }
    Ok(list)
}

impl LimitRule {
    /// Its bucket.
    pub fn limit(&self) -> Limit {
        Limit {
            rate: self.rate,
            burst: self.burst.unwrap_or(self.rate.count),
        }
    }
}

/// What a customer has bought: limits for each of its keys, and for all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Its limits, each of which must have room.
    pub limits: Vec<LimitRule>,
}

/// A bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How fast it fills.
    pub rate: Rate,
    /// How much it holds, at least 1.
    pub burst: u32,
}

/// What a bucket says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Nothing: there was room. Otherwise the time after which there will be.
    pub retry_after: Option<Duration>,
    /// How many more there is room for now.
    pub remaining: u32,
    /// Time until it is full again.
    pub reset_after: Duration,
}

impl Limit {
    /// Nanoseconds that one request takes.
    fn interval(self) -> u64 {
        let period = u64::try_from(self.rate.period.duration().as_nanos()).unwrap_or(u64::MAX);
        period / u64::from(self.rate.count.max(1))
    }

    /// Nanoseconds in which an empty bucket fills.
    pub fn depth(self) -> u64 {
        let burst = u64::from(self.burst.max(1));
        self.interval().saturating_mul(burst)
    }

    /// Nanoseconds that so many requests take.
    pub fn cost(self, count: u32) -> u64 {
        self.interval().saturating_mul(u64::from(count))
    }

    /// Takes `count` out of a bucket. `full_at` is its state: the moment at which it is full again, in nanoseconds of the same clock as
    /// `now`; it is changed only where there was room. 0 is a full bucket.
    pub fn take(self, full_at: &mut u64, now: u64, count: u32) -> Taken {
        let (interval, depth) = (self.interval(), self.depth());
        let after = (*full_at).max(now).saturating_add(self.cost(count));
        let retry_after = after
            .checked_sub(now.saturating_add(depth))
            .filter(|wait| *wait > 0)
            .map(Duration::from_nanos);
        if retry_after.is_none() {
            *full_at = after;
        }
        let left = (*full_at).saturating_sub(now);
        let remaining = depth.saturating_sub(left) / interval.max(1);
        Taken {
            retry_after,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset_after: Duration::from_nanos(left),
        }
    }

    /// Puts back what [`Limit::take`] took, because another bucket had no room.
    pub fn give_back(self, full_at: &mut u64, count: u32) {
        *full_at = full_at.saturating_sub(self.cost(count));
    }

    /// The state of a bucket that was of `depth` nanoseconds so far and is of this limit from now on: as much of it is left, in
    /// proportion. Who had used all of the old one has nothing in the new one, and who had nothing used has all of it.
    pub fn resized(self, full_at: u64, depth: u64, now: u64) -> u64 {
        let used = u128::from(full_at.saturating_sub(now).min(depth));
        let used = used * u128::from(self.depth()) / u128::from(depth.max(1));
        now.saturating_add(u64::try_from(used).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(rate: &str, burst: Option<u32>) -> Limit {
        LimitRule {
            per: Per::Key,
            rate: rate.parse().unwrap(),
            burst,
            tools: vec![],
            path: None,
            methods: vec![],
        }
        .limit()
    }

    #[test]
    fn rates_are_written_as_they_are_read() {
        for (text, written) in [
            ("100/hour", "100/hour"),
            ("5/s", "5/second"),
            ("10000 / minute", "10000/minute"),
            ("1/d", "1/day"),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "100",
            "0/hour",
            "-1/hour",
            "1/week",
            "1/hour/2",
            "99999999/s",
            "1.5/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn request_101_of_100_an_hour_is_refused() {
        let limit = limit("100/hour", None);
        let (mut state, now) = (0, 1_000_000_000_000_000);
        for n in 0..100 {
            let taken = limit.take(&mut state, now, 1);
            assert_eq!((taken.retry_after, taken.remaining), (None, 99 - n));
        }
        let taken = limit.take(&mut state, now, 1);
        assert_eq!(taken.retry_after, Some(Duration::from_secs(36)));
        assert_eq!(taken.remaining, 0);
        assert_eq!(taken.reset_after, Duration::from_hours(1));
        let later = now + 36_000_000_000;
        assert_eq!(limit.take(&mut state, later, 1).retry_after, None);
        assert!(limit.take(&mut state, later, 1).retry_after.is_some());
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_rate_and_burst(
            steps in proptest::collection::vec(0_u64..3_000_000_000, 1..300),
            count in 1_u32..50,
            burst in 1_u32..20,
        ) {
            let limit = Limit { rate: Rate { count, period: Period::Second }, burst };
            let (mut state, mut now) = (0, 1 << 60);
            let mut passed = Vec::new();
            for step in steps {
                now += step;
                if limit.take(&mut state, now, 1).retry_after.is_none() {
                    passed.push(now);
                }
            }
            for (n, from) in passed.iter().enumerate() {
                for (m, to) in passed.iter().enumerate().skip(n) {
                    let most = u64::from(burst) + (to - from) / limit.interval() + 1;
                    prop_assert!((m - n + 1) as u64 <= most);
                }
            }
        }

        #[test]
        fn what_is_given_back_was_never_taken(counts in proptest::collection::vec(1_u32..5, 1..20), burst in 20_u32..100) {
            let limit = Limit { rate: Rate { count: 7, period: Period::Minute }, burst };
            let (mut state, now) = (0, 1 << 60);
            limit.take(&mut state, now, 3);
            let before = limit.take(&mut state.clone(), now, 0);
            let taken: Vec<_> = counts.into_iter().filter(|n| limit.take(&mut state, now, *n).retry_after.is_none()).collect();
            for count in taken {
                limit.give_back(&mut state, count);
            }
            prop_assert_eq!(limit.take(&mut state, now, 0), before);
        }

        #[test]
        fn a_changed_limit_keeps_what_was_used(
            used in 0_u32..=1000,
            (old, new) in ((1_u32..1000, 1_u32..1000), (1_u32..1000, 1_u32..1000)),
        ) {
            let limit = |(count, burst)| Limit { rate: Rate { count, period: Period::Hour }, burst };
            let (old, new) = (limit(old), limit(new));
            let (mut state, now) = (0, 1 << 60);
            let used = used.min(old.burst);
            old.take(&mut state, now, used);
            let mut resized = new.resized(state, old.depth(), now);
            let left = new.take(&mut resized, now, 0).remaining;
            let want = u64::from(new.burst) * u64::from(old.burst - used) / u64::from(old.burst);
            prop_assert!(u64::from(left).abs_diff(want) <= 1, "{left} of {want}");
            prop_assert!(used < old.burst || left == 0);
        }

        #[test]
        fn who_waits_as_told_gets_through(burst in 1_u32..20, count in 1_u32..1000, taken in 1_u32..40) {
            let limit = Limit { rate: Rate { count, period: Period::Minute }, burst };
            let (mut state, now) = (0, 1 << 60);
            for _ in 0..taken {
                limit.take(&mut state, now, 1);
            }
            let before = state;
            if let Some(wait) = limit.take(&mut state, now, 1).retry_after {
                prop_assert_eq!(state, before);
                let later = now + u64::try_from(wait.as_nanos()).unwrap();
                prop_assert_eq!(limit.take(&mut state, later, 1).retry_after, None);
            }
        }
    }
}
