//! What a core of the data plane remembers of the keys of one step.

use super::{
    NewKey, Part, Report, Scope, Seen, Shown, THINNED_MAX, THINNING_FROM_BIT, is_looked_at,
    scope_hash,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

/// Most scopes a recorder remembers: a key that was assigned is one, and so is each tool it calls. They fit into a table of 131,072
/// places of 13 bytes, which is 1.7 MB, and half of them into one of half the size.
pub const TABLE_MAX: usize = 110_000;
/// Most parts and most new keys that wait to be handed on, some 1 MB: 50,000 new keys a second make 5,000 in 100 ms.
pub const PENDING_MAX: usize = 8_192;
/// Time beyond the length of a block for which a core goes on to hand on what it sees of a key, since the control plane's blocks
/// begin and end by another clock, and its messages take their time.
pub const MARGIN: Duration = Duration::from_secs(1);

/// Steps in which the end of a key's block is remembered: 31 bits of them are more than six years.
const STEP_MS: u64 = 100;
/// Marks a place of the table whose part waits to be handed on; the rest is its index.
const WAITS: u32 = 1 << 31;

/// A call that ended, for the recorder.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The hash of the affinity key.
    pub key: u64,
    /// Whether it was the candidate's.
    pub is_candidate: bool,
    /// The tool's label; none in services that have no tools.
    pub tool: Option<&'a Arc<str>>,
    /// What it shows.
    pub shown: Shown,
    /// When it ended, in milliseconds of a clock that all cores share.
    pub at_ms: u64,
}

/// One core's view of one step of a rollout: it tells young keys from old ones, in bounded memory. `S` hashes hashes.
#[derive(Debug)]
pub struct Recorder<S = RandomState> {
    /// How long calls of a scope are handed on after its first one.
    lasts_ms: u64,
    began_ms: u64,
    thinned: u8,
    /// By hash of key and scope: until when calls of it are handed on, or where its part waits.
    table: HashMap<Slot, u32, S>,
    waiting: Vec<Waiting>,
    keys: Vec<NewKey>,
}

/// A hash in two halves, so that an entry of the table takes 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot([u32; 2]);

impl Slot {
    #[expect(clippy::cast_possible_truncation, reason = "it is cut in two")]
    const fn of(hash: u64) -> Self {
        Self([(hash >> 32) as u32, hash as u32])
    }

    const fn bits(self) -> u64 {
        ((self.0[0] as u64) << 32) | self.0[1] as u64
    }
}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.bits());
    }
}

#[derive(Debug)]
struct Waiting {
    slot: Slot,
    until: u32,
    part: Part,
}

impl<S: BuildHasher + Default> Recorder<S> {
    /// For one step that begins now, with blocks of this length. The clock is that of [`Call::at_ms`].
    pub fn new(block: Duration, now_ms: u64) -> Self {
        let lasts = block.saturating_add(MARGIN).as_millis();
        Self {
            lasts_ms: u64::try_from(lasts).unwrap_or(u64::MAX),
            began_ms: now_ms,
            thinned: 0,
            table: HashMap::default(),
            waiting: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// One in two to the power of this many keys is looked at.
    pub fn thinned(&self) -> u8 {
        self.thinned
    }

    /// The split gave a version to a key.
    pub fn assigned(&mut self, key: u64, is_candidate: bool) {
        if !self.admits(key) {
            return;
        }
        let slot = Slot::of(scope_hash(key, Scope::Assigned));
        if let Entry::Vacant(place) = self.table.entry(slot) {
            place.insert(0);
            self.keys.push(NewKey { key, is_candidate });
        }
    }

    /// A call ended.
    pub fn record(&mut self, call: Call<'_>) {
        if !self.admits(call.key) {
            return;
        }
        let scope = call.tool.map_or(Scope::Pooled, |tool| Scope::Tool(tool));
        let slot = Slot::of(scope_hash(call.key, scope));
        let since_ms = call.at_ms.saturating_sub(self.began_ms);
        let until = match self.table.entry(slot) {
            Entry::Occupied(place) if *place.get() & WAITS != 0 => {
                let at = (*place.get() & !WAITS) as usize;
                if let Some(waiting) = self.waiting.get_mut(at) {
                    waiting.part.seen.merge(&Seen::of(call.shown, call.at_ms));
                }
                return;
            }
            Entry::Occupied(place) if since_ms >= u64::from(*place.get()) * STEP_MS => return,
            Entry::Occupied(mut place) => place.insert(waits_at(self.waiting.len())),
            Entry::Vacant(place) => {
                place.insert(waits_at(self.waiting.len()));
                let until = since_ms.saturating_add(self.lasts_ms).div_ceil(STEP_MS);
                u32::try_from(until).unwrap_or(u32::MAX).min(WAITS - 1)
            }
        };
        self.waiting.push(Waiting {
            slot,
            until,
            part: Part {
                key: call.key,
                tool: call.tool.cloned(),
                is_candidate: call.is_candidate,
                seen: Seen::of(call.shown, call.at_ms),
            },
        });
    }

    /// What was seen since the last time.
    pub fn drain(&mut self) -> Report {
        let mut parts = Vec::with_capacity(self.waiting.len());
        for waiting in self.waiting.drain(..) {
            self.table.insert(waiting.slot, waiting.until);
            parts.push(waiting.part);
        }
        Report {
            thinned: self.thinned,
            keys: std::mem::take(&mut self.keys),
            parts,
        }
    }

    /// Whether a key is looked at, once there is room for another scope.
    fn admits(&mut self, key: u64) -> bool {
        while self.is_full() {
            if self.thinned == THINNED_MAX {
                return false;
            }
            self.thin();
        }
        is_looked_at(key, self.thinned)
    }

    fn is_full(&self) -> bool {
        self.table.len() >= TABLE_MAX
            || self.waiting.len() >= PENDING_MAX
            || self.keys.len() >= PENDING_MAX
    }

    /// Forgets every other key.
    fn thin(&mut self) {
        self.thinned += 1;
        let thinned = self.thinned;
        self.table
            .retain(|slot, _| is_looked_at(slot.bits(), thinned));
        // What was taken out leaves traces, at which the table would grow although it is not full.
        self.table.shrink_to_fit();
        self.keys.retain(|key| is_looked_at(key.key, thinned));
        self.waiting
            .retain(|waiting| is_looked_at(waiting.part.key, thinned));
        for (at, waiting) in self.waiting.iter().enumerate() {
            self.table.insert(waiting.slot, waits_at(at));
        }
    }
}

/// What stands in the table for a part that waits.
fn waits_at(index: usize) -> u32 {
    const { assert!(PENDING_MAX < WAITS as usize && THINNING_FROM_BIT < 64) };
    // Fewer than PENDING_MAX wait.
    u32::try_from(index).unwrap_or_default() | WAITS
}

#[cfg(test)]
impl<S: BuildHasher> Recorder<S> {
    /// The memory it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // A place of the standard library's table has a byte of its own; one place in eight stays empty.
        let places = (self.table.capacity() * 8 / 7).next_power_of_two();
        places * (size_of::<(Slot, u32)>() + 1)
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.keys.capacity() * size_of::<NewKey>()
    }
}
