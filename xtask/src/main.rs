//! `cargo xtask`: the project's own commands. What they need beyond cargo they install when it is missing, and say so.

mod audit;
mod bench;
mod ci;
mod conformance;
mod fuzz;
mod gateway;
mod interop;
mod ofrep;
mod process;
mod ramp;
mod simulate;
mod test;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// An error is a sentence for the person who ran the command.
type Error = Box<dyn std::error::Error + Send + Sync>;

type Result<T> = std::result::Result<T, Error>;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the workspace's tests
    Test {
        /// Given to the test runner, after `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run everything a change must pass
    Ci,
    /// Run the public MCP conformance suite directly and through the gateway, and compare check by check
    Conformance(conformance::Args),
    /// Call the sample server with real MCP clients, directly and through the gateway
    Interop(interop::Args),
    /// Ask `serin run` for flags with real feature-flag clients, and test its protocol against the published description
    Ofrep,
    /// Measure what the gateway costs beside other proxies and gateways
    Bench(bench::Args),
    /// Count the rows of the audit trail against what clients received: under load, after a `kill -9`, and on a full disk
    Audit(audit::Args),
    /// Load the gateway with a thousand tenants' calls, at a rate that grows to ten times what the Stage I seed asks for
    Ramp(ramp::Args),
    /// Simulate how often the judge is wrong and how soon it finds a fault, and check its bounds
    Simulate(simulate::Args),
    /// Fuzz what reads bytes from outside, for a bounded time
    Fuzz(fuzz::Args),
    /// Install what the other commands need
    Tools,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Test { arguments } => test::run(&arguments),
        Command::Ci => return ci::run(),
        Command::Conformance(args) => conformance::run(&args),
        Command::Interop(args) => interop::run(&args),
        Command::Ofrep => ofrep::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Ramp(args) => ramp::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Tools => tools::install_all(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout this program was built from.
fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or_else(|| xtask.clone(), PathBuf::from)
}
