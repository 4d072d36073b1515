//! The beginning of a rollout.

use super::{
    Candidate, Refusal, RefusalKind, Start, drain::refuse_drained, flags, listed, refuse, service,
};
use crate::{
    event::{Event, FlagRelease, PreflightResult, Started},
    name::VersionName,
    rollout,
    service::Service,
    state::State,
};
use serin_flags::{Flag, FlagKey, State as FlagState};
use std::sync::Arc;

/// The events that begin a rollout.
pub(super) fn begin(state: &State, start: &Start) -> Result<Vec<Event>, Refusal> {
    let service = service(state, &start.service)?;
    let name = &start.service;
    if let Some(rollout) = state.active(name) {
        return refuse(
            RefusalKind::Conflict,
            format!("service `{name}` has a rollout to {} under way", rollout.to),
            format!("let it end, or end it with `serin rollout abort {name}`, and start again"),
        );
    }
    let (to, flag) = match &start.candidate {
        Candidate::Version(version) => (of_version(service, version)?, None),
        Candidate::Flag { flag, on } => {
            let (to, release) = of_flag(state, service, flag, on.as_ref())?;
            (to, Some(release))
        }
    };
    if state.rollout(start.rollout).is_some() {
        return refuse(
            RefusalKind::Conflict,
            "this rollout id was used before",
            "give a new one",
        );
    }
    refuse_plan(state, start)?;
    refuse_shared_flags(state, start, flag.as_ref())?;
    refuse_preflight(service, start, &to)?;
    let share = start
        .plan
        .phases
        .first()
        .map(|phase| phase.share)
        .unwrap_or_default();
    Ok(vec![
        Event::RolloutStarted(Box::new(Started {
            rollout: start.rollout,
            service: name.clone(),
            from: service.stable.clone(),
            to,
            flag,
            plan_name: start.plan_name.clone(),
            plan: start.plan.clone(),
            reason: start.reason.clone(),
            preflight: start.preflight.clone(),
        })),
        Event::PhaseEntered {
            rollout: start.rollout,
            phase: 0,
            share,
            evidence: None,
            overridden: None,
        },
    ])
}

fn of_version(service: &Service, to: &VersionName) -> Result<VersionName, Refusal> {
    let Some(version) = service.versions.get(to) else {
        return refuse(
            RefusalKind::NotFound,
            format!("service `{}` has no version `{to}`", service.name),
            listed("versions", service.versions.keys().map(VersionName::as_str)),
        );
    };
    if service.stable == *to {
        return refuse(
            RefusalKind::Conflict,
            format!("version `{to}` is already stable"),
            listed(
                "other versions",
                service
                    .versions
                    .keys()
                    .filter(|v| *v != to)
                    .map(VersionName::as_str),
            ),
        );
    }
    if version.endpoints.is_empty() {
        return refuse(
            RefusalKind::Conflict,
            format!("version `{to}` has no endpoint"),
            "add one under `endpoints:` and run `serin apply -f FILE`",
        );
    }
    refuse_drained(service, to)?;
    Ok(to.clone())
}

/// A flag as a candidate: the name of stable with it, and the variant.
fn of_flag(
    state: &State,
    service: &Service,
    key: &FlagKey,
    on: Option<&Arc<str>>,
) -> Result<(VersionName, FlagRelease), Refusal> {
    let Some(flag) = state.flags.definitions.get(key) else {
        return Err(flags::unknown(state, key));
    };
    let off = &flag.serin.off_variant;
    let others = || flag.variants.keys().filter(|variant| *variant != off);
    let on = match on {
        Some(on) => on.clone(),
        None if flag.default_variant != *off => flag.default_variant.clone(),
        None => {
            let mut others = others();
            match (others.next(), others.next()) {
                (Some(only), None) => only.clone(),
                _ => {
                    return refuse(
                        RefusalKind::Invalid,
                        format!("flag `{key}` has several variants that are not off"),
                        format!(
                            "say which one with `--variant`; {}",
                            listed("variants", others.map(AsRef::as_ref))
                        ),
                    );
                }
            }
        }
    };
    if !flag.variants.contains_key(&on) || on == *off {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "variant `{on}` of flag `{key}` cannot be rolled out: it must be one that is not off"
            ),
            listed("variants", others().map(AsRef::as_ref)),
        );
    }
    if is_everybodys(flag) {
        let default = &flag.default_variant;
        return refuse(
            RefusalKind::Conflict,
            format!(
                "flag `{key}` gives `{default}` to everybody, and its release would take that from most"
            ),
            format!("disable it first: `serin flag set {key} --disable --reason \"...\"`"),
        );
    }
    let Ok(to) = format!("{}+{key}", service.stable).parse() else {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "the rollout would be called `{}+{key}`, which is too long for a version name",
                service.stable
            ),
            format!(
                "use at most {} characters for stable's name, a `+` and the flag's key",
                crate::name::NAME_BYTES_MAX
            ),
        );
    };
    if service.versions.contains_key(&to) {
        return refuse(
            RefusalKind::Conflict,
            format!("there is a version called `{to}`, as stable with the flag would be"),
            "rename the version",
        );
    }
    let flag = key.clone();
    Ok((to, FlagRelease { flag, on }))
}

