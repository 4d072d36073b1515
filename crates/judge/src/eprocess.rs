//! Is one rate beyond another by more than a margin? Evidence that may be looked at after every block.
//!
//! Each block of counts multiplies the evidence of a few alternatives, fixed before the block, against their projection on the
//! margin. The product is a test supermartingale: while the candidate is within the margin, the chance that the evidence ever
//! reaches `1/alpha` is at most `alpha`, however often one looks (Ville 1939; Turner, Ly, Grünwald, arXiv 2106.02693; judge.md
//! section 1).
//!
//! One type serves two uses. The plain process is the reference of judge.md. With a [`Budget`] it begins again at every block
//! with a little of what is left, so that hours of health do not hide a fault that starts late: in place of the product `P`,
//! an alternative holds `R <- (R + w_t) * S_t`, the sum of the products of all starts.

use serde::{Deserialize, Serialize};

/// Rates nearer to zero or one than this are taken as this: nothing is impossible.
const RATE_MIN: f64 = 1e-6;

/// No alternative for the candidate lies above.
const CANDIDATE_MAX: f64 = 0.98;

/// The projection stays this far from zero.
const EDGE_LOW: f64 = 1e-12;

/// The projection, and the margin above it, stay this far from one.
const EDGE_HIGH: f64 = 1e-9;

/// How many trials the adaptive alternative puts on the margin, before the candidate has shown its own rate.
const ADAPTIVE_PRIOR: f64 = 20.0;

/// Newton's method ends when a step is smaller than this part of the way to the nearest pole: it doubles its digits each step, so
/// the value after that step is exact to the last few bits.
const NEWTON_STEP_MIN: f64 = 1e-8;

/// Halving the bracket so often reaches the last bit, whatever Newton's method does.
const STEPS_MAX: u32 = 80;

/// What the candidate may be worse by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// As a part of stable's rate.
    pub relative: f64,
    /// In addition, as a rate.
    pub absolute: f64,
}

impl Tolerance {
    /// None at all.
    pub const NONE: Self = Self {
        relative: 0.0,
        absolute: 0.0,
    };

    /// The highest rate allowed for the candidate when this is stable's.
    pub fn limit(self, rate: f64) -> f64 {
        (1.0 + self.relative) * rate + self.absolute
    }
}

/// What is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That the candidate is beyond the margin; the null is that it is within.
    Worse,
    /// That it is within; the null is that it is at the margin or beyond.
    Within,
}

/// What a block has shown: counts of trials, or what is expected of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The candidate's bad trials.
    pub bad_c: f64,
    /// The candidate's trials.
    pub n_c: f64,
    /// Stable's bad trials.
    pub bad_s: f64,
    /// Stable's trials.
    pub n_s: f64,
}

impl Counts {
    /// From whole numbers: `(bad, all)` of the candidate and of stable. More bad ones than there are count as all.
    pub fn new(candidate: (u64, u64), stable: (u64, u64)) -> Self {
        Self {
            bad_c: candidate.0.min(candidate.1) as f64,
            n_c: candidate.1 as f64,
            bad_s: stable.0.min(stable.1) as f64,
            n_s: stable.1 as f64,
        }
    }

    /// So many times the same.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            bad_c: self.bad_c * factor,
            n_c: self.n_c * factor,
            bad_s: self.bad_s * factor,
            n_s: self.n_s * factor,
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.bad_c += other.bad_c;
        self.n_c += other.n_c;
        self.bad_s += other.bad_s;
        self.n_s += other.n_s;
    }
}

/// How much worse than the margin the candidate may be: multiples of the highest rate allowed.
pub const WORSE_GRID: &[f64] = &[1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];

/// How much better than the margin it may be.
pub const WITHIN_GRID: &[f64] = &[0.3, 0.5, 0.7, 0.85];

