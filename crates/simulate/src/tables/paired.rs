//! Delays paired block by block with the reference in Python: the same blocks must be decided at the same block.

use super::{Scope, Table, floor, percent};
use crate::{
    Process,
    counts::{Block, Rate, Split, Stream, Watcher, first_found},
};
use serde::{Deserialize, Serialize};

/// The reference's and our logarithm of the evidence may differ by this part: they add in another order.
const DIFFERENCE_MAX: f64 = 1e-9;

/// What the reference is asked, and its driver reads (`oracle/driver.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// What is tolerated.
    pub margin: (f64, f64),
    /// The level.
    pub alpha: f64,
    /// The blocks of each run: bad and all of the candidate, bad and all of stable.
    pub runs: Vec<Vec<[u64; 4]>>,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The block, from 1, at which it decided each run, if it did.
    pub found: Vec<Option<u32>>,
    /// The logarithm of its evidence after the last block of each run.
    pub last: Vec<f64>,
}

/// A question with the answer of the reference, as it is kept in `oracle/paired.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// What it is about.
    pub name: String,
    /// The question.
    pub asked: Asked,
    /// The answer.
    pub answer: Answer,
}

/// What the tests know of the reference.
pub const RECORDED: &str = include_str!("../../oracle/paired.json");

/// Questions: faults of many sizes, none, and a drifting rate, at two levels of traffic. So many runs each.
pub fn questions(root: &Scope, runs: u64, looks: u32) -> Vec<(String, Asked)> {
    let rows = [
        ("none", 300.0, Rate::Constant(0.01), Rate::Constant(0.01)),
        ("drifting", 300.0, Rate::Drifting, Rate::Drifting),
        ("3 %", 300.0, Rate::Constant(0.01), Rate::Constant(0.03)),
        ("5 %", 300.0, Rate::Constant(0.01), Rate::Constant(0.05)),
        ("10 %", 300.0, Rate::Constant(0.01), Rate::Constant(0.1)),
        (
            "20 %, little traffic",
            30.0,
            Rate::Constant(0.01),
            Rate::Constant(0.2),
        ),
    ];
    rows.into_iter()
        .map(|(name, trials, stable, candidate)| {
            let stream = Stream {
                looks,
                trials,
                split: Split::Ramp,
                stable,
                candidate,
            };
            let seed = root.seed(&format!("paired {name}"));
            let runs = (0..runs)
                .map(|run| {
                    let blocks = stream.draw_all(&mut seed.run(run));
                    blocks
                        .iter()
                        .map(|b| [b.candidate_bad, b.candidate, b.stable_bad, b.stable])
                        .collect()
                })
                .collect();
            let asked = Asked {
                margin: floor::MARGIN,
                alpha: floor::ALPHA,
                runs,
            };
            (name.to_owned(), asked)
        })
        .collect()
}

/// What the plain process answers.
pub fn ours(asked: &Asked) -> Answer {
    let mut answer = Answer {
        found: Vec::new(),
        last: Vec::new(),
    };
    for run in &asked.runs {
        let blocks: Vec<_> = run
            .iter()
            .map(|&[candidate_bad, candidate, stable_bad, stable]| Block {
                candidate_bad,
                candidate,
                stable_bad,
                stable,
            })
            .collect();
        let found = first_found(&blocks, &mut Process::plain(asked.margin), asked.alpha);
        answer.found.push(found.map(|found| found.looks));
        let mut process = Process::plain(asked.margin);
        let last = blocks.iter().map(|block| process.look(block)).last();
        answer.last.push(last.unwrap_or(0.0));
    }
    answer
}

/// Every question with what the reference answered; `by` says where it did.
pub fn table(recorded: &[Recorded], by: &str) -> Table {
    let mut table = Table::new(
        "Delays paired with the reference, block by block",
        &[
            "fault",
            "runs",
            "decided",
            "at the same block",
            "largest difference of ln E",
        ],
    );
    for Recorded {
        name,
        asked,
        answer,
    } in recorded
    {
        let ours = ours(asked);
        let pairs = || ours.found.iter().zip(&answer.found);
        let same = pairs().filter(|(ours, theirs)| ours == theirs).count();
        let difference = ours
            .last
            .iter()
            .zip(&answer.last)
            .map(|(ours, theirs)| (ours - theirs).abs() / theirs.abs().max(1.0))
            .fold(0.0, f64::max);
        table.row([
            name.clone(),
            asked.runs.len().to_string(),
            answer.found.iter().flatten().count().to_string(),
            same.to_string(),
            format!("{difference:.0e}"),
        ]);
        let all = asked.runs.len() == answer.found.len() && same == answer.found.len();
        table.must(all, || {
            let first = pairs().position(|(ours, theirs)| ours != theirs);
            format!(
                "{name}: not all runs are decided at the reference's block, the first is {first:?}"
            )
        });
        table.must(difference <= DIFFERENCE_MAX, || {
            format!("{name}: the evidence differs by {difference:e}")
        });
    }
    table.note(&format!(
        "The reference ({by}) and the plain process on the same blocks, alpha {}, +{} +0.2pp tolerated.",
        floor::ALPHA,
        percent(floor::MARGIN.0)
    ));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_decided_where_the_reference_decides_it() {
        let recorded: Vec<Recorded> = serde_json::from_str(RECORDED).unwrap();
        assert!(recorded.len() >= 6);
        let decided = recorded.iter().flat_map(|r| &r.answer.found).flatten();
        assert!(decided.count() >= 12, "the comparison is about something");
        assert_eq!(table(&recorded, "recorded").failures, [""; 0]);
    }
}
