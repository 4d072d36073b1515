//! Authentication: who a request comes from, where its service asks for that.

pub(crate) mod metadata;
pub(crate) mod sign;

use crate::{connection::Connection, core::Core, headers, refusal::Refusal};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority};
use jiff::Timestamp;
use serin_model::{
    auth::{Auth, Credential},
    observe::Rejection,
    snapshot::ServiceRoute,
};
use serin_tenancy::{
    Denial, Directory, Principal,
    token::{Refused, is_token},
};
use std::sync::{Arc, Weak};

/// The label of requests that prove whose they are.
const OK: &str = "ok";
/// That of tokens which could not be looked at.
const UNAVAILABLE: &str = "unavailable";

/// The credential that a connection brought last, and whose it is.
pub(crate) struct Proven {
    hash: blake3::Hash,
    /// The directory in which it was found. An idle connection must not keep an old one.
    directory: Weak<Directory>,
    /// The service whose tokens it is one of; a key is the same everywhere.
    service: Option<Weak<ServiceRoute>>,
    principal: Arc<Principal>,
    until: Timestamp,
}

/// Why a request is nobody's.
enum Nobody {
    Denied(Denial),
    /// The keys of the identity provider are not known yet.
    NoKeys,
}

impl From<Denial> for Nobody {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// Whose a request is. Its credential is taken out: no endpoint gets it.
///
/// # Errors
/// It is nobody's, and is refused.
pub(crate) fn authenticate(
    core: &Core,
    connection: &Connection,
    service: &Arc<ServiceRoute>,
    directory: &Arc<Directory>,
    headers: &mut HeaderMap,
    host: &Authority,
) -> Result<Arc<Principal>, Refusal> {
    let found = find(core, connection, service, directory, headers);
    core.counters.authenticated(match &found {
        Ok(_) => OK,
        Err(Nobody::Denied(denial)) => denial.label(),
        Err(Nobody::NoKeys) => UNAVAILABLE,
    });
    let principal = match found {
        Ok(principal) => principal,
        Err(Nobody::NoKeys) => return Err(no_keys(service)),
        Err(Nobody::Denied(denial)) => {
            let origin = metadata::origin(connection, headers, host);
            return Err(refused(service, denial, &origin));
        }
    };
    if !principal.scopes.reach(service.name.as_str()) {
        return Err(out_of_reach(service));
    }
    headers.remove(header::AUTHORIZATION);
    name_tenant(service, &principal, headers);
    Ok(principal)
}

/// Whether whoever was known a while ago still is.
///
/// # Errors
/// Why not.
pub(crate) fn recheck(principal: &Principal, directory: &Directory) -> Result<(), Denial> {
    let now = Timestamp::now();
    if principal.until.is_some_and(|until| until <= now) {
        return Err(Denial::Expired);
    }
    match principal.key {
        Some(key) => directory.find_id(key, now).map(|_| ()),
        None => directory.active_tenant(&principal.tenant).map(|_| ()),
    }
}

/// Refuses a request whose service asks by now for what it did not bring, or whose credential opens nothing any more.
pub(crate) fn look_again(
    core: &Core,
    service: &ServiceRoute,
    principal: Option<&Principal>,
) -> Result<(), Refusal> {
    if !is_asked(service) {
        return Ok(());
    }
    let directory = core.with_snapshot(|snapshot| snapshot.tenancy.clone());
    let checked = principal
        .ok_or(Denial::Missing)
        .and_then(|principal| recheck(principal, &directory));
    checked.map_err(|denial| {
        core.counters.authenticated(denial.label());
        refused(service, denial, "")
    })
}

/// Whether the callers of a service must say who they are.
pub(crate) fn is_asked(service: &ServiceRoute) -> bool {
    service.settings.auth == Auth::Serin
}

fn find(
    core: &Core,
    connection: &Connection,
    service: &Arc<ServiceRoute>,
    directory: &Arc<Directory>,
    headers: &HeaderMap,
) -> Result<Arc<Principal>, Nobody> {
    let credential = bearer(headers)?;
    let now = Timestamp::now();
    let hash = blake3::hash(credential);
    let known = connection.proven.borrow();
    // A client's next request mostly brings the same. Hashes are compared in constant time.
    if let Some(known) = &*known
        && known.hash == hash
        && known.is_of(service, directory)
    {
        return if now < known.until {
            Ok(Arc::clone(&known.principal))
        } else {
            Err(Denial::Expired.into())
        };
    }
    drop(known);
    let tokens = metadata::tokens(service).filter(|_| is_token(credential));
    let (principal, until) = if let Some(jwt) = tokens {
        let keys = service.tokens.as_ref().ok_or(Nobody::NoKeys)?;
        let found = keys.find(credential, &jwt.expected(), directory, now);
        found.map_err(|refused| match refused {
            Refused::For(denial) => denial,
            Refused::UnknownKey => {
                core.options().ask_for_keys(&jwt.jwks);
                Denial::Unknown
            }
        })?
    } else {
        let principal = Arc::clone(directory.find(credential, now)?);
        let record = principal.key.and_then(|id| directory.record(id));
        let until = record.map_or(now, |record| record.expires_at);
        (principal, until)
    };
    connection.proven.replace(Some(Proven {
        hash,
        directory: Arc::downgrade(directory),
        service: tokens.map(|_| Arc::downgrade(service)),
        principal: Arc::clone(&principal),
        until,
    }));
    Ok(principal)
}

impl Proven {
    fn is_of(&self, service: &Arc<ServiceRoute>, directory: &Arc<Directory>) -> bool {
        let is_here = |of: &Weak<ServiceRoute>| of.as_ptr() == Arc::as_ptr(service);
        self.directory.as_ptr() == Arc::as_ptr(directory)
            && self.service.as_ref().is_none_or(is_here)
    }
}

/// What a request has for a credential: one only, for a server behind another reading would see another one.
fn bearer(headers: &HeaderMap) -> Result<&[u8], Denial> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Denial::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(Denial::Unknown);
    }
    let (scheme, credential) = value
        .split_at_checked("bearer ".len())
        .ok_or(Denial::Unknown)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Denial::Unknown);
    }
    Ok(credential.trim_ascii())
}