/// What a process is about. Fixed for its life, and no part of its state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// What is to be shown.
    pub side: Side,
    /// The margin.
    pub tolerance: Tolerance,
    /// The alternatives, as multiples of the highest rate allowed.
    pub grid: &'static [f64],
    /// Whether there is one more alternative, which follows the candidate's own rate.
    pub adaptive: bool,
    /// Bad trials and all trials that stable is taken to have had before the first block.
    pub prior: (f64, f64),
    /// After so many trials of the candidate the adaptive alternative has forgotten half; infinite for never.
    pub half_life_trials: f64,
    /// How the first start is spread over the alternatives, in a process with restarts. The mean is one.
    pub first: &'static [f64],
    /// How later starts are. The mean is one.
    pub later: &'static [f64],
}

/// Every alternative gets the same.
pub const EVENLY: &[f64] = &[1.0; 8];

/// A fault that is there from the start is judged by all trials, so that small ones show too; the smallest takes the most trials by
/// far, and gets little. With these the process needs at most 1.47 times the trials of the test that knows both rates, for 3, 5,
/// 10, 20 and 50 % against 1 % (medians of 2,000 runs; tolerance +20 % +0.2pp, alpha 1 %).
const WORSE_FIRST: &[f64] = &[0.2, 0.8, 1.3, 1.3, 1.2, 1.2, 1.0, 1.0];

/// Against a great fault only the last few starts count, for hours of health have used up the others; against a small one
/// hundreds do. So the great ones get more. With these, and the budget below, a fault that starts after eight planned hours of
/// blocks of ten seconds in four steps is found within 1.93 times the trials of one that is there from the start, for the same
/// rates; spread evenly, and by the same part of what is left at every block, it took up to 2.3 times.
const WORSE_LATER: &[f64] = &[0.1, 0.2, 0.5, 1.0, 2.1, 2.4, 1.3, 0.4];

impl Rules {
    /// After this many trials the adaptive alternative has forgotten half, in a process with restarts: long enough to know the
    /// rate within a fifth or so, short enough to follow a fault that starts late (measured).
    pub const HALF_LIFE_TRIALS: f64 = 200.0;

    /// That bad trials are more frequent than is allowed; for a process with restarts.
    pub const fn worse(tolerance: Tolerance) -> Self {
        Self {
            side: Side::Worse,
            tolerance,
            grid: WORSE_GRID,
            adaptive: true,
            prior: (0.5, 100.0),
            half_life_trials: Self::HALF_LIFE_TRIALS,
            first: WORSE_FIRST,
            later: WORSE_LATER,
        }
    }

    /// That they are no more frequent than is allowed; for a plain process.
    pub const fn within(tolerance: Tolerance) -> Self {
        Self {
            side: Side::Within,
            tolerance,
            grid: WITHIN_GRID,
            adaptive: true,
            prior: (0.5, 100.0),
            half_life_trials: f64::INFINITY,
            first: EVENLY,
            later: EVENLY,
        }
    }

    fn alternatives(&self) -> usize {
        self.grid.len() + usize::from(self.adaptive)
    }
}

/// What is left of the weight of one for starts to come. One budget serves all processes of a rollout, for it says nothing
/// about outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    left: f64,
    horizon_blocks: f64,
}

impl Budget {
    /// What the first start gets. The more it is, the sooner a fault is found that is there from the start, and the later one that
    /// starts later. With a half, errors from the start take at most 1.47 times the trials of the test that knows both rates, and
    /// those that begin after eight planned hours at most 1.93 times as many again (medians, measured).
    pub const FIRST: f64 = 0.5;

    /// What the start of a new step takes of what is left: faults like to begin where the share changes, and evidence begins anew.
    pub const STEP: f64 = 0.2;

    /// What the blocks up to the horizon get together, each the same: a part of what the first start leaves.
    const PLANNED: f64 = 0.7;

    /// The least horizon, in blocks, so that no block takes more than there is; also for one that is no number.
    const HORIZON_MIN: f64 = 3.0;

    /// For a rollout that is planned to take so many blocks.
    pub fn new(horizon_blocks: f64) -> Self {
        Self {
            left: 1.0 - Self::FIRST,
            horizon_blocks: if horizon_blocks.is_finite() {
                horizon_blocks.max(Self::HORIZON_MIN)
            } else {
                Self::HORIZON_MIN
            },
        }
    }

