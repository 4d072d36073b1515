//! Where clients find out how to authenticate: protected-resource metadata (RFC 9728; MCP 2025-11-25, "Authorization").

use crate::{
    admit::checks,
    body::{ToClient, ToUpstream},
    connection::Connection,
    core::Core,
    headers,
    pool::Target,
    refusal::Refusal,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
    uri::Authority,
};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Map, Value, json};
use serin_model::{
    auth::{Auth, Jwt},
    observe::Rejection,
    service::Protocol,
    snapshot::{EndpointRoute, ServiceRoute, Snapshot},
};
use std::{rc::Rc, sync::Arc, time::Duration};

/// What stands between a host and a resource's path.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// Largest document of an endpoint that is read: they are a few lines.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Time for an endpoint's document.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long clients may keep a document: an operator's change should be seen soon.
static CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The path of the resource that a request asks about; nothing if it asks about none.
pub(crate) fn resource_path(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(WELL_KNOWN)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_end_matches('/'))
}

/// The service that a request asks about: the one at this path, or, without a path, the only one that has anything to say.
fn find<'a>(snapshot: &'a Snapshot, host: &str, path: &str) -> Option<&'a Arc<ServiceRoute>> {
    let exact = snapshot.services.at(Some(host), path);
    if exact.is_some() || !path.is_empty() {
        return exact;
    }
    let speaks = |service: &&Arc<ServiceRoute>| {
        service.admits_host(Some(host)) && (tokens(service).is_some() || passes_on(service))
    };
    let mut speaking = snapshot.services.iter().filter(speaks);
    speaking.next().filter(|_| speaking.next().is_none())
}

/// Whether what the endpoints say of themselves goes to clients.
pub(crate) fn passes_on(service: &ServiceRoute) -> bool {
    service.protocol == Protocol::Mcp && service.settings.auth == Auth::Passthrough
}

/// The tokens that a service takes.
pub(crate) fn tokens(service: &ServiceRoute) -> Option<&Jwt> {
    let jwt = service.settings.jwt.as_ref();
    jwt.filter(|_| service.settings.auth == Auth::Serin)
}

/// Answers what a service says of itself; nothing where none that has anything to say is asked about.
pub(crate) async fn serve(
    core: &Core,
    connection: &Connection,
    parts: &Parts,
    host: &Authority,
    path: &str,
) -> Option<Result<Response<ToClient>, Refusal>> {
    let found = core.with_snapshot(|snapshot| find(snapshot, host.host(), path).cloned());
    let service = found?;
    if !checks::admits_host(core, Some(&service), host) {
        return None;
    }
    let origin = origin(connection, &parts.headers, host);
    match tokens(&service) {
        Some(jwt) => Some(answer(&service, jwt, &origin, &parts.method)),
        None if passes_on(&service) => passed_on(core, &service, &origin, &parts.method).await,
        None => None,
    }
}

/// The document of a service.
fn answer(
    service: &ServiceRoute,
    jwt: &Jwt,
    origin: &str,
    method: &Method,
) -> Result<Response<ToClient>, Refusal> {
    let document = json!({
        "resource": format!("{origin}{}", service.path),
        "resource_name": service.name.as_str(),
        "authorization_servers": [jwt.issuer],
        "scopes_supported": [format!("service:{}", service.name)],
        "bearer_methods_supported": ["header"],
    });
    document_of(service, &document, method)
}

fn document_of(
    service: &ServiceRoute,
    document: &Value,
    method: &Method,
) -> Result<Response<ToClient>, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "the metadata is asked for with GET";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text).allow("GET, HEAD");
        return Err(refusal.counted(Rejection::Route).of(&service.name));
    }
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

/// What an endpoint says of itself, for a service that passes credentials through: its own document, with our address in the place
/// of its own, as clients compare it with the one they call (RFC 9728, section 3.3). Nothing where it has none.
pub(crate) async fn passed_on(
    core: &Core,
    service: &ServiceRoute,
    origin: &str,
    method: &Method,
) -> Option<Result<Response<ToClient>, Refusal>> {
    let version = service.versions.get(service.stable)?;
    let healthy = |endpoint: &&EndpointRoute| endpoint.healthy;
    let endpoint = version.endpoints.iter().find(healthy);
    let endpoint = endpoint.or_else(|| version.endpoints.first())?;
    let target = core
        .pool
        .target(endpoint, &service.settings.upstream)
        .ok()?;
    let asking = ask(&target, service);
    let said = tokio::time::timeout(ASK_MAX, asking).await.ok()??;
    let mut document: Map<String, Value> = serde_json::from_slice(&said).ok()?;
    let resource = format!("{origin}{}", service.path);
    document.insert("resource".to_owned(), resource.into());
    Some(document_of(service, &Value::Object(document), method))
}

