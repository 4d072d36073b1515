//! `serin check`: what is wrong in a file, where, and what to do about it.

use crate::{
    apply::{read, read_at_most},
    cli::{CheckArgs, Global},
    client::CONFIG_DEFAULT,
    doubts::{self, Doubt},
    exit::Exit,
    problem::{self, Problem},
    rollout::print,
    run,
};
use jiff::Timestamp;
use miette::Report;
use serin_config::Config;
use serin_control::doubts::{of_flags, of_service};
use serin_flags::{Document, FlagKey};
use serin_model::plan::Plan;
use std::path::Path;

/// Largest file of flags that is followed.
const FLAGS_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
    doubts::show(doubts_of(&checked.value));
    let manifest = &checked.value.manifest;
    print(&format!(
        "{}: {}, {}\n",
        path.display(),
        counted(manifest.services.len(), "service"),
        counted(manifest.plans.len(), "plan"),
    ))?;
    Ok(Exit::Done)
}

fn counted(count: usize, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}

/// What will do nothing once this is run, or keep it from running, as far as that can be seen from here: variables and files may be
/// others where it runs. Flags may come from the admin API too, so that a gate without one is no error; and where no file holds them,
/// nothing can be said of gates.
fn doubts_of(config: &Config) -> Vec<Doubt> {
    let manifest = &config.manifest;
    let mut doubts = run::missing(config);
    doubts.extend(doubts::of_api(manifest));
    doubts.extend(doubts::of_addresses(
        &manifest.kill_switches,
        doubts::is_set,
    ));
    for (name, service) in &manifest.services {
        doubts.extend(of_service(name, &service.settings));
    }
    let file = config.flags.file.as_deref();
    let text = file.and_then(|file| read_flags(file).ok());
    let Some(document) = text.and_then(|text| Document::parse(&text).ok()) else {
        return doubts;
    };
    for (name, service) in &manifest.services {
        let is_flag = |key: &FlagKey| document.flags.contains_key(key);
        doubts.extend(of_flags(name, &service.settings, is_flag));
    }
    doubts
}

/// The text of a file of flags.
fn read_flags(path: &Path) -> miette::Result<String> {
    let text = read_at_most(path, FLAGS_BYTES_MAX)?;
    if text.len() as u64 > FLAGS_BYTES_MAX {
        return Err(Report::new(Problem::new(
            format!("the file {} has more than 4 MiB", path.display()),
            "keep flags that nobody needs any more, and large values, elsewhere",
        )));
    }
    Ok(text)
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
        Report::new(Problem::new(what, problem.help.clone()))
    };
    // When a table of weeks begins says whoever imports it.
    let start = Some(Timestamp::now());
    let read = Document::from_any(&read_flags(path)?, start);
    let mut problems = match read.map(|read| read.document) {
        Err(error) => error.problems,
        Ok(document) if document.warnings.is_empty() => {
            let (flags, tenants) = (document.flags.len(), document.overrides.len());
            print(&format!(
                "{}: {}, variants of {}\n",
                path.display(),
                counted(flags, "flag"),
                counted(tenants, "tenant"),
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
        || Report::new(Problem::new(format!("{} is refused", path.display()), "")),
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
