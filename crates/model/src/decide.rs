//! Commands, and what follows from them: `decide` answers with events or with a refusal, and changes nothing itself.

mod begin;
mod drain;
mod flags;
mod tenancy;
mod wish;

pub use drain::DrainWish;
pub use flags::{Expects, FlagFile, REASON_CHARS_MAX, SetFlag, SetOverride};
pub use tenancy::{
    KEY_LIFE_MAX, KEYS_MAX, KEYS_OF_TENANT_MAX, SetTenant, TENANTS_MAX, TITLE_CHARS_MAX,
};

use crate::{
    drain::Drained,
    event::{Actor, Event, Preflight, Recorded},
    flags::{FlagChange, Origin},
    manifest::Manifest,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    plan::{Plan, RollbackStrategy},
    rollout::{Rollout, Status},
    service::Service,
    share::Share,
    state::State,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serin_flags::{FlagKey, Kill, State as FlagState};
use serin_judge::Assessment;
use serin_tenancy::{KeyId, KeyRecord, TenantId};
use std::{collections::BTreeSet, sync::Arc};
use wish::Removal;

/// What somebody wants, or what was observed.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make what the manifest describes.
    Apply {
        /// The wish.
        manifest: Box<Manifest>,
        /// Where it comes from.
        source: Source,
        /// Whether what it does not name is removed.
        prune: bool,
        /// Versions and endpoints that are removed are gone at once, and not drained first.
        at_once: bool,
        /// The endpoints that fail their probes, or have not answered one yet: they are nobody to fall back on.
        silent: BTreeSet<EndpointId>,
    },
    /// Let a version or endpoint take no new callers; what is there finishes.
    Drain(Box<DrainWish>),
    /// Let it take callers again.
    Undrain {
        /// The service.
        service: ServiceName,
        /// What of it.
        what: Drained,
        /// Why.
        reason: String,
    },
    /// End the drains whose time has come.
    EndDrains {
        /// The endpoints that fail their probes.
        unhealthy: BTreeSet<EndpointId>,
    },
    /// Begin a rollout.
    Start(Box<Start>),
    /// Set the share by hand.
    SetShare {
        /// The service.
        service: ServiceName,
        /// The share.
        share: Share,
        /// Why.
        reason: String,
    },
    /// Go on to the next phase, or to the end.
    Promote {
        /// The service.
        service: ServiceName,
        /// To the end at once.
        full: bool,
        /// Without the evidence, for this reason.
        overridden: Option<String>,
        /// How the candidate stands.
        assessment: Option<Box<Assessment>>,
    },
    /// Stop where it is.
    Pause {
        /// The service.
        service: ServiceName,
        /// Why.
        reason: String,
    },
    /// Go on: after a pause, or when what was signalled has been dealt with.
    Resume {
        /// The service.
        service: ServiceName,
    },
    /// End it: the desired version is stable.
    Abort {
        /// The service.
        service: ServiceName,
        /// Why.
        reason: String,
    },
    /// Take the candidate back; after a promotion, make the version before stable again.
    Rollback {
        /// The service.
        service: ServiceName,
        /// How live sessions leave it.
        strategy: RollbackStrategy,
        /// Why.
        reason: String,
    },
    /// Say that something was seen which no counter sees.
    Signal {
        /// The service.
        service: ServiceName,
        /// What kind, as the plan names it.
        signal: String,
        /// What was seen.
        reason: String,
    },
    /// Create, change or delete a flag.
    SetFlag(Box<SetFlag>),
    /// Give a tenant a variant of its own, or take it away.
    SetOverride(Box<SetOverride>),
    /// Take over what the author of the file of flags changed in it.
    ReadFlags(Box<FlagFile>),
    /// Create a tenant, or change it.
    SetTenant(Box<SetTenant>),
    /// Forget a tenant whose keys are all over.
    RemoveTenant {
        /// Its id.
        tenant: TenantId,
        /// Why.
        reason: String,
    },
    /// Make a key.
    IssueKey {
        /// What is kept of it.
        key: Box<KeyRecord>,
        /// Why.
        reason: String,
    },
    /// Put another key in the place of one.
    RotateKey {
        /// The one.
        key: KeyId,
        /// What is kept of the other.
        replacement: Box<KeyRecord>,
        /// For how long both open.
        overlap: SignedDuration,
        /// Why.
        reason: String,
    },
    /// End a key at once.
    RevokeKey {
        /// The key.
        key: KeyId,
        /// Why.
        reason: String,
    },
    /// Copy the records of the kill file that the log has not yet.
    CopyKills(Vec<Kill>),
    /// All of these in their order, or none.
    All(Vec<Command>),
    /// How a candidate stands.
    Judge {
        /// The rollout.
        rollout: RolloutId,
        /// How its candidate stands.
        assessment: Box<Assessment>,
    },
    /// The candidate is gone.
    Catastrophe {
        /// The rollout.
        rollout: RolloutId,
        /// In words.
        cause: String,
    },
}

