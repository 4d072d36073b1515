//! No acknowledged record is ever lost: watched at the system calls, cut at
//! every byte of the write-ahead log, and killed in the act.

#![allow(clippy::doc_markdown, reason = "SQLite is a name, not code")]

mod child;
mod cuts;
mod faults;
mod kills;
mod sync;
mod takeover;