/// Endpoints are told the tenant that was proven, never one that the caller made up. Said when a request comes, for what is read out of
/// its headers here, and when it goes on, for by then the caller's `Connection` may have taken it out.
pub(crate) fn name_tenant(service: &ServiceRoute, principal: &Principal, headers: &mut HeaderMap) {
    let Some(name) = &service.settings.tenant_header else {
        return;
    };
    if let Ok(name) = HeaderName::try_from(name.as_str())
        && let Ok(tenant) = HeaderValue::from_str(principal.tenant.as_str())
    {
        headers::set_alone(headers, name, tenant);
    }
}

/// By what the gateway proves itself to an endpoint, in place of what its caller brought.
///
/// # Errors
/// It could not be read.
pub(crate) fn prove(service: &ServiceRoute, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let missing = |what: String| {
        let refusal = Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, what);
        Err(refusal.counted(Rejection::Auth).of(&service.name))
    };
    let Some(credential) = &service.credential else {
        return Ok(());
    };
    let Credential::Known { header, value } = credential else {
        let reference = match credential {
            Credential::Missing { reference } => reference,
            Credential::Known { header, .. } => header,
        };
        return missing(format!(
            "the credential of service `{}` for its endpoints, `{reference}`, cannot be read; whoever runs the gateway can mend that",
            service.name
        ));
    };
    let parts = (
        HeaderName::try_from(&**header),
        HeaderValue::from_str(value.expose()),
    );
    let (Ok(name), Ok(mut value)) = parts else {
        return missing(format!(
            "the credential of service `{}` for its endpoints does not fit into a header",
            service.name
        ));
    };
    value.set_sensitive(true);
    headers::set_alone(headers, name, value);
    Ok(())
}

