//! Kills: what is stopped, by whom and why, and the latch by which that is asked on the way of every request.
//!
//! The book holds one record a target. Of two records the higher generation wins, and a tie means killed, so that books from the
//! kill file, the log and other nodes can be merged in any order.

use crate::{
    environment::Environment,
    key::{FlagKey, TenantId},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::Error as _};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// Longest name of a service, version or tool in a target, in bytes.
pub const TARGET_NAME_BYTES_MAX: usize = 256;
/// Longest reason of a kill, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// What a kill stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Everything: `system`.
    System,
    /// Everything in an environment: `environment:production`.
    Environment(Environment),
    /// A service: `service:tools`.
    Service(Arc<str>),
    /// A version of a service: `version:tools/v2.0.0`. Its callers get stable, if stable is another one.
    Version {
        /// The service.
        service: Arc<str>,
        /// The version.
        version: Arc<str>,
    },
    /// A tool: `tool:tools/search`, or of every service `tool:*/search`.
    Tool {
        /// The service; none for all.
        service: Option<Arc<str>>,
        /// The tool.
        tool: Arc<str>,
    },
    /// Whatever a tenant calls: `tenant:acme`.
    Tenant(TenantId),
    /// A flag: `flag:new_search`. It answers its off variant.
    Flag(FlagKey),
    /// All flags: `flags`. They answer their off variants.
    Flags,
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not something that can be killed: write system, environment:NAME, service:NAME, version:SERVICE/VERSION, tool:SERVICE/TOOL (tool:*/TOOL for every service), tenant:ID, flag:KEY or flags"
)]
pub struct TargetError(String);

impl Target {
    /// What kind it is: the value of the `scope` label.
    pub const fn scope(&self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Environment(_) => "environment",
            Self::Service(_) => "service",
            Self::Version { .. } => "version",
            Self::Tool { .. } => "tool",
            Self::Tenant(_) => "tenant",
            Self::Flag(_) => "flag",
            Self::Flags => "flags",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System | Self::Flags => f.write_str(self.scope()),
            Self::Environment(environment) => write!(f, "environment:{environment}"),
            Self::Service(service) => write!(f, "service:{service}"),
            Self::Version { service, version } => write!(f, "version:{service}/{version}"),
            Self::Tool { service, tool } => {
                write!(f, "tool:{}/{tool}", service.as_deref().unwrap_or("*"))
            }
            Self::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Self::Flag(flag) => write!(f, "flag:{flag}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError(text.chars().take(80).collect());
        let name = |name: &str| -> Result<Arc<str>, TargetError> {
            let fine = (1..=TARGET_NAME_BYTES_MAX).contains(&name.len())
                && !name.chars().any(|c| c.is_control() || c == '/');
            if fine { Ok(name.into()) } else { Err(wrong()) }
        };
        let (scope, rest) = match text.split_once(':') {
            Some((scope, rest)) => (scope, rest),
            None if text == "system" => return Ok(Self::System),
            None if text == "flags" => return Ok(Self::Flags),
            None => return Err(wrong()),
        };
        match scope {
            "environment" => rest.parse().map(Self::Environment).map_err(|_| wrong()),
            "service" => Ok(Self::Service(name(rest)?)),
            "version" => {
                let (service, version) = rest.split_once('/').ok_or_else(wrong)?;
                Ok(Self::Version {
                    service: name(service)?,
                    version: name(version)?,
                })
            }
            "tool" => {
                let (service, tool) = rest.split_once('/').ok_or_else(wrong)?;
                let service = if service == "*" {
                    None
                } else {
                    Some(name(service)?)
                };
                // Tools may have a slash in their names.
                let fine = (1..=TARGET_NAME_BYTES_MAX).contains(&tool.len())
                    && !tool.chars().any(char::is_control);
                let tool = if fine {
                    tool.into()
                } else {
                    return Err(wrong());
                };
                Ok(Self::Tool { service, tool })
            }
            "tenant" => rest.parse().map(Self::Tenant).map_err(|_| wrong()),
            "flag" => rest.parse().map(Self::Flag).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// How urgent a kill is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// P3.
    Low,
    /// P2.
    #[default]
    Medium,
    /// P1.
    High,
    /// P0.
    Critical,
}

/// Who pulled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A person or program, through the admin API.
    Manual,
    /// Somebody on the machine, past the admin API.
    BreakGlass,
    /// A kill switch of this name, by its trigger.
    Switch(Arc<str>),
}

/// Where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Stopped.
    Killed,
    /// Lets one call in so many through, to see whether it works again. At least 1.
    Probing {
        /// One in so many.
        one_in: u32,
    },
    /// As if nothing had been.
    Revived,
}

/// The record of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// What is stopped.
    pub target: Target,
    /// Counts up with every change in the book: the revision that whoever revives must have seen.
    pub generation: u64,
    /// Where it is.
    pub position: Position,
    /// When it came there.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Who pulled it.
    pub cause: Cause,
    /// How urgent.
    #[serde(default)]
    pub priority: Priority,
    /// Calls in flight may go on for so long, in seconds.
    #[serde(default)]
    pub grace_seconds: u32,
    /// How often it was tried to recover by itself.
    #[serde(default)]
    pub attempts: u32,
}

/// The book of kills: the last record of each target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kills {
    records: BTreeMap<Target, Kill>,
}

impl Kills {
    /// The record of a target.
    pub fn get(&self, target: &Target) -> Option<&Kill> {
        self.records.get(target)
    }

    /// The records, in the order of their targets.
    pub fn iter(&self) -> impl Iterator<Item = &Kill> {
        self.records.values()
    }

    /// Those that stop something now.
    pub fn active(&self) -> impl Iterator<Item = &Kill> {
        self.iter()
            .filter(|kill| kill.position != Position::Revived)
    }

