//! Counting in the judge's unit: the trial.
//!
//! A trial is a key's first full block per tool and step; any bad call in it makes it bad. Requests of one caller fail together,
//! so counting requests gives 20 % false alarms at an alpha of 1 % (judge.md section 3); callers are independent of each other.
//! Later calls of the key feed thresholds only.
//!
//! - A core of the data plane has a [`Recorder`]: it hands on, every 100 ms, what the calls of young keys have shown.
//! - The control plane has a [`Ledger`]: the union over all cores, closed into a [`TrialBlock`] by the clock, never by an outcome.
//!
//! What has been seen of a key is a [`Seen`], whose [`Seen::merge`] is associative, commutative and idempotent: it does not matter
//! which core carried a call, in which order parts arrive, and whether one arrives twice.
//!
//! Both are bounded by thinning: when a table is full, only keys whose hash lies in one of `2^k` parts are looked at from then on.
//! The hash of a key says nothing about how its calls end, so the keys that are left are a fair sample.

mod ledger;
mod recorder;
#[cfg(test)]
mod tests;

pub use ledger::{BOOKED_MAX, LEDGER_PENDING_MAX, Ledger};
pub use recorder::{Call, MARGIN, PENDING_MAX, Recorder, TABLE_MAX};

use crate::LogHistogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What one call shows of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It went well. Without a latency where the time says nothing about the tool, such as when a person was asked meanwhile.
    Well(Option<Latency>),
    /// The version is to blame. Its latency is endless: failing fast is not fast.
    Badly,
    /// It was refused as the caller's own fault. How long that took says nothing about the tool.
    Refused,
    /// The client went away after a time in this bucket. Bad when that is longer than nearly all calls of stable take,
    /// censored otherwise.
    Left(u16),
}

/// How long a call took, as buckets of a [`LogHistogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Latency {
    /// To the first byte.
    pub first_byte: u16,
    /// To the last byte.
    pub last_byte: u16,
}

/// Trials of one side in one scope, booked in one block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    /// Trials of which something is known: all but those whose every call was censored.
    pub trials: u64,
    /// Of these, those with a bad call.
    pub bad: u64,
    /// All trials, the censored ones too.
    pub callers: u64,
    /// Of these, those with a call that the client left, or that was refused.
    pub unserved: u64,
    /// Seconds to the first byte of the first call of each trial that is not censored and whose time says something.
    pub first_byte: LogHistogram,
    /// Seconds to the last byte of the same calls.
    pub last_byte: LogHistogram,
    /// Trials whose first call was bad: endless in both.
    pub endless: u64,
}

impl Trials {
    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        self.trials += other.trials;
        self.bad += other.bad;
        self.callers += other.callers;
        self.unserved += other.unserved;
        self.first_byte.merge(&other.first_byte);
        self.last_byte.merge(&other.last_byte);
        self.endless += other.endless;
    }
}

/// The trials of one side in one block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialArm {
    /// By key: its first block with any call.
    pub pooled: Trials,
    /// By key and tool.
    pub tools: BTreeMap<Arc<str>, Trials>,
}

/// What one block of the clock has shown. Blocks of ten seconds unless the plan says otherwise, independent of the tick.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialBlock {
    /// The step of the rollout: trials begin anew with each share.
    pub step: u32,
    /// When it ended, in seconds since 1970.
    pub ended_seconds: f64,
    /// The part of the keys that the candidate should get.
    pub share: f64,
    /// How many tools both versions list: over so many the evidence of single tools is averaged.
    pub tools_listed: u32,
    /// Stable's trials.
    pub stable: TrialArm,
    /// Of stable's pooled trials, those of every other key, by hash: what the A/A sentinel compares with the rest.
    pub mirror: Trials,
    /// The candidate's trials.
    pub candidate: TrialArm,
    /// Keys that were assigned for the first time in this step: stable's and the candidate's.
    pub keys: (u64, u64),
    /// One in `2^thinned` keys is looked at: what bounds the memory.
    pub thinned: u8,
    /// What was booked, by hash of key and scope, so that a restart does not book it again.
    pub booked: Vec<u64>,
}

/// The time of a call, from fast to slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Time {
    /// It ended well after this time.
    Took(Latency),
    /// It did not end well.
    Endless,
}

