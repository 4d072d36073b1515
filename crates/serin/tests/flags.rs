//! Flags through the real binary: what is refused changes nothing, what is changed is in force at once, the guides' own commands work,
//! and the token for asking opens nothing else.

mod support;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use serin_testbed::sample::ToolSet;
use std::fs;
use support::{Serin, run, sample, stderr, two_versions};
use tempfile::TempDir;

struct World {
    folder: TempDir,
    serin: Serin,
    http: reqwest::Client,
    /// The token of the admin API.
    token: String,
    /// The token for asking.
    flags_token: String,
}

impl World {
    async fn begin() -> Self {
        Self::with("").await
    }

    /// With this in the configuration.
    async fn with(services: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let serin = Serin::start(folder.path(), services).await;
        let flags_token = fs::read_to_string(folder.path().join("serin.db.flags-token")).unwrap();
        Self {
            token: serin.token(),
            flags_token: flags_token.trim().to_owned(),
            serin,
            folder,
            http: reqwest::Client::new(),
        }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    async fn export(&self) -> String {
        self.serin.cli(&["flag", "export"]).await
    }

    /// As `curl -X METHOD URL -d BODY` sends it, with a token.
    async fn curl(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let request = self
            .http
            .request(method, format!("{}{path}", self.serin.admin))
            .bearer_auth(token)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// What a flag answers, by OFREP.
    async fn value(&self, flag: &str) -> Value {
        let path = format!("/ofrep/v1/evaluate/flags/{flag}");
        let body = r#"{"context": {"targetingKey": "user-1"}}"#;
        self.curl(Method::POST, &path, &self.flags_token, body)
            .await
            .1["value"]
            .clone()
    }
}

/// A boolean flag in flagd's form, with some fields otherwise.
fn flag(changes: &Value) -> Value {
    let mut flag =
        json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"});
    for (field, value) in changes.as_object().unwrap() {
        flag[field] = value.clone();
    }
    flag
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_says_why_and_changes_nothing() {
    let world = World::begin().await;
    world.serin.cli(&["flag", "create", "search", "--on"]).await;
    world.serin.cli(&["flag", "create", "old", "--on"]).await;
    world
        .serin
        .cli(&[
            "flag",
            "set",
            "old",
            "--disable",
            "--reason",
            "a second revision",
        ])
        .await;
    let before = world.export().await;

    let mut deep = json!(true);
    for _ in 0..58 {
        deep = json!({ "!": [deep] });
    }
    // Deeper than any reader of JSON goes, so it is written by hand.
    let abyss = format!("{}true{}", "{\"!\":[".repeat(1000), "]}".repeat(1000));
    let abyss = format!(
        r#"{{"flags": {{"search": {{"state": "ENABLED", "variants": {{"on": true, "off": false}}, "defaultVariant": "on", "targeting": {{"if": [{abyss}, "on", "off"]}}}}}}}}"#
    );
    let document = |changes: &Value| {
        json!({ "flags": { "search": flag(changes), "fine": flag(&json!({})) } }).to_string()
    };
    for (what, text, parts) in [
        (
            "bad JSON",
            "{\"flags\": {".to_owned(),
            ["line 1, column 11", "mend the JSON"],
        ),
        ("no shape", "[1]".to_owned(), ["", "flag"]),
        (
            "unknown variant",
            document(&json!({"defaultVariant": "maybe"})),
            ["`maybe`", "variants"],
        ),
        (
            "unknown variant in a rule",
            document(&json!({"targeting": {"if": [true, "maybe", "off"]}})),
            ["`maybe`", "targeting"],
        ),
        (
            "weights that do not fit",
            document(
                &json!({"targeting": {"fractional": [["on", 2_000_000_000], ["off", 2_000_000_000]]}}),
            ),
            ["targeting", "fractional"],
        ),
        (
            "unknown operator",
            document(
                &json!({"targeting": {"if": [{"sounds_like": [{"var": "name"}, "kim"]}, "on", "off"]}}),
            ),
            ["sounds_like", "targeting"],
        ),
        (
            "deep",
            document(&json!({"targeting": {"if": [deep, "on", "off"]}})),
            ["levels", "targeting"],
        ),
        (
            "1000 levels deep",
            abyss,
            ["recursion limit", "fewer levels"],
        ),
        (
            "mixed types",
            document(&json!({"variants": {"on": true, "off": "no"}})),
            ["search", "variants"],
        ),
    ] {
        world.write("flags.json", &text);
        let said = world.serin.refused(&["flag", "import", "flags.json"]).await;
        for part in parts {
            assert!(said.contains(part), "{what}: {part} in {said}");
        }
        assert_eq!(world.export().await, before, "{what}");
        let checked = run(world.folder.path(), &["check", "--flags", "flags.json"]).await;
        assert_eq!(
            checked.status.code(),
            Some(1),
            "{what}: {}",
            stderr(&checked)
        );
    }

    for (arguments, parts) in [
        (
            vec!["flag", "create", "search"],
            ["already", "serin flag set"],
        ),
        (
            vec!["flag", "set", "serach", "--enable"],
            ["no flag `serach`", "serin flag list"],
        ),
        (
            vec!["flag", "set", "old", "--enable", "--revision", "1"],
            ["changed meanwhile", "serin flag get old"],
        ),
        (
            vec!["flag", "delete", "old", "--revision", "1"],
            ["changed meanwhile", "serin flag get old"],
        ),
        (
            vec!["flag", "set", "search", "--percentage", "101"],
            ["101", "0 to 100"],
        ),
        (
            vec!["flag", "set", "search", "--default", "maybe"],
            ["`maybe`", "variants"],
        ),
        (
            vec![
                "flag",
                "override",
                "search",
                "--tenant",
                "acme",
                "--variant",
                "maybe",
            ],
            ["no variant `maybe`", "off, on"],
        ),
        (
            vec![
                "flag",
                "override",
                "nothing",
                "--tenant",
                "acme",
                "--variant",
                "on",
            ],
            ["no flag `nothing`", "serin flag list"],
        ),
        (
            vec!["flag", "get", "searching"],
            ["no flag `searching`", "perhaps search"],
        ),
        (
            vec!["flag", "eval", "search", "--context", "{"],
            ["no JSON", "mend"],
        ),
    ] {
        let said = world.serin.refused(&arguments).await;
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part} in {said}");
        }
        assert_eq!(world.export().await, before, "{arguments:?}");
    }
    let stale = json!({"enabled": true, "revision": 2}).to_string();
    let (status, problem) = world
        .curl(Method::PATCH, "/admin/v1/flags/old", &world.token, &stale)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(world.export().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_before_its_answer_and_history_tells_it() {
    let world = World::begin().await;
    world
        .serin
        .cli(&["flag", "create", "search", "--on", "--reason", "new"])
        .await;
    for n in 0..50 {
        let enabled = n % 2 == 1;
        let body = json!({ "enabled": enabled }).to_string();
        let (status, done) = world
            .curl(Method::PATCH, "/admin/v1/flags/search", &world.token, &body)
            .await;
        assert_eq!(status, StatusCode::OK, "{done}");
        assert_eq!(world.value("search").await, json!(enabled), "{n}");
    }
    world
        .serin
        .cli(&[
            "flag",
            "override",
            "search",
            "--tenant",
            "acme",
            "--variant",
            "off",
        ])
        .await;
    let said = world
        .serin
        .cli(&["flag", "eval", "search", "--tenant", "acme"])
        .await;
    assert!(
        said.contains("search = false") && said.contains("the tenant has"),
        "{said}"
    );
    world
        .serin
        .cli(&[
            "flag",
            "set",
            "search",
            "--percentage",
            "0",
            "--owner",
            "kim",
        ])
        .await;
    assert_eq!(world.value("search").await, json!(false));

    // What was exported comes back as it was.
    let exported = world.export().await;
    world.write("all.json", &exported);
    let said = world
        .serin
        .cli(&["flag", "import", "all.json", "--dry-run"])
        .await;
    assert!(
        said.contains("0 changes would be made; 1 flag would stay"),
        "{said}"
    );
    world
        .serin
        .cli(&["flag", "delete", "search", "--reason", "done with"])
        .await;
    let unknown = world
        .curl(
            Method::POST,
            "/ofrep/v1/evaluate/flags/search",
            &world.flags_token,
            r#"{"context": {}}"#,
        )
        .await;
    assert_eq!(
        (unknown.0, &unknown.1["errorCode"]),
        (StatusCode::NOT_FOUND, &json!("FLAG_NOT_FOUND"))
    );
    let said = world
        .serin
        .cli(&["flag", "import", "all.json", "--reason", "back again"])
        .await;
    assert!(
        said.contains("flag search created") || said.contains("search"),
        "{said}"
    );
    assert_eq!(world.export().await, exported);

    let history = world
        .serin
        .cli(&["flag", "history", "search", "--json"])
        .await;
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    let changes: Vec<_> = history
        .iter()
        .filter(|event| event["kind"] == "flag_changed")
        .collect();
    assert_eq!(changes.len(), 1 + 50 + 1 + 1 + 1, "{history:#?}");
    let first = &changes[0]["body"];
    assert_eq!(
        (&first["before"], &first["after"]["state"], &first["reason"]),
        (&Value::Null, &json!("ENABLED"), &json!("new"))
    );
    assert_eq!(history[0]["actor"], "tester");
    let deleted = &changes[52]["body"];
    assert_eq!(
        (&deleted["after"], &deleted["reason"]),
        (&Value::Null, &json!("done with"))
    );
    assert!(!deleted["before"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_guides_work_as_they_are_written() {
    let samples = [
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V1).await,
    ];
    let world = World::with(&two_versions(&samples[0].url(), &samples[1].url())).await;
    let object = "/admin/feature-flags";
    let post = async |body: &str| world.curl(Method::POST, object, &world.token, body).await;
    let get = async |path: &str| world.curl(Method::GET, path, &world.token, "").await.1;

    // Without a rollout there is no share to set, and then the flag is not set either.
    let both = r#"{"rest_api_enabled": true, "canary_percentage": 5}"#;
    let (status, problem) = post(both).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(
        problem["help"]
            .as_str()
            .unwrap()
            .contains("serin rollout start"),
        "{problem}"
    );
    assert_eq!(get(object).await, json!({"canary_percentage": 0.0}));

    world.write(
        "plan.yaml",
        "phases: [{ share: 1 %, hold: 10h }, { share: 100 % }]\nevidence: trials 1000000\n",
    );
    world
        .serin
        .cli(&[
            "rollout",
            "start",
            "tools",
            "--to",
            "v2",
            "--plan",
            "plan.yaml",
        ])
        .await;
    let (status, answer) = post(both).await;
    assert_eq!(
        (status, &answer),
        (
            StatusCode::OK,
            &json!({"rest_api_enabled": true, "canary_percentage": 5.0, "created": ["rest_api_enabled"]})
        )
    );
    let again = post(both).await.1;
    assert_eq!(
        again,
        json!({"rest_api_enabled": true, "canary_percentage": 5.0})
    );
    for percentage in [25, 50] {
        let (status, answer) = post(&format!(r#"{{"canary_percentage": {percentage}}}"#)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(
            world.serin.rollout().await["share_wanted"],
            format!("{percentage} %")
        );
    }
    // Everybody without the evidence that the plan asks for is no share; the refusal says what is.
    let (status, problem) = post(r#"{"canary_percentage": 100}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(
        problem["help"]
            .as_str()
            .unwrap()
            .contains("serin rollout promote"),
        "{problem}"
    );
    let (status, _) = post(
        r#"{"content_generation_tools": true, "multi_candidate_generation": true, "guards_system": true, "canary_percentage": 5}"#,
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    // A tenant's flags are merged flag by flag.
    let tenant = format!("{object}?tenant=acme");
    let (status, _) = world
        .curl(
            Method::POST,
            &tenant,
            &world.token,
            r#"{"guards_system": false}"#,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let of_tenant = get(&tenant).await;
    assert_eq!(
        (&of_tenant["guards_system"], &of_tenant["rest_api_enabled"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(get(object).await["guards_system"], true);

    let put = async |flag: &str, body: &str| {
        let path = format!("/admin/feature_flags/{flag}");
        world.curl(Method::PUT, &path, &world.token, body).await
    };
    for (flag, body) in [
        (
            "mcp_elicitation",
            r#"{"enabled": true, "rollout_percentage": 100}"#,
        ),
        ("mcp_sampling", r#"{"enabled": false}"#),
        ("mcp_sampling", r#"{"rollout_percentage": 10}"#),
        (
            "mcp_elicitation",
            r#"{"enabled": true, "rollout_percentage": 100, "environments": ["production"]}"#,
        ),
        ("enable_caching", r#"{"enabled": true}"#),
    ] {
        let (status, answer) = put(flag, body).await;
        assert_eq!(status, StatusCode::OK, "{flag} {body}: {answer}");
    }
    let compact = get("/admin/feature_flags").await;
    assert_eq!(
        compact["mcp_elicitation"]["environments"],
        json!(["production"])
    );
    assert_eq!(
        (
            &compact["mcp_sampling"]["enabled"],
            &compact["mcp_sampling"]["rollout_percentage"]
        ),
        (&json!(false), &json!(10.0))
    );
    assert_eq!(world.value("enable_caching").await, true);

    // No body and no reason, as it is written there.
    let (status, kill) = world
        .curl(
            Method::POST,
            "/admin/feature_flags/disable_all",
            &world.token,
            "",
        )
        .await;
    assert_eq!(
        (status, &kill["target"]),
        (StatusCode::OK, &json!("flags")),
        "{kill}"
    );
    assert_eq!(world.value("enable_caching").await, false);
    assert_eq!(world.value("rest_api_enabled").await, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_for_asking_opens_nothing_else() {
    let world = World::with("flags: { origins: [\"https://app.example.com\"] }\n").await;
    world.serin.cli(&["flag", "create", "search", "--on"]).await;
    let description = world
        .curl(Method::GET, "/admin/v1/openapi.json", &world.token, "")
        .await
        .1;
    for (path, item) in description["paths"].as_object().unwrap() {
        let filled = path.replace(['{', '}'], "x");
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = |token: &str| {
                world
                    .http
                    .request(method.clone(), format!("{}{filled}", world.serin.admin))
                    .bearer_auth(token)
            };
            if filled.starts_with("/ofrep/") {
                let answer = request("wrong-wrong-wrong-wrong-wrong-wrong")
                    .send()
                    .await
                    .unwrap();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                assert!(answer.bytes().await.unwrap().is_empty(), "{method} {path}");
            } else {
                let answer = request(&world.flags_token).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    }

    // Pages: those that are named may ask for flags, and nothing else; no other may ask at all.
    let page = |origin: &str, method: Method, path: &str| {
        world
            .http
            .request(method, format!("{}{path}", world.serin.admin))
            .header("origin", origin)
            .bearer_auth(&world.flags_token)
    };
    let (ours, others) = ("https://app.example.com", "https://evil.example");
    let all = "/ofrep/v1/evaluate/flags";
    let answer = page(ours, Method::POST, all)
        .body(r#"{"context": {}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["access-control-allow-origin"], ours);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let etag = answer.headers()["etag"].clone();
    let body: Value = answer.json().await.unwrap();
    let again = page(ours, Method::POST, all)
        .header("if-none-match", etag)
        .body(r#"{"context": {}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let preflight = world
        .http
        .request(Method::OPTIONS, format!("{}{all}", world.serin.admin))
        .header("origin", ours)
        .header("access-control-request-method", "POST");
    let preflight = preflight.send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert!(
        preflight.headers()["access-control-allow-headers"]
            .to_str()
            .unwrap()
            .contains("x-api-key")
    );
    let answer = page(others, Method::POST, all)
        .body(r#"{"context": {}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.bytes().await.unwrap().is_empty());
    let answer = page(ours, Method::GET, "/admin/v1/flags")
        .bearer_auth(&world.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);

    // The address of the stream opens the stream alone, without any header; it tells of a change at once.
    let uri = body["eventStreams"][0]["endpoint"]["requestUri"]
        .as_str()
        .unwrap();
    let query = uri.split_once('?').unwrap().1;
    let elsewhere = world
        .http
        .post(format!("{}{all}?{query}", world.serin.admin))
        .body(r#"{"context": {}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status(), StatusCode::UNAUTHORIZED);
    let wrong = uri.replace("proof=", "proof=0");
    let answer = world
        .http
        .get(format!("{}{wrong}", world.serin.admin))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let mut stream = world
        .http
        .get(format!("{}{uri}", world.serin.admin))
        .send()
        .await
        .unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("refetchEvaluation"));
    world
        .serin
        .cli(&["flag", "set", "search", "--disable"])
        .await;
    let second = tokio::time::timeout(support::PATIENCE, stream.chunk())
        .await
        .expect("an event")
        .unwrap()
        .unwrap();
    assert!(String::from_utf8_lossy(&second).contains("refetchEvaluation"));
    assert_ne!(first, second);
    // It ends with the process, which does not wait for it.
    world.serin.end_by(rustix::process::Signal::TERM).await;
    while let Ok(Some(_)) = stream.chunk().await {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluations_are_bounded_but_never_held_up() {
    let world = World::begin().await;
    world.serin.cli(&["flag", "create", "search", "--on"]).await;
    let path = "/ofrep/v1/evaluate/flags/search";
    let ask = async |body: &str| {
        world
            .curl(Method::POST, path, &world.flags_token, body)
            .await
    };
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let large = "x".repeat(200_000);
    for (body, code) in [
        (String::new(), "PARSE_ERROR"),
        ("{".to_owned(), "PARSE_ERROR"),
        ("[]".to_owned(), "INVALID_CONTEXT"),
        ("{}".to_owned(), "INVALID_CONTEXT"),
        (r#"{"context": 1}"#.to_owned(), "INVALID_CONTEXT"),
        (
            r#"{"context": {"targetingKey": 1}}"#.to_owned(),
            "INVALID_CONTEXT",
        ),
        (
            format!(r#"{{"context": {{"a": {deep}}}}}"#),
            "INVALID_CONTEXT",
        ),
        (
            format!(r#"{{"context": {{"a": "{large}"}}}}"#),
            "INVALID_CONTEXT",
        ),
    ] {
        let (status, failure) = ask(&body).await;
        let what: String = body.chars().take(60).collect();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{what}: {failure}");
        assert_eq!(
            (&failure["errorCode"], &failure["key"]),
            (&json!(code), &json!("search")),
            "{what}"
        );
        assert!(
            !failure["errorDetails"].as_str().unwrap().is_empty(),
            "{what}"
        );
    }
    // A script that has gone wild is slowed down; whoever evaluates or kills is not.
    let mut limited = None;
    for _ in 0..5000 {
        let request = world
            .http
            .patch(format!("{}/admin/v1/flags/search", world.serin.admin))
            .bearer_auth(&world.token)
            .body(r#"{"enabled": true}"#);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers().get("connection"), None);
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            limited = Some(answer);
            break;
        }
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let limited = limited.expect("a limit");
    assert_eq!(limited.headers()["retry-after"], "1");
    let problem: Value = limited.json().await.unwrap();
    assert!(
        problem["help"]
            .as_str()
            .unwrap()
            .contains("serin flag import"),
        "{problem}"
    );
    assert_eq!(world.value("search").await, true);
    let said = world
        .serin
        .cli(&["flag", "disable-all", "--reason", "it burns"])
        .await;
    assert!(said.contains("serin revive flags"), "{said}");
    assert_eq!(world.value("search").await, false);
    let listed = world.serin.cli(&["flag", "list"]).await;
    assert!(listed.contains("search  killed"), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_a_default_and_an_expiry_are_what_was_asked_for_and_history_tells_them() {
    let world = World::begin().await;
    let cli = async |arguments: &[&str]| world.serin.cli(arguments).await;
    cli(&["flag", "create", "search"]).await;
    cli(&["flag", "set", "search", "--default", "off"]).await;
    cli(&["flag", "set", "search", "--enable"]).await;
    let shown = cli(&["flag", "get", "search"]).await;
    assert!(!shown.contains("rule"), "{shown}");
    assert_eq!(world.value("search").await, false);
    cli(&["flag", "set", "search", "--default", "on"]).await;
    assert_eq!(world.value("search").await, true);
    cli(&["flag", "set", "search", "--percentage", "10 %"]).await;
    cli(&["flag", "set", "search", "--env", "production"]).await;
    let listed = cli(&["flag", "list"]).await;
    assert!(listed.contains(" 0 % "), "{listed}");
    let past = world
        .serin
        .run(&["flag", "set", "search", "--expires", "2020-01-01"])
        .await;
    assert!(
        support::stderr(&past).contains("is past"),
        "{}",
        support::stderr(&past)
    );
    let history = cli(&["flag", "history", "search"]).await;
    for part in [
        "flag search created",
        "changed: percentage 100 % -> 0 %",
        "flag search enabled",
        "changed: percentage 0 % -> 100 %",
        "changed: percentage 100 % -> 10 %",
        "changed: for everybody -> production",
        "changed: expires 2020-01-01T00:00:00Z",
    ] {
        assert!(history.contains(part), "{part} in {history}");
    }

    for (arguments, part) in [
        (
            vec!["flag", "set", "search", "--percentage", "abc"],
            "0 to 100",
        ),
        (
            vec!["flag", "override", "search", "--tenant", "a"],
            "--clear",
        ),
        (vec!["flag", "import", "--help"], "--start"),
    ] {
        let output = world.serin.run(&arguments).await;
        let said = support::stdout(&output) + &stderr(&output);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_file_gives_a_tenant_is_not_set_by_hand_by_an_import() {
    let folder = TempDir::new().unwrap();
    let document = json!({"flags": {"search": flag(&json!({})), "mcp_tasks": flag(&json!({}))},
        "serin": {"tenants": {"acme": {"search": "off"}, "other": {"search": "off"}}}});
    fs::write(folder.path().join("flags.json"), document.to_string()).unwrap();
    let serin = Serin::start(folder.path(), "flags: { file: flags.json }\n").await;
    serin
        .cli(&[
            "flag",
            "override",
            "search",
            "--tenant",
            "other",
            "--variant",
            "on",
        ])
        .await;
    let exported = serin.cli(&["flag", "export"]).await;
    fs::write(folder.path().join("all.json"), &exported).unwrap();
    let said = serin.cli(&["flag", "import", "all.json"]).await;
    assert_eq!(said, "0 changes; 2 flags as before\n");
    let other = exported.replace(
        r#""acme": {
        "search": "off""#,
        r#""acme": {
        "search": "on""#,
    );
    assert_ne!(other, exported);
    let other = other.replacen(
        "\"defaultVariant\": \"on\"",
        "\"defaultVariant\": \"off\"",
        1,
    );
    fs::write(folder.path().join("all.json"), &other).unwrap();
    let said = serin.cli(&["flag", "import", "all.json"]).await;
    for part in [
        "flag search set to on for tenant acme",
        "flag `mcp_tasks` opens and closes `tasks` for every MCP service",
        "2 changes; 1 flag as before",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    fs::write(
        folder.path().join("large.json"),
        "x".repeat(1024 * 1024 + 1),
    )
    .unwrap();
    let refused = serin.refused(&["flag", "import", "large.json"]).await;
    assert!(refused.contains("more than 1 MiB"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_do_nothing_is_said_by_check_and_at_the_start() {
    let folder = TempDir::new().unwrap();
    let document = json!({"flags": {"known": flag(&json!({}))}});
    fs::write(folder.path().join("flags.json"), document.to_string()).unwrap();
    let sample = sample("v1", ToolSet::V1).await;
    let services = format!(
        "flags: {{ file: flags.json }}\n{}    settings: {{ auth: serin, signing: {{ flag: reqest_signing }}, gates: [{{ flag: known, tools: [a] }}, {{ flag: unknown, tools: [b] }}] }}\n\
         kill_switches: {{ down: {{ target: \"service:tools\", notify: [\"env:SERIN_TEST_NOT_SET\"] }} }}\n",
        two_versions(&sample.url(), &sample.url())
    );
    let serin = Serin::start(folder.path(), &services).await;
    let checked = run(folder.path(), &["check"]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    for said in [stderr(&checked), serin.log()] {
        for part in [
            "there is no flag `unknown`",
            "must be signed: there is no flag `reqest_signing`",
            "variable SERIN_TEST_NOT_SET",
        ] {
            assert_eq!(said.matches(part).count(), 1, "{part} in {said}");
        }
        assert!(!said.contains("`known`"), "{said}");
    }
    let path = folder.path().join("serin.yaml");
    let applied = serin.run(&["apply", "-f", path.to_str().unwrap()]).await;
    let said = stderr(&applied);
    assert!(applied.status.success(), "{said}");
    for part in ["no flag `unknown`", "no flag `reqest_signing`"] {
        assert_eq!(said.matches(part).count(), 1, "{part} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_process_says_of_flags_is_shown() {
    let folder = TempDir::new().unwrap();
    let document = json!({"flags": {"search": flag(&json!({"state": "DISABLED"}))}});
    fs::write(folder.path().join("flags.json"), document.to_string()).unwrap();
    let services = "flags: { file: flags.json }\n";
    let serin = Serin::start_in(
        folder.path(),
        services,
        &[("SERIN_FLAGS", "search:enabled,lonely:disabled")],
    )
    .await;
    let listed = serin.cli(&["flag", "list"]).await;
    for part in [
        "100 %",
        "on by SERIN_FLAGS",
        "without a flag: lonely is off",
    ] {
        assert!(listed.contains(part), "{part} in {listed}");
    }
    let shown = serin.cli(&["flag", "get", "search"]).await;
    assert!(shown.contains("on by SERIN_FLAGS"), "{shown}");
}
