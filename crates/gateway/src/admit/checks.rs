//! What every request is asked, whatever it is for.

use crate::{
    auth, body::ToClient, connection::Connection, core::Core, headers, refusal::Refusal, rest,
};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request::Parts,
    uri::Authority,
};
use serin_mcp::{
    era::{Era, ProtocolVersion},
    error::GatewayError,
};
use serin_model::{
    access,
    observe::Rejection,
    route::{self, Misfit},
    snapshot::ServiceRoute,
};
use serin_route::condition;
use serin_tenancy::{Principal, Role};

/// Most names that a refusal lists.
const LISTED_MAX: usize = 10;

pub(super) fn check_head(
    core: &Core,
    connection: &Connection,
    parts: &Parts,
) -> Result<(), Refusal> {
    let options = core.options();
    let length = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if length > options.uri_bytes_max {
        let text = format!(
            "the path and query have {length} bytes; the gateway takes at most {}",
            options.uri_bytes_max
        );
        return Err(Refusal::plain(StatusCode::URI_TOO_LONG, text));
    }
    // HTTP/1 was counted while it was read.
    if parts.headers.len() > options.headers_max {
        let text = format!("the gateway takes at most {} headers", options.headers_max);
        return Err(Refusal::plain(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            text,
        ));
    }
    // A server might follow it out of what the service shows of it.
    if access::leads_up(parts.uri.path()) {
        let text = "the path has a `..` in it; send it resolved";
        return Err(Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Route));
    }
    if parts.version < Version::HTTP_2 && parts.headers.contains_key(header::TRANSFER_ENCODING) {
        check_encoding(connection, &parts.headers)?;
    }
    Ok(())
}

/// hyper looks at the last coding alone, and servers differ about the others: a gateway takes what has one reading.
fn check_encoding(connection: &Connection, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = if connection.has_conflicting_lengths() {
        "the request has both `Transfer-Encoding` and `Content-Length`; send one of them"
    } else if headers::text(headers, &header::TRANSFER_ENCODING)
        .is_none_or(|coding| !coding.eq_ignore_ascii_case("chunked"))
    {
        "the gateway takes `Transfer-Encoding: chunked`, once, and no other coding"
    } else {
        return Ok(());
    };
    let refusal = Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Body);
    Err(closing(refusal))
}

/// What stands behind a request that may be read in two ways is not read at all.
fn closing(refusal: Refusal) -> Refusal {
    refusal.header(header::CONNECTION, HeaderValue::from_static("close"))
}

/// Whether requests must be recorded and cannot be.
fn is_unrecorded(core: &Core) -> bool {
    core.audit.as_ref().is_some_and(|audit| audit.is_shut())
}

/// Refuses what must be recorded and cannot be, in the words of whoever it is for.
pub(super) fn check_recorded(core: &Core, parts: &Parts) -> Result<(), Refusal> {
    if !is_unrecorded(core) {
        return Ok(());
    }
    let host = host(parts).ok();
    let place = core.with_snapshot(|snapshot| {
        let (host, path) = (host.as_ref().map(Authority::host), parts.uri.path());
        let service = snapshot.find(host, path);
        rest::Place::find(snapshot, service.map(|service| &**service), path)
    });
    let refusal = Refusal::unrecorded();
    match &place {
        Some(place) => rest::finish(place, Err(refusal)).map(drop),
        None => Err(refusal),
    }
}

/// The answer to a health check: on any host, since probes call addresses.
pub(super) fn health(core: &Core, parts: &Parts) -> Option<Response<ToClient>> {
    let is_ready = match parts.uri.path() {
        "/health" | "/api/health" => true,
        "/ready" => {
            !core.is_stopping()
                && !is_unrecorded(core)
                && core.with_snapshot(|snapshot| {
                    snapshot.position > 0 || !snapshot.services.is_empty()
                })
        }
        _ => return None,
    };
    let (status, text) = if is_ready {
        (StatusCode::OK, "{\"status\":\"ok\"}\n")
    } else if core.is_stopping() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"stopping\"}\n",
        )
    } else if is_unrecorded(core) {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"unrecorded\"}\n",
        )
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"starting\"}\n",
        )
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let text = "health is asked with GET";
        let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, text);
        return Some(refusal.allow("GET, HEAD").into_response());
    }
    let mut response = Response::new(ToClient::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(&headers::CANARY, headers::FALSE.clone());
    Some(response)
}

/// The host that a request is for: that of its target, if it has one there (RFC 9112 section 3.2.2), else of `Host`.
pub(super) fn host(parts: &Parts) -> Result<Authority, Refusal> {
    let authority = match parts.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => headers::text(&parts.headers, &header::HOST).and_then(|host| host.parse().ok()),
    };
    // A target with a host overrides one `Host` (RFC 9112 section 3.2.2), but with several the request is none.
    let hosts = parts.headers.get_all(header::HOST).iter().take(2).count();
    // RFC 9110 section 4.2.4: a name before the host is there to deceive.
    authority
        .filter(|authority| hosts < 2 && !authority.as_str().contains('@'))
        .ok_or_else(|| {
            let text = "the request needs exactly one `Host` header, such as `127.0.0.1:8080`";
            let refusal = Refusal::plain(StatusCode::BAD_REQUEST, text).counted(Rejection::Host);
            if parts.version < Version::HTTP_2 {
                closing(refusal)
            } else {
                refusal
            }
        })
}

