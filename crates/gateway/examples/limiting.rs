//! What it costs to look whether a caller is over its limits: `cargo run --release -p serin-gateway --example limiting`.

use rustix::time::{ClockId, clock_gettime};
use serin_gateway::bench::time_of_a_limit;
use std::time::Duration;

const ROUNDS: u32 = 10;
const CHECKS_A_ROUND: usize = 1_000_000;
const KEYS: usize = 10_000;

/// Processor time of this thread: what others do with the core meanwhile says nothing.
fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn main() {
    let rounds = (0..ROUNDS).map(|_| time_of_a_limit(CHECKS_A_ROUND, KEYS, own_time));
    let rounds: Vec<_> = rounds.collect();
    let mean = rounds.iter().sum::<Duration>() / ROUNDS;
    let best = rounds.iter().min().copied().unwrap_or_default();
    println!(
        "three limits, 10,000 keys: a check takes {} ns on average, {} ns in the quietest round",
        mean.as_nanos(),
        best.as_nanos()
    );
}
