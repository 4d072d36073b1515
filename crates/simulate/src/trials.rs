//! Blocks of trials drawn at random, as the judge in charge takes them.

use crate::{
    Latencies, Source,
    counts::{Block, Stream},
    latency::{Slowdown, Spread},
};
use serin_judge::{
    LogHistogram,
    trial::{TrialArm, TrialBlock, Trials},
};
use std::sync::Arc;

/// The first byte comes after 0.7 of the time of the last: so many buckets earlier.
const FIRST_BYTE_SHIFT: i16 = -16;

/// How far latencies drift up and down over the looks, as the logarithm of a factor, and how slowly: as `simulate_latency.py`.
const DRIFT: f64 = 0.5;
const DRIFT_LOOKS: f64 = 12.0;

/// Buckets of a histogram an octave.
const BUCKETS_AN_OCTAVE: f64 = 32.0;

/// A stream of blocks of trials: what [`Stream`] draws as mere counts, with tools, latencies and calls that were left.
#[derive(Clone, Debug)]
pub struct TrialStream {
    /// How many trials and how many of them are bad.
    pub stream: Stream,
    /// The tools, all called alike. A trial is of one tool.
    pub tools: Vec<Arc<str>>,
    /// The candidate's faults are in the first tool only, where there are any tools.
    pub in_one_tool: bool,
    /// The part of trials with a call that its client left: stable's and the candidate's.
    pub left: (f64, f64),
    /// Whether latencies drift, as they do with the load, on both sides alike.
    pub drifting: bool,
    /// Length of a look in seconds.
    pub look_seconds: f64,
    stable: Latencies,
    candidate: Latencies,
}

impl TrialStream {
    /// Both versions are equally fast, and their clients leave one call in two hundred.
    pub fn new(stream: Stream, tools: u32) -> Self {
        let latencies = Latencies::new(Spread::default(), Slowdown::NONE);
        Self {
            stream,
            tools: names(tools),
            in_one_tool: false,
            left: (0.005, 0.005),
            drifting: false,
            look_seconds: 60.0,
            candidate: latencies.clone(),
            stable: latencies,
        }
    }

    /// The candidate is slower.
    #[must_use]
    pub fn slower(mut self, slowdown: Slowdown) -> Self {
        self.candidate = Latencies::new(Spread::default(), slowdown);
        self
    }

    /// The trials of one look, and their plain counts.
    pub fn draw(&self, look: u32, source: &mut Source) -> (TrialBlock, Block) {
        let (step, share) = self.stream.split.at(look);
        let all = source.poisson(self.stream.trials);
        let candidates = source.binomial(all, share);
        let shift = self.shift(look);
        let rate = |at: f64| move |_tool: usize| at;

        // Stable in two halves: every other key is in the sentinel's.
        let halves = source.binomial(all - candidates, 0.5);
        let stable_rate = self.stream.stable.at(look);
        let stable = |n, source: &mut Source| {
            self.arm(
                n,
                rate(stable_rate),
                self.left.0,
                &self.stable,
                shift,
                source,
            )
        };
        let mirror = stable(halves, source);
        let rest = stable(all - candidates - halves, source);
        let candidate_rate = self.stream.candidate.at(look);
        let candidate = self.arm(
            candidates,
            |tool| {
                if self.in_one_tool && tool > 0 {
                    stable_rate
                } else {
                    candidate_rate
                }
            },
            self.left.1,
            &self.candidate,
            shift,
            source,
        );
        let sentinel = mirror.pooled.clone();
        let stable = merged(mirror, &rest);
        let counts = Block {
            candidate_bad: candidate.pooled.bad,
            candidate: candidate.pooled.trials,
            stable_bad: stable.pooled.bad,
            stable: stable.pooled.trials,
        };
        let block = TrialBlock {
            step,
            ended_seconds: f64::from(look + 1) * self.look_seconds,
            share,
            tools_listed: u32::try_from(self.tools.len()).unwrap_or(u32::MAX),
            keys: (stable.pooled.callers, candidate.pooled.callers),
            stable,
            mirror: sentinel,
            candidate,
            ..TrialBlock::default()
        };
        (block, counts)
    }

