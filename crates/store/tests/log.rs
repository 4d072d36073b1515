//! What the log promises: order, all or nothing, one writer, and reading back.

use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;
use serin_store::{
    AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BODY_BYTES_MAX, Log, NAME_BYTES_MAX,
    NewRecord, READ_BYTES_MAX, Record, TooLarge,
};

fn record(n: usize) -> NewRecord {
    NewRecord {
        at: Timestamp::from_nanosecond(1_700_000_000_000_000_001 + n as i128).unwrap(),
        actor: format!("key ops-{n}"),
        kind: "rollout_started".into(),
        version: u16::try_from(n % 7).unwrap(),
        body: format!("{{\"n\": {n}, \"text\": \"ü\\u0000\"}}"),
    }
}

fn records(from: usize, count: usize) -> Vec<NewRecord> {
    (from..from + count).map(record).collect()
}

fn stored(position: u64, epoch: u64, new: NewRecord) -> Record {
    Record {
        position,
        epoch,
        at: new.at,
        actor: new.actor,
        kind: new.kind,
        version: new.version,
        body: new.body,
    }
}

async fn everything(log: &Log) -> Vec<Record> {
    let mut all = Vec::new();
    loop {
        let page = log.read(all.len() as u64, 7).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test]
async fn records_come_back_as_they_were_and_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serin.db");
    let log = Log::open(&path).await.unwrap();
    assert_eq!(log.head().await.unwrap(), 0);
    assert_eq!(log.read(0, 10).await.unwrap(), []);
    let epoch = log.claim_epoch().await.unwrap();
    let mut first = records(0, 3);
    first[1].at = Timestamp::MIN;
    first[2].at = Timestamp::MAX;
    assert_eq!(log.append(0, epoch, &first).await.unwrap(), 3);
    log.close().await;
    assert!(log.head().await.unwrap_err().to_string().contains("closed"));

    let log = Log::open(&path).await.unwrap();
    assert_eq!(log.head().await.unwrap(), 3);
    assert_eq!(*log.subscribe().borrow(), 3);
    let expected: Vec<_> = (1..).zip(first).map(|(at, r)| stored(at, 1, r)).collect();
    assert_eq!(everything(&log).await, expected);
    // The epoch of a closed writer is still the newest.
    assert_eq!(log.append(3, epoch, &records(3, 1)).await.unwrap(), 4);
    assert_eq!(log.claim_epoch().await.unwrap(), 2);
}

#[tokio::test]
async fn a_stale_position_is_a_conflict_and_following_its_advice_helps() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    log.append(0, epoch, &records(0, 2)).await.unwrap();
    for stale in [0, 1, 3, u64::MAX] {
        let error = log.append(stale, epoch, &records(9, 1)).await.unwrap_err();
        assert!(
            matches!(error, AppendError::Conflict { expected, actual: 2 } if expected == stale),
            "{error}"
        );
    }
    let seen = log.read(1, 10).await.unwrap().last().unwrap().position;
    assert_eq!(log.append(seen, epoch, &records(2, 1)).await.unwrap(), 3);
    assert_eq!(everything(&log).await.len(), 3);
}

#[tokio::test]
async fn a_new_epoch_fences_off_the_old_and_unclaimed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (first, second) = (
        Log::open(&path).await.unwrap(),
        Log::open(&path).await.unwrap(),
    );
    let fenced = |result: Result<u64, AppendError>, wanted: (u64, u64)| match result {
        Err(AppendError::Fenced { held, current }) => assert_eq!((held, current), wanted),
        other => panic!("{other:?}"),
    };
    // Nobody has claimed: nobody writes.
    fenced(first.append(0, 0, &records(0, 1)).await, (0, 0));

    let old = first.claim_epoch().await.unwrap();
    first.append(0, old, &records(0, 1)).await.unwrap();
    let new = second.claim_epoch().await.unwrap();
    assert!(new > old);
    // Fenced even where the position would be right, and told so first.
    fenced(first.append(1, old, &records(1, 1)).await, (old, new));
    fenced(first.append(7, old, &records(1, 1)).await, (old, new));
    // An epoch nobody was given.
    fenced(
        second.append(1, new + 1, &records(1, 1)).await,
        (new + 1, new),
    );
    second.append(1, new, &records(1, 1)).await.unwrap();
    let epochs: Vec<_> = everything(&first).await.iter().map(|r| r.epoch).collect();
    assert_eq!(epochs, [old, new]);
}

