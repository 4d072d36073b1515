//! The union of what all cores saw, closed into blocks by the clock.

use super::{
    Report, Scope, Seen, THINNED_MAX, Time, TrialArm, TrialBlock, Trials, first_of, is_looked_at,
    is_mirror, scope_hash,
};
use crate::LogHistogram;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map, hash_map},
    sync::Arc,
};

/// Most scopes that are remembered as booked, beside those of the block under way: a table of 2.4 MB.
pub const BOOKED_MAX: usize = 220_000;
/// Most trials, and most new keys, of the block under way: some 7 MB while there are so many.
pub const LEDGER_PENDING_MAX: usize = 55_000;

/// The quantile of stable's calls beyond which a call that its client left counts as bad.
const LEFT_QUANTILE: f64 = 0.99;
/// Fewest values of which that quantile is known: below, it would be the slowest of a few.
const LEFT_VALUES_MIN: u64 = 100;

/// The trials of one rollout: those of the block under way, and which there have been in this step.
///
/// Its contents follow from the parts it was given and the blocks it was closed into or restored from, in whatever order parts
/// came. What is not in a closed block is lost with the process.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    step: u32,
    thinned: u8,
    booked: HashSet<u64>,
    pending: HashMap<u64, Pending>,
    /// New keys of this block: whether they got the candidate.
    keys: HashMap<u64, bool>,
    stable: Durations,
}

#[derive(Clone, Debug)]
struct Pending {
    key: u64,
    tool: Option<Arc<str>>,
    is_candidate: bool,
    seen: Seen,
}

/// How long stable's calls took in earlier blocks, to the last byte.
#[derive(Clone, Debug, Default)]
struct Durations {
    pooled: LogHistogram,
    tools: BTreeMap<Arc<str>, LogHistogram>,
}

impl Durations {
    fn add(&mut self, stable: &TrialArm) {
        self.pooled.merge(&stable.pooled.last_byte);
        for (tool, trials) in &stable.tools {
            let known = match self.tools.entry(Arc::clone(tool)) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(place) => place.insert(LogHistogram::default()),
            };
            known.merge(&trials.last_byte);
        }
    }

    /// The bucket in which stable's p99 lies: the tool's own, else that of all calls, as far as one is known.
    fn longest(&self, tool: Option<&str>) -> Option<u16> {
        let own = tool.and_then(|tool| self.tools.get(tool));
        [own, Some(&self.pooled)]
            .into_iter()
            .flatten()
            .find(|durations| durations.count() >= LEFT_VALUES_MIN)
            .and_then(quantile_bucket)
    }
}

/// The bucket in which [`LEFT_QUANTILE`] lies.
fn quantile_bucket(values: &LogHistogram) -> Option<u16> {
    let rank = (LEFT_QUANTILE * values.count() as f64).ceil();
    let mut seen = 0;
    let mut buckets = values.buckets().iter();
    buckets.find_map(|(bucket, n)| {
        seen += n;
        (seen as f64 >= rank).then_some(*bucket)
    })
}

/// A trial at the end of its block: it is known by now what its left calls mean.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    is_known: bool,
    is_bad: bool,
    is_unserved: bool,
    first: Option<(u64, Time)>,
}

impl Trial {
    /// Calls left that are older than `longest` are bad, the others are censored, as are all where nothing is known.
    fn of(seen: &Seen, longest: Option<u16>) -> Self {
        let waited_in_vain = seen
            .left
            .filter(|(age, _)| longest.is_some_and(|longest| *age > longest));
        let endless = waited_in_vain.map(|(_, at_ms)| (at_ms, Time::Endless));
        Self {
            is_known: seen.is_known || waited_in_vain.is_some(),
            is_bad: seen.is_bad || waited_in_vain.is_some(),
            is_unserved: seen.left.is_some() || seen.is_refused,
            first: first_of(seen.first, endless),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.is_known |= other.is_known;
        self.is_bad |= other.is_bad;
        self.is_unserved |= other.is_unserved;
        self.first = first_of(self.first, other.first);
    }
}

impl Trials {
    fn book(&mut self, trial: &Trial) {
        self.callers += 1;
        self.unserved += u64::from(trial.is_unserved);
        self.trials += u64::from(trial.is_known);
        self.bad += u64::from(trial.is_bad);
        match trial.first {
            Some((_, Time::Took(latency))) => {
                self.first_byte.add(latency.first_byte, 1);
                self.last_byte.add(latency.last_byte, 1);
            }
            Some((_, Time::Endless)) => self.endless += 1,
            None => {}
        }
    }
}

impl TrialBlock {
    fn arm(&mut self, is_candidate: bool) -> &mut TrialArm {
        if is_candidate {
            &mut self.candidate
        } else {
            &mut self.stable
        }
    }
}

impl Ledger {
    /// An empty one for a step.
    pub fn new(step: u32) -> Self {
        Self {
            step,
            ..Self::default()
        }
    }

    /// The step whose trials it keeps.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Another step begins: everything is forgotten, because everyone counts anew.
    pub fn begin(&mut self, step: u32) {
        *self = Self::new(step);
    }