    /// A block begins. Up to the horizon each gets the same; later, or after many steps, the same part of what is left, which
    /// goes on from there without a leap and never ends.
    pub fn block(&mut self) {
        let planned = Self::PLANNED * (1.0 - Self::FIRST);
        let later = self.left * Self::PLANNED / (1.0 - Self::PLANNED);
        self.left -= planned.min(later) / self.horizon_blocks;
    }

    /// A step begins.
    pub fn step(&mut self) {
        self.left -= self.left * Self::STEP;
    }

    /// What is left.
    pub fn left(self) -> f64 {
        self.left
    }
}

/// The logarithm of nothing, as far as numbers in JSON go.
const LN_NOTHING: f64 = -1e9;

/// Evidence for one claim about two rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EProcess {
    /// The logarithm of the evidence of each alternative, the adaptive one last.
    alternatives: Vec<f64>,
    /// Stable's bad trials and all of them, with the prior.
    stable: (f64, f64),
    /// The candidate's, as the adaptive alternative remembers them.
    candidate: (f64, f64),
    /// The logarithm of what earlier steps have come to, which stands as it is.
    banked: f64,
    /// The weight that is left for starts to come.
    reserve: f64,
    /// The weight of starts that wait for a block with trials.
    waiting: f64,
    /// The logarithm of all of it.
    ln_e: f64,
}

impl EProcess {
    /// Without restarts.
    pub fn plain(rules: &Rules) -> Self {
        Self {
            alternatives: vec![0.0; rules.alternatives()],
            stable: rules.prior,
            candidate: (0.0, 0.0),
            banked: LN_NOTHING,
            reserve: 0.0,
            waiting: 0.0,
            ln_e: 0.0,
        }
    }

    /// With restarts. A process that is made late has missed nothing: the starts before its first block are in it.
    pub fn restarting(rules: &Rules, budget: Budget) -> Self {
        let mut process = Self::plain(rules);
        process.reserve = 1.0 - Budget::FIRST;
        for (alternative, part) in process.alternatives.iter_mut().zip(rules.first) {
            *alternative = (Budget::FIRST * part).ln();
        }
        process.restart(budget);
        process
    }

    /// Gives to starts what the budget has given since the last time. Nothing comes of it before the next block with trials, so
    /// blocks without any need no call.
    pub fn restart(&mut self, budget: Budget) {
        let weight = self.reserve - budget.left();
        if weight > 0.0 {
            self.reserve = budget.left();
            self.waiting += weight;
        }
    }

    /// Forgets everything.
    pub fn begin_anew(&mut self, rules: &Rules) {
        *self = Self::plain(rules);
    }

    /// A step begins, in which the same callers count again. Trials of one step are independent of each other, those of two are
    /// not, so evidence is never multiplied across steps: what there is stands as it is, and starts of this step begin from nothing.
    /// The sum of the steps is still evidence, for its mean under the null is at most the sum of the weights.
    pub fn begin_step(&mut self, rules: &Rules) {
        self.banked = ln_add(self.banked, self.mean());
        self.alternatives.fill(LN_NOTHING);
        self.stable = rules.prior;
        self.candidate = (0.0, 0.0);
        self.ln_e = self.sum();
    }

    /// Takes a block.
    pub fn take(&mut self, rules: &Rules, counts: Counts) {
        let q_s = (self.stable.0 / self.stable.1).clamp(RATE_MIN, 1.0 - RATE_MIN);
        if counts.n_c > 0.0 && counts.n_s > 0.0 {
            self.start(rules);
            let limit = rules.tolerance.limit(q_s);
            let block = Block::new(rules, counts, q_s);
            let followed =
                (self.candidate.0 + ADAPTIVE_PRIOR * limit) / (self.candidate.1 + ADAPTIVE_PRIOR);
            let rates = rules.grid.iter().map(|multiple| limit * multiple);
            let rates = rates.chain(std::iter::once(followed));
            for (alternative, rate) in self.alternatives.iter_mut().zip(rates) {
                *alternative += block.ln_factor(rate.clamp(RATE_MIN, CANDIDATE_MAX));
            }
            self.ln_e = self.sum();
        }
        if counts.n_c > 0.0 {
            let kept = (-counts.n_c / rules.half_life_trials).exp2();
            self.candidate.0 = self.candidate.0 * kept + counts.bad_c;
            self.candidate.1 = self.candidate.1 * kept + counts.n_c;
        }
        self.stable.0 += counts.bad_s;
        self.stable.1 += counts.n_s;
    }

