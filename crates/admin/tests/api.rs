//! The admin API over a real control plane with a real store; what the gateway would count is sent by hand.

use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use futures_util::StreamExt as _;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use serin_admin::{Access, Build, Token};
use serin_config::Settings;
use serin_control::{Control, Options, TICK_MIN};
use serin_flags::{Environment, table::Forced};
use serin_judge::{
    LogHistogram,
    trial::{NewKey, Report},
};
use serin_model::{
    manifest::Manifest,
    observe::{CallEra, CellKey, Counts, Detour, Open, Rejection, Sealed, Trials},
    share::Share,
    snapshot::Snapshot,
};
use serin_store::{Blocks, Log};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Who waits longer waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    router: Router,
    token: String,
    counts: mpsc::Sender<Sealed>,
    stop: CancellationToken,
    _folder: TempDir,
}

/// An endpoint that answers everything with 200 and nothing.
async fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    url
}

impl World {
    async fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        let (counts, observations) = mpsc::channel(16);
        let control = Control::start(Options {
            log: Log::open(&folder.path().join("serin.db")).await.unwrap(),
            blocks: Blocks::open(&folder.path().join("serin.blocks.db"))
                .await
                .unwrap(),
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            observations,
            tick: TICK_MIN,
            plans: serin_config::builtin_plans(),
            manifest: Manifest::default(),
            environment: Environment::default(),
            forced: Forced::default(),
            flag_file: None,
            kills: serin_control::kills::Switchboard::default(),
        })
        .await
        .unwrap();
        let token = Token::random().unwrap();
        let text = token.as_str().to_owned();
        let stop = CancellationToken::new();
        let access = Access {
            token: Some(token),
            hosts: vec![],
            flags_token: Some(Token::random().unwrap()),
            flag_origins: vec![],
        };
        let build = Build {
            version: "0.0.0",
            revision: "test",
        };
        let router = serin_admin::router(control, access, build, Settings::default(), stop.clone());
        Self {
            router,
            token: text,
            counts,
            stop,
            _folder: folder,
        }
    }

    /// With the service `tools` in the versions `v1` (stable) and `v2`.
    async fn with_a_service() -> Self {
        let world = Self::begin().await;
        let (status, said) = world
            .post("/admin/v1/apply", &manifest(&upstream().await))
            .await;
        assert_eq!(status, StatusCode::OK, "{said}");
        world
    }

    async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, body: &str) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:9090")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header("x-serin-actor", "kim")
            .body(Body::from(body.to_owned()))
            .unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(self.request(Method::GET, path, "")).await).await
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        read(self.send(self.request(Method::POST, path, body)).await).await
    }
}

async fn text(response: http::Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24)
        .await
        .unwrap();
    String::from_utf8(bytes.into()).unwrap()
}

/// The answer as JSON; a refusal must be a problem document that agrees with its status.
async fn read(response: http::Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let kind = response.headers()[header::CONTENT_TYPE].clone();
    let body = text(response).await;
    let json: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    if !status.is_success() {
        assert_eq!(kind, "application/problem+json", "{body}");
        assert_eq!(json["status"], status.as_u16(), "{body}");
        for field in ["type", "title", "detail"] {
            assert!(
                json[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field} in {body}"
            );
        }
    }
    (status, json)
}

fn manifest(url: &str) -> String {
    json!({ "services": { "tools": {
        "protocol": "http", "path": "/tools", "stable": "v1",
        "versions": { "v1": { "endpoints": [url] }, "v2": { "endpoints": [url] } } } } })
    .to_string()
}

/// Every operation of the description, with examples in place of its path's parameters.
fn operations() -> Vec<(Method, String)> {
    let description = serde_json::to_value(serin_admin::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{service}", "tools");
            let path = path
                .replace("{tenant}", "acme")
                .replace("{key}", "standard");
            let path = match path.strip_suffix("/rollouts/{name}") {
                Some(head) => format!("{head}/rollouts/00000000-0000-0000-0000-000000000000"),
                None => path.replace("{name}", "standard"),
            };
            all.push((method.to_uppercase().parse().unwrap(), path));
        }
    }
    all
}

