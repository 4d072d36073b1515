//! What flags open and close: tools, features, routes, and the sides of a flag under release.

use crate::support::*;
use ::http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use serin_flags::{Environment, Flag, FlagKey, Release, Table};
use serin_model::{
    access::Gates,
    event::FlagRelease,
    name::{EndpointId, RolloutId},
    observe::Rejection,
    service::{Protocol, ServiceSettings},
    snapshot::ServiceRoute,
};
use std::sync::Arc;

/// A server of three tools that offers and uses everything.
pub(crate) async fn tools(as_events: bool) -> Server {
    Server::start(move |seen| async move {
        let body = seen.json();
        let id = &body["id"];
        let result = match seen.rpc_method().as_str() {
            "initialize" => json!({
                "protocolVersion": body["params"]["protocolVersion"],
                "capabilities": { "tools": { "listChanged": true }, "tasks": { "list": {} } },
                "serverInfo": { "name": "s", "version": "1" },
            }),
            "server/discover" => json!({
                "capabilities": { "tools": {}, "extensions": { "io.modelcontextprotocol/tasks": {} } },
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "tools/list" => json!({
                "tools": [{ "name": "add" }, { "name": "admin.drop" }, { "name": "search" }],
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "subscriptions/listen" => {
                let (sender, reply) = pieces("text/event-stream");
                let ack = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}"#;
                sender.send(piece(&format!("data: {ack}\n\n"))).unwrap();
                tokio::spawn(async move { sender.closed().await });
                return reply;
            }
            _ if seen.method == "GET" => {
                let (sender, reply) = pieces("text/event-stream");
                sender.send(piece(": here\n\n")).unwrap();
                tokio::spawn(async move { sender.closed().await });
                return reply;
            }
            _ if id.is_null() => return reply(202, &[], ""),
            _ => json!({ "content": [], "seen": body["params"] }),
        };
        let message = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
        let session = ("mcp-session-id", "s-1");
        if as_events {
            let text = format!("id: 1\ndata:\n\nevent: message\r\ndata: {message}\r\n\r\n");
            return reply(200, &[("content-type", "text/event-stream"), session], text);
        }
        reply(200, &[("content-type", "application/json"), session], message)
    })
    .await
}

fn flag(of: &Value) -> (FlagKey, Arc<Flag>) {
    let key = of["key"].as_str().unwrap().parse().unwrap();
    let flag = json!({
        "state": "ENABLED",
        "variants": { "on": true, "off": false },
        "defaultVariant": of["default"],
        "targeting": of["targeting"],
        "serin": { "offVariant": "off" },
    });
    (key, Arc::new(serde_json::from_value(flag).unwrap()))
}

pub(crate) fn flags(flags: &[(&str, bool)]) -> Table {
    let flags = flags
        .iter()
        .map(|(key, on)| flag(&json!({ "key": key, "default": if *on { "on" } else { "off" } })));
    Table {
        flags: Arc::new(flags.collect()),
        ..Table::default()
    }
}

/// The service with settings, as the routing table has it with these flags.
pub(crate) fn gated(mut service: ServiceRoute, settings: Value, flags: &Table) -> ServiceRoute {
    service.settings = serde_json::from_value::<ServiceSettings>(settings).unwrap();
    service.gates = Gates::new(&service.settings, flags);
    service
}

fn admin_tools() -> Value {
    json!({ "gates": [{ "flag": "admin", "tools": ["admin.*"] }], "tenant_header": "x-tenant" })
}

/// The last message in an answer, be it JSON or events.
pub(crate) fn message(answer: &Answer) -> Value {
    let text = answer.text();
    let last = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(last.unwrap_or(text)).unwrap_or_else(|_| panic!("{answer:?}"))
}

pub(crate) fn names(answer: &Answer) -> Vec<String> {
    let message = message(answer);
    let tools = message["result"]["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{message}"));
    tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) async fn session(client: &mut Client) -> String {
    let answer = client.initialize().await;
    answer
        .header("mcp-session-id")
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_owned()
}

pub(crate) fn call(tool: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool, "arguments": {} } })
        .to_string()
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#;

