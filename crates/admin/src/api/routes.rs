//! Where a request would go, and why: asked of the same functions, and of the same loads, by which the gateway routes.

use super::{fresh, service::no_service};
use crate::{App, access::Caller, extract::Input, problem::Problem};
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_mcp::era::{Era, ProtocolVersion};
use serin_model::{
    name::ServiceName,
    route::{
        Misfit, chosen_version,
        explain::{Explanation, Question, explain},
        served_by,
    },
    rule::Refuse,
    service::Protocol,
    snapshot::{ServiceRoute, Snapshot},
};
use serin_route::{condition, source::Who};
use serin_tenancy::Role;
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use utoipa::{IntoParams, ToSchema};

/// Most headers, cookies and tools of a request that is asked about: the gateway takes no more headers either.
const PARTS_MAX: usize = 100;
/// The host unless one is given, or the service that is named has hosts of its own.
const HOST: &str = "localhost";

/// A request that is asked about. Its parts are called as in a query and on the command line; `headers`, `cookies`, `tools` and `version`
/// will do as well.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = RouteQuestion)]
pub struct Asked {
    /// The service; without it, the one at `host` and `path`.
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceName>,
    /// The method: `POST` to an MCP service, else `GET`.
    pub method: Option<String>,
    /// The host; unless given, the first of the service's own, else `localhost`.
    pub host: Option<String>,
    /// The path, from the root; that of the service unless given. What stands behind a `?` is its query.
    pub path: Option<String>,
    /// The query.
    pub query: Option<String>,
    /// Its headers, each as `Name: value`.
    #[serde(rename = "header", alias = "headers")]
    pub headers: Vec<String>,
    /// Its cookies, each as `name=value`.
    #[serde(rename = "cookie", alias = "cookies")]
    pub cookies: Vec<String>,
    /// The tenant; without it, what the service's `tenant_header` says.
    pub tenant: Option<String>,
    /// Who of the tenant the caller proved to be: the id of a key, or the subject of a token.
    pub subject: Option<String>,
    /// The role of the caller's key.
    pub role: Option<String>,
    /// The tools that it calls.
    #[serde(rename = "tool", alias = "tools")]
    pub tools: Vec<String>,
    /// The client's address, `127.0.0.1` unless given.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The version chosen by hand, whatever the service admits.
    #[serde(alias = "version")]
    pub chosen: Option<String>,
    /// The id of the session to which it belongs.
    pub session: Option<String>,
}

/// The same as parameters of a query.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes the parameters")]
pub(super) struct Parameters {
    /// The service; without it, the one at `host` and `path`.
    service: Option<String>,
    /// The method: `POST` to an MCP service unless given, else `GET`.
    method: Option<String>,
    /// The host; unless given, the first of the service's own, else `localhost`.
    host: Option<String>,
    /// The path, from the root; that of the service unless given.
    path: Option<String>,
    /// The query.
    query: Option<String>,
    /// A header, as `Name: value`; may come often.
    header: Option<String>,
    /// A cookie, as `name=value`; may come often.
    cookie: Option<String>,
    /// The tenant.
    tenant: Option<String>,
    /// Who of the tenant the caller proved to be.
    subject: Option<String>,
    /// The role of the caller's key.
    role: Option<String>,
    /// A tool that it calls; may come often.
    tool: Option<String>,
    /// The client's address, `127.0.0.1` unless given.
    address: Option<String>,
    /// The version chosen by hand.
    chosen: Option<String>,
    /// The id of the session to which it belongs.
    session: Option<String>,
}

/// Where it goes, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Where it goes, and why.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// What cannot be known, or was left out of account.
    pub notes: Vec<String>,
}

