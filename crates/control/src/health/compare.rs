//! Stable beside the candidate.

use super::window::Period;
use serde::{Deserialize, Serialize};
use serin_judge::{Direction, Metric, binomial};
use serin_model::name::VersionName;

/// How sure the interval of a rate is.
const CONFIDENCE: f64 = 0.95;

/// How far a value that is no rate may lie off stable's and still count as the same, in parts of it: Cortex's
/// `comparisonTolerance`.
const TOLERANCE: f64 = 0.10;

/// Fewest samples on both sides for a verdict.
const SAMPLES_MIN: u64 = 20;

/// What is compared.
const COMPARED: [Metric; 12] = [
    Metric::ErrorRate,
    Metric::Availability,
    Metric::ClientErrors,
    Metric::AuthFailures,
    Metric::LatencyP50,
    Metric::LatencyP95,
    Metric::LatencyP99,
    Metric::FirstByteP95,
    Metric::Throughput,
    Metric::Cpu,
    Metric::Memory,
    Metric::Restarts,
];

/// Stable beside the candidate. It is for people to look at: whether a candidate may go on is for the judge to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The stable version.
    pub stable: VersionName,
    /// The candidate; nothing while no rollout is under way.
    pub candidate: Option<VersionName>,
    /// Over how many seconds.
    pub seconds: f64,
    /// Calls of stable.
    pub stable_calls: u64,
    /// Calls of the candidate.
    pub candidate_calls: u64,
    /// Metric by metric; those that neither side has are left out.
    pub rows: Vec<Row>,
}

/// A metric on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub metric: Metric,
    /// Stable's value.
    pub stable: Option<f64>,
    /// The candidate's.
    pub candidate: Option<f64>,
    /// The candidate's value less stable's.
    pub difference: Option<f64>,
    /// The candidate's value as a part of stable's.
    pub ratio: Option<f64>,
    /// For a rate, in what interval stable's lies at 95 % (Clopper and Pearson).
    pub stable_interval: Option<(f64, f64)>,
    /// In what interval the candidate's lies.
    pub candidate_interval: Option<(f64, f64)>,
    /// How the candidate stands.
    pub standing: Standing,
}

/// How the candidate stands beside stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Better.
    Better,
    /// No difference that says anything.
    Same,
    /// Worse.
    Worse,
    /// There is too little to say, or nothing to compare: shares of traffic differ by design.
    Unknown,
}

/// Puts two periods of so many seconds side by side.
pub(super) fn compare(
    stable: VersionName,
    candidate: Option<VersionName>,
    (mine, theirs): &(Period, Option<Period>),
    seconds: f64,
) -> Comparison {
    let nobody = Period::default();
    let other = theirs.as_ref().unwrap_or(&nobody);
    let rows = COMPARED
        .into_iter()
        .map(|metric| row(metric, mine, other, seconds))
        .filter(|row| row.stable.is_some() || row.candidate.is_some());
    Comparison {
        rows: rows.collect(),
        stable,
        candidate,
        seconds,
        stable_calls: mine.tally.calls,
        candidate_calls: other.tally.calls,
    }
}

fn row(metric: Metric, stable: &Period, candidate: &Period, seconds: f64) -> Row {
    let value = |of: &Period| {
        let value = of.value(metric, seconds).filter(|value| value.is_finite());
        value.filter(|_| of.samples(metric) > 0)
    };
    let interval = |of: &Period| {
        let (hits, trials) = of.tally.rate(metric).filter(|(_, trials)| *trials > 0)?;
        let (low, high) = binomial::interval(hits, trials, CONFIDENCE);
        Some(match metric.direction() {
            Direction::Max => (low, high),
            Direction::Min => (1.0 - high, 1.0 - low),
        })
    };
    let (a, b) = (value(stable), value(candidate));
    let enough = metric.is_resource()
        || stable.samples(metric).min(candidate.samples(metric)) >= SAMPLES_MIN;
    let mut row = Row {
        metric,
        stable: a,
        candidate: b,
        difference: a.zip(b).map(|(a, b)| b - a),
        ratio: a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a),
        stable_interval: interval(stable),
        candidate_interval: interval(candidate),
        standing: Standing::Unknown,
    };
    if enough && metric != Metric::Throughput {
        row.standing = standing(&row);
    }
    row
}

