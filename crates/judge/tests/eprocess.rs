//! The block e-process: golden traces, exhaustive enumeration, and what holds of every block.

use proptest::prelude::*;
use serde::Deserialize;
use serin_judge::eprocess::{
    Budget, Counts, EProcess, EVENLY, Rules, Side, Tolerance, WITHIN_GRID, WORSE_GRID, ln_factor,
};

#[derive(Deserialize)]
struct Trace {
    m: f64,
    a: f64,
    direction: i8,
    grid: Vec<f64>,
    adaptive: bool,
    prior: (f64, f64),
    blocks: Vec<[f64; 4]>,
    ln_e: Vec<f64>,
    alternatives: Vec<f64>,
}

fn counts([bad_c, n_c, bad_s, n_s]: [f64; 4]) -> Counts {
    Counts {
        bad_c,
        n_c,
        bad_s,
        n_s,
    }
}

fn tolerance(relative: f64, absolute: f64) -> Tolerance {
    Tolerance { relative, absolute }
}

#[test]
fn golden_traces_are_reproduced() {
    let traces: Vec<Trace> = serde_json::from_str(include_str!("golden/traces.json")).unwrap();
    assert_eq!(traces.len(), 3);
    for trace in traces {
        let grids = [WORSE_GRID, WITHIN_GRID, &[2.0]];
        let side = if trace.direction > 0 {
            Side::Worse
        } else {
            Side::Within
        };
        let rules = Rules {
            side,
            tolerance: tolerance(trace.m, trace.a),
            grid: grids.into_iter().find(|g| **g == trace.grid).unwrap(),
            adaptive: trace.adaptive,
            prior: trace.prior,
            half_life_trials: f64::INFINITY,
            first: EVENLY,
            later: EVENLY,
        };
        let mut process = EProcess::plain(&rules);
        for (block, expected) in trace.blocks.into_iter().zip(trace.ln_e) {
            process.take(&rules, counts(block));
            let got = process.ln_e();
            assert!((got - expected).abs() < 1e-9, "{got} against {expected}");
        }
        for (got, expected) in process.alternatives().iter().zip(trace.alternatives) {
            assert!((got - expected).abs() < 1e-9, "{got} against {expected}");
        }
    }
}

/// `P(X = k)` for all `k`, by the recurrence from the mode outwards, so that nothing is lost at either end.
fn binomial(n: u32, p: f64) -> Vec<f64> {
    let mut out = vec![1.0];
    for _ in 0..n {
        let mut next = vec![0.0; out.len() + 1];
        for (k, mass) in out.iter().enumerate() {
            next[k] += mass * (1.0 - p);
            next[k + 1] += mass * p;
        }
        out = next;
    }
    out
}

const BLOCKS: [(u32, u32); 5] = [(1, 1), (2, 9), (5, 20), (8, 30), (12, 4)];

const TOLERANCES: [(f64, f64); 4] = [(0.0, 0.0), (0.2, 0.002), (0.5, 0.005), (0.0, 0.05)];

fn histories() -> Vec<Vec<[f64; 4]>> {
    vec![
        vec![],
        vec![[0.0, 30.0, 0.0, 270.0]; 20],
        vec![[0.0, 10.0, 1.0, 90.0], [5.0, 12.0, 1.0, 80.0]],
        vec![[3.0, 30.0, 90.0, 270.0]; 3],
        vec![[40.0, 40.0, 1.0, 300.0], [0.0, 5.0, 50.0, 50.0]],
    ]
}

/// Rates of stable from nearly nothing to nearly all.
fn rates() -> impl Iterator<Item = f64> {
    (0..40)
        .map(|i| (f64::from(i) / 39.0 * 13.0 - 8.0).exp())
        .map(|odds| odds / (1.0 + odds))
}

