//! Is the candidate slower? A latency beyond a quantile of stable is a bad trial, and what is compared is how often that happens
//! (judge.md section 2).
//!
//! The threshold is a quantile of stable in *earlier* blocks, and the upper edge of a histogram's bucket. Of stable, a trial is bad
//! beyond it; of the candidate, beyond the same edge times the margin. As the margin is a whole number of buckets, both counts are
//! exact. If the candidate is stochastically no slower than the margin allows, its trials are bad no more often than stable's.
//!
//! A trial whose first call failed is endless. Where it is to be shown that the candidate is *no slower*, endless trials are bad on
//! both sides: failing fast never looks like an improvement. Where it is to be shown that it is *slower*, they are left out, for
//! how often calls fail is compared elsewhere, with a tolerance of its own. Counted as slow, the failures that this tolerance
//! allows would be called a regression in latency (measured: with +50 % +5pp, a candidate at that limit always was).

use crate::{
    BUCKETS, LogHistogram,
    eprocess::{Budget, Counts, EProcess, EVENLY, LnSum, Rules, Side, Tolerance, least},
};
use serde::{Deserialize, Serialize};

/// The quantiles of stable whose exceedance is compared.
pub const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// The quantiles that must be shown to be no slower. Not the 99th percentile: one trial in a hundred exceeds it, so to show that
/// of the candidate's no more do takes several thousand trials, which few steps have; it still speaks against the candidate.
const SAFE_QUANTILES: usize = 2;

/// The quantiles as people name them.
const PERCENTILES: [u8; 3] = [50, 95, 99];

/// Which of the quantiles is shown to people while none tells more than another.
const SHOWN: usize = 1;

/// How much slower the candidate's alternatives are: multiples of the rate at which stable exceeds the threshold.
const GRID: &[f64] = &[1.25, 1.5, 2.0, 3.0, 5.0];

/// How many trials the expectation that a quantile is exceeded as often as it says is worth.
const PRIOR_TRIALS: f64 = 50.0;

/// Stable's values before the first comparison: with fewer, the higher quantiles are merely the largest value. As many as the
/// prior is worth; any number is valid, for the threshold only uses earlier blocks.
const WARM_UP_VALUES: u64 = 50;

/// What a block leaves of the histogram of those before, so that the threshold follows a load that drifts. Of judge.md.
const KEPT: f64 = 0.9;

/// Fading stops where fewer values than this would be left: most keys have their trial early in a step, and a threshold made of
/// the few that come later would jump about.
const VALUES_MIN: f64 = 200.0;

/// A value is counted in parts so fine, for it fades in whole parts: they are small in JSON, and exact.
const PARTS: u64 = 256;

/// How much slower the candidate may be, in buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margins {
    /// Before the rollout holds.
    pub warning: u16,
    /// Before it is taken back.
    pub critical: u16,
}

/// The latencies of one side in one block.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Those that are known.
    pub histogram: &'a LogHistogram,
    /// How many more never ended well.
    pub endless: u64,
}

impl Values<'_> {
    /// Of those that are known, those beyond the upper edge of a bucket, and all.
    fn beyond(&self, bucket: u16) -> (u64, u64) {
        let (mut bad, mut all) = (0, 0);
        for &(b, n) in self.histogram.buckets() {
            all += n;
            if b > bucket {
                bad += n;
            }
        }
        (bad, all)
    }

    /// The same with the endless ones, which are beyond every edge.
    fn beyond_or_endless(&self, bucket: u16) -> (u64, u64) {
        let (bad, all) = self.beyond(bucket);
        (bad + self.endless, all + self.endless)
    }
}

/// The rules of the process for one quantile.
const fn rules(quantile: f64, side: Side) -> Rules {
    let rules = match side {
        Side::Worse => Rules::worse(Tolerance::NONE),
        Side::Within => Rules::within(Tolerance::NONE),
    };
    Rules {
        grid: match side {
            Side::Worse => GRID,
            Side::Within => rules.grid,
        },
        prior: ((1.0 - quantile) * PRIOR_TRIALS, PRIOR_TRIALS),
        first: EVENLY,
        later: EVENLY,
        ..rules
    }
}

const SLOWER: [Rules; 3] = [
    rules(QUANTILES[0], Side::Worse),
    rules(QUANTILES[1], Side::Worse),
    rules(QUANTILES[2], Side::Worse),
];

