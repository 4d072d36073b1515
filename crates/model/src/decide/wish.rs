//! Manifests: from a wish to the events that make it so.

use super::{Refusal, RefusalKind, Source, drain::named, listed, refuse};
use crate::{
    drain::{DRAIN_DEFAULT, Drain, Part},
    event::Event,
    manifest::Manifest,
    name::{EndpointId, ServiceName, VersionName},
    rollout::Rollout,
    rule::{self, Place, Rule, Target},
    service::{Endpoint, Service, ServiceSpec, Version, VersionStage},
    state::State,
};
use jiff::Timestamp;
use serin_tenancy::TierName;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What becomes of what a manifest does not name.
#[derive(Clone, Copy)]
pub(super) struct Removal<'a> {
    /// Versions that it does not name are removed; endpoints always are.
    pub(super) prunes: bool,
    /// Without being drained first.
    pub(super) at_once: bool,
    /// The endpoints that fail their probes, or have not answered one yet.
    pub(super) silent: &'a BTreeSet<EndpointId>,
}

impl Removal<'_> {
    /// The drain of what is removed.
    fn drain(self, before: Option<&Drain>, now: Timestamp) -> Drain {
        let cap = if self.at_once {
            Duration::ZERO
        } else {
            DRAIN_DEFAULT
        };
        Drain::leaving(before, cap, now)
    }

    /// The ends of the drains that are over with the change: so that the log says what is gone, and not only that something changed.
    fn ended(self, service: &Service) -> Vec<Event> {
        let ends = |drain: &Option<Drain>| {
            let leaving = drain.as_ref().filter(|drain| drain.is_leaving);
            leaving.is_some_and(|drain| self.at_once || drain.is_over)
        };
        let mut parts = Vec::new();
        for (name, version) in &service.versions {
            let part = |endpoint| Part {
                service: service.name.clone(),
                version: name.clone(),
                endpoint,
            };
            // With the version its endpoints are gone.
            if ends(&version.drain) {
                parts.push(part(None));
                continue;
            }
            let gone = version.endpoints.iter().filter(|e| ends(&e.drain));
            parts.extend(gone.map(|endpoint| part(Some(named(endpoint)))));
        }
        let ended = parts.into_iter().map(|part| Event::DrainEnded { part });
        ended.collect()
    }
}

