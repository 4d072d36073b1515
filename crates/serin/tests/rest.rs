//! REST through the real binary: the smoke and integration tests of the Stage I seed (sections 4.1 and 4.2) in our words, and that REST
//! and MCP say the same of every tool.

mod support;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use serin_testbed::{
    client::{Client, Era},
    sample::{ELICITING_TOOL, PROGRESS_TOOL, Running, Sample, SampleOptions, ToolSet},
};
use sqlx::Connection as _;
use std::time::{Duration, Instant};
use support::{PATIENCE, Serin};
use tempfile::TempDir;

struct World {
    folder: TempDir,
    serin: Serin,
    http: reqwest::Client,
    key: String,
    _sample: Running,
}

/// A version with nine tools whose end is announced, and one with all.
const API: &str = "api:\n  v1:\n    service: tools\n    tools: [generate_content, 'get_*', search_knowledge]\n    deprecated: 2026-01-01\n    sunset: 2999-12-31\n    guide: https://docs.example.com/v2\n  v2: { service: tools }\n";

impl World {
    /// Serin in front of the sample server, with a key of a tier.
    async fn begin(is_legacy: bool, rate: &str) -> Self {
        let options = SampleOptions {
            is_legacy,
            ..SampleOptions::new("v1", "v1", ToolSet::V3)
        };
        let sample = Sample::start(options).await.unwrap();
        let folder = TempDir::new().unwrap();
        let services = format!(
            "tiers: {{ free: {{ limits: [{{ per: key, rate: {rate} }}] }} }}\n{API}services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    \
             versions: {{ v1: {{ endpoints: [\"{}\"] }} }}\n    settings: {{ auth: serin }}\n",
            sample.url()
        );
        let serin = Serin::start(folder.path(), &services).await;
        serin
            .cli(&["tenant", "create", "acme", "--tier", "free"])
            .await;
        let key = serin.cli(&["key", "create", "--tenant", "acme"]).await;
        Self {
            folder,
            serin,
            http: reqwest::Client::new(),
            key: key.trim().to_owned(),
            _sample: sample,
        }
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.http.get(self.serin.url(path)).bearer_auth(&self.key);
        request.send().await.unwrap()
    }

    async fn call(&self, path: &str, tool: &str, args: Value) -> Response {
        let request = self.http.post(self.serin.url(path)).bearer_auth(&self.key);
        let body = json!({ "tool": tool, "args": args });
        request.json(&body).send().await.unwrap()
    }

    /// The `answer` in the result of a call that must not fail.
    async fn answer(&self, tool: &str, args: Value) -> Value {
        let response = self.call("/api/tool", tool, args).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{tool}: {body}");
        body["result"]["structuredContent"]["answer"].clone()
    }
}

