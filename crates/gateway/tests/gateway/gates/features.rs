//! Features of MCP behind flags: closed ones are hidden from clients and from servers.

use super::{answer_to, behind, call, flags, session, start, tools};
use crate::support::*;
use serde_json::json;

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
        let table = flags(&[(flag, false)]);
        let gateway = start(behind(&server, json!({}), &table), &table);
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
    let table = flags(&[("mcp_tasks", false)]);
    let gateway = start(behind(&server, json!({}), &table), &table);
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
    let gateway = start(behind(&server, json!({}), &table), &table);
    let mut client = gateway.client().await;
    let session = session(&mut client).await;
    let answer = client.legacy(&session, call("add")).await;
    assert_eq!(
        answer.text(),
        format!("id: 1\n\nid: 2\ndata: {other}\n\ndata: {done}\n\n")
    );
    let answered = answer_to(&server, "q").await;
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
    let gateway = start(behind(&server, json!({}), &table), &table);
    let mut client = gateway.client().await;
    let answer = client
        .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
        .await;
    assert_eq!(answer.json()["error"]["code"], -31006, "{}", answer.text());
    assert_eq!(answer.json()["id"], 1);
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
        let mut table = flags(&[(defined, false)]);
        table.forced = forced.parse().unwrap();
        let gateway = start(behind(&server, json!({}), &table), &table);
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
