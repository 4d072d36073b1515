//! Rate limits through the real binary: what callers get, what they are told, and what they share.

mod support;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use serin_testbed::{
    sample::{Running, ToolSet},
    valkey::Valkey,
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin, sample};
use tempfile::TempDir;
use tokio::task::JoinSet;

struct World {
    serin: Serin,
    folder: TempDir,
    http: reqwest::Client,
    sample: Running,
}

/// The service `tools` with these settings, behind whatever else a configuration has.
fn services(url: &str, settings: &str, more: &str) -> String {
    format!(
        "{more}\nservices:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    \
         versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n    settings: {settings}\n"
    )
}

const FREE: &str = "tiers: { free: { limits: [ { per: key, rate: 100/hour } ] } }";
/// Callers are told apart by headers.
const NAMED: &str = "tenant_header: X-Tenant, affinity_header: X-Caller";

impl World {
    async fn begin(settings: &str, more: &str) -> Self {
        let sample = sample("v1", ToolSet::V1).await;
        let folder = TempDir::new().unwrap();
        let services = services(&sample.url(), settings, more);
        let serin = Serin::start(folder.path(), &services).await;
        Self::of(serin, folder, sample)
    }

    fn of(serin: Serin, folder: TempDir, sample: Running) -> Self {
        Self {
            serin,
            folder,
            http: reqwest::Client::new(),
            sample,
        }
    }

    /// Makes a tenant of a tier, with a key.
    async fn key(&self, tenant: &str, tier: &str) -> String {
        self.serin
            .cli(&["tenant", "create", tenant, "--tier", tier])
            .await;
        let key = self.serin.cli(&["key", "create", "--tenant", tenant]).await;
        key.trim().to_owned()
    }

    async fn send(&self, headers: &[(&str, &str)], body: &Value) -> Response {
        let mut request = self
            .http
            .post(self.serin.url("/mcp"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_string()).send().await.unwrap()
    }

    /// A modern call of a tool.
    async fn call(&self, tool: &str, headers: &[(&str, &str)]) -> Response {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let arguments = json!({ "id": "kb-1", "query": "x", "prompt": "tea" });
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
        let modern = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        self.send(&[&modern, headers].concat(), &body).await
    }

    /// How many calls of a tool pass one after the other, of at most so many.
    async fn passing(&self, most: u32, tool: &str, headers: &[(&str, &str)]) -> u32 {
        for n in 0..most {
            let response = self.call(tool, headers).await;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                return n;
            }
            assert_eq!(response.status(), StatusCode::OK);
        }
        most
    }

    async fn apply(&self, settings: &str, more: &str, url: &str) {
        let file = self.folder.path().join("other.yaml");
        fs::write(&file, services(url, settings, more)).unwrap();
        self.serin
            .cli(&["apply", "-f", file.to_str().unwrap()])
            .await;
    }