    /// The natural logarithm of the evidence: the mean of the alternatives, and what waits for starts to come.
    pub fn ln_e(&self) -> f64 {
        self.ln_e
    }

    fn start(&mut self, rules: &Rules) {
        let weight = std::mem::take(&mut self.waiting);
        if weight > 0.0 {
            for (alternative, part) in self.alternatives.iter_mut().zip(rules.later) {
                *alternative = ln_add_weight(*alternative, weight * part);
            }
        }
    }

    fn mean(&self) -> f64 {
        let mut sum = LnSum::default();
        for alternative in &self.alternatives {
            sum.add(*alternative);
        }
        sum.ln() - (self.alternatives.len().max(1) as f64).ln()
    }

    fn sum(&self) -> f64 {
        let mean = ln_add(self.mean(), self.banked);
        if self.reserve > 0.0 {
            ln_add(mean, self.reserve.ln())
        } else {
            mean
        }
    }

    /// The logarithm of the evidence of each alternative.
    pub fn alternatives(&self) -> &[f64] {
        &self.alternatives
    }
}

/// The logarithm of the factor by which a block multiplies the evidence of one alternative: that the candidate's rate is `q_c` and
/// stable's `q_s`. With both rates known this is the clairvoyant test that the process is measured against.
pub fn ln_factor(rules: &Rules, counts: Counts, q_c: f64, q_s: f64) -> f64 {
    if counts.n_c > 0.0 && counts.n_s > 0.0 {
        Block::new(rules, counts, q_s).ln_factor(q_c)
    } else {
        0.0
    }
}

/// One block, ready for any alternative.
struct Block {
    side: Side,
    tolerance: Tolerance,
    counts: Counts,
    q_s: f64,
    /// The part of stable's rate, which is the same for every alternative.
    ln_stable: f64,
}

impl Block {
    fn new(rules: &Rules, counts: Counts, q_s: f64) -> Self {
        Self {
            side: rules.side,
            tolerance: rules.tolerance,
            counts,
            q_s,
            ln_stable: ln_likelihood(counts.bad_s, counts.n_s, q_s),
        }
    }

    /// The logarithm of the factor of the alternative that has the candidate at `q_c`: the likelihood of the alternative against
    /// that of the nearest point on the margin.
    fn ln_factor(&self, q_c: f64) -> f64 {
        let limit = self.tolerance.limit(self.q_s);
        let inside = match self.side {
            Side::Worse => q_c <= limit,
            Side::Within => q_c >= limit,
        };
        if inside {
            return 0.0;
        }
        let Counts {
            bad_c,
            n_c,
            bad_s,
            n_s,
        } = self.counts;
        let alternative = ln_likelihood(bad_c, n_c, q_c) + self.ln_stable;
        let p = project(q_c, self.q_s, n_c, n_s, self.tolerance);
        let null = if self.tolerance == Tolerance::NONE {
            ln_likelihood(bad_c + bad_s, n_c + n_s, p)
        } else {
            ln_likelihood(bad_c, n_c, self.tolerance.limit(p)) + ln_likelihood(bad_s, n_s, p)
        };
        alternative - null
    }
}

/// The logarithm of the chance of so many bad trials in this order. `rate` is neither zero nor one.
fn ln_likelihood(bad: f64, n: f64, rate: f64) -> f64 {
    let well = (n - bad) * (1.0 - rate).ln();
    if bad > 0.0 {
        bad * rate.ln() + well
    } else {
        well
    }
}

