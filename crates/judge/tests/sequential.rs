//! The judge as a whole: what it says of rollouts that are healthy, faulty, slow, silent or not to be trusted.

use proptest::prelude::*;
use serin_judge::{
    LogHistogram, Scope, Verdict,
    sequential::{Aspect, Distrust, Judge, Proof, Settings, TOOLS_MAX, Tolerance},
    trial::{TrialArm, TrialBlock, Trials},
};
use std::sync::Arc;

fn settings() -> Settings {
    Settings {
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
    }
}

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

    fn below(&mut self, n: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a small number"
        )]
        let index = (self.unit() * n as f64) as usize;
        index
    }

    fn yes(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// Log-normal with a spread of 0.6, near enough.
    fn seconds(&mut self) -> f64 {
        let z: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        0.08 * (0.6 * z).exp()
    }
}

/// How the calls of one side to one tool go.
#[derive(Clone, Copy)]
struct Service {
    bad: f64,
    left: f64,
    slowdown: f64,
}

const HEALTHY: Service = Service {
    bad: 0.01,
    left: 0.005,
    slowdown: 1.0,
};

/// What one trial shows.
fn trial(noise: &mut Noise, service: Service) -> Trials {
    let mut trial = Trials {
        callers: 1,
        ..Trials::default()
    };
    if noise.yes(service.left) {
        trial.unserved = 1;
        return trial;
    }
    trial.trials = 1;
    if noise.yes(service.bad) {
        (trial.bad, trial.endless) = (1, 1);
    } else {
        let seconds = noise.seconds() * service.slowdown;
        trial.first_byte.record(seconds * 0.4);
        trial.last_byte.record(seconds);
    }
    trial
}

/// A service with tools under a rollout.
struct World {
    noise: Noise,
    keys: u32,
    share: f64,
    tools: usize,
    step: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            noise: Noise(seed << 32),
            keys: 60,
            share: 0.2,
            tools: 8,
            step: 1,
        }
    }

    /// A block in which the candidate treats each tool by its number as it is told.
    fn block(&mut self, candidate: impl Fn(usize) -> Service) -> TrialBlock {
        let mut block = TrialBlock {
            step: self.step,
            share: self.share,
            tools_listed: u32::try_from(self.tools).unwrap(),
            ..TrialBlock::default()
        };
        for _ in 0..self.keys {
            let number = self.noise.below(self.tools);
            let is_candidate = self.noise.yes(self.share);
            let service = if is_candidate {
                candidate(number)
            } else {
                HEALTHY
            };
            let one = trial(&mut self.noise, service);
            let side = if is_candidate {
                block.keys.1 += 1;
                &mut block.candidate
            } else {
                block.keys.0 += 1;
                if self.noise.yes(0.5) {
                    block.mirror.merge(&one);
                }
                &mut block.stable
            };
            side.pooled.merge(&one);
            let name: Arc<str> = format!("tool-{number}").into();
            side.tools.entry(name).or_default().merge(&one);
        }
        block
    }

    /// Blocks until the judge says something; how many.
    fn judge(
        &mut self,
        judge: &mut Judge,
        most: usize,
        candidate: impl Fn(usize) -> Service,
    ) -> Option<usize> {
        let before = judge.verdict();
        (1..=most).find(|_| {
            judge.take(&self.block(&candidate));
            judge.verdict() != before
        })
    }
}

#[test]
fn identical_versions_raise_no_alarm() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        let mut judge = Judge::new(settings());
        for block in 0..120 {
            world.step = 1 + block / 40;
            judge.take(&world.block(|_| HEALTHY));
            assert_ne!(judge.verdict(), Verdict::Regression, "seed {seed}");
            assert!(!judge.is_slower(), "seed {seed}");
        }
        let proof = judge.proof();
        assert!(proof.p_value > 0.01 && !proof.regression);
        assert_eq!((proof.distrust, proof.culprit), (None, None));
        assert_eq!(proof.blocks, 40);
    }
}

