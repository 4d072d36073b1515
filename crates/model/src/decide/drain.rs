//! Draining, by hand and at the tick.

use super::{Refusal, RefusalKind, listed, refuse, service};
use crate::{
    drain::{DRAIN_MAX, Drain, Drained, Part, PartEndpoint, later},
    event::Event,
    name::{EndpointId, ServiceName, VersionName},
    rollout::Rollout,
    service::{Endpoint, Service},
    state::State,
};
use jiff::Timestamp;
use std::{collections::BTreeSet, time::Duration};

/// The wish for a drain.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainWish {
    /// The service.
    pub service: ServiceName,
    /// What of it.
    pub what: Drained,
    /// After so long it is over, at most [`DRAIN_MAX`].
    pub cap: Duration,
    /// Why. Needed.
    pub reason: String,
    /// The endpoints that fail their probes, or have not answered one yet: they are nobody to fall back on.
    pub silent: BTreeSet<EndpointId>,
}

/// The events that begin a drain, or change its cap.
pub(super) fn begin(
    state: &State,
    wish: &DrainWish,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let service = service(state, &wish.service)?;
    if wish.reason.trim().is_empty() {
        return refuse(
            RefusalKind::Invalid,
            "a drain needs a reason",
            "add `--reason \"...\"`",
        );
    }
    if wish.cap > DRAIN_MAX {
        return refuse(
            RefusalKind::Invalid,
            "a drain cannot take longer than 31 days",
            "give it less time with `--for 1h`; a drain of `--for 0s` is over at once",
        );
    }
    let parts = parts(service, &wish.what)?;
    for version in service.versions.keys() {
        refuse_closing(state, service, version, &parts, &wish.silent)?;
    }
    let until = later(now, wish.cap);
    let not_over = parts
        .into_iter()
        .filter(|part| !drain_of(service, part).is_some_and(|drain| drain.is_over));
    let events = not_over.flat_map(|part| {
        // Over before anybody can take it back: whoever says so switches the machine off.
        let ended = (until <= now).then(|| Event::DrainEnded { part: part.clone() });
        let began = Event::DrainBegan {
            part,
            until,
            reason: wish.reason.clone(),
        };
        [Some(began), ended].into_iter().flatten()
    });
    Ok(events.collect())
}

/// The events that end one by hand: callers come again.
pub(super) fn undo(
    state: &State,
    name: &ServiceName,
    what: &Drained,
    reason: &str,
) -> Result<Vec<Event>, Refusal> {
    let service = service(state, name)?;
    let parts = parts(service, what)?;
    let mut events = Vec::new();
    for part in parts {
        if leaves(service, &part) {
            return refuse(
                RefusalKind::Conflict,
                format!("{part} was removed from the manifest"),
                "describe it again in a file and run `serin apply -f FILE`",
            );
        }
        if drain_of(service, &part).is_none() {
            refuse_other_part(service, &part)?;
            continue;
        }
        events.push(Event::Undrained {
            part,
            reason: reason.to_owned(),
        });
    }
    Ok(events)
}

/// The drains that are over now.
pub(super) fn end(state: &State, unhealthy: &BTreeSet<EndpointId>, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    for service in state.services.values() {
        for (name, version) in &service.versions {
            let ends = |drain: &Option<Drain>, endpoints: &[&Endpoint]| {
                let is_unhealthy = || endpoints.iter().all(|e| unhealthy.contains(&e.id));
                let drain = drain.as_ref();
                drain.is_some_and(|drain| drain.ends(now, is_unhealthy))
            };
            let reachable: Vec<_> = version.reachable().collect();
            let part = |endpoint| Part {
                service: service.name.clone(),
                version: name.clone(),
                endpoint,
            };
            if ends(&version.drain, &reachable) {
                events.push(Event::DrainEnded { part: part(None) });
                // With the version its endpoints are gone.
                if version.drain.as_ref().is_some_and(|drain| drain.is_leaving) {
                    continue;
                }
            }
            let over = version.endpoints.iter();
            let over = over.filter(|endpoint| ends(&endpoint.drain, &[*endpoint]));
            events.extend(over.map(|endpoint| Event::DrainEnded {
                part: part(Some(named(endpoint))),
            }));
        }
    }
    events
}

