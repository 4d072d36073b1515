//! The circuit breaker of an endpoint: after so many failures in a row nothing is sent there for a while, then a few requests
//! show whether it works again.
//!
//! A [`Breaker`] is a number, so that whoever shares one changes it by comparing and swapping. Each of its states has a stamp, the time
//! at which it began, and a request that ends counts only for the state in which it began: what was sent before the breaker opened says
//! nothing once it is asked whether the endpoint works again.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a breaker opens, and how it closes again. The Cortex seed's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Failures in a row after which it opens; 0: never.
    pub failures: u32,
    /// For how long it stays open.
    #[serde(with = "text::duration")]
    pub open: Duration,
    /// How many requests at a time then show whether the endpoint works again, and how many must succeed in a row.
    pub probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            open: Duration::from_mins(1),
            probes: 1,
        }
    }
}

/// Bits of the time in a word: milliseconds to the year 2109.
const TIME_BITS: u32 = 42;
/// Bits of each of the two counts.
const COUNT_BITS: u32 = 10;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const COUNT_MASK: u64 = COUNT_MAX as u64;

/// Most failures and probes that are counted: as many as a word has room for.
pub const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

/// The state of a breaker, as a number. The default one is closed and has seen nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker(u64);

/// That a request began, to be told when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The endpoint answered.
    Ok,
    /// It did not, or said that it cannot.
    Failed,
    /// Nobody knows: the client went away, or the request was never sent.
    Unknown,
}

/// What a word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything passes.
    Closed {
        /// Since when, in milliseconds; 0 if it never was open.
        since: u64,
        /// Failures in a row.
        failures: u32,
    },
    /// Nothing passes.
    Open {
        /// Until when.
        until: u64,
    },
    /// Some pass, to see.
    Half {
        /// Since when.
        since: u64,
        /// Probes that may begin.
        free: u32,
        /// Successes that are missing.
        missing: u32,
    },
}

impl State {
    /// What tells it from the state before and the next one: its kind and its time.
    fn ticket(self) -> Ticket {
        Ticket(match self {
            Self::Closed { since, .. } => word(0, 0, 0, since),
            Self::Open { until } => word(1, 0, 0, until),
            Self::Half { since, .. } => word(2, 0, 0, since),
        })
    }
}

fn word(kind: u64, first: u32, second: u32, time: u64) -> u64 {
    let count = |n: u32| u64::from(n.min(COUNT_MAX));
    let counts = (count(first) << COUNT_BITS) | count(second);
    (kind << (2 * COUNT_BITS + TIME_BITS)) | (counts << TIME_BITS) | (time & TIME_MASK)
}

impl From<State> for Breaker {
    fn from(state: State) -> Self {
        Self(match state {
            State::Closed { since, failures } => word(0, failures, 0, since),
            State::Open { until } => word(1, 0, 0, until),
            State::Half {
                since,
                free,
                missing,
            } => word(2, free, missing, since),
        })
    }
}

impl Breaker {
    /// The breaker of a word that [`Self::bits`] gave.
    pub fn from_bits(word: u64) -> Self {
        Self(word)
    }

