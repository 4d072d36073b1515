//! The buckets of this process, in shards that the cores lock one at a time and for some nanoseconds.

use serin_tenancy::{Limit, Taken};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Two cores seldom meet in one of so many.
const SHARDS: usize = 64;
/// Most buckets of a shard: what a table of 2^14 places holds. All shards together have then some 900,000 buckets in 35 MB.
const SHARD_BUCKETS_MAX: usize = 14_336;
/// Buckets that are left when a shard was full of buckets in use: those that will be full first are forgotten, which gives away the least.
const SHARD_BUCKETS_KEPT: usize = SHARD_BUCKETS_MAX / 8 * 7;
/// Shards that one sweep looks at. At a sweep a second, each is looked at every 16 s.
const SHARDS_A_SWEEP: usize = 4;
/// Places below which a table is not made smaller.
const PLACES_MIN: usize = 1024;

type Table = HashMap<u128, Bucket, BuildHasherDefault<Hashed>>;

/// All of them.
pub(super) struct Buckets {
    shards: Box<[Shard]>,
    next_swept: AtomicUsize,
}

/// In lines of the processor's cache that are no other shard's.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Table>);

/// One bucket. One that is not there is full.
#[derive(Clone, Copy)]
struct Bucket {
    full_at: u64,
    /// Of the limit by which something was taken last.
    depth: u64,
}

impl Bucket {
    /// Its state for a limit, which may have been changed since.
    fn of(self, limit: Limit, now: u64) -> u64 {
        if self.depth == limit.depth() {
            self.full_at
        } else {
            limit.resized(self.full_at, self.depth, now)
        }
    }
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next_swept: AtomicUsize::new(0),
        }
    }

    fn table(&self, key: u128) -> MutexGuard<'_, Table> {
        // The low half places a bucket within its shard.
        let shard = usize::try_from((key >> 64) % SHARDS as u128).unwrap_or_default();
        let Shard(table) = &self.shards[shard];
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, key: u128, limit: Limit, now: u64, count: u32) -> Taken {
        let mut table = self.table(key);
        if let Some(bucket) = table.get_mut(&key) {
            let mut full_at = bucket.of(limit, now);
            let taken = limit.take(&mut full_at, now, count);
            *bucket = Bucket {
                full_at,
                depth: limit.depth(),
            };
            return taken;
        }
        let mut full_at = 0;
        let taken = limit.take(&mut full_at, now, count);
        insert(&mut table, key, limit, full_at, now);
        taken
    }

    /// What [`Buckets::take`] would say.
    pub(super) fn peek(&self, key: u128, limit: Limit, now: u64, count: u32) -> Taken {
        let bucket = self.table(key).get(&key).copied();
        let mut full_at = bucket.map_or(0, |bucket| bucket.of(limit, now));
        limit.take(&mut full_at, now, count)
    }

    pub(super) fn give_back(&self, key: u128, limit: Limit, now: u64, count: u32) {
        if let Some(bucket) = self.table(key).get_mut(&key) {
            bucket.full_at = bucket.of(limit, now);
            bucket.depth = limit.depth();
            limit.give_back(&mut bucket.full_at, count);
        }
    }

    /// Makes a bucket what it is elsewhere.
    pub(super) fn set(&self, key: u128, limit: Limit, now: u64, full_at: u64) {
        let mut table = self.table(key);
        let depth = limit.depth();
        match table.get_mut(&key) {
            Some(bucket) => *bucket = Bucket { full_at, depth },
            None => insert(&mut table, key, limit, full_at, now),
        }
    }

    /// Forgets the full ones of the next shards.
    pub(super) fn sweep(&self, now: u64) {
        for _ in 0..SHARDS_A_SWEEP {
            let next = self.next_swept.fetch_add(1, Relaxed) % SHARDS;
            let Shard(table) = &self.shards[next];
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.retain(|_, bucket| bucket.full_at > now);
            if table.capacity() > PLACES_MIN && table.len() < table.capacity() / 8 {
                table.shrink_to(PLACES_MIN);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = |Shard(table): &Shard| table.lock().unwrap().len();
        self.shards.iter().map(len).sum()
    }
}

fn insert(table: &mut Table, key: u128, limit: Limit, full_at: u64, now: u64) {
    if full_at <= now {
        return;
    }
    if table.len() >= SHARD_BUCKETS_MAX {
        make_room(table, now);
    }
    let depth = limit.depth();
    table.insert(key, Bucket { full_at, depth });
}

/// Forgets the full ones and, if that is not enough, those that will be full first.
fn make_room(table: &mut Table, now: u64) {
    table.retain(|_, bucket| bucket.full_at > now);
    let Some(excess) = table.len().checked_sub(SHARD_BUCKETS_KEPT) else {
        return;
    };
    let mut moments: Vec<u64> = table.values().map(|bucket| bucket.full_at).collect();
    let at = excess.min(moments.len().saturating_sub(1));
    let (_, last, _) = moments.select_nth_unstable(at);
    let last = *last;
    table.retain(|_, bucket| bucket.full_at > last);
}

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "its low half")]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_tenancy::Rate;

    fn limit(rate: &str) -> Limit {
        let rate: Rate = rate.parse().unwrap();
        let burst = rate.count;
        Limit { rate, burst }
    }

    /// Keys of one shard.
    fn key(n: usize) -> u128 {
        n as u128
    }

    #[test]
    fn a_full_table_forgets_who_has_used_least() {
        let (buckets, limit, now) = (Buckets::new(), limit("100/hour"), 1 << 40);
        let heavy = key(usize::MAX);
        assert_eq!(buckets.take(heavy, limit, now, 100).remaining, 0);
        for n in 0..3 * SHARD_BUCKETS_MAX {
            buckets.take(key(n), limit, now, 1);
            assert!(buckets.len() <= SHARD_BUCKETS_MAX);
        }
        assert!(buckets.peek(heavy, limit, now, 1).retry_after.is_some());
    }

    #[test]
    fn full_buckets_are_swept_and_others_stay() {
        let (buckets, limit, now) = (Buckets::new(), limit("60/minute"), 1 << 40);
        for n in 0_u64..1000 {
            buckets.take(u128::from(n) << 64, limit, now, if n < 10 { 30 } else { 1 });
        }
        let sweep = |now| (0..SHARDS / SHARDS_A_SWEEP).for_each(|_| buckets.sweep(now));
        sweep(now);
        assert_eq!(buckets.len(), 1000);
        sweep(now + 2_000_000_000);
        assert_eq!(buckets.len(), 10);
        sweep(now + 31_000_000_000);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn looking_makes_no_bucket() {
        let (buckets, limit, now) = (Buckets::new(), limit("60/minute"), 1 << 40);
        assert_eq!(buckets.peek(key(1), limit, now, 1).remaining, 59);
        buckets.give_back(key(1), limit, now, 1);
        assert!(buckets.take(key(2), limit, now, 61).retry_after.is_some());
        assert_eq!(buckets.len(), 0);
    }
}
