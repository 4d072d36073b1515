//! The rollout machine: where a rollout is, and what follows from how its candidate stands.

use crate::{
    event::{Actor, Event, FlagRelease, Preflight},
    name::{RolloutId, ServiceName, VersionName},
    plan::{EXTENSIONS_MAX, Evidence, Inconclusive, Plan, RollbackStrategy, SignalRule},
    share::Share,
    text::format_duration,
    words::{
        finding_in_words, regression_in_words, slower_in_words, unsafe_in_words, value_in_words,
    },
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_flags::FlagKey;
use serin_judge::{Assessment, Check, Level, Metric, Threshold, Verdict, sequential::Distrust};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Trials of stable without which those of the candidate are compared with nothing; fewer where a plan asks for fewer of the
/// candidate.
const STABLE_TRIALS_MIN: u64 = 100;

/// One attempt to replace stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The service.
    pub service: ServiceName,
    /// The stable version.
    pub from: VersionName,
    /// The candidate.
    pub to: VersionName,
    /// The flag, if the candidate is not another version but stable with this flag on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<FlagRelease>,
    /// What its plan is called.
    pub plan_name: String,
    /// Its own copy of the plan.
    pub plan: Plan,
    /// Where it is.
    pub status: Status,
    /// Which phase of the plan, from 0.
    pub phase: usize,
    /// Counts up whenever the share is set, by plan or by hand: counts of one step are not mixed with those of another.
    pub step: u32,
    /// The share in force.
    pub share: Share,
    /// Whether the share was set by hand.
    pub share_by_hand: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// By whom.
    pub started_by: Actor,
    /// When the present step began, moved on by pauses.
    pub step_started_at: Timestamp,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// The warning that holds it.
    pub held: Option<String>,
    /// Whether the phase has passed and waits for a person.
    pub ready: bool,
    /// How often the present phase was extended.
    pub extensions: u32,
    /// Signals given by hand since it began, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, u32>,
    /// Why the comparison does not count at present, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<Distrust>,
    /// What was checked before it began.
    pub preflight: Preflight,
    /// When and why it ended.
    pub ended: Option<Ended>,
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Goes on by itself.
    Running,
    /// Stopped by hand.
    Paused,
    /// Ran out of time; a person must decide.
    Inconclusive,
    /// Over: the candidate is stable.
    Promoted,
    /// Over: the candidate was taken back.
    RolledBack,
    /// Over: ended by hand.
    Aborted,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Running,
        Self::Paused,
        Self::Inconclusive,
        Self::Promoted,
        Self::RolledBack,
        Self::Aborted,
    ];

    /// Whether it never moves again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack | Self::Aborted)
    }

    /// As it stands in labels and answers.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Inconclusive => "inconclusive",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
        }
    }
}

/// The end of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// The numbers behind it.
    pub evidence: Option<Assessment>,
}

impl Rollout {
    /// The variants of flags that its phases have set so far.
    pub fn flags(&self) -> BTreeMap<FlagKey, Arc<str>> {
        let phases = self.plan.phases.iter().take(self.phase + 1);
        phases.flat_map(|phase| phase.flags.clone()).collect()
    }

    /// The flags that are disabled when it is taken back.
    pub(crate) fn flags_off(&self) -> BTreeSet<&FlagKey> {
        let released = self.flag.iter().map(|release| &release.flag);
        self.plan.flags_off.iter().chain(released).collect()
    }

    /// The flags that it gives somebody: the one that it releases, and those that its phases set.
    pub(crate) fn flags_given(&self) -> BTreeSet<&FlagKey> {
        given(self.flag.as_ref(), &self.plan)
    }

    /// Time spent in the present step, pauses not counted.
    pub fn step_elapsed(&self, now: Timestamp) -> Duration {
        elapsed(self.step_started_at, self.paused_at.unwrap_or(now))
    }

    /// What the present phase holds for.
    pub fn hold(&self) -> Duration {
        self.plan
            .phases
            .get(self.phase)
            .map(|phase| phase.hold)
            .unwrap_or_default()
    }

    /// The time after which the present phase is inconclusive, extensions counted.
    pub fn deadline(&self) -> Option<Duration> {
        self.plan
            .deadline(self.phase)
            .map(|deadline| deadline * (1 + self.extensions))
    }

