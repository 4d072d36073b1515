//! The table of flags, and the order in which it is asked.

use crate::{
    environment::Environment,
    evaluation::{Context, ErrorCode, Evaluation, Reason, Why},
    flag::{Bucketing, FailMode, Flag, Stage, State},
    key::{FlagKey, TenantId},
    kill::Latch,
    rule::{Answer, Facts, share_of},
};
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeMap, str::FromStr, sync::Arc};

/// Most flags of a table: bulk evaluation answers all of them at once.
pub const FLAGS_MAX: usize = 500;
/// Most tenants with overrides.
pub const TENANTS_MAX: usize = 100_000;

/// The definitions, by key.
pub type Flags = BTreeMap<FlagKey, Arc<Flag>>;
/// The variants that tenants have of their own.
pub type Overrides = BTreeMap<TenantId, BTreeMap<FlagKey, Arc<str>>>;

/// A flag that is released step by step: a rollout of the flag itself. It stands in place of state, schedule and targeting.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// How many get `on`, in percent from 0 to 100; the others get the off variant.
    pub percentage: f64,
    /// What they get.
    pub on: Arc<str>,
}

/// Everything that evaluation looks at, immutable: swapped as a whole.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The definitions.
    pub flags: Arc<Flags>,
    /// The tenants' own variants, changed by hand; they go before `file_overrides`.
    pub overrides: Arc<Overrides>,
    /// The tenants' own variants, from the file of flags.
    pub file_overrides: Arc<Overrides>,
    /// Flags under a rollout of their own.
    pub releases: BTreeMap<FlagKey, Release>,
    /// Variants that rollouts of services set while they are under way.
    pub set_by_rollouts: BTreeMap<FlagKey, Arc<str>>,
    /// The share of each service's candidate, in percent: rules read it as `{"var": "$serin.share.SERVICE"}`.
    pub shares: BTreeMap<Arc<str>, f64>,
    /// What the process's own environment says of flags (`SERIN_FLAGS`).
    pub forced: Forced,
    /// Where the process runs.
    pub environment: Environment,
}

/// Flags from the process's environment: `SERIN_FLAGS="sampling:enabled,tasks:disabled"`, `all_enabled`, `all_disabled`. They fix a
/// flag for this process, below the overrides of tenants; a name without a flag makes a boolean one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// What holds for those that are not named.
    pub all: Option<bool>,
    /// Those that are named.
    pub flags: BTreeMap<FlagKey, bool>,
}

/// Why a text switches no flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` {what}: write NAME:enabled or NAME:disabled with commas between, all_enabled or all_disabled"
)]
pub struct ForcedError {
    part: String,
    what: &'static str,
}

impl Forced {
    /// Reads `SERIN_FLAGS`: `sampling:enabled,tasks:disabled`, `all_enabled`, `all_disabled`, or a mixture, in which names go before
    /// `all_...`. A name `X` means the flag `mcp_X` where there is no flag `X`; of a feature of the protocol either name means both.
    /// Nothing but spaces switches nothing.
    pub fn parse(text: &str) -> Result<Self, ForcedError> {
        let mut forced = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let error = |what| ForcedError {
                part: part.chars().take(80).collect(),
                what,
            };
            match part {
                "all_enabled" | "all_disabled" => {
                    let before = forced.all.replace(part == "all_enabled");
                    if before.is_some() {
                        return Err(error("comes after another that says of all"));
                    }
                    continue;
                }
                _ => {}
            }
            let (name, state) = part
                .split_once(':')
                .ok_or_else(|| error("does not say of what"))?;
            let on = match state.trim() {
                "enabled" => true,
                "disabled" => false,
                _ => return Err(error("is neither enabled nor disabled")),
            };
            let key: FlagKey = name
                .trim()
                .parse()
                .map_err(|_| error("has no flag's name before `:`"))?;
            if forced.flags.insert(key, on).is_some() {
                return Err(error("names a flag a second time"));
            }
            if forced.flags.len() > FLAGS_MAX {
                return Err(error("is one flag too many"));
            }
        }
        Ok(forced)
    }
}

impl FromStr for Forced {
    type Err = ForcedError;

    fn from_str(text: &str) -> Result<Self, ForcedError> {
        Self::parse(text)
    }
}