/// The most that the evidence grows by on average, over all outcomes of one block, anywhere in the null.
fn supremum(rules: &Rules, restarting: bool) -> f64 {
    let mut most: f64 = 0.0;
    for history in histories() {
        let mut budget = Budget::new(50.0);
        let mut process = if restarting {
            EProcess::restarting(rules, budget)
        } else {
            EProcess::plain(rules)
        };
        for block in history {
            budget.block();
            if restarting {
                process.restart(budget);
            }
            process.take(rules, counts(block));
        }
        let before = process.ln_e();
        budget.step();
        budget.block();
        for (n_c, n_s) in BLOCKS {
            let growth: Vec<Vec<f64>> = (0..=n_c)
                .map(|bad_c| {
                    (0..=n_s)
                        .map(|bad_s| {
                            let mut after = process.clone();
                            if restarting {
                                after.restart(budget);
                            }
                            let block = [bad_c, n_c, bad_s, n_s].map(f64::from);
                            after.take(rules, counts(block));
                            (after.ln_e() - before).exp()
                        })
                        .collect()
                })
                .collect();
            for p_s in rates() {
                let limit = rules.tolerance.limit(p_s);
                if limit > 1.0 && rules.side == Side::Within {
                    // Whatever the candidate does, it is within: there is no null.
                    continue;
                }
                let limit = limit.min(1.0);
                let others = match rules.side {
                    Side::Worse => [limit, 0.9 * limit, 0.5 * limit, 0.0],
                    Side::Within => [limit, 0.9 * limit + 0.1, 0.5 + 0.5 * limit, 1.0],
                };
                let stable = binomial(n_s, p_s);
                for p_c in others {
                    let mut mean = 0.0;
                    for (mass, row) in binomial(n_c, p_c).iter().zip(&growth) {
                        let inner: f64 = stable.iter().zip(row).map(|(m, s)| m * s).sum();
                        mean += mass * inner;
                    }
                    most = most.max(mean);
                }
            }
        }
    }
    most
}

#[test]
fn evidence_never_grows_on_average_while_the_null_holds() {
    for (relative, absolute) in TOLERANCES {
        for rules in [Rules::worse, Rules::within] {
            let rules = rules(tolerance(relative, absolute));
            for restarting in [false, true] {
                let most = supremum(&rules, restarting);
                assert!(most <= 1.0 + 1e-9, "{rules:?} {restarting}: {most}");
                assert!(most > 0.9, "the boundary is reached: {most}");
            }
        }
    }
}

/// The reference, literally: sixty halvings.
fn by_bisection(rules: &Rules, counts: Counts, q_c: f64, q_s: f64) -> f64 {
    let Tolerance { relative, absolute } = rules.tolerance;
    let slope = 1.0 + relative;
    let (mut lo, mut hi) = (1e-12, f64::min(1.0 - 1e-9, (1.0 - absolute - 1e-9) / slope));
    for _ in 0..60 {
        let p = 0.5 * (lo + hi);
        let at = slope * p + absolute;
        let d = counts.n_s * (p - q_s) / (p * (1.0 - p))
            + counts.n_c * slope * (at - q_c) / (at * (1.0 - at));
        if d > 0.0 {
            hi = p;
        } else {
            lo = p;
        }
    }
    let p = 0.5 * (lo + hi);
    let part = |bad: f64, n: f64, q: f64, p: f64| {
        bad * (q / p).ln() + (n - bad) * ((-q).ln_1p() - (-p).ln_1p())
    };
    part(counts.bad_c, counts.n_c, q_c, slope * p + absolute)
        + part(counts.bad_s, counts.n_s, q_s, p)
}

fn any_tolerance() -> impl Strategy<Value = Tolerance> {
    prop_oneof![
        Just(Tolerance::NONE),
        Just(tolerance(0.2, 0.002)),
        (0.0..3.0_f64, 0.0..0.2_f64).prop_map(|(m, a)| tolerance(m, a)),
    ]
}

