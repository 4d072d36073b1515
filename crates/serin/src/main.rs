//! The `serin` command.
fn main() {}