#[tokio::test]
async fn concurrent_appends_at_one_position_have_one_winner() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let tries: Vec<_> = (0..20)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.append(0, epoch, &records(n, 2)).await })
        })
        .collect();
    let mut winners = 0;
    for attempt in tries {
        match attempt.await.unwrap() {
            Ok(head) => {
                assert_eq!(head, 2);
                winners += 1;
            }
            Err(AppendError::Conflict {
                expected: 0,
                actual: 2,
            }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(everything(&log).await.len(), 2);
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_whole_and_at_the_limit_it_fits() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let with = |change: &dyn Fn(&mut NewRecord)| {
        let mut last = record(1);
        change(&mut last);
        vec![record(0), last]
    };
    let big = |bytes: usize, count: usize| {
        let mut records = records(0, count);
        for record in &mut records {
            record.body = "1".repeat(bytes);
        }
        records
    };
    let fits = BATCH_BYTES_MAX / BODY_BYTES_MAX;
    let table = [
        (
            "records in a batch",
            records(0, BATCH_RECORDS_MAX),
            records(0, BATCH_RECORDS_MAX + 1),
        ),
        (
            "bytes of a body",
            big(BODY_BYTES_MAX, 1),
            big(BODY_BYTES_MAX + 1, 1),
        ),
        (
            "bytes of a batch",
            big(BODY_BYTES_MAX, fits),
            big(BODY_BYTES_MAX, fits + 1),
        ),
        (
            "bytes of an actor",
            with(&|r| r.actor = "a".repeat(NAME_BYTES_MAX)),
            with(&|r| r.actor = "a".repeat(NAME_BYTES_MAX + 1)),
        ),
        (
            "bytes of a kind",
            with(&|r| r.kind = "k".repeat(NAME_BYTES_MAX)),
            with(&|r| r.kind = "k".repeat(NAME_BYTES_MAX + 1)),
        ),
    ];
    let mut head = 0;
    for (name, fitting, over) in table {
        let error = log.append(head, epoch, &over).await.unwrap_err();
        assert!(
            matches!(error, AppendError::TooLarge(TooLarge { what, .. }) if what == name),
            "{error}"
        );
        assert_eq!(log.head().await.unwrap(), head);
        head = log.append(head, epoch, &fitting).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_is_bounded_in_bytes_and_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let mut two = records(0, 2);
    for record in &mut two {
        record.body = "1".repeat(BODY_BYTES_MAX);
    }
    for n in 0..3 {
        log.append(2 * n, epoch, &two).await.unwrap();
    }
    let first = log.read(0, 1000).await.unwrap();
    assert_eq!(first.len(), READ_BYTES_MAX / BODY_BYTES_MAX);
    let rest = log.read(first.len() as u64, 1000).await.unwrap();
    assert_eq!(first.len() + rest.len(), 6);
    assert_eq!(log.read(6, 1000).await.unwrap(), []);
    assert_eq!(log.read(u64::MAX, 1000).await.unwrap(), []);
    assert_eq!(log.read(0, 0).await.unwrap(), []);
}

#[tokio::test]
async fn subscribers_reach_every_head_and_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = Log::open(&path).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let mut early = log.subscribe();
    let follower = tokio::spawn(async move {
        let mut seen = vec![*early.borrow_and_update()];
        while *seen.last().unwrap() < 50 {
            early.changed().await.unwrap();
            seen.push(*early.borrow_and_update());
        }
        seen
    });
    for head in 0..50 {
        log.append(head, epoch, &records(0, 1)).await.unwrap();
        // Level-triggered: the head is there for whoever looks now.
        assert_eq!(*log.subscribe().borrow(), head + 1);
    }
    let seen = follower.await.unwrap();
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");

    // What another handle appends is known once this one has looked.
    let other = Log::open(&path).await.unwrap();
    other.append(50, epoch, &records(0, 1)).await.unwrap();
    let watch = log.subscribe();
    assert_eq!(log.head().await.unwrap(), 51);
    assert_eq!(*watch.borrow(), 51);
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_still_announced() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("log")).await.unwrap();
    let epoch = log.claim_epoch().await.unwrap();
    let mut heads = log.subscribe();
    let batch = records(0, 3);
    {
        // Polled once, so that it has begun, then dropped.
        let append = log.append(0, epoch, &batch);
        tokio::select! {
            biased;
            _ = append => panic!("a sync takes longer than that"),
            () = std::future::ready(()) => {}
        }
    }
    let announced = heads.wait_for(|head| *head == 3);
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, announced)
        .await
        .expect("announced")
        .unwrap();
    assert_eq!(everything(&log).await.len(), 3);
    log.append(3, epoch, &batch).await.unwrap();
}

