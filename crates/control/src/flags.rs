//! Flags in control: what they answer now, when that changes, and the file they come from.

use jiff::Timestamp;
use serde::Serialize;
mod file;

pub(crate) use file::Follower;

use serin_flags::{Context, Flag, Flags, Latch, State, Table, Why};
use serin_model::{
    event::{Preflight, PreflightCheck, PreflightResult},
    snapshot::Snapshot,
};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The flags and kills as they are at one moment: both are immutable, so that many questions get answers that fit each other.
#[derive(Clone, Debug)]
pub struct FlagsNow {
    /// Holds the table.
    pub snapshot: Arc<Snapshot>,
    /// What is killed.
    pub latch: Arc<Latch>,
}

impl FlagsNow {
    /// The table of flags.
    pub fn table(&self) -> &Table {
        &self.snapshot.flags
    }
}

/// The file of flags: a document in one of the shapes that [`serin_flags`] reads.
#[derive(Clone, Debug)]
pub struct FlagFile {
    /// Where it is.
    pub path: PathBuf,
    /// Longest time after which a change is seen.
    pub poll: Duration,
}

/// How the file of flags was when it was last looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlagFileStatus {
    /// Where it is.
    pub path: PathBuf,
    /// When what is in force was read.
    pub read_at: Option<Timestamp>,
    /// Why what it holds now is not in force: the last good one is.
    pub stale: Option<String>,
}

/// Tells that flags may answer something else than before: another table, another latch, or a date that has come.
#[derive(Clone, Debug)]
pub struct FlagChanges(Arc<watch::Sender<u64>>);

impl FlagChanges {
    /// Nothing has changed yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Says so to everybody who listens.
    pub fn note(&self) {
        self.0.send_modify(|changes| *changes += 1);
    }

    /// Listens. The number counts changes and means nothing else.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl Default for FlagChanges {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a date of some flag lies after `before` and not after `now`: its expiry, or a line of its schedule.
pub(crate) fn a_date_has_come(flags: &Flags, before: Timestamp, now: Timestamp) -> bool {
    let dates = flags.values().flat_map(|flag| {
        let stages = flag.serin.schedule.iter().map(|stage| stage.from);
        stages.chain(flag.serin.expires)
    });
    dates.into_iter().any(|date| before < date && date <= now)
}

/// What stands in the way of releasing a flag: whatever answers before a release does.
pub(crate) fn preflight(now: &FlagsNow, key: &str, at: Timestamp) -> Preflight {
    let table = now.table();
    let context = Context {
        targeting_key: None,
        tenant: None,
        environment: table.environment,
        attributes: None,
        now: at,
    };
    let why = table
        .evaluate(&now.latch, key, &context)
        .map(|answer| answer.why);
    let environment = table.environment;
    let (result, detail) = match why {
        Some(Why::Latch | Why::Kill) => (
            PreflightResult::Failed,
            "it is killed, so nobody would get it".to_owned(),
        ),
        Some(Why::Expired) => (
            PreflightResult::Failed,
            "it has expired, so nobody would get it".to_owned(),
        ),
        Some(Why::EnvironmentOverride) => (
            PreflightResult::Failed,
            format!(
                "it has a fixed variant in {environment}, so there would be nothing to compare"
            ),
        ),
        _ => (PreflightResult::Passed, "it can be released".to_owned()),
    };
    let mut checks = vec![PreflightCheck {
        name: "flag".to_owned(),
        result,
        detail,
    }];
    if table.flags.get(key).is_some_and(|flag| is_split(flag)) {
        checks.push(PreflightCheck {
            name: "rule".to_owned(),
            result: PreflightResult::Risky,
            detail: "its rule and schedule are not asked meanwhile: who has the variant by them may lose it until the share is high enough"
                .to_owned(),
        });
    }
    let tenants = [&table.overrides, &table.file_overrides]
        .into_iter()
        .flat_map(|overrides| overrides.iter())
        .filter(|(_, flags)| flags.contains_key(key))
        .map(|(tenant, _)| tenant)
        .collect::<BTreeSet<_>>();
    if !tenants.is_empty() {
        checks.push(PreflightCheck {
            name: "tenants".to_owned(),
            result: PreflightResult::Risky,
            detail: format!(
                "{} tenants have a variant of their own and are not compared",
                tenants.len()
            ),
        });
    }
    Preflight {
        checks,
        contract_differs: false,
    }
}

/// Whether a flag is for some and not for others, by its own word.
fn is_split(flag: &Flag) -> bool {
    let has_rule = flag.targeting.as_ref().is_some_and(|rule| !rule.is_empty());
    flag.state == State::Enabled && (has_rule || !flag.serin.schedule.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_once() {
        let flag = serde_json::json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on",
            "serin": {"offVariant": "off", "expires": "2026-01-02T00:00:00Z",
                "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 10}]}});
        let flag: serin_flags::Flag = serde_json::from_value(flag).unwrap();
        let flags = Flags::from([("a".parse().unwrap(), Arc::new(flag))]);
        for (before, now, want) in [
            ("2025-12-31T00:00:00Z", "2025-12-31T23:59:59Z", false),
            ("2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", true),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", false),
            ("2026-01-01T00:00:01Z", "2026-01-03T00:00:00Z", true),
        ] {
            let (before, now) = (before.parse().unwrap(), now.parse().unwrap());
            assert_eq!(a_date_has_come(&flags, before, now), want, "{before} {now}");
        }
    }

    #[test]
    fn a_flag_that_is_fixed_cannot_be_released() {
        let flag = |extension: serde_json::Value| -> Flags {
            let flag = serde_json::json!({"state": "DISABLED", "variants": {"on": true, "off": false},
                "defaultVariant": "on", "serin": extension});
            Flags::from([(
                "a".parse().unwrap(),
                Arc::new(serde_json::from_value(flag).unwrap()),
            )])
        };
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (extension, want) in [
            (
                serde_json::json!({"offVariant": "off"}),
                PreflightResult::Passed,
            ),
            (
                serde_json::json!({"offVariant": "off", "environments": {"production": "off"}}),
                PreflightResult::Passed,
            ),
            (
                serde_json::json!({"offVariant": "off", "environments": {"development": "off"}}),
                PreflightResult::Failed,
            ),
            (
                serde_json::json!({"offVariant": "off", "expires": "2025-12-31T00:00:00Z"}),
                PreflightResult::Failed,
            ),
        ] {
            let table = Table {
                flags: Arc::new(flag(extension.clone())),
                ..Table::default()
            };
            let now = FlagsNow {
                snapshot: Arc::new(Snapshot {
                    flags: Arc::new(table),
                    ..Snapshot::default()
                }),
                latch: Arc::default(),
            };
            let found = preflight(&now, "a", at);
            assert_eq!(found.checks[0].result, want, "{extension}");
        }
    }
}
