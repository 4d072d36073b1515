//! Kill switches: what is killed by itself, when, and how it comes back.
//!
//! [`decide`] says what follows from what was seen. Who acts is control: it counts, kills through the switchboard, and tells people.
//!
//! A switch recovers only what it killed itself. What a person kills, a person revives.

use crate::{share::Share, text};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_flags::{
    FlagKey, Kill, Target,
    kill::{Cause, Position, Priority},
};
use serin_judge::Level;
use std::{fmt, time::Duration};

/// What an alert of a trigger may be called: the metrics that the health monitor has rules for, what else it warns of, and `any`.
pub const ALERTS: [&str; 14] = [
    "any",
    "error_rate",
    "availability",
    "client_errors",
    "auth_failures",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "cpu",
    "restarts",
    "memory_leak",
    "endpoint",
    "unusable",
    "metrics_page",
];
/// Most kill switches: each keeps counts of its own.
pub const SWITCHES_MAX: usize = 200;
/// Most triggers of a switch.
pub const TRIGGERS_MAX: usize = 20;
/// Most addresses and actions of a switch.
pub const ADDRESSES_MAX: usize = 10;
/// Longest name of a switch, in bytes: it stands in each record that it makes.
pub const SWITCH_NAME_BYTES_MAX: usize = 64;
/// Shortest and longest time over which a switch counts.
pub const WINDOW: [Duration; 2] = [Duration::from_secs(1), Duration::from_hours(1)];
/// Longest time of anything else in a switch.
pub const TIME_MAX: Duration = Duration::from_hours(24);
/// Most attempts to recover.
pub const ATTEMPTS_MAX: u32 = 100;
/// Most calls of which one is let through as a probe.
pub const ONE_IN_MAX: u32 = 10_000;

/// A kill switch as it stands in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSwitch {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it kills.
    pub target: Target,
    /// What it looks at: the system, a service, a version or a tool; the target unless set. Needed where the target is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Target>,
    /// When it kills: any of these. None: it is only pulled by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// Over how long calls are counted; 1 minute unless set.
    #[serde(default = "window", with = "text::duration")]
    pub window: Duration,
    /// Calls in flight may go on for so long after a kill; 30 s unless set (Cortex's `gracePeriodMs`).
    #[serde(default = "grace", with = "text::duration")]
    pub grace: Duration,
    /// How urgent its kills are: critical (P0), high, medium, low (P3).
    #[serde(default)]
    pub priority: Priority,
    /// How it comes back by itself; unless set, a person revives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Who is told: addresses of webhooks, or `env:NAME` and `file:PATH` that hold one, so that no secret gets into the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// Whether its triggers count.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// When a switch kills. One condition each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trigger {
    /// More calls than this fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Share>,
    /// The 95th percentile of the time to the last byte is above this.
    #[serde(
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub latency_p95: Option<Duration>,
    /// The 99th percentile is.
    #[serde(
        with = "text::duration_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub latency_p99: Option<Duration>,
    /// All endpoints of what is watched fail their probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthTrigger>,
    /// The health monitor has an alert of this name, such as `memory_leak` or `latency_p95`; `any` for whichever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// Only alerts that are at least so bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// It must have been so for this long.
    #[serde(
        rename = "for",
        with = "text::duration",
        skip_serializing_if = "Duration::is_zero"
    )]
    pub lasting: Duration,
    /// Fewer calls say nothing; 20 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u64>,
}

/// The health that kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTrigger {
    /// No endpoint is left.
    Down,
}

/// How what a switch has killed comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recovery {
    /// From the kill to an attempt; 5 minutes unless set (Cortex's `autoRecoveryDelayMs`).
    #[serde(with = "text::duration")]
    pub delay: Duration,
    /// How many attempts; 3 unless set. After them it stays killed for a person.
    pub attempts: u32,
    /// How an attempt shows that it works again.
    pub probe: Probe,
    /// What is done at the beginning of each attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
}

/// Half-open: some calls go through, and must be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// One call in so many goes through; 10 unless set.
    pub one_in: u32,
    /// So many calls must have ended; 20 unless set. Of them no larger part may fail than the trigger on the error rate allows, none
    /// where there is no such trigger.
    pub calls: u32,
}

/// What is done at the beginning of an attempt to recover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// A webhook is called: an address, `env:NAME` or `file:PATH`.
    Webhook(String),
    /// A flag is enabled.
    FlagOn(FlagKey),
    /// A flag is disabled.
    FlagOff(FlagKey),
}

