//! The judge's unit on a core: what the calls of young affinity keys show, and which keys are new. And the numbers in results that
//! a plan watches.

use serin_judge::trial::{Call, Recorder, Shown};
use serin_mcp::scan::Pointers;
use serin_model::{
    name::{RolloutId, ServiceName},
    observe::Trials,
    share::Share,
    snapshot::{ServiceRoute, Split, WatchedValue},
};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

/// Whether a session that began at a time may be a trial in a step: it began in it, so that both sides have sessions of the same
/// age. After a share was raised, stable has nearly all of the older ones.
pub(crate) fn began_in(split: &Split, began_ms: u64) -> bool {
    i64::try_from(began_ms).is_ok_and(|began_ms| began_ms >= split.step_began.as_millisecond())
}

/// The step of a rollout in which a call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    rollout: RolloutId,
    number: u32,
    share: Share,
}

impl Step {
    fn of(split: &Split) -> Self {
        Self {
            rollout: split.rollout,
            number: split.step,
            share: split.share,
        }
    }
}

/// A call of a caller who takes part in the comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    step: Step,
    key: u64,
    is_candidate: bool,
}

impl Trial {
    /// For a caller of a version; none if the version is not a side of the rollout.
    pub(crate) fn of(service: &ServiceRoute, version: usize, key: u64) -> Option<Self> {
        let split = service.split.as_ref()?;
        let is_candidate = version == split.candidate;
        (is_candidate || version == service.stable).then(|| Self {
            step: Step::of(split),
            key,
            is_candidate,
        })
    }
}

/// A clock in milliseconds since 1970 that does not run backwards, the same on all cores but for what they drift.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            began_ms: crate::session::now_ms(),
        }
    }

    pub(crate) fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        self.began_ms + since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

/// The trials of a service's rollout on this core.
#[derive(Default)]
pub(crate) struct ServiceTrials {
    recording: RefCell<Option<Recording>>,
    watched: RefCell<Option<Rc<Watched>>>,
}

struct Recording {
    step: Step,
    recorder: Recorder<foldhash::fast::RandomState>,
}

/// The numbers that are looked for in the results of a service's tools.
pub(crate) struct Watched {
    values: Arc<[WatchedValue]>,
    pub(crate) pointers: Arc<Pointers>,
}

impl Watched {
    fn new(values: &Arc<[WatchedValue]>) -> Self {
        let pointers = values.iter().map(|value| &*value.pointer);
        Self {
            values: values.clone(),
            pointers: Arc::new(Pointers::new(pointers)),
        }
    }

    /// Whether a number is looked for in the results of a tool.
    pub(crate) fn is_of(&self, tool: &str) -> bool {
        self.values.iter().any(|value| *value.tool == *tool)
    }

    /// The name of the number that stands where a pointer leads in a result of a tool, if it is one of those looked for.
    pub(crate) fn name(&self, tool: &str, pointer: u16) -> Option<&Arc<str>> {
        let value = self.values.get(usize::from(pointer))?;
        (*value.tool == *tool).then_some(&value.name)
    }
}

impl ServiceTrials {
    /// Follows the routing table: each step counts anew, and without a rollout nothing is remembered. What the last step saw
    /// since the last message goes unsaid: nobody compares it any more.
    pub(crate) fn follow(&self, split: Option<&Split>, clock: &Clock) {
        let mut recording = self.recording.borrow_mut();
        let step = split.map(Step::of);
        if recording.as_ref().map(|recording| recording.step) != step {
            *recording = split.map(|split| Recording {
                step: Step::of(split),
                recorder: Recorder::new(split.block, clock.ms(Instant::now())),
            });
        }
        self.watch(split.map(|split| &split.values));
    }

    fn watch(&self, values: Option<&Arc<[WatchedValue]>>) {
        let values = values.filter(|values| !values.is_empty());
        let mut watched = self.watched.borrow_mut();
        let is_same = match (&*watched, values) {
            (Some(watched), Some(values)) => Arc::ptr_eq(&watched.values, values),
            (watched, values) => watched.is_none() && values.is_none(),
        };
        if !is_same {
            *watched = values.map(|values| Rc::new(Watched::new(values)));
        }
    }

    /// What is looked for, if anything.
    pub(crate) fn watched(&self) -> Option<Rc<Watched>> {
        self.watched.borrow().clone()
    }

    /// The split gave the caller its version.
    pub(crate) fn assigned(&self, trial: Trial) {
        self.with(trial, |recorder| {
            recorder.assigned(trial.key, trial.is_candidate);
        });
    }

    /// A call ended. One that began in another step says nothing.
    pub(crate) fn record(&self, trial: Trial, tool: Option<&Arc<str>>, shown: Shown, at_ms: u64) {
        let call = Call {
            key: trial.key,
            is_candidate: trial.is_candidate,
            tool,
            shown,
            at_ms,
        };
        self.with(trial, |recorder| recorder.record(call));
    }

    fn with(&self, trial: Trial, act: impl FnOnce(&mut Recorder<foldhash::fast::RandomState>)) {
        let mut recording = self.recording.borrow_mut();
        if let Some(recording) = recording.as_mut().filter(|r| r.step == trial.step) {
            act(&mut recording.recorder);
        }
    }

    /// What was seen since the last message, if anything.
    pub(crate) fn drain(&self, service: &ServiceName) -> Option<Trials> {
        let mut recording = self.recording.borrow_mut();
        let recording = recording.as_mut()?;
        let report = recording.recorder.drain();
        (!report.is_empty()).then(|| Trials {
            service: service.clone(),
            rollout: recording.step.rollout,
            step: recording.step.number,
            share: recording.step.share,
            report,
        })
    }
}