pub(crate) fn admits_host(core: &Core, service: Option<&ServiceRoute>, host: &Authority) -> bool {
    let of_service = service.map_or(&[][..], |service| &service.hosts);
    condition::is_host_known(host.as_str(), of_service, &core.options().hosts)
}

/// MCP, "Security Warning" of the transports: a server must check `Origin`, and refuse with 403.
pub(super) fn check_origin(
    core: &Core,
    service: &ServiceRoute,
    headers: &HeaderMap,
    host: &Authority,
) -> Result<(), Refusal> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = headers::text(headers, &header::ORIGIN).unwrap_or_default();
    let options = core.options();
    let authority = origin
        .split_once("://")
        .and_then(|(_, authority)| authority.parse::<Authority>().ok());
    let is_admitted = options
        .origins
        .iter()
        .any(|o| o.eq_ignore_ascii_case(origin))
        || authority.is_some_and(|authority| {
            let name = authority.host();
            name.eq_ignore_ascii_case(host.host())
                || name.eq_ignore_ascii_case("localhost")
                || name
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
                || (admits_host(core, Some(service), &authority)
                    && !options.hosts.iter().any(|host| host == "*"))
        });
    if is_admitted {
        return Ok(());
    }
    let shown: String = origin.chars().take(100).collect();
    let text = format!(
        "origin `{shown}` may not call service `{}`; add it to `gateway.origins`",
        service.name
    );
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    Err(refusal.counted(Rejection::Origin).of(&service.name))
}

pub(super) fn no_service(core: &Core, parts: &Parts) -> Refusal {
    let path: String = parts.uri.path().chars().take(200).collect();
    let served = core.with_snapshot(|snapshot| {
        let paths = snapshot.services.iter().take(LISTED_MAX);
        let paths: Vec<_> = paths.map(|s| format!("`{}`", shown(&s.path))).collect();
        paths.join(", ")
    });
    let text = if served.is_empty() {
        format!(
            "no service is served at `{path}`, nor anywhere yet; add one with `serin apply -f FILE`"
        )
    } else {
        format!("no service is served at `{path}`; served are {served}")
    };
    let refusal = match era_of(&parts.headers) {
        Some(Era::Modern) => Refusal::rpc(
            StatusCode::NOT_FOUND,
            None,
            GatewayError::InvalidRequest,
            &text,
        ),
        _ => Refusal::plain(StatusCode::NOT_FOUND, text),
    };
    refusal.counted(Rejection::Route)
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The version that the request asks for by hand, where the service allows it.
pub(super) fn chosen_version(
    service: &ServiceRoute,
    headers: &HeaderMap,
    principal: Option<&Principal>,
) -> Result<Option<usize>, Refusal> {
    let overrides = service.settings.overrides;
    let asks = (overrides.version && headers.contains_key(&headers::VERSION))
        || (overrides.canary && headers.contains_key(&headers::CANARY));
    // Where callers say who they are, versions are for those who look after them.
    if asks && principal.is_some_and(|principal| principal.role != Role::Admin) {
        return Err(auth::not_admin(service));
    }
    let refuse = |text: String| {
        let refusal = match era_of(headers) {
            Some(Era::Modern) => Refusal::rpc(
                StatusCode::BAD_REQUEST,
                None,
                GatewayError::InvalidRequest,
                &text,
            ),
            _ => Refusal::plain(StatusCode::BAD_REQUEST, text),
        };
        Err(refusal.counted(Rejection::Version).of(&service.name))
    };
    let said = |name| headers.get(name).map(HeaderValue::as_bytes);
    let (version, canary) = (said(&headers::VERSION), said(&headers::CANARY));
    match route::chosen_version(service, version, canary) {
        Ok(chosen) => Ok(chosen),
        Err(Misfit::Canary) => refuse("`X-Canary` must be `true` or `false`".to_owned()),
        Err(Misfit::Version) => {
            let names = service.versions.iter().take(LISTED_MAX);
            let names: Vec<_> = names.map(|v| format!("`{}`", v.name)).collect();
            let wanted = headers::text(headers, &headers::VERSION).unwrap_or_default();
            let wanted: String = wanted.chars().take(100).collect();
            refuse(format!(
                "service `{}` has no version `{wanted}`; `X-Serin-Version` may be {}",
                service.name,
                names.join(", ")
            ))
        }
    }
}

pub(super) fn era_of(headers: &HeaderMap) -> Option<Era> {
    let version = headers::text(headers, &headers::PROTOCOL_VERSION)?;
    Some(ProtocolVersion::parse(version).ok()?.era())
}
