//! `cargo xtask interop`.
use crate::Result;
/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {}
pub(crate) fn run(_args: &Args) -> Result<()> {
    Err("not yet".into())
}
