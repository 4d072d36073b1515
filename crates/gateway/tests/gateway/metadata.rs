//! What servers say of how to get in, where credentials are passed through to them.

use crate::support::{Running, Server, build, json, reply, service};
use serde_json::{Value, json as value};

/// A server that asks for tokens, with its document at this path.
async fn guarded(document_at: &'static str) -> Server {
    Server::start(move |seen| async move {
        if seen.path == document_at {
            return json(
                value!({
                    "resource": "http://10.9.8.7:9001/mcp",
                    "authorization_servers": ["https://id.example"],
                    "scopes_supported": ["read"],
                })
                .to_string(),
            );
        }
        if seen.path.starts_with("/.well-known/") {
            return reply(404, &[], "");
        }
        let challenge = "Bearer error=\"invalid_token\", resource_metadata=\"http://10.9.8.7:9001/.well-known/oauth-protected-resource/mcp\"";
        reply(401, &[("www-authenticate", challenge)], "who are you")
    })
    .await
}

#[tokio::test]
async fn the_document_of_a_server_says_our_address_and_a_challenge_leads_to_it() {
    for at in [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource",
    ] {
        let server = guarded(at).await;
        let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
        let mut client = gateway.client().await;
        let ours = format!("http://{}", gateway.address);

        let refused = client
            .modern("tools/list", None, &[("authorization", "Bearer t")], "{}")
            .await;
        assert_eq!(
            (refused.status, refused.text()),
            (401.try_into().unwrap(), "who are you")
        );
        let told = format!("{ours}/.well-known/oauth-protected-resource/mcp");
        assert_eq!(
            refused.header("www-authenticate"),
            Some(&*format!(
                "Bearer error=\"invalid_token\", resource_metadata=\"{told}\""
            ))
        );
        assert_eq!(
            server.last().header("authorization"),
            Some("Bearer t"),
            "credentials go through"
        );

        for path in [
            "/.well-known/oauth-protected-resource/mcp",
            "/.well-known/oauth-protected-resource",
        ] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(
                answer.json(),
                value!({
                    "resource": format!("{ours}/mcp"),
                    "authorization_servers": ["https://id.example"],
                    "scopes_supported": ["read"],
                })
            );
        }
        assert_eq!(server.last().header("authorization"), None);
    }
}

#[tokio::test]
async fn a_server_without_a_document_has_none_here() {
    for body in [
        "",
        "[]",
        "\"x\"",
        "{",
        &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000)),
    ] {
        let (body, status) = (body.to_owned(), if body.is_empty() { 404 } else { 200 });
        let server = Server::start(move |_| {
            let body = body.clone();
            async move { reply(status, &[("content-type", "application/json")], body) }
        })
        .await;
        let gateway = Running::start(vec![service(&[build("v1", &[&server])], None)]);
        let answer = gateway
            .client()
            .await
            .get("/.well-known/oauth-protected-resource/mcp")
            .await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json(), Value::Null);
    }
}
