//! What a plan and its judge can see, before anything depends on it: by seeded simulation under virtual time.
//!
//! - [`simulate`] runs whole rollouts by a plan: how often a good candidate is taken back, how soon a bad one is, and how many
//!   calls it harms until then. [`chart`] draws it. This is `serin rollout simulate`.
//! - [`forecast`] says without simulation what each phase of a plan can see at a traffic. This is `serin rollout plan`.
//! - [`tables`] are the figures that judge.md asks for, beside the reference, other judges, and the test that knows everything.
//!   This is `cargo xtask simulate`.
//!
//! Pure but for randomness, which comes from a [`Seed`] that is an argument: the same seed gives the same figures everywhere.

mod chart;
mod clients;
pub mod counts;
pub mod figures;
mod forecast;
mod latency;
mod process;
mod random;
pub mod rivals;
mod rollouts;
pub mod tables;
mod town;
mod traffic;
pub mod trials;

pub use chart::chart;
pub use clients::{Clients, World};
pub use forecast::{Detection, PhaseForecast, forecast};
pub use latency::{Latencies, Slowdown, Spread};
pub use process::Process;
pub use random::{Seed, Source, all_runs};
pub use rollouts::simulate;
pub use traffic::{Characteristics, Degradation, Keys, Middle, Traffic};
