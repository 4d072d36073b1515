//! Keys, tokens and signatures: who gets in, what of a service is there for them, and what nobody else can use.

use crate::{
    gates::{call, gated, message, names, session},
    kills::Switchboard,
    support::*,
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::{
    prelude::*,
    sample::{select, subsequence},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use serin_flags::Table;
use serin_gateway::Signer;
use serin_model::{
    auth::{Credential, Secret},
    observe::{Rejection, Sealed},
    service::Protocol,
    snapshot::ServiceRoute,
};
use serin_tenancy::{
    Directory, KeyRecord, Role, Scopes, SecretKey, Tenant, TenantId, TenantState,
    key::RANDOM_BYTES,
    signature::{MASTER_BYTES, Master, Signed},
    token::KeySet,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

/// Everybody who may call: changed as an operator would.
#[derive(Clone, Default)]
pub(crate) struct Callers {
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
    keys: BTreeMap<serin_tenancy::KeyId, Arc<KeyRecord>>,
    made: u8,
}

impl Callers {
    pub(crate) fn new(tenants: &[&str]) -> Self {
        let mut callers = Self::default();
        for tenant in tenants {
            callers.tenant(tenant, TenantState::Active);
        }
        callers
    }

    pub(crate) fn tenant(&mut self, id: &str, state: TenantState) {
        let tenant = Tenant {
            title: String::new(),
            tier: None,
            state,
            created_at: Timestamp::UNIX_EPOCH,
        };
        self.tenants.insert(id.parse().unwrap(), Arc::new(tenant));
    }

    /// A key, as its holder sends it.
    pub(crate) fn key(&mut self, tenant: &str, role: Role, scopes: &[&str]) -> String {
        self.made += 1;
        let key = SecretKey::new(&[self.made; RANDOM_BYTES]);
        let (id, hash) = key.parts().unwrap();
        let record = KeyRecord {
            id,
            tenant: tenant.parse().unwrap(),
            name: String::new(),
            hash,
            role,
            scopes: Scopes::new(scopes.iter().map(|scope| scope.parse().unwrap())),
            tier: None,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::now() + SignedDuration::from_hours(1),
            revoked_at: None,
            replaced_by: None,
            signs: true,
        };
        self.keys.insert(id, Arc::new(record));
        format!("Bearer {}", key.expose())
    }

    pub(crate) fn change(&mut self, key: &str, change: impl FnOnce(&mut KeyRecord)) {
        let id = key[13..25].parse().unwrap();
        change(Arc::make_mut(self.keys.get_mut(&id).unwrap()));
    }

    pub(crate) fn directory(&self) -> Directory {
        Directory::new(&self.tenants, &self.keys, &BTreeMap::new())
    }
}

pub(crate) fn serin(server: &Server, settings: &Value) -> ServiceRoute {
    let mut all = json!({ "auth": "serin" });
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    gated(
        service(&[build("v1", &[server])], None),
        all,
        &Table::default(),
    )
}

pub(crate) fn start(services: Vec<ServiceRoute>, callers: &Callers) -> Running {
    let running = Running::start(vec![]);
    running.swap_callers(services, callers.directory());
    running
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#;

/// A modern message of whoever has a key.
pub(crate) async fn ask(
    client: &mut Client,
    key: &str,
    method: &str,
    name: Option<&str>,
) -> Answer {
    let params = name.map_or("{}".to_owned(), |name| json!({ "name": name }).to_string());
    client
        .modern(method, name, &[("authorization", key)], &params)
        .await
}

pub(crate) async fn list(client: &mut Client, key: &str) -> Answer {
    ask(client, key, "tools/list", None).await
}

/// A legacy message.
pub(crate) async fn legacy(client: &mut Client, key: &str, session: &str, body: &str) -> Answer {
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-11-25"),
        ("authorization", key),
        ("mcp-session-id", session),
    ];
    let used = if session.is_empty() { 4 } else { 5 };
    client
        .ask("POST", "/mcp", &headers[..used], body.to_owned())
        .await
}

pub(crate) async fn begin(client: &mut Client, key: &str) -> String {
    let answer = legacy(client, key, "", INITIALIZE).await;
    let session = answer.header("mcp-session-id");
    session.unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn auth(seen: &[Sealed], result: &str) -> u64 {
    let of = |sealed: &Sealed| {
        let results = sealed.auth.iter().filter(|(label, _)| *label == result);
        results.map(|(_, n)| n).sum::<u64>()
    };
    seen.iter().map(of).sum()
}

#[tokio::test]
async fn only_a_key_in_force_gets_in_and_no_server_ever_sees_it() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme", "idle"]);
    let good = callers.key("acme", Role::User, &[]);
    let expired = callers.key("acme", Role::User, &[]);
    callers.change(&expired, |key| key.expires_at = Timestamp::now());
    let revoked = callers.key("acme", Role::User, &[]);
    callers.change(&revoked, |key| key.revoked_at = Some(Timestamp::now()));
    let suspended = callers.key("idle", Role::User, &[]);
    callers.tenant("idle", TenantState::Suspended);
    let orphan = callers.key("nobody", Role::User, &[]);
    let forged = format!("{}{}", &good[..30], &"0".repeat(good.len() - 30));
    let other = Callers {
        made: 99,
        ..Callers::default()
    }
    .key("acme", Role::User, &[]);
    let mut gateway = start(
        vec![serin(&server, &json!({ "tenant_header": "x-tenant" }))],
        &callers,
    );
    let mut client = gateway.client().await;
    for bad in [
        &expired,
        &revoked,
        &suspended,
        &orphan,
        &forged,
        &other,
        &good[..good.len() - 1],
        &good["Bearer ".len()..],
        &good.replace("Bearer", "Basic"),
        &format!("{good}, {good}"),
        "Bearer",
        "",
    ] {
        let answer = list(&mut client, bad).await;
        assert_eq!(answer.status, 401, "{bad}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(
            challenge.starts_with("Bearer realm=\"serin\""),
            "{challenge}"
        );
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert!(!answer.text().contains("serin_0"), "{answer:?}");
    }
    let answer = client.modern("tools/list", None, &[], "{}").await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(
        (answer.status, challenge),
        (401, Some("Bearer realm=\"serin\""))
    );
    assert!(
        answer.text().contains("Authorization: Bearer serin_"),
        "{answer:?}"
    );
    let twice = [("authorization", &*good), ("authorization", &*good)];
    let answer = client.modern("tools/list", None, &twice, "{}").await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(server.seen().is_empty());

    let made_up = [
        ("authorization", &*good),
        ("x-tenant", "idle"),
        ("x_tenant", "idle"),
        ("connection", "X-Tenant, mcp-protocol-version"),
    ];
    let answer = client.modern("tools/list", None, &made_up, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        list(&mut client, &good.replace("Bearer", "bearer"))
            .await
            .status,
        200
    );
    let key = begin(&mut client, &good).await;
    legacy(&mut client, &good, &key, LIST).await;
    for seen in server.seen() {
        assert_eq!(seen.header("x-tenant"), Some("acme"));
        let of_mcp =
            seen.rpc_method() == "initialize" || seen.header("mcp-protocol-version").is_some();
        assert!(of_mcp, "{:?}", seen.headers);
        let said = format!("{:?} {}", seen.headers, seen.text());
        assert!(
            !said.contains("serin_") && !said.contains("authorization"),
            "{said}"
        );
        assert!(!said.contains("idle"), "{said}");
    }
    gateway.observed.rejection(Rejection::Auth, 14).await;
    let is_counted = |seen: &[Sealed]| {
        let of = |result| auth(seen, result);
        (
            of("ok"),
            of("missing"),
            of("expired"),
            of("revoked"),
            of("unknown"),
        ) == (4, 1, 1, 3, 9)
    };
    gateway.observed.until(is_counted).await;
}

#[tokio::test]
async fn a_key_ends_at_once_on_open_connections_and_streams() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let (old, new) = (
        callers.key("acme", Role::User, &[]),
        callers.key("acme", Role::User, &[]),
    );
    let services = || vec![serin(&server, &json!({}))];
    let gateway = start(services(), &callers);
    let mut client = gateway.client().await;
    // Rotation: both open for a while.
    for key in [&old, &new, &old] {
        assert_eq!(list(&mut client, key).await.status, 200);
    }
    let session = begin(&mut client, &old).await;
    let headers = [("authorization", &*old), ("mcp-session-id", &*session)];
    let mut streaming = gateway.client().await;
    let stream = streaming.begin("GET", "/mcp", &headers, "").await;
    assert_eq!(stream.status(), 200);
    callers.change(&old, |key| key.expires_at = Timestamp::now());
    gateway.swap_callers(services(), callers.directory());
    assert_eq!(list(&mut client, &old).await.status, 401);
    assert_eq!(list(&mut client, &new).await.status, 200);
    let ended = stream.into_body().collect();
    assert!(soon(ended).await.is_ok(), "the stream ends");
}

#[tokio::test]
async fn answers_under_way_are_broken_off_when_their_key_ends() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let kept = open.clone();
    let server = Server::answering(move |seen| {
        let (kind, first) = match seen.header("x-kind") {
            Some("json") => ("application/json", "{\"jsonrpc\":"),
            Some("bytes") => ("application/octet-stream", "some"),
            _ => ("text/event-stream", ": some\n\n"),
        };
        let (sender, reply) = pieces(kind);
        sender.send(piece(first)).unwrap();
        kept.lock().unwrap().push(sender);
        reply
    })
    .await;
    let mut callers = Callers::new(&["acme"]);
    let (old, new) = (
        callers.key("acme", Role::User, &[]),
        callers.key("acme", Role::User, &[]),
    );
    let services = || {
        let mut web = serin(&server, &json!({}));
        (web.name, web.path) = ("web".parse().unwrap(), "/web".into());
        web.protocol = Protocol::Http;
        vec![serin(&server, &json!({})), web]
    };
    let gateway = start(services(), &callers);
    let mut answers = vec![];
    for key in [&old, &new] {
        for (method, path, kind) in [
            ("GET", "/web", "events"),
            ("GET", "/web", "bytes"),
            ("POST", "/mcp", "events"),
            ("POST", "/mcp", "json"),
        ] {
            let mut client = gateway.client().await;
            let headers = [
                ("authorization", &**key),
                ("x-kind", kind),
                ("content-type", "application/json"),
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tools/call"),
                ("mcp-name", "add"),
            ];
            let mut answer = client.begin(method, path, &headers, CALL).await;
            assert_eq!(answer.status(), 200);
            assert!(soon(answer.frame()).await.unwrap().is_ok());
            answers.push((format!("{path} {kind}"), answer, client));
        }
    }
    callers.change(&old, |key| key.revoked_at = Some(Timestamp::now()));
    gateway.swap_callers(services(), callers.directory());
    let (revoked, others) = answers.split_at_mut(4);
    for (what, answer, _) in revoked {
        // Never as if that had been all.
        let end = soon(answer.frame()).await;
        assert!(matches!(end, Some(Err(_))), "{what}: {end:?}");
    }
    for sender in open.lock().unwrap().drain(..) {
        let _ = sender.send(piece("more\n\n"));
    }
    for (what, answer, _) in others {
        assert!(soon(answer.frame()).await.unwrap().is_ok(), "{what}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_time_of_its_token() {
    let server = crate::gates::tools(false).await;
    let provider = Provider::new();
    let callers = Callers::new(&["acme"]);
    let gateway = start(with_tokens(&server, Some(&provider)), &callers);
    let mut client = gateway.client().await;
    // With the leeway of a minute: over in two to three seconds.
    let exp = Timestamp::now().as_second() - 57;
    let until = Timestamp::from_second(exp + 60).unwrap();
    let token = provider.token(&json!({ "exp": exp }));
    let session = begin(&mut client, &token).await;
    let headers = [("authorization", &*token), ("mcp-session-id", &*session)];
    let stream = client.begin("GET", "/mcp", &headers, "").await;
    assert_eq!(stream.status(), 200);
    assert!(soon(stream.into_body().collect()).await.is_ok());
    assert!(Timestamp::now() >= until);
    assert_eq!(list(&mut client, &token).await.status, 401);
}

#[tokio::test]
async fn a_key_runs_out_on_a_connection_that_has_shown_it() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let end = Timestamp::now() + SignedDuration::from_millis(700);
    callers.change(&key, |key| key.expires_at = end);
    let gateway = start(vec![serin(&server, &json!({}))], &callers);
    let mut client = gateway.client().await;
    let mut statuses = vec![];
    while statuses.last() != Some(&401) {
        statuses.push(list(&mut client, &key).await.status);
        assert!(statuses.len() < 100_000);
    }
    assert!(Timestamp::now() >= end);
    assert!(
        statuses.len() > 1
            && statuses[..statuses.len() - 1]
                .iter()
                .all(|status| *status == 200)
    );
}

#[tokio::test]
async fn the_gateway_proves_itself_with_its_own_credential() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let with = |credential| {
        let mut service = serin(&server, &json!({}));
        service.credential = Some(credential);
        vec![service]
    };
    let known = |header: &str| Credential::Known {
        header: header.into(),
        value: Secret::new("Bearer of-the-gateway"),
    };
    let gateway = start(with(known("authorization")), &callers);
    let mut client = gateway.client().await;
    let session = begin(&mut client, &key).await;
    legacy(&mut client, &key, &session, LIST).await;
    list(&mut client, &key).await;
    assert_eq!(server.seen().len(), 3);
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer of-the-gateway"));
    }
    gateway.swap_callers(with(known("x-api-key")), callers.directory());
    list(&mut client, &key).await;
    let seen = server.last();
    assert_eq!(seen.header("x-api-key"), Some("Bearer of-the-gateway"));
    assert_eq!(seen.header("authorization"), None);
    let missing = Credential::Missing {
        reference: "env:TOOLS_TOKEN".into(),
    };
    gateway.swap_callers(with(missing), callers.directory());
    let answer = list(&mut client, &key).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("`env:TOOLS_TOKEN`"), "{answer:?}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn what_is_listed_is_what_can_be_called_whatever_the_scopes_and_the_role() {
    let server = crate::gates::tools(true).await;
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
    let server = crate::gates::tools(false).await;
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
        let table = crate::gates::flags(&[("one", one.1), ("two", two.1)]);
        let gates = [("one", &one.0), ("two", &two.0)].into_iter();
        let gates = gates.filter(|(_, tools)| !tools.is_empty());
        let gates: Vec<_> = gates
            .map(|(flag, tools)| json!({ "flag": flag, "tools": tools }))
            .collect();
        let settings = json!({
            "auth": "serin", "categories": { "danger": ["admin.*"] }, "gates": gates,
        });
        let mut service = gated(service(&[build("v1", &[&server])], None), settings, &table);
        service.versions[0].read_only_tools =
            world.read_only.iter().map(|&tool| tool.into()).collect();
        world.kills.iter().for_each(|target| board.kill(target));
        gateway.swap_all(vec![service], table, callers.directory());
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
    let server = crate::gates::tools(false).await;
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
    let mut web = serin(&server, &json!({}));
    (web.protocol, web.path) = (Protocol::Http, "/web".into());
    let gateway = start(vec![web], &callers);
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
async fn a_session_is_there_for_the_one_who_began_it_alone() {
    let server = Server::mcp("s").await;
    let mut callers = Callers::new(&["acme", "other"]);
    let owner = callers.key("acme", Role::User, &[]);
    let colleague = callers.key("acme", Role::Admin, &[]);
    let stranger = callers.key("other", Role::User, &[]);
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
    let mut callers = Callers::new(&["acme", "other"]);
    let owner = callers.key("acme", Role::User, &[]);
    let stranger = callers.key("other", Role::User, &[]);
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
    let mut callers = Callers::new(&["acme", "other"]);
    let owner = callers.key("acme", Role::User, &[]);
    let stranger = callers.key("other", Role::User, &[]);
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
    let mut callers = Callers::new(&["acme", "other"]);
    let owner = callers.key("acme", Role::User, &[]);
    let colleague = callers.key("acme", Role::Admin, &[]);
    let stranger = callers.key("other", Role::User, &[]);
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

/// An identity provider.
pub(crate) struct Provider {
    secret: EncodingKey,
    public: String,
    keys: Arc<KeySet>,
}

impl Provider {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        let set =
            json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": public }] });
        Self {
            secret: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public,
            keys: Arc::new(KeySet::parse(set.to_string().as_bytes()).unwrap()),
        }
    }

    pub(crate) fn token(&self, changes: &Value) -> String {
        self.token_of(changes, "one")
    }

    pub(crate) fn token_of(&self, changes: &Value, kid: &str) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid.into());
        format!(
            "Bearer {}",
            encode(&header, &claims(changes), &self.secret).unwrap()
        )
    }
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "https://mcp.example/mcp", "sub": "ann", "tenant": "acme",
        "exp": Timestamp::now().as_second() + 600,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn with_tokens(server: &Server, keys: Option<&Provider>) -> Vec<ServiceRoute> {
    let jwt = json!({ "jwt": {
        "issuer": "https://id.example", "audience": "https://mcp.example/mcp", "jwks": "https://id.example/keys",
    } });
    let mut service = serin(server, &jwt);
    service.tokens = keys.map(|provider| provider.keys.clone());
    vec![service]
}

