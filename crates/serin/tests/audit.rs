//! The audit trail through the real binary: a row of each request, whatever becomes of it, of the process, or of the disk.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]

mod support;

use reqwest::{Client, StatusCode};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use serin_store::{Audit, Cell};
use serin_testbed::{
    client::Era,
    load::{self, LoadOptions},
    sample::ToolSet,
    upstream::Upstream,
};
use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin, sample};
use tempfile::TempDir;

/// The sample as `tools`, and `closed`, which asks for keys; with these words of `audit`.
fn file(audit: &str, url: &str) -> String {
    let service = |path: &str, more: &str| {
        format!(
            "{{ protocol: mcp, path: {path}, stable: v1, versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}{more} }}"
        )
    };
    format!(
        "audit: {{ {audit} }}\nservices:\n  tools: {}\n  closed: {}\n",
        service("/mcp", ""),
        service("/closed", ", settings: { auth: serin }")
    )
}

/// A call of a tool, in the modern era, which needs no session.
async fn call(serin: &Serin, path: &str, tool: &str, key: Option<&str>) -> StatusCode {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let arguments = json!({ "id": "e1", "password": "hunter2" });
    let body = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": tool, "arguments": arguments, "_meta": meta },
    });
    let mut request = Client::new()
        .post(serin.url(path))
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .header("user-agent", "tester/1")
        .json(&body);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    response.bytes().await.unwrap();
    status
}

async fn get(serin: &Serin, path: &str) -> StatusCode {
    reqwest::get(serin.url(path)).await.unwrap().status()
}

async fn metric(serin: &Serin, name: &str) -> u64 {
    let page = reqwest::get(format!("{}/metrics", serin.admin))
        .await
        .unwrap();
    let page = page.text().await.unwrap();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse::<f64>().unwrap() as u64
}

/// Rows of the table, as SQL asks for them.
async fn rows(folder: &Path, sql: &str) -> Vec<Vec<Cell>> {
    let tables = Audit::open(&folder.join("serin.audit.db")).await.unwrap();
    let answer = tables.ask(sql, &[]).await.unwrap();
    tables.close().await;
    answer.rows
}

async fn count(folder: &Path, what: &str) -> u64 {
    let rows = rows(
        folder,
        &format!("SELECT count(*) FROM audit_logs WHERE {what}"),
    )
    .await;
    match rows[0][0] {
        Cell::Integer(number) => u64::try_from(number).unwrap(),
        ref other => panic!("{other:?}"),
    }
}

