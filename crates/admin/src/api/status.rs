//! The whole system at one moment: what `serin status` shows.
//!
//! Everything in it is at hand: no question of the log, of an endpoint or of the orchestrator, so that it answers also when one of them
//! does not.

use super::{fresh, kills::is_for};
use crate::{App, access::Caller};
use axum::{extract::State, response::Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_control::{
    Control,
    health::{Health, Issue, WINDOW_SECONDS},
    totals::Totals,
    view::{EndpointView, RolloutView, ServiceView, VersionView},
};
use serin_flags::{Environment, FlagKey, Kill, Target, kill::Position};
use serin_model::{
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    rollout::Status as RolloutState,
    route::{Live, seats},
    service::{Protocol, VersionStage},
    share::Share,
    snapshot::{EndpointRoute, ServiceRoute, VersionRoute},
};
use serin_route::standing::Seat;
use std::{path::PathBuf, sync::Arc};

/// Minutes of traffic that are shown.
const MINUTES: u32 = 10;
/// Windows of the health monitor in a minute.
const WINDOWS_A_MINUTE: f64 = 60.0 / WINDOW_SECONDS;
/// Most names of flags in a list: `serin flag list` has all.
const NAMES_MAX: usize = 20;

/// The whole system, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When.
    pub at: Timestamp,
    /// The release of the process.
    pub version: String,
    /// The commit it was built from.
    pub revision: String,
    /// When the process began.
    pub started_at: Timestamp,
    /// Where it runs.
    pub environment: Environment,
    /// The last event that is in force.
    pub position: u64,
    /// Whether this process decides. It does not once another one has opened the same log.
    pub leader: bool,
    /// The services, by name.
    pub services: Vec<ServiceStatus>,
    /// The flags.
    pub flags: FlagsStatus,
    /// What is killed or being tried.
    pub kills: Vec<KillStatus>,
    /// What was recorded since the process began.
    pub audit: AuditStatus,
    /// The log.
    pub store: StoreStatus,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where clients reach it.
    pub path: String,
    /// The version that serves everyone.
    pub stable: VersionName,
    /// Its versions, by name.
    pub versions: Vec<VersionStatus>,
    /// How many rules are in force.
    pub rules: usize,
    /// The rollout under way, or the last one.
    pub rollout: Option<RolloutStatus>,
    /// What is wrong now, worst first.
    pub issues: Vec<Issue>,
    /// Its calls in the last minutes, oldest first.
    pub traffic: Vec<Traffic>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Its name.
    pub name: VersionName,
    /// Where it is in its life.
    pub stage: VersionStage,
    /// Until when what is there may go on, while it takes no new callers.
    pub draining_until: Option<Timestamp>,
    /// That time has come: nothing goes there any more.
    #[serde(default)]
    pub drained: bool,
    /// How many tools it lists, when that is known.
    pub tools: Option<usize>,
    /// Calls that are open now.
    pub open_calls: u64,
    /// Event streams that are open now.
    pub open_streams: u64,
    /// Most calls that may be open.
    pub in_flight_max: Option<u32>,
    /// Where it runs.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is something of its own that an endpoint can be"
)]
pub struct EndpointStatus {
    /// Its id.
    pub id: EndpointId,
    /// Its URL.
    pub url: String,
    /// How much it takes beside the version's others.
    pub weight: u32,
    /// What its probes say.
    pub healthy: bool,
    /// It was added while the process ran, and has not answered a probe yet.
    #[serde(default)]
    pub is_new: bool,
    /// Requests under way there, open streams left out.
    pub in_flight: u32,
    /// Its breaker takes nothing now.
    pub breaker_open: bool,
    /// It fails too often, and is left alone for a while.
    pub ejected: bool,
    /// It takes no new callers.
    pub draining: bool,
    /// Nothing goes there any more.
    #[serde(default)]
    pub drained: bool,
    /// It is back, or new, and takes less than its part as yet.
    pub warming_up: bool,
}

impl EndpointStatus {
    /// Whether it takes its part.
    pub const fn is_well(&self) -> bool {
        self.healthy && !self.breaker_open && !self.ejected && !self.draining && !self.drained
    }
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Its id.
    pub id: RolloutId,
    /// The stable version when it began.
    pub from: VersionName,
    /// The candidate.
    pub to: VersionName,
    /// What its plan is called.
    pub plan: String,
    /// Where it is.
    pub status: RolloutState,
    /// Which phase, from 0.
    pub phase: usize,
    /// How many phases there are.
    pub phases: usize,
    /// The share in force.
    pub share: Share,
    /// The share of new keys that got the candidate in this step, once there are any.
    pub share_realised: Option<f64>,
    /// Seconds in the present step, pauses not counted.
    pub step_seconds: f64,
    /// Seconds that the present phase holds for.
    pub hold_seconds: f64,
    /// What holds it: a warning, a kill.
    pub held: Option<String>,
    /// Whether it waits for a promotion by hand.
    pub ready: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why.
    pub ended_reason: Option<String>,
}

