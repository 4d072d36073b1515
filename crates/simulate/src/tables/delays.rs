//! How soon faults are found.

use super::{
    Scope, Table, count,
    floor::{ALPHA, MARGIN},
    percent,
};
use crate::{
    Process, all_runs,
    counts::{Block, Found, Rate, Split, Stream, Watcher},
    figures::{Chance, median},
    latency::Slowdown,
    rivals::{ConfidenceSequence, FailureLimit, RepeatedTest},
    trials::TrialStream,
};
use serin_judge::{
    Verdict,
    eprocess::Tolerance,
    sequential::{Aspect, Judge, Settings},
    steps_of_ratio,
    trial::{TrialArm, TrialBlock},
};
use std::{collections::BTreeMap, sync::Arc};

/// Traffic of most rows: a look a minute, a tenth of the trials the candidate's.
const TRIALS: f64 = 300.0;
const CANDIDATE: f64 = 0.1;

/// Looks before the fault in rows on latency: the judge needs to know stable's, and `simulate_latency.py` does not count them.
const WARM_UP_LOOKS: u32 = 5;

/// How much slower is tolerated: five buckets, as in judge.md.
const LATENCY_MARGIN: f64 = 1.1145;

/// The settings a plan has that says nothing, for a rollout of so many looks.
fn settings(alpha: f64, margin: (f64, f64), looks: u32) -> Settings {
    Settings {
        alpha,
        beta: 0.05,
        errors: Tolerance {
            relative: margin.0,
            absolute: margin.1,
        },
        latency_warning: steps_of_ratio(LATENCY_MARGIN),
        latency_critical: 19,
        aspects: vec![
            Aspect::Errors,
            Aspect::Unserved,
            Aspect::FirstByte,
            Aspect::LastByte,
        ],
        horizon_blocks: f64::from(looks),
        stable_bad_max: 0.2,
    }
}

const fn stream(looks: u32, trials: f64, stable: f64, candidate: f64) -> Stream {
    Stream {
        looks,
        trials,
        split: Split::Constant(CANDIDATE),
        stable: Rate::Constant(stable),
        candidate: Rate::Constant(candidate),
    }
}

/// Whether a judge has decided, after each block.
type Decided = Box<dyn FnMut(&TrialBlock, &Block) -> bool>;

/// A look at the judge in charge.
type Looked = fn(&Judge) -> bool;

/// What the runs of one judge took: medians of looks and of the candidate's trials, and how many found anything.
struct Taken {
    looks: Option<f64>,
    candidate: Option<f64>,
    found: Chance,
}

impl Taken {
    fn of(runs: &[Option<Found>]) -> Self {
        let of = |figure: fn(&Found) -> f64| {
            let figures: Vec<_> = runs
                .iter()
                .map(|found| found.as_ref().map_or(f64::INFINITY, figure))
                .collect();
            median(&figures)
        };
        Self {
            looks: of(|found| f64::from(found.looks)),
            candidate: of(|found| found.candidate as f64),
            found: Chance::of(runs.iter().map(Option::is_some)),
        }
    }
}

/// Runs `decided` over blocks of trials until it says yes.
fn taken(
    scope: &Scope,
    row: &str,
    trials: &TrialStream,
    warm_up: u32,
    start: impl Fn() -> Decided + Sync,
) -> Taken {
    let seed = scope.seed(&format!("delays {row}"));
    // What the fault does to latency begins at once: those rows warm up with a candidate that has no trials.
    let runs = all_runs(scope.median_runs, |run| {
        let source = &mut seed.run(run);
        let mut decided = start();
        let mut total = Block::default();
        for look in 0..trials.stream.looks {
            let (mut block, counts) = trials.draw(look, source);
            if look < warm_up {
                block.candidate = TrialArm::default();
                block.keys = (0, 0);
                decided(&block, &Block::default());
                continue;
            }
            total.add(&counts);
            if decided(&block, &counts) {
                return Some(Found {
                    looks: look + 1 - warm_up,
                    candidate: total.candidate,
                    candidate_bad: total.candidate_bad,
                });
            }
        }
        None
    });
    Taken::of(&runs)
}

/// A decision by mere counts.
fn by_counts<W: Watcher + 'static>(
    alpha: f64,
    watcher: impl Fn() -> W + Sync,
) -> impl Fn() -> Decided + Sync {
    move || {
        let mut watcher = watcher();
        Box::new(move |_, counts| watcher.look(counts) >= -alpha.ln())
    }
}