/// Rates differ when their intervals do not meet, other values when one is beyond the tolerance.
fn standing(row: &Row) -> Standing {
    let (stable, candidate) = match (row.stable_interval, row.candidate_interval) {
        (Some(stable), Some(candidate)) => (stable, candidate),
        _ => match (row.stable, row.candidate) {
            (Some(a), Some(b)) => ((a * (1.0 - TOLERANCE), a * (1.0 + TOLERANCE)), (b, b)),
            _ => return Standing::Unknown,
        },
    };
    let (above, below) = (candidate.0 > stable.1, candidate.1 < stable.0);
    match (above, below, row.metric.direction()) {
        (true, _, Direction::Max) | (_, true, Direction::Min) => Standing::Worse,
        (true, _, Direction::Min) | (_, true, Direction::Max) => Standing::Better,
        (false, false, _) => Standing::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_judge::{LogHistogram, Resources, Tally};

    fn period(calls: u64, bad: u64, seconds: f64) -> Period {
        let mut last_byte = LogHistogram::default();
        (0..calls - bad).for_each(|_| last_byte.record(seconds));
        let tally = Tally {
            calls,
            bad,
            last_byte,
            ..Tally::default()
        };
        Period {
            tally,
            ..Period::default()
        }
    }

    fn compared(stable: Period, candidate: Option<Period>) -> Comparison {
        let (from, to) = ("v1".parse().unwrap(), "v2".parse().ok());
        let to = to.filter(|_| candidate.is_some());
        compare(from, to, &(stable, candidate), 300.0)
    }

    fn at(comparison: &Comparison, metric: Metric) -> &Row {
        comparison
            .rows
            .iter()
            .find(|row| row.metric == metric)
            .unwrap()
    }

    #[test]
    fn rates_differ_when_their_intervals_do_not_meet() {
        for (stable, candidate, standing) in [
            ((1000, 10), (1000, 100), Standing::Worse),
            ((1000, 100), (1000, 10), Standing::Better),
            ((1000, 10), (1000, 12), Standing::Same),
            ((1000, 10), (100, 3), Standing::Same),
            ((1000, 10), (10, 10), Standing::Unknown),
        ] {
            let side = |(calls, bad)| period(calls, bad, 0.1);
            let comparison = compared(side(stable), Some(side(candidate)));
            for metric in [Metric::ErrorRate, Metric::Availability] {
                let row = at(&comparison, metric);
                assert_eq!(row.standing, standing, "{metric} {stable:?} {candidate:?}");
                let (low, high) = row.candidate_interval.unwrap();
                let value = row.candidate.unwrap();
                assert!(low <= value && value <= high, "{row:?}");
            }
        }
    }

    #[test]
    fn other_values_differ_beyond_the_tolerance() {
        let comparison = compared(period(100, 0, 0.100), Some(period(100, 0, 0.150)));
        let row = at(&comparison, Metric::LatencyP95);
        assert_eq!(row.standing, Standing::Worse);
        assert!((1.4..1.6).contains(&row.ratio.unwrap()));
        assert_eq!(row.stable_interval, None);
        let comparison = compared(period(100, 0, 0.100), Some(period(100, 0, 0.104)));
        assert_eq!(at(&comparison, Metric::LatencyP95).standing, Standing::Same);
        assert_eq!(
            at(&comparison, Metric::Throughput).standing,
            Standing::Unknown
        );
    }

    #[test]
    fn without_a_rollout_stable_stands_alone() {
        let comparison = compared(period(100, 1, 0.1), None);
        assert_eq!(
            (comparison.candidate.as_ref(), comparison.candidate_calls),
            (None, 0)
        );
        let row = at(&comparison, Metric::ErrorRate);
        assert_eq!((row.stable, row.candidate), (Some(0.01), None));
        assert_eq!(row.standing, Standing::Unknown);
        assert!(
            comparison
                .rows
                .iter()
                .all(|row| row.metric != Metric::Memory)
        );
    }

    #[test]
    fn resources_are_compared_too() {
        let with = |memory_bytes| {
            let mut period = period(100, 0, 0.1);
            period.add_resources(&Resources {
                samples: 1,
                memory_bytes,
                memory_samples: 1,
                ..Resources::default()
            });
            period
        };
        let comparison = compared(with(100), Some(with(200)));
        assert_eq!(at(&comparison, Metric::Memory).standing, Standing::Worse);
        assert_eq!(at(&comparison, Metric::Restarts).standing, Standing::Same);
    }
}