/// The calls of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// When it began.
    pub at: Timestamp,
    /// Seconds of it that there were.
    pub seconds: f64,
    /// Calls that ended.
    pub calls: u64,
    /// Those for which a version is to blame.
    pub bad: u64,
}

/// The flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlagsStatus {
    /// How many there are.
    pub all: usize,
    /// How many are off for everybody: switched off, expired or killed.
    pub off: usize,
    /// Those, by name; the first only.
    pub off_names: Vec<FlagKey>,
    /// The file they come from, if there is one.
    pub file: Option<PathBuf>,
    /// Why what the file holds now is not in force.
    pub file_stale: Option<String>,
    /// Whether the file has not been read since the process began: its flags answer as their fail modes say.
    pub in_doubt: bool,
}

/// Something that is killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillStatus {
    /// What.
    pub target: Target,
    /// While it is being tried: one call in so many goes through.
    pub one_in: Option<u32>,
    /// Since when.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What was recorded since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Rows in the table.
    pub rows: u64,
    /// Rows that wait for it.
    pub waiting: u64,
    /// Rows that are nowhere.
    pub lost: u64,
}

/// The log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Appends since the process began.
    pub appends: u64,
    /// Seconds within which 99 in 100 of them were on the disk, once there are any.
    pub append_p99_seconds: Option<f64>,
}

/// Everything, at one moment: services with versions, endpoints, rollouts, issues and the traffic of the last ten minutes; flags,
/// kills, the audit trail and the log. Keys that are no operator's see nothing of other tenants.
#[utoipa::path(get, path = "/admin/v1/status", tag = "services", responses((status = OK, description = "The whole picture", body = Object)))]
pub(super) async fn status(State(app): State<App>, caller: Caller) -> Response {
    fresh(&draw(&app, &caller))
}

fn draw(app: &App, caller: &Caller) -> Status {
    let control = &app.control;
    let view = control.view();
    let now = control.flags();
    let totals = control.totals();
    let live = control.live();
    let routes = &now.snapshot.services;
    let services = view.services.iter().map(|service| {
        let route = routes.iter().find(|route| route.name == service.name);
        let (issues, traffic) = control.health(|health, now| {
            (
                health.issues(&service.name),
                traffic(health, &service.name, now),
            )
        });
        ServiceStatus {
            rules: route.map_or(0, |route| route.rules.iter().count()),
            versions: service
                .versions
                .iter()
                .map(|version| version_status(version, route.map(|route| &**route), &*live))
                .collect(),
            issues,
            traffic,
            ..service_status(service)
        }
    });
    let is_shown = |kill: &&Kill| is_for(caller, &kill.target);
    Status {
        at: Timestamp::now(),
        version: app.build.version.to_owned(),
        revision: app.build.revision.to_owned(),
        started_at: app.began,
        environment: now.table().environment,
        position: now.snapshot.position,
        leader: view.leader,
        services: services.collect(),
        flags: flags(control),
        kills: (control.kills().active())
            .filter(is_shown)
            .map(kill_status)
            .collect(),
        audit: audit(control),
        store: store(&totals),
    }
}

fn service_status(service: &ServiceView) -> ServiceStatus {
    ServiceStatus {
        name: service.name.clone(),
        protocol: service.protocol,
        path: service.path.clone(),
        stable: service.stable.clone(),
        versions: Vec::new(),
        rules: 0,
        rollout: service.rollout.as_ref().map(rollout_status),
        issues: Vec::new(),
        traffic: Vec::new(),
    }
}

fn version_status(
    version: &VersionView,
    service: Option<&ServiceRoute>,
    live: &dyn Live,
) -> VersionStatus {
    let of_name = |route: &&VersionRoute| route.name == version.name;
    let found = service.and_then(|service| Some((service, service.versions.iter().find(of_name)?)));
    let mut endpoints = found.map_or_else(Vec::new, |(service, route)| {
        let slow_start = service.settings.slow_start;
        let each = route.endpoints.iter().zip(seats(route, live));
        let is_new = |id| {
            let mut known = version.endpoints.iter();
            known.any(|endpoint| endpoint.id == id && endpoint.is_new)
        };
        let status = |(endpoint, seat): (&EndpointRoute, Seat)| EndpointStatus {
            id: endpoint.id,
            url: endpoint.url.clone(),
            weight: endpoint.weight,
            healthy: seat.is_healthy,
            is_new: is_new(endpoint.id),
            in_flight: seat.standing.in_flight,
            breaker_open: seat.standing.is_open,
            ejected: seat.standing.is_ejected,
            draining: seat.is_draining,
            drained: false,
            warming_up: seat.weight_now(live.now_ms(), slow_start) < f64::from(seat.weight),
        };
        each.map(status).collect()
    });
    // The data plane does not know them any more.
    endpoints.extend(version.drained().map(drained));
    VersionStatus {
        name: version.name.clone(),
        stage: version.stage,
        draining_until: version.drain.as_ref().map(|drain| drain.until),
        drained: version.drain.as_ref().is_some_and(|drain| drain.is_over),
        tools: version.tools,
        open_calls: version.open_calls,
        open_streams: version.open_streams,
        in_flight_max: found.and_then(|(_, route)| route.in_flight_max),
        endpoints,
    }
}

