//! `serin demo`: the main job on real MCP traffic, in under a minute, with no configuration.
//!
//! Three versions of a sample server, the gateway and the control plane as `serin run` starts them, and a client population that
//! checks every answer. First a version whose search tool begins to fail inside HTTP 200, then a good one.

mod scratch;
mod story;

use crate::exit::Exit;
use clap::Args;
use std::path::PathBuf;

/// What `serin demo` understands.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave it running at the end, with addresses to try by hand, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Panic on SIGUSR2, to see what is left behind. Not in release builds.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    panic_on_usr2: bool,
}

/// What the janitor of the demo understands.
#[derive(Debug, Args)]
pub(crate) struct JanitorArgs {
    folder: PathBuf,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> miette::Result<Exit> {
    #[cfg(debug_assertions)]
    let panic_on_usr2 = args.panic_on_usr2;
    #[cfg(not(debug_assertions))]
    let panic_on_usr2 = false;
    story::tell(args.keep, panic_on_usr2)
}

/// Cleans up after a demo that was killed.
pub(crate) fn janitor(args: &JanitorArgs) -> Exit {
    scratch::janitor(&args.folder)
}
