//! Whether a rate seen in few samples is above or below a limit, rather than merely looks so.

use statrs::distribution::{Beta, ContinuousCDF as _};

/// The chance of a false alarm at one look at one rate. Small because rules are looked at each tick.
pub const ALPHA: f64 = 0.001;

/// Whether `hits` of `trials` show a rate above `limit`: its Clopper-Pearson lower bound at `1 - ALPHA` lies above.
///
/// That bound lies above exactly when so many hits or more would be seen at the limit with a chance below `ALPHA`
/// (Clopper and Pearson 1934), so no inverse of the beta function is needed.
pub fn is_above(hits: u64, trials: u64, limit: f64) -> bool {
    if hits == 0 || trials == 0 || limit >= 1.0 {
        return false;
    }
    limit <= 0.0 || upper_tail(hits, trials, limit) < ALPHA
}

/// The rates that `hits` of `trials` may stand for, at a confidence such as 0.95: Clopper and Pearson's interval, which never
/// promises more than it holds. Without trials it is everything.
pub fn interval(hits: u64, trials: u64, confidence: f64) -> (f64, f64) {
    let tail = (1.0 - confidence.clamp(0.0, 1.0)) / 2.0;
    let (hits, misses) = (hits.min(trials), trials - hits.min(trials));
    let quantile = |a: u64, b: u64, p: f64| {
        let beta = Beta::new(a as f64, b as f64).ok()?;
        Some(beta.inverse_cdf(p))
    };
    // A shape of zero is the end of the scale, which `Beta` does not take.
    (
        quantile(hits, misses + 1, tail).unwrap_or(0.0),
        quantile(hits + 1, misses, 1.0 - tail).unwrap_or(1.0),
    )
}

/// `P(X >= hits)` for `X` binomial with `trials` and `rate`, `0 < rate < 1`. Sums from the mode side outwards, so that it ends
/// early: at most a few thousand terms matter at any size.
fn upper_tail(hits: u64, trials: u64, rate: f64) -> f64 {
    if hits > trials {
        return 0.0;
    }
    if hits as f64 <= trials as f64 * rate {
        // At or below the mean the tail is far from small.
        return 1.0;
    }
    let odds = rate / (1.0 - rate);
    let mut term = ln_choose(trials, hits)
        + hits as f64 * rate.ln()
        + (trials - hits) as f64 * (-rate).ln_1p();
    term = term.exp();
    let mut sum = term;
    for k in hits..trials {
        term *= odds * (trials - k) as f64 / (k + 1) as f64;
        sum += term;
        if term < sum * 1e-12 {
            break;
        }
    }
    sum.min(1.0)
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Stirling's series; exact sums below 32, where the series is weak.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Summed exactly, in rational numbers.
    #[test]
    fn tails_are_exact() {
        for (k, n, p, expected) in [
            (3_u64, 10_u64, 0.1, 7.019_082_64e-2),
            (5, 5, 0.5, 3.125e-2),
            (20, 1000, 0.01, 3.288_359_787_727_466e-3),
            (60, 2000, 0.02, 1.691_839_837_868_063e-3),
        ] {
            let got = upper_tail(k, n, p);
            assert!(
                (got / expected - 1.0).abs() < 1e-9,
                "{k} of {n} at {p}: {got} against {expected}"
            );
        }
    }

    /// From scipy 1.17.1: `stats.beta.ppf(.025, k, n - k + 1), stats.beta.ppf(.975, k + 1, n - k)`.
    #[test]
    fn intervals_are_those_of_scipy() {
        for (k, n, low, high) in [
            (0_u64, 10_u64, 0.0, 0.308_497_107_818_760_7),
            (3, 50, 0.012_548_587_835_334_06, 0.165_481_946_603_772_88),
            (50, 50, 0.928_878_263_535_802_4, 1.0),
            (
                7,
                1000,
                0.002_818_858_759_620_524,
                0.014_369_194_978_918_632,
            ),
            (0, 0, 0.0, 1.0),
            (5, 3, 0.292_401_773_821_286_6, 1.0),
        ] {
            let got = interval(k, n, 0.95);
            assert!(
                (got.0 - low).abs() < 1e-9 && (got.1 - high).abs() < 1e-9,
                "{k} of {n}: {got:?} against {low} to {high}"
            );
        }
    }

    #[test]
    fn a_single_error_is_not_a_rate() {
        assert!(
            !is_above(1, 50, 0.01),
            "one of fifty may happen at one percent"
        );
        assert!(is_above(8, 50, 0.01));
        assert!(is_above(4, 4, 0.05));
        assert!(!is_above(0, 1000, 0.0), "nothing bad is never above");
        assert!(is_above(1, 10, 0.0), "anything is above nothing");
    }

    /// The exhaustive false alarm rate of one look, at the limit itself.
    #[test]
    fn false_alarms_of_one_look_stay_below_alpha() {
        for n in [10_u64, 50, 200] {
            for p in [0.001, 0.01, 0.1, 0.4] {
                let alarm: f64 = (0..=n)
                    .filter(|k| is_above(*k, n, p))
                    .map(|k| {
                        (ln_choose(n, k) + k as f64 * f64::ln(p) + (n - k) as f64 * f64::ln_1p(-p))
                            .exp()
                    })
                    .sum();
                assert!(alarm <= ALPHA * (1.0 + 1e-9), "{n} {p}: {alarm}");
            }
        }
    }
}