impl Table {
    /// What a flag answers. Nothing: there is no such flag, which everybody must take for off.
    ///
    /// The order: emergency latch, kill of the flag, expiry, tenant override, environment override, rollouts, state, schedule,
    /// targeting, default variant. The first two are reads of hash tables; nothing of the flag's rule is touched by them.
    pub fn evaluate<'t>(
        &'t self,
        latch: &Latch,
        key: &str,
        context: &Context<'_>,
    ) -> Option<Evaluation<'t>> {
        let Some((key, flag)) = self.flags.get_key_value(key) else {
            return self.forced_alone(latch, key, context);
        };
        if let Some(why) = stopped(latch, key.as_str(), context) {
            return Some(off(flag, why));
        }
        if flag
            .serin
            .expires
            .is_some_and(|expires| expires <= context.now)
        {
            return Some(off(flag, Why::Expired));
        }
        let found = self
            .tenants_own(key, flag, context)
            .or_else(|| self.environments_own(key, flag, context))
            .or_else(|| self.rollouts_own(key, flag, context));
        if found.is_some() {
            return found;
        }
        if flag.state == State::Disabled {
            return Some(off(flag, Why::State));
        }
        let scheduled = match scheduled(key, flag, context) {
            Scheduled::Decided(answer) => return Some(answer),
            Scheduled::Admitted(variant) => Some(variant),
            Scheduled::None => None,
        };
        Some(self.targeted(key, flag, context, scheduled))
    }

    /// The keys of all flags that answer: those that are defined, and those that only `SERIN_FLAGS` knows.
    pub fn keys(&self) -> impl Iterator<Item = &FlagKey> {
        let forced = self.forced.flags.keys();
        self.flags
            .keys()
            .chain(forced.filter(|key| self.is_forced_alone(key)))
    }

    /// What `SERIN_FLAGS` says of names that no flag has.
    pub fn forced_alone_all(&self) -> impl Iterator<Item = (&FlagKey, bool)> {
        let forced = self.forced.flags.iter();
        forced
            .filter(|(key, _)| self.is_forced_alone(key))
            .map(|(key, on)| (key, *on))
    }

    /// Whether a name of `SERIN_FLAGS` stands for itself: no flag has it, nor has one behind `mcp_`, nor is it a feature's whose flag
    /// has the other name.
    fn is_forced_alone(&self, key: &FlagKey) -> bool {
        let key = key.as_str();
        let other = other_name(key).filter(|_| is_feature(key));
        !self.flags.contains_key(key)
            && !self.flags.contains_key(prefixed(key).as_str())
            && !other.is_some_and(|other| self.flags.contains_key(&*other))
    }

    /// A flag without a definition that `SERIN_FLAGS` switches.
    fn forced_alone(
        &self,
        latch: &Latch,
        key: &str,
        context: &Context<'_>,
    ) -> Option<Evaluation<'_>> {
        let (key, on) = self.forced.flags.get_key_value(key)?;
        if !self.is_forced_alone(key) {
            return None;
        }
        Some(match stopped(latch, key.as_str(), context) {
            Some(why) => boolean(false, Reason::Disabled, why),
            None => boolean(*on, Reason::Static, Why::EnvironmentOverride),
        })
    }

    fn tenants_own<'t>(
        &'t self,
        key: &FlagKey,
        flag: &'t Flag,
        context: &Context<'_>,
    ) -> Option<Evaluation<'t>> {
        let tenant = context.tenant?;
        let own = |overrides: &'t Overrides| overrides.get(tenant)?.get(key);
        // A variant that is no longer one of the flag's counts for nothing.
        let known = |variant: &&Arc<str>| flag.variants.contains_key(*variant);
        own(&self.overrides)
            .filter(known)
            .or_else(|| own(&self.file_overrides).filter(known))
            .map(|variant| answer(flag, variant, Reason::TargetingMatch, Why::TenantOverride))
    }

    fn environments_own<'t>(
        &'t self,
        key: &FlagKey,
        flag: &'t Flag,
        context: &Context<'_>,
    ) -> Option<Evaluation<'t>> {
        let mut of_flag = environments(context).filter_map(|at| flag.serin.environments.get(&at));
        let variant = of_flag
            .find(|variant| flag.variants.contains_key(*variant))
            .or_else(|| {
                let on = self.forced_to(key)?;
                Some(if on {
                    flag.on_variant()
                } else {
                    &flag.serin.off_variant
                })
            })?;
        let why = Why::EnvironmentOverride;
        Some(answer(flag, variant, Reason::TargetingMatch, why))
    }

    /// What `SERIN_FLAGS` says of a flag that is defined. A variant of the environment's own goes before it.
    pub fn forced_to(&self, key: &FlagKey) -> Option<bool> {
        let forced = &self.forced;
        if forced.all.is_none() && forced.flags.is_empty() {
            return None;
        }
        let other = || {
            let other = other_name(key.as_str())?;
            let is_same = is_feature(key.as_str()) || !self.flags.contains_key(&*other);
            forced.flags.get(&*other).filter(|_| is_same)
        };
        forced.flags.get(key).or_else(other).copied().or(forced.all)
    }

    fn rollouts_own<'t>(
        &'t self,
        key: &FlagKey,
        flag: &'t Flag,
        context: &Context<'_>,
    ) -> Option<Evaluation<'t>> {
        let known = |variant: &&'t Arc<str>| flag.variants.contains_key(*variant);
        if let Some(release) = self.releases.get(key)
            && let Some(on) = Some(&release.on).filter(known)
        {
            let variant = share(key, flag, context, release.percentage, on);
            return Some(answer(flag, variant, Reason::Split, Why::Release));
        }
        let set = self.set_by_rollouts.get(key).filter(known)?;
        Some(answer(flag, set, Reason::TargetingMatch, Why::Rollout))
    }

    /// The rule, else what the schedule gives, else the default variant.
    fn targeted<'t>(
        &self,
        key: &FlagKey,
        flag: &'t Flag,
        context: &Context<'_>,
        scheduled: Option<&'t Arc<str>>,
    ) -> Evaluation<'t> {
        let (otherwise, reason, why) = match scheduled {
            Some(variant) => (variant, Reason::Split, Why::Schedule),
            None => (&flag.default_variant, Reason::Static, Why::Default),
        };
        let Some(rule) = flag.targeting.as_ref().filter(|rule| !rule.is_empty()) else {
            return answer(flag, otherwise, reason, why);
        };
        let facts = Facts {
            key: key.as_str(),
            targeting_key: context.targeting_key,
            attributes: context.attributes,
            tenant: context.tenant,
            environment: context.environment,
            now: context.now,
            shares: &self.shares,
        };
        rule.run(flag.serin.bucketing, &facts, |given| match given {
            Answer::Unsound => failed(flag, ErrorCode::ParseError),
            Answer::Failed => failed(flag, ErrorCode::General),
            Answer::Nothing if scheduled.is_some() => answer(flag, otherwise, reason, why),
            Answer::Nothing => answer(flag, otherwise, Reason::Default, Why::Default),
            Answer::Variant { name, is_split } => match flag.variants.get_key_value(name) {
                Some((variant, value)) => Evaluation {
                    variant,
                    value,
                    reason: if is_split {
                        Reason::Split
                    } else {
                        Reason::TargetingMatch
                    },
                    why: Why::Targeting,
                    error: None,
                },
                None => failed(flag, ErrorCode::General),
            },
        })
    }
}

