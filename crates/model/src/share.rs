//! The share of new affinity keys that get the candidate, and the hash that says which.

use crate::name::RolloutId;
use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr};

/// Hundredths of a percent in the whole: the finest share there is.
const WHOLE: u16 = 10_000;

/// A percentage from 0 to 100 in steps of 0.01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(u16);

/// Why a text or number is not a share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a share: write a percentage from 0 to 100 with at most two decimals, for example `5 %` or `0.5 %`"
)]
pub struct ShareError(String);

impl Share {
    /// Nobody.
    pub const ZERO: Self = Self(0);
    /// Everybody.
    pub const FULL: Self = Self(WHOLE);

    /// A share of so many percent; refused outside 0 to 100 and below the finest step.
    pub fn from_percent(percent: f64) -> Result<Self, ShareError> {
        let hundredths = (percent * 100.0).round();
        if !(0.0..=f64::from(WHOLE)).contains(&hundredths)
            || (percent * 100.0 - hundredths).abs() > 1e-6
        {
            return Err(ShareError(percent.to_string()));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "range checked above"
        )]
        Ok(Self(hundredths as u16))
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// From 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// In hundredths of a percent.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// Whether the affinity key gets the candidate. Nested: who is in at a share is in at every greater one, so raising
    /// the share moves callers one way only. The hash is BLAKE3, the same on every node and in every release.
    pub fn includes(self, rollout: RolloutId, affinity_key: &[u8]) -> bool {
        self.0 == WHOLE || (self.0 > 0 && bucket(rollout, affinity_key) < self.0)
    }
}

/// The place of an affinity key in a rollout, from 0 to 9999: it is below so many at a share of so many hundredths of a percent.
pub fn bucket(rollout: RolloutId, affinity_key: &[u8]) -> u16 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(rollout.0.as_bytes());
    hasher.update(affinity_key);
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let spread = (u128::from(u64::from_be_bytes(head)) * u128::from(WHOLE)) >> 64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below WHOLE by construction"
    )]
    let bucket = spread as u16;
    bucket
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent())
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Share {
    type Err = ShareError;
    fn from_str(text: &str) -> Result<Self, ShareError> {
        let refuse = || ShareError(text.to_owned());
        let number = text.trim().trim_end_matches('%').trim_end();
        Self::from_percent(number.parse().map_err(|_| refuse())?).map_err(|_| refuse())
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
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
    use uuid::Uuid;

    proptest! {
        #[test]
        fn raising_the_share_only_adds_callers(low in 0_u16..=WHOLE, high in 0_u16..=WHOLE, rollout: u128, key: Vec<u8>) {
            let (low, high) = (low.min(high), low.max(high));
            let rollout = RolloutId(Uuid::from_u128(rollout));
            prop_assert!(!Share(low).includes(rollout, &key) || Share(high).includes(rollout, &key));
        }

        #[test]
        fn shares_read_back_as_written(hundredths in 0_u16..=WHOLE) {
            let share = Share(hundredths);
            prop_assert_eq!(share.to_string().parse::<Share>().unwrap(), share);
        }
    }

    #[test]
    fn the_hash_is_fixed_for_ever() {
        // A change here would move every caller of every running rollout.
        let rollout = RolloutId(Uuid::from_u128(7));
        let buckets = ["a", "b", "session-3"].map(|key| bucket(rollout, key.as_bytes()));
        assert_eq!(buckets, [9417, 5686, 3006]);
    }

    #[test]
    fn keys_spread_evenly() {
        let rollout = RolloutId(Uuid::from_u128(11));
        let share: Share = "10 %".parse().unwrap();
        let hits = (0_u32..20_000)
            .filter(|k| share.includes(rollout, &k.to_be_bytes()))
            .count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        assert_eq!(
            (0_u32..100)
                .filter(|k| Share::FULL.includes(rollout, &k.to_be_bytes()))
                .count(),
            100
        );
        assert_eq!(
            (0_u32..100)
                .filter(|k| Share::ZERO.includes(rollout, &k.to_be_bytes()))
                .count(),
            0
        );
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for bad in ["", "5 percent", "101 %", "-1 %", "0.001 %", "NaN"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
