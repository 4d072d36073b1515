//! The clients of a simulated rollout: how many calls and trials each version gets in a while, and how they end.

use crate::{Degradation, Keys, Latencies, Source, Traffic, latency::Slowdown, trials::names};
use serin_judge::{
    Arm, LogHistogram, Tally,
    trial::{TrialArm, TrialBlock, Trials},
};
use serin_model::course::Block;
use std::sync::Arc;

/// The part of trials with a call that its client left, whatever the version: clients give up on everything now and then.
const LEFT: f64 = 0.002;

/// The first byte comes after 0.7 of the time of the last: so many buckets earlier.
const FIRST_BYTE_SHIFT: u16 = 16;

/// Everyone who calls, and what is wrong with the candidate.
#[derive(Debug)]
pub(crate) struct Town<'a> {
    traffic: Traffic,
    what: Degradation,
    block_seconds: f64,
    /// Whether a rule of the plan looks at the latency of all calls, not of trials alone.
    latency_of_calls: bool,
    latencies: &'a [Latencies; 2],
    tools: Vec<Arc<str>>,
    source: &'a mut Source,
    /// Stable's callers and the candidate's.
    sides: [Side; 2],
    share: f64,
    share_before: f64,
}

/// Callers of one version, where callers stay the same.
#[derive(Clone, Debug, Default)]
struct Side {
    callers: u64,
    /// Those that have not called in this step.
    fresh: u64,
    /// Those that have not called each tool.
    fresh_tools: Vec<u64>,
}

/// The latencies of stable and of a candidate that is so much slower.
pub(crate) fn latencies(traffic: &Traffic, what: Degradation) -> [Latencies; 2] {
    [Slowdown::NONE, what.slowdown()].map(|slowdown| Latencies::new(traffic.latency, slowdown))
}

/// What a side's keys did in a while.
struct Arrivals {
    /// Keys whose first block it was.
    keys: u64,
    /// Of older keys, those whose first block with each tool it was.
    later: Vec<u64>,
}

impl<'a> Town<'a> {
    /// Before the rollout: stable has everyone.
    pub(crate) fn new(
        traffic: Traffic,
        what: Degradation,
        (block_seconds, latency_of_calls): (f64, bool),
        latencies: &'a [Latencies; 2],
        source: &'a mut Source,
    ) -> Self {
        let callers = match traffic.keys {
            Keys::Callers(callers) => callers,
            Keys::Sessions { .. } => 0,
        };
        let stable = Side {
            callers,
            ..Side::default()
        };
        Self {
            traffic,
            what,
            block_seconds,
            latency_of_calls,
            latencies,
            tools: names(traffic.tools),
            source,
            sides: [stable, Side::default()],
            share: 0.0,
            share_before: 0.0,
        }
    }

    /// A step begins: the candidate gets a larger share, and everyone counts anew.
    pub(crate) fn begin(&mut self, share: f64) {
        let moved = ((share - self.share) / (1.0 - self.share).max(1e-12)).max(0.0);
        let moved = self.source.binomial(self.sides[0].callers, moved);
        self.sides[0].callers -= moved;
        self.sides[1].callers += moved;
        for side in &mut self.sides {
            side.fresh = side.callers;
            side.fresh_tools = vec![side.callers; self.tools.len()];
        }
        (self.share_before, self.share) = (self.share, share);
    }

    /// The part of all calls that the candidate gets, so long after the step began: sessions stay where they are.
    fn part_of_calls(&self, age_seconds: f64) -> f64 {
        if let Some(lasting) = self.traffic.session_seconds() {
            let renewed = (age_seconds / lasting.max(1e-9)).min(1.0);
            return self.share_before + (self.share - self.share_before) * renewed;
        }
        let [stable, candidate] = [&self.sides[0], &self.sides[1]].map(|side| side.callers);
        candidate as f64 / ((stable + candidate).max(1)) as f64
    }

    /// The next `seconds` of a step that is `age_seconds` old then: the block they leave behind, and how many calls were harmed.
    pub(crate) fn live(
        &mut self,
        step: u32,
        at_seconds: f64,
        age_seconds: f64,
        seconds: f64,
    ) -> (Block, u64) {
        let share = self.share;
        let part = self.part_of_calls(age_seconds - seconds / 2.0);
        let mut trials = TrialBlock {
            step,
            ended_seconds: at_seconds,
            share,
            tools_listed: self.traffic.tools,
            ..TrialBlock::default()
        };
        let mut block = Block {
            step,
            at_seconds,
            ..Block::default()
        };
        let mut harmed = 0;
        for side in 0..2 {
            let is_candidate = side == 1;
            let arrivals = self.arrivals(side, age_seconds, seconds);
            let arm = self.trials(is_candidate, &arrivals);
            let keys = arrivals.keys;
            let part = if is_candidate { part } else { 1.0 - part };
            let (calls, hurt) =
                self.calls(is_candidate, part * self.traffic.calls_per_second * seconds);
            if is_candidate {
                harmed = hurt;
                trials.keys.1 = keys;
                trials.candidate = arm;
                block.candidate = calls;
            } else {
                trials.mirror = self.half(&arm.pooled);
                trials.keys.0 = keys;
                trials.stable = arm;
                block.stable = calls;
            }
        }
        block.trials = Some(Box::new(trials));
        (block, harmed)
    }