pub(super) fn named(endpoint: &Endpoint) -> PartEndpoint {
    PartEndpoint {
        id: endpoint.id,
        url: endpoint.url.clone(),
    }
}

fn drain_of<'a>(service: &'a Service, part: &Part) -> Option<&'a Drain> {
    let version = service.versions.get(&part.version)?;
    let Some(of) = &part.endpoint else {
        return version.drain.as_ref();
    };
    let endpoint = version.endpoints.iter().find(|e| e.id == of.id)?;
    endpoint.drain.as_ref()
}

/// Whether it was taken out of the manifest, by itself or with its version.
fn leaves(service: &Service, part: &Part) -> bool {
    let whole = Part {
        endpoint: None,
        ..part.clone()
    };
    let mut drains = [part, &whole].into_iter();
    drains.any(|part| drain_of(service, part).is_some_and(|drain| drain.is_leaving))
}

/// What is meant: at least one part. An endpoint that leaves one version and serves another is meant where it serves.
fn parts(service: &Service, what: &Drained) -> Result<Vec<Part>, Refusal> {
    let part = |version: &VersionName, endpoint| Part {
        service: service.name.clone(),
        version: version.clone(),
        endpoint,
    };
    match what {
        Drained::Version(version) if service.versions.contains_key(version) => {
            Ok(vec![part(version, None)])
        }
        Drained::Version(version) => refuse(
            RefusalKind::NotFound,
            format!("service `{}` has no version `{version}`", service.name),
            listed("versions", service.versions.keys().map(VersionName::as_str)),
        ),
        Drained::Endpoint(url) => {
            let mut parts = Vec::new();
            for (name, version) in &service.versions {
                let endpoints = version.endpoints.iter().filter(|e| e.url == *url);
                parts.extend(endpoints.map(|endpoint| part(name, Some(named(endpoint)))));
            }
            if parts.is_empty() {
                let shown: String = url.chars().take(200).collect();
                let all = service.versions.values().flat_map(|v| &v.endpoints);
                return refuse(
                    RefusalKind::NotFound,
                    format!("service `{}` has no endpoint `{shown}`", service.name),
                    listed("endpoints", all.map(|endpoint| endpoint.url.as_str())),
                );
            }
            if parts.iter().any(|part| !leaves(service, part)) {
                parts.retain(|part| !leaves(service, part));
            }
            Ok(parts)
        }
    }
}

/// Stable and the candidate must go on taking callers, at an endpoint that is known to answer if there is one.
fn refuse_closing(
    state: &State,
    service: &Service,
    name: &VersionName,
    parts: &[Part],
    silent: &BTreeSet<EndpointId>,
) -> Result<(), Refusal> {
    let rollout = of_version(state, &service.name);
    let is_candidate = rollout.is_some_and(|rollout| rollout.to == *name);
    let Some(version) = service.versions.get(name) else {
        return Ok(());
    };
    if !is_candidate && service.stable != *name {
        return Ok(());
    }
    let mut of_it = parts.iter().filter(|part| part.version == *name).peekable();
    if of_it.peek().is_none() {
        return Ok(());
    }
    let what = if is_candidate {
        "the candidate of the rollout under way"
    } else {
        "stable"
    };
    let (of, way_out) = (&service.name, way_out(&service.name, is_candidate));
    if of_it.clone().any(|part| part.endpoint.is_none()) {
        return refuse(
            RefusalKind::Conflict,
            format!("version `{name}` of service `{of}` cannot be drained: it is {what}"),
            way_out,
        );
    }
    let is_meant = |endpoint: &Endpoint| {
        let mut endpoints = parts.iter().filter_map(|part| part.endpoint.as_ref());
        endpoints.any(|of| of.id == endpoint.id)
    };
    // Another cap for what is drained already takes nobody away.
    if of_it.all(|part| drain_of(service, part).is_some()) {
        return Ok(());
    }
    let takes = |endpoint: &&Endpoint| version.takes_callers(endpoint);
    let answers = |endpoint: &Endpoint| !silent.contains(&endpoint.id);
    let (meant, left): (Vec<_>, Vec<_>) = (version.endpoints.iter())
        .filter(takes)
        .partition(|endpoint| is_meant(endpoint));
    // Where nobody is known to answer, one that takes callers is as good as another.
    let loses = meant.into_iter().any(answers) && !left.iter().copied().any(answers);
    if !left.is_empty() && !loses {
        return Ok(());
    }
    let known = if loses { " and is known to answer" } else { "" };
    refuse(
        RefusalKind::Conflict,
        format!(
            "it is the last endpoint of version `{name}` of service `{of}` that takes callers{known}, and `{name}` is {what}"
        ),
        format!(
            "add another one first and see it answer (until then `serin service show {of}` says `new` of it), or let another take callers again: `serin undrain {of} URL`; {way_out}"
        ),
    )
}

