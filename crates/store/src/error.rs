//! What can go wrong, each with the file it concerns and what to do about it.

use std::error::Error;
use std::path::{Path, PathBuf};

use sqlx::error::DatabaseError;

use crate::audit::QUESTION_SECONDS_MAX;
use crate::file::BUSY_SECONDS_MAX;

/// A store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct StoreError {
    /// The database file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What is wrong, in words that end with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The folder of the file is missing.
    #[error("its folder does not exist; create the folder or name another file")]
    NoFolder,
    /// The path names a folder.
    #[error("this is a folder; name a file in it")]
    IsFolder,
    /// The file cannot be opened, most often for want of permission.
    #[error("cannot be opened; let this user read and write the file and its folder")]
    CannotOpen,
    /// The file can be read but not written.
    #[error("cannot be written; let this user write the file and its folder")]
    ReadOnly,
    /// No space is left. The write that met this changed nothing.
    #[error("the disk is full and nothing was stored; free some space and try again")]
    Full,
    /// Somebody else held the write lock for too long.
    #[error(
        "another process has held its lock for {BUSY_SECONDS_MAX} s; end that process or try again"
    )]
    Locked,
    /// A question to the tables took too long.
    #[error("the question took longer than {QUESTION_SECONDS_MAX} s; ask for a shorter window")]
    TooSlow,
    /// The content contradicts itself.
    #[error("the file is damaged; stop Serin, keep a copy of it, and restore a backup")]
    Corrupt,
    /// The file exists and is something else altogether.
    #[error("not a SQLite database; move it away or name another file")]
    NotADatabase,
    /// A SQLite database of another program, or Serin's other kind of file.
    #[error("a SQLite database, but not Serin's {wanted}; name another file")]
    Foreign {
        /// What it should have been.
        wanted: &'static str,
    },
    /// A newer release has written this file.
    #[error(
        "its schema is version {found} and this release knows versions up to {supported}; \
         run the newer release, or restore a backup made before the upgrade"
    )]
    Newer {
        /// The schema version of the file.
        found: i64,
        /// The newest schema version this release knows.
        supported: i64,
    },
    /// The file system cannot hold a write-ahead log.
    #[error("its file system cannot hold a write-ahead log; use a local disk, not a network share")]
    NoWriteAheadLog,
    /// The operating system failed to read, write or sync.
    #[error("reading or writing failed; look at the kernel's messages and the disk's health")]
    Io,
    /// An argument is over its limit.
    #[error(transparent)]
    TooLarge(TooLarge),
    /// The runtime stopped before SQLite answered.
    #[error("the program was stopping; open it again and see what it holds")]
    Interrupted,
    /// The store was closed before.
    #[error("has been closed; open it again")]
    Closed,
    /// Anything else that SQLite reports; the source says what.
    #[error("SQLite refused the operation; this is a bug worth a report")]
    Refused,
}

/// An argument is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {size} and may be {limit} at most; make it smaller or split it")]
pub struct TooLarge {
    /// What was measured, with its unit.
    pub what: &'static str,
    /// How much was given.
    pub size: usize,
    /// How much is allowed.
    pub limit: usize,
}

impl TooLarge {
    pub(crate) fn check(what: &'static str, size: usize, limit: usize) -> Result<(), Self> {
        if size > limit {
            return Err(Self { what, size, limit });
        }
        Ok(())
    }
}

/// Records were not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log has moved on since the caller last looked. Nothing was stored:
    /// read the records after `expected`, decide anew, and try again.
    #[error(
        "the log is at position {actual}, not at {expected}; read what is new and decide again"
    )]
    Conflict {
        /// The head the caller had seen.
        expected: u64,
        /// The head there is.
        actual: u64,
    },
    /// The caller is not, or no longer, the writer. Nothing was stored.
    #[error(
        "epoch {held} may not append, the log is in epoch {current}; \
         follow the present writer, or claim an epoch to take over"
    )]
    Fenced {
        /// The epoch the caller gave.
        held: u64,
        /// The epoch that may append; 0 when none was ever claimed.
        current: u64,
    },
    /// A record or the batch is over its limit. Nothing was stored.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The file failed. Nothing was stored where the problem says so; else the
    /// batch may or may not be there, whole: read the head before going on.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    pub(crate) fn new(path: &Path, problem: Problem) -> Self {
        Self {
            path: path.to_owned(),
            problem,
            source: None,
        }
    }

    pub(crate) fn from_sqlx(path: &Path, error: sqlx::Error) -> Self {
        let problem = match &error {
            sqlx::Error::Database(inner) => of_sqlite(path, inner.as_ref()),
            sqlx::Error::Io(_) => Problem::Io,
            sqlx::Error::PoolTimedOut => Problem::Locked,
            sqlx::Error::PoolClosed => Problem::Closed,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Problem::Corrupt,
            _ => Problem::Refused,
        };
        Self::because(path, problem, error)
    }

    pub(crate) fn because(
        path: &Path,
        problem: Problem,
        why: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            problem,
            source: Some(why.into()),
        }
    }

    /// A row that cannot have been written by us.
    pub(crate) fn damaged(path: &Path, why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::because(path, Problem::Corrupt, why)
    }
}

/// Names SQLite's primary result codes (<https://www.sqlite.org/rescode.html>);
/// the extended code carries the primary one in its low byte.
fn of_sqlite(path: &Path, error: &dyn DatabaseError) -> Problem {
    let code: Option<i32> = error.code().and_then(|code| code.parse().ok());
    match code.map(|code| code & 0xff) {
        Some(3 | 14) => cannot_open(path),
        Some(5 | 6) => Problem::Locked,
        Some(8) => Problem::ReadOnly,
        Some(10) => Problem::Io,
        Some(11) => Problem::Corrupt,
        Some(13) => Problem::Full,
        Some(26) => Problem::NotADatabase,
        _ => Problem::Refused,
    }
}

/// SQLite keeps to itself why a file did not open; the two commonest reasons
/// can be seen from outside.
fn cannot_open(path: &Path) -> Problem {
    if path.is_dir() {
        Problem::IsFolder
    } else if path.parent().is_some_and(|folder| !folder.is_dir()) {
        Problem::NoFolder
    } else {
        Problem::CannotOpen
    }
}
