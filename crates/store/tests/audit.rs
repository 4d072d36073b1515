//! What the audit tables promise: a row once, in a form that SQL compares rightly; keys and flags as they were given.

use jiff::{SignedDuration, Timestamp};
use serin_store::{
    AUDIT_ROWS_MAX, Audit, AuditEntry, Cell, FlagsRow, KeyRow, PRUNE_ROWS_MAX, Problem, sql_time,
};

fn entry(number: u64, at: Timestamp) -> AuditEntry {
    AuditEntry {
        id: format!("01890000-0000-7000-8000-{number:012}").into(),
        at_micros: at.as_microsecond(),
        tenant: if number.is_multiple_of(2) { "acme" } else { "" }.into(),
        endpoint: "/mcp".into(),
        method: "POST".into(),
        status: 200,
        duration_ms: 12,
        outcome: "ok".into(),
        tool: number.is_multiple_of(3).then(|| "echo".into()),
        ..AuditEntry::default()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

async fn audit() -> (tempfile::TempDir, Audit) {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(&folder.path().join("db.audit")).await.unwrap();
    (folder, audit)
}

async fn number(audit: &Audit, sql: &str) -> i64 {
    let answer = audit.ask(sql, &[]).await.unwrap();
    let [Cell::Integer(number)] = answer.rows[0][..] else {
        panic!("{answer:?}");
    };
    number
}

#[tokio::test]
async fn a_row_is_stored_once_however_often_it_is_sent() {
    let (_folder, audit) = audit().await;
    let rows: Vec<_> = (0..1000).map(|n| entry(n, at(0))).collect();
    assert_eq!(audit.append(&rows[..700]).await.unwrap(), 700);
    assert_eq!(audit.append(&rows[300..]).await.unwrap(), 300);
    assert_eq!(audit.append(&rows).await.unwrap(), 0);
    assert_eq!(audit.append(&[]).await.unwrap(), 0);
    assert_eq!(
        number(&audit, "SELECT count(*) FROM audit_logs").await,
        1000
    );
    let tools = "SELECT count(*) FROM audit_logs WHERE tool = 'echo' AND tenant_id = 'acme'";
    assert_eq!(number(&audit, tools).await, 167);
}

#[tokio::test]
async fn too_many_rows_at_once_are_refused_whole() {
    let (_folder, audit) = audit().await;
    let rows = vec![entry(1, at(0)); AUDIT_ROWS_MAX + 1];
    let refused = audit.append(&rows).await.unwrap_err();
    assert!(matches!(refused.problem, Problem::TooLarge(_)), "{refused}");
    assert_eq!(number(&audit, "SELECT count(*) FROM audit_logs").await, 0);
}

#[tokio::test]
async fn times_compare_with_those_of_sqlite() {
    let (_folder, audit) = audit().await;
    let now = Timestamp::now();
    let ages = [1, 59 * 60, 61 * 60, 24 * 3600];
    let rows: Vec<_> = (0..)
        .zip(ages)
        .map(|(n, age)| entry(n, now - SignedDuration::from_secs(age)))
        .collect();
    audit.append(&rows).await.unwrap();
    let hour = "SELECT count(*) FROM audit_logs WHERE timestamp > datetime('now', '-1 hour')";
    assert_eq!(number(&audit, hour).await, 2);
    let day = "SELECT count(*) FROM audit_logs WHERE timestamp > datetime('now', '-2 days') AND timestamp <= datetime('now')";
    assert_eq!(number(&audit, day).await, 4);
    let text = |at: &str| sql_time(at.parse().unwrap());
    assert_eq!(
        text("2026-02-03T04:05:06.007999Z"),
        "2026-02-03 04:05:06.007"
    );
    assert_eq!(text("2026-02-03T04:05:06+02:00"), "2026-02-03 02:05:06.000");
}

#[tokio::test]
async fn old_rows_go_step_by_step_and_new_ones_stay() {
    let (_folder, audit) = audit().await;
    let old = u64::from(PRUNE_ROWS_MAX) + 500;
    let rows: Vec<_> = (0..old + 10)
        .map(|n| entry(n, at(i64::from(n >= old) * 100)))
        .collect();
    audit.append(&rows).await.unwrap();
    assert_eq!(
        audit.prune(at(50)).await.unwrap(),
        u64::from(PRUNE_ROWS_MAX)
    );
    assert_eq!(audit.prune(at(50)).await.unwrap(), 500);
    assert_eq!(audit.prune(at(50)).await.unwrap(), 0);
    assert_eq!(number(&audit, "SELECT count(*) FROM audit_logs").await, 10);
}

fn key(hash: &str, tenant: &str) -> KeyRow {
    KeyRow {
        hash: hash.into(),
        id: format!("id-{hash}"),
        name: "ci".into(),
        tenant: tenant.into(),
        role: "user",
        scopes: r#"["service:tools"]"#.into(),
        created_at: at(0),
        expires_at: at(1000),
        revoked_at: None,
    }
}

#[tokio::test]
async fn keys_are_those_given_and_keep_their_last_use() {
    let (_folder, audit) = audit().await;
    let mut keys = [key("a", "acme"), key("b", "globex")];
    audit.set_keys(&keys).await.unwrap();
    let uses = [("a".to_owned(), at(9)), ("nobody".to_owned(), at(9))];
    audit.touch_keys(&uses).await.unwrap();
    audit.touch_keys(&[("a".to_owned(), at(5))]).await.unwrap();

    keys[0].revoked_at = Some(at(10));
    audit.set_keys(&keys[..1]).await.unwrap();
    assert_eq!(number(&audit, "SELECT count(*) FROM api_keys").await, 1);
    let revoked = "SELECT revoked FROM api_keys WHERE revoked_at = '2023-11-14 22:13:30.000'";
    assert_eq!(number(&audit, revoked).await, 1);
    let used = audit.last_used().await.unwrap();
    assert_eq!(
        used.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), at(9))]
    );

    let mut wrong = key("c", "acme");
    wrong.role = "king";
    audit.set_keys(&[wrong]).await.unwrap_err();
    assert_eq!(
        number(&audit, "SELECT count(*) FROM api_keys").await,
        1,
        "all or nothing"
    );
    audit.set_keys(&[]).await.unwrap();
    assert_eq!(number(&audit, "SELECT count(*) FROM api_keys").await, 0);
}