#[tokio::test]
async fn tokens_of_the_provider_open_and_no_others() {
    let server = crate::gates::tools(false).await;
    let provider = Provider::new();
    let mut callers = Callers::new(&["acme", "idle"]);
    callers.tenant("idle", TenantState::Suspended);
    let key = callers.key("acme", Role::User, &[]);
    let (fetcher, mut wishes) = mpsc::channel(4);
    let gateway = Running::with(
        vec![],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| {
            options.key_fetcher = Some(fetcher);
        },
    );
    gateway.swap_callers(with_tokens(&server, None), callers.directory());
    let mut client = gateway.client().await;
    let good = provider.token(&json!({}));
    let answer = list(&mut client, &good).await;
    assert_eq!(answer.status, 503, "the keys are not known yet: {answer:?}");
    assert_eq!(
        list(&mut client, &key).await.status,
        200,
        "keys of ours need none"
    );
    gateway.swap_callers(with_tokens(&server, Some(&provider)), callers.directory());
    for _ in 0..2 {
        assert_eq!(list(&mut client, &good).await.status, 200);
    }
    let now = Timestamp::now().as_second();
    let unsigned = |algorithm: &str, signature: &str| {
        let header = json!({ "alg": algorithm, "kid": "one", "typ": "JWT" });
        let [header, claims] = [header, claims(&json!({}))]
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        format!("Bearer {header}.{claims}.{signature}")
    };
    let mut shared = Header::new(Algorithm::HS256);
    shared.kid = Some("one".into());
    let secret =
        EncodingKey::from_secret(&BASE64_URL_SAFE_NO_PAD.decode(&provider.public).unwrap());
    let shared = format!(
        "Bearer {}",
        encode(&shared, &claims(&json!({})), &secret).unwrap()
    );
    for (what, token) in [
        ("none", unsigned("none", "")),
        ("none in capitals", unsigned("NONE", "AA")),
        ("HS256 with the public key", shared),
        (
            "another audience",
            provider.token(&json!({ "aud": "https://mcp.example" })),
        ),
        (
            "another issuer",
            provider.token(&json!({ "iss": "https://evil.example" })),
        ),
        ("expired", provider.token(&json!({ "exp": now - 61 }))),
        ("not yet", provider.token(&json!({ "nbf": now + 120 }))),
        ("no tenant", provider.token(&json!({ "tenant": null }))),
        (
            "unknown tenant",
            provider.token(&json!({ "tenant": "mallory" })),
        ),
        (
            "suspended tenant",
            provider.token(&json!({ "tenant": "idle" })),
        ),
        ("another provider", Provider::new().token(&json!({}))),
        ("cut", good[..good.len() - 2].to_owned()),
        ("huge", format!("{good}{}", "A".repeat(9000))),
    ] {
        let answer = list(&mut client, &token).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        let metadata = format!(
            "resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\"",
            gateway.address
        );
        assert!(challenge.contains(&metadata), "{challenge}");
    }
    assert!(wishes.try_recv().is_err(), "nobody was asked for keys");
    let newer = provider.token_of(&json!({}), "two");
    assert_eq!(list(&mut client, &newer).await.status, 401);
    assert_eq!(
        soon(wishes.recv()).await.unwrap(),
        "https://id.example/keys"
    );
    // Scopes and roles as with keys.
    let narrow = provider.token(&json!({ "scope": "openid tool:tools/add" }));
    assert_eq!(names(&list(&mut client, &narrow).await), ["add"]);
    let away = provider.token(&json!({ "scope": "service:other" }));
    let reader = provider.token(&json!({ "role": "read_only" }));
    let metadata = format!(
        "resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\"",
        gateway.address
    );
    for (token, tool, scope) in [
        (&away, "add", Some("service:tools")),
        (&narrow, "search", Some("tool:tools/search")),
        (&reader, "add", None),
    ] {
        let answer = ask(&mut client, token, "tools/call", Some(tool)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.text().contains("this token"), "{answer:?}");
        // A client that steps up its authorization finds where, and for what.
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains(&metadata), "{challenge}");
        let named = scope.map(|scope| format!("scope=\"{scope}\""));
        assert_eq!(challenge.contains("scope="), named.is_some(), "{challenge}");
        assert!(challenge.contains(&named.unwrap_or_default()));
    }
    // A session is its subject's, whichever token is shown.
    let session = begin(&mut client, &good).await;
    let renewed = provider.token(&json!({ "jti": "2" }));
    assert_eq!(
        legacy(&mut client, &renewed, &session, LIST).await.status,
        200
    );
    let bob = provider.token(&json!({ "sub": "bob" }));
    assert_eq!(legacy(&mut client, &bob, &session, LIST).await.status, 404);
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), None);
    }
}

