//! `serin check`: what is wrong in a file, where, and what to do about it.

use crate::{
    apply::read,
    cli::{CheckArgs, Global},
    client::CONFIG_DEFAULT,
    exit::Exit,
    problem,
    rollout::print,
};
use serin_config::Config;
use serin_model::plan::Plan;
use std::path::Path;

pub(crate) fn check(global: &Global, args: &CheckArgs) -> miette::Result<Exit> {
    if let Some(path) = &args.plan {
        let plan = read_plan(path)?;
        print(&format!(
            "{}: a plan with {} phases\n",
            path.display(),
            plan.phases.len()
        ))?;
        return Ok(Exit::Done);
    }
    let path = global
        .config
        .as_deref()
        .unwrap_or(Path::new(CONFIG_DEFAULT));
    let checked = Config::load(path).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    let manifest = &checked.value.manifest;
    print(&format!(
        "{}: {} services, {} plans\n",
        path.display(),
        manifest.services.len(),
        manifest.plans.len()
    ))?;
    Ok(Exit::Done)
}

/// Reads and checks a plan file; warnings are shown.
pub(crate) fn read_plan(path: &Path) -> miette::Result<Plan> {
    let name = path.display().to_string();
    let checked = serin_config::read_plan(&read(path)?, &name).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    Ok(checked.value)
}
