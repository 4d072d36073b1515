//! Who uses the admin API, and what they may do with it.

use super::{ACTOR_HEADER, ACTOR_UNNAMED};
use crate::problem::Problem;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serin_model::event::Actor;
use serin_tenancy::{AdminAction, Directory, KeyRecord, Principal, Role, TenantId};
use std::sync::Arc;

/// What is done by a request that is no mere question. Every other method and path is closed to keys, so that a route that is forgotten
/// here is closed and not open.
const DEEDS: [(&str, &str, AdminAction); 38] = {
    use AdminAction::{Apply, Approve, Flags, Keys, Kill, Read, Rollback, Rollout};
    [
        ("POST", "/admin/v1/services/{service}/rollout", Rollout),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/share",
            Rollout,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/pause",
            Rollout,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/resume",
            Rollout,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/signal",
            Rollout,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/promote",
            Approve,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/abort",
            Rollback,
        ),
        (
            "POST",
            "/admin/v1/services/{service}/rollout/rollback",
            Rollback,
        ),
        ("PUT", "/admin/v1/services/{service}/drain", Rollout),
        ("DELETE", "/admin/v1/services/{service}/drain", Rollout),
        ("POST", "/admin/v1/rollouts/{name}/replay", Read),
        ("POST", "/admin/v1/kills", Kill),
        ("POST", "/admin/v1/kills/revive", Kill),
        ("POST", "/admin/v1/kills/revive-all", Kill),
        ("POST", "/admin/v1/kills/kill-all", Kill),
        ("POST", "/admin/v1/kills/disable-all", Kill),
        ("POST", "/admin/feature_flags/disable_all", Kill),
        ("POST", "/admin/v1/flags/{name}", Flags),
        ("PUT", "/admin/v1/flags/{name}", Flags),
        ("PATCH", "/admin/v1/flags/{name}", Flags),
        ("DELETE", "/admin/v1/flags/{name}", Flags),
        ("PUT", "/admin/v1/flags/{name}/overrides/{tenant}", Flags),
        ("DELETE", "/admin/v1/flags/{name}/overrides/{tenant}", Flags),
        ("POST", "/admin/v1/flags/{name}/evaluate", Read),
        ("POST", "/admin/v1/import/flags", Flags),
        ("POST", "/admin/feature-flags", Flags),
        ("PUT", "/admin/feature_flags/{name}", Flags),
        ("POST", "/admin/v1/keys", Keys),
        ("POST", "/admin/v1/keys/{name}/rotate", Keys),
        ("POST", "/admin/v1/keys/{name}/revoke", Keys),
        ("POST", "/admin/v1/tenants", Keys),
        ("PATCH", "/admin/v1/tenants/{name}", Keys),
        ("POST", "/admin/v1/tenants/{name}/suspend", Keys),
        ("POST", "/admin/v1/tenants/{name}/resume", Keys),
        ("DELETE", "/admin/v1/tenants/{name}", Keys),
        ("POST", "/admin/v1/apply", Apply),
        ("POST", "/admin/v1/diff", Read),
        ("POST", "/admin/v1/routes:explain", Read),
    ]
};

/// What a request does. Nothing: it is not for keys.
pub(super) fn action(method: &Method, route: &str) -> Option<AdminAction> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Some(AdminAction::Read);
    }
    DEEDS
        .iter()
        .find(|(verb, path, _)| *verb == method.as_str() && *path == route)
        .map(|(.., action)| *action)
}

/// Who uses the admin API.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Who holds the local token or reaches the socket: may do everything.
    Local(Actor),
    /// Who holds a key: may do what its role and scopes say.
    Key {
        /// Whose it is.
        principal: Arc<Principal>,
        /// As the log names them.
        actor: Actor,
        /// Of the key, in hex.
        hash: String,
    },
}

impl Caller {
    /// By the local token, and under the name that the request gives itself: whoever holds the token is trusted to.
    pub(super) fn local(headers: &HeaderMap) -> Self {
        let named = headers
            .get(ACTOR_HEADER)
            .and_then(|name| name.to_str().ok())
            .map(str::trim)
            .filter(|name| !name.is_empty());
        Self::Local(Actor::named(named.unwrap_or(ACTOR_UNNAMED)))
    }

    /// By a key, whose id and name say who it is: nobody gives themselves another name.
    pub(super) fn key(principal: Arc<Principal>, record: Option<&Arc<KeyRecord>>) -> Self {
        let name = record.map_or("", |record| &record.name);
        let actor = format!("key:{} {name}", principal.subject);
        Self::Key {
            principal,
            actor: Actor::named(actor.trim_end()),
            hash: record
                .map(|record| record.hash.to_hex())
                .unwrap_or_default(),
        }
    }

    /// As the log names who acts.
    pub(crate) const fn actor(&self) -> &Actor {
        match self {
            Self::Local(actor) | Self::Key { actor, .. } => actor,
        }
    }