/// The events that make of the state what a manifest describes. Applying it again gives none.
pub(super) fn apply(
    state: &State,
    manifest: &Manifest,
    source: Source,
    removal: Removal<'_>,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let prune = removal.prunes;
    let before = match source {
        Source::Start => state.manifest_read.as_ref(),
        Source::Request => None,
    };
    let mut events = Vec::new();
    let mut next_endpoint = state.next_endpoint;
    for (name, plan) in &manifest.plans {
        if before.and_then(|m| m.plans.get(name)) == Some(plan)
            || state.plans.get(name) == Some(plan)
        {
            continue;
        }
        if let Some(problem) = plan.problems().into_iter().find(|p| p.fatal) {
            let what = format!("plan `{name}`, {}: {}", problem.at, problem.what);
            return refuse(RefusalKind::Invalid, what, problem.help);
        }
        events.push(Event::PlanSet {
            name: name.clone(),
            plan: Box::new(plan.clone()),
        });
    }
    for (name, spec) in &manifest.services {
        if before.and_then(|m| m.services.get(name)) == Some(spec) {
            continue;
        }
        let known = |_: &str, names: &[&str]| listed("names", names.iter().copied());
        if let Some(problem) = rule::problems(spec, &known).into_iter().find(|p| p.fatal) {
            let what = format!("service `{name}`, {}: {}", problem.at, problem.what);
            return refuse(RefusalKind::Invalid, what, problem.help);
        }
        let live = state.services.get(name);
        let wanted = describe_service(
            state,
            spec,
            (name, live),
            (removal, now),
            &mut next_endpoint,
        )?;
        let ended = removal.ended(&wanted);
        if live == Some(&wanted) {
            events.extend(ended);
            continue;
        }
        // A process that starts knows nothing of probes yet, and goes by its file.
        if let Some(live) = live.filter(|_| source == Source::Request && !removal.at_once) {
            refuse_unproven(live, &wanted, state.active(name), removal.silent)?;
        }
        let wanted = Box::new(wanted);
        events.push(if live.is_some() {
            Event::ServiceChanged(wanted)
        } else {
            Event::ServiceCreated(wanted)
        });
        events.extend(ended);
    }
    for (name, tier) in &manifest.tiers {
        if before.and_then(|m| m.tiers.get(name)) == Some(tier)
            || state.tenancy.tiers.get(name).map(AsRef::as_ref) == Some(tier)
        {
            continue;
        }
        events.push(Event::TierSet {
            name: name.clone(),
            tier: tier.clone(),
        });
    }
    for (version, spec) in &manifest.api {
        if before.and_then(|m| m.api.get(version)) == Some(spec)
            || state.api.get(version) == Some(spec)
        {
            continue;
        }
        if !manifest.services.contains_key(&spec.service)
            && (prune || !state.services.contains_key(&spec.service))
        {
            return refuse(
                RefusalKind::Invalid,
                format!(
                    "API {version} is of service `{}`, which is not there",
                    spec.service
                ),
                "name a service of the manifest, or one that was applied before",
            );
        }
        events.push(Event::ApiSet {
            version: *version,
            spec: Box::new(spec.clone()),
        });
    }
    for (name, switch) in &manifest.kill_switches {
        if before.and_then(|m| m.kill_switches.get(name)) == Some(switch)
            || state.kill_switches.get(name) == Some(switch)
        {
            continue;
        }
        events.push(Event::KillSwitchSet {
            name: name.clone(),
            switch: Box::new(switch.clone()),
        });
    }
    if prune {
        let dropped = state
            .kill_switches
            .keys()
            .filter(|name| !manifest.kill_switches.contains_key(*name));
        events.extend(dropped.map(|name| Event::KillSwitchRemoved { name: name.clone() }));
        let dropped = state.tenancy.tiers.keys();
        let dropped = dropped.filter(|name| !manifest.tiers.contains_key(*name));
        for name in dropped {
            if let Some((who, help)) = who_has(state, name, now) {
                return refuse(
                    RefusalKind::Conflict,
                    format!("tier `{name}` cannot be removed: {who} has it"),
                    help,
                );
            }
            events.push(Event::TierRemoved { name: name.clone() });
        }
        let dropped = state.api.keys();
        let dropped = dropped.filter(|version| !manifest.api.contains_key(version));
        events.extend(dropped.map(|version| Event::ApiRemoved { version: *version }));
        for name in state
            .services
            .keys()
            .filter(|name| !manifest.services.contains_key(name))
        {
            if let Some(rollout) = state.active(name) {
                return refuse(
                    RefusalKind::Conflict,
                    format!(
                        "service `{name}` cannot be removed while its rollout to {} is under way",
                        rollout.to
                    ),
                    format!("end it first with `serin rollout abort {name}`"),
                );
            }
            events.push(Event::ServiceRemoved {
                service: name.clone(),
            });
        }
        for name in state
            .plans
            .keys()
            .filter(|name| !manifest.plans.contains_key(*name))
        {
            events.push(Event::PlanRemoved { name: name.clone() });
        }
    }
    refuse_overlaps(state, &events)?;
    if source == Source::Start && state.manifest_read.as_ref() != Some(manifest) {
        events.push(Event::ManifestRead(Box::new(manifest.clone())));
    }
    Ok(events)
}

/// A tenant or key that has a tier, and what to do about it. A key that is over has nothing.
fn who_has(state: &State, tier: &TierName, now: Timestamp) -> Option<(String, String)> {
    let mut tenants = state.tenancy.tenants.iter();
    let tenant = tenants.find(|(_, tenant)| tenant.tier.as_ref() == Some(tier));
    if let Some((id, _)) = tenant {
        let help = format!("give it another first: `serin tenant set {id} --tier NAME`");
        return Some((format!("tenant `{id}`"), help));
    }
    let mut keys = state.tenancy.keys.values();
    let key = keys.find(|key| key.is_in_force(now) && key.tier.as_ref() == Some(tier))?;
    let help = format!(
        "keep the tier until nobody uses the key, then end it: `serin key revoke {}`",
        key.id
    );
    Some((format!("key {}", key.id), help))
}