#[test]
fn a_fault_in_one_tool_of_eight_is_found_and_attributed() {
    for seed in 0..6 {
        let mut world = World::new(seed);
        let mut judge = Judge::new(settings());
        let faulty = |tool| Service {
            bad: if tool == 3 { 0.3 } else { 0.01 },
            ..HEALTHY
        };
        let blocks = world.judge(&mut judge, 150, faulty);
        assert!(blocks.is_some(), "seed {seed}");
        assert_eq!(judge.verdict(), Verdict::Regression);
        let culprit = judge.proof().culprit.unwrap();
        assert_eq!((&*culprit.tool, culprit.aspect), ("tool-3", Aspect::Errors));
        for _ in 0..60 {
            judge.take(&world.block(faulty));
        }
        let proof = judge.proof();
        assert!(proof.culprit.unwrap().proven, "seed {seed}");
        let scopes: Vec<_> = proof.lines.iter().map(|line| &line.scope).collect();
        assert_eq!(scopes[..4], [&Scope::All; 4]);
        assert_eq!(*scopes[4], Scope::Tool("tool-3".into()));
    }
}

#[test]
fn a_candidate_that_its_clients_leave_is_found() {
    let mut world = World::new(1);
    let mut judge = Judge::new(settings());
    let left = |_| Service {
        left: 0.2,
        ..HEALTHY
    };
    assert!(world.judge(&mut judge, 100, left).is_some());
    assert_eq!(judge.verdict(), Verdict::Regression);
}

fn slower(factor: f64) -> impl Fn(usize) -> Service {
    move |_| Service {
        slowdown: factor,
        ..HEALTHY
    }
}

#[test]
fn half_slower_holds_and_twice_as_slow_is_a_regression() {
    for seed in 0..3 {
        let mut world = World::new(seed);
        let mut judge = Judge::new(settings());
        let found = (0..120).any(|_| {
            judge.take(&world.block(slower(1.5)));
            judge.is_slower()
        });
        assert!(found, "seed {seed}");
        assert!(judge.proof().slower.reached());
        assert_eq!(judge.verdict(), Verdict::Continue);
        for _ in 0..60 {
            judge.take(&world.block(slower(1.5)));
        }
        assert_eq!(judge.verdict(), Verdict::Continue, "it is below the edge");

        let mut judge = Judge::new(settings());
        assert!(world.judge(&mut judge, 100, slower(2.0)).is_some());
        assert_eq!(judge.verdict(), Verdict::Regression);
    }
}

#[test]
fn a_slow_tool_is_attributed() {
    let mut world = World::new(7);
    let mut judge = Judge::new(settings());
    let slow = |tool| Service {
        slowdown: if tool == 5 { 4.0 } else { 1.0 },
        ..HEALTHY
    };
    assert!(world.judge(&mut judge, 300, slow).is_some());
    let culprit = judge.proof().culprit.unwrap();
    assert_eq!(
        (&*culprit.tool, culprit.aspect),
        ("tool-5", Aspect::LastByte)
    );
}

/// Errors are not compared here, so latency must see by itself that a call that fails at once is no fast call.
#[test]
fn failing_fast_is_not_fast() {
    let mut world = World::new(2);
    let mut judge = Judge::new(Settings {
        aspects: vec![Aspect::FirstByte, Aspect::LastByte],
        ..settings()
    });
    let failing = |_| Service {
        bad: 0.5,
        slowdown: 0.5,
        ..HEALTHY
    };
    for _ in 0..300 {
        judge.take(&world.block(failing));
        assert_ne!(judge.verdict(), Verdict::Safe);
    }
    assert!(!judge.is_slower(), "nor is it slower: it fails");
}

/// A tolerance for errors holds for the whole judge: what it allows is not called slow.
#[test]
fn failures_within_tolerance_are_no_latency() {
    for seed in 0..6 {
        let mut world = World::new(seed);
        let mut judge = Judge::new(lenient());
        let at_the_limit = |_| Service {
            bad: 0.065,
            ..HEALTHY
        };
        for _ in 0..200 {
            judge.take(&world.block(at_the_limit));
            assert_eq!(judge.verdict(), Verdict::Continue);
            assert!(!judge.is_slower());
        }
    }
}

