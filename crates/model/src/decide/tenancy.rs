//! Tenants and keys: what of a wish follows.

use super::{REASON_CHARS_MAX, Refusal, RefusalKind, refuse};
use crate::{event::Event, name::ServiceName, state::State, tenancy::KeyChange};
use jiff::{SignedDuration, Timestamp};
use serin_tenancy::{KeyId, KeyRecord, SCOPES_MAX, Scope, Tenant, TenantId, TenantState, TierName};

/// Most tenants: the seeds speak of 10,000.
pub const TENANTS_MAX: usize = 100_000;
/// Most keys, those that are over too.
pub const KEYS_MAX: usize = 500_000;
/// Most keys in force of one tenant: a script of one that has gone wild takes no room from the others.
pub const KEYS_OF_TENANT_MAX: usize = 10_000;
/// Longest life of a key: nobody remembers what an older one was for.
pub const KEY_LIFE_MAX: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);
/// Longest title of a tenant and name of a key, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// Create a tenant, or change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTenant {
    /// Its id.
    pub tenant: TenantId,
    /// Whether it must not be there, or must.
    pub is_new: bool,
    /// Its title; as it was, if nothing is said.
    pub title: Option<String>,
    /// Its tier, or none; as it was, if nothing is said.
    pub tier: Option<Option<TierName>>,
    /// Whether its keys open anything; as it was, if nothing is said.
    pub state: Option<TenantState>,
    /// Why.
    pub reason: String,
}

pub(super) fn set_tenant(
    state: &State,
    wish: &SetTenant,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let id = &wish.tenant;
    check_text("the reason", &wish.reason, REASON_CHARS_MAX)?;
    check_text(
        "the title",
        wish.title.as_deref().unwrap_or_default(),
        TITLE_CHARS_MAX,
    )?;
    let before = state.tenancy.tenants.get(id);
    match before {
        Some(_) if wish.is_new => {
            return refuse(
                RefusalKind::Conflict,
                format!("there is a tenant `{id}` already"),
                format!("change it with `serin tenant set {id}`, or take another id"),
            );
        }
        None if !wish.is_new => return Err(no_tenant(id)),
        None if state.tenancy.tenants.len() >= TENANTS_MAX => {
            return refuse(
                RefusalKind::Conflict,
                format!("there are {TENANTS_MAX} tenants already, which is the most"),
                "delete some that are gone: `serin tenant delete`",
            );
        }
        _ => {}
    }
    let tier = match &wish.tier {
        Some(tier) => tier.clone(),
        None => before.and_then(|before| before.tier.clone()),
    };
    check_tier(state, tier.as_ref())?;
    let about = Tenant {
        title: match &wish.title {
            Some(title) => title.clone(),
            None => before
                .map(|before| before.title.clone())
                .unwrap_or_default(),
        },
        tier,
        state: wish
            .state
            .or(before.map(|before| before.state))
            .unwrap_or(TenantState::Active),
        created_at: before.map_or(now, |before| before.created_at),
    };
    if before.map(AsRef::as_ref) == Some(&about) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::TenantSet {
        tenant: id.clone(),
        about,
        reason: wish.reason.clone(),
    }])
}

pub(super) fn remove_tenant(
    state: &State,
    id: &TenantId,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    check_text("the reason", reason, REASON_CHARS_MAX)?;
    if !state.tenancy.tenants.contains_key(id) {
        return Err(no_tenant(id));
    }
    let open = in_force_of(state, id, now);
    if open > 0 {
        return refuse(
            RefusalKind::Conflict,
            format!("tenant `{id}` has {open} keys in force"),
            format!(
                "revoke them first (`serin key list --tenant {id}`), or suspend the tenant: `serin tenant suspend {id}`"
            ),
        );
    }
    Ok(vec![Event::TenantRemoved {
        tenant: id.clone(),
        reason: reason.to_owned(),
    }])
}

pub(super) fn issue_key(
    state: &State,
    key: &KeyRecord,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    check_text("the reason", reason, REASON_CHARS_MAX)?;
    check_key(state, key, now)?;
    Ok(vec![set(key, KeyChange::Created, reason)])
}

/// The old key goes on until `overlap` is over, if its own time is not over before.
pub(super) fn rotate_key(
    state: &State,
    id: KeyId,
    replacement: &KeyRecord,
    overlap: SignedDuration,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    check_text("the reason", reason, REASON_CHARS_MAX)?;
    let before = in_force(state, id, now)?;
    if let Some(other) = before.replaced_by {
        return refuse(
            RefusalKind::Conflict,
            format!("key {id} was rotated already: {other} takes its place"),
            format!("rotate {other}, or make another with `serin key create`"),
        );
    }
    if replacement.tenant != before.tenant {
        return refuse(
            RefusalKind::Invalid,
            format!("key {id} is one of tenant `{}`", before.tenant),
            "replace it by another of the same tenant",
        );
    }
    check_key(state, replacement, now)?;
    let until = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
    let mut old = before.clone();
    old.expires_at = old.expires_at.min(until.max(now));
    old.replaced_by = Some(replacement.id);
    Ok(vec![
        set(replacement, KeyChange::Created, reason),
        set(&old, KeyChange::Rotated, reason),
    ])
}