/// A decision by the judge in charge.
fn by_judge(settings: &Settings, decided: fn(&Judge) -> bool) -> impl Fn() -> Decided + Sync {
    move || {
        let mut judge = Judge::new(settings.clone());
        Box::new(move |block, _| {
            judge.take(block);
            decided(&judge)
        })
    }
}

fn regression(judge: &Judge) -> bool {
    judge.verdict() == Verdict::Regression
}

fn is_safe(judge: &Judge) -> bool {
    judge.verdict() == Verdict::Safe
}

/// A median of minutes needs fewer runs than a ratio of medians that has a bound.
fn fewer(scope: &Scope) -> Scope {
    Scope {
        median_runs: scope.median_runs.div_ceil(4),
        ..scope.clone()
    }
}

/// Errors: the delays of the judge, and of others on the same kind of data.
pub fn errors(scope: &Scope) -> Table {
    let scope = &fewer(scope);
    let mut table = Table::new(
        "Delay until errors are found: median minutes and candidate trials",
        &["fault", "judge", "minutes", "trials", "found", "judge.md"],
    );
    let mut row = |fault: &str, judge: &str, taken: &Taken, page: &str| {
        table.row([
            fault.to_owned(),
            judge.to_owned(),
            count(taken.looks),
            count(taken.candidate),
            percent(taken.found.rate()),
            page.to_owned(),
        ]);
    };
    let name = "1 % to 5 %, nothing tolerated";
    let five = TrialStream::new(stream(240, TRIALS, 0.01, 0.05), 0);
    let none = (0.0, 0.0);
    let plain = |alpha| by_counts(alpha, move || Process::plain(none));
    row(
        name,
        "plain, alpha .05",
        &taken(scope, name, &five, 0, plain(0.05)),
        "4 min",
    );
    row(
        name,
        "plain, alpha .01",
        &taken(scope, name, &five, 0, plain(0.01)),
        "6 min",
    );
    for (alpha, judge) in [
        (0.05, "in charge, alpha .05"),
        (0.01, "in charge, alpha .01"),
    ] {
        let settings = settings(alpha, none, 240);
        row(
            name,
            judge,
            &taken(scope, name, &five, 0, by_judge(&settings, regression)),
            "",
        );
    }
    let argo = by_counts(ALPHA, FailureLimit::argo);
    row(
        name,
        "Argo style",
        &taken(scope, name, &five, 0, argo),
        "9 min",
    );
    let flagger = by_counts(ALPHA, FailureLimit::flagger);
    row(
        name,
        "Flagger style",
        &taken(scope, name, &five, 0, flagger),
        "6 min",
    );
    let test = by_counts(ALPHA, RepeatedTest::at_five_percent);
    row(
        name,
        "z-test each minute",
        &taken(scope, name, &five, 0, test),
        "2 min",
    );
    let sequence = by_counts(ALPHA, ConfidenceSequence::at_five_percent);
    row(
        name,
        "confidence sequence",
        &taken(scope, name, &five, 0, sequence),
        "9 min",
    );

    // Trials a look, stable's and the candidate's errors, looks, and the page's figure.
    let faults = [
        (TRIALS, 0.03, 600, "957"),
        (TRIALS, 0.05, 240, "252"),
        (TRIALS, 0.1, 240, "84"),
        (TRIALS, 0.2, 240, "35"),
        (TRIALS / 6.0, 0.3, 240, "23"),
        (TRIALS / 6.0, 0.95, 240, "8"),
    ];
    for (trials, candidate, looks, page) in faults {
        let pace = trials * CANDIDATE;
        let name = format!(
            "1 % to {}, {pace} candidate trials a minute",
            percent(candidate)
        );
        let fault = TrialStream::new(stream(looks, trials, 0.01, candidate), 0);
        let plain = by_counts(ALPHA, || Process::plain(MARGIN));
        row(&name, "plain", &taken(scope, &name, &fault, 0, plain), page);
        let settings = settings(ALPHA, MARGIN, looks);
        let judge = by_judge(&settings, regression);
        row(
            &name,
            "in charge",
            &taken(scope, &name, &fault, 0, judge),
            "",
        );
    }

    let name = "20 % in one tool of eight";
    let mut one_tool = TrialStream::new(stream(240, TRIALS, 0.01, 0.2), 8);
    one_tool.in_one_tool = true;
    let pooled = by_counts(ALPHA, || Process::plain(MARGIN));
    row(
        name,
        "plain, pooled",
        &taken(scope, name, &one_tool, 0, pooled),
        "20 min",
    );
    row(
        name,
        "plain, per tool at 8/alpha",
        &taken(scope, name, &one_tool, 0, per_tool),
        "8 min",
    );
    let settings = settings(ALPHA, MARGIN, 240);
    let judge = by_judge(&settings, regression);
    row(
        name,
        "in charge",
        &taken(scope, name, &one_tool, 0, judge),
        "",
    );
    let named = by_judge(&settings, |judge| {
        regression(judge)
            && judge
                .proof()
                .culprit
                .is_some_and(|culprit| &*culprit.tool == "tool-1" && culprit.proven)
    });
    row(
        name,
        "in charge, the tool proven",
        &taken(scope, name, &one_tool, 0, named),
        "",
    );
    table.note("A look a minute, a tenth of the trials the candidate's. From the second fault on +20 % +0.2pp is tolerated, and alpha is \
                .01. \"In charge\" is the whole judge: it also guards left calls and latency, for which it pays a few trials.");
    table
}

