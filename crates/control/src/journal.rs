//! The log with types: records become events, events become records.

use crate::{ControlError, picture::Recent};
use jiff::Timestamp;
use serin_model::{
    decide::{Refusal, RefusalKind},
    event::{Actor, DecodeError, EVENT_VERSION, Event, Recorded},
    state::State,
};
use serin_store::{AppendError, Log, NewRecord, Record};

/// Records read at a time.
const PAGE: u32 = 1000;

/// The writing end of the log, held by the orchestrator alone.
pub(crate) struct Journal {
    log: Log,
    epoch: u64,
}

/// Why events were not appended.
pub(crate) enum AppendFailure {
    /// The log has gone on: an append that seemed to fail did not. Catch up and decide again.
    Behind,
    /// It will not do.
    Final(ControlError),
}

impl Journal {
    /// Becomes the writer and folds the log.
    pub(crate) async fn open(log: Log) -> Result<(Self, State, Recent), ControlError> {
        let epoch = log.claim_epoch().await.map_err(ControlError::Store)?;
        let mut state = State::default();
        let mut recent = Recent::default();
        loop {
            let page = read(&log, state.position, PAGE).await?;
            if page.is_empty() {
                return Ok((Self { log, epoch }, state, recent));
            }
            for recorded in page {
                state.apply(&recorded);
                let rollout = recorded.event.rollout().and_then(|id| state.rollout(id));
                recent.push(&recorded, rollout.map(|rollout| &rollout.service));
            }
        }
    }

    /// Appends events, all or none; when it returns they are on the disk.
    pub(crate) async fn append(
        &self,
        state: &State,
        actor: &Actor,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<Vec<Recorded>, AppendFailure> {
        let mut records = Vec::with_capacity(events.len());
        for event in &events {
            let kind = event.kind().to_owned();
            let body = event.encode_body().map_err(|source| {
                let kind = kind.clone();
                AppendFailure::Final(ControlError::Decode(DecodeError::Body { kind, source }))
            })?;
            let actor = actor.as_str().to_owned();
            records.push(NewRecord {
                at,
                actor,
                kind,
                version: EVENT_VERSION,
                body,
            });
        }
        let appended = self.log.append(state.position, self.epoch, &records).await;
        appended.map_err(|error| match error {
            AppendError::Conflict { .. } => AppendFailure::Behind,
            AppendError::Fenced { .. } => AppendFailure::Final(ControlError::NotLeader),
            AppendError::Store(source) => AppendFailure::Final(ControlError::Store(source)),
            AppendError::TooLarge(too_large) => {
                AppendFailure::Final(ControlError::Refused(Refusal {
                    kind: RefusalKind::Invalid,
                    what: too_large.to_string(),
                    help: "split the file into smaller ones and apply them one after another"
                        .into(),
                }))
            }
        })?;
        let places = events.into_iter().zip(state.position + 1..);
        Ok(places
            .map(|(event, position)| Recorded {
                position,
                at,
                actor: actor.clone(),
                epoch: self.epoch,
                event,
            })
            .collect())
    }

    /// What was appended after a position.
    pub(crate) async fn after(&self, position: u64) -> Result<Vec<Recorded>, ControlError> {
        read(&self.log, position, PAGE).await
    }
}

/// Events after a position, oldest first.
pub(crate) async fn read(log: &Log, after: u64, limit: u32) -> Result<Vec<Recorded>, ControlError> {
    let records = log.read(after, limit).await.map_err(ControlError::Store)?;
    records.iter().map(decode).collect()
}

fn decode(record: &Record) -> Result<Recorded, ControlError> {
    let event =
        Event::decode(&record.kind, record.version, &record.body).map_err(ControlError::Decode)?;
    Ok(Recorded {
        position: record.position,
        at: record.at,
        actor: Actor::named(&record.actor),
        epoch: record.epoch,
        event,
    })
}