#[tokio::test]
async fn clients_find_out_where_tokens_come_from() {
    let server = crate::gates::tools(false).await;
    let provider = Provider::new();
    let callers = Callers::new(&["acme"]);
    let mut services = with_tokens(&server, Some(&provider));
    let mut keys_only = serin(&server, &json!({}));
    keys_only.path = "/keys".into();
    services.push(keys_only);
    let gateway = start(services, &callers);
    let mut client = gateway.client().await;
    for path in ["", "/mcp", "/mcp/"] {
        let path = format!("/.well-known/oauth-protected-resource{path}");
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({
                "resource": format!("http://{}/mcp", gateway.address),
                "resource_name": "tools",
                "authorization_servers": ["https://id.example"],
                "scopes_supported": ["service:tools"],
                "bearer_methods_supported": ["header"],
            })
        );
    }
    let path = "/.well-known/oauth-protected-resource/mcp";
    assert_eq!(client.ask("POST", path, &[], "").await.status, 405);
    for path in ["/keys", "/nowhere", "x"] {
        let path = format!("/.well-known/oauth-protected-resource{path}");
        assert_eq!(client.get(&path).await.status, 404, "{path}");
    }
    // Only a proxy that is trusted may say how clients see us.
    let said = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
    ];
    let answer = client.ask("GET", path, &said, "").await;
    assert_eq!(
        answer.json()["resource"],
        format!("http://{}/mcp", gateway.address)
    );
}

