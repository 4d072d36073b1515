//! Histograms with logarithmic buckets of ratio `2^(1/32)`.
//!
//! The ratio makes every tolerance of the form `2^(k/32)` exact at a bucket edge, which the latency comparison of the
//! judge needs (`+11.4 %` is `k = 5`, `+51 %` is `k = 19`).

use serde::{Deserialize, Serialize};

/// Buckets an octave.
const STEPS_PER_OCTAVE: f64 = 32.0;

/// Lower edge of the first bucket, in seconds: nothing that crosses a socket is faster than a microsecond.
const FLOOR_SECONDS: f64 = 1e-6;

/// How many buckets there are: 32 octaves above a microsecond, which is 71 minutes; whatever is slower is in the last.
pub const BUCKETS: usize = 1024;

/// The bucket a duration falls into. Negative and tiny durations fall into the first, endless ones into the last.
pub fn bucket_of(seconds: f64) -> u16 {
    if seconds <= FLOOR_SECONDS {
        return 0;
    }
    let index = ((seconds / FLOOR_SECONDS).log2() * STEPS_PER_OCTAVE).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the table"
    )]
    let index = index.clamp(0.0, (BUCKETS - 1) as f64) as u16;
    index
}

/// The upper edge of a bucket, in seconds.
pub fn upper_edge_seconds(bucket: u16) -> f64 {
    FLOOR_SECONDS * ((f64::from(bucket) + 1.0) / STEPS_PER_OCTAVE).exp2()
}

/// How many whole steps of a bucket a ratio spans: `1.115` is 5. A ratio that is not an edge is rounded down.
pub fn steps_of_ratio(ratio: f64) -> u16 {
    // A ratio that was computed from an edge must not fall a step short.
    let steps = (ratio.max(1.0).log2() * STEPS_PER_OCTAVE + 1e-9).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the table"
    )]
    let steps = steps.clamp(0.0, (BUCKETS - 1) as f64) as u16;
    steps
}

/// The ratio that so many steps of a bucket span.
pub fn ratio_of_steps(steps: u16) -> f64 {
    (f64::from(steps) / STEPS_PER_OCTAVE).exp2()
}

/// A histogram as it is sent, stored and merged: only the buckets that hold something, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHistogram {
    buckets: Vec<(u16, u64)>,
}

impl LogHistogram {
    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, n)| n).sum()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The buckets that hold something, in rising order.
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
    }

    /// Adds one value, in seconds.
    pub fn record(&mut self, seconds: f64) {
        self.add(bucket_of(seconds), 1);
    }

    /// Adds another histogram to this one.
    pub fn merge(&mut self, other: &Self) {
        for &(bucket, n) in &other.buckets {
            self.add(bucket, n);
        }
    }

    /// Takes another histogram, which was merged before, out of this one.
    pub fn unmerge(&mut self, other: &Self) {
        for &(bucket, n) in &other.buckets {
            if let Ok(at) = self.buckets.binary_search_by_key(&bucket, |(b, _)| *b) {
                self.buckets[at].1 = self.buckets[at].1.saturating_sub(n);
            }
        }
        self.buckets.retain(|(_, n)| *n > 0);
    }

    /// The upper edge, in seconds, of the bucket in which the quantile `q` (0 to 1) lies; nothing when it is empty.
    pub fn quantile_seconds(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0);
        let mut seen = 0_u64;
        for &(bucket, n) in &self.buckets {
            seen += n;
            if seen as f64 >= rank {
                return Some(upper_edge_seconds(bucket));
            }
        }
        None
    }

    /// Adds `n` values of one bucket, as [`bucket_of`] names it.
    pub fn add(&mut self, bucket: u16, n: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(at) => self.buckets[at].1 += n,
            Err(at) => self.buckets.insert(at, (bucket, n)),
        }
    }
}

/// A histogram as it is written on the request's path: a flat table, one addition a value.
#[derive(Clone, Debug)]
pub struct DenseHistogram {
    buckets: Box<[u32]>,
    lowest: u16,
    highest: u16,
}

impl Default for DenseHistogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            lowest: u16::MAX,
            highest: 0,
        }
    }
}

impl DenseHistogram {
    /// Adds one value, in seconds.
    pub fn record(&mut self, seconds: f64) {
        self.add(bucket_of(seconds));
    }

    /// Adds one value of a bucket, as [`bucket_of`] names it.
    pub fn add(&mut self, bucket: u16) {
        if let Some(n) = self.buckets.get_mut(usize::from(bucket)) {
            *n = n.saturating_add(1);
            self.lowest = self.lowest.min(bucket);
            self.highest = self.highest.max(bucket);
        }
    }

    /// Empties it and returns what it held.
    pub fn drain(&mut self) -> LogHistogram {
        let mut out = LogHistogram::default();
        if self.lowest <= self.highest {
            for bucket in self.lowest..=self.highest {
                let n = &mut self.buckets[usize::from(bucket)];
                if *n > 0 {
                    out.buckets.push((bucket, u64::from(std::mem::take(n))));
                }
            }
        }
        self.lowest = u16::MAX;
        self.highest = 0;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_lies_below_its_upper_edge_and_within_one_ratio(seconds in 1e-6..4000.0_f64) {
            let edge = upper_edge_seconds(bucket_of(seconds));
            prop_assert!(seconds <= edge * (1.0 + 1e-9));
            prop_assert!(edge <= seconds * (1.0_f64 / 32.0).exp2() * (1.0 + 1e-9));
        }

        #[test]
        fn dense_and_sparse_agree(values in prop::collection::vec(0.0..100.0_f64, 0..200)) {
            let mut dense = DenseHistogram::default();
            let mut sparse = LogHistogram::default();
            for v in &values {
                dense.record(*v);
                sparse.record(*v);
            }
            prop_assert_eq!(dense.drain(), sparse);
            prop_assert!(dense.drain().is_empty());
        }

        #[test]
        fn taking_out_undoes_putting_in(a in prop::collection::vec(0.0..9.0_f64, 0..50), b in prop::collection::vec(0.0..9.0_f64, 0..50)) {
            let collect = |values: &[f64]| {
                let mut h = LogHistogram::default();
                for v in values {
                    h.record(*v);
                }
                h
            };
            let (a, b) = (collect(&a), collect(&b));
            let mut both = a.clone();
            both.merge(&b);
            prop_assert_eq!(both.count(), a.count() + b.count());
            both.unmerge(&b);
            prop_assert_eq!(both, a);
        }
    }

    #[test]
    fn odd_durations_have_a_bucket() {
        assert_eq!(bucket_of(-1.0), 0);
        assert_eq!(bucket_of(0.0), 0);
        assert_eq!(usize::from(bucket_of(f64::INFINITY)), BUCKETS - 1);
        assert_eq!(bucket_of(f64::NAN), 0);
    }

    #[test]
    fn quantiles_of_an_empty_histogram_are_unknown() {
        assert_eq!(LogHistogram::default().quantile_seconds(0.5), None);
    }
}