fn window() -> Duration {
    Duration::from_mins(1)
}

fn grace() -> Duration {
    Duration::from_secs(30)
}

fn yes() -> bool {
    true
}

/// Fewest calls that say something, unless set.
const MIN_CALLS: u64 = 20;

impl Default for Recovery {
    fn default() -> Self {
        Self {
            delay: Duration::from_mins(5),
            attempts: 3,
            probe: Probe::default(),
            actions: Vec::new(),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            one_in: 10,
            calls: 20,
        }
    }
}

impl KillSwitch {
    /// What it looks at.
    pub fn watched(&self) -> &Target {
        self.watch.as_ref().unwrap_or(&self.target)
    }

    /// Its grace in seconds.
    pub fn grace_seconds(&self) -> u32 {
        u32::try_from(self.grace.as_secs()).unwrap_or(u32::MAX)
    }

    /// The highest error rate that its triggers allow.
    fn error_rate_allowed(&self) -> f64 {
        let rates = self
            .triggers
            .iter()
            .filter_map(|trigger| trigger.error_rate);
        rates
            .map(|rate| rate.percent() / 100.0)
            .reduce(f64::min)
            .unwrap_or(0.0)
    }
}

impl Trigger {
    /// How many conditions it names: one, or it says nothing clear.
    pub fn conditions(&self) -> usize {
        [
            self.error_rate.is_some(),
            self.latency_p95.is_some(),
            self.latency_p99.is_some(),
            self.health.is_some(),
            self.alert.is_some(),
        ]
        .into_iter()
        .filter(|is_there| *is_there)
        .count()
    }

    /// Why it is met by what is seen, if it is.
    fn met(&self, seen: &Readings) -> Option<String> {
        let enough = seen.calls >= self.min_calls.unwrap_or(MIN_CALLS).max(1);
        let rate = seen.bad as f64 / seen.calls.max(1) as f64;
        if let Some(limit) = self.error_rate
            && enough
            && rate * 100.0 > limit.percent()
        {
            return Some(format!(
                "{:.1} % of {} calls failed, above {limit}",
                rate * 100.0,
                seen.calls
            ));
        }
        let slow = |name: &str, limit: Option<Duration>, seen: Option<f64>| {
            let (limit, seen) = (limit?, seen?);
            // Nothing that is not above the limit counts, and endless is.
            (seen > limit.as_secs_f64()).then(|| {
                let limit = text::format_duration(limit);
                if seen.is_finite() {
                    format!("{name} is {seen:.3} s, above {limit}")
                } else {
                    format!("{name} is endless: so many calls fail")
                }
            })
        };
        if enough {
            let slow = slow("latency_p95", self.latency_p95, seen.latency_p95_seconds)
                .or_else(|| slow("latency_p99", self.latency_p99, seen.latency_p99_seconds));
            if slow.is_some() {
                return slow;
            }
        }
        if self.health.is_some() && seen.is_down {
            return Some("every endpoint fails its probes".to_owned());
        }
        let wanted = self.alert.as_deref()?;
        let alert = seen.alerts.iter().find(|alert| {
            (wanted == "any" || wanted == alert.name)
                && self.level.is_none_or(|level| alert.level >= level)
        })?;
        Some(format!("alert {}: {}", alert.name, alert.text))
    }
}

/// What is seen of what a switch watches, over its window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Calls that ended.
    pub calls: u64,
    /// Calls for which the version is to blame.
    pub bad: u64,
    /// 95th percentile of seconds to the last byte.
    pub latency_p95_seconds: Option<f64>,
    /// 99th percentile.
    pub latency_p99_seconds: Option<f64>,
    /// Whether no endpoint is left.
    pub is_down: bool,
    /// What the health monitor warns of.
    pub alerts: Vec<Alert>,
}

/// What the health monitor warns of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// In words.
    pub text: String,
}

/// Since when each trigger of a switch is met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streaks(Vec<Option<Timestamp>>);

impl Streaks {
    /// Looks at each trigger. Why the switch trips, if one has been met for as long as it must.
    pub fn look(&mut self, switch: &KillSwitch, seen: &Readings, now: Timestamp) -> Option<String> {
        self.0.resize(switch.triggers.len(), None);
        let mut trips = None;
        for (trigger, since) in switch.triggers.iter().zip(&mut self.0) {
            let Some(why) = trigger.met(seen) else {
                *since = None;
                continue;
            };
            // A clock that was set back begins anew.
            let began = since.filter(|began| *began <= now).unwrap_or(now);
            *since = Some(began);
            if elapsed(began, now) >= trigger.lasting {
                trips = trips.or(Some(why));
            }
        }
        trips
    }
}

