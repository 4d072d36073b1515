//! Kill switches at work: they count what they watch, and [`decide`] says what follows.

use super::{Switchboard, notify::Messenger};
use crate::health::Health;
use jiff::Timestamp;
use serde::Serialize;
use serin_flags::{
    Kill, Kills, Target,
    kill::{Cause, KillError, Position, Revival, Wish},
};
use serin_judge::{Metric, Tally};
use serin_model::{
    name::ServiceName,
    observe::{CallEra, CellKey, Counts, NO_TOOL, Sealed},
    service::{Service, VersionStage},
    snapshot::Observed,
    state::State,
    switch::{Act, Action, Alert, KillSwitch, Readings, Streaks, decide},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Parts of a window that are forgotten one by one.
const SLICES: u64 = 10;

/// A kill switch as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct SwitchStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    #[serde(flatten)]
    pub switch: KillSwitch,
    /// Where it is.
    pub state: SwitchState,
    /// Calls that it has seen in its window.
    pub calls: u64,
    /// Of them, those for which a version is to blame.
    pub bad: u64,
    /// Attempts to recover so far.
    pub attempts: u32,
}

/// Where a kill switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchState {
    /// Its triggers do not count.
    Disabled,
    /// Nothing is wrong.
    Armed,
    /// It has killed, and will try to recover.
    Killed,
    /// It lets some calls through, to see.
    Probing,
    /// Its target is killed, and a person has to revive it.
    WaitsForPerson,
}

/// What the orchestrator has to do for a switch: what needs the log.
pub(crate) enum Errand {
    /// Bring a target back.
    Revive(Revival),
    /// Set a flag.
    Flag {
        /// For whom.
        switch: Arc<str>,
        /// What to do.
        action: Action,
    },
}

/// All kill switches.
pub(crate) struct Switches {
    watched: BTreeMap<Arc<str>, Watched>,
    messenger: Messenger,
}

struct Watched {
    switch: KillSwitch,
    counts: Rolling,
    streaks: Streaks,
    /// The generation of its target's record when it was last looked at: what was counted before it changed says nothing about now.
    generation: u64,
}

impl Switches {
    pub(crate) fn new(client: reqwest::Client) -> Self {
        Self {
            watched: BTreeMap::new(),
            messenger: Messenger::new(client),
        }
    }

    /// Takes what a core counted.
    pub(crate) fn add(&mut self, sealed: &Sealed, now: Timestamp) {
        if self.watched.is_empty() {
            return;
        }
        for watched in self.watched.values_mut() {
            let cells = sealed.cells.iter();
            for (key, counts) in cells.filter(|(key, _)| covers(watched.switch.watched(), key)) {
                watched.counts.add(key, counts, now);
            }
        }
    }

    /// Looks at each switch and lets it act. What has to go through the log is left to the caller.
    pub(crate) fn look(
        &mut self,
        state: &State,
        (observed, health): (&Observed, &Health),
        board: &Switchboard,
        now: Timestamp,
    ) -> Vec<Errand> {
        if self.watched.is_empty() && state.kill_switches.is_empty() {
            return Vec::new();
        }
        self.follow(state, &board.kills());
        let mut errands = Vec::new();
        let mut shown = Vec::new();
        for (name, watched) in &mut self.watched {
            let kills = board.kills();
            let record = kills.get(&watched.switch.target);
            let generation = record.map_or(0, |record| record.generation);
            if generation != watched.generation {
                watched.generation = generation;
                watched.counts = Rolling::new(watched.switch.window);
                watched.streaks = Streaks::default();
                if let Some(record) = record {
                    self.messenger.tell(name, &watched.switch, record);
                }
            }
            let seen = watched.read(state, observed, health, now);
            let trips = watched.streaks.look(&watched.switch, &seen, now);
            let act = decide(name, &watched.switch, record, (&seen, trips), now);
            if let Some(act) = act {
                tracing::warn!(switch = &**name, target = %watched.switch.target, "{act}");
                let more = watched.act(name, record, act, board, &self.messenger, now);
                match more {
                    Ok(more) => errands.extend(more),
                    Err(error) => {
                        tracing::error!(switch = &**name, %error, "a kill switch could not act");
                    }
                }
            }
            let kills = board.kills();
            let record = kills.get(&watched.switch.target);
            shown.push(status(name, &watched.switch, record, &seen));
        }
        board.show_switches(shown);
        errands
    }

