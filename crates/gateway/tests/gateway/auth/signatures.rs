//! Signatures: a request that is signed is good once, now, and as it is; and who must sign.

use super::{Callers, LIST, auth, list, serin, web, with_signer};
use crate::{
    gates::{flag, table, tools},
    kills::Switchboard,
    support::*,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use serin_tenancy::{
    Role,
    signature::{MASTER_BYTES, Master, Signed},
};
use std::sync::Arc;

/// Signs as the documentation says.
struct Signing {
    key: String,
    master: Arc<Master>,
    nonce: u32,
}

impl Signing {
    fn new(key: String, master: &Arc<Master>) -> Self {
        Self {
            key,
            master: master.clone(),
            nonce: 0,
        }
    }

    fn headers(
        &mut self,
        method: &str,
        target: &str,
        body: &str,
        skew: i64,
    ) -> Vec<(&'static str, String)> {
        self.nonce += 1;
        let timestamp = (Timestamp::now().as_second() + skew).to_string();
        let nonce = format!("nonce-{:016}", self.nonce);
        let signed = Signed {
            timestamp: &timestamp,
            nonce: &nonce,
            method,
            target,
            body: body.as_bytes(),
        };
        let id = self.key[13..25].parse().unwrap();
        let signature = self.master.secret(id).sign(&signed);
        vec![
            ("authorization", self.key.clone()),
            ("content-type", "application/json".to_owned()),
            ("mcp-protocol-version", "2026-07-28".to_owned()),
            ("mcp-method", "tools/list".to_owned()),
            ("x-serin-timestamp", timestamp),
            ("x-serin-nonce", nonce),
            ("x-serin-signature", signature),
        ]
    }

    /// The same without what only MCP has.
    fn rest_headers(
        &mut self,
        method: &str,
        target: &str,
        body: &str,
    ) -> Vec<(&'static str, String)> {
        let mut headers = self.headers(method, target, body, 0);
        headers.retain(|(name, _)| !name.starts_with("mcp-"));
        headers
    }
}

fn lent<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    let lend = |(name, value): &'a (&'a str, String)| (*name, &**value);
    headers.iter().map(lend).collect()
}

async fn post(
    client: &mut Client,
    target: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> Answer {
    let headers = lent(headers);
    client.ask("POST", target, &headers, body.to_owned()).await
}

#[tokio::test]
async fn a_signed_request_is_good_once_now_and_as_it_is() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let unsigning = callers.key("acme", Role::User, &[]);
    callers.change(&unsigning, |key| key.signs = false);
    let (mut gateway, master) = with_signer();
    let required = || vec![serin(&server, &json!({ "signing": "required" }))];
    gateway.swap_callers(required(), callers.directory());
    let mut client = gateway.client().await;
    let mut signing = Signing::new(key.clone(), &master);
    let fine = signing.headers("POST", "/mcp?x=1", LIST, 0);
    assert_eq!(post(&mut client, "/mcp?x=1", &fine, LIST).await.status, 200);
    let said = format!("{:?}", server.last().headers);
    assert!(!said.contains("x-serin-"), "{said}");
    // Whichever connection it comes over.
    let mut other = gateway.client().await;
    let again = post(&mut other, "/mcp?x=1", &fine, LIST).await;
    assert_eq!(again.status, 401);
    assert!(again.text().contains("used already"), "{again:?}");
    for skew in [-290, 290] {
        let headers = signing.headers("POST", "/mcp", LIST, skew);
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            200,
            "{skew}"
        );
    }
    let before = server.seen().len();
    let changed = LIST.replace('3', "4");
    for (what, method, target, body, skew) in [
        ("too old", "POST", "/mcp", LIST, -302),
        ("from the future", "POST", "/mcp", LIST, 302),
        ("another body", "POST", "/mcp", &*changed, 0),
        ("another method", "GET", "/mcp", LIST, 0),
        ("another path", "POST", "/mcp/", LIST, 0),
        ("another query", "POST", "/mcp?x=2", LIST, 0),
    ] {
        let headers = signing.headers(method, target, body, skew);
        let answer = post(&mut client, "/mcp", &headers, LIST).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
    }
    for (name, value) in [
        ("x-serin-signature", "0".repeat(64)),
        ("x-serin-signature", String::new()),
        ("x-serin-nonce", "a-nonce-of-another-request".to_owned()),
        ("x-serin-timestamp", "now".to_owned()),
    ] {
        let mut headers = signing.headers("POST", "/mcp", LIST, 0);
        headers.retain(|(other, _)| *other != name);
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            401,
            "without {name}"
        );
        headers.push((name, value.clone()));
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            401,
            "{name}: {value}"
        );
    }
    // A key without a secret, or of another holder.
    let mut stranger = Signing::new(unsigning, &master);
    let headers = stranger.headers("POST", "/mcp", LIST, 0);
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
    let mut forger = Signing {
        key,
        master: Arc::new(Master::new([4; MASTER_BYTES])),
        nonce: 500,
    };
    let headers = forger.headers("POST", "/mcp", LIST, 0);
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
    assert_eq!(server.seen().len(), before);
    gateway
        .observed
        .until(|seen| auth(seen, "signature") == 17)
        .await;
    // Where it is optional, one that is sent is looked at all the same.
    gateway.swap_callers(vec![serin(&server, &json!({}))], callers.directory());
    assert_eq!(list(&mut client, &signing.key.clone()).await.status, 200);
    let mut headers = signing.headers("POST", "/mcp", LIST, 0);
    headers.retain(|(name, _)| *name != "x-serin-timestamp");
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
}

