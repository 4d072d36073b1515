//! Rules and affinity at the gateway: which requests a rule is for, whatever way they come, and what keeps callers in one place.

use crate::support::*;
use serde_json::{Value, json};
use serin_model::{
    api::ApiSpec,
    observe::{Rejection, Sealed},
    route::Rules,
    rule::Rule,
    service::Protocol,
    snapshot::ServiceRoute,
};
use serin_route::weigh::Balance;
use std::collections::{BTreeMap, BTreeSet};

const JSON: (&str, &str) = ("content-type", "application/json");

fn rules(rules: &Value) -> Rules {
    let rules: Vec<Rule> = serde_json::from_value(rules.clone()).unwrap();
    Rules::compile(&rules)
}

/// The service `tools` with stable and another version, and these rules.
fn ruled(one: &Server, two: &Server, of: &Value) -> ServiceRoute {
    ServiceRoute {
        rules: rules(of),
        ..service(&[build("v1", &[one]), build("v2", &[two])], None)
    }
}

/// The same as plain HTTP, at `/web`.
fn plain(one: &Server, two: &Server, of: &Value) -> ServiceRoute {
    ServiceRoute {
        protocol: Protocol::Http,
        path: "/web".into(),
        ..ruled(one, two, of)
    }
}

async fn pages() -> (Server, Server) {
    let page = |text: &'static str| Server::answering(move |_| reply(200, &[], text));
    (page("one").await, page("two").await)
}

async fn mcps() -> (Server, Server) {
    (Server::mcp("one").await, Server::mcp("two").await)
}

fn v1(service: &str) -> Vec<(u16, ApiSpec)> {
    vec![(
        1,
        serde_json::from_value(json!({ "service": service })).unwrap(),
    )]
}

fn call(tool: &str) -> String {
    CALL.replace("add", tool)
}

fn params(tool: &str) -> String {
    json!({ "name": tool, "arguments": {} }).to_string()
}

/// The value of the cookie that an answer gives.
fn given(answer: &Answer, name: &str) -> Option<String> {
    let cookies = answer.headers.get_all("set-cookie").iter();
    let cookies = cookies.map(|value| value.to_str().unwrap());
    let mut values = cookies.filter_map(|cookie| {
        let (of, rest) = cookie.split_once('=')?;
        (of == name).then(|| rest.split(';').next().unwrap().to_owned())
    });
    let value = values.next();
    assert_eq!(values.next(), None, "twice in one answer");
    value
}

#[tokio::test]
async fn the_rule_of_the_highest_priority_that_fits_says_where_a_request_goes() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "all", "priority": 1, "to": "v1" },
        { "name": "beta", "priority": 10, "to": "v2",
          "when": { "header": { "name": "X-Beta-User", "equals": "true", "ignore_case": true } } },
        { "name": "old", "priority": 9, "to": "v2", "when": { "path": { "prefix": "/old" } } },
        { "name": "off", "priority": 20, "enabled": false, "refuse": {} },
    ]);
    let gateway = Running::start(vec![plain(&one, &two, &of)]);
    let mut client = gateway.client().await;
    for (path, headers, want) in [
        ("/web", &[][..], "v1"),
        ("/web", &[("x-beta-user", "TRUE")], "v2"),
        ("/web", &[("x-beta-user", "no")], "v1"),
        ("/web/old/page", &[], "v2"),
        ("/web/new/old", &[], "v1"),
        // The version of an endpoint is nothing for callers to say, nor what the gateway says in these headers.
        ("/web", &[("x-serin-version", "v2")], "v1"),
    ] {
        let answer = client.ask("GET", path, headers, "").await;
        assert_eq!(answer.version(), want, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn a_version_chosen_by_hand_comes_before_the_rule_and_a_refusal_before_both() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "no", "priority": 2, "refuse": {}, "when": { "header": { "name": "x-no", "present": true } } },
        { "name": "all", "priority": 1, "to": "v2" },
    ]);
    let mut web = plain(&one, &two, &of);
    web.settings.overrides.version = true;
    let gateway = Running::start(vec![web]);
    let mut client = gateway.client().await;
    assert_eq!(client.get("/web").await.version(), "v2");
    let by_hand = [("x-serin-version", "v1"), ("x-no", "1")];
    let answer = client.ask("GET", "/web", &by_hand[..1], "").await;
    assert_eq!(answer.version(), "v1");
    assert_eq!(client.ask("GET", "/web", &by_hand, "").await.status, 403);
}

