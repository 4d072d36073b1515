//! The writer of the audit trail: nothing that it was sent is missing from the table, whatever becomes of the store meanwhile.

use jiff::Timestamp;
use serin_control::{
    audit::{Books, Options, Recorder},
    tables::KeyUses,
};
use serin_model::audit::AuditRow;
use serin_store::{Audit, Cell};
use serin_tenancy::{KeyRecord, Role, Scopes, SecretKey, key::RANDOM_BYTES};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{
    path::Path,
    time::{Duration, Instant},
};

fn row(number: u32) -> AuditRow {
    AuditRow {
        at_micros: jiff::Timestamp::now().as_microsecond(),
        tenant: "acme".into(),
        subject: None,
        key_hash: Box::default(),
        endpoint: format!("/{number}").into(),
        method: "POST".into(),
        status: 200,
        duration_ms: 3,
        address: Some("192.0.2.7".parse().unwrap()),
        user_agent: None,
        error: None,
        service: Some("tools".into()),
        version: Some("v1".into()),
        rpc_method: Some("tools/call".into()),
        tool: Some("echo".into()),
        outcome: "ok",
        arguments: None,
    }
}

fn rows(numbers: std::ops::Range<u32>) -> Vec<AuditRow> {
    numbers.map(row).collect()
}

struct Trail {
    recorder: Recorder,
    books: Books,
    tables: Audit,
}

async fn start(folder: &Path, is_required: bool) -> Trail {
    start_with(folder, &folder.join("serin.audit-spill"), is_required).await
}

async fn start_with(folder: &Path, spill: &Path, is_required: bool) -> Trail {
    start_noting(folder, spill, is_required, KeyUses::default()).await
}

async fn start_noting(folder: &Path, spill: &Path, is_required: bool, key_uses: KeyUses) -> Trail {
    let tables = Audit::open(&folder.join("serin.audit.db")).await.unwrap();
    let books = Books::default();
    books.open(&tables);
    let recorder = Recorder::start(Options {
        tables: tables.clone(),
        spill: spill.to_owned(),
        is_required,
        retention: Duration::from_hours(24),
        key_uses,
        books: books.clone(),
    });
    Trail {
        recorder: recorder.unwrap(),
        books,
        tables,
    }
}

impl Trail {
    async fn send(&self, numbers: std::ops::Range<u32>) {
        self.recorder.rows().send(rows(numbers)).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            let counted = self.books.counted();
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{what}: {counted:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stored(&self, count: u64) {
        self.until("rows stored", |trail| trail.books.counted().stored == count)
            .await;
    }

    /// The numbers of the rows, in the order of their ids.
    async fn numbers(&self) -> Vec<u32> {
        let sql = "SELECT CAST(substr(endpoint, 2) AS INTEGER) FROM audit_logs ORDER BY id";
        let answer = self.tables.ask(sql, &[]).await.unwrap();
        let number = |row: &Vec<Cell>| match row[0] {
            Cell::Integer(number) => u32::try_from(number).unwrap(),
            _ => panic!("{row:?}"),
        };
        answer.rows.iter().map(number).collect()
    }
}

/// Keeps the tables from being written.
async fn lock(folder: &Path) -> sqlx::SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.join("serin.audit.db"));
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    other
}

/// Lines that are in the files.
fn lines(folder: &Path) -> usize {
    let lines = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.matches('\n').count()
    };
    spills(folder).iter().map(lines).sum()
}

fn spills(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .filter(|path| path.to_string_lossy().contains("audit-spill"))
        .collect()
}

