//! Kills and revivals with the real binary: in force before the answer, kept over crashes, damage and a full disk.

mod support;

use reqwest::{Client, Response, StatusCode};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use serin_testbed::sample::ToolSet;
use std::{
    fs::OpenOptions,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin, command, run, sample, stderr, stdout, two_versions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Where the second generation of the kill file begins.
const SECOND: u64 = 2 * 1024 * 1024;

/// The admin API as a program uses it.
struct Api {
    client: Client,
    base: String,
    token: String,
}

impl Api {
    fn of(serin: &Serin) -> Self {
        Self {
            client: Client::new(),
            base: serin.admin.clone(),
            token: serin.token(),
        }
    }

    async fn get(&self, path: &str) -> Value {
        let asked = self.client.get(format!("{}{path}", self.base));
        let answer = asked.bearer_auth(&self.token).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn send(&self, path: &str, body: Value) -> Response {
        let asked = self.client.post(format!("{}{path}", self.base));
        asked
            .bearer_auth(&self.token)
            .json(&body)
            .send()
            .await
            .unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let answer = self.send(path, body).await;
        (answer.status(), answer.json().await.unwrap())
    }

    /// Kills, and returns the revision.
    async fn kill(&self, target: &str) -> u64 {
        let body = json!({"target": target, "reason": "because"});
        let (status, answer) = self.post("/admin/v1/kills", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["after"]["revision"].as_u64().unwrap()
    }

    async fn revive(&self, target: &str, revision: u64) -> (StatusCode, Value) {
        let body =
            json!({"target": target, "revision": revision, "confirm": target, "reason": "mended"});
        self.post("/admin/v1/kills/revive", body).await
    }

    /// What is killed now.
    async fn killed(&self) -> Vec<String> {
        let book = self.get("/admin/v1/kills").await;
        let kills = book["kills"].as_array().unwrap().iter();
        kills
            .map(|kill| kill["target"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What the log has of kills, in words.
    async fn logged(&self) -> Vec<String> {
        let log = self.get("/admin/v1/events?limit=1000").await;
        let events = log["events"].as_array().unwrap().iter();
        let kills = events.filter(|event| event["kind"] == "kill_copied");
        kills
            .map(|event| event["text"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(fine) => return fine,
            Err(seen) => assert!(Instant::now() < deadline, "not {what}: {seen}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_logged(api: &Api, count: usize) -> Vec<String> {
    until("in the log", async || {
        let logged = api.logged().await;
        if logged.len() >= count {
            Ok(logged)
        } else {
            Err(format!("{logged:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_in_force_and_kept_and_a_revival_needs_what_was_seen() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    let mode = std::fs::metadata(folder.path().join("serin.kills"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    for (body, status, says) in [
        (json!({"target": "system"}), 422, "needs a reason"),
        (
            json!({"target": "system", "reason": " "}),
            422,
            "needs a reason",
        ),
        (
            json!({"target": "all", "reason": "because"}),
            400,
            "not something that can be killed",
        ),
        (
            json!({"reason": "because"}),
            400,
            "one of `target` and `switch`",
        ),
        (
            json!({"switch": "x", "reason": "because"}),
            404,
            "no kill switch",
        ),
        (
            json!({"target": "system", "reason": "because", "grace": "2h"}),
            422,
            "7200 seconds",
        ),
        (
            json!({"target": "system", "reason": "x".repeat(501)}),
            422,
            "501 characters",
        ),
    ] {
        let (answered, problem) = api.post("/admin/v1/kills", body).await;
        assert_eq!(answered.as_u16(), status, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{problem}"
        );
    }
    assert_eq!(api.killed().await, [""; 0]);

    // What nobody knows may be a slip of a hand.
    for (target, note) in [
        ("service:shop", json!("there is no service `shop` here")),
        ("flag:new", json!("there is no flag `new` here")),
        ("tenant:slip", Value::Null),
    ] {
        let body = json!({"target": target, "reason": "because"});
        let (_, answer) = api.post("/admin/v1/kills", body).await;
        assert_eq!(answer["note"], note, "{answer}");
        let revision = answer["after"]["revision"].as_u64().unwrap();
        let (status, problem) = api.revive(target, revision).await;
        assert_eq!(status, StatusCode::OK, "{problem}");
    }

    let first = api.kill("tool:tools/search").await;
    let second = api.kill("tenant:acme").await;
    assert!(second > first);
    assert_eq!(api.killed().await, ["tool:tools/search", "tenant:acme"]);
    for (revision, confirm, reason, status, says) in [
        (first, "tool:tools/searc", "mended", 422, "confirmation"),
        (first, "", "mended", 422, "confirmation"),
        (first, "tool:tools/search", "", 422, "needs a reason"),
        (second, "tool:tools/search", "mended", 409, "at revision"),
        (0, "tool:tools/search", "mended", 409, "at revision"),
    ] {
        let body = json!({"target": "tool:tools/search", "revision": revision, "confirm": confirm, "reason": reason});
        let (answered, problem) = api.post("/admin/v1/kills/revive", body).await;
        assert_eq!(answered.as_u16(), status, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{problem}"
        );
    }
    let (status, problem) = api.revive("flag:other", 1).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");

    // A revival goes into the log by itself, copies of kills follow when there is time.
    until_logged(&api, 8).await;
    let (status, revived) = api.revive("tool:tools/search", first).await;
    assert_eq!(status, StatusCode::OK, "{revived}");
    assert_eq!(
        (&revived["before"]["state"], &revived["after"]["state"]),
        (&json!("killed"), &json!("revived"))
    );
    assert_eq!(api.killed().await, ["tenant:acme"]);
    let logged = until_logged(&api, 9).await;
    assert!(
        logged.last().unwrap().contains("revived tool:tools/search"),
        "{logged:?}"
    );

    let serin = serin.kill_and_restart(folder.path()).await;
    let api = Api::of(&serin);
    assert_eq!(api.killed().await, ["tenant:acme"]);
    assert_eq!(
        until_logged(&api, 9).await,
        logged,
        "nothing is copied twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_kills_shows_and_revives() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    assert!(serin.cli(&["kills"]).await.contains("nothing is killed"));
    let said = serin
        .cli(&[
            "kill",
            "flags",
            "--reason",
            "a bad release",
            "--priority",
            "P0",
        ])
        .await;
    assert!(said.contains("killed flags"), "{said}");
    let shown = serin.cli(&["kills"]).await;
    for part in ["flags", "killed", "critical", "tester", "a bad release"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let book: Value = serde_json::from_str(&serin.cli(&["kills", "--json"]).await).unwrap();
    let revision = book["kills"][0]["revision"].to_string();
    let refused = serin
        .refused(&["revive", "flags", "--reason", "mended"])
        .await;
    assert!(refused.contains("--yes"), "{refused}");
    let refused = serin
        .refused(&[
            "revive",
            "flags",
            "--revision",
            "77",
            "--yes",
            "--reason",
            "mended",
        ])
        .await;
    assert!(refused.contains("not 77"), "{refused}");
    let refused = serin.refused(&["kill", "system", "--reason", " "]).await;
    assert!(refused.contains("needs a reason"), "{refused}");
    let said = serin
        .cli(&[
            "revive",
            "flags",
            "--revision",
            &revision,
            "--yes",
            "--reason",
            "mended",
        ])
        .await;
    assert!(said.contains("revived flags"), "{said}");
    serin
        .cli(&["kill", "tool:*/a", "--reason", "because"])
        .await;
    let book: Value = serde_json::from_str(&serin.cli(&["kills", "--json"]).await).unwrap();
    let all = [
        "revive",
        "--all",
        "--yes",
        "--over",
        "1ms",
        "--reason",
        "mended",
        "--revision",
    ];
    let refused = serin.refused(&[&all[..], &["1"]].concat()).await;
    assert!(refused.contains("not 1"), "{refused}");
    let said = serin
        .cli(&[&all[..], &[&*book["revision"].to_string()]].concat())
        .await;
    assert!(said.contains("1 target is revived"), "{said}");
    until("revived", async || {
        let shown = serin.cli(&["kills"]).await;
        if shown.contains("nothing is killed") {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await;
    let metrics = reqwest::get(format!("{}/metrics", serin.admin))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("serin_kill_switches_active{scope=\"flags\"} 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains("serin_kill_propagation_seconds_count{path=\"file\"} 2"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_one_after_another() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    let mut last = 0;
    for n in 0..5 {
        last = api.kill(&format!("tool:tools/{n}")).await;
    }
    let body = |revision: u64, confirm: &str| json!({"revision": revision, "confirm": confirm, "reason": "mended", "over": "500ms"});
    let (status, _) = api.post("/admin/v1/kills/revive-all", body(last, "")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = api
        .post("/admin/v1/kills/revive-all", body(last - 1, "all"))
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, spread) = api
        .post("/admin/v1/kills/revive-all", body(last, "all"))
        .await;
    assert_eq!(
        (status, &spread["revivals"]),
        (StatusCode::ACCEPTED, &json!(5))
    );
    // Killed again while the others come back: it stays so.
    let again = api.kill("tool:tools/3").await;
    assert!(again > last);
    until("revived but for one", async || {
        let killed = api.killed().await;
        if killed == ["tool:tools/3"] {
            Ok(())
        } else {
            Err(format!("{killed:?}"))
        }
    })
    .await;
}

/// Starts a process that stops for good at a step.
async fn stopping_at(folder: &Path, step: &str) -> (Child, Api) {
    let mut command = command(folder);
    command.arg("run").env("SERIN_TEST_STOP_AT", step);
    begin(folder, command).await
}

/// Starts a process that is told when a file grows beyond its limit, and not ended.
async fn told_of_limits(folder: &Path) -> (Child, Api) {
    let serin = command(folder);
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; exec \"$0\" run";
    command
        .args(["-c", script])
        .arg(serin.as_std().get_program())
        .current_dir(folder);
    begin(folder, command).await
}

async fn begin(folder: &Path, mut command: Command) -> (Child, Api) {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("serin.log"))
        .unwrap();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let admin = timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let api = Api {
        client: Client::new(),
        base: admin
            .strip_prefix("admin listening on ")
            .unwrap()
            .to_owned(),
        token: std::fs::read_to_string(folder.join("serin.db.token"))
            .unwrap()
            .trim()
            .to_owned(),
    };
    (child, api)
}

async fn killed_at(folder: &Path, mut child: Child, step: &str) -> ExitStatus {
    until("at the step", async || {
        let log = std::fs::read_to_string(folder.join("serin.log")).unwrap();
        let is_there = log.contains("stopped for a test") && log.contains(step);
        if is_there { Ok(()) } else { Err(log) }
    })
    .await;
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    timeout(PATIENCE, child.wait()).await.unwrap().unwrap()
}

/// The process is killed after each step of a kill. Before the bytes are in the file nothing was promised; from then on it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_each_step_of_a_kill() {
    for (step, holds) in [
        // The copy in the log may have been faster than the file.
        ("kill_in_force", None),
        ("kill_written", None),
        ("kill_saved", Some(true)),
        ("kill_copied", Some(true)),
    ] {
        let folder = TempDir::new().unwrap();
        Serin::start(folder.path(), "")
            .await
            .end_by(Signal::TERM)
            .await;
        let (child, api) = stopping_at(folder.path(), step).await;
        let asked = tokio::spawn(async move {
            api.send(
                "/admin/v1/kills",
                json!({"target": "flags", "reason": "because"}),
            )
            .await
        });
        killed_at(folder.path(), child, step).await;
        // Whoever got an answer was promised something.
        asked.abort();
        let serin = Serin::start(folder.path(), "").await;
        let api = Api::of(&serin);
        let killed = api.killed().await;
        if let Some(holds) = holds {
            assert_eq!(killed.len(), usize::from(holds), "{step}");
        }
        if !killed.is_empty() {
            assert_eq!(until_logged(&api, 1).await.len(), 1, "{step}");
        }
    }
}

/// The process is killed after each step of a revival. It is revived from the moment that the log says so, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_each_step_of_a_revival() {
    for (step, is_revived) in [
        ("revival_asked", false),
        ("revival_logged", true),
        ("revival_saved", true),
    ] {
        let folder = TempDir::new().unwrap();
        let serin = Serin::start(folder.path(), "").await;
        let revision = Api::of(&serin).kill("flags").await;
        serin.end_by(Signal::TERM).await;
        let (child, api) = stopping_at(folder.path(), step).await;
        let asked = tokio::spawn(async move { api.revive("flags", revision).await });
        killed_at(folder.path(), child, step).await;
        asked.abort();
        let serin = Serin::start(folder.path(), "").await;
        let api = Api::of(&serin);
        assert_eq!(api.killed().await.is_empty(), is_revived, "{step}");
        until_logged(&api, 1 + usize::from(is_revived)).await;
    }
}

fn damage(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 30).unwrap();
    file.write_all_at(&[!byte[0]], at + 30).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_kill_file_never_revives_anything() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("serin.kills");
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    api.kill("flags").await;
    api.kill("tenant:acme").await;
    until_logged(&api, 2).await;
    serin.end_by(Signal::KILL).await;

    for at in [0, SECOND] {
        damage(&file, at);
        let serin = Serin::start(folder.path(), "").await;
        assert!(
            serin.log().contains("one of the two generations"),
            "{}",
            serin.log()
        );
        assert_eq!(
            Api::of(&serin).killed().await.len(),
            2,
            "the log has what the file lost"
        );
        serin.end_by(Signal::KILL).await;
    }
    damage(&file, 0);
    damage(&file, SECOND);
    let refused =
        Serin::start_with(folder.path(), "", "127.0.0.1:0", "listen: 127.0.0.1:0", &[]).await;
    let said = refused.err().expect("it does not start");
    assert!(said.contains("neither of its two generations"), "{said}");
    assert!(said.contains("--rebuild-kills"), "{said}");
    let serin = Serin::start_with(
        folder.path(),
        "",
        "127.0.0.1:0",
        "listen: 127.0.0.1:0",
        &["--rebuild-kills"],
    )
    .await
    .unwrap();
    assert_eq!(Api::of(&serin).killed().await.len(), 2);
    serin.end_by(Signal::KILL).await;

    std::fs::remove_file(&file).unwrap();
    let serin = Serin::start(folder.path(), "").await;
    assert_eq!(
        Api::of(&serin).killed().await.len(),
        2,
        "a file that is gone is made up from the log"
    );
}

/// Files may not grow beyond a size any more: as on a disk that is full, the log takes nothing. Of the kill file one generation lies
/// below that size and can be overwritten, the other cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_disk_kills_hold_and_revivals_wait() {
    let folder = TempDir::new().unwrap();
    Serin::start(folder.path(), "")
        .await
        .end_by(Signal::TERM)
        .await;
    let (child, api) = told_of_limits(folder.path()).await;
    // The first goes into the second half of the file, the next one into the first, and so on.
    let revision = api.kill("tenant:acme").await;
    until_logged(&api, 1).await;
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    let limit = |bytes| {
        let limit = Rlimit {
            current: Some(bytes),
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    };
    limit(
        std::fs::metadata(folder.path().join("serin.db-wal"))
            .unwrap()
            .len(),
    );
    api.kill("flags").await;
    let body = json!({"target": "tool:a/b", "reason": "because"});
    let (status, answer) = api.post("/admin/v1/kills", body).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("stays so while this process runs"),
        "{answer}"
    );
    assert_eq!(
        api.killed().await,
        ["tool:a/b", "tenant:acme", "flags"],
        "in force all the same"
    );
    let (status, problem) = api.revive("tenant:acme", revision).await;
    assert!(status.is_server_error(), "{problem}");
    assert_eq!(
        api.killed().await.len(),
        3,
        "without the log nothing is revived"
    );
    assert_eq!(api.logged().await.len(), 1);

    limit(u64::MAX >> 1);
    until_logged(&api, 3).await;
    let (status, problem) = api.revive("tenant:acme", revision).await;
    assert_eq!(status, StatusCode::OK, "{problem}");
    kill_process(pid.unwrap(), Signal::KILL).unwrap();
    drop(child.wait_with_output().await);
    let serin = Serin::start(folder.path(), "").await;
    assert_eq!(Api::of(&serin).killed().await, ["tool:a/b", "flags"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_log_keeps_nobody_from_killing() {
    use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    let options = SqliteConnectOptions::new().filename(folder.path().join("serin.db"));
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let began = Instant::now();
    api.kill("flags").await;
    api.kill("tenant:acme").await;
    // A writer waits five seconds for the lock.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(api.killed().await.len(), 2);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    until_logged(&api, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn glass_can_be_broken_without_process_token_or_configuration() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    std::fs::remove_file(folder.path().join("serin.db.token")).unwrap();
    let token = Api {
        token: String::new(),
        ..api_without_token(&serin)
    };
    let denied = token
        .send(
            "/admin/v1/kills",
            json!({"target": "flags", "reason": "because"}),
        )
        .await;
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    let refused = serin
        .refused(&["kill", "flags", "--reason", "because"])
        .await;
    assert!(refused.contains("kill --local"), "{refused}");
    let requests = folder.path().join("serin.db-kill.d");
    let said = stdout(
        &run(
            folder.path(),
            &["kill", "--local", "flags", "--reason", "a bad release"],
        )
        .await,
    );
    assert_eq!(
        said,
        format!("killed flags, by way of {}\n", requests.display())
    );

    // By hand, with a line that makes no sense.
    std::fs::write(
        requests.join("mine"),
        "tool:*/search it deletes things\nserach\n",
    )
    .unwrap();
    until("taken", async || {
        if requests.join("mine.bad").exists() {
            Ok(())
        } else {
            Err(String::new())
        }
    })
    .await;
    assert!(
        serin
            .log()
            .contains("`serach` is not something that can be killed"),
        "{}",
        serin.log()
    );
    serin.end_by(Signal::KILL).await;

    // While nobody runs, beside a configuration that cannot be read.
    let config = folder.path().join("serin.yaml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "gateway: [").unwrap();
    let waits = run(
        folder.path(),
        &["kill", "--local", "tenant:acme", "--reason", "because"],
    )
    .await;
    assert!(
        stdout(&waits).contains("nobody has taken the request yet"),
        "{}{}",
        stdout(&waits),
        stderr(&waits)
    );
    std::fs::write(&config, good).unwrap();
    let serin = Serin::start(folder.path(), "").await;
    assert_eq!(
        Api::of(&serin).killed().await,
        ["tool:*/search", "tenant:acme", "flags"]
    );
    let shown = serin.cli(&["kills"]).await;
    assert!(
        shown.contains("a bad release") && shown.contains("tester"),
        "{shown}"
    );
    let left: Vec<_> = std::fs::read_dir(&requests).unwrap().collect();
    assert_eq!(left.len(), 1, "only the bad one: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_would_take_a_request_it_is_refused() {
    let folder = TempDir::new().unwrap();
    let here = folder.path().canonicalize().unwrap();
    std::fs::create_dir(here.join("elsewhere")).unwrap();
    for (store, empty) in [(None, "."), (Some("elsewhere/serin.db"), "elsewhere")] {
        let mut arguments = vec!["kill", "--local", "flags", "--reason", "because"];
        arguments.extend(store.iter().flat_map(|store| ["--store", store]));
        let refused = run(&here, &arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{}", stdout(&refused));
        let said = stderr(&refused);
        let looked_at = std::path::absolute(here.join(empty)).unwrap();
        for part in [
            "nobody would take",
            "--store FILE",
            looked_at.to_str().unwrap(),
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(&here).unwrap().collect();
    assert_eq!(left.len(), 1, "no folder is made: {left:?}");

    // Beside a configuration, `serin run` will take it.
    std::fs::write(here.join("serin.yaml"), "").unwrap();
    let waits = run(&here, &["kill", "--local", "flags", "--reason", "because"]).await;
    assert_eq!(waits.status.code(), Some(0), "{}", stderr(&waits));
    let requests = here.join("serin.db-kill.d");
    assert!(
        stdout(&waits).contains(requests.to_str().unwrap()),
        "{}",
        stdout(&waits)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_can_be_pulled_at_once_and_what_looks_like_a_slip_is_said() {
    let samples = [
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    ];
    let folder = TempDir::new().unwrap();
    let services = two_versions(&samples[0].url(), &samples[1].url());
    let serin = Serin::start(folder.path(), &services).await;
    let api = Api::of(&serin);
    for n in 0..5 {
        let name = format!("down-{n}");
        let manifest = format!("kill_switches: {{ {name}: {{ target: \"tenant:t-{n}\" }} }}\n");
        std::fs::write(folder.path().join("switch.yaml"), manifest).unwrap();
        serin.cli(&["apply", "-f", "switch.yaml"]).await;
        let said = serin
            .cli(&["kill", "--switch", &name, "--reason", "because"])
            .await;
        assert!(said.contains(&format!("killed tenant:t-{n}")), "{said}");
    }

    // What the versions list is known after their first probes.
    until("known", async || {
        let book = json!({"target": "tool:tools/serach", "reason": "because"});
        let (_, answer) = api.post("/admin/v1/kills", book).await;
        let revision = answer["after"]["revision"].as_u64().unwrap();
        api.revive("tool:tools/serach", revision).await;
        if answer["note"] == "no version of `tools` is known to list a tool `serach`" {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    let (_, known) = api
        .post(
            "/admin/v1/kills",
            json!({"target": "tool:*/get_entry", "reason": "because"}),
        )
        .await;
    assert_eq!(known["note"], Value::Null, "{known}");

    // What the admin API refuses makes no more sense past it.
    let refused = serin
        .refused(&["kill", "--switch", "nothing", "--reason", "because"])
        .await;
    assert!(
        refused.contains("down-0") && !refused.contains("--local"),
        "{refused}"
    );
    let wrong = serin
        .run(&["kill", "environment:qa", "--reason", "because"])
        .await;
    assert!(
        stderr(&wrong).contains("staging, canary or production"),
        "{}",
        stderr(&wrong)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revivals_under_way_are_shown_with_their_turns() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    let mut last = 0;
    for n in 0..3 {
        last = api.kill(&format!("tool:tools/{n}")).await;
    }
    let body = json!({"revision": last, "confirm": "all", "reason": "mended", "over": "10m"});
    let (status, _) = api.post("/admin/v1/kills/revive-all", body).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let book = api.get("/admin/v1/kills").await;
    let kills = book["kills"].as_array().unwrap();
    assert!(
        kills.iter().all(|kill| kill["comes_back_at"].is_string()),
        "{book}"
    );
    let shown = serin.cli(&["kills"]).await;
    let count = kills.len();
    assert!(
        shown.contains("back at ") && shown.contains(&format!("being revived: {count} of them")),
        "{shown}"
    );
}

fn api_without_token(serin: &Serin) -> Api {
    Api {
        client: Client::new(),
        base: serin.admin.clone(),
        token: String::new(),
    }
}

/// Many kill and revive at once while definitions change: whatever was killed last stays killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_revivals_and_changes_of_flags_do_not_disturb_each_other() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    let flag = |on: bool| {
        json!({"state": if on { "ENABLED" } else { "DISABLED" }, "variants": {"on": true, "off": false},
            "defaultVariant": "on", "serin": {"offVariant": "off"}})
    };
    let change = async {
        for turn in 0..20 {
            let asked = api
                .client
                .put(format!("{}/admin/v1/flags/search", api.base));
            let answer = asked
                .bearer_auth(&api.token)
                .json(&json!({"flag": flag(turn % 2 == 0), "reason": "because"}))
                .send()
                .await
                .unwrap();
            assert!(
                answer.status().is_success(),
                "{}",
                answer.text().await.unwrap()
            );
        }
    };
    let kill = async |target: String| {
        for _ in 0..10 {
            let revision = api.kill(&target).await;
            let (status, problem) = api.revive(&target, revision).await;
            assert_eq!(status, StatusCode::OK, "{problem}");
        }
        api.kill(&target).await;
    };
    tokio::join!(
        change,
        kill("flag:search".into()),
        kill("flags".into()),
        kill("tool:tools/a".into())
    );
    assert_eq!(api.killed().await, ["tool:tools/a", "flag:search", "flags"]);
    until_logged(&api, 3 * 21).await;
    let serin = serin.kill_and_restart(folder.path()).await;
    assert_eq!(Api::of(&serin).killed().await.len(), 3);
}

/// Every type of flag at every scope, with rules that break: each kill shows in the very next answer, and reviving restores exactly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_flag_is_off_at_every_scope() {
    let types = [
        ("boolean", json!({"on": true, "off": false})),
        ("number", json!({"on": 10, "off": 0})),
        ("text", json!({"on": "new", "off": "old"})),
        ("object", json!({"on": {"a": 1}, "off": {}})),
    ];
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let api = Api::of(&serin);
    for (key, variants) in &types {
        // The caller's own attribute names the variant: one that there is not breaks the rule.
        let flag = json!({"state": "ENABLED", "variants": variants, "defaultVariant": "on", "targeting": {"var": "variant"},
            "serin": {"offVariant": "off"}});
        let asked = api.client.put(format!("{}/admin/v1/flags/{key}", api.base));
        let answer = asked
            .bearer_auth(&api.token)
            .json(&json!({"flag": flag, "reason": "because"}))
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }
    let ask = async |key: &str, variant: &str| {
        let context =
            json!({"context": {"targetingKey": "u", "tenant": "acme", "variant": variant}});
        api.post(&format!("/ofrep/v1/evaluate/flags/{key}"), context)
            .await
            .1
    };
    for scope in [
        "system",
        "environment:development",
        "tenant:acme",
        "flags",
        "flag",
    ] {
        for (key, variants) in &types {
            let target = if scope == "flag" {
                format!("flag:{key}")
            } else {
                scope.to_owned()
            };
            let fine = ask(key, "on").await;
            assert_eq!(fine["value"], variants["on"], "{fine}");
            let revision = api.kill(&target).await;
            for variant in ["on", "broken"] {
                let off = ask(key, variant).await;
                assert_eq!(
                    (&off["value"], &off["reason"]),
                    (&variants["off"], &json!("DISABLED")),
                    "{target}: {off}"
                );
            }
            let (status, problem) = api.revive(&target, revision).await;
            assert_eq!(status, StatusCode::OK, "{problem}");
            assert_eq!(ask(key, "on").await, fine, "{target}");
        }
    }
}