/// Whether everybody has more of a flag than its off variant, which is what a release begins with for most.
fn is_everybodys(flag: &Flag) -> bool {
    let is_split = flag.targeting.as_ref().is_some_and(|rule| !rule.is_empty());
    flag.state == FlagState::Enabled
        && !is_split
        && flag.serin.schedule.is_empty()
        && flag.default_variant != flag.serin.off_variant
}

/// One rollout decides about a flag: what it gives, no other one gives or turns off.
fn refuse_shared_flags(
    state: &State,
    start: &Start,
    release: Option<&FlagRelease>,
) -> Result<(), Refusal> {
    let given = rollout::given(release, &start.plan);
    for other in state.under_way() {
        let theirs = other.flags_given();
        let shared = given
            .iter()
            .find(|key| theirs.contains(*key) || other.flags_off().contains(*key))
            .or_else(|| theirs.iter().find(|key| start.plan.flags_off.contains(key)));
        if let Some(key) = shared {
            let (service, to) = (&other.service, &other.to);
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "flag `{key}` is in the hands of the rollout to {to} on service `{service}`"
                ),
                format!(
                    "one rollout decides about a flag: let that one end, or end it with `serin rollout abort {service}`"
                ),
            );
        }
    }
    let set_too = release.filter(|release| {
        let mut phases = start.plan.phases.iter();
        phases.any(|phase| phase.flags.contains_key(&release.flag))
    });
    set_too.map_or(Ok(()), |release| {
        refuse(
            RefusalKind::Invalid,
            format!(
                "plan `{}` sets flag `{}`, which is what is rolled out",
                start.plan_name, release.flag
            ),
            "take it out of the phases' `flags:`",
        )
    })
}

fn refuse_plan(state: &State, start: &Start) -> Result<(), Refusal> {
    if let Some(problem) = start.plan.problems().into_iter().find(|p| p.fatal) {
        return refuse(
            RefusalKind::Invalid,
            format!(
                "plan `{}`, {}: {}",
                start.plan_name, problem.at, problem.what
            ),
            problem.help,
        );
    }
    let plan = format!("plan `{}`", start.plan_name);
    let known = |key: &FlagKey| state.flags.definitions.contains_key(key);
    if let Some(key) = start.plan.flags_off.iter().find(|key| !known(key)) {
        return refuse(
            RefusalKind::NotFound,
            format!("{plan} disables flag `{key}` on a rollback, but there is no such flag"),
            format!("create it first: `serin flag create {key}`"),
        );
    }
    for phase in &start.plan.phases {
        for (key, variant) in &phase.flags {
            let Some(flag) = state.flags.definitions.get(key) else {
                return refuse(
                    RefusalKind::NotFound,
                    format!("{plan} sets flag `{key}`, which does not exist"),
                    format!("create it first: `serin flag create {key}`"),
                );
            };
            if !flag.variants.contains_key(variant) {
                return refuse(
                    RefusalKind::Invalid,
                    format!(
                        "{plan} sets flag `{key}` to `{variant}`, which is none of its variants"
                    ),
                    listed("variants", flag.variants.keys().map(AsRef::as_ref)),
                );
            }
        }
    }
    Ok(())
}

fn refuse_preflight(service: &Service, start: &Start, to: &VersionName) -> Result<(), Refusal> {
    let name = &start.service;
    for check in &start.preflight.checks {
        match check.result {
            PreflightResult::Failed => {
                return refuse(
                    RefusalKind::Conflict,
                    format!("pre-flight `{}` failed: {}", check.name, check.detail),
                    match &start.candidate {
                        Candidate::Version(_) => format!(
                            "mend version {to} (`serin service show {name}` shows its endpoints) and start again"
                        ),
                        Candidate::Flag { flag, .. } => {
                            format!("`serin flag get {flag}` and `serin kills` show what there is")
                        }
                    },
                );
            }
            PreflightResult::Breaking if !start.accept_breaking => {
                return refuse(
                    RefusalKind::Conflict,
                    format!("pre-flight `{}`: {}", check.name, check.detail),
                    "clients will notice; if that is meant, start again with `--accept-breaking`",
                );
            }
            _ => {}
        }
    }
    if start.plan.affinity.renew.is_some() && start.preflight.contract_differs {
        return refuse(
            RefusalKind::Conflict,
            format!(
                "the tools of {} and {to} differ, and `affinity: renew` would give callers others with each period",
                service.stable
            ),
            "start by a plan without `affinity: renew`; callers then stay on their version",
        );
    }
    Ok(())
}