/// Tolerances so wide that a few hundred trials suffice.
fn lenient() -> Settings {
    Settings {
        errors: Tolerance {
            relative: 0.5,
            absolute: 0.05,
        },
        latency_warning: 13,
        ..settings()
    }
}

#[test]
fn a_healthy_candidate_is_safe_and_the_forecast_says_when() {
    let settings = Settings {
        errors: Tolerance {
            relative: 0.2,
            absolute: 0.01,
        },
        aspects: vec![Aspect::Errors, Aspect::Unserved],
        ..settings()
    };
    let mut ratios = Vec::new();
    for seed in 0..9 {
        let mut world = World::new(seed);
        let mut judge = Judge::new(settings.clone());
        assert_eq!(judge.blocks_to_verdict(), None);
        for _ in 0..30 {
            judge.take(&world.block(|_| HEALTHY));
        }
        assert_eq!(judge.verdict(), Verdict::Continue);
        let forecast = judge.blocks_to_verdict().unwrap();
        assert_eq!(forecast.worse_blocks, None);
        let blocks = world.judge(&mut judge, 1000, |_| HEALTHY).unwrap();
        assert_eq!(judge.verdict(), Verdict::Safe);
        assert_eq!(judge.blocks_to_verdict().unwrap().safe_blocks, Some(0));
        let expected = forecast.safe_blocks.map_or(f64::INFINITY, |n| n as f64);
        ratios.push((30.0 + expected) / (30.0 + blocks as f64));
    }
    ratios.sort_by(f64::total_cmp);
    println!("forecast against what it took: {ratios:.2?}");
    assert!((0.5..2.0).contains(&ratios[4]), "{ratios:.2?}");
}

/// Latency is within tolerance too, and shown to be.
#[test]
fn a_candidate_that_is_as_fast_is_safe() {
    let mut world = World::new(3);
    let mut judge = Judge::new(lenient());
    assert!(world.judge(&mut judge, 400, |_| HEALTHY).is_some());
    assert_eq!(judge.verdict(), Verdict::Safe);
    let proof = judge.proof();
    assert!(proof.safe.reached());
    assert!(
        proof
            .lines
            .iter()
            .take(4)
            .all(|line| line.safe.unwrap().reached())
    );
}

#[test]
fn a_forecast_sees_a_regression_coming() {
    let mut world = World::new(4);
    let mut judge = Judge::new(settings());
    let faulty = |_| Service {
        bad: 0.035,
        ..HEALTHY
    };
    let mut forecast = None;
    let blocks = (1..=400).find(|block| {
        judge.take(&world.block(faulty));
        if *block == 40 {
            forecast = judge.blocks_to_verdict();
        }
        judge.verdict() == Verdict::Regression
    });
    let expected = 40.0 + forecast.unwrap().worse_blocks.unwrap() as f64;
    let blocks = f64::from(blocks.unwrap());
    assert!(
        (0.3..3.0).contains(&(expected / blocks)),
        "{expected} were forecast, it took {blocks}"
    );
}

#[test]
fn safe_begins_anew_with_each_step_and_never_hides_a_regression() {
    let mut world = World::new(5);
    let mut judge = Judge::new(lenient());
    world.judge(&mut judge, 400, |_| HEALTHY).unwrap();
    assert_eq!(judge.verdict(), Verdict::Safe);
    world.step += 1;
    judge.take(&world.block(|_| HEALTHY));
    assert_eq!(judge.verdict(), Verdict::Continue);
    assert_eq!(judge.proof().blocks, 1);
    world.judge(&mut judge, 400, |_| HEALTHY).unwrap();
    assert_eq!(judge.verdict(), Verdict::Safe);

    let faulty = |_| Service {
        bad: 0.5,
        ..HEALTHY
    };
    assert!(world.judge(&mut judge, 50, faulty).is_some());
    assert_eq!(judge.verdict(), Verdict::Regression);
    for block in 0..200 {
        world.step = 2 + block / 50;
        judge.take(&world.block(|_| HEALTHY));
        assert_eq!(judge.verdict(), Verdict::Regression, "it stands for good");
    }
    let proof = judge.proof();
    assert!(proof.regression && proof.p_value <= 0.01);
}

