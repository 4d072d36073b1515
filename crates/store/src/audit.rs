//! The audit file: a row a request, and the keys and flags as tables, for those who ask in SQL.
//!
//! Synced like the log. A row that was stored is stored once: its id makes it the same row when it is sent again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Column, Connection, QueryBuilder, Row, Sqlite, TypeInfo, ValueRef};

use crate::error::{Problem, StoreError, TooLarge};
use crate::file::{File, READ_ROWS_MAX, Schema};

/// Rows of one append, which one transaction holds in memory.
pub const AUDIT_ROWS_MAX: usize = 10_000;

/// Rows of one step of a removal: a few tens of milliseconds, in which nothing else is written.
pub const PRUNE_ROWS_MAX: u32 = 2000;

/// How long one question may take, in seconds. While it runs, what is written cannot be folded into the file.
pub const QUESTION_SECONDS_MAX: u64 = 30;

/// Rows of one statement: enough that the statement costs little beside them, and far from SQLite's 32,766 values.
const STATEMENT_ROWS: usize = 256;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Files that are kept because they are damaged; more than that are no accident.
const DAMAGED_MAX: u32 = 100;

const SCHEMA: Schema = Schema {
    name: "audit tables",
    application_id: 0x5365_7241,
    migrations: &[
        include_str!("../migrations/audit-1-keys.sql"),
        include_str!("../migrations/audit-2-logs.sql"),
        include_str!("../migrations/audit-3-flags.sql"),
    ],
};

/// A row of `audit_logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// What makes it the same row when it is sent again: a UUID of version 7.
    pub id: Box<str>,
    /// When the request came, in microseconds since 1970; kept to the millisecond.
    pub at_micros: i64,
    /// `tenant_id`
    pub tenant: Box<str>,
    /// `user_id`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<str>>,
    /// `api_key_hash`
    pub key_hash: Box<str>,
    /// `endpoint`
    pub endpoint: Box<str>,
    /// `method`
    pub method: Box<str>,
    /// `status_code`
    pub status: u16,
    /// `request_duration_ms`
    pub duration_ms: u32,
    /// `ip_address`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Box<str>>,
    /// `user_agent`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Box<str>>,
    /// `error_message`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// `service`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Box<str>>,
    /// `version`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    /// `rpc_method`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_method: Option<Box<str>>,
    /// `tool`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Box<str>>,
    /// `outcome`
    pub outcome: Box<str>,
    /// `arguments`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Box<str>>,
}