/// Rates of all sizes.
fn any_rate() -> impl Strategy<Value = f64> {
    (-13.8..0.0_f64).prop_map(|ln| ln.exp().clamp(1e-6, 0.98))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn newton_agrees_with_bisection(
        tolerance in any_tolerance(),
        (q_c, q_s) in (any_rate(), any_rate()),
        (n_c, n_s) in (1..3000_u64, 1..3000_u64),
        (part_c, part_s) in (0.0..1.0_f64, 0.0..1.0_f64),
    ) {
        let limit = tolerance.limit(q_s);
        prop_assume!((q_c - limit).abs() > 1e-9);
        let rules = if q_c > limit { Rules::worse(tolerance) } else { Rules::within(tolerance) };
        // Bad trials about as frequent as the alternative has it, or as chance would have it at most.
        let bad = |n: u64, q: f64, part: f64| (n as f64 * (q * 2.0 * part).min(1.0)).floor();
        let counts = Counts {
            bad_c: bad(n_c, q_c, part_c), n_c: n_c as f64, bad_s: bad(n_s, q_s, part_s), n_s: n_s as f64,
        };
        let (got, expected) = (ln_factor(&rules, counts, q_c, q_s), by_bisection(&rules, counts, q_c, q_s));
        prop_assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{} against {}", got, expected);
    }

    #[test]
    fn a_state_that_was_written_down_goes_on_to_the_bit(blocks in prop::collection::vec((0..5_u64, 5..40_u64, 0..5_u64, 5..200_u64), 1..30)) {
        let rules = Rules::worse(tolerance(0.2, 0.002));
        let mut budget = Budget::new(100.0);
        let mut one = EProcess::restarting(&rules, budget);
        let mut other = one.clone();
        for (bad_c, n_c, bad_s, n_s) in blocks {
            budget.block();
            for process in [&mut one, &mut other] {
                process.restart(budget);
                process.take(&rules, Counts::new((bad_c, n_c), (bad_s, n_s)));
            }
            other = serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
        }
        prop_assert_eq!(one, other);
    }

    /// A process that is first looked at late is the one that was there all the time, its empty blocks included.
    #[test]
    fn empty_blocks_may_be_skipped(gaps in prop::collection::vec(0..5_u8, 1..12)) {
        let rules = Rules::worse(tolerance(0.2, 0.002));
        let mut budget = Budget::new(100.0);
        let mut diligent = EProcess::restarting(&rules, budget);
        let mut lazy = None;
        let full = Counts::new((1, 10), (1, 90));
        for gap in gaps {
            for _ in 0..gap {
                budget.block();
                diligent.restart(budget);
                diligent.take(&rules, Counts::default());
            }
            budget.block();
            let lazy = lazy.get_or_insert_with(|| EProcess::restarting(&rules, budget));
            for process in [&mut diligent, lazy] {
                process.restart(budget);
                process.take(&rules, full);
            }
            prop_assert!((diligent.ln_e() - lazy.ln_e()).abs() < 1e-12);
        }
    }
}

#[test]
fn one_empty_side_says_nothing_but_is_remembered() {
    let rules = Rules::worse(tolerance(0.2, 0.002));
    let mut process = EProcess::plain(&rules);
    process.take(&rules, Counts::new((0, 0), (10, 100)));
    process.take(&rules, Counts::new((7, 7), (0, 0)));
    assert_eq!(process.alternatives(), [0.0; 8]);
    let mut fresh = EProcess::plain(&rules);
    let block = Counts::new((2, 20), (5, 100));
    process.take(&rules, block);
    fresh.take(&rules, block);
    assert!((process.ln_e() - fresh.ln_e()).abs() > 0.1);
}

#[test]
fn overwhelming_evidence_stays_a_number() {
    for rules in [Rules::worse, Rules::within] {
        let rules = rules(tolerance(0.2, 0.002));
        let mut process = EProcess::restarting(&rules, Budget::new(10.0));
        for _ in 0..1000 {
            process.take(&rules, Counts::new((0, 100_000), (100_000, 100_000)));
        }
        for _ in 0..1000 {
            process.take(&rules, Counts::new((100_000, 100_000), (0, 100_000)));
        }
        assert!(process.ln_e().is_finite());
        assert!(process.alternatives().iter().all(|ln| ln.is_finite()));
    }
}

