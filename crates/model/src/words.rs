//! Events in words, for the screen and the audit trail.

mod evidence;

pub use evidence::{
    aspect_briefly, aspect_in_words, factor, finding_in_words, line_in_words, progress_in_words,
    regression_in_words, slower_in_words, unsafe_in_words, value_in_words,
};

use crate::{
    drain::Drain,
    event::{Event, PreflightResult, Started},
    flags::{FlagChange, Origin},
    service::Service,
    tenancy::KeyChange,
};
use jiff::Timestamp;
use serin_flags::{Kill, kill::Position};
use serin_judge::sequential::Distrust;
use serin_tenancy::TenantState;

/// What happened, in a line.
pub fn event_in_words(event: &Event) -> String {
    match event {
        Event::ManifestRead(manifest) => {
            format!(
                "read a manifest with {} services and {} plans",
                manifest.services.len(),
                manifest.plans.len()
            )
        }
        Event::ServiceCreated(service) => {
            format!(
                "service {} created, stable {}, {} versions",
                service.name,
                service.stable,
                service.versions.len()
            )
        }
        Event::ServiceChanged(service) => changed_in_words(service),
        Event::ServiceRemoved { service } => format!("service {service} removed"),
        Event::DrainBegan {
            part,
            until,
            reason,
        } => format!(
            "{part} takes no new callers, and is done at {}{}",
            briefly(*until),
            because(reason)
        ),
        Event::DrainEnded { part } => format!("{part} is drained"),
        Event::Undrained { part, reason } => {
            format!("{part} takes callers again{}", because(reason))
        }
        Event::PlanSet { name, .. } => format!("plan {name} set"),
        Event::PlanRemoved { name } => format!("plan {name} removed"),
        Event::FlagChanged(change) => flag_in_words(change),
        Event::OverrideChanged(change) => {
            let because = because(&change.reason);
            let (tenant, flag) = (&change.tenant, &change.flag);
            match &change.after {
                Some(variant) => {
                    format!("flag {flag} set to {variant} for tenant {tenant}{because}")
                }
                None => format!("flag {flag} as for everybody for tenant {tenant}{because}"),
            }
        }
        Event::OverridesRead { overrides } => {
            format!(
                "read the flags of {} tenants from the file",
                overrides.len()
            )
        }
        Event::KillCopied(kill) => kill_in_words(kill),
        Event::KillSwitchSet { name, switch } => {
            format!("kill switch {name} set, for {}", switch.target)
        }
        Event::KillSwitchRemoved { name } => format!("kill switch {name} removed"),
        Event::TierSet { name, tier } => {
            format!("tier {name} set, with {} limits", tier.limits.len())
        }
        Event::TierRemoved { name } => format!("tier {name} removed"),
        Event::ApiSet { version, spec } => {
            format!("API {version} set, of service {}", spec.service)
        }
        Event::ApiRemoved { version } => format!("API {version} removed"),
        Event::TenantSet {
            tenant,
            about,
            reason,
        } => {
            let state = match about.state {
                TenantState::Active => "active",
                TenantState::Suspended => "suspended",
            };
            let tier = about.tier.as_ref();
            let tier = tier.map_or_else(String::new, |tier| format!(", tier {tier}"));
            format!("tenant {tenant} is {state}{tier}{}", because(reason))
        }
        Event::TenantRemoved { tenant, reason } => {
            format!("tenant {tenant} removed{}", because(reason))
        }
        Event::KeySet {
            key,
            change,
            reason,
        } => {
            let (id, tenant, because) = (key.id, &key.tenant, because(reason));
            match change {
                KeyChange::Created => {
                    format!(
                        "key {id} made for tenant {tenant}, role {}{because}",
                        key.role
                    )
                }
                KeyChange::Rotated => {
                    let ends = key.expires_at;
                    format!("key {id} of tenant {tenant} rotated, ends at {ends}{because}")
                }
                KeyChange::Revoked => format!("key {id} of tenant {tenant} revoked{because}"),
            }
        }
        Event::RolloutStarted(started) => started_in_words(started),
        Event::PhaseEntered {
            phase,
            share,
            evidence,
            overridden,
            ..
        } => {
            let number = phase + 1;
            match (evidence, overridden) {
                (_, Some(reason)) => {
                    format!("phase {number} at {share}, without evidence: {reason}")
                }
                (Some(evidence), None) => {
                    format!(
                        "phase {number} at {share}: phase {phase} passed after {} trials",
                        evidence.trials
                    )
                }
                (None, None) => format!("phase {number} at {share}"),
            }
        }
        Event::ShareSet { share, reason, .. } => format!("share set to {share} by hand: {reason}"),
        Event::SignalGiven { signal, reason, .. } if reason.is_empty() => {
            format!("signal {signal}")
        }
        Event::SignalGiven { signal, reason, .. } => format!("signal {signal}: {reason}"),
        Event::SignalsSettled { .. } => "what was signalled has been dealt with".to_owned(),
        Event::ComparisonSetAside { why, .. } => format!(
            "the comparison is set aside, thresholds alone decide: {}",
            distrust_in_words(*why)
        ),
        Event::ComparisonResumed { .. } => "the versions are compared again".to_owned(),
        Event::Held { reason, .. } => format!("held: {reason}"),
        Event::Released { .. } => "released: the warning is over".to_owned(),
        Event::PhaseReady { evidence, .. } => {
            format!(
                "ready after {} trials; waits for `serin rollout promote`",
                evidence.trials
            )
        }
        Event::Paused { reason, .. } => format!("paused: {reason}"),
        Event::Resumed { .. } => "resumed".to_owned(),
        Event::Extended { reason, .. } => format!("extended: {reason}"),
        Event::Inconclusive { reason, .. } => {
            format!("inconclusive, waits for a decision: {reason}")
        }
        Event::Promoted {
            overridden: Some(reason),
            ..
        } => format!("promoted without evidence: {reason}"),
        Event::Promoted { evidence, .. } => {
            let trials = evidence
                .as_ref()
                .map(|e| format!(" after {} trials", e.trials))
                .unwrap_or_default();
            format!("promoted: the candidate is stable{trials}")
        }
        Event::RolledBack {
            strategy, reason, ..
        } => format!("rolled back ({}): {reason}", strategy.label()),
        Event::Aborted { reason, .. } => format!("aborted: {reason}"),
        Event::Reverted {
            from, to, reason, ..
        } => format!("{to} is stable again in place of {from}: {reason}"),
    }
}