#[tokio::test]
async fn a_closed_tool_is_not_listed_and_not_known_in_both_eras_and_transports() {
    for as_events in [false, true] {
        let server = tools(as_events).await;
        let closed = flags(&[("admin", false)]);
        let at = || {
            let service = service(&[build("v1", &[&server])], None);
            vec![gated(service, admin_tools(), &closed)]
        };
        let mut gateway = Running::start(at());
        gateway.swap_flags(at(), closed.clone());
        let mut client = gateway.client().await;
        let session = session(&mut client).await;
        let list = client.legacy(&session, LIST).await;
        assert_eq!(names(&list), ["add", "search"], "{as_events}");
        let list = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(names(&list), ["add", "search"]);
        let result = &message(&list)["result"];
        assert_eq!(
            (&result["cacheScope"], &result["ttlMs"]),
            (&json!("private"), &json!(5000))
        );
        let before = server.count("tools/call");
        for answer in [
            client.legacy(&session, call("admin.drop")).await,
            client
                .modern(
                    "tools/call",
                    Some("admin.drop"),
                    &[],
                    r#"{"name":"admin.drop"}"#,
                )
                .await,
        ] {
            assert_eq!(answer.status, 200);
            let error = &answer.json()["error"];
            assert_eq!(error["code"], -32602);
            assert_eq!(error["message"], "Unknown tool: admin.drop");
        }
        assert_eq!(server.count("tools/call"), before);
        assert_eq!(client.legacy(&session, call("add")).await.status, 200);
        assert_eq!(server.count("tools/call"), before + 1);
        gateway.observed.rejection(Rejection::Flag, 2).await;
        gateway
            .observed
            .until(|seen| seen.iter().any(|sealed| !sealed.flags.is_empty()))
            .await;
        // Open, everything is there, and lists stay private.
        gateway.swap_flags(at(), flags(&[("admin", true)]));
        let list = client.legacy(&session, LIST).await;
        assert_eq!(names(&list), ["add", "admin.drop", "search"]);
        assert_eq!(
            client.legacy(&session, call("admin.drop")).await.status,
            200
        );
        assert_eq!(server.count("tools/call"), before + 2);
    }
}

#[tokio::test]
async fn each_tenant_sees_its_own_tools() {
    let server = tools(false).await;
    let mut table = flags(&[("admin", false)]);
    let acme = (
        "acme".parse().unwrap(),
        [("admin".parse().unwrap(), "on".into())].into(),
    );
    table.overrides = Arc::new([acme].into());
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
    let mut client = gateway.client().await;
    for (tenant, sees) in [("acme", true), ("other", false)] {
        let of = [("x-tenant", tenant)];
        let list = client.modern("tools/list", None, &of, "{}").await;
        assert_eq!(
            names(&list).contains(&"admin.drop".to_owned()),
            sees,
            "{tenant}"
        );
        let params = r#"{"name":"admin.drop"}"#;
        let answer = client
            .modern("tools/call", Some("admin.drop"), &of, params)
            .await;
        assert_eq!(answer.json()["error"].is_null(), sees, "{tenant}");
    }
    let two = [("x-tenant", "other"), ("x-tenant", "acme")];
    assert_eq!(
        client.modern("tools/list", None, &two, "{}").await.status,
        400
    );
}

#[tokio::test]
async fn bodies_that_could_be_read_otherwise_are_refused_where_tools_are_gated() {
    let server = tools(false).await;
    let table = flags(&[("admin", false)]);
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        )]
    };
    let mut gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
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
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
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
async fn a_service_without_gates_passes_bytes_as_they_are() {
    let server = tools(false).await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    gateway.swap_flags(
        vec![service(&[build("v1", &[&server])], None)],
        flags(&[("admin", false)]),
    );
    let mut client = gateway.client().await;
    let odd =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add" , "Name":1}}"#;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "other"),
    ];
    assert_eq!(client.ask("POST", "/mcp", &headers, odd).await.status, 200);
    assert_eq!(server.last().text(), odd);
    let list = client.modern("tools/list", None, &[], "{}").await;
    assert_eq!(list.json()["result"]["cacheScope"], "public");
}

fn features(closed: &str) -> (Value, Table) {
    (json!({}), flags(&[(closed, false)]))
}