/// The document of an endpoint: at its path, or else at its host.
async fn ask(target: &Rc<Target>, service: &ServiceRoute) -> Option<Bytes> {
    let exact = target.uri("", None)?;
    let path = exact.path().trim_end_matches('/');
    for path in [format!("{WELL_KNOWN}{path}"), WELL_KNOWN.to_owned()] {
        let mut request = Request::new(ToUpstream::full(Bytes::new()));
        *request.uri_mut() = path.parse().ok()?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, target.authority.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers::ask_for_identity(headers);
        let sent = target.send(request, service.settings.connect_timeout).await;
        let (response, _) = sent.ok()?;
        if response.status() == StatusCode::OK {
            let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX);
            return Some(body.collect().await.ok()?.to_bytes());
        }
    }
    None
}

/// A request whose endpoint may answer where to look for its document.
pub(crate) struct Challenged<'a> {
    connection: &'a Connection,
    service: &'a ServiceRoute,
    host: &'a Authority,
    /// As a proxy says, which alone can say it.
    origin: Option<String>,
}

impl<'a> Challenged<'a> {
    pub(crate) fn new(
        connection: &'a Connection,
        service: &'a ServiceRoute,
        headers: &HeaderMap,
        host: &'a Authority,
    ) -> Option<Self> {
        passes_on(service).then(|| Self {
            connection,
            service,
            host,
            origin: (connection.is_trusted).then(|| origin(connection, headers, host)),
        })
    }

    /// Sends the client to our document: the endpoint's stands at an address that clients may not even reach.
    pub(crate) fn redirect(self, response: &mut Response<ToClient>) {
        if response.status() != StatusCode::UNAUTHORIZED {
            return;
        }
        let plain = || origin(self.connection, &HeaderMap::new(), self.host);
        let ours = url(self.service, &self.origin.unwrap_or_else(plain));
        let headers = response.headers_mut().iter_mut();
        for (_, value) in headers.filter(|(name, _)| *name == header::WWW_AUTHENTICATE) {
            let changed = value.to_str().ok().and_then(|text| with_url(text, &ours));
            if let Some(changed) = changed.and_then(|text| HeaderValue::from_str(&text).ok()) {
                *value = changed;
            }
        }
    }
}

/// A challenge with another address in `resource_metadata`; nothing where it has none.
fn with_url(challenge: &str, url: &str) -> Option<String> {
    const NAME: &str = "resource_metadata=";
    // Names of parameters are compared without case (RFC 9110, section 11.2).
    let at = challenge.to_ascii_lowercase().find(NAME)? + NAME.len();
    let (before, rest) = challenge.split_at_checked(at)?;
    let after = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.1,
        None => rest.find([',', ' ']).map_or("", |end| &rest[end..]),
    };
    Some(format!("{before}\"{url}\"{after}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_gets_our_address_and_keeps_the_rest() {
        for (challenge, want) in [
            ("Bearer", None),
            (
                "Bearer resource_metadata=\"http://10.0.0.1/x\"",
                Some("Bearer resource_metadata=\"https://me/y\""),
            ),
            (
                "Bearer error=\"a\", Resource_Metadata=\"http://10.0.0.1/x\", scope=\"b\"",
                Some("Bearer error=\"a\", Resource_Metadata=\"https://me/y\", scope=\"b\""),
            ),
            (
                "Bearer resource_metadata=http://10.0.0.1/x, scope=b",
                Some("Bearer resource_metadata=\"https://me/y\", scope=b"),
            ),
            ("Bearer resource_metadata=\"cut", None),
        ] {
            let got = with_url(challenge, "https://me/y");
            assert_eq!(got.as_deref(), want, "{challenge}");
        }
    }
}
