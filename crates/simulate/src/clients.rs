//! Clients under virtual time, whose calls go through the real counting code: two cores' recorders, the ledger, the judge.
//!
//! Errors cluster by session and failures are retried, as they do in life: calls of one caller fail together, and who counts calls
//! as if they were independent raises false alarms. Trials are what makes them independent.

use crate::{
    Latencies, Source,
    counts::Block,
    latency::{Slowdown, Spread},
    trials::names,
};
use serin_judge::trial::{Call, Latency, Ledger, Recorder, Shown, TrialBlock};
use std::{sync::Arc, time::Duration};

/// Length of a block.
const BLOCK_SECONDS: u64 = 10;
const BLOCK_MS: u64 = BLOCK_SECONDS * 1000;

/// One call in so many goes over another connection than its session's, and so to the other core.
const OTHER_CORE: f64 = 0.1;

/// A failed call is tried again after this time.
const RETRY_SECONDS: f64 = 0.2;

/// How far sessions differ in speed: a standard deviation of this many buckets, half an octave, as far as some callers ask for
/// more than others.
const SPEED_BUCKETS: f64 = 8.0;

/// Sessions and how they fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clients {
    /// How many open each second, at both versions together.
    pub sessions_per_second: f64,
    /// They last between these times, long ones as often as short ones on the scale of a logarithm.
    pub lasting_seconds: (f64, f64),
    /// Time between the end of a call and the next.
    pub pause_seconds: f64,
    /// The part of the sessions that is bad all through.
    pub bad_sessions: f64,
    /// How often their calls fail.
    pub bad_rate: f64,
    /// They last this part of the time of others: less than one where people give up on what does not work.
    pub bad_lasting_part: f64,
    /// How often those of the others do.
    pub rate: f64,
    /// How often a failed call is tried again.
    pub retries: u32,
    /// How often such a repetition fails.
    pub retry_rate: f64,
    /// The part of the calls that their client leaves.
    pub left: f64,
    /// Tools of the service.
    pub tools: u32,
}

impl Clients {
    /// Sessions of one to sixty minutes, some of them bad all through: together about 1 % of all calls fail.
    pub const fn clustered() -> Self {
        Self {
            sessions_per_second: 0.25,
            lasting_seconds: (60.0, 3600.0),
            pause_seconds: 15.0,
            bad_sessions: 0.015,
            bad_rate: 0.6,
            bad_lasting_part: 1.0,
            rate: 0.001,
            retries: 0,
            retry_rate: 0.0,
            left: 0.002,
            tools: 3,
        }
    }

    /// The same, but bad sessions are soon given up: those that outlive a step are better than new ones, and of these the
    /// candidate has more.
    pub const fn giving_up() -> Self {
        Self {
            bad_lasting_part: 0.1,
            ..Self::clustered()
        }
    }

    /// Failures strike any call, and each is tried again up to three times, mostly in vain.
    pub const fn retrying() -> Self {
        Self {
            bad_sessions: 0.0,
            rate: 0.01,
            retries: 3,
            retry_rate: 0.7,
            ..Self::clustered()
        }
    }
}

/// A session under way.
#[derive(Debug)]
struct Session {
    /// Its own: what it does hangs on nobody else, nor on how often somebody looks.
    source: Source,
    key: u64,
    /// The step in which it began: it is a trial in no other.
    step: u32,
    is_candidate: bool,
    is_bad: bool,
    /// By how many buckets it is slower than others.
    shift: i16,
    core: usize,
    ends_at: f64,
    /// The call under way.
    call_ends_at: f64,
    bucket: u16,
    tool: usize,
    /// How often this call was tried already.
    tried: u32,
}

/// A rollout of two equal versions under virtual time.
#[derive(Debug)]
pub struct World<'a> {
    clients: Clients,
    source: &'a mut Source,
    latencies: &'a Latencies,
    tools: Vec<Arc<str>>,
    sessions: Vec<Session>,
    cores: [Recorder; 2],
    ledger: Ledger,
    step: u32,
    blocks: u64,
    drains_a_block: u32,
}

impl<'a> World<'a> {
    /// At the start of a rollout; nobody is there yet.
    pub fn new(clients: Clients, latencies: &'a Latencies, source: &'a mut Source) -> Self {
        let recorder = || Recorder::new(Duration::from_secs(BLOCK_SECONDS), 0);
        Self {
            clients,
            source,
            latencies,
            tools: names(clients.tools),
            sessions: Vec::new(),
            cores: [recorder(), recorder()],
            ledger: Ledger::new(0),
            step: 0,
            blocks: 0,
            drains_a_block: 1,
        }
    }

    /// The cores say so often in each block what they saw. When they do makes no difference to a block, so that once is enough.
    #[must_use]
    pub fn draining(mut self, times_a_block: u32) -> Self {
        self.drains_a_block = times_a_block.max(1);
        self
    }

    /// The latencies that fit [`World::new`].
    pub fn latencies() -> Latencies {
        Latencies::new(Spread::default(), Slowdown::NONE)
    }

