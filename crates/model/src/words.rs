//! Events in words, for the screen and the audit trail.

use crate::event::{Event, PreflightResult, Started};

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
        Event::ServiceChanged(service) => format!("service {} changed", service.name),
        Event::ServiceRemoved { service } => format!("service {service} removed"),
        Event::PlanSet { name, .. } => format!("plan {name} set"),
        Event::PlanRemoved { name } => format!("plan {name} removed"),
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

fn started_in_words(started: &Started) -> String {
    let risky = |result| matches!(result, PreflightResult::Risky | PreflightResult::Breaking);
    let notes: Vec<_> = started
        .preflight
        .checks
        .iter()
        .filter(|c| risky(c.result) || c.name == "contract")
        .map(|c| c.detail.as_str())
        .collect();
    let mut text = format!(
        "rollout {} -> {} started, plan {}",
        started.from, started.to, started.plan_name
    );
    if !started.reason.is_empty() {
        text += &format!(" ({})", started.reason);
    }
    if !notes.is_empty() {
        text += &format!("; contract: {}", notes.join("; "));
    }
    text
}