    /// The highest generation so far.
    pub fn generation(&self) -> u64 {
        self.iter().map(|kill| kill.generation).max().unwrap_or(0)
    }

    /// Takes a record if it is newer than the one there is: the higher generation wins, and a tie means killed. Whether it was taken.
    pub fn take(&mut self, kill: Kill) -> bool {
        let is_newer = self.records.get(&kill.target).is_none_or(|before| {
            kill.generation > before.generation
                || (kill.generation == before.generation
                    && kill.position == Position::Killed
                    && before.position != Position::Killed)
        });
        if is_newer {
            self.records.insert(kill.target.clone(), kill);
        }
        is_newer
    }

    /// What the data plane asks, for a process in an environment.
    pub fn latch(&self) -> Latch {
        let mut latch = Latch {
            generation: self.generation(),
            ..Latch::default()
        };
        for kill in self.active() {
            latch.is_open = false;
            let stop = Stop {
                one_in: match kill.position {
                    Position::Probing { one_in } => Some(one_in.max(1)),
                    Position::Killed | Position::Revived => None,
                },
                at: kill.at,
                grace_seconds: kill.grace_seconds,
            };
            match &kill.target {
                Target::System => latch.system = Some(stop),
                Target::Environment(environment) => {
                    latch.environments.insert(*environment, stop);
                }
                Target::Service(service) => {
                    latch.services.insert(service.clone(), stop);
                }
                Target::Version { service, version } => {
                    let versions = latch.versions.entry(service.clone()).or_default();
                    versions.insert(version.clone(), stop);
                }
                Target::Tool { service, tool } => {
                    let tools = match service {
                        Some(service) => latch.tools.entry(service.clone()).or_default(),
                        None => &mut latch.tools_anywhere,
                    };
                    tools.insert(tool.clone(), stop);
                }
                Target::Tenant(tenant) => {
                    latch.tenants.insert(tenant.as_str().into(), stop);
                }
                Target::Flag(flag) => {
                    latch.flags.insert(flag.as_str().into());
                }
                Target::Flags => latch.all_flags = true,
            }
        }
        latch
    }
}

/// How something is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// One call in so many goes through, to see whether it works again; none goes through without.
    pub one_in: Option<u32>,
    /// Since when.
    pub at: Timestamp,
    /// Calls in flight may go on for so long, in seconds.
    pub grace_seconds: u32,
}

type Names<T> = HashMap<Arc<str>, T, foldhash::fast::FixedState>;

/// What is stopped, in the form in which the way of a request asks: a few reads of hash tables, and one read when nothing is.
#[derive(Clone, Debug)]
pub struct Latch {
    generation: u64,
    is_open: bool,
    system: Option<Stop>,
    environments: BTreeMap<Environment, Stop>,
    services: Names<Stop>,
    versions: Names<Names<Stop>>,
    tools: Names<Names<Stop>>,
    tools_anywhere: Names<Stop>,
    tenants: Names<Stop>,
    flags: HashSet<Arc<str>, foldhash::fast::FixedState>,
    all_flags: bool,
}

impl Default for Latch {
    fn default() -> Self {
        Self {
            generation: 0,
            is_open: true,
            system: None,
            environments: BTreeMap::new(),
            services: Names::default(),
            versions: Names::default(),
            tools: Names::default(),
            tools_anywhere: Names::default(),
            tenants: Names::default(),
            flags: HashSet::default(),
            all_flags: false,
        }
    }
}

impl Latch {
    /// The generation of the book it was made of.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing at all is stopped.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether calls of a service by a tenant are stopped, whatever they ask: by system, environment, service or tenant.
    pub fn stops_service(
        &self,
        environment: Environment,
        service: &str,
        tenant: Option<&str>,
    ) -> Option<&Stop> {
        if self.is_open {
            return None;
        }
        self.system
            .as_ref()
            .or_else(|| self.environments.get(&environment))
            .or_else(|| self.services.get(service))
            .or_else(|| self.tenants.get(tenant?))
    }

    /// Whether a version is stopped.
    pub fn stops_version(&self, service: &str, version: &str) -> Option<&Stop> {
        if self.is_open {
            return None;
        }
        self.versions.get(service)?.get(version)
    }

    /// Whether a tool is stopped.
    pub fn stops_tool(&self, service: &str, tool: &str) -> Option<&Stop> {
        if self.is_open {
            return None;
        }
        self.tools
            .get(service)
            .and_then(|tools| tools.get(tool))
            .or_else(|| self.tools_anywhere.get(tool))
    }

    /// Whether any tool of a service is stopped: only then do calls have to be looked into.
    pub fn stops_tools_of(&self, service: &str) -> bool {
        !self.is_open && (!self.tools_anywhere.is_empty() || self.tools.contains_key(service))
    }

    /// Whether all flags answer their off variants, for a tenant in an environment.
    pub fn stops_flags(&self, tenant: Option<&str>, environment: Environment) -> bool {
        !self.is_open
            && (self.all_flags
                || self.system.is_some()
                || self.environments.contains_key(&environment)
                || tenant.is_some_and(|tenant| self.tenants.contains_key(tenant)))
    }

    /// Whether a flag answers its off variant.
    pub fn stops_flag(&self, key: &str) -> bool {
        !self.is_open && self.flags.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_are_written() {
        for text in [
            "system",
            "environment:production",
            "service:tools",
            "version:tools/v2.0.0",
            "tool:tools/search",
            "tool:*/a/b",
            "tenant:acme",
            "flag:new_search",
            "flags",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "tools",
            "tool:",
            "tool:search",
            "version:tools",
            "flag:",
            "flag:a b",
            "environment:moon",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