/// What is known of a trial, or of a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A call that its client did not leave was seen.
    pub is_known: bool,
    /// One of them was bad.
    pub is_bad: bool,
    /// One of them was refused.
    pub is_refused: bool,
    /// When the first call ended whose time says something, in milliseconds, and its time. Of several in the same millisecond it
    /// is the slowest: then the order of arrival does not matter, and a quick repetition does not hide a failure.
    pub first: Option<(u64, Time)>,
    /// The oldest call that its client left: the bucket of its age, and when it was left, in milliseconds.
    pub left: Option<(u16, u64)>,
}

impl Seen {
    /// What one call shows that ended, or was left, at `at_ms`.
    pub fn of(shown: Shown, at_ms: u64) -> Self {
        match shown {
            Shown::Well(latency) => Self {
                is_known: true,
                first: latency.map(|latency| (at_ms, Time::Took(latency))),
                ..Self::default()
            },
            Shown::Badly => Self {
                is_known: true,
                is_bad: true,
                first: Some((at_ms, Time::Endless)),
                ..Self::default()
            },
            Shown::Refused => Self {
                is_known: true,
                is_refused: true,
                ..Self::default()
            },
            Shown::Left(age) => Self {
                left: Some((age, at_ms)),
                ..Self::default()
            },
        }
    }

    /// Adds what was seen elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.is_known |= other.is_known;
        self.is_bad |= other.is_bad;
        self.is_refused |= other.is_refused;
        self.first = first_of(self.first, other.first);
        self.left = match (self.left, other.left) {
            (Some(mine), Some(theirs)) if (mine.0, theirs.1) > (theirs.0, mine.1) => Some(mine),
            (mine, theirs) => theirs.or(mine),
        };
    }
}

/// The earlier of two; the slower of two at the same time.
fn first_of(one: Option<(u64, Time)>, other: Option<(u64, Time)>) -> Option<(u64, Time)> {
    match (one, other) {
        (Some(one), Some(other)) if (one.0, other.1) < (other.0, one.1) => Some(one),
        (one, other) => other.or(one),
    }
}

/// What a core saw of one key and tool since it last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The key's hash.
    pub key: u64,
    /// The tool; none in services that have no tools, whose trials are by key alone.
    pub tool: Option<Arc<str>>,
    /// Whether the key has the candidate.
    pub is_candidate: bool,
    /// What its calls have shown.
    pub seen: Seen,
}

/// A key that was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its hash.
    pub key: u64,
    /// Whether it got the candidate.
    pub is_candidate: bool,
}

/// What a core saw since it last said so: all that goes from a [`Recorder`] to a [`Ledger`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One in `2^thinned` keys was looked at.
    pub thinned: u8,
    /// Keys that this core saw assigned for the first time in this step.
    pub keys: Vec<NewKey>,
    /// What calls have shown.
    pub parts: Vec<Part>,
}

impl Report {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.parts.is_empty()
    }
}

/// Thinning looks at the bits of a key's hash from this one on. Hash tables look at the lowest and the highest, the mirror at the
/// highest; assignment looks at another hash.
const THINNING_FROM_BIT: u32 = 32;
/// Most thinning: one in 17 million keys. At 50,000 new keys a second that is reached after more than half a year.
const THINNED_MAX: u8 = 24;

/// Whether a key is looked at.
const fn is_looked_at(key: u64, thinned: u8) -> bool {
    (key >> THINNING_FROM_BIT) & ((1 << thinned) - 1) == 0
}

/// Whether a key of stable is in the half that the A/A sentinel compares with the rest.
const fn is_mirror(key: u64) -> bool {
    key >> 63 == 1
}

/// What happens once to a key.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    /// It is assigned.
    Assigned,
    /// Its first block with any call.
    Pooled,
    /// Its first block with a call of this tool.
    Tool(&'a str),
}

/// A hash of key and scope, the same in every release because it is stored. It keeps the bits by which keys are thinned. The
/// others are 40, so that of 200,000 hashes two are alike in one of fifty full tables; one trial is lost then.
fn scope_hash(key: u64, scope: Scope<'_>) -> u64 {
    const KEPT: u64 = ((1 << THINNED_MAX) - 1) << THINNING_FROM_BIT;
    let scope = match scope {
        Scope::Assigned => 1,
        Scope::Pooled => 2,
        Scope::Tool(name) => hash_of_name(name),
    };
    let mixed = mix(key.wrapping_add(mix(scope)));
    (mixed & !KEPT) | (key & KEPT)
}

/// A hash of a tool's name, eight bytes a step. Names come from servers and not from callers, so nobody makes them collide.
fn hash_of_name(name: &str) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]);
    words.fold(name.len() as u64 + 3, |hash, word| {
        let hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(ODD);
        hash ^ (hash >> 32)
    })
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014).
const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