#[test]
fn silence_decides_nothing() {
    let mut judge = Judge::new(lenient());
    for _ in 0..300 {
        judge.take(&TrialBlock::default());
    }
    let proof = judge.proof();
    assert_eq!((proof.trials, proof.blocks), (0, 300));
    assert_eq!(judge.verdict(), Verdict::Continue);

    let mut world = World::new(6);
    for _ in 0..5 {
        judge.take(&world.block(|_| HEALTHY));
    }
    let before = judge.proof();
    assert!(before.trials > 0);
    for _ in 0..2000 {
        let empty = TrialBlock {
            step: world.step,
            share: world.share,
            ..TrialBlock::default()
        };
        judge.take(&empty);
    }
    assert_eq!(judge.verdict(), Verdict::Continue);
    let after = judge.proof();
    assert_eq!((after.safe, after.worse), (before.safe, before.worse));
    assert_eq!(after.trials, before.trials);

    // The candidate alone, or stable alone, is silence too.
    let mut judge = Judge::new(lenient());
    for _ in 0..500 {
        let mut block = world.block(|_| HEALTHY);
        block.keys = (0, 0);
        block.stable = TrialArm::default();
        block.mirror = Trials::default();
        judge.take(&block);
    }
    assert_eq!(judge.verdict(), Verdict::Continue);
    assert_eq!(judge.blocks_to_verdict().unwrap().safe_blocks, None);
}

fn arm(bad: u64, seconds: &[f64]) -> TrialArm {
    let mut last_byte = LogHistogram::default();
    for value in seconds {
        last_byte.record(*value);
    }
    let trials = seconds.len() as u64 + bad;
    TrialArm {
        pooled: Trials {
            trials,
            bad,
            callers: trials,
            first_byte: last_byte.clone(),
            last_byte,
            endless: bad,
            ..Trials::default()
        },
        ..TrialArm::default()
    }
}

/// Three cases that Kayenta is known to have judged PASS (its issues 780, 426 and 799), ten times over each.
#[test]
fn what_kayenta_passed_is_not_safe() {
    let pairs: [(&str, Vec<TrialArm>, Vec<TrialArm>); 3] = [
        (
            "780: seven of ten values at 100, all of stable's at 1",
            [
                1.0, 1.0, 1.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0,
            ]
            .map(|value| arm(0, &[value]))
            .to_vec(),
            vec![arm(0, &[1.0]); 10],
        ),
        (
            "426: a few errors against none",
            [0, 1, 2, 1, 0, 0].map(|bad| arm(bad, &[1.0; 8])).to_vec(),
            vec![arm(0, &[1.0; 8]); 6],
        ),
        (
            "799: no data of stable's",
            vec![arm(0, &[1.0; 100]); 10],
            vec![TrialArm::default(); 10],
        ),
    ];
    for (name, candidate, stable) in pairs {
        for settings in [settings(), lenient()] {
            let mut judge = Judge::new(settings);
            for _ in 0..10 {
                for (candidate, stable) in candidate.iter().zip(&stable) {
                    judge.take(&TrialBlock {
                        step: 1,
                        candidate: candidate.clone(),
                        stable: stable.clone(),
                        ..TrialBlock::default()
                    });
                    assert_ne!(judge.verdict(), Verdict::Safe, "{name}");
                }
            }
            println!("{name}: {:?}", judge.verdict());
        }
    }
}

