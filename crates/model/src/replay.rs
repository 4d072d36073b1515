//! A recorded rollout judged again: by its own plan, to see that its verdicts rest on what they say they do, or by another, to see
//! what would have happened when.
//!
//! The record has the shares that were in force, so the steps are those of the record whatever the other plan says. What the plan
//! is asked is, in each of them: would it have held, passed, or taken the candidate back, and when. What would have come after a
//! different decision, nobody recorded.

use crate::{
    course::{Block, Course, Step},
    event::{Event, Recorded},
    name::RolloutId,
    plan::Plan,
    rollout::{Rollout, Status},
    state::State,
    words::event_in_words,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serin_judge::Assessment;

/// What a replay has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The rollout.
    pub rollout: RolloutId,
    /// What the plan is called by which it was judged again.
    pub plan_name: String,
    /// How many blocks there were.
    pub blocks: u64,
    /// What the plan would have decided, in order.
    pub moments: Vec<Moment>,
    /// The verdicts on record, judged again from the blocks that they name.
    pub verified: Vec<Verified>,
    /// How it ends, in words.
    pub end: String,
}

/// A decision that would have been taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// What kind of event: `held`, `rolled_back`, `phase_entered`.
    pub kind: String,
    /// In words.
    pub text: String,
    /// The numbers behind it.
    pub assessment: Assessment,
}

/// A verdict on record, judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its place in the log.
    pub position: u64,
    /// Whether the blocks that it names are there, and are those.
    pub basis_found: bool,
    /// Whether they prove what it says they do, figure by figure.
    pub proof_same: bool,
}

impl Replay {
    /// Whether every verdict on record that names its blocks came out the same.
    pub fn is_verified(&self) -> bool {
        self.verified
            .iter()
            .all(|verified| verified.basis_found && verified.proof_same)
    }
}

/// A replay under way: give it the blocks in order, then finish it.
pub struct Replayer {
    replay: Replay,
    /// The steps of the record, with when they began.
    steps: Vec<(Step, Timestamp)>,
    /// The verdicts on record that name their blocks, by the last of these.
    verdicts: Vec<(u64, Assessment)>,
    /// Judges by the plan that is asked about.
    course: Course,
    /// Judges by the rollout's own.
    own: Course,
    rollout: Rollout,
    /// What people did on record and is still to come, latest first.
    by_hand: Vec<(Timestamp, Event)>,
    /// When the last thing happened on record.
    last: Timestamp,
    /// The present step has passed: it could only be taken back now.
    passed: bool,
    /// How many have.
    phases_passed: usize,
    /// It was taken back, or promoted.
    done: bool,
}

