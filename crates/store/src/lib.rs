//! The log, the blocks and the audit tables, on SQLite.
//!
//! [`Log`] holds every event, in order: what [`Log::append`] has acknowledged
//! is on the disk and stays there. [`Blocks`] holds the sealed counts that
//! control judges, in a file of its own, since counts are many, packed, and
//! may be pruned, none of which is true of events. [`Audit`] holds a row a
//! request, and tables for those who ask in SQL.
//!
//! All store what they are given: this crate knows no event and no count.
//!
//! **Invariant:** no caller hears of a success before the write-ahead log was
//! synced (`synchronous = FULL`); `tests/durability.rs` watches the system
//! calls, cuts the write-ahead log at every byte and kills a real process.

#![allow(clippy::doc_markdown, reason = "SQLite is a name, not code")]

mod audit;
mod blocks;
mod error;
mod file;
mod log;

pub use audit::{
    AUDIT_ROWS_MAX, Answer, Audit, AuditEntry, Cell, FlagsRow, KeyRow, PRUNE_ROWS_MAX,
    QUESTION_SECONDS_MAX, sql_time,
};
pub use blocks::{BLOCK_BYTES_MAX, Block, BlockKey, Blocks, KEY_BYTES_MAX, Stored};
pub use error::{AppendError, Problem, StoreError, TooLarge};
pub use file::{BUSY_SECONDS_MAX, READ_BYTES_MAX, READ_ROWS_MAX};
pub use log::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BODY_BYTES_MAX, Log, NAME_BYTES_MAX, NewRecord, Record,
};