/// One step of a random life with two handles on one file.
#[derive(Debug, Clone)]
enum Step {
    Append {
        handle: usize,
        behind: u64,
        stale_epoch: bool,
        count: usize,
    },
    Claim {
        handle: usize,
    },
    Read {
        handle: usize,
        after: u64,
        limit: u32,
    },
    Reopen {
        handle: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let handle = 0..2_usize;
    prop_oneof![
        5 => (handle.clone(), prop_oneof![4 => Just(0), 1 => 1..3_u64], prop::bool::weighted(0.1), 0..5_usize)
            .prop_map(|(handle, behind, stale_epoch, count)| Step::Append { handle, behind, stale_epoch, count }),
        2 => handle.clone().prop_map(|handle| Step::Claim { handle }),
        2 => (handle.clone(), 0..20_u64, 0..10_u32)
            .prop_map(|(handle, after, limit)| Step::Read { handle, after, limit }),
        1 => handle.prop_map(|handle| Step::Reopen { handle }),
    ]
}

/// Runs the steps beside a plain vector and requires the same answers.
async fn live(path: &Path, steps: Vec<Step>) {
    let mut handles = [
        Log::open(path).await.unwrap(),
        Log::open(path).await.unwrap(),
    ];
    let mut epochs = [0; 2];
    let mut current = 0;
    let mut model: Vec<Record> = Vec::new();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append {
                handle,
                behind,
                stale_epoch,
                count,
            } => {
                let actual = model.len() as u64;
                let expected = actual.saturating_sub(behind);
                let held = if stale_epoch { 0 } else { epochs[handle] };
                let new = records(n * 10, count);
                let result = handles[handle].append(expected, held, &new).await;
                if held != current || held == 0 {
                    let Err(AppendError::Fenced {
                        held: h,
                        current: c,
                    }) = result
                    else {
                        panic!("{result:?}");
                    };
                    assert_eq!((h, c), (held, current));
                } else if expected != actual {
                    let Err(AppendError::Conflict {
                        expected: e,
                        actual: a,
                    }) = result
                    else {
                        panic!("{result:?}");
                    };
                    assert_eq!((e, a), (expected, actual));
                } else {
                    assert_eq!(result.unwrap(), actual + count as u64);
                    model.extend((actual + 1..).zip(new).map(|(at, r)| stored(at, held, r)));
                }
            }
            Step::Claim { handle } => {
                current += 1;
                assert_eq!(handles[handle].claim_epoch().await.unwrap(), current);
                epochs[handle] = current;
            }
            Step::Read {
                handle,
                after,
                limit,
            } => {
                let read = handles[handle].read(after, limit).await.unwrap();
                let wanted = model
                    .iter()
                    .filter(|r| r.position > after)
                    .take(limit as usize);
                assert!(read.iter().eq(wanted));
            }
            Step::Reopen { handle } => {
                handles[handle].close().await;
                handles[handle] = Log::open(path).await.unwrap();
            }
        }
        assert_eq!(handles[0].head().await.unwrap(), model.len() as u64);
    }
    assert_eq!(everything(&handles[1]).await, model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn two_handles_behave_as_one_vector(steps in prop::collection::vec(step(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(live(&folder.path().join("log"), steps));
    }
}
