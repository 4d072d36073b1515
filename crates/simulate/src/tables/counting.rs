//! False alarms through the real counting code: sessions whose errors cluster, and clients that try again.

use super::{
    Scope, Table,
    alarms::{ALPHAS, strict},
    percent, shown,
};
use crate::{
    Process, all_runs,
    clients::{Clients, World},
    counts::Watcher,
    figures::Chance,
};
use serin_judge::sequential::Judge;

/// Blocks of ten seconds: two hours.
const BLOCKS: u32 = 720;

/// The rollout's steps: half an hour each.
const SHARES: [f64; 4] = [0.05, 0.1, 0.25, 0.5];

/// The rows.
const ROWS: [(&str, Clients, &str); 3] = [
    (
        "sessions of 1 to 60 minutes, some bad all through",
        Clients::clustered(),
        "21.6 % / 0.35 %",
    ),
    (
        "the same, bad ones soon given up",
        Clients::giving_up(),
        "- / -",
    ),
    (
        "each failure tried again up to three times",
        Clients::retrying(),
        "5.7 % / -",
    ),
];

/// What one run has shown.
struct Run {
    /// The most evidence of the judge in charge, as a natural logarithm.
    judge: f64,
    is_distrusted: bool,
    /// The most evidence of the plain process when calls are counted.
    calls: f64,
    /// Trials, calls, and bad calls.
    counted: [u64; 3],
}

fn one_run(clients: Clients, blocks: u32, source: &mut crate::Source) -> Run {
    let latencies = World::latencies();
    let mut world = World::new(clients, &latencies, source);
    let mut judge = Judge::new(strict(ALPHAS[0], f64::from(blocks)));
    let mut process = Process::plain((0.0, 0.0));
    let mut run = Run {
        judge: 0.0,
        is_distrusted: false,
        calls: 0.0,
        counted: [0; 3],
    };
    for at in 0..blocks {
        let step = at * 4 / blocks;
        let (block, calls) = world.block(step, SHARES[step as usize]);
        judge.take(&block);
        run.calls = run.calls.max(process.look(&calls));
        let trials = block.stable.pooled.trials + block.candidate.pooled.trials;
        run.counted[0] += trials;
        run.counted[1] += calls.stable + calls.candidate;
        run.counted[2] += calls.stable_bad + calls.candidate_bad;
    }
    let proof = judge.proof();
    run.judge = -proof.p_value.ln();
    run.is_distrusted = proof.distrust.is_some();
    run
}

fn runs(scope: &Scope, name: &str, clients: Clients, blocks: u32) -> Vec<Run> {
    let seed = scope.seed(&format!("counting {name}"));
    all_runs(scope.runs, |run| {
        one_run(clients, blocks, &mut seed.run(run))
    })
}

/// Every row.
pub fn table(scope: &Scope) -> Table {
    let mut table = Table::new(
        "False alarms through the counting code under virtual time: two hours of two equal versions",
        &[
            "clients",
            "what is counted",
            "alpha .01",
            "alpha .05",
            "judge.md (.01)",
        ],
    );
    for (name, clients, page) in ROWS {
        let runs = runs(scope, name, clients, BLOCKS);
        let at_both = |most: &dyn Fn(&Run) -> f64| {
            ALPHAS.map(|alpha| Chance::of(runs.iter().map(|run| most(run) >= -alpha.ln())))
        };
        let (trials, calls) = (at_both(&|run| run.judge), at_both(&|run| run.calls));
        let mut row = |what: &str, cells: [String; 2], page: &str| {
            let [one, five] = cells;
            table.row([name.to_owned(), what.to_owned(), one, five, page.to_owned()]);
        };
        let (of_calls, of_trials) = page.split_once(" / ").unwrap_or((page, ""));
        row("calls", calls.map(|c| percent(c.rate())), of_calls);
        row("trials, the judge in charge", trials.map(shown), of_trials);
        let distrusted = Chance::of(runs.iter().map(|run| run.is_distrusted));
        row(
            "of these distrusted",
            [String::new(), percent(distrusted.rate())],
            "",
        );
        for (chance, alpha) in trials.into_iter().zip(ALPHAS) {
            table.must_be_rare(scope, name, "the judge in charge", chance, alpha);
        }
        let mean = |at: usize| {
            runs.iter().map(|run| run.counted[at] as f64).sum::<f64>() / runs.len().max(1) as f64
        };
        table.note(&format!(
            "{name}: on average {:.0} trials a run, {:.0} calls, {} of them bad.",
            mean(0),
            mean(1),
            percent(mean(2) / mean(1))
        ));
    }
    table.note(&format!(
        "{} runs a row. Calls go through two cores' recorders and the ledger, as in the gateway and the control plane; nothing is \
         tolerated. The share rises from 5 to 10, 25 and 50 %.",
        scope.runs
    ));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sixth of the published length, in four steps all the same.
    const SHORT: u32 = 120;

    #[test]
    fn clustered_errors_fool_who_counts_calls_only() {
        let scope = Scope {
            runs: 40,
            ..Scope::quick("tests")
        };
        let clients = Clients {
            // Half an hour is over before an hour's session is.
            lasting_seconds: (60.0, 1200.0),
            ..Clients::clustered()
        };
        let runs = runs(&scope, "short", clients, SHORT);
        let alarms = |most: fn(&Run) -> f64| {
            runs.iter()
                .filter(|run| most(run) >= -0.01_f64.ln())
                .count()
        };
        assert!(alarms(|run| run.judge) <= 3, "{}", alarms(|run| run.judge));
        assert!(alarms(|run| run.calls) >= 3, "{}", alarms(|run| run.calls));
    }
}
