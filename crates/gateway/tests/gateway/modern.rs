//! Modern MCP: stateless callers, minted values.

use crate::support::*;
use http_body_util::BodyExt as _;
use serin_model::observe::Outcome;

/// A server whose lists have a second page, whose calls ask for input first, and whose tasks are called `task-NAME`.
async fn minting(name: &'static str) -> Server {
    Server::answering(move |seen| {
        let body = seen.json();
        let params = &body["params"];
        let result = match seen.rpc_method().as_str() {
            "tools/list" if params["cursor"].is_null() => {
                format!(r#"{{"tools":[],"nextCursor":"page-{name}"}}"#)
            }
            "tools/list" if params["cursor"] == format!("page-{name}") => r#"{"tools":[]}"#.into(),
            "tools/call" if params["requestState"].is_null() => {
                format!(r#"{{"resultType":"input_required","requestState":"state \"{name}\""}}"#)
            }
            "tools/call" if params["requestState"] == format!("state \"{name}\"") => {
                format!(r#"{{"content":[],"from":"{name}"}}"#)
            }
            "tasks/get"
                if params["taskId"] == format!("task-{name}")
                    && seen.header("mcp-name") == Some(&format!("task-{name}")) =>
            {
                format!(r#"{{"taskId":"task-{name}","status":"working"}}"#)
            }
            "tasks/start" => format!(r#"{{"resultType":"task","taskId":"task-{name}"}}"#),
            _ => {
                return reply(
                    400,
                    &[("content-type", "application/json")],
                    format!("not mine: {}", seen.text()),
                );
            }
        };
        json(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#))
    })
    .await
}

#[tokio::test]
async fn minted_values_come_back_to_the_version_that_made_them() {
    let (one, two) = (minting("one").await, minting("two").await);
    let at = |share| {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(share),
        )]
    };
    let gateway = Running::start(at(100.0));
    let mut client = gateway.client().await;
    let list = client.modern("tools/list", None, &[], "{}").await;
    let cursor = list.json()["result"]["nextCursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let call = client
        .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
        .await;
    let state = call.json()["result"]["requestState"]
        .as_str()
        .unwrap()
        .to_owned();
    let task = client.modern("tasks/start", None, &[], "{}").await;
    let task = task.json()["result"]["taskId"].as_str().unwrap().to_owned();
    for minted in [&cursor, &state, &task] {
        assert!(!minted.contains("two"), "{minted}");
    }
    // Everybody else is on stable now.
    gateway.swap(at(0.0));
    assert_eq!(
        client.modern("tools/list", None, &[], "{}").await.version(),
        "v1"
    );
    let params = format!(r#"{{ "cursor" : "{cursor}", "x":1.0 }}"#);
    let answer = client.modern("tools/list", None, &[], &params).await;
    assert_eq!((answer.status, answer.version()), (200, "v2"));
    assert!(
        two.last()
            .text()
            .contains(r#"{ "cursor" : "page-two", "x":1.0 }"#)
    );
    let params = format!(r#"{{"name":"add","request\u0053tate":"{state}"}}"#);
    let answer = client.modern("tools/call", Some("add"), &[], &params).await;
    assert_eq!(answer.json()["result"]["from"], "two");
    let params = format!(r#"{{"taskId":"{task}"}}"#);
    let answer = client.modern("tasks/get", Some(&task), &[], &params).await;
    assert_eq!(
        (answer.status, answer.version()),
        (200, "v2"),
        "{}",
        answer.text()
    );
    // It was minted again, and leads there again.
    let task = answer.json()["result"]["taskId"]
        .as_str()
        .unwrap()
        .to_owned();
    let params = format!(r#"{{"taskId":"{task}"}}"#);
    assert_eq!(
        client
            .modern("tasks/get", Some(&task), &[], &params)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_value_that_is_not_ours_goes_to_the_server_which_refuses_it() {
    let (one, two) = (minting("one").await, minting("two").await);
    let gateway = Running::start(vec![service(&[build("v1", &[&one])], None)]);
    let other = Running::start(vec![service(&[build("v1", &[&two])], None)]);
    let mut client = gateway.client().await;
    let foreign = other
        .client()
        .await
        .modern("tools/list", None, &[], "{}")
        .await;
    let foreign = foreign.json()["result"]["nextCursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let own = client.modern("tools/list", None, &[], "{}").await;
    let own = own.json()["result"]["nextCursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let tampered = own.replace(&own[30..31], if &own[30..31] == "A" { "B" } else { "A" });
    for cursor in ["made up", &foreign, &tampered] {
        let params = format!(r#"{{"cursor":"{cursor}"}}"#);
        let answer = client.modern("tools/list", None, &[], &params).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text().starts_with("not mine"), "{}", answer.text());
        assert!(one.last().text().contains(&params));
    }
    let params = format!(r#"{{"cursor":"{own}"}}"#);
    assert_eq!(
        client.modern("tools/list", None, &[], &params).await.status,
        200
    );
}

#[tokio::test]
async fn values_of_two_versions_in_one_request_are_refused() {
    let (one, two) = (minting("one").await, minting("two").await);
    let at = |share| {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(share),
        )]
    };
    let gateway = Running::start(at(0.0));
    let mut client = gateway.client().await;
    let list = client.modern("tools/list", None, &[], "{}").await;
    let cursor = list.json()["result"]["nextCursor"]
        .as_str()
        .unwrap()
        .to_owned();
    gateway.swap(at(100.0));
    let call = client.modern("tools/call", Some("add"), &[], "{}").await;
    let state = call.json()["result"]["requestState"]
        .as_str()
        .unwrap()
        .to_owned();
    let params = format!(r#"{{"cursor":"{cursor}","requestState":"{state}"}}"#);
    let answer = client.modern("tools/list", None, &[], &params).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (400, &(-32602).into()));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("start again without them")
    );
    assert_eq!(
        client.modern("tools/list", None, &[], "{}").await.status,
        200
    );
}

#[tokio::test]
async fn a_version_that_is_gone_is_named_as_such() {
    let (one, two) = (minting("one").await, minting("two").await);
    let both = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(100.0));
    let gateway = Running::start(vec![both]);
    let mut client = gateway.client().await;
    let list = client.modern("tools/list", None, &[], "{}").await;
    let cursor = list.json()["result"]["nextCursor"]
        .as_str()
        .unwrap()
        .to_owned();
    gateway.swap(vec![service(&[build("v1", &[&one])], None)]);
    let params = format!(r#"{{"cursor":"{cursor}"}}"#);
    let answer = client.modern("tools/list", None, &[], &params).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (400, &(-31005).into())
    );
}

#[tokio::test]
async fn callers_stick_to_a_version_and_move_one_way_as_the_share_rises() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let at = |share| {
        vec![service(
            &[build("v1", &[&one]), build("v2", &[&two])],
            Some(share),
        )]
    };
    let gateway = Running::start(at(30.0));
    let mut client = gateway.client().await;
    let mut on_candidate = [false; 40];
    for share in [0.0, 30.0, 30.0, 60.0, 100.0] {
        gateway.swap(at(share));
        for (caller, was) in on_candidate.iter_mut().enumerate() {
            let token = format!("Bearer caller-{caller}");
            let more = [("authorization", token.as_str())];
            let answer = client.modern("tools/call", Some("add"), &more, "{}").await;
            let is = answer.version() == "v2";
            assert_eq!(
                answer.header("x-canary"),
                Some(if is { "true" } else { "false" })
            );
            assert!(is || !*was, "{caller} went back at {share}");
            *was = is;
        }
        if (29.0..31.0).contains(&share) {
            let n = on_candidate.iter().filter(|on| **on).count();
            assert!((2..=25).contains(&n), "{n} of 40 at 30 %");
        }
    }
    assert!(on_candidate.iter().all(|on| *on));
}

#[tokio::test]
async fn what_the_client_sent_reaches_the_server_as_it_was() {
    let server = Server::mcp("one").await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let more = [
        ("mcp-param-region", "eu"),
        ("mcp-session-id", "not-ours"),
        ("x-else", "1"),
    ];
    let params = "{ \"name\":\"add\" , \"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}}";
    let answer = client
        .modern("tools/call", Some("add"), &more, params)
        .await;
    assert_eq!(answer.status, 200);
    let seen = server.last();
    for (name, value) in [
        ("mcp-param-region", "eu"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
        ("x-else", "1"),
        ("mcp-protocol-version", "2026-07-28"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    assert_eq!(seen.header("mcp-session-id"), None);
    assert!(seen.text().contains(params));
}

#[tokio::test]
async fn refusals_of_the_server_pass_byte_for_byte() {
    let body = "{\"jsonrpc\":\"2.0\", \"id\":1 ,\"error\":{\"code\":-32022,\"message\":\"no\",\"data\":{\"supported\":[\"2025-11-25\"]}}}\n";
    let server = Server::answering(move |seen| match seen.method.as_str() {
        "POST" => reply(
            400,
            &[("content-type", "application/json"), ("x-own", "1")],
            body,
        ),
        _ => reply(405, &[("allow", "POST")], "never\n"),
    })
    .await;
    let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let answer = client.modern("server/discover", None, &[], "{}").await;
    assert_eq!((answer.status, answer.text()), (400, body));
    assert_eq!(answer.header("x-own"), Some("1"));
    for method in ["GET", "DELETE"] {
        let headers = [("mcp-protocol-version", "2026-07-28")];
        let answer = client.ask(method, "/mcp", &headers, "").await;
        assert_eq!((answer.status, answer.text()), (405, "never\n"));
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_with_its_answer_has_not_cancelled() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces
        .send(piece(
            "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"isError\":true}}\n\n",
        ))
        .unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    drop((response, client));
    soon(pieces.closed()).await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::ToolError, 1)
        .await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_call_with_it() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
    ];
    let mut response = client.begin("POST", "/mcp", &headers, CALL).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    pieces.send(piece(": hello\n\n")).unwrap();
    soon(response.body_mut().frame()).await.unwrap().unwrap();
    drop((response, client));
    soon(pieces.closed()).await;
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
}

/// Tells when it is dropped.
struct OnDrop(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_takes_its_call_with_it() {
    let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (ended, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |_| {
        let (begun, guard) = (begun.clone(), OnDrop(ended.clone()));
        async move {
            let _guard = guard;
            begun.send(()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let asking =
        tokio::spawn(async move { client.modern("tools/call", Some("add"), &[], "{}").await });
    soon(seen.recv()).await.unwrap();
    asking.abort();
    soon(dropped.recv()).await.unwrap();
    gateway
        .observed
        .outcome("v1", "add", Outcome::Cancelled, 1)
        .await;
}

#[tokio::test]
async fn subscriptions_are_open_streams_and_no_calls() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::answering(move |_| {
        let (pieces, reply) = pieces("text/event-stream");
        sender.send(pieces).unwrap();
        reply
    })
    .await;
    let mut gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
    let mut client = gateway.client().await;
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ];
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#;
    let mut response = client.begin("POST", "/mcp", &headers, body).await;
    let pieces = soon(receiver.recv()).await.unwrap();
    for text in [
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n",
        "data: {}\n\n",
    ] {
        pieces.send(piece(text)).unwrap();
        let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    let open = |seen: &[serin_model::observe::Sealed], n| {
        let last = seen.iter().rev().find_map(|sealed| sealed.open.first());
        last.is_some_and(|(_, _, open)| (open.streams, open.calls) == (n, 0))
    };
    gateway.observed.until(|seen| open(seen, 1)).await;
    drop(pieces);
    assert!(soon(response.body_mut().frame()).await.is_none());
    gateway.observed.until(|seen| open(seen, 0)).await;
    assert!(gateway.observed.counts().is_empty());
}

#[tokio::test]
async fn versions_are_chosen_by_hand_only_where_allowed() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let mut tools = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(0.0));
    let mut gateway = Running::start(vec![tools.clone()]);
    let mut client = gateway.client().await;
    for header in [
        ("x-canary", "true"),
        ("x-serin-version", "v2"),
        ("x-serin-version", "v9"),
    ] {
        let answer = client
            .modern("tools/call", Some("add"), &[header], "{}")
            .await;
        assert_eq!((answer.status, answer.version()), (200, "v1"));
        assert_eq!(one.last().header(header.0), None, "stripped");
    }
    tools.settings.overrides.canary = true;
    tools.settings.overrides.version = true;
    gateway.swap(vec![tools.clone()]);
    for (header, version) in [
        (("x-canary", "true"), "v2"),
        (("x-canary", "false"), "v1"),
        (("x-serin-version", "v2"), "v2"),
    ] {
        let answer = client
            .modern("tools/call", Some("add"), &[header], "{}")
            .await;
        assert_eq!((answer.status, answer.version()), (200, version));
    }
    assert_eq!(
        two.last().header("x-serin-version"),
        None,
        "stripped here too"
    );
    let answer = client
        .modern(
            "tools/call",
            Some("add"),
            &[("x-serin-version", "v9")],
            "{}",
        )
        .await;
    let said = answer.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!((answer.status, &answer.json()["id"]), (400, &1.into()));
    assert!(said.contains("`v1`, `v2`"), "{said}");
    // New sessions may choose; live ones stay.
    let headers = [("x-canary", "true")];
    let answer = client.ask("POST", "/mcp", &headers, INITIALIZE).await;
    assert_eq!(answer.version(), "v2");
    let session = answer.header("mcp-session-id").unwrap().to_owned();
    let headers = [("x-canary", "false"), ("mcp-session-id", session.as_str())];
    assert_eq!(
        client.ask("POST", "/mcp", &headers, CALL).await.version(),
        "v2"
    );
    // Testers do not count: the three stripped calls do.
    gateway.observed.outcome("v1", "add", Outcome::Ok, 3).await;
    let last = gateway.observed.seen.len();
    gateway.observed.until(|seen| seen.len() > last + 4).await;
    assert!(
        gateway
            .observed
            .counts()
            .keys()
            .all(|(version, ..)| version == "v1")
    );
}

#[tokio::test]
async fn lists_are_private_and_short_lived_while_two_contracts_serve() {
    let server = Server::answering(|seen| {
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"ttlMs":60000,"cacheScope":"public","nextCursor":"c"}}"#;
        if seen.header("x-events").is_some() {
            reply(200, &[("content-type", "text/event-stream")], format!("data: {result}\n\n"))
        } else {
            json(result)
        }
    })
    .await;
    let mut tools = service(
        &[build("v1", &[&server]), build("v2", &[&server])],
        Some(50.0),
    );
    let gateway = Running::start(vec![tools.clone()]);
    let mut client = gateway.client().await;
    let before = client.modern("tools/list", None, &[], "{}").await;
    assert_eq!(before.json()["result"]["ttlMs"], 60000);
    tools.split.as_mut().unwrap().contract_differs = true;
    gateway.swap(vec![tools]);
    let answer = client.modern("tools/list", None, &[], "{}").await;
    let result = &answer.json()["result"];
    assert_eq!(
        (&result["ttlMs"], &result["cacheScope"]),
        (&5000.into(), &"private".into())
    );
    assert_eq!(
        result["nextCursor"],
        before.json()["result"]["nextCursor"],
        "sealed as before"
    );
    let events = client
        .modern("tools/list", None, &[("x-events", "1")], "{}")
        .await;
    assert!(
        events.text().starts_with("data: {") && events.text().contains("private"),
        "{}",
        events.text()
    );
    let other = client.modern("tools/call", Some("add"), &[], "{}").await;
    assert_eq!(other.json()["result"]["ttlMs"], 60000, "no list");
}
