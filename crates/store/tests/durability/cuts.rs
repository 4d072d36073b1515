//! A power cut in the middle of an append, at every byte: copies of the
//! write-ahead log that end anywhere after the last acknowledged frame reopen
//! with all that was acknowledged and nothing that was not.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use serin_store::{Log, NewRecord, Record};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::child::{block_on, read_all};

/// What a file system may show after the bytes that had reached the disk.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// The file ends.
    Nothing,
    /// The length was written and the data was not.
    Zeros,
    /// What was there before, when an older part of the log is overwritten.
    Before,
}

/// A log caught in an append that was not acknowledged.
struct Scene {
    database: Vec<u8>,
    /// The write-ahead log before that append, and after.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The bytes that the append changed, or may have.
    changed: Range<usize>,
    acknowledged: Vec<Record>,
}

#[test]
fn a_growing_log_cut_at_every_byte() {
    let scene = scene(false);
    assert_eq!(scene.changed.start, scene.before.len());
    cut_everywhere(&scene, Rest::Nothing, 1);
    cut_everywhere(&scene, Rest::Zeros, 13);
}

#[test]
fn a_log_that_overwrites_its_older_part_torn_at_many_bytes() {
    let scene = scene(true);
    assert!(
        scene.changed.end < scene.before.len(),
        "older frames follow"
    );
    cut_everywhere(&scene, Rest::Before, 7);
}

/// Appends some batches and one more, and keeps the files as they were before
/// and after that one. With `wrapped`, the write-ahead log was written back
/// once and is being filled from its start again.
fn scene(wrapped: bool) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log_path = log_path(&path);
    block_on(async {
        let log = Log::open(&path).await.unwrap();
        let epoch = log.claim_epoch().await.unwrap();
        let mut head = 0;
        for _ in 0..8 {
            head = log.append(head, epoch, &[record()]).await.unwrap();
        }
        if wrapped {
            let mut conn = SqliteConnectOptions::new()
                .filename(&path)
                .connect()
                .await
                .unwrap();
            sqlx::raw_sql("PRAGMA wal_checkpoint(RESTART)")
                .execute(&mut conn)
                .await
                .unwrap();
            conn.close().await.unwrap();
            for _ in 0..2 {
                head = log.append(head, epoch, &[record()]).await.unwrap();
            }
        }
        let acknowledged = read_all(&log, 0).await;
        let before = copy(&log_path);
        log.append(head, epoch, &[record()]).await.unwrap();
        let after = copy(&log_path);
        let database = copy(&path);
        log.close().await;

        let differs = |at: &usize| before.get(*at) != after.get(*at);
        let first = (0..after.len()).find(differs).unwrap();
        let last = (0..after.len()).rfind(differs).unwrap();
        Scene {
            database,
            before,
            after,
            changed: first..last + 1,
            acknowledged,
        }
    })
}

/// Reads a file through another process: closing it in this one would drop
/// the locks that SQLite holds.
fn copy(path: &Path) -> Vec<u8> {
    let output = Command::new("cat").arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Reopens a copy for every `step`th cut, and for the first and the last.
fn cut_everywhere(scene: &Scene, rest: Rest, step: usize) {
    // Each waits for its connections half of the time.
    let workers = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let Range { start, end } = scene.changed;
    let mut cuts: Vec<_> = (start..end).step_by(step).collect();
    cuts.push(end);
    let mut kept_whole = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cuts
            .chunks(cuts.len().div_ceil(workers))
            .map(|cuts| scope.spawn(|| block_on(reopen_each(scene, rest, cuts))))
            .collect();
        for thread in threads {
            kept_whole += thread.join().unwrap();
        }
    });
    // The append is small: the bytes that end it are seldom what was there.
    assert!(
        (1..20).contains(&kept_whole),
        "{kept_whole} copies held all of it"
    );
}

/// Returns how many of the copies happened to hold the whole last append.
async fn reopen_each(scene: &Scene, rest: Rest, cuts: &[usize]) -> usize {
    // Memory where there is some: the copies need no disk.
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let path = folder.path().join("log");
    let mut kept_whole = 0;
    for &cut in cuts {
        let mut bytes = scene.after[..cut].to_vec();
        match rest {
            Rest::Nothing => {}
            Rest::Zeros => bytes.resize(scene.after.len(), 0),
            Rest::Before => bytes.extend(scene.before.get(cut..).unwrap_or(&[])),
        }
        let whole = bytes == scene.after;
        kept_whole += usize::from(whole);
        fs::write(&path, &scene.database).unwrap();
        fs::write(log_path(&path), &bytes).unwrap();

        let log = Log::open(&path).await.unwrap();
        let records = log.read(0, 1000).await.unwrap();
        log.close().await;
        let (acknowledged, more) = records.split_at(scene.acknowledged.len().min(records.len()));
        assert!(
            acknowledged == scene.acknowledged,
            "lost, cut at {cut}, then {rest:?}"
        );
        assert_eq!(
            more.len(),
            usize::from(whole),
            "cut at {cut}, then {rest:?}"
        );
    }
    kept_whole
}

fn log_path(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

fn record() -> NewRecord {
    NewRecord {
        at: Timestamp::UNIX_EPOCH,
        actor: "test".into(),
        kind: "note".into(),
        version: 1,
        body: r#""small""#.into(),
    }
}
