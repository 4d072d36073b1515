//! The routing table by which the data plane decides: immutable, made by the control plane, swapped as a whole.

mod services;

pub use services::Services;

use crate::{
    access::Gates,
    api::{ApiSpec, ApiVersion},
    auth::{Credential, Secret, Upstream},
    event::FlagRelease,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    plan::{JudgeRule, Plan, ValueRule},
    route::Rules,
    service::{Protocol, Service, ServiceSettings, VersionStage},
    share::Share,
    state::State,
};
use jiff::Timestamp;
use serin_flags::{Environment, Release, Table, table::Forced};
use serin_route::weigh::Balance;
use serin_tenancy::{Directory, token::KeySet};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

/// Everything the gateway needs to route, as of one position of the log.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The last event that is in it.
    pub position: u64,
    /// The services.
    pub services: Services,
    /// The flags.
    pub flags: Arc<Table>,
    /// Who may call.
    pub tenancy: Arc<Directory>,
    /// The versions of the public API.
    pub api: Arc<BTreeMap<ApiVersion, ApiSpec>>,
    /// Another one whenever the flags are not what they were, by an event or by a rollout that steers them.
    pub flags_revision: u64,
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
    /// Where requests go by what they are, the highest priority first.
    pub rules: Rules,
    /// How its calls are treated.
    pub settings: ServiceSettings,
    /// What of it flags open and close.
    pub gates: Gates,
    /// By what the gateway proves itself to its endpoints.
    pub credential: Option<Credential>,
    /// The keys by which its callers' tokens are verified, once they are known.
    pub tokens: Option<Arc<KeySet>>,
}

/// The split of new callers between stable and candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The rollout; part of the hash that assigns callers.
    pub rollout: RolloutId,
    /// The flag whose evaluation assigns callers, if the candidate is stable with a flag on. `candidate` has then the endpoints of
    /// stable, and who is in changes within a session too.
    pub flag: Option<FlagRelease>,
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
    /// How one of them is chosen.
    pub balance: Balance,
    /// Most of its calls that may be under way at a time.
    pub in_flight_max: Option<u32>,
    /// Which of the service's versions take its new callers when it cannot; none while it is a candidate.
    pub fallback: Vec<usize>,
    /// The tools it lists, as far as they are known: the only names that become labels.
    pub tools: Arc<[Arc<str>]>,
    /// Those of them that say of themselves that they only read (`readOnlyHint`).
    pub read_only_tools: Arc<[Arc<str>]>,
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
    /// When it became so after it was not, or was added to a version that had others: its part grows from then on.
    pub healthy_since: Option<Timestamp>,
    /// How much it takes beside the others.
    pub weight: u32,
    /// Its deadline, instead of the service's.
    pub response_timeout: Option<Duration>,
    /// It takes no new callers.
    pub is_draining: bool,
}

/// What is known of the running world and is not in the log: it is asked anew after a restart.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The endpoints that failed their probes.
    pub unhealthy: BTreeSet<EndpointId>,
    /// The endpoints that were added while the process ran and have not answered a probe yet.
    pub unproven: BTreeSet<EndpointId>,
    /// When endpoints became healthy after they were not, or were added to a version that had others.
    pub healthy_since: BTreeMap<EndpointId, Timestamp>,
    /// The tools that each version lists.
    pub tools: BTreeMap<(ServiceName, VersionName), Arc<[Arc<str>]>>,
    /// Those of them that only read.
    pub read_only_tools: BTreeMap<(ServiceName, VersionName), Arc<[Arc<str>]>>,
    /// The credentials for endpoints that could be read, by where they are.
    pub credentials: BTreeMap<String, Secret>,
    /// The keys of identity providers, by where they are.
    pub token_keys: BTreeMap<String, Arc<KeySet>>,
    /// Where the process runs.
    pub environment: Environment,
    /// What the process's own environment variable says of flags.
    pub forced: Forced,
    /// The file of flags has not been read since the process began: its flags answer as their fail modes say.
    pub flags_in_doubt: bool,
}

