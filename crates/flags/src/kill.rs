//! Kills: what is stopped, by whom and why, and the latch by which that is asked on the way of every request.
//!
//! The book holds one record a target. Of two records the higher generation wins, and a tie means killed, so that books from the
//! kill file, the log and other nodes can be merged in any order.

mod latch;
mod target;
#[cfg(test)]
mod tests;

pub use latch::{Latch, Stop};
pub use target::{TARGET_NAME_BYTES_MAX, Target, TargetError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Longest reason of a kill, in characters.
pub const REASON_CHARS_MAX: usize = 500;
/// Longest name of who kills, in characters.
pub const ACTOR_CHARS_MAX: usize = 100;
/// Records that a book holds: so many targets at once are no longer single faults, and a service or the system is killed in their
/// place. Revived ones make room; kills of the system, an environment or all flags need none.
pub const RECORDS_MAX: usize = 1000;
/// Longest time that calls in flight may go on for after a kill, in seconds: an hour.
pub const GRACE_SECONDS_MAX: u32 = 3600;

/// What kill switches kill again so soon after it came back by itself has not recovered: its attempts count on.
pub const RELAPSE: SignedDuration = SignedDuration::from_hours(1);

/// How urgent a kill is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// P3.
    Low,
    /// P2.
    #[default]
    Medium,
    /// P1.
    High,
    /// P0.
    Critical,
}

/// Who pulled it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A person or program, through the admin API.
    Manual,
    /// Somebody on the machine, past the admin API.
    BreakGlass,
    /// A kill switch of this name, by its trigger.
    Switch(Arc<str>),
}

/// Where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Stopped.
    Killed,
    /// Lets one call in so many through, to see whether it works again. At least 1.
    Probing {
        /// One in so many.
        one_in: u32,
    },
    /// As if nothing had been.
    Revived,
}

/// The record of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// What is stopped.
    pub target: Target,
    /// Counts up with every change in the book: the revision that whoever revives must have seen.
    pub generation: u64,
    /// Where it is.
    pub position: Position,
    /// When it came there.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Who pulled it.
    pub cause: Cause,
    /// How urgent.
    #[serde(default)]
    pub priority: Priority,
    /// Calls in flight may go on for so long, in seconds.
    #[serde(default)]
    pub grace_seconds: u32,
    /// How often it was tried to recover by itself.
    #[serde(default)]
    pub attempts: u32,
}

impl Kill {
    /// Whether it stops something, if not everything.
    pub fn is_active(&self) -> bool {
        self.position != Position::Revived
    }

    /// What decides between two records of a target. The generation does, then what stops more; the rest only makes the choice the
    /// same in whatever order they come.
    fn rank(&self) -> impl PartialOrd + '_ {
        let stops = match self.position {
            Position::Killed => (2, 0),
            Position::Probing { one_in } => (1, one_in),
            Position::Revived => (0, 0),
        };
        let how = (self.priority, self.grace_seconds, self.attempts);
        let whose = (&self.cause, self.actor.as_str(), self.reason.as_str());
        (self.generation, stops, self.at, how, whose)
    }
}

/// The wish that something be killed.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// What.
    pub target: Target,
    /// By whom. Needed.
    pub actor: String,
    /// Why. Needed.
    pub reason: String,
    /// Who pulls it.
    pub cause: Cause,
    /// How urgent.
    pub priority: Priority,
    /// Calls in flight may go on for so long, in seconds.
    pub grace_seconds: u32,
}

/// The wish that something killed be revived.
#[derive(Clone, Debug, PartialEq)]
pub struct Revival {
    /// What.
    pub target: Target,
    /// The generation of the record that whoever asks has seen.
    pub seen: u64,
    /// By whom. Needed.
    pub actor: String,
    /// Why. Needed.
    pub reason: String,
    /// Who revives: a kill switch revives only what it killed itself.
    pub cause: Cause,
}