/// How flags of the protocol's features are named beside their short names: `mcp_sampling`, `sampling`.
const MCP_PREFIX: &str = "mcp_";

/// The features of the protocol: both names of one mean the same, even where both are flags.
const FEATURES: [&str; 3] = ["sampling", "elicitation", "tasks"];

/// The feature of the protocol that a flag gates by its name alone, if it does.
pub fn feature_of(key: &str) -> Option<&'static str> {
    let short = key.strip_prefix(MCP_PREFIX).unwrap_or(key);
    FEATURES.into_iter().find(|feature| *feature == short)
}

fn prefixed(key: &str) -> String {
    format!("{MCP_PREFIX}{key}")
}

fn is_feature(key: &str) -> bool {
    feature_of(key).is_some()
}

/// The other name under which `SERIN_FLAGS` may mean a flag.
fn other_name(key: &str) -> Option<Cow<'_, str>> {
    match key.strip_prefix(MCP_PREFIX) {
        Some(short) => Some(short.into()),
        None => is_feature(key).then(|| prefixed(key).into()),
    }
}

/// Where a caller is, the most special first: what holds in production holds for a candidate's callers, unless something else
/// does.
fn environments(context: &Context<'_>) -> impl Iterator<Item = Environment> + use<> {
    let is_canary = context.environment == Environment::Canary;
    let behind = is_canary.then_some(Environment::Production);
    std::iter::once(context.environment).chain(behind)
}