fn way_out(service: &ServiceName, is_candidate: bool) -> String {
    if is_candidate {
        return format!(
            "take the candidate back, its sessions staying to their end: `serin rollout rollback {service} --strategy gradual --reason \"...\"`"
        );
    }
    format!(
        "make another version stable with a rollout first: `serin rollout start {service} --to VERSION`"
    )
}

/// The rollout of another version that is under way.
pub(super) fn of_version<'a>(state: &'a State, service: &ServiceName) -> Option<&'a Rollout> {
    state
        .active(service)
        .filter(|rollout| rollout.flag.is_none())
}

/// A version that is not drained, but some of its endpoints are: they have to be named.
fn refuse_other_part(service: &Service, part: &Part) -> Result<(), Refusal> {
    let version = service.versions.get(&part.version);
    let drained = version.into_iter().flat_map(|version| &version.endpoints);
    let drained: Vec<_> = drained
        .filter(|endpoint| endpoint.drain.is_some())
        .map(|endpoint| endpoint.url.as_str())
        .collect();
    let whole = version.is_some_and(|version| version.drain.is_some());
    match &part.endpoint {
        None if !drained.is_empty() => refuse(
            RefusalKind::Conflict,
            format!("{part} is not drained as a whole"),
            format!("name the endpoint: {}", drained.join(", ")),
        ),
        Some(_) if whole => refuse(
            RefusalKind::Conflict,
            format!("{part} is drained with all of its version"),
            format!("use `serin undrain {} {}`", part.service, part.version),
        ),
        _ => Ok(()),
    }
}

/// Refuses that everybody is sent to a version that takes no callers.
pub(super) fn refuse_drained(service: &Service, name: &VersionName) -> Result<(), Refusal> {
    let Some(version) = service
        .versions
        .get(name)
        .filter(|version| !version.is_open())
    else {
        return Ok(());
    };
    let (of, leaves) = (&service.name, |drain: &Option<Drain>| {
        drain.as_ref().is_some_and(|drain| drain.is_leaving)
    });
    let mut endpoints = version.endpoints.iter();
    if leaves(&version.drain) || endpoints.any(|endpoint| leaves(&endpoint.drain)) {
        return refuse(
            RefusalKind::Conflict,
            format!(
                "version `{name}` of service `{of}` takes no callers: it was removed from the manifest"
            ),
            "describe it again in a file and run `serin apply -f FILE`",
        );
    }
    let what = match &version.drain {
        Some(_) => name.to_string(),
        None => "URL".to_owned(),
    };
    refuse(
        RefusalKind::Conflict,
        format!("version `{name}` of service `{of}` takes no callers: it is drained"),
        format!("let it take callers again: `serin undrain {of} {what}`"),
    )
}