const NO_SLOWER: [Rules; SAFE_QUANTILES] = [
    rules(QUANTILES[0], Side::Within),
    rules(QUANTILES[1], Side::Within),
];

/// Stable's values of the last blocks, fading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Fading {
    /// Bucket and parts of values, in rising order.
    buckets: Vec<(u16, u64)>,
}

impl Fading {
    fn parts(&self) -> u64 {
        self.buckets.iter().map(|(_, parts)| parts).sum()
    }

    /// The buckets in which the quantiles lie, once there are enough values.
    fn quantiles(&self) -> Option<[u16; 3]> {
        let total = self.parts();
        if total < WARM_UP_VALUES * PARTS {
            return None;
        }
        let mut found = [0; 3];
        let mut next = 0;
        let mut seen = 0;
        for &(bucket, parts) in &self.buckets {
            seen += parts;
            while next < found.len() && seen as f64 >= QUANTILES[next] * total as f64 {
                found[next] = bucket;
                next += 1;
            }
        }
        Some(found)
    }

    /// Adds the values of a block. A block without any leaves everything as it is: silence makes nothing old.
    fn take(&mut self, values: &LogHistogram) {
        if values.is_empty() {
            return;
        }
        let total = self.parts() as f64 / PARTS as f64;
        if total > VALUES_MIN {
            let kept = (VALUES_MIN / total).max(KEPT);
            for (_, parts) in &mut self.buckets {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a part of a whole number"
                )]
                let faded = (*parts as f64 * kept) as u64;
                *parts = faded;
            }
            self.buckets.retain(|(_, parts)| *parts > 0);
        }
        for &(bucket, n) in values.buckets() {
            let parts = n.saturating_mul(PARTS);
            match self.buckets.binary_search_by_key(&bucket, |(b, _)| *b) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(parts),
                Err(at) => self.buckets.insert(at, (bucket, parts)),
            }
        }
    }
}

/// The comparison of one kind of latency in one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exceedance {
    history: Fading,
    /// That it is beyond the critical margin, by quantile.
    critical: [EProcess; 3],
    /// That it is beyond the warning margin.
    warning: [EProcess; 3],
    /// That it is within the warning margin. Empty where nobody asks.
    safe: Vec<EProcess>,
    /// What was compared since [`begin_step`](Self::begin_step) by each process: critical, warning, safe. Only where somebody asks
    /// whether it is safe: forecasts are made of it.
    sums: Vec<Counts>,
    /// Stable's trials since then, by quantile: those beyond it, and all.
    stable: [(u64, u64); 3],
    /// The candidate's, beyond the same edges.
    candidate: [(u64, u64); 3],
}

impl Exceedance {
    /// Nothing is known. With `safe` it also collects evidence that the candidate is no slower.
    pub fn new(safe: bool, budget: Budget) -> Self {
        let slower = SLOWER.map(|rules| EProcess::restarting(&rules, budget));
        Self {
            history: Fading::default(),
            critical: slower.clone(),
            warning: slower,
            safe: if safe {
                NO_SLOWER.iter().map(EProcess::plain).collect()
            } else {
                Vec::new()
            },
            sums: if safe {
                vec![Counts::default(); 2 * QUANTILES.len() + SAFE_QUANTILES]
            } else {
                Vec::new()
            },
            stable: [(0, 0); 3],
            candidate: [(0, 0); 3],
        }
    }

    /// A step begins, in which the same callers count again: evidence against the candidate stands as it is, all else begins anew,
    /// the threshold too, which was made of them.
    pub fn begin_step(&mut self) {
        self.history = Fading::default();
        for processes in [&mut self.critical, &mut self.warning] {
            for (process, rules) in processes.iter_mut().zip(&SLOWER) {
                process.begin_step(rules);
            }
        }
        for (process, rules) in self.safe.iter_mut().zip(&NO_SLOWER) {
            process.begin_anew(rules);
        }
        self.sums.fill(Counts::default());
        self.stable = [(0, 0); 3];
        self.candidate = [(0, 0); 3];
    }

    /// Takes a block.
    pub fn take(
        &mut self,
        margins: Margins,
        budget: Budget,
        stable: Values<'_>,
        candidate: Values<'_>,
    ) {
        if let Some(edges) = self.history.quantiles() {
            self.compare(margins, budget, edges, stable, candidate);
        }
        self.history.take(stable.histogram);
    }

