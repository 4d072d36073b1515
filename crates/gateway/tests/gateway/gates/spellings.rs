//! Ways around a gate: bodies, paths, methods and headers that a server may read otherwise than the gateway.

use super::{admin_tools, behind, call, flags, session, start, testing, tools};
use crate::support::*;
use serde_json::json;
use serin_model::{observe::Rejection, service::Protocol};

#[tokio::test]
async fn bodies_that_could_be_read_otherwise_are_refused_where_tools_are_gated() {
    let server = tools(false).await;
    let table = flags(&[("admin", false)]);
    let mut gateway = start(behind(&server, admin_tools(), &table), &table);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let before = server.seen().len();
    let modern = |method: &'static str, name: &'static str| {
        vec![
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
            ("mcp-name", name),
        ]
    };
    for (method, name, body) in [
        // The header is fine and the body is not, and the other way round.
        (
            "tools/call",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "admin.drop",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}"#,
        ),
        (
            "tools/list",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","name":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","n\u0061me":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","Name":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "add",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"},"PARAM\u017f":{"name":"admin.drop"}}"#,
        ),
        (
            "tools/call",
            "add",
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"admin.drop"}}]"#,
        ),
    ] {
        let answer = client
            .ask("POST", "/mcp", &modern(method, name), body)
            .await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.json()["error"]["message"].is_string(), "{body}");
    }
    for name in ["admin.drop ", "\\tadmin.drop", "admin.drop\\u0000"] {
        let body = call("add").replace("\"add\"", &format!("\"{name}\""));
        let answer = client.legacy(&session, body).await;
        assert_eq!(answer.status, 400, "{name}");
    }
    let hidden = r#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools/call","p\u0061rams":{"n\u0061me":"admin\u002edrop"}}"#;
    let answer = client
        .ask(
            "POST",
            "/mcp",
            &modern("tools/call", "=?base64?YWRtaW4uZHJvcA==?="),
            hidden,
        )
        .await;
    assert_eq!(answer.json()["error"]["code"], -32602);
    let answer = client.legacy(&session, hidden).await;
    assert_eq!(answer.json()["error"]["code"], -32602);
    // A notification is answered by nothing, and does nothing.
    let silent = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"admin.drop"}}"#;
    assert_eq!(client.legacy(&session, silent).await.status, 202);
    for method in ["PUT", "PATCH"] {
        let answer = client.ask(method, "/mcp", &[], call("admin.drop")).await;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(server.seen().len(), before);
    gateway.observed.rejection(Rejection::Body, 13).await;
}

#[tokio::test]
async fn no_member_of_a_batch_runs_beside_one_that_is_refused() {
    let server = tools(false).await;
    let table = flags(&[("admin", false)]);
    let gateway = start(behind(&server, admin_tools(), &table), &table);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let before = server.seen().len();
    let batch = format!(
        r#"[{},{{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{{"name":"admin.drop"}}}},{{"jsonrpc":"2.0","method":"notifications/progress"}}]"#,
        call("add")
    );
    let answer = client.legacy(&session, batch).await;
    let answers = answer.json();
    assert_eq!((answer.status, answers.as_array().unwrap().len()), (200, 2));
    assert_eq!(
        (&answers[0]["id"], &answers[0]["error"]["code"]),
        (&json!(7), &json!(-32600))
    );
    assert_eq!(
        (&answers[1]["id"], &answers[1]["error"]["code"]),
        (&json!("b"), &json!(-32602))
    );
    assert_eq!(server.seen().len(), before);
}