/// Stable's rate at the point of the margin that is nearest to the alternative, weighted by trials: the root of the derivative of
/// `n_c KL(q_c || A(p)) + n_s KL(q_s || p)`, which rises everywhere. It lies between stable's rate and the one whose margin is
/// the candidate's.
fn project(q_c: f64, q_s: f64, n_c: f64, n_s: f64, tolerance: Tolerance) -> f64 {
    let slope = 1.0 + tolerance.relative;
    let high = (1.0 - EDGE_HIGH).min((1.0 - tolerance.absolute - EDGE_HIGH) / slope);
    let on_margin = (q_c - tolerance.absolute) / slope;
    let between = (n_c * on_margin + n_s * q_s) / (n_c + n_s);
    if tolerance == Tolerance::NONE {
        return between.clamp(EDGE_LOW, high);
    }
    let mut lo = on_margin.min(q_s).max(EDGE_LOW);
    let mut hi = on_margin.max(q_s).min(high);
    let mut p = if between > lo && between < hi {
        between
    } else {
        0.5 * (lo + hi)
    };
    for _ in 0..STEPS_MAX {
        let (d, curvature) = derivative(p, q_c, q_s, n_c, n_s, tolerance);
        if d > 0.0 {
            hi = p;
        } else {
            lo = p;
        }
        let newton = p - d / curvature;
        let pole = p.min(1.0 - p).min((1.0 - tolerance.limit(p)) / slope);
        if (newton - p).abs() <= NEWTON_STEP_MIN * pole {
            return newton.clamp(lo, hi);
        }
        p = if newton > lo && newton < hi {
            newton
        } else {
            0.5 * (lo + hi)
        };
    }
    p
}

/// The first two derivatives by `p` of what [`project`] makes least.
fn derivative(p: f64, q_c: f64, q_s: f64, n_c: f64, n_s: f64, tolerance: Tolerance) -> (f64, f64) {
    let slope = 1.0 + tolerance.relative;
    let a = tolerance.limit(p);
    let (v_s, v_c) = (p * (1.0 - p), a * (1.0 - a));
    let (g_s, g_c) = ((p - q_s) / v_s, (a - q_c) / v_c);
    // q/p^2 + (1-q)/(1-p)^2, in terms of what is there already.
    let curvature = |rate: f64, q: f64| {
        let (x, y) = (q / (rate * rate), 1.0 - rate);
        x + (1.0 - q) / (y * y)
    };
    (
        n_s * g_s + n_c * slope * g_c,
        n_s * curvature(p, q_s) + n_c * slope * slope * curvature(a, q_c),
    )
}

/// `ln(exp(ln) + weight)`. As with all logarithms here, an error of a part in 2^53 of *one* is far below what matters, so the
/// faster functions do.
fn ln_add_weight(ln: f64, weight: f64) -> f64 {
    let ratio = weight * (-ln).exp();
    if ratio.is_finite() {
        ln + (1.0 + ratio).ln()
    } else {
        weight.ln()
    }
}

/// The lesser of two; of two of which one is no number, that: it must not be overlooked.
pub(crate) fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// `ln(exp(a) + exp(b))`.
fn ln_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    high + (1.0 + (low - high).exp()).ln()
}

/// The logarithm of a sum, from logarithms of its terms, without leaving the range of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LnSum {
    highest: f64,
    /// In units of the highest.
    sum: f64,
}

impl Default for LnSum {
    fn default() -> Self {
        Self {
            highest: f64::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl LnSum {
    pub(crate) fn add(&mut self, ln: f64) {
        if ln == f64::NEG_INFINITY {
            // Nothing, and the difference of two infinities is no number.
        } else if ln <= self.highest {
            self.sum += (ln - self.highest).exp();
        } else {
            self.sum = self.sum * (self.highest - ln).exp() + 1.0;
            self.highest = ln;
        }
    }

    /// Minus infinity for no terms.
    pub(crate) fn ln(self) -> f64 {
        self.highest + self.sum.ln()
    }
}
