//! What `serin rollout simulate` has found, as text.

use super::{in_words, percent, tolerated, wrapped};
use crate::{cli::SimulateArgs, screen};
use serin_model::plan::Plan;
use serin_simulate::{Characteristics, Degradation, Middle, Traffic, figures::Chance};

/// What happens in fewer rollouts than one of ten is the exception.
const RARELY: f64 = 0.1;

/// What was asked, and the titles of the table.
pub(super) fn head(name: &str, traffic: &Traffic, args: &SimulateArgs) -> String {
    let mut out = wrapped(&format!(
        "plan {name}: {}; {} simulated rollouts of each kind of candidate, seed {}",
        in_words(traffic),
        args.runs,
        args.seed
    ));
    out += &format!(
        "\n{:<52}  {:^20}  {:^20}\n",
        "", "until taken back", "calls harmed by then"
    );
    out += &columns([
        "candidate",
        "taken back",
        "promoted",
        "neither",
        "median",
        "9 of 10",
        "median",
        "9 of 10",
    ]);
    out
}

/// A row of the table.
pub(super) fn row(row: &Characteristics) -> String {
    let seconds = |figure| middle(row.seconds, figure, screen::about);
    let harmed = |figure| middle(row.harmed_calls, figure, |calls| format!("{calls:.0}"));
    let (half, most): (Figure, Figure) = (|middle| middle.median, |middle| middle.p90);
    columns([
        &what(row.what),
        &row.rolled_back.hits.to_string(),
        &row.promoted.hits.to_string(),
        &row.inconclusive.hits.to_string(),
        &seconds(half),
        &seconds(most),
        &harmed(half),
        &harmed(most),
    ])
}

fn columns(cells: [&str; 8]) -> String {
    let [
        candidate,
        back,
        promoted,
        neither,
        half,
        most,
        harmed,
        most_harmed,
    ] = cells;
    format!(
        "{candidate:<26}{back:>10}{promoted:>9}{neither:>8}{half:>12}{most:>10}{harmed:>12}{most_harmed:>10}\n"
    )
}

fn what(what: Degradation) -> String {
    match what {
        Degradation::None => "as good as stable".to_owned(),
        what => what.to_string(),
    }
}

/// The table in words.
pub(super) fn lessons(plan: &Plan, traffic: &Traffic, found: &[Characteristics]) -> String {
    let mut lines = vec![tolerated(plan, traffic)];
    let (good, bad): (Vec<_>, Vec<_>) = found.iter().partition(|row| row.what == Degradation::None);
    for row in good {
        lines.push(false_alarms(plan, row.rolled_back));
        if row.inconclusive.rate() > RARELY {
            lines.push(format!(
                "{} of {} candidates that are as good as stable got no decision and wait for a person: this traffic shows too little for this plan.",
                row.inconclusive.hits, row.inconclusive.runs
            ));
        }
    }
    let named = |rows: &dyn Fn(&Characteristics) -> bool| {
        let rows = bad.iter().filter(|row| rows(row));
        rows.map(|row| what(row.what))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let caught = named(&|row| row.rolled_back.rate() >= 1.0 - RARELY);
    let passed = named(&|row| row.promoted.rate() > RARELY);
    if caught.is_empty() {
        lines.push("No kind of fault is taken back in nine of ten rollouts.".to_owned());
    } else {
        lines.push(format!(
            "Taken back in at least nine of ten rollouts: {caught}."
        ));
    }
    if !passed.is_empty() {
        lines.push(format!(
            "Promoted in more than one of ten rollouts: {passed}. Where that is beyond what you want to tolerate, ask for more evidence, longer phases or narrower tolerances."
        ));
    }
    let lines = lines.iter().map(|line| wrapped(line));
    std::iter::once("\n".to_owned()).chain(lines).collect()
}

fn false_alarms(plan: &Plan, alarms: Chance) -> String {
    let mut text = format!(
        "False alarms: {} of {}. The true chance is at most {}, with 95 % confidence; more `--runs` say it closer. The judge by itself is wrong in at most {} of rollouts, and thresholds come on top.",
        alarms.hits,
        alarms.runs,
        percent(alarms.upper()),
        percent(plan.judge.alpha)
    );
    if alarms.lower() > plan.judge.alpha {
        text += " So most of these are of thresholds: look at those with few `min_samples`, above all with `per_tool`.";
    }
    text
}

type Figure = fn(&Middle) -> f64;

fn middle(found: Option<Middle>, figure: Figure, show: impl Fn(f64) -> String) -> String {
    found.map_or_else(|| "-".to_owned(), |found| show(figure(&found)))
}
