//! A log in memory: what the store and the orchestrator do, without either. Test files add the commands of theirs.

#![allow(dead_code, reason = "each test file uses its part")]

use jiff::Timestamp;
use serin_model::{
    decide::{Candidate, Command, RefusalKind, Source, Start, decide},
    event::{Actor, Event, Preflight, Recorded},
    manifest::Manifest,
    name::{RolloutId, ServiceName},
    plan::Plan,
    state::State,
};
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

/// The state, the log that led to it, and the time.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) log: Vec<Recorded>,
    pub(crate) now: Timestamp,
    rollouts: u128,
}

impl World {
    /// One that started with this manifest.
    pub(crate) fn of(manifest: Manifest) -> Self {
        let mut world = Self::default();
        world
            .run(&apply(manifest, Source::Start, false, false))
            .unwrap();
        world
    }

    /// Decides and records; what is refused says why and what would do.
    pub(crate) fn run(&mut self, command: &Command) -> Result<Vec<Event>, RefusalKind> {
        let before = self.state.clone();
        let decided = decide(&self.state, command, self.now);
        assert_eq!(self.state, before, "deciding changes nothing");
        let events = decided.map_err(|refusal| {
            assert!(
                !refusal.what.is_empty() && !refusal.help.is_empty(),
                "{refusal:?}"
            );
            refusal.kind
        })?;
        for event in &events {
            // What is stored is what is applied.
            let body = event.encode_body().unwrap();
            let stored = Event::decode(event.kind(), 1, &body).unwrap();
            assert_eq!(&stored, event);
            let recorded = Recorded {
                position: self.log.len() as u64 + 1,
                at: self.now,
                actor: Actor::named("ops"),
                epoch: 1,
                event: stored,
            };
            self.state.apply(&recorded);
            self.log.push(recorded);
        }
        Ok(events)
    }

    /// Begins a rollout of a service, with nothing known that speaks against it.
    pub(crate) fn begin(
        &mut self,
        service: ServiceName,
        candidate: Candidate,
        plan: Plan,
    ) -> Result<Vec<Event>, RefusalKind> {
        self.rollouts += 1;
        let start = start(self.rollouts, service, candidate, plan);
        self.run(&Command::Start(Box::new(start)))
    }

    pub(crate) fn wait(&mut self, by: Duration) {
        self.now += by;
    }

    /// The state that the log alone leads to.
    pub(crate) fn folded(&self) -> State {
        let mut state = State::default();
        for recorded in &self.log {
            state.apply(recorded);
        }
        state
    }
}

/// The service of most tests.
pub(crate) fn tools() -> ServiceName {
    "tools".parse().unwrap()
}

/// Applies a manifest, where everything answers.
pub(crate) fn apply(manifest: Manifest, source: Source, prune: bool, at_once: bool) -> Command {
    Command::Apply {
        manifest: Box::new(manifest),
        source,
        prune,
        at_once,
        silent: BTreeSet::new(),
    }
}

/// What begins the rollout of this number.
pub(crate) fn start(
    rollout: u128,
    service: ServiceName,
    candidate: Candidate,
    plan: Plan,
) -> Start {
    Start {
        rollout: RolloutId(Uuid::from_u128(rollout)),
        service,
        candidate,
        plan_name: "test".into(),
        plan,
        reason: String::new(),
        preflight: Preflight::default(),
        accept_breaking: false,
    }
}
