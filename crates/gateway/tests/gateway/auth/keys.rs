//! Keys: who gets in with one, when it ends, and that no server sees it.

use super::{Callers, LIST, auth, begin, legacy, list, serin, start, web, with_signer};
use crate::{gates::tools, support::*};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use serin_model::{
    auth::{Credential, Secret},
    observe::{Rejection, Sealed},
};
use serin_tenancy::{Role, TenantState};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn only_a_key_in_force_gets_in_and_no_server_ever_sees_it() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme", "idle"]);
    let good = callers.key("acme", Role::User, &[]);
    let expired = callers.key("acme", Role::User, &[]);
    callers.change(&expired, |key| key.expires_at = Timestamp::now());
    let revoked = callers.key("acme", Role::User, &[]);
    callers.change(&revoked, |key| key.revoked_at = Some(Timestamp::now()));
    let suspended = callers.key("idle", Role::User, &[]);
    callers.tenant("idle", TenantState::Suspended);
    let orphan = callers.key("nobody", Role::User, &[]);
    let forged = format!("{}{}", &good[..30], &"0".repeat(good.len() - 30));
    let other = Callers {
        made: 99,
        ..Callers::default()
    }
    .key("acme", Role::User, &[]);
    let mut gateway = start(
        vec![serin(&server, &json!({ "tenant_header": "x-tenant" }))],
        &callers,
    );
    let mut client = gateway.client().await;
    for bad in [
        &expired,
        &revoked,
        &suspended,
        &orphan,
        &forged,
        &other,
        &good[..good.len() - 1],
        &good["Bearer ".len()..],
        &good.replace("Bearer", "Basic"),
        &format!("{good}, {good}"),
        "Bearer",
        "",
    ] {
        let answer = list(&mut client, bad).await;
        assert_eq!(answer.status, 401, "{bad}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(
            challenge.starts_with("Bearer realm=\"serin\""),
            "{challenge}"
        );
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert!(!answer.text().contains("serin_0"), "{answer:?}");
    }
    let answer = client.modern("tools/list", None, &[], "{}").await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(
        (answer.status, challenge),
        (401, Some("Bearer realm=\"serin\""))
    );
    assert!(
        answer.text().contains("Authorization: Bearer serin_"),
        "{answer:?}"
    );
    let twice = [("authorization", &*good), ("authorization", &*good)];
    let answer = client.modern("tools/list", None, &twice, "{}").await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(server.seen().is_empty());

    let made_up = [
        ("authorization", &*good),
        ("x-tenant", "idle"),
        ("x_tenant", "idle"),
        ("connection", "X-Tenant, mcp-protocol-version"),
    ];
    let answer = client.modern("tools/list", None, &made_up, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        list(&mut client, &good.replace("Bearer", "bearer"))
            .await
            .status,
        200
    );
    let key = begin(&mut client, &good).await;
    legacy(&mut client, &good, &key, LIST).await;
    for seen in server.seen() {
        assert_eq!(seen.header("x-tenant"), Some("acme"));
        let of_mcp =
            seen.rpc_method() == "initialize" || seen.header("mcp-protocol-version").is_some();
        assert!(of_mcp, "{:?}", seen.headers);
        let said = format!("{:?} {}", seen.headers, seen.text());
        assert!(
            !said.contains("serin_") && !said.contains("authorization"),
            "{said}"
        );
        assert!(!said.contains("idle"), "{said}");
    }
    gateway.observed.rejection(Rejection::Auth, 14).await;
    let is_counted = |seen: &[Sealed]| {
        let of = |result| auth(seen, result);
        (
            of("ok"),
            of("missing"),
            of("expired"),
            of("revoked"),
            of("unknown"),
        ) == (4, 1, 1, 3, 9)
    };
    gateway.observed.until(is_counted).await;
}

#[tokio::test]
async fn a_key_ends_at_once_on_open_connections_and_streams() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let (old, new) = (
        callers.key("acme", Role::User, &[]),
        callers.key("acme", Role::User, &[]),
    );
    let services = || vec![serin(&server, &json!({}))];
    let gateway = start(services(), &callers);
    let mut client = gateway.client().await;
    // Rotation: both open for a while.
    for key in [&old, &new, &old] {
        assert_eq!(list(&mut client, key).await.status, 200);
    }
    let session = begin(&mut client, &old).await;
    let headers = [("authorization", &*old), ("mcp-session-id", &*session)];
    let mut streaming = gateway.client().await;
    let stream = streaming.begin("GET", "/mcp", &headers, "").await;
    assert_eq!(stream.status(), 200);
    callers.change(&old, |key| key.expires_at = Timestamp::now());
    gateway.swap_callers(services(), callers.directory());
    assert_eq!(list(&mut client, &old).await.status, 401);
    assert_eq!(list(&mut client, &new).await.status, 200);
    let ended = stream.into_body().collect();
    assert!(soon(ended).await.is_ok(), "the stream ends");
}

