//! Tenants, keys, and what keys may do with the admin API, over a real control plane with a real store.

use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use futures_util::StreamExt as _;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use serin_admin::{Access, Build, Token};
use serin_config::Settings;
use serin_control::{Control, Options, TICK_MIN, kills::Switchboard};
use serin_flags::{Environment, table::Forced};
use serin_model::{manifest::Manifest, snapshot::Snapshot};
use serin_store::{Blocks, Log};
use serin_tenancy::signature::{MASTER_BYTES, Master};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The actions of scopes, with a route of each that changes nothing when it is asked without sense.
const ACTIONS: [(&str, Method, &str); 8] = [
    ("read", Method::GET, "/admin/v1/status"),
    (
        "rollout",
        Method::POST,
        "/admin/v1/services/none/rollout/pause",
    ),
    (
        "approve",
        Method::POST,
        "/admin/v1/services/none/rollout/promote",
    ),
    (
        "rollback",
        Method::POST,
        "/admin/v1/services/none/rollout/abort",
    ),
    ("kill", Method::POST, "/admin/v1/kills/revive"),
    ("flags", Method::DELETE, "/admin/v1/flags/none"),
    ("keys", Method::POST, "/admin/v1/keys/000000000000/revoke"),
    ("apply", Method::POST, "/admin/v1/apply"),
];

/// Who waits longer waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    router: Router,
    token: String,
    _counts: mpsc::Sender<serin_model::observe::Sealed>,
    _folder: TempDir,
}

impl World {
    /// With the tenants `acme` and `globex`.
    async fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        let (counts, observations) = mpsc::channel(16);
        let manifest: Manifest = serde_json::from_value(json!({
            "services": { "tools": { "protocol": "http", "path": "/tools", "stable": "v1",
                "versions": { "v1": { "endpoints": ["http://127.0.0.1:1/"] } } } },
            "tiers": { "free": { "limits": [{ "rate": "100/hour" }] } },
        }))
        .unwrap();
        let control = Control::start(Options {
            log: Log::open(&folder.path().join("serin.db")).await.unwrap(),
            blocks: Blocks::open(&folder.path().join("serin.blocks.db"))
                .await
                .unwrap(),
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            observations,
            tick: TICK_MIN,
            plans: serin_config::builtin_plans(),
            manifest,
            environment: Environment::default(),
            forced: Forced::default(),
            flag_file: None,
            kills: Switchboard::default(),
        })
        .await
        .unwrap();
        let token = Token::random().unwrap();
        let text = token.as_str().to_owned();
        let access = Access {
            token: Some(token),
            hosts: vec![],
            flags_token: None,
            flag_origins: vec![],
        };
        let build = Build {
            version: "0.0.0",
            revision: "test",
        };
        let control = control.with_signing(Arc::new(Master::new([7; MASTER_BYTES])));
        let router = serin_admin::router(
            control,
            access,
            build,
            Settings::default(),
            CancellationToken::new(),
        );
        let world = Self {
            router,
            token: text,
            _counts: counts,
            _folder: folder,
        };
        for tenant in ["acme", "globex"] {
            let body = json!({ "tenant": tenant, "tier": "free", "reason": "they signed" });
            let (status, said) = world.post("/admin/v1/tenants", &body).await;
            assert_eq!(status, StatusCode::CREATED, "{said}");
        }
        world
    }

    /// With a credential, or none.
    async fn ask(
        &self,
        credential: Option<&str>,
        method: Method,
        path: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:9090")
            .header("x-serin-actor", "kim");
        if let Some(credential) = credential {
            request = request.header(header::AUTHORIZATION, format!("Bearer {credential}"));
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 24)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Some(&self.token), Method::GET, path, "").await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(Some(&self.token), Method::POST, path, &body.to_string())
            .await
    }

    /// Makes a key: the key, and its id.
    async fn key(&self, tenant: &str, role: &str, scopes: &[&str]) -> (String, String) {
        let body = json!({ "tenant": tenant, "role": role, "scopes": scopes, "name": "ci" });
        let (status, made) = self.post("/admin/v1/keys", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("key"), text("id"))
    }
}

