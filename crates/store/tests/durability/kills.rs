//! A real process, killed at 200 random points while it appends to one log.

use std::process::Child;
use std::time::{Duration, Instant};

use serin_store::Log;

use crate::child::{self, BATCH, Said};

const KILLS: u64 = 200;

/// From this run on, another process (this one) keeps the log open: the next
/// writer finds the write-ahead log as the dead one left it, not written back.
const WATCHED_FROM: u64 = KILLS / 2;

/// More than any child gets to do; it ends by itself should its test be gone.
const APPENDS_MAX: u64 = 10_000;

#[test]
fn a_process_killed_at_200_random_points_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut random = SplitMix(0x5e71);
    let mut watcher = None;
    let mut verified = 0;
    let mut epoch = 0;
    let mut in_the_act = 0;
    let mut total = Vec::new();

    for run in 0..KILLS {
        if run == WATCHED_FROM {
            watcher = Some(child::block_on(Log::open(&path)).unwrap());
        }
        let (process, said) = child::start(child::command(&[], &path, run, APPENDS_MAX));
        let heads = kill_at_random(process, said, &mut random);

        let records = child::block_on(async {
            let log = Log::open(&path).await.unwrap();
            let records = child::read_all(&log, verified).await;
            log.close().await;
            records
        });
        let batches = records.len() as u64 / BATCH;
        let acknowledged = heads.len() as u64;
        // Whole batches, in order, none doubled, none of another run.
        assert!(
            child::are_batches(&records, run, 0..batches),
            "run {run}: {records:?}"
        );
        assert!(
            batches >= acknowledged,
            "run {run} lost what it acknowledged"
        );
        assert!(
            batches <= acknowledged + 1,
            "run {run} kept more than one unasked"
        );
        let expected = (1..=acknowledged).map(|n| verified + n * BATCH);
        assert!(heads.into_iter().eq(expected), "run {run}");
        if let Some(first) = records.first() {
            assert!(first.epoch > epoch && records.iter().all(|r| r.epoch == first.epoch));
            epoch = first.epoch;
        }
        verified += records.len() as u64;
        in_the_act += u64::from(batches > acknowledged);
        total.extend(records);
    }

    let log = watcher.unwrap();
    assert_eq!(child::block_on(child::read_all(&log, 0)), total);
    println!("{verified} records over {KILLS} kills, {in_the_act} between commit and answer");
}

/// Lets the child acknowledge a few batches, kills it a moment later, and
/// returns the heads it acknowledged.
fn kill_at_random(
    mut process: Child,
    mut said: impl Iterator<Item = Said>,
    random: &mut SplitMix,
) -> Vec<u64> {
    let mut heads = Vec::new();
    let mut note = |said| match said {
        Said::Acknowledged { batch, head } => {
            assert_eq!(batch, heads.len() as u64);
            heads.push(head);
        }
        other => panic!("{other:?}"),
    };
    let wanted = usize::try_from(random.below(6)).unwrap();
    // None wanted: killed while it starts, opens or recovers the log.
    let delay_us_max = if wanted == 0 { 30_000 } else { 2_000 };
    said.by_ref().take(wanted).for_each(&mut note);
    // Spun, not slept: a sleep would round most moments to the same one.
    let moment = Instant::now() + Duration::from_micros(random.below(delay_us_max));
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
    process.kill().unwrap();
    let status = process.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{status}"
    );
    said.for_each(note);
    heads
}

/// A small seeded generator (Steele, Lea, Flood 2014), so that a failure's
/// delays can be had again.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