/// Where a manifest comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file that the process was started with: only what its author changed since the last start is applied, so that a
    /// restart does not undo what was applied in between.
    Start,
    /// Somebody who asks for it now.
    Request,
}

/// The wish for a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The id it gets.
    pub rollout: RolloutId,
    /// The service.
    pub service: ServiceName,
    /// The candidate.
    pub candidate: Candidate,
    /// What the plan is called.
    pub plan_name: String,
    /// The plan.
    pub plan: Plan,
    /// Why.
    pub reason: String,
    /// What was checked before.
    pub preflight: Preflight,
    /// Whether a change that clients will notice is accepted.
    pub accept_breaking: bool,
}

/// What is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Another version of the service.
    Version(VersionName),
    /// A flag: the callers of stable who have it are compared with those who have not.
    Flag {
        /// The flag.
        flag: FlagKey,
        /// The variant; unless said, the default one, or the only one that is not off.
        on: Option<Arc<str>>,
    },
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// What kind of refusal.
    pub kind: RefusalKind,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// What the command names does not exist.
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// The command itself is wrong.
    Invalid,
}

fn refuse<T>(
    kind: RefusalKind,
    what: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, Refusal> {
    Err(Refusal {
        kind,
        what: what.into(),
        help: help.into(),
    })
}

/// What follows from a command. No events: there is nothing to do.
pub fn decide(state: &State, command: &Command, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::Apply {
            manifest,
            source,
            prune,
            at_once,
            silent,
        } => {
            let removal = Removal {
                prunes: *prune,
                at_once: *at_once,
                silent,
            };
            ended_first(state, now, |state| {
                wish::apply(state, manifest, *source, removal, now)
            })
        }
        Command::Drain(wish) => ended_first(state, now, |state| drain::begin(state, wish, now)),
        Command::Undrain {
            service,
            what,
            reason,
        } => ended_first(state, now, |state| {
            drain::undo(state, service, what, reason)
        }),
        Command::EndDrains { unhealthy } => Ok(drain::end(state, unhealthy, now)),
        Command::Start(start) => begin::begin(state, start),
        Command::SetFlag(wish) => flags::set_flag(state, wish),
        Command::SetOverride(wish) => flags::set_override(state, wish),
        Command::ReadFlags(file) => flags::read_file(state, file),
        Command::SetTenant(wish) => tenancy::set_tenant(state, wish, now),
        Command::RemoveTenant { tenant, reason } => {
            tenancy::remove_tenant(state, tenant, reason, now)
        }
        Command::IssueKey { key, reason } => tenancy::issue_key(state, key, reason, now),
        Command::RotateKey {
            key,
            replacement,
            overlap,
            reason,
        } => tenancy::rotate_key(state, *key, replacement, *overlap, reason, now),
        Command::RevokeKey { key, reason } => tenancy::revoke_key(state, *key, reason, now),
        Command::CopyKills(kills) => Ok(copy_kills(state, kills)),
        Command::All(commands) => all(state, commands, now),
        Command::SetShare {
            service,
            share,
            reason,
        } => set_share(state, service, *share, reason),
        Command::Promote {
            service,
            full,
            overridden,
            assessment,
        } => promote(
            state,
            service,
            *full,
            overridden.as_deref(),
            assessment.as_deref(),
        ),
        Command::Pause { service, reason } => {
            let rollout = active(state, service)?;
            if rollout.status == Status::Paused {
                return Ok(Vec::new());
            }
            Ok(vec![Event::Paused {
                rollout: rollout.id,
                reason: reason.clone(),
            }])
        }
        Command::Resume { service } => Ok(resume(active(state, service)?)),
        Command::Abort { service, reason } => abort(state, service, reason),
        Command::Rollback {
            service,
            strategy,
            reason,
        } => ended_first(state, now, |state| {
            roll_back(state, service, *strategy, reason)
        }),
        Command::Signal {
            service,
            signal: kind,
            reason,
        } => signal(active(state, service)?, kind, reason),
        Command::Judge {
            rollout,
            assessment,
        } => Ok(state
            .rollout(*rollout)
            .map(|r| r.advance(assessment, now))
            .unwrap_or_default()),
        Command::Catastrophe { rollout, cause } => Ok(state
            .rollout(*rollout)
            .map(|r| r.catastrophe(cause.clone()))
            .unwrap_or_default()),
    }
}

