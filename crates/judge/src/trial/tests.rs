//! Trials from calls to blocks.

use super::*;
use crate::bucket_of;
use proptest::prelude::*;
use std::{collections::BTreeSet, hash::BuildHasherDefault, time::Duration};

const BLOCK: Duration = Duration::from_secs(10);
const SHARE: f64 = 0.1;

/// Hashes of hashes need no hashing; it keeps long tests short.
#[derive(Default)]
struct Plain(u64);

impl std::hash::Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type PlainRecorder = Recorder<BuildHasherDefault<Plain>>;

fn recorder() -> PlainRecorder {
    Recorder::new(BLOCK, 0)
}

/// A key's hash as BLAKE3 would make one.
fn hash_of(key: u64) -> u64 {
    mix(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn took(seconds: f64) -> Shown {
    let bucket = bucket_of(seconds);
    Shown::Well(Some(Latency {
        first_byte: bucket,
        last_byte: bucket,
    }))
}

fn left(seconds: f64) -> Shown {
    Shown::Left(bucket_of(seconds))
}

/// A call as it happened: who, when, with which tool, and what came of it. Every third key has the candidate.
#[derive(Clone, Debug)]
struct Happened {
    at_ms: u64,
    key: u64,
    tool: Option<Arc<str>>,
    shown: Shown,
}

impl Happened {
    fn is_candidate(&self) -> bool {
        self.key.is_multiple_of(3)
    }
}

fn call(at_ms: u64, key: u64, tool: &str, shown: Shown) -> Happened {
    Happened {
        at_ms,
        key,
        tool: (!tool.is_empty()).then(|| tool.into()),
        shown,
    }
}

/// Lets cores record calls, drains them every 100 ms, and closes a block every ten seconds.
fn run(calls: &[Happened], core_of: impl Fn(usize) -> usize, cores: usize) -> Vec<TrialBlock> {
    let mut recorders: Vec<_> = (0..cores).map(|_| recorder()).collect();
    let mut ledger = Ledger::new(1);
    let mut blocks = Vec::new();
    let end_ms = calls.iter().map(|c| c.at_ms).max().unwrap_or_default() + 10_000;
    let mut next = 0;
    for now_ms in (0..=end_ms).step_by(100) {
        while let Some(call) = calls.get(next).filter(|call| call.at_ms < now_ms) {
            let recorder = &mut recorders[core_of(next)];
            recorder.assigned(hash_of(call.key), call.is_candidate());
            recorder.record(Call {
                key: hash_of(call.key),
                is_candidate: call.is_candidate(),
                tool: call.tool.as_ref(),
                shown: call.shown,
                at_ms: call.at_ms,
            });
            next += 1;
        }
        for recorder in &mut recorders {
            ledger.gather(&recorder.drain());
        }
        if now_ms > 0 && now_ms % 10_000 == 0 {
            blocks.push(ledger.close(now_ms as f64 / 1000.0, SHARE, 1, None));
        }
    }
    blocks
}

fn sum(blocks: &[TrialBlock], arm: impl Fn(&TrialBlock) -> Option<&Trials>) -> Trials {
    let mut all = Trials::default();
    for trials in blocks.iter().filter_map(arm) {
        all.merge(trials);
    }
    all
}

fn stable(blocks: &[TrialBlock]) -> Trials {
    sum(blocks, |block| Some(&block.stable.pooled))
}

fn tool(blocks: &[TrialBlock], tool: &str) -> Trials {
    sum(blocks, |block| block.stable.tools.get(tool))
}

/// What trials are, word by word: every key's calls of the first block in which it has any, seen all at once.
fn literally(calls: &[Happened]) -> (Trials, Trials, BTreeMap<Arc<str>, Trials>) {
    let block_of = |call: &Happened| call.at_ms / 10_000;
    let keys: BTreeSet<u64> = calls.iter().map(|call| call.key).collect();
    let trial = |calls: &[&Happened]| {
        let first = calls.iter().map(|call| block_of(call)).min()?;
        let calls = calls.iter().filter(|call| block_of(call) == first);
        let known: Vec<_> = calls
            .clone()
            .filter(|call| !matches!(call.shown, Shown::Left(_)))
            .collect();
        let timed = |call: &&&&Happened| call.shown != Shown::Well(None);
        let slowness = |shown: Shown| match shown {
            Shown::Well(Some(latency)) => latency.last_byte,
            _ => u16::MAX,
        };
        let first = known
            .iter()
            .filter(timed)
            .min_by_key(|call| (call.at_ms, std::cmp::Reverse(slowness(call.shown))));
        let mut trials = Trials {
            trials: u64::from(!known.is_empty()),
            bad: u64::from(known.iter().any(|call| call.shown == Shown::Badly)),
            callers: 1,
            unserved: u64::from(calls.count() > known.len()),
            ..Trials::default()
        };
        match first.map(|call| call.shown) {
            Some(Shown::Well(Some(latency))) => {
                trials.first_byte.add(latency.first_byte, 1);
                trials.last_byte.add(latency.last_byte, 1);
            }
            Some(_) => trials.endless = 1,
            None => {}
        }
        Some(trials)
    };
    let (mut stable, mut candidate, mut tools) =
        <(Trials, Trials, BTreeMap<Arc<str>, Trials>)>::default();
    for key in keys {
        let of_key: Vec<_> = calls.iter().filter(|call| call.key == key).collect();
        let is_candidate = of_key[0].is_candidate();
        let arm = if is_candidate {
            &mut candidate
        } else {
            &mut stable
        };
        arm.merge(&trial(&of_key).unwrap());
        for name in ["add", "find"] {
            let of_tool = |call: &&Happened| call.tool.as_deref() == Some(name);
            let of_tool: Vec<_> = of_key.iter().copied().filter(of_tool).collect();
            if let (false, Some(trials)) = (is_candidate, trial(&of_tool)) {
                tools.entry(name.into()).or_default().merge(&trials);
            }
        }
    }
    (stable, candidate, tools)
}

fn shown() -> impl Strategy<Value = Shown> {
    prop_oneof![
        4 => (0..40_u16).prop_map(|bucket| Shown::Well(Some(Latency { first_byte: bucket, last_byte: bucket + 2 }))),
        1 => Just(Shown::Well(None)),
        1 => Just(Shown::Badly),
        1 => (0..1024_u16).prop_map(Shown::Left),
    ]
}

fn calls() -> impl Strategy<Value = Vec<Happened>> {
    let tool = prop_oneof![Just("add"), Just("find")];
    let call = (0..35_000_u64, 0..40_u64, tool, shown())
        .prop_map(|(at_ms, key, tool, shown)| call(at_ms, key, tool, shown));
    prop::collection::vec(call, 0..150).prop_map(|mut calls| {
        calls.sort_by_key(|call| call.at_ms);
        calls
    })
}

fn seen() -> impl Strategy<Value = Seen> {
    prop::collection::vec((0..4_u64, shown()), 0..4).prop_map(|calls| {
        let mut seen = Seen::default();
        for (at_ms, shown) in calls {
            seen.merge(&Seen::of(shown, at_ms));
        }
        seen
    })
}

fn merged(one: Seen, other: Seen) -> Seen {
    let mut one = one;
    one.merge(&other);
    one
}

proptest! {
    #[test]
    fn what_was_seen_merges_in_any_order_and_any_number_of_times(a in seen(), b in seen(), c in seen()) {
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(merged(a, b), c), merged(a, merged(b, c)));
        prop_assert_eq!(merged(a, a), a);
        prop_assert_eq!(merged(a, Seen::default()), a);
    }

    #[test]
    fn blocks_hold_what_trials_are_by_definition(calls in calls()) {
        let blocks = run(&calls, |_| 0, 1);
        let (stable_all, candidate_all, tools) = literally(&calls);
        // No p99 is known of so few calls, so calls that were left are censored.
        prop_assert_eq!(stable(&blocks), stable_all);
        prop_assert_eq!(sum(&blocks, |block| Some(&block.candidate.pooled)), candidate_all);
        for name in ["add", "find"] {
            prop_assert_eq!(tool(&blocks, name), tools.get(name).cloned().unwrap_or_default());
        }
    }

    #[test]
    fn any_split_over_cores_gives_the_same_blocks(calls in calls(), split in prop::collection::vec(0..3_usize, 150)) {
        prop_assert_eq!(run(&calls, |at| split[at], 3), run(&calls, |_| 0, 1));
    }

    #[test]
    fn reports_may_come_in_any_order_and_twice(
        parts in prop::collection::vec((0..30_u64, prop::option::of(prop_oneof![Just("add"), Just("find")]), seen()), 0..60),
        order in any::<prop::sample::Index>(),
    ) {
        let part = |(key, tool, seen): &(u64, Option<&str>, Seen)| Part {
            key: hash_of(*key),
            tool: tool.map(Arc::from),
            is_candidate: key % 3 == 0,
            seen: *seen,
        };
        let reports: Vec<_> = parts
            .iter()
            .map(|each| Report {
                thinned: 0,
                keys: vec![NewKey { key: hash_of(each.0), is_candidate: each.0 % 3 == 0 }],
                parts: vec![part(each)],
            })
            .collect();
        let close = |reports: &mut dyn Iterator<Item = &Report>| {
            let mut ledger = Ledger::new(1);
            reports.for_each(|report| ledger.gather(report));
            ledger.close(10.0, SHARE, 1, None)
        };
        let at = if reports.is_empty() { 0 } else { order.index(reports.len()) };
        let turned = reports[at..].iter().chain(&reports[..at]).rev();
        prop_assert_eq!(
            close(&mut turned.chain(&reports)),
            close(&mut reports.iter())
        );
    }

    #[test]
    fn a_ledger_restored_from_its_blocks_goes_on_as_before(calls in calls(), cut in 0..4_usize) {
        let whole = run(&calls, |_| 0, 1);
        let cut = cut.min(whole.len());
        let mut restored = Ledger::new(1);
        for block in &whole[..cut] {
            let stored = serde_json::to_string(block).unwrap();
            restored.restore(&serde_json::from_str(&stored).unwrap());
        }
        // The cores have forgotten everything too: they hand on what every later call shows.
        let mut recorder = recorder();
        for (number, block) in whole.iter().enumerate().skip(cut) {
            let of_block = |call: &&Happened| (call.at_ms / 10_000) as usize == number;
            for call in calls.iter().filter(of_block) {
                recorder.assigned(hash_of(call.key), call.is_candidate());
                recorder.record(Call {
                    key: hash_of(call.key),
                    is_candidate: call.is_candidate(),
                    tool: call.tool.as_ref(),
                    shown: call.shown,
                    at_ms: call.at_ms,
                });
            }
            restored.gather(&recorder.drain());
            prop_assert_eq!(&restored.close(block.ended_seconds, SHARE, 1, None), block);
        }
    }

    #[test]
    fn hashes_of_scopes_keep_what_thins(key: u64, name in "[a-z]{1,12}", thinned in 0..=THINNED_MAX) {
        for scope in [Scope::Assigned, Scope::Pooled, Scope::Tool(&name)] {
            prop_assert_eq!(is_looked_at(scope_hash(key, scope), thinned), is_looked_at(key, thinned));
        }
        prop_assert_ne!(scope_hash(key, Scope::Assigned), scope_hash(key, Scope::Pooled));
        prop_assert_ne!(scope_hash(key, Scope::Tool(&name)), scope_hash(key, Scope::Pooled));
    }
}

#[test]
fn the_hash_of_a_scope_is_fixed_for_ever() {
    // A change here would book every trial of every stored block again.
    let hashes =
        [Scope::Assigned, Scope::Pooled, Scope::Tool("add")].map(|scope| scope_hash(7, scope));
    assert_eq!(
        hashes,
        [
            17_798_225_731_206_173_121,
            10_736_581_512_497_892_398,
            17_077_649_791_089_949_438
        ]
    );
}

#[test]
fn a_failure_at_once_and_a_quick_repetition_make_one_bad_and_endless_trial() {
    let calls = [
        call(1_000, 1, "add", Shown::Badly),
        call(1_000, 1, "add", took(0.01)),
        call(1_500, 1, "add", took(0.01)),
    ];
    let trials = tool(&run(&calls, |_| 0, 1), "add");
    let Trials {
        trials,
        bad,
        endless,
        ref last_byte,
        ..
    } = trials;
    assert_eq!((trials, bad, endless, last_byte.count()), (1, 1, 1, 0));
}

#[test]
fn later_calls_of_a_key_change_nothing() {
    let good = [call(9_000, 1, "add", took(0.01))];
    let later = [
        call(10_050, 1, "add", Shown::Badly),
        call(19_000, 1, "add", Shown::Badly),
        call(200_000, 1, "add", Shown::Badly),
    ];
    let all: Vec<_> = good.iter().chain(&later).cloned().collect();
    let (with, without) = (run(&all, |_| 0, 1), run(&good, |_| 0, 1));
    assert_eq!(with[..1], without[..1]);
    assert_eq!(stable(&with), stable(&without));
    assert_eq!(stable(&with).bad, 0);
}

#[test]
fn good_and_bad_trials_are_booked_at_the_end_of_the_block() {
    let mut ledger = Ledger::new(1);
    let mut recorder = recorder();
    let mut gather = |ledger: &mut Ledger, at_ms, key, shown| {
        let tool = Arc::from("add");
        recorder.record(Call {
            key: hash_of(key),
            is_candidate: false,
            tool: Some(&tool),
            shown,
            at_ms,
        });
        ledger.gather(&recorder.drain());
    };
    gather(&mut ledger, 100, 1, Shown::Badly);
    gather(&mut ledger, 200, 2, took(0.1));
    let first = ledger.close(10.0, SHARE, 1, None);
    assert_eq!(
        (first.stable.pooled.trials, first.stable.pooled.bad),
        (2, 1)
    );
    assert_eq!(first.booked.len(), 4, "two keys, each with its tool");
    assert_eq!((first.step, first.tools_listed), (1, 0));
    assert!((first.share - SHARE).abs() < 1e-12 && (first.ended_seconds - 10.0).abs() < 1e-12);
    gather(&mut ledger, 10_500, 2, Shown::Badly);
    let second = ledger.close(20.0, SHARE, 1, None);
    assert_eq!((second.stable.pooled.callers, second.booked.len()), (0, 0));
}

#[test]
fn a_new_step_counts_anew() {
    let tool = Arc::from("add");
    let mut ledger = Ledger::new(1);
    for step in [1, 2] {
        // A step has a recorder of its own.
        let mut recorder = recorder();
        recorder.record(Call {
            key: 5,
            is_candidate: false,
            tool: Some(&tool),
            shown: took(0.1),
            at_ms: 0,
        });
        if ledger.step() != step {
            ledger.begin(step);
        }
        ledger.gather(&recorder.drain());
        assert_eq!(
            ledger.close(10.0, SHARE, step, None).stable.pooled.trials,
            1
        );
    }
    // What is open when a step ends is of that step.
    let mut recorder = recorder();
    recorder.record(Call {
        key: 6,
        is_candidate: false,
        tool: Some(&tool),
        shown: took(0.1),
        at_ms: 0,
    });
    ledger.gather(&recorder.drain());
    assert_eq!(ledger.close(30.0, SHARE, 3, None).stable.pooled.callers, 0);
    assert_eq!(ledger.step(), 3);
}

#[test]
fn services_without_tools_have_pooled_trials_only() {
    let calls = [call(0, 1, "", Shown::Badly), call(50, 2, "", took(0.1))];
    let blocks = run(&calls, |_| 0, 1);
    assert_eq!((stable(&blocks).trials, stable(&blocks).bad), (2, 1));
    assert!(blocks.iter().all(|block| block.stable.tools.is_empty()));
}

#[test]
fn a_key_is_new_once() {
    let calls: Vec<_> = (0..60)
        .map(|n| call(n * 1_000, n % 6, "add", took(0.1)))
        .collect();
    let blocks = run(&calls, |at| at % 2, 2);
    let keys = blocks.iter().map(|block| block.keys);
    let keys = keys.fold((0, 0), |sum, keys| (sum.0 + keys.0, sum.1 + keys.1));
    assert_eq!(keys, (4, 2));
}

#[test]
fn the_mirror_is_half_of_stable() {
    let calls: Vec<_> = (0..3_000)
        .map(|key| call(key, key, "add", took(0.1)))
        .collect();
    let blocks = run(&calls, |_| 0, 1);
    let (all, half) = (stable(&blocks), sum(&blocks, |block| Some(&block.mirror)));
    assert_eq!(all.trials, 2_000);
    assert!((900..1_100).contains(&half.trials), "{}", half.trials);
}

mod left_calls {
    use super::*;

    /// A hundred keys whose calls of a tool take 0.1 s, from `key` on.
    fn hundred(at_ms: u64, key: u64, tool: &str) -> Vec<Happened> {
        // Keys of stable.
        let keys = (key..).filter(|key| key % 3 != 0).take(100);
        keys.map(|key| call(at_ms, key, tool, took(0.1))).collect()
    }

    fn judged(before: Vec<Happened>, then: Happened) -> Trials {
        let known = run(&before, |_| 0, 1).len() as u64;
        assert!(then.at_ms >= (known - 1) * 10_000 || before.is_empty());
        let mut calls = before;
        let first = calls.len();
        calls.push(then);
        let all = run(&calls, |_| 0, 1);
        let mut without = run(&calls[..first], |_| 0, 1);
        without.resize(all.len(), TrialBlock::default());
        let block = all
            .iter()
            .zip(&without)
            .find(|(a, b)| a.stable.pooled != b.stable.pooled);
        block.unwrap().0.stable.pooled.clone()
    }

    #[test]
    fn those_older_than_nearly_all_calls_of_stable_are_bad() {
        let trials = judged(hundred(0, 0, "add"), call(10_100, 10_000, "add", left(5.0)));
        assert_eq!(
            (trials.trials, trials.bad, trials.callers, trials.unserved),
            (1, 1, 1, 1)
        );
        assert_eq!((trials.endless, trials.last_byte.count()), (1, 0));
    }

    #[test]
    fn younger_ones_are_censored() {
        let trials = judged(
            hundred(0, 0, "add"),
            call(10_100, 10_000, "add", left(0.09)),
        );
        assert_eq!(
            (trials.trials, trials.bad, trials.callers, trials.unserved),
            (0, 0, 1, 1)
        );
    }

    #[test]
    fn nothing_is_known_of_fewer_than_a_hundred_calls() {
        let mut few = hundred(0, 0, "add");
        few.pop();
        let trials = judged(few, call(10_100, 10_000, "add", left(4000.0)));
        assert_eq!((trials.trials, trials.bad, trials.unserved), (0, 0, 1));
        let same_block = judged(
            hundred(0, 0, "add"),
            call(9_000, 10_000, "add", left(4000.0)),
        );
        assert_eq!(
            (same_block.trials, same_block.bad, same_block.unserved),
            (100, 0, 1),
            "only earlier blocks count"
        );
    }

    #[test]
    fn a_tool_has_a_p99_of_its_own_or_that_of_all() {
        let slow: Vec<_> = hundred(0, 1_000, "find")
            .into_iter()
            .map(|call| Happened {
                shown: took(30.0),
                ..call
            })
            .collect();
        let known: Vec<_> = hundred(0, 0, "add").into_iter().chain(slow).collect();
        for (tool, bad) in [("add", 1), ("find", 0), ("new", 0)] {
            let trials = judged(known.clone(), call(10_100, 10_000, tool, left(5.0)));
            assert_eq!(trials.bad, bad, "{tool}");
        }
    }

    #[test]
    fn a_repetition_does_not_hide_a_call_that_was_given_up() {
        let mut calls = hundred(0, 0, "add");
        calls.push(call(15_000, 10_000, "add", left(5.0)));
        calls.push(call(15_100, 10_000, "add", took(0.1)));
        calls.push(call(16_000, 10_001, "add", took(0.1)));
        calls.push(call(17_000, 10_001, "add", left(5.0)));
        let block = &run(&calls, |_| 0, 1)[1].stable.pooled;
        assert_eq!((block.trials, block.bad, block.unserved), (2, 2, 2));
        assert_eq!(
            (block.endless, block.last_byte.count()),
            (1, 1),
            "by which call came first"
        );
    }
}

mod bounds {
    use super::*;

    const KEYS_PER_SECOND: u64 = 50_000;
    /// A debug build would take a minute for ten.
    const MINUTES: u64 = if cfg!(debug_assertions) { 2 } else { 10 };

    #[test]
    fn ever_new_keys_are_thinned_and_counting_goes_on() {
        let tool: Arc<str> = "add".into();
        let mut recorder = recorder();
        let mut ledger = Ledger::new(1);
        let (mut key, mut bytes, mut ledger_bytes) = (0_u64, 0, 0);
        for second in 1..=MINUTES * 60 {
            for tenth in 0..10 {
                for _ in 0..KEYS_PER_SECOND / 10 {
                    key += 1;
                    let hash = hash_of(key);
                    recorder.assigned(hash, key % 10 == 0);
                    recorder.record(Call {
                        key: hash,
                        is_candidate: key % 10 == 0,
                        tool: Some(&tool),
                        shown: if key % 100 == 0 {
                            Shown::Badly
                        } else {
                            took(0.1)
                        },
                        at_ms: (second - 1) * 1000 + tenth * 100,
                    });
                }
                bytes = bytes.max(recorder.bytes());
                ledger.gather(&recorder.drain());
                ledger_bytes = ledger_bytes.max(ledger.bytes());
            }
            if second % 10 == 0 {
                let block = ledger.close(second as f64, SHARE, 1, None);
                let looked_at = (10 * KEYS_PER_SECOND) >> block.thinned;
                let pooled = block.stable.pooled.trials + block.candidate.pooled.trials;
                let keys = block.keys.0 + block.keys.1;
                // A block in which the thinning grew has some of its keys under the old one; it may end before it is full.
                let near = |n: u64| {
                    let allowed = 6.0 * (looked_at as f64).sqrt() + 1.0;
                    (n as f64 - looked_at as f64).abs() <= allowed
                };
                assert!(
                    near(pooled) && near(keys),
                    "{second} s: {pooled} trials, {keys} keys of {looked_at}"
                );
                assert_eq!(block.stable.pooled, block.stable.tools["add"]);
            }
        }
        assert!(recorder.thinned() > 0);
        assert!(bytes <= 2_700_000, "{bytes} bytes a core and service");
        assert!(ledger_bytes <= 10_000_000, "{ledger_bytes} bytes a rollout");
    }

    #[test]
    fn a_control_plane_that_lags_behind_costs_keys_and_no_memory() {
        let tool: Arc<str> = "add".into();
        let mut recorder = recorder();
        for key in 0..100_000 {
            recorder.assigned(hash_of(key), false);
            recorder.record(Call {
                key: hash_of(key),
                is_candidate: false,
                tool: Some(&tool),
                shown: took(0.1),
                at_ms: 0,
            });
        }
        assert!(recorder.bytes() <= 2_700_000);
        let report = recorder.drain();
        assert!(report.parts.len() <= PENDING_MAX && report.keys.len() <= PENDING_MAX);
        assert!(
            report
                .parts
                .iter()
                .all(|part| is_looked_at(part.key, report.thinned))
        );
        let want = 100_000_f64 / f64::from(1_u32 << report.thinned);
        assert!((report.parts.len() as f64 - want).abs() < 6.0 * want.sqrt());
    }

    #[test]
    fn what_thins_says_nothing_about_the_mirror_or_the_outcome() {
        // Keys that are left after much thinning: half of them are in the mirror, a tenth in the candidate, as of all.
        let left: Vec<_> = (0..400_000_u64)
            .filter(|key| is_looked_at(hash_of(*key), 4))
            .collect();
        let count = |of: &dyn Fn(u64) -> bool| left.iter().filter(|key| of(**key)).count() as f64;
        let n = left.len() as f64;
        assert!((n - 25_000.0).abs() < 6.0 * 25_000_f64.sqrt());
        assert!((count(&|key| is_mirror(hash_of(key))) - n / 2.0).abs() < 6.0 * (n / 4.0).sqrt());
        assert!((count(&|key| key % 10 == 0) - n / 10.0).abs() < 6.0 * (n * 0.09).sqrt());
    }

    #[test]
    fn a_tool_that_one_version_alone_has_makes_no_pooled_trial() {
        let mut ledger = Ledger::new(1);
        let part = |key: u64, tool: &str, shown| Part {
            key,
            tool: Some(tool.into()),
            is_candidate: true,
            seen: Seen::of(shown, 0),
        };
        ledger.gather(&Report {
            parts: vec![
                part(1, "new", Shown::Badly),
                part(2, "new", Shown::Badly),
                part(2, "old", Shown::Well(None)),
            ],
            ..Report::default()
        });
        let shared = [Arc::from("old")].into();
        let block = ledger.close(10.0, SHARE, 1, Some(&shared));
        assert_eq!(block.tools_listed, 1);
        let pooled = &block.candidate.pooled;
        assert_eq!(
            (pooled.trials, pooled.bad),
            (1, 0),
            "the call of the shared tool alone"
        );
        assert_eq!(
            block.candidate.tools["new"].bad, 2,
            "by itself it is counted"
        );
    }

    #[test]
    fn a_refusal_is_no_error_and_no_time_but_it_is_counted() {
        let mut ledger = Ledger::new(1);
        ledger.gather(&Report {
            parts: vec![Part {
                key: 1,
                tool: None,
                is_candidate: true,
                seen: Seen::of(Shown::Refused, 0),
            }],
            ..Report::default()
        });
        let pooled = ledger.close(10.0, SHARE, 1, None).candidate.pooled;
        assert_eq!((pooled.trials, pooled.bad, pooled.unserved), (1, 0, 1));
        assert!(pooled.last_byte.is_empty() && pooled.endless == 0);
    }

    #[test]
    fn the_ledger_forgets_what_the_most_thinned_core_does_not_see() {
        let tool: Arc<str> = "add".into();
        let part = |key: u64| Part {
            key: hash_of(key),
            tool: Some(tool.clone()),
            is_candidate: false,
            seen: Seen::of(took(0.1), 0),
        };
        let report = |thinned, keys: std::ops::Range<u64>| Report {
            thinned,
            keys: vec![],
            parts: keys
                .map(part)
                .filter(|part| is_looked_at(part.key, thinned))
                .collect(),
        };
        let mut ledger = Ledger::new(1);
        ledger.gather(&report(0, 0..1_000));
        ledger.gather(&report(2, 1_000..2_000));
        ledger.gather(&report(0, 2_000..3_000));
        let block = ledger.close(10.0, SHARE, 1, None);
        let want = (0..3_000)
            .filter(|key| is_looked_at(hash_of(*key), 2))
            .count() as u64;
        assert_eq!((block.thinned, block.stable.pooled.trials), (2, want));
    }
}
