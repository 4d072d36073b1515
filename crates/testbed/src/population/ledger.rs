//! The book that all clients of a population write into: it checks each answer and keeps the counts.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Display,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::Value;

use super::report::{
    Harm, Life, LifeRecord, Mismatch, MismatchKind, Move, Outcome, Place, Report, Stats,
    VersionStats,
};
use crate::{
    client::{Answer, ClientError, Era},
    load::LATENCY_US_MAX,
};

/// How many records of a kind a report keeps: a run that goes wrong for hours must not eat the memory.
pub const RECORDS_MAX: usize = 100_000;
/// How many of the newest latencies of a version speak for it.
const RECENT_CALLS: usize = 256;

/// One call, as it was made and as it ended.
pub(super) struct Call<'a> {
    pub(super) life: Life,
    pub(super) era: Era,
    pub(super) tool: &'a str,
    pub(super) nonce: &'a str,
    pub(super) sent_at: Instant,
    pub(super) mark: Option<String>,
    pub(super) answer: &'a Result<Answer, ClientError>,
}

#[derive(Default)]
pub(super) struct Ledger {
    report: Report,
    /// Where each life is answered from.
    places: HashMap<Life, Place>,
    /// Whose each upstream session is, and where.
    sessions: HashMap<String, (Life, Place)>,
    latencies: BTreeMap<String, VecDeque<Duration>>,
    /// Of all calls that went well since they were taken last, in microseconds.
    since_taken_us: Option<Histogram<u64>>,
}

impl Ledger {
    /// The counts so far.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.report.stats.clone();
        for (version, latencies) in &self.latencies {
            let mut sorted: Vec<_> = latencies.iter().copied().collect();
            sorted.sort_unstable();
            if let Some(version) = stats.versions.get_mut(version) {
                version.recent_p50 = quantile(&sorted, 50);
                version.recent_p95 = quantile(&sorted, 95);
            }
        }
        stats
    }

    /// The report so far.
    pub(super) fn report(&self) -> Report {
        Report {
            stats: self.stats(),
            ..self.report.clone()
        }
    }

    /// The latencies, in microseconds, of the calls that went well since this was asked last, or first.
    pub(super) fn take_latencies(&mut self) -> Option<Histogram<u64>> {
        let next = Histogram::new_with_max(LATENCY_US_MAX, 3).ok();
        std::mem::replace(&mut self.since_taken_us, next)
    }

    pub(super) fn harmed_since(&self, instant: Instant) -> usize {
        self.report.harmed_since(instant)
    }

    /// A life has begun.
    pub(super) fn begin(&mut self) {
        self.report.stats.lives += 1;
    }

    /// A life has ended; nothing more comes from it.
    pub(super) fn end(&mut self, life: Life) {
        self.places.remove(&life);
    }

    /// Something beside a call went wrong: a session that could not be opened, a list that could not be read.
    pub(super) fn failed_aside(
        &mut self,
        life: Life,
        sent_at: Instant,
        mark: Option<String>,
        outcome: Outcome,
    ) {
        let version = self.places.get(&life).map(|place| place.version.clone());
        self.harm(Harm {
            life,
            sent_at,
            ended_at: Instant::now(),
            mark,
            version,
            tool: None,
            outcome,
        });
    }

    /// Books a call and says how it ended.
    pub(super) fn book(&mut self, call: &Call<'_>) -> Outcome {
        let outcome = outcome(call);
        let answer = call.answer.as_ref().ok();
        let place = answer.and_then(place);
        if let Some(answer) = answer.filter(|answer| answer.result().is_some()) {
            self.check(call, answer, place.as_ref());
        }
        let version = place
            .map(|place| place.version)
            .or_else(|| Some(answer?.header("x-serin-version")?.to_owned()))
            .or_else(|| Some(self.places.get(&call.life)?.version.clone()));
        self.count(call, answer, version.as_deref(), &outcome);
        if outcome.is_harm() {
            self.harm(Harm {
                life: call.life,
                sent_at: call.sent_at,
                ended_at: Instant::now(),
                mark: call.mark.clone(),
                version,
                tool: Some(call.tool.to_owned()),
                outcome: outcome.clone(),
            });
        }
        outcome
    }

    fn check(&mut self, call: &Call<'_>, answer: &Answer, place: Option<&Place>) {
        if !answer.is_own() {
            let got = answer.message.as_ref().map(|message| &message["id"]);
            self.mismatch(
                call,
                MismatchKind::Id,
                &answer.id,
                got.unwrap_or(&Value::Null),
            );
        }
        let Some(place) = place else {
            self.mismatch(
                call,
                MismatchKind::Unsigned,
                &"version and endpoint",
                &"neither",
            );
            return;
        };
        let nonce = &content(answer)["nonce"];
        if nonce != call.nonce {
            self.mismatch(call, MismatchKind::Nonce, &call.nonce, nonce);
        }
        if let Some(header) = answer.header("x-serin-version")
            && header != place.version
        {
            self.mismatch(call, MismatchKind::VersionHeader, &place.version, &header);
        }
        if let Some(session) = &place.session {
            match self.sessions.get(session).cloned() {
                None if self.sessions.len() < RECORDS_MAX => {
                    let owner = (call.life, place.clone());
                    self.sessions.insert(session.clone(), owner);
                }
                Some((owner, _)) if owner != call.life => {
                    let (own, got) = (
                        format!("a session of {:?}", call.life),
                        format!("one of {owner:?}"),
                    );
                    self.mismatch(call, MismatchKind::ForeignSession, &own, &got);
                }
                Some((_, known)) if known != *place => {
                    let (known, got) = (format!("{known:?}"), format!("{place:?}"));
                    self.mismatch(call, MismatchKind::SplitSession, &known, &got);
                }
                _ => {}
            }
        }
        self.locate(call, place);
    }

    /// Notes where the life is answered from, and whether that is new.
    fn locate(&mut self, call: &Call<'_>, place: &Place) {
        let Some(before) = self.places.insert(call.life, place.clone()) else {
            keep(
                &mut self.report.lives,
                LifeRecord {
                    life: call.life,
                    era: call.era,
                    first_sent_at: call.sent_at,
                    first: place.clone(),
                },
            );
            return;
        };
        // A modern caller belongs to a version, a legacy session to one session of one endpoint.
        let same = before.version == place.version
            && (call.era == Era::Modern || before.session == place.session);
        if !same {
            self.report.stats.moves += 1;
            keep(
                &mut self.report.moves,
                Move {
                    life: call.life,
                    era: call.era,
                    from: before,
                    to: place.clone(),
                    sent_at: call.sent_at,
                },
            );
        }
    }

    fn count(
        &mut self,
        call: &Call<'_>,
        answer: Option<&Answer>,
        version: Option<&str>,
        outcome: &Outcome,
    ) {
        let stats = &mut self.report.stats;
        stats.calls += 1;
        stats.gone += u64::from(*outcome == Outcome::SessionGone);
        let Some(name) = version else {
            return;
        };
        if !stats.versions.contains_key(name) {
            stats
                .versions
                .insert(name.to_owned(), VersionStats::default());
        }
        let Some(version) = stats.versions.get_mut(name) else {
            return;
        };
        version.calls += 1;
        match outcome {
            Outcome::Ok => {
                let recent = self.latencies.entry(name.to_owned()).or_default();
                if recent.len() == RECENT_CALLS {
                    recent.pop_front();
                }
                recent.extend(answer.map(|answer| answer.total));
                if let (Some(all), Some(answer)) = (&mut self.since_taken_us, answer) {
                    let micros = u64::try_from(answer.total.as_micros()).unwrap_or(u64::MAX);
                    all.saturating_record(micros);
                }
            }
            Outcome::ToolError => version.tool_errors += 1,
            Outcome::RpcError(_) => version.rpc_errors += 1,
            Outcome::HttpError(_) => version.http_errors += 1,
            Outcome::SessionGone => version.gone += 1,
            Outcome::Transport(_) => version.transport_errors += 1,
            Outcome::Malformed(_) => version.malformed += 1,
        }
        let canary = answer.and_then(|answer| answer.header("x-canary"));
        version.canary += u64::from(canary == Some("true"));
        // Answers overtake each other: the newest and the oldest are by the time of sending. A session that is gone was told so
        // without its version being asked.
        if *outcome != Outcome::SessionGone && version.last_sent_at < Some(call.sent_at) {
            version.last_sent_at = Some(call.sent_at);
        }
        if outcome.is_harm()
            && version
                .first_harm_at
                .is_none_or(|first| first > call.sent_at)
        {
            version.first_harm_at = Some(call.sent_at);
        }
    }

    fn harm(&mut self, harm: Harm) {
        self.report.stats.harmed += 1;
        keep(&mut self.report.harms, harm);
    }

    fn mismatch(
        &mut self,
        call: &Call<'_>,
        kind: MismatchKind,
        expected: &dyn Display,
        got: &dyn Display,
    ) {
        self.report.stats.mismatches += 1;
        keep(
            &mut self.report.mismatches,
            Mismatch {
                life: call.life,
                era: call.era,
                sent_at: call.sent_at,
                kind,
                expected: expected.to_string(),
                got: got.to_string(),
            },
        );
    }
}

