//! `serin check`: what is wrong in a file, where, and what to do about it.

use crate::{
    apply::read,
    cli::{CheckArgs, Global},
    client::CONFIG_DEFAULT,
    exit::Exit,
    problem::{self, Problem},
    rollout::print,
};
use miette::Report;
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
    let name = path.file_stem().map_or_else(
        || "plan".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    // The reader knows plans as part of a manifest, so the file is made one; its lines are shown as they are read.
    let mut text = format!("plans:\n  {name}:\n");
    for line in read(path)?.lines() {
        text += &format!("    {line}\n");
    }
    let shown = format!("{} (below `plans:`)", path.display());
    let checked = serin_config::read_manifest(&text, &shown).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    checked.value.plans.into_values().next().ok_or_else(|| {
        Report::new(Problem::new(
            format!("{} holds no plan", path.display()),
            "write `phases:` with at least one `- { share: 5 %, hold: 10m }`",
        ))
    })
}