/// A gate for each of the eight tools, so much stricter that all together are as strict as one.
fn per_tool() -> Decided {
    let mut gates = BTreeMap::<Arc<str>, Process>::new();
    Box::new(move |block, _| {
        let mut found = false;
        for (tool, candidate) in &block.candidate.tools {
            let gate = gates
                .entry(Arc::clone(tool))
                .or_insert_with(|| Process::plain(MARGIN));
            let stable = block.stable.tools.get(tool);
            let evidence = gate.look(&Block {
                candidate_bad: candidate.bad,
                candidate: candidate.trials,
                stable_bad: stable.map_or(0, |stable| stable.bad),
                stable: stable.map_or(0, |stable| stable.trials),
            });
            found |= evidence >= -(ALPHA / 8.0).ln();
        }
        found
    })
}

/// Latency: held for +11 %, taken back for +51 %.
pub fn latency(scope: &Scope) -> Table {
    let mut table = Table::new(
        "Delay until slowness is found, under a load that drifts: median minutes and candidate trials",
        &["fault", "verdict", "minutes", "trials", "found", "judge.md"],
    );
    let tail = Slowdown {
        factor: 5.0,
        part: 0.05,
    };
    let rows = [
        ("none", Slowdown::NONE, "0 of 600"),
        ("x1.5", Slowdown::all(1.5), "120"),
        ("x2", Slowdown::all(2.0), "30"),
        ("5 % of the calls x5", tail, "510"),
        ("x1.2", Slowdown::all(1.2), ""),
        ("x3", Slowdown::all(3.0), ""),
    ];
    for (name, slowdown, page) in rows {
        let mut trials = TrialStream::new(stream(95, TRIALS, 0.0, 0.0), 0).slower(slowdown);
        trials.drifting = true;
        // As the reference judges: by latency alone.
        let settings = Settings {
            aspects: vec![Aspect::LastByte],
            ..settings(ALPHA, MARGIN, 95)
        };
        let verdicts = [
            ("hold, beyond +11 %", Judge::is_slower as Looked, page),
            ("roll back, beyond +51 %", regression, ""),
        ];
        for (verdict, decided, page) in verdicts {
            let row = format!("latency {name}");
            // False alarms are bounded, for which it takes many runs.
            let scope = &if slowdown == Slowdown::NONE {
                scope.clone()
            } else {
                fewer(scope)
            };
            let taken = taken(
                scope,
                &row,
                &trials,
                WARM_UP_LOOKS,
                by_judge(&settings, decided),
            );
            table.row([
                name.to_owned(),
                verdict.to_owned(),
                count(taken.looks),
                count(taken.candidate),
                percent(taken.found.rate()),
                page.to_owned(),
            ]);
            if slowdown == Slowdown::NONE {
                table.must_be_rare(scope, name, verdict, taken.found, ALPHA);
            }
        }
    }
    table.note("A tenth of 300 trials a minute is the candidate's. The judge in charge, by the time to the last byte alone, which is \
                what judge.md's figures are of; with restarts.");
    table
}

