//! Authentication through the real binary: keys made by the command line, tokens of a provider, signed requests, and the credential that
//! endpoints get.

mod support;

use aws_lc_rs::{
    digest, hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::StatusCode;
use serde_json::{Value, json};
use serin_testbed::{
    agent,
    client::Era,
    sample::{Running, Sample, SampleOptions, ToolSet},
};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use support::{PATIENCE, Serin, stderr};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

async fn sample() -> Running {
    let options = SampleOptions::new("v1", "v1", ToolSet::V2);
    Sample::start(options).await.unwrap()
}

fn tools(url: &str, settings: &str) -> String {
    format!(
        "services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n    \
         settings: {{ auth: serin, {settings} }}\n"
    )
}

async fn key(serin: &Serin, more: &[&str]) -> String {
    let all = [&["key", "create", "--tenant", "acme"], more].concat();
    serin.cli(&all).await.trim().to_owned()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_works_with_a_key_in_both_eras_until_it_is_revoked() {
    let sample = sample().await;
    let folder = TempDir::new().unwrap();
    let serin = Serin::start(folder.path(), &tools(&sample.url(), "")).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let whole = key(&serin, &[]).await;
    let narrow = key(&serin, &["--scope", "tool:tools/get_entry"]).await;
    let url = serin.url("/mcp");
    let arguments = json!({ "id": "entry-1", "nonce": "n-7" });
    for era in [Era::Legacy, Era::Modern] {
        let ask = |key: &str| {
            let (url, key, arguments) = (url.clone(), key.to_owned(), arguments.clone());
            async move {
                let asked = agent::list_and_call(&url, era, &key, "get_entry", &arguments);
                timeout(PATIENCE, asked).await.unwrap()
            }
        };
        let (names, result) = ask(&whole).await.unwrap();
        assert_eq!(names.len(), 12, "{era:?}");
        assert!(result.to_string().contains("n-7"), "{result}");
        let (names, _) = ask(&narrow).await.unwrap();
        assert_eq!(names, ["get_entry"], "{era:?}");
        let refused = ask("serin_0123456789ab_made-up").await.unwrap_err();
        assert!(!refused.is_empty());
    }
    // Once it is known what there is, a name that nothing has is noted.
    let noted = async {
        let misspelt = [
            "key",
            "create",
            "--tenant",
            "acme",
            "--scope",
            "tool:tools/nope",
        ];
        while !stderr(&serin.run(&misspelt).await).contains("`tool:tools/nope`") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, noted).await.unwrap();
    let http = reqwest::Client::new();
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    let ask = || {
        let request = http.post(&url).bearer_auth(&whole).json(&list);
        let request = request.header("mcp-protocol-version", "2026-07-28");
        let request = request.header("mcp-method", "tools/list");
        let request = request.header("accept", "application/json, text/event-stream");
        async { request.send().await.unwrap().status() }
    };
    assert_ne!(ask().await, StatusCode::UNAUTHORIZED);
    let id = &whole[6..18];
    serin
        .cli(&["key", "revoke", id, "--reason", "it leaked"])
        .await;
    assert_eq!(ask().await, StatusCode::UNAUTHORIZED);
    assert!(!serin.log().contains(&whole[20..60]));
}

/// A plain server that keeps what it gets.
async fn recording() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(String::new()));
    let record = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let record = Arc::clone(&record);
            tokio::spawn(async move {
                let mut buffer = [0; 16 * 1024];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    record.lock().unwrap().push_str(&text);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    (url, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_get_the_gateways_credential_and_never_the_callers() {
    let (url, seen) = recording().await;
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("token");
    let file = |more: &str| {
        format!(
            "services:\n  web:\n    protocol: http\n    path: /web\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n    \
             settings: {{ auth: serin, {more} upstream: {{ credential: 'file:{}' }} }}\n",
            secret.display()
        )
    };
    let serin = Serin::start(folder.path(), &file("")).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let key = key(&serin, &[]).await;
    let http = reqwest::Client::new();
    let ask = || {
        let request = http.get(serin.url("/web/x")).bearer_auth(&key);
        async { request.send().await.unwrap() }
    };
    let answer = ask().await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = answer.text().await.unwrap();
    assert!(
        said.contains(&format!("file:{}", secret.display())),
        "{said}"
    );
    let warning = format!("cannot be read from file:{}", secret.display());
    assert!(serin.log().contains(&warning), "{}", serin.log());
    let path = folder.path().join("again.yaml");
    fs::write(
        &path,
        file("tenant_header: X-Tenant,").replace("' } }", "', ca: /nope.pem } }"),
    )
    .unwrap();
    let applied = serin.run(&["apply", "-f", path.to_str().unwrap()]).await;
    let said = stderr(&applied);
    assert!(applied.status.success(), "{said}");
    for part in [warning.as_str(), "/nope.pem"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    fs::write(&path, file("tenant_header: X-Tenant,")).unwrap();
    serin.cli(&["apply", "-f", path.to_str().unwrap()]).await;
    // Nobody need apply anything again.
    fs::write(&secret, "Bearer of-the-gateway\n").unwrap();
    let answered = async {
        while ask().await.status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, answered).await.unwrap();
    let seen = seen.lock().unwrap().to_lowercase();
    assert!(
        seen.contains("authorization: bearer of-the-gateway"),
        "{seen}"
    );
    assert!(seen.contains("x-tenant: acme"), "{seen}");
    assert!(!seen.contains("serin_"), "{seen}");
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        let holds = String::from_utf8_lossy(&bytes).contains("of-the-gateway");
        assert!(!holds || path == secret, "{}", path.display());
    }
}

/// An identity provider whose keys are in a file.
struct Provider {
    secret: EncodingKey,
    kid: &'static str,
}

impl Provider {
    fn publish(path: &Path, kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x }] });
        fs::write(path, set.to_string()).unwrap();
        Self {
            secret: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
            kid,
        }
    }

    fn token(&self, changes: &Value) -> String {
        let mut claims = json!({ "iss": "https://id.example/", "aud": "mcp", "sub": "ann", "tenant": "acme", "exp": now() + 600 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.into());
        encode(&header, &claims, &self.secret).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_provider_open_and_its_new_keys_are_found() {
    let sample = sample().await;
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("jwks.json");
    let provider = Provider::publish(&keys, "one");
    let jwt = format!(
        "jwt: {{ issuer: 'https://id.example/', audience: mcp, jwks: 'file:{}' }}",
        keys.display()
    );
    let serin = Serin::start(folder.path(), &tools(&sample.url(), &jwt)).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let http = reqwest::Client::new();
    let ask = |token: String| {
        let url = serin.url("/mcp");
        let http = http.clone();
        async move {
            let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
            let request = http.post(&url).bearer_auth(token).json(&initialize);
            let request = request.header("accept", "application/json, text/event-stream");
            request.send().await.unwrap()
        }
    };
    let opens = async |token: &str| {
        let asking = async {
            while ask(token.to_owned()).await.status() != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asking).await.expect("it opens");
    };
    opens(&provider.token(&json!({}))).await;
    let session = ask(provider.token(&json!({}))).await;
    assert!(session.headers().contains_key("mcp-session-id"));
    for changes in [
        json!({ "aud": "other" }),
        json!({ "iss": "https://evil.example/" }),
        json!({ "exp": now() - 61 }),
        json!({ "tenant": "mallory" }),
    ] {
        let answer = ask(provider.token(&changes)).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{changes}");
    }
    let challenged = ask("a.b.c".to_owned()).await;
    let challenge = challenged.headers()["www-authenticate"].to_str().unwrap();
    let place = challenge.split("resource_metadata=\"").nth(1).unwrap();
    let place = place.trim_end_matches('"').to_owned();
    let metadata: Value = http.get(place).send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["resource"], serin.url("/mcp"));
    assert_eq!(
        metadata["authorization_servers"],
        json!(["https://id.example/"])
    );
    // The provider takes a new key, then cannot be read: the last one goes on.
    let newer = Provider::publish(&keys, "two");
    opens(&newer.token(&json!({}))).await;
    let old = ask(provider.token(&json!({}))).await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_signed_with_the_secret_that_is_printed_once() {
    let (url, _) = recording().await;
    let folder = TempDir::new().unwrap();
    let file = format!(
        "services:\n  web:\n    protocol: http\n    path: /web\n    stable: v1\n    versions: {{ v1: {{ endpoints: [\"{url}\"] }} }}\n    \
         settings: {{ auth: serin, signing: required }}\n"
    );
    let serin = Serin::start(folder.path(), &file).await;
    serin.cli(&["tenant", "create", "acme"]).await;
    let made = key(&serin, &["--signing"]).await;
    let (key, secret) = made.split_once('\n').unwrap();
    let (key, secret) = (key.to_owned(), secret.to_owned());
    let sign = |timestamp: i64, nonce: &str, body: &str| {
        let hex = |bytes: &[u8]| {
            let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            digits.concat()
        };
        let body = hex(digest::digest(&digest::SHA256, body.as_bytes()).as_ref());
        let text = format!("serin1\n{timestamp}\n{nonce}\nPOST\n/web/x?y=1\n{body}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hex(hmac::sign(&key, text.as_bytes()).as_ref())
    };
    let http = reqwest::Client::new();
    let send = |serin: &Serin, timestamp: i64, nonce: &str, signed: &str, body: &str| {
        let request = http.post(serin.url("/web/x?y=1")).bearer_auth(&key);
        let request = request.header("x-serin-timestamp", timestamp.to_string());
        let request = request.header("x-serin-nonce", nonce);
        let request = request.header("x-serin-signature", sign(timestamp, nonce, signed));
        let request = request.body(body.to_owned());
        async { request.send().await.unwrap().status() }
    };
    // Later than the second in which the gateway started.
    let at = now() + 2;
    assert_eq!(
        send(&serin, at, "nonce-0000000001", "hello", "hello").await,
        StatusCode::OK
    );
    for (timestamp, nonce, signed, body) in [
        (at, "nonce-0000000001", "hello", "hello"),
        (at, "nonce-0000000002", "hello", "hullo"),
        (at - 310, "nonce-0000000003", "hello", "hello"),
        (at + 310, "nonce-0000000004", "hello", "hello"),
    ] {
        let status = send(&serin, timestamp, nonce, signed, body).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{nonce}");
    }
    // The secret is made anew from a file that only its owner reads, and stands nowhere.
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        let holds = String::from_utf8_lossy(&bytes).contains(&secret);
        assert!(!holds, "{}", path.display());
    }
    let serin = serin.kill_and_restart(folder.path()).await;
    for (timestamp, nonce, status) in [
        (now() + 2, "nonce-0000000005", StatusCode::OK),
        // It may have come before the restart.
        (at - 2, "nonce-0000000006", StatusCode::UNAUTHORIZED),
    ] {
        let got = send(&serin, timestamp, nonce, "hello", "hello").await;
        assert_eq!(got, status, "{nonce}");
    }
}
