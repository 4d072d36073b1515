//! What a pass over 10,000 active cells costs: 100 rollouts of 100 tools each, every one of which has had a few trials on both
//! sides in the block. `cargo run --release -p serin-judge --example cells`.

use serin_judge::{
    LogHistogram,
    sequential::{Aspect, Judge, Settings, Tolerance},
    trial::{TrialArm, TrialBlock, Trials},
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

const JUDGES: usize = 100;
const TOOLS: usize = 100;

/// Enough to warm up, and for some to have seen errors.
const BLOCKS_BEFORE: u64 = 60;
const BLOCKS: u64 = 20;

/// The same numbers at each run: the finaliser of `SplitMix64` over a counter.
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn trials(noise: &mut Noise, n: u64) -> Trials {
    let mut side = Trials::default();
    for _ in 0..n {
        side.trials += 1;
        side.callers += 1;
        if noise.unit() < 0.01 {
            side.bad += 1;
            side.endless += 1;
            continue;
        }
        // Roughly log-normal.
        let z: f64 = (0..6).map(|_| noise.unit() - 0.5).sum();
        let seconds = 0.08 * z.exp();
        let mut one = LogHistogram::default();
        one.record(seconds);
        side.first_byte.merge(&one);
        side.last_byte.merge(&one);
    }
    side
}

fn arm(noise: &mut Noise, names: &[Arc<str>], n: u64) -> TrialArm {
    let mut pooled = Trials::default();
    let mut tools = BTreeMap::new();
    for name in names {
        let tool = trials(noise, n);
        pooled.merge(&tool);
        tools.insert(Arc::clone(name), tool);
    }
    TrialArm { pooled, tools }
}

fn main() {
    let names: Vec<Arc<str>> = (0..TOOLS).map(|i| format!("tool-{i:03}").into()).collect();
    let settings = Settings {
        alpha: 0.01,
        beta: 0.05,
        errors: Tolerance {
            relative: 0.2,
            absolute: 0.002,
        },
        latency_warning: 5,
        latency_critical: 19,
        aspects: vec![
            Aspect::Errors,
            Aspect::Unserved,
            Aspect::FirstByte,
            Aspect::LastByte,
        ],
        horizon_blocks: 1080.0,
        stable_bad_max: 0.2,
    };
    let mut noise = Noise(3);
    let blocks: Vec<TrialBlock> = (0..BLOCKS_BEFORE + BLOCKS)
        .map(|index| TrialBlock {
            step: 1,
            ended_seconds: 10.0 * index as f64,
            share: 0.2,
            tools_listed: u32::try_from(TOOLS).unwrap_or(0),
            stable: arm(&mut noise, &names, 12),
            candidate: arm(&mut noise, &names, 3),
            keys: (1200, 300),
            ..TrialBlock::default()
        })
        .collect();
    let mut judges = vec![Judge::new(settings); JUDGES];
    let (before, measured) = blocks.split_at(usize::try_from(BLOCKS_BEFORE).unwrap_or(0));
    for judge in &mut judges {
        for block in before {
            judge.take(block);
        }
    }
    let pass = |what: &str, began: Instant| {
        let ms = began.elapsed().as_secs_f64() * 1e3 / BLOCKS as f64;
        println!("{what}: {ms:.1} ms a pass of {JUDGES} rollouts of {TOOLS} tools");
    };
    let began = Instant::now();
    for block in measured {
        for judge in &mut judges {
            judge.take(block);
        }
    }
    pass("take", began);
    let began = Instant::now();
    let mut sum = 0.0;
    for _ in measured {
        sum += judges.iter().map(|j| j.proof().worse.log10).sum::<f64>();
    }
    pass("proof", began);
    let began = Instant::now();
    for _ in measured {
        let forecasts = judges.iter().filter_map(Judge::blocks_to_verdict);
        sum += forecasts
            .map(|f| f.safe_blocks.unwrap_or(0) as f64)
            .sum::<f64>();
    }
    pass("forecast", began);
    println!("(sum of all evidence: {sum:.3})");
}
