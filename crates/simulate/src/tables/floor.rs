//! How near the judge comes to the test that knows both rates (`judge/floor.py`): nobody can need fewer calls by much.

use super::{Scope, Table, count, percent, ratio};
use crate::{
    Process, all_runs,
    counts::{Rate, Split, Stream, Watcher},
    figures::median,
    rivals::Clairvoyant,
};

/// The candidate's calls may be this many times those of the clairvoyant test, in every row.
pub const RATIO_MAX: f64 = 1.5;

/// The tolerance of the rows: +20 % and +0.2 percentage points.
pub const MARGIN: (f64, f64) = (0.2, 0.002);

/// The level of the rows.
pub const ALPHA: f64 = 0.01;

/// Stable's rate.
const STABLE: f64 = 0.01;

/// The rows: expected trials a look, and the candidate's rate; then what `judge.md` has for the reference.
const ROWS: [(f64, f64, &str); 10] = [
    (300.0, 0.03, "957/668 = 1.43"),
    (300.0, 0.05, "265/189 = 1.40"),
    (300.0, 0.1, "84/66 = 1.27"),
    (300.0, 0.2, "35/33 = 1.06"),
    (300.0, 0.5, "1.00"),
    (30.0, 0.03, "1.24 to 1.39"),
    (30.0, 0.05, "1.24 to 1.39"),
    (30.0, 0.1, "1.24 to 1.39"),
    (30.0, 0.2, "1.24 to 1.39"),
    (30.0, 0.5, "1.24 to 1.39"),
];

/// Looks of a run, as `floor.py` has them; a process with restarts is taken to be planned for so many.
fn looks(trials: f64) -> u32 {
    if trials > 100.0 { 600 } else { 3000 }
}

/// One row: the median of the candidate's trials until each has found the fault, on the same blocks.
pub fn medians(scope: &Scope, trials: f64, candidate: f64) -> [f64; 3] {
    let stream = Stream {
        looks: looks(trials),
        trials,
        split: Split::Constant(0.1),
        stable: Rate::Constant(STABLE),
        candidate: Rate::Constant(candidate),
    };
    let seed = scope.seed(&format!("floor {trials} {candidate}"));
    let found = all_runs(scope.median_runs, |run| {
        let source = &mut seed.run(run);
        let mut watchers: [Box<dyn Watcher>; 3] = [
            Box::new(Clairvoyant::new(candidate, STABLE, MARGIN)),
            Box::new(Process::plain(MARGIN)),
            Box::new(Process::restarting(MARGIN, stream.looks, &[])),
        ];
        let mut blocks = Blocks::new(stream, source);
        watchers
            .each_mut()
            .map(|watcher| blocks.until_found(watcher))
    });
    [0, 1, 2].map(|judge| {
        let calls: Vec<_> = found.iter().map(|calls| calls[judge]).collect();
        median(&calls).unwrap_or(f64::INFINITY)
    })
}

/// Blocks drawn only as far as somebody looks.
struct Blocks<'a> {
    stream: Stream,
    source: &'a mut crate::Source,
    drawn: Vec<crate::counts::Block>,
}

impl<'a> Blocks<'a> {
    fn new(stream: Stream, source: &'a mut crate::Source) -> Self {
        Self {
            stream,
            source,
            drawn: Vec::new(),
        }
    }

    /// The candidate's trials until the watcher has found the fault.
    fn until_found(&mut self, watcher: &mut dyn Watcher) -> f64 {
        let mut calls = 0;
        for look in 0..self.stream.looks {
            if self.drawn.len() <= look as usize {
                let block = self.stream.draw(look, self.source);
                self.drawn.push(block);
            }
            let block = &self.drawn[look as usize];
            calls += block.candidate;
            if watcher.look(block) >= -ALPHA.ln() {
                return calls as f64;
            }
        }
        f64::INFINITY
    }
}

/// Every row.
pub fn table(scope: &Scope) -> Table {
    let mut table = Table::new(
        "Candidate trials to find a fault, beside the clairvoyant test",
        &[
            "trials a look, candidate's errors",
            "clairvoyant",
            "plain",
            "ratio",
            "in charge",
            "ratio",
            "judge.md",
        ],
    );
    for (trials, candidate, page) in ROWS {
        let name = format!("{trials}, {}", percent(candidate));
        let [clairvoyant, plain, restarting] = medians(scope, trials, candidate);
        let ratios = [plain / clairvoyant, restarting / clairvoyant];
        table.row([
            name.clone(),
            count(Some(clairvoyant)),
            count(Some(plain)),
            ratio(ratios[0]),
            count(Some(restarting)),
            ratio(ratios[1]),
            page.to_owned(),
        ]);
        for (judge, ratio) in ["plain", "in charge"].into_iter().zip(ratios) {
            table.must(ratio <= RATIO_MAX * scope.leeway(), || {
                format!("{name}: {judge} needs {ratio:.2} times the trials, more than {RATIO_MAX}")
            });
        }
    }
    table.note("Stable has 1 % errors, the candidate a tenth of the traffic; +20 % +0.2pp is tolerated, alpha is 0.01. \"In charge\" is \
                the error process with restarts, planned for as many looks as a run has; the whole judge, which also guards tools, left calls and latency, is in the table of delays.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_is_near_the_floor() {
        let scope = Scope {
            median_runs: 60,
            ..Scope::quick("tests")
        };
        for (trials, candidate) in [(300.0, 0.05), (300.0, 0.2), (30.0, 0.1)] {
            let [clairvoyant, plain, restarting] = medians(&scope, trials, candidate);
            // Sixty runs tell a median within a fifth or so.
            assert!(
                plain / clairvoyant < RATIO_MAX * 1.1,
                "{trials} {candidate}: {plain} {clairvoyant}"
            );
            assert!(
                restarting / clairvoyant < RATIO_MAX * 1.1,
                "{trials} {candidate}: {restarting} {clairvoyant}"
            );
        }
    }
}