/// The service that the wish makes of what there is.
fn describe_service(
    state: &State,
    spec: &ServiceSpec,
    (name, live): (&ServiceName, Option<&Service>),
    (removal, now): (Removal<'_>, Timestamp),
    next_endpoint: &mut u32,
) -> Result<Service, Refusal> {
    let stable = live.map_or(&spec.stable, |live| &live.stable).clone();
    let mut versions: BTreeMap<_, _> = live.map(|live| live.versions.clone()).unwrap_or_default();
    let rollout = state.active(name);
    refuse_name_of_release(spec, rollout)?;
    if removal.prunes {
        // With a flag, it is no version of its own.
        let candidate = rollout.filter(|r| r.flag.is_none()).map(|r| &r.to);
        let stable_one = (
            &stable,
            "stable",
            format!("make another version stable first: `serin rollout start {name} --to VERSION`"),
        );
        let candidate = candidate.map(|candidate| {
            let help = format!("end the rollout first: `serin rollout abort {name}`");
            (candidate, "the candidate of the rollout under way", help)
        });
        let mut used = [Some(stable_one), candidate].into_iter().flatten();
        if let Some((used, what, help)) = used.find(|(used, ..)| !spec.versions.contains_key(*used))
        {
            return refuse(
                RefusalKind::Conflict,
                format!("version `{used}` of service `{name}` cannot be removed: it is {what}"),
                format!("keep it in the file, or {help}"),
            );
        }
        for (version, known) in &mut versions {
            if !spec.versions.contains_key(version) {
                known.drain = Some(removal.drain(known.drain.as_ref(), now));
            }
        }
    }
    for (version, wanted) in &spec.versions {
        let known = versions.get(version);
        let endpoints = wanted.endpoints.iter().map(|spec| {
            let same = known.and_then(|v| v.endpoints.iter().find(|e| e.url == spec.url));
            let id = same.map_or_else(
                || {
                    let id = EndpointId(*next_endpoint);
                    *next_endpoint += 1;
                    id
                },
                |same| same.id,
            );
            Endpoint {
                id,
                url: spec.url.clone(),
                weight: spec.weight,
                response_timeout: spec.response_timeout,
                drain: same.and_then(|same| kept(same.drain.as_ref())),
            }
        });
        let mut endpoints: Vec<_> = endpoints.collect();
        for gone in known.into_iter().flat_map(|known| &known.endpoints) {
            if endpoints.iter().any(|endpoint| endpoint.id == gone.id) {
                continue;
            }
            let drain = Some(removal.drain(gone.drain.as_ref(), now));
            endpoints.push(Endpoint {
                drain,
                ..gone.clone()
            });
        }
        let stage = match known {
            Some(known) => known.stage,
            None if *version == stable => VersionStage::Serving,
            None => VersionStage::Registered,
        };
        let metrics = wanted.metrics.clone();
        let withdrawn_at = known.and_then(|known| known.withdrawn_at);
        let drain = known.and_then(|known| kept(known.drain.as_ref()));
        versions.insert(
            version.clone(),
            Version {
                endpoints,
                balance: wanted.balance,
                in_flight_max: wanted.in_flight_max,
                fallback: wanted.fallback.clone(),
                metrics,
                stage,
                withdrawn_at,
                drain,
            },
        );
    }
    if !versions.contains_key(&stable) {
        return refuse(
            RefusalKind::Invalid,
            format!("service `{name}` has no version `{stable}`, which is to be stable"),
            listed("versions", versions.keys().map(VersionName::as_str)),
        );
    }
    refuse_closing(name, &versions, &stable, rollout)?;
    refuse_lost_places(name, &spec.rules, &versions)?;
    let same = live.filter(|live| *live.rules == *spec.rules);
    Ok(Service {
        name: name.clone(),
        protocol: spec.protocol,
        path: spec.path.trim_end_matches('/').to_owned(),
        hosts: spec
            .hosts
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect(),
        stable,
        versions,
        // What is compiled already stays so.
        rules: same.map_or_else(|| spec.rules.clone().into(), |live| live.rules.clone()),
        settings: spec.settings.clone(),
    })
}

/// The drain of what the manifest names: what is back is not leaving.
fn kept(drain: Option<&Drain>) -> Option<Drain> {
    drain.filter(|drain| !drain.is_leaving).cloned()
}

/// Stable and the candidate must have an endpoint that takes callers.
fn refuse_closing(
    service: &ServiceName,
    versions: &BTreeMap<VersionName, Version>,
    stable: &VersionName,
    rollout: Option<&Rollout>,
) -> Result<(), Refusal> {
    let candidate = rollout.filter(|r| r.flag.is_none()).map(|r| &r.to);
    for name in [Some(stable), candidate].into_iter().flatten() {
        let version = versions.get(name).filter(|version| !version.is_open());
        if version.is_some_and(|version| !version.endpoints.is_empty()) {
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "version `{name}` of service `{service}` would have no endpoint that takes callers: those that stay are drained"
                ),
                format!("let one take callers again first: `serin undrain {service} URL`"),
            );
        }
    }
    Ok(())
}

