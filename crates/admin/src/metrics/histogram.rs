//! The fine histograms of the judge as the coarse ones of Prometheus.

use serin_judge::{LogHistogram, upper_edge_seconds};

/// Buckets of the fine histogram in one of the coarse: an octave.
const STEPS_PER_OCTAVE: u16 = 32;

/// The `le` edges of a family: powers of two of a microsecond. Each is an edge of the fine histogram too, so that the counts
/// are exact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    first_exponent: u16,
    last_exponent: u16,
}

impl Edges {
    /// 0.5 ms to 67 s: what upstreams take.
    pub(crate) const LATENCY: Self = Self {
        first_exponent: 9,
        last_exponent: 26,
    };
    /// 8 µs to 1 s: what Serin itself takes.
    pub(crate) const SHORT: Self = Self {
        first_exponent: 3,
        last_exponent: 20,
    };

    /// Values by edge, each counted once; the last edge is endless.
    pub(crate) fn count(self, values: &LogHistogram) -> Vec<(f64, u64)> {
        let mut fine = values.buckets().iter().peekable();
        let mut counts =
            Vec::with_capacity(usize::from(self.last_exponent - self.first_exponent) + 2);
        for exponent in self.first_exponent..=self.last_exponent {
            let end = exponent * STEPS_PER_OCTAVE;
            let mut n = 0;
            while let Some((_, count)) = fine.next_if(|(bucket, _)| *bucket < end) {
                n += count;
            }
            counts.push((1e-6 * f64::from(1_u32 << exponent), n));
        }
        counts.push((f64::INFINITY, fine.map(|(_, count)| count).sum()));
        counts
    }
}

/// The sum of the values, each taken as the middle of its fine bucket: at most 1.1 % off (half a step of `2^(1/32)`).
pub(crate) fn sum_seconds(values: &LogHistogram) -> f64 {
    let half_a_step = (-1.0 / (2.0 * f64::from(STEPS_PER_OCTAVE))).exp2();
    values
        .buckets()
        .iter()
        .map(|(bucket, n)| upper_edge_seconds(*bucket) * half_a_step * *n as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_once_and_below_its_edge() {
        let values = [
            0.0, 1e-6, 0.0004, 0.00051, 0.000_513, 0.004, 0.3, 67.0, 67.2, 1e4,
        ];
        let mut histogram = LogHistogram::default();
        for value in values {
            histogram.record(value);
        }
        let counts = Edges::LATENCY.count(&histogram);
        assert_eq!(
            counts.iter().map(|(_, n)| n).sum::<u64>(),
            values.len() as u64
        );
        let mut below = 0.0;
        for (edge, n) in counts {
            let expected = values.iter().filter(|v| (below..edge).contains(*v)).count();
            assert_eq!(n, expected as u64, "up to {edge}");
            below = edge;
        }
    }

    #[test]
    fn the_sum_is_within_its_bound() {
        let mut histogram = LogHistogram::default();
        let mut sum = 0.0;
        for n in 1..2000_u32 {
            let seconds = f64::from(n) * 0.000_37;
            sum += seconds;
            histogram.record(seconds);
        }
        assert!((sum_seconds(&histogram) / sum - 1.0).abs() < 0.011);
    }
}
