//! Flags: from a wish to the events that make it so.

use super::{Refusal, RefusalKind, listed, refuse};
use crate::{
    event::Event,
    flags::{Digest, FlagChange, Origin, OverrideChange},
    state::State,
};
use serin_flags::{Flag, FlagKey, Flags, Overrides, TenantId, table::FLAGS_MAX};
use std::sync::Arc;

/// Longest reason of a change, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// The wish to create, change or delete a flag.
#[derive(Clone, Debug, PartialEq)]
pub struct SetFlag {
    /// Its key.
    pub flag: FlagKey,
    /// What it is to be; nothing deletes it.
    pub definition: Option<Box<Flag>>,
    /// What must be there already.
    pub expects: Expects,
    /// Why.
    pub reason: String,
}

/// What whoever changes a flag takes for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    /// Nothing.
    Anything,
    /// There is no such flag.
    New,
    /// There is such a flag.
    Known,
    /// There is such a flag, and it was last changed at this position of the log.
    Revision(u64),
}

/// The wish to give a tenant a variant of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SetOverride {
    /// The tenant.
    pub tenant: TenantId,
    /// The flag.
    pub flag: FlagKey,
    /// The variant; nothing takes it away.
    pub variant: Option<Arc<str>>,
    /// Why.
    pub reason: String,
}

/// What a file of flags holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlagFile {
    /// The definitions.
    pub flags: Flags,
    /// The variants of tenants.
    pub overrides: Overrides,
}

pub(super) fn set_flag(state: &State, wish: &SetFlag) -> Result<Vec<Event>, Refusal> {
    let key = &wish.flag;
    check_reason(&wish.reason)?;
    let before = state.flags.definitions.get(key);
    let revision = state.flags.histories.get(key).map(|h| h.revision);
    match (wish.expects, before, revision) {
        (Expects::New, Some(_), _) => {
            return refuse(
                RefusalKind::Conflict,
                format!("there is a flag `{key}` already"),
                format!("change it with `serin flag set {key}`, or take another key"),
            );
        }
        (Expects::Known | Expects::Revision(_), None, _) => return Err(unknown(state, key)),
        (Expects::Revision(seen), Some(_), Some(revision)) if seen != revision => {
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "flag `{key}` was changed meanwhile: its revision is {revision}, not {seen}"
                ),
                format!("look at it with `serin flag get {key}` and change it again"),
            );
        }
        _ => {}
    }
    let after = wish.definition.as_deref();
    if let Some(after) = after {
        refuse_problems(key, after)?;
        if before.is_none() && state.flags.definitions.len() >= FLAGS_MAX {
            return refuse(
                RefusalKind::Conflict,
                format!("there are {FLAGS_MAX} flags already, which is the most"),
                "delete some that nobody needs any more: `serin flag list --stale`",
            );
        }
        refuse_lost_variants(state, key, after)?;
    }
    if before.map(AsRef::as_ref) == after {
        return Ok(Vec::new());
    }
    refuse_if_released(state, key)?;
    refuse_if_planned(state, key, after)?;
    Ok(vec![Event::FlagChanged(Box::new(FlagChange {
        flag: key.clone(),
        before: before.cloned(),
        after: after.cloned().map(Arc::new),
        origin: Origin::Hand,
        reason: wish.reason.clone(),
    }))])
}

/// A flag under a rollout of its own is steered by it; what is to be stopped at once is killed or taken back.
fn refuse_if_released(state: &State, key: &FlagKey) -> Result<(), Refusal> {
    let Some(rollout) = state.releasing(key) else {
        return Ok(());
    };
    refuse(
        RefusalKind::Conflict,
        format!(
            "flag `{key}` is under a rollout on service `{}`, which decides who gets it",
            rollout.service
        ),
        format!(
            "take it back with `serin rollout rollback {}`, or stop it at once with `serin kill flag:{key}`",
            rollout.service
        ),
    )
}

/// What a rollout under way sets, now or in a later phase, must be there until it ends.
fn refuse_if_planned(state: &State, key: &FlagKey, after: Option<&Flag>) -> Result<(), Refusal> {
    for rollout in state.under_way() {
        let set = rollout.plan.phases.iter().filter_map(|p| p.flags.get(key));
        let is_lost = |on: &&Arc<str>| after.is_none_or(|flag| !flag.variants.contains_key(*on));
        if let Some(on) = { set }.find(is_lost) {
            let (service, to) = (&rollout.service, &rollout.to);
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "the rollout to {to} on service `{service}` sets flag `{key}` to `{on}`, which would be gone"
                ),
                format!(
                    "keep the variant, or end the rollout first: `serin rollout abort {service}`"
                ),
            );
        }
    }
    Ok(())
}

