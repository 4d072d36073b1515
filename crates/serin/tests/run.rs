//! `serin run` with the commands that steer it, as real processes.

mod support;

use serde_json::{Value, json};
use serin_testbed::{
    client::{Client, Era},
    population::{Population, PopulationOptions},
    sample::ToolSet,
};
use std::process::Stdio;
use support::{PATIENCE, Serin, command, sample, stderr, stdout, two_versions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

/// What applying a file cannot do, or does not do unasked, is said; nobody reads that all is as described.
#[tokio::test]
async fn what_a_file_leaves_as_it_is_is_said() {
    let sample = sample("v1", ToolSet::V1).await;
    let folder = TempDir::new().unwrap();
    let services = two_versions(&sample.url(), &sample.url());
    let more = "tiers: { free: { limits: [{ rate: 100/hour }] } }\napi: { v1: { service: tools } }\nlimiter: { redis: 'redis://127.0.0.1:1' }\n";
    let serin = Serin::start(folder.path(), &format!("{services}{more}")).await;
    let diff = ["diff", "-f", "serin.yaml"];
    assert_eq!(serin.cli(&diff).await, "no drift: all is as described\n");

    let path = folder.path().join("serin.yaml");
    let file = std::fs::read_to_string(&path).unwrap();
    let file = file
        .replace(more, "")
        .replace("listen: 127.0.0.1:0, drain", "cores: 1, drain");
    std::fs::write(&path, &file).unwrap();
    let drift = serin.run(&diff).await;
    assert_eq!(drift.status.code(), Some(1), "{}", stderr(&drift));
    let restart = "`gateway`, `limiter`: not as the process was started; restart `serin run` with this file\n";
    let unnamed = "left as it is, and not described: tier `free`, API v1 (`--prune` removes it)\n";
    assert_eq!(stdout(&drift), format!("{restart}{unnamed}"));
    let apply = ["apply", "-f", "serin.yaml"];
    assert_eq!(serin.cli(&apply).await, format!("{restart}{unnamed}"));
    // A manifest alone says nothing about the settings.
    std::fs::write(folder.path().join("tools.yaml"), &services).unwrap();
    let applied = serin.cli(&["apply", "-f", "tools.yaml"]).await;
    assert_eq!(
        applied,
        format!("nothing to do: all that is described is so\n{unnamed}")
    );

    serin.end_by(rustix::process::Signal::TERM).await;
    let serin = Serin::start(folder.path(), &services).await;
    let log = serin.log();
    let also = "there is more than the configuration describes";
    assert!(
        log.contains(also) && log.contains("tier `free`, API v1"),
        "{log}"
    );
    let pruned = serin.cli(&["apply", "-f", "tools.yaml", "--prune"]).await;
    assert!(!pruned.contains("not described"), "{pruned}");
    assert_eq!(
        serin.cli(&["diff", "-f", "tools.yaml"]).await,
        "no drift: all is as described\n"
    );
}

/// Phases that only a person moves on.
const BY_HAND: &str = "phases: [{ share: 50 %, hold: 10h }, { share: 100 % }]\nevidence: trials 1000000\nauto_promote: false\n";

/// Over in a second or two.
const QUICK: &str = "phases: [{ share: 50 %, hold: 1s, deadline: 50s }, { share: 100 % }]\nevidence: trials 20\njudge: { block: 1s }\n\
     thresholds: { error_rate: { critical: 20 %, window: 10s, min_samples: 5 } }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_is_applied_and_promoted_and_stays_so() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let serin = Serin::start(folder.path(), "").await;

    let none = serin.cli(&["service", "list"]).await;
    assert!(none.contains("serin apply -f FILE"), "{none}");
    file("tools.yaml", &two_versions(&v1.url(), &v2.url()));
    let drift = serin.run(&["diff", "-f", "tools.yaml"]).await;
    assert_eq!(
        (
            drift.status.code(),
            stdout(&drift).contains("service tools created")
        ),
        (Some(1), true)
    );
    let applied = serin.cli(&["apply", "-f", "tools.yaml"]).await;
    assert!(applied.contains("service tools created"), "{applied}");
    let again = serin.cli(&["apply", "-f", "tools.yaml"]).await;
    assert!(again.contains("nothing to do"), "{again}");
    assert_eq!(
        serin.run(&["diff", "-f", "tools.yaml"]).await.status.code(),
        Some(0)
    );
    assert_eq!(
        serin
            .run(&["diff", "-f", "missing.yaml"])
            .await
            .status
            .code(),
        Some(2)
    );

    let population = Population::start(PopulationOptions::new(serin.url("/mcp"))).unwrap();
    file("quick.yaml", QUICK);
    let start = [
        "rollout",
        "start",
        "tools",
        "--to",
        "v2",
        "--plan",
        "quick.yaml",
        "--wait",
        "--reason",
        "because",
    ];
    let ended = serin.run(&start).await;
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{}{}",
        stdout(&ended),
        stderr(&ended)
    );
    assert!(
        stdout(&ended).contains("promoted: the candidate is stable"),
        "{}",
        stdout(&ended)
    );
    let report = population.stop().await;
    assert_eq!(
        (report.stats.mismatches, report.stats.harmed),
        (0, 0),
        "{:?}",
        report.stats
    );

    let explained = serin.cli(&["rollout", "explain", "tools"]).await;
    for part in [
        "by plan quick",
        "by tester",
        "because",
        "contract",
        "phase 1 passed",
        "calls of the candidate",
    ] {
        assert!(explained.contains(part), "{part} in {explained}");
    }
    let listed = serin.cli(&["rollout", "list"]).await;
    assert!(listed.contains("promoted"), "{listed}");

    // The file still says that v1 is stable; a restart does not undo the promotion.
    let serin = serin.kill_and_restart(folder.path()).await;
    let shown: Value =
        serde_json::from_str(&serin.cli(&["service", "show", "tools", "--json"]).await).unwrap();
    assert_eq!(shown["stable"], "v2");
    let back = serin
        .cli(&[
            "rollout",
            "rollback",
            "tools",
            "--reason",
            "changed my mind",
        ])
        .await;
    assert!(back.contains("v1 is stable again"), "{back}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_version_is_taken_back_and_the_exit_code_says_so() {
    use serin_testbed::faults::{Fault, FaultKind};
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    v2.faults()
        .set(
            Fault::new(FaultKind::ToolError {
                message: "no index".to_owned(),
            })
            .on_tool("search_knowledge"),
        )
        .unwrap();
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("quick.yaml"), QUICK).unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    let population = Population::start(PopulationOptions::new(serin.url("/mcp"))).unwrap();
    serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v2",
            "--plan",
            "quick.yaml",
        ])
        .await;
    let watched = serin.run(&["rollout", "watch", "tools", "--json"]).await;
    assert_eq!(watched.status.code(), Some(10), "{}", stderr(&watched));
    let last: Value = serde_json::from_str(stdout(&watched).lines().last().unwrap()).unwrap();
    assert_eq!(last["rollout"]["status"], "rolled_back");
    let why = last["rollout"]["ended_reason"].as_str().unwrap();
    assert!(why.contains("search_knowledge"), "{why}");
    let status = serin.run(&["rollout", "status", "tools"]).await;
    assert_eq!(status.status.code(), Some(10));
    assert!(
        stdout(&status).contains("✖ rolled back"),
        "{}",
        stdout(&status)
    );
    assert!(!stdout(&status).contains('\x1b'), "no colours in a pipe");
    population.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_in_the_middle_of_a_phase_it_goes_on_where_it_was() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    );
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("plan.yaml"), BY_HAND).unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v2",
            "--plan",
            "plan.yaml",
        ])
        .await;
    let before = serin.rollout().await;

    // Sessions on both versions, and who answered each.
    let mut sessions = Vec::new();
    while !(sessions.iter().any(|(_, v)| v == "v1") && sessions.iter().any(|(_, v)| v == "v2")) {
        assert!(sessions.len() < 60, "at 50 % both versions get sessions");
        let mut client = Client::new(&serin.url("/mcp"), Era::Legacy, None).unwrap();
        client.open().await.unwrap();
        let version = who(&mut client).await;
        sessions.push((client, version));
    }

    let serin = serin.kill_and_restart(folder.path()).await;
    let after = serin.rollout().await;
    for field in ["id", "status", "phase", "share_wanted", "started_at"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    for (client, version) in &mut sessions {
        assert_eq!(who(client).await, *version);
    }
    assert_eq!(
        serin
            .run(&["rollout", "status", "tools"])
            .await
            .status
            .code(),
        Some(12)
    );
}