#[tokio::test]
async fn a_closed_route_is_not_there_however_it_is_written() {
    let server = Server::answering(|seen| reply(200, &[], seen.path.clone())).await;
    let table = flags(&[("export", false)]);
    let settings =
        json!({ "gates": [{ "flag": "export", "path": "/export", "methods": ["GET"] }] });
    let mut services = behind(&server, settings, &table);
    services[0].protocol = Protocol::Http;
    let mut gateway = start(services.clone(), &table);
    let mut client = gateway.client().await;
    let closed = [
        "/mcp/export",
        "/mcp/export/",
        "/mcp/export/all?x=1",
        "/mcp//export",
        "/mcp/./export",
        "/mcp/%65xport",
        "/mcp/EXPORT",
        "/mcp/export;v=1/all",
        "/mcp/%2Fexport",
        "/mcp/%2565xport",
        "/mcp/export%00.html",
    ];
    for path in closed {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    assert_eq!(client.ask("HEAD", "/mcp/export", &[], "").await.status, 404);
    // A server may take the one for the other.
    for (method, headers) in [
        ("get", &[][..]),
        ("POST", &[("x-http-method-override", "GET")]),
        (
            "POST",
            &[("x-method-override", "PUT"), ("x-method-override", "get")],
        ),
    ] {
        let answer = client.ask(method, "/mcp/export", headers, "").await;
        assert_eq!(answer.status, 404, "{method} {headers:?}");
    }
    for path in [
        "/mcp/x/..;/export",
        "/mcp/export/..%20/x",
        "/mcp/%252e%252e/mcp/export",
    ] {
        assert_eq!(client.get(path).await.status, 400, "{path}");
    }
    assert_eq!(server.seen().len(), 0);
    gateway
        .observed
        .rejection(Rejection::Flag, closed.len() as u64 + 4)
        .await;
    for (method, path) in [
        ("GET", "/mcp/exports"),
        ("GET", "/mcp/x/export"),
        ("POST", "/mcp/export"),
    ] {
        assert_eq!(
            client.ask(method, path, &[], "").await.status,
            200,
            "{method} {path}"
        );
    }
    gateway.swap_flags(services, flags(&[("export", true)]));
    assert_eq!(client.get("/mcp/export").await.status, 200);
}

#[tokio::test]
async fn what_a_server_could_take_for_a_header_of_the_gateway_goes_no_further() {
    let server = tools(false).await;
    let (services, table) = testing(&server, 0.0);
    let gateway = start(services, &table);
    let mut client = gateway.client().await;
    let names = [
        "x_serin_flags",
        "x-serin_flags",
        "x.serin.flags",
        "x_serin_version",
        "x_canary",
        "mcp_session_id",
        "mcp_name",
        "last_event_id",
        "x_forwarded_for",
        "x_forwarded-prefix",
        "x_real_ip",
        "content_length",
    ];
    let mut headers: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
    headers.extend([("x_else", "1"), ("api_key", "1")]);
    let params = r#"{"name":"add"}"#;
    let answer = client
        .modern("tools/call", Some("add"), &headers, params)
        .await;
    assert_eq!(answer.status, 200);
    let seen = server.last();
    for name in names {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(
        (seen.header("x_else"), seen.header("api_key")),
        (Some("1"), Some("1"))
    );
    // Two tenants, for such a server.
    for headers in [
        &[("x_tenant", "acme")][..],
        &[("x-tenant", "other"), ("x_tenant", "acme")],
    ] {
        let answer = client.modern("tools/list", None, headers, "{}").await;
        assert_eq!(answer.status, 400, "{headers:?}");
    }
}

#[tokio::test]
async fn bodies_of_mcp_go_with_post_alone() {
    let server = Server::answering(|seen| reply(200, &[], seen.path.clone())).await;
    let mut plain = service(&[build("v1", &[&server])], None);
    (plain.name, plain.path, plain.protocol) =
        ("plain".parse().unwrap(), "/api".into(), Protocol::Http);
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None), plain]);
    let mut client = gateway.client().await;
    let before = server.seen().len();
    for method in ["GET", "DELETE", "HEAD", "OPTIONS", "PUT"] {
        for headers in [
            &[("mcp-protocol-version", "2026-07-28")][..],
            &[
                ("mcp-protocol-version", "2025-11-25"),
                ("mcp-session-id", "s"),
            ],
            &[],
        ] {
            let mut client = gateway.client().await;
            let answer = client.ask(method, "/mcp", headers, call("add")).await;
            assert_eq!(answer.status, 400, "{method} {headers:?}");
        }
    }
    let chunked = format!(
        "GET /mcp HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        gateway.address
    );
    let answer = raw(gateway.address, &chunked, "POST only").await;
    assert_eq!(status(&answer), 400);
    assert_eq!(server.seen().len(), before);
    let answer = client
        .ask("OPTIONS", "/mcp", &[("content-length", "0")], "")
        .await;
    assert_eq!(answer.status, 200);
    let answer = client.ask("DELETE", "/api/x", &[], "body").await;
    assert_eq!((answer.status, server.last().text()), (200, "body"));
}
