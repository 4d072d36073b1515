//! Scopes and roles: what is listed for a caller is what it can call.

use super::{Callers, LIST, ask, begin, legacy, list, serin, start, web};
use crate::{
    gates::{behind, call, flags, gated, message, names, tools},
    kills::Switchboard,
    support::*,
};
use proptest::{
    prelude::*,
    sample::{select, subsequence},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use serin_flags::Table;
use serin_model::observe::Rejection;
use serin_tenancy::Role;

#[tokio::test]
async fn what_is_listed_is_what_can_be_called_whatever_the_scopes_and_the_role() {
    let server = tools(true).await;
    let mut callers = Callers::new(&["acme"]);
    let mut service = serin(&server, &json!({ "categories": { "danger": ["admin.*"] } }));
    service.versions[0].read_only_tools = ["search".into()].into();
    let all = ["add", "admin.drop", "search"];
    let cases: Vec<(Role, &[&str], &[&str])> = vec![
        (Role::User, &[], &all),
        (Role::Admin, &["admin:read"], &all),
        (Role::User, &["service:tools"], &all),
        (Role::User, &["service:to*", "tool:tools/add"], &all),
        (Role::User, &["tool:tools/add"], &["add"]),
        (Role::User, &["tool:tools/a*"], &["add", "admin.drop"]),
        (Role::User, &["category:tools/danger"], &["admin.drop"]),
        (
            Role::Admin,
            &["category:tools/danger", "tool:*/search"],
            &["admin.drop", "search"],
        ),
        (Role::User, &["category:tools/unknown"], &[]),
        (Role::User, &["tool:tools/nothing"], &[]),
        (Role::ReadOnly, &[], &["search"]),
        (Role::ReadOnly, &["service:tools"], &["search"]),
        (Role::ReadOnly, &["tool:tools/add"], &[]),
        (
            Role::ReadOnly,
            &["tool:tools/add", "tool:tools/search"],
            &["search"],
        ),
    ];
    let keys: Vec<_> = cases
        .iter()
        .map(|(role, scopes, _)| callers.key("acme", *role, scopes))
        .collect();
    let mut gateway = start(vec![service], &callers);
    let mut client = gateway.client().await;
    let mut refused = 0;
    for ((role, scopes, want), key) in cases.iter().zip(&keys) {
        let case = format!("{role} {scopes:?}");
        assert_eq!(names(&list(&mut client, key).await), *want, "{case}");
        let session = begin(&mut client, key).await;
        let listed = legacy(&mut client, key, &session, LIST).await;
        assert_eq!(names(&listed), *want, "{case}");
        for tool in all {
            let modern = ask(&mut client, key, "tools/call", Some(tool)).await;
            let older = legacy(&mut client, key, &session, &call(tool)).await;
            for answer in [modern, older] {
                if want.contains(&tool) {
                    assert_eq!(answer.status, 200, "{case} {tool}: {answer:?}");
                    assert!(message(&answer)["result"].is_object(), "{case} {tool}");
                    continue;
                }
                refused += 1;
                assert_eq!(answer.status, 403, "{case} {tool}: {answer:?}");
                let challenge = answer.header("www-authenticate").unwrap();
                let error = "error=\"insufficient_scope\"";
                assert!(challenge.contains(error), "{challenge}");
                let answer = message(&answer);
                assert_eq!(answer["error"]["code"], -32600, "{answer:?}");
                // Who has the scope is not sent for it.
                let text = answer["error"]["message"].as_str().unwrap();
                let scope = format!("{error}, scope=\"tool:tools/{tool}\"");
                let by_role = text.contains("`read_only`") && text.contains("`user`");
                let has_scope = scopes.is_empty()
                    || scopes.contains(&"service:tools")
                    || scopes.contains(&&*format!("tool:tools/{tool}"));
                assert_eq!(by_role, has_scope, "{case} {tool}: {text}");
                assert_eq!(challenge.contains(&scope), !has_scope, "{challenge}");
                assert!(text.contains(tool), "{text}");
            }
        }
    }
    gateway.observed.rejection(Rejection::Scope, refused).await;
    // A batch is refused whole.
    let session = begin(&mut client, &keys[4]).await;
    let batch = format!("[{},{}]", call("add"), call("search"));
    let before = server.count("tools/call");
    let answer = legacy(&mut client, &keys[4], &session, &batch).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(server.count("tools/call"), before);
}

/// Callers, gates and kills of a service whose tools are `add`, `admin.drop` and `search`.
#[derive(Clone, Debug)]
struct World {
    role: Role,
    scopes: Vec<&'static str>,
    read_only: Vec<&'static str>,
    /// Which tools two flags gate, and whether they are on.
    gates: [(Vec<&'static str>, bool); 2],
    kills: Vec<&'static str>,
}

fn worlds() -> impl Strategy<Value = World> {
    let some_of = |from: &[&'static str]| subsequence(from.to_vec(), 0..=2);
    let scopes = [
        "service:tools",
        "service:other",
        "tool:tools/add",
        "tool:tools/a*",
        "tool:*/search",
        "category:tools/danger",
        "admin:read",
    ];
    let gate = || (some_of(&["add", "a*", "search"]), any::<bool>());
    let kills = [
        "tool:tools/add",
        "tool:*/search",
        "tool:other/search",
        "flag:one",
        "flags",
    ];
    (
        select(vec![Role::Admin, Role::User, Role::ReadOnly]),
        some_of(&scopes),
        some_of(&["add", "admin.drop", "search"]),
        [gate(), gate()],
        some_of(&kills),
    )
        .prop_map(|(role, scopes, read_only, gates, kills)| World {
            role,
            scopes,
            read_only,
            gates,
            kills,
        })
}

/// Worlds that are looked at.
const WORLDS: usize = 60;

#[tokio::test]
async fn what_is_listed_is_what_can_be_called_whatever_has_a_say() {
    let server = tools(false).await;
    let board = Switchboard::default();
    let gateway = board.start(vec![]);
    let mut client = gateway.client().await;
    // The same ones each time: what fails fails again.
    let mut runner = TestRunner::deterministic();
    let mut outcomes = [0; 2];
    for _ in 0..WORLDS {
        let world = worlds().new_tree(&mut runner).unwrap().current();
        let mut callers = Callers::new(&["acme"]);
        let key = callers.key("acme", world.role, &world.scopes);
        let [one, two] = &world.gates;
        let table = flags(&[("one", one.1), ("two", two.1)]);
        let gates = [("one", &one.0), ("two", &two.0)].into_iter();
        let gates = gates.filter(|(_, tools)| !tools.is_empty());
        let gates: Vec<_> = gates
            .map(|(flag, tools)| json!({ "flag": flag, "tools": tools }))
            .collect();
        let settings = json!({
            "auth": "serin", "categories": { "danger": ["admin.*"] }, "gates": gates,
        });
        let mut services = behind(&server, settings, &table);
        services[0].versions[0].read_only_tools =
            world.read_only.iter().map(|&tool| tool.into()).collect();
        world.kills.iter().for_each(|target| board.kill(target));
        gateway.swap_all(services, table, callers.directory());
        let modern = list(&mut client, &key).await;
        if modern.status == 403 {
            // The service is beyond the caller, and so is whatever it has.
            for tool in ["add", "admin.drop", "search"] {
                let called = ask(&mut client, &key, "tools/call", Some(tool)).await;
                assert_eq!(called.status, 403, "{world:?} {tool}");
            }
            world.kills.iter().for_each(|target| board.revive(target));
            continue;
        }
        let listed = names(&modern);
        let session = begin(&mut client, &key).await;
        let older = legacy(&mut client, &key, &session, LIST).await;
        assert_eq!(names(&older), listed, "{world:?}");
        for tool in ["add", "admin.drop", "search"] {
            let is_listed = listed.iter().any(|name| name == tool);
            let modern = ask(&mut client, &key, "tools/call", Some(tool)).await;
            let older = legacy(&mut client, &key, &session, &call(tool)).await;
            for answer in [modern, older] {
                let is_through = message(&answer)["result"].is_object();
                assert_eq!(is_through, is_listed, "{world:?} {tool}: {answer:?}");
                outcomes[usize::from(is_through)] += 1;
            }
        }
        world.kills.iter().for_each(|target| board.revive(target));
    }
    let all: usize = outcomes.iter().sum();
    assert!(outcomes.iter().all(|n| 5 * n >= all), "{outcomes:?}");
}

#[tokio::test]
async fn a_service_out_of_reach_and_what_is_no_tool_are_refused() {
    let server = tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let elsewhere = callers.key("acme", Role::Admin, &["service:other"]);
    let tool = callers.key("acme", Role::User, &["tool:tools/add"]);
    let reader = callers.key("acme", Role::ReadOnly, &[]);
    let gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let answer = list(&mut client, &elsewhere).await;
    assert_eq!(answer.status, 403);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("insufficient_scope") && challenge.contains("scope=\"service:tools\"")
    );
    for (key, method, status) in [
        (&tool, "server/discover", 200),
        (&tool, "resources/list", 403),
        (&tool, "prompts/get", 403),
        (&tool, "vendor/erase", 403),
        (&reader, "resources/list", 200),
        (&reader, "prompts/list", 200),
        (&reader, "vendor/erase", 403),
    ] {
        let answer = ask(&mut client, key, method, None).await;
        assert_eq!(answer.status, status, "{method}: {answer:?}");
    }
    // A body that says another thing than its headers is not a way around.
    let headers = [("authorization", &*tool)];
    let answer = client
        .modern("tools/call", Some("add"), &headers, r#"{"name":"search"}"#)
        .await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(server.count("tools/call"), 0);
}

#[tokio::test]
async fn plain_http_is_read_by_readers_and_written_by_users() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let mut callers = Callers::new(&["acme"]);
    let reader = callers.key("acme", Role::ReadOnly, &[]);
    let user = callers.key("acme", Role::User, &[]);
    let narrow = callers.key("acme", Role::User, &["tool:tools/add"]);
    let gateway = start(vec![web(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    for (key, method, more, status) in [
        (&reader, "GET", None, 200),
        (&reader, "HEAD", None, 200),
        (&reader, "POST", None, 403),
        (&reader, "DELETE", None, 403),
        (&reader, "get", None, 403),
        (&reader, "GET", Some("DELETE"), 403),
        (&user, "POST", None, 200),
        (&narrow, "GET", None, 403),
    ] {
        let mut headers = vec![("authorization", &**key)];
        headers.extend(more.map(|more| ("x-http-method-override", more)));
        let answer = client.ask(method, "/web/x", &headers, "").await;
        assert_eq!(answer.status, status, "{method} {more:?}: {answer:?}");
        if status == 403 {
            let challenge = answer.header("www-authenticate").unwrap();
            let by_role = *key == reader;
            assert_eq!(challenge.contains("scope="), !by_role, "{challenge}");
            assert_eq!(answer.text().contains("`read_only`"), by_role, "{answer:?}");
        }
    }
    assert_eq!(client.get("/web/x").await.status, 401);
}

#[tokio::test]
async fn versions_are_chosen_by_hand_by_admins_alone() {
    let (one, two) = (Server::mcp("one").await, Server::mcp("two").await);
    let mut callers = Callers::new(&["acme"]);
    let user = callers.key("acme", Role::User, &[]);
    let admin = callers.key("acme", Role::Admin, &[]);
    let at = |overrides: Value| {
        let both = service(&[build("v1", &[&one]), build("v2", &[&two])], Some(0.0));
        let settings = json!({ "auth": "serin", "overrides": overrides });
        vec![gated(both, settings, &Table::default())]
    };
    let mut gateway = start(at(json!({ "canary": true, "version": true })), &callers);
    let mut client = gateway.client().await;
    for by_hand in [("x-canary", "true"), ("x-serin-version", "v2")] {
        let as_user = [("authorization", &*user), by_hand];
        let answer = client.modern("tools/list", None, &as_user, "{}").await;
        assert_eq!(answer.status, 403, "{answer:?}");
        let as_admin = [("authorization", &*admin), by_hand];
        let answer = client.modern("tools/list", None, &as_admin, "{}").await;
        assert_eq!((answer.status, answer.version()), (200, "v2"));
    }
    gateway.observed.rejection(Rejection::Scope, 2).await;
    // Where it is not configured, it says nothing at all.
    gateway.swap_callers(
        at(json!({ "canary": false, "version": false })),
        callers.directory(),
    );
    for key in [&user, &admin] {
        let headers = [("authorization", &**key), ("x-canary", "true")];
        let answer = client.modern("tools/list", None, &headers, "{}").await;
        assert_eq!((answer.status, answer.version()), (200, "v1"));
    }
}
