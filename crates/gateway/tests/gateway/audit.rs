//! What is recorded of requests that are turned away.

use crate::{
    auth::{Callers, Provider, with_tokens},
    support::*,
};
use jiff::Timestamp;
use serde_json::json;
use serin_flags::Table;
use serin_gateway::{AuditTo, Keyring};
use serin_model::audit::{AuditGate, AuditRow};
use serin_tenancy::{Role, SecretKey, key::RANDOM_BYTES};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A gateway whose rows come out here.
fn recorded(gate: AuditGate, is_required: bool) -> (Running, mpsc::Receiver<Vec<AuditRow>>) {
    let (rows, taken) = mpsc::channel(100);
    let to = AuditTo {
        rows,
        gate,
        is_required,
        with_arguments: false,
        lost: Arc::default(),
    };
    let keys = Keyring::ephemeral().unwrap();
    let gateway = Running::with(vec![], keys, |options| options.audit = Some(to));
    (gateway, taken)
}

/// The rows of so many requests.
async fn rows(taken: &mut mpsc::Receiver<Vec<AuditRow>>, count: usize) -> Vec<AuditRow> {
    let mut rows = Vec::new();
    while rows.len() < count {
        rows.extend(soon(taken.recv()).await.unwrap());
    }
    rows.sort_by_key(|row| row.at_micros);
    rows
}

#[tokio::test]
async fn who_is_refused_is_recorded_as_far_as_it_was_proven_and_with_the_reason() {
    let server = crate::gates::tools(false).await;
    let provider = Provider::new();
    let mut callers = Callers::new(&["acme", "idle"]);
    let away = callers.key("acme", Role::User, &["service:other"]);
    let revoked = callers.key("acme", Role::User, &[]);
    callers.change(&revoked, |key| key.revoked_at = Some(Timestamp::now()));
    let expired = callers.key("acme", Role::User, &[]);
    callers.change(&expired, |key| key.expires_at = Timestamp::now());
    let directory = callers.directory();
    let id_of = |key: &str| key[13..25].to_owned();
    let hash_of = |key: &str| {
        let record = directory.record(id_of(key).parse().unwrap()).unwrap();
        record.hash.to_hex()
    };
    // The id of a key is public: a secret that is made up proves nothing.
    let mut other = [2; RANDOM_BYTES];
    other[RANDOM_BYTES - 1] = 9;
    let forged = format!("Bearer {}", SecretKey::new(&other).expose());
    assert_eq!(id_of(&forged), id_of(&revoked));
    let now = Timestamp::now().as_second();
    let token = |changes| provider.token(&changes);
    let ann = ("acme", Some("ann".to_owned()), String::new());
    let nobody = ("", None, String::new());
    let holder = |key: &str| ("acme", Some(id_of(key)), hash_of(key));
    let cases = [
        (away.clone(), 403, holder(&away), "`service:tools`"),
        (revoked.clone(), 401, holder(&revoked), "revoked"),
        (expired.clone(), 401, holder(&expired), "is over"),
        (forged, 401, nobody.clone(), "no key of ours"),
        (
            token(json!({ "scope": "openid" })),
            403,
            ann.clone(),
            "`service:tools`",
        ),
        (token(json!({ "exp": now - 61 })), 401, ann.clone(), "`exp`"),
        (
            token(json!({ "aud": "other" })),
            401,
            nobody.clone(),
            "`aud`",
        ),
        (
            token(json!({ "iss": "other" })),
            401,
            nobody.clone(),
            "`iss`",
        ),
        (
            token(json!({ "scope": "tool:x" })),
            401,
            nobody.clone(),
            "scopes",
        ),
        (
            provider.token_of(&json!({}), "two"),
            401,
            nobody.clone(),
            "`kid`",
        ),
        (
            Provider::new().token(&json!({})),
            401,
            nobody.clone(),
            "signature",
        ),
        (String::new(), 401, nobody, "no key of ours"),
    ];
    let (gateway, mut taken) = recorded(AuditGate::default(), false);
    gateway.swap_callers(with_tokens(&server, Some(&provider)), directory.clone());
    let mut client = gateway.client().await;
    for (credential, status, whose, why) in &cases {
        let answer = crate::auth::list(&mut client, credential).await;
        assert_eq!(answer.status, *status, "{why}: {answer:?}");
        // Who tries keys learns nothing.
        assert_eq!(answer.text().contains(why), *status == 403, "{answer:?}");
        let row = rows(&mut taken, 1).await.remove(0);
        let found = (
            &*row.tenant,
            row.subject.as_deref().map(str::to_owned),
            row.key_hash.to_string(),
        );
        assert_eq!(&found, whose, "{why}: {row:?}");
        let said = row.error.unwrap();
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("serin_"), "{said}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_in_the_words_of_whoever_asks() {
    let server = crate::gates::tools(false).await;
    let gate = AuditGate::default();
    let (gateway, mut taken) = recorded(gate.clone(), true);
    let callers = Callers::default();
    let services = || {
        vec![crate::gates::gated(
            service(&[build("v1", &[&server])], None),
            json!({}),
            &Table::default(),
        )]
    };
    gateway.swap_callers_of(
        services(),
        callers.directory(),
        &[(1, crate::rest::spec(&[]))],
    );
    let mut client = gateway.client().await;
    assert_eq!(client.get("/ready").await.status, 200);
    gate.shut(true);
    for (path, kind) in [
        ("/api/tools", "application/problem+json"),
        ("/v1/openapi.json", "application/problem+json"),
        ("/mcp", "text/plain; charset=utf-8"),
        ("/nowhere", "text/plain; charset=utf-8"),
        // A balancer sends callers where they are served.
        ("/ready", "application/json"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        let is_told = answer.header("retry-after").is_some();
        assert_eq!(is_told, path != "/ready", "{path}");
        assert!(answer.text().contains("recorded"), "{answer:?}");
    }
    assert_eq!(
        client.get("/health").await.status,
        200,
        "the process is well"
    );
    gate.shut(false);
    assert_eq!(client.get("/ready").await.status, 200);
    assert_eq!(client.get("/nowhere").await.status, 404);
    let rows = rows(&mut taken, 1).await;
    assert_eq!((rows.len(), &*rows[0].endpoint), (1, "/nowhere"));
}

#[tokio::test]
async fn arguments_that_only_the_tool_can_read_are_recorded_and_go_on() {
    let server = crate::gates::tools(false).await;
    let (gateway, mut taken) = recorded(AuditGate::default(), false);
    let table = serin_flags::Table::default();
    let service = crate::gates::gated(service(&[build("v1", &[&server])], None), json!({}), &table);
    let api = [(1, crate::rest::spec(&[]))];
    gateway.swap_callers_of(vec![service], Callers::default().directory(), &api);
    let mut client = gateway.client().await;
    let body = r#"{"tool":"add","args":{"a":1e999}}"#;
    let json = [("content-type", "application/json")];
    let answer = client.ask("POST", "/api/tool", &json, body).await;
    // The server of this test is no such tool.
    assert_eq!(answer.status, 502, "{answer:?}");
    let asked = server.seen();
    assert!(
        asked
            .iter()
            .any(|seen| seen.text().contains(r#"{"a":1e999}"#))
    );
    let row = rows(&mut taken, 1).await.remove(0);
    assert_eq!(row.tool.as_deref(), Some("add"));
}