    /// Whether something may be done.
    pub(crate) fn may(&self, action: AdminAction) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Key { principal, .. } => principal.scopes.may(principal.role, action),
        }
    }

    /// Whether it still is who it was: a key may have ended since.
    pub(crate) fn still_opens(&self, keys: &Directory, now: Timestamp) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Key { principal, .. } => principal
                .key
                .is_some_and(|id| keys.find_id(id, now).is_ok()),
        }
    }

    /// Refuses what may not be done.
    ///
    /// # Errors
    /// 403, which says what is lacking.
    pub(crate) fn check(&self, action: AdminAction) -> Result<(), Problem> {
        let Self::Key { principal, .. } = self else {
            return Ok(());
        };
        if self.may(action) {
            return Ok(());
        }
        let help = match principal.role {
            Role::ReadOnly if action != AdminAction::Read => format!(
                "a key of role read_only changes nothing; take one of role admin, or of role user with the scope `admin:{action}`"
            ),
            _ => format!(
                "take a key with the scope `admin:{action}`: `serin key create --tenant ID --scope admin:{action}`"
            ),
        };
        Err(forbidden(format!(
            "key {} of role {} may not do this: it is `admin:{action}`",
            principal.subject, principal.role
        ))
        .help(help))
    }

    /// The one tenant whose affairs are shown: operators see those of all.
    pub(crate) fn only(&self) -> Option<&TenantId> {
        match self {
            Self::Key { principal, .. } if principal.role != Role::Admin => Some(&principal.tenant),
            _ => None,
        }
    }

    /// Whether the affairs of a tenant are shown.
    pub(crate) fn sees(&self, tenant: &TenantId) -> bool {
        self.only().is_none_or(|only| only == tenant)
    }

    /// Refuses what is about a tenant whose affairs are not shown.
    ///
    /// # Errors
    /// 403, the same whether there is such a tenant or not.
    pub(crate) fn check_tenant(&self, tenant: &TenantId) -> Result<(), Problem> {
        if self.sees(tenant) {
            return Ok(());
        }
        Err(
            forbidden(format!("what is of tenant `{tenant}` is not for this key"))
                .help("name the tenant of the key, or take a key of role admin"),
        )
    }

    /// Refuses what only operators do.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn check_operator(&self, what: &str) -> Result<(), Problem> {
        match self.only() {
            None => Ok(()),
            Some(_) => Err(forbidden(format!("{what} is for operators"))
                .help("take a key of role admin, or the local token")),
        }
    }
}

/// What a key may not do.
pub(crate) fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_tenancy::Scopes;

    fn caller(role: Role, scopes: &[&str]) -> Caller {
        let principal = Principal {
            tenant: "acme".parse().unwrap(),
            subject: "0123456789ab".into(),
            key: None,
            role,
            scopes: Arc::new(Scopes::new(scopes.iter().map(|text| text.parse().unwrap()))),
            tier: None,
            until: None,
        };
        Caller::key(Arc::new(principal), None)
    }

    #[test]
    fn every_route_does_something_and_nothing_is_listed_that_is_no_route() {
        let description = serde_json::to_value(crate::openapi()).unwrap();
        let mut deeds = Vec::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                // Flags are asked with a token of their own.
                if path.starts_with("/ofrep/") {
                    continue;
                }
                assert!(action(&method, path).is_some(), "{method} {path}");
                if method != Method::GET {
                    deeds.push(format!("{method} {path}"));
                }
            }
        }
        for (method, path, _) in DEEDS {
            let deed = format!("{method} {path}");
            assert!(deeds.contains(&deed), "{deed}");
        }
        assert_eq!(action(&Method::POST, "/admin/v1/status"), None);
        assert_eq!(action(&Method::DELETE, "/admin/v1/apply"), None);
    }

    #[test]
    fn operators_see_all_tenants_and_others_their_own() {
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        for (caller, all) in [
            (Caller::local(&HeaderMap::new()), true),
            (caller(Role::Admin, &[]), true),
            (caller(Role::Admin, &["admin:read"]), true),
            (caller(Role::User, &["admin:*"]), false),
            (caller(Role::ReadOnly, &["admin:read"]), false),
        ] {
            assert!(caller.sees(&acme), "{caller:?}");
            assert_eq!(caller.sees(&globex), all, "{caller:?}");
            assert_eq!(caller.check_operator("it").is_ok(), all, "{caller:?}");
        }
    }

    #[test]
    fn a_refusal_names_what_is_lacking() {
        let refused = caller(Role::User, &["admin:read"])
            .check(AdminAction::Kill)
            .unwrap_err();
        assert_eq!(refused.status, 403);
        assert!(
            refused.detail.contains("0123456789ab") && refused.help.contains("`admin:kill`"),
            "{refused:?}"
        );
        assert!(caller(Role::Admin, &[]).check(AdminAction::Kill).is_ok());
    }

    #[test]
    fn who_acts_is_what_the_header_says_or_the_key() {
        let named = |name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACTOR_HEADER, name.parse().unwrap());
            Caller::local(&headers).actor().as_str().to_owned()
        };
        assert_eq!(Caller::local(&HeaderMap::new()).actor().as_str(), "admin");
        assert_eq!((named(" "), named("kim")), ("admin".into(), "kim".into()));
        let key = caller(Role::User, &[]);
        assert_eq!(key.actor().as_str(), "key:0123456789ab");
    }
}
