//! Endpoints, versions and rules come and go under a steady load of calls in both eras, and no call fails; what was begun on a drained
//! version finishes there, and at the cap its clients begin again elsewhere.

mod support;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use serin_testbed::{
    client::{Client, Era},
    population::{Change, LifeRecord, Population, PopulationOptions, Report},
    sample::{ELICITING_TOOL, Running, Sample, SampleOptions, TASK_TOOL, ToolSet},
};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Clients of each era that call at a time.
const CLIENTS: usize = 3;
const CALLS_PER_SESSION: u32 = 3;
/// Six new sessions of each client a second, and enough time for a debug build on a busy machine.
const CALLS_PER_SECOND: f64 = 120.0;

/// Versions with their endpoints, and what else stands in the service.
type Versions<'a> = &'a [(&'a str, &'a [&'a Running])];

async fn endpoint(version: &str, endpoint: &str) -> Running {
    let options = SampleOptions::new(version, endpoint, ToolSet::V1);
    Sample::start(options).await.unwrap()
}

fn services(versions: Versions<'_>, more: &str) -> String {
    let mut text = "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    \
                    settings: { slow_start: 1s, rebind: never, health: { interval: 200ms } }\n    versions:\n"
        .to_owned();
    for (version, endpoints) in versions {
        let urls: Vec<_> = endpoints
            .iter()
            .map(|e| format!("\"{}\"", e.url()))
            .collect();
        writeln!(
            text,
            "      {version}: {{ endpoints: [{}] }}",
            urls.join(", ")
        )
        .unwrap();
    }
    text + more
}

struct World {
    folder: TempDir,
    serin: Serin,
}

impl World {
    async fn begin(versions: Versions<'_>) -> Self {
        let folder = TempDir::new().unwrap();
        let serin = Serin::start(folder.path(), &services(versions, "")).await;
        Self { folder, serin }
    }

    /// Applies a manifest, and returns what that did.
    async fn apply(&self, versions: Versions<'_>, more: &str, flags: &[&str]) -> String {
        self.write(versions, more);
        let arguments = [&["apply", "-f", "change.yaml"], flags].concat();
        self.serin.cli(&arguments).await
    }

    fn write(&self, versions: Versions<'_>, more: &str) {
        let file = self.folder.path().join("change.yaml");
        std::fs::write(file, services(versions, more)).unwrap();
    }

    async fn drain(&self, what: &str, time: &str) -> String {
        let reason = ["--for", time, "--reason", "maintenance"];
        let arguments = [&["drain", "tools", what], reason.as_slice()].concat();
        self.serin.cli(&arguments).await
    }

    async fn show(&self) -> Value {
        let text = self
            .serin
            .cli(&["service", "show", "tools", "--json"])
            .await;
        serde_json::from_str(&text).unwrap()
    }

    /// The URLs of a version's endpoints.
    async fn endpoints(&self, version: &str) -> Vec<String> {
        let shown = self.show().await;
        let mut versions = shown["versions"].as_array().unwrap().iter();
        let version = versions.find(|known| known["name"] == version);
        let endpoints = version.map(|version| version["endpoints"].as_array().unwrap().clone());
        let url = |endpoint: Value| endpoint["url"].as_str().unwrap().to_owned();
        endpoints.into_iter().flatten().map(url).collect()
    }

    async fn promote(&self, to: &str) {
        let start = ["rollout", "start", "tools", "--to", to];
        self.serin.cli(&start).await;
        let promote = ["rollout", "promote", "tools", "--full", "--override"];
        let promote = [promote.as_slice(), &["--reason", "test"]].concat();
        self.serin.cli(&promote).await;
    }

    fn population(&self) -> Population {
        Population::start(PopulationOptions {
            legacy: CLIENTS,
            modern: CLIENTS,
            calls_per_second: Some(CALLS_PER_SECOND),
            calls_per_session: CALLS_PER_SESSION,
            ..PopulationOptions::new(self.serin.url("/mcp"))
        })
        .unwrap()
    }

    async fn client(&self, era: Era) -> Client {
        let mut client = Client::new(&self.serin.url("/mcp"), era, None).unwrap();
        client.open().await.unwrap();
        client
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The lives that began after a moment: those whose client had begun another one after it.
fn begun_since(lives: &[LifeRecord], since: Instant) -> Vec<&LifeRecord> {
    let is_later = |life: &&LifeRecord| {
        let mut lives = lives.iter();
        lives.any(|before| {
            before.life.client == life.life.client
                && before.life.ordinal + 1 == life.life.ordinal
                && before.first_sent_at > since
        })
    };
    lives.iter().filter(is_later).collect()
}

/// Waits until every client has begun anew, and some at each of these endpoints; says where they began.
async fn begin_at(population: &Population, endpoints: &[&str]) -> BTreeSet<String> {
    let (since, mut first) = (Instant::now(), BTreeSet::new());
    until(&format!("answered by {endpoints:?}"), async || {
        let report = population.book().report();
        let lives = begun_since(&report.lives, since);
        let clients: BTreeSet<_> = lives.iter().map(|life| life.life.client).collect();
        let places = lives.iter().map(|life| life.first.endpoint.clone());
        first = places.collect();
        clients.len() == 2 * CLIENTS && endpoints.iter().all(|at| first.contains(*at))
    })
    .await;
    first
}

/// The same in a set.
fn only(endpoint: &str) -> BTreeSet<String> {
    [endpoint.to_owned()].into()
}

fn no_call_failed(report: &Report) {
    assert_eq!(
        (report.stats.harmed, report.stats.mismatches),
        (0, 0),
        "{:#?}\n{:#?}",
        report.harms.first(),
        report.mismatches.first()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_and_go_and_no_call_fails() {
    let (a, b) = (endpoint("v1", "a").await, endpoint("v1", "b").await);
    let world = World::begin(&[("v1", &[&a])]).await;
    let population = world.population();

    world.apply(&[("v1", &[&a, &b])], "", &[]).await;
    begin_at(&population, &["a", "b"]).await;
    until("b has answered a probe", async || {
        let text = world.serin.cli(&["service", "show", "tools"]).await;
        !text.contains("  new")
    })
    .await;

    world.drain(&a.url(), "1h").await;
    assert_eq!(
        begin_at(&population, &["b"]).await,
        only("b"),
        "a is drained"
    );
    let text = world.serin.cli(&["service", "show", "tools"]).await;
    assert!(
        text.contains("draining until") && text.contains("(maintenance)"),
        "{text}"
    );
    let refused = ["drain", "tools", &b.url(), "--reason", "x"];
    let refused = world.serin.refused(&refused).await;
    assert!(
        refused.contains("the last endpoint of version `v1`"),
        "{refused}"
    );
    world.serin.cli(&["undrain", "tools", &a.url()]).await;
    begin_at(&population, &["a", "b"]).await;

    // Out of the manifest: its sessions finish, and once nobody answers there it is gone.
    let said = world.apply(&[("v1", &[&b])], "", &[]).await;
    assert!(
        said.contains(&format!("leaving it: {} of v1", a.url())),
        "{said}"
    );
    assert_eq!(begin_at(&population, &["b"]).await, only("b"), "a leaves");
    assert_eq!(world.endpoints("v1").await.len(), 2);
    a.stop().await;
    until("gone", async || world.endpoints("v1").await == [b.url()]).await;

    let report = population.stop().await;
    no_call_failed(&report);
    assert_eq!(
        (report.stats.gone, report.stats.moves),
        (0, 0),
        "nobody was moved"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_and_rules_come_and_go_and_no_call_fails() {
    let (a, c) = (endpoint("v1", "a").await, endpoint("v2", "c").await);
    let world = World::begin(&[("v1", &[&a])]).await;
    let population = world.population();
    let both: Versions<'_> = &[("v1", &[&a]), ("v2", &[&c])];
    world.apply(both, "", &[]).await;
    assert_eq!(
        begin_at(&population, &["a"]).await,
        only("a"),
        "nothing leads to v2"
    );

    let half = "    rules: [{ name: half, priority: 1, to: { v1: 50, v2: 50 } }]\n";
    world.apply(both, half, &[]).await;
    begin_at(&population, &["a", "c"]).await;
    world.drain("v2", "1h").await;
    assert_eq!(
        begin_at(&population, &["a"]).await,
        only("a"),
        "v2 is drained"
    );
    world.serin.cli(&["undrain", "tools", "v2"]).await;
    begin_at(&population, &["a", "c"]).await;

    // A rule cannot lead to what is removed.
    world.write(&[("v1", &[&a])], half);
    let refused = ["apply", "-f", "change.yaml", "--prune"];
    let refused = world.serin.refused(&refused).await;
    assert!(refused.contains("v2"), "{refused}");

    world.apply(both, "", &[]).await;
    assert_eq!(
        begin_at(&population, &["a"]).await,
        only("a"),
        "the rule is gone"
    );
    let said = world.apply(&[("v1", &[&a])], "", &["--prune"]).await;
    assert!(said.contains("leaving it: version v2"), "{said}");
    assert_eq!(begin_at(&population, &["a"]).await, only("a"), "v2 leaves");
    let said = world
        .apply(&[("v1", &[&a])], "", &["--prune", "--now"])
        .await;
    assert!(
        said.contains("version v2 of service tools is drained"),
        "{said}"
    );
    assert!(world.endpoints("v2").await.is_empty());
    let report = population.stop().await;
    no_call_failed(&report);
    assert_eq!(report.stats.gone, 0, "their sessions were over");
    let v2 = || "v2".to_owned();
    // The rule twice, and its end and the drain.
    let changes = [
        Change::Raised(v2()),
        Change::Lowered(v2()),
        Change::Raised(v2()),
        Change::Lowered(v2()),
    ];
    let unexplained = report.unexplained_moves(&changes);
    assert!(unexplained.is_empty(), "{:#?}", unexplained.first());
}

/// Who answered.
fn version(answer: &serin_testbed::client::Answer) -> String {
    let result = answer.result().unwrap_or_else(|| panic!("{answer:?}"));
    let version = &result["structuredContent"]["version"];
    version
        .as_str()
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_owned()
}

/// What a modern client has begun at a version and not finished.
struct Begun {
    client: Client,
    question: Value,
    task: Value,
    meta: Value,
    page: Value,
}

impl Begun {
    async fn at(world: &World) -> Self {
        let mut client = world.client(Era::Modern).await;
        let mut question = json!({ "name": ELICITING_TOOL, "arguments": { "tone": "dry" } });
        let asked = client
            .request("tools/call", question.clone())
            .await
            .unwrap();
        question["requestState"] = asked.result().unwrap()["requestState"].clone();
        question["inputResponses"] =
            json!({ "confirm": { "action": "accept", "content": { "sure": true } } });
        let meta = json!({ "io.modelcontextprotocol/clientCapabilities": {
            "extensions": { "io.modelcontextprotocol/tasks": {} },
        } });
        let arguments = json!({ "text": "a wild finch", "step_ms": 20 });
        let task = json!({ "name": TASK_TOOL, "arguments": arguments, "_meta": meta });
        let task = client.request("tools/call", task).await.unwrap();
        let task = task.result().unwrap()["taskId"].clone();
        let page = client.request("tools/list", json!({})).await.unwrap();
        let page = page.result().unwrap()["nextCursor"].clone();
        Self {
            client,
            question,
            task,
            meta,
            page,
        }
    }

    /// The versions by which the question, the task and the list were finished.
    async fn finish(&mut self) -> [String; 2] {
        let question = self.question.clone();
        let answered = self.client.request("tools/call", question).await.unwrap();
        let mut task = Value::Null;
        until("a finished task", async || {
            let params = json!({ "taskId": self.task, "_meta": self.meta });
            let looked = self.client.request("tasks/get", params).await.unwrap();
            task = looked.result().unwrap().clone();
            task["status"] == "completed"
        })
        .await;
        let task = &task["result"]["structuredContent"]["version"];
        let more = json!({ "cursor": self.page });
        let more = self.client.request("tools/list", more).await.unwrap();
        assert!(more.result().is_some(), "{more:?}");
        [version(&answered), task.as_str().unwrap().to_owned()]
    }
}

/// The stream of a session: open as long as its server keeps it so.
async fn stream(world: &World, session: &str) -> reqwest::Response {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("mcp-session-id", session),
        ("mcp-protocol-version", "2025-11-25"),
        ("accept", "text/event-stream"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let asked = reqwest::Client::new().get(world.serin.url("/mcp"));
    let answer = asked.headers(headers).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_version_finishes_what_it_has_begun_and_ends_at_the_cap() {
    let (a, c) = (endpoint("v1", "a").await, endpoint("v2", "c").await);
    let world = World::begin(&[("v1", &[&a]), ("v2", &[&c])]).await;
    let mut session = world.client(Era::Legacy).await;
    let call = async |client: &mut Client| client.call("get_brand_voice", json!({})).await.unwrap();
    assert_eq!(version(&call(&mut session).await), "v1");
    let id = session.session().unwrap().to_owned();
    let mut open = stream(&world, &id).await;
    let mut begun = Begun::at(&world).await;
    let late = Begun::at(&world).await;

    let refused = ["drain", "tools", "v1", "--reason", "x"];
    let refused = world.serin.refused(&refused).await;
    assert!(refused.contains("it is stable"), "{refused}");
    world.promote("v2").await;
    world.drain("v1", "1h").await;
    assert_eq!(begun.finish().await, ["v1", "v1"]);
    assert_eq!(version(&call(&mut session).await), "v1");
    let mut new = world.client(Era::Legacy).await;
    assert_eq!(version(&call(&mut new).await), "v2");

    // The cap: said again, it is now.
    world.drain("v1", "0s").await;
    let ended = async { while let Ok(Some(_)) = open.chunk().await {} };
    timeout(PATIENCE, ended).await.expect("the stream ends");
    until("told to begin again", async || {
        call(&mut session).await.status == 404
    })
    .await;
    session.forget();
    session.open().await.unwrap();
    assert_eq!(version(&call(&mut session).await), "v2");
    let Begun {
        mut client,
        question,
        task,
        meta,
        ..
    } = late;
    for (method, params) in [
        ("tools/call", question),
        ("tasks/get", json!({ "taskId": task, "_meta": meta })),
    ] {
        let answer = client.request(method, params).await.unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        let error = answer.error().unwrap().to_string();
        assert!(error.contains("is gone"), "{error}");
    }
    let text = world.serin.cli(&["service", "show", "tools"]).await;
    assert!(text.contains("drained (maintenance)"), "{text}");

    // Back again, it has nothing of before.
    world.serin.cli(&["undrain", "tools", "v1"]).await;
    let mut old = reqwest::Client::new().get(world.serin.url("/mcp"));
    old = old
        .header("mcp-session-id", id)
        .header("accept", "text/event-stream");
    assert_eq!(old.send().await.unwrap().status(), 404);
}
