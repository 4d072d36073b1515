//! Authentication: who a request comes from, where its service asks for that.

pub(crate) mod metadata;
pub(crate) mod sign;

use crate::{audit::Trail, connection::Connection, core::Core, headers, refusal::Refusal};
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
use std::{
    borrow::Cow,
    sync::{Arc, Weak},
};

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
    Denied {
        denial: Denial,
        /// For whoever runs the gateway; the caller is not told.
        why: Cow<'static, str>,
        /// Who has shown it, where that was proven.
        holder: Option<Arc<Principal>>,
    },
    /// The keys of the identity provider are not known yet.
    NoKeys,
}

impl Nobody {
    fn known(denial: Denial, holder: Option<Arc<Principal>>) -> Self {
        Self::Denied {
            denial,
            why: why(denial).into(),
            holder,
        }
    }
}

/// Why a key opens nothing, for whoever runs the gateway.
const fn why(denial: Denial) -> &'static str {
    match denial {
        Denial::Missing => "no credential",
        Denial::Unknown => "no key of ours, or not a whole one",
        Denial::Expired => "the time of the credential is over",
        Denial::Revoked => "the key is revoked, or its tenant suspended",
        Denial::Signature => "the signature is not that of the key's holder",
    }
}

impl From<Denial> for Nobody {
    fn from(denial: Denial) -> Self {
        Self::known(denial, None)
    }
}

impl From<Refused> for Nobody {
    fn from(refused: Refused) -> Self {
        Self::Denied {
            denial: refused.denial,
            why: format!("the token is refused: {}", refused.why).into(),
            holder: refused.whose,
        }
    }
}

/// Whose a request is. Its credential is taken out: no endpoint gets it. Who has proven to be the caller stands in the `trail`, also
/// of what is refused: a key that leaked and was revoked is found by that.
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
    trail: &Trail,
) -> Result<Arc<Principal>, Refusal> {
    let found = find(core, connection, service, directory, headers);
    core.counters.authenticated(match &found {
        Ok(_) => OK,
        Err(Nobody::Denied { denial, .. }) => denial.label(),
        Err(Nobody::NoKeys) => UNAVAILABLE,
    });
    let origin = || metadata::origin(connection, headers, host);
    let principal = match found {
        Ok(principal) => principal,
        Err(Nobody::NoKeys) => return Err(no_keys(service)),
        Err(Nobody::Denied {
            denial,
            why,
            holder,
        }) => {
            tracing::debug!(service = %service.name, %why, "a credential is refused");
            if let Some(holder) = holder {
                trail.by(&holder, directory);
            }
            return Err(refused(service, denial, &origin()).because(&why));
        }
    };
    trail.by(&principal, directory);
    if !principal.scopes.reach(service.name.as_str()) {
        return Err(out_of_reach(service, &principal, &origin()));
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
        refused(service, denial, "").because(why(denial))
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
            let holder = Arc::clone(&known.principal);
            Err(Nobody::known(Denial::Expired, Some(holder)))
        };
    }
    drop(known);
    let tokens = metadata::tokens(service).filter(|_| is_token(credential));
    let (principal, until) = if let Some(jwt) = tokens {
        let keys = service.tokens.as_ref().ok_or(Nobody::NoKeys)?;
        let found = keys.find(credential, &jwt.expected(), directory, now);
        if found.as_ref().is_err_and(|refused| refused.is_key_unknown) {
            core.options().ask_for_keys(&jwt.jwks);
        }
        found?
    } else {
        let found = directory.find(credential, now);
        let denied = |denial| Nobody::known(denial, directory.holder(credential).cloned());
        let principal = Arc::clone(found.map_err(denied)?);
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

/// What a caller asked for and may not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beyond<'a> {
    /// The tool, if it was one.
    pub(crate) tool: Option<&'a str>,
    /// It is the role that leaves it out, and not the scopes.
    pub(crate) by_role: bool,
}

/// Says to whom something is beyond what they may have, and what would reach it. `origin` is the gateway's.
pub(crate) fn beyond(
    refusal: Refusal,
    service: &ServiceRoute,
    beyond: Beyond<'_>,
    origin: &str,
) -> Refusal {
    let name = &service.name;
    let scope = match beyond.tool.filter(|tool| is_plain(tool)) {
        _ if beyond.by_role => None,
        Some(tool) => Some(format!("tool:{name}/{tool}")),
        None => Some(format!("service:{name}")),
    };
    insufficient(refusal, service, scope.as_deref(), origin)
}

/// What a caller has shown, in words.
pub(crate) fn shown(principal: Option<&Principal>) -> &'static str {
    match principal {
        Some(Principal { key: None, .. }) => "token",
        _ => "key",
    }
}

/// Whether a name can stand in a quoted string of a header as it is.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
}

/// The same, of a route of a plain HTTP service, or of what an MCP service has below its path.
pub(crate) fn route_beyond(
    service: &ServiceRoute,
    principal: Option<&Principal>,
    by_role: bool,
    origin: &str,
) -> Refusal {
    let (name, shown) = (&service.name, shown(principal));
    let text = if by_role {
        format!(
            "the role of this {shown}, `read_only`, does not reach this of service `{name}`; one of role `user` does"
        )
    } else {
        format!(
            "the scopes of this {shown} do not reach this of service `{name}`; it needs `service:{name}`"
        )
    };
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    let refusal = refusal.counted(Rejection::Scope).of(name);
    let what = Beyond {
        tool: None,
        by_role,
    };
    beyond(refusal, service, what, origin)
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

/// Says which scope was missing, if one was (RFC 6750, section 3.1), and where tokens come from (RFC 9728, section 5.1).
fn insufficient(
    refusal: Refusal,
    service: &ServiceRoute,
    scope: Option<&str>,
    origin: &str,
) -> Refusal {
    let mut challenge = "Bearer realm=\"serin\", error=\"insufficient_scope\"".to_owned();
    if let Some(scope) = scope {
        challenge += &format!(", scope=\"{scope}\"");
    }
    challenged(refusal, service, challenge, origin)
}

/// With a challenge, which leads to the document of a service that takes tokens.
fn challenged(
    refusal: Refusal,
    service: &ServiceRoute,
    mut challenge: String,
    origin: &str,
) -> Refusal {
    if metadata::tokens(service).is_some() && !origin.is_empty() {
        let url = metadata::url(service, origin);
        challenge += &format!(", resource_metadata=\"{url}\"");
    }
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => refusal.challenge(challenge),
        Err(_) => refusal,
    }
}

fn out_of_reach(service: &ServiceRoute, principal: &Principal, origin: &str) -> Refusal {
    let (name, shown) = (&service.name, shown(Some(principal)));
    let text = format!(
        "the scopes of this {shown} do not reach service `{name}`; it needs `service:{name}`"
    );
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    let scope = format!("service:{name}");
    insufficient(refusal, service, Some(&scope), origin)
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
    // RFC 6750, section 3.
    let challenge = format!("Bearer realm=\"serin\"{error}");
    let refusal = Refusal::plain(StatusCode::UNAUTHORIZED, text);
    challenged(refusal, service, challenge, origin)
        .counted(Rejection::Auth)
        .of(&service.name)
}
