//! What a population saw: moves between versions, mismatches, harm; and which moves its operator can explain.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::client::Era;

/// One life of a client: a legacy session, or one principal of a modern caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Life {
    /// The client's number.
    pub client: usize,
    /// Which of its lives, from 1.
    pub ordinal: u32,
}

/// Who gave an answer, by its own words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The version.
    pub version: String,
    /// The endpoint.
    pub endpoint: String,
    /// The nonce of the upstream session; modern requests have none.
    pub session: Option<String>,
}

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// `isError` inside HTTP 200.
    ToolError,
    /// A JSON-RPC error inside HTTP 200.
    RpcError(i64),
    /// An HTTP error.
    HttpError(u16),
    /// HTTP 404 on a legacy session: it has ended, and the client opens another. Counted apart, not as harm.
    SessionGone,
    /// No whole answer: refused, broken off or too late.
    Transport(String),
    /// An answer that is none.
    Malformed(String),
}

impl Outcome {
    /// Whether the caller was harmed.
    pub fn is_harm(&self) -> bool {
        !matches!(self, Self::Ok | Self::SessionGone)
    }
}

/// A life whose answers came from somewhere else than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose life.
    pub life: Life,
    /// Its era.
    pub era: Era,
    /// Where its answers came from.
    pub from: Place,
    /// Where they come from now.
    pub to: Place,
    /// When the first call was sent that was answered from there.
    pub sent_at: Instant,
}

/// An answer that must not be: not the caller's own, or from where it cannot come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Whose life.
    pub life: Life,
    /// Its era.
    pub era: Era,
    /// When the call was sent.
    pub sent_at: Instant,
    /// What was wrong.
    pub kind: MismatchKind,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
}

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MismatchKind {
    /// The JSON-RPC id is another request's.
    Id,
    /// The nonce is another request's.
    Nonce,
    /// The answer does not say who gave it.
    Unsigned,
    /// `X-Serin-Version` names another version than the answer itself.
    VersionHeader,
    /// The upstream session is, or was, another client's.
    ForeignSession,
    /// The upstream session has the nonce it had, and another version or endpoint.
    SplitSession,
}

/// A call that harmed its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    /// Whose life.
    pub life: Life,
    /// When the call was sent.
    pub sent_at: Instant,
    /// When it was over.
    pub ended_at: Instant,
    /// The mark of its last request, where requests are marked.
    pub mark: Option<String>,
    /// The version that answered; where nobody did, the one that the life had been answered by before.
    pub version: Option<String>,
    /// The tool that was called; `None` for a session that could not be opened or a list that could not be read.
    pub tool: Option<String>,
    /// What happened.
    pub outcome: Outcome,
}

/// A life, from its first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeRecord {
    /// Whose life.
    pub life: Life,
    /// Its era.
    pub era: Era,
    /// When its first answered call was sent.
    pub first_sent_at: Instant,
    /// Where its first answer came from.
    pub first: Place,
}

/// What a version did, as far as its callers can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionStats {
    /// Calls that ended, however they ended.
    pub calls: u64,
    /// Of these, `isError` inside HTTP 200.
    pub tool_errors: u64,
    /// JSON-RPC errors inside HTTP 200.
    pub rpc_errors: u64,
    /// HTTP errors.
    pub http_errors: u64,
    /// Calls without a whole answer.
    pub transport_errors: u64,
    /// Answers that were none.
    pub malformed: u64,
    /// Sessions that had ended.
    pub gone: u64,
    /// Answers with `X-Canary: true`.
    pub canary: u64,
    /// When the newest call was sent to it.
    pub last_sent_at: Option<Instant>,
    /// When the first call was sent that harmed its caller.
    pub first_harm_at: Option<Instant>,
    /// Of the newest calls that went well, half took at most so long.
    pub recent_p50: Duration,
    /// 95 of 100 took at most so long.
    pub recent_p95: Duration,
}

impl VersionStats {
    /// Calls that harmed their callers.
    pub fn harmed(&self) -> u64 {
        self.tool_errors
            + self.rpc_errors
            + self.http_errors
            + self.transport_errors
            + self.malformed
    }
}

/// A population's counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Calls that ended, however they ended.
    pub calls: u64,
    /// Lives that have begun.
    pub lives: u64,
    /// Calls that harmed their callers, and sessions that could not be opened.
    pub harmed: u64,
    /// Legacy sessions that had ended: HTTP 404.
    pub gone: u64,
    /// Lives that changed place.
    pub moves: u64,
    /// Answers that must not be.
    pub mismatches: u64,
    /// Per version. Calls of which no version is known are counted above only.
    pub versions: BTreeMap<String, VersionStats>,
}