    fn shift(&self, look: u32) -> i16 {
        if !self.drifting {
            return 0;
        }
        let octaves = DRIFT * libm::sin(f64::from(look) / DRIFT_LOOKS) / std::f64::consts::LN_2;
        #[expect(clippy::cast_possible_truncation, reason = "a few dozen at most")]
        let shift = libm::round(octaves * BUCKETS_AN_OCTAVE) as i16;
        shift
    }

    fn arm(
        &self,
        trials: u64,
        rate: impl Fn(usize) -> f64,
        left: f64,
        latencies: &Latencies,
        shift: i16,
        source: &mut Source,
    ) -> TrialArm {
        let mut arm = TrialArm::default();
        if self.tools.is_empty() {
            arm.pooled = drawn(trials, rate(0), left, latencies, shift, source);
            return arm;
        }
        let mut rest = trials;
        for (at, tool) in self.tools.iter().enumerate() {
            let own = source.binomial(rest, 1.0 / (self.tools.len() - at) as f64);
            rest -= own;
            if own > 0 {
                let own = drawn(own, rate(at), left, latencies, shift, source);
                arm.pooled.merge(&own);
                arm.tools.insert(Arc::clone(tool), own);
            }
        }
        arm
    }
}

/// `tool-1`, `tool-2` and so on.
pub(crate) fn names(tools: u32) -> Vec<Arc<str>> {
    (1..=tools).map(|n| format!("tool-{n}").into()).collect()
}

/// Trials of one call each.
fn drawn(
    trials: u64,
    rate: f64,
    left: f64,
    latencies: &Latencies,
    shift: i16,
    source: &mut Source,
) -> Trials {
    let bad = source.binomial(trials, rate);
    let well = trials - bad;
    let last_byte = latencies.draw_many(well, shift, source);
    Trials {
        trials,
        bad,
        callers: trials,
        unserved: source.binomial(trials, left),
        first_byte: shifted(&last_byte, FIRST_BYTE_SHIFT),
        last_byte,
        endless: bad,
    }
}

fn shifted(histogram: &LogHistogram, by: i16) -> LogHistogram {
    let mut other = LogHistogram::default();
    for &(bucket, n) in histogram.buckets() {
        other.add(bucket.saturating_add_signed(by), n);
    }
    other
}

fn merged(mut one: TrialArm, other: &TrialArm) -> TrialArm {
    one.pooled.merge(&other.pooled);
    for (tool, trials) in &other.tools {
        one.tools.entry(Arc::clone(tool)).or_default().merge(trials);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Seed,
        counts::{Rate, Split},
    };

    #[test]
    fn blocks_add_up() {
        let stream = Stream {
            looks: 100,
            trials: 300.0,
            split: Split::Ramp,
            stable: Rate::Drifting,
            candidate: Rate::Constant(0.2),
        };
        let trials = TrialStream {
            drifting: true,
            in_one_tool: true,
            ..TrialStream::new(stream, 3)
        };
        let source = &mut Seed::new("trials", "").run(0);
        let mut one = Trials::default();
        let mut all = 0;
        for look in 0..stream.looks {
            let (block, counts) = trials.draw(look, source);
            for arm in [&block.stable, &block.candidate] {
                let mut sum = Trials::default();
                arm.tools.values().for_each(|trials| sum.merge(trials));
                assert_eq!(sum, arm.pooled);
                assert_eq!(sum.last_byte.count() + sum.endless, sum.trials);
                assert_eq!(sum.first_byte.count(), sum.last_byte.count());
            }
            assert!(block.mirror.trials < block.stable.pooled.trials);
            assert_eq!(counts.candidate, block.keys.1);
            all += counts.candidate;
            if let Some(tool) = block.candidate.tools.get("tool-1") {
                one.merge(tool);
            }
        }
        let rate = one.bad as f64 / one.trials as f64;
        assert!((rate - 0.2).abs() < 0.03, "{rate}");
        assert!((one.trials as f64 / all as f64 - 1.0 / 3.0).abs() < 0.03);
    }
}