    /// Keeps to the switches that there are, and shows them before whoever applied one is answered: a person may pull it by its name
    /// at once.
    pub(crate) fn keep_to(&mut self, state: &State, board: &Switchboard, now: Timestamp) {
        let watched = self.watched.iter().map(|(name, one)| (name, &one.switch));
        if watched.eq(&state.kill_switches) {
            return;
        }
        let kills = board.kills();
        self.follow(state, &kills);
        let shown = self.watched.iter().map(|(name, watched)| {
            let sum = watched.counts.sum(now);
            let seen = Readings {
                calls: sum.calls,
                bad: sum.bad,
                ..Readings::default()
            };
            let record = kills.get(&watched.switch.target);
            status(name, &watched.switch, record, &seen)
        });
        board.show_switches(shown.collect());
    }

    /// Keeps to the switches that there are. A change of one makes its counts void.
    fn follow(&mut self, state: &State, kills: &Kills) {
        let wanted = &state.kill_switches;
        self.watched
            .retain(|name, watched| wanted.get(name) == Some(&watched.switch));
        for (name, switch) in wanted {
            if !self.watched.contains_key(name) {
                let watched = Watched {
                    switch: switch.clone(),
                    counts: Rolling::new(switch.window),
                    streaks: Streaks::default(),
                    generation: kills.get(&switch.target).map_or(0, |kill| kill.generation),
                };
                self.watched.insert(name.clone(), watched);
            }
        }
    }
}

impl Watched {
    fn read(
        &self,
        state: &State,
        observed: &Observed,
        health: &Health,
        now: Timestamp,
    ) -> Readings {
        let sum = self.counts.sum(now);
        let window = self.switch.window.as_secs_f64();
        let watched = self.switch.watched();
        Readings {
            calls: sum.calls,
            bad: sum.bad,
            latency_p95_seconds: sum.value(Metric::LatencyP95, window),
            latency_p99_seconds: sum.value(Metric::LatencyP99, window),
            is_down: is_down(watched, state, observed),
            alerts: alerts(watched, state, health),
        }
    }

    fn act(
        &self,
        name: &Arc<str>,
        record: Option<&Kill>,
        act: Act,
        board: &Switchboard,
        messenger: &Messenger,
        now: Timestamp,
    ) -> Result<Vec<Errand>, KillError> {
        let target = self.switch.target.clone();
        let (position, reason) = match act {
            Act::Kill { reason } => {
                let wish = Wish {
                    target,
                    actor: actor(name),
                    reason: short(reason),
                    cause: Cause::Switch(name.clone()),
                    priority: self.switch.priority,
                    grace_seconds: self.switch.grace_seconds(),
                };
                board.kill_now(wish)?;
                board.keep_soon();
                return Ok(Vec::new());
            }
            Act::Revive { reason } => {
                return Ok(vec![Errand::Revive(Revival {
                    target,
                    seen: record.map_or(0, |record| record.generation),
                    actor: actor(name),
                    reason: short(reason),
                    cause: Cause::Switch(name.clone()),
                })]);
            }
            Act::Probe { one_in, attempt } => (
                (Position::Probing { one_in }, attempt),
                format!("attempt {attempt} to recover"),
            ),
            Act::KillAgain { reason, attempt } => ((Position::Killed, attempt), short(reason)),
        };
        let begins = matches!(position.0, Position::Probing { .. });
        board.shift_now(|kills| kills.shift(&target, name, position, reason, now))?;
        board.keep_soon();
        let actions = self
            .switch
            .recovery
            .iter()
            .flat_map(|recovery| &recovery.actions);
        let mut errands = Vec::new();
        for action in actions.filter(|_| begins) {
            match action {
                Action::Webhook(address) => messenger.call(name, &self.switch, address),
                Action::FlagOn(_) | Action::FlagOff(_) => errands.push(Errand::Flag {
                    switch: name.clone(),
                    action: action.clone(),
                }),
            }
        }
        Ok(errands)
    }
}

/// Who a switch is in the log.
pub(crate) fn actor(switch: &str) -> String {
    format!("switch:{switch}")
}

fn short(reason: String) -> String {
    if reason.chars().count() <= serin_flags::kill::REASON_CHARS_MAX {
        return reason;
    }
    reason
        .chars()
        .take(serin_flags::kill::REASON_CHARS_MAX)
        .collect()
}

