//! Kills: what is stopped, by whom and why, and the latch by which that is asked on the way of every request.
//!
//! The book holds one record a target. Of two records the higher generation wins, and a tie means killed, so that books from the
//! kill file, the log and other nodes can be merged in any order.

use crate::{
    environment::Environment,
    key::{FlagKey, TenantId},
    names::Names,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::Error as _};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// Longest name of a service, version or tool in a target, in bytes.
pub const TARGET_NAME_BYTES_MAX: usize = 256;
/// Longest reason of a kill, in characters.
pub const REASON_CHARS_MAX: usize = 500;
/// Longest name of who kills, in characters.
pub const ACTOR_CHARS_MAX: usize = 100;
/// Records that a book holds: so many targets at once are no longer single faults, and a service or the system is killed in their
/// place. Revived ones make room; kills of the system, an environment or all flags need none.
pub const RECORDS_MAX: usize = 1000;
/// Longest time that calls in flight may go on for after a kill, in seconds: an hour.
pub const GRACE_SECONDS_MAX: u32 = 3600;

/// What a kill switch kills again so soon after it came back by itself has not recovered: its attempts count on.
pub const RELAPSE: SignedDuration = SignedDuration::from_hours(1);

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

impl Kill {
    /// Whether it stops something, if not everything.
    pub fn is_active(&self) -> bool {
        self.position != Position::Revived
    }

    /// What decides between two records of a target. The generation does, then what stops more; the rest only makes the choice the
    /// same in whatever order they come.
    fn rank(&self) -> impl PartialOrd + '_ {
        let stops = match self.position {
            Position::Killed => (2, 0),
            Position::Probing { one_in } => (1, one_in),
            Position::Revived => (0, 0),
        };
        let how = (self.priority, self.grace_seconds, self.attempts);
        let whose = (&self.cause, self.actor.as_str(), self.reason.as_str());
        (self.generation, stops, self.at, how, whose)
    }
}

/// The wish that something be killed.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// What.
    pub target: Target,
    /// By whom. Needed.
    pub actor: String,
    /// Why. Needed.
    pub reason: String,
    /// Who pulls it.
    pub cause: Cause,
    /// How urgent.
    pub priority: Priority,
    /// Calls in flight may go on for so long, in seconds.
    pub grace_seconds: u32,
}

/// The wish that something killed be revived.
#[derive(Clone, Debug, PartialEq)]
pub struct Revival {
    /// What.
    pub target: Target,
    /// The generation of the record that whoever asks has seen.
    pub seen: u64,
    /// By whom. Needed.
    pub actor: String,
    /// Why. Needed.
    pub reason: String,
    /// Who revives: a kill switch revives only what it killed itself.
    pub cause: Cause,
}

/// Why a book stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// Nobody says who it is.
    #[error("a kill and a revival need somebody who answers for them")]
    NoActor,
    /// Nobody says why.
    #[error("`{0}` needs a reason")]
    NoReason(Target),
    /// A reason that is too long.
    #[error("the reason has {0} characters")]
    LongReason(usize),
    /// A name that is too long.
    #[error("the name of who acts has {0} characters")]
    LongActor(usize),
    /// A grace that is too long.
    #[error("a grace of {0} seconds")]
    LongGrace(u32),
    /// As many targets are killed as a book holds.
    #[error("{RECORDS_MAX} targets are killed already")]
    Full,
    /// It is not killed.
    #[error("`{0}` is not killed")]
    NotKilled(Target),
    /// It was changed since.
    #[error("the kill of `{target}` is at revision {now}, not {seen}")]
    Stale {
        /// What.
        target: Target,
        /// The revision that was seen.
        seen: u64,
        /// The revision that it has.
        now: u64,
    },
    /// It was killed by a person, or by another switch.
    #[error("`{target}` was killed by {actor}, which this switch may not change")]
    NotOurs {
        /// What.
        target: Target,
        /// By whom.
        actor: String,
    },
}

