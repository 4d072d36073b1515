//! Where clients find out how to authenticate: protected-resource metadata (RFC 9728; MCP 2025-11-25, "Authorization").

use crate::{
    admit::checks, body::ToClient, connection::Connection, core::Core, headers, refusal::Refusal,
};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts, uri::Authority,
};
use serde_json::json;
use serin_model::{
    auth::{Auth, Jwt},
    observe::Rejection,
    snapshot::{ServiceRoute, Snapshot},
};
use std::sync::Arc;

/// What stands between a host and a resource's path.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// How long clients may keep a document: an operator's change should be seen soon.
static CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The path of the resource that a request asks about; nothing if it asks about none.
pub(crate) fn resource_path(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(WELL_KNOWN)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_end_matches('/'))
}

/// The service that a request asks about: the one at this path, or, without a path, the only one that takes tokens.
fn find<'a>(snapshot: &'a Snapshot, host: &str, path: &str) -> Option<&'a Arc<ServiceRoute>> {
    let is_on_host = |service: &&Arc<ServiceRoute>| {
        service.hosts.is_empty() || service.hosts.iter().any(|h| h.eq_ignore_ascii_case(host))
    };
    let mut on_host = snapshot.services.iter().filter(is_on_host);
    let exact = on_host.clone().find(|service| service.path == path);
    if exact.is_some() || !path.is_empty() {
        return exact;
    }
    let mut with_tokens = on_host.by_ref().filter(|service| tokens(service).is_some());
    with_tokens.next().filter(|_| with_tokens.next().is_none())
}

/// The tokens that a service takes.
pub(crate) fn tokens(service: &ServiceRoute) -> Option<&Jwt> {
    let jwt = service.settings.jwt.as_ref();
    jwt.filter(|_| service.settings.auth == Auth::Serin)
}

/// Answers what a service says of itself; nothing where none that takes tokens is asked about.
pub(crate) fn serve(
    core: &Core,
    connection: &Connection,
    parts: &Parts,
    host: &Authority,
    path: &str,
) -> Option<Result<Response<ToClient>, Refusal>> {
    let found = core.with_snapshot(|snapshot| find(snapshot, host.host(), path).cloned());
    let service = found?;
    let jwt = tokens(&service)?;
    if !checks::admits_host(core, Some(&service), host) {
        return None;
    }
    let origin = origin(connection, &parts.headers, host);
    Some(answer(&service, jwt, &origin, &parts.method))
}

/// The document of a service.
fn answer(
    service: &ServiceRoute,
    jwt: &Jwt,
    origin: &str,
    method: &Method,
) -> Result<Response<ToClient>, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "the metadata is asked for with GET";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text).allow("GET, HEAD");
        return Err(refusal.counted(Rejection::Route).of(&service.name));
    }
    let document = json!({
        "resource": format!("{origin}{}", service.path),
        "resource_name": service.name.as_str(),
        "authorization_servers": [jwt.issuer],
        "scopes_supported": [format!("service:{}", service.name)],
        "bearer_methods_supported": ["header"],
    });
    let mut response = Response::new(ToClient::full(format!("{document}\n")));
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, CACHE.clone());
    // Clients in browsers read it, and there is nothing secret in it.
    let anybody = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anybody);
    Ok(response)
}

/// Scheme and host of the gateway, as the client sees it.
pub(crate) fn origin(connection: &Connection, headers: &HeaderMap, host: &Authority) -> String {
    let said = |name: &'static str| {
        let name = http::HeaderName::from_static(name);
        let value = headers::text(headers, &name).filter(|_| connection.is_trusted);
        value
            .and_then(|value| value.split(',').next())
            .map(str::trim)
    };
    let is_https = connection.is_tls || said("x-forwarded-proto") == Some("https");
    let scheme = if is_https { "https" } else { "http" };
    let forwarded = said("x-forwarded-host").and_then(|host| host.parse::<Authority>().ok());
    let host = forwarded.as_ref().unwrap_or(host);
    format!("{scheme}://{host}")
}

/// Where the document of a service is.
pub(crate) fn url(service: &ServiceRoute, origin: &str) -> String {
    format!("{origin}{WELL_KNOWN}{}", service.path)
}