#[test]
fn a_budget_is_never_overspent() {
    for horizon in [0.0, 1.0, 3.0, 1e9, f64::NAN, f64::INFINITY] {
        let mut budget = Budget::new(horizon);
        let mut left = budget.left();
        assert!((left - 0.5).abs() < 1e-12);
        for block in 0..5000 {
            if block % 100 == 0 {
                budget.step();
            }
            budget.block();
            assert!(budget.left() >= 0.0 && budget.left() <= left);
            left = budget.left();
        }
    }
}

/// Weights with a mean of one: only then is the whole a mean of processes that each begin at one.
#[test]
fn starts_are_spread_without_gain() {
    let rules = Rules::worse(Tolerance::NONE);
    for parts in [rules.first, rules.later] {
        assert_eq!(parts.len(), WORSE_GRID.len() + 1);
        assert!((parts.iter().sum::<f64>() - parts.len() as f64).abs() < 1e-12);
    }
    let process = EProcess::restarting(&rules, Budget::new(100.0));
    assert!(process.ln_e().abs() < 1e-12);
}

/// The same numbers at each run: the finaliser of `SplitMix64` over a counter.
#[derive(Clone)]
struct Noise(u64);

impl Noise {
    fn hits(&mut self, n: u64, rate: f64) -> u64 {
        let hit = |_: &u64| {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 <= rate
        };
        (0..n).filter(hit).count() as u64
    }
}

/// One rollout as it goes on: blocks of ten seconds, 300 trials a minute, a tenth of them the candidate's.
#[derive(Clone)]
struct Run {
    noise: Noise,
    budget: Budget,
    process: EProcess,
}

impl Run {
    fn new(rules: &Rules, seed: u64) -> Self {
        let budget = Budget::new(2880.0);
        Self {
            noise: Noise(seed << 32),
            budget,
            process: EProcess::restarting(rules, budget),
        }
    }

    /// The candidate's trials in one more block.
    fn block(&mut self, rules: &Rules, rate: f64) -> u64 {
        self.budget.block();
        self.process.restart(self.budget);
        let n = self.noise.hits(50, 0.1);
        let candidate = (self.noise.hits(n, rate), n);
        let stable = (self.noise.hits(50 - n, 0.01), 50 - n);
        self.process.take(rules, Counts::new(candidate, stable));
        n
    }

    fn is_found(&self) -> bool {
        self.process.ln_e() >= 100_f64.ln()
    }

    /// The candidate's trials until a fault is found.
    fn trials(mut self, rules: &Rules, rate: f64) -> u64 {
        let mut trials = 0;
        while !self.is_found() {
            trials += self.block(rules, rate);
        }
        trials
    }
}

/// Eight hours are 2,880 blocks of ten seconds. Means of 80 runs, which settle sooner than medians; none of them is a false alarm.
#[test]
fn a_fault_after_eight_healthy_hours_is_found_within_twice_the_trials() {
    let rules = Rules::worse(tolerance(0.2, 0.002));
    let rates = [0.03, 0.05, 0.1, 0.2];
    let mut sums = [(0, 0); 4];
    for seed in 0..80 {
        let fresh = Run::new(&rules, seed);
        let mut late = fresh.clone();
        for _ in 0..2880 {
            late.block(&rules, 0.01);
            assert!(!late.is_found());
        }
        // From here on both see the same.
        late.noise = fresh.noise.clone();
        for (sum, rate) in sums.iter_mut().zip(rates) {
            sum.0 += fresh.clone().trials(&rules, rate);
            sum.1 += late.clone().trials(&rules, rate);
        }
    }
    for ((fresh, late), rate) in sums.into_iter().zip(rates) {
        println!(
            "1 % -> {rate}: {} trials, {} after eight hours",
            fresh / 80,
            late / 80
        );
        assert!(late <= 2 * fresh, "{rate}: {late} against {fresh}");
    }
}
