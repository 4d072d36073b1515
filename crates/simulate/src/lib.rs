//! What a plan and its judge can see, before anything depends on it: by seeded simulation under virtual time.
//!
//! Pure but for randomness, which comes from a [`Seed`] that is an argument: the same seed gives the same figures everywhere.

pub mod clients;
pub mod counts;
pub mod figures;
mod latency;
mod process;
mod random;
pub mod rivals;
pub mod tables;
pub mod trials;

pub use latency::{Latencies, Slowdown, Spread};
pub use process::Process;
pub use random::{Seed, Source, all_runs};