/// Each is decided as if those before it had happened.
fn all(state: &State, commands: &[Command], now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let mut state = state.clone();
    let mut events = Vec::new();
    for command in commands {
        let next = decide(&state, command, now)?;
        foresee(&mut state, &next, now);
        events.extend(next);
    }
    Ok(events)
}

/// Decided as if the drains whose time has come were over, though no tick has said so yet: what must end at the cap ends, whoever
/// comes between.
fn ended_first(
    state: &State,
    now: Timestamp,
    decide: impl FnOnce(&State) -> Result<Vec<Event>, Refusal>,
) -> Result<Vec<Event>, Refusal> {
    let mut events = drain::end(state, &BTreeSet::new(), now);
    if events.is_empty() {
        return decide(state);
    }
    let mut state = state.clone();
    foresee(&mut state, &events, now);
    let next = decide(&state)?;
    if next.is_empty() {
        // The tick will say it.
        return Ok(next);
    }
    events.extend(next);
    Ok(events)
}

/// Makes of a copy of the state what events that are not recorded yet will make of it.
fn foresee(state: &mut State, events: &[Event], now: Timestamp) {
    for event in events {
        state.apply(&Recorded {
            position: state.position + 1,
            at: now,
            actor: Actor::named(""),
            epoch: 0,
            event: event.clone(),
        });
    }
}

/// What a promotion that is taken back disables: the flag that was released, and those that the plan says.
fn switched_off(state: &State, rollout: &Rollout, reason: &str) -> Vec<Event> {
    let off = |key: &FlagKey| {
        let before = state.flags.definitions.get(key)?;
        if before.state == FlagState::Disabled {
            return None;
        }
        let mut after = before.as_ref().clone();
        after.state = FlagState::Disabled;
        Some(Event::FlagChanged(Box::new(FlagChange {
            flag: key.clone(),
            before: Some(Arc::clone(before)),
            after: Some(Arc::new(after)),
            origin: Origin::Hand,
            reason: reason.to_owned(),
        })))
    };
    rollout.flags_off().into_iter().filter_map(off).collect()
}

/// Those that are newer than what the log has.
fn copy_kills(state: &State, kills: &[Kill]) -> Vec<Event> {
    let mut book = state.kills.clone();
    let newer = kills.iter().filter(|kill| book.take((*kill).clone()));
    newer
        .map(|kill| Event::KillCopied(Box::new(kill.clone())))
        .collect()
}

fn service<'a>(state: &'a State, name: &ServiceName) -> Result<&'a Service, Refusal> {
    state.services.get(name).ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        what: format!("there is no service `{name}`"),
        help: listed("services", state.services.keys().map(ServiceName::as_str)),
    })
}

fn active<'a>(state: &'a State, name: &ServiceName) -> Result<&'a Rollout, Refusal> {
    service(state, name)?;
    state.active(name).ok_or_else(|| Refusal {
        kind: RefusalKind::Conflict,
        what: format!("service `{name}` has no rollout under way"),
        help: format!("begin one with `serin rollout start {name} --to VERSION`"),
    })
}

fn listed<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return format!(
            "there are no {what}; describe them in a file and run `serin apply -f FILE`"
        );
    }
    format!("the {what} are: {}", names.join(", "))
}

fn set_share(
    state: &State,
    name: &ServiceName,
    share: Share,
    reason: &str,
) -> Result<Vec<Event>, Refusal> {
    let rollout = active(state, name)?;
    if reason.trim().is_empty() {
        return refuse(
            RefusalKind::Invalid,
            "a share set by hand needs a reason",
            "add `--reason \"...\"`",
        );
    }
    if share == Share::FULL {
        return refuse(
            RefusalKind::Invalid,
            "100 % by hand would promote without the evidence that the plan asks for",
            format!("use `serin rollout promote {name} --full --override --reason \"...\"`"),
        );
    }
    let mut events = vec![Event::ShareSet {
        rollout: rollout.id,
        share,
        reason: reason.to_owned(),
    }];
    if share == Share::ZERO && rollout.status != Status::Paused {
        events.push(Event::Paused {
            rollout: rollout.id,
            reason: "the share was set to 0 %".to_owned(),
        });
    }
    Ok(events)
}

