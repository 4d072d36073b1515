//! The log: records in order, appended by one writer, never changed.

use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use tokio::sync::watch;

use crate::error::{AppendError, Problem, StoreError, TooLarge};
use crate::file::{File, READ_BYTES_MAX, READ_ROWS_MAX, Schema, to_sql};

/// Bytes of one record's body. Most events hold a few hundred bytes, a plan or
/// a manifest some tens of kilobytes; the largest hold what a file of flags
/// says of tens of thousands of tenants.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a record's actor and of its kind.
pub const NAME_BYTES_MAX: usize = 256;

/// Records of one append. A command makes a handful of events, a whole
/// configuration one for each service, flag and tenant that is new: some
/// thousands.
pub const BATCH_RECORDS_MAX: usize = 10_000;

/// Bytes of all bodies of one append, which one transaction holds in memory.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

const SCHEMA: Schema = Schema {
    name: "log",
    application_id: 0x5365_724C,
    migrations: &[include_str!("../migrations/log-1.sql")],
};

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// When it was decided, by the writer's clock; kept to the nanosecond.
    pub at: Timestamp,
    /// Who caused it; at most [`NAME_BYTES_MAX`] bytes.
    pub actor: String,
    /// What kind of event; at most [`NAME_BYTES_MAX`] bytes.
    pub kind: String,
    /// The version of that kind's shape.
    pub version: u16,
    /// The event as JSON text, kept byte for byte; at most
    /// [`BODY_BYTES_MAX`] bytes.
    pub body: String,
}

/// A stored record: the fields of [`NewRecord`], and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log: 1, 2, 3, with no gap.
    pub position: u64,
    /// The epoch of the writer that appended it; never falls along the log.
    pub epoch: u64,
    /// When it was decided, by the writer's clock.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: String,
    /// What kind of event.
    pub kind: String,
    /// The version of that kind's shape.
    pub version: u16,
    /// The event as JSON text.
    pub body: String,
}

/// The log of one file. Clones share it.
///
/// Any number of handles and processes may open one file, all may read, and
/// the holder of the newest epoch may append.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    file: File,
    head: watch::Sender<u64>,
}

impl Log {
    /// Opens the log at `path`, made on first use; its folder must exist. A
    /// file that is not a log of ours, or of a newer release, is left as is.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path, &SCHEMA).await?;
        let (head, _) = watch::channel(0);
        let log = Self {
            inner: Arc::new(Inner { file, head }),
        };
        log.head().await?;
        Ok(log)
    }

    /// Makes the caller the writer: returns a new epoch, higher than all
    /// before, once that is on the disk. Appends of older epochs fail from
    /// then on.
    pub async fn claim_epoch(&self) -> Result<u64, StoreError> {
        let file = &self.inner.file;
        let mut conn = file.writer().await?;
        let claimed = sqlx::query_scalar("UPDATE writer SET epoch = epoch + 1 RETURNING epoch")
            .fetch_one(&mut *conn)
            .await
            .map_err(|e| file.error(e))
            .and_then(|epoch| from_sql(file, epoch));
        if claimed.is_err() {
            conn.close().await.ok();
        }
        claimed
    }

    /// Appends all `records` or none, and returns the new head once they are
    /// on the disk.
    ///
    /// `expected` is the position of the last record the caller has seen, 0
    /// for none; `epoch` is what [`Log::claim_epoch`] gave it. A caller that
    /// drops the future does not stop the append.
    pub async fn append(
        &self,
        expected: u64,
        epoch: u64,
        records: &[NewRecord],
    ) -> Result<u64, AppendError> {
        check_sizes(records)?;
        let inner = Arc::clone(&self.inner);
        let records = records.to_vec();
        // A task of its own, so that a dropped future cannot leave a commit
        // behind that no subscriber hears of.
        tokio::spawn(async move { inner.append(expected, epoch, &records).await })
            .await
            .unwrap_or_else(|stopped| {
                let path = self.inner.file.path();
                Err(StoreError::because(path, Problem::Interrupted, stopped).into())
            })
    }

    /// The records after position `after`, in order: `limit` at most, and no
    /// more than [`READ_ROWS_MAX`] or [`READ_BYTES_MAX`] allow. Only an
    /// empty answer means that there are no more.
    pub async fn read(&self, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
        let file = &self.inner.file;
        let mut conn = file.reader().await?;
        let mut rows = sqlx::query(
            "SELECT position, epoch, at, actor, kind, version, body FROM records
             WHERE position > ? ORDER BY position LIMIT ?",
        )
        .bind(to_sql(after))
        .bind(limit.min(READ_ROWS_MAX))
        .fetch(&mut *conn);

        let mut records = Vec::new();
        let mut bytes = 0;
        let mut previous = after;
        while bytes < READ_BYTES_MAX
            && let Some(row) = rows.try_next().await.map_err(|e| file.error(e))?
        {
            let record = record(file, &row)?;
            if record.position != previous.saturating_add(1) {
                let gap = format!("no record at position {}", previous.saturating_add(1));
                return Err(StoreError::damaged(file.path(), gap));
            }
            previous = record.position;
            bytes += record.body.len();
            records.push(record);
        }
        Ok(records)
    }

    /// The position of the last record, 0 when there is none, as the file has
    /// it now.
    pub async fn head(&self) -> Result<u64, StoreError> {
        let file = &self.inner.file;
        let mut conn = file.reader().await?;
        let head = head_of(&mut conn).await.map_err(|e| file.error(e))?;
        let head = from_sql(file, head)?;
        self.inner.announce(head);
        Ok(head)
    }

    /// The head as it moves: the receiver always holds the newest position
    /// this log and its clones know, so that a slow subscriber misses no
    /// record, it only reads more at once. What another process appends is
    /// known after the next [`Log::head`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.head.subscribe()
    }

    /// Waits for what is under way and closes the file, for all clones.
    pub async fn close(&self) {
        self.inner.file.close().await;
    }
}

