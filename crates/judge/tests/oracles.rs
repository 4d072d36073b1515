//! What outside oracles say of the same questions, as recorded in `oracle/values.json` by `oracle/oracle.py`.

use serde::Deserialize;
use serin_judge::{
    LogHistogram, binomial,
    eprocess::{Budget, Counts, EProcess, Rules, Tolerance, ln_factor},
    exceedance::{Exceedance, Margins, Values},
    sample_ratio::SampleRatio,
    upper_edge_seconds,
};

#[derive(Deserialize)]
struct Oracle {
    factors: Vec<Factor>,
    restarts: Restarts,
    sample_ratios: Vec<Ratio>,
    lower_bounds: Vec<Bound>,
    sequences: Vec<Sequence>,
    latencies: Vec<Latencies>,
    exceedances: Exceedances,
}

#[derive(Deserialize)]
struct Factor {
    m: f64,
    a: f64,
    direction: i8,
    counts: [u64; 4],
    q_c: f64,
    q_s: f64,
    ln: f64,
}

#[derive(Deserialize)]
struct Restarts {
    m: f64,
    a: f64,
    horizon: f64,
    step_at: usize,
    blocks: Vec<[u64; 4]>,
    ln_e: Vec<f64>,
}

#[derive(Deserialize)]
struct Ratio {
    rho: f64,
    candidate: u64,
    stable: u64,
    ln: f64,
}

#[derive(Deserialize)]
struct Bound {
    hits: u64,
    trials: u64,
    lower: f64,
}

#[derive(Deserialize)]
struct Sequence {
    alpha: f64,
    rate: f64,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    blocks: Vec<[u64; 4]>,
    gbstats: Option<usize>,
}

#[derive(Deserialize)]
struct Latencies {
    name: String,
    stable: Vec<Vec<u16>>,
    candidate: Vec<Vec<u16>>,
    p_least: f64,
}

#[derive(Deserialize)]
struct Exceedances {
    horizon: f64,
    blocks: Vec<LatencyBlock>,
    worse: Vec<f64>,
    slower: Vec<f64>,
    safe: Vec<f64>,
}

#[derive(Deserialize)]
struct LatencyBlock {
    stable: Vec<u16>,
    candidate: Vec<u16>,
    /// Stable's and the candidate's.
    endless: (u64, u64),
}

fn oracle() -> Oracle {
    serde_json::from_str(include_str!("../oracle/values.json")).unwrap()
}

fn counts([bad_c, n_c, bad_s, n_s]: [u64; 4]) -> Counts {
    Counts::new((bad_c, n_c), (bad_s, n_s))
}

/// Brent's method in scipy.
#[test]
fn factors_agree() {
    for row in oracle().factors {
        let tolerance = Tolerance {
            relative: row.m,
            absolute: row.a,
        };
        let rules = if row.direction > 0 {
            Rules::worse(tolerance)
        } else {
            Rules::within(tolerance)
        };
        let got = ln_factor(&rules, counts(row.counts), row.q_c, row.q_s);
        assert!((got - row.ln).abs() < 1e-9, "{got} against {}", row.ln);
    }
}

/// The same process in numpy.
#[test]
fn restarts_agree() {
    let oracle = oracle().restarts;
    let rules = Rules::worse(Tolerance {
        relative: oracle.m,
        absolute: oracle.a,
    });
    let mut budget = Budget::new(oracle.horizon);
    let mut process = EProcess::restarting(&rules, budget);
    for (index, (block, expected)) in oracle.blocks.into_iter().zip(oracle.ln_e).enumerate() {
        if index == oracle.step_at {
            budget.step();
            process.begin_step(&rules);
            process.restart(budget);
        }
        budget.block();
        process.restart(budget);
        process.take(&rules, counts(block));
        let got = process.ln_e();
        assert!((got - expected).abs() < 1e-9, "{got} against {expected}");
    }
}

/// scipy's `betaln`.
#[test]
fn sample_ratios_agree() {
    for row in oracle().sample_ratios {
        let mut ratio = SampleRatio::new(row.rho);
        ratio.take(row.stable, row.candidate);
        let got = ratio.ln_e();
        // A million keys: eight digits of a sum of numbers of thirteen million.
        assert!((got - row.ln).abs() < 1e-8, "{got} against {}", row.ln);
    }
}