/// Why a book stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// Nobody says who it is.
    #[error("a kill and a revival need somebody who answers for them")]
    NoActor,
    /// Nobody says why.
    #[error("`{0}` needs a reason")]
    NoReason(Target),
    /// A reason that is too long.
    #[error("the reason has {0} characters")]
    LongReason(usize),
    /// A name that is too long.
    #[error("the name of who acts has {0} characters")]
    LongActor(usize),
    /// A grace that is too long.
    #[error("a grace of {0} seconds")]
    LongGrace(u32),
    /// As many targets are killed as a book holds.
    #[error("{RECORDS_MAX} targets are killed already")]
    Full,
    /// It is not killed.
    #[error("`{0}` is not killed")]
    NotKilled(Target),
    /// It was changed since.
    #[error("the kill of `{target}` is at revision {now}, not {seen}")]
    Stale {
        /// What.
        target: Target,
        /// The revision that was seen.
        seen: u64,
        /// The revision that it has.
        now: u64,
    },
    /// It was killed by a person, or by another switch.
    #[error("`{target}` was killed by {actor}, which this switch may not change")]
    NotOurs {
        /// What.
        target: Target,
        /// By whom.
        actor: String,
    },
}

impl KillError {
    /// What to do.
    pub fn help(&self) -> String {
        match self {
            Self::NoActor => "name who acts".to_owned(),
            Self::NoReason(_) => "add `--reason \"...\"`: whoever looks at it at night needs it".to_owned(),
            Self::LongReason(_) => format!("say it in at most {REASON_CHARS_MAX}"),
            Self::LongActor(_) => format!("use at most {ACTOR_CHARS_MAX}"),
            Self::LongGrace(_) => format!("allow at most {GRACE_SECONDS_MAX}, or 0 for none"),
            Self::Full => "kill a service, an environment, all flags or the system in their place, or revive some".to_owned(),
            Self::NotKilled(_) => "`serin kills` shows what is".to_owned(),
            Self::Stale { target, .. } => {
                format!("look at it with `serin kills`, and revive {target} with the revision it shows")
            }
            Self::NotOurs { target, .. } => format!("revive it by hand: `serin revive {target}`"),
        }
    }

    /// Whether the wish itself is wrong, not only at odds with the book.
    pub const fn is_invalid(&self) -> bool {
        matches!(
            self,
            Self::NoActor
                | Self::NoReason(_)
                | Self::LongReason(_)
                | Self::LongActor(_)
                | Self::LongGrace(_)
        )
    }
}

/// The book of kills: the last record of each target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kills {
    records: BTreeMap<Target, Kill>,
}

impl Kills {
    /// The record of a target.
    pub fn get(&self, target: &Target) -> Option<&Kill> {
        self.records.get(target)
    }

    /// The records, in the order of their targets.
    pub fn iter(&self) -> impl Iterator<Item = &Kill> {
        self.records.values()
    }

    /// Those that stop something now.
    pub fn active(&self) -> impl Iterator<Item = &Kill> {
        self.iter().filter(|kill| kill.is_active())
    }

    /// The highest generation so far.
    pub fn generation(&self) -> u64 {
        self.iter().map(|kill| kill.generation).max().unwrap_or(0)
    }

    /// Takes a record if it is newer than the one there is: the higher generation wins, and a tie means killed. Whether it was taken.
    pub fn take(&mut self, kill: Kill) -> bool {
        let before = self.records.get(&kill.target);
        let is_newer = before.is_none_or(|before| kill.rank() > before.rank());
        if is_newer {
            self.records.insert(kill.target.clone(), kill);
        }
        is_newer
    }