#[tokio::test]
async fn answers_under_way_are_broken_off_when_their_key_ends() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let kept = open.clone();
    let server = Server::answering(move |seen| {
        let (kind, first) = match seen.header("x-kind") {
            Some("json") => ("application/json", "{\"jsonrpc\":"),
            Some("bytes") => ("application/octet-stream", "some"),
            _ => ("text/event-stream", ": some\n\n"),
        };
        let (sender, reply) = pieces(kind);
        sender.send(piece(first)).unwrap();
        kept.lock().unwrap().push(sender);
        reply
    })
    .await;
    let mut callers = Callers::new(&["acme"]);
    let (old, new) = (
        callers.key("acme", Role::User, &[]),
        callers.key("acme", Role::User, &[]),
    );
    let services = || {
        let mut web = web(&server, &json!({}));
        web.name = "web".parse().unwrap();
        vec![serin(&server, &json!({})), web]
    };
    let gateway = start(services(), &callers);
    let mut answers = vec![];
    for key in [&old, &new] {
        for (method, path, kind) in [
            ("GET", "/web", "events"),
            ("GET", "/web", "bytes"),
            ("POST", "/mcp", "events"),
            ("POST", "/mcp", "json"),
        ] {
            let mut client = gateway.client().await;
            let headers = [
                ("authorization", &**key),
                ("x-kind", kind),
                ("content-type", "application/json"),
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tools/call"),
                ("mcp-name", "add"),
            ];
            let mut answer = client.begin(method, path, &headers, CALL).await;
            assert_eq!(answer.status(), 200);
            assert!(soon(answer.frame()).await.unwrap().is_ok());
            answers.push((format!("{path} {kind}"), answer, client));
        }
    }
    callers.change(&old, |key| key.revoked_at = Some(Timestamp::now()));
    gateway.swap_callers(services(), callers.directory());
    let (revoked, others) = answers.split_at_mut(4);
    for (what, answer, _) in revoked {
        // Never as if that had been all.
        let end = soon(answer.frame()).await;
        assert!(matches!(end, Some(Err(_))), "{what}: {end:?}");
    }
    for sender in open.lock().unwrap().drain(..) {
        let _ = sender.send(piece("more\n\n"));
    }
    for (what, answer, _) in others {
        assert!(soon(answer.frame()).await.unwrap().is_ok(), "{what}");
    }
}

#[tokio::test]
async fn a_key_that_ends_while_a_body_comes_opens_nothing() {
    let server = Server::mcp("one").await;
    let mut callers = Callers::new(&["acme"]);
    let good = callers.key("acme", Role::User, &[]);
    let mut ended = callers.clone();
    ended.change(&good, |key| key.revoked_at = Some(Timestamp::now()));
    let services = || {
        let mut web = web(&server, &json!({ "signing": "required" }));
        web.name = "web".parse().unwrap();
        vec![serin(&server, &json!({})), web]
    };
    let api = [(1, crate::rest::spec(&[]))];
    let (mut gateway, _) = with_signer();
    for (known, path, body) in [
        (1, "/mcp", CALL),
        (2, "/api/tool", r#"{"tool":"add","args":{}}"#),
        (3, "/web/upload", "the whole of it"),
    ] {
        gateway.swap_callers_of(services(), callers.directory(), &api);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {good}\r\nContent-Type: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            gateway.address,
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(gateway.address)
            .await
            .unwrap();
        let (first, last) = body.split_at(5);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        gateway
            .observed
            .until(|seen| auth(seen, "ok") == known)
            .await;
        gateway.swap_callers_of(services(), ended.directory(), &api);
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        gateway
            .observed
            .until(|seen| auth(seen, "revoked") == known)
            .await;
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_key_runs_out_on_a_connection_that_has_shown_it() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let end = Timestamp::now() + SignedDuration::from_millis(700);
    callers.change(&key, |key| key.expires_at = end);
    let gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let mut statuses = vec![];
    while statuses.last() != Some(&401) {
        statuses.push(list(&mut client, &key).await.status);
        assert!(statuses.len() < 100_000);
    }
    assert!(Timestamp::now() >= end);
    assert!(
        statuses.len() > 1
            && statuses[..statuses.len() - 1]
                .iter()
                .all(|status| *status == 200)
    );
}

#[tokio::test]
async fn the_gateway_proves_itself_with_its_own_credential() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let with = |credential| {
        let mut service = serin(&server, &json!({}));
        service.credential = Some(credential);
        vec![service]
    };
    let known = |header: &str| Credential::Known {
        header: header.into(),
        value: Secret::new("Bearer of-the-gateway"),
    };
    let gateway = start(with(known("authorization")), &callers);
    let mut client = gateway.client().await;
    let session = begin(&mut client, &key).await;
    legacy(&mut client, &key, &session, LIST).await;
    list(&mut client, &key).await;
    assert_eq!(server.seen().len(), 3);
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer of-the-gateway"));
    }
    gateway.swap_callers(with(known("x-api-key")), callers.directory());
    list(&mut client, &key).await;
    let seen = server.last();
    assert_eq!(seen.header("x-api-key"), Some("Bearer of-the-gateway"));
    assert_eq!(seen.header("authorization"), None);
    let missing = Credential::Missing {
        reference: "env:TOOLS_TOKEN".into(),
    };
    gateway.swap_callers(with(missing), callers.directory());
    let answer = list(&mut client, &key).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("`env:TOOLS_TOKEN`"), "{answer:?}");
    assert_eq!(server.seen().len(), 4);
}