/// All that a population saw. Each list is bounded by [`RECORDS_MAX`](super::RECORDS_MAX); the counts are whole.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The counts.
    pub stats: Stats,
    /// The answers that must not be.
    pub mismatches: Vec<Mismatch>,
    /// The changes of place, those that are in order, too: see [`Report::unexplained_moves`].
    pub moves: Vec<Move>,
    /// The calls that harmed their callers.
    pub harms: Vec<Harm>,
    /// The lives that were answered at least once, by the time of their first answer: the new affinity keys.
    pub lives: Vec<LifeRecord>,
}

/// What an operator, or a rollout, did to the routing, and so may have moved callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The version's share was raised: each modern caller may have moved to it, once.
    Raised(String),
    /// The version's share was lowered: each modern caller may have moved away from it, once.
    Lowered(String),
    /// The version was rolled back: each life, a legacy session too, may have moved away from it, once.
    RolledBack(String),
    /// The version was restarted: each legacy session on it may have been opened anew, there, once.
    Restarted(String),
}

impl Report {
    /// The moves that none of `changes` accounts for.
    ///
    /// Within one life, each change accounts for one move of its kind. The changes' order and times are not looked at.
    pub fn unexplained_moves(&self, changes: &[Change]) -> Vec<&Move> {
        let count = |wanted: &dyn Fn(&Change) -> bool| {
            changes.iter().filter(|change| wanted(change)).count()
        };
        let mut to: HashMap<(Life, &str), usize> = HashMap::new();
        let mut from: HashMap<(Life, &str), usize> = HashMap::new();
        self.moves
            .iter()
            .filter(|moved| {
                let (old, new) = (&moved.from.version, &moved.to.version);
                if old == new {
                    let nth = from.entry((moved.life, old)).or_default();
                    *nth += 1;
                    let restarts = count(
                        &|change| matches!(change, Change::Restarted(version) if version == old),
                    );
                    return *nth > restarts;
                }
                let modern = moved.era == Era::Modern;
                let away = count(&|change| match change {
                    Change::RolledBack(version) => version == old,
                    Change::Lowered(version) => modern && version == old,
                    _ => false,
                });
                let raises = count(
                    &|change| matches!(change, Change::Raised(version) if modern && version == new),
                );
                let nth_to = to.entry((moved.life, new)).or_default();
                if *nth_to < raises {
                    *nth_to += 1;
                    return false;
                }
                let nth_from = from.entry((moved.life, old)).or_default();
                *nth_from += 1;
                *nth_from > away
            })
            .collect()
    }

    /// The calls sent at or after `instant` that harmed their callers.
    pub fn harmed_since(&self, instant: Instant) -> usize {
        self.harms
            .iter()
            .filter(|harm| harm.sent_at >= instant)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(era: Era, client: usize, from: &str, to: &str) -> Move {
        let place = |version: &str| Place {
            version: version.into(),
            endpoint: "a".into(),
            session: None,
        };
        Move {
            life: Life { client, ordinal: 1 },
            era,
            from: place(from),
            to: place(to),
            sent_at: Instant::now(),
        }
    }

    #[test]
    fn moves_are_explained_once_per_change_and_life() {
        use Era::{Legacy, Modern};
        let raised = || Change::Raised("v2".into());
        let lowered = || Change::Lowered("v2".into());
        let rolled_back = || Change::RolledBack("v2".into());
        let restarted = || Change::Restarted("v1".into());
        let (up, down) = (
            |era| moved(era, 0, "v1", "v2"),
            |era| moved(era, 0, "v2", "v1"),
        );
        let again = || moved(Legacy, 0, "v1", "v1");
        let other = moved(Modern, 1, "v1", "v2");
        let table: Vec<(Vec<Move>, Vec<Change>, usize)> = vec![
            (vec![up(Modern)], vec![], 1),
            (vec![up(Modern)], vec![raised()], 0),
            (vec![up(Modern), other], vec![raised()], 0),
            (vec![up(Modern)], vec![lowered(), rolled_back()], 1),
            (vec![up(Modern), down(Modern)], vec![raised()], 1),
            (vec![up(Modern), down(Modern)], vec![raised(), lowered()], 0),
            (
                vec![up(Modern), down(Modern), up(Modern)],
                vec![raised(), rolled_back()],
                1,
            ),
            (vec![up(Legacy)], vec![raised()], 1),
            (vec![down(Legacy)], vec![lowered()], 1),
            (vec![down(Legacy)], vec![rolled_back()], 0),
            (vec![again()], vec![rolled_back()], 1),
            (vec![again()], vec![restarted()], 0),
            (vec![again(), again()], vec![restarted()], 1),
        ];
        for (moves, changes, unexplained) in table {
            let report = Report {
                moves,
                ..Report::default()
            };
            assert_eq!(
                report.unexplained_moves(&changes).len(),
                unexplained,
                "{:?} {changes:?}",
                report.moves
            );
        }
    }
}
