//! Sessions, cursors and tasks: they are there for the one they were made for, and mean nothing to anybody else.

use super::{Callers, ask, begin, legacy, serin, start};
use crate::{gates::session, support::*};
use serde_json::{Value, json};
use serin_model::observe::Rejection;
use serin_tenancy::Role;

/// Whoever something is made for, a colleague who may more, and somebody of another tenant: the keys that they send.
fn three() -> (Callers, [String; 3]) {
    let mut callers = Callers::new(&["acme", "other"]);
    let keys = [
        callers.key("acme", Role::User, &[]),
        callers.key("acme", Role::Admin, &[]),
        callers.key("other", Role::User, &[]),
    ];
    (callers, keys)
}

#[tokio::test]
async fn a_session_is_there_for_the_one_who_began_it_alone() {
    let server = Server::mcp("s").await;
    let (callers, [owner, colleague, stranger]) = three();
    let mut gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let session = begin(&mut client, &owner).await;
    let mut elsewhere = gateway.client().await;
    let before = server.seen().len();
    for client in [&mut client, &mut elsewhere] {
        for key in [&stranger, &colleague] {
            let answer = legacy(client, key, &session, CALL).await;
            assert_eq!(answer.status, 404, "{answer:?}");
            let missing = legacy(client, key, "no-such-session", CALL).await;
            assert_eq!(answer.body, missing.body, "as if it did not exist");
            for method in ["GET", "DELETE"] {
                let headers = [("authorization", &**key), ("mcp-session-id", &*session)];
                assert_eq!(client.ask(method, "/mcp", &headers, "").await.status, 404);
            }
        }
        assert_eq!(legacy(client, &owner, &session, CALL).await.status, 200);
    }
    assert_eq!(server.seen().len(), before + 2);
    gateway.observed.rejection(Rejection::Session, 16).await;
    // One that was begun before keys were asked for is nobody's.
    gateway.swap(vec![service(&[build("v1", &[&server])], None)]);
    let open = self::session(&mut client).await;
    gateway.swap_callers(vec![serin(&server, &json!({}))], callers.directory());
    assert_eq!(legacy(&mut client, &owner, &open, CALL).await.status, 404);
    // The older transport has sessions that we cannot keep apart.
    let headers = [("authorization", &*owner), ("accept", "text/event-stream")];
    assert_eq!(client.ask("GET", "/mcp", &headers, "").await.status, 405);
    let headers = [
        ("authorization", &*owner),
        ("content-type", "application/json"),
    ];
    let answer = client.ask("POST", "/mcp?sessionId=1", &headers, CALL).await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn what_a_version_minted_means_nothing_to_anybody_else() {
    let server = Server::answering(|seen| {
        let body = seen.json();
        let params = &body["params"];
        let own = ["cursor", "taskId", "requestState"]
            .iter()
            .any(|name| params[name] == "minted");
        let result = match seen.rpc_method().as_str() {
            _ if own => json!({ "own": true }),
            "tools/list" if params["cursor"].is_null() => {
                json!({ "tools": [], "nextCursor": "minted" })
            }
            "tools/call" if params["requestState"].is_null() => {
                json!({ "resultType": "input_required", "requestState": "minted" })
            }
            "tasks/start" => json!({ "resultType": "task", "taskId": "minted" }),
            _ => {
                return reply(
                    400,
                    &[("content-type", "application/json")],
                    "{\"error\":\"no such value\"}",
                );
            }
        };
        json(
            serde_json::to_string(&json!({ "jsonrpc": "2.0", "id": 1, "result": result })).unwrap(),
        )
    })
    .await;
    let (callers, [owner, _, stranger]) = three();
    let gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    for (method, name, minted, used, params) in [
        ("tools/list", None, "nextCursor", "tools/list", "cursor"),
        (
            "tools/call",
            Some("add"),
            "requestState",
            "tools/call",
            "requestState",
        ),
        ("tasks/start", None, "taskId", "tasks/get", "taskId"),
    ] {
        let made = ask(&mut client, &owner, method, name).await;
        let value = made.json()["result"][minted].as_str().unwrap().to_owned();
        assert_ne!(value, "minted");
        let mut params = json!({ params: value });
        let mut named = name;
        if let Some(name) = name {
            params["name"] = json!(name);
        }
        if used == "tasks/get" {
            named = Some(&value);
        }
        let params = params.to_string();
        for (key, status) in [(&owner, 200), (&stranger, 400), (&owner, 200)] {
            let headers = [("authorization", &**key)];
            let answer = client.modern(used, named, &headers, &params).await;
            assert_eq!(answer.status, status, "{method}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_lax_server_gets_no_raw_value_under_a_name_that_only_it_knows() {
    // To one whose names are not told apart by capitals the tasks of everybody would be open.
    let server = Server::mcp("lax").await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let mut gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let session = begin(&mut client, &key).await;
    let before = server.seen().len();
    let headers = [("authorization", &*key)];
    let related = |name: &str| format!(r#"{{"_meta":{{"{name}":{{"TASKID":"raw"}}}}}}"#);
    let cases = [
        ("tasks/get", r#"{"TaskId":"raw"}"#.to_owned()),
        ("tasks/cancel", "{\"ta\u{17f}kId\":\"raw\"}".to_owned()),
        ("tasks/update", r#"{"tas\u212aId":"raw"}"#.to_owned()),
        ("tools/list", r#"{"Cursor":"raw"}"#.to_owned()),
        ("resources/list", r#"{"cur\u017for":"raw"}"#.to_owned()),
        ("prompts/get", r#"{"RequestState":"raw"}"#.to_owned()),
        ("ping", related("io.modelcontextprotocol/related-task")),
        ("ping", related("IO.modelcontextprotocol/related-task")),
    ];
    for (method, params) in &cases {
        let modern = client.modern(method, None, &headers, params).await;
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let older = legacy(&mut client, &key, &session, &body).await;
        for answer in [modern, older] {
            assert_eq!(answer.status, 400, "{method} {params}: {answer:?}");
            assert_eq!(answer.json()["error"]["code"], -32600, "{answer:?}");
            assert!(answer.text().contains("capitals only"), "{answer:?}");
        }
    }
    assert_eq!(server.seen().len(), before);
    let refused = 2 * cases.len() as u64;
    gateway.observed.rejection(Rejection::Body, refused).await;
}

/// A value of `_meta` that says to which task a message belongs (2025-11-25, "Related Task Metadata").
fn related(task: &str) -> Value {
    json!({ "io.modelcontextprotocol/related-task": { "taskId": task } })
}

#[tokio::test]
async fn in_sessions_too_what_a_server_minted_means_nothing_to_anybody_else() {
    let server = Server::answering(|seen| {
        let body = seen.json();
        let result = match seen.rpc_method().as_str() {
            "initialize" => json!({
                "protocolVersion": "2025-11-25", "capabilities": {},
                "serverInfo": { "name": "tests", "version": "1" },
            }),
            "resources/list" => json!({ "resources": [], "nextCursor": "minted" }),
            "tools/call" => {
                let meta = related("minted");
                let asked = json!({ "jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": { "_meta": meta } });
                let done = json!({ "jsonrpc": "2.0", "id": 7, "result": { "content": [], "_meta": meta } });
                return reply(
                    200,
                    &[("content-type", "text/event-stream")],
                    format!("data: {asked}\n\ndata: {done}\n\n"),
                );
            }
            // Answers and notifications have none.
            "" | "notifications/progress" => return reply(202, &[], ""),
            _ => json!({}),
        };
        json(json!({ "jsonrpc": "2.0", "id": body["id"], "result": result }).to_string())
    })
    .await;
    let (callers, [owner, _, stranger]) = three();
    let mut gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let own = begin(&mut client, &owner).await;
    let other = begin(&mut client, &stranger).await;
    let events = legacy(&mut client, &owner, &own, CALL).await;
    let events = events.text();
    assert!(!events.contains("minted"), "{events}");
    let messages = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let messages: Vec<Value> = messages
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let task_of = |meta: &Value| meta["io.modelcontextprotocol/related-task"]["taskId"].clone();
    let task = task_of(&messages[0]["params"]["_meta"]);
    assert_eq!(task_of(&messages[1]["result"]["_meta"]), task);
    let task = task.as_str().unwrap();
    let list = |cursor: Option<&str>| json!({ "jsonrpc": "2.0", "id": 3, "method": "resources/list", "params": { "cursor": cursor } });
    let page = legacy(&mut client, &owner, &own, &list(None).to_string())
        .await
        .json();
    let cursor = page["result"]["nextCursor"].as_str().unwrap();
    assert_ne!(cursor, "minted");
    let messages = |task: &str, cursor: &str| {
        [
            json!({ "jsonrpc": "2.0", "id": 9, "result": { "action": "accept", "_meta": related(task) } }),
            json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "_meta": related(task) } }),
            json!({ "jsonrpc": "2.0", "id": 4, "method": "ping", "params": { "_meta": related(task) } }),
            list(Some(cursor)),
        ]
    };
    for (sent, raw) in messages(task, cursor)
        .iter()
        .zip(messages("minted", "minted"))
    {
        let answer = legacy(&mut client, &owner, &own, &sent.to_string()).await;
        assert!([200, 202].contains(&answer.status), "{sent}: {answer:?}");
        assert_eq!(server.last().json(), raw, "its server gets its own");
    }
    let before = server.seen().len();
    let mut refused = 0;
    for (key, session, task, cursor) in [
        (&stranger, &other, task, cursor),
        (&stranger, &other, "minted", "minted"),
        (&owner, &own, "minted", "minted"),
        (&owner, &own, cursor, task),
    ] {
        for sent in messages(task, cursor) {
            let answer = legacy(&mut client, key, session, &sent.to_string()).await;
            assert_eq!(answer.status, 400, "{sent}: {answer:?}");
            let id = if sent["method"].is_string() {
                &sent["id"]
            } else {
                &Value::Null
            };
            assert_eq!(answer.json()["id"], *id, "{answer:?}");
            refused += 1;
        }
    }
    let begins = INITIALIZE.replace(
        "\"capabilities\"",
        &format!("\"_meta\":{},\"capabilities\"", related("minted")),
    );
    assert_eq!(
        legacy(&mut client, &stranger, "", &begins).await.status,
        400
    );
    assert_eq!(server.seen().len(), before);
    gateway
        .observed
        .rejection(Rejection::Session, refused + 1)
        .await;
}

#[tokio::test]
async fn a_subscription_hears_of_the_tasks_of_its_listener_alone() {
    let server = Server::answering(|seen| {
        let body = seen.json();
        if seen.rpc_method() != "subscriptions/listen" {
            let result = json!({ "resultType": "task", "taskId": "minted" });
            return json(json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string());
        }
        let wanted = &body["params"]["notifications"];
        let mut said = vec![json!({
            "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
            "params": { "notifications": wanted },
        })];
        for task in wanted["taskIds"].as_array().unwrap() {
            said.push(json!({
                "jsonrpc": "2.0", "method": "notifications/tasks",
                "params": { "taskId": task, "status": "completed" },
            }));
        }
        let event = |message: &Value| format!("data: {message}\n\n");
        let said = said.iter().map(event).collect::<Vec<_>>().concat();
        reply(200, &[("content-type", "text/event-stream")], said)
    })
    .await;
    let (callers, [owner, colleague, stranger]) = three();
    let mut gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let made = ask(&mut client, &owner, "tasks/start", None).await.json();
    let task = made["result"]["taskId"].as_str().unwrap();
    let strange = ask(&mut client, &stranger, "tasks/start", None)
        .await
        .json();
    let strange = strange["result"]["taskId"].as_str().unwrap();
    assert_ne!(task, strange);
    let listen = |named: &Value| json!({ "notifications": { "taskIds": named } }).to_string();
    let method = "subscriptions/listen";
    let headers = [("authorization", &*owner)];
    let heard = client
        .modern(method, None, &headers, &listen(&json!([task, task])))
        .await;
    assert_eq!(heard.status, 200, "{heard:?}");
    let wanted = &server.last().json()["params"]["notifications"];
    assert_eq!(wanted["taskIds"], json!(["minted", "minted"]));
    let heard = heard.text();
    assert!(!heard.contains("minted"), "{heard}");
    assert_eq!(heard.matches(task).count(), 4, "{heard}");
    let before = server.seen().len();
    for (key, named) in [
        (&stranger, json!([task])),
        (&colleague, json!([task])),
        (&stranger, json!(["minted"])),
        (&owner, json!(["minted"])),
        (&owner, json!([task, strange])),
        (&owner, json!([task, "minted"])),
    ] {
        let headers = [("authorization", &**key)];
        let answer = client.modern(method, None, &headers, &listen(&named)).await;
        assert_eq!(answer.status, 400, "{named}: {answer:?}");
        assert_eq!(answer.json()["error"]["code"], -32602, "{answer:?}");
    }
    gateway.observed.rejection(Rejection::Session, 6).await;
    for (params, why) in [
        (
            r#"{"notifications":{"TaskIds":["minted"]}}"#,
            "capitals only",
        ),
        (
            r#"{"Notifications":{"taskIds":["minted"]}}"#,
            "capitals only",
        ),
        (
            r#"{"notifications":{"taskIds":"minted"}}"#,
            "must be an array",
        ),
    ] {
        let answer = client.modern(method, None, &headers, params).await;
        assert_eq!(answer.status, 400, "{params}: {answer:?}");
        assert!(answer.text().contains(why), "{answer:?}");
    }
    assert_eq!(server.seen().len(), before);
}