impl Replayer {
    /// Begins to replay a rollout from the events of the log; nothing when it is not among them. Without a plan by its own.
    pub fn new(log: &[Recorded], id: RolloutId, plan: Option<(String, Plan)>) -> Option<Self> {
        let mut state = State::default();
        let (mut steps, mut verdicts, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = None;
        let mut last = Timestamp::UNIX_EPOCH;
        for recorded in log {
            state.apply(recorded);
            if recorded.event.rollout() != Some(id) {
                continue;
            }
            let Some(rollout) = state.rollout(id) else {
                continue;
            };
            last = recorded.at;
            let begins = matches!(
                recorded.event,
                Event::PhaseEntered { .. } | Event::ShareSet { .. }
            );
            if begins {
                first.get_or_insert_with(|| rollout.clone());
                let began_seconds = recorded.at.as_nanosecond() as f64 / 1e9;
                steps.push((Step::of(rollout, began_seconds), recorded.at));
            }
            let by_a_person = matches!(
                recorded.event,
                Event::SignalGiven { .. }
                    | Event::SignalsSettled { .. }
                    | Event::Paused { .. }
                    | Event::Resumed { .. }
            );
            if by_a_person {
                by_hand.insert(0, (recorded.at, recorded.event.clone()));
            }
            if let Some(evidence) = evidence(&recorded.event)
                && evidence.basis.is_some()
            {
                verdicts.push((recorded.position, evidence.clone()));
            }
        }
        let mut rollout = first?;
        let step = steps.first()?.0;
        let own = Course::new(rollout.plan.clone(), step);
        if let Some((name, plan)) = plan {
            rollout.plan_name = name;
            rollout.plan = plan;
        }
        rollout.step_started_at = steps.first()?.1;
        Some(Self {
            replay: Replay {
                rollout: id,
                plan_name: rollout.plan_name.clone(),
                blocks: 0,
                moments: Vec::new(),
                verified: Vec::new(),
                end: String::new(),
            },
            course: Course::new(rollout.plan.clone(), within(step, &rollout.plan)),
            own,
            rollout,
            steps,
            verdicts,
            by_hand,
            last,
            passed: false,
            phases_passed: 0,
            done: false,
        })
    }

    /// Takes the next block as it is stored.
    pub fn take(&mut self, sequence: u64, bytes: &[u8]) {
        let Some(block) = Block::unpack(bytes) else {
            return;
        };
        self.replay.blocks += 1;
        self.follow(block.step);
        self.own.take(sequence, bytes, &block);
        self.verify(sequence, block.at_seconds);
        if self.done {
            return;
        }
        self.course.take(sequence, bytes, &block);
        let since_1970 = SignedDuration::try_from_secs_f64(block.at_seconds);
        let at = since_1970.and_then(Timestamp::from_duration);
        let Ok(at) = at else { return };
        self.look(at);
    }

    /// Decides at a moment.
    fn look(&mut self, at: Timestamp) {
        if self.done {
            return;
        }
        let assessment = self.course.assess(at.as_nanosecond() as f64 / 1e9);
        self.do_by_hand(&assessment, at);
        for event in self.rollout.advance(&assessment, at) {
            self.note(&event, &assessment, at);
        }
    }

    /// Does what people did on record, up to a moment.
    fn do_by_hand(&mut self, assessment: &Assessment, until: Timestamp) {
        while let Some((at, event)) = self.by_hand.pop_if(|(at, _)| *at <= until) {
            match event {
                Event::SignalGiven { signal, reason, .. } => {
                    for event in self.rollout.signal(&signal, &reason) {
                        self.note(&event, assessment, at);
                    }
                }
                Event::SignalsSettled { .. } => self.rollout.signals.clear(),
                Event::Paused { .. } => {
                    self.rollout.status = Status::Paused;
                    self.rollout.paused_at = Some(at);
                }
                _ => {
                    self.rollout.status = Status::Running;
                    if let Some(paused_at) = self.rollout.paused_at.take() {
                        let pause = at.duration_since(paused_at);
                        let began = self.rollout.step_started_at.checked_add(pause);
                        self.rollout.step_started_at = began.unwrap_or(at);
                    }
                }
            }
        }
    }

    /// What was found.
    pub fn finish(mut self) -> Replay {
        // What was decided last may have been decided without another call.
        self.look(self.last);
        // Verdicts whose last block never came.
        for (position, _) in &self.verdicts {
            self.replay.verified.push(Verified {
                position: *position,
                basis_found: false,
                proof_same: false,
            });
        }
        self.replay
            .verified
            .sort_by_key(|verified| verified.position);
        if self.replay.end.is_empty() {
            self.replay.end = format!(
                "the record ends with {} of {} phases passed and no reason to take the candidate back",
                self.phases_passed,
                self.rollout.plan.phases.len()
            );
        }
        self.replay
    }

    /// Goes on to a step of the record.
    fn follow(&mut self, number: u32) {
        if self.own.step().number == number {
            return;
        }
        let next = self.steps.iter().find(|(step, _)| step.number == number);
        let Some((step, at)) = next.copied() else {
            return;
        };
        // The end of the step before may have come without another call.
        self.look(at);
        self.own.begin(step);
        let step = within(step, &self.rollout.plan);
        self.course.begin(step);
        self.rollout.step = number;
        self.rollout.phase = step.phase;
        self.rollout.step_started_at = at;
        self.rollout.extensions = 0;
        self.rollout.held = None;
        self.rollout.ready = false;
        if self.rollout.status != Status::Paused {
            self.rollout.status = Status::Running;
        }
        self.passed = false;
    }

    /// Judges the verdicts again whose last block this is.
    fn verify(&mut self, sequence: u64, at_seconds: f64) {
        let verdicts = std::mem::take(&mut self.verdicts);
        for (position, recorded) in verdicts {
            if recorded
                .basis
                .as_ref()
                .is_none_or(|basis| basis.last != sequence)
            {
                self.verdicts.push((position, recorded));
                continue;
            }
            let again = self.own.assess(at_seconds);
            self.replay.verified.push(Verified {
                position,
                basis_found: again.basis == recorded.basis,
                proof_same: again.proof == recorded.proof,
            });
        }
    }

    /// Notes a decision, and what follows from it for the rest of the step. The phase stays that of the record.
    fn note(&mut self, event: &Event, assessment: &Assessment, at: Timestamp) {
        let takes_back = matches!(event, Event::RolledBack { .. });
        if self.done || (self.passed && !takes_back) {
            return;
        }
        let mut text = event_in_words(event);
        match event {
            Event::PhaseEntered { phase, .. } => {
                text = format!("phase {phase} passes after {} trials", assessment.trials);
                let next_is_all = self.rollout.plan.is_mere_promotion(*phase);
                self.passed = !next_is_all;
                self.phases_passed += 1;
            }
            Event::Promoted { .. } | Event::RolledBack { .. } => {
                self.done = true;
                self.replay.end.clone_from(&text);
            }
            Event::Held { reason, .. } => self.rollout.held = Some(reason.clone()),
            Event::Released { .. } => self.rollout.held = None,
            Event::PhaseReady { .. } => self.rollout.ready = true,
            Event::ComparisonSetAside { why, .. } => self.rollout.set_aside = Some(*why),
            Event::ComparisonResumed { .. } => self.rollout.set_aside = None,
            Event::Extended { .. } => self.rollout.extensions += 1,
            Event::Inconclusive { .. } => self.rollout.status = Status::Inconclusive,
            Event::SignalGiven { signal, .. } => {
                *self.rollout.signals.entry(signal.clone()).or_default() += 1;
            }
            _ => {}
        }
        self.replay.moments.push(Moment {
            at,
            kind: event.kind().to_owned(),
            text,
            assessment: assessment.clone(),
        });
    }
}

/// A step of the record under a plan that may have fewer phases.
fn within(step: Step, plan: &Plan) -> Step {
    Step {
        phase: step.phase.min(plan.phases.len().saturating_sub(1)),
        ..step
    }
}

/// The numbers that an event rests on.
pub fn evidence(event: &Event) -> Option<&Assessment> {
    match event {
        Event::PhaseEntered { evidence, .. }
        | Event::Promoted { evidence, .. }
        | Event::RolledBack { evidence, .. } => evidence.as_deref(),
        Event::Held { evidence, .. }
        | Event::ComparisonSetAside { evidence, .. }
        | Event::PhaseReady { evidence, .. }
        | Event::Inconclusive { evidence, .. } => Some(evidence),
        _ => None,
    }
}
