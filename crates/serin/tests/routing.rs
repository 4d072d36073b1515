//! Rules and affinity through the real binary: the two rules of the Cortex seed ("Traffic Splitting", "Custom Traffic Splitting") in our
//! words, and who may say from where a request comes.

mod support;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use serin_testbed::sample::{Running, ToolSet};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use support::{PATIENCE, Serin, sample};
use tempfile::TempDir;
use tokio::task::JoinSet;

struct World {
    serin: Serin,
    http: reqwest::Client,
    _folder: TempDir,
    _samples: [Running; 2],
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Nobody speaks for others.
const NO_PROXY: &str = "127.0.0.1:0";
/// Whoever is on this machine does.
const PROXY: &str = "127.0.0.1:0, trusted_proxies: [127.0.0.0/8]";

impl World {
    /// The service `tools` with the versions `v1` (stable) and `v2`, these rules and settings, and the API `v1` of it.
    async fn begin(gateway: &str, rules: &str, settings: &str) -> Self {
        let samples = [
            sample("v1", ToolSet::V3).await,
            sample("v2", ToolSet::V3).await,
        ];
        let [v1, v2] = [&samples[0], &samples[1]].map(Running::url);
        let services = format!(
            "api: {{ v1: {{ service: tools }} }}\nservices:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions:\n      \
             v1: {{ endpoints: [\"{v1}\"] }}\n      v2: {{ endpoints: [\"{v2}\"] }}\n    rules: {rules}\n    settings: {settings}\n"
        );
        let folder = TempDir::new().unwrap();
        let admin = "listen: 127.0.0.1:0";
        let serin = Serin::start_with(folder.path(), &services, gateway, admin, &[]).await;
        Self {
            serin: serin.expect("serin starts"),
            http: reqwest::Client::new(),
            _folder: folder,
            _samples: samples,
        }
    }

    async fn post(&self, path: &str, headers: Pairs<'_>, body: &Value) -> Response {
        let request = self.http.post(self.serin.url(path)).json(body);
        let accept = "application/json, text/event-stream";
        let request = request.header("accept", accept);
        let headers = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        headers.send().await.unwrap()
    }

    /// A modern call of a tool.
    async fn call(&self, tool: &str, headers: Pairs<'_>) -> Response {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let params = json!({ "name": tool, "arguments": arguments(), "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
        let modern = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        self.post("/mcp", &[&modern, headers].concat(), &body).await
    }