#[tokio::test]
async fn a_refusal_says_what_the_rule_says_in_the_form_that_is_understood() {
    let (one, two) = mcps().await;
    let refuse = |status: u16| json!([{ "name": "no", "priority": 1, "refuse": { "status": status, "text": "not from here" } }]);
    let gateway = Running::start(vec![]);
    for status in [400, 403, 404, 429, 503] {
        let tools = ruled(&one, &two, &refuse(status));
        gateway.swap_api(vec![tools], &v1("tools"));
        let mut client = gateway.client().await;
        let modern = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(modern.status, status);
        // A plain 400 or 404 would be remembered as: this server is of the older era.
        if matches!(status, 400 | 404) {
            assert_eq!(modern.json()["error"]["code"], -31007, "{}", modern.text());
            assert_eq!(modern.json()["error"]["message"], "not from here");
            assert_eq!(modern.json()["id"], 1, "{}", modern.text());
        } else {
            assert_eq!(modern.text(), "not from here\n");
        }
        assert_eq!(client.initialize().await.status, status);
        let rest = client
            .ask("POST", "/v1/tool", &[JSON], r#"{"tool":"add"}"#)
            .await;
        assert_eq!(rest.status, status);
        assert_eq!(
            rest.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(rest.json()["detail"], "not from here", "{}", rest.text());
        let head = client.ask("GET", "/mcp", &[], "").await;
        assert_eq!((head.status, head.text()), (status, "not from here\n"));
    }
    assert!(one.seen().is_empty() && two.seen().is_empty());
    let plain = json!([{ "name": "nobody", "priority": 1, "refuse": {} }]);
    let mut gateway = Running::start(vec![ruled(&one, &two, &plain)]);
    let mut client = gateway.client().await;
    let answer = client.get("/mcp").await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("rule `nobody` of service `tools`"),
        "{}",
        answer.text()
    );
    gateway.observed.rejection(Rejection::Rule, 1).await;
}

#[tokio::test]
async fn a_refused_method_is_told_which_are_left() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "closed", "priority": 3, "when": { "path": { "prefix": "/closed" } }, "refuse": { "status": 405 } },
        { "name": "deletes", "priority": 2, "when": { "method": { "equals": "DELETE" } }, "refuse": { "status": 405 } },
        { "name": "reads", "priority": 1, "refuse": { "status": 405 }, "when": { "all": [
            { "path": { "prefix": "/read" } }, { "not": { "method": { "one_of": ["GET", "HEAD"] } } } ] } },
    ]);
    let (mcp, other) = mcps().await;
    let gateway = Running::start(vec![plain(&one, &two, &of), ruled(&mcp, &other, &of)]);
    let mut client = gateway.client().await;
    for (method, path, allow) in [
        ("DELETE", "/web", "GET, HEAD, POST, PUT, PATCH, OPTIONS"),
        ("POST", "/web/read", "GET, HEAD"),
        ("GET", "/web/closed", ""),
        ("DELETE", "/mcp", "GET, POST"),
    ] {
        let answer = client.ask(method, path, &[], "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn refusals_hold_for_sessions_streams_and_whatever_comes_without_a_message() {
    let (one, two) = mcps().await;
    let banned = json!([{ "name": "banned", "priority": 1, "refuse": {},
        "when": { "header": { "name": "x-user", "equals": "eve" } } }]);
    let gateway = Running::start(vec![ruled(&one, &two, &banned)]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    let before = one.seen().len();
    let eve = [("x-user", "eve"), ("mcp-session-id", &*session), JSON];
    for (method, path, body) in [
        ("POST", "/mcp", CALL),
        ("POST", "/mcp", INITIALIZE),
        ("GET", "/mcp", ""),
        ("DELETE", "/mcp", ""),
        ("PUT", "/mcp", ""),
        ("GET", "/mcp/sse", ""),
        ("POST", "/mcp/messages?session_id=1", CALL),
    ] {
        let answer = client.ask(method, path, &eve, body).await;
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    assert_eq!(one.seen().len(), before);
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
}

#[tokio::test]
async fn a_rule_sends_new_sessions_and_leaves_live_ones_where_they_are() {
    let (one, two) = mcps().await;
    let to = |version: &str| json!([{ "name": "all", "priority": 1, "to": version }]);
    let gateway = Running::start(vec![ruled(&one, &two, &to("v1"))]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    assert_eq!(session.version(), "v1");
    let session = session.header("mcp-session-id").unwrap().to_owned();
    gateway.swap(vec![ruled(&one, &two, &to("v2"))]);
    assert_eq!(client.legacy(&session, CALL).await.version(), "v1");
    assert_eq!(client.initialize().await.version(), "v2");
    let modern = client
        .modern("tools/call", Some("add"), &[], &params("add"))
        .await;
    assert_eq!(modern.version(), "v2");
    // What only stable is asked to speak stays there.
    let old = INITIALIZE.replace("2025-11-25", "2024-11-05");
    assert_eq!(
        client.ask("POST", "/mcp", &[JSON], old).await.version(),
        "v1"
    );
}

#[tokio::test]
async fn a_limit_is_a_bucket_of_the_rule_beside_those_of_the_caller() {
    let (one, two) = mcps().await;
    let of = json!([
        { "name": "reads", "priority": 2, "when": { "header": { "name": "x-read", "present": true } },
          "limit": { "rate": "5/day", "burst": 2, "per": "key" } },
        { "name": "all", "priority": 1, "limit": { "rate": "100/day", "burst": 3 } },
    ]);
    let mut tools = ruled(&one, &two, &of);
    tools.settings.affinity_header = Some("x-caller".into());
    let mut gateway = Running::start(vec![]);
    gateway.swap_api(vec![tools], &v1("tools"));
    let mut client = gateway.client().await;
    let first = client.initialize().await;
    assert_eq!(first.header("ratelimit-limit"), Some("3"));
    assert_eq!(first.header("ratelimit-remaining"), Some("2"));
    let session = first.header("mcp-session-id").unwrap().to_owned();
    let listed = client.modern("tools/list", None, &[], "{}").await;
    assert_eq!(listed.header("ratelimit-remaining"), Some("1"));
    // A batch counts for all that it asks.
    let two_calls = format!("[{CALL},{CALL}]");
    assert_eq!(client.legacy(&session, two_calls).await.status, 429);
    assert_eq!(client.legacy(&session, CALL).await.status, 200);
    let before = one.seen().len();
    let over = client.legacy(&session, CALL).await;
    assert_eq!(over.status, 429);
    assert!(over.header("retry-after").is_some() && over.text().contains("100/day"));
    assert_eq!(over.header("ratelimit-remaining"), Some("0"));
    let rest = client
        .ask("POST", "/v1/tool", &[JSON], r#"{"tool":"add"}"#)
        .await;
    assert_eq!(rest.status, 429);
    assert_eq!(
        rest.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(client.get("/mcp").await.status, 429);
    assert_eq!(one.seen().len(), before, "the server heard of none");
    // Another rule has another bucket, which here each caller has.
    for (caller, statuses) in [("ann", [200, 200, 429]), ("bob", [200, 200, 429])] {
        for status in statuses {
            let headers = [("x-read", "1"), ("x-caller", caller)];
            let answer = client.modern("tools/list", None, &headers, "{}").await;
            assert_eq!(answer.status, status, "{caller}");
        }
    }
    gateway
        .observed
        .until(|seen| {
            let of = seen.iter().flat_map(|sealed| &sealed.limited);
            of.filter(|(_, limit, _)| *limit == "rule")
                .map(|(_, _, n)| n)
                .sum::<u64>()
                == 6
        })
        .await;
}

#[tokio::test]
async fn a_rule_of_a_tool_holds_in_both_eras_over_rest_and_in_batches() {
    let (one, two) = mcps().await;
    let of = json!([
        { "name": "closed", "priority": 2, "when": { "tool": { "equals": "drop" } }, "refuse": { "text": "no" } },
        { "name": "moved", "priority": 1, "when": { "tool": { "prefix": "gre" } }, "to": "v2" },
    ]);
    let gateway = Running::start(vec![]);
    gateway.swap_api(vec![ruled(&one, &two, &of)], &v1("tools"));
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    for (tool, version) in [("add", "v1"), ("greet", "v2")] {
        let modern = client
            .modern("tools/call", Some(tool), &[], &params(tool))
            .await;
        assert_eq!(modern.version(), version);
        let body = json!({ "tool": tool }).to_string();
        let rest = client.ask("POST", "/v1/tool", &[JSON], body).await;
        assert_eq!(
            (rest.status, rest.version()),
            (200, version),
            "{}",
            rest.text()
        );
        // Where a session lives is decided.
        assert_eq!(client.legacy(&session, call(tool)).await.version(), "v1");
    }
    let seen = || one.seen().len() + two.seen().len();
    let before = seen();
    let batch = format!("[{CALL},{}]", call("drop"));
    for body in [call("drop"), batch] {
        let answer = client.legacy(&session, body).await;
        assert_eq!((answer.status, answer.text()), (403, "no\n"));
    }
    let modern = client
        .modern("tools/call", Some("drop"), &[], &params("drop"))
        .await;
    assert_eq!(modern.status, 403);
    // What a header hides, what is there twice or written otherwise, a lax server might still run.
    let hidden = client
        .modern("tools/call", Some("add"), &[], &params("drop"))
        .await;
    assert_eq!(hidden.status, 400, "{}", hidden.text());
    let without = client
        .modern(
            "tools/list",
            None,
            &[("mcp-method", "tools/call")],
            &params("drop"),
        )
        .await;
    assert_ne!(without.status, 200);
    for params in [
        r#"{"name":"add","name":"drop","arguments":{}}"#,
        r#"{"name":"add","Name":"drop","arguments":{}}"#,
        r#"{"name":" drop","arguments":{}}"#,
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let answer = client.legacy(&session, body).await;
        assert_eq!(answer.status, 400, "{params}: {}", answer.text());
    }
    for body in [r#"{"tool":"drop"}"#, r#"{"tool":"add","tool":"drop"}"#] {
        let answer = client.ask("POST", "/v1/tool", &[JSON], body).await;
        assert!(
            matches!(answer.status, 400 | 403),
            "{body}: {}",
            answer.status
        );
    }
    assert_eq!(seen(), before, "no server heard of it");
}

#[tokio::test]
async fn a_list_of_what_is_allowed_is_asked_of_each_member_of_a_batch() {
    let (one, two) = mcps().await;
    let of = json!([{ "name": "only", "priority": 1, "refuse": {},
        "when": { "all": [ { "tool": { "present": true } }, { "not": { "tool": { "one_of": ["add", "greet"] } } } ] } }]);
    let gateway = Running::start(vec![ruled(&one, &two, &of)]);
    let mut client = gateway.client().await;
    let session = client.initialize().await;
    let session = session.header("mcp-session-id").unwrap().to_owned();
    let batch =
        |tools: [&str; 2]| format!("[{},{}]", call(tools[0]), call(tools[1]).replace('7', "8"));
    for (tools, is_refused) in [
        (["add", "greet"], false),
        (["add", "drop"], true),
        (["drop", "drop"], true),
    ] {
        let before = one.seen().len();
        let answer = client.legacy(&session, batch(tools)).await;
        assert_eq!(
            answer.status == 403,
            is_refused,
            "{tools:?}: {}",
            answer.status
        );
        assert_eq!(one.seen().len() == before, is_refused);
    }
}

#[tokio::test]
async fn what_a_server_may_read_otherwise_is_refused_too() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "admin", "priority": 2, "when": { "path": { "prefix": "/admin" } }, "refuse": {} },
        { "name": "deletes", "priority": 1, "when": { "method": { "equals": "DELETE" } }, "refuse": {} },
    ]);
    let gateway = Running::start(vec![plain(&one, &two, &of)]);
    let mut client = gateway.client().await;
    let hidden = [("x-http-method-override", "delete")];
    for (method, path, headers, status) in [
        ("GET", "/web/admin/x", &[][..], 403),
        ("GET", "/web/%61dmin/x", &[], 403),
        ("GET", "/web//admin", &[], 403),
        ("GET", "/web/;a=b/admin", &[], 403),
        ("DELETE", "/web/x", &[], 403),
        ("POST", "/web/x", &hidden, 403),
        ("POST", "/web/x", &[], 200),
        ("GET", "/web/x/admin", &[], 200),
    ] {
        let answer = client.ask(method, path, headers, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn what_a_server_may_read_otherwise_in_several_ways_at_once_is_refused_too() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "admin", "priority": 4, "refuse": {}, "when": { "all": [
            { "path": { "prefix": "/admin" } }, { "method": { "equals": "DELETE" } } ] } },
        { "name": "capital", "priority": 3, "refuse": {}, "when": { "path": { "prefix": "/Admin" } } },
        { "name": "slash", "priority": 2, "refuse": {}, "when": { "path": { "prefix": "/private/" } } },
        { "name": "debug", "priority": 1, "refuse": {}, "when": { "header": { "name": "x-debug", "present": true } } },
    ]);
    let mut gateway = Running::start(vec![plain(&one, &two, &of)]);
    let mut client = gateway.client().await;
    let hidden = [("x-http-method-override", "delete")];
    let many: Vec<String> = (0..80).map(|number| format!("m{number}")).collect();
    let many = many.iter().map(|method| ("x-http-method", method.as_str()));
    let many: Vec<_> = many.chain([("x_other", "1")]).collect();
    for (method, path, headers, status) in [
        ("DELETE", "/web/%61dmin/x", &[][..], 403),
        ("POST", "/web/admin/x", &hidden, 403),
        ("POST", "/web/%61dmin/x", &hidden, 403),
        ("POST", "/web/%61dmin/x", &[], 200),
        ("GET", "/web/%41dmin/x", &[], 403),
        ("GET", "/web//Admin/x", &[], 403),
        ("GET", "/web/privat%65/", &[], 403),
        ("GET", "/web//private/", &[], 403),
        ("GET", "/web/x", &[("x_debug", "1")], 403),
        ("GET", "/web/x", &[("x.debug", "1")], 403),
        ("GET", "/web/x", &[("x_other", "1")], 200),
        ("GET", "/web/x", &many, 200),
        ("GET", "/web/%252561//x", &many, 403),
    ] {
        let answer = client.ask(method, path, headers, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    // What was refused counts for the rule that refused it.
    let of = |seen: &[Sealed], name: &str| -> u64 {
        let all = seen.iter().flat_map(|sealed| &sealed.rules);
        all.filter(|(_, rule, _)| **rule == *name)
            .map(|(.., n)| n)
            .sum()
    };
    (gateway.observed)
        .until(|seen| of(seen, "capital") >= 2 && of(seen, "slash") >= 2 && of(seen, "debug") >= 2)
        .await;
}

#[tokio::test]
async fn what_is_allowed_may_have_capitals() {
    let (one, two) = pages().await;
    for of in [
        json!([{ "name": "no", "priority": 1, "refuse": {}, "when": { "not": { "path": { "prefix": "/Api/" } } } }]),
        json!([
            { "name": "yes", "priority": 2, "to": "v2", "when": { "path": { "prefix": "/Api/" } } },
            { "name": "no", "priority": 1, "refuse": {} },
        ]),
    ] {
        let gateway = Running::start(vec![plain(&one, &two, &of)]);
        let mut client = gateway.client().await;
        for (path, status) in [("/web/Api/x", 200), ("/web/Api/", 200), ("/web/api/x", 403)] {
            assert_eq!(client.get(path).await.status, status, "{path} {of}");
        }
    }
}

#[tokio::test]
async fn only_trusted_proxies_say_from_where_and_for_which_host() {
    let (one, two) = pages().await;
    let of = json!([
        { "name": "scrapers", "priority": 4, "when": { "address": { "within": ["203.0.113.0/24"] } }, "refuse": {} },
        { "name": "host", "priority": 3, "when": { "host": { "equals": "beta.example" } }, "to": "v2" },
        { "name": "secure", "priority": 2, "when": { "header": { "name": "x-forwarded-proto", "equals": "https" } }, "to": "v2" },
        { "name": "here", "priority": 1, "when": { "address": { "within": ["127.0.0.0/8"] } }, "refuse": { "status": 451 } },
    ]);
    for trusted in [true, false] {
        let services = vec![plain(&one, &two, &of)];
        let gateway = Running::with(
            services,
            serin_gateway::Keyring::ephemeral().unwrap(),
            |options| {
                if trusted {
                    options.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
                }
            },
        );
        let mut client = gateway.client().await;
        for (headers, want) in [
            (&[("x-forwarded-for", "203.0.113.7")][..], (403, "")),
            (
                &[("x-forwarded-for", "203.0.113.7, 198.51.100.1")],
                (200, "v1"),
            ),
            (
                &[
                    ("x-forwarded-for", "198.51.100.1"),
                    ("x-forwarded-host", "Beta.example:443"),
                ],
                (200, "v2"),
            ),
            (
                &[
                    ("x-forwarded-for", "198.51.100.1"),
                    ("x-forwarded-host", "beta.example, other.example"),
                ],
                (200, "v1"),
            ),
            (
                &[
                    ("x-forwarded-for", "198.51.100.1"),
                    ("x-forwarded-proto", "https"),
                ],
                (200, "v2"),
            ),
            (&[], (451, "")),
        ] {
            let answer = client.ask("GET", "/web", headers, "").await;
            let want = if trusted { want } else { (451, "") };
            assert_eq!(
                (answer.status, answer.version()),
                want,
                "{trusted} {headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn rules_are_asked_anew_when_the_table_changes_under_a_body() {
    let (one, two) = mcps().await;
    let before = json!([{ "name": "all", "priority": 1, "to": "v1" }]);
    let gateway = Running::start(vec![]);
    let body = call("add");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: add\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        gateway.address,
        body.len()
    );
    for (rules, want) in [
        (
            json!([{ "name": "all", "priority": 1, "to": "v2" }]),
            "x-serin-version: v2",
        ),
        (
            json!([{ "name": "all", "priority": 1, "refuse": { "status": 403 } }]),
            " 403 ",
        ),
        (
            json!([{ "name": "all", "priority": 1, "refuse": { "status": 404 } }]),
            r#""id":7,"#,
        ),
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        gateway.swap(vec![ruled(&one, &two, &before)]);
        let mut stream = tokio::net::TcpStream::connect(gateway.address)
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..10]).await.unwrap();
        // Its head is read once the answer to a later request is there.
        gateway.client().await.get("/health").await;
        gateway.swap(vec![ruled(&one, &two, &rules)]);
        stream.write_all(&body.as_bytes()[10..]).await.unwrap();
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        assert!(said.contains(want), "{said}");
    }
}

#[tokio::test]
async fn versions_by_turn_are_those_where_the_session_of_rest_begins() {
    let (one, two) = mcps().await;
    let of = json!([{ "name": "turns", "priority": 1, "to": { "v1": 1, "v2": 1 }, "strategy": "round_robin" }]);
    let gateway = Running::start(vec![]);
    gateway.swap_api(vec![ruled(&one, &two, &of)], &v1("tools"));
    let mut client = gateway.client().await;
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..8 {
        let answer = client
            .ask("POST", "/v1/tool", &[JSON], r#"{"tool":"add"}"#)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.json()["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(said == "two", answer.version() == "v2");
        *seen.entry(said).or_default() += 1;
    }
    assert_eq!(seen, BTreeMap::from([("one".into(), 4), ("two".into(), 4)]));
}

#[tokio::test]
async fn a_rule_that_is_called_as_the_version_where_it_leads_has_turns_of_its_own() {
    for name in ["other", "v2"] {
        let ((one, a), (b, _)) = (pages().await, pages().await);
        let by_turns = json!([{ "name": name, "priority": 1, "to": { "v1": 1, "v2": 1 }, "strategy": "round_robin" }]);
        let mut web = ServiceRoute {
            protocol: Protocol::Http,
            path: "/web".into(),
            rules: rules(&by_turns),
            ..service(&[build("v1", &[&one]), build("v2", &[&a, &b])], None)
        };
        web.versions[1].balance = Balance::RoundRobin;
        let gateway = Running::start(vec![web]);
        let mut client = gateway.client().await;
        for _ in 0..40 {
            client.get("/web/x").await;
        }
        let seen = [&one, &a, &b].map(|server| server.seen().len());
        assert_eq!(seen, [20, 10, 10], "rule `{name}`");
    }
}

fn cookie() -> Value {
    json!([{ "cookie": { "name": "at", "ttl": "1h" } }])
}

/// `/web` with a rollout at a share, and this affinity.
fn split(one: &Server, two: &Server, share: f64, affinity: &Value) -> ServiceRoute {
    let mut web = ServiceRoute {
        protocol: Protocol::Http,
        path: "/web".into(),
        ..service(&[build("v1", &[one]), build("v2", &[two])], Some(share))
    };
    web.settings.affinity = serde_json::from_value(affinity.clone()).unwrap();
    web
}

#[tokio::test]
async fn who_has_no_cookie_is_given_one_that_no_endpoint_sees() {
    let (one, two) = pages().await;
    let gateway = Running::start(vec![split(&one, &two, 50.0, &cookie())]);
    let mut client = gateway.client().await;
    let first = client.get("/web/a").await;
    let said = first.header("set-cookie").unwrap();
    let value = given(&first, "at").unwrap();
    assert_eq!(
        said,
        format!("at={value}; Max-Age=3600; Path=/web; Secure; HttpOnly; SameSite=Lax")
    );
    assert_eq!(value.len(), 22, "128 random bits");
    assert_eq!(first.header("cache-control"), Some("private"));
    let [sent, odd] = [
        format!("a=b; at={value} ;c=d"),
        format!("at={}", "x".repeat(65)),
    ];
    for (sent, passed) in [
        (sent.as_str(), Some("a=b;c=d")),
        (&format!("at={value}"), None),
        ("bat=1; At=2", Some("bat=1; At=2")),
        (&odd, None),
    ] {
        let answer = client.ask("GET", "/web", &[("cookie", sent)], "").await;
        let is_known = sent.contains(&value);
        assert_eq!(given(&answer, "at").is_none(), is_known, "{sent}");
        assert!(!is_known || answer.version() == first.version());
        let seen = [&one, &two].map(|server| server.seen().pop());
        let server = usize::from(answer.version() == "v2");
        assert_eq!(seen[server].as_ref().unwrap().header("cookie"), passed);
    }
}

#[tokio::test]
async fn a_cookie_is_given_with_what_was_routed_and_never_cached_or_set_by_a_server() {
    let one = Server::answering(|seen| {
        let headers: &[(&str, &str)] = match seen.path.as_str() {
            "/mcp/public" => &[("cache-control", "public, max-age=60")],
            "/mcp/private" => &[("cache-control", "Private, max-age=60")],
            "/mcp/steals" => &[("set-cookie", "at=mine"), ("set-cookie", "own=1")],
            _ => &[],
        };
        reply(200, headers, "one")
    })
    .await;
    let two = Server::answering(|_| reply(200, &[], "two")).await;
    let mut web = split(&one, &two, 0.0, &cookie());
    web.rules = rules(
        &json!([{ "name": "no", "priority": 1, "refuse": {}, "when": { "path": { "prefix": "/no" } } }]),
    );
    let gateway = Running::start(vec![web]);
    let mut client = gateway.client().await;
    let cached = |answer: &Answer| {
        let values = answer.headers.get_all("cache-control").iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        cached(&client.get("/web/public").await),
        ["public, max-age=60", "private"]
    );
    assert_eq!(
        cached(&client.get("/web/private").await),
        ["Private, max-age=60"]
    );
    let stolen = client.get("/web/steals").await;
    assert_eq!(given(&stolen, "at").unwrap().len(), 22);
    assert_eq!(given(&stolen, "own").unwrap(), "1");
    let known = [("cookie", "at=known")];
    let stolen = client.ask("GET", "/web/steals", &known, "").await;
    assert_eq!(given(&stolen, "at"), None);
    // One that a rule refuses was not routed; one that its endpoint does not take was.
    assert_eq!(given(&client.get("/web/no").await, "at"), None);
    one.stop();
    let lost = gateway.client().await.get("/web").await;
    assert_eq!(lost.status, 502);
    assert!(given(&lost, "at").is_some());
}

#[tokio::test]
async fn a_cookie_keeps_callers_of_mcp_and_rest_too() {
    let (one, two) = mcps().await;
    let mut tools = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(50.0));
    tools.settings.affinity = serde_json::from_value(cookie()).unwrap();
    let gateway = Running::start(vec![]);
    gateway.swap_api(vec![tools], &v1("tools"));
    let mut client = gateway.client().await;
    let mut versions = BTreeSet::new();
    for _ in 0..12 {
        let rest = client
            .ask("POST", "/v1/tool", &[JSON], r#"{"tool":"add"}"#)
            .await;
        let value = given(&rest, "at").unwrap();
        assert!(
            rest.header("set-cookie").unwrap().contains("Path=/v1;"),
            "where it is asked"
        );
        versions.insert(rest.version().to_owned());
        let cookie = format!("at={value}");
        let known = [("cookie", cookie.as_str()), JSON];
        let again = client
            .ask("POST", "/v1/tool", &known, r#"{"tool":"add"}"#)
            .await;
        assert_eq!(
            (again.version(), given(&again, "at")),
            (rest.version(), None)
        );
        let modern = client
            .modern("tools/call", Some("add"), &known[..1], &params("add"))
            .await;
        assert_eq!(
            (modern.version(), given(&modern, "at")),
            (rest.version(), None)
        );
        let session = client.ask("POST", "/mcp", &known, INITIALIZE).await;
        assert_eq!(
            (session.version(), given(&session, "at")),
            (rest.version(), None)
        );
    }
    assert_eq!(versions.len(), 2);
    // A session that begins without one has it for a key.
    let session = client.initialize().await;
    let cookie = format!("at={}", given(&session, "at").unwrap());
    let again = client
        .ask("POST", "/mcp", &[("cookie", &cookie), JSON], INITIALIZE)
        .await;
    assert_eq!(again.version(), session.version());
    for seen in one.seen().iter().chain(&two.seen()) {
        assert_eq!(seen.header("cookie"), None);
    }
}

#[tokio::test]
async fn sessions_go_by_what_is_configured_and_else_by_themselves() {
    let (one, two) = mcps().await;
    let mut tools = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(50.0));
    tools.settings.affinity = serde_json::from_value(json!([{ "header": "x-user" }])).unwrap();
    let gateway = Running::start(vec![tools]);
    let mut client = gateway.client().await;
    let mut versions = BTreeSet::new();
    for user in 0..12 {
        let user = user.to_string();
        let headers = [("x-user", user.as_str()), JSON];
        let first = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
        let modern = client.modern("tools/list", None, &headers[..1], "{}").await;
        assert_eq!(modern.version(), first.version());
        for _ in 0..3 {
            let again = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
            assert_eq!(again.version(), first.version());
        }
        versions.insert(first.version().to_owned());
    }
    assert_eq!(versions.len(), 2);
    let mut own = BTreeSet::new();
    for _ in 0..30 {
        own.insert(client.initialize().await.version().to_owned());
    }
    assert_eq!(own.len(), 2);
}

#[tokio::test]
async fn raising_the_share_moves_callers_one_way_whatever_they_are_known_by() {
    let (one, two) = pages().await;
    let trusted = |options: &mut serin_gateway::Options| {
        options.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let with = |affinity: &Value, share: f64| {
        let mut web = split(&one, &two, share, affinity);
        web.settings.tenant_header = Some("x-tenant".into());
        vec![web]
    };
    for (affinity, header, value) in [
        (json!([{ "header": "x-user" }]), "x-user", "u{}"),
        (json!([{ "cookie": { "name": "at" } }]), "cookie", "at=c{}"),
        (json!(["tenant"]), "x-tenant", "t{}"),
        (json!(["address"]), "x-forwarded-for", "198.51.100.{}"),
    ] {
        let keys = serin_gateway::Keyring::ephemeral().unwrap();
        let gateway = Running::with(with(&affinity, 0.0), keys, trusted);
        let mut client = gateway.client().await;
        let mut before = [false; 40];
        for share in [0.0, 5.0, 25.0, 50.0, 75.0, 100.0] {
            gateway.swap(with(&affinity, share));
            for (caller, was) in before.iter_mut().enumerate() {
                let value = value.replace("{}", &(caller + 1).to_string());
                let mut ask = async || client.ask("GET", "/web", &[(header, &*value)], "").await;
                let is = ask().await.version() == "v2";
                assert!(
                    is >= *was,
                    "{header}: caller {caller} went back at {share} %"
                );
                assert_eq!(ask().await.version() == "v2", is, "both sides stick");
                *was = is;
            }
        }
        assert!(before.iter().all(|is| *is));
    }
}

#[tokio::test]
async fn a_weight_that_grows_only_wins_callers_and_a_rule_has_its_own_affinity() {
    let (one, two) = pages().await;
    let with = |weight: u32| {
        let of = json!([{ "name": "some", "priority": 1, "to": { "v1": 100 - weight, "v2": weight },
            "affinity": [ { "header": "x-group" } ] }]);
        let mut web = plain(&one, &two, &of);
        web.settings.affinity = serde_json::from_value(json!([{ "header": "x-user" }])).unwrap();
        vec![web]
    };
    let gateway = Running::start(with(1));
    let mut client = gateway.client().await;
    let mut before = [false; 60];
    for weight in [1, 10, 30, 60, 99] {
        gateway.swap(with(weight));
        for (group, was) in before.iter_mut().enumerate() {
            let group = group.to_string();
            let mut versions = BTreeSet::new();
            for user in ["ann", "bob", "cid"] {
                let headers = [("x-user", user), ("x-group", group.as_str())];
                versions.insert(
                    client
                        .ask("GET", "/web", &headers, "")
                        .await
                        .version()
                        .to_owned(),
                );
            }
            assert_eq!(versions.len(), 1, "a group stays together");
            let is = versions.contains("v2");
            assert!(is >= *was);
            *was = is;
        }
    }
}

#[tokio::test]
async fn strategies_go_by_a_header_a_cookie_or_the_address() {
    let (one, two) = pages().await;
    let with = |strategy: Value| {
        let of = json!([{ "name": "some", "priority": 1, "to": { "v1": 50, "v2": 50 }, "strategy": strategy }]);
        vec![plain(&one, &two, &of)]
    };
    let gateway = Running::start(with(json!({ "header": "x-group" })));
    let mut client = gateway.client().await;
    let mut versions = BTreeSet::new();
    for group in 0..20 {
        let group = group.to_string();
        let mut ask = async || client.ask("GET", "/web", &[("x-group", &*group)], "").await;
        let first = ask().await;
        assert_eq!(ask().await.version(), first.version());
        versions.insert(first.version().to_owned());
    }
    assert_eq!(versions.len(), 2);
    gateway.swap(with(json!({ "cookie": { "name": "rs" } })));
    versions.clear();
    for _ in 0..20 {
        let first = client.get("/web").await;
        let cookie = format!("rs={}", given(&first, "rs").unwrap());
        let again = client.ask("GET", "/web", &[("cookie", &cookie)], "").await;
        assert_eq!(
            (again.version(), given(&again, "rs")),
            (first.version(), None)
        );
        versions.insert(first.version().to_owned());
    }
    assert_eq!(versions.len(), 2);
    gateway.swap(with(json!("ip_hash")));
    let first = client.get("/web").await.version().to_owned();
    for _ in 0..5 {
        assert_eq!(gateway.client().await.get("/web").await.version(), first);
    }
}