    fn arrivals(&mut self, side: usize, age_seconds: f64, seconds: f64) -> Arrivals {
        let rate = self.traffic.calls_per_second_of_a_key();
        let tools = self.tools.len().max(1) as f64;
        let Keys::Sessions { per_second, .. } = self.traffic.keys else {
            let called = |rate: f64| -libm::expm1(-rate * seconds);
            let own = &mut self.sides[side];
            let fresh = own.fresh;
            let keys = self.source.binomial(fresh, called(rate));
            own.fresh -= keys;
            let later = own.fresh_tools.iter().map(|&without| {
                // Callers that have called already, but never this tool.
                self.source
                    .binomial(without.saturating_sub(fresh), called(rate / tools))
            });
            let later: Vec<_> = later.collect();
            return Arrivals { keys, later };
        };
        let part = if side == 1 {
            self.share
        } else {
            1.0 - self.share
        };
        let keys = self.source.poisson(per_second * part * seconds);
        // The first sessions take their time before they have called every tool.
        let lasting = self.traffic.session_seconds().unwrap_or(0.0);
        let grown = (age_seconds / lasting.max(1e-9)).min(1.0);
        let first = self.traffic.first_block_has_tool(self.block_seconds);
        let each = (self.traffic.session_has_tool() - first).max(0.0) * per_second * part * grown;
        let later = (0..self.tools.len())
            .map(|_| self.source.poisson(each * seconds))
            .collect();
        Arrivals { keys, later }
    }

    fn trials(&mut self, is_candidate: bool, arrivals: &Arrivals) -> TrialArm {
        let what = if is_candidate {
            self.what
        } else {
            Degradation::None
        };
        let latencies = &self.latencies[usize::from(is_candidate)];
        let further = self.traffic.further_calls(self.block_seconds);
        let stable = self.traffic.error_rate;
        let keys = arrivals.keys;
        let tools = self.tools.len().max(1);
        let has_tool = self.traffic.first_block_has_tool(self.block_seconds);
        let calls_each = (1.0 + further) / (tools as f64 * has_tool);
        let bad_within = |rate: f64, calls: f64| 1.0 - libm::pow(1.0 - rate.clamp(0.0, 1.0), calls);

        let mut arm = TrialArm::default();
        let (mut bad_keys, mut rate_of_all) = (0, 0.0);
        for tool in 0..tools {
            let rate = what.error_rate(stable, tool);
            rate_of_all += rate / tools as f64;
            let first = self.source.binomial(keys, has_tool);
            let bad = self.source.binomial(first, bad_within(rate, calls_each));
            // A key may have bad calls of two tools, and is bad once.
            let again = self
                .source
                .binomial(bad, bad_keys as f64 / keys.max(1) as f64);
            bad_keys += bad - again;
            if let Some(name) = self.tools.get(tool) {
                let later = arrivals.later.get(tool).copied().unwrap_or(0);
                if let Some(side) = self.sides[usize::from(is_candidate)]
                    .fresh_tools
                    .get_mut(tool)
                {
                    *side = side.saturating_sub(first + later);
                }
                if first + later > 0 {
                    let bad = bad + self.source.binomial(later, rate);
                    let own = booked(first + later, bad, bad, latencies, self.source);
                    arm.tools.insert(Arc::clone(name), own);
                }
            }
        }
        let bad_keys = bad_keys.min(keys);
        // Of the bad ones, those that were bad from their first call on.
        let at_first = rate_of_all / bad_within(rate_of_all, 1.0 + further).max(1e-12);
        let endless = self.source.binomial(bad_keys, at_first);
        arm.pooled = booked(keys, bad_keys, endless, latencies, self.source);
        arm
    }

    /// Every other key, by hash.
    fn half(&mut self, pooled: &Trials) -> Trials {
        let bad = self.source.binomial(pooled.bad, 0.5);
        let well = self.source.binomial(pooled.trials - pooled.bad, 0.5);
        Trials {
            trials: bad + well,
            bad,
            callers: bad + well,
            ..Trials::default()
        }
    }

    /// All calls of a version, and those that the fault harmed.
    fn calls(&mut self, is_candidate: bool, expected: f64) -> (Arm, u64) {
        let what = if is_candidate {
            self.what
        } else {
            Degradation::None
        };
        let stable = self.traffic.error_rate;
        let tools = self.tools.len().max(1);
        let latencies = &self.latencies[usize::from(is_candidate)];
        let mut arm = Arm::default();
        let mut harmed = 0;
        for tool in 0..tools {
            let rate = what.error_rate(stable, tool);
            let calls = self.source.poisson(expected / tools as f64);
            let bad = self.source.binomial(calls, rate);
            harmed += match what {
                Degradation::Slower(_) => calls,
                _ => self.source.binomial(bad, 1.0 - stable / rate.max(1e-12)),
            };
            let mut tally = Tally {
                calls,
                bad,
                ..Tally::default()
            };
            if self.latency_of_calls {
                tally.last_byte = latencies.draw_many(calls - bad, 0, self.source);
                tally.first_byte = earlier(&tally.last_byte);
            }
            match self.tools.get(tool) {
                Some(name) => arm.add(name, &tally),
                None => arm.pooled.merge(&tally),
            }
        }
        (arm, harmed)
    }
}

fn booked(
    trials: u64,
    bad: u64,
    endless: u64,
    latencies: &Latencies,
    source: &mut Source,
) -> Trials {
    let last_byte = latencies.draw_many(trials - endless, 0, source);
    Trials {
        trials,
        bad,
        callers: trials,
        unserved: source.binomial(trials, LEFT),
        first_byte: earlier(&last_byte),
        last_byte,
        endless,
    }
}

fn earlier(last_byte: &LogHistogram) -> LogHistogram {
    let mut first_byte = LogHistogram::default();
    for &(bucket, n) in last_byte.buckets() {
        first_byte.add(bucket.saturating_sub(FIRST_BYTE_SHIFT), n);
    }
    first_byte
}
