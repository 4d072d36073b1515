//! `cargo xtask test`: the workspace's tests, with cargo-nextest where it is installed.

use std::process::Command;

use crate::{Result, process, root, tools};

/// Runs them; `arguments` go to the test runner.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    tools::strace()?;
    tools::valkey()?;
    let cargo = |subcommand: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo
            .args(subcommand)
            .args(["--workspace", "--all-features"])
            .current_dir(root());
        cargo
    };
    if process::exists("cargo-nextest") {
        process::run(cargo(&["nextest", "run"]).args(arguments))?;
        process::run(&mut cargo(&["test", "--doc"]))
    } else {
        process::run(cargo(&["test"]).arg("--").args(arguments))
    }
}
