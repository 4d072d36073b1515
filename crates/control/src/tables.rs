//! The tables `api_keys` and `feature_flags`, for those who ask in SQL: projections of the log, made anew when it has changed. And when
//! each key was last used, which the log does not keep.

use crate::{Control, flags::FlagsNow};
use jiff::Timestamp;
use serde_json::{Map, Value};
use serin_flags::{Context, TenantId};
use serin_model::{degraded::Dependency, state::State};
use serin_store::{Audit, FlagsRow, KeyRow, StoreError};
use serin_tenancy::KeyRecord;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How exactly the last use of a key is kept: who looks for keys that nobody uses looks for months.
const USE_EVERY: Duration = Duration::from_mins(1);
/// Least time from one writing to the next.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The pause is so many times as long as the writing took: where there are very many keys, the tables come later and the disk is free.
const PAUSE_FACTOR: u32 = 10;
/// Time to write what is missing when the process ends.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Whose flags stand in the row for everybody who has no row of their own.
const EVERYBODY: &str = "*";

/// When each key was last used, by its hash in hex. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct KeyUses(Arc<Mutex<HashMap<Box<str>, Use>>>);

#[derive(Clone, Copy, Debug)]
struct Use {
    at: Timestamp,
    /// What of it the table has.
    kept: Option<Timestamp>,
}

impl KeyUses {
    /// Notes that keys were used, by their hashes in hex. Hashes that are empty are none.
    pub fn note<'a>(&self, uses: impl IntoIterator<Item = (&'a str, Timestamp)>) {
        let mut all = self.lock();
        for (hash, at) in uses {
            match all.get_mut(hash) {
                Some(known) => known.at = known.at.max(at),
                None if hash.is_empty() => {}
                None => {
                    all.insert(hash.into(), Use { at, kept: None });
                }
            }
        }
    }

    /// When a key was last used, as far as it is known.
    pub fn of(&self, key: &KeyRecord) -> Option<Timestamp> {
        self.lock().get(key.hash.to_hex().as_str()).map(|it| it.at)
    }

    /// What the table has.
    fn remember(&self, known: BTreeMap<String, Timestamp>) {
        let mut all = self.lock();
        for (hash, at) in known {
            let it = all.entry(hash.into()).or_insert(Use { at, kept: None });
            it.at = it.at.max(at);
            it.kept = Some(at);
        }
    }

    /// Forgets keys that are no more.
    fn retain(&self, keys: &[KeyRow]) {
        let keys: BTreeSet<&str> = keys.iter().map(|key| key.hash.as_str()).collect();
        self.lock().retain(|hash, _| keys.contains(&**hash));
    }

    /// What the table lacks: nothing that is less than a minute newer than what it has, unless all is wanted.
    fn due(&self, all: bool) -> Vec<(String, Timestamp)> {
        let is_due = |it: &Use| {
            it.kept.is_none_or(|kept| {
                let newer = it.at.duration_since(kept);
                newer.is_positive() && (all || newer.unsigned_abs() >= USE_EVERY)
            })
        };
        let uses = self.lock();
        let due = uses.iter().filter(|(_, it)| is_due(it));
        due.map(|(hash, it)| (hash.to_string(), it.at)).collect()
    }

    fn kept(&self, uses: &[(String, Timestamp)]) {
        let mut all = self.lock();
        for (hash, at) in uses {
            if let Some(it) = all.get_mut(hash.as_str()) {
                it.kept = Some(*at);
            }
        }
    }

    /// Times only: what somebody left half done is still worth keeping.
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that keeps the tables as the log is.
#[derive(Debug)]
pub struct Tables {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Tables {
    /// Writes the tables, and again whenever the log has changed.
    pub fn start(control: Control, audit: Audit) -> Self {
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper {
            control,
            audit,
            keys: None,
            failing: false,
            remembered: false,
        };
        Self {
            stop,
            task: tokio::spawn(keeper.run(stopped)),
        }
    }

    /// Writes what is missing and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        // It says itself what went wrong. What is not written now is written at the next start, but for the latest uses.
        let _ = timeout(STOP_TIME, self.task).await;
    }
}

struct Keeper {
    control: Control,
    audit: Audit,
    /// The revision of the keys that the table has.
    keys: Option<u64>,
    /// Whether the file failed the last time.
    failing: bool,
    /// Whether what the table knows of the last uses has been read.
    remembered: bool,
}