fn promote(
    state: &State,
    name: &ServiceName,
    full: bool,
    overridden: Option<&str>,
    assessment: Option<&Assessment>,
) -> Result<Vec<Event>, Refusal> {
    let rollout = active(state, name)?;
    let next = rollout.phase + 1;
    let skips = full && next < rollout.plan.phases.len() && !rollout.plan.is_mere_promotion(next);
    let missing = match assessment {
        None => Some("nothing is known about the candidate yet".to_owned()),
        Some(assessment) => rollout.evidence_missing(assessment),
    }
    .or_else(|| skips.then(|| "phases that the plan asks for would be skipped".to_owned()));
    let overridden = match (missing, overridden.map(str::trim)) {
        (None, _) => None,
        (Some(_), Some(reason)) if !reason.is_empty() => Some(reason.to_owned()),
        (Some(missing), _) => {
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "phase {} has not shown what its plan asks for: {missing}",
                    rollout.phase + 1
                ),
                "wait, or promote all the same with `--override --reason \"...\"`",
            );
        }
    };
    let mut events = match rollout.status {
        Status::Paused => vec![Event::Resumed {
            rollout: rollout.id,
        }],
        _ => Vec::new(),
    };
    if full {
        let evidence = assessment.cloned().map(Box::new);
        events.push(Event::Promoted {
            rollout: rollout.id,
            evidence,
            overridden,
        });
    } else {
        events.extend(rollout.pass(assessment, overridden));
    }
    Ok(events)
}

fn signal(rollout: &Rollout, signal: &str, reason: &str) -> Result<Vec<Event>, Refusal> {
    if !rollout.plan.signals.contains_key(signal) {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "plan `{}` says nothing about signals `{}`",
                rollout.plan_name,
                signal.chars().take(80).collect::<String>()
            ),
            listed("signals", rollout.plan.signals.keys().map(String::as_str)),
        );
    }
    Ok(rollout.signal(signal, reason))
}

/// Ends a pause, and a hold by signals: whoever says so answers for both.
fn resume(rollout: &Rollout) -> Vec<Event> {
    let mut events = Vec::new();
    if rollout.is_held_by_signals() {
        events.push(Event::SignalsSettled {
            rollout: rollout.id,
        });
    }
    if rollout.status != Status::Paused {
        return events;
    }
    events.push(Event::Resumed {
        rollout: rollout.id,
    });
    if rollout.share == Share::ZERO
        && let Some(phase) = rollout.plan.phases.get(rollout.phase)
    {
        events.push(Event::PhaseEntered {
            rollout: rollout.id,
            phase: rollout.phase,
            share: phase.share,
            evidence: None,
            overridden: None,
        });
    }
    events
}

fn abort(state: &State, name: &ServiceName, reason: &str) -> Result<Vec<Event>, Refusal> {
    service(state, name)?;
    match state.latest(name) {
        Some(rollout) if !rollout.status.is_terminal() => Ok(vec![Event::Aborted {
            rollout: rollout.id,
            reason: reason.to_owned(),
        }]),
        Some(rollout) if rollout.status == Status::Promoted => refuse(
            RefusalKind::Conflict,
            format!("the rollout to {} is over: it was promoted", rollout.to),
            format!(
                "to return to {}, use `serin rollout rollback {name} --reason \"...\"`",
                rollout.from
            ),
        ),
        Some(_) => Ok(Vec::new()),
        None => active(state, name).map(|_| Vec::new()),
    }
}

fn roll_back(
    state: &State,
    name: &ServiceName,
    strategy: RollbackStrategy,
    reason: &str,
) -> Result<Vec<Event>, Refusal> {
    let service = service(state, name)?;
    match state.latest(name) {
        Some(rollout) if !rollout.status.is_terminal() => Ok(vec![Event::RolledBack {
            rollout: rollout.id,
            strategy,
            reason: reason.to_owned(),
            evidence: None,
        }]),
        Some(rollout) if rollout.status == Status::Promoted && rollout.flag.is_some() => {
            Ok(switched_off(state, rollout, reason))
        }
        Some(rollout) if rollout.status == Status::Promoted && service.stable == rollout.to => {
            if !service.versions.contains_key(&rollout.from) {
                return refuse(
                    RefusalKind::Conflict,
                    format!("version `{}` is no longer registered", rollout.from),
                    "describe it again in a file, run `serin apply -f FILE`, and start a rollout to it",
                );
            }
            let reverted = Event::Reverted {
                service: name.clone(),
                from: rollout.to.clone(),
                to: rollout.from.clone(),
                strategy,
                reason: reason.to_owned(),
            };
            let mut events = vec![reverted];
            events.extend(switched_off(state, rollout, reason));
            Ok(events)
        }
        Some(_) => Ok(Vec::new()),
        None => active(state, name).map(|_| Vec::new()),
    }
}