    /// Begins a legacy session; its id and the version where it lives.
    async fn session(&self, headers: Pairs<'_>) -> (String, String) {
        let client = json!({ "name": "test", "version": "1" });
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let response = self.post("/mcp", headers, &body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let id = header(&response, "mcp-session-id").to_owned();
        let version = version(&response).to_owned();
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let headers = [
            ("mcp-session-id", &*id),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        assert!(
            self.post("/mcp", &headers, &done)
                .await
                .status()
                .is_success()
        );
        (id, version)
    }

    /// Calls of tools in a session: one, or a batch.
    async fn in_session(&self, id: &str, tools: &[&str]) -> Response {
        let headers = [
            ("mcp-session-id", id),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        let calls = tools.iter().enumerate().map(|(n, tool)| {
            let params = json!({ "name": tool, "arguments": arguments() });
            json!({ "jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params })
        });
        let mut calls: Vec<Value> = calls.collect();
        let body = if calls.len() == 1 {
            calls.remove(0)
        } else {
            Value::Array(calls)
        };
        self.post("/mcp", &headers, &body).await
    }

    async fn rest(&self, tool: &str, headers: Pairs<'_>) -> Response {
        let body = json!({ "tool": tool, "args": arguments() });
        self.post("/v1/tool", headers, &body).await
    }
}

/// Whatever any of the sample's tools wants.
fn arguments() -> Value {
    json!({ "id": "kb-1", "query": "x", "prompt": "tea" })
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn version(response: &Response) -> &str {
    header(response, "x-serin-version")
}

/// The cookie that an answer gives, as it is sent back.
fn cookie(response: &Response) -> Option<String> {
    let cookie = header(response, "set-cookie").split(';').next()?;
    (!cookie.is_empty()).then(|| cookie.to_owned())
}

/// The rule `my-service-routing` of the seed.
const SPLIT: &str = "[ { name: my-service-routing, priority: 1, to: { v1: 90, v2: 10 }, strategy: percentage, \
    affinity: [ { cookie: { name: routing-session, ttl: 1h, path: /, secure: true, http_only: true } } ], limit: { rate: 1000000/s } } ]";
/// Its settings, as far as they are the service's.
const SETTINGS: &str = "{ breaker: { failures: 5, open: 60s }, retries: { attempts: 3 }, on_failure: fail_open, \
    health: { path: /health, interval: 30s, timeout: 5s, healthy_after: 2, unhealthy_after: 3, expected: [200] } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_rule_splits_ninety_to_ten_by_cookie() {
    let world = World::begin(NO_PROXY, SPLIT, SETTINGS).await;
    let first = world.call("search_knowledge", &[]).await;
    let said = header(&first, "set-cookie");
    assert!(
        said.starts_with("routing-session=")
            && said.ends_with("; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax"),
        "{said}"
    );
    let (mut callers, mut seen) = (Vec::new(), BTreeMap::<String, u32>::new());
    for _ in 0..300 {
        let response = world.call("search_knowledge", &[]).await;
        assert_eq!(response.status(), StatusCode::OK);
        let version = version(&response).to_owned();
        *seen.entry(version.clone()).or_default() += 1;
        callers.push((cookie(&response).unwrap(), version));
    }
    // Ten in a hundred, give or take five standard deviations (5.2 of 300).
    assert!((4..=56).contains(&seen["v2"]), "{seen:?}");
    let both = ["v1", "v2"].map(|version| {
        callers
            .iter()
            .filter(move |caller| caller.1 == version)
            .take(10)
    });
    for (cookie, known) in both.into_iter().flatten() {
        let headers = [("cookie", cookie.as_str())];
        let again = world.call("get_entry", &headers).await;
        assert_eq!(
            (version(&again), header(&again, "set-cookie")),
            (known.as_str(), "")
        );
        // Sessions and REST go by the same.
        assert_eq!(world.session(&headers).await.1, *known);
        assert_eq!(
            version(&world.rest("search_knowledge", &headers).await),
            known
        );
    }
}

/// The rule `custom-beta-routing` of the seed.
const BETA: &str = "[ { name: custom-beta-routing, priority: 10, to: { v2: 100 }, strategy: { header: x-user-session }, \
    when: { header: { name: x-beta-user, equals: 'true', ignore_case: true } } } ]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_rule_for_beta_users_leads_them_to_the_beta() {
    let world = World::begin(
        NO_PROXY,
        BETA,
        "{ affinity: [ { header: x-user-session } ] }",
    )
    .await;
    for (said, want) in [("true", "v2"), ("TRUE", "v2"), ("false", "v1"), ("", "v1")] {
        let headers = [("X-Beta-User", said), ("x-user-session", "s1")];
        assert_eq!(
            version(&world.call("search_knowledge", &headers).await),
            want
        );
        assert_eq!(
            version(&world.rest("search_knowledge", &headers).await),
            want
        );
        assert_eq!(world.session(&headers).await.1, want);
    }
    assert_eq!(version(&world.call("search_knowledge", &[]).await), "v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_by_address_is_so_behind_a_proxy_and_cannot_be_framed() {
    let rules = "[ { name: scrapers, priority: 8, when: { address: { within: [203.0.113.0/24, 127.0.0.0/8] } }, refuse: { status: 403, text: not from here } } ]";
    let world = World::begin(PROXY, rules, "{}").await;
    let from = |address: &'static str| [("x-forwarded-for", address)];
    for (headers, status) in [
        (from("203.0.113.7"), 403),
        (from("198.51.100.7"), 200),
        // What its client made up stands on the left.
        (from("198.51.100.7, 203.0.113.7"), 403),
        (from("203.0.113.7, 198.51.100.7"), 200),
    ] {
        let answers = [
            world.call("search_knowledge", &headers).await,
            world.rest("search_knowledge", &headers).await,
        ];
        for answer in answers {
            assert_eq!(answer.status(), status, "{headers:?}");
        }
    }
    // Not behind a proxy, everybody is who they are, whatever they say.
    let rules = rules.replace(", 127.0.0.0/8", "");
    let world = World::begin(NO_PROXY, &rules, "{}").await;
    assert_eq!(
        world
            .call("search_knowledge", &from("203.0.113.7"))
            .await
            .status(),
        200
    );
    let rules = rules.replace("203.0.113.0/24", "127.0.0.0/8");
    let world = World::begin(NO_PROXY, &rules, "{}").await;
    let refused = world.call("search_knowledge", &from("198.51.100.7")).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.text().await.unwrap(), "not from here\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_limit_refuses_the_hundred_and_first_at_once() {
    let rules = "[ { name: all, priority: 1, limit: { rate: 1000/s, burst: 100 } } ]";
    let world = World::begin(NO_PROXY, rules, "{}").await;
    let (session, _) = world.session(&[]).await;
    // A batch of a hundred finds room once the bucket is full again.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let whole = world.in_session(&session, &["search_knowledge"; 100]).await;
        assert_eq!(header(&whole, "ratelimit-limit"), "100");
        if whole.status() != StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert!(!header(&whole, "retry-after").is_empty());
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // However many come at once, no more than the bucket held and what ran in meanwhile.
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..400 {
        let request = world.http.get(world.serin.url("/mcp")).send();
        asking.spawn(async move { request.await.unwrap().status() });
    }
    let statuses = asking.join_all().await;
    let most = 100 + began.elapsed().as_millis() + 1;
    let passed = statuses
        .iter()
        .filter(|status| **status != StatusCode::TOO_MANY_REQUESTS)
        .count();
    assert!(passed as u128 <= most, "{passed} in {most} ms");

    // So slow that nothing runs in: a hundred pass, one after the other, and not one more.
    let rules = rules.replace("1000/s", "1000/day");
    let world = World::begin(NO_PROXY, &rules, "{}").await;
    for n in 0..100 {
        let answer = world.call("search_knowledge", &[]).await;
        assert_eq!(answer.status(), StatusCode::OK, "{n}");
    }
    for answer in [
        world.call("search_knowledge", &[]).await,
        world.rest("search_knowledge", &[]).await,
    ] {
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&answer, "ratelimit-remaining"), "0");
        let wait: u64 = header(&answer, "retry-after").parse().unwrap();
        assert!((1..=87).contains(&wait), "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_a_tool_holds_in_both_eras_and_over_rest() {
    let rules = "[ { name: closed, priority: 2, when: { tool: { equals: generate_content } }, refuse: { text: not this one } }, \
        { name: searches, priority: 1, when: { tool: { prefix: search_ } }, to: v2 } ]";
    let world = World::begin(NO_PROXY, rules, "{}").await;
    for (tool, status, want) in [
        ("search_knowledge", 200, "v2"),
        ("get_entry", 200, "v1"),
        ("generate_content", 403, ""),
    ] {
        for answer in [world.call(tool, &[]).await, world.rest(tool, &[]).await] {
            assert_eq!(
                (answer.status().as_u16(), version(&answer)),
                (status, want),
                "{tool}"
            );
        }
    }
    let (session, lives) = world.session(&[]).await;
    assert_eq!(lives, "v1");
    assert_eq!(
        version(&world.in_session(&session, &["search_knowledge"]).await),
        "v1"
    );
    for tools in [
        &["generate_content"][..],
        &["search_knowledge", "generate_content"],
    ] {
        let refused = world.in_session(&session, tools).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.text().await.unwrap(), "not this one\n");
    }
    let hidden = [("mcp-name", "search_knowledge")];
    let lied = world.call("generate_content", &hidden).await;
    assert!(lied.status().is_client_error(), "{}", lied.status());
}