/// A row of `api_keys`, but for the last use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The hash of the key, hex: the primary key.
    pub hash: String,
    /// The part of the key that is no secret.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// `admin`, `user` or `read_only`; anything else is refused.
    pub role: &'static str,
    /// What it reaches, a JSON array.
    pub scopes: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A row of `feature_flags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagsRow {
    /// Whose flags; `*` for everybody else's.
    pub tenant: String,
    /// Values by flag, a JSON object.
    pub flags: String,
    /// When one of them changed last.
    pub updated_at: Timestamp,
}

/// The answer to a question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, [`READ_ROWS_MAX`] at most.
    pub rows: Vec<Vec<Cell>>,
}

/// One value of an [`Answer`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text.
    Text(String),
}

/// The audit tables of one file. Clones share it.
#[derive(Clone)]
pub struct Audit {
    file: Arc<File>,
}

impl Audit {
    /// Opens the tables at `path`, made on first use; its folder must exist.
    ///
    /// # Errors
    /// The file is of another kind, of a newer release, or cannot be opened; it is left as it is.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(File::open(path, &SCHEMA).await?);
        Ok(Self { file })
    }

    /// The same, but a file that is damaged or no database is set aside, with `.damaged` behind its name, and empty tables take its
    /// place: what cannot be read keeps nobody from recording. Returns what it is called now.
    ///
    /// # Errors
    /// As [`Audit::open`], or it cannot be set aside.
    pub async fn open_or_replace(path: &Path) -> Result<(Self, Option<PathBuf>), StoreError> {
        let error = match Self::open(path).await {
            Ok(audit) => return Ok((audit, None)),
            Err(error) => error,
        };
        if !matches!(error.problem, Problem::NotADatabase | Problem::Corrupt) {
            return Err(error);
        }
        let Some(aside) = set_aside(path) else {
            return Err(error);
        };
        Ok((Self::open(path).await?, Some(aside)))
    }

    /// Stores all rows or none, and returns how many were not there before, once they are on the disk.
    ///
    /// # Errors
    /// The file failed, or there are more than [`AUDIT_ROWS_MAX`] rows. Nothing was stored where the problem says so; else the
    /// rows may or may not be there: send them again.
    pub async fn append(&self, rows: &[AuditEntry]) -> Result<u64, StoreError> {
        self.check("rows in a batch", rows.len(), AUDIT_ROWS_MAX)?;
        self.write(async |conn| {
            let mut stored = 0;
            for rows in rows.chunks(STATEMENT_ROWS) {
                let mut query = QueryBuilder::new(INSERT_LOGS);
                query.push_values(rows, bind_entry);
                query.push(" ON CONFLICT (id) DO NOTHING");
                // Statements of a full size are the same each time, and worth keeping.
                let keep = rows.len() == STATEMENT_ROWS;
                let query = query.build().persistent(keep);
                stored += query.execute(&mut *conn).await?.rows_affected();
            }
            Ok(stored)
        })
        .await
    }

    /// Removes rows of requests that came before `before`, the oldest first, and returns how many: fewer than
    /// [`PRUNE_ROWS_MAX`] when there are no more.
    ///
    /// # Errors
    /// The file failed; nothing was removed.
    pub async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let before = sql_time(before);
        self.write(async |conn| {
            let query = sqlx::query(
                "DELETE FROM audit_logs WHERE rowid IN
                 (SELECT rowid FROM audit_logs WHERE timestamp < ? ORDER BY timestamp LIMIT ?)",
            );
            let done = query.bind(before).bind(PRUNE_ROWS_MAX).execute(conn).await;
            Ok(done?.rows_affected())
        })
        .await
    }

    /// Makes `api_keys` these keys. What is known of their last use stays.
    ///
    /// # Errors
    /// The file failed; the table is as it was.
    pub async fn set_keys(&self, keys: &[KeyRow]) -> Result<(), StoreError> {
        self.write(async |conn| {
            let known = sqlx::query_scalar("SELECT key_hash FROM api_keys");
            let known: Vec<String> = known.fetch_all(&mut *conn).await?;
            let wanted = keys.iter().map(|key| key.hash.as_str()).collect();
            remove(conn, "DELETE FROM api_keys WHERE key_hash IN (", &known, &wanted).await?;
            for keys in keys.chunks(STATEMENT_ROWS) {
                let mut query = QueryBuilder::new(
                    "INSERT INTO api_keys (key_hash, tenant_id, role, scopes, created_at, expires_at, revoked, revoked_at,
                     key_id, name) ",
                );
                query.push_values(keys, bind_key);
                query.push(
                    " ON CONFLICT (key_hash) DO UPDATE SET tenant_id = excluded.tenant_id, role = excluded.role,
                     scopes = excluded.scopes, created_at = excluded.created_at, expires_at = excluded.expires_at,
                     revoked = excluded.revoked, revoked_at = excluded.revoked_at, key_id = excluded.key_id,
                     name = excluded.name",
                );
                query.build().persistent(false).execute(&mut *conn).await?;
            }
            Ok(())
        })
        .await
    }

    /// Notes when keys, by their hashes, were used last. An earlier time than the one known changes nothing, and neither does a
    /// key that is not in the table.
    ///
    /// # Errors
    /// The file failed; nothing was noted.
    pub async fn touch_keys(&self, uses: &[(String, Timestamp)]) -> Result<(), StoreError> {
        self.write(async |conn| {
            for (hash, at) in uses {
                sqlx::query(
                    "UPDATE api_keys SET last_used_at = ?1
                     WHERE key_hash = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)",
                )
                .bind(sql_time(*at))
                .bind(hash)
                .execute(&mut *conn)
                .await?;
            }
            Ok(())
        })
        .await
    }

    /// When each key was used last, by its hash; those never used are left out.
    ///
    /// # Errors
    /// The file failed.
    pub async fn last_used(&self) -> Result<BTreeMap<String, Timestamp>, StoreError> {
        let mut conn = self.file.reader().await?;
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT key_hash, last_used_at FROM api_keys WHERE last_used_at IS NOT NULL",
        )
        .fetch_all(&mut *conn)
        .await
        .map_err(|e| self.file.error(e))?;
        let time = |text: &str| format!("{}Z", text.replace(' ', "T")).parse();
        rows.into_iter()
            .map(|(hash, at)| match time(&at) {
                Ok(at) => Ok((hash, at)),
                Err::<Timestamp, jiff::Error>(e) => Err(StoreError::damaged(self.file.path(), e)),
            })
            .collect()
    }

    /// Makes `feature_flags` these rows.
    ///
    /// # Errors
    /// The file failed; the table is as it was.
    pub async fn set_flags(&self, flags: &[FlagsRow]) -> Result<(), StoreError> {
        self.write(async |conn| {
            let known = sqlx::query_scalar("SELECT tenant_id FROM feature_flags");
            let known: Vec<String> = known.fetch_all(&mut *conn).await?;
            let wanted = flags.iter().map(|row| row.tenant.as_str()).collect();
            remove(conn, "DELETE FROM feature_flags WHERE tenant_id IN (", &known, &wanted).await?;
            for flags in flags.chunks(STATEMENT_ROWS) {
                let mut query =
                    QueryBuilder::new("INSERT INTO feature_flags (tenant_id, flags, updated_at) ");
                query.push_values(flags, |mut values, row| {
                    values.push_bind(row.tenant.clone());
                    values.push_bind(row.flags.clone());
                    values.push_bind(sql_time(row.updated_at));
                });
                query.push(
                    " ON CONFLICT (tenant_id) DO UPDATE SET flags = excluded.flags, updated_at = excluded.updated_at
                     WHERE flags <> excluded.flags",
                );
                query.build().persistent(false).execute(&mut *conn).await?;
            }
            Ok(())
        })
        .await
    }

    /// Asks a question with the values of `?1`, `?2` and so on. The text is the caller's own, never a client's.
    ///
    /// # Errors
    /// The file failed, SQLite does not understand the question, or it took longer than [`QUESTION_SECONDS_MAX`].
    pub async fn ask(&self, sql: &str, values: &[Cell]) -> Result<Answer, StoreError> {
        let mut conn = self.file.reader().await?;
        let give_up = Instant::now() + Duration::from_secs(QUESTION_SECONDS_MAX);
        let error = |e| self.file.error(e);
        conn.lock_handle()
            .await
            .map_err(error)?
            .set_progress_handler(STEPS_BETWEEN_LOOKS, move || Instant::now() < give_up);
        let answer = question(&mut conn, sql, values).await;
        match answer {
            Ok(answer) => {
                let mut handle = conn.lock_handle().await.map_err(error)?;
                handle.remove_progress_handler();
                Ok(answer)
            }
            Err(_) if Instant::now() >= give_up => {
                conn.close().await.ok();
                Err(StoreError::new(self.file.path(), Problem::TooSlow))
            }
            Err(e) => {
                conn.close().await.ok();
                Err(self.file.error(e))
            }
        }
    }

    /// Waits for what is under way and closes the file, for all clones.
    pub async fn close(&self) {
        self.file.close().await;
    }

    fn check(&self, what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
        TooLarge::check(what, size, limit)
            .map_err(|e| StoreError::new(self.file.path(), Problem::TooLarge(e)))
    }

    /// Does something in one transaction.
    async fn write<T>(
        &self,
        what: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut conn = self.file.writer().await?;
        let done = async {
            let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
            let done = what(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        }
        .await;
        // SQLite may have ended the transaction by itself and the driver does not know; a new connection starts clean.
        if done.is_err() {
            conn.close().await.ok();
        }
        done.map_err(|e| self.file.error(e))
    }
}

/// Renames a database, with what SQLite has beside it, to a name that nothing has.
fn set_aside(path: &Path) -> Option<PathBuf> {
    let named = |base: &Path, behind: &str| {
        let mut name = base.as_os_str().to_owned();
        name.push(behind);
        PathBuf::from(name)
    };
    let mut names = (1..=DAMAGED_MAX).map(|n| match n {
        1 => named(path, ".damaged"),
        n => named(path, &format!(".damaged-{n}")),
    });
    let aside = names.find(|name| !name.exists())?;
    std::fs::rename(path, &aside).ok()?;
    for behind in ["-wal", "-shm"] {
        // Mostly there is none; what is left would not fit to the new file, and SQLite sees that by itself.
        let _ = std::fs::rename(named(path, behind), named(&aside, behind));
    }
    Some(aside)
}

/// A time as the tables hold it: UTC to the millisecond, in the form whose order is that of time and of SQLite's `datetime()`.
pub fn sql_time(at: Timestamp) -> String {
    let at = jiff::tz::Offset::UTC.to_datetime(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        date.year(),
        date.month(),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

const INSERT_LOGS: &str = "INSERT INTO audit_logs (id, timestamp, tenant_id, user_id, api_key_hash, endpoint, method, \
     status_code, request_duration_ms, ip_address, user_agent, error_message, service, version, rpc_method, tool, outcome, \
     arguments) ";

type Values<'a, 'b> = sqlx::query_builder::Separated<'a, Sqlite, &'b str>;

fn bind_entry(mut values: Values<'_, 'static>, row: &AuditEntry) {
    let text = |text: &str| text.to_owned();
    let maybe = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let at = Timestamp::from_microsecond(row.at_micros).unwrap_or(Timestamp::UNIX_EPOCH);
    values.push_bind(text(&row.id));
    values.push_bind(sql_time(at));
    values.push_bind(text(&row.tenant));
    values.push_bind(maybe(&row.subject));
    values.push_bind(text(&row.key_hash));
    values.push_bind(text(&row.endpoint));
    values.push_bind(text(&row.method));
    values.push_bind(row.status);
    values.push_bind(row.duration_ms);
    values.push_bind(maybe(&row.address));
    values.push_bind(maybe(&row.user_agent));
    values.push_bind(maybe(&row.error));
    values.push_bind(maybe(&row.service));
    values.push_bind(maybe(&row.version));
    values.push_bind(maybe(&row.rpc_method));
    values.push_bind(maybe(&row.tool));
    values.push_bind(text(&row.outcome));
    values.push_bind(maybe(&row.arguments));
}

fn bind_key(mut values: Values<'_, 'static>, key: &KeyRow) {
    values.push_bind(key.hash.clone());
    values.push_bind(key.tenant.clone());
    values.push_bind(key.role);
    values.push_bind(key.scopes.clone());
    values.push_bind(sql_time(key.created_at));
    values.push_bind(sql_time(key.expires_at));
    values.push_bind(key.revoked_at.is_some());
    values.push_bind(key.revoked_at.map(sql_time));
    values.push_bind(key.id.clone());
    values.push_bind(key.name.clone());
}

/// Removes the rows whose name is known and no longer wanted.
async fn remove(
    conn: &mut SqliteConnection,
    delete: &'static str,
    known: &[String],
    wanted: &std::collections::BTreeSet<&str>,
) -> Result<(), sqlx::Error> {
    let gone = known.iter().filter(|name| !wanted.contains(name.as_str()));
    let gone: Vec<&String> = gone.collect();
    for gone in gone.chunks(STATEMENT_ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(delete);
        let mut names = query.separated(", ");
        for name in gone {
            names.push_bind((*name).clone());
        }
        query.push(")");
        query.build().persistent(false).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn question(
    conn: &mut SqliteConnection,
    sql: &str,
    values: &[Cell],
) -> Result<Answer, sqlx::Error> {
    let mut query = sqlx::query::<Sqlite>(AssertSqlSafe(sql)).persistent(false);
    for value in values {
        query = bind_cell(query, value);
    }
    let mut rows = query.fetch(conn);
    let mut answer = Answer::default();
    while answer.rows.len() < READ_ROWS_MAX as usize
        && let Some(row) = rows.try_next().await?
    {
        if answer.rows.is_empty() {
            let names = row.columns().iter().map(|column| column.name().to_owned());
            answer.columns = names.collect();
        }
        let cells = (0..row.columns().len()).map(|index| cell(&row, index));
        answer.rows.push(cells.collect::<Result<_, _>>()?);
    }
    Ok(answer)
}

type Query<'a> = sqlx::query::Query<'a, Sqlite, SqliteArguments>;

fn bind_cell<'a>(query: Query<'a>, value: &Cell) -> Query<'a> {
    match value {
        Cell::Null => query.bind(None::<String>),
        Cell::Integer(number) => query.bind(*number),
        Cell::Real(number) => query.bind(*number),
        Cell::Text(text) => query.bind(text.clone()),
    }
}

fn cell(row: &SqliteRow, index: usize) -> Result<Cell, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" | "BOOLEAN" => Cell::Integer(row.try_get(index)?),
        "REAL" => Cell::Real(row.try_get(index)?),
        _ => Cell::Text(row.try_get_unchecked(index)?),
    })
}
