//! The log and the blocks, on SQLite.