    /// As a word.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn state(self) -> State {
        let time = self.0 & TIME_MASK;
        // Ten bits each.
        let count = |shift: u32| u32::try_from((self.0 >> shift) & COUNT_MASK).unwrap_or(COUNT_MAX);
        let (first, second) = (count(TIME_BITS + COUNT_BITS), count(TIME_BITS));
        match self.0 >> (TIME_BITS + 2 * COUNT_BITS) {
            0 => State::Closed {
                since: time,
                failures: first,
            },
            1 => State::Open { until: time },
            _ => State::Half {
                since: time,
                free: first,
                missing: second,
            },
        }
    }

    /// Whether it was opened and nothing has been tried since.
    pub fn is_open(self) -> bool {
        matches!(self.state(), State::Open { .. })
    }

    /// Whether a request may begin now.
    pub fn admits(self, now_ms: u64) -> bool {
        match self.state() {
            State::Closed { .. } => true,
            State::Open { until } => now_ms >= until,
            State::Half { free, .. } => free > 0,
        }
    }

    /// Since when everything passes again, in milliseconds; none if it always did, or does not.
    pub fn closed_since_ms(self) -> Option<u64> {
        match self.state() {
            State::Closed { since, .. } => (since > 0).then_some(since),
            State::Open { .. } | State::Half { .. } => None,
        }
    }

    /// A request begins; none if it may not. Its end must be told, whatever becomes of it: a probe that nobody tells of would be waited
    /// for.
    pub fn began(self, now_ms: u64, settings: &Settings) -> Option<(Self, Ticket)> {
        let state = match self.state() {
            closed @ State::Closed { .. } => closed,
            _ if settings.failures == 0 => State::Closed {
                since: now_ms,
                failures: 0,
            },
            State::Open { until } if now_ms >= until => {
                let probes = settings.probes.clamp(1, COUNT_MAX);
                State::Half {
                    since: now_ms,
                    free: probes - 1,
                    missing: probes,
                }
            }
            State::Half {
                since,
                free,
                missing,
            } if free > 0 => State::Half {
                since,
                free: free - 1,
                missing,
            },
            State::Open { .. } | State::Half { .. } => return None,
        };
        Some((state.into(), state.ticket()))
    }

    /// Whether a ticket is that of a probe.
    pub fn is_probe(ticket: Ticket) -> bool {
        matches!(Self(ticket.0).state(), State::Half { .. })
    }

    /// A request ended that began with this ticket. The end of one that began in another state changes nothing.
    #[must_use]
    pub fn ended(self, ticket: Ticket, end: End, now_ms: u64, settings: &Settings) -> Self {
        let state = self.state();
        if state.ticket() != ticket {
            return self;
        }
        // At least a millisecond, so that no two states of a kind have the same stamp.
        let open_ms = u64::try_from(settings.open.as_millis()).unwrap_or(TIME_MASK);
        let opened = State::Open {
            until: now_ms.saturating_add(open_ms.max(1)).min(TIME_MASK),
        };
        match (state, end) {
            (State::Closed { since, .. }, End::Ok) => State::Closed { since, failures: 0 },
            (State::Closed { since, failures }, End::Failed) => {
                let failures = failures.saturating_add(1).min(COUNT_MAX);
                let limit = settings.failures.min(COUNT_MAX);
                if limit > 0 && failures >= limit {
                    opened
                } else {
                    State::Closed { since, failures }
                }
            }
            (State::Half { missing: ..=1, .. }, End::Ok) => State::Closed {
                since: now_ms,
                failures: 0,
            },
            (State::Half { .. }, End::Failed) => opened,
            (
                State::Half {
                    since,
                    free,
                    missing,
                },
                End::Ok | End::Unknown,
            ) => State::Half {
                since,
                free: (free + 1).min(settings.probes.clamp(1, COUNT_MAX)),
                missing: missing - u32::from(end == End::Ok),
            },
            (same @ (State::Open { .. } | State::Closed { .. }), _) => same,
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(failures: u32, open_ms: u64, probes: u32) -> Settings {
        Settings {
            failures,
            open: Duration::from_millis(open_ms),
            probes,
        }
    }

    /// What happens to a breaker.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Begin,
        /// The end of one of those under way.
        End(usize, End),
    }

    fn step() -> impl Strategy<Value = Step> {
        let end = prop_oneof![
            3 => Just(End::Failed),
            3 => Just(End::Ok),
            1 => Just(End::Unknown),
        ];
        prop_oneof![
            2 => (0..40_u64).prop_map(Step::Wait),
            4 => Just(Step::Begin),
            4 => (0..8_usize, end).prop_map(|(at, end)| Step::End(at, end)),
        ]
    }

    /// The same told at length: periods, and in each the requests that began in it.
    struct Naive {
        settings: Settings,
        period: u32,
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Kind {
        Closed { row: u32 },
        Open { until: u64 },
        Half { under_way: u32, ok: u32 },
    }

    impl Naive {
        fn begin(&mut self, now: u64) -> Option<u32> {
            if let Kind::Open { until } = self.kind {
                if now < until {
                    return None;
                }
                self.period += 1;
                self.kind = Kind::Half {
                    under_way: 0,
                    ok: 0,
                };
            }
            if let Kind::Half { under_way, .. } = &mut self.kind {
                if *under_way >= self.settings.probes {
                    return None;
                }
                *under_way += 1;
            }
            Some(self.period)
        }

        fn end(&mut self, period: u32, end: End, now: u64) {
            if period != self.period {
                return;
            }
            let opens = match &mut self.kind {
                Kind::Closed { row } => {
                    match end {
                        End::Ok => *row = 0,
                        End::Failed => *row += 1,
                        End::Unknown => {}
                    }
                    *row >= self.settings.failures
                }
                Kind::Half { under_way, ok } => {
                    *under_way -= 1;
                    *ok += u32::from(end == End::Ok);
                    end == End::Failed
                }
                Kind::Open { .. } => false,
            };
            if opens {
                self.period += 1;
                let open = u64::try_from(self.settings.open.as_millis()).unwrap();
                self.kind = Kind::Open { until: now + open };
            } else if matches!(self.kind, Kind::Half { ok, .. } if ok >= self.settings.probes) {
                self.period += 1;
                self.kind = Kind::Closed { row: 0 };
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_naive_one_does(
            failures in 1..5_u32,
            open_ms in 1..60_u64,
            probes in 1..4_u32,
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let settings = settings(failures, open_ms, probes);
            let mut naive = Naive { settings, period: 0, kind: Kind::Closed { row: 0 } };
            let mut breaker = Breaker::default();
            let mut under_way = Vec::new();
            let mut now = 1_000;
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Begin => {
                        let began = breaker.began(now, &settings);
                        prop_assert_eq!(breaker.admits(now), began.is_some());
                        let expected = naive.begin(now);
                        prop_assert_eq!(began.is_some(), expected.is_some());
                        if let (Some((next, ticket)), Some(period)) = (began, expected) {
                            breaker = next;
                            under_way.push((ticket, period));
                        }
                        let probing = under_way.iter().filter(|(ticket, _)| {
                            Breaker::is_probe(*ticket) && breaker.state().ticket() == *ticket
                        });
                        prop_assert!(probing.count() <= probes as usize);
                    }
                    Step::End(at, end) => {
                        if under_way.is_empty() {
                            continue;
                        }
                        let (ticket, period) = under_way.swap_remove(at % under_way.len());
                        breaker = breaker.ended(ticket, end, now, &settings);
                        naive.end(period, end, now);
                    }
                }
                prop_assert_eq!(Breaker::from_bits(breaker.bits()), breaker);
            }
            // Whatever happened, once all ends are told it opens up again, and closes if the endpoint works.
            for (ticket, _) in under_way {
                breaker = breaker.ended(ticket, End::Unknown, now, &settings);
            }
            now += open_ms;
            for _ in 0..probes {
                let (next, ticket) = breaker.began(now, &settings).unwrap();
                breaker = next.ended(ticket, End::Ok, now, &settings);
            }
            let is_closed = matches!(breaker.state(), State::Closed { failures: 0, .. });
            prop_assert!(is_closed, "{:?}", breaker.state());
        }

        #[test]
        fn it_opens_after_exactly_so_many_failures_in_a_row(failures in 1..=COUNT_MAX, ok_at in 0..COUNT_MAX) {
            let settings = settings(failures, 60_000, 1);
            let mut breaker = Breaker::default();
            let fail = |breaker: Breaker, end| {
                let (breaker, ticket) = breaker.began(5, &settings).unwrap();
                breaker.ended(ticket, end, 5, &settings)
            };
            for _ in 0..ok_at.min(failures - 1) {
                breaker = fail(breaker, End::Failed);
            }
            breaker = fail(breaker, End::Ok);
            for n in 0..failures {
                prop_assert!(breaker.admits(5), "after {} failures", n);
                breaker = fail(breaker, End::Failed);
            }
            prop_assert!(!breaker.admits(5) && !breaker.admits(60_004) && breaker.admits(60_005));
        }
    }

    #[test]
    fn without_a_number_of_failures_it_never_opens_and_an_open_one_closes() {
        let never = settings(0, 60_000, 1);
        let mut breaker = Breaker::default();
        for _ in 0..2_000 {
            let (next, ticket) = breaker.began(1, &never).unwrap();
            breaker = next.ended(ticket, End::Failed, 1, &never);
        }
        assert!(breaker.admits(1));
        let once = settings(1, 60_000, 1);
        let (next, ticket) = breaker.began(1, &once).unwrap();
        breaker = next.ended(ticket, End::Failed, 1, &once);
        assert!(breaker.began(2, &once).is_none());
        let (breaker, _) = breaker.began(2, &never).unwrap();
        assert_eq!(breaker.closed_since_ms(), Some(2));
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_to_a_probe() {
        let settings = settings(1, 10, 1);
        let (breaker, early) = Breaker::default().began(1, &settings).unwrap();
        let (breaker, first) = breaker.began(1, &settings).unwrap();
        let breaker = breaker.ended(first, End::Failed, 1, &settings);
        let (half, probe) = breaker.began(11, &settings).unwrap();
        assert_eq!(half.ended(early, End::Ok, 12, &settings), half);
        assert_eq!(half.ended(early, End::Failed, 12, &settings), half);
        assert!(!half.admits(100_000), "a probe is under way");
        assert!(half.ended(probe, End::Unknown, 12, &settings).admits(12));
        let closed = half.ended(probe, End::Ok, 12, &settings);
        assert_eq!(closed.closed_since_ms(), Some(12));
    }
}
