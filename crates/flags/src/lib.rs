//! Feature flags and kill switches: definitions in flagd's shape, their evaluation, overrides, schedules, and the book of kills.
//!
//! Pure: no clock, no I/O, no randomness. The time is an argument.
//!
//! The order of evaluation is one function, [`Table::evaluate`](table::Table::evaluate): emergency latch, kill of the flag,
//! expiry, tenant override, environment override, rollouts, state, schedule, targeting, default variant. The first two never parse
//! or run a rule.
//!
//! Flags come as flagd documents ([`document`]) or in the shapes that teams had before ([`import`]).

mod difference;
pub mod document;
pub mod environment;
pub mod evaluation;
pub mod flag;
pub mod import;
pub mod key;
pub mod kill;
mod names;
pub mod rule;
pub mod schema;
pub mod table;

pub use document::{Document, DocumentError};
pub use environment::Environment;
pub use evaluation::{Context, ErrorCode, Evaluation, Reason, Why};
pub use flag::{Flag, Problem, State};
pub use import::{Compact, Imported};
pub use key::{FlagKey, TenantId};
pub use kill::{Kill, Kills, Latch, Target};
pub use table::{Flags, Overrides, Release, Table};