    /// Why the present phase may not pass on the evidence, if it may not; the hold is not part of it.
    pub fn evidence_missing(&self, assessment: &Assessment) -> Option<String> {
        if let Some(finding) = assessment.breach() {
            return Some(finding_in_words(finding));
        }
        if let Some(against) = Self::alarm(assessment).or_else(|| self.warning(assessment)) {
            return Some(against);
        }
        if assessment.unstored > 0 {
            return Some(format!(
                "{} blocks of counts wait for a disk that refuses them",
                assessment.unstored
            ));
        }
        if let Some(blind) = self.blind(assessment) {
            return Some(blind);
        }
        match self.plan.evidence(self.phase) {
            Evidence::Trials(needed) if assessment.trials < needed => {
                return Some(format!("{} of {needed} trials seen", assessment.trials));
            }
            Evidence::Calls(needed) if assessment.calls < needed => {
                return Some(format!("{} of {needed} calls seen", assessment.calls));
            }
            Evidence::Safe if assessment.verdict != Verdict::Safe => {
                let missing = match (&assessment.proof, self.set_aside) {
                    (Some(proof), None) => unsafe_in_words(proof),
                    _ => "not yet shown to be safe: the two versions are not compared".to_owned(),
                };
                return Some(missing);
            }
            _ => {}
        }
        if let Some(value) = assessment.values.iter().find(|f| f.check != Check::Pass) {
            return Some(value_in_words(value));
        }
        if !assessment.fresh {
            return Some("the candidate has had no call lately".to_owned());
        }
        assessment
            .criteria
            .iter()
            .find(|f| f.check != Check::Pass)
            .map(finding_in_words)
    }

    /// Why what was seen of the candidate shows nothing, however much it is: nothing to compare it with, and nobody else who decides.
    fn blind(&self, assessment: &Assessment) -> Option<String> {
        let proof = assessment.proof.as_ref()?;
        if proof.distrust.is_some() {
            let on_errors =
                |t: &Threshold| matches!(t.metric, Metric::ErrorRate | Metric::Availability);
            let thresholds = self.plan.thresholds(self.phase);
            let decides = thresholds
                .iter()
                .any(|t| on_errors(t) && t.critical.is_some());
            return (!decides).then(|| {
                "the comparison is set aside, and the plan has no critical threshold on errors that could decide in its place"
                    .to_owned()
            });
        }
        let Evidence::Trials(needed) = self.plan.evidence(self.phase) else {
            return None;
        };
        let needed = needed.min(STABLE_TRIALS_MIN);
        (self.share < Share::FULL && proof.stable_trials < needed).then(|| {
            format!(
                "{} of {needed} trials of stable seen: there is nothing to compare the candidate with",
                proof.stable_trials
            )
        })
    }

    /// Why the candidate has to be taken back, if so.
    fn alarm(assessment: &Assessment) -> Option<String> {
        let finding = assessment.worst(Level::Critical).map(finding_in_words);
        finding
            .or_else(|| assessment.worst_value(Level::Critical).map(value_in_words))
            .or_else(|| assessment.regression().map(regression_in_words))
    }

    /// Why the rollout has to hold, if so.
    fn warning(&self, assessment: &Assessment) -> Option<String> {
        let finding = assessment.worst(Level::Warning).map(finding_in_words);
        finding
            .or_else(|| assessment.worst_value(Level::Warning).map(value_in_words))
            .or_else(|| assessment.slower().map(slower_in_words))
            .or_else(|| {
                let signalled = self.signalled(|rule| rule.warning)?;
                Some(format!(
                    "{signalled}; once it is dealt with, `serin rollout resume`"
                ))
            })
    }

    /// Whether signals given by hand hold it.
    pub(crate) fn is_held_by_signals(&self) -> bool {
        self.signalled(|rule| rule.warning).is_some()
    }

    /// The signals, given by hand, that reach a number which the plan sets for them.
    fn signalled(&self, limit: impl Fn(&SignalRule) -> Option<u32>) -> Option<String> {
        self.signals.iter().find_map(|(signal, count)| {
            let limit = limit(self.plan.signals.get(signal)?)?;
            let signals = if *count == 1 { "signal" } else { "signals" };
            (*count >= limit).then(|| format!("{count} {signals} {signal}, limit {limit}"))
        })
    }

    /// What follows from a signal given by hand: enough of them take the candidate back at once.
    pub(crate) fn signal(&self, signal: &str, reason: &str) -> Vec<Event> {
        let mut events = vec![Event::SignalGiven {
            rollout: self.id,
            signal: signal.to_owned(),
            reason: reason.to_owned(),
        }];
        let mut after = self.clone();
        *after.signals.entry(signal.to_owned()).or_default() += 1;
        if let Some(signalled) = after.signalled(|rule| rule.critical) {
            let why = if reason.is_empty() {
                signalled
            } else {
                format!("{signalled}: {reason}")
            };
            events.push(self.roll_back(why, None));
        }
        events
    }

    /// Notes that the comparison has stopped to count, or counts again.
    fn set_aside(&self, assessment: &Assessment) -> Option<Event> {
        let why = assessment.proof.as_ref().and_then(|proof| proof.distrust);
        if why == self.set_aside {
            return None;
        }
        Some(match why {
            Some(why) => Event::ComparisonSetAside {
                rollout: self.id,
                why,
                evidence: Box::new(assessment.clone()),
            },
            None => Event::ComparisonResumed { rollout: self.id },
        })
    }