#[tokio::test]
async fn closed_features_are_hidden_from_both_sides() {
    let server = tools(false).await;
    let capabilities =
        r#"{"sampling":{},"elicitation":{"form":{}},"tasks":{},"roots":{"x": 1.50}}"#;
    let initialize = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
    );
    let meta = r#"{"name":"add","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{},"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}"#;
    for (flag, gone) in [
        ("mcp_sampling", "sampling"),
        ("elicitation", "elicitation"),
        ("mcp_tasks", "tasks"),
    ] {
        let (settings, table) = features(flag);
        let at = || {
            vec![gated(
                service(&[build("v1", &[&server])], None),
                settings.clone(),
                &table,
            )]
        };
        let gateway = Running::start(at());
        gateway.swap_flags(at(), table.clone());
        let mut client = gateway.client().await;
        let headers = [("content-type", "application/json")];
        let answer = client
            .ask("POST", "/mcp", &headers, initialize.clone())
            .await;
        let seen = server.last().json();
        let seen = seen["params"]["capabilities"].as_object().unwrap();
        let kept = ["sampling", "elicitation", "tasks", "roots"]
            .into_iter()
            .filter(|name| *name != gone);
        assert_eq!(
            seen.keys()
                .map(String::as_str)
                .collect::<std::collections::BTreeSet<_>>(),
            kept.collect(),
            "{flag}"
        );
        assert!(server.last().text().contains(r#"{"x": 1.50}"#));
        let offered = &answer.json()["result"]["capabilities"];
        assert_eq!(offered["tasks"].is_null(), gone == "tasks", "{flag}");
        let answer = client.modern("tools/call", Some("add"), &[], meta).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = server.last().json();
        let seen = &seen["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        assert_eq!(seen["sampling"].is_null(), gone == "sampling");
        assert_eq!(seen["elicitation"].is_null(), gone == "elicitation");
        assert_eq!(
            seen["extensions"]["io.modelcontextprotocol/tasks"].is_null(),
            gone == "tasks"
        );
        let discovered = client
            .modern("server/discover", None, &[], "{}")
            .await
            .json();
        let offered = &discovered["result"]["capabilities"]["extensions"];
        assert_eq!(
            offered["io.modelcontextprotocol/tasks"].is_null(),
            gone == "tasks"
        );
    }
}

#[tokio::test]
async fn closed_tasks_are_no_method_and_no_way_to_call() {
    let server = tools(false).await;
    let (settings, table) = features("mcp_tasks");
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            settings.clone(),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let before = server.seen().len();
    let get = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t"}}"#;
    let answer = client.legacy(&session, get).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (200, &json!(-32601))
    );
    let answer = client
        .modern("tasks/get", Some("t"), &[], r#"{"taskId":"t"}"#)
        .await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (404, &json!(-32601))
    );
    let task = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","task":{"ttl":1}}}"#;
    let answer = client.legacy(&session, task).await;
    assert_eq!(answer.json()["error"]["code"], -32602);
    assert_eq!(server.seen().len(), before);
}

#[tokio::test]
async fn a_server_that_asks_by_a_closed_feature_is_answered_in_its_clients_place() {
    let ask = r#"{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}"#;
    let other = r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;
    let done = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    let server = Server::answering(move |seen| match seen.rpc_method().as_str() {
        "initialize" => {
            let headers = [
                ("content-type", "application/json"),
                ("mcp-session-id", "s-1"),
            ];
            let result = json!({ "protocolVersion": "2025-11-25", "capabilities": {} });
            let message = json!({ "jsonrpc": "2.0", "id": 0, "result": result });
            reply(200, &headers, message.to_string())
        }
        "tools/call" => {
            let text = format!("id: 1\ndata: {ask}\n\nid: 2\ndata: {other}\n\ndata: {done}\n\n");
            reply(200, &[("content-type", "text/event-stream")], text)
        }
        _ => reply(202, &[], ""),
    })
    .await;
    let table = flags(&[("sampling", false)]);
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            json!({}),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let answer = client.legacy(&session, call("add")).await;
    assert_eq!(
        answer.text(),
        format!("id: 1\n\nid: 2\ndata: {other}\n\ndata: {done}\n\n")
    );
    let answered = async {
        loop {
            if let Some(seen) = server
                .seen()
                .into_iter()
                .find(|seen| seen.json()["id"] == "q")
            {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let answered = soon(answered).await;
    assert_eq!(answered.json()["error"]["code"], -32601);
    assert_eq!(answered.header("mcp-session-id"), Some("s-1"));
}

#[tokio::test]
async fn a_modern_server_that_asks_by_a_closed_feature_has_failed() {
    let server = Server::answering(|_| {
        let asks = json!({ "a": { "method": "elicitation/create", "params": {} } });
        let result = json!({ "resultType": "input_required", "inputRequests": asks });
        json(json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string())
    })
    .await;
    let table = flags(&[("elicitation", false)]);
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            json!({}),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
    let mut client = gateway.client().await;
    let answer = client
        .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
        .await;
    assert_eq!(answer.json()["error"]["code"], -31006, "{}", answer.text());
    assert_eq!(answer.json()["id"], 1);
}

#[tokio::test]
async fn a_closed_route_is_not_there_however_it_is_written() {
    let server = Server::answering(|seen| reply(200, &[], seen.path.clone())).await;
    let table = flags(&[("export", false)]);
    let settings =
        json!({ "gates": [{ "flag": "export", "path": "/export", "methods": ["GET"] }] });
    let at = || {
        let mut service = service(&[build("v1", &[&server])], None);
        service.protocol = Protocol::Http;
        vec![gated(service, settings.clone(), &table)]
    };
    let mut gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
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
    gateway.swap_flags(at(), flags(&[("export", true)]));
    assert_eq!(client.get("/mcp/export").await.status, 200);
}

async fn next(stream: &mut Response<Incoming>) -> String {
    let frame = soon(stream.body_mut().frame())
        .await
        .expect("the stream goes on")
        .unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn who_sees_other_tools_than_before_hears_of_it_and_nobody_else() {
    let server = tools(false).await;
    let table = |admin: bool, other: bool| {
        let mut table = flags(&[("admin", admin), ("other", other)]);
        let blocked = (
            "blocked".parse().unwrap(),
            [("admin".parse().unwrap(), "off".into())].into(),
        );
        table.overrides = Arc::new([blocked].into());
        table
    };
    let at = || {
        let mut service = service(&[build("v1", &[&server])], None);
        service.versions[0].tools = ["add".into(), "admin.drop".into()].into();
        vec![gated(service, admin_tools(), &table(false, false))]
    };
    let (names, services) = (at()[0].versions[0].tools.clone(), || {
        let mut services = at();
        services[0].settings = at()[0].settings.clone();
        services
    });
    // The known tools are the same ones in every table.
    let services = || {
        let mut services = services();
        services[0].versions[0].tools = names.clone();
        services
    };
    let gateway = Running::start(services());
    gateway.swap_flags(services(), table(false, false));
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let open = |tenant: &'static str| {
        let session = session.clone();
        let address = gateway.address;
        async move {
            let headers = [
                ("accept", "text/event-stream"),
                ("mcp-session-id", session.as_str()),
                ("mcp-protocol-version", "2025-11-25"),
                ("x-tenant", tenant),
            ];
            let mut client = Client::connect(address).await;
            let stream = client.begin("GET", "/mcp", &headers, "").await;
            (client, stream)
        }
    };
    let (_kept, mut legacy) = open("acme").await;
    let (_kept2, mut blocked) = open("blocked").await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ];
    let listen = r#"{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true}}}"#;
    let mut listener = gateway.client().await;
    let mut modern = listener.begin("POST", "/mcp", &headers, listen).await;
    assert_eq!(next(&mut legacy).await, ": here\n\n");
    assert_eq!(next(&mut blocked).await, ": here\n\n");
    assert!(next(&mut modern).await.contains("acknowledged"));
    // A flag that opens nothing for anybody.
    gateway.swap_flags(services(), table(false, true));
    let quiet = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        legacy.body_mut().frame(),
    );
    assert!(quiet.await.is_err());
    let flipped = std::time::Instant::now();
    gateway.swap_flags(services(), table(true, true));
    assert!(
        next(&mut legacy)
            .await
            .contains("notifications/tools/list_changed")
    );
    let heard = next(&mut modern).await;
    assert!(
        heard.contains("notifications/tools/list_changed"),
        "{heard}"
    );
    assert!(
        heard.contains(r#""io.modelcontextprotocol/subscriptionId":"L""#),
        "{heard}"
    );
    assert!(
        flipped.elapsed() < std::time::Duration::from_secs(1),
        "{:?}",
        flipped.elapsed()
    );
    let quiet = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        blocked.body_mut().frame(),
    );
    assert!(quiet.await.is_err(), "to this tenant nothing has changed");
}

pub(crate) fn releasing(server: &Server, percentage: f64) -> (Vec<ServiceRoute>, Table) {
    let mut table = flags(&[("new_search", false)]);
    let forced = (
        "forced".parse().unwrap(),
        [("new_search".parse().unwrap(), "on".into())].into(),
    );
    table.overrides = Arc::new([forced].into());
    let release = Release {
        percentage,
        on: "on".into(),
    };
    table
        .releases
        .insert("new_search".parse().unwrap(), release);
    let mut service = service(
        &[build("v1", &[server]), build("v1+new_search", &[server])],
        Some(percentage),
    );
    let endpoints = service.versions[0].endpoints.clone();
    service.versions[1].endpoints = endpoints;
    service.settings.affinity_header = Some("x-user".into());
    service.settings.tenant_header = Some("x-tenant".into());
    service.split.as_mut().unwrap().flag = Some(FlagRelease {
        flag: "new_search".parse().unwrap(),
        on: "on".into(),
    });
    (vec![service], table)
}

#[tokio::test]
async fn the_sides_of_a_flag_under_release_stick_and_only_grow() {
    let server = tools(false).await;
    let (services, table) = releasing(&server, 0.0);
    let mut gateway = Running::start(services);
    let (again, _) = releasing(&server, 0.0);
    gateway.swap_flags(again, table);
    let mut client = gateway.client().await;
    let mut sessions = vec![];
    for user in 0..40 {
        let user = format!("user-{user}");
        let headers = [("content-type", "application/json"), ("x-user", &*user)];
        let answer = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
        sessions.push((user, answer.header("mcp-session-id").unwrap().to_owned()));
    }
    let mut before = vec![false; sessions.len()];
    for percentage in [0.0, 10.0, 50.0, 100.0] {
        let (services, table) = releasing(&server, percentage);
        gateway.swap_flags(services, table.clone());
        for ((user, session), was) in sessions.iter().zip(&mut before) {
            let headers = [
                ("content-type", "application/json"),
                ("x-user", &**user),
                ("x-serin-flags", "new_search=lie"),
                ("mcp-protocol-version", "2025-11-25"),
                ("mcp-session-id", session),
            ];
            let answer = client.ask("POST", "/mcp", &headers, call("add")).await;
            assert_eq!(answer.status, 200);
            let is_on = answer.version() == "v1+new_search";
            assert!(is_on || !*was, "{user} was on");
            *was = is_on;
            let said = server.last();
            let want = if is_on {
                "new_search=on"
            } else {
                "new_search=off"
            };
            assert_eq!(said.header("x-serin-flags"), Some(want));
            // Whoever asks for the flag by another way gets the same.
            let context = serin_flags::Context {
                targeting_key: Some(user),
                tenant: None,
                environment: Environment::default(),
                attributes: None,
                now: jiff::Timestamp::now(),
            };
            let asked = table.evaluate(&serin_flags::Latch::default(), "new_search", &context);
            assert_eq!(asked.unwrap().is_on(), is_on, "{user}");
            let modern = client
                .modern(
                    "tools/call",
                    Some("add"),
                    &[("x-user", user)],
                    r#"{"name":"add"}"#,
                )
                .await;
            assert_eq!(modern.version() == "v1+new_search", is_on);
        }
        let on = before.iter().filter(|on| **on).count();
        match percentage {
            0.0 => assert_eq!(on, 0),
            100.0 => assert_eq!(on, sessions.len()),
            _ => assert!((1..sessions.len()).contains(&on), "{percentage}: {on}"),
        }
    }
    // Of those with a variant of their own nothing is compared: they stay on stable, and the server is told what they have.
    let forced = [("x-user", "user-1"), ("x-tenant", "forced")];
    let answer = client
        .modern("tools/call", Some("add"), &forced, r#"{"name":"add"}"#)
        .await;
    assert_eq!(answer.version(), "v1");
    assert_eq!(server.last().header("x-serin-flags"), Some("new_search=on"));
    gateway
        .observed
        .until(|seen| {
            seen.iter()
                .any(|sealed| sealed.trials.iter().any(|t| !t.report.is_empty()))
        })
        .await;
}

#[tokio::test]
async fn callers_of_a_candidate_are_in_the_environment_canary() {
    let (one, two) = (tools(false).await, tools(false).await);
    let in_canary = || {
        let (key, flag) = flag(&json!({ "key": "admin", "default": "off" }));
        let mut flag = Arc::unwrap_or_clone(flag);
        flag.serin
            .environments
            .insert(Environment::Canary, "on".into());
        Table {
            flags: Arc::new([(key, Arc::new(flag))].into()),
            environment: Environment::Production,
            ..Table::default()
        }
    };
    let at = |share| {
        let builds = [build("v1", &[&one]), build("v2", &[&two])];
        vec![gated(
            service(&builds, Some(share)),
            admin_tools(),
            &in_canary(),
        )]
    };
    let known: Arc<[Arc<str>]> = ["add".into(), "admin.drop".into()].into();
    let keys = serin_gateway::Keyring::ephemeral().unwrap();
    let gateway = Running::with(at(0.0), keys, |options| {
        options.environment = Environment::Production;
    });
    for (share, sees) in [(0.0, false), (100.0, true)] {
        gateway.swap_flags(at(share), in_canary());
        let mut client = gateway.client().await;
        let list = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(
            names(&list).contains(&"admin.drop".to_owned()),
            sees,
            "{share}"
        );
        let id = session(&mut client).await;
        let answer = client.legacy(&id, call("admin.drop")).await;
        assert_eq!(answer.json()["error"].is_null(), sees, "{share}");
    }
    // Whoever listens is moved with the promotion.
    let at = || {
        let mut services = at(100.0);
        for version in &mut services[0].versions {
            version.tools = known.clone();
        }
        services
    };
    gateway.swap_flags(at(), in_canary());
    let mut client = gateway.client().await;
    let id = session(&mut client).await;
    let headers = [("mcp-session-id", &*id), ("accept", "text/event-stream")];
    let mut stream = client.begin("GET", "/mcp", &headers, "").await;
    assert_eq!(next(&mut stream).await, ": here\n\n");
    let mut promoted = at();
    (promoted[0].stable, promoted[0].split) = (1, None);
    gateway.swap_flags(promoted, in_canary());
    assert!(next(&mut stream).await.contains("list_changed"));
}

#[tokio::test]
async fn an_event_larger_than_is_held_passes_where_nothing_is_gated_and_nowhere_else() {
    let server = Server::answering(|seen| {
        if seen.method != "GET" {
            let headers = [
                ("content-type", "application/json"),
                ("mcp-session-id", "s-1"),
            ];
            return reply(200, &headers, r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
        }
        let event = format!("data: {}\n\ndata: 1\n\n", "x".repeat(9 * 1024 * 1024));
        reply(200, &[("content-type", "text/event-stream")], event)
    })
    .await;
    let table = flags(&[("admin", false)]);
    for is_gated in [false, true] {
        let at = || {
            let service = service(&[build("v1", &[&server])], None);
            let gated = gated(service.clone(), admin_tools(), &table);
            vec![if is_gated { gated } else { service }]
        };
        let gateway = Running::start(at());
        gateway.swap_flags(at(), table.clone());
        let mut client = gateway.client().await;
        let id = session(&mut client).await;
        let headers = [("mcp-session-id", &*id), ("accept", "text/event-stream")];
        let stream = client.begin("GET", "/mcp", &headers, "").await;
        let read = soon(stream.into_body().collect()).await;
        assert_eq!(read.is_err(), is_gated);
        if let Ok(read) = read {
            let read = read.to_bytes();
            assert!(read.len() > 9 * 1024 * 1024 && read.ends_with(b"x\n\ndata: 1\n\n"));
        }
    }
}

#[tokio::test]
async fn what_comes_by_a_stream_agrees_too_however_it_is_cut() {
    let ask = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#;
    let list =
        r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"admin.drop"},{"name":"add"}]}}"#;
    let text = format!("id: 1\r\ndata: {ask}\r\n\r\nid: 2\ndata: {list}\n\n: end\n\n");
    let server = Server::answering(move |seen| {
        if seen.method != "GET" {
            let headers = [
                ("content-type", "application/json"),
                ("mcp-session-id", "s-1"),
            ];
            return reply(200, &headers, r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
        }
        let (sender, reply) = pieces("text/event-stream");
        for cut in text.as_bytes().chunks(7) {
            sender
                .send(piece(std::str::from_utf8(cut).unwrap()))
                .unwrap();
        }
        tokio::spawn(async move { sender.closed().await });
        reply
    })
    .await;
    let table = flags(&[("admin", false), ("elicitation", false)]);
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        )]
    };
    let gateway = Running::start(at());
    // The features are open when the session begins, and closed afterwards.
    gateway.swap_flags(at(), flags(&[("admin", false), ("elicitation", true)]));
    let mut client = gateway.client().await;
    let id = session(&mut client).await;
    gateway.swap_flags(at(), table.clone());
    let headers = [
        ("mcp-session-id", &*id),
        ("last-event-id", "0"),
        ("accept", "text/event-stream"),
    ];
    let mut stream = client.begin("GET", "/mcp", &headers, "").await;
    let mut heard = String::new();
    while !heard.contains(": end\n\n") {
        heard += &next(&mut stream).await;
    }
    let kept = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"add"}]}}"#;
    // A line end may be cut between its two bytes.
    assert_eq!(
        heard.replace('\n', "|").replace("||", "|"),
        format!("id: 1|id: 2|data: {kept}|: end|")
    );
    let answered = async {
        while !server.seen().iter().any(|seen| seen.json()["id"] == "q") {
            tokio::task::yield_now().await;
        }
    };
    soon(answered).await;
}

