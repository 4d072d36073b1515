//! The latch: the book of kills in the form in which the way of a request asks.

use super::{Kills, Position, Target};
use crate::{environment::Environment, names::Names};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// How something is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// One call in so many goes through, to see whether it works again; none goes through without.
    pub one_in: Option<u32>,
    /// Since when.
    pub at: Timestamp,
    /// Calls in flight may go on for so long, in seconds.
    pub grace_seconds: u32,
    /// The kind of target that is stopped, as [`Target::scope`] has it.
    pub scope: &'static str,
}

/// The one of two that lets less through: what is probed in one scope may be killed in another.
fn stricter<'a>(
    stop: Option<&'a Stop>,
    other: impl FnOnce() -> Option<&'a Stop>,
) -> Option<&'a Stop> {
    match stop {
        Some(Stop { one_in: None, .. }) => stop,
        None => other(),
        Some(Stop {
            one_in: Some(n), ..
        }) => match other() {
            Some(other) if other.one_in.is_none_or(|m| m > *n) => Some(other),
            _ => stop,
        },
    }
}

/// What is stopped, in the form in which the way of a request asks: a few reads of hash tables, and one read when nothing is.
#[derive(Clone, Debug)]
pub struct Latch {
    generation: u64,
    is_open: bool,
    system: Option<Stop>,
    environments: BTreeMap<Environment, Stop>,
    services: Names<Stop>,
    /// By version, then by service: the version of a call is almost never among them.
    versions: Names<BTreeMap<Arc<str>, Stop>>,
    /// By tool, then by service.
    tools: Names<BTreeMap<Arc<str>, Stop>>,
    /// The services of these tools.
    services_of_tools: Names<()>,
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
            services_of_tools: Names::default(),
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
        let stop = self.system.as_ref();
        let stop = stricter(stop, || self.environments.get(&environment));
        let stop = stricter(stop, || self.services.get(service));
        stricter(stop, || self.tenants.get(tenant?))
    }

    /// Whether a version is stopped.
    pub fn stops_version(&self, service: &str, version: &str) -> Option<&Stop> {
        if self.is_open {
            return None;
        }
        self.versions.get(version)?.get(service)
    }

    /// Whether a tool is stopped.
    pub fn stops_tool(&self, service: &str, tool: &str) -> Option<&Stop> {
        if self.is_open {
            return None;
        }
        let (services, anywhere) = self.tools.get_both(&self.tools_anywhere, tool);
        let stop = services.and_then(|services| services.get(service));
        stricter(stop, || anywhere)
    }

    /// Whether any tool of a service is stopped: only then do calls have to be looked into.
    pub fn stops_tools_of(&self, service: &str) -> bool {
        !self.is_open
            && (!self.tools_anywhere.is_empty() || self.services_of_tools.contains_key(service))
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

impl Kills {
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
                scope: kill.target.scope(),
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
                    let services = latch.versions.entry(version.clone()).or_default();
                    services.insert(service.clone(), stop);
                }
                Target::Tool { service, tool } => {
                    if let Some(service) = service {
                        latch.services_of_tools.insert(service.clone(), ());
                        let services = latch.tools.entry(tool.clone()).or_default();
                        services.insert(service.clone(), stop);
                    } else {
                        latch.tools_anywhere.insert(tool.clone(), stop);
                    }
                }
                Target::Tenant(tenant) => {
                    latch.tenants.insert(tenant.as_str().into(), stop);
                }
                // A flag answers one thing or the other: there is no half of it to try.
                Target::Flag(_) | Target::Flags if stop.one_in.is_some() => {}
                Target::Flag(flag) => {
                    latch.flags.insert(flag.as_str().into());
                }
                Target::Flags => latch.all_flags = true,
            }
        }
        latch
    }
}