#[tokio::test]
async fn rest_is_signed_as_it_is_sent_and_served_once() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let (mut gateway, master) = with_signer();
    gateway.swap_callers_of(
        vec![serin(&server, &json!({ "signing": "required" }))],
        callers.directory(),
        &[(1, crate::rest::spec(&[]))],
    );
    let mut client = gateway.client().await;
    let mut signing = Signing::new(key, &master);
    let signatures = ["x-serin-timestamp", "x-serin-nonce", "x-serin-signature"];
    let problem = |answer: &Answer, says: &str| {
        assert_eq!(answer.status, 401, "{answer:?}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{answer:?}");
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], 401);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
    };
    for (method, target, body) in [
        ("GET", "/api/tools", ""),
        ("GET", "/v1/tools/add", ""),
        ("POST", "/api/tool", r#"{"tool":"add"}"#),
        ("POST", "/v1/tool?x=%31", r#"{"tool":"add"}"#),
    ] {
        let signed = signing.rest_headers(method, target, body);
        let sent = lent(&signed);
        let is_bare = |(name, _): &&(&str, &str)| !signatures.contains(name);
        let bare: Vec<_> = sent.iter().filter(is_bare).copied().collect();
        let before = server.seen().len();
        let unsigned = client.ask(method, target, &bare, body).await;
        problem(&unsigned, "must be signed");
        assert_eq!(server.seen().len(), before, "{method} {target}");
        let served = client.ask(method, target, &sent, body).await;
        assert_eq!(served.status, 200, "{method} {target}: {served:?}");
        let asked = server.seen();
        assert!(asked.len() > before);
        for request in &asked[before..] {
            let told = signatures.map(|name| request.header(name));
            assert_eq!(told, [None; 3], "they are for the gateway alone");
        }
        let again = client.ask(method, target, &sent, body).await;
        problem(&again, "used already");
        // Neither is it good for anything else.
        let other = signing.rest_headers(method, target, body);
        let other = lent(&other);
        let elsewhere = client
            .ask(method, &format!("{target}?y"), &other, body)
            .await;
        assert_eq!(elsewhere.status, 401, "{elsewhere:?}");
        if method == "POST" {
            let changed = client
                .ask(method, target, &other, r#"{"tool":"search"}"#)
                .await;
            assert_eq!(changed.status, 401, "{changed:?}");
        }
        assert_eq!(server.seen().len(), asked.len(), "{method} {target}");
    }
    gateway
        .observed
        .until(|seen| auth(seen, "signature") == 4 * 3 + 2)
        .await;
}

#[tokio::test]
async fn a_flag_demands_signatures_of_a_tenant_and_plain_http_is_signed_too() {
    let server = Server::answering(|seen| reply(200, &[], seen.body.clone())).await;
    let mut callers = Callers::new(&["acme", "other"]);
    let strict = callers.key("acme", Role::User, &[]);
    let free = callers.key("other", Role::User, &[]);
    let (gateway, master) = with_signer();
    let settings = json!({ "signing": { "flag": "request_signing" }, "body_bytes_max": 1024 });
    let mut web = web(&server, &settings);
    web.versions[0].endpoints[0].url = format!("http://{}/", server.address);
    let flags = table([flag(&json!({
        "key": "request_signing", "default": "off",
        "targeting": { "if": [{ "==": [{ "var": "$serin.tenant" }, "acme"] }, "on", "off"] },
    }))]);
    gateway.swap_all(vec![web], flags, callers.directory());
    let mut client = gateway.client().await;
    let headers = |key: &str| vec![("authorization", key.to_owned())];
    assert_eq!(
        post(&mut client, "/web/a", &headers(&free), "hello")
            .await
            .status,
        200
    );
    assert_eq!(
        post(&mut client, "/web/a", &headers(&strict), "hello")
            .await
            .status,
        401
    );
    let mut signing = Signing::new(strict, &master);
    let signed = signing.headers("POST", "/web/a?b=c", "hello", 0);
    let answer = post(&mut client, "/web/a?b=c", &signed, "hello").await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let signed = signing.headers("POST", "/web/a", "hello", 0);
    assert_eq!(
        post(&mut client, "/web/a", &signed, "hullo").await.status,
        401
    );
    let large = "x".repeat(1025);
    let signed = signing.headers("POST", "/web/a", &large, 0);
    assert_eq!(
        post(&mut client, "/web/a", &signed, &large).await.status,
        413
    );
}

#[tokio::test]
async fn a_flag_that_says_nothing_any_more_opens_nothing_that_it_closed() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let board = Switchboard::default();
    let gateway = board.start(vec![]);
    let mut client = gateway.client().await;
    let web = web(
        &server,
        &json!({ "signing": { "flag": "request_signing" } }),
    );
    let flag = |changes: Value| {
        let mut flag = json!({
            "state": "ENABLED", "variants": { "on": true, "off": false, "odd": "on" },
            "defaultVariant": "off", "serin": { "offVariant": "off" },
        });
        for (name, value) in changes.as_object().unwrap() {
            flag[name] = value.clone();
        }
        flag
    };
    let past = json!({ "offVariant": "off", "expires": "2026-01-01T00:00:00Z" });
    let broken = json!({ "if": [true, "unknown"] });
    let mut cases = vec![
        ("request_signing", flag(json!({})), None, 200),
        (
            "request_signing",
            flag(json!({ "state": "DISABLED" })),
            None,
            200,
        ),
        (
            "request_signing",
            flag(json!({ "defaultVariant": "on" })),
            None,
            401,
        ),
        ("reqest_signing", flag(json!({})), None, 401),
        ("request_signing", flag(json!({ "serin": past })), None, 401),
        (
            "request_signing",
            flag(json!({ "defaultVariant": "odd" })),
            None,
            401,
        ),
    ];
    for target in ["flag:request_signing", "flags", "tenant:acme"] {
        // The tenant's own stop comes first.
        let status = if target == "tenant:acme" { 503 } else { 401 };
        cases.push(("request_signing", flag(json!({})), Some(target), status));
    }
    // What a rule that cannot be used answers is the flag's own word, as its fail mode has it.
    for (default, mode, status) in [
        ("on", "last", 401),
        ("off", "last", 200),
        ("on", "off", 200),
    ] {
        let serin = json!({ "offVariant": "off", "failMode": mode });
        let changes = json!({ "defaultVariant": default, "targeting": broken, "serin": serin });
        cases.push(("request_signing", flag(changes), None, status));
    }
    for (name, flag, kill, status) in cases {
        let definition = serde_json::from_value(flag.clone()).unwrap();
        let flags = table([(name.parse().unwrap(), Arc::new(definition))]);
        gateway.swap_all(vec![web.clone()], flags, callers.directory());
        if let Some(target) = &kill {
            board.kill(target);
        }
        let unsigned = [("authorization", key.clone())];
        let answer = post(&mut client, "/web/a", &unsigned, "hello").await;
        assert_eq!(answer.status, status, "{name} {kill:?} {flag}: {answer:?}");
        if let Some(target) = &kill {
            board.revive(target);
        }
    }
}