#[tokio::test]
async fn flags_are_those_given() {
    let (_folder, audit) = audit().await;
    let row = |tenant: &str, flags: &str, second| FlagsRow {
        tenant: tenant.into(),
        flags: flags.into(),
        updated_at: at(second),
    };
    audit
        .set_flags(&[row("*", "{}", 0), row("acme", r#"{"a":true}"#, 0)])
        .await
        .unwrap();
    audit
        .set_flags(&[row("acme", r#"{"a":true}"#, 7)])
        .await
        .unwrap();
    let same = "SELECT count(*) FROM feature_flags WHERE updated_at = '2023-11-14 22:13:20.000'";
    assert_eq!(
        number(&audit, same).await,
        1,
        "what did not change keeps its time"
    );
    audit
        .set_flags(&[row("acme", r#"{"a":false}"#, 7)])
        .await
        .unwrap();
    assert_eq!(number(&audit, same).await, 0);
    assert_eq!(
        number(&audit, "SELECT count(*) FROM feature_flags").await,
        1
    );
}

#[tokio::test]
async fn an_answer_has_names_and_kinds() {
    let (_folder, audit) = audit().await;
    let sql = "SELECT 1 AS one, 2.5 AS real, 'x' AS text, NULL AS empty, ?1 AS given";
    let answer = audit.ask(sql, &[Cell::Text("y".into())]).await.unwrap();
    assert_eq!(answer.columns, ["one", "real", "text", "empty", "given"]);
    let text = |text: &str| Cell::Text(text.into());
    assert_eq!(
        answer.rows,
        [[
            Cell::Integer(1),
            Cell::Real(2.5),
            text("x"),
            Cell::Null,
            text("y")
        ]]
    );
    audit.ask("SELECT nonsense", &[]).await.unwrap_err();
    assert_eq!(number(&audit, "SELECT 7").await, 7, "and it works again");
}

#[tokio::test]
async fn a_damaged_file_is_kept_and_empty_tables_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.audit");
    let named = |behind: &str| folder.path().join(format!("db.audit{behind}"));
    for (damage, kept) in [(7, ".damaged"), (8, ".damaged-2")] {
        let (audit, damaged) = Audit::open_or_replace(&path).await.unwrap();
        assert_eq!(damaged, None);
        audit.append(&[entry(1, at(0))]).await.unwrap();
        audit.close().await;
        let bytes = vec![damage; 65536];
        std::fs::write(&path, &bytes).unwrap();
        let opened = Audit::open(&path).await.map(drop);
        assert_eq!(opened.unwrap_err().problem, Problem::NotADatabase);
        let (audit, damaged) = Audit::open_or_replace(&path).await.unwrap();
        assert_eq!(damaged, Some(named(kept)));
        assert_eq!(std::fs::read(named(kept)).unwrap(), bytes);
        assert_eq!(number(&audit, "SELECT count(*) FROM audit_logs").await, 0);
        audit.append(&[entry(2, at(0))]).await.unwrap();
        audit.close().await;
    }
    // What is whole, and somebody else's, is left as it is.
    let other = folder.path().join("other");
    let log = serin_store::Log::open(&other).await.unwrap();
    log.close().await;
    let refused = Audit::open_or_replace(&other).await.map(drop);
    assert!(matches!(
        refused.unwrap_err().problem,
        Problem::Foreign { .. }
    ));
    assert!(other.exists());
}