/// What a switch does.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// It kills.
    Kill {
        /// Why.
        reason: String,
    },
    /// It lets some calls through, to see.
    Probe {
        /// One in so many.
        one_in: u32,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// The attempt has failed: back to killed.
    KillAgain {
        /// Why.
        reason: String,
        /// Which attempt it was.
        attempt: u32,
    },
    /// It works again.
    Revive {
        /// What showed it.
        reason: String,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { reason } => write!(f, "killed: {reason}"),
            Self::Probe { one_in, attempt } => {
                write!(
                    f,
                    "attempt {attempt} to recover: one call in {one_in} goes through"
                )
            }
            Self::KillAgain { reason, attempt } => {
                write!(f, "attempt {attempt} to recover failed: {reason}")
            }
            Self::Revive { reason } => write!(f, "revived: {reason}"),
        }
    }
}

/// What follows for a switch. `trips` is what [`Streaks::look`] said of the window, `seen` what there is to see: while it probes, only
/// of the probes.
pub fn decide(
    name: &str,
    switch: &KillSwitch,
    record: Option<&Kill>,
    (seen, trips): (&Readings, Option<String>),
    now: Timestamp,
) -> Option<Act> {
    if !switch.enabled {
        return None;
    }
    let Some(record) = record.filter(|record| record.is_active()) else {
        return trips.map(|reason| Act::Kill { reason });
    };
    let is_ours = matches!(&record.cause, Cause::Switch(by) if &**by == name);
    match record.position {
        Position::Killed if is_ours => recover(switch.recovery.as_ref()?, switch, record, now),
        Position::Probing { .. } if is_ours => judge_probes(switch, record, seen),
        // Another switch is trying whether it works; this one sees that it does not.
        Position::Probing { .. } if matches!(record.cause, Cause::Switch(_)) => {
            trips.map(|reason| Act::Kill { reason })
        }
        _ => None,
    }
}

fn recover(recovery: &Recovery, switch: &KillSwitch, record: &Kill, now: Timestamp) -> Option<Act> {
    if record.attempts >= recovery.attempts || elapsed(record.at, now) < recovery.delay {
        return None;
    }
    let attempt = record.attempts + 1;
    // A flag answers one thing or the other: there is no half of it to try.
    let one_in = match switch.target {
        Target::Flag(_) | Target::Flags => 1,
        _ => recovery.probe.one_in.max(1),
    };
    Some(Act::Probe { one_in, attempt })
}