/// The same, where testers choose their side by hand.
pub(crate) fn testing(server: &Server, percentage: f64) -> (Vec<ServiceRoute>, Table) {
    let (mut services, table) = releasing(server, percentage);
    services[0].settings.overrides.canary = true;
    (services, table)
}

#[tokio::test]
async fn testers_of_a_flag_keep_their_side_in_their_session() {
    let server = tools(false).await;
    for (percentage, canary, version, said) in [
        (0.0, "true", "v1+new_search", "new_search=on"),
        (100.0, "false", "v1", "new_search=off"),
    ] {
        let (services, table) = testing(&server, percentage);
        let gateway = Running::start(services.clone());
        gateway.swap_flags(services.clone(), table.clone());
        let mut client = gateway.client().await;
        let tester = [("content-type", "application/json"), ("x-canary", canary)];
        let begun = client.ask("POST", "/mcp", &tester, INITIALIZE).await;
        assert_eq!(begun.version(), version);
        let id = begun.header("mcp-session-id").unwrap();
        let answer = client.legacy(id, call("add")).await;
        assert_eq!(answer.version(), version);
        assert_eq!(server.last().header("x-serin-flags"), Some(said));
        let other = if canary == "true" { "false" } else { "true" };
        let headers = [("mcp-session-id", id), ("x-canary", other)];
        let answer = client.ask("POST", "/mcp", &headers, call("add")).await;
        assert_eq!(
            answer.version(),
            version,
            "a session goes before the header"
        );
        let stream = client.begin("GET", "/mcp", &headers[..1], "").await;
        assert_eq!(stream.headers()["x-serin-version"], version);
        // In another rollout it is a caller like all others.
        let mut services = services;
        let rollout = RolloutId(uuid::Uuid::from_u128(2));
        services[0].split.as_mut().unwrap().rollout = rollout;
        gateway.swap_flags(services, table);
        let mut client = gateway.client().await;
        let answer = client.legacy(id, call("add")).await;
        assert_ne!(answer.version(), version);
    }
}