/// Where a request would go, and why: which rules were asked, by what its caller is known again, which bucket, version and endpoint.
/// Nothing is sent anywhere. Only operators see what the rules say that do not fit: they may name other tenants.
#[utoipa::path(
    get, path = "/admin/v1/routes:explain", tag = "services", params(Parameters),
    responses(
        (status = OK, description = "Where it goes, and why", body = Object),
        (status = BAD_REQUEST, body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json"),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn explain_query(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let asked = Asked::from_query(&query.unwrap_or_default())?;
    answer(&app, &caller, &asked)
}

/// The same for a request in a body.
#[utoipa::path(
    post, path = "/admin/v1/routes:explain", tag = "services", request_body = Asked,
    responses(
        (status = OK, description = "Where it goes, and why", body = Object),
        (status = BAD_REQUEST, body = Problem, content_type = "application/problem+json"),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json"),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn explain_body(
    State(app): State<App>,
    caller: Caller,
    Input(asked): Input<Asked>,
) -> Result<Response, Problem> {
    answer(&app, &caller, &asked)
}

impl Asked {
    fn from_query(query: &str) -> Result<Self, Problem> {
        let mut asked = Self::default();
        let mut single = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*name {
                "header" | "headers" => asked.headers.push(value),
                "cookie" | "cookies" => asked.cookies.push(value),
                "tool" | "tools" => asked.tools.push(value),
                _ => {
                    if single.iter().any(|(known, _)| *known == name) {
                        return Err(wrong(format!("`{}` is there twice", cut(&name))));
                    }
                    single.push((name, value));
                }
            }
        }
        for (name, value) in single {
            let field = match &*name {
                "chosen" | "version" if asked.chosen.is_some() => {
                    return Err(wrong("`chosen` is there twice".to_owned()));
                }
                "chosen" | "version" => &mut asked.chosen,
                "service" => {
                    let name = value.parse().map_err(|error| wrong(format!("{error}")))?;
                    asked.service = Some(name);
                    continue;
                }
                "address" => {
                    let no_address = |_| wrong(format!("`{}` is no address", cut(&value)));
                    asked.address = Some(value.parse().map_err(no_address)?);
                    continue;
                }
                "method" => &mut asked.method,
                "host" => &mut asked.host,
                "path" => &mut asked.path,
                "query" => &mut asked.query,
                "tenant" => &mut asked.tenant,
                "subject" => &mut asked.subject,
                "role" => &mut asked.role,
                "session" => &mut asked.session,
                _ => return Err(wrong(format!("there is no parameter `{}`", cut(&name)))),
            };
            *field = Some(value);
        }
        Ok(asked)
    }

    /// The headers of the request, cookies among them.
    fn headers(&self) -> Result<HeaderMap, Problem> {
        if self.headers.len() + self.cookies.len() + self.tools.len() > PARTS_MAX {
            return Err(wrong(format!(
                "a request has at most {PARTS_MAX} headers, cookies and tools"
            )));
        }
        let mut headers = HeaderMap::new();
        for pair in &self.headers {
            let read = pair.split_once(':').and_then(|(name, value)| {
                let name: HeaderName = name.trim().parse().ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let Some((name, value)) = read else {
                return Err(wrong(format!(
                    "`{}` is no header; write `Name: value`",
                    cut(pair)
                )));
            };
            headers.append(name, value);
        }
        for cookie in &self.cookies {
            let value = HeaderValue::from_str(cookie).ok();
            let Some(value) = value.filter(|_| cookie.contains('=')) else {
                return Err(wrong(format!(
                    "`{}` is no cookie; write `name=value`",
                    cut(cookie)
                )));
            };
            headers.append(header::COOKIE, value);
        }
        Ok(headers)
    }

    /// The host, with its port.
    fn host<'a>(&'a self, service: Option<&'a ServiceRoute>) -> &'a str {
        let own = service.and_then(|service| service.hosts.first());
        let unless_given = own.map_or(HOST, String::as_str);
        self.host.as_deref().unwrap_or(unless_given)
    }

    /// The path and the query.
    fn target<'a>(&'a self, service: Option<&'a ServiceRoute>) -> (&'a str, Option<&'a str>) {
        let own = service.map_or("/", |service| service.path.as_str());
        let path = self.path.as_deref().unwrap_or(own);
        match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, self.query.as_deref()),
        }
    }
}

fn answer(app: &App, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    if let (Some(only), Some(tenant)) = (caller.only(), &asked.tenant)
        && only.as_str() != tenant
    {
        return Err(crate::access::forbidden(format!(
            "what is of tenant `{}` is not for this key",
            cut(tenant)
        ))
        .help("name the tenant of the key, or take a key of role admin"));
    }
    let now = app.control.flags();
    let service = find(app, &now.snapshot, asked)?;
    let mut explained = explained(app, &service, asked)?;
    if caller.only().is_some() {
        for rule in &mut explained.explanation.rules {
            if !rule.fits {
                "it does not fit".clone_into(&mut rule.why);
            }
        }
    }
    Ok(fresh(&explained))
}