async fn until_counted(folder: &Path, what: &str, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = count(folder, what).await;
        if found == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{found} rows, not {wanted}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_a_row_that_says_what_became_of_it() {
    let folder = TempDir::new().unwrap();
    let sample = sample("v1", ToolSet::V1).await;
    let serin = Serin::start(folder.path(), &file("arguments: redacted", &sample.url())).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let key = serin
        .cli(&["key", "create", "--tenant", "acme", "--expires", "1d"])
        .await;
    let key = key.trim();

    assert_eq!(
        call(&serin, "/mcp?token=hunter3", "get_entry", None).await,
        StatusCode::OK
    );
    call(&serin, "/mcp", "nonsense", None).await;
    assert_eq!(
        call(&serin, "/closed", "get_entry", Some(key)).await,
        StatusCode::OK
    );
    assert_eq!(
        call(&serin, "/closed", "get_entry", None).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        call(&serin, "/closed", "get_entry", Some("serin_x_y")).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(get(&serin, "/nothing/here").await, StatusCode::NOT_FOUND);
    assert_eq!(get(&serin, "/health").await, StatusCode::OK);
    until_counted(folder.path(), "1", 6).await;

    let sql = "SELECT status_code, outcome, service, version, rpc_method, tool, tenant_id, error_message IS NOT NULL, length(api_key_hash)
               FROM audit_logs ORDER BY id";
    let said: Vec<String> = rows(folder.path(), sql)
        .await
        .iter()
        .map(|row| {
            let cells = row.iter().map(|cell| match cell {
                Cell::Null => "-".to_owned(),
                Cell::Integer(number) => number.to_string(),
                Cell::Real(number) => number.to_string(),
                Cell::Text(text) => text.clone(),
            });
            cells.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(said[0], "200 ok tools v1 tools/call get_entry  0 0");
    assert!(
        said[1].contains(" tools v1 tools/call nonsense ") && !said[1].contains(" ok "),
        "{}",
        said[1]
    );
    assert_eq!(said[2], "200 ok closed v1 tools/call get_entry acme 0 64");
    assert_eq!(said[3], "401 auth closed - - -  1 0");
    assert_eq!(said[4], said[3]);
    assert_eq!(said[5], "404 route - - - -  1 0");

    let sql = "SELECT DISTINCT ip_address, user_agent, endpoint, method, arguments FROM audit_logs WHERE id = (SELECT min(id) FROM audit_logs)";
    let text = |text: &str| Cell::Text(text.into());
    let arguments = text(r#"{"id":"e1","password":"[redacted]"}"#);
    assert_eq!(
        rows(folder.path(), sql).await,
        [[
            text("127.0.0.1"),
            text("tester/1"),
            text("/mcp"),
            text("POST"),
            arguments
        ]]
    );
    assert_eq!(
        count(folder.path(), "timestamp > datetime('now', '-1 minute')").await,
        6
    );

    // The report says the same.
    let report: Value =
        serde_json::from_str(&serin.cli(&["report", "auth", "--json"]).await).unwrap();
    assert_eq!(report["rows"][0][0], 6);
    assert_eq!(report["rows"][0][1], 4);
    let table = serin.cli(&["report", "tools", "--window", "5m"]).await;
    assert!(
        table.starts_with("TOOL") && table.contains("get_entry") && table.contains("100.00"),
        "{table}"
    );
    let of_acme: Value = serde_json::from_str(
        &serin
            .cli(&["report", "errors", "--tenant", "acme", "--json"])
            .await,
    )
    .unwrap();
    assert_eq!(of_acme["rows"], json!([["/closed", 1, 0, 0.0, 0]]));
    assert!(
        serin
            .cli(&["report", "errors", "--sql"])
            .await
            .contains("datetime('now', '-1 hour')")
    );

    // And so does the route of scripts.
    let ask = async |query: &str| {
        let url = format!("{}/admin/metrics?{query}", serin.admin);
        let answer = Client::new()
            .get(url)
            .bearer_auth(serin.token())
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let (status, figure) = ask("metric=auth_success_rate&window=5m").await;
    assert_eq!(
        (status, figure["requests"].as_u64()),
        (StatusCode::OK, Some(6)),
        "{figure}"
    );
    assert!(
        (figure["value"].as_f64().unwrap() - 400.0 / 6.0).abs() < 1e-9,
        "{figure}"
    );
    let (status, problem) = ask("metric=nonsense").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        problem["help"].as_str().unwrap().contains("p95_latency"),
        "{problem}"
    );
    assert_eq!(
        ask("metric=error_rate&window=1y").await.0,
        StatusCode::BAD_REQUEST
    );

    // A clean end leaves nothing behind.
    call(&serin, "/mcp", "get_entry", None).await;
    assert_eq!(metric(&serin, "serin_audit_lost_total").await, 0);
    serin.end_by(Signal::TERM).await;
    assert_eq!(count(folder.path(), "1").await, 7);
    let log = std::fs::read_to_string(folder.path().join("serin.log")).unwrap();
    for secret in ["hunter2", "hunter3", key] {
        assert!(!log.contains(secret), "{log}");
        let sql = format!(
            "SELECT count(*) FROM audit_logs WHERE instr(endpoint || coalesce(error_message, '') || coalesce(arguments, ''), '{secret}')"
        );
        assert_eq!(rows(folder.path(), &sql).await, [[Cell::Integer(0)]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_means_off() {
    let folder = TempDir::new().unwrap();
    let sample = sample("v1", ToolSet::V1).await;
    let serin = Serin::start(folder.path(), &file("mode: off", &sample.url())).await;
    assert_eq!(
        call(&serin, "/mcp", "get_entry", None).await,
        StatusCode::OK
    );
    serin.end_by(Signal::TERM).await;
    assert_eq!(count(folder.path(), "1").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_tables_keep_nobody_from_serving_and_recording() {
    let folder = TempDir::new().unwrap();
    let sample = sample("v1", ToolSet::V1).await;
    let path = folder.path().join("serin.audit.db");
    let damaged = vec![7; 65536];
    std::fs::write(&path, &damaged).unwrap();
    let serin = Serin::start(folder.path(), &file("mode: best_effort", &sample.url())).await;
    assert_eq!(
        call(&serin, "/mcp", "get_entry", None).await,
        StatusCode::OK
    );
    until_counted(folder.path(), "tool = 'get_entry'", 1).await;
    let kept = folder.path().join("serin.audit.db.damaged");
    assert_eq!(std::fs::read(kept).unwrap(), damaged);
    assert!(
        serin.log().contains("serin.audit.db.damaged"),
        "{}",
        serin.log()
    );
}

/// Calls for a while, and says how many were answered well and how many a second.
async fn load(url: String, seconds: f64) -> load::LoadReport {
    let options = LoadOptions {
        url,
        connections: 8,
        callers: None,
        era: Era::Modern,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs_f64(seconds),
    };
    load::run(&options, || ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_no_more_than_its_last_flush() {
    let folder = TempDir::new().unwrap();
    let upstream = Upstream::start(SocketAddr::from(([127, 0, 0, 1], 0)), "v1")
        .await
        .unwrap();
    let serin = Serin::start(folder.path(), &file("mode: required", &upstream.url())).await;
    let loading = tokio::spawn(load(serin.url("/mcp"), 1.0));
    let deadline = Instant::now() + PATIENCE;
    while metric(&serin, "serin_audit_rows_total").await < 300 {
        assert!(Instant::now() < deadline, "{}", serin.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let serin = serin.kill_and_restart(folder.path()).await;
    let report = loading.await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while metric(&serin, "serin_audit_waiting").await > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    serin.end_by(Signal::TERM).await;
    let kept = count(folder.path(), "outcome = 'ok' AND tool IS NOT NULL").await;
    // Ten milliseconds, and as long again for a busy machine to get round to it: at most a tenth of a second's calls.
    let flush = (report.calls_per_second * 0.1) as u64 + 16;
    assert!(
        kept + flush >= report.calls,
        "{kept} rows of {} answers",
        report.calls
    );
    assert!(
        kept <= report.calls + report.errors + 16,
        "{kept} rows of {} answers",
        report.calls
    );
}

/// Files may not grow any more, as on a full disk, until the limit is lifted.
fn limit_files(serin: &Serin, bytes: u64) {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: None,
    };
    prlimit(Pid::from_raw(serin.pid()), Resource::Fsize, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_what_must_be_recorded_and_nothing_else() {
    for (mode, is_required) in [("required", true), ("best_effort", false)] {
        let folder = TempDir::new().unwrap();
        let sample = sample("v1", ToolSet::V1).await;
        let serin = Serin::start_deaf_to_limits(
            folder.path(),
            &file(&format!("mode: {mode}"), &sample.url()),
        )
        .await;
        assert_eq!(
            call(&serin, "/mcp", "get_entry", None).await,
            StatusCode::OK
        );
        until_counted(folder.path(), "1", 1).await;
        limit_files(&serin, 1);

        // The first finds out.
        let mut answered = 1;
        let deadline = Instant::now() + PATIENCE;
        let refused = loop {
            match call(&serin, "/mcp", "get_entry", None).await {
                StatusCode::OK => answered += 1,
                StatusCode::SERVICE_UNAVAILABLE => break true,
                other => panic!("{other}"),
            }
            if !is_required && answered > 30 {
                break false;
            }
            assert!(Instant::now() < deadline, "{}", serin.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(refused, is_required, "{mode}");
        if is_required {
            let answer = reqwest::get(serin.url("/mcp")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers().contains_key("retry-after"));
            assert_eq!(get(&serin, "/health").await, StatusCode::OK);
        }

        limit_files(&serin, u64::MAX >> 1);
        let deadline = Instant::now() + PATIENCE;
        while call(&serin, "/mcp", "get_entry", None).await != StatusCode::OK {
            assert!(Instant::now() < deadline, "{}", serin.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Nothing of what was answered is missing, and what was refused is not there.
        until_counted(folder.path(), "1", answered + 1).await;
        assert_eq!(metric(&serin, "serin_audit_lost_total").await, 0);
        serin.end_by(Signal::TERM).await;
    }
}
