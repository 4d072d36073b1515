//! Keys and tenants through the real binary: a key from its making to its end, across a power cut, and what keys may do.

mod support;

use aws_lc_rs::{digest, hmac};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use support::{PATIENCE, Serin, command, stderr, stdout};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

const FILE: &str = "services:\n  tools: { protocol: http, path: /tools, stable: v1, versions: { v1: { endpoints: [\"http://127.0.0.1:1/\"] } } }\n\
    tiers:\n  free: { limits: [ { rate: 100/hour } ] }\n";

/// Runs a command as whoever holds a key.
async fn as_key(serin: &Serin, folder: &Path, key: &str, arguments: &[&str]) -> Output {
    let output = command(folder)
        .args(["--admin", &serin.admin])
        .args(arguments)
        .env("SERIN_TOKEN", key)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, output).await.expect("it ends").unwrap()
}

async fn json_of(serin: &Serin, arguments: &[&str]) -> Value {
    serde_json::from_str(&serin.cli(arguments).await).unwrap()
}

/// The id in a key.
fn id(key: &str) -> &str {
    &key[6..18]
}

/// Every file of a folder that holds a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let found = files.filter(|path| path.is_file() && holds(path));
    found.map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_printed_once_and_kept_nowhere() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), FILE).await;
    let made = serin
        .cli(&[
            "tenant",
            "create",
            "acme",
            "--title",
            "Acme Inc.",
            "--tier",
            "free",
        ])
        .await;
    assert!(made.contains("tenant acme is active, tier free"), "{made}");

    let output = serin
        .run(&[
            "key",
            "create",
            "--tenant",
            "acme",
            "--name",
            "ci",
            "--role",
            "admin",
            "--expires",
            "90d",
        ])
        .await;
    assert!(output.status.success(), "{}", stderr(&output));
    // Alone on standard output: `KEY=$(serin key create ...)`.
    let key = stdout(&output).trim_end().to_owned();
    assert!(
        key.starts_with("serin_") && !key.contains(char::is_whitespace),
        "{key}"
    );
    let said = stderr(&output);
    assert!(
        said.contains(id(&key)) && said.contains("not shown again") && !said.contains(&key),
        "{said}"
    );

    for arguments in [
        &["key", "list"][..],
        &["key", "list", "--json"],
        &["key", "show", id(&key)],
        &["key", "show", id(&key), "--json"],
        &["key", "list", "--tenant", "acme", "--state", "active"],
    ] {
        let shown = serin.cli(arguments).await;
        assert!(
            shown.contains(id(&key)) && shown.contains("acme"),
            "{shown}"
        );
        assert!(!shown.contains(&key[20..60]), "{shown}");
    }
    let table = serin.cli(&["tenant", "list"]).await;
    assert!(
        table.contains("Acme Inc.") && table.contains("free"),
        "{table}"
    );

    // Neither after a power cut is it anywhere, and it still opens.
    let serin = serin.kill_and_restart(folder.path()).await;
    assert_eq!(holding(folder.path(), &key[20..60]), Vec::<String>::new());
    let output = as_key(
        &serin,
        folder.path(),
        &key,
        &["kill", "tool:tools/x", "--reason", "bad"],
    )
    .await;
    assert!(output.status.success(), "{}", stderr(&output));
    let kills = serin.cli(&["kills"]).await;
    assert!(kills.contains(&format!("key:{} ci", id(&key))), "{kills}");

    // Rotated and revoked: what is answered is in force, and stays so after a power cut.
    let next = serin
        .cli(&[
            "key",
            "rotate",
            id(&key),
            "--overlap",
            "1h",
            "--reason",
            "due",
        ])
        .await;
    let next = next.trim_end();
    for key in [key.as_str(), next] {
        let output = as_key(&serin, folder.path(), key, &["service", "list"]).await;
        assert!(output.status.success(), "{}", stderr(&output));
    }
    serin
        .cli(&["key", "revoke", id(&key), "--reason", "lost"])
        .await;
    let again = serin
        .cli(&["key", "revoke", id(&key), "--reason", "lost"])
        .await;
    assert!(again.contains("nothing to do"), "{again}");
    let serin = serin.kill_and_restart(folder.path()).await;
    let output = as_key(&serin, folder.path(), &key, &["service", "list"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("not one that opens anything"),
        "{}",
        stderr(&output)
    );
    let output = as_key(&serin, folder.path(), next, &["service", "list"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = json_of(&serin, &["key", "show", id(&key), "--json"]).await;
    assert_eq!(
        (&shown["state"], &shown["replaced_by"]),
        (&json!("revoked"), &json!(id(next)))
    );
    let refused = serin.refused(&["key", "rotate", id(&key)]).await;
    assert!(refused.contains("was revoked"), "{refused}");
    assert!(!serin.log().contains(&key[20..60]), "{}", serin.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_may_do_what_its_role_and_scopes_say() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), FILE).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    serin.cli(&["tenant", "create", "globex"]).await;
    let make = async |tenant, role, scope| {
        let arguments = [
            "key", "create", "--tenant", tenant, "--role", role, "--scope", scope,
        ];
        serin.cli(&arguments).await.trim_end().to_owned()
    };
    let reader = make("acme", "read_only", "admin:*").await;
    let steward = make("acme", "user", "admin:read,admin:keys").await;
    let other = make("globex", "user", "service:tools").await;
    for (key, arguments, wanted) in [
        (&reader, &["service", "list"][..], None),
        (
            &reader,
            &["kill", "flags", "--reason", "x"],
            Some("`admin:kill`"),
        ),
        (&steward, &["flag", "create", "a"], Some("`admin:flags`")),
        (
            &steward,
            &["key", "show", id(&other)],
            Some("there is no key"),
        ),
        (
            &steward,
            &["key", "revoke", id(&other), "--reason", "x"],
            Some("there is no key"),
        ),
        (
            &steward,
            &["key", "create", "--tenant", "globex"],
            Some("no tenant `globex`"),
        ),
        (
            &steward,
            &["key", "create", "--tenant", "acme", "--role", "admin"],
            Some("the role admin"),
        ),
        (
            &steward,
            &["tenant", "suspend", "acme"],
            Some("for operators"),
        ),
        (
            &steward,
            &["tenant", "set", "acme", "--tier", "free"],
            Some("for operators"),
        ),
        (&other, &["key", "list"], Some("`admin:read`")),
    ] {
        let output = as_key(&serin, folder.path(), key, arguments).await;
        let said = stderr(&output);
        match wanted {
            None => assert!(output.status.success(), "{arguments:?}: {said}"),
            Some(wanted) => {
                assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
                assert!(said.contains(wanted), "{arguments:?}: {said}");
            }
        }
    }
    let mine = as_key(&serin, folder.path(), &steward, &["key", "list"]).await;
    let mine = stdout(&mine);
    assert!(
        mine.contains(id(&reader)) && !mine.contains(id(&other)) && !mine.contains("globex"),
        "{mine}"
    );

    // A suspended tenant's keys open nothing, and open again when it is resumed.
    for (turn, opens) in [("suspend", false), ("resume", true)] {
        serin.cli(&["tenant", turn, "acme"]).await;
        let output = as_key(&serin, folder.path(), &reader, &["service", "list"]).await;
        assert_eq!(output.status.success(), opens, "{turn}");
    }
    let refused = serin.refused(&["tenant", "delete", "acme"]).await;
    assert!(refused.contains("2 keys in force"), "{refused}");
    let refused = serin
        .refused(&["key", "create", "--tenant", "acme", "--tier", "gold"])
        .await;
    assert!(refused.contains("the tiers are: free"), "{refused}");
    let output = serin
        .run(&["key", "create", "--tenant", "acme", "--scope", "tools"])
        .await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("`service:NAME`"),
        "{}",
        stderr(&output)
    );
}