    fn compare(
        &mut self,
        margins: Margins,
        budget: Budget,
        edges: [u16; 3],
        stable: Values<'_>,
        candidate: Values<'_>,
    ) {
        for (index, edge) in edges.into_iter().enumerate() {
            let at = stable.beyond(edge);
            add(&mut self.stable[index], at);
            add(&mut self.candidate[index], candidate.beyond(edge));
            for (margin, process, first) in [
                (margins.critical, &mut self.critical[index], 0),
                (margins.warning, &mut self.warning[index], QUANTILES.len()),
            ] {
                let Some(edge) = later(edge, margin) else {
                    continue;
                };
                let counts = Counts::new(candidate.beyond(edge), at);
                process.restart(budget);
                process.take(&SLOWER[index], counts);
                if let Some(sum) = self.sums.get_mut(first + index) {
                    sum.add(counts);
                }
            }
            if let Some(process) = self.safe.get_mut(index)
                && let Some(edge_c) = later(edge, margins.warning)
            {
                let at = stable.beyond_or_endless(edge);
                let counts = Counts::new(candidate.beyond_or_endless(edge_c), at);
                process.take(&NO_SLOWER[index], counts);
                if let Some(sum) = self.sums.get_mut(2 * QUANTILES.len() + index) {
                    sum.add(counts);
                }
            }
        }
    }

    /// The natural logarithm of the evidence that it is beyond the critical margin.
    pub fn ln_worse(&self) -> f64 {
        mean(&self.critical)
    }

    /// The same for the warning margin.
    pub fn ln_slower(&self) -> f64 {
        mean(&self.warning)
    }

    /// The natural logarithm of the evidence that it is within the warning margin: the least over the quantiles. Nothing where
    /// nobody asks.
    pub fn ln_safe(&self) -> Option<f64> {
        self.safe.iter().map(EProcess::ln_e).reduce(least)
    }

    /// The percentile of stable that tells most of the candidate, and what was compared there in this step: stable's trials beyond
    /// it and all, then the candidate's.
    pub fn most_telling(&self) -> (u8, (u64, u64), (u64, u64)) {
        let evidence = |index: &usize| {
            let ln = |processes: &[EProcess; 3]| processes[*index].ln_e();
            ln(&self.critical).max(ln(&self.warning))
        };
        // The first of equals, and no quantile has any evidence at first.
        let most = [SHOWN, 0, 2]
            .into_iter()
            .reduce(|most, next| {
                if evidence(&next) > evidence(&most) {
                    next
                } else {
                    most
                }
            })
            .filter(|most| evidence(most) > 0.0)
            .unwrap_or(SHOWN);
        (PERCENTILES[most], self.stable[most], self.candidate[most])
    }

    /// Takes what a part of this step has shown, so many times: blocks as they may be expected.
    pub(crate) fn expect(&mut self, budget: Budget, factor: f64, sums: &[Counts]) {
        let slower = self.critical.iter_mut().chain(&mut self.warning);
        for ((process, counts), rules) in slower.zip(sums).zip(SLOWER.iter().cycle()) {
            process.restart(budget);
            process.take(rules, counts.times(factor));
        }
        let sums = sums.iter().skip(2 * QUANTILES.len());
        for ((process, counts), rules) in self.safe.iter_mut().zip(sums).zip(&NO_SLOWER) {
            process.take(rules, counts.times(factor));
        }
    }

    /// What was compared in this step, for [`expect`](Self::expect).
    pub(crate) fn sums(&self) -> &[Counts] {
        &self.sums
    }
}

/// The candidate's edge. None where it is beyond the table: whatever is slower than the table counts as its last bucket, so nothing
/// could exceed it.
fn later(edge: u16, margin: u16) -> Option<u16> {
    let edge = edge.saturating_add(margin);
    (usize::from(edge) < BUCKETS - 1).then_some(edge)
}

fn add(sum: &mut (u64, u64), more: (u64, u64)) {
    sum.0 += more.0;
    sum.1 += more.1;
}