impl KillError {
    /// What to do.
    pub fn help(&self) -> String {
        match self {
            Self::NoActor => "name who acts".to_owned(),
            Self::NoReason(_) => "add `--reason \"...\"`: whoever looks at it at night needs it".to_owned(),
            Self::LongReason(_) => format!("say it in at most {REASON_CHARS_MAX}"),
            Self::LongActor(_) => format!("use at most {ACTOR_CHARS_MAX}"),
            Self::LongGrace(_) => format!("allow at most {GRACE_SECONDS_MAX}, or 0 for none"),
            Self::Full => "kill a service, an environment, all flags or the system in their place, or revive some".to_owned(),
            Self::NotKilled(_) => "`serin kills` shows what is".to_owned(),
            Self::Stale { target, .. } => {
                format!("look at it with `serin kills`, and revive {target} with the revision it shows")
            }
            Self::NotOurs { target, .. } => format!("revive it by hand: `serin revive {target}`"),
        }
    }

    /// Whether the wish itself is wrong, not only at odds with the book.
    pub const fn is_invalid(&self) -> bool {
        matches!(
            self,
            Self::NoActor
                | Self::NoReason(_)
                | Self::LongReason(_)
                | Self::LongActor(_)
                | Self::LongGrace(_)
        )
    }
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
        self.iter().filter(|kill| kill.is_active())
    }

    /// The highest generation so far.
    pub fn generation(&self) -> u64 {
        self.iter().map(|kill| kill.generation).max().unwrap_or(0)
    }

    /// Takes a record if it is newer than the one there is: the higher generation wins, and a tie means killed. Whether it was taken.
    pub fn take(&mut self, kill: Kill) -> bool {
        let before = self.records.get(&kill.target);
        let is_newer = before.is_none_or(|before| kill.rank() > before.rank());
        if is_newer {
            self.records.insert(kill.target.clone(), kill);
        }
        is_newer
    }

    /// Takes all records of another book that are newer. Whether any was.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut taken = false;
        for kill in other.iter() {
            taken |= self.take(kill.clone());
        }
        taken
    }

    /// The record by which a wish comes true, for [`take`](Self::take). None where a kill switch wants what a person has done already:
    /// an automatic kill never takes the place of one that only a person may revive.
    pub fn kill(&self, wish: Wish, at: Timestamp) -> Result<Option<Kill>, KillError> {
        check_words(&wish.target, &wish.actor, &wish.reason)?;
        if wish.grace_seconds > GRACE_SECONDS_MAX {
            return Err(KillError::LongGrace(wish.grace_seconds));
        }
        let before = self.get(&wish.target);
        let active = before.filter(|before| before.is_active());
        if let (Some(active), Cause::Switch(switch)) = (active, &wish.cause)
            && active.position == Position::Killed
            && !is_of(active, switch)
        {
            return Ok(None);
        }
        let needs_room = before.is_none() && !wish.target.is_broad();
        if needs_room && self.records.len() >= RECORDS_MAX && self.oldest_revived().is_none() {
            return Err(KillError::Full);
        }
        // Whoever revived it by hand has set its attempts to 0.
        let relapsed = before.filter(|before| {
            before.cause == wish.cause
                && matches!(wish.cause, Cause::Switch(_))
                && at.duration_since(before.at) < RELAPSE
        });
        let attempts = relapsed.map_or(0, |before| before.attempts);
        Ok(Some(Kill {
            target: wish.target,
            generation: self.generation() + 1,
            position: Position::Killed,
            at,
            actor: line(&wish.actor),
            reason: line(&wish.reason),
            cause: wish.cause,
            priority: wish.priority,
            grace_seconds: wish.grace_seconds,
            attempts,
        }))
    }

    /// The record by which something is revived, for [`take`](Self::take) once the log has it.
    pub fn revive(&self, wish: Revival, at: Timestamp) -> Result<Kill, KillError> {
        check_words(&wish.target, &wish.actor, &wish.reason)?;
        let active = self.get(&wish.target).filter(|kill| kill.is_active());
        let Some(active) = active else {
            return Err(KillError::NotKilled(wish.target));
        };
        if active.generation != wish.seen {
            return Err(KillError::Stale {
                target: wish.target,
                seen: wish.seen,
                now: active.generation,
            });
        }
        refuse_others(active, &wish.cause)?;
        let by_itself = matches!(wish.cause, Cause::Switch(_));
        Ok(Kill {
            generation: self.generation() + 1,
            position: Position::Revived,
            attempts: if by_itself { active.attempts } else { 0 },
            at,
            actor: line(&wish.actor),
            reason: line(&wish.reason),
            ..active.clone()
        })
    }

    /// The record by which a kill switch moves what it killed itself: to probing, or back to killed.
    pub fn shift(
        &self,
        target: &Target,
        switch: &Arc<str>,
        (position, attempts): (Position, u32),
        reason: String,
        at: Timestamp,
    ) -> Result<Kill, KillError> {
        let active = self.get(target).filter(|kill| kill.is_active());
        let Some(active) = active else {
            return Err(KillError::NotKilled(target.clone()));
        };
        refuse_others(active, &Cause::Switch(switch.clone()))?;
        Ok(Kill {
            generation: self.generation() + 1,
            position,
            at,
            reason,
            attempts,
            ..active.clone()
        })
    }

    /// Drops the oldest revived records beyond what a book holds. Never one that stops something, and never the newest: from its
    /// generation the next one counts on.
    pub fn trim(&mut self) {
        while self.records.len() > RECORDS_MAX {
            let Some(oldest) = self.oldest_revived() else {
                return;
            };
            self.records.remove(&oldest);
        }
    }

    fn oldest_revived(&self) -> Option<Target> {
        let newest = self.generation();
        let revived = self
            .iter()
            .filter(|kill| kill.position == Position::Revived && kill.generation < newest);
        revived
            .min_by_key(|kill| kill.generation)
            .map(|kill| kill.target.clone())
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

fn check_words(target: &Target, actor: &str, reason: &str) -> Result<(), KillError> {
    if actor.trim().is_empty() {
        return Err(KillError::NoActor);
    }
    let actor = actor.chars().count();
    if actor > ACTOR_CHARS_MAX {
        return Err(KillError::LongActor(actor));
    }
    if reason.trim().is_empty() {
        return Err(KillError::NoReason(target.clone()));
    }
    let reason = reason.chars().count();
    if reason > REASON_CHARS_MAX {
        return Err(KillError::LongReason(reason));
    }
    Ok(())
}

/// What is shown in a line of a terminal moves no cursor there.
fn line(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}

fn is_of(kill: &Kill, switch: &Arc<str>) -> bool {
    matches!(&kill.cause, Cause::Switch(name) if name == switch)
}

/// A kill switch touches only what it killed itself; people may do anything.
fn refuse_others(active: &Kill, cause: &Cause) -> Result<(), KillError> {
    match cause {
        Cause::Switch(switch) if !is_of(active, switch) => Err(KillError::NotOurs {
            target: active.target.clone(),
            actor: active.actor.clone(),
        }),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn wish(target: &str, cause: Cause) -> Wish {
        Wish {
            target: target.parse().unwrap(),
            actor: "ops".to_owned(),
            reason: "because".to_owned(),
            cause,
            priority: Priority::High,
            grace_seconds: 30,
        }
    }

    fn revival(target: &str, seen: u64) -> Revival {
        Revival {
            target: target.parse().unwrap(),
            seen,
            actor: "ops".to_owned(),
            reason: "mended".to_owned(),
            cause: Cause::Manual,
        }
    }

    fn book(targets: &[&str]) -> Kills {
        let mut book = Kills::default();
        for target in targets {
            let kill = book.kill(wish(target, Cause::Manual), Timestamp::UNIX_EPOCH);
            assert!(book.take(kill.unwrap().unwrap()));
        }
        book
    }

    #[test]
    fn a_kill_needs_who_and_why_and_is_bounded() {
        let book = Kills::default();
        let at = Timestamp::UNIX_EPOCH;
        let fine = || wish("system", Cause::Manual);
        let long = |chars: usize| "é".repeat(chars);
        for (wrong, want) in [
            (
                Wish {
                    actor: " ".into(),
                    ..fine()
                },
                "answers for them",
            ),
            (
                Wish {
                    reason: "\t".into(),
                    ..fine()
                },
                "needs a reason",
            ),
            (
                Wish {
                    actor: long(ACTOR_CHARS_MAX + 1),
                    ..fine()
                },
                "101 characters",
            ),
            (
                Wish {
                    reason: long(REASON_CHARS_MAX + 1),
                    ..fine()
                },
                "501 characters",
            ),
            (
                Wish {
                    grace_seconds: GRACE_SECONDS_MAX + 1,
                    ..fine()
                },
                "3601 seconds",
            ),
        ] {
            let error = book.kill(wrong, at).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
            assert!(error.is_invalid() && !error.help().is_empty(), "{error}");
        }
        let most = Wish {
            actor: long(ACTOR_CHARS_MAX),
            reason: long(REASON_CHARS_MAX),
            grace_seconds: GRACE_SECONDS_MAX,
            ..fine()
        };
        assert!(book.kill(most, at).is_ok());
        let odd = Wish {
            reason: " two\nlines\u{1b}[2J ".into(),
            ..fine()
        };
        let kill = book.kill(odd, at).unwrap().unwrap();
        assert_eq!(kill.reason, "two lines [2J");
    }

    #[test]
    fn a_revival_needs_the_revision_that_is_there() {
        let at = Timestamp::UNIX_EPOCH;
        let mut book = book(&["system", "flags"]);
        assert_eq!(book.get(&Target::Flags).unwrap().generation, 2);
        for (wrong, want) in [
            (revival("flags", 1), "at revision 2, not 1"),
            (revival("flags", 3), "at revision 2, not 3"),
            (revival("tenant:acme", 0), "not killed"),
            (
                Revival {
                    reason: String::new(),
                    ..revival("flags", 2)
                },
                "needs a reason",
            ),
        ] {
            let error = book.revive(wrong, at).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
            assert!(!error.help().is_empty());
        }
        let revived = book.revive(revival("flags", 2), at).unwrap();
        assert!(book.take(revived.clone()));
        assert!(
            !book.latch().stops_flags(None, Environment::Production)
                || book.latch().system.is_some()
        );
        assert_eq!(
            book.revive(revival("flags", 3), at),
            Err(KillError::NotKilled(Target::Flags))
        );
        // Somebody who killed it at the same moment wins.
        let mut other = book.get(&Target::Flags).unwrap().clone();
        other.position = Position::Killed;
        assert!(book.take(other) && !book.take(revived));
    }

    #[test]
    fn a_switch_touches_only_what_it_killed() {
        let at = Timestamp::UNIX_EPOCH;
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut book = book(&["system"]);
        let by_a = || wish("system", Cause::Switch(a.clone()));
        assert_eq!(book.kill(by_a(), at), Ok(None), "a person has killed it");
        assert!(
            book.shift(
                &Target::System,
                &a,
                (Position::Revived, 0),
                "well".into(),
                at
            )
            .is_err()
        );
        let revive_by_a = |seen| Revival {
            cause: Cause::Switch(a.clone()),
            ..revival("system", seen)
        };
        assert!(matches!(
            book.revive(revive_by_a(1), at),
            Err(KillError::NotOurs { .. })
        ));
        book.take(book.revive(revival("system", 1), at).unwrap());

        book.take(book.kill(by_a(), at).unwrap().unwrap());
        assert_eq!(
            book.kill(wish("system", Cause::Switch(b.clone())), at),
            Ok(None)
        );
        let probing = (Position::Probing { one_in: 10 }, 1);
        assert!(
            book.shift(&Target::System, &b, probing, "try".into(), at)
                .is_err()
        );
        book.take(
            book.shift(&Target::System, &a, probing, "try".into(), at)
                .unwrap(),
        );
        let stop = *book
            .latch()
            .stops_service(Environment::Test, "tools", None)
            .unwrap();
        assert_eq!(stop.one_in, Some(10));
        // A person who kills it too takes it over.
        book.take(
            book.kill(wish("system", Cause::Manual), at)
                .unwrap()
                .unwrap(),
        );
        let now = book.get(&Target::System).unwrap().generation;
        assert!(matches!(
            book.revive(revive_by_a(now), at),
            Err(KillError::NotOurs { .. })
        ));
        assert!(book.revive(revival("system", now), at).is_ok());
    }

    #[test]
    fn what_relapses_has_used_up_its_attempts() {
        let cause = Cause::Switch("s".into());
        let mut book = Kills::default();
        let mut at = Timestamp::UNIX_EPOCH;
        let kill = |book: &mut Kills, at| {
            book.take(
                book.kill(wish("system", cause.clone()), at)
                    .unwrap()
                    .unwrap(),
            );
            book.get(&Target::System).unwrap().clone()
        };
        let revive = |book: &mut Kills, cause: Cause, at| {
            let seen = book.get(&Target::System).unwrap().generation;
            book.take(
                book.revive(
                    Revival {
                        cause,
                        ..revival("system", seen)
                    },
                    at,
                )
                .unwrap(),
            );
        };
        assert_eq!(kill(&mut book, at).attempts, 0);
        let probing = (Position::Probing { one_in: 2 }, 1);
        book.take(
            book.shift(&Target::System, &"s".into(), probing, "try".into(), at)
                .unwrap(),
        );
        revive(&mut book, cause.clone(), at);
        at += RELAPSE - SignedDuration::from_secs(1);
        assert_eq!(
            kill(&mut book, at).attempts,
            1,
            "it came back and broke again"
        );
        revive(&mut book, cause.clone(), at);
        at += RELAPSE;
        assert_eq!(kill(&mut book, at).attempts, 0, "that is another time");
        book.take(
            book.shift(&Target::System, &"s".into(), probing, "try".into(), at)
                .unwrap(),
        );
        revive(&mut book, Cause::Manual, at);
        assert_eq!(
            kill(&mut book, at).attempts,
            0,
            "a person says that it is mended"
        );
    }

    #[test]
    fn a_full_book_drops_what_was_revived_and_refuses_nothing_broad() {
        let at = Timestamp::UNIX_EPOCH;
        let names: Vec<_> = (0..RECORDS_MAX).map(|n| format!("tool:a/{n}")).collect();
        let mut book = book(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let one_more = || wish("tool:a/more", Cause::Manual);
        assert_eq!(book.kill(one_more(), at), Err(KillError::Full));
        assert!(book.kill(wish("system", Cause::Manual), at).is_ok());
        for n in [5, 3] {
            book.take(book.revive(revival(&names[n], n as u64 + 1), at).unwrap());
        }
        let generation = book.generation();
        book.take(book.kill(one_more(), at).unwrap().unwrap());
        book.trim();
        assert_eq!(book.iter().count(), RECORDS_MAX);
        assert_eq!(book.generation(), generation + 1);
        assert!(
            book.get(&names[5].parse().unwrap()).is_none(),
            "it was revived first"
        );
        assert!(book.get(&names[3].parse().unwrap()).is_some());
        assert_eq!(book.active().count(), RECORDS_MAX - 1);
    }

    fn targets() -> impl Strategy<Value = Target> {
        let texts = [
            "system",
            "flags",
            "environment:test",
            "environment:production",
            "service:a",
            "service:b",
            "version:a/v1",
            "version:a/v2",
            "tool:a/x",
            "tool:b/x",
            "tool:*/x",
            "tool:*/y",
            "tenant:t",
            "tenant:u",
            "flag:f",
            "flag:g",
        ];
        proptest::sample::select(texts.map(|text| text.parse().unwrap()).to_vec())
    }

    fn records() -> impl Strategy<Value = Kill> {
        let position = prop_oneof![
            Just(Position::Killed),
            Just(Position::Revived),
            (1..4u32).prop_map(|one_in| Position::Probing { one_in }),
        ];
        let cause = prop_oneof![
            Just(Cause::Manual),
            Just(Cause::BreakGlass),
            Just(Cause::Switch("s".into()))
        ];
        (targets(), 1..4u64, position, cause, 0..3i64, "[ab]", "[ab]").prop_map(
            |(target, generation, position, cause, at, actor, reason)| Kill {
                target,
                generation,
                position,
                at: Timestamp::from_second(at).unwrap(),
                actor,
                reason,
                cause,
                priority: Priority::Low,
                grace_seconds: 0,
                attempts: 0,
            },
        )
    }

    fn books() -> impl Strategy<Value = Kills> {
        proptest::collection::vec(records(), 0..12).prop_map(|records| {
            let mut book = Kills::default();
            for record in records {
                book.take(record);
            }
            book
        })
    }

    fn merged(a: &Kills, b: &Kills) -> Kills {
        let mut a = a.clone();
        a.merge(b);
        a
    }

    proptest! {
        #[test]
        fn books_merge_in_any_order(a in books(), b in books(), c in books()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a);
        }

        #[test]
        fn a_tie_means_killed(a in books(), b in books()) {
            for kill in merged(&a, &b).iter() {
                let both = [a.get(&kill.target), b.get(&kill.target)].into_iter().flatten();
                let highest = both.clone().map(|kill| kill.generation).max();
                let mut tied = both.filter(|kill| Some(kill.generation) == highest);
                let is_killed = tied.any(|kill| kill.position == Position::Killed);
                prop_assert_eq!(kill.position == Position::Killed, is_killed);
            }
        }

        #[test]
        fn trimming_leaves_a_small_book_alone(book in books()) {
            let mut trimmed = book.clone();
            trimmed.trim();
            prop_assert_eq!(trimmed, book);
        }

        /// The latch answers as somebody would who reads the book from front to back.
        #[test]
        fn the_latch_says_what_the_book_says(
            book in books(),
            environment in proptest::sample::select(Environment::ALL.to_vec()),
            service in "[abc]", version in "v[12]", tool in "[xyz]",
            tenant in proptest::option::of("[tuv]"), flag in "[fgh]",
        ) {
            let latch = book.latch();
            // Of several stops the strictest counts.
            let one_in = |texts: &[String]| {
                let matching = book.active().filter(|kill| texts.contains(&kill.target.to_string()));
                let let_through = matching.map(|kill| match kill.position {
                    Position::Probing { one_in } => one_in,
                    _ => u32::MAX,
                });
                let_through.max()
            };
            let of_stop = |stop: Option<&Stop>| stop.map(|stop| stop.one_in.unwrap_or(u32::MAX));
            let stops = |texts: &[String]| {
                let mut stopped = book.active().filter(|kill| {
                    let is_flag = matches!(kill.target, Target::Flag(_) | Target::Flags);
                    kill.position == Position::Killed || !is_flag
                });
                stopped.any(|kill| texts.contains(&kill.target.to_string()))
            };
            let mut of_service = vec!["system".to_owned(), format!("environment:{environment}"), format!("service:{service}")];
            let mut of_flags = vec!["system".to_owned(), format!("environment:{environment}"), "flags".to_owned()];
            if let Some(tenant) = &tenant {
                of_service.push(format!("tenant:{tenant}"));
                of_flags.push(format!("tenant:{tenant}"));
            }
            let tenant = tenant.as_deref();
            prop_assert_eq!(latch.is_open(), book.active().count() == 0);
            prop_assert_eq!(latch.stops_service(environment, &service, tenant).is_some(), stops(&of_service));
            prop_assert_eq!(latch.stops_flags(tenant, environment), stops(&of_flags));
            prop_assert_eq!(latch.stops_flag(&flag), stops(&[format!("flag:{flag}")]));
            prop_assert_eq!(latch.stops_version(&service, &version).is_some(), stops(&[format!("version:{service}/{version}")]));
            let of_tool = [format!("tool:{service}/{tool}"), format!("tool:*/{tool}")];
            prop_assert_eq!(latch.stops_tool(&service, &tool).is_some(), stops(&of_tool));
            prop_assert_eq!(of_stop(latch.stops_tool(&service, &tool)), one_in(&of_tool));
            prop_assert_eq!(of_stop(latch.stops_service(environment, &service, tenant)), one_in(&of_service));
            prop_assert!(latch.stops_tool(&service, &tool).is_none() || latch.stops_tools_of(&service));
        }
    }
}