#[test]
fn a_wrong_share_is_not_trusted_in_its_step() {
    let mut world = World::new(8);
    let mut judge = Judge::new(lenient());
    for _ in 0..100 {
        let mut block = world.block(|_| HEALTHY);
        block.keys.1 *= 2;
        judge.take(&block);
    }
    let proof = judge.proof();
    assert_eq!(proof.distrust, Some(Distrust::SampleRatio));
    assert!(proof.sample_ratio.reached());
    assert_eq!(judge.verdict(), Verdict::Continue);
    assert_eq!(judge.blocks_to_verdict(), None);
    world.step += 1;
    judge.take(&world.block(|_| HEALTHY));
    assert_eq!(judge.proof().distrust, None);
}

#[test]
fn two_halves_of_stable_that_differ_end_all_trust() {
    let mut world = World::new(9);
    let mut judge = Judge::new(lenient());
    for _ in 0..100 {
        let mut block = world.block(|_| HEALTHY);
        // All that is bad, and a little more, lies on one side.
        block.mirror.bad = (block.stable.pooled.bad + 2).min(block.mirror.trials);
        block.stable.pooled.bad += 2;
        judge.take(&block);
    }
    world.step += 1;
    judge.take(&world.block(|_| HEALTHY));
    let proof = judge.proof();
    assert_eq!(proof.distrust, Some(Distrust::Sentinel));
    assert!(proof.sentinel.reached());
    assert_eq!(judge.verdict(), Verdict::Continue);
}

#[test]
fn a_broken_stable_is_no_measure_until_it_recovers() {
    let mut world = World::new(10);
    let mut judge = Judge::new(lenient());
    let failing = |_| Service {
        bad: 0.4,
        ..HEALTHY
    };
    let broken = |world: &mut World| {
        let mut block = world.block(failing);
        let all = block.stable.pooled.trials;
        (block.stable.pooled.bad, block.mirror.bad) = (all / 2, block.mirror.trials / 2);
        block
    };
    for _ in 0..20 {
        let block = broken(&mut world);
        judge.take(&block);
    }
    assert_eq!(judge.proof().distrust, Some(Distrust::StableBroken));
    let before = judge.proof();
    for _ in 0..20 {
        let block = broken(&mut world);
        judge.take(&block);
    }
    let after = judge.proof();
    assert_eq!(after.lines, before.lines, "nothing is compared");
    assert!(after.trials > before.trials, "trials count on");
    assert_ne!(judge.verdict(), Verdict::Regression);
    for _ in 0..40 {
        judge.take(&world.block(|_| HEALTHY));
    }
    assert_eq!(judge.proof().distrust, None);
}

#[test]
fn a_tool_of_one_version_only_is_not_compared() {
    let mut world = World::new(11);
    let mut judge = Judge::new(settings());
    for _ in 0..10 {
        let mut block = world.block(|_| HEALTHY);
        block.stable.tools.remove("tool-0");
        block.candidate.tools.remove("tool-1");
        judge.take(&block);
    }
    let lines = judge.proof().lines;
    for name in ["tool-0", "tool-1"] {
        assert!(lines.iter().all(|l| l.scope != Scope::Tool(name.into())));
    }
}

#[test]
fn the_same_blocks_give_the_same_proof_over_any_restarts() {
    let mut world = World::new(12);
    let mut straight = Judge::new(settings());
    let mut restarted = straight.clone();
    for index in 0..80 {
        world.step = 1 + index / 30;
        let block = world.block(|tool| Service {
            bad: if tool == 2 { 0.1 } else { 0.01 },
            slowdown: 1.2,
            ..HEALTHY
        });
        straight.take(&block);
        restarted.take(&block);
        if index % 7 == 0 {
            let written = serde_json::to_string(&restarted).unwrap();
            restarted = serde_json::from_str(&written).unwrap();
        }
        assert_eq!(straight.proof(), restarted.proof());
        assert_eq!(straight.verdict(), restarted.verdict());
    }
    assert_eq!(straight, restarted);
}

