//! Rules of a service: by what a request is, the version it goes to, a choice of versions, a refusal, or a limit.
//!
//! The rules are asked from the highest priority to the lowest, and the first that fits is the one that applies. Its refusal and its
//! limit hold for every request; where it leads holds for callers who may be assigned: live sessions, minted values and versions chosen
//! by hand come first (`DESIGN.md`, section 5).

mod list;
mod problems;

pub use self::{
    list::RuleList,
    problems::{Meant, REGEXES_MAX, RULES_MAX, problems},
};

use crate::name::{NameError, VersionName};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serin_route::{condition::Condition, source::Source, weigh::Strategy};
use serin_tenancy::{Per, Rate};
use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called, in explanations and metrics.
    pub name: Arc<str>,
    /// The greater comes first. Two rules have the same only if no request fits both.
    pub priority: i32,
    /// Off, it is as if it were not there.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// Which requests it is for; without, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Where they go; without, where they would go without the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Target>,
    /// How one of several versions is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// By what their callers are known again, instead of what the service says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<Source>,
    /// They are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse: Option<Refuse>,
    /// So many of them are taken, beside the limits of their callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RuleLimit>,
}

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// To a version.
    One(Place),
    /// To one of several, by their weights.
    Weighted(BTreeMap<Place, u32>),
}

/// A version, by name or by what it is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Stable, whichever it is.
    Stable,
    /// The candidate of the rollout under way; while there is none, stable.
    Candidate,
    /// This one. Once it is withdrawn, stable.
    Version(VersionName),
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// The status, 400 to 599.
    #[serde(default = "forbidden")]
    pub status: u16,
    /// What the caller is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A limit of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleLimit {
    /// Whose requests are counted together: all of the rule's, unless said.
    #[serde(default = "together")]
    pub per: Per,
    /// How many in which time.
    pub rate: Rate,
    /// How many at once after a quiet time; as many as the rate has, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_yes(value: &bool) -> bool {
    *value
}

fn forbidden() -> u16 {
    403
}

fn together() -> Per {
    Per::Service
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Target;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version, or several with weights such as `{ v1: 90, v2: 10 }`")
            }

            fn visit_str<E: serde::de::Error>(self, place: &str) -> Result<Target, E> {
                place.parse().map(Target::One).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Target, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Target::Weighted)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Place {
    const STABLE: &str = "stable";
    const CANDIDATE: &str = "candidate";
}

impl FromStr for Place {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text {
            Self::STABLE => Self::Stable,
            Self::CANDIDATE => Self::Candidate,
            name => Self::Version(name.parse()?),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stable => Self::STABLE,
            Self::Candidate => Self::CANDIDATE,
            Self::Version(name) => name.as_str(),
        })
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
