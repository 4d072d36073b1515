//! What it costs to record one outcome: `cargo run --release -p serin-gateway --example recording`.

use rustix::time::{ClockId, clock_gettime};
use serin_gateway::bench::{Callers, time_of_an_outcome};
use std::time::Duration;

const ROUNDS: u32 = 10;
const OUTCOMES_A_ROUND: usize = 1_000_000;

/// Processor time of this thread: what others do with the core meanwhile says nothing.
fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn main() {
    for (callers, what) in [
        (Callers::Few(200), "200 callers"),
        (Callers::EverNew, "ever new callers"),
    ] {
        for (whole, which) in [(false, "the outcome"), (true, "all that is observed")] {
            let rounds =
                (0..ROUNDS).map(|_| time_of_an_outcome(OUTCOMES_A_ROUND, callers, whole, own_time));
            let rounds: Vec<_> = rounds.collect();
            let mean = rounds.iter().sum::<Duration>() / ROUNDS;
            let best = rounds.iter().min().copied().unwrap_or_default();
            println!(
                "{what}, 8 tools: {which} takes {} ns on average, {} ns in the quietest round",
                mean.as_nanos(),
                best.as_nanos()
            );
        }
    }
}