/// An endpoint to which nothing goes any more. It is not probed either.
fn drained(endpoint: &EndpointView) -> EndpointStatus {
    EndpointStatus {
        id: endpoint.id,
        url: endpoint.url.clone(),
        weight: endpoint.weight,
        healthy: true,
        is_new: false,
        in_flight: 0,
        breaker_open: false,
        ejected: false,
        draining: false,
        drained: true,
        warming_up: false,
    }
}

fn rollout_status(rollout: &RolloutView) -> RolloutStatus {
    RolloutStatus {
        id: rollout.id,
        from: rollout.from.clone(),
        to: rollout.to.clone(),
        plan: rollout.plan.clone(),
        status: rollout.status,
        phase: rollout.phase,
        phases: rollout.phases.len(),
        share: rollout.share_wanted,
        share_realised: rollout.share_realised(),
        step_seconds: rollout.step_seconds,
        hold_seconds: rollout.hold_seconds,
        held: rollout.killed.clone().or_else(|| rollout.held.clone()),
        ready: rollout.ready,
        started_at: rollout.started_at,
        ended_at: rollout.ended_at,
        ended_reason: rollout.ended_reason.clone(),
    }
}

/// The last minutes of a service, all of its versions together. Those in which nothing came are there too, with nothing.
fn traffic(health: &Health, service: &ServiceName, now: f64) -> Vec<Traffic> {
    let windows_max = f64::from(MINUTES) * WINDOWS_A_MINUTE;
    let latest = (now / WINDOW_SECONDS).floor();
    let versions = health.metrics(service, MINUTES, now);
    let mut minutes = Vec::new();
    let mut first = latest - windows_max + 1.0;
    while first <= latest {
        let from = first * WINDOW_SECONDS;
        let until = from + WINDOWS_A_MINUTE * WINDOW_SECONDS;
        let mut minute = Traffic {
            at: at(from),
            seconds: (now - from).clamp(0.1, WINDOWS_A_MINUTE * WINDOW_SECONDS),
            calls: 0,
            bad: 0,
        };
        let windows = versions.iter().flat_map(|version| &version.windows);
        for window in windows.filter(|window| window.at >= minute.at && window.at < at(until)) {
            minute.calls += window.calls;
            minute.bad += window.bad;
        }
        minutes.push(minute);
        first += WINDOWS_A_MINUTE;
    }
    minutes
}

fn at(seconds: f64) -> Timestamp {
    let since = jiff::SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
    Timestamp::from_duration(since).unwrap_or_default()
}

fn flags(control: &Control) -> FlagsStatus {
    let now = control.flags();
    let table = now.table();
    let all_off = now.latch.stops_flags(None, table.environment);
    let is_off = |(key, flag): &(&FlagKey, &Arc<serin_flags::Flag>)| {
        let has_expired = (flag.serin.expires).is_some_and(|expires| expires <= Timestamp::now());
        all_off
            || has_expired
            || flag.state == serin_flags::State::Disabled
            || now.latch.stops_flag(key.as_str())
    };
    let off: Vec<_> = table.flags.iter().filter(is_off).collect();
    let file = control.flag_file();
    FlagsStatus {
        all: table.flags.len(),
        off: off.len(),
        off_names: off
            .iter()
            .take(NAMES_MAX)
            .map(|(key, _)| (*key).clone())
            .collect(),
        in_doubt: file.as_ref().is_some_and(|file| file.read_at.is_none()),
        file_stale: file.as_ref().and_then(|file| file.stale.clone()),
        file: file.map(|file| file.path),
    }
}

fn kill_status(kill: &Kill) -> KillStatus {
    KillStatus {
        target: kill.target.clone(),
        one_in: match kill.position {
            Position::Probing { one_in } => Some(one_in),
            Position::Killed | Position::Revived => None,
        },
        at: kill.at,
        actor: kill.actor.clone(),
        reason: kill.reason.clone(),
    }
}

fn audit(control: &Control) -> AuditStatus {
    let counted = control.books().counted();
    AuditStatus {
        rows: counted.stored,
        waiting: counted.waiting,
        lost: counted.lost,
    }
}

fn store(totals: &Totals) -> StoreStatus {
    StoreStatus {
        appends: totals.append_seconds.count(),
        append_p99_seconds: totals.append_seconds.quantile_seconds(0.99),
    }
}