async fn json_of(response: Response) -> Value {
    response.json().await.unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    let tools = list["tools"].as_array().unwrap();
    tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect()
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smoke_tests_of_the_seed_pass() {
    let world = World::begin(false, "100/hour").await;

    // It should reject an invalid key.
    for key in [
        "invalid_key",
        "serin_000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let request = world
            .http
            .get(world.serin.url("/api/tools"))
            .bearer_auth(key);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(header(&response, "www-authenticate").starts_with("Bearer"));
        assert_eq!(
            header(&response, "content-type"),
            "application/problem+json"
        );
        assert_eq!(json_of(response).await["status"], 401);
    }

    // It should list all tools.
    let response = world.get("/api/tools").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-serin-version"), "v1");
    let list = json_of(response).await;
    assert_eq!(
        names(&list),
        ToolSet::V3.names().collect::<Vec<_>>(),
        "all pages"
    );

    // It should call `generate_content`.
    let args = json!({ "topic": "construction safety", "max_tokens": 100 });
    let response = world.call("/api/tool", "generate_content", args).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "ratelimit-limit"), "100");
    let data = json_of(response).await;
    assert!(data["result"]["content"].is_array(), "{data}");

    // It should enforce rate limiting: 100 an hour, of which some are spent.
    let mut limited = 0;
    for _ in 0..101 {
        let response = world.get("/api/tools").await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            limited += 1;
            assert!(header(&response, "retry-after").parse::<u64>().unwrap() > 0);
            assert_eq!(json_of(response).await["status"], 429);
        }
    }
    // A list has several pages, and is one request.
    assert_eq!(limited, 3, "two were made before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_integration_test_of_the_seed_passes() {
    for is_legacy in [false, true] {
        let world = World::begin(is_legacy, "10000/minute").await;
        let message = "Create LinkedIn post about SKU-A142 rebar";
        let args = json!({ "user_message": message, "session_id": "test-session-123" });
        let intent = world.answer("parse_intent", args).await;
        assert_eq!(intent["channel"], "linkedin");
        let args = json!({ "intent_spec": intent, "top_k": 3 });
        let skills = world.answer("retrieve_skills", args).await["skills"].clone();
        assert_eq!(skills.as_array().unwrap().len(), 3);
        let args = json!({ "intent_spec": intent, "skills": skills, "brand_voice": {} });
        let made = world.answer("generate_multi_candidate", args).await;
        let candidates = made["candidates"].as_array().unwrap();
        assert!(candidates.len() >= 2);
        let args =
            json!({ "candidate": candidates[0], "intent_spec": intent, "brand_profile": {} });
        assert_eq!(world.answer("run_guards", args).await["pass"], true);
    }
}

