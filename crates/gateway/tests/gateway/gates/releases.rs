//! Flags under release: who is on which side, and that they stay there.

use super::{
    admin_tools, call, flag, gated, message, names, next, releasing, session, start, table,
    testing, tools,
};
use crate::support::*;
use serde_json::json;
use serin_flags::{Environment, Flag, FlagKey, Table};
use serin_gateway::Keyring;
use serin_model::name::RolloutId;
use std::sync::Arc;

#[tokio::test]
async fn the_sides_of_a_flag_under_release_stick_and_only_grow() {
    let server = tools(false).await;
    let (services, table) = releasing(&server, 0.0);
    let mut gateway = start(services, &table);
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
            environment: Environment::Production,
            ..table([(key, Arc::new(flag))])
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
    let keys = Keyring::ephemeral().unwrap();
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
async fn testers_of_a_flag_keep_their_side_in_their_session() {
    let server = tools(false).await;
    for (percentage, canary, version, said) in [
        (0.0, "true", "v1+new_search", "new_search=on"),
        (100.0, "false", "v1", "new_search=off"),
    ] {
        let (services, table) = testing(&server, percentage);
        let gateway = start(services.clone(), &table);
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
    let gateway = start(services, &table);
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
        let gateway = start(services, &table);
        let mut client = gateway.client().await;
        let answer = client
            .modern("tools/call", Some("add"), &[], r#"{"name":"add"}"#)
            .await;
        assert_eq!(answer.version(), "v1+new_search");
        assert_eq!(server.last().header("x-serin-flags"), Some(said));
    }
}