#[tokio::test]
async fn testers_of_a_flag_keep_their_side_with_what_it_made() {
    let server = Server::answering(|_| {
        crate::support::json(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"2"}}"#)
    })
    .await;
    let (services, table) = testing(&server, 0.0);
    let gateway = Running::start(services.clone());
    gateway.swap_flags(services, table);
    let mut client = gateway.client().await;
    let tester = [("x-canary", "true")];
    let list = client.modern("tools/list", None, &tester, "{}").await;
    let params = json!({ "cursor": message(&list)["result"]["nextCursor"] }).to_string();
    let next = client.modern("tools/list", None, &tester, &params).await;
    assert_eq!(next.version(), "v1+new_search");
    assert_eq!(server.last().json()["params"]["cursor"], "2");
}

#[tokio::test]
async fn the_server_is_told_a_variant_of_any_name() {
    let server = tools(false).await;
    for (name, said) in [
        (
            "größer,x=1\r\n",
            "new_search=gr%C3%B6%C3%9Fer%2Cx%3D1%0D%0A",
        ),
        ("v2_b", "new_search=v2_b"),
    ] {
        let (mut services, mut table) = testing(&server, 100.0);
        let variants = json!({ name: true, "off": false });
        let flag: Flag = serde_json::from_value(json!({
            "state": "ENABLED", "variants": variants, "defaultVariant": "off", "serin": { "offVariant": "off" },
        }))
        .unwrap();
        let key: FlagKey = "new_search".parse().unwrap();
        table.flags = Arc::new([(key.clone(), Arc::new(flag))].into());
        table.releases.get_mut(&key).unwrap().on = name.into();
        let split = services[0].split.as_mut().unwrap();
        split.flag.as_mut().unwrap().on = name.into();
        let gateway = Running::start(services.clone());
        gateway.swap_flags(services, table);
        let mut client = gateway.client().await;
        let answer = client
            .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
            .await;
        assert_eq!(answer.version(), "v1+new_search");
        assert_eq!(server.last().header("x-serin-flags"), Some(said));
    }
}