    /// What follows from how the candidate stands.
    pub fn advance(&self, assessment: &Assessment, now: Timestamp) -> Vec<Event> {
        if self.status.is_terminal() {
            return Vec::new();
        }
        if let Some(alarm) = Self::alarm(assessment) {
            if self.plan.auto_rollback {
                return vec![self.roll_back(alarm, Some(assessment))];
            }
            return self.hold_for(format!("{alarm} (auto_rollback is off)"), assessment);
        }
        if let Some(event) = self.set_aside(assessment) {
            return vec![event];
        }
        if self.status == Status::Paused {
            return Vec::new();
        }
        if let Some(longest) = self.plan.longest
            && elapsed(self.started_at, now) > longest
        {
            let reason = format!("the rollout took longer than {}", format_duration(longest));
            return vec![self.roll_back(reason, Some(assessment))];
        }
        if self.status == Status::Inconclusive {
            return Vec::new();
        }
        match self.warning(assessment) {
            Some(warning) if self.held.is_none() => return self.hold_for(warning, assessment),
            None if self.held.is_some() => return vec![Event::Released { rollout: self.id }],
            _ => {}
        }
        match self.evidence_missing(assessment) {
            None if self.step_elapsed(now) >= self.hold() => {
                if self.plan.auto_promote {
                    return self.pass(Some(assessment), None);
                }
                if self.ready {
                    return Vec::new();
                }
                vec![Event::PhaseReady {
                    rollout: self.id,
                    evidence: Box::new(assessment.clone()),
                }]
            }
            missing => self.out_of_time(missing, assessment, now),
        }
    }

    /// The next phase, or the end.
    pub(crate) fn pass(
        &self,
        assessment: Option<&Assessment>,
        overridden: Option<String>,
    ) -> Vec<Event> {
        let evidence = assessment.cloned().map(Box::new);
        let next = self.phase + 1;
        let Some(phase) = self.plan.phases.get(next) else {
            return vec![Event::Promoted {
                rollout: self.id,
                evidence,
                overridden,
            }];
        };
        let mut events = vec![Event::PhaseEntered {
            rollout: self.id,
            phase: next,
            share: phase.share,
            evidence: evidence.clone(),
            overridden: overridden.clone(),
        }];
        if self.plan.is_mere_promotion(next) {
            events.push(Event::Promoted {
                rollout: self.id,
                evidence,
                overridden,
            });
        }
        events
    }

    /// The candidate is taken back by Serin itself.
    pub(crate) fn roll_back(&self, reason: String, assessment: Option<&Assessment>) -> Event {
        Event::RolledBack {
            rollout: self.id,
            strategy: self.plan.rollback,
            reason,
            evidence: assessment.cloned().map(Box::new),
        }
    }

    /// The candidate is gone: no statistics, no grace for its sessions.
    pub(crate) fn catastrophe(&self, cause: String) -> Vec<Event> {
        if self.status.is_terminal() || !self.plan.auto_rollback {
            return Vec::new();
        }
        let strategy = RollbackStrategy::Immediate;
        vec![Event::RolledBack {
            rollout: self.id,
            strategy,
            reason: cause,
            evidence: None,
        }]
    }

    fn hold_for(&self, reason: String, assessment: &Assessment) -> Vec<Event> {
        if self.held.is_some() {
            return Vec::new();
        }
        vec![Event::Held {
            rollout: self.id,
            reason,
            evidence: Box::new(assessment.clone()),
        }]
    }

    fn out_of_time(
        &self,
        missing: Option<String>,
        assessment: &Assessment,
        now: Timestamp,
    ) -> Vec<Event> {
        let Some(deadline) = self
            .deadline()
            .filter(|deadline| self.step_elapsed(now) > *deadline)
        else {
            return Vec::new();
        };
        let missing = missing.unwrap_or_else(|| "nothing is missing but the hold".to_owned());
        let reason = format!(
            "no decision within {}: {missing}",
            format_duration(deadline)
        );
        match self.plan.inconclusive {
            Inconclusive::Rollback => vec![self.roll_back(reason, Some(assessment))],
            Inconclusive::Extend if self.extensions < EXTENSIONS_MAX => {
                vec![Event::Extended {
                    rollout: self.id,
                    reason,
                }]
            }
            _ => vec![Event::Inconclusive {
                rollout: self.id,
                reason,
                evidence: Box::new(assessment.clone()),
            }],
        }
    }
}

/// The flags that a rollout by this plan gives somebody.
pub(crate) fn given<'a>(release: Option<&'a FlagRelease>, plan: &'a Plan) -> BTreeSet<&'a FlagKey> {
    let set = plan.phases.iter().flat_map(|phase| phase.flags.keys());
    release
        .map(|release| &release.flag)
        .into_iter()
        .chain(set)
        .collect()
}

pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
