//! False alarms: both versions are the same, and every abort is wrong.

use super::{Scope, Table, percent, shown};
use crate::{
    Process, all_runs,
    counts::{Rate, Split, Stream, Watcher, most},
    figures::Chance,
    rivals::{ConfidenceSequence, FailureLimit, RepeatedTest},
    trials::TrialStream,
};
use serin_judge::sequential::{Aspect, Judge, Settings, Tolerance};

/// The levels at which false alarms are bounded.
pub const ALPHAS: [f64; 2] = [0.01, 0.05];

/// Looks of a run, one a minute.
const LOOKS: u32 = 120;

/// Expected trials of a look.
const TRIALS: f64 = 300.0;

/// Tools of the simulated service.
const TOOLS: u32 = 3;

/// The rows: constant, drifting, rare and frequent errors.
pub const ROWS: [(&str, Rate); 4] = [
    ("constant 1 %", Rate::Constant(0.01)),
    ("drifting 0.2 to 1.8 %", Rate::Drifting),
    ("rare, 0.1 %", Rate::Constant(0.001)),
    ("frequent, 10 %", Rate::Constant(0.1)),
];

/// Nothing is tolerated, so that the same rates are the edge of what is allowed: the hardest case there is.
pub fn strict(alpha: f64, horizon_blocks: f64) -> Settings {
    Settings {
        alpha,
        beta: 0.05,
        errors: Tolerance {
            relative: 0.0,
            absolute: 0.0,
        },
        latency_warning: 0,
        latency_critical: 0,
        aspects: vec![
            Aspect::Errors,
            Aspect::Unserved,
            Aspect::FirstByte,
            Aspect::LastByte,
        ],
        horizon_blocks,
        stable_bad_max: 0.2,
    }
}

/// What watches a run of one row.
const JUDGES: [&str; 8] = [
    "plain",
    "with restarts",
    "in charge",
    "in charge, distrusted",
    "Argo style",
    "Flagger style",
    "z-test each minute",
    "confidence sequence",
];

/// How much evidence each judge ever had in each run, as natural logarithms.
fn evidence(scope: &Scope, name: &str, rate: Rate) -> Vec<[f64; 8]> {
    let stream = Stream {
        looks: LOOKS,
        trials: TRIALS,
        split: Split::Ramp,
        stable: rate,
        candidate: rate,
    };
    let mut trials = TrialStream::new(stream, TOOLS);
    trials.drifting = rate == Rate::Drifting;
    let seed = scope.seed(&format!("alarms {name}"));
    all_runs(scope.runs, |run| {
        let source = &mut seed.run(run);
        let mut judge = Judge::new(strict(ALPHAS[0], f64::from(LOOKS)));
        let mut blocks = Vec::with_capacity(LOOKS as usize);
        for look in 0..LOOKS {
            let (block, counts) = trials.draw(look, source);
            judge.take(&block);
            blocks.push(counts);
        }
        let proof = judge.proof();
        let most = |watcher: &mut dyn Watcher| most(&blocks, watcher);
        [
            most(&mut Process::plain((0.0, 0.0))),
            most(&mut Process::restarting((0.0, 0.0), LOOKS, &[30, 60, 90])),
            -proof.p_value.ln(),
            if proof.distrust.is_some() {
                f64::INFINITY
            } else {
                0.0
            },
            most(&mut FailureLimit::argo()),
            most(&mut FailureLimit::flagger()),
            most(&mut RepeatedTest::at_five_percent()),
            most(&mut ConfidenceSequence::at_five_percent()),
        ]
    })
}

/// Every row.
pub fn table(scope: &Scope) -> Table {
    let mut table = Table::new(
        "False alarms: 120 looks at two equal versions, at a share of 5, 10, 25 and 50 %",
        &[
            "errors of both",
            "judge",
            "alpha .01",
            "alpha .05",
            "judge.md",
        ],
    );
    for (name, rate) in ROWS {
        let runs = evidence(scope, name, rate);
        for (at, judge) in JUDGES.into_iter().enumerate() {
            let chance =
                |alpha: f64| Chance::of(runs.iter().map(|evidence| evidence[at] >= -alpha.ln()));
            let chances = ALPHAS.map(chance);
            let is_ours = at < 4;
            let cell = |chance: Chance| {
                if is_ours {
                    shown(chance)
                } else {
                    percent(chance.rate())
                }
            };
            // What knows no alpha of its own is shown once.
            let first = if at < 3 {
                cell(chances[0])
            } else {
                String::new()
            };
            table.row([
                name.to_owned(),
                judge.to_owned(),
                first,
                cell(chances[1]),
                page(name, judge).to_owned(),
            ]);
            if at < 3 {
                for (chance, alpha) in chances.into_iter().zip(ALPHAS) {
                    table.must_be_rare(scope, name, judge, chance, alpha);
                }
            }
        }
    }
    table.note(&format!(
        "{} runs a row, the same blocks for all judges; in brackets the upper bound that holds with 95 % (Clopper and Pearson). \
         Nothing is tolerated, so equal versions are at the edge of what is allowed. \"In charge\" is the whole judge: errors, left \
         calls and latency, pooled and of {TOOLS} tools; \"distrusted\" counts runs in which it set the comparison aside.",
        scope.runs
    ));
    table
}

fn page(row: &str, judge: &str) -> &'static str {
    match (row, judge) {
        ("constant 1 %", "plain") => "0.2 % / 1.8 %",
        ("constant 1 %", "Argo style") => "68 %",
        ("constant 1 %", "Flagger style") => "100 %",
        ("constant 1 %", "z-test each minute") => "35 %",
        ("constant 1 %", "confidence sequence") => "0.1 %",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_versions_are_hardly_ever_told_apart() {
        let scope = Scope {
            runs: 40,
            ..Scope::quick("tests")
        };
        for (name, rate) in ROWS {
            let runs = evidence(&scope, name, rate);
            for (at, judge) in JUDGES.iter().enumerate().take(4) {
                let alarms = runs.iter().filter(|run| run[at] >= -0.01_f64.ln()).count();
                // A chance of 1 % gives more than three in forty runs once in a thousand times.
                assert!(alarms <= 3, "{name}, {judge}: {alarms} of 40");
            }
        }
    }
}
