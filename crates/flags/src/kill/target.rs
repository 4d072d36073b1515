//! What can be killed.

use crate::{
    environment::{Environment, EnvironmentError},
    key::{FlagKey, TenantId},
};
use serde::{Deserialize, Serialize, de::Error as _};
use std::{fmt, str::FromStr, sync::Arc};

/// Longest name of a service, version or tool in a target, in bytes.
pub const TARGET_NAME_BYTES_MAX: usize = 256;

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
pub enum TargetError {
    /// It begins with no kind of target, or what follows is no name.
    #[error(
        "`{0}` is not something that can be killed: write system, environment:NAME, service:NAME, version:SERVICE/VERSION, tool:SERVICE/TOOL (tool:*/TOOL for every service), tenant:ID, flag:KEY or flags"
    )]
    Unknown(String),
    /// There is no such environment.
    #[error("`environment:...` is not something that can be killed: {0}")]
    Environment(#[from] EnvironmentError),
}

impl Target {
    /// Whether it stops everything of its kind: such a kill is never refused for want of room.
    pub const fn is_broad(&self) -> bool {
        matches!(self, Self::System | Self::Environment(_) | Self::Flags)
    }

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
        let wrong = || TargetError::Unknown(text.chars().take(80).collect());
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
            "environment" => Ok(Self::Environment(rest.parse()?)),
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
