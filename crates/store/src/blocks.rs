//! The blocks: sealed counts, one packed row each, kept for as long as
//! somebody may ask how a verdict came about.
//!
//! Synced like the log (`synchronous = FULL`): a verdict in the log names the
//! blocks it was judged from, so a block must not be lost to a power cut that
//! the verdict survives. One small row a node every few seconds costs nothing.

use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::{Problem, StoreError, TooLarge};
use crate::file::{File, READ_BYTES_MAX, READ_ROWS_MAX, Schema, to_sql};

/// Bytes of one packed block: room for the most trials that a block of the judge may book, in JSON.
pub const BLOCK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of each name in a key.
pub const KEY_BYTES_MAX: usize = 256;

const SCHEMA: Schema = Schema {
    name: "blocks",
    application_id: 0x5365_7242,
    migrations: &[include_str!("../migrations/blocks-1.sql")],
};

/// What makes a block the same block: a node that sends it again after a lost
/// answer changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The rollout whose calls were counted.
    pub rollout: String,
    /// The node that counted them.
    pub node: String,
    /// Which life of that node; its block numbers start anew with each.
    pub incarnation: String,
    /// The number of the block in that life.
    pub block: u64,
}

/// Where a block was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its place among all blocks of the file.
    pub sequence: u64,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// A stored block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its place among all blocks of the file: rises in the order of storing,
    /// with gaps, and is never used again.
    pub sequence: u64,
    /// Which block it is.
    pub key: BlockKey,
    /// When it was sealed; kept to the microsecond.
    pub at: Timestamp,
    /// The packed counts.
    pub bytes: Vec<u8>,
}

/// The blocks of one file. Clones share it.
#[derive(Clone)]
pub struct Blocks {
    file: Arc<File>,
}

impl Blocks {
    /// Opens the blocks at `path`, made on first use; its folder must exist.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(File::open(path, &SCHEMA).await?);
        Ok(Self { file })
    }

    /// Stores a block and returns its sequence once it is on the disk. When
    /// its key was there before, the bytes stored then stay.
    pub async fn put(
        &self,
        key: &BlockKey,
        at: Timestamp,
        bytes: &[u8],
    ) -> Result<Stored, StoreError> {
        check_sizes(key, bytes)
            .map_err(|e| StoreError::new(self.file.path(), Problem::TooLarge(e)))?;
        let query = sqlx::query(
            "INSERT INTO blocks (rollout, node, incarnation, block, at_us, bytes)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING sequence",
        )
        .bind(key.rollout.clone())
        .bind(key.node.clone())
        .bind(key.incarnation.clone())
        .bind(to_sql(key.block))
        .bind(at.as_microsecond())
        .bind(bytes.to_vec());
        if let Some(sequence) = self.write_one(query).await? {
            return Ok(Stored {
                sequence,
                is_new: true,
            });
        }
        let query = sqlx::query(
            "SELECT sequence FROM blocks WHERE rollout = ? AND node = ? AND incarnation = ? AND block = ?",
        )
        .bind(key.rollout.clone())
        .bind(key.node.clone())
        .bind(key.incarnation.clone())
        .bind(to_sql(key.block));
        let sequence = self.write_one(query).await?.unwrap_or_default();
        Ok(Stored {
            sequence,
            is_new: false,
        })
    }

    /// The blocks of a rollout after sequence `after` (0 for all), in order of
    /// storing: `limit` at most, and no more than [`READ_ROWS_MAX`] or
    /// [`READ_BYTES_MAX`] allow. Only an empty answer means that there
    /// are no more.
    pub async fn read(
        &self,
        rollout: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Block>, StoreError> {
        let mut conn = self.file.reader().await?;
        let mut rows = sqlx::query(
            "SELECT sequence, rollout, node, incarnation, block, at_us, bytes FROM blocks
             WHERE rollout = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        )
        .bind(rollout)
        .bind(to_sql(after))
        .bind(limit.min(READ_ROWS_MAX))
        .fetch(&mut *conn);

        let mut blocks = Vec::new();
        let mut bytes = 0;
        while bytes < READ_BYTES_MAX
            && let Some(row) = rows.try_next().await.map_err(|e| self.file.error(e))?
        {
            let block = block(&self.file, &row)?;
            bytes += block.bytes.len();
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Removes the blocks sealed before `before` and returns how many.
    pub async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let query = sqlx::query("DELETE FROM blocks WHERE at_us < ?").bind(before.as_microsecond());
        self.write(query).await
    }

    /// Waits for what is under way and closes the file, for all clones.
    pub async fn close(&self) {
        self.file.close().await;
    }

    /// Runs one statement that gives at most one sequence.
    async fn write_one(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Option<u64>, StoreError> {
        let mut conn = self.file.writer().await?;
        match query.fetch_optional(&mut *conn).await {
            Ok(row) => row.map(|row| sequence(&self.file, &row)).transpose(),
            Err(error) => {
                conn.close().await.ok();
                Err(self.file.error(error))
            }
        }
    }

    /// Runs one statement, a transaction by itself; returns the rows changed.
    async fn write(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, StoreError> {
        let mut conn = self.file.writer().await?;
        match query.execute(&mut *conn).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => {
                conn.close().await.ok();
                Err(self.file.error(error))
            }
        }
    }
}

fn check_sizes(key: &BlockKey, bytes: &[u8]) -> Result<(), TooLarge> {
    TooLarge::check("bytes of a rollout", key.rollout.len(), KEY_BYTES_MAX)?;
    TooLarge::check("bytes of a node", key.node.len(), KEY_BYTES_MAX)?;
    TooLarge::check(
        "bytes of an incarnation",
        key.incarnation.len(),
        KEY_BYTES_MAX,
    )?;
    TooLarge::check("bytes of a block", bytes.len(), BLOCK_BYTES_MAX)
}

fn sequence(file: &File, row: &SqliteRow) -> Result<u64, StoreError> {
    let number: i64 = row.try_get("sequence").map_err(|e| file.error(e))?;
    u64::try_from(number).map_err(|e| StoreError::damaged(file.path(), e))
}

fn block(file: &File, row: &SqliteRow) -> Result<Block, StoreError> {
    let error = |e| file.error(e);
    let number = |column| {
        let number: i64 = row.try_get(column).map_err(error)?;
        u64::try_from(number).map_err(|e| StoreError::damaged(file.path(), e))
    };
    Ok(Block {
        sequence: sequence(file, row)?,
        key: BlockKey {
            rollout: row.try_get("rollout").map_err(error)?,
            node: row.try_get("node").map_err(error)?,
            incarnation: row.try_get("incarnation").map_err(error)?,
            block: number("block")?,
        },
        at: Timestamp::from_microsecond(row.try_get("at_us").map_err(error)?)
            .map_err(|e| StoreError::damaged(file.path(), e))?,
        bytes: row.try_get("bytes").map_err(error)?,
    })
}
