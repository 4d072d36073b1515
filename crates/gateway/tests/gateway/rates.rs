//! Rate limits at the gateway: which requests they count, and that there is no way around.

use crate::support::*;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use serin_model::{api::ApiSpec, observe::Rejection, service::Protocol, snapshot::ServiceRoute};

/// The service `tools` with these limits. Callers are told apart by a header.
fn limited(server: &Server, limits: serde_json::Value) -> ServiceRoute {
    let mut tools = service(&[build("v1", &[server])], None);
    tools.settings.limits = serde_json::from_value(limits).unwrap();
    tools.settings.affinity_header = Some("x-caller".into());
    tools
}

/// The same as plain HTTP, at `/web`.
fn plain(server: &Server, limits: serde_json::Value) -> ServiceRoute {
    ServiceRoute {
        protocol: Protocol::Http,
        path: "/web".into(),
        ..limited(server, limits)
    }
}

/// How many of at most so many pass one after the other.
async fn passing(most: usize, mut ask: impl AsyncFnMut() -> Answer) -> usize {
    for n in 0..most {
        if ask().await.status == 429 {
            return n;
        }
    }
    most
}

#[tokio::test]
async fn plain_http_is_limited_by_path_and_method_however_they_are_written() {
    let server = Server::answering(|_| reply(200, &[("ratelimit-limit", "7")], "fine")).await;
    let limits = json!([{ "rate": "4/day", "path": "/export", "methods": ["POST"] }]);
    let mut gateway = Running::start(vec![plain(&server, limits)]);
    let mut client = gateway.client().await;
    let ask = ("POST", "/web/export", &[][..]);
    let answer = client.ask(ask.0, ask.1, ask.2, "").await;
    let said = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        .map(|name| answer.header(name).unwrap_or_default().to_owned());
    assert_eq!(said, ["4", "3", "21600"]);
    assert_eq!(answer.headers.get_all("ratelimit-limit").iter().count(), 1);
    let hidden = [("x-http-method-override", "post")];
    for (method, path, headers, status) in [
        ("POST", "/web//Export/all", &[][..], 200),
        ("POST", "/web/%65xport", &[], 200),
        ("GET", "/web/export", &hidden, 200),
        ("POST", "/web/export;x", &[], 429),
        ("GET", "/web/export", &hidden, 429),
        ("GET", "/web/export", &[], 200),
        ("POST", "/web/exports", &[], 200),
    ] {
        let answer = client.ask(method, path, headers, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    // Another caller has another bucket.
    let other = client
        .ask("POST", "/web/export", &[("x-caller", "bob")], "")
        .await;
    assert_eq!(other.status, 200);
    assert_eq!(server.seen().len(), 7);
    gateway.observed.rejection(Rejection::RateLimit, 2).await;
    gateway
        .observed
        .until(|seen| {
            let of = seen.iter().flat_map(|sealed| &sealed.limited);
            of.filter(|(_, limit, _)| *limit == "key")
                .map(|(_, _, n)| n)
                .sum::<u64>()
                == 2
        })
        .await;
}

#[tokio::test]
async fn a_limit_of_a_tool_counts_its_calls_in_both_eras_and_no_header_hides_one() {
    let server = Server::mcp("one").await;
    let limits = json!([{ "rate": "3/day", "tools": ["add"] }]);
    let gateway = Running::start(vec![limited(&server, limits)]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    let add = json!({ "name": "add", "arguments": {} }).to_string();
    let modern = client.modern("tools/call", Some("add"), &[], &add).await;
    assert_eq!(modern.status, 200);
    assert_eq!(modern.header("ratelimit-remaining"), Some("1"));
    // What is said in the header is not what is called: refused, and not forwarded.
    let before = server.seen().len();
    let lied = client.modern("tools/call", Some("greet"), &[], &add).await;
    assert_eq!(lied.status, 400, "{}", lied.text());
    let batch = format!("[{CALL},{CALL}]");
    assert_eq!(client.legacy(&session, batch).await.status, 429);
    assert_eq!(server.seen().len(), before);
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    let over = client.legacy(&session, CALL).await;
    assert_eq!(over.status, 429);
    assert_eq!(
        over.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    // Others go on.
    let greet = CALL.replace("add", "greet");
    let greeted = client.legacy(&session, greet).await;
    assert_eq!(greeted.status, 200);
    assert_eq!(greeted.header("ratelimit-limit"), None);
    let odd = CALL.replace("\"add\"", "\" add\"");
    assert_ne!(client.legacy(&session, odd).await.status, 200);
}

#[tokio::test]
async fn every_request_counts_once_whatever_it_is() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![limited(&server, json!([{ "rate": "6/day" }]))]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    assert_eq!(session.header("ratelimit-remaining"), Some("5"));
    let session = session.header("mcp-session-id").unwrap().to_owned();
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(
        client
            .legacy(&session, note)
            .await
            .header("ratelimit-remaining"),
        Some("4")
    );
    // One that belongs to no session, and one that the server refuses.
    let lost = client.legacy("nobody", CALL).await;
    assert_eq!(
        (lost.status, lost.header("ratelimit-remaining")),
        (404, Some("3"))
    );
    let listed = client.modern("tools/list", None, &[], "{}").await;
    assert_eq!(listed.header("ratelimit-remaining"), Some("2"));
    // Modern by what stands in the body.
    let meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let headers = [("content-type", "application/json")];
    let asked = client.ask("POST", "/mcp", &headers, meta).await;
    assert_eq!(asked.header("ratelimit-remaining"), Some("1"));
    let headers = [("mcp-session-id", &*session)];
    let ended = client.ask("DELETE", "/mcp", &headers, "").await;
    assert_eq!(ended.header("ratelimit-remaining"), Some("0"));
    let over = client.get("/mcp").await;
    assert_eq!(
        (over.status, over.header("retry-after")),
        (429, Some("14400"))
    );
}

#[tokio::test]
async fn limits_follow_the_routing_table_and_callers_on_all_connections() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let rate = |rate: &str| vec![plain(&server, json!([{ "rate": rate }]))];
    let gateway = Running::start(rate("3/day"));
    let ask = async || gateway.client().await.get("/web").await;
    assert_eq!(passing(9, ask).await, 3);
    gateway.swap(rate("30/day"));
    assert_eq!(passing(9, ask).await, 0);
    gateway.swap(vec![plain(&server, json!([]))]);
    assert_eq!(passing(9, ask).await, 9);
    assert_eq!(ask().await.header("ratelimit-limit"), None);
    gateway.swap(rate("3/day"));
    assert_eq!(passing(9, ask).await, 0);
}

#[tokio::test]
async fn rest_has_the_same_buckets_and_a_problem_document() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![]);
    let api: ApiSpec = serde_json::from_value(json!({ "service": "tools" })).unwrap();
    let tools = limited(&server, json!([{ "rate": "3/day", "tools": ["add"] }]));
    gateway.swap_api(vec![tools], &[(1, api)]);
    let mut client = gateway.client().await;
    let headers = [("content-type", "application/json")];
    let body = r#"{"tool":"add","args":{}}"#;
    for left in ["2", "1"] {
        let answer = client.ask("POST", "/v1/tool", &headers, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("ratelimit-remaining"), Some(left));
    }
    let add = json!({ "name": "add", "arguments": {} }).to_string();
    let modern = client.modern("tools/call", Some("add"), &[], &add).await;
    assert_eq!(modern.header("ratelimit-remaining"), Some("0"));
    let over = client.ask("POST", "/v1/tool", &headers, body).await;
    assert_eq!(over.status, 429);
    assert_eq!(
        over.header("content-type"),
        Some("application/problem+json")
    );
    assert!(over.header("retry-after").is_some());
    assert_eq!(over.header("ratelimit-remaining"), Some("0"));
    let detail = over.json()["detail"].to_string();
    assert!(detail.contains("3/day"), "{detail}");
}