/// The service by host and path, as the gateway finds it; the one that is named, if it is that, or if neither is given.
fn find(app: &App, snapshot: &Snapshot, asked: &Asked) -> Result<Arc<ServiceRoute>, Problem> {
    let named = match &asked.service {
        Some(name) => Some(
            snapshot
                .service(name)
                .ok_or_else(|| no_service(app, name))?,
        ),
        None => None,
    };
    let service = named.map(|service| &**service);
    let (host, (path, _)) = (asked.host(service), asked.target(service));
    if let Some(named) = named {
        below(named, path)?;
        if asked.host.is_none() && asked.path.is_none() {
            return Ok(Arc::clone(named));
        }
    }
    let found = snapshot.find(Some(condition::without_port(host)), path);
    let at = || format!("`{}` on host `{}`", cut(path), cut(host));
    let found = found.ok_or_else(|| {
        Problem::not_found(format!("no service is at {}", at())).help("name a service, or a path below that of one; `serin service list` shows them. The paths of the public API (`/v1/...`) stand for calls of tools: name their service and tool")
    })?;
    if let Some(named) = service.filter(|named| named.name != found.name) {
        let what = format!(
            "the gateway sends {} to service `{}`, not to `{}`",
            at(),
            found.name,
            named.name
        );
        return Err(Problem::bad_request(what).help(
            "leave the service out to see where it goes there, or give another host or path",
        ));
    }
    Ok(Arc::clone(found))
}

/// The part of a path that lies below that of a service.
fn below<'a>(service: &ServiceRoute, path: &'a str) -> Result<&'a str, Problem> {
    let rest = path.strip_prefix(service.path.as_str());
    let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    rest.ok_or_else(|| {
        wrong(format!(
            "path `{}` is not below that of service `{}`, `{}`",
            cut(path),
            service.name,
            service.path
        ))
    })
}

fn explained(app: &App, service: &ServiceRoute, asked: &Asked) -> Result<Explained, Problem> {
    let sent = asked.headers()?;
    let (path, query) = asked.target(Some(service));
    let rest = below(service, path)?;
    if let Some(role) = &asked.role
        && !Role::ALL.iter().any(|known| known.label() == role)
    {
        let problem = wrong(format!("there is no role `{}`", cut(role)));
        let roles = Role::ALL.map(Role::label).join(", ");
        return Err(problem.help(format!("the roles are: {roles}")));
    }
    let mut notes = Vec::new();
    let seen = seen(&sent, &mut notes);
    let tenant = tenant(service, asked, &sent);
    let host = condition::without_port(asked.host(Some(service))).to_ascii_lowercase();
    let tools: Vec<&str> = asked.tools.iter().map(String::as_str).collect();
    let method = asked.method.as_deref().unwrap_or(match service.protocol {
        Protocol::Mcp => "POST",
        Protocol::Http => "GET",
    });
    let address = asked.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let request = condition::Request {
        headers: &seen,
        method,
        host: &host,
        path: rest,
        query,
        tenant,
        role: asked.role.as_deref(),
        tools: &tools,
        address,
    };
    let principal = tenant.zip(asked.subject.as_deref());
    let since_1970 = Timestamp::now().as_duration();
    let question = Question {
        request,
        who: Who {
            headers: &sent,
            tenant,
            principal,
            address,
        },
        begins_session: begins_session(service, asked, &sent, &mut notes),
        chosen: chosen(service, asked, &sent, &mut notes)?,
        since_1970: Duration::try_from(since_1970).unwrap_or_default(),
    };
    let now = app.control.flags();
    let (name, environment) = (service.name.as_str(), now.table().environment);
    if let Some(stop) = now.latch.stops_service(environment, name, tenant) {
        notes.push(format!(
            "503 before anything is routed: {} is killed{}",
            stop.scope,
            tried(stop.one_in)
        ));
    }
    for tool in &tools {
        if let Some(stop) = now.latch.stops_tool(name, tool) {
            let tried = tried(stop.one_in);
            notes.push(format!("tool `{}` is killed{tried}", cut(tool)));
        }
    }
    notes.extend(drained(app, service));
    let is_killed = |version: usize| {
        [version, served_by(service, version)].iter().any(|at| {
            let version = service.versions.get(*at);
            version.is_some_and(|v| now.latch.stops_version(name, v.name.as_str()).is_some())
        })
    };
    let mut explanation = explain(service, &question, &is_killed, &*app.control.live());
    if let Some(host) = &asked.host
        && !condition::is_host_known(host, &service.hosts, &app.access.hosts)
    {
        let text = format!("host `{}` is not served here", cut(host));
        let why = format!(
            "403 before anything is routed: {text}; add it to `gateway.hosts`, or to the `hosts` of a service"
        );
        let refusal = Refuse {
            status: 403,
            text: Some(text),
        };
        explanation.refuse(refusal, why);
    }
    Ok(Explained { explanation, notes })
}

