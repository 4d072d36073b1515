//! The results of one run of the suite, and what is worse in one than in another.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::Deserialize;

use crate::Result;

/// The suite ends a scenario's folder with `-2026-11-20T14-02-29-745Z`.
const TIMESTAMP_LENGTH: usize = 25;

/// What a check found.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Status {
    Success,
    Skipped,
    Warning,
    Failure,
    /// A record of what happened, not a check.
    Info,
}

/// How often each check (scenario and id) ended in each status: one id may occur several times.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Checks(BTreeMap<(String, String), BTreeMap<Status, usize>>);

impl Checks {
    /// Reads every `checks.json` below `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Check {
            id: String,
            status: Status,
        }
        let mut checks = Self::default();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let scenario = name
                .get(..name.len().saturating_sub(TIMESTAMP_LENGTH))
                .unwrap_or(&name);
            let file = path.join("checks.json");
            let text = fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            let found: Vec<Check> = serde_json::from_str(&text)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            for check in found
                .into_iter()
                .filter(|check| check.status != Status::Info)
            {
                checks.add(scenario, &check.id, check.status);
            }
        }
        Ok(checks)
    }

    /// One line for each check that `direct` did better.
    pub(crate) fn worse_than(&self, direct: &Self) -> Vec<String> {
        let nothing = BTreeMap::new();
        let mut keys: Vec<_> = self.0.keys().chain(direct.0.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .filter_map(|key| {
                let (here, there) = (
                    self.0.get(key).unwrap_or(&nothing),
                    direct.0.get(key).unwrap_or(&nothing),
                );
                let more = |status| count(here, status) > count(there, status);
                let worse = count(here, Status::Success) < count(there, Status::Success)
                    || [Status::Skipped, Status::Warning, Status::Failure]
                        .into_iter()
                        .any(more);
                worse.then(|| {
                    format!(
                        "{} {}: {} (directly {})",
                        key.0,
                        key.1,
                        shown(here),
                        shown(there)
                    )
                })
            })
            .collect()
    }

    pub(crate) fn success(&self) -> usize {
        self.total(Status::Success)
    }

    pub(crate) fn failure(&self) -> usize {
        self.total(Status::Failure)
    }

    fn add(&mut self, scenario: &str, id: &str, status: Status) {
        *self
            .0
            .entry((scenario.to_owned(), id.to_owned()))
            .or_default()
            .entry(status)
            .or_default() += 1;
    }

    fn total(&self, status: Status) -> usize {
        self.0.values().map(|counts| count(counts, status)).sum()
    }
}

/// The columns of the table.
impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [warning, skipped] =
            [Status::Warning, Status::Skipped].map(|status| self.total(status));
        write!(
            f,
            "{:>8}{:>8}{warning:>9}{skipped:>9}",
            self.success(),
            self.failure()
        )
    }
}

fn count(counts: &BTreeMap<Status, usize>, status: Status) -> usize {
    counts.get(&status).copied().unwrap_or(0)
}

fn shown(counts: &BTreeMap<Status, usize>) -> String {
    if counts.is_empty() {
        return "absent".to_owned();
    }
    counts
        .iter()
        .map(|(status, count)| format!("{count} {status:?}").to_lowercase())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::{
        Checks,
        Status::{self, Failure, Skipped, Success, Warning},
    };

    fn checks(found: &[(&str, Status)]) -> Checks {
        let mut checks = Checks::default();
        for (id, status) in found {
            checks.add("scenario", id, *status);
        }
        checks
    }

    #[track_caller]
    fn check(direct: &[(&str, Status)], here: &[(&str, Status)], expected: &[&str]) {
        assert_eq!(checks(here).worse_than(&checks(direct)), expected);
    }

    #[test]
    fn a_change_for_the_worse_is_found_per_check() {
        check(&[("a", Success)], &[("a", Success)], &[]);
        check(&[("a", Warning)], &[("a", Success)], &[]);
        check(
            &[("a", Success)],
            &[("a", Failure)],
            &["scenario a: 1 failure (directly 1 success)"],
        );
        check(
            &[("a", Success)],
            &[("a", Skipped)],
            &["scenario a: 1 skipped (directly 1 success)"],
        );
        // The totals are equal.
        check(
            &[("a", Success), ("b", Failure)],
            &[("a", Failure), ("b", Success)],
            &["scenario a: 1 failure (directly 1 success)"],
        );
    }

    #[test]
    fn a_lost_check_is_worse_and_a_new_one_is_not() {
        check(
            &[("a", Success)],
            &[],
            &["scenario a: absent (directly 1 success)"],
        );
        check(&[], &[("a", Success)], &[]);
        check(
            &[],
            &[("a", Failure)],
            &["scenario a: 1 failure (directly absent)"],
        );
        check(
            &[("a", Success), ("a", Success)],
            &[("a", Success)],
            &["scenario a: 1 success (directly 2 success)"],
        );
    }
}
