//! Lists of tools: whom a tool is closed for, it is not there for.

use super::{LIST, admin_tools, behind, call, flags, gated, message, names, session, start, tools};
use crate::support::*;
use serde_json::json;
use serin_model::{name::EndpointId, observe::Rejection};
use std::sync::Arc;
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_closed_tool_is_not_listed_and_not_known_in_both_eras_and_transports() {
    for as_events in [false, true] {
        let server = tools(as_events).await;
        let closed = flags(&[("admin", false)]);
        let services = behind(&server, admin_tools(), &closed);
        let mut gateway = start(services.clone(), &closed);
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
        gateway.swap_flags(services, flags(&[("admin", true)]));
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
    let gateway = start(behind(&server, admin_tools(), &table), &table);
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
async fn a_service_without_gates_passes_bytes_as_they_are() {
    let server = tools(false).await;
    let services = vec![service(&[build("v1", &[&server])], None)];
    let gateway = start(services, &flags(&[("admin", false)]));
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

/// A list that waits until it is let go.
async fn held_list() -> (Server, Arc<Semaphore>) {
    let held = Arc::new(Semaphore::new(0));
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
        let before = behind(&server, admin_tools(), &table);
        let mut after = before.clone();
        after[0].versions[0].endpoints[0].id = EndpointId(99);
        let gateway = start(before, &table);
        let mut client = gateway.client().await;
        let changing = async {
            while server.count("tools/list") == 0 {
                tokio::task::yield_now().await;
            }
            let after = if is_gone { vec![] } else { after };
            gateway.swap_flags(after, table.clone());
            held.add_permits(1);
        };
        let list = client.modern("tools/list", None, &[], "{}");
        let (list, ()) = tokio::join!(list, soon(changing));
        assert_eq!(names(&list), sees);
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
        let gateway = start(vec![at], &table);
        let mut client = gateway.client().await;
        let list = client.modern("tools/list", None, &[], "{}").await;
        assert_eq!(list.status, status);
        let params = r#"{"name":"add"}"#;
        let called = client.modern("tools/call", Some("add"), &[], params).await;
        assert_eq!(called.status, 200);
    }
}