fn mean(processes: &[EProcess; 3]) -> f64 {
    let mut sum = LnSum::default();
    for process in processes {
        sum.add(process.ln_e());
    }
    sum.ln() - (processes.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upper_edge_seconds;
    use proptest::prelude::*;

    const MARGINS: Margins = Margins {
        warning: 5,
        critical: 19,
    };

    fn histogram(bucket: u16, n: usize) -> LogHistogram {
        let mut histogram = LogHistogram::default();
        for _ in 0..n {
            histogram.record(upper_edge_seconds(bucket) * 0.999);
        }
        histogram
    }

    fn values(histogram: &LogHistogram, endless: u64) -> Values<'_> {
        Values { histogram, endless }
    }

    /// Feeds so many blocks of 40 values of stable in one bucket and 10 of the candidate in another.
    fn judged(stable: u16, candidate: u16, blocks: usize) -> Exceedance {
        fed(&histogram(stable, 40), candidate, 0, blocks)
    }

    fn fed(stable: &LogHistogram, candidate: u16, endless: u64, blocks: usize) -> Exceedance {
        let mut budget = Budget::new(1080.0);
        let mut latency = Exceedance::new(true, budget);
        let candidate = histogram(candidate, 10);
        for _ in 0..blocks {
            budget.block();
            latency.take(
                MARGINS,
                budget,
                values(stable, 0),
                values(&candidate, endless),
            );
        }
        latency
    }

    #[test]
    fn margins_end_at_the_edge_of_a_bucket() {
        let decided = 100_f64.ln();
        for (steps, slower, worse) in [
            (0, false, false),
            (5, false, false),
            (6, true, false),
            (19, true, false),
            (20, true, true),
        ] {
            let latency = judged(500, 500 + steps, 60);
            assert_eq!(latency.ln_slower() >= decided, slower, "{steps} steps");
            assert_eq!(latency.ln_worse() >= decided, worse, "{steps} steps");
        }
    }

    /// Half of the calls fail, and the others are faster than any of stable's: neither slower nor shown to be no slower.
    #[test]
    fn what_never_ends_is_not_fast() {
        let mut stable = LogHistogram::default();
        for bucket in 480..520 {
            stable.merge(&histogram(bucket, 1));
        }
        assert!(fed(&stable, 400, 0, 200).ln_safe() > Some(3.0));
        let failing = fed(&stable, 400, 10, 200);
        assert!(failing.ln_safe() < Some(0.0));
        assert!(failing.ln_worse() < 0.0 && failing.ln_slower() < 0.0);
    }

    #[test]
    fn what_is_slow_is_never_safe() {
        assert!(judged(500, 510, 200).ln_safe() < Some(0.0));
    }

    #[test]
    fn the_first_blocks_only_warm_up() {
        assert_eq!(judged(500, 900, 2).most_telling().2, (0, 0));
        assert_eq!(judged(500, 900, 3).most_telling().2, (10, 10));
    }

    #[test]
    fn beyond_the_table_there_is_no_comparison() {
        let last = 1023;
        let latency = judged(last, last, 400);
        assert!(latency.ln_worse().abs() < 1e-9 && latency.ln_slower().abs() < 1e-9);
        assert_eq!(latency.ln_safe(), Some(0.0), "and no proof that it is safe");
    }

    #[test]
    fn silence_makes_nothing_old() {
        let mut fading = Fading::default();
        fading.take(&histogram(500, 100));
        let before = fading.clone();
        for _ in 0..1000 {
            fading.take(&LogHistogram::default());
        }
        assert_eq!(fading, before);
    }

    #[test]
    fn thresholds_follow_a_load_that_drifts() {
        let mut fading = Fading::default();
        for _ in 0..20 {
            fading.take(&histogram(500, 100));
        }
        for _ in 0..40 {
            fading.take(&histogram(600, 100));
        }
        assert_eq!(fading.quantiles(), Some([600; 3]));
        // A few values a block: the two hundred before them fade only as fast as they are replaced.
        for _ in 0..20 {
            fading.take(&histogram(700, 2));
        }
        assert_eq!(fading.quantiles(), Some([600, 700, 700]));
    }

    proptest! {
        /// The quantiles are those of the values, as long as nothing fades.
        #[test]
        fn quantiles_are_exact(buckets in prop::collection::vec(0..1024_u16, 50..200)) {
            let mut all = LogHistogram::default();
            for bucket in &buckets {
                all.merge(&histogram(*bucket, 1));
            }
            let mut fading = Fading::default();
            fading.take(&all);
            let found = fading.quantiles().unwrap();
            for (q, bucket) in QUANTILES.iter().zip(found) {
                prop_assert_eq!(all.quantile_seconds(*q), Some(upper_edge_seconds(bucket)));
            }
        }
    }
}