/// Signs as the documentation says.
struct Signing {
    key: String,
    master: Arc<Master>,
    nonce: u32,
}

impl Signing {
    fn headers(
        &mut self,
        method: &str,
        target: &str,
        body: &str,
        skew: i64,
    ) -> Vec<(&'static str, String)> {
        self.nonce += 1;
        let timestamp = (Timestamp::now().as_second() + skew).to_string();
        let nonce = format!("nonce-{:016}", self.nonce);
        let signed = Signed {
            timestamp: &timestamp,
            nonce: &nonce,
            method,
            target,
            body: body.as_bytes(),
        };
        let id = self.key[13..25].parse().unwrap();
        let signature = self.master.secret(id).sign(&signed);
        vec![
            ("authorization", self.key.clone()),
            ("content-type", "application/json".to_owned()),
            ("mcp-protocol-version", "2026-07-28".to_owned()),
            ("mcp-method", "tools/list".to_owned()),
            ("x-serin-timestamp", timestamp),
            ("x-serin-nonce", nonce),
            ("x-serin-signature", signature),
        ]
    }
}

async fn post(
    client: &mut Client,
    target: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> Answer {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    client.ask("POST", target, &headers, body.to_owned()).await
}

#[tokio::test]
async fn a_signed_request_is_good_once_now_and_as_it_is() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let unsigning = callers.key("acme", Role::User, &[]);
    callers.change(&unsigning, |key| key.signs = false);
    let master = Arc::new(Master::new([3; MASTER_BYTES]));
    let signer = Arc::new(Signer::new(master.clone()));
    let mut gateway = Running::with(
        vec![],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| {
            options.signer = Some(signer);
        },
    );
    let required = || vec![serin(&server, &json!({ "signing": "required" }))];
    gateway.swap_callers(required(), callers.directory());
    let mut client = gateway.client().await;
    let mut signing = Signing {
        key: key.clone(),
        master: master.clone(),
        nonce: 0,
    };
    let fine = signing.headers("POST", "/mcp?x=1", LIST, 0);
    assert_eq!(post(&mut client, "/mcp?x=1", &fine, LIST).await.status, 200);
    let said = format!("{:?}", server.last().headers);
    assert!(!said.contains("x-serin-"), "{said}");
    // Whichever connection it comes over.
    let mut other = gateway.client().await;
    let again = post(&mut other, "/mcp?x=1", &fine, LIST).await;
    assert_eq!(again.status, 401);
    assert!(again.text().contains("used already"), "{again:?}");
    for skew in [-290, 290] {
        let headers = signing.headers("POST", "/mcp", LIST, skew);
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            200,
            "{skew}"
        );
    }
    let before = server.seen().len();
    let changed = LIST.replace('3', "4");
    for (what, method, target, body, skew) in [
        ("too old", "POST", "/mcp", LIST, -302),
        ("from the future", "POST", "/mcp", LIST, 302),
        ("another body", "POST", "/mcp", &*changed, 0),
        ("another method", "GET", "/mcp", LIST, 0),
        ("another path", "POST", "/mcp/", LIST, 0),
        ("another query", "POST", "/mcp?x=2", LIST, 0),
    ] {
        let headers = signing.headers(method, target, body, skew);
        let answer = post(&mut client, "/mcp", &headers, LIST).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
    }
    for (name, value) in [
        ("x-serin-signature", "0".repeat(64)),
        ("x-serin-signature", String::new()),
        ("x-serin-nonce", "a-nonce-of-another-request".to_owned()),
        ("x-serin-timestamp", "now".to_owned()),
    ] {
        let mut headers = signing.headers("POST", "/mcp", LIST, 0);
        headers.retain(|(other, _)| *other != name);
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            401,
            "without {name}"
        );
        headers.push((name, value.clone()));
        assert_eq!(
            post(&mut client, "/mcp", &headers, LIST).await.status,
            401,
            "{name}: {value}"
        );
    }
    // A key without a secret, or of another holder.
    let mut stranger = Signing {
        key: unsigning,
        master: master.clone(),
        nonce: 0,
    };
    let headers = stranger.headers("POST", "/mcp", LIST, 0);
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
    let mut forger = Signing {
        key,
        master: Arc::new(Master::new([4; MASTER_BYTES])),
        nonce: 500,
    };
    let headers = forger.headers("POST", "/mcp", LIST, 0);
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
    assert_eq!(server.seen().len(), before);
    gateway
        .observed
        .until(|seen| auth(seen, "signature") == 17)
        .await;
    // Where it is optional, one that is sent is looked at all the same.
    gateway.swap_callers(vec![serin(&server, &json!({}))], callers.directory());
    assert_eq!(list(&mut client, &signing.key.clone()).await.status, 200);
    let mut headers = signing.headers("POST", "/mcp", LIST, 0);
    headers.retain(|(name, _)| *name != "x-serin-timestamp");
    assert_eq!(post(&mut client, "/mcp", &headers, LIST).await.status, 401);
}