/// Whether something keeps a flag off, whatever it says itself.
fn stopped(latch: &Latch, key: &str, context: &Context<'_>) -> Option<Why> {
    if latch.is_open() {
        return None;
    }
    if environments(context).any(|at| latch.stops_flags(context.tenant, at)) {
        return Some(Why::Latch);
    }
    latch.stops_flag(key).then_some(Why::Kill)
}

/// What a schedule says.
enum Scheduled<'t> {
    /// There is none.
    None,
    /// The caller is among those that it lets in, and gets this unless the flag's rule says otherwise.
    Admitted(&'t Arc<str>),
    /// The caller is not.
    Decided(Evaluation<'t>),
}

fn scheduled<'t>(key: &FlagKey, flag: &'t Flag, context: &Context<'_>) -> Scheduled<'t> {
    let stages = &flag.serin.schedule;
    if stages.is_empty() {
        return Scheduled::None;
    }
    let begun = stages.iter().rev().find(|stage| stage.from <= context.now);
    let is_here = |stage: &&Stage| {
        stage.environments.is_empty()
            || environments(context).any(|at| stage.environments.contains(&at))
    };
    let Some(stage) = begun.filter(is_here) else {
        return Scheduled::Decided(off(flag, Why::Schedule));
    };
    let on = stage.variant.as_ref().unwrap_or(&flag.default_variant);
    let variant = share(key, flag, context, stage.percentage, on);
    if variant == on {
        return Scheduled::Admitted(on);
    }
    Scheduled::Decided(answer(flag, variant, Reason::Split, Why::Schedule))
}

/// What a caller gets where so many percent get `on`. Without a key nobody knows whether they are among them: then it is the
/// default variant, as with `fractional`, but never what only some are to have.
fn share<'f>(
    key: &FlagKey,
    flag: &'f Flag,
    context: &Context<'_>,
    percent: f64,
    on: &'f Arc<str>,
) -> &'f Arc<str> {
    let off = &flag.serin.off_variant;
    let caller = context.targeting_key.filter(|caller| !caller.is_empty());
    let v3 = flag.serin.bucketing == Bucketing::V3;
    match caller {
        _ if percent >= 100.0 => on,
        Some(caller) if share_of(v3, key.as_str(), caller, percent) => on,
        None if percent > 0.0 && flag.default_variant != *on => &flag.default_variant,
        _ => off,
    }
}

static NULL: Value = Value::Null;
static TRUE: Value = Value::Bool(true);
static FALSE: Value = Value::Bool(false);

fn off(flag: &Flag, why: Why) -> Evaluation<'_> {
    answer(flag, &flag.serin.off_variant, Reason::Disabled, why)
}

fn failed(flag: &Flag, error: ErrorCode) -> Evaluation<'_> {
    let variant = match flag.serin.fail_mode {
        FailMode::Last | FailMode::Default => &flag.default_variant,
        FailMode::Off => &flag.serin.off_variant,
    };
    Evaluation {
        error: Some(error),
        ..answer(flag, variant, Reason::Error, Why::Targeting)
    }
}

fn boolean(on: bool, reason: Reason, why: Why) -> Evaluation<'static> {
    Evaluation {
        variant: if on { "on" } else { "off" },
        value: if on { &TRUE } else { &FALSE },
        reason,
        why,
        error: None,
    }
}

fn answer<'f>(flag: &'f Flag, variant: &'f str, reason: Reason, why: Why) -> Evaluation<'f> {
    Evaluation {
        variant,
        value: flag.variants.get(variant).unwrap_or(&NULL),
        reason,
        why,
        error: None,
    }
}
