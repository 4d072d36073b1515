//! The `serin` command: one binary for the gateway with its control plane (`serin run`) and for those who steer it.

mod apply;
mod check;
mod cli;
mod client;
#[cfg(feature = "demo")]
mod demo;
mod doubts;
mod drain;
mod exit;
mod flag;
mod health;
mod key;
mod kill;
mod problem;
mod report;
mod rollout;
mod route;
mod run;
mod screen;
mod service;
mod status;
mod tenant;

use clap::Parser as _;
use cli::{Cli, Command};
use exit::Exit;
use std::process::ExitCode;

/// Worth a few percent of the processor at many small requests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.global.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    problem::install(cli.global.no_color);
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        // Output into a pipe that nobody reads any more ends the process quietly, as with other tools.
        Err(error) if problem::is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            eprintln!("{error:?}");
            Exit::Error.into()
        }
    }
}

fn dispatch(cli: Cli) -> miette::Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => run::run(&global, &args),
        Command::Check(args) => check::check(&global, &args),
        Command::Apply(args) => apply::apply(&global, &args),
        Command::Diff(args) => Ok(apply::diff(&global, &args)),
        Command::Rollout { command } => rollout::dispatch(&global, command),
        Command::Status(args) => status::status(&global, &args),
        Command::Health { command } => health::dispatch(&global, &command),
        Command::Report(args) => report::report(&global, &args),
        Command::Flag { command } => flag::dispatch(&global, command),
        Command::Key { command } => key::dispatch(&global, command),
        Command::Tenant { command } => tenant::dispatch(&global, command),
        Command::Kill(args) => kill::kill(&global, &args),
        Command::Revive(args) => kill::revive(&global, &args),
        Command::Kills(args) => kill::kills(&global, &args),
        Command::Drain(args) => drain::drain(&global, &args),
        Command::Undrain(args) => drain::undrain(&global, &args),
        Command::Route { command } => route::dispatch(&global, command),
        Command::Service { command } => service::dispatch(&global, &command),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "demo")]
        Command::DemoJanitor(args) => Ok(demo::janitor(&args)),
        Command::Completions { shell } => cli::completions(shell),
    }
}
