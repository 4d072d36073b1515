//! Figures drawn from many runs.

use serde::{Deserialize, Serialize};

/// How sure an upper bound is that is printed beside a chance.
pub const CONFIDENCE: f64 = 0.95;

/// Steps of a bisection: a chance is found to the last digit of an `f64`.
const BISECTIONS: u32 = 60;

/// A chance as many runs have shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chance {
    /// Runs in which it happened.
    pub hits: u64,
    /// All runs.
    pub runs: u64,
}

impl Chance {
    /// Of the runs, those for which it is true.
    pub fn of(runs: impl IntoIterator<Item = bool>) -> Self {
        let mut chance = Self { hits: 0, runs: 0 };
        for hit in runs {
            chance.hits += u64::from(hit);
            chance.runs += 1;
        }
        chance
    }

    /// The part of the runs in which it happened; 0 without runs.
    pub fn rate(self) -> f64 {
        if self.runs == 0 {
            0.0
        } else {
            self.hits as f64 / self.runs as f64
        }
    }

    /// The Clopper-Pearson upper bound of the true chance, at [`CONFIDENCE`] on this one side: the chance at which so few hits
    /// would be seen in one of twenty tables (Clopper and Pearson, Biometrika 1934).
    pub fn upper(self) -> f64 {
        if self.hits >= self.runs {
            return 1.0;
        }
        let (mut low, mut high) = (self.rate(), 1.0);
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if lower_tail(self.hits, self.runs, middle) > 1.0 - CONFIDENCE {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// The lower bound of the true chance, at [`CONFIDENCE`] on this one side.
    pub fn lower(self) -> f64 {
        let others = Self {
            hits: self.runs - self.hits.min(self.runs),
            runs: self.runs,
        };
        1.0 - others.upper()
    }
}

/// `P(X <= hits)` for `X` binomial, `0 < rate < 1`, summed downwards from its largest term.
fn lower_tail(hits: u64, runs: u64, rate: f64) -> f64 {
    let (k, n) = (hits as f64, runs as f64);
    let choose = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    let mut term = libm::exp(choose + k * libm::log(rate) + (n - k) * libm::log1p(-rate));
    let mut sum = term;
    for j in (0..hits).rev() {
        let j = j as f64;
        term *= (j + 1.0) / (n - j) * (1.0 - rate) / rate;
        sum += term;
        if term < sum * 1e-15 {
            break;
        }
    }
    sum.min(1.0)
}

/// The quantile `q` of values, as numpy's `quantile` gives it (linear between the two nearest); endless values count as such.
/// Nothing without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last"
    )]
    let below = at.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    // Between equal values, endless ones among them, there is nothing to weigh.
    let part = at - below as f64;
    Some(if part == 0.0 || low.total_cmp(&high).is_eq() {
        low
    } else {
        low + (high - low) * part
    })
}

/// The middle value.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta.ppf(0.95, k + 1, n - k)`.
    #[test]
    fn upper_bounds_are_those_of_clopper_and_pearson() {
        for (hits, runs, expected) in [
            (0, 4000, 7.486_526_880_177_799e-4),
            (1, 4000, 1.185_411_262_151_504_9e-3),
            (7, 4000, 3.284_502_630_975_333_5e-3),
            (72, 4000, 2.185_686_513_805_285_7e-2),
            (5, 10, 0.777_558_898_991_870_6),
        ] {
            let got = Chance { hits, runs }.upper();
            assert!((got - expected).abs() < 1e-9, "{hits} of {runs}: {got}");
        }
        assert!(Chance { hits: 0, runs: 9 }.lower().abs() < 1e-12);
        let half = Chance { hits: 5, runs: 10 };
        assert!((half.lower() + half.upper() - 1.0).abs() < 1e-12);
        assert!((Chance { hits: 3, runs: 3 }.upper() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let values = [4.0, 1.0, 3.0, f64::INFINITY];
        assert_eq!(median(&values), Some(3.5));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(f64::INFINITY));
        assert_eq!(
            quantile(&[f64::INFINITY, f64::INFINITY], 0.5),
            Some(f64::INFINITY)
        );
        assert_eq!(median(&[]), None);
    }
}