/// Why a comparison does not count, in words.
pub const fn distrust_in_words(why: Distrust) -> &'static str {
    match why {
        Distrust::SampleRatio => {
            "the candidate gets another share of the callers than it should, so the two sides do not have the same callers"
        }
        Distrust::Sentinel => {
            "two halves of stable's callers differ as if they were two versions, so callers are not independent of each other here"
        }
        Distrust::StableBroken => "stable itself is broken, so being no worse than it says nothing",
    }
}

/// A service that was described anew, with what leaves it.
fn changed_in_words(service: &Service) -> String {
    let leaving = |drain: &Option<Drain>| drain.as_ref().is_some_and(|drain| drain.is_leaving);
    let mut parts = Vec::new();
    for (name, version) in &service.versions {
        if leaving(&version.drain) {
            parts.push(format!("version {name}"));
            continue;
        }
        let gone = version.endpoints.iter().filter(|e| leaving(&e.drain));
        parts.extend(gone.map(|endpoint| format!("{} of {name}", endpoint.url)));
    }
    let name = &service.name;
    if parts.is_empty() {
        return format!("service {name} changed");
    }
    format!("service {name} changed; leaving it: {}", parts.join(", "))
}

/// A time to the second.
fn briefly(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn because(reason: &str) -> String {
    if reason.is_empty() {
        return String::new();
    }
    format!(": {reason}")
}

fn flag_in_words(change: &FlagChange) -> String {
    let (flag, because) = (&change.flag, because(&change.reason));
    let from = match change.origin {
        Origin::Hand => "",
        Origin::File => " by the file of flags",
    };
    match (&change.before, &change.after) {
        (None, Some(_)) => format!("flag {flag} created{from}{because}"),
        (_, None) => format!("flag {flag} deleted{from}{because}"),
        (Some(before), Some(after)) => match after.differences(before).join(", ").as_str() {
            state @ ("enabled" | "disabled") => format!("flag {flag} {state}{from}{because}"),
            what => format!("flag {flag} changed{from}: {what}{because}"),
        },
    }
}

/// A kill or revival, in a line.
pub fn kill_in_words(kill: &Kill) -> String {
    let (target, because) = (&kill.target, because(&kill.reason));
    match kill.position {
        Position::Killed => format!("killed {target}{because}"),
        Position::Probing { one_in } => {
            format!("{target} is tried again with one call in {one_in}{because}")
        }
        Position::Revived => format!("revived {target}{because}"),
    }
}

fn started_in_words(started: &Started) -> String {
    let risky = |result| matches!(result, PreflightResult::Risky | PreflightResult::Breaking);
    let notes: Vec<_> = started
        .preflight
        .checks
        .iter()
        .filter(|c| risky(c.result) || c.name == "contract")
        .map(|c| format!("; {}: {}", c.name, c.detail))
        .collect();
    let mut text = format!(
        "rollout {} -> {} started, plan {}",
        started.from, started.to, started.plan_name
    );
    if !started.reason.is_empty() {
        text += &format!(" ({})", started.reason);
    }
    text += &notes.concat();
    text
}
