//! `serin check`: what is wrong in a file, where, and what to do about it.

use crate::{
    apply::read,
    cli::{CheckArgs, Global},
    client::CONFIG_DEFAULT,
    exit::Exit,
    problem::{self, Problem},
    rollout::print,
};
use serin_config::Config;
use serin_flags::Document;
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
    if let Some(path) = &args.flags {
        return check_flags(path);
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

/// Says what is wrong in a set of flags, rules too: where a file is followed while serving, a flag with a wrong rule answers its default.
fn check_flags(path: &Path) -> miette::Result<Exit> {
    let refused = |problem: &serin_flags::Problem| {
        let at = if problem.at.is_empty() {
            String::new()
        } else {
            format!(", {}", problem.at)
        };
        let what = format!("{}{at}: {}", path.display(), problem.what);
        miette::Report::new(Problem::new(what, problem.help.clone()))
    };
    let mut problems = match Document::from_any(&read(path)?, None).map(|read| read.document) {
        Err(error) => error.problems,
        Ok(document) if document.warnings.is_empty() => {
            let (flags, tenants) = (document.flags.len(), document.overrides.len());
            print(&format!(
                "{}: {flags} flags, variants of {tenants} tenants\n",
                path.display()
            ))?;
            return Ok(Exit::Done);
        }
        Ok(document) => document.warnings,
    };
    let last = problems.pop();
    for problem in &problems {
        eprintln!("{:?}", refused(problem));
    }
    Err(last.as_ref().map_or_else(
        || miette::Report::new(Problem::new(format!("{} is refused", path.display()), "")),
        refused,
    ))
}

/// Reads and checks a plan file; warnings are shown.
pub(crate) fn read_plan(path: &Path) -> miette::Result<Plan> {
    let name = path.display().to_string();
    let checked = serin_config::read_plan(&read(path)?, &name).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    Ok(checked.value)
}
