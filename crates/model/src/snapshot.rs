//! The routing table by which the data plane decides: immutable, made by the control plane, swapped as a whole.

use crate::{
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    plan::{Plan, ValueRule},
    service::{Protocol, Service, ServiceSettings, VersionStage},
    share::Share,
    state::State,
};
use jiff::Timestamp;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Everything the gateway needs to route, as of one position of the log.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The last event that is in it.
    pub position: u64,
    /// The services, longest path first, so that the first that fits is the right one.
    pub services: Vec<Arc<ServiceRoute>>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServiceRoute {
    /// Its name.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// The path below which it is reached, without a slash at the end (`/` is empty).
    pub path: String,
    /// The hosts under which it is reached, lower case; empty means any.
    pub hosts: Vec<String>,
    /// Its versions, in the order of their names.
    pub versions: Vec<VersionRoute>,
    /// Which of `versions` serves everyone.
    pub stable: usize,
    /// The split of new callers, while a rollout is under way.
    pub split: Option<Split>,
    /// How its calls are treated.
    pub settings: ServiceSettings,
}

/// The split of new callers between stable and candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The rollout; part of the hash that assigns callers.
    pub rollout: RolloutId,
    /// Which of the service's versions is the candidate.
    pub candidate: usize,
    /// How many of the new callers get it.
    pub share: Share,
    /// Counts up whenever the share is set: callers are counted anew then.
    pub step: u32,
    /// Whether the tool contracts of the two versions differ: lists are then private and short-lived.
    pub contract_differs: bool,
    /// When the step began. Only sessions that began since are compared: of older ones stable has nearly all, and an old session is
    /// not like a new one.
    pub step_began: Timestamp,
    /// After so long callers without a session are assigned anew.
    pub renew: Option<Duration>,
    /// Length of a block of trials.
    pub block: Duration,
    /// The numbers to be found in the results of tools.
    pub values: Arc<[WatchedValue]>,
}

/// A number inside a tool's structured result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedValue {
    /// The tool.
    pub tool: Arc<str>,
    /// Where it stands in `structuredContent`: a JSON pointer (RFC 6901).
    pub pointer: Arc<str>,
    /// What it is called.
    pub name: Arc<str>,
}

/// One version.
#[derive(Clone, Debug)]
pub struct VersionRoute {
    /// Its name.
    pub name: VersionName,
    /// Where it is in its life: sessions of a `Withdrawn` version are moved off it.
    pub stage: VersionStage,
    /// When it was last withdrawn: sessions that are older are moved off it too.
    pub withdrawn_at: Option<Timestamp>,
    /// Where it runs.
    pub endpoints: Vec<EndpointRoute>,
    /// The tools it lists, as far as they are known: the only names that become labels.
    pub tools: Arc<[Arc<str>]>,
}

/// One URL where a version runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRoute {
    /// Its id.
    pub id: EndpointId,
    /// `http://host:port/path`.
    pub url: String,
    /// What the probes say. With no healthy endpoint left, a version's calls go to any of them.
    pub healthy: bool,
}

/// What is known of the running world and is not in the log: it is asked anew after a restart.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The endpoints that failed their probes.
    pub unhealthy: BTreeSet<EndpointId>,
    /// The tools that each version lists.
    pub tools: BTreeMap<(ServiceName, VersionName), Arc<[Arc<str>]>>,
}

impl Snapshot {
    /// The table that follows from the state and what is observed.
    pub fn build(state: &State, observed: &Observed) -> Self {
        let mut services: Vec<_> = state
            .services
            .values()
            .map(|s| Arc::new(route(state, s, observed)))
            .collect();
        services.sort_by_key(|service| (Reverse(service.path.len()), service.hosts.is_empty()));
        Self {
            position: state.position,
            services,
        }
    }

    /// The service for a request: the longest path that is a whole-segment prefix, on a host the service admits.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<ServiceRoute>> {
        self.services
            .iter()
            .find(|service| service.admits(host, path))
    }
}

impl ServiceRoute {
    fn admits(&self, host: Option<&str>, path: &str) -> bool {
        let rest = path.strip_prefix(self.path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && (self.hosts.is_empty()
                || host.is_some_and(|host| self.hosts.iter().any(|h| h.eq_ignore_ascii_case(host))))
    }

    /// The version a new caller gets.
    pub fn assign(&self, affinity_key: Option<&[u8]>) -> usize {
        match (&self.split, affinity_key) {
            (Some(split), Some(key)) if split.share.includes(split.rollout, key) => split.candidate,
            _ => self.stable,
        }
    }

    /// The version and endpoint that an id names, while it exists.
    pub fn endpoint(&self, id: EndpointId) -> Option<(usize, &EndpointRoute)> {
        self.versions.iter().enumerate().find_map(|(at, version)| {
            version
                .endpoints
                .iter()
                .find(|endpoint| endpoint.id == id)
                .map(|endpoint| (at, endpoint))
        })
    }
}

fn watched(plan: &Plan) -> Arc<[WatchedValue]> {
    let watched = |(name, rule): (&Arc<str>, &ValueRule)| WatchedValue {
        tool: rule.tool.clone(),
        pointer: rule.pointer.as_str().into(),
        name: name.clone(),
    };
    plan.values.iter().map(watched).collect()
}

fn route(state: &State, service: &Service, observed: &Observed) -> ServiceRoute {
    let index = |name: &VersionName| service.versions.keys().position(|v| v == name);
    let versions = service.versions.iter().map(|(name, version)| VersionRoute {
        name: name.clone(),
        stage: version.stage,
        withdrawn_at: version.withdrawn_at,
        endpoints: version
            .endpoints
            .iter()
            .map(|e| EndpointRoute {
                id: e.id,
                url: e.url.clone(),
                healthy: !observed.unhealthy.contains(&e.id),
            })
            .collect(),
        tools: observed
            .tools
            .get(&(service.name.clone(), name.clone()))
            .cloned()
            .unwrap_or_default(),
    });
    let split = state.active(&service.name).and_then(|rollout| {
        Some(Split {
            rollout: rollout.id,
            candidate: index(&rollout.to)?,
            share: rollout.share,
            step: rollout.step,
            contract_differs: rollout.preflight.contract_differs,
            step_began: rollout.step_started_at,
            renew: rollout.plan.affinity.renew,
            block: rollout.plan.judge.block,
            values: watched(&rollout.plan),
        })
    });
    ServiceRoute {
        name: service.name.clone(),
        protocol: service.protocol,
        path: service.path.clone(),
        hosts: service.hosts.clone(),
        versions: versions.collect(),
        stable: index(&service.stable).unwrap_or_default(),
        split,
        settings: service.settings.clone(),
    }
}