#[tokio::test]
async fn what_a_server_could_take_for_a_header_of_the_gateway_goes_no_further() {
    let server = tools(false).await;
    let (services, table) = testing(&server, 0.0);
    let gateway = Running::start(services.clone());
    gateway.swap_flags(services, table);
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

/// A list that waits until it is let go.
async fn held_list() -> (Server, Arc<tokio::sync::Semaphore>) {
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let until = held.clone();
    let server = Server::start(move |seen| {
        let until = until.clone();
        async move {
            let _permit = until.acquire().await.unwrap();
            let result = json!({ "tools": [{ "name": "add" }, { "name": "admin.drop" }] });
            let message = json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result });
            crate::support::json(message.to_string())
        }
    })
    .await;
    (server, held)
}

#[tokio::test]
async fn a_list_on_its_way_shows_nothing_closed_though_its_endpoint_or_service_is_gone() {
    let table = flags(&[("admin", false)]);
    for (is_gone, sees) in [(false, &["add"][..]), (true, &[])] {
        let (server, held) = held_list().await;
        let before = gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        );
        let mut after = before.clone();
        after.versions[0].endpoints[0].id = EndpointId(99);
        let gateway = Running::start(vec![before.clone()]);
        gateway.swap_flags(vec![before], table.clone());
        let mut client = gateway.client().await;
        let changing = async {
            while server.count("tools/list") == 0 {
                tokio::task::yield_now().await;
            }
            let after = if is_gone { vec![] } else { vec![after] };
            gateway.swap_flags(after, table.clone());
            held.add_permits(1);
        };
        let list = client.modern("tools/list", None, &[], "{}");
        let (list, ()) = tokio::join!(list, soon(changing));
        assert_eq!(names(&list), sees);
    }
}