fn outcome(call: &Call<'_>) -> Outcome {
    let answer = match call.answer {
        Ok(answer) => answer,
        Err(error @ (ClientError::NotJson(_) | ClientError::TooLong)) => {
            return Outcome::Malformed(error.to_string());
        }
        Err(error) => return Outcome::Transport(error.to_string()),
    };
    let status = answer.status.as_u16();
    if status == 404 && call.era == Era::Legacy {
        Outcome::SessionGone
    } else if !answer.status.is_success() {
        Outcome::HttpError(status)
    } else if let Some(error) = answer.error() {
        Outcome::RpcError(error["code"].as_i64().unwrap_or_default())
    } else if answer.is_tool_error() {
        Outcome::ToolError
    } else if answer.result().is_some() {
        Outcome::Ok
    } else {
        Outcome::Malformed(format!("HTTP {status} without a JSON-RPC response"))
    }
}

fn content(answer: &Answer) -> &Value {
    answer
        .result()
        .map_or(&Value::Null, |result| &result["structuredContent"])
}

fn place(answer: &Answer) -> Option<Place> {
    let content = content(answer);
    let text = |field: &str| content[field].as_str().map(str::to_owned);
    Some(Place {
        version: text("version")?,
        endpoint: text("endpoint")?,
        session: text("session"),
    })
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn keep<T>(records: &mut Vec<T>, record: T) {
    if records.len() < RECORDS_MAX {
        records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let sorted: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 50), Duration::from_millis(10));
        assert_eq!(quantile(&sorted, 95), Duration::from_millis(19));
        assert_eq!(quantile(&sorted[..1], 95), Duration::from_millis(1));
        assert_eq!(quantile(&[], 95), Duration::ZERO);
    }
}