/// Takes out what tells sessions apart.
fn without_session(mut result: Value) -> Value {
    if let Some(structured) = result["structuredContent"].as_object_mut() {
        structured.remove("session");
    }
    for block in result["content"].as_array_mut().into_iter().flatten() {
        if let Some(text) = block["text"].as_str()
            && let Ok(Value::Object(mut said)) = serde_json::from_str(text)
        {
            said.remove("session");
            block["text"] = Value::Object(said).to_string().into();
        }
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_and_mcp_say_the_same_of_every_tool_in_both_eras() {
    for (is_legacy, era) in [(false, Era::Modern), (true, Era::Legacy)] {
        let world = World::begin(is_legacy, "10000/minute").await;
        let mut mcp = Client::new(&world.serin.url("/mcp"), era, Some(&world.key)).unwrap();
        mcp.open().await.unwrap();
        for (seed, tool) in (1..).zip(ToolSet::V3.names()) {
            let mut args = ToolSet::V3.example(tool, seed).unwrap();
            args["nonce"] = json!(format!("nonce-{seed}"));
            let rest = world.call("/api/tool", tool, args.clone()).await;
            let (status, rest) = (rest.status(), json_of(rest).await);
            if tool == ELICITING_TOOL {
                // There is nobody to ask; the legacy server finds that out by itself.
                let want = if is_legacy {
                    "tool_failed"
                } else {
                    "needs_mcp_client"
                };
                assert_eq!(rest["type"], format!("urn:serin:problem:{want}"), "{rest}");
                assert_eq!(
                    (rest["tool"].as_str(), rest["status"].as_u64()),
                    (Some(tool), Some(status.as_u16().into()))
                );
                continue;
            }
            let answer = mcp.call(tool, args).await.unwrap();
            let result = answer.result().unwrap().clone();
            assert_eq!(status, StatusCode::OK, "{tool}: {rest}");
            assert_eq!(
                without_session(rest["result"].clone()),
                without_session(result),
                "{tool}"
            );
        }
        // What fails, fails by both.
        let rest = world.call("/api/tool", "get_entry", json!({})).await;
        let status = rest.status();
        let rest = json_of(rest).await;
        let answer = mcp.call("get_entry", json!({})).await.unwrap();
        assert!(answer.is_tool_error() && status == 422, "{rest}");
        assert_eq!(
            without_session(rest["error"].clone()),
            without_session(answer.result().unwrap().clone())
        );
        let rest = world.call("/api/tool", "nope", json!({})).await;
        assert_eq!(rest.status(), StatusCode::NOT_FOUND);
        let rest = json_of(rest).await;
        let answer = mcp.call("nope", json!({})).await.unwrap();
        assert_eq!(&rest["error"], answer.error().unwrap(), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_of_a_real_tool_streams() {
    for is_legacy in [false, true] {
        let world = World::begin(is_legacy, "10000/minute").await;
        let body = json!({ "tool": PROGRESS_TOOL, "args": { "documents": ["a", "b", "c"], "step_ms": 10 } });
        let request = world
            .http
            .post(world.serin.url("/v2/tool"))
            .bearer_auth(&world.key);
        let request = request.header("accept", "text/event-stream").json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "content-type"), "text/event-stream");
        let text = response.text().await.unwrap();
        let events: Vec<_> = text
            .split("\n\n")
            .filter(|event| !event.is_empty())
            .collect();
        assert_eq!(events.len(), 4, "{text}");
        assert!(
            events[..3]
                .iter()
                .all(|event| event.starts_with("event: progress\n"))
        );
        assert!(events[2].contains("parsed 3 of 3"), "{text}");
        let result = events[3].strip_prefix("event: result\ndata: ").unwrap();
        let result: Value = serde_json::from_str(result).unwrap();
        assert_eq!(result["result"]["structuredContent"]["answer"]["parsed"], 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_have_their_own_tools_and_dates() {
    let world = World::begin(false, "10000/minute").await;
    let first = world.get("/v1/tools").await;
    assert_eq!(header(&first, "deprecation"), "@1767225600");
    assert_eq!(header(&first, "sunset"), "Tue, 31 Dec 2999 00:00:00 GMT");
    let links: Vec<_> = first
        .headers()
        .get_all("link")
        .iter()
        .map(|link| link.to_str().unwrap().to_owned())
        .collect();
    assert!(
        links.contains(&"</v2/tools>; rel=\"successor-version\"".to_owned()),
        "{links:?}"
    );
    let first = json_of(first).await;
    assert_eq!(
        names(&first),
        [
            "generate_content",
            "search_knowledge",
            "get_entry",
            "get_brand_voice"
        ]
    );
    let second = world.get("/v2/tools").await;
    assert_eq!(header(&second, "deprecation"), "");
    assert_eq!(names(&json_of(second).await).len(), 16);
    let args = json!({ "user_message": "x" });
    assert_eq!(
        world
            .call("/v1/tool", "parse_intent", args.clone())
            .await
            .status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        world.call("/v2/tool", "parse_intent", args).await.status(),
        StatusCode::OK
    );
    let unknown = world.get("/v3/tools").await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json_of(unknown).await["supported_versions"], json!([1, 2]));

    // JSON-RPC at a version: an MCP client of either era is at home there, and sees the same tools.
    for era in [Era::Modern, Era::Legacy] {
        let mut mcp = Client::new(&world.serin.url("/v1"), era, Some(&world.key)).unwrap();
        mcp.open().await.unwrap();
        let answer = mcp.call("get_brand_voice", json!({})).await.unwrap();
        assert!(answer.is_own() && !answer.is_tool_error(), "{answer:?}");
        let hidden = mcp
            .call("parse_intent", json!({ "user_message": "x" }))
            .await
            .unwrap();
        assert_eq!(
            hidden.error().unwrap()["code"],
            -32602,
            "{era:?}: {hidden:?}"
        );
        let (mut listed, mut params) = (vec![], json!({}));
        loop {
            let page = mcp.request("tools/list", params).await.unwrap();
            let page = page.result().unwrap().clone();
            listed.extend(names(&page).into_iter().map(str::to_owned));
            match &page["nextCursor"] {
                Value::String(cursor) => params = json!({ "cursor": cursor }),
                _ => break,
            }
        }
        assert_eq!(listed, names(&first), "{era:?}");
    }
}

/// Every reference of a document leads somewhere in it.
fn check_references(value: &Value, document: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get("$ref") {
                let pointer = target.strip_prefix('#').expect("it stays in the document");
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            members
                .values()
                .for_each(|value| check_references(value, document));
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| check_references(value, document)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_has_the_schemas_of_the_tools() {
    let world = World::begin(false, "10000/minute").await;
    let document = json_of(world.get("/v2/openapi.json").await).await;
    check_references(&document, &document);
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    let calls =
        &document["paths"]["/tool"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(calls["anyOf"].as_array().unwrap().len(), 16);
    for tool in ToolSet::V3.names() {
        let shown = json_of(world.get(&format!("/v2/tools/{tool}")).await).await;
        let schemas = &document["components"]["schemas"];
        assert_eq!(
            schemas[format!("{tool}.args")],
            shown["inputSchema"],
            "{tool}"
        );
        assert_eq!(
            schemas[format!("{tool}.result")],
            shown["outputSchema"],
            "{tool}"
        );
    }
    let first = json_of(world.get("/v1/openapi.json").await).await;
    assert!(first["components"]["schemas"]["parse_intent.args"].is_null());
    assert_eq!(first["servers"][0]["url"], "/v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_hold_for_rest_as_for_mcp() {
    let world = World::begin(false, "10000/minute").await;
    let key = world
        .serin
        .cli(&[
            "key",
            "create",
            "--tenant",
            "acme",
            "--scope",
            "tool:tools/get_*",
        ])
        .await;
    let world = World {
        key: key.trim().to_owned(),
        ..world
    };
    let list = json_of(world.get("/api/tools").await).await;
    assert_eq!(names(&list), ["get_entry", "get_brand_voice"]);
    assert_eq!(
        world
            .call("/api/tool", "get_brand_voice", json!({}))
            .await
            .status(),
        StatusCode::OK
    );
    let beyond = world
        .call("/api/tool", "search_knowledge", json!({ "query": "x" }))
        .await;
    assert_eq!(beyond.status(), StatusCode::FORBIDDEN);
    let problem = json_of(beyond).await;
    assert_eq!(problem["tool"], "search_knowledge", "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_killed_is_so_for_rest_at_once() {
    let world = World::begin(true, "10000/minute").await;
    let call = async |tool: &str| {
        let response = world.call("/api/tool", tool, json!({})).await;
        (response.status(), json_of(response).await)
    };
    assert_eq!(call("get_brand_voice").await.0, StatusCode::OK);
    let kill = |target| ["kill", target, "--reason", "a bad release"];
    world.serin.cli(&kill("tool:tools/get_brand_voice")).await;
    let (status, problem) = call("get_brand_voice").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert_eq!(problem["tool"], "get_brand_voice");
    assert!(problem["detail"].as_str().unwrap().contains("switched off"));
    let list = json_of(world.get("/api/tools").await).await;
    assert!(!names(&list).contains(&"get_brand_voice"), "lists agree");
    world.serin.cli(&kill("service:tools")).await;
    let response = world.get("/api/tools").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "retry-after"), "30");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_rest_is_one_row_of_the_audit() {
    let world = World::begin(true, "10000/minute").await;
    let topic = json!({ "topic": "tea" });
    world.call("/v2/tool", "generate_content", topic).await;
    world.get("/v2/tools").await;
    let db = world.folder.path().join("serin.audit.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(db);
    let mut audit = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let sql = "SELECT endpoint, tool, status_code FROM audit_logs ORDER BY timestamp, id";
    let deadline = Instant::now() + PATIENCE;
    let rows = loop {
        let rows: Vec<(String, Option<String>, i64)> =
            sqlx::query_as(sql).fetch_all(&mut audit).await.unwrap();
        if rows.len() >= 2 {
            break rows;
        }
        assert!(Instant::now() < deadline, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let called = (
        "/v2/tool".to_owned(),
        Some("generate_content".to_owned()),
        200,
    );
    assert_eq!(rows, [called, ("/v2/tools".to_owned(), None, 200)]);
}
