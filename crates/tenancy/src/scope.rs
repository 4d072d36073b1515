//! Scopes: what of the services a key reaches, and what of the admin API.

use crate::role::{AdminAction, Role};
use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr, sync::Arc};

/// Most scopes of a key.
pub const SCOPES_MAX: usize = 100;
/// Longest scope, in bytes.
const SCOPE_BYTES_MAX: usize = 256;

/// One thing that a key may reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `service:NAME`: all of a service.
    Service(Pattern),
    /// `tool:SERVICE/TOOL`: tools of it.
    Tool(Pattern, Pattern),
    /// `category:SERVICE/NAME`: the tools of one of its categories.
    Category(Pattern, Arc<str>),
    /// `admin:ACTION`, or `admin:*`: something of the admin API.
    Admin(Option<AdminAction>),
}

/// A name, or the beginning of names with a `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Whether a name is meant.
    pub fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *self.0 == *name,
        }
    }

    /// Whether every name that another means is meant by this one too.
    fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(mine), Some(theirs)) => theirs.starts_with(mine),
            (None, Some(_)) => false,
            (_, None) => self.fits(&other.0),
        }
    }
}

/// A text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a scope: write `service:NAME`, `tool:SERVICE/TOOL`, `category:SERVICE/NAME` (a `*` at the end of a name stands for anything) or `admin:ACTION`, with an action of read, rollout, approve, rollback, kill, flags, keys, apply or *"
)]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        read(text).ok_or_else(|| ScopeError(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<Scope> {
    if text.len() > SCOPE_BYTES_MAX {
        return None;
    }
    let (kind, name) = text.split_once(':')?;
    let pattern = |text: &str| {
        let plain = text.strip_suffix('*').unwrap_or(text);
        let fine = |c: char| !c.is_whitespace() && !c.is_control() && c != '*' && c != ',';
        (!text.is_empty() && plain.chars().all(fine)).then(|| Pattern(text.into()))
    };
    match kind {
        "service" => pattern(name).map(Scope::Service),
        "tool" => {
            let (service, tool) = name.split_once('/')?;
            Some(Scope::Tool(pattern(service)?, pattern(tool)?))
        }
        "category" => {
            let (service, category) = name.split_once('/')?;
            pattern(category).filter(|category| !category.0.ends_with('*'))?;
            Some(Scope::Category(pattern(service)?, category.into()))
        }
        "admin" if name == "*" => Some(Scope::Admin(None)),
        "admin" => {
            let action = AdminAction::ALL
                .into_iter()
                .find(|action| action.label() == name)?;
            Some(Scope::Admin(Some(action)))
        }
        _ => None,
    }
}

impl Scope {
    /// Whether this reaches everything of the services that another does.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Service(mine),
                Self::Service(of) | Self::Tool(of, _) | Self::Category(of, _),
            ) => mine.covers(of),
            (Self::Tool(mine, tools), Self::Tool(of, others)) => {
                mine.covers(of) && tools.covers(others)
            }
            (Self::Category(mine, name), Self::Category(of, other)) => {
                mine.covers(of) && name == other
            }
            _ => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "service:{}", service.0),
            Self::Tool(service, tool) => write!(f, "tool:{}/{}", service.0, tool.0),
            Self::Category(service, category) => write!(f, "category:{}/{category}", service.0),
            Self::Admin(None) => f.write_str("admin:*"),
            Self::Admin(Some(action)) => write!(f, "admin:{action}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// The scopes of a key. Without one for a service, tool or category it reaches all services; without one for the admin API only
/// [`Role::Admin`] reaches that, and then all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// These scopes, each once.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let mut scopes: Vec<_> = scopes.into_iter().collect();
        scopes.sort();
        scopes.dedup();
        Self(scopes)
    }

    /// These, which reach no service where none of them is for one.
    #[must_use]
    pub fn or_no_service(mut self) -> Self {
        if self.of_services().next().is_none() {
            // No service has this name.
            self.0.push(Scope::Service(Pattern("".into())));
        }
        self
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of_services(&self) -> impl Iterator<Item = &Scope> {
        self.0
            .iter()
            .filter(|scope| !matches!(scope, Scope::Admin(_)))
    }

    /// Whether a service can be reached at all, be it for one tool.
    pub fn reach(&self, service: &str) -> bool {
        self.of_services().next().is_none()
            || self.of_services().any(|scope| match scope {
                Scope::Service(of) | Scope::Tool(of, _) | Scope::Category(of, _) => {
                    of.fits(service)
                }
                Scope::Admin(_) => false,
            })
    }

    /// Whether all of a service can be reached: what is not a tool, too.
    pub fn reach_all_of(&self, service: &str) -> bool {
        self.of_services().next().is_none()
            || self
                .of_services()
                .any(|scope| matches!(scope, Scope::Service(of) if of.fits(service)))
    }

    /// Whether a tool of a service can be reached. `is_in` says whether it belongs to a category of the service.
    pub fn reach_tool(&self, service: &str, tool: &str, is_in: impl Fn(&str) -> bool) -> bool {
        self.of_services().next().is_none()
            || self.of_services().any(|scope| match scope {
                Scope::Service(of) => of.fits(service),
                Scope::Tool(of, name) => of.fits(service) && name.fits(tool),
                Scope::Category(of, category) => of.fits(service) && is_in(category),
                Scope::Admin(_) => false,
            })
    }

    /// Whether these reach every service and tool that others reach.
    pub fn cover(&self, others: &Self) -> bool {
        if self.of_services().next().is_none() {
            return true;
        }
        // Without a scope of services everything is reached.
        others.of_services().next().is_some()
            && others
                .of_services()
                .all(|other| self.of_services().any(|mine| mine.covers(other)))
    }

    /// Whether whoever has this role and these scopes may do something with the admin API.
    pub fn may(&self, role: Role, action: AdminAction) -> bool {
        let mut named = self.0.iter().filter_map(|scope| match scope {
            Scope::Admin(action) => Some(*action),
            _ => None,
        });
        let mut is_named = false;
        let is_granted = named.any(|granted| {
            is_named = true;
            granted.is_none_or(|granted| granted == action)
        });
        match role {
            Role::Admin => is_granted || !is_named,
            Role::User => is_granted,
            Role::ReadOnly => is_granted && action == AdminAction::Read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Scopes {
        Scopes::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn without_a_scope_for_services_all_of_them_are_reached_or_none() {
        for texts in [&[][..], &["admin:read"]] {
            let open = scopes(texts);
            assert!(open.reach("tools") && open.reach_all_of("tools"));
            let closed = open.clone().or_no_service();
            assert!(!closed.reach("tools") && !closed.reach_all_of("tools"));
            assert!(!closed.reach_tool("tools", "search", |_| true));
            assert!(open.cover(&closed) && !closed.cover(&open));
            assert_eq!(closed.may(Role::User, AdminAction::Read), !texts.is_empty());
        }
        let narrow = scopes(&["tool:tools/search"]);
        assert_eq!(narrow.clone().or_no_service(), narrow);
    }

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for text in [
            "service:tools",
            "service:*",
            "tool:tools/search",
            "tool:*/search_*",
            "category:tools/publishing",
            "admin:kill",
            "admin:*",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "tools",
            "service:",
            "tool:tools",
            "tool:/x",
            "tool:tools/",
            "service:a b",
            "category:tools/pub*",
            "admin:",
            "admin:root",
            "service:a*b",
            "Service:a",
            "service:a,b",
        ] {
            let refused = text.parse::<Scope>().unwrap_err().to_string();
            assert!(refused.contains("write `service:NAME`"), "{refused}");
        }
    }

    #[test]
    fn a_key_reaches_what_its_scopes_say() {
        let is_in = |category: &str| category == "publishing";
        for (texts, service, tool, whole, some, it) in [
            (&[][..], "tools", "post", true, true, true),
            (&["admin:read"], "tools", "post", true, true, true),
            (&["service:tools"], "tools", "post", true, true, true),
            (&["service:other"], "tools", "post", false, false, false),
            (&["service:to*"], "tools", "post", true, true, true),
            (&["tool:tools/post"], "tools", "post", false, true, true),
            (&["tool:tools/search"], "tools", "post", false, true, false),
            (&["tool:tools/po*"], "tools", "post", false, true, true),
            (
                &["category:tools/publishing"],
                "tools",
                "post",
                false,
                true,
                true,
            ),
            (
                &["category:tools/analytics"],
                "tools",
                "post",
                false,
                true,
                false,
            ),
            (
                &["category:other/publishing"],
                "tools",
                "post",
                false,
                false,
                false,
            ),
        ] {
            let scopes = scopes(texts);
            let got = (
                scopes.reach_all_of(service),
                scopes.reach(service),
                scopes.reach_tool(service, tool, is_in),
            );
            assert_eq!(got, (whole, some, it), "{texts:?}");
        }
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        for (mine, theirs, covered) in [
            (&[][..], &[][..], true),
            (&[], &["service:*"], true),
            (&["admin:keys"], &[], true),
            (&["service:tools"], &[], false),
            (&["service:tools"], &["admin:read"], false),
            (&["service:tools"], &["service:tools"], true),
            (&["service:tools"], &["service:to*"], false),
            (&["service:to*"], &["service:tools", "tool:top/x"], true),
            (&["service:to*"], &["service:tools", "service:other"], false),
            (&["service:*"], &["category:tools/a"], true),
            (&["tool:tools/*"], &["tool:tools/post"], true),
            (&["tool:tools/*"], &["service:tools"], false),
            (&["tool:tools/post"], &["tool:tools/po*"], false),
            (&["tool:tools/po*"], &["tool:tools/post*"], true),
            (&["category:tools/a"], &["category:tools/a"], true),
            (&["category:tools/a"], &["category:tools/b"], false),
            (&["category:tools/a"], &["tool:tools/x"], false),
        ] {
            let (mine, theirs) = (scopes(mine), scopes(theirs));
            assert_eq!(mine.cover(&theirs), covered, "{mine:?} {theirs:?}");
        }
    }

    #[test]
    fn roles_and_scopes_say_what_of_the_admin_api_is_open() {
        use AdminAction::{Kill, Read, Rollback};
        for (role, texts, open) in [
            (Role::Admin, &[][..], &[Read, Rollback, Kill][..]),
            (Role::Admin, &["service:tools"], &[Read, Rollback, Kill]),
            (Role::Admin, &["admin:read", "admin:kill"], &[Read, Kill]),
            (Role::User, &[], &[]),
            (Role::User, &["admin:rollback"], &[Rollback]),
            (Role::User, &["admin:*"], &[Read, Rollback, Kill]),
            (Role::ReadOnly, &["admin:*"], &[Read]),
            (Role::ReadOnly, &["admin:kill"], &[]),
        ] {
            let scopes = scopes(texts);
            for action in [Read, Rollback, Kill] {
                assert_eq!(
                    scopes.may(role, action),
                    open.contains(&action),
                    "{role} {texts:?} {action}"
                );
            }
        }
    }
}
