//! Authentication: who a request comes from, where its service asks for that.

use crate::{connection::Connection, core::Core, headers, refusal::Refusal};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serin_model::{auth::Auth, observe::Rejection, snapshot::ServiceRoute};
use serin_tenancy::{Denial, Directory, Principal};
use std::sync::{Arc, Weak};

/// The label of requests that prove whose they are.
const OK: &str = "ok";
/// What a client is told to send (RFC 6750, section 3).
static CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"serin\"");
static INVALID: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"serin\", error=\"invalid_token\"");

/// The key that a connection brought last, and whose it is.
pub(crate) struct Proven {
    hash: blake3::Hash,
    /// The directory in which it was found. An idle connection must not keep an old one.
    directory: Weak<Directory>,
    principal: Arc<Principal>,
    until: Timestamp,
}

/// Whose a request is. Its credential is taken out: no endpoint gets it.
///
/// # Errors
/// It is nobody's, and is refused.
pub(crate) fn authenticate(
    core: &Core,
    connection: &Connection,
    service: &ServiceRoute,
    directory: &Arc<Directory>,
    headers: &mut HeaderMap,
) -> Result<Arc<Principal>, Refusal> {
    let found = find(connection, directory, headers);
    let label = found.as_ref().map_or_else(|denial| denial.label(), |_| OK);
    core.counters.authenticated(label);
    let principal = found.map_err(|denial| refused(service, denial))?;
    if !principal.scopes.reach(service.name.as_str()) {
        return Err(out_of_reach(service));
    }
    headers.remove(header::AUTHORIZATION);
    name_tenant(service, &principal, headers);
    Ok(principal)
}

fn out_of_reach(service: &ServiceRoute) -> Refusal {
    let name = &service.name;
    let text =
        format!("the scopes of this key do not reach service `{name}`; it needs `service:{name}`");
    // RFC 6750, section 3.1.
    let challenge =
        format!("Bearer realm=\"serin\", error=\"insufficient_scope\", scope=\"service:{name}\"");
    let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
    let refusal = match HeaderValue::from_str(&challenge) {
        Ok(challenge) => refusal.challenge(challenge),
        Err(_) => refusal,
    };
    refusal.counted(Rejection::Scope).of(name)
}

/// Whether the callers of a service must say who they are.
pub(crate) fn is_asked(service: &ServiceRoute) -> bool {
    service.settings.auth == Auth::Serin
}

fn find(
    connection: &Connection,
    directory: &Arc<Directory>,
    headers: &HeaderMap,
) -> Result<Arc<Principal>, Denial> {
    let key = bearer(headers)?;
    let now = Timestamp::now();
    let hash = blake3::hash(key);
    let known = connection.proven.borrow();
    // A client's next request mostly brings the same key. Hashes are compared in constant time.
    if let Some(known) = &*known
        && known.hash == hash
        && known.directory.as_ptr() == Arc::as_ptr(directory)
    {
        return if now < known.until {
            Ok(Arc::clone(&known.principal))
        } else {
            Err(Denial::Expired)
        };
    }
    drop(known);
    let principal = Arc::clone(directory.find(key, now)?);
    let record = principal.key.and_then(|id| directory.record(id));
    let until = record.map_or(now, |record| record.expires_at);
    connection.proven.replace(Some(Proven {
        hash,
        directory: Arc::downgrade(directory),
        principal: Arc::clone(&principal),
        until,
    }));
    Ok(principal)
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

/// Endpoints are told the tenant that was proven, never one that the caller made up.
fn name_tenant(service: &ServiceRoute, principal: &Principal, headers: &mut HeaderMap) {
    let Some(name) = &service.settings.tenant_header else {
        return;
    };
    let is_like = |other: &&HeaderName| headers::is_lookalike(other, name);
    let lookalikes: Vec<HeaderName> = headers.keys().filter(is_like).cloned().collect();
    for lookalike in lookalikes {
        headers.remove(lookalike);
    }
    if let Ok(name) = HeaderName::try_from(name.as_str())
        && let Ok(tenant) = HeaderValue::from_str(principal.tenant.as_str())
    {
        headers.insert(name, tenant);
    }
}

fn refused(service: &ServiceRoute, denial: Denial) -> Refusal {
    let (text, challenge) = match denial {
        Denial::Missing => (
            format!(
                "service `{}` needs a key: send `Authorization: Bearer serin_...`",
                service.name
            ),
            &CHALLENGE,
        ),
        // No word about why: who tries keys learns nothing.
        Denial::Unknown | Denial::Expired | Denial::Revoked | Denial::Signature => (
            format!(
                "the key in `Authorization` does not open service `{}`; ask for another one",
                service.name
            ),
            &INVALID,
        ),
    };
    Refusal::plain(StatusCode::UNAUTHORIZED, text)
        .challenge(challenge.clone())
        .counted(Rejection::Auth)
        .of(&service.name)
}
