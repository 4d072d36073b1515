//! Which of many conditions may hold at all, found by what a request has instead of by asking each of them.

use super::{
    check::Check,
    matcher::{Input, Node},
    values::Values,
};
use foldhash::fast::FixedState;
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;

/// Fewer conditions are asked one by one, in the order in which they stand, and read of the request only what they ask for.
const INDEXED_MIN: usize = 8;
/// A test for one of more texts than this is asked itself: it searches them by halves, and here each would take memory again.
const TEXTS_INDEXED_MAX: usize = 100;
/// Of longer texts only so much of the beginning is looked at. Each length has its bit in [`Guards::lengths`].
const KEY_BYTES_MAX: usize = 63;
/// Numbers of 64 bits, a bit for each condition, that take no memory beside the stack: as many rules as a service may have.
const INLINE: usize = 4;

/// A set of conditions, a bit each.
type Bits = SmallVec<[u64; INLINE]>;

/// Of a list of conditions, what has to be so for each of them.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// Those of which nothing is known.
    others: Bits,
    by: Box<[(Input, Guards)]>,
}

/// What a value of an input has to be.
#[derive(Clone, Debug)]
struct Guards {
    /// The conditions for which it only has to be there.
    there: Bits,
    /// Those for which it has to begin with a text, or be it, by the [`Key`] of the text.
    keys: HashMap<u64, Bits, FixedState>,
    /// The lengths of these beginnings.
    lengths: u64,
    /// The length of the longest beginning or text, as far as it is looked at.
    longest: usize,
}

/// A test, at least one of which is met wherever a condition holds.
type Guard<'n> = (Input, &'n Check);

impl Index {
    /// Of conditions that are enough to make it worth while.
    pub(super) fn of(conditions: &[Option<Node>]) -> Option<Self> {
        if conditions.len() < INDEXED_MIN {
            return None;
        }
        let none: Bits = smallvec![0; conditions.len().div_ceil(64)];
        let mut others = none.clone();
        let mut by: Vec<(Input, Guards)> = Vec::new();
        for (at, node) in conditions.iter().enumerate() {
            // One that is not understood never holds.
            let Some(node) = node else { continue };
            let Some(guards) = guards(node) else {
                add(&mut others, at);
                continue;
            };
            for (input, check) in guards {
                let known = by.iter().position(|(of, _)| *of == input);
                let place = known.unwrap_or_else(|| {
                    by.push((input, Guards::none(&none)));
                    by.len() - 1
                });
                if let Some((_, guards)) = by.get_mut(place) {
                    guards.add(at, check, &none);
                }
            }
        }
        let by = by.into();
        Some(Self { others, by })
    }

    /// The places of those that may hold, in their order; no other does.
    pub(super) fn may_hold(&self, values: &Values<'_, '_>) -> impl Iterator<Item = usize> {
        let mut found = self.others.clone();
        for (input, guards) in &self.by {
            input.each(values, |value| guards.find(value, &mut found));
        }
        (0..).zip(found).flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < u64::BITS).then_some(word * 64 + bit as usize)
            })
        })
    }
}

impl Guards {
    fn none(none: &Bits) -> Self {
        Self {
            there: none.clone(),
            keys: HashMap::default(),
            lengths: 0,
            longest: 0,
        }
    }

    fn add(&mut self, at: usize, check: &Check, none: &Bits) {
        let Some(texts) = texts(check) else {
            return add(&mut self.there, at);
        };
        for text in texts {
            let length = text.len().min(KEY_BYTES_MAX);
            self.longest = self.longest.max(length);
            let mut key = Key::default();
            text.iter()
                .take(KEY_BYTES_MAX)
                .for_each(|byte| key.take(*byte));
            let key = if matches!(check, Check::Among(_)) && text.len() <= KEY_BYTES_MAX {
                key.whole()
            } else {
                self.lengths |= 1 << length;
                key.0
            };
            add(self.keys.entry(key).or_insert_with(|| none.clone()), at);
        }
    }

    /// Adds the conditions for which a value is as it has to be, and perhaps others.
    fn find(&self, value: &[u8], found: &mut Bits) {
        unite(found, &self.there);
        if self.keys.is_empty() {
            return;
        }
        let mut look = |key: u64| {
            if let Some(conditions) = self.keys.get(&key) {
                unite(found, conditions);
            }
        };
        let mut key = Key::default();
        let mut lengths = self.lengths;
        for byte in value.iter().take(self.longest) {
            key.take(*byte);
            lengths >>= 1;
            if lengths & 1 == 1 {
                look(key.0);
            }
        }
        if value.len() <= self.longest {
            look(key.whole());
        }
    }
}

/// The tests of which at least one is met wherever a condition holds; none if that cannot be told or would leave out nothing.
fn guards(node: &Node) -> Option<Vec<Guard<'_>>> {
    match node {
        Node::Is(input, check) => {
            let is_of_use = !input.is_always_there() || texts(check).is_some();
            is_of_use.then(|| vec![(*input, check)])
        }
        // Any of them would do: that which is the least likely to be met by chance.
        Node::All(nodes) => nodes.iter().filter_map(guards).max_by_key(|guards| {
            let shortest = |(_, check): &Guard<'_>| texts(check)?.map(<[u8]>::len).min();
            guards.iter().map(shortest).min()
        }),
        Node::Any(nodes) => {
            let each: Option<Vec<_>> = nodes.iter().map(guards).collect();
            Some(each?.concat())
        }
        Node::Not(_) | Node::Within(_) => None,
    }
}

/// What a text that meets a test begins with, one of these; none if that cannot be told, or not shortly.
fn texts(check: &Check) -> Option<impl Iterator<Item = &[u8]>> {
    let texts = check.beginnings();
    let is_short = texts.len() <= TEXTS_INDEXED_MAX;
    let has_empty = || texts.clone().any(<[u8]>::is_empty);
    (texts.len() > 0 && is_short && !has_empty()).then_some(texts)
}

/// Stands for the beginning of a text whatever the case of its letters (FNV-1a, 64 bits): texts that have the same by chance are told
/// apart by the test itself.
struct Key(u64);

impl Default for Key {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Key {
    const fn take(&mut self, byte: u8) {
        let byte = byte.to_ascii_lowercase() as u64;
        self.0 = (self.0 ^ byte).wrapping_mul(0x0100_0000_01b3);
    }

    /// If nothing follows.
    const fn whole(&self) -> u64 {
        !self.0
    }
}

fn add(bits: &mut Bits, at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

fn unite(bits: &mut Bits, others: &Bits) {
    for (bits, others) in bits.iter_mut().zip(others) {
        *bits |= others;
    }
}