fn judge_probes(switch: &KillSwitch, record: &Kill, seen: &Readings) -> Option<Act> {
    let probe = switch
        .recovery
        .as_ref()
        .map(|recovery| recovery.probe)
        .unwrap_or_default();
    let wanted = u64::from(probe.calls.max(1));
    let allowed = switch.error_rate_allowed() * wanted as f64;
    let fail = |reason| {
        Some(Act::KillAgain {
            reason,
            attempt: record.attempts,
        })
    };
    if seen.bad as f64 > allowed {
        return fail(format!("{} of {} probes failed", seen.bad, seen.calls));
    }
    if seen.is_down
        && switch
            .triggers
            .iter()
            .any(|trigger| trigger.health.is_some())
    {
        return fail("every endpoint fails its probes".to_owned());
    }
    if seen.calls < wanted {
        return None;
    }
    let slow = switch.triggers.iter().find_map(|trigger| {
        let latency = Trigger {
            latency_p95: trigger.latency_p95,
            latency_p99: trigger.latency_p99,
            min_calls: Some(1),
            ..Trigger::default()
        };
        latency.met(seen)
    });
    if let Some(reason) = slow {
        return fail(reason);
    }
    Some(Act::Revive {
        reason: format!(
            "{} of {} probes were good",
            seen.calls - seen.bad,
            seen.calls
        ),
    })
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use serin_flags::{
        Kills,
        kill::{Revival, Wish},
    };

    fn switch() -> KillSwitch {
        serde_json::from_value(serde_json::json!({
            "target": "tool:tools/search",
            "triggers": [
                {"error_rate": "20 %"},
                {"latency_p95": "2s", "for": "10s"},
                {"health": "down"},
                {"alert": "memory_leak", "level": "critical"}
            ],
            "recovery": {}
        }))
        .unwrap()
    }

    fn seen(calls: u64, bad: u64) -> Readings {
        Readings {
            calls,
            bad,
            latency_p95_seconds: Some(0.1),
            ..Readings::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn alerts_are_called_as_the_monitor_calls_them() {
        for name in &ALERTS[1..10] {
            let metric: serin_judge::Metric = serde_json::from_value((*name).into()).unwrap();
            assert_eq!(metric.name(), *name);
        }
    }

    #[test]
    fn defaults_are_those_of_the_guides() {
        let read: KillSwitch = serde_json::from_str(r#"{"target": "system"}"#).unwrap();
        assert_eq!(read.grace, Duration::from_secs(30));
        assert_eq!(read.window, Duration::from_mins(1));
        assert!(read.enabled && read.recovery.is_none() && read.triggers.is_empty());
        let recovery = switch().recovery.unwrap();
        assert_eq!(
            (recovery.delay, recovery.attempts),
            (Duration::from_mins(5), 3)
        );
        let text = serde_json::to_string(&switch()).unwrap();
        assert_eq!(serde_json::from_str::<KillSwitch>(&text).unwrap(), switch());
    }

    #[test]
    fn triggers_trip_on_what_they_name() {
        let trips = |seen: &Readings| Streaks::default().look(&switch(), seen, at(0));
        assert_eq!(trips(&seen(19, 19)), None, "too few to say");
        assert_eq!(trips(&seen(100, 20)), None, "20 % is allowed");
        assert!(
            trips(&seen(100, 21))
                .unwrap()
                .contains("21.0 % of 100 calls")
        );
        let down = Readings {
            is_down: true,
            ..Readings::default()
        };
        assert!(trips(&down).unwrap().contains("endpoint"));
        let alert = |level| Readings {
            alerts: vec![Alert {
                name: "memory_leak".into(),
                level,
                text: "leaks".into(),
            }],
            ..Readings::default()
        };
        assert_eq!(trips(&alert(Level::Warning)), None);
        assert!(trips(&alert(Level::Critical)).unwrap().contains("leaks"));
    }

    #[test]
    fn what_must_last_must_last_without_a_break() {
        let slow = |seconds| Readings {
            latency_p95_seconds: Some(seconds),
            ..seen(100, 0)
        };
        let mut streaks = Streaks::default();
        for (time, seconds, trips) in [
            (0, 3.0, false),
            (9, 3.0, false),
            (9, 2.0, false),
            (10, f64::INFINITY, false),
            (19, 3.0, false),
            (20, 3.0, true),
            (5, 3.0, false),
            (15, 3.0, true),
        ] {
            let why = streaks.look(&switch(), &slow(seconds), at(time));
            assert_eq!(why.is_some(), trips, "{time}: {why:?}");
        }
    }

    /// A switch with its book, as control carries it out.
    struct World {
        switch: KillSwitch,
        book: Kills,
        streaks: Streaks,
        acts: Vec<Act>,
    }

    impl World {
        fn new() -> Self {
            Self {
                switch: switch(),
                book: Kills::default(),
                streaks: Streaks::default(),
                acts: Vec::new(),
            }
        }

        fn step(&mut self, seen: &Readings, now: Timestamp) -> Option<Act> {
            let trips = self.streaks.look(&self.switch, seen, now);
            let target = self.switch.target.clone();
            let act = decide(
                "s",
                &self.switch,
                self.book.get(&target),
                (seen, trips),
                now,
            )?;
            let name = "s".into();
            let moved = match act.clone() {
                Act::Kill { reason } => {
                    let wish = Wish {
                        target,
                        actor: "serin".into(),
                        reason,
                        cause: Cause::Switch(name),
                        priority: self.switch.priority,
                        grace_seconds: 30,
                    };
                    self.book.kill(wish, now).unwrap().expect("it takes effect")
                }
                Act::Probe { one_in, attempt } => self
                    .book
                    .shift(
                        &target,
                        &name,
                        (Position::Probing { one_in }, attempt),
                        "try".into(),
                        now,
                    )
                    .unwrap(),
                Act::KillAgain { reason, attempt } => self
                    .book
                    .shift(&target, &name, (Position::Killed, attempt), reason, now)
                    .unwrap(),
                Act::Revive { reason } => {
                    let seen = self.book.get(&target).unwrap().generation;
                    let wish = Revival {
                        target,
                        seen,
                        actor: "serin".into(),
                        reason,
                        cause: Cause::Switch(name),
                    };
                    self.book.revive(wish, now).unwrap()
                }
            };
            assert!(self.book.take(moved));
            self.acts.push(act.clone());
            Some(act)
        }
    }

    #[test]
    fn it_kills_probes_and_comes_back() {
        let mut world = World::new();
        assert_eq!(world.step(&seen(100, 1), at(0)), None);
        assert!(matches!(
            world.step(&seen(100, 50), at(1)),
            Some(Act::Kill { .. })
        ));
        assert_eq!(world.step(&seen(100, 50), at(2)), None);
        assert_eq!(world.step(&seen(0, 0), at(300)), None);
        assert_eq!(
            world.step(&seen(0, 0), at(301)),
            Some(Act::Probe {
                one_in: 10,
                attempt: 1
            })
        );
        assert_eq!(world.step(&seen(19, 4), at(302)), None);
        assert!(matches!(
            world.step(&seen(20, 4), at(303)),
            Some(Act::Revive { .. })
        ));
        assert_eq!(world.book.active().count(), 0);
    }

    #[test]
    fn after_its_attempts_it_waits_for_a_person() {
        let mut world = World::new();
        world.step(&seen(100, 50), at(0));
        for hour in 1..=10 {
            world.step(&seen(0, 0), at(hour * 3600));
            world.step(&seen(5, 5), at(hour * 3600 + 1));
        }
        let probes = world
            .acts
            .iter()
            .filter(|act| matches!(act, Act::Probe { .. }));
        assert_eq!(probes.count(), 3);
        let record = world.book.get(&world.switch.target).unwrap();
        assert_eq!((record.position, record.attempts), (Position::Killed, 3));
        world.switch.enabled = false;
        assert_eq!(world.step(&seen(5, 5), at(1_000_000)), None);
    }

    #[test]
    fn a_flag_is_tried_as_a_whole() {
        let mut world = World::new();
        world.switch.target = "flag:search".parse().unwrap();
        world.switch.watch = Some("service:tools".parse().unwrap());
        world.step(&seen(100, 50), at(0));
        assert!(world.book.latch().stops_flag("search"));
        assert!(matches!(
            world.step(&seen(0, 0), at(300)),
            Some(Act::Probe { one_in: 1, .. })
        ));
        assert!(!world.book.latch().stops_flag("search"));
    }

    proptest! {
        /// Whatever is seen, and whatever people do in between: what a person has killed stays killed until a person revives it, no
        /// more attempts are made than allowed, and nothing that trips goes on unless a switch is trying whether it works.
        #[test]
        fn what_a_person_kills_stays_killed(steps in proptest::collection::vec(
            (0..400i64, 0..60u64, 0..60u64, any::<bool>(), 0..12u8), 1..60,
        )) {
            let mut world = World::new();
            let (mut now, mut by_hand) = (at(0), false);
            let target = world.switch.target.clone();
            for (pause, calls, bad, is_down, hand) in steps {
                now += SignedDuration::from_secs(pause);
                let wish = Wish {
                    target: target.clone(), actor: "ops".into(), reason: "because".into(), cause: Cause::Manual,
                    priority: Priority::High, grace_seconds: 0,
                };
                if hand == 0 {
                    let kill = world.book.kill(wish, now).unwrap().unwrap();
                    world.book.take(kill);
                    by_hand = true;
                } else if hand == 1 && by_hand {
                    let seen = world.book.get(&target).unwrap().generation;
                    let revival = Revival { target: target.clone(), seen, actor: "ops".into(), reason: "mended".into(), cause: Cause::Manual };
                    let kill = world.book.revive(revival, now).unwrap();
                    world.book.take(kill);
                    by_hand = false;
                }
                let seen = Readings { is_down, ..seen(calls.max(bad), bad) };
                let act = world.step(&seen, now);
                let record = world.book.get(&target);
                if by_hand {
                    prop_assert_eq!(act, None);
                    prop_assert_eq!(record.unwrap().position, Position::Killed);
                }
                prop_assert!(record.is_none_or(|record| record.attempts <= 3));
                if is_down {
                    prop_assert!(record.is_some_and(Kill::is_active));
                }
            }
        }
    }
}