    /// Takes what a core saw in this step. It is for the caller to drop what was seen in another step or rollout.
    pub fn gather(&mut self, report: &Report) {
        self.thin_to(report.thinned);
        for new in &report.keys {
            let is_booked = |ledger: &Self| {
                let scope = scope_hash(new.key, Scope::Assigned);
                ledger.booked.contains(&scope)
            };
            if is_looked_at(new.key, self.thinned) && !is_booked(self) && self.has_room() {
                *self.keys.entry(new.key).or_default() |= new.is_candidate;
            }
        }
        for part in &report.parts {
            let scope = part.tool.as_ref().map_or(Scope::Pooled, |t| Scope::Tool(t));
            let scope = scope_hash(part.key, scope);
            let is_new = !self.booked.contains(&scope);
            if !(is_looked_at(part.key, self.thinned) && is_new && self.has_room()) {
                continue;
            }
            match self.pending.entry(scope) {
                hash_map::Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.is_candidate |= part.is_candidate;
                    known.seen.merge(&part.seen);
                }
                hash_map::Entry::Vacant(place) => {
                    place.insert(Pending {
                        key: part.key,
                        tool: part.tool.clone(),
                        is_candidate: part.is_candidate,
                        seen: part.seen,
                    });
                    self.keep_bounds();
                }
            }
        }
        self.keep_bounds();
    }

    /// New keys of the block under way: stable's and the candidate's.
    pub fn new_keys(&self) -> (u64, u64) {
        let candidate = self.keys.values().filter(|candidate| **candidate).count() as u64;
        (self.keys.len() as u64 - candidate, candidate)
    }

    /// Ends the block under way: all of its trials are booked, good and bad alike. `step` is the one that is under way; if it is
    /// another one than the ledger's, that one begins, and the block is empty. `share` is as in the block. `shared` are the tools that
    /// both versions have, if that is known: a call of another one makes no pooled trial, for nothing of stable's could be compared
    /// with it.
    pub fn close(
        &mut self,
        ended_seconds: f64,
        share: f64,
        step: u32,
        shared: Option<&BTreeSet<Arc<str>>>,
    ) -> TrialBlock {
        if step != self.step {
            self.begin(step);
        }
        let mut block = TrialBlock {
            step,
            ended_seconds,
            share,
            tools_listed: shared.map_or(0, |tools| u32::try_from(tools.len()).unwrap_or(u32::MAX)),
            thinned: self.thinned,
            ..TrialBlock::default()
        };
        let mut pooled = HashMap::<u64, (bool, Trial)>::new();
        for (scope, pending) in std::mem::take(&mut self.pending) {
            let longest = self.stable.longest(pending.tool.as_deref());
            let trial = Trial::of(&pending.seen, longest);
            let is_shared = match (&pending.tool, shared) {
                (Some(tool), Some(shared)) => shared.contains(tool),
                _ => true,
            };
            if let Some(tool) = pending.tool {
                let tools = &mut block.arm(pending.is_candidate).tools;
                tools.entry(tool).or_default().book(&trial);
                block.booked.push(scope);
            }
            let scope = scope_hash(pending.key, Scope::Pooled);
            if is_shared && !self.booked.contains(&scope) {
                let (is_candidate, sum) = pooled.entry(pending.key).or_default();
                *is_candidate |= pending.is_candidate;
                sum.merge(&trial);
            }
        }
        for (key, (is_candidate, trial)) in pooled {
            block.booked.push(scope_hash(key, Scope::Pooled));
            block.arm(is_candidate).pooled.book(&trial);
            if !is_candidate && is_mirror(key) {
                block.mirror.book(&trial);
            }
        }
        for (key, is_candidate) in std::mem::take(&mut self.keys) {
            block.booked.push(scope_hash(key, Scope::Assigned));
            let (stable, candidate) = &mut block.keys;
            *(if is_candidate { candidate } else { stable }) += 1;
        }
        // What is stored does not depend on the order of a table.
        block.booked.sort_unstable();
        self.fold(&block);
        block
    }

    /// Takes a block that was closed before a restart. A block of another step begins that step.
    pub fn restore(&mut self, block: &TrialBlock) {
        if block.step != self.step {
            self.begin(block.step);
        }
        self.thin_to(block.thinned);
        self.fold(block);
    }

    /// Remembers what was booked.
    fn fold(&mut self, block: &TrialBlock) {
        self.booked.extend(&block.booked);
        self.stable.add(&block.stable);
        self.keep_bounds();
    }

    fn has_room(&self) -> bool {
        self.booked.len() <= BOOKED_MAX
            && self.pending.len() <= LEDGER_PENDING_MAX
            && self.keys.len() <= LEDGER_PENDING_MAX
    }

    fn keep_bounds(&mut self) {
        while !self.has_room() && self.thinned < THINNED_MAX {
            self.thin_to(self.thinned + 1);
        }
    }

    /// Forgets all keys but one in `2^thinned`.
    fn thin_to(&mut self, thinned: u8) {
        let thinned = thinned.min(THINNED_MAX);
        if thinned <= self.thinned {
            return;
        }
        self.thinned = thinned;
        self.booked.retain(|scope| is_looked_at(*scope, thinned));
        self.pending
            .retain(|_, pending| is_looked_at(pending.key, thinned));
        self.keys.retain(|key, _| is_looked_at(*key, thinned));
        // What was taken out leaves traces, at which a table would grow although it is not full.
        self.booked.shrink_to_fit();
        self.pending.shrink_to_fit();
        self.keys.shrink_to_fit();
    }
}

#[cfg(test)]
impl Ledger {
    /// The memory it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let places = |capacity: usize| (capacity * 8 / 7).next_power_of_two();
        places(self.booked.capacity()) * (size_of::<u64>() + 1)
            + places(self.pending.capacity()) * (size_of::<(u64, Pending)>() + 1)
            + places(self.keys.capacity()) * (size_of::<(u64, bool)>() + 1)
    }
}