    /// Lives through the next block, in a step and with a share of the new sessions; what the real counting makes of it, and what
    /// counting each call would have.
    pub fn block(&mut self, step: u32, share: f64) -> (TrialBlock, Block) {
        let began_ms = self.blocks * BLOCK_MS;
        if step != self.step {
            self.step = step;
            let recorder = || Recorder::new(Duration::from_secs(BLOCK_SECONDS), began_ms);
            self.cores = [recorder(), recorder()];
            self.ledger.begin(step);
        }
        self.blocks += 1;
        let began = began_ms as f64 / 1000.0;
        let ends = began + BLOCK_SECONDS as f64;
        self.open(began, share);

        let mut calls = Block::default();
        let mut sessions = std::mem::take(&mut self.sessions);
        for drain in 1..=self.drains_a_block {
            let part = f64::from(drain) / f64::from(self.drains_a_block);
            let until = began + (ends - began) * part;
            sessions.retain_mut(|session| self.live(session, until, &mut calls));
            for core in &mut self.cores {
                self.ledger.gather(&core.drain());
            }
        }
        self.sessions = sessions;
        let shared = self.tools.iter().cloned().collect();
        let block = self.ledger.close(ends, share, step, Some(&shared));
        (block, calls)
    }

    fn open(&mut self, began: f64, share: f64) {
        let expected = self.clients.sessions_per_second * BLOCK_SECONDS as f64;
        for _ in 0..self.source.poisson(expected) {
            let (shortest, longest) = self.clients.lasting_seconds;
            let lasting = shortest * libm::pow(longest / shortest, self.source.unit());
            let opened = began + self.source.unit() * BLOCK_SECONDS as f64;
            let mut source = self.source.fork();
            let key = source.bits();
            let is_bad = source.happens(self.clients.bad_sessions);
            let part = if is_bad {
                self.clients.bad_lasting_part
            } else {
                1.0
            };
            let mut session = Session {
                key,
                step: self.step,
                is_candidate: source.happens(share),
                is_bad,
                shift: speed(&mut source),
                source,
                core: usize::from(key & 1 == 1),
                ends_at: opened + lasting * part,
                call_ends_at: 0.0,
                bucket: 0,
                tool: 0,
                tried: 0,
            };
            self.cores[session.core].assigned(key, session.is_candidate);
            self.call(&mut session, opened);
            self.sessions.push(session);
        }
    }

    /// A session calls a tool.
    fn call(&self, session: &mut Session, at: f64) {
        let bucket = self.latencies.draw(&mut session.source);
        session.bucket = bucket.saturating_add_signed(session.shift);
        session.call_ends_at = at + serin_judge::upper_edge_seconds(session.bucket);
        if session.tried == 0 {
            let tools = self.tools.len() as u64;
            session.tool = usize::try_from(session.source.below(tools)).unwrap_or(0);
        }
    }

    /// Everything a session does until `ends`; whether it goes on.
    fn live(&mut self, session: &mut Session, ends: f64, calls: &mut Block) -> bool {
        while session.call_ends_at < ends {
            let at = session.call_ends_at;
            let (shown, failed) = self.outcome(session);
            let own = usize::from(session.source.happens(OTHER_CORE));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "hours in milliseconds"
            )]
            let at_ms = (at * 1000.0) as u64;
            if session.step == self.step {
                self.cores[session.core ^ own].record(Call {
                    key: session.key,
                    is_candidate: session.is_candidate,
                    tool: self.tools.get(session.tool),
                    shown,
                    at_ms,
                });
            }
            let (bad, all) = if session.is_candidate {
                (&mut calls.candidate_bad, &mut calls.candidate)
            } else {
                (&mut calls.stable_bad, &mut calls.stable)
            };
            *bad += u64::from(failed);
            *all += 1;
            let pause = if failed && session.tried < self.clients.retries {
                session.tried += 1;
                RETRY_SECONDS
            } else {
                session.tried = 0;
                session.source.wait_seconds(self.clients.pause_seconds)
            };
            if at + pause > session.ends_at {
                return false;
            }
            self.call(session, at + pause);
        }
        true
    }

    fn outcome(&self, session: &mut Session) -> (Shown, bool) {
        let rate = if session.tried > 0 {
            self.clients.retry_rate
        } else if session.is_bad {
            self.clients.bad_rate
        } else {
            self.clients.rate
        };
        if session.source.happens(self.clients.left) {
            return (Shown::Left(session.bucket), false);
        }
        if session.source.happens(rate) {
            return (Shown::Badly, true);
        }
        let latency = Latency {
            first_byte: session.bucket.saturating_sub(16),
            last_byte: session.bucket,
        };
        (Shown::Well(Some(latency)), false)
    }
}

/// By how many buckets a session is slower than others. Twelve even draws less six are as good as normal.
fn speed(source: &mut Source) -> i16 {
    let normal: f64 = (0..12).map(|_| source.unit()).sum::<f64>() - 6.0;
    #[expect(clippy::cast_possible_truncation, reason = "six deviations at most")]
    let shift = libm::round(normal * SPEED_BUCKETS) as i16;
    shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn when_the_cores_are_drained_makes_no_difference() {
        let latencies = World::latencies();
        let blocks = |drains| {
            let mut source = Seed::new("tests", "drains").run(0);
            let clients = Clients {
                rate: 0.05,
                left: 0.02,
                ..Clients::retrying()
            };
            let mut world = World::new(clients, &latencies, &mut source).draining(drains);
            let live = |at: u32| world.block(at / 30, 0.3);
            (0..60).map(live).collect::<Vec<_>>()
        };
        let once = blocks(1);
        assert_eq!(once, blocks(100), "every 100 ms");
        let trials: u64 = once
            .iter()
            .map(|(block, _)| block.candidate.pooled.trials)
            .sum();
        let bad: u64 = once.iter().map(|(block, _)| block.stable.pooled.bad).sum();
        assert!(trials > 30 && bad > 3, "{trials} {bad}");
    }
}