#[tokio::test]
async fn rest_is_signed_as_it_is_sent_and_served_once() {
    let server = crate::gates::tools(false).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let master = Arc::new(Master::new([3; MASTER_BYTES]));
    let signer = Arc::new(Signer::new(master.clone()));
    let keyring = serin_gateway::Keyring::ephemeral().unwrap();
    let mut gateway = Running::with(vec![], keyring, |options| options.signer = Some(signer));
    gateway.swap_callers_of(
        vec![serin(&server, &json!({ "signing": "required" }))],
        callers.directory(),
        &[(1, crate::rest::spec(&[]))],
    );
    let mut client = gateway.client().await;
    let mut signing = Signing {
        key,
        master,
        nonce: 0,
    };
    let signatures = ["x-serin-timestamp", "x-serin-nonce", "x-serin-signature"];
    let problem = |answer: &Answer, says: &str| {
        assert_eq!(answer.status, 401, "{answer:?}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{answer:?}");
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], 401);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
    };
    for (method, target, body) in [
        ("GET", "/api/tools", ""),
        ("GET", "/v1/tools/add", ""),
        ("POST", "/api/tool", r#"{"tool":"add"}"#),
        ("POST", "/v1/tool?x=%31", r#"{"tool":"add"}"#),
    ] {
        let mut signed = signing.headers(method, target, body, 0);
        signed.retain(|(name, _)| !name.starts_with("mcp-"));
        let sent: Vec<_> = signed
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let is_bare = |(name, _): &&(&str, &str)| !signatures.contains(name);
        let bare: Vec<_> = sent.iter().filter(is_bare).copied().collect();
        let before = server.seen().len();
        let unsigned = client.ask(method, target, &bare, body).await;
        problem(&unsigned, "must be signed");
        assert_eq!(server.seen().len(), before, "{method} {target}");
        let served = client.ask(method, target, &sent, body).await;
        assert_eq!(served.status, 200, "{method} {target}: {served:?}");
        let asked = server.seen();
        assert!(asked.len() > before);
        for request in &asked[before..] {
            let told = signatures.map(|name| request.header(name));
            assert_eq!(told, [None; 3], "they are for the gateway alone");
        }
        let again = client.ask(method, target, &sent, body).await;
        problem(&again, "used already");
        // Neither is it good for anything else.
        let mut other = signing.headers(method, target, body, 0);
        other.retain(|(name, _)| !name.starts_with("mcp-"));
        let other: Vec<_> = other
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let elsewhere = client
            .ask(method, &format!("{target}?y"), &other, body)
            .await;
        assert_eq!(elsewhere.status, 401, "{elsewhere:?}");
        if method == "POST" {
            let changed = client
                .ask(method, target, &other, r#"{"tool":"search"}"#)
                .await;
            assert_eq!(changed.status, 401, "{changed:?}");
        }
        assert_eq!(server.seen().len(), asked.len(), "{method} {target}");
    }
    gateway
        .observed
        .until(|seen| auth(seen, "signature") == 4 * 3 + 2)
        .await;
}

#[tokio::test]
async fn a_flag_demands_signatures_of_a_tenant_and_plain_http_is_signed_too() {
    let server = Server::answering(|seen| reply(200, &[], seen.body.clone())).await;
    let mut callers = Callers::new(&["acme", "other"]);
    let strict = callers.key("acme", Role::User, &[]);
    let free = callers.key("other", Role::User, &[]);
    let master = Arc::new(Master::new([3; MASTER_BYTES]));
    let signer = Arc::new(Signer::new(master.clone()));
    let gateway = Running::with(
        vec![],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| {
            options.signer = Some(signer);
        },
    );
    let mut web = serin(
        &server,
        &json!({ "signing": { "flag": "request_signing" }, "body_bytes_max": 1024 }),
    );
    (web.protocol, web.path) = (Protocol::Http, "/web".into());
    web.versions[0].endpoints[0].url = format!("http://{}/", server.address);
    let flag = json!({
        "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off",
        "targeting": { "if": [{ "==": [{ "var": "$serin.tenant" }, "acme"] }, "on", "off"] },
        "serin": { "offVariant": "off" },
    });
    let flag = Arc::new(serde_json::from_value(flag).unwrap());
    let flags = Table {
        flags: Arc::new(
            [("request_signing".parse().unwrap(), flag)]
                .into_iter()
                .collect(),
        ),
        ..Table::default()
    };
    gateway.swap_all(vec![web], flags, callers.directory());
    let mut client = gateway.client().await;
    let headers = |key: &str| vec![("authorization", key.to_owned())];
    assert_eq!(
        post(&mut client, "/web/a", &headers(&free), "hello")
            .await
            .status,
        200
    );
    assert_eq!(
        post(&mut client, "/web/a", &headers(&strict), "hello")
            .await
            .status,
        401
    );
    let mut signing = Signing {
        key: strict,
        master,
        nonce: 0,
    };
    let signed = signing.headers("POST", "/web/a?b=c", "hello", 0);
    let answer = post(&mut client, "/web/a?b=c", &signed, "hello").await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let signed = signing.headers("POST", "/web/a", "hello", 0);
    assert_eq!(
        post(&mut client, "/web/a", &signed, "hullo").await.status,
        401
    );
    let large = "x".repeat(1025);
    let signed = signing.headers("POST", "/web/a", &large, 0);
    assert_eq!(
        post(&mut client, "/web/a", &signed, &large).await.status,
        413
    );
}

#[tokio::test]
async fn a_flag_that_says_nothing_any_more_opens_nothing_that_it_closed() {
    let server = Server::answering(|_| reply(200, &[], "fine")).await;
    let mut callers = Callers::new(&["acme"]);
    let key = callers.key("acme", Role::User, &[]);
    let board = Switchboard::default();
    let gateway = board.start(vec![]);
    let mut client = gateway.client().await;
    let mut web = serin(
        &server,
        &json!({ "signing": { "flag": "request_signing" } }),
    );
    (web.protocol, web.path) = (Protocol::Http, "/web".into());
    let flag = |changes: Value| {
        let mut flag = json!({
            "state": "ENABLED", "variants": { "on": true, "off": false, "odd": "on" },
            "defaultVariant": "off", "serin": { "offVariant": "off" },
        });
        for (name, value) in changes.as_object().unwrap() {
            flag[name] = value.clone();
        }
        flag
    };
    let past = json!({ "offVariant": "off", "expires": "2026-01-01T00:00:00Z" });
    let broken = json!({ "if": [true, "unknown"] });
    let mut cases = vec![
        ("request_signing", flag(json!({})), None, 200),
        (
            "request_signing",
            flag(json!({ "state": "DISABLED" })),
            None,
            200,
        ),
        (
            "request_signing",
            flag(json!({ "defaultVariant": "on" })),
            None,
            401,
        ),
        ("reqest_signing", flag(json!({})), None, 401),
        ("request_signing", flag(json!({ "serin": past })), None, 401),
        (
            "request_signing",
            flag(json!({ "defaultVariant": "odd" })),
            None,
            401,
        ),
    ];
    for target in ["flag:request_signing", "flags", "tenant:acme"] {
        // The tenant's own stop comes first.
        let status = if target == "tenant:acme" { 503 } else { 401 };
        cases.push(("request_signing", flag(json!({})), Some(target), status));
    }
    // What a rule that cannot be used answers is the flag's own word, as its fail mode has it.
    for (default, mode, status) in [
        ("on", "last", 401),
        ("off", "last", 200),
        ("on", "off", 200),
    ] {
        let serin = json!({ "offVariant": "off", "failMode": mode });
        let changes = json!({ "defaultVariant": default, "targeting": broken, "serin": serin });
        cases.push(("request_signing", flag(changes), None, status));
    }
    for (name, flag, kill, status) in cases {
        let flags = [(
            name.parse().unwrap(),
            Arc::new(serde_json::from_value(flag.clone()).unwrap()),
        )];
        let flags = Table {
            flags: Arc::new(flags.into_iter().collect()),
            ..Table::default()
        };
        gateway.swap_all(vec![web.clone()], flags, callers.directory());
        if let Some(target) = &kill {
            board.kill(target);
        }
        let unsigned = [("authorization", key.clone())];
        let answer = post(&mut client, "/web/a", &unsigned, "hello").await;
        assert_eq!(answer.status, status, "{name} {kill:?} {flag}: {answer:?}");
        if let Some(target) = &kill {
            board.revive(target);
        }
    }
}

#[tokio::test]
async fn a_key_that_ends_while_a_body_comes_opens_nothing() {
    let server = Server::mcp("one").await;
    let mut callers = Callers::new(&["acme"]);
    let good = callers.key("acme", Role::User, &[]);
    let mut ended = callers.clone();
    ended.change(&good, |key| key.revoked_at = Some(Timestamp::now()));
    let services = || {
        let mut web = serin(&server, &json!({ "signing": "required" }));
        (web.name, web.path) = ("web".parse().unwrap(), "/web".into());
        web.protocol = Protocol::Http;
        vec![serin(&server, &json!({})), web]
    };
    let api = [(1, crate::rest::spec(&[]))];
    let signer = Arc::new(Signer::new(Arc::new(Master::new([1; MASTER_BYTES]))));
    let mut gateway = Running::with(
        vec![],
        serin_gateway::Keyring::ephemeral().unwrap(),
        |options| options.signer = Some(signer),
    );
    for (known, path, body) in [
        (1, "/mcp", CALL),
        (2, "/api/tool", r#"{"tool":"add","args":{}}"#),
        (3, "/web/upload", "the whole of it"),
    ] {
        gateway.swap_callers_of(services(), callers.directory(), &api);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {good}\r\nContent-Type: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            gateway.address,
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(gateway.address)
            .await
            .unwrap();
        let (first, last) = body.split_at(5);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        gateway
            .observed
            .until(|seen| auth(seen, "ok") == known)
            .await;
        gateway.swap_callers_of(services(), ended.directory(), &api);
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        gateway
            .observed
            .until(|seen| auth(seen, "revoked") == known)
            .await;
    }
    assert!(server.seen().is_empty());
}
