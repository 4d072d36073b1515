//! Blocks of counts drawn at random, and who watches them.

use crate::Source;
use serde::{Deserialize, Serialize};

/// What one look adds: bad trials and all, of candidate and stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The candidate's bad trials.
    pub candidate_bad: u64,
    /// All of the candidate's.
    pub candidate: u64,
    /// Stable's bad ones.
    pub stable_bad: u64,
    /// All of stable's.
    pub stable: u64,
}

impl Block {
    /// In the order of the reference: candidate's bad and all, stable's bad and all.
    pub const fn as_floats(&self) -> [f64; 4] {
        [
            self.candidate_bad as f64,
            self.candidate as f64,
            self.stable_bad as f64,
            self.stable as f64,
        ]
    }

    /// Adds another.
    pub const fn add(&mut self, other: &Self) {
        self.candidate_bad += other.candidate_bad;
        self.candidate += other.candidate;
        self.stable_bad += other.stable_bad;
        self.stable += other.stable;
    }
}

/// Who looks at blocks as they come and says, after each, how much they speak against the candidate.
pub trait Watcher {
    /// Takes a block; the natural logarithm of the evidence so far.
    fn look(&mut self, block: &Block) -> f64;
}

impl<W: Watcher + ?Sized> Watcher for Box<W> {
    fn look(&mut self, block: &Block) -> f64 {
        (**self).look(block)
    }
}

/// How a rate runs over the looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rate {
    /// The same at each.
    Constant(f64),
    /// Up and down around 1 %, from 0.2 to 1.8 %, over 94 looks, as in `simulate_error_rate.py`.
    Drifting,
    /// One until a look, another from then on.
    From {
        /// Until then.
        before: f64,
        /// From it on.
        after: f64,
        /// The first look of the other.
        at: u32,
    },
}

impl Rate {
    /// At a look.
    pub fn at(self, look: u32) -> f64 {
        match self {
            Self::Constant(rate) => rate,
            Self::Drifting => 0.01 * (1.0 + 0.8 * libm::sin(f64::from(look) / 15.0)),
            Self::From { before, after, at } => {
                if look < at {
                    before
                } else {
                    after
                }
            }
        }
    }

    /// The worst rate that is still tolerated where stable has this one.
    #[must_use]
    pub fn tolerated(self, look: u32, (relative, absolute): (f64, f64)) -> f64 {
        (1.0 + relative) * self.at(look) + absolute
    }
}

/// How much of the traffic the candidate gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Split {
    /// The same part always.
    Constant(f64),
    /// 5, 10, 25 and 50 %, thirty looks each: four steps of a rollout.
    Ramp,
}

impl Split {
    /// The step of the rollout, from 0, and the candidate's part.
    pub const fn at(self, look: u32) -> (u32, f64) {
        match self {
            Self::Constant(part) => (0, part),
            Self::Ramp => match look / 30 {
                0 => (0, 0.05),
                1 => (1, 0.1),
                2 => (2, 0.25),
                _ => (3, 0.5),
            },
        }
    }
}

/// A stream of looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// How many there are.
    pub looks: u32,
    /// Expected trials of both sides at each.
    pub trials: f64,
    /// Who gets them.
    pub split: Split,
    /// Stable's rate of bad ones.
    pub stable: Rate,
    /// The candidate's.
    pub candidate: Rate,
}

impl Stream {
    /// The counts of one look: Poisson trials, split by chance, bad by chance, as the reference's simulations have it.
    pub fn draw(&self, look: u32, source: &mut Source) -> Block {
        let all = source.poisson(self.trials);
        let candidate = source.binomial(all, self.split.at(look).1);
        let stable = all - candidate;
        Block {
            candidate_bad: source.binomial(candidate, self.candidate.at(look)),
            candidate,
            stable_bad: source.binomial(stable, self.stable.at(look)),
            stable,
        }
    }

    /// All looks of one run.
    pub fn draw_all(&self, source: &mut Source) -> Vec<Block> {
        (0..self.looks)
            .map(|look| self.draw(look, source))
            .collect()
    }
}

/// When a watcher first had enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Looks taken until then, the deciding one included.
    pub looks: u32,
    /// The candidate's trials until then.
    pub candidate: u64,
    /// The bad ones among them.
    pub candidate_bad: u64,
}

/// When evidence first reached `1/alpha`, if it did.
pub fn first_found(blocks: &[Block], watcher: &mut dyn Watcher, alpha: f64) -> Option<Found> {
    let mut total = Block::default();
    for (look, block) in (1..).zip(blocks) {
        total.add(block);
        if watcher.look(block) >= -alpha.ln() {
            return Some(Found {
                looks: look,
                candidate: total.candidate,
                candidate_bad: total.candidate_bad,
            });
        }
    }
    None
}

/// The most evidence there ever was: beyond `1/alpha` it is an abort at `alpha`, whatever that is.
pub fn most(blocks: &[Block], watcher: &mut dyn Watcher) -> f64 {
    blocks
        .iter()
        .map(|block| watcher.look(block))
        .fold(0.0, f64::max)
}
