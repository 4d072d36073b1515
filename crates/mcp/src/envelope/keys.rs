//! The keys of one object, to find duplicates.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{EnvelopeError, MAX_KEYS};

/// Up to here a linear search beats hashing; nearly every object stays below.
const FEW: usize = 16;

/// Characters of a duplicate key that are shown.
const SHOWN_CHARS: usize = 64;

/// Keys seen so far in one object.
pub(super) struct Keys<'a> {
    object: &'static str,
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(object: &'static str) -> Self {
        Self {
            object,
            few: Vec::with_capacity(8),
            many: HashSet::new(),
        }
    }

    /// Notes a key, refusing one that was there before.
    pub(super) fn note(&mut self, key: Cow<'a, str>) -> Result<(), EnvelopeError> {
        let object = self.object;
        if self.few.len() + self.many.len() >= MAX_KEYS {
            return Err(EnvelopeError::TooManyKeys { object });
        }
        if self.few.contains(&key) || self.many.contains(&key) {
            return Err(EnvelopeError::DuplicateKey {
                object,
                key: key.chars().take(SHOWN_CHARS).collect(),
            });
        }
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        Ok(())
    }
}
