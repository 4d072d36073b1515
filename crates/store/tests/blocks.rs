//! What the blocks promise: stored once, read in order, pruned by time.

use jiff::{SignedDuration, Timestamp};
use serin_store::{BLOCK_BYTES_MAX, BlockKey, Blocks, KEY_BYTES_MAX, Problem};

fn key(rollout: &str, block: u64) -> BlockKey {
    BlockKey {
        rollout: rollout.into(),
        node: "node-a".into(),
        incarnation: "01890000-0000-7000-8000-000000000001".into(),
        block,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

#[tokio::test]
async fn a_block_is_stored_once_however_often_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.db");
    let blocks = Blocks::open(&path).await.unwrap();
    let first = blocks.put(&key("r1", 7), at(0), b"counts").await.unwrap();
    let again = blocks.put(&key("r1", 7), at(0), b"counts").await.unwrap();
    let other = blocks.put(&key("r1", 7), at(9), b"others").await.unwrap();
    assert!(first.is_new && !again.is_new && !other.is_new);
    assert!(again.sequence == first.sequence && other.sequence == first.sequence);
    blocks.close().await;

    let blocks = Blocks::open(&path).await.unwrap();
    let kept = blocks.put(&key("r1", 7), at(0), b"counts").await.unwrap();
    assert!(!kept.is_new && kept.sequence == first.sequence);
    let stored = blocks.read("r1", 0, 10).await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].key, key("r1", 7));
    assert_eq!(stored[0].at, at(0));
    assert_eq!(stored[0].bytes, b"counts");

    // Any part of the key makes another block.
    let mut others = [key("r2", 7), key("r1", 8), key("r1", 7), key("r1", 7)];
    others[2].node = "node-b".into();
    others[3].incarnation = "later".into();
    for other in others {
        assert!(
            blocks.put(&other, at(0), b"counts").await.unwrap().is_new,
            "{other:?}"
        );
    }
    assert_eq!(blocks.read("r1", 0, 10).await.unwrap().len(), 4);
}

#[tokio::test]
async fn reading_pages_through_one_rollout_in_order_of_storing() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = Blocks::open(&folder.path().join("blocks")).await.unwrap();
    // Late blocks come after later ones; other rollouts lie between.
    let order = [3, 1, 2, 9, 4];
    for block in order {
        blocks
            .put(&key("mine", block), at(0), &block.to_le_bytes())
            .await
            .unwrap();
        blocks.put(&key("other", block), at(0), b"").await.unwrap();
    }
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let page = blocks.read("mine", after, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        assert!(last.sequence > after);
        after = last.sequence;
        for block in page {
            assert_eq!(block.bytes, block.key.block.to_le_bytes());
            seen.push(block.key.block);
        }
    }
    assert_eq!(seen, order);
    assert_eq!(blocks.read("none", 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn pruning_takes_the_old_and_their_numbers_stay_used() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = Blocks::open(&folder.path().join("blocks")).await.unwrap();
    for n in 0..4 {
        blocks
            .put(&key("r", n), at(n.cast_signed()), b"x")
            .await
            .unwrap();
    }
    let last = blocks.read("r", 0, 10).await.unwrap()[3].sequence;
    assert_eq!(blocks.prune(at(2)).await.unwrap(), 2);
    let left: Vec<_> = blocks.read("r", 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|b| b.key.block).collect::<Vec<_>>(), [2, 3]);
    let end = at(3) + SignedDuration::from_micros(1);
    assert_eq!(blocks.prune(end).await.unwrap(), 2);
    assert_eq!(blocks.prune(end).await.unwrap(), 0);
    // A reader that stands at `last` must not miss the next block.
    blocks.put(&key("r", 4), at(5), b"x").await.unwrap();
    assert_eq!(blocks.read("r", last, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_and_at_the_limit_it_fits() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = Blocks::open(&folder.path().join("blocks")).await.unwrap();
    let long = |bytes: usize| "k".repeat(bytes);
    let fill = |bytes| BlockKey {
        rollout: long(bytes),
        node: long(bytes),
        incarnation: long(bytes),
        block: u64::MAX >> 1,
    };
    let over = [
        (
            BlockKey {
                rollout: long(KEY_BYTES_MAX + 1),
                ..key("r", 0)
            },
            0,
        ),
        (
            BlockKey {
                node: long(KEY_BYTES_MAX + 1),
                ..key("r", 0)
            },
            0,
        ),
        (
            BlockKey {
                incarnation: long(KEY_BYTES_MAX + 1),
                ..key("r", 0)
            },
            0,
        ),
        (key("r", 0), BLOCK_BYTES_MAX + 1),
    ];
    for (key, bytes) in over {
        let error = blocks.put(&key, at(0), &vec![0; bytes]).await.unwrap_err();
        assert!(matches!(error.problem, Problem::TooLarge(_)), "{error}");
    }
    let key = fill(KEY_BYTES_MAX);
    assert!(
        blocks
            .put(&key, at(0), &vec![7; BLOCK_BYTES_MAX])
            .await
            .unwrap()
            .is_new
    );
    let stored = blocks.read(&key.rollout, 0, 1).await.unwrap();
    assert_eq!(stored[0].key, key);
    assert_eq!(stored[0].bytes.len(), BLOCK_BYTES_MAX);
}

#[tokio::test]
async fn many_at_once_store_each_block_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks");
    let mut puts = Vec::new();
    for _ in 0..4 {
        let blocks = Blocks::open(&path).await.unwrap();
        for block in 0..10 {
            let blocks = blocks.clone();
            puts.push(tokio::spawn(async move {
                blocks.put(&key("r", block), at(0), b"x").await.unwrap()
            }));
        }
    }
    let mut new = 0;
    for put in puts {
        new += u32::from(put.await.unwrap().is_new);
    }
    assert_eq!(new, 10);
    let blocks = Blocks::open(&path).await.unwrap();
    assert_eq!(blocks.read("r", 0, 100).await.unwrap().len(), 10);
}