#[test]
fn the_state_is_small() {
    let mut world = World::new(13);
    (world.tools, world.keys) = (100, 600);
    let mut judge = Judge::new(settings());
    for _ in 0..40 {
        judge.take(&world.block(|_| HEALTHY));
    }
    let bytes = serde_json::to_string(&judge).unwrap().len();
    println!("{bytes} bytes for 100 tools");
    assert!(bytes < 5_000 * 100, "{bytes} bytes for 100 tools");
    let proof = serde_json::to_string(&judge.proof()).unwrap().len();
    assert!(proof < 10_000, "{proof} bytes of proof");
}

#[test]
fn names_without_end_do_not_fill_the_memory() {
    let mut judge = Judge::new(settings());
    for block in 0..10 {
        let tools = |side: &Trials| {
            (0..100)
                .map(|tool| (format!("{block}-{tool}").into(), side.clone()))
                .collect()
        };
        let one = arm(0, &[0.1]);
        let side = TrialArm {
            tools: tools(&one.pooled),
            ..one
        };
        judge.take(&TrialBlock {
            step: 1,
            stable: side.clone(),
            candidate: side,
            ..TrialBlock::default()
        });
    }
    let written = serde_json::to_value(&judge).unwrap();
    assert_eq!(written["tools"].as_object().unwrap().len(), TOOLS_MAX);
}

fn any_trials() -> impl Strategy<Value = Trials> {
    let values = prop::collection::vec(0.0..5000.0_f64, 0..20);
    (0..50_u64, 0..50_u64, 0..50_u64, 0..50_u64, values).prop_map(
        |(trials, bad, callers, left, values)| {
            let mut histogram = LogHistogram::default();
            for value in values {
                histogram.record(value);
            }
            Trials {
                trials,
                bad,
                callers,
                unserved: left,
                first_byte: histogram.clone(),
                last_byte: histogram,
                endless: bad,
            }
        },
    )
}

fn any_block() -> impl Strategy<Value = TrialBlock> {
    let arm = || {
        let tools = prop::collection::btree_map("[a-c]".prop_map(Arc::from), any_trials(), 0..3);
        (any_trials(), tools).prop_map(|(pooled, tools)| TrialArm { pooled, tools })
    };
    let share = prop_oneof![Just(0.0), Just(0.2), Just(1.0), Just(f64::NAN)];
    (
        arm(),
        arm(),
        any_trials(),
        0..3_u32,
        share,
        any::<(u32, u32)>(),
    )
        .prop_map(
            |(stable, candidate, mirror, step, share, keys)| TrialBlock {
                step,
                share,
                tools_listed: step,
                stable,
                candidate,
                mirror,
                keys: (u64::from(keys.0), u64::from(keys.1)),
                ..TrialBlock::default()
            },
        )
}

fn is_finite(proof: &Proof) -> bool {
    let lines = proof.lines.iter().flat_map(|line| {
        [Some(line.worse), line.slower, line.safe]
            .into_iter()
            .flatten()
    });
    [
        proof.worse,
        proof.slower,
        proof.safe,
        proof.sample_ratio,
        proof.sentinel,
    ]
    .into_iter()
    .chain(lines)
    .all(|progress| progress.log10.is_finite() && progress.needed.is_finite())
        && proof.p_value.is_finite()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever it is fed, and whatever it is told, its state and its proof can be written down.
    #[test]
    fn all_is_finite(
        blocks in prop::collection::vec(any_block(), 1..12),
        aspects in prop::sample::subsequence(settings().aspects, 0..=4),
        (alpha, beta) in (0.0..=1.0_f64, 0.0..=1.0_f64),
        horizon_blocks in prop_oneof![Just(0.0), Just(f64::NAN), 0.5..1e6_f64],
    ) {
        let mut judge = Judge::new(Settings { aspects, alpha, beta, horizon_blocks: if horizon_blocks.is_nan() { 0.0 } else { horizon_blocks }, ..settings() });
        for block in &blocks {
            judge.take(block);
            prop_assert!(is_finite(&judge.proof()));
            judge.blocks_to_verdict();
            if block.share.is_finite() {
                let written = serde_json::to_string(&judge).unwrap();
                prop_assert_eq!(&judge, &serde_json::from_str::<Judge>(&written).unwrap());
            }
        }
    }
}