    /// Takes all records of another book that are newer. Whether any was.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut taken = false;
        for kill in other.iter() {
            taken |= self.take(kill.clone());
        }
        taken
    }

    /// The record by which a wish comes true, for [`take`](Self::take). None where a kill switch wants what a person has done already:
    /// an automatic kill never takes the place of one that only a person may revive.
    pub fn kill(&self, wish: Wish, at: Timestamp) -> Result<Option<Kill>, KillError> {
        check_words(&wish.target, &wish.actor, &wish.reason)?;
        if wish.grace_seconds > GRACE_SECONDS_MAX {
            return Err(KillError::LongGrace(wish.grace_seconds));
        }
        let before = self.get(&wish.target);
        let active = before.filter(|before| before.is_active());
        if let (Some(active), Cause::Switch(switch)) = (active, &wish.cause)
            && active.position == Position::Killed
            && !is_of(active, switch)
        {
            return Ok(None);
        }
        let needs_room = before.is_none() && !wish.target.is_broad();
        if needs_room && self.records.len() >= RECORDS_MAX && self.oldest_revived().is_none() {
            return Err(KillError::Full);
        }
        // Whoever revived it by hand has set its attempts to 0. Two switches of one target that take turns use up the same ones.
        let by_switch = |cause: &Cause| matches!(cause, Cause::Switch(_));
        let relapsed = before.filter(|before| {
            by_switch(&before.cause)
                && by_switch(&wish.cause)
                && at.duration_since(before.at) < RELAPSE
        });
        let attempts = relapsed.map_or(0, |before| before.attempts);
        Ok(Some(Kill {
            target: wish.target,
            generation: self.generation() + 1,
            position: Position::Killed,
            at,
            actor: line(&wish.actor),
            reason: line(&wish.reason),
            cause: wish.cause,
            priority: wish.priority,
            grace_seconds: wish.grace_seconds,
            attempts,
        }))
    }

    /// The record by which something is revived, for [`take`](Self::take) once the log has it.
    pub fn revive(&self, wish: Revival, at: Timestamp) -> Result<Kill, KillError> {
        check_words(&wish.target, &wish.actor, &wish.reason)?;
        let active = self.get(&wish.target).filter(|kill| kill.is_active());
        let Some(active) = active else {
            return Err(KillError::NotKilled(wish.target));
        };
        if active.generation != wish.seen {
            return Err(KillError::Stale {
                target: wish.target,
                seen: wish.seen,
                now: active.generation,
            });
        }
        refuse_others(active, &wish.cause)?;
        let by_itself = matches!(wish.cause, Cause::Switch(_));
        Ok(Kill {
            generation: self.generation() + 1,
            position: Position::Revived,
            attempts: if by_itself { active.attempts } else { 0 },
            at,
            actor: line(&wish.actor),
            reason: line(&wish.reason),
            ..active.clone()
        })
    }

    /// The record by which a kill switch moves what it killed itself: to probing, or back to killed.
    pub fn shift(
        &self,
        target: &Target,
        switch: &Arc<str>,
        (position, attempts): (Position, u32),
        reason: String,
        at: Timestamp,
    ) -> Result<Kill, KillError> {
        let active = self.get(target).filter(|kill| kill.is_active());
        let Some(active) = active else {
            return Err(KillError::NotKilled(target.clone()));
        };
        refuse_others(active, &Cause::Switch(switch.clone()))?;
        Ok(Kill {
            generation: self.generation() + 1,
            position,
            at,
            reason,
            attempts,
            ..active.clone()
        })
    }

    /// Drops the oldest revived records beyond what a book holds. Never one that stops something, and never the newest: from its
    /// generation the next one counts on.
    pub fn trim(&mut self) {
        while self.records.len() > RECORDS_MAX {
            let Some(oldest) = self.oldest_revived() else {
                return;
            };
            self.records.remove(&oldest);
        }
    }

    fn oldest_revived(&self) -> Option<Target> {
        let newest = self.generation();
        let revived = self
            .iter()
            .filter(|kill| kill.position == Position::Revived && kill.generation < newest);
        revived
            .min_by_key(|kill| kill.generation)
            .map(|kill| kill.target.clone())
    }
}

fn check_words(target: &Target, actor: &str, reason: &str) -> Result<(), KillError> {
    if actor.trim().is_empty() {
        return Err(KillError::NoActor);
    }
    let actor = actor.chars().count();
    if actor > ACTOR_CHARS_MAX {
        return Err(KillError::LongActor(actor));
    }
    if reason.trim().is_empty() {
        return Err(KillError::NoReason(target.clone()));
    }
    let reason = reason.chars().count();
    if reason > REASON_CHARS_MAX {
        return Err(KillError::LongReason(reason));
    }
    Ok(())
}

/// What is shown in a line of a terminal moves no cursor there.
fn line(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}

fn is_of(kill: &Kill, switch: &Arc<str>) -> bool {
    matches!(&kill.cause, Cause::Switch(name) if name == switch)
}

/// A kill switch touches only what it killed itself; people may do anything.
fn refuse_others(active: &Kill, cause: &Cause) -> Result<(), KillError> {
    match cause {
        Cause::Switch(switch) if !is_of(active, switch) => Err(KillError::NotOurs {
            target: active.target.clone(),
            actor: active.actor.clone(),
        }),
        _ => Ok(()),
    }
}