/// The files as a process leaves them that is killed now.
fn as_killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in spills(folder) {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

#[tokio::test]
async fn rows_come_into_the_table_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), false).await;
    for begin in (0..1000).step_by(100) {
        trail.send(begin..begin + 100).await;
    }
    trail.stored(1000).await;
    assert_eq!(trail.numbers().await, (0..1000).collect::<Vec<_>>());
    let counted = trail.books.counted();
    assert_eq!((counted.spilled, counted.lost), (0, 0));
    let (tables, recorder) = (trail.tables.clone(), trail.recorder);
    recorder.finish().await;
    let sql = "SELECT ip_address, tool, status_code FROM audit_logs LIMIT 1";
    let answer = tables.ask(sql, &[]).await.unwrap();
    let text = |text: &str| Cell::Text(text.into());
    assert_eq!(
        answer.rows,
        [[text("192.0.2.7"), text("echo"), Cell::Integer(200)]]
    );
}

#[tokio::test]
async fn what_the_store_does_not_take_waits_in_the_file_and_comes_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), true).await;
    let other = lock(folder.path()).await;
    for begin in (0..30_000).step_by(3000) {
        trail.send(begin..begin + 3000).await;
    }
    trail
        .until("rows in the file", |trail| {
            trail.books.counted().waiting == 30_000
        })
        .await;
    assert!(trail.books.counted().spilled > 0, "memory is bounded");
    assert!(
        !trail.recorder.gate().is_shut(),
        "nothing is lost, so nothing is refused"
    );
    assert!(!spills(folder.path()).is_empty());
    other.close().await.unwrap();
    trail.stored(30_000).await;
    let numbers = trail.numbers().await;
    assert_eq!(
        numbers,
        (0..10_000).collect::<Vec<_>>(),
        "as many as are read at once, in order"
    );
    let sql = "SELECT count(DISTINCT endpoint) FROM audit_logs";
    let answer = trail.tables.ask(sql, &[]).await.unwrap();
    assert_eq!(answer.rows, [[Cell::Integer(30_000)]]);
    assert_eq!(trail.books.counted().lost, 0);
}

#[tokio::test]
async fn a_table_that_fails_at_once_keeps_no_row_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), true).await;
    trail.tables.close().await;
    trail.send(0..10).await;
    trail
        .until("the table tried", |trail| trail.books.fallbacks() > 0)
        .await;
    for begin in (10..4000).step_by(10) {
        trail.send(begin..begin + 10).await;
    }
    // Whatever kills the process now, they are there after it.
    trail
        .until("rows in the file", |_| lines(folder.path()) == 4000)
        .await;
    assert!(!trail.recorder.gate().is_shut());
    drop(trail);

    let trail = start(folder.path(), true).await;
    trail.stored(4000).await;
    assert_eq!(trail.numbers().await, (0..4000).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_neither_the_table_nor_the_file_takes_waits_in_memory_within_its_bound() {
    // Some, and more than are held.
    for (is_required, sent) in [(true, 7000), (false, 60_000)] {
        let folder = tempfile::tempdir().unwrap();
        // Without this folder no file can be begun.
        let gone = folder.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let trail = start_with(folder.path(), &gone.join("spill"), is_required).await;
        std::fs::remove_dir(&gone).unwrap();
        let other = lock(folder.path()).await;
        for begin in (0..sent).step_by(1000) {
            trail.send(begin..begin + 1000).await;
        }
        trail
            .until("all taken", |trail| {
                let counted = trail.books.counted();
                // 50,000, and those on their way into the table.
                let is_bound = is_required || counted.waiting <= 55_000;
                counted.waiting + counted.lost == u64::from(sent) && is_bound
            })
            .await;
        assert_eq!(trail.recorder.gate().is_shut(), is_required);
        assert!(trail.books.fallbacks() > 0);

        std::fs::create_dir(&gone).unwrap();
        other.close().await.unwrap();
        trail
            .until("all stored", |trail| {
                let counted = trail.books.counted();
                counted.stored + counted.lost == u64::from(sent)
            })
            .await;
        // Not one is neither stored nor counted, and those that go are old.
        let lost = trail.books.counted().lost;
        if is_required {
            assert_eq!(lost, 0);
        } else {
            assert!((5000..=10_000).contains(&lost), "{lost}");
        }
        let sql = "SELECT count(*), max(CAST(substr(endpoint, 2) AS INTEGER)) FROM audit_logs";
        let answer = trail.tables.ask(sql, &[]).await.unwrap();
        let stored = i64::from(sent) - i64::try_from(lost).unwrap();
        let newest = i64::from(sent) - 1;
        assert_eq!(
            answer.rows,
            [[Cell::Integer(stored), Cell::Integer(newest)]]
        );
        trail
            .until("the gate open", |trail| !trail.recorder.gate().is_shut())
            .await;
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_is_stored_first_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), false).await;
    trail.send(0..500).await;
    trail.stored(500).await;
    let other = lock(folder.path()).await;
    trail.send(500..900).await;
    trail
        .until("rows in the file", |trail| {
            trail.books.counted().waiting == 400
        })
        .await;
    let copy = as_killed(folder.path());
    other.close().await.unwrap();
    drop(trail);

    let trail = start(copy.path(), false).await;
    trail.send(900..901).await;
    trail.stored(901).await;
    assert_eq!(trail.numbers().await, (0..901).collect::<Vec<_>>());
    assert_eq!(trail.books.counted().lost, 0);
}

