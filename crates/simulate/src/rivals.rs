//! Other ways to judge the same counts: what a rollout is watched with elsewhere, and the clairvoyant test that nobody can have.

use crate::counts::{Block, Watcher};

/// Steps of the bisection for the projection, as in the reference.
const BISECTIONS: u32 = 60;

/// The edge of the unit interval, as in the reference.
const EPSILON: f64 = 1e-12;

/// "Success at or above a rate in each minute, at most so many failed minutes": Argo Rollouts, and Flagger with other numbers.
#[derive(Clone, Debug)]
pub struct FailureLimit {
    /// The rate of errors that a minute may have.
    pub errors_max: f64,
    /// So many failed minutes abort the rollout.
    pub failures: u32,
    failed: u32,
}

impl FailureLimit {
    /// `successCondition: result >= 0.95`, `failureLimit: 3`: the fourth failed minute aborts.
    pub const fn argo() -> Self {
        Self {
            errors_max: 0.05,
            failures: 4,
            failed: 0,
        }
    }

    /// `request-success-rate: min: 99`, `threshold: 5`: the fifth failed minute aborts.
    pub const fn flagger() -> Self {
        Self {
            errors_max: 0.01,
            failures: 5,
            failed: 0,
        }
    }
}

impl Watcher for FailureLimit {
    fn look(&mut self, block: &Block) -> f64 {
        let [bad, all, ..] = block.as_floats();
        if all > 0.0 && bad / all > self.errors_max + EPSILON {
            self.failed += 1;
        }
        certain(self.failed >= self.failures)
    }
}

/// A fixed-sample test of two proportions, looked at after each minute as if it were the only look.
#[derive(Clone, Debug)]
pub struct RepeatedTest {
    /// The normal quantile beyond which it rejects.
    pub z: f64,
    total: Block,
}

impl RepeatedTest {
    /// One-sided at 5 %.
    pub fn at_five_percent() -> Self {
        Self {
            z: 1.644_853_626_951_472_2,
            total: Block::default(),
        }
    }
}

impl Watcher for RepeatedTest {
    fn look(&mut self, block: &Block) -> f64 {
        self.total.add(block);
        let [bad_c, all_c, bad_s, all_s] = self.total.as_floats();
        if all_c == 0.0 || all_s == 0.0 {
            return 0.0;
        }
        let pooled = (bad_c + bad_s) / (all_c + all_s);
        let error = (pooled * (1.0 - pooled) * (1.0 / all_c + 1.0 / all_s)).sqrt();
        certain(error > 0.0 && (bad_c / all_c - bad_s / all_s) / error > self.z)
    }
}

/// An asymptotic confidence sequence for the difference of the rates, as `GrowthBook` has it (Waudby-Smith, Arbour, Sinha, Kennedy,
/// Ramdas, 2103.06476): valid at all times once there is much data.
#[derive(Clone, Debug)]
pub struct ConfidenceSequence {
    /// The chance that it ever leaves out the truth.
    pub alpha: f64,
    /// So many calls it is narrowest for; 5000 there.
    pub tuned_for: f64,
    total: Block,
}

impl ConfidenceSequence {
    /// As it is set there from the start.
    pub fn at_five_percent() -> Self {
        Self {
            alpha: 0.05,
            tuned_for: 5000.0,
            total: Block::default(),
        }
    }
}

impl Watcher for ConfidenceSequence {
    fn look(&mut self, block: &Block) -> f64 {
        self.total.add(block);
        let [bad_c, all_c, bad_s, all_s] = self.total.as_floats();
        if all_c == 0.0 || all_s == 0.0 {
            return 0.0;
        }
        let (rate_c, rate_s) = (bad_c / all_c, bad_s / all_s);
        let n = all_c + all_s;
        let variance = rate_c * (1.0 - rate_c) / all_c + rate_s * (1.0 - rate_s) / all_s;
        let scale = -2.0 * self.alpha.ln();
        let n_rho2 = n * (scale + (scale + 1.0).ln()) / self.tuned_for;
        let width =
            variance * 2.0 * (n_rho2 + 1.0) / n_rho2 * ((n_rho2 + 1.0).sqrt() / self.alpha).ln();
        certain(variance > 0.0 && rate_c - rate_s > width.sqrt())
    }
}

/// The likelihood ratio with both true rates known: no judge can need fewer calls by much (`judge/floor.py`).
#[derive(Clone, Debug)]
pub struct Clairvoyant {
    candidate: f64,
    stable: f64,
    relative: f64,
    absolute: f64,
    ln: f64,
}

impl Clairvoyant {
    /// Knows the rates of the candidate and of stable; the tolerance is relative and absolute.
    pub const fn new(candidate: f64, stable: f64, (relative, absolute): (f64, f64)) -> Self {
        Self {
            candidate,
            stable,
            relative,
            absolute,
            ln: 0.0,
        }
    }

    /// The rates on the boundary of what is tolerated that are nearest to the true ones, as the counts weigh them.
    fn project(&self, candidate: f64, stable: f64) -> (f64, f64) {
        let slope = 1.0 + self.relative;
        let (mut low, mut high) = (
            EPSILON,
            (1.0 - 1e-9_f64).min((1.0 - self.absolute - 1e-9) / slope),
        );
        for _ in 0..BISECTIONS {
            let p = 0.5 * (low + high);
            let a = slope * p + self.absolute;
            let pull = stable * (p - self.stable) / (p * (1.0 - p))
                + candidate * slope * (a - self.candidate) / (a * (1.0 - a));
            if pull > 0.0 {
                high = p;
            } else {
                low = p;
            }
        }
        let p = 0.5 * (low + high);
        (slope * p + self.absolute, p)
    }
}

impl Watcher for Clairvoyant {
    fn look(&mut self, block: &Block) -> f64 {
        let [bad_c, all_c, bad_s, all_s] = block.as_floats();
        if all_c > 0.0 && all_s > 0.0 {
            let (null_c, null_s) = self.project(all_c, all_s);
            let gain = |bad: f64, all: f64, true_rate: f64, null: f64| {
                bad * (true_rate / null).ln()
                    + (all - bad) * ((-true_rate).ln_1p() - (-null).ln_1p())
            };
            self.ln += gain(bad_c, all_c, self.candidate, null_c)
                + gain(bad_s, all_s, self.stable, null_s);
        }
        self.ln
    }
}

/// A judge that knows only yes and no is as sure as can be when it says yes.
const fn certain(yes: bool) -> f64 {
    if yes { f64::INFINITY } else { 0.0 }
}
