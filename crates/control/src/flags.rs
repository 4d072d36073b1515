//! Flags in control: what they answer now, when that changes, and the file they come from.

use jiff::Timestamp;
use serde::Serialize;
mod file;

pub(crate) use file::Follower;

use serin_flags::{Flags, Latch, Table};
use serin_model::snapshot::Snapshot;
use std::{path::PathBuf, sync::Arc, time::Duration};
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
}
