//! The table of flags, and the order in which it is asked.

use crate::{
    environment::Environment,
    evaluation::{Context, Evaluation, Reason, Why},
    flag::{Flag, State},
    key::{FlagKey, TenantId},
    kill::Latch,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

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

impl Table {
    /// What a flag answers. Nothing: there is no such flag, which everybody must take for off.
    ///
    /// The order: emergency latch, kill of the flag, expiry, tenant override, environment override, rollouts, state, schedule,
    /// targeting, default variant.
    pub fn evaluate<'t>(
        &'t self,
        latch: &Latch,
        key: &str,
        context: &Context<'_>,
    ) -> Option<Evaluation<'t>> {
        let flag = self.flags.get(key)?;
        if latch.stops_flags(context.tenant, context.environment) {
            return Some(off(flag, Why::Latch));
        }
        if latch.stops_flag(key) {
            return Some(off(flag, Why::Kill));
        }
        if flag.state == State::Disabled {
            return Some(off(flag, Why::State));
        }
        Some(answer(
            flag,
            &flag.default_variant,
            Reason::Static,
            Why::Default,
        ))
    }
}

static NULL: Value = Value::Null;

fn off(flag: &Flag, why: Why) -> Evaluation<'_> {
    answer(flag, &flag.serin.off_variant, Reason::Disabled, why)
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