#[tokio::test]
async fn every_operation_is_there_and_closed_without_the_token() {
    let world = World::begin().await;
    let operations = operations();
    assert!(operations.len() >= 20, "{operations:?}");
    // What clients of flags ask has no bodies of refusals; its own test looks at it.
    let operations = operations
        .into_iter()
        .filter(|(_, path)| !path.starts_with("/ofrep/"));
    for (method, path) in operations {
        let mut request = world.request(method.clone(), &path, "");
        request.headers_mut().remove(header::AUTHORIZATION);
        let (status, problem) = read(world.send(request).await).await;
        assert_eq!(
            status,
            StatusCode::UNAUTHORIZED,
            "{method} {path}: {problem}"
        );

        let mut request = world.request(method.clone(), &path, "");
        request
            .headers_mut()
            .insert(header::HOST, "evil.example".parse().unwrap());
        let (status, _) = read(world.send(request).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");

        let mut request = world.request(method.clone(), &path, "");
        request
            .headers_mut()
            .insert(header::ORIGIN, "https://evil.example".parse().unwrap());
        let (status, _) = read(world.send(request).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");

        // There: whatever it answers, it is not that nothing is there.
        let answered = world.send(world.request(method.clone(), &path, "")).await;
        assert_ne!(
            answered.status(),
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} {path}"
        );
        let said = text(answered).await;
        assert!(
            !said.contains("there is nothing at"),
            "{method} {path}: {said}"
        );
    }
    for path in [
        "/admin/v1",
        "/admin/v1/nothing",
        "/nothing",
        "/",
        "//admin/v1/status",
        "/%61dmin/v1/status",
    ] {
        let mut request = world.request(Method::GET, path, "");
        request.headers_mut().remove(header::AUTHORIZATION);
        let (status, _) = read(world.send(request).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(world.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let (status, problem) = read(
        world
            .send(world.request(Method::DELETE, "/admin/v1/status", ""))
            .await,
    )
    .await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{problem}");
}

#[tokio::test]
async fn the_description_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let now = serde_json::to_string_pretty(&serin_admin::openapi()).unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(
        kept == now,
        "the API has changed: look at it, and run this test with UPDATE_OPENAPI=1"
    );
    let world = World::begin().await;
    let (_, served) = world.get("/admin/v1/openapi.json").await;
    assert_eq!(served, serde_json::from_str::<Value>(&kept).unwrap());
}

/// What `OpenAPI` 3.1 asks for beyond the types: <https://spec.openapis.org/oas/v3.1.1#response-object> and `operationId`.
#[test]
fn every_response_is_described_and_every_operation_has_an_id_of_its_own() {
    let description = serde_json::to_value(serin_admin::openapi()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_default();
            assert!(!id.is_empty() && ids.insert(id), "{method} {path}: {id:?}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let said = response["description"].as_str().unwrap_or_default();
                assert!(!said.is_empty(), "{method} {path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn a_rollout_from_its_start_to_its_rollback() {
    let world = World::with_a_service().await;
    let rollout = "/admin/v1/services/tools/rollout";
    assert_eq!(world.get(rollout).await.0, StatusCode::NOT_FOUND);
    let (status, done) = world
        .post(rollout, r#"{"to":"v2","reason":"because"}"#)
        .await;
    assert_eq!(status, StatusCode::CREATED, "{done}");
    assert!(
        done["done"][0]
            .as_str()
            .unwrap()
            .contains("plan standard (because)"),
        "{done}"
    );
    let (_, shown) = world.get(rollout).await;
    assert_eq!(
        (&shown["id"], &shown["started_by"]),
        (&done["rollout"], &json!("kim"))
    );
    let (_, by_id) = world
        .get(&format!(
            "/admin/v1/rollouts/{}",
            done["rollout"].as_str().unwrap()
        ))
        .await;
    assert_eq!(by_id["plan_name"], "standard");

    // What `curl -d` sends is read as JSON, whatever it calls itself.
    let mut form = world.request(
        Method::POST,
        &format!("{rollout}/share"),
        r#"{"share":"12.5 %","reason":"gently"}"#,
    );
    let kind = "application/x-www-form-urlencoded".parse().unwrap();
    form.headers_mut().insert(header::CONTENT_TYPE, kind);
    assert_eq!(read(world.send(form).await).await.0, StatusCode::OK);
    assert_eq!(world.get(rollout).await.1["share_wanted"], "12.5 %");

    for (path, body) in [
        ("pause", r#"{"reason":"lunch"}"#),
        ("resume", ""),
        ("rollback", r#"{"strategy":"gradual"}"#),
    ] {
        let (status, done) = world.post(&format!("{rollout}/{path}"), body).await;
        assert_eq!(
            (status, done["done"].as_array().unwrap().len()),
            (StatusCode::OK, 1),
            "{path}: {done}"
        );
    }
    let (status, done) = world.post(&format!("{rollout}/abort"), "").await;
    assert_eq!(
        (status, &done["done"]),
        (StatusCode::OK, &json!([])),
        "it is over"
    );
    let (_, listed) = world.get("/admin/v1/rollouts").await;
    assert_eq!(listed[0]["status"], "rolled_back");

    let query = format!(
        "/admin/v1/events?limit=2&rollout={}",
        shown["id"].as_str().unwrap()
    );
    let (_, first) = world.get(&query).await;
    let (_, rest) = world.get(&format!("{query}&after={}", first["next"])).await;
    let kinds = |page: &Value| -> Vec<String> {
        let events = page["events"].as_array().unwrap();
        events
            .iter()
            .map(|event| event["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds(&first), ["rollout_started", "phase_entered"]);
    assert_eq!(kinds(&rest)[0], "share_set");
    assert_eq!(first["events"][0]["actor"], "kim");
    assert!(
        first["events"][0]["text"]
            .as_str()
            .unwrap()
            .contains("v1 -> v2")
    );
    let (_, last) = world.get("/admin/v1/events?after=1000000").await;
    assert_eq!(last, json!({ "events": [] }));
}

#[tokio::test]
async fn a_signal_given_by_hand_counts_and_a_rollout_can_be_judged_again() {
    let world = World::with_a_service().await;
    let rollout = "/admin/v1/services/tools/rollout";
    let signal = format!("{rollout}/signal");
    let bug = r#"{"signal":"critical_bug","reason":"invoices lack their total"}"#;
    assert_eq!(world.post(&signal, bug).await.0, StatusCode::CONFLICT);
    let (status, done) = world.post(rollout, r#"{"to":"v2"}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{done}");
    let id = done["rollout"].as_str().unwrap().to_owned();

    let (status, problem) = world.post(&signal, r#"{"signal":"doubt"}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let help = problem["help"].as_str().unwrap();
    assert!(help.contains("complaint, critical_bug"), "{problem}");
    let (status, done) = world.post(&signal, r#"{"signal":"complaint"}"#).await;
    assert_eq!(
        (status, &done["done"]),
        (StatusCode::OK, &json!(["signal complaint"]))
    );
    assert_eq!(
        world.get(rollout).await.1["signals"],
        json!({ "complaint": 1 })
    );
    let (status, done) = world.post(&signal, bug).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let (_, shown) = world.get(rollout).await;
    assert_eq!(shown["status"], "rolled_back", "{done}");

    let replay = format!("/admin/v1/rollouts/{id}/replay");
    for (body, plan) in [
        ("", "standard"),
        (r#"{"plan":"stage-i"}"#, "stage-i"),
        (
            r#"{"plan":{"phases":[{"share":"5 %"},{"share":"100 %"}]},"plan_name":"short"}"#,
            "short",
        ),
    ] {
        let (status, replayed) = world.post(&replay, body).await;
        assert_eq!(status, StatusCode::OK, "{body}: {replayed}");
        assert_eq!(
            (&replayed["rollout"], &replayed["plan_name"]),
            (&json!(id), &json!(plan)),
            "{body}"
        );
    }
    let nobody = "/admin/v1/rollouts/00000000-0000-0000-0000-000000000000/replay";
    for (path, body, status, part) in [
        (nobody, "", 404, "00000000"),
        (
            replay.as_str(),
            r#"{"plan":"none"}"#,
            404,
            "there is no plan `none`",
        ),
        (&replay, r#"{"plan":{"phases":[]}}"#, 422, "phases"),
        (&replay, r#"{"plan":{"fazes":[]}}"#, 400, "fazes"),
    ] {
        let (got, problem) = world.post(path, body).await;
        assert_eq!(got.as_u16(), status, "{body}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{part} in {problem}");
    }
}

#[tokio::test]
async fn refusals_have_the_status_that_they_mean() {
    let world = World::with_a_service().await;
    let rollout = "/admin/v1/services/tools/rollout";
    let large = "x".repeat((1 << 20) + 1);
    for (path, body, status, part) in [
        (
            "/admin/v1/services/none/rollout",
            r#"{"to":"v2"}"#,
            404,
            "there is no service `none`",
        ),
        (
            "/admin/v1/services/-/rollout",
            r#"{"to":"v2"}"#,
            400,
            "`-` is not a service name",
        ),
        (rollout, r#"{"to":"v3"}"#, 404, "no version `v3`"),
        (rollout, r#"{"to":"v1"}"#, 409, "already stable"),
        (
            rollout,
            r#"{"to":"v2","plan":"none"}"#,
            404,
            "there is no plan `none`",
        ),
        (
            rollout,
            r#"{"to":"v2","plan":{"phases":[{"shore":1}]}}"#,
            400,
            "unknown field `shore`",
        ),
        (
            rollout,
            r#"{"to":"v2","plan":{"phases":[]}}"#,
            422,
            "phases",
        ),
        (rollout, "{", 400, "line 1 column 1"),
        (
            rollout,
            r#"{"to":"v2","force":true}"#,
            400,
            "unknown field `force`",
        ),
        (rollout, &large, 413, "more than 1048576 bytes"),
        (
            "/admin/v1/services/tools/rollout/share",
            r#"{"share":"5 %","reason":"x"}"#,
            409,
            "no rollout under way",
        ),
        (
            "/admin/v1/services/tools/rollout/share",
            r#"{"share":"101 %"}"#,
            400,
            "`101 %` is not a share",
        ),
        (
            "/admin/v1/services/tools/rollout/promote",
            r#"{"override":true}"#,
            422,
            "needs a reason",
        ),
        (
            "/admin/v1/apply",
            "services: { tools: { pathe: /x } }",
            422,
            "manifest:1:22",
        ),
        ("/admin/v1/apply", "services: [", 422, "manifest:"),
        ("/admin/v1/apply?prune=maybe", "", 400, "prune"),
        ("/admin/v1/apply", &large, 413, "more than 1048576 bytes"),
        ("/admin/v1/diff", "nonsense: 1", 422, "`nonsense`"),
    ] {
        let (got, problem) = world.post(path, body).await;
        let body: String = body.chars().take(60).collect();
        assert_eq!(got.as_u16(), status, "{path} {body}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(part),
            "{part} in {problem}"
        );
        assert!(
            problem["help"]
                .as_str()
                .is_some_and(|help| !help.is_empty()),
            "{problem}"
        );
    }
    let (status, problem) = world.get("/admin/v1/events?limit=many").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    assert_eq!(
        world.get("/admin/v1/rollouts/x").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        world.get("/admin/v1/plans/x").await.0,
        StatusCode::NOT_FOUND
    );
    // Nothing has changed for it.
    assert_eq!(world.get("/admin/v1/rollouts").await.1, json!([]));
    let (_, problem) = world
        .post("/admin/v1/apply", "services: { tools: { pathe: /x } }")
        .await;
    assert_eq!(problem["problems"][0]["line"], 1, "{problem}");
}

#[tokio::test]
async fn who_watches_sees_each_change_until_the_end() {
    let world = World::with_a_service().await;
    let watch = "/admin/v1/services/tools/rollout/watch";
    assert_eq!(
        world.get("/admin/v1/services/none/rollout/watch").await.0,
        StatusCode::NOT_FOUND
    );
    let response = world.send(world.request(Method::GET, watch, "")).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    let mut stream = response.into_body().into_data_stream();
    let mut seen = String::new();
    let mut started = false;
    let watched = timeout(PATIENCE, async {
        while let Some(piece) = stream.next().await {
            seen += std::str::from_utf8(&piece.unwrap()).unwrap();
            if !started && seen.contains("\n\n") {
                assert!(seen.starts_with("event: service\ndata: {"), "{seen}");
                started = true;
                let (status, _) = world
                    .post("/admin/v1/services/tools/rollout", r#"{"to":"v2"}"#)
                    .await;
                assert_eq!(status, StatusCode::CREATED);
            }
            if seen.contains(r#""status":"running""#) {
                world.stop.cancel();
            }
        }
    });
    watched
        .await
        .expect("the stream ends when the process does");
    assert!(seen.contains(r#""status":"running""#));
}

/// A page of metrics, as a server writes it about itself.
async fn page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 1.25e+08\n";
            let _ = stream.write_all(answer).await;
        }
    });
    url
}

#[tokio::test]
async fn the_health_of_each_version_is_on_show() {
    let world = World::begin().await;
    let url = upstream().await;
    let manifest = json!({ "services": { "tools": {
        "protocol": "http", "path": "/tools", "stable": "v1",
        "versions": { "v1": { "endpoints": [url], "metrics": page().await }, "v2": { "endpoints": [url] } } } } });
    let (status, said) = world.post("/admin/v1/apply", &manifest.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let (status, said) = world
        .post("/admin/v1/services/tools/rollout", r#"{"to":"v2"}"#)
        .await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    let cell = |version: &str, good: u64, bad: u64| {
        let mut seconds = LogHistogram::default();
        (0..good).for_each(|_| seconds.record(0.01));
        let mut outcomes = [0; 10];
        (outcomes[0], outcomes[6]) = (good, bad);
        let counts = Counts {
            outcomes,
            first_byte: seconds.clone(),
            last_byte: seconds,
            ..Counts::default()
        };
        let key = CellKey {
            service: "tools".parse().unwrap(),
            version: version.parse().unwrap(),
            tool: "search".into(),
            era: CallEra::None,
        };
        (key, counts)
    };
    // Too few calls for a threshold to take the candidate back.
    let sealed = Sealed {
        cells: vec![cell("v1", 100, 0), cell("v2", 10, 20)],
        ..Sealed::default()
    };
    world.counts.send(sealed).await.unwrap();

    let base = "/admin/v1/services/tools/health";
    let sum = |windows: &Value, field: &str| {
        let windows = windows["windows"].as_array().unwrap().iter();
        windows.map(|w| w[field].as_u64().unwrap()).sum::<u64>()
    };
    let seen = timeout(PATIENCE, async {
        loop {
            let (status, shown) = world.get(&format!("{base}/metrics?minutes=5")).await;
            assert_eq!(status, StatusCode::OK, "{shown}");
            let shown = shown.as_array().unwrap().clone();
            if let [v1, v2] = shown.as_slice()
                && (sum(v1, "calls"), sum(v2, "bad")) == (100, 20)
                && v1["windows"][0]["memory_bytes"] == 1.25e8
            {
                assert_eq!(
                    (&v1["version"], &v2["version"]),
                    (&json!("v1"), &json!("v2"))
                );
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    seen.await.expect("counts and the page of metrics arrive");

    let (_, comparison) = world.get(&format!("{base}/comparison")).await;
    assert_eq!(comparison["candidate"], "v2", "{comparison}");
    let rows = comparison["rows"].as_array().unwrap();
    let row = |metric: &str| rows.iter().find(|row| row["metric"] == metric).unwrap();
    assert_eq!(row("error_rate")["standing"], "worse", "{comparison}");
    assert_eq!(row("memory")["stable"], 1.25e8, "{comparison}");

    assert_eq!(world.get(&format!("{base}/issues")).await.1, json!([]));
    let (_, alerts) = world.get(&format!("{base}/alerts")).await;
    assert_eq!(alerts, json!({ "active": [], "resolved": [] }));
    let (_, trends) = world.get(&format!("{base}/trends")).await;
    assert!(trends.is_array(), "{trends}");

    for (path, expected) in [
        (
            "services/tools/health/metrics?minutes=0",
            StatusCode::BAD_REQUEST,
        ),
        (
            "services/tools/health/metrics?minutes=1441",
            StatusCode::BAD_REQUEST,
        ),
        (
            "services/tools/health/metrics?hours=1",
            StatusCode::BAD_REQUEST,
        ),
        ("services/none/health/issues", StatusCode::NOT_FOUND),
        ("services/none/health/comparison", StatusCode::NOT_FOUND),
    ] {
        let (status, problem) = world.get(&format!("/admin/v1/{path}")).await;
        assert_eq!(status, expected, "{path}: {problem}");
    }
}

/// One call of each kind, a new key, and whatever else has a metric.
async fn busy(world: &World) {
    let (status, done) = world
        .post("/admin/v1/services/tools/rollout", r#"{"to":"v2"}"#)
        .await;
    assert_eq!(status, StatusCode::CREATED, "{done}");
    let rollout = done["rollout"].as_str().unwrap().parse().unwrap();
    let service: serin_model::name::ServiceName = "tools".parse().unwrap();
    let version: serin_model::name::VersionName = "v2".parse().unwrap();
    let mut seconds = LogHistogram::default();
    seconds.record(0.01);
    let counts = Counts {
        outcomes: [1; 10],
        first_byte: seconds.clone(),
        last_byte: seconds.clone(),
        request_bytes: 11,
        response_bytes: 12,
        ..Counts::default()
    };
    let key = CellKey {
        service: service.clone(),
        version: version.clone(),
        tool: "search".into(),
        era: CallEra::Modern,
    };
    let sealed = Sealed {
        cells: vec![(key, counts)],
        trials: vec![Trials {
            service: service.clone(),
            rollout,
            step: 1,
            share: Share::ZERO,
            report: Report {
                keys: vec![NewKey {
                    key: 1,
                    is_candidate: true,
                }],
                ..Report::default()
            },
        }],
        open: vec![(
            service.clone(),
            version,
            Open {
                calls: 1,
                streams: 1,
            },
        )],
        rejections: vec![
            (None, Rejection::Route, 1),
            (Some(service.clone()), Rejection::Body, 2),
        ],
        auth: vec![("ok", 3), ("unknown", 1)],
        detours: vec![
            ("tools".parse().unwrap(), Detour::Retry, 2),
            ("tools".parse().unwrap(), Detour::Fallback, 1),
        ],
        rules: vec![("tools".parse().unwrap(), "beta".into(), 3)],
        limited: vec![(service.clone(), "key", 2)],
        degraded: vec![("limiter", 1)],
        overhead: vec![(service, seconds)],
        ..Sealed::default()
    };
    world.counts.send(sealed).await.unwrap();
    let realised = timeout(PATIENCE, async {
        while world.get("/admin/v1/services/tools/rollout").await.1["keys"]["candidate"] != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    realised.await.expect("the counts arrive");
    assert_eq!(
        world
            .post("/admin/v1/services/tools/rollout/abort", "")
            .await
            .0,
        StatusCode::OK
    );
}

/// Metrics by name: type and labels.
type Contract = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of `docs/metrics.md` that say that they exist.
fn promised() -> Contract {
    let table = include_str!("../../../docs/metrics.md");
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<_> = line
            .strip_prefix("| `")?
            .split('|')
            .map(str::trim)
            .collect();
        let [name, kind, labels, exists, ..] = cells.as_slice() else {
            return None;
        };
        let labels = labels
            .split(',')
            .map(str::trim)
            .filter(|label| !label.is_empty());
        let row = ((*kind).to_owned(), labels.map(str::to_owned).collect());
        (*exists == "**yes**").then(|| (name.trim_end_matches('`').to_owned(), row))
    });
    rows.collect()
}

/// What a scrape holds.
fn exported(scrape: &str) -> Contract {
    let mut all = Contract::new();
    let mut family = (String::new(), String::new());
    for line in scrape.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            family = (name.to_owned(), kind.to_owned());
        }
        if line.starts_with('#') {
            continue;
        }
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut labels: BTreeSet<_> = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|pair| pair.split_once('='))
            .map(|pair| pair.0.to_owned())
            .collect();
        labels.remove("le");
        let name = if family.1 == "counter" {
            name.to_owned()
        } else {
            family.0.clone()
        };
        let row = (family.1.clone(), labels);
        let known = all.entry(name.clone()).or_insert_with(|| row.clone());
        assert_eq!(*known, row, "every series of {name} has the same labels");
    }
    all
}

#[tokio::test]
async fn the_metrics_are_those_that_were_promised() {
    let world = World::with_a_service().await;
    busy(&world).await;
    let (status, done) = world
        .post(
            "/admin/v1/flags/new_search",
            r#"{"flag": {"enabled": true}}"#,
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{done}");
    let (status, answer) = world
        .post("/ofrep/v1/evaluate/flags/new_search", r#"{"context": {}}"#)
        .await;
    assert_eq!((status, &answer["value"]), (StatusCode::OK, &json!(true)));
    let mut request = world.request(Method::GET, "/metrics", "");
    request.headers_mut().remove(header::AUTHORIZATION);
    let response = world.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let scrape = text(response).await;
    assert!(scrape.ends_with("# EOF\n"));
    assert_eq!(exported(&scrape), promised());
    for line in [
        r#"serin_requests_total{service="tools",version="v2",tool="search",era="modern",outcome="tool_error"} 1"#,
        r#"serin_flag_evaluations_total{flag="new_search",variant="on",reason="STATIC"} 1"#,
        r#"serin_request_duration_seconds_count{service="tools",version="v2",tool="search"} 1"#,
        r#"serin_request_duration_seconds_bucket{le="0.016384",service="tools",version="v2",tool="search"} 1"#,
        r#"serin_request_duration_seconds_bucket{le="0.008192",service="tools",version="v2",tool="search"} 0"#,
        r#"serin_request_bytes_total{service="tools",version="v2"} 11"#,
        r#"serin_response_bytes_total{service="tools",version="v2"} 12"#,
        r#"serin_in_flight_requests{service="tools",version="v2"} 1.0"#,
        r#"serin_rejections_total{service="none",reason="route"} 1"#,
        r#"serin_rollout_state{service="tools",state="aborted"} 1.0"#,
        r#"serin_rollouts_total{service="tools",result="aborted"} 1"#,
        r#"serin_build_info{version="0.0.0",revision="test"} 1.0"#,
        "serin_leader 1.0",
    ] {
        assert!(
            scrape.contains(&format!("{line}\n")),
            "no {line} in {scrape}"
        );
    }
}

#[tokio::test]
async fn health_and_readiness_need_no_token() {
    let world = World::begin().await;
    for path in ["/health", "/ready"] {
        // Whoever asks by the address of a container: a supervisor.
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, "10.1.2.3:9090")
            .body(Body::empty())
            .unwrap();
        assert_eq!(world.send(request).await.status(), StatusCode::OK, "{path}");
    }
}