impl Inner {
    async fn append(
        &self,
        expected: u64,
        epoch: u64,
        records: &[NewRecord],
    ) -> Result<u64, AppendError> {
        let mut conn = self.file.writer().await?;
        let appended = self.transact(&mut conn, expected, epoch, records).await;
        match &appended {
            Ok(head) => self.announce(*head),
            // SQLite may have ended the transaction by itself and the driver
            // does not know; a new connection starts clean.
            Err(AppendError::Store(_)) => {
                conn.close().await.ok();
            }
            Err(_) => {}
        }
        appended
    }

    async fn transact(
        &self,
        conn: &mut SqliteConnection,
        expected: u64,
        epoch: u64,
        records: &[NewRecord],
    ) -> Result<u64, AppendError> {
        let error = |e| self.file.error(e);
        // The write lock first: what is checked below stays true.
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;

        let current: i64 = sqlx::query_scalar("SELECT epoch FROM writer")
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let current = from_sql(&self.file, current)?;
        let actual = head_of(&mut transaction).await.map_err(error)?;
        let actual = from_sql(&self.file, actual)?;

        let refusal = if epoch == 0 || epoch != current {
            let held = epoch;
            Some(AppendError::Fenced { held, current })
        } else if expected != actual {
            Some(AppendError::Conflict { expected, actual })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            transaction.rollback().await.map_err(error)?;
            return Err(refusal);
        }

        let mut head = actual;
        for record in records {
            head += 1;
            sqlx::query(
                "INSERT INTO records (position, epoch, at, actor, kind, version, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(to_sql(head))
            .bind(to_sql(epoch))
            .bind(record.at.to_string())
            .bind(&record.actor)
            .bind(&record.kind)
            .bind(record.version)
            .bind(&record.body)
            .execute(&mut *transaction)
            .await
            .map_err(error)?;
        }
        transaction.commit().await.map_err(error)?;
        Ok(head)
    }

    /// Tells subscribers, unless they have heard of a later head.
    fn announce(&self, head: u64) {
        self.head.send_if_modified(|known| {
            let moved = head > *known;
            *known = head.max(*known);
            moved
        });
    }
}

fn check_sizes(records: &[NewRecord]) -> Result<(), TooLarge> {
    TooLarge::check("records in a batch", records.len(), BATCH_RECORDS_MAX)?;
    for record in records {
        TooLarge::check("bytes of an actor", record.actor.len(), NAME_BYTES_MAX)?;
        TooLarge::check("bytes of a kind", record.kind.len(), NAME_BYTES_MAX)?;
        TooLarge::check("bytes of a body", record.body.len(), BODY_BYTES_MAX)?;
    }
    let bytes = records.iter().map(|record| record.body.len()).sum();
    TooLarge::check("bytes of a batch", bytes, BATCH_BYTES_MAX)
}

async fn head_of(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM records")
        .fetch_one(conn)
        .await
}

fn record(file: &File, row: &SqliteRow) -> Result<Record, StoreError> {
    let error = |e| file.error(e);
    let at: &str = row.try_get("at").map_err(error)?;
    Ok(Record {
        position: from_sql(file, row.try_get("position").map_err(error)?)?,
        epoch: from_sql(file, row.try_get("epoch").map_err(error)?)?,
        at: at
            .parse()
            .map_err(|e: jiff::Error| StoreError::damaged(file.path(), e))?,
        actor: row.try_get("actor").map_err(error)?,
        kind: row.try_get("kind").map_err(error)?,
        version: row.try_get("version").map_err(error)?,
        body: row.try_get("body").map_err(error)?,
    })
}

fn from_sql(file: &File, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|e| StoreError::damaged(file.path(), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Problem;

    fn batch(size: usize) -> Vec<NewRecord> {
        let record = |n| NewRecord {
            at: Timestamp::UNIX_EPOCH,
            actor: "test".into(),
            kind: "padding".into(),
            version: 1,
            body: format!("\"{n}{}\"", "x".repeat(10_000)),
        };
        (0..size).map(record).collect()
    }

    /// Sets a trap on the writing connection, meets it, and requires that
    /// nothing was stored and that the log works again without the trap.
    async fn trap(pragma: &'static str, expected: Problem) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).await.unwrap();
        let epoch = log.claim_epoch().await.unwrap();
        let head = log.append(0, epoch, &batch(2)).await.unwrap();
        let before = log.read(0, 100).await.unwrap();

        let mut conn = log.inner.file.writer().await.unwrap();
        sqlx::raw_sql(pragma).execute(&mut *conn).await.unwrap();
        conn.return_to_pool().await;

        let failed = log.append(head, epoch, &batch(50)).await.unwrap_err();
        let AppendError::Store(error) = failed else {
            panic!("{failed}");
        };
        assert_eq!(error.problem, expected);
        assert!(error.to_string().contains(folder.path().to_str().unwrap()));
        assert_eq!(log.read(0, 100).await.unwrap(), before);
        assert_eq!(*log.subscribe().borrow(), head);

        let head = log.append(head, epoch, &batch(50)).await.unwrap();
        assert_eq!(head, 52);
        assert_eq!(log.read(0, 100).await.unwrap().len(), 52);
    }

    #[tokio::test]
    async fn a_full_disk_changes_nothing_and_is_got_over() {
        trap("PRAGMA max_page_count = 20", Problem::Full).await;
    }

    #[tokio::test]
    async fn a_read_only_file_changes_nothing_and_is_got_over() {
        trap("PRAGMA query_only = ON", Problem::ReadOnly).await;
    }

    #[tokio::test]
    async fn a_lock_held_by_another_is_waited_for_and_then_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).await.unwrap();
        let epoch = log.claim_epoch().await.unwrap();
        let other = Log::open(&path).await.unwrap();
        let mut holder = other.inner.file.writer().await.unwrap();
        let lock = holder.begin_with("BEGIN IMMEDIATE").await.unwrap();

        let mut conn = log.inner.file.writer().await.unwrap();
        sqlx::raw_sql("PRAGMA busy_timeout = 20")
            .execute(&mut *conn)
            .await
            .unwrap();
        conn.return_to_pool().await;
        let failed = log.append(0, epoch, &batch(1)).await.unwrap_err();
        let AppendError::Store(error) = failed else {
            panic!("{failed}");
        };
        assert_eq!(error.problem, Problem::Locked);

        // With the usual patience, a lock that is let go in time is no error.
        let log_again = log.clone();
        let waiting = tokio::spawn(async move { log_again.append(0, epoch, &batch(1)).await });
        tokio::task::yield_now().await;
        lock.rollback().await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_late_reader_does_not_move_the_announced_head_back() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).await.unwrap();
        let mut heads = log.subscribe();
        log.inner.announce(5);
        assert_eq!(*heads.borrow_and_update(), 5);
        log.inner.announce(4);
        log.inner.announce(5);
        assert!(!heads.has_changed().unwrap());
        assert_eq!(*heads.borrow(), 5);
    }

    #[tokio::test]
    async fn every_connection_syncs_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).await.unwrap();
        let mut conn = log.inner.file.writer().await.unwrap();
        let (mode, synchronous): (String, i64) = sqlx::query_as(
            "SELECT (SELECT journal_mode FROM pragma_journal_mode),
                    (SELECT synchronous FROM pragma_synchronous)",
        )
        .fetch_one(&mut *conn)
        .await
        .unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }
}