pub(super) fn set_override(state: &State, wish: &SetOverride) -> Result<Vec<Event>, Refusal> {
    check_reason(&wish.reason)?;
    let (tenant, key) = (&wish.tenant, &wish.flag);
    let Some(flag) = state.flags.definitions.get(key) else {
        return Err(unknown(state, key));
    };
    if let Some(variant) = &wish.variant {
        refuse_unknown_variant(key, flag, variant)?;
    }
    let own = &state.flags.overrides;
    if wish.variant.is_some()
        && !own.contains_key(tenant)
        && own.len() >= serin_flags::table::TENANTS_MAX
    {
        return refuse(
            RefusalKind::Conflict,
            "too many tenants have variants of their own",
            "write a targeting rule on the tenant instead",
        );
    }
    let before = own.get(tenant).and_then(|flags| flags.get(key));
    if before == wish.variant.as_ref() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::OverrideChanged(Box::new(OverrideChange {
        tenant: tenant.clone(),
        flag: key.clone(),
        before: before.cloned(),
        after: wish.variant.clone(),
        reason: wish.reason.clone(),
    }))])
}

/// What the author of the file changed since it was last read; what others changed meanwhile stays, unless the author changed it too.
pub(super) fn read_file(state: &State, file: &FlagFile) -> Result<Vec<Event>, Refusal> {
    let mut events = Vec::new();
    let known = &state.flags;
    for (key, flag) in &file.flags {
        let read = known.histories.get(key).and_then(|history| history.file);
        if read == Some(Digest::of(flag)) {
            continue;
        }
        refuse_if_released(state, key)?;
        refuse_if_planned(state, key, Some(flag))?;
        let before = known.definitions.get(key);
        events.push(changed_by_file(key, before, Some(flag)));
    }
    let gone = known
        .histories
        .iter()
        .filter(|(key, history)| history.file.is_some() && !file.flags.contains_key(*key));
    for (key, _) in gone {
        refuse_if_released(state, key)?;
        refuse_if_planned(state, key, None)?;
        events.push(changed_by_file(key, known.definitions.get(key), None));
    }
    let kept = known.definitions.keys().filter(|key| {
        known.histories.get(*key).is_none_or(|h| h.file.is_none()) && !file.flags.contains_key(*key)
    });
    if kept.count() + file.flags.len() > FLAGS_MAX {
        return refuse(
            RefusalKind::Conflict,
            format!("with the flags of the file there would be more than {FLAGS_MAX}"),
            "delete some that nobody needs any more: `serin flag list --stale`",
        );
    }
    if *known.file_overrides != file.overrides {
        events.push(Event::OverridesRead {
            overrides: Arc::new(file.overrides.clone()),
        });
    }
    Ok(events)
}

fn changed_by_file(key: &FlagKey, before: Option<&Arc<Flag>>, after: Option<&Arc<Flag>>) -> Event {
    Event::FlagChanged(Box::new(FlagChange {
        flag: key.clone(),
        before: before.cloned(),
        after: after.cloned(),
        origin: Origin::File,
        reason: String::new(),
    }))
}

pub(super) fn check_reason(reason: &str) -> Result<(), Refusal> {
    let chars = reason.chars().count();
    if chars > REASON_CHARS_MAX {
        return refuse(
            RefusalKind::Invalid,
            format!("the reason has {chars} characters"),
            format!("say it in at most {REASON_CHARS_MAX}"),
        );
    }
    Ok(())
}

fn refuse_problems(key: &FlagKey, flag: &Flag) -> Result<(), Refusal> {
    let Some(problem) = flag.problems().into_iter().next() else {
        return Ok(());
    };
    refuse(
        RefusalKind::Invalid,
        format!("flag `{key}`, {}: {}", problem.at, problem.what),
        problem.help,
    )
}

/// Tenants keep their variants: a change must not take away one that somebody has.
fn refuse_lost_variants(state: &State, key: &FlagKey, after: &Flag) -> Result<(), Refusal> {
    let all = state
        .flags
        .overrides
        .iter()
        .chain(state.flags.file_overrides.iter());
    for (tenant, variants) in all {
        if let Some(variant) = variants.get(key)
            && !after.variants.contains_key(variant)
        {
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "tenant `{tenant}` has variant `{variant}` of flag `{key}`, which would be gone"
                ),
                format!(
                    "keep the variant, or take it from the tenant: `serin flag override {key} --tenant {tenant} --clear`"
                ),
            );
        }
    }
    Ok(())
}

fn refuse_unknown_variant(key: &FlagKey, flag: &Flag, variant: &str) -> Result<(), Refusal> {
    if flag.variants.contains_key(variant) {
        return Ok(());
    }
    refuse(
        RefusalKind::Invalid,
        format!("flag `{key}` has no variant `{variant}`"),
        listed("variants", flag.variants.keys().map(AsRef::as_ref)),
    )
}

pub(super) fn unknown(state: &State, key: &FlagKey) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        what: format!("there is no flag `{key}`"),
        help: match state.flags.definitions.len() {
            0 => format!("create it: `serin flag create {key}`"),
            _ => "`serin flag list` shows those that there are".to_owned(),
        },
    }
}
