//! Counting in the judge's unit: the trial.
//!
//! A trial is a key's first full block per tool and step; any bad call in it makes it bad. Requests of one caller fail together,
//! so counting requests gives 20 % false alarms at an alpha of 1 % (judge.md section 3); callers are independent of each other.
//! Later calls of the key feed thresholds only.
//!
//! - A core of the data plane has a [`Recorder`]: it hands on, every 100 ms, what the calls of young keys have shown.
//! - The control plane has a [`Ledger`]: the union over all cores, closed into a [`TrialBlock`] by the clock, never by an outcome.

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
    /// The client went away after a time in this bucket. Bad when that is longer than nearly all calls of stable take,
    /// censored otherwise.
    Left(u16),
}

/// How long a call took, as buckets of a [`LogHistogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Of these, those with a call that the client left.
    pub left: u64,
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
        self.left += other.left;
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
