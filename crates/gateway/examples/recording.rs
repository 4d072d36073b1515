//! What it costs to record one outcome: `cargo run --release -p serin-gateway --example recording`.

use serin_gateway::bench::{Callers, time_of_an_outcome};

const OUTCOMES: usize = 10_000_000;

fn main() {
    for (callers, what) in [
        (Callers::Few(200), "200 callers"),
        (Callers::EverNew, "ever new callers"),
    ] {
        for (whole, which) in [(false, "the outcome"), (true, "all that is observed")] {
            let time = time_of_an_outcome(OUTCOMES, callers, whole);
            println!("{what}, 8 tools: {which} takes {} ns", time.as_nanos());
        }
    }
}
