//! One SQLite file: opening, recognising, migrating, and its two ways in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;

use crate::error::{Problem, StoreError};

/// How long a write waits for another process's lock, in seconds. Our own
/// transactions last milliseconds: who waits longer waits for a hung process.
pub const BUSY_SECONDS_MAX: u64 = 5;

/// Rows that one read returns at most, so that a reader's memory is bounded.
pub const READ_ROWS_MAX: u32 = 10_000;

/// A read ends with the row that reaches this many bytes of content.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A database has one page at least, and this is the smallest page.
const DATABASE_BYTES_MIN: u64 = 512;

/// How long to leave a lock alone that SQLite does not wait for by itself.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// What a file of one kind looks like.
pub(crate) struct Schema {
    /// The kind of file, for messages.
    pub(crate) name: &'static str,
    /// The mark in the header that tells our files from others'.
    pub(crate) application_id: i64,
    /// Step `n` leads from schema version `n` to `n + 1` and sets both marks.
    pub(crate) migrations: &'static [&'static str],
}

/// An open file: one connection that writes and one that reads, so that neither
/// waits for the other. Each is made anew when it failed.
pub(crate) struct File {
    path: PathBuf,
    writer: SqlitePool,
    reader: SqlitePool,
}

impl File {
    /// Opens the file, creates it when it is missing, and brings its schema up
    /// to date. A file that is not ours is left as it is.
    pub(crate) async fn open(path: &Path, schema: &Schema) -> Result<Self, StoreError> {
        // Absolute, so that no path can mean one of SQLite's special names.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(BUSY_SECONDS_MAX))
            .disable_statement_logging();

        // SQLite takes a very short file for an empty one and writes over it.
        // (Not read here: closing a second descriptor would drop the locks
        // that another handle of this process has on the file.)
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        if path.is_file() && (1..DATABASE_BYTES_MIN).contains(&bytes) {
            return Err(StoreError::new(&path, Problem::NotADatabase));
        }
        prepare(&path, &options, schema).await?;

        let connection = || {
            SqlitePoolOptions::new()
                .max_connections(1)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone().create_if_missing(false))
        };
        Ok(Self {
            writer: connection(),
            reader: connection(),
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn writer(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.writer.acquire().await.map_err(|e| self.error(e))
    }

    pub(crate) async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.reader.acquire().await.map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, error: sqlx::Error) -> StoreError {
        StoreError::from_sqlx(&self.path, error)
    }

    /// Waits for what is under way, then writes the log back into the file.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Recognises and migrates the file over a connection of its own. Several
/// processes may do this to one new file at once.
async fn prepare(
    path: &Path,
    options: &SqliteConnectOptions,
    schema: &Schema,
) -> Result<(), StoreError> {
    let give_up = Instant::now() + Duration::from_secs(BUSY_SECONDS_MAX);
    loop {
        // SQLite does not wait for a lock where waiting could be a deadlock,
        // as on the change to a write-ahead log: somebody else is making it.
        match prepare_once(path, options, schema).await {
            Err(error) if error.problem == Problem::Locked && Instant::now() < give_up => {
                tokio::time::sleep(RETRY_DELAY).await;
            }
            result => return result,
        }
    }
}

async fn prepare_once(
    path: &Path,
    options: &SqliteConnectOptions,
    schema: &Schema,
) -> Result<(), StoreError> {
    let error = |error| StoreError::from_sqlx(path, error);
    let mut conn = options.connect().await.map_err(error)?;
    let result = bring_up_to_date(path, &mut conn, schema).await;
    let closed = conn.close().await.map_err(error);
    result.and(closed)
}

async fn bring_up_to_date(
    path: &Path,
    conn: &mut SqliteConnection,
    schema: &Schema,
) -> Result<(), StoreError> {
    let error = |error| StoreError::from_sqlx(path, error);

    // Before the first write: this may be somebody else's database.
    if schema_version(path, conn, schema).await? == newest(schema) {
        return Ok(());
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL")
        .fetch_one(&mut *conn)
        .await
        .map_err(error)?;
    if mode != "wal" {
        return Err(StoreError::new(path, Problem::NoWriteAheadLog));
    }

    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
    // Again under the lock: another process may have been faster.
    let version = schema_version(path, &mut transaction, schema).await?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in schema.migrations.iter().skip(done) {
        sqlx::raw_sql(*step)
            .execute(&mut *transaction)
            .await
            .map_err(error)?;
    }
    transaction.commit().await.map_err(error)
}

/// The schema version of the file, 0 when it is empty; an error when the file
/// is of another kind or newer than this release.
async fn schema_version(
    path: &Path,
    conn: &mut SqliteConnection,
    schema: &Schema,
) -> Result<i64, StoreError> {
    let (application_id, found, tables): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT application_id FROM pragma_application_id),
                (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_schema)",
    )
    .fetch_one(conn)
    .await
    .map_err(|e| StoreError::from_sqlx(path, e))?;

    let supported = newest(schema);
    if (application_id, found, tables) == (0, 0, 0) {
        Ok(0)
    } else if application_id != schema.application_id {
        let wanted = schema.name;
        Err(StoreError::new(path, Problem::Foreign { wanted }))
    } else if found > supported {
        let problem = Problem::Newer { found, supported };
        Err(StoreError::new(path, problem))
    } else {
        Ok(found)
    }
}

fn newest(schema: &Schema) -> i64 {
    i64::try_from(schema.migrations.len()).unwrap_or(i64::MAX)
}

/// Positions and the like as SQLite stores them. What is beyond its integers
/// is beyond every row too.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