impl Keeper {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut head = self.control.log.subscribe();
        loop {
            head.borrow_and_update();
            let began = Instant::now();
            self.write(false).await;
            let pause = PAUSE_MIN.max(began.elapsed() * PAUSE_FACTOR);
            // A tick without a change: for uses, and for flags whose time has come.
            let changed = async {
                sleep(pause).await;
                tokio::select! {
                    changed = head.changed() => changed.is_ok(),
                    () = sleep(USE_EVERY) => true,
                }
            };
            tokio::select! {
                go_on = changed => if !go_on { break },
                _ = &mut stopped => break,
            }
        }
        self.write(true).await;
    }

    async fn write(&mut self, last: bool) {
        match self.try_write(last).await {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the tables of keys and flags are written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.control
                    .count_degraded([(Dependency::Audit.label(), 1)]);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the tables of keys and flags cannot be written; they are tried again");
                }
            }
        }
    }

    async fn try_write(&mut self, last: bool) -> Result<(), StoreError> {
        // Only when the control plane has stopped.
        let Ok(state) = self.control.state().await else {
            return Ok(());
        };
        let uses = self.control.key_uses();
        if !self.remembered {
            uses.remember(self.audit.last_used().await?);
            self.remembered = true;
        }
        let revision = state.tenancy.revision;
        if self.keys != Some(revision) {
            let rows = key_rows(&state);
            self.audit.set_keys(&rows).await?;
            uses.retain(&rows);
            self.keys = Some(revision);
        }
        let due = uses.due(last);
        if !due.is_empty() {
            self.audit.touch_keys(&due).await?;
            uses.kept(&due);
        }
        let now = self.control.flags();
        self.audit
            .set_flags(&flag_rows(&now, Timestamp::now()))
            .await
    }
}

fn key_rows(state: &State) -> Vec<KeyRow> {
    let row = |key: &Arc<KeyRecord>| KeyRow {
        hash: key.hash.to_hex(),
        id: key.id.to_string(),
        name: key.name.clone(),
        tenant: key.tenant.to_string(),
        role: key.role.label(),
        // Texts only: there is nothing in it that could not be written.
        scopes: serde_json::to_string(&key.scopes).unwrap_or_default(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
    };
    state.tenancy.keys.values().map(row).collect()
}

/// What everybody gets who is nobody in particular, and what tenants get who have a variant of their own of something.
fn flag_rows(now: &FlagsNow, at: Timestamp) -> Vec<FlagsRow> {
    let table = now.table();
    let value = |key: &str, tenant: Option<&TenantId>| {
        let context = Context {
            targeting_key: tenant.map(TenantId::as_str),
            tenant: tenant.map(TenantId::as_str),
            environment: table.environment,
            attributes: None,
            now: at,
        };
        let answer = table.evaluate(&now.latch, key, &context)?;
        Some((key.to_owned(), answer.value.clone()))
    };
    let row = |tenant: &str, flags: Map<String, Value>| FlagsRow {
        tenant: tenant.to_owned(),
        flags: Value::Object(flags).to_string(),
        updated_at: at,
    };
    let everybody: Map<_, _> = table
        .keys()
        .filter_map(|key| value(key.as_str(), None))
        .collect();
    let mut own: BTreeMap<&TenantId, BTreeSet<&str>> = BTreeMap::new();
    for (tenant, variants) in table.file_overrides.iter().chain(table.overrides.iter()) {
        let flags = own.entry(tenant).or_default();
        flags.extend(variants.keys().map(serin_flags::FlagKey::as_str));
    }
    let tenants = own.into_iter().map(|(tenant, keys)| {
        let mut flags = everybody.clone();
        flags.extend(keys.into_iter().filter_map(|key| value(key, Some(tenant))));
        row(tenant.as_str(), flags)
    });
    std::iter::once(row(EVERYBODY, everybody.clone()))
        .chain(tenants)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_flags::Table;
    use serin_model::snapshot::Snapshot;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_last_use_is_written_once_a_minute() {
        let uses = KeyUses::default();
        uses.note([("", second(1)), ("a", second(10)), ("a", second(5))]);
        let first = vec![("a".to_owned(), second(10))];
        assert_eq!(uses.due(false), first);
        uses.kept(&first);
        uses.note([("a", second(69))]);
        assert!(uses.due(false).is_empty());
        assert_eq!(uses.due(true), [("a".to_owned(), second(69))]);
        uses.note([("a", second(70))]);
        assert_eq!(uses.due(false), [("a".to_owned(), second(70))]);
        // What the table knew from before counts where nothing newer is known.
        uses.remember([("a".into(), second(71)), ("b".into(), second(2))].into());
        assert!(uses.due(true).is_empty());
        uses.retain(&[]);
        assert!(uses.lock().is_empty());
    }

    #[test]
    fn a_tenant_has_a_row_where_it_has_something_of_its_own() {
        let flag = |state: &str| {
            let flag = serde_json::json!({"state": state, "variants": {"on": true, "off": false}, "defaultVariant": "on",
                "serin": {"offVariant": "off"}});
            Arc::new(serde_json::from_value(flag).unwrap())
        };
        let table = Table {
            flags: Arc::new(
                [
                    ("search".parse().unwrap(), flag("ENABLED")),
                    ("beta".parse().unwrap(), flag("DISABLED")),
                ]
                .into(),
            ),
            overrides: Arc::new(
                [(
                    "acme".parse().unwrap(),
                    [("beta".parse().unwrap(), "on".into())].into(),
                )]
                .into(),
            ),
            ..Table::default()
        };
        let now = FlagsNow {
            snapshot: Arc::new(Snapshot {
                flags: Arc::new(table),
                ..Snapshot::default()
            }),
            latch: Arc::default(),
        };
        let rows = flag_rows(&now, second(0));
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.tenant.as_str(), row.flags.as_str()))
            .collect();
        assert_eq!(
            rows,
            [
                ("*", r#"{"beta":false,"search":true}"#),
                ("acme", r#"{"beta":true,"search":true}"#)
            ]
        );
    }
}
