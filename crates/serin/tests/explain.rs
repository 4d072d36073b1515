//! What `serin route explain` says is what happens: for each strategy, source of affinity and kind of rule, the version and endpoint of
//! the explanation are those of the request that is sent right after it.

mod support;

use serde_json::{Value, json};
use serin_testbed::sample::ToolSet;
use std::collections::BTreeSet;
use support::{PATIENCE, Serin, sample, two_versions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// A server that answers everything with its own URL, in uneven pieces of time like any other.
async fn namesake() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let name = url.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let name = name.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    read.extend_from_slice(&buffer[..n]);
                    if !read.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    read.clear();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                        name.len()
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

struct World {
    serin: Serin,
    http: reqwest::Client,
    _folder: TempDir,
}

/// A request, as the explanation and the gateway are asked.
#[derive(Clone, Copy, Default)]
struct Ask<'a> {
    path: &'a str,
    method: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
    cookies: &'a [&'a str],
}

impl World {
    async fn begin(services: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let serin = Serin::start(folder.path(), services).await;
        Self {
            serin,
            http: reqwest::Client::new(),
            _folder: folder,
        }
    }

    async fn explain(&self, ask: Ask<'_>) -> Value {
        let headers = ask.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let body = json!({"path": ask.path, "method": ask.method, "headers": headers, "cookies": ask.cookies});
        let url = format!("{}/admin/v1/routes:explain", self.serin.admin);
        let request = self.http.post(url).bearer_auth(self.serin.token());
        let answer = request.body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Status, version, and who answered.
    async fn send(&self, ask: Ask<'_>) -> (u16, String, String) {
        let method = ask.method.unwrap_or("GET").parse().unwrap();
        let mut request = self.http.request(method, self.serin.url(ask.path));
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        for cookie in ask.cookies {
            request = request.header("cookie", *cookie);
        }
        let answer = request.send().await.unwrap();
        let version = answer.headers().get("x-serin-version");
        let version = version.map(|version| version.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (
            status,
            version.unwrap_or_default(),
            answer.text().await.unwrap(),
        )
    }

    /// Explains, sends, and compares; the version and who answered.
    async fn agree(&self, ask: Ask<'_>) -> (String, String) {
        let said = self.explain(ask).await;
        let (status, version, by) = self.send(ask).await;
        assert_eq!(status, 200, "{by} {said:#}");
        assert_eq!(said["version"], version, "{said:#}");
        assert_eq!(said["endpoint"], by, "{said:#}");
        (version, by)
    }
}

const USERS: [&str; 8] = ["kim", "lee", "ada", "bob", "eve", "zoe", "max", "tom"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_strategy_and_source_of_affinity_is_explained_as_it_happens() {
    let urls = [
        namesake().await,
        namesake().await,
        namesake().await,
        namesake().await,
    ];
    let [a, b, c, d] = &urls;
    let service = |name: &str, balance: &str, rule: &str, settings: &str| {
        format!(
            "  {name}:\n    protocol: http\n    path: /{name}\n    stable: v1\n    versions:\n      \
             v1: {{ endpoints: [\"{a}\", {{ url: \"{b}\", weight: 3 }}], balance: {balance} }}\n      \
             v2: {{ endpoints: [\"{c}\", \"{d}\"], balance: {balance} }}\n    rules:\n      \
             - {{ name: all, priority: 1, to: {{ v1: 1, v2: 1 }}, strategy: {rule} }}\n    settings: {{ {settings} }}\n"
        )
    };
    let all = [
        service(
            "header",
            "hash",
            "weighted",
            "affinity: [ { header: X-User } ]",
        ),
        service(
            "cookie",
            "hash",
            "weighted",
            "affinity: [ { cookie: { name: who, secure: false } } ]",
        ),
        service(
            "tenant",
            "hash",
            "weighted",
            "tenant_header: X-User, affinity: [ tenant ]",
        ),
        service(
            "address",
            "hash",
            "ip_hash",
            "affinity: [ { header: X-User }, address ]",
        ),
        service("short", "hash", "weighted", "affinity_header: X-User"),
        service("credential", "hash", "weighted", ""),
        service("group", "hash", "{ header: X-User }", ""),
        service("turns", "round_robin", "round_robin", ""),
        service("least", "least_requests", "least_requests", ""),
    ];
    let world = World::begin(&format!("services:\n{}", all.concat())).await;
    for (path, header, varies) in [
        ("/header/x?y=1", "x-user", true),
        ("/tenant/x", "x-user", true),
        ("/address", "x-nothing", false),
        ("/short", "x-user", true),
        ("/credential", "authorization", true),
        ("/group", "x-user", true),
        ("/turns", "x-nothing", true),
        ("/least", "x-nothing", true),
    ] {
        let mut seen = BTreeSet::new();
        for user in USERS {
            let headers = [(header, user)];
            let ask = Ask {
                path,
                headers: &headers,
                ..Ask::default()
            };
            seen.insert(world.agree(ask).await);
            if !path.starts_with("/turns") && !path.starts_with("/least") {
                assert_eq!(world.agree(ask).await, world.agree(ask).await, "{path}");
            }
        }
        assert_eq!(seen.len() > 1, varies, "{path}: {seen:?}");
    }
    for user in USERS {
        let cookie = format!("who={user}");
        let ask = Ask {
            path: "/cookie",
            cookies: &[&cookie],
            ..Ask::default()
        };
        world.agree(ask).await;
    }
    // Who has no cookie yet is given one, and is drawn.
    let said = world
        .explain(Ask {
            path: "/cookie",
            ..Ask::default()
        })
        .await;
    assert_eq!(said["version"], Value::Null, "{said:#}");
    assert_eq!(said["chances"].as_array().unwrap().len(), 4, "{said:#}");
    // The key of a secret shows as its hash.
    let secret = [("authorization", "Basic c2VjcmV0")];
    let said = world
        .explain(Ask {
            path: "/credential",
            headers: &secret,
            ..Ask::default()
        })
        .await;
    assert!(!said.to_string().contains("c2VjcmV0"), "{said:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_fallbacks_and_open_breakers_are_explained_as_they_happen() {
    let (first, second, dead) = (namesake().await, namesake().await, nobody().await);
    let services = format!(
        r#"services:
  ruled:
    protocol: http
    path: /ruled
    stable: v1
    versions:
      v1: {{ endpoints: ["{first}"] }}
      v2: {{ endpoints: ["{second}"] }}
    rules:
      - {{ name: beta, priority: 10, to: v2, when: {{ header: {{ name: X-Beta, equals: "true", ignore_case: true }} }} }}
      - {{ name: old, priority: 9, to: v1, when: {{ all: [ {{ path: {{ prefix: /old }} }}, {{ not: {{ query: {{ name: new, present: true }} }} }} ] }} }}
      - {{ name: writes, priority: 8, to: v2, when: {{ method: {{ one_of: [PUT, DELETE] }} }} }}
      - {{ name: blocked, priority: 7, refuse: {{ status: 451 }}, when: {{ cookie: {{ name: blocked, present: true }} }} }}
      - {{ name: rest, priority: 1, to: v2, limit: {{ rate: 1000/s }} }}
  frail:
    protocol: http
    path: /frail
    stable: v1
    versions:
      v1: {{ endpoints: ["{dead}"], fallback: [v2] }}
      v2: {{ endpoints: ["{first}", "{second}"] }}
    settings: {{ breaker: {{ failures: 1, open: 60s }} }}
"#
    );
    let world = World::begin(&services).await;
    for (path, method, headers, cookies, rule, version) in [
        ("/ruled", "GET", [("x-beta", "TRUE")], [""], "beta", "v2"),
        ("/ruled/old/x", "GET", [("x-beta", "no")], [""], "old", "v1"),
        (
            "/ruled/old/x?new",
            "GET",
            [("x-beta", "no")],
            [""],
            "rest",
            "v2",
        ),
        (
            "/ruled/a",
            "DELETE",
            [("x-beta", "no")],
            [""],
            "writes",
            "v2",
        ),
        ("/ruled/a", "GET", [("x-beta", "no")], ["a=b"], "rest", "v2"),
    ] {
        let ask = Ask {
            path,
            method: Some(method),
            headers: &headers,
            cookies: &cookies,
        };
        let cookies: &[&str] = if cookies == [""] { &[] } else { &cookies };
        let ask = Ask { cookies, ..ask };
        let said = world.explain(ask).await;
        let fits = said["rules"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&fits["name"], &fits["fits"]),
            (&json!(rule), &json!(true)),
            "{said:#}"
        );
        assert_eq!(world.agree(ask).await.0, version);
    }
    let blocked = Ask {
        path: "/ruled",
        cookies: &["blocked=1"],
        ..Ask::default()
    };
    let said = world.explain(blocked).await;
    assert_eq!(
        (&said["refusal"]["status"], &said["version"]),
        (&json!(451), &Value::Null),
        "{said:#}"
    );
    assert_eq!(world.send(blocked).await.0, 451);

    // The first one finds that nobody is there; the fallback serves it and all others.
    let ask = Ask {
        path: "/frail",
        ..Ask::default()
    };
    assert_eq!(world.send(ask).await.0, 200);
    assert_eq!(world.agree(ask).await.0, "v2");
    let said = world.explain(ask).await;
    let why = said["version_why"].as_str().unwrap();
    assert!(
        why.ends_with("none of its endpoints may be used, and `v2` is its fallback"),
        "{said:#}"
    );
    let metrics = world
        .http
        .get(format!("{}/metrics", world.serin.admin))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let labels = format!("{{service=\"frail\",version=\"v1\",endpoint=\"{dead}\"}}");
    for series in [
        "serin_endpoint_breaker_open",
        "serin_endpoint_breaker_openings_total",
    ] {
        assert!(
            metrics.contains(&format!("{series}{labels} 1")),
            "{series}{labels}: {metrics}"
        );
    }
    let chosen = ["route", "explain", "ruled", "--chosen", "v2"];
    let chosen = world.serin.cli(&chosen).await;
    assert!(
        chosen.contains("lets nobody choose `v2` by hand"),
        "{chosen}"
    );
    let status = world.serin.cli(&["status"]).await;
    assert!(status.contains("breaker open"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_named_is_explained_as_the_gateway_finds_it() {
    let urls = [namesake().await, namesake().await, namesake().await];
    let [outer, inner, hosted] = &urls;
    let service = |name: &str, place: &str, url: &str| {
        format!(
            "  {name}: {{ protocol: http, {place}, stable: v1, versions: {{ v1: {{ endpoints: [\"{url}\"] }} }} }}\n"
        )
    };
    let all = [
        service("outer", "path: /a", outer),
        service("inner", "path: /a/b", inner),
        service("hosted", "path: /a, hosts: [hosted.example]", hosted),
    ];
    let world = World::begin(&format!("services:\n{}", all.concat())).await;
    let address = world.serin.url("");
    let address = address.trim_start_matches("http://");
    let here = format!("outer --host {address}");
    // What is asked, and which service takes the request; none if its host is refused.
    for (asked, by) in [
        ("outer", "outer"),
        ("outer --path /a/x", "outer"),
        ("outer --path /a/b/x", "inner"),
        ("inner --path /a/b/x", "inner"),
        ("outer --host hosted.example", "hosted"),
        ("hosted", "hosted"),
        ("hosted --path /a/x", "hosted"),
        ("hosted --host HOSTED.example:80", "hosted"),
        ("hosted --host 127.0.0.1", "outer"),
        (&here, "outer"),
        ("outer --host foo.example", "-"),
        ("inner --host hosted.example", "-"),
        ("--path /a --host foo.example", "-"),
    ] {
        let words: Vec<_> = asked.split(' ').collect();
        let given = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let (own_path, own_host) = match words[0] {
            "inner" => ("/a/b", "localhost"),
            "hosted" => ("/a", "hosted.example"),
            _ => ("/a", "localhost"),
        };
        let headers = [("host", given("--host").unwrap_or(own_host))];
        let ask = Ask {
            path: given("--path").unwrap_or(own_path),
            headers: &headers,
            ..Ask::default()
        };
        let url = ["outer", "inner", "hosted"].iter().position(|of| *of == by);
        let url = url.map(|at| urls[at].as_str());
        let (status, _, text) = world.send(ask).await;
        match url {
            Some(url) => assert_eq!((status, text.as_str()), (200, url), "{asked}"),
            None => assert_eq!(status, 403, "{asked}: {text}"),
        }
        let arguments: Vec<_> = ["route", "explain", "--json"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        if url.is_some() && words[0] != by {
            let refused = world.serin.refused(&arguments).await;
            let says = format!("to service `{by}`, not to `{}`", words[0]);
            assert!(refused.contains(&says), "{refused}");
            continue;
        }
        let said = world.serin.cli(&arguments).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let refusal = if url.is_some() {
            Value::Null
        } else {
            json!(403)
        };
        assert_eq!(
            (&said["endpoint"], &said["refusal"]["status"]),
            (&json!(url), &refusal),
            "{asked}: {said:#}"
        );
    }
    let nowhere = ["route", "explain", "inner", "--path", "/a/c"];
    let nowhere = world.serin.refused(&nowhere).await;
    assert!(
        nowhere.contains("is not below that of service `inner`"),
        "{nowhere}"
    );
    let table = ["route", "explain", "outer", "--host", "foo.example"];
    let table = world.serin.cli(&table).await;
    assert!(
        table.contains("403 before anything is routed: host `foo.example`"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_understands_the_table() {
    let (v1, v2) = (
        sample("v1", ToolSet::V1).await,
        sample("v2", ToolSet::V2).await,
    );
    let mut services = two_versions(&v1.url(), &v2.url());
    services += "    rules:\n      - { name: beta, priority: 5, to: v2, when: { tool: { equals: search } } }\n    settings: { overrides: { version: true } }\n";
    let world = World::begin(&services).await;
    let serin = &world.serin;
    let table = serin
        .cli(&[
            "route", "explain", "tools", "--tool", "search", "--header", "X-A: b", "--cookie",
            "a=b",
        ])
        .await;
    for part in [
        "service    tools",
        "beta  fits",
        "a tool called is `search`",
        "the session that begins",
        "version    v2",
        "rule `beta` leads to `v2`",
        &v2.url(),
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let chosen = serin
        .cli(&["route", "explain", "--path", "/mcp", "--chosen", "v2"])
        .await;
    assert!(chosen.contains("`v2` was chosen by hand"), "{chosen}");
    assert!(!chosen.contains("settings.overrides"), "{chosen}");
    let session = serin
        .cli(&["route", "explain", "tools", "--session", "abc", "--json"])
        .await;
    let session: Value = serde_json::from_str(&session).unwrap();
    assert!(
        session["notes"][0]
            .as_str()
            .unwrap()
            .contains("sealed in its id"),
        "{session:#}"
    );
    serin
        .cli(&["kill", "version:tools/v2", "--reason", "test", "--yes"])
        .await;
    let killed = serin
        .cli(&["route", "explain", "tools", "--tool", "search"])
        .await;
    assert!(killed.contains("`v2` is killed"), "{killed}");
    let nothing = serin.run(&["route", "explain"]).await;
    let nothing = String::from_utf8_lossy(&nothing.stderr);
    assert!(nothing.contains("<SERVICE|--path <PATH>>"), "{nothing}");
    for (arguments, said) in [
        (
            ["route", "explain", "toolz"].as_slice(),
            "there is no service `toolz`",
        ),
        (
            &["route", "explain", "--path", "/nowhere"],
            "no service is at `/nowhere`",
        ),
        (
            &["route", "explain", "tools", "--chosen", "v9"],
            "has no version `v9`",
        ),
        (
            &["route", "explain", "tools", "--role", "boss"],
            "the roles are: admin, user, read_only",
        ),
        (
            &["route", "explain", "tools", "--header", "X-A"],
            "`X-A` is no header",
        ),
        (
            &["route", "explain", "tools", "--path", "/mcpfoo"],
            "is not below that of service `tools`",
        ),
        (
            &["route", "explain", "tools", "--path", "/other"],
            "is not below that of service `tools`",
        ),
    ] {
        let refused = serin.refused(arguments).await;
        assert!(refused.contains(said), "{refused}");
    }
    let url = format!(
        "{}/admin/v1/routes:explain?path=/mcp&tool=search&header=X-A:%20b&tenant=acme",
        serin.admin
    );
    let answer = world
        .http
        .get(url)
        .bearer_auth(serin.token())
        .send()
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(answer["rules"][0]["name"], "beta", "{answer:#}");
    // A body has the same names.
    let url = format!("{}/admin/v1/routes:explain", serin.admin);
    for body in [
        json!({"service": "tools", "tool": ["search"], "header": ["X-A: b"], "cookie": ["a=b"], "chosen": "v1"}),
        json!({"service": "tools", "tools": ["search"], "headers": ["X-A: b"], "cookies": ["a=b"], "version": "v1"}),
    ] {
        let request = world.http.post(&url).bearer_auth(serin.token());
        let answer = request.body(body.to_string()).send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(answer["rules"][0]["name"], "beta", "{answer:#}");
        assert_eq!(answer["version"], "v1", "{answer:#}");
    }
    let _ = PATIENCE;
}
