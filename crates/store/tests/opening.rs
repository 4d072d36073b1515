//! What is opened, and what is refused with its reason and left as it was.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serin_store::{AppendError, Blocks, Log, NewRecord, Problem};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap()
}

async fn run(path: &Path, sql: &'static str) {
    let mut conn = raw(path).await;
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

fn record(body: String) -> NewRecord {
    NewRecord {
        at: Timestamp::UNIX_EPOCH,
        actor: "test".into(),
        kind: "note".into(),
        version: 1,
        body,
    }
}

async fn refused(path: &Path) -> Problem {
    let error = Log::open(path).await.err().expect("a refusal");
    let text = error.to_string();
    let (file, advice) = text.split_once(": ").unwrap();
    assert_eq!(Path::new(file), path);
    assert!(
        advice.contains(';'),
        "says what is wrong and what to do: {advice}"
    );
    error.problem
}

/// Refused, and neither the file nor its surroundings were touched.
async fn refused_untouched(path: &Path) -> Problem {
    let before = fs::read(path).unwrap();
    let problem = refused(path).await;
    assert_eq!(fs::read(path).unwrap(), before);
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    assert!(!beside("-wal").exists() && !beside("-shm").exists());
    problem
}

#[tokio::test]
async fn files_that_are_no_database_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for content in ["x", "services:\n  tools: {}\n", &"# notes\n".repeat(2000)] {
        fs::write(&path, content).unwrap();
        assert_eq!(
            refused_untouched(&path).await,
            Problem::NotADatabase,
            "{content:.20}"
        );
    }
    // The advice: name another file.
    Log::open(&folder.path().join("other")).await.unwrap();
}

#[tokio::test]
async fn databases_of_others_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign");
    run(&path, "CREATE TABLE moz_places (id INTEGER)").await;
    assert_eq!(
        refused_untouched(&path).await,
        Problem::Foreign { wanted: "log" }
    );

    let path = folder.path().join("blocks");
    Blocks::open(&path).await.unwrap().close().await;
    assert_eq!(
        refused_untouched(&path).await,
        Problem::Foreign { wanted: "log" }
    );

    let path = folder.path().join("log");
    Log::open(&path).await.unwrap().close().await;
    let error = Blocks::open(&path).await.err().unwrap();
    assert_eq!(error.problem, Problem::Foreign { wanted: "blocks" });
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    Log::open(&path).await.unwrap().close().await;
    run(&path, "PRAGMA user_version = 99").await;
    let newer = Problem::Newer {
        found: 99,
        supported: 1,
    };
    assert_eq!(refused_untouched(&path).await, newer);
    run(&path, "PRAGMA user_version = 1").await;
    Log::open(&path).await.unwrap();
}

#[tokio::test]
async fn places_where_no_file_can_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refused(folder.path()).await, Problem::IsFolder);
    let path = folder.path().join("missing/log");
    assert_eq!(refused(&path).await, Problem::NoFolder);
    fs::create_dir(folder.path().join("missing")).unwrap();
    Log::open(&path).await.unwrap();
    // A folder in which nobody, not even root, may make a file.
    assert_eq!(
        refused(Path::new("/proc/self/serin.db")).await,
        Problem::CannotOpen
    );
}

#[tokio::test]
async fn names_that_mean_something_to_sqlite_are_files_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in [":memory:", "file:log?mode=memory", "a b%20c#d?e", "ünicode"] {
        let path = folder.path().join(name);
        let log = Log::open(&path).await.unwrap();
        log.claim_epoch().await.unwrap();
        log.close().await;
        assert!(path.is_file(), "{name}");
    }
}

#[tokio::test]
async fn many_may_create_one_log_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(
                async move { Log::open(&path).await.unwrap().claim_epoch().await.unwrap() },
            )
        })
        .collect();
    let mut epochs = Vec::new();
    for one in opening {
        epochs.push(one.await.unwrap());
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn damage_is_reported_and_never_read_as_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = Log::open(&path).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let records: Vec<_> = (0..100)
        .map(|n| record(format!("\"{}{n}\"", "x".repeat(1000))))
        .collect();
    log.append(0, epoch, &records).await.unwrap();
    log.close().await;

    let whole = fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    scribbled[4 * 4096..].fill(0x5a);
    fs::write(&path, scribbled).unwrap();
    let found = async {
        let log = Log::open(&path).await?;
        log.read(0, 1000).await
    };
    assert_eq!(found.await.unwrap_err().problem, Problem::Corrupt);

    // The advice: restore a backup.
    fs::write(&path, whole).unwrap();
    let log = Log::open(&path).await.unwrap();
    assert_eq!(log.read(0, 1000).await.unwrap().len(), 100);
    log.close().await;
}

#[tokio::test]
async fn a_gap_or_a_time_that_is_none_counts_as_damage() {
    for (damage, reason) in [
        (
            "DELETE FROM records WHERE position = 2",
            "no record at position 2",
        ),
        ("UPDATE records SET at = 'noon' WHERE position = 3", "year"),
        (
            "UPDATE records SET version = 65536 WHERE position = 3",
            "version",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).await.unwrap();
        let epoch = log.claim_epoch().await.unwrap();
        let records = vec![record("1".into()); 4];
        log.append(0, epoch, &records).await.unwrap();
        run(&path, damage).await;
        let error = log.read(0, 10).await.unwrap_err();
        assert_eq!(error.problem, Problem::Corrupt);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(reason), "{source}");
    }
}

#[tokio::test]
async fn a_closed_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    log.close().await;
    let AppendError::Store(error) = log.append(0, epoch, &[]).await.unwrap_err() else {
        panic!("a store error");
    };
    assert_eq!(error.problem, Problem::Closed);
}