/// What is drained: the data plane does not know it any more, so it is in no table of endpoints.
fn drained(app: &App, service: &ServiceRoute) -> Option<String> {
    let view = app.control.view();
    let mut parts = Vec::new();
    for version in &view.service(service.name.as_str())?.versions {
        if version.drain.as_ref().is_some_and(|drain| drain.is_over) {
            parts.push(format!("version `{}`", version.name));
        } else {
            let urls = version.drained().map(|endpoint| endpoint.url.as_str());
            parts.extend(urls.map(|url| format!("`{url}` of `{}`", version.name)));
        }
    }
    let parts = parts.join(", ");
    (!parts.is_empty()).then(|| {
        format!(
            "drained, and therefore not shown: {parts}; `serin undrain` lets callers come again"
        )
    })
}

fn tried(one_in: Option<u32>) -> String {
    one_in.map_or_else(String::new, |one_in| {
        format!("; 1 in {one_in} calls is let through to try it")
    })
}

/// What conditions see of the headers; what a proxy would have to say is noted.
fn seen<'a>(sent: &'a HeaderMap, notes: &mut Vec<String>) -> Cow<'a, HeaderMap> {
    for name in sent
        .keys()
        .filter(|name| condition::is_said_by_proxies(name))
    {
        notes.push(format!("header `{name}` counts only from a trusted proxy, and was left out; give the client's address and host themselves"));
    }
    condition::visible(sent, false)
}

fn tenant<'a>(service: &ServiceRoute, asked: &'a Asked, sent: &'a HeaderMap) -> Option<&'a str> {
    let header = service.settings.tenant_header.as_deref();
    asked
        .tenant
        .as_deref()
        .or_else(|| sent.get(header?)?.to_str().ok())
}

/// Whether a session begins with it; what cannot be known of one that is there is noted.
fn begins_session(
    service: &ServiceRoute,
    asked: &Asked,
    sent: &HeaderMap,
    notes: &mut Vec<String>,
) -> bool {
    let version = sent
        .get("mcp-protocol-version")
        .and_then(|version| version.to_str().ok());
    let era = version.and_then(|version| ProtocolVersion::parse(version).ok());
    if service.protocol == Protocol::Http || era.is_some_and(|version| version.era() == Era::Modern)
    {
        return false;
    }
    if asked.session.is_some() || sent.contains_key("mcp-session-id") {
        notes.push("a session that is there stays where it lives: that is sealed in its id, which the gateway alone can open. Refusals and limits of rules hold for it; where a rule, a share or a choice by hand leads is said here for a session that begins now".to_owned());
    } else if version.is_none() {
        notes.push("taken for the beginning of a session; with header `MCP-Protocol-Version: 2026-07-28` it is a stateless call".to_owned());
    }
    true
}

/// The version chosen by hand: as asked, else as the headers say that the service admits. What it does not admit is noted.
fn chosen(
    service: &ServiceRoute,
    asked: &Asked,
    sent: &HeaderMap,
    notes: &mut Vec<String>,
) -> Result<Option<usize>, Problem> {
    let unknown = |wanted: &str| {
        let names: Vec<_> = service.versions.iter().map(|v| v.name.as_str()).collect();
        Problem::bad_request(format!(
            "service `{}` has no version `{}`",
            service.name,
            cut(wanted)
        ))
        .help(format!("the versions are: {}", names.join(", ")))
    };
    if let Some(wanted) = &asked.chosen {
        let mut versions = service.versions.iter();
        let found = versions.position(|version| version.name.as_str() == wanted);
        let found = found.ok_or_else(|| unknown(wanted))?;
        let overrides = service.settings.overrides;
        let is_side = found == service.stable
            || service
                .split
                .as_ref()
                .is_some_and(|split| split.candidate == found);
        let is_admitted = overrides.version || (overrides.canary && is_side);
        if !is_admitted {
            notes.push(format!("service `{}` lets nobody choose `{}` by hand (`settings.overrides`): a request that asks for it goes where it would go without", service.name, cut(wanted)));
        }
        return Ok(Some(found));
    }
    let said = |name: &str| sent.get(name).map(HeaderValue::as_bytes);
    let (version, canary) = (said("x-serin-version"), said("x-canary"));
    chosen_version(service, version, canary).map_err(|misfit| match misfit {
        Misfit::Version => unknown(&String::from_utf8_lossy(version.unwrap_or_default())),
        Misfit::Canary => wrong("`X-Canary` must be `true` or `false`".to_owned()),
    })
}

fn wrong(what: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", what)
        .help("`GET /admin/v1/openapi.json` describes every parameter")
}

/// As much of outside text as a message carries.
fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    text.chars().take(CHARS_MAX).collect()
}