/// The address of a server that answers everything with 200.
async fn answering() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(1..) = stream.read(&mut [0; 16 * 1024]).await {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    url
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// What becomes of a request with this key that is signed with this secret.
async fn signed(serin: &Serin, key: &str, secret: &str, nonce: &str) -> StatusCode {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // Later than the second in which the gateway started.
    let timestamp = since.as_secs() + 2;
    let body = hex(digest::digest(&digest::SHA256, b"hello").as_ref());
    let text = format!("serin1\n{timestamp}\n{nonce}\nPOST\n/web\n{body}");
    let by = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let request = reqwest::Client::new()
        .post(serin.url("/web"))
        .bearer_auth(key)
        .header("x-serin-timestamp", timestamp)
        .header("x-serin-nonce", nonce)
        .header(
            "x-serin-signature",
            hex(hmac::sign(&by, text.as_bytes()).as_ref()),
        )
        .body("hello");
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_meant_is_said() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), FILE).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    for (scope, note) in [
        ("admin:read,admin:rollout", "reaches every one of them"),
        ("category:tools/x", "`category:tools/x`"),
        ("service:tools", ""),
    ] {
        let made = serin
            .run(&["key", "create", "--tenant", "acme", "--scope", scope])
            .await;
        let said = stderr(&made);
        assert!(made.status.success() && said.contains(note), "{said}");
        assert_eq!(said.contains("note: "), !note.is_empty(), "{said}");
    }
    let suspended = serin.cli(&["tenant", "suspend", "acme", "--yes"]).await;
    assert!(
        suspended.contains("tenant acme is suspended"),
        "{suspended}"
    );
    let made = serin.run(&["key", "create", "--tenant", "acme"]).await;
    assert!(stderr(&made).contains("serin tenant resume acme"));
    let resumed = serin.cli(&["tenant", "resume", "acme"]).await;
    assert!(resumed.contains("tenant acme is active"), "{resumed}");
    let none = serin.cli(&["key", "list", "--tenant", "nope"]).await;
    assert!(none.contains("serin tenant list"), "{none}");
    let kill = ["kill", "tenant:acmee", "--reason", "x", "--yes"];
    let killed = serin.run(&kill).await;
    let said = stderr(&killed);
    assert!(said.contains("no tenant `acmee`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_signs_is_replaced_by_one_that_signs() {
    let folder = TempDir::new().unwrap();
    let url = answering().await;
    let file = format!(
        "services:\n  web:\n    protocol: http\n    path: /web\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n    \
         settings: {{ auth: serin, signing: required }}\n"
    );
    let serin = Serin::start(folder.path(), &file).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let pair = |printed: &str| {
        let (key, secret) = printed.trim_end().split_once('\n').expect("two lines");
        (key.to_owned(), secret.to_owned())
    };
    let made = ["key", "create", "--tenant", "acme", "--signing"];
    let (old, old_secret) = pair(&serin.cli(&made).await);
    let rotated = ["key", "rotate", id(&old), "--overlap", "1h"];
    let (new, new_secret) = pair(&serin.cli(&rotated).await);
    assert_ne!(old_secret, new_secret);

    // Within the overlap both open, each with its own secret, also after a power cut.
    let serin = serin.kill_and_restart(folder.path()).await;
    for (key, secret, nonce, status) in [
        (&old, &old_secret, "nonce-0000000001", StatusCode::OK),
        (&new, &new_secret, "nonce-0000000002", StatusCode::OK),
        (
            &new,
            &old_secret,
            "nonce-0000000003",
            StatusCode::UNAUTHORIZED,
        ),
        (
            &old,
            &new_secret,
            "nonce-0000000004",
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        assert_eq!(signed(&serin, key, secret, nonce).await, status, "{nonce}");
    }
    let bare = reqwest::Client::new()
        .post(serin.url("/web"))
        .bearer_auth(&new);
    let bare = bare.send().await.unwrap().status();
    assert_eq!(bare, StatusCode::UNAUTHORIZED);
    let shown = json_of(&serin, &["key", "show", id(&new), "--json"]).await;
    assert_eq!(shown["signs"], true, "{shown}");

    // Without an overlap the other ends at once.
    let rotated = ["key", "rotate", id(&new), "--overlap", "0s"];
    let (newest, newest_secret) = pair(&serin.cli(&rotated).await);
    for (key, secret, nonce, status) in [
        (
            &new,
            &new_secret,
            "nonce-0000000005",
            StatusCode::UNAUTHORIZED,
        ),
        (&newest, &newest_secret, "nonce-0000000006", StatusCode::OK),
    ] {
        assert_eq!(signed(&serin, key, secret, nonce).await, status, "{nonce}");
    }
}

/// A row of a table of the audit file, as text; nothing while there is none.
async fn row(folder: &Path, sql: &str) -> Option<Vec<Option<String>>> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("serin.audit.db"))
        .read_only(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    let row = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_optional(&mut conn)
        .await
        .unwrap()?;
    Some((0..row.len()).map(|at| row.get(at)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_follow_the_log() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), FILE).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let made = json_of(
        &serin,
        &[
            "key", "create", "--tenant", "acme", "--name", "ci", "--role", "admin", "--json",
        ],
    )
    .await;
    let key = made["key"].as_str().unwrap().to_owned();
    serin.cli(&["flag", "create", "search", "--on"]).await;
    serin.cli(&["flag", "create", "beta", "--off"]).await;
    serin
        .cli(&[
            "flag",
            "override",
            "beta",
            "--tenant",
            "acme",
            "--variant",
            "on",
        ])
        .await;
    let output = as_key(&serin, folder.path(), &key, &["service", "list"]).await;
    assert!(output.status.success());
    let used = json_of(&serin, &["key", "show", id(&key), "--json"]).await;
    assert!(used["last_used_at"].is_string(), "{used}");
    serin
        .cli(&["key", "revoke", id(&key), "--reason", "done"])
        .await;

    let hash = "SELECT key_hash FROM api_keys";
    let keys = format!(
        "SELECT tenant_id, role, scopes, CAST(revoked AS TEXT), revoked_at, name, key_id FROM api_keys WHERE key_id = '{}' AND revoked = 1 AND last_used_at IS NOT NULL",
        id(&key)
    );
    let flags = "SELECT f.flags, everybody.flags FROM feature_flags f, feature_flags everybody WHERE f.tenant_id = 'acme' AND everybody.tenant_id = '*'";
    let deadline = Instant::now() + PATIENCE;
    let (found, flags) = loop {
        // The first start makes the file.
        if let (Some(found), Some(flags)) = (
            row(folder.path(), &keys).await,
            row(folder.path(), flags).await,
        ) {
            break (found, flags);
        }
        assert!(Instant::now() < deadline, "{}", serin.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        (&found[..4], &found[5..]),
        (
            &[some("acme"), some("admin"), some("[]"), some("1")][..],
            &[some("ci"), some(id(&key))][..]
        )
    );
    assert_eq!(
        flags,
        [
            some(r#"{"beta":true,"search":true}"#),
            some(r#"{"beta":false,"search":true}"#)
        ]
    );
    // What is kept is a hash, not the key.
    let hash = row(folder.path(), hash).await.unwrap()[0].clone().unwrap();
    assert!(hash.len() == 64 && !key.contains(&hash), "{hash}");
}