/// A key that is revoked already stays so: asking again changes nothing.
pub(super) fn revoke_key(
    state: &State,
    id: KeyId,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    check_text("the reason", reason, REASON_CHARS_MAX)?;
    let before = known(state, id)?;
    if before.revoked_at.is_some() {
        return Ok(Vec::new());
    }
    let mut after = before.clone();
    after.revoked_at = Some(now);
    Ok(vec![set(&after, KeyChange::Revoked, reason)])
}

/// How many keys of a tenant open something, or would if it were not suspended.
fn in_force_of(state: &State, id: &TenantId, now: Timestamp) -> usize {
    let keys = state.tenancy.keys.values();
    keys.filter(|key| key.tenant == *id && key.is_in_force(now))
        .count()
}

fn set(key: &KeyRecord, change: KeyChange, reason: &str) -> Event {
    Event::KeySet {
        key: Box::new(key.clone()),
        change,
        reason: reason.to_owned(),
    }
}

fn check_key(state: &State, key: &KeyRecord, now: Timestamp) -> Result<(), Refusal> {
    check_text("the name", &key.name, TITLE_CHARS_MAX)?;
    if !state.tenancy.tenants.contains_key(&key.tenant) {
        return Err(no_tenant(&key.tenant));
    }
    check_tier(state, key.tier.as_ref())?;
    if state.tenancy.keys.contains_key(&key.id) {
        return refuse(
            RefusalKind::Conflict,
            format!("there is a key {} already", key.id),
            "ask again: ids are drawn at random",
        );
    }
    if state.tenancy.keys.len() >= KEYS_MAX {
        return refuse(
            RefusalKind::Conflict,
            format!("there are {KEYS_MAX} keys already, which is the most"),
            "delete tenants that are gone: `serin tenant delete`",
        );
    }
    if in_force_of(state, &key.tenant, now) >= KEYS_OF_TENANT_MAX {
        return refuse(
            RefusalKind::Conflict,
            format!(
                "tenant `{}` has {KEYS_OF_TENANT_MAX} keys in force already, which is the most",
                key.tenant
            ),
            "revoke those that nobody uses: `serin key list` shows when each was last used",
        );
    }
    if key.scopes.len() > SCOPES_MAX {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "the key has {} scopes, more than {SCOPES_MAX}",
                key.scopes.len()
            ),
            "use a `*` at the end of a name, or a category",
        );
    }
    if key.expires_at <= now {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "the key would be over already: it expires at {}",
                key.expires_at
            ),
            "give a later time",
        );
    }
    if key.expires_at.duration_since(now) > KEY_LIFE_MAX {
        return refuse(
            RefusalKind::Invalid,
            format!("the key would live until {}", key.expires_at),
            "keys live at most ten years; rotate them: `serin key rotate`",
        );
    }
    check_services(state, key)
}

/// A scope on a service that is not there is a mistake in its name.
fn check_services(state: &State, key: &KeyRecord) -> Result<(), Refusal> {
    for scope in key.scopes.iter() {
        let (Scope::Service(service) | Scope::Tool(service, _) | Scope::Category(service, _)) =
            scope
        else {
            continue;
        };
        if !state
            .services
            .keys()
            .any(|name| service.fits(name.as_str()))
        {
            let known: Vec<_> = state.services.keys().map(ServiceName::as_str).collect();
            return refuse(
                RefusalKind::Invalid,
                format!("scope `{scope}` names no service that there is"),
                match known.as_slice() {
                    [] => "there are no services yet; add them with `serin apply`".to_owned(),
                    known => format!("the services are: {}", known.join(", ")),
                },
            );
        }
    }
    Ok(())
}

fn check_tier(state: &State, tier: Option<&TierName>) -> Result<(), Refusal> {
    let Some(tier) = tier.filter(|tier| !state.tenancy.tiers.contains_key(*tier)) else {
        return Ok(());
    };
    let known: Vec<_> = state.tenancy.tiers.keys().map(TierName::as_str).collect();
    refuse(
        RefusalKind::NotFound,
        format!("there is no tier `{tier}`"),
        match known.as_slice() {
            [] => "describe tiers under `tiers` of a manifest and run `serin apply`".to_owned(),
            known => format!("the tiers are: {}", known.join(", ")),
        },
    )
}

fn known(state: &State, id: KeyId) -> Result<&KeyRecord, Refusal> {
    match state.tenancy.keys.get(&id) {
        Some(key) => Ok(key),
        None => refuse(
            RefusalKind::NotFound,
            format!("there is no key {id}"),
            "`serin key list` shows those that there are",
        ),
    }
}

fn in_force(state: &State, id: KeyId, now: Timestamp) -> Result<&KeyRecord, Refusal> {
    let key = known(state, id)?;
    let over = if key.revoked_at.is_some() {
        "was revoked"
    } else if key.expires_at <= now {
        "has expired"
    } else {
        return Ok(key);
    };
    refuse(
        RefusalKind::Conflict,
        format!("key {id} {over}"),
        "make another with `serin key create`",
    )
}

fn no_tenant(id: &TenantId) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        what: format!("there is no tenant `{id}`"),
        help: format!(
            "create it with `serin tenant create {id}`; `serin tenant list` shows those that there are"
        ),
    }
}

fn check_text(what: &str, text: &str, chars_max: usize) -> Result<(), Refusal> {
    if text.chars().count() > chars_max || text.chars().any(char::is_control) {
        return refuse(
            RefusalKind::Invalid,
            format!("{what} is too long, or has control characters"),
            format!("write at most {chars_max} characters in one line"),
        );
    }
    Ok(())
}