#[tokio::test]
async fn a_stream_that_a_modern_caller_opens_shows_nothing_closed() {
    let list = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"admin.drop"}]}}"#;
    // The end of the last event is missing: some clients take it all the same.
    let text = format!("event: endpoint\ndata: /messages\n\ndata: {list}\n\ndata: {list}\n");
    let server = Server::answering(move |_| {
        reply(200, &[("content-type", "text/event-stream")], text.clone())
    })
    .await;
    let table = flags(&[("admin", false)]);
    let at = || {
        vec![gated(
            service(&[build("v1", &[&server])], None),
            admin_tools(),
            &table,
        )]
    };
    let gateway = Running::start(at());
    gateway.swap_flags(at(), table.clone());
    let mut client = gateway.client().await;
    for version in ["2026-07-28", "2024-11-05"] {
        let headers = [("mcp-protocol-version", version)];
        let heard = client.ask("GET", "/mcp", &headers, "").await;
        assert!(heard.text().contains("data: /messages"), "{}", heard.text());
        assert!(!heard.text().contains("admin"), "{}", heard.text());
        assert_eq!(heard.text().matches(r#""tools":[]"#).count(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_does_not_pass_where_it_must_be() {
    let server = Server::answering(|_| {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        reply(200, &headers, &b"\x1f\x8b"[..])
    })
    .await;
    let table = flags(&[("admin", false)]);
    for (is_gated, status) in [(false, 200), (true, 502)] {
        let open = service(&[build("v1", &[&server])], None);
        let gated = gated(open.clone(), admin_tools(), &table);
        let at = if is_gated { gated } else { open };
        let gateway = Running::start(vec![at.clone()]);
        gateway.swap_flags(vec![at], table.clone());
        let mut client = gateway.client().await;
        let list = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(list.status, status);
        let params = r#"{"name":"add"}"#;
        let called = client.modern("tools/call", Some("add"), &[], params).await;
        assert_eq!(called.status, 200);
    }
}

#[tokio::test]
async fn a_feature_that_the_process_switches_on_is_open_by_either_name() {
    let server = tools(false).await;
    let initialize =
        INITIALIZE.replace(r#""capabilities":{}"#, r#""capabilities":{"sampling":{}}"#);
    for (defined, forced) in [
        ("mcp_sampling", "sampling:enabled"),
        ("sampling", "mcp_sampling:enabled"),
    ] {
        let (_, mut table) = features(defined);
        table.forced = forced.parse().unwrap();
        let at = gated(service(&[build("v1", &[&server])], None), json!({}), &table);
        let gateway = Running::start(vec![at.clone()]);
        gateway.swap_flags(vec![at], table);
        let mut client = gateway.client().await;
        let headers = [("content-type", "application/json")];
        client
            .ask("POST", "/mcp", &headers, initialize.clone())
            .await;
        let seen = server.last().json();
        assert!(
            seen["params"]["capabilities"]["sampling"].is_object(),
            "{forced}"
        );
    }
}