impl Snapshot {
    /// The table that follows from the state and what is observed.
    pub fn build(state: &State, observed: &Observed) -> Self {
        let flags = table(state, observed);
        let services = state.services.values();
        Self {
            position: state.position,
            services: services
                .map(|s| Arc::new(route(state, s, observed, &flags)))
                .collect(),
            flags_revision: revision((state.flags.revision, observed.flags_in_doubt), &flags),
            flags: Arc::new(flags),
            tenancy: Arc::clone(state.tenancy.directory()),
            api: Arc::new(state.api.clone()),
        }
    }

    /// The service for a request: the longest path that is a whole-segment prefix, on a host the service admits.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<ServiceRoute>> {
        self.services.find(host, path)
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceRoute>> {
        self.services.named(name)
    }
}

impl Split {
    /// The first step of a rollout with nothing special, under way ever since.
    pub fn new(rollout: RolloutId, candidate: usize, share: Share) -> Self {
        Self {
            rollout,
            flag: None,
            candidate,
            share,
            step: 1,
            contract_differs: false,
            step_began: Timestamp::UNIX_EPOCH,
            renew: None,
            block: JudgeRule::default().block,
            values: [].into(),
        }
    }
}

impl EndpointRoute {
    /// A healthy one with nothing special.
    pub fn new(id: EndpointId, url: impl Into<String>) -> Self {
        Self {
            id,
            url: url.into(),
            healthy: true,
            healthy_since: None,
            weight: 1,
            response_timeout: None,
            is_draining: false,
        }
    }
}

impl VersionRoute {
    /// A version that serves.
    pub fn new(name: VersionName, endpoints: Vec<EndpointRoute>) -> Self {
        Self {
            name,
            stage: VersionStage::Serving,
            withdrawn_at: None,
            endpoints,
            balance: Balance::default(),
            in_flight_max: None,
            fallback: Vec::new(),
            tools: [].into(),
            read_only_tools: [].into(),
        }
    }
}

impl ServiceRoute {
    /// A service with nothing special, whose first version is stable.
    pub fn new(
        name: ServiceName,
        protocol: Protocol,
        path: impl Into<String>,
        versions: Vec<VersionRoute>,
    ) -> Self {
        Self {
            name,
            protocol,
            path: path.into(),
            hosts: Vec::new(),
            versions,
            stable: 0,
            split: None,
            rules: Rules::default(),
            settings: ServiceSettings::default(),
            gates: Gates::default(),
            credential: None,
            tokens: None,
        }
    }

    /// Whether it is reached under a host.
    pub fn admits_host(&self, host: Option<&str>) -> bool {
        self.hosts.is_empty()
            || host.is_some_and(|host| self.hosts.iter().any(|h| h.eq_ignore_ascii_case(host)))
    }

