//! Hours of health must not hide a fault that starts late.

use super::{
    Scope, Table, count,
    floor::{ALPHA, MARGIN},
    percent, ratio,
};
use crate::{
    Process, all_runs,
    counts::{Rate, Split, Stream, Watcher},
    figures::median,
};

/// A late fault may take so many times the candidate's trials of one that is there from the start.
pub const RATIO_MAX: f64 = 2.0;

/// Looks a minute apart: eight healthy hours.
const HEALTHY_LOOKS: u32 = 8 * 60;

/// The plan's phases take nine hours, and their deadlines eighteen.
const HORIZON_LOOKS: u32 = 18 * 60;

/// Median trials of the candidate from the start of the fault until it is found: of one from the start and of a late one.
pub fn medians(scope: &Scope, candidate: f64, restarts: bool) -> (f64, f64) {
    let median_from = |at: u32| {
        let stream = Stream {
            looks: HORIZON_LOOKS,
            trials: 300.0,
            split: Split::Constant(0.1),
            stable: Rate::Constant(0.01),
            candidate: Rate::From {
                before: 0.01,
                after: candidate,
                at,
            },
        };
        let seed = scope.seed(&format!("late {candidate} {at}"));
        let calls = all_runs(scope.median_runs, |run| {
            let source = &mut seed.run(run);
            let mut process = if restarts {
                Process::restarting(MARGIN, HORIZON_LOOKS, &[])
            } else {
                Process::plain(MARGIN)
            };
            let mut calls = 0;
            for look in 0..stream.looks {
                let block = stream.draw(look, source);
                let found = process.look(&block) >= -ALPHA.ln();
                // A false alarm before the fault is counted in another table.
                if look >= at {
                    calls += block.candidate;
                    if found {
                        return calls as f64;
                    }
                }
            }
            f64::INFINITY
        });
        median(&calls).unwrap_or(f64::INFINITY)
    };
    (median_from(0), median_from(HEALTHY_LOOKS))
}

/// Every row.
pub fn table(scope: &Scope) -> Table {
    let mut table = Table::new(
        "Candidate trials to find a fault that starts after eight healthy hours",
        &[
            "candidate's errors",
            "from the start",
            "after 8 h",
            "ratio",
            "without restarts, after 8 h",
        ],
    );
    for candidate in [0.03, 0.05, 0.1, 0.2] {
        let (early, late) = medians(scope, candidate, true);
        let fewer = Scope {
            median_runs: scope.median_runs / 4,
            ..scope.clone()
        };
        let (_, plain) = medians(&fewer, candidate, false);
        table.row([
            percent(candidate),
            count(Some(early)),
            count(Some(late)),
            ratio(late / early),
            count(Some(plain)),
        ]);
        table.must(late <= RATIO_MAX * scope.leeway() * early, || {
            format!(
                "{}: {late} trials after eight hours, {early} from the start",
                percent(candidate)
            )
        });
    }
    table.note("300 trials a minute, a tenth of them the candidate's; the plan takes nine hours, its deadlines eighteen.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_fault_is_found_nearly_as_soon() {
        let scope = Scope {
            median_runs: 40,
            ..Scope::quick("tests")
        };
        let (early, late) = medians(&scope, 0.1, true);
        assert!(late <= RATIO_MAX * 1.1 * early, "{early} {late}");
    }
}