/// The scopes or the role of a caller do not reach a tool, or else a method.
pub(crate) fn beyond(refusal: Refusal, service: &ServiceRoute, tool: Option<&str>) -> Refusal {
    let name = &service.name;
    let scope = match tool.filter(|tool| is_plain(tool)) {
        Some(tool) => format!("tool:{name}/{tool}"),
        None => format!("service:{name}"),
    };
    insufficient(refusal, &scope)
}

/// Whether a name can stand in a quoted string of a header as it is.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
}

/// The same, of a route of a plain HTTP service.
pub(crate) fn route_beyond(service: &ServiceRoute) -> Refusal {
    let name = &service.name;
    let text = format!(
        "the scopes or the role of this key do not reach this of service `{name}`; one of role `user` with `service:{name}` does"
    );
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    insufficient(refusal, &format!("service:{name}"))
        .counted(Rejection::Scope)
        .of(name)
}

/// A version was asked for by hand by somebody who may not.
pub(crate) fn not_admin(service: &ServiceRoute) -> Refusal {
    let text = format!(
        "versions of service `{}` are chosen by hand with a key of role `admin`; send neither `X-Canary` nor `X-Serin-Version`",
        service.name
    );
    Refusal::plain(StatusCode::FORBIDDEN, text)
        .counted(Rejection::Scope)
        .of(&service.name)
}

/// Says which scope was missing (RFC 6750, section 3.1).
fn insufficient(refusal: Refusal, scope: &str) -> Refusal {
    let challenge =
        format!("Bearer realm=\"serin\", error=\"insufficient_scope\", scope=\"{scope}\"");
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => refusal.challenge(challenge),
        Err(_) => refusal,
    }
}

fn out_of_reach(service: &ServiceRoute) -> Refusal {
    let name = &service.name;
    let text =
        format!("the scopes of this key do not reach service `{name}`; it needs `service:{name}`");
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    insufficient(refusal, &format!("service:{name}"))
        .counted(Rejection::Scope)
        .of(name)
}

fn no_keys(service: &ServiceRoute) -> Refusal {
    let text = format!(
        "the keys of the identity provider of service `{}` could not be read yet; try again soon",
        service.name
    );
    Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text)
        .counted(Rejection::Auth)
        .of(&service.name)
}

fn refused(service: &ServiceRoute, denial: Denial, origin: &str) -> Refusal {
    let takes_tokens = metadata::tokens(service).is_some();
    let or_token = if takes_tokens {
        ", or a token of the identity provider"
    } else {
        ""
    };
    let (text, error) = match denial {
        Denial::Missing => (
            format!(
                "service `{}` needs a key: send `Authorization: Bearer serin_...`{or_token}",
                service.name
            ),
            "",
        ),
        // No word about why: who tries keys learns nothing.
        Denial::Unknown | Denial::Expired | Denial::Revoked | Denial::Signature => (
            format!(
                "what `Authorization` holds does not open service `{}`; send a key that is in force{or_token}",
                service.name
            ),
            ", error=\"invalid_token\"",
        ),
    };
    // RFC 6750, section 3; RFC 9728, section 5.1.
    let mut challenge = format!("Bearer realm=\"serin\"{error}");
    if takes_tokens && !origin.is_empty() {
        let url = metadata::url(service, origin);
        challenge += &format!(", resource_metadata=\"{url}\"");
    }
    let refusal = Refusal::plain(StatusCode::UNAUTHORIZED, text);
    let refusal = match HeaderValue::from_str(&challenge) {
        Ok(challenge) => refusal.challenge(challenge),
        Err(_) => refusal,
    };
    refusal.counted(Rejection::Auth).of(&service.name)
}