    /// The version a new caller gets. The sides of a flag under release are told apart by the flag, not here.
    pub fn assign(&self, affinity_key: Option<&[u8]>) -> usize {
        match (&self.split, affinity_key) {
            (Some(split), Some(key))
                if split.flag.is_none() && split.share.includes(split.rollout, key) =>
            {
                split.candidate
            }
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

/// The table of flags, as definitions and rollouts make it.
fn table(state: &State, observed: &Observed) -> Table {
    let mut flags = Arc::clone(&state.flags.definitions);
    if observed.flags_in_doubt {
        let doubted = flags.iter().filter(|(key, _)| {
            let history = state.flags.histories.get(*key);
            history.is_some_and(|history| history.file.is_some())
        });
        let doubted: Vec<_> = doubted
            .filter_map(|(key, flag)| Some((key.clone(), Arc::new(flag.in_doubt()?))))
            .collect();
        Arc::make_mut(&mut flags).extend(doubted);
    }
    let mut table = Table {
        flags,
        overrides: Arc::clone(&state.flags.overrides),
        file_overrides: Arc::clone(&state.flags.file_overrides),
        forced: observed.forced.clone(),
        environment: observed.environment,
        ..Table::default()
    };
    for service in state.services.keys() {
        let Some(rollout) = state.latest(service) else {
            continue;
        };
        table.shares.insert(
            service.as_str().into(),
            state.share_in_force(rollout).percent(),
        );
        if rollout.status.is_terminal() {
            continue;
        }
        // At 0 %, by hand, nobody has the candidate, and nobody what goes with it.
        if rollout.share > Share::ZERO {
            table.set_by_rollouts.extend(rollout.flags());
        }
        if let Some(release) = &rollout.flag {
            table.releases.insert(
                release.flag.clone(),
                Release {
                    percentage: rollout.share.percent(),
                    on: release.on.clone(),
                },
            );
        }
    }
    table
}

/// What tells two tables of this process apart.
fn revision(definitions: (u64, bool), table: &Table) -> u64 {
    let mut hasher = DefaultHasher::new();
    definitions.hash(&mut hasher);
    for (flag, release) in &table.releases {
        (flag, release.percentage.to_bits(), &release.on).hash(&mut hasher);
    }
    table.set_by_rollouts.hash(&mut hasher);
    for (service, share) in &table.shares {
        (service, share.to_bits()).hash(&mut hasher);
    }
    hasher.finish()
}

fn route(state: &State, service: &Service, observed: &Observed, flags: &Table) -> ServiceRoute {
    let index = |name: &VersionName| service.versions.keys().position(|v| v == name);
    let versions = service.versions.iter().map(|(name, version)| VersionRoute {
        name: name.clone(),
        stage: version.stage,
        withdrawn_at: version.withdrawn_at,
        endpoints: version
            .reachable()
            .map(|e| EndpointRoute {
                id: e.id,
                url: e.url.clone(),
                healthy: !observed.unhealthy.contains(&e.id),
                healthy_since: observed.healthy_since.get(&e.id).copied(),
                weight: e.weight,
                response_timeout: e.response_timeout,
                is_draining: !version.takes_callers(e),
            })
            .collect(),
        balance: version.balance,
        in_flight_max: version.in_flight_max,
        fallback: version.fallback.iter().filter_map(index).collect(),
        tools: observed
            .tools
            .get(&(service.name.clone(), name.clone()))
            .cloned()
            .unwrap_or_default(),
        read_only_tools: observed
            .read_only_tools
            .get(&(service.name.clone(), name.clone()))
            .cloned()
            .unwrap_or_default(),
    });
    let mut versions: Vec<_> = versions.collect();
    let split = state.active(&service.name).and_then(|rollout| {
        let candidate = if rollout.flag.is_some() {
            let stable = versions.get(index(&service.stable)?)?.clone();
            versions.push(VersionRoute {
                name: rollout.to.clone(),
                ..stable
            });
            versions.len() - 1
        } else {
            index(&rollout.to)?
        };
        Some(Split {
            rollout: rollout.id,
            flag: rollout.flag.clone(),
            candidate,
            share: rollout.share,
            step: rollout.step,
            contract_differs: rollout.preflight.contract_differs,
            step_began: rollout.step_started_at,
            renew: rollout.plan.affinity.renew,
            block: rollout.plan.judge.block,
            values: watched(&rollout.plan),
        })
    });
    if let Some(split) = &split {
        versions[split.candidate].fallback.clear();
    }
    ServiceRoute {
        rules: service.rules.compiled().clone(),
        name: service.name.clone(),
        protocol: service.protocol,
        path: service.path.clone(),
        hosts: service.hosts.clone(),
        versions,
        stable: index(&service.stable).unwrap_or_default(),
        split,
        settings: service.settings.clone(),
        gates: Gates::new(&service.settings, flags),
        credential: credential(&service.settings.upstream, observed),
        tokens: (service.settings.jwt.as_ref())
            .and_then(|jwt| observed.token_keys.get(&jwt.jwks))
            .cloned(),
    }
}

fn credential(upstream: &Upstream, observed: &Observed) -> Option<Credential> {
    let reference = upstream.credential.as_deref()?;
    Some(match observed.credentials.get(reference) {
        Some(value) => Credential::Known {
            header: upstream.header().into(),
            value: value.clone(),
        },
        None => Credential::Missing {
            reference: reference.into(),
        },
    })
}
