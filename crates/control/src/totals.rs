//! What was counted since the process began: what `/metrics` shows.

use jiff::Timestamp;
use serin_flags::{FlagKey, Reason};
use serin_judge::LogHistogram;
use serin_model::{
    name::{ServiceName, VersionName},
    observe::{CellKey, Counts, Detour, Open, Rejection, Sealed},
    plan::RollbackStrategy,
    rollout::Status,
};
use std::{collections::BTreeMap, sync::Arc};

/// Counters since the process began, and gauges as of now.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Calls by service, version, tool and era.
    pub calls: BTreeMap<CellKey, Counts>,
    /// What is open, by core.
    open: BTreeMap<u16, BTreeMap<(ServiceName, VersionName), Open>>,
    /// Requests turned away.
    pub rejections: BTreeMap<(Option<ServiceName>, Rejection), u64>,
    /// Who proved who they are, and who did not, by result.
    pub auth: BTreeMap<&'static str, u64>,
    /// Requests over a limit, by service and limit.
    pub limited: BTreeMap<(ServiceName, &'static str), u64>,
    /// Times that a fallback was used, by what failed.
    pub degraded: BTreeMap<&'static str, u64>,
    /// What was done that requests reach an endpoint that serves them, by service.
    pub detours: BTreeMap<(ServiceName, Detour), u64>,
    /// Requests that a rule was for, by service and rule.
    pub rules: BTreeMap<(ServiceName, Arc<str>), u64>,
    /// Seconds spent in the gateway.
    pub overhead: BTreeMap<ServiceName, LogHistogram>,
    /// Answers of flags, by flag, variant and reason, and when the last one was.
    pub flags: BTreeMap<FlagKey, Answers>,
    /// Rollouts that ended.
    pub rollouts: BTreeMap<(ServiceName, Ending), u64>,
    /// Seconds from the decision to take a candidate back to the snapshot that does so.
    pub rollback_seconds: BTreeMap<(ServiceName, RollbackStrategy), LogHistogram>,
    /// Seconds an append took.
    pub append_seconds: LogHistogram,
    /// Seconds a tick took.
    pub tick_seconds: LogHistogram,
}

/// What a flag answered since the process began.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// How often, by variant and reason.
    pub counts: BTreeMap<(Arc<str>, Reason), u64>,
    /// When it was last asked.
    pub last: Option<Timestamp>,
}

/// How a rollout ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The candidate is stable.
    Promoted,
    /// It was taken back.
    RolledBack,
    /// It was ended by hand.
    Aborted,
    /// It ran out of time.
    Inconclusive,
}

impl Ending {
    /// The ending that a status stands for, if it is one.
    pub const fn of(status: Status) -> Option<Self> {
        match status {
            Status::Promoted => Some(Self::Promoted),
            Status::RolledBack => Some(Self::RolledBack),
            Status::Aborted => Some(Self::Aborted),
            Status::Inconclusive => Some(Self::Inconclusive),
            Status::Running | Status::Paused => None,
        }
    }

    /// The value of the `result` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Totals {
    /// Adds what a core counted.
    pub fn add(&mut self, sealed: &Sealed) {
        let now = Timestamp::now();
        for (flag, variant, reason, answers) in &sealed.flags {
            self.add_answers(flag, variant, *reason, *answers, now);
        }
        for (key, counts) in &sealed.cells {
            self.calls.entry(key.clone()).or_default().merge(counts);
        }
        let of_core = self.open.entry(sealed.core).or_default();
        for (service, version, open) in &sealed.open {
            let key = (service.clone(), version.clone());
            if *open == Open::default() {
                of_core.remove(&key);
            } else {
                of_core.insert(key, *open);
            }
        }
        for (service, reason, n) in &sealed.rejections {
            *self
                .rejections
                .entry((service.clone(), *reason))
                .or_default() += n;
        }
        for (result, n) in &sealed.auth {
            *self.auth.entry(result).or_default() += n;
        }
        for (service, limit, n) in &sealed.limited {
            *self.limited.entry((service.clone(), limit)).or_default() += n;
        }
        for (service, detour, n) in &sealed.detours {
            let key = (service.clone(), *detour);
            *self.detours.entry(key).or_default() += n;
        }
        for (service, rule, n) in &sealed.rules {
            let key = (service.clone(), rule.clone());
            *self.rules.entry(key).or_default() += n;
        }
        self.add_degraded(sealed.degraded.iter().copied());
        for (service, histogram) in &sealed.overhead {
            self.overhead
                .entry(service.clone())
                .or_default()
                .merge(histogram);
        }
    }

    /// Adds times that a fallback was used, by what failed.
    pub fn add_degraded(&mut self, times: impl IntoIterator<Item = (&'static str, u64)>) {
        for (dependency, n) in times {
            *self.degraded.entry(dependency).or_default() += n;
        }
    }

    /// Adds answers of a flag, given at a time.
    pub fn add_answers(
        &mut self,
        flag: &FlagKey,
        variant: &Arc<str>,
        reason: Reason,
        answers: u64,
        at: Timestamp,
    ) {
        let of_flag = match self.flags.get_mut(flag) {
            Some(of_flag) => of_flag,
            None => self.flags.entry(flag.clone()).or_default(),
        };
        of_flag.last = of_flag.last.max(Some(at));
        match of_flag.counts.get_mut(&(variant.clone(), reason)) {
            Some(count) => *count += answers,
            None => {
                of_flag.counts.insert((variant.clone(), reason), answers);
            }
        }
    }

    /// What is open in a version, over all cores.
    pub fn open(&self, service: &ServiceName, version: &VersionName) -> Open {
        let key = (service.clone(), version.clone());
        let mine = self.open.values().filter_map(|of_core| of_core.get(&key));
        mine.fold(Open::default(), |sum, open| Open {
            calls: sum.calls + open.calls,
            streams: sum.streams + open.streams,
        })
    }
}