/// Of stable and the candidate an endpoint has to stay that is known to answer: whether new ones do, nobody knows yet.
fn refuse_unproven(
    live: &Service,
    wanted: &Service,
    rollout: Option<&Rollout>,
    silent: &BTreeSet<EndpointId>,
) -> Result<(), Refusal> {
    let candidate = rollout.filter(|r| r.flag.is_none()).map(|r| &r.to);
    for name in [Some(&live.stable), candidate].into_iter().flatten() {
        let (Some(before), Some(after)) = (live.versions.get(name), wanted.versions.get(name))
        else {
            continue;
        };
        let serves = |version: &Version, endpoint: &Endpoint| {
            version.takes_callers(endpoint) && !silent.contains(&endpoint.id)
        };
        let was_there = |endpoint: &Endpoint| before.endpoints.iter().any(|e| e.id == endpoint.id);
        let served = before.endpoints.iter().any(|e| serves(before, e));
        let mut after_all = after.endpoints.iter();
        if served && !after_all.any(|e| was_there(e) && serves(after, e)) {
            let service = &live.name;
            return refuse(
                RefusalKind::Conflict,
                format!(
                    "version `{name}` of service `{service}` would lose every endpoint that is known to answer: no other one has answered a probe yet"
                ),
                format!(
                    "keep one of them in the file until `serin service show {service}` no longer says `new` of another one, then apply it without; or replace all of them at once with `--now`"
                ),
            );
        }
    }
    Ok(())
}

/// Rules and fallbacks must lead to versions that stay.
fn refuse_lost_places(
    service: &ServiceName,
    rules: &[Rule],
    versions: &BTreeMap<VersionName, Version>,
) -> Result<(), Refusal> {
    let is_leaving = |version: &Version| version.drain.as_ref().is_some_and(|d| d.is_leaving);
    let stays = |name: &VersionName| versions.get(name).is_some_and(|v| !is_leaving(v));
    let lost = |what: String, name: &VersionName| {
        let known = versions.iter().filter(|(_, version)| !is_leaving(version));
        let gone = if versions.contains_key(name) {
            "is removed from the manifest"
        } else {
            "does not exist"
        };
        refuse(
            RefusalKind::Conflict,
            format!("{what} of service `{service}` leads to version `{name}`, which {gone}"),
            format!(
                "keep the version in the file, or lead elsewhere; {}",
                listed("versions", known.map(|(name, _)| name.as_str()))
            ),
        )
    };
    for rule in rules {
        let places: Vec<_> = match &rule.to {
            Some(Target::One(place)) => vec![place],
            Some(Target::Weighted(places)) => places.keys().collect(),
            None => vec![],
        };
        for place in places {
            if let Place::Version(name) = place
                && !stays(name)
            {
                return lost(format!("rule `{}`", rule.name), name);
            }
        }
    }
    for (version, of) in versions.iter().filter(|(_, version)| !is_leaving(version)) {
        if let Some(name) = of.fallback.iter().find(|name| !stays(name)) {
            return lost(format!("the fallback of version `{version}`"), name);
        }
    }
    Ok(())
}

/// While a flag is released, stable with the flag has a name among the versions.
fn refuse_name_of_release(spec: &ServiceSpec, rollout: Option<&Rollout>) -> Result<(), Refusal> {
    let release = rollout.filter(|r| r.flag.is_some() && spec.versions.contains_key(&r.to));
    let Some(Rollout { service, to, .. }) = release else {
        return Ok(());
    };
    refuse(
        RefusalKind::Conflict,
        format!(
            "service `{service}` cannot have a version `{to}` now: the release of a flag under way is called so"
        ),
        format!(
            "give the version another name, or end the release first: `serin rollout abort {service}`"
        ),
    )
}

/// Two services must not claim the same path on the same host.
fn refuse_overlaps(state: &State, events: &[Event]) -> Result<(), Refusal> {
    let mut services: BTreeMap<&ServiceName, &Service> = state.services.iter().collect();
    for event in events {
        match event {
            Event::ServiceCreated(service) | Event::ServiceChanged(service) => {
                services.insert(&service.name, service);
            }
            Event::ServiceRemoved { service } => {
                services.remove(service);
            }
            _ => {}
        }
    }
    let mut claims: BTreeMap<(&str, &str), &ServiceName> = BTreeMap::new();
    for service in services.into_values() {
        let any = service.hosts.is_empty().then_some("*");
        for host in service.hosts.iter().map(String::as_str).chain(any) {
            if let Some(other) = claims.insert((&service.path, host), &service.name) {
                return refuse(
                    RefusalKind::Conflict,
                    format!(
                        "services `{other}` and `{}` both claim {host}{}",
                        service.name, service.path
                    ),
                    "give one of them another `path:` or `hosts:`",
                );
            }
        }
    }
    Ok(())
}
