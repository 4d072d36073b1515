//! Tokens of an identity provider: which ones open, for how long, and how clients find out where they come from.

use super::{Callers, LIST, Provider, ask, begin, claims, legacy, list, serin, start, with_tokens};
use crate::{
    gates::{names, tools},
    support::*,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use serin_gateway::Keyring;
use serin_tenancy::{Role, TenantState};
use tokio::sync::mpsc;

#[tokio::test]
async fn tokens_of_the_provider_open_and_no_others() {
    let server = tools(false).await;
    let provider = Provider::new();
    let mut callers = Callers::new(&["acme", "idle"]);
    callers.tenant("idle", TenantState::Suspended);
    let key = callers.key("acme", Role::User, &[]);
    let (fetcher, mut wishes) = mpsc::channel(4);
    let gateway = Running::with(vec![], Keyring::ephemeral().unwrap(), |options| {
        options.key_fetcher = Some(fetcher);
    });
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
async fn a_stream_ends_with_the_time_of_its_token() {
    let server = tools(false).await;
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
async fn clients_find_out_where_tokens_come_from() {
    let server = tools(false).await;
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
