//! Ways around who one is: headers in another spelling, methods and transports that nobody asks about, and what is somebody else's.

use crate::{
    auth::{Callers, begin, legacy, list, serin, start},
    support::*,
};
use serde_json::json;
use serin_model::{
    auth::{Credential, Secret},
    observe::Rejection,
    service::Protocol,
};
use serin_tenancy::Role;

#[tokio::test]
async fn a_key_of_ours_goes_no_further_where_nobody_asks_for_it() {
    let server = Server::mcp("s").await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let open = service(&[build("v1", &[&server])], None);
    let gateway = start(vec![open], &callers);
    let mut client = gateway.client().await;
    let bare = key["Bearer ".len()..].to_owned();
    for (sent, want) in [
        (&*key, None),
        (&*key.replace("Bearer", "bearer"), None),
        (&*bare, None),
        (&*format!("Token token=\"{bare}\""), None),
        ("Bearer of-the-caller", Some("Bearer of-the-caller")),
        ("Bearer not_serin_", Some("Bearer not_serin_")),
    ] {
        assert_eq!(list(&mut client, sent).await.status, 200, "{sent}");
        assert_eq!(server.last().header("authorization"), want, "{sent}");
    }
}

#[tokio::test]
async fn the_credential_of_the_gateway_stands_alone_in_every_spelling() {
    let server = Server::mcp("s").await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let mut tools = serin(&server, &json!({}));
    tools.credential = Some(Credential::Known {
        header: "x-api-key".into(),
        value: Secret::new("of-the-gateway"),
    });
    let gateway = start(vec![tools], &callers);
    let mut client = gateway.client().await;
    let headers = [
        ("authorization", &*key),
        ("x-api-key", "made-up"),
        ("x_api_key", "made-up"),
        ("x.api-key", "made-up"),
        ("connection", "x-api-key"),
    ];
    let answer = client.modern("tools/list", None, &headers, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = server.last();
    assert_eq!(seen.header("x-api-key"), Some("of-the-gateway"));
    assert!(!format!("{:?}", seen.headers).contains("made-up"));
}

#[tokio::test]
async fn a_reader_writes_by_no_spelling_of_a_method() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let mut callers = Callers::new(&["acme"]);
    let reader = callers.key("acme", Role::ReadOnly, &[]);
    let mut web = serin(&server, &json!({}));
    web.protocol = Protocol::Http;
    let gateway = start(vec![web], &callers);
    let mut client = gateway.client().await;
    for (name, status) in [
        ("x-http-method-override", 403),
        ("x-http-method", 403),
        ("x-method-override", 403),
        ("x_http_method_override", 200),
        ("x-http_method", 200),
        ("x.method.override", 200),
    ] {
        let headers = [("authorization", &*reader), (name, "DELETE")];
        let answer = client.ask("GET", "/mcp/items/1", &headers, "").await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for seen in seen {
        assert!(!format!("{seen:?}").contains("DELETE"), "{seen:?}");
    }
}

#[tokio::test]
async fn only_streamable_http_is_there_for_callers_with_a_key() {
    let server = Server::answering(|seen| {
        let body = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let headers = [
            ("content-type", "application/json"),
            ("mcp-session-id", "s-1"),
        ];
        let used = if seen.rpc_method() == "initialize" {
            2
        } else {
            1
        };
        reply(200, &headers[..used], body)
    })
    .await;
    let mut callers = Callers::new(&["acme"]);
    let keys = [
        callers.key("acme", Role::ReadOnly, &["tool:tools/greet"]),
        callers.key("acme", Role::Admin, &[]),
    ];
    let mut gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let mut refused = 0;
    for key in &keys {
        for version in ["", "2024-11-05", "2025-11-25", "2026-07-28"] {
            for (method, path) in [
                ("GET", "/mcp"),
                ("GET", "/mcp/items/1"),
                ("HEAD", "/mcp"),
                ("OPTIONS", "/mcp"),
                ("DELETE", "/mcp/items/1?force=1"),
                ("POST", "/mcp?sessionId=1"),
                ("POST", "/mcp?a=b&session%5fid=1"),
            ] {
                let headers = [
                    ("authorization", &**key),
                    ("accept", "text/event-stream"),
                    ("content-type", "application/json"),
                    ("mcp-method", "tools/call"),
                    ("mcp-name", "add"),
                    ("mcp-protocol-version", version),
                ];
                let used = if version.is_empty() { 5 } else { 6 };
                let body = if method == "POST" { CALL } else { "" };
                let answer = client.ask(method, path, &headers[..used], body).await;
                assert_eq!(answer.status, 405, "{version} {method} {path}: {answer:?}");
                assert_eq!(answer.header("allow"), Some("POST"));
                refused += 1;
            }
        }
    }
    assert!(server.seen().is_empty());
    gateway
        .observed
        .rejection(Rejection::Session, refused)
        .await;
    // Of what is below the path a session opens nothing to a key of one tool.
    let session = begin(&mut client, &keys[0]).await;
    let before = server.seen().len();
    for (method, body) in [("GET", ""), ("DELETE", ""), ("POST", CALL)] {
        let headers = [
            ("authorization", &*keys[0]),
            ("content-type", "application/json"),
            ("mcp-session-id", &*session),
        ];
        let answer = client.ask(method, "/mcp/items/1", &headers, body).await;
        assert_eq!(answer.status, 403, "{method}: {answer:?}");
    }
    assert_eq!(server.seen().len(), before);
    // A session of ours has its stream and its end.
    let session = begin(&mut client, &keys[1]).await;
    assert_eq!(
        legacy(&mut client, &keys[1], &session, CALL).await.status,
        200
    );
    for method in ["GET", "DELETE"] {
        let headers = [("authorization", &*keys[1]), ("mcp-session-id", &*session)];
        let answer = client.ask(method, "/mcp", &headers, "").await;
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
    }
}

#[tokio::test]
async fn what_a_server_made_for_one_reaches_it_for_nobody_else() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let keys = [
        callers.key("acme", Role::User, &["tool:tools/add"]),
        callers.key("acme", Role::Admin, &[]),
    ];
    let gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    for key in &keys {
        let session = begin(&mut client, key).await;
        let before = server.seen().len();
        let headers = [("authorization", &**key)];
        for (method, name, params) in [
            ("tasks/get", Some("task-1"), r#"{"taskId":"task-1"}"#),
            ("tasks/cancel", Some("task-1"), "{}"),
            ("tasks/get", None, r#"{"t\u0061skId":"task-1"}"#),
            ("tools/list", None, r#"{"cursor":"2"}"#),
            (
                "tools/call",
                Some("add"),
                r#"{"name":"add","requestState":"s"}"#,
            ),
        ] {
            let answer = client.modern(method, name, &headers, params).await;
            assert_eq!(answer.status, 400, "{method} {params}: {answer:?}");
            assert!(answer.json()["error"]["code"].is_i64(), "{answer:?}");
        }
        let answer = client.modern("tasks/list", None, &headers, "{}").await;
        assert!([403, 404].contains(&answer.status), "{answer:?}");
        for method in ["tasks/get", "tasks/result", "tasks/list", "tasks/cancel"] {
            let body = json!({ "jsonrpc": "2.0", "id": 3, "method": method, "params": { "taskId": "task-1" } });
            let answer = legacy(&mut client, key, &session, &body.to_string()).await;
            let code = &answer.json()["error"]["code"];
            assert!(
                [-32600, -32601].contains(&code.as_i64().unwrap()),
                "{answer:?}"
            );
        }
        let call = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "add", "task": { "ttl": 1 } } });
        let answer = legacy(&mut client, key, &session, &call.to_string()).await;
        assert_eq!(answer.json()["error"]["code"], -32602, "{answer:?}");
        assert_eq!(server.seen().len(), before);
    }
}