#[tokio::test]
async fn a_disk_that_is_full_while_what_was_left_is_stored_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), true).await;
    let other = lock(folder.path()).await;
    trail.send(0..400).await;
    trail
        .until("rows in the file", |_| lines(folder.path()) == 400)
        .await;
    let copy = as_killed(folder.path());
    other.close().await.unwrap();
    drop(trail);

    // Neither the table nor a new file takes anything.
    let file = copy.path().join("serin.audit.db");
    Audit::open(&file).await.unwrap().close().await;
    let other = lock(copy.path()).await;
    let trail = start(copy.path(), true).await;
    let in_the_way = copy.path().join("serin.audit-spill.00000002");
    std::fs::create_dir(&in_the_way).unwrap();
    trail.send(400..500).await;
    trail
        .until("the gate shut", |trail| {
            trail.recorder.gate().is_shut() && trail.books.counted().waiting == 500
        })
        .await;
    std::fs::remove_dir(&in_the_way).unwrap();
    other.close().await.unwrap();
    trail.stored(500).await;
    assert_eq!(trail.numbers().await, (0..500).collect::<Vec<_>>());
    assert_eq!(trail.books.counted().lost, 0);
    trail
        .until("the gate open", |trail| !trail.recorder.gate().is_shut())
        .await;
}

#[tokio::test]
async fn old_rows_go() {
    let folder = tempfile::tempdir().unwrap();
    let trail = start(folder.path(), false).await;
    let mut old = rows(0..10);
    for row in &mut old[..7] {
        row.at_micros -= 25 * 3600 * 1_000_000;
    }
    trail.recorder.rows().send(old).await.unwrap();
    trail.stored(10).await;
    trail.recorder.finish().await;
    // It looks when it starts.
    let trail = start(folder.path(), false).await;
    let began = Instant::now();
    while trail.numbers().await != [7, 8, 9] {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_key_that_is_over_was_shown_for_is_no_use_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("serin.audit-spill");
    let uses = KeyUses::default();
    let trail = start_noting(folder.path(), &spill, false, uses.clone()).await;
    let (id, hash) = SecretKey::new(&[1; RANDOM_BYTES]).parts().unwrap();
    let key = KeyRecord {
        id,
        tenant: "acme".parse().unwrap(),
        name: String::new(),
        hash,
        role: Role::User,
        scopes: Scopes::default(),
        tier: None,
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::UNIX_EPOCH,
        revoked_at: None,
        replaced_by: None,
        signs: false,
    };
    let rows = [(1, 200), (2, 403), (3, 401)].map(|(at_micros, status)| AuditRow {
        at_micros,
        status,
        key_hash: key.hash.to_hex().into(),
        ..row(0)
    });
    trail.recorder.rows().send(rows.into()).await.unwrap();
    trail.stored(3).await;
    assert_eq!(uses.of(&key), Timestamp::from_microsecond(2).ok());
}