#[tokio::test]
async fn a_request_of_rest_that_is_over_its_limit_opens_no_session() {
    let server = Server::answering(|seen| {
        let body = seen.json();
        let id = &body["id"];
        match body["method"].as_str().unwrap_or_default() {
            _ if seen.header("mcp-protocol-version") == Some("2026-07-28") => reply(400, &[], "no"),
            "initialize" => {
                let headers = [("content-type", "application/json"), ("mcp-session-id", "s")];
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"x","version":"1"}}}}}}"#);
                reply(200, &headers, text)
            }
            _ if id.is_null() => reply(202, &[], ""),
            _ => crate::support::json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[],"content":[]}}}}"#)),
        }
    })
    .await;
    let api: ApiSpec = serde_json::from_value(json!({ "service": "tools" })).unwrap();
    for (limits, path, body) in [
        (
            json!([{ "per": "service", "rate": "1/day" }]),
            "/v1/tools",
            "",
        ),
        (
            json!([{ "per": "service", "rate": "1/day", "tools": ["add"] }]),
            "/v1/tool",
            r#"{"tool":"add"}"#,
        ),
    ] {
        let gateway = Running::start(vec![]);
        gateway.swap_api(vec![limited(&server, limits)], &[(1, api.clone())]);
        let mut client = gateway.client().await;
        let mut statuses = vec![];
        let before = server.seen().len();
        let mut after = 0;
        for caller in ["one", "two", "three"] {
            let headers = [("content-type", "application/json"), ("x-caller", caller)];
            let method = if body.is_empty() { "GET" } else { "POST" };
            statuses.push(client.ask(method, path, &headers, body).await.status);
            if statuses.len() == 1 {
                after = server.seen().len();
            }
        }
        assert_eq!(statuses, [200, 429, 429]);
        assert!(after > before);
        assert_eq!(
            server.seen().len(),
            after,
            "the server hears of one request alone"
        );
    }
}

#[tokio::test]
async fn who_forges_a_token_takes_nothing_out_of_the_bucket_of_its_subject() {
    let server = Server::mcp("one").await;
    let mut tools = limited(&server, json!([{ "rate": "2/day" }]));
    tools.settings.affinity_header = None;
    let gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"iss":"i","sub":"victim"}"#);
    let [forged, real] = ["forged", "real"].map(|of| format!("Bearer e30.{claims}.{of}"));
    let mut ask = async |token: &str| {
        let headers = [("authorization", token)];
        client.modern("tools/list", None, &headers, "{}").await
    };
    assert_eq!(passing(9, async || ask(&forged).await).await, 2);
    assert_eq!(passing(9, async || ask(&real).await).await, 2);
}
