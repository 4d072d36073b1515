//! Gates and kills through the real binary: what the admin API says is in force for the very next request at the gateway.

mod support;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use serin_testbed::sample::{Running, ToolSet};
use std::time::{Duration, Instant};
use support::{PATIENCE, Serin, sample};
use tempfile::TempDir;

struct World {
    _folder: TempDir,
    serin: Serin,
    http: reqwest::Client,
    _sample: Running,
}

/// Whoever calls.
#[derive(Clone, Copy)]
struct Caller<'a> {
    tenant: &'a str,
    /// Legacy, in this session; modern without.
    session: Option<&'a str>,
}

const MODERN: Caller<'_> = Caller {
    tenant: "other",
    session: None,
};

impl World {
    async fn begin() -> Self {
        let sample = sample("v1", ToolSet::V1).await;
        let folder = TempDir::new().unwrap();
        let services = format!(
            "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{}\"] }} }}\n    \
             settings:\n      tenant_header: X-Tenant\n      categories: {{ knowledge: [search_knowledge, get_*] }}\n      \
             gates: [{{ flag: knowledge_tools, category: knowledge }}]\n",
            sample.url()
        );
        let serin = Serin::start(folder.path(), &services).await;
        Self {
            _folder: folder,
            serin,
            http: reqwest::Client::new(),
            _sample: sample,
        }
    }

    /// Asks the admin API for something that must not fail.
    async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self
            .http
            .request(method, format!("{}{path}", self.serin.admin));
        let request = request.bearer_auth(self.serin.token()).json(&body);
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn flag(&self, key: &str, on: bool) {
        let flag = json!({
            "state": "ENABLED", "variants": { "on": true, "off": false },
            "defaultVariant": if on { "on" } else { "off" },
        });
        let body = json!({ "flag": flag, "reason": "a test" });
        self.admin(Method::PUT, &format!("/admin/v1/flags/{key}"), body)
            .await;
    }

    async fn kill(&self, target: &str) -> u64 {
        let body = json!({ "target": target, "reason": "a test", "grace": "0s" });
        self.admin(Method::POST, "/admin/v1/kills", body).await;
        let book = self.admin(Method::GET, "/admin/v1/kills", json!({})).await;
        book["revision"].as_u64().unwrap()
    }

    async fn revive(&self, target: &str, revision: u64) {
        let body = json!({ "target": target, "revision": revision, "confirm": target, "reason": "a test" });
        self.admin(Method::POST, "/admin/v1/kills/revive", body)
            .await;
    }