fn status(
    name: &Arc<str>,
    switch: &KillSwitch,
    record: Option<&Kill>,
    seen: &Readings,
) -> SwitchStatus {
    let attempts = record.map_or(0, |record| record.attempts);
    let active = record.filter(|record| record.is_active());
    let may_try = switch.enabled
        && switch
            .recovery
            .as_ref()
            .is_some_and(|recovery| attempts < recovery.attempts);
    let state = match active {
        None if switch.enabled => SwitchState::Armed,
        None => SwitchState::Disabled,
        Some(kill) => match (&kill.cause, kill.position) {
            (Cause::Switch(by), Position::Probing { .. }) if by == name => SwitchState::Probing,
            (Cause::Switch(by), _) if by == name && may_try => SwitchState::Killed,
            _ => SwitchState::WaitsForPerson,
        },
    };
    SwitchStatus {
        name: name.clone(),
        switch: switch.clone(),
        state,
        calls: seen.calls,
        bad: seen.bad,
        attempts,
    }
}

/// Whether calls of a cell are of what is watched.
fn covers(watched: &Target, key: &CellKey) -> bool {
    match watched {
        Target::System | Target::Environment(_) => true,
        Target::Service(service) => **service == *key.service.as_str(),
        Target::Version { service, version } => {
            **service == *key.service.as_str() && **version == *key.version.as_str()
        }
        Target::Tool { service, tool } => {
            let here = service
                .as_ref()
                .is_none_or(|service| **service == *key.service.as_str());
            here && *tool == key.tool
        }
        Target::Tenant(_) | Target::Flag(_) | Target::Flags => false,
    }
}

fn services<'a>(watched: &'a Target, state: &'a State) -> impl Iterator<Item = &'a Service> {
    let one: Option<&str> = match watched {
        Target::Service(service)
        | Target::Version { service, .. }
        | Target::Tool {
            service: Some(service),
            ..
        } => Some(service),
        Target::System | Target::Environment(_) => None,
        Target::Tool { .. } | Target::Tenant(_) | Target::Flag(_) | Target::Flags => Some(""),
    };
    let of_one = move |name: &ServiceName| one.is_none_or(|one| name.as_str() == one);
    state
        .services
        .values()
        .filter(move |service| of_one(&service.name))
}

/// Whether no endpoint of what is watched is left. Versions that serve nobody may be off.
fn is_down(watched: &Target, state: &State, observed: &Observed) -> bool {
    let mut any = false;
    for service in services(watched, state) {
        for (name, version) in &service.versions {
            let serves = matches!(
                version.stage,
                VersionStage::Serving | VersionStage::Draining
            );
            let is_meant = match watched {
                Target::Version { version, .. } => name.as_str() == &**version,
                _ => serves,
            };
            for endpoint in version.reachable().filter(|_| is_meant) {
                any = true;
                if !observed.unhealthy.contains(&endpoint.id) {
                    return false;
                }
            }
        }
    }
    any
}

fn alerts(watched: &Target, state: &State, health: &Health) -> Vec<Alert> {
    let issues = services(watched, state).flat_map(|service| health.issues(&service.name));
    let meant = issues.filter(|issue| match watched {
        Target::Version { version, .. } => issue.version.as_str() == &**version,
        _ => true,
    });
    meant
        .map(|issue| Alert {
            name: issue.subject.to_string(),
            level: issue.level,
            text: issue.text,
        })
        .collect()
}

/// Counts over a window that moves on.
struct Rolling {
    slice: Duration,
    slices: VecDeque<(u64, Tally)>,
}

impl Rolling {
    fn new(window: Duration) -> Self {
        let slice = window.div_f64(SLICES as f64);
        Self {
            slice: slice.max(Duration::from_millis(1)),
            slices: VecDeque::new(),
        }
    }

    fn index(&self, now: Timestamp) -> u64 {
        let millis = u128::try_from(now.as_millisecond()).unwrap_or_default();
        u64::try_from(millis / self.slice.as_millis().max(1)).unwrap_or_default()
    }

    fn add(&mut self, key: &CellKey, counts: &Counts, now: Timestamp) {
        let index = self.index(now);
        // Those of the future are of a clock that was set back since.
        self.slices
            .retain(|(at, _)| *at <= index && at + SLICES > index);
        if self.slices.back().is_none_or(|(at, _)| *at != index) {
            self.slices.push_back((index, Tally::default()));
        }
        if let Some((_, tally)) = self.slices.back_mut() {
            tally.calls += counts.calls();
            tally.bad += counts.bad();
            // How long `initialize` and the like take is nobody's measure.
            if &*key.tool != NO_TOOL || key.era == CallEra::None {
                tally.first_byte.merge(&counts.first_byte);
                tally.last_byte.merge(&counts.last_byte);
            }
        }
    }

    fn sum(&self, now: Timestamp) -> Tally {
        let index = self.index(now);
        let mut sum = Tally::default();
        for (at, tally) in &self.slices {
            if *at <= index && at + SLICES > index {
                sum.merge(tally);
            }
        }
        sum
    }
}