#[tokio::test]
async fn a_key_from_its_making_to_its_end() {
    let world = World::begin().await;
    let body = json!({ "tenant": "acme", "name": "ci", "role": "admin", "scopes": ["service:tools"], "expires": "90d", "reason": "ci" });
    let (status, made) = world.post("/admin/v1/keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let shown = format!("/admin/v1/keys/{id}");
    assert!(key.starts_with(&format!("serin_{id}_")), "{made}");
    assert_eq!(
        (&made["state"], &made["begins"]),
        (&json!("active"), &json!(format!("serin_{id}_")))
    );

    // Nothing shows it again: neither lists nor the log, which has a hash only.
    let secret = &key[key.len() - 72..];
    for path in ["/admin/v1/keys", &shown, "/admin/v1/events?limit=1000"] {
        let (status, said) = world.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {said}");
        assert!(!said.to_string().contains(secret), "{path}: {said}");
        assert!(said.to_string().contains(id), "{path}: {said}");
    }

    // It opens, as itself, whatever it calls itself.
    let (status, _) = world
        .ask(
            Some(key),
            Method::POST,
            "/admin/v1/kills",
            r#"{"target":"tool:tools/x","reason":"r"}"#,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, kills) = world.get("/admin/v1/kills").await;
    assert_eq!(kills["kills"][0]["actor"], format!("key:{id} ci"));

    // Another in its place: both open during the overlap.
    let (status, next) = world
        .post(&format!("{shown}/rotate"), &json!({ "overlap": "1h" }))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{next}");
    assert_eq!(
        (
            &next["replaces"]["state"],
            &next["replaces"]["replaced_by"],
            &next["role"],
            &next["scopes"]
        ),
        (
            &json!("rotated"),
            &next["id"],
            &json!("admin"),
            &json!(["service:tools"])
        )
    );
    let other = next["key"].as_str().unwrap();
    for key in [key, other] {
        let (status, _) = world
            .ask(Some(key), Method::GET, "/admin/v1/status", "")
            .await;
        assert_eq!(status, StatusCode::OK);
    }
    let (status, _) = world.post(&format!("{shown}/rotate"), &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT);

    // Revoked, it opens nothing more, and stays so.
    for lines in [1, 0] {
        let (status, done) = world
            .post(&format!("{shown}/revoke"), &json!({ "reason": "lost" }))
            .await;
        assert_eq!(
            (status, done["done"].as_array().unwrap().len()),
            (StatusCode::OK, lines)
        );
    }
    let (status, problem) = world
        .ask(Some(key), Method::GET, "/admin/v1/status", "")
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(
        !problem.to_string().contains("revoked,")
            && problem["detail"] == "the key is not one that opens anything",
        "{problem}"
    );
    let (status, _) = world
        .ask(Some(other), Method::GET, "/admin/v1/status", "")
        .await;
    assert_eq!(status, StatusCode::OK);
    for (state, count) in [
        ("revoked", 1),
        ("active", 1),
        ("rotated", 0),
        ("expired", 0),
    ] {
        let (_, list) = world
            .get(&format!("/admin/v1/keys?tenant=acme&state={state}"))
            .await;
        assert_eq!(list["keys"].as_array().unwrap().len(), count, "{state}");
    }
}

#[tokio::test]
async fn who_watches_with_a_key_watches_until_it_ends() {
    let world = World::begin().await;
    let (key, id) = world.key("acme", "user", &["admin:read"]).await;
    let request = Request::builder()
        .uri("/admin/v1/services/tools/rollout/watch")
        .header(header::HOST, "127.0.0.1:9090")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .body(Body::empty())
        .unwrap();
    let response = world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut stream = response.into_body().into_data_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: service"), "{first:?}");
    let revoke = format!("/admin/v1/keys/{id}/revoke");
    assert_eq!(world.post(&revoke, &json!({})).await.0, StatusCode::OK);
    let rest = async { while stream.next().await.is_some() {} };
    timeout(PATIENCE, rest).await.expect("the stream ends");
}

#[tokio::test]
async fn what_makes_no_sense_makes_no_key() {
    let world = World::begin().await;
    for (changes, status, part) in [
        (json!({"tenant": "nobody"}), 404, "no tenant `nobody`"),
        (json!({"tier": "gold"}), 404, "no tier `gold`"),
        (json!({"scopes": ["tools"]}), 400, "not a scope"),
        (json!({"scopes": ["service:tolls"]}), 422, "no service"),
        (json!({"role": "root"}), 400, "root"),
        (json!({"expires": "soon"}), 422, "`soon`"),
        (json!({"expires": "2001-01-01"}), 422, "over already"),
        (json!({"expires": "50y"}), 422, "would live"),
        (json!({"name": "x".repeat(201)}), 422, "too long"),
        (json!({"name": "a\nb"}), 422, "control characters"),
        (json!({"color": "red"}), 400, "color"),
    ] {
        let mut body = json!({ "tenant": "acme" });
        let fields = changes.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let (got, problem) = world.post("/admin/v1/keys", &body).await;
        assert_eq!(got.as_u16(), status, "{body}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(part),
            "{body}: {problem}"
        );
        assert!(
            problem["help"]
                .as_str()
                .is_some_and(|help| !help.is_empty())
        );
    }
    let (_, list) = world.get("/admin/v1/keys").await;
    assert_eq!(list, json!({ "keys": [] }));
    let (status, _) = world.get("/admin/v1/keys/xyz").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_key_that_signs_gets_its_secret_once() {
    let world = World::begin().await;
    let (_, plain) = world
        .post("/admin/v1/keys", &json!({"tenant": "acme"}))
        .await;
    assert_eq!(
        (plain.get("signing_secret"), &plain["signs"]),
        (None, &json!(false))
    );
    let body = json!({ "tenant": "acme", "signing": true });
    let (status, made) = world.post("/admin/v1/keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let secret_of = |made: &Value| {
        let id = made["id"].as_str().unwrap().parse().unwrap();
        let secret = Master::new([7; MASTER_BYTES]).secret(id);
        assert_eq!(made["signing_secret"], secret.expose());
        secret.expose().to_owned()
    };
    let first = secret_of(&made);
    let path = format!("/admin/v1/keys/{}", made["id"].as_str().unwrap());
    let (_, shown) = world.get(&path).await;
    assert_eq!(shown["signs"], true);
    let (_, events) = world.get("/admin/v1/events?limit=1000").await;
    assert!(!format!("{shown}{events}").contains(&first));
    // Its successor signs too, with another secret.
    let (_, next) = world.post(&format!("{path}/rotate"), &json!({})).await;
    assert_ne!(secret_of(&next), first);
}

#[tokio::test]
async fn tenants_are_suspended_resumed_and_deleted() {
    let world = World::begin().await;
    let (key, id) = world.key("acme", "admin", &[]).await;
    let opens = async || {
        let path = "/admin/v1/status";
        world.ask(Some(&key), Method::GET, path, "").await.0 == StatusCode::OK
    };
    assert!(opens().await);
    let body = json!({ "tenant": "acme" });
    assert_eq!(
        world.post("/admin/v1/tenants", &body).await.0,
        StatusCode::CONFLICT
    );
    let acme = "/admin/v1/tenants/acme";
    for (deed, state) in [("suspend", "suspended"), ("resume", "active")] {
        let (status, said) = world.post(&format!("{acme}/{deed}"), &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{said}");
        assert_eq!(world.get(acme).await.1["state"], state);
        assert_eq!(opens().await, state == "active");
    }
    // What is not named stays; `null` takes away.
    for (body, title, tier) in [
        (r#"{"title": "Acme Inc."}"#, "Acme Inc.", json!("free")),
        (r#"{"tier": null}"#, "Acme Inc.", Value::Null),
    ] {
        let token = Some(world.token.as_str());
        let (status, said) = world.ask(token, Method::PATCH, acme, body).await;
        assert_eq!(status, StatusCode::OK, "{said}");
        let (_, shown) = world.get(acme).await;
        assert_eq!((&shown["title"], &shown["tier"]), (&json!(title), &tier));
        assert_eq!(shown["keys"], 1);
    }
    let delete = async || {
        let token = Some(world.token.as_str());
        world.ask(token, Method::DELETE, acme, "").await.0
    };
    assert_eq!(delete().await, StatusCode::CONFLICT);
    let revoke = format!("/admin/v1/keys/{id}/revoke");
    assert_eq!(world.post(&revoke, &json!({})).await.0, StatusCode::OK);
    assert_eq!(delete().await, StatusCode::OK);
    assert_eq!(delete().await, StatusCode::NOT_FOUND);
    assert_eq!(world.get(&format!("/admin/v1/keys/{id}")).await.0, 404);
    let (_, left) = world.get("/admin/v1/tenants?limit=1").await;
    assert_eq!(left["tenants"][0]["tenant"], "globex");
    assert_eq!(left.get("next"), None);
}

#[tokio::test]
async fn every_route_needs_a_credential_and_the_scope_of_what_it_does() {
    let world = World::begin().await;
    let (powerless, _) = world.key("acme", "user", &[]).await;
    let description = serde_json::to_value(serin_admin::openapi()).unwrap();
    let mut routes = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if path.starts_with("/ofrep/") {
                continue;
            }
            routes += 1;
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path
                .replace("{name}", "000000000000")
                .replace("{service}", "none")
                .replace("{tenant}", "none");
            let forged = format!("{}0", &powerless[..powerless.len() - 1]);
            for (credential, want) in [
                (None, StatusCode::UNAUTHORIZED),
                (Some(""), StatusCode::UNAUTHORIZED),
                (Some("serin_"), StatusCode::UNAUTHORIZED),
                (Some(&powerless[..60]), StatusCode::UNAUTHORIZED),
                (Some(&forged), StatusCode::UNAUTHORIZED),
                (Some(&powerless), StatusCode::FORBIDDEN),
            ] {
                // The last digit of the checksum may be a 0 already.
                if credential == Some(&forged) && forged == powerless {
                    continue;
                }
                let (status, problem) = world.ask(credential, method.clone(), &path, "").await;
                assert_eq!(status, want, "{method} {path}: {problem}");
                assert!(problem["help"].is_string(), "{method} {path}: {problem}");
            }
        }
    }
    assert!(routes > 50, "{routes}");
}

#[tokio::test]
async fn a_scope_opens_what_it_names_and_nothing_else() {
    let world = World::begin().await;
    let all: BTreeSet<&str> = ACTIONS.iter().map(|(action, ..)| *action).collect();
    let mut cases: Vec<_> = all
        .iter()
        .map(|action| ("user", vec![format!("admin:{action}")], [*action].into()))
        .collect();
    cases.push(("admin", vec![], all.clone()));
    cases.push(("user", vec!["admin:*".to_owned()], all));
    cases.push(("read_only", vec!["admin:*".to_owned()], ["read"].into()));
    cases.push(("user", vec!["service:tools".to_owned()], BTreeSet::new()));
    for (role, scopes, open) in cases {
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        let (key, _) = world.key("acme", role, &scopes).await;
        for (action, method, path) in ACTIONS {
            let (status, said) = world.ask(Some(&key), method, path, "nonsense").await;
            assert_eq!(
                status != StatusCode::FORBIDDEN,
                // Manifests are for operators.
                open.contains(action) && (action != "apply" || role == "admin"),
                "{role} {scopes:?} {path}: {said}"
            );
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{role} {path}");
        }
    }
}

#[tokio::test]
async fn a_tenants_key_sees_and_touches_its_own_tenant_only() {
    let world = World::begin().await;
    let (mine, my_id) = world
        .key("acme", "user", &["admin:read", "admin:keys"])
        .await;
    let (_, other_id) = world.key("globex", "user", &[]).await;
    let ask =
        async |method, path: &str, body: &str| world.ask(Some(&mine), method, path, body).await;
    let (_, list) = ask(Method::GET, "/admin/v1/keys", "").await;
    let ids: Vec<_> = list["keys"].as_array().unwrap().iter().collect();
    assert_eq!((ids.len(), &ids[0]["id"]), (1, &json!(my_id)));
    let (_, none) = ask(Method::GET, "/admin/v1/keys?tenant=globex", "").await;
    assert_eq!(none, json!({ "keys": [] }));
    let (_, tenants) = ask(Method::GET, "/admin/v1/tenants", "").await;
    assert_eq!(tenants["tenants"].as_array().unwrap().len(), 1);

    // Another's is answered as one that is not there, word for word.
    let nowhere = "000000000000";
    let same = |id: &str, said: &Value| said.to_string().replace(id, "ID");
    for (method, tail) in [
        (Method::GET, ""),
        (Method::POST, "/rotate"),
        (Method::POST, "/revoke"),
    ] {
        let path = |id: &str| format!("/admin/v1/keys/{id}{tail}");
        let (status, other) = ask(method.clone(), &path(&other_id), "").await;
        let (_, missing) = ask(method, &path(nowhere), "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{other}");
        assert_eq!(same(&other_id, &other), same(nowhere, &missing));
    }
    let (status, other) = ask(Method::GET, "/admin/v1/tenants/globex", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, missing) = ask(Method::GET, "/admin/v1/tenants/nobody", "").await;
    assert_eq!(same("globex", &other), same("nobody", &missing));
    for (tenant, status) in [("acme", 201), ("globex", 404), ("nobody", 404)] {
        let body = json!({ "tenant": tenant }).to_string();
        let (got, said) = ask(Method::POST, "/admin/v1/keys", &body).await;
        assert_eq!(got.as_u16(), status, "{said}");
    }

    let (_, events) = ask(Method::GET, "/admin/v1/events?limit=1000", "").await;
    let events = events.to_string();
    assert!(events.contains(&my_id) && !events.contains(&other_id) && !events.contains("globex"));

    // Tenants and tiers are the operator's.
    for (method, path, body) in [
        (Method::POST, "/admin/v1/tenants", r#"{"tenant": "new"}"#),
        (Method::PATCH, "/admin/v1/tenants/acme", r#"{"tier": null}"#),
        (Method::POST, "/admin/v1/tenants/acme/suspend", ""),
        (Method::POST, "/admin/v1/tenants/acme/resume", ""),
        (Method::DELETE, "/admin/v1/tenants/acme", ""),
        (
            Method::POST,
            "/admin/v1/keys",
            r#"{"tenant": "acme", "tier": "free"}"#,
        ),
    ] {
        let (status, said) = ask(method, path, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {said}");
    }
}

#[tokio::test]
async fn a_tenants_key_sees_and_sets_its_own_variants_only() {
    let world = World::begin().await;
    let (mine, _) = world
        .key("acme", "user", &["admin:read", "admin:flags"])
        .await;
    let flag = json!({ "flag": { "enabled": true } });
    let (status, said) = world.post("/admin/v1/flags/beta", &flag).await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    let put = async |credential: &str, tenant: &str| {
        let path = format!("/admin/v1/flags/beta/overrides/{tenant}");
        let body = r#"{"variant": "off"}"#;
        world
            .ask(Some(credential), Method::PUT, &path, body)
            .await
            .0
    };
    assert_eq!(put(&world.token, "globex").await, StatusCode::OK);
    assert_eq!(put(&mine, "acme").await, StatusCode::OK);
    assert_eq!(put(&mine, "globex").await, StatusCode::FORBIDDEN);
    for path in [
        "/admin/v1/flags",
        "/admin/v1/flags/beta",
        "/admin/v1/flags/beta/history",
        "/admin/v1/export/flags",
        "/admin/v1/export/flags?effective=true&tenant=acme",
        "/admin/feature-flags?tenant=acme",
        "/admin/v1/events",
    ] {
        let (status, said) = world.ask(Some(&mine), Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {said}");
        assert!(!said.to_string().contains("globex"), "{path}: {said}");
    }
    let evaluate = "/admin/v1/flags/beta/evaluate";
    let import = r#"{"flags": {}, "serin": {"tenants": {"globex": {"beta": "on"}}}}"#;
    for (method, path, body) in [
        (Method::GET, "/admin/v1/export/flags?tenant=globex", ""),
        (Method::GET, "/admin/feature-flags?tenant=globex", ""),
        (
            Method::POST,
            "/admin/feature-flags?tenant=globex",
            r#"{"beta": true}"#,
        ),
        (Method::DELETE, "/admin/v1/flags/beta/overrides/globex", ""),
        (
            Method::POST,
            evaluate,
            r#"{"context": {"tenant": "globex"}}"#,
        ),
        (
            Method::POST,
            evaluate,
            r#"{"context": {"tenantId": "globex"}}"#,
        ),
        (Method::POST, "/admin/v1/import/flags", import),
        // Steering a rollout is more than setting flags.
        (
            Method::POST,
            "/admin/feature-flags",
            r#"{"canary_percentage": 5}"#,
        ),
    ] {
        let (status, said) = world.ask(Some(&mine), method, path, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path} {body}: {said}");
    }
}

#[tokio::test]
async fn nobody_makes_a_key_that_can_do_more_than_they() {
    let world = World::begin().await;
    let scopes = ["admin:keys", "admin:read", "service:tools"];
    let (mine, my_id) = world.key("acme", "user", &scopes).await;
    for (wish, status) in [
        (json!({"scopes": ["service:tools"]}), 201),
        (json!({"scopes": ["tool:tools/search", "admin:read"]}), 201),
        (
            json!({"role": "read_only", "scopes": ["service:tools"]}),
            201,
        ),
        (json!({}), 403),
        (json!({"scopes": ["service:*"]}), 403),
        (json!({"scopes": ["service:tools", "admin:kill"]}), 403),
        (json!({"scopes": ["service:tools", "admin:*"]}), 403),
        (
            json!({"role": "admin", "scopes": ["service:tools", "admin:read"]}),
            403,
        ),
    ] {
        let mut body = json!({ "tenant": "acme" });
        let fields = wish.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let (got, said) = world
            .ask(
                Some(&mine),
                Method::POST,
                "/admin/v1/keys",
                &body.to_string(),
            )
            .await;
        assert_eq!(got.as_u16(), status, "{body}: {said}");
    }
    // Nor takes over one by rotating it, nor ends it.
    let (strong, strong_id) = world.key("acme", "admin", &[]).await;
    let path = |id: &str, deed: &str| format!("/admin/v1/keys/{id}/{deed}");
    for deed in ["rotate", "revoke"] {
        let path = path(&strong_id, deed);
        let (status, said) = world.ask(Some(&mine), Method::POST, &path, "").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{deed}: {said}");
    }
    let status = |key| world.ask(key, Method::GET, "/admin/v1/status", "");
    assert_eq!(status(Some(&strong)).await.0, StatusCode::OK);
    // Its own it ends, and one that can do no more.
    let (_, weak_id) = world.key("acme", "user", &["service:tools"]).await;
    for id in [&weak_id, &my_id] {
        let path = path(id, "revoke");
        let (status, said) = world.ask(Some(&mine), Method::POST, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{said}");
    }
    assert_eq!(status(Some(&mine)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_tenants_key_kills_and_revives_no_other_tenant() {
    let world = World::begin().await;
    let (mine, _) = world.key("acme", "user", &["admin:*"]).await;
    let (operator, _) = world.key("acme", "admin", &[]).await;
    let ask = async |key: &str, method, path: &str, body: Value| {
        world.ask(Some(key), method, path, &body.to_string()).await
    };
    let kill = async |key: &str, target: &str| {
        let body = json!({ "target": target, "reason": "x" });
        ask(key, Method::POST, "/admin/v1/kills", body).await
    };
    let (status, said) = kill(&mine, "tenant:globex").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{said}");
    let (status, killed) = kill(&operator, "tenant:globex").await;
    assert_eq!(status, StatusCode::OK, "{killed}");
    // What all share is for whoever has the scope.
    for target in ["tenant:acme", "tool:tools/x", "version:tools/v1", "flags"] {
        let (status, said) = kill(&mine, target).await;
        assert_eq!(status, StatusCode::OK, "{target}: {said}");
    }
    let (_, book) = world
        .ask(Some(&mine), Method::GET, "/admin/v1/kills", "")
        .await;
    assert_eq!(book["kills"].as_array().unwrap().len(), 4, "{book}");
    assert!(!book.to_string().contains("globex"), "{book}");

    let revive = |target: &str, revision: &Value| json!({ "target": target, "confirm": target, "revision": revision, "reason": "x" });
    let path = "/admin/v1/kills/revive";
    let globex = revive("tenant:globex", &killed["after"]["revision"]);
    let everything = json!({ "confirm": "all", "revision": book["revision"], "reason": "x" });
    for (path, body) in [(path, &globex), ("/admin/v1/kills/revive-all", &everything)] {
        let (status, said) = ask(&mine, Method::POST, path, body.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {said}");
    }
    let own = (book["kills"].as_array().unwrap().iter())
        .find(|kill| kill["target"] == "tenant:acme")
        .unwrap();
    let own = revive("tenant:acme", &own["revision"]);
    for (key, body) in [(&mine, own), (&operator, globex)] {
        let (status, said) = ask(key, Method::POST, path, body).await;
        assert_eq!(status, StatusCode::OK, "{said}");
    }
    let (_, book) = world
        .ask(Some(&mine), Method::GET, "/admin/v1/kills", "")
        .await;
    assert!(!book.to_string().contains("globex"), "{book}");
}

#[tokio::test]
async fn a_tenants_key_applies_no_manifest() {
    let world = World::begin().await;
    let (mine, _) = world.key("acme", "user", &["admin:*"]).await;
    let (operator, _) = world.key("acme", "admin", &["admin:apply"]).await;
    let tiers = "tiers: { free: { limits: [{ rate: 100/second }] } }";
    for (key, status) in [(&mine, StatusCode::FORBIDDEN), (&operator, StatusCode::OK)] {
        let path = "/admin/v1/apply";
        let (got, said) = world.ask(Some(key), Method::POST, path, tiers).await;
        assert_eq!(got, status, "{said}");
    }
    // What the process was started with is found out by nobody who tries.
    let settings = "gateway: { cores: 2 }\nlimiter: { redis: env:X }";
    for (key, restart) in [
        (&mine, json!([])),
        (&operator, json!(["gateway", "limiter"])),
    ] {
        for path in ["/admin/v1/diff", "/admin/v1/apply"] {
            let (got, said) = world.ask(Some(key), Method::POST, path, settings).await;
            let is_told = got == StatusCode::OK && said["restart"] == restart;
            assert!(is_told || got == StatusCode::FORBIDDEN, "{path}: {said}");
        }
    }
    let path = "/admin/v1/rollouts";
    let (got, said) = world.ask(Some(&operator), Method::POST, path, "{}").await;
    let detail = said["detail"].as_str().unwrap();
    assert!(
        got == StatusCode::FORBIDDEN && detail.contains("POST is not there"),
        "{said}"
    );
}