    async fn send(
        &self,
        caller: Caller<'_>,
        method: &str,
        name: Option<&str>,
        body: String,
    ) -> reqwest::Response {
        let mut request = self
            .http
            .post(self.serin.url("/mcp"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("x-tenant", caller.tenant);
        request = match caller.session {
            Some(session) => request
                .header("mcp-session-id", session)
                .header("mcp-protocol-version", "2025-11-25"),
            None => request
                .header("mcp-protocol-version", "2026-07-28")
                .header("mcp-method", method),
        };
        if let Some(name) = name.filter(|_| caller.session.is_none()) {
            request = request.header("mcp-name", name);
        }
        request.body(body).send().await.unwrap()
    }

    async fn ask(
        &self,
        caller: Caller<'_>,
        method: &str,
        mut params: Value,
    ) -> (StatusCode, Value) {
        if caller.session.is_none() {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let name = params["name"].as_str().map(str::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let response = self
            .send(caller, method, name.as_deref(), body.to_string())
            .await;
        let status = response.status();
        let text = response.text().await.unwrap();
        let last = text
            .lines()
            .rev()
            .filter_map(|line| line.strip_prefix("data: "));
        let last = last
            .into_iter()
            .find(|data| data.contains("\"id\":7"))
            .unwrap_or(&text);
        (status, serde_json::from_str(last).unwrap_or_default())
    }

    async fn session(&self, tenant: &str) -> String {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
        });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let request = self
            .http
            .post(self.serin.url("/mcp"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("x-tenant", tenant);
        let response = request.body(body.to_string()).send().await.unwrap();
        let id = response.headers()["mcp-session-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let caller = Caller {
            tenant,
            session: Some(&id),
        };
        let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        self.send(caller, "", None, done.to_owned()).await;
        id
    }

    async fn lists(&self, caller: Caller<'_>, tool: &str) -> bool {
        let (status, list) = self.ask(caller, "tools/list", json!({})).await;
        let tools = list["result"]["tools"]
            .as_array()
            .unwrap_or_else(|| panic!("{status} {list}"));
        tools.iter().any(|listed| listed["name"] == tool)
    }

    async fn call(&self, caller: Caller<'_>, tool: &str) -> (StatusCode, Value) {
        let params = json!({ "name": tool, "arguments": { "id": "kb-1", "query": "x" } });
        let (status, answer) = self.ask(caller, "tools/call", params).await;
        (status, answer["error"]["code"].clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_by_the_admin_api_open_and_close_tools_at_once_in_both_eras() {
    let world = World::begin().await;
    let id = world.session("other").await;
    let legacy = Caller {
        tenant: "other",
        session: Some(&id),
    };
    let both = [MODERN, legacy];
    // A flag that does not exist keeps its gate closed.
    for caller in both {
        assert!(!world.lists(caller, "get_entry").await);
        assert!(world.lists(caller, "generate_content").await);
        assert_eq!(
            world.call(caller, "get_entry").await,
            (StatusCode::OK, json!(-32602))
        );
    }
    for on in [true, false, true] {
        world.flag("knowledge_tools", on).await;
        for caller in both {
            let (_, code) = world.call(caller, "get_entry").await;
            assert_eq!(code.is_null(), on, "{code}");
            assert_eq!(world.lists(caller, "get_entry").await, on);
        }
    }
    let path = "/admin/v1/flags/knowledge_tools/overrides/acme";
    world
        .admin(
            Method::PUT,
            path,
            json!({ "variant": "off", "reason": "a test" }),
        )
        .await;
    let acme = Caller {
        tenant: "acme",
        session: None,
    };
    assert!(!world.lists(acme, "get_entry").await);
    assert_eq!(world.call(acme, "get_entry").await.1, json!(-32602));
    assert!(world.lists(MODERN, "get_entry").await);
    let scraped = world.http.get(format!("{}/metrics", world.serin.admin));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scraped = scraped
            .try_clone()
            .unwrap()
            .bearer_auth(world.serin.token());
        let text = scraped.send().await.unwrap().text().await.unwrap();
        let counts = |line: &str| line.contains("reason=\"flag\"") && !line.ends_with(" 0");
        if text.lines().any(counts) {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_tool_refuses_the_very_next_call_and_comes_back_revived() {
    let world = World::begin().await;
    world.flag("knowledge_tools", true).await;
    let id = world.session("other").await;
    let legacy = Caller {
        tenant: "other",
        session: Some(&id),
    };
    for caller in [MODERN, legacy] {
        assert!(world.call(caller, "get_entry").await.1.is_null());
        let revision = world.kill("tool:tools/get_entry").await;
        assert_eq!(
            world.call(caller, "get_entry").await,
            (StatusCode::OK, json!(-31006))
        );
        assert!(!world.lists(caller, "get_entry").await);
        assert!(world.lists(caller, "search_knowledge").await);
        world.revive("tool:tools/get_entry", revision).await;
        assert!(world.call(caller, "get_entry").await.1.is_null());
        assert!(world.lists(caller, "get_entry").await);
    }
    // Whatever the header says.
    world.kill("tool:tools/get_entry").await;
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "get_entry" } });
    let lying = world
        .send(
            MODERN,
            "tools/call",
            Some("generate_content"),
            body.to_string(),
        )
        .await;
    assert_eq!(lying.status(), StatusCode::BAD_REQUEST);
    let twice = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"generate_content","n\u0061me":"get_entry"}}"#;
    let twice = world
        .send(legacy, "tools/call", None, twice.to_owned())
        .await;
    assert_eq!(twice.status(), StatusCode::BAD_REQUEST);
    let batch = format!("[{body},{{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}}]");
    let batch = world
        .send(legacy, "", None, batch)
        .await
        .text()
        .await
        .unwrap();
    assert!(
        batch.contains("-31006") && batch.contains("not run"),
        "{batch}"
    );
    // The flag's kill closes its gate.
    let revision = world.kill("flag:knowledge_tools").await;
    assert_eq!(
        world.call(MODERN, "search_knowledge").await.1,
        json!(-32602)
    );
    world.revive("flag:knowledge_tools", revision).await;
    assert!(world.call(MODERN, "search_knowledge").await.1.is_null());
    for target in ["service:tools", "tenant:other", "system"] {
        let revision = world.kill(target).await;
        for caller in [MODERN, legacy] {
            let (status, _) = world.call(caller, "generate_content").await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{target}");
        }
        world.revive(target, revision).await;
        assert!(
            world.call(legacy, "generate_content").await.1.is_null(),
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_client_hears_soon_that_it_sees_other_tools() {
    let world = World::begin().await;
    world.flag("knowledge_tools", true).await;
    let id = world.session("other").await;
    let stream = world
        .http
        .get(world.serin.url("/mcp"))
        .header("accept", "text/event-stream")
        .header("mcp-session-id", &id)
        .header("mcp-protocol-version", "2025-11-25")
        .header("x-tenant", "other");
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    for change in ["close", "kill"] {
        let began = Instant::now();
        match change {
            "close" => world.flag("knowledge_tools", false).await,
            _ => drop(world.kill("tool:tools/generate_content").await),
        }
        let mut heard = String::new();
        while !heard.contains("notifications/tools/list_changed") {
            let piece = tokio::time::timeout(PATIENCE, stream.chunk())
                .await
                .expect("it is told");
            let piece = piece.unwrap().expect("the stream goes on");
            heard += std::str::from_utf8(&piece).unwrap();
        }
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{change}: {:?}",
            began.elapsed()
        );
    }
}