/// Safe: how long it takes to show that a candidate that is as good as stable is within tolerance.
pub fn safe(scope: &Scope) -> Table {
    let scope = &fewer(scope);
    let mut table = Table::new(
        "Trials until an equal candidate is shown to be safe, beta .05",
        &[
            "errors, tolerated, candidate's part",
            "judge",
            "trials",
            "shown",
            "judge.md",
        ],
    );
    let rows = [
        (0.01, (0.5, 0.005), 0.1, ""),
        (0.01, (0.5, 0.005), 0.5, ""),
        (0.01, MARGIN, 0.1, "4,450 to 6,700"),
        (0.003, MARGIN, 0.1, "4,450 to 6,700"),
        (0.01, MARGIN, 0.5, ""),
    ];
    for (rate, margin, part, page) in rows {
        let looks = 400;
        let mut stream = stream(looks, TRIALS, rate, rate);
        stream.split = Split::Constant(part);
        let trials = TrialStream::new(stream, 0);
        let name = format!(
            "{}, +{} +{:.1}pp, {}",
            percent(rate),
            percent(margin.0),
            margin.1 * 100.0,
            percent(part)
        );
        let errors_only = Settings {
            aspects: vec![Aspect::Errors],
            ..settings(ALPHA, margin, looks)
        };
        let all = settings(ALPHA, margin, looks);
        let beta = all.beta;
        let plain = taken(
            scope,
            &name,
            &trials,
            0,
            by_counts(beta, move || Process::safe(margin)),
        );
        let errors = taken(scope, &name, &trials, 0, by_judge(&errors_only, is_safe));
        let whole = taken(scope, &name, &trials, 0, by_judge(&all, is_safe));
        let judges = [
            ("plain", plain, page),
            ("in charge, errors only", errors, ""),
            ("in charge", whole, ""),
        ];
        for (judge, taken, page) in judges {
            table.row([
                name.clone(),
                judge.to_owned(),
                count(taken.candidate),
                percent(taken.found.rate()),
                page.to_owned(),
            ]);
        }
    }
    table.note("300 trials a minute, up to 400 minutes. The judge in charge asks for errors, left calls and latency (+11 %) all at once.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: fn() -> Scope = || Scope {
        median_runs: 24,
        ..Scope::quick("tests")
    };

    fn median_trials(taken: &Taken) -> f64 {
        taken.candidate.unwrap()
    }

    #[test]
    fn delays_are_those_of_judge_md() {
        for (candidate, from, to) in [(0.05, 180.0, 380.0), (0.2, 25.0, 50.0)] {
            let fault = TrialStream::new(stream(240, TRIALS, 0.01, candidate), 0);
            let plain = by_counts(ALPHA, || Process::plain(MARGIN));
            let trials = median_trials(&taken(&SCOPE(), "test", &fault, 0, plain));
            assert!((from..to).contains(&trials), "{candidate}: {trials}");
        }
    }

    #[test]
    fn a_fault_in_one_tool_is_found_sooner_and_named() {
        let mut one_tool = TrialStream::new(stream(120, TRIALS, 0.01, 0.2), 8);
        one_tool.in_one_tool = true;
        let settings = settings(ALPHA, MARGIN, 240);
        let named = by_judge(&settings, |judge| {
            regression(judge)
                && judge
                    .proof()
                    .culprit
                    .is_some_and(|culprit| &*culprit.tool == "tool-1")
        });
        let pooled = by_counts(ALPHA, || Process::plain(MARGIN));
        let named = median_trials(&taken(&SCOPE(), "test", &one_tool, 0, named));
        let pooled = median_trials(&taken(&SCOPE(), "test", &one_tool, 0, pooled));
        assert!(named < 0.8 * pooled, "{named} {pooled}");
    }

    #[test]
    fn half_as_slow_again_is_held() {
        let mut slow = TrialStream::new(stream(40, TRIALS, 0.0, 0.0), 0).slower(Slowdown::all(1.5));
        slow.drifting = true;
        let settings = settings(ALPHA, MARGIN, 95);
        let held = by_judge(&settings, Judge::is_slower);
        let trials = median_trials(&taken(&SCOPE(), "test", &slow, WARM_UP_LOOKS, held));
        assert!(trials < 300.0, "{trials}");
    }
}