    /// Waits until the metrics have a line.
    async fn measures(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.http.get(format!("{}/metrics", self.serin.admin));
            let page = page.send().await.unwrap().text().await.unwrap();
            if page.lines().any(|found| found.starts_with(line)) {
                return;
            }
            assert!(Instant::now() < deadline, "no `{line}` in:\n{page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn number(response: &Response, name: &str) -> u64 {
    let value = response.headers().get(name);
    let value = value.unwrap_or_else(|| panic!("no {name} in {response:?}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_101_of_100_an_hour_is_refused_and_no_other_tenant_suffers() {
    let world = World::begin("{ auth: serin }", FREE).await;
    let (acme, globex) = (
        world.key("acme", "free").await,
        world.key("globex", "free").await,
    );
    let (acme, globex) = (bearer(&acme), bearer(&globex));
    let acme = [("authorization", &*acme)];
    for n in 0..100 {
        let response = world.call("generate_content", &acme).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(number(&response, "ratelimit-limit"), 100);
        // Some come back while the test runs slowly.
        let left = number(&response, "ratelimit-remaining");
        assert!((99 - n..=99).contains(&left), "{left} after {n}");
        assert!(number(&response, "ratelimit-reset") <= 3600);
        assert!(response.headers().get("retry-after").is_none());
    }
    let response = world.call("generate_content", &acme).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!((1..=36).contains(&number(&response, "retry-after")));
    assert_eq!(number(&response, "ratelimit-remaining"), 0);
    assert!((3500..=3600).contains(&number(&response, "ratelimit-reset")));
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let text = response.text().await.unwrap();
    assert!(text.contains("100/hour"), "{text}");
    let globex = [("authorization", &*globex)];
    let response = world.call("generate_content", &globex).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(number(&response, "ratelimit-remaining"), 99);
    // Who proves nothing takes nothing out of anybody's bucket.
    let response = world.call("generate_content", &[]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    world
        .measures("serin_rate_limited_total{service=\"tools\",limit=\"key\"} 1")
        .await;
    world
        .measures("serin_rejections_total{service=\"tools\",reason=\"rate_limit\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_changes_is_in_force_at_once_and_gives_nothing_back() {
    let world = World::begin(
        "{ auth: serin }",
        "tiers: { free: { limits: [ { rate: 3/hour } ] }, pro: { limits: [ { rate: 6/hour } ] } }",
    )
    .await;
    let url = world.sample.url();
    let (one, two) = (
        world.key("acme", "free").await,
        world.key("globex", "free").await,
    );
    let (one, two) = (bearer(&one), bearer(&two));
    let (one, two) = ([("authorization", &*one)], [("authorization", &*two)]);
    assert_eq!(world.passing(10, "generate_content", &one).await, 3);
    let raised =
        "tiers: { free: { limits: [ { rate: 5/hour } ] }, pro: { limits: [ { rate: 6/hour } ] } }";
    world.apply("{ auth: serin }", raised, &url).await;
    assert_eq!(world.passing(10, "generate_content", &one).await, 0);
    assert_eq!(world.passing(10, "generate_content", &two).await, 5);
    // Nor does a tenant that gets another tier.
    world
        .serin
        .cli(&["tenant", "set", "acme", "--tier", "pro"])
        .await;
    assert_eq!(world.passing(10, "generate_content", &one).await, 0);
    let key = bearer(&world.key("initech", "pro").await);
    assert_eq!(
        world
            .passing(10, "generate_content", &[("authorization", &key)])
            .await,
        6
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_flag_turns_tiers_off_for_a_tenant() {
    let world = World::begin(
        "{ auth: serin }",
        "tiers: { free: { limits: [ { rate: 2/hour } ] } }",
    )
    .await;
    let (acme, globex) = (
        world.key("acme", "free").await,
        world.key("globex", "free").await,
    );
    let flag = json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "on" });
    for (path, body) in [
        (
            "/admin/v1/flags/rate_limiting_v2",
            json!({ "flag": flag, "reason": "a test" }),
        ),
        (
            "/admin/v1/flags/rate_limiting_v2/overrides/globex",
            json!({ "variant": "off", "reason": "a test" }),
        ),
    ] {
        let request = world
            .http
            .request(Method::PUT, format!("{}{path}", world.serin.admin));
        let response = request
            .bearer_auth(world.serin.token())
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(response.status().is_success(), "{response:?}");
    }
    let (acme, globex) = (bearer(&acme), bearer(&globex));
    assert_eq!(
        world
            .passing(5, "generate_content", &[("authorization", &acme)])
            .await,
        2
    );
    assert_eq!(
        world
            .passing(5, "generate_content", &[("authorization", &globex)])
            .await,
        5
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_service_are_for_tools_callers_and_tenants() {
    let limits = "[ { per: tenant, rate: 10/hour, burst: 8 }, { per: key, rate: 2/hour, tools: [get_*] }, { per: key, rate: 100/hour, burst: 5 } ]";
    let world = World::begin(&format!("{{ {NAMED}, limits: {limits} }}"), "").await;
    let caller = |tenant, caller| [("x-tenant", tenant), ("x-caller", caller)];
    let ann = caller("acme", "ann");
    // Each tool by itself, then the caller, then the tenant.
    assert_eq!(world.passing(9, "get_entry", &ann).await, 2);
    assert_eq!(world.passing(9, "get_brand_voice", &ann).await, 2);
    assert_eq!(world.passing(9, "generate_content", &ann).await, 1);
    let bob = caller("acme", "bob");
    assert_eq!(world.passing(9, "generate_content", &bob).await, 3);
    assert_eq!(
        world
            .passing(9, "generate_content", &caller("globex", "ann"))
            .await,
        5
    );
    world
        .measures("serin_rate_limited_total{service=\"tools\",limit=\"tool\"} 2")
        .await;
    world
        .measures("serin_rate_limited_total{service=\"tools\",limit=\"tenant\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_its_calls() {
    let world = World::begin(
        &format!("{{ {NAMED}, limits: [ {{ rate: 5/hour }} ] }}"),
        "",
    )
    .await;
    let call = |id| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "generate_content" } });
    let batch = |n: u32| Value::Array((0..n).map(call).collect());
    let headers = [("x-caller", "ann"), ("mcp-protocol-version", "2025-03-26")];
    let modern = [
        ("x-caller", "ann"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "generate_content"),
    ];
    // The newer protocol has no batches, and a server that takes them all the same is no way around.
    let response = world.send(&modern, &batch(3)).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    for (n, left) in [(3, Some(2)), (3, None), (2, Some(0)), (1, None)] {
        let response = world.send(&headers, &batch(n)).await;
        let is_over = response.status() == StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(is_over, left.is_none(), "{n}: {response:?}");
        if let Some(left) = left {
            assert_eq!(number(&response, "ratelimit-remaining"), left);
        }
    }
    let response = world
        .send(&[("x-caller", "bob"), headers[1]], &batch(6))
        .await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().get("retry-after").is_none());
    let text = response.text().await.unwrap();
    assert!(text.contains("send fewer"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cores_together_let_the_burst_through_and_no_more() {
    let world = World::begin("{ limits: [ { per: service, rate: 100/day } ] }", "").await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let url = world.serin.url("/mcp");
        clients.spawn(async move {
            // A connection each, spread over the cores.
            let http = reqwest::Client::new();
            let mut passed = 0;
            for _ in 0..30 {
                let response = http.delete(&url).send().await.unwrap();
                passed += u32::from(response.status() != StatusCode::TOO_MANY_REQUESTS);
            }
            passed
        });
    }
    let passed = clients.join_all().await;
    assert_eq!(passed.iter().sum::<u32>(), 100, "{passed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_limits_and_go_on_alone_while_their_backend_is_gone() {
    let backend = TempDir::new().unwrap();
    let valkey = Valkey::start(backend.path(), Some("geheim"));
    let (one, other) = shared(&valkey, "local").await;
    let ann = [("x-tenant", "acme"), ("x-caller", "ann")];
    assert_eq!(one.passing(6, "generate_content", &ann).await, 6);
    assert_eq!(other.passing(9, "generate_content", &ann).await, 4);
    assert_eq!(one.passing(9, "generate_content", &ann).await, 0);
    let bob = [("x-tenant", "acme"), ("x-caller", "bob")];
    assert_eq!(one.passing(4, "generate_content", &bob).await, 4);
    valkey.kill();
    // By the gateway's own buckets, as far as they have followed.
    assert_eq!(one.passing(9, "generate_content", &ann).await, 0);
    assert_eq!(one.passing(9, "generate_content", &bob).await, 6);
    one.measures("serin_degraded_total{dependency=\"limiter\"}")
        .await;
    other.logs("rate limits does not answer").await;
    let _valkey = Valkey::start(backend.path(), Some("geheim"));
    for world in [&one, &other] {
        world.logs("answers again").await;
    }
    // Each core has its own way back.
    let deadline = Instant::now() + PATIENCE;
    for n in 0.. {
        let caller = format!("caller-{n}");
        let caller = [("x-tenant", "acme"), ("x-caller", &*caller)];
        let passed = one.passing(5, "generate_content", &caller).await;
        if passed + other.passing(9, "generate_content", &caller).await == 10 {
            break;
        }
        assert!(Instant::now() < deadline, "they do not share again");
    }
    for world in [one, other] {
        let log = world.serin.log();
        assert!(!log.contains("geheim"), "{log}");
        assert_eq!(
            log.matches("rate limits does not answer").count(),
            1,
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_was_never_there_is_met_as_the_policy_says() {
    let nowhere = TempDir::new().unwrap();
    let ann = [("x-tenant", "acme"), ("x-caller", "ann")];
    for (policy, want) in [
        ("refuse", StatusCode::SERVICE_UNAVAILABLE),
        ("allow", StatusCode::OK),
    ] {
        let world = World::begin(&limited(), &limiter(nowhere.path(), policy)).await;
        for _ in 0..12 {
            let response = world.call("generate_content", &ann).await;
            assert_eq!(response.status(), want, "{policy}");
        }
        world
            .measures("serin_degraded_total{dependency=\"limiter\"} 12")
            .await;
    }
}

impl World {
    async fn logs(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.serin.log().contains(what) {
            assert!(Instant::now() < deadline, "{}", self.serin.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn limited() -> String {
    format!("{{ {NAMED}, limits: [ {{ rate: 10/day }} ] }}")
}

/// A limiter at a socket in a folder; nobody waits for long, and no machine is so busy.
fn limiter(folder: &Path, policy: &str) -> String {
    let socket = folder.join("valkey.sock");
    let socket = socket.display();
    format!("limiter: {{ redis: \"redis+unix://{socket}\", on_failure: {policy}, timeout: 2s }}")
}

/// Two gateways before one backend, whose URL is in their environment.
async fn shared(valkey: &Valkey, policy: &str) -> (World, World) {
    let begin = async || {
        let sample = sample("v1", ToolSet::V1).await;
        let folder = TempDir::new().unwrap();
        let limiter = format!(
            "limiter: {{ redis: env:SERIN_TEST_REDIS, on_failure: {policy}, timeout: 2s }}"
        );
        let services = services(&sample.url(), &limited(), &limiter);
        let url = valkey.url();
        let serin = Serin::start_in(folder.path(), &services, &[("SERIN_TEST_REDIS", &url)]).await;
        World::of(serin, folder, sample)
    };
    (begin().await, begin().await)
}