/// scipy's `beta.ppf`: a limit just below the bound is exceeded, one just above is not.
#[test]
fn lower_bounds_agree() {
    for row in oracle().lower_bounds {
        let is_above = |factor: f64| binomial::is_above(row.hits, row.trials, row.lower * factor);
        assert!(is_above(1.0 - 1e-9), "{} of {}", row.hits, row.trials);
        assert!(!is_above(1.0 + 1e-9), "{} of {}", row.hits, row.trials);
    }
}

/// The asymptotic confidence sequence of gbstats, which asks for any difference: so without a tolerance here too.
#[test]
fn a_fault_is_found_no_later_than_by_an_asymptotic_sequence() {
    let rules = Rules::worse(Tolerance::NONE);
    for row in oracle().sequences {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for run in row.runs {
            let mut budget = Budget::new(1080.0);
            let mut process = EProcess::restarting(&rules, budget);
            let found = run.blocks.iter().position(|block| {
                budget.block();
                process.restart(budget);
                process.take(&rules, counts(*block));
                process.ln_e() >= (1.0 / row.alpha).ln()
            });
            ours.push(found.map_or(usize::MAX, |index| index + 1));
            theirs.push(run.gbstats.unwrap_or(usize::MAX));
        }
        ours.sort_unstable();
        theirs.sort_unstable();
        let middle = ours.len() / 2;
        println!(
            "alpha {} 1 % -> {}: {} blocks against {}",
            row.alpha, row.rate, ours[middle], theirs[middle]
        );
        assert!(
            ours[middle] <= theirs[middle],
            "{ours:?} against {theirs:?}"
        );
    }
}

const MARGINS: Margins = Margins {
    warning: 5,
    critical: 19,
};

fn histogram(buckets: &[u16]) -> LogHistogram {
    let mut histogram = LogHistogram::default();
    for bucket in buckets {
        // Well within the bucket, so that it falls into it.
        histogram.record(upper_edge_seconds(*bucket) * 0.99);
    }
    histogram
}

/// The same comparison in numpy.
#[test]
fn exceedances_agree() {
    let oracle = oracle().exceedances;
    let mut budget = Budget::new(oracle.horizon);
    let mut latency = Exceedance::new(true, budget);
    for (index, block) in oracle.blocks.iter().enumerate() {
        // The oracle's first start is at its first comparison.
        if index > 0 {
            budget.block();
        }
        let (stable, candidate) = (histogram(&block.stable), histogram(&block.candidate));
        let values = |histogram, endless| Values { histogram, endless };
        latency.take(
            MARGINS,
            budget,
            values(&stable, block.endless.0),
            values(&candidate, block.endless.1),
        );
        for (got, expected) in [
            (latency.ln_worse(), oracle.worse[index]),
            (latency.ln_slower(), oracle.slower[index]),
            (latency.ln_safe().unwrap(), oracle.safe[index]),
        ] {
            assert!((got - expected).abs() < 1e-9, "{got} against {expected}");
        }
    }
}

/// Mann and Whitney's test by scipy. It may be looked at once only: of two identical pairs it calls one different at five percent.
#[test]
fn latencies_agree_where_it_matters() {
    for row in oracle().latencies {
        let mut budget = Budget::new(1080.0);
        let mut latency = Exceedance::new(true, budget);
        let (mut worse, mut slower): (f64, f64) = (0.0, 0.0);
        for (stable, candidate) in row.stable.iter().zip(&row.candidate) {
            budget.block();
            let (stable, candidate) = (histogram(stable), histogram(candidate));
            let values = |histogram| Values {
                histogram,
                endless: 0,
            };
            latency.take(MARGINS, budget, values(&stable), values(&candidate));
            worse = worse.max(latency.ln_worse());
            slower = slower.max(latency.ln_slower());
        }
        let reached = |ln: f64| ln >= 100_f64.ln();
        match row.name.as_str() {
            "same" | "same again" => assert!(!reached(slower) && !reached(worse)),
            "slower by half" => assert!(reached(slower) && !reached(worse) && row.p_least < 1e-9),
            "twice as slow" => assert!(reached(slower) && reached(worse) && row.p_least < 1e-9),
            other => panic!("{other} is unknown"),
        }
    }
}
