//! How long simulated calls take: log-normal, in the buckets of the judge's histograms.

use crate::Source;
use serde::{Deserialize, Serialize};
use serin_judge::{BUCKETS, LogHistogram, bucket_of, upper_edge_seconds};

/// So many equally likely durations stand for a distribution: its 99.99th percentile is still right to a tenth.
const EQUALLY_LIKELY: usize = 1 << 16;

/// Beyond so many draws, drawing each bucket's count is cheaper than drawing each value.
const DRAWS_MAX: u64 = 1000;

/// Durations: a log-normal distribution, which is what those of most services look like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the calls take no longer, in seconds.
    pub median_seconds: f64,
    /// Standard deviation of the logarithm: 0.6 makes the 95th percentile 2.7 times the median.
    pub sigma: f64,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            median_seconds: 0.08,
            sigma: 0.6,
        }
    }
}

/// What makes some of the calls slower.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slowdown {
    /// So many times slower.
    pub factor: f64,
    /// This part of the calls.
    pub part: f64,
}

impl Slowdown {
    /// None.
    pub const NONE: Self = Self {
        factor: 1.0,
        part: 0.0,
    };

    /// Every call is so many times slower.
    pub const fn all(factor: f64) -> Self {
        Self { factor, part: 1.0 }
    }
}

/// A distribution of durations over the buckets of a histogram, ready to be drawn from.
#[derive(Clone, Debug)]
pub struct Latencies {
    probabilities: Vec<f64>,
    quantiles: Vec<u16>,
}

impl Latencies {
    /// Durations spread like this, some of them slower.
    pub fn new(spread: Spread, slowdown: Slowdown) -> Self {
        let slow = Spread {
            median_seconds: spread.median_seconds * slowdown.factor,
            ..spread
        };
        let mut probabilities = Vec::with_capacity(BUCKETS);
        let mut below = 0.0;
        for bucket in buckets() {
            let edge = if usize::from(bucket) + 1 == BUCKETS {
                f64::INFINITY
            } else {
                upper_edge_seconds(bucket)
            };
            let up_to =
                (1.0 - slowdown.part) * up_to(spread, edge) + slowdown.part * up_to(slow, edge);
            probabilities.push(up_to - below);
            below = up_to;
        }
        let quantiles = equally_likely(&probabilities);
        Self {
            probabilities,
            quantiles,
        }
    }

    /// One duration, as the bucket it falls into.
    pub fn draw(&self, source: &mut Source) -> u16 {
        self.quantiles[usize::from(source.bits16())]
    }

    /// So many of them, each moved by `shift` buckets, such as for a load that drifts.
    pub fn draw_many(&self, count: u64, shift: i16, source: &mut Source) -> LogHistogram {
        let mut counts = [0_u32; BUCKETS];
        if count <= DRAWS_MAX {
            for _ in 0..count {
                counts[usize::from(moved(self.draw(source), shift))] += 1;
            }
        } else {
            self.draw_counts(count, shift, source, &mut counts);
        }
        let mut histogram = LogHistogram::default();
        for (bucket, &count) in buckets().zip(&counts) {
            if count > 0 {
                histogram.add(bucket, u64::from(count));
            }
        }
        histogram
    }

    /// The multinomial draw, bucket by bucket: of what is left, the part that falls into this one rather than a later.
    fn draw_counts(
        &self,
        count: u64,
        shift: i16,
        source: &mut Source,
        counts: &mut [u32; BUCKETS],
    ) {
        let (mut left, mut rest) = (count, 1.0);
        for (bucket, &probability) in buckets().zip(&self.probabilities) {
            if left == 0 {
                break;
            }
            if probability > 0.0 {
                let here = source.binomial(left, (probability / rest).min(1.0));
                counts[usize::from(moved(bucket, shift))] +=
                    u32::try_from(here).unwrap_or(u32::MAX);
                left -= here;
                rest -= probability;
            }
        }
    }

    /// The chance that a duration falls into each bucket.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }
}

fn buckets() -> impl Iterator<Item = u16> {
    (0..).take(BUCKETS)
}

fn moved(bucket: u16, shift: i16) -> u16 {
    let last = bucket_of(f64::INFINITY);
    bucket.saturating_add_signed(shift).min(last)
}

/// The part of the calls that takes no longer than `seconds`.
fn up_to(spread: Spread, seconds: f64) -> f64 {
    if seconds.is_infinite() {
        return 1.0;
    }
    let z = libm::log(seconds / spread.median_seconds) / spread.sigma;
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// Which bucket each of [`EQUALLY_LIKELY`] durations is in.
fn equally_likely(probabilities: &[f64]) -> Vec<u16> {
    let mut quantiles = Vec::with_capacity(EQUALLY_LIKELY);
    let mut below = 0.0;
    for (bucket, probability) in buckets().zip(probabilities) {
        below += probability;
        while quantiles.len() < EQUALLY_LIKELY
            && (quantiles.len() as f64 + 0.5) / (EQUALLY_LIKELY as f64) < below
        {
            quantiles.push(bucket);
        }
    }
    quantiles.resize(EQUALLY_LIKELY, quantiles.last().copied().unwrap_or(0));
    quantiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    fn near(histogram: &LogHistogram, q: f64, seconds: f64) {
        let got = histogram.quantile_seconds(q).unwrap();
        assert!(
            (got / seconds).ln().abs() < 0.08,
            "{q}: {got} for {seconds}"
        );
    }

    #[test]
    fn both_ways_of_drawing_give_the_distribution() {
        let spread = Spread::default();
        let slow = Slowdown {
            factor: 5.0,
            part: 0.05,
        };
        for (slowdown, p50, p95) in [
            (Slowdown::NONE, 0.08, 0.2146),
            (Slowdown::all(1.5), 0.12, 0.322),
            (slow, 0.0828, 0.2758),
        ] {
            let latencies = Latencies::new(spread, slowdown);
            let mut source = Seed::new("latency", "").run(0);
            let at_once = latencies.draw_many(100_000, 0, &mut source);
            let mut one_by_one = LogHistogram::default();
            for _ in 0..50_000 {
                one_by_one.add(latencies.draw(&mut source), 1);
            }
            for histogram in [&at_once, &one_by_one] {
                near(histogram, 0.5, p50);
                near(histogram, 0.95, p95);
            }
            assert_eq!(at_once.count(), 100_000);
            assert!((latencies.probabilities().iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_shift_moves_every_value() {
        let latencies = Latencies::new(Spread::default(), Slowdown::NONE);
        let draw = |shift| latencies.draw_many(500, shift, &mut Seed::new("shift", "").run(0));
        let (there, here) = (draw(32), draw(0));
        let doubled: Vec<_> = here.buckets().iter().map(|&(b, n)| (b + 32, n)).collect();
        assert_eq!(there.buckets(), doubled);
    }
}