/// The version that answers a call.
async fn who(client: &mut Client) -> String {
    let answer = client
        .call("get_entry", json!({ "nonce": "n" }))
        .await
        .unwrap();
    let content = &answer.result().unwrap_or_else(|| panic!("{answer:?}"))["structuredContent"];
    content["version"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_steered_by_hand() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    );
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("plan.yaml"), BY_HAND).unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    let none = serin.refused(&["rollout", "status", "tools"]).await;
    assert!(
        none.contains("serin rollout start tools --to VERSION"),
        "{none}"
    );
    serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v2",
            "--plan",
            "plan.yaml",
        ])
        .await;
    serin
        .cli(&["rollout", "share", "tools", "12.5", "--reason", "gently"])
        .await;
    let rollout = serin.rollout().await;
    assert_eq!(
        (&rollout["share_wanted"], &rollout["share_by_hand"]),
        (&json!("12.5 %"), &json!(true))
    );
    serin
        .cli(&["rollout", "pause", "tools", "--reason", "lunch"])
        .await;
    assert_eq!(serin.rollout().await["status"], "paused");
    assert!(
        serin
            .cli(&["rollout", "pause", "tools"])
            .await
            .contains("nothing to do")
    );
    serin.cli(&["rollout", "resume", "tools"]).await;
    assert_eq!(serin.rollout().await["status"], "running");
    let refused = serin.refused(&["rollout", "promote", "tools"]).await;
    assert!(refused.contains("--override"), "{refused}");
    let usage = serin
        .run(&["rollout", "promote", "tools", "--override"])
        .await;
    assert_eq!(usage.status.code(), Some(2), "an override needs a reason");
    serin
        .cli(&["rollout", "abort", "tools", "--reason", "enough"])
        .await;
    assert_eq!(serin.rollout().await["status"], "aborted");
    assert!(
        serin
            .cli(&["rollout", "abort", "tools"])
            .await
            .contains("nothing to do"),
        "an abort is idempotent"
    );
    serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v2",
            "--plan",
            "plan.yaml",
        ])
        .await;
    serin
        .cli(&[
            "rollout",
            "promote",
            "tools",
            "--full",
            "--override",
            "--reason",
            "I know it",
        ])
        .await;
    let explained = serin.cli(&["rollout", "explain", "tools"]).await;
    assert!(
        explained.contains("promoted without evidence: I know it (tester)"),
        "{explained}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_is_closed_without_its_token_and_open_on_its_socket() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let http = reqwest::Client::new();
    let status = |url: String, token: Option<String>| {
        let request = http.get(url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let url = format!("{}/admin/v1/status", serin.admin);
    assert_eq!(status(url.clone(), None).await, 401);
    assert_eq!(status(url.clone(), Some("0".repeat(64))).await, 401);
    assert_eq!(status(url.clone(), Some(serin.token())).await, 200);
    for open in ["/health", "/ready", "/metrics"] {
        assert_eq!(status(format!("{}{open}", serin.admin), None).await, 200);
    }
    for open in ["/health", "/ready"] {
        assert_eq!(
            status(serin.url(open), None).await,
            200,
            "{open} on the gateway"
        );
    }
    let elsewhere = TempDir::new().unwrap();
    let lost = support::run(
        elsewhere.path(),
        &["--admin", &serin.admin, "service", "list"],
    )
    .await;
    assert_eq!(lost.status.code(), Some(1));
    assert!(stderr(&lost).contains("--token-file"), "{}", stderr(&lost));
    let token_file = folder.path().join("serin.db.token");
    let found = [
        "--admin",
        &serin.admin,
        "--token-file",
        token_file.to_str().unwrap(),
        "service",
        "list",
    ];
    assert_eq!(
        support::run(elsewhere.path(), &found).await.status.code(),
        Some(0)
    );
    drop(serin);

    let folder = TempDir::new().unwrap();
    let serin = Serin::start_with(folder.path(), "", "127.0.0.1:0", "socket: admin.sock", &[])
        .await
        .unwrap();
    assert!(serin.admin.starts_with("unix:"), "{}", serin.admin);
    // The configuration in the folder says where the socket is.
    let listed = support::run(folder.path(), &["service", "list"]).await;
    assert_eq!(listed.status.code(), Some(0), "{}", stderr(&listed));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &folder
            .path()
            .join("admin.sock")
            .metadata()
            .unwrap()
            .permissions(),
    );
    assert_eq!(
        mode & 0o777,
        0o700 & mode,
        "its owner alone may connect: {mode:o}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_goes_on_watching_over_a_restart() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    );
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("plan.yaml"), BY_HAND).unwrap();
    let serin = Serin::start(folder.path(), &two_versions(&v1.url(), &v2.url())).await;
    let start = [
        "rollout",
        "start",
        "tools",
        "--to",
        "v2",
        "--plan",
        "plan.yaml",
    ];
    serin.cli(&start).await;
    let mut watcher = command(folder.path())
        .args(["--admin", &serin.admin, "rollout", "watch", "tools"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(watcher.stderr.take().unwrap()).lines();
    let next = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(next.as_deref(), Some("v1 -> v2, plan plan, running"));
    let serin = serin.kill_and_restart(folder.path()).await;
    let lost = timeout(PATIENCE, complaints.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(lost.contains("trying to reach it again"), "{lost}");
    serin
        .cli(&["rollout", "abort", "tools", "--reason", "enough"])
        .await;
    let mut last = String::new();
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() {
        last = line;
    }
    assert!(last.ends_with("aborted: enough"), "{last}");
    assert_eq!(watcher.wait().await.unwrap().code(), Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_ends_a_command_quietly() {
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), "").await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let list = ["--admin", &serin.admin, "service", "list"];
    let output = command(folder.path())
        .args(list)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}
