//! A table by name that is asked for every call and almost never has what is asked for: it says no after a look at a few bytes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// Bits of the filter: a thousand names of any kind fill a fifth of them, and it stays in the nearest cache.
const BITS: usize = 4096;
const WORDS: usize = BITS / 64;

/// Values by name.
#[derive(Clone, Debug)]
pub(crate) struct Names<T> {
    /// A bit for each name there is, shared by names that look alike.
    filter: [u64; WORDS],
    values: HashMap<Arc<str>, T, foldhash::fast::FixedState>,
}

/// Where the bit of a name is in a filter.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    bit: u64,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            filter: [0; WORDS],
            values: HashMap::default(),
        }
    }
}

impl<T> Names<T> {
    /// The value of a name.
    #[inline]
    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.get_at(place(name), name)
    }

    /// The same, where the place of the name is known.
    #[inline]
    fn get_at(&self, place: Place, name: &str) -> Option<&T> {
        if self.filter[place.word] & place.bit == 0 {
            return None;
        }
        self.values.get(name)
    }

    /// The values of a name here and in another table.
    #[inline]
    pub(crate) fn get_both<'n, U>(
        &'n self,
        other: &'n Names<U>,
        name: &str,
    ) -> (Option<&'n T>, Option<&'n U>) {
        let place = place(name);
        (self.get_at(place, name), other.get_at(place, name))
    }

    /// Whether there is a value of a name.
    #[inline]
    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether there are no values.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The place of a name, to be filled.
    pub(crate) fn entry(&mut self, name: Arc<str>) -> Entry<'_, Arc<str>, T> {
        let place = place(&name);
        self.filter[place.word] |= place.bit;
        self.values.entry(name)
    }

    /// Gives a name a value.
    pub(crate) fn insert(&mut self, name: Arc<str>, value: T) {
        self.entry(name).insert_entry(value);
    }
}

/// Which bit is a name's: by its length and the bytes at both ends.
#[inline]
fn place(name: &str) -> Place {
    let bytes = name.as_bytes();
    let (first, last) = match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => (u32::from_le_bytes(*first), u32::from_le_bytes(*last)),
        _ => (0, short(bytes)),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "any bits of the length will do"
    )]
    let length = bytes.len() as u32;
    let mixed = (first.rotate_left(15) ^ last ^ length).wrapping_mul(0x9e37_79b1);
    let bit = (mixed >> 20) as usize;
    Place {
        word: bit / 64 % WORDS,
        bit: 1 << (bit % 64),
    }
}

/// Fewer than four bytes.
fn short(bytes: &[u8]) -> u32 {
    let join = |joined, byte: &u8| joined << 8 | u32::from(*byte);
    bytes.iter().fold(0, join)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_was_put_in(entries in prop::collection::btree_map("\\PC{0,6}", 0..9, 0..40), asked in "\\PC{0,6}") {
            let mut names = Names::default();
            prop_assert!(names.is_empty());
            for (name, value) in &entries {
                names.insert(name.as_str().into(), *value);
            }
            let all: BTreeMap<String, i32> = entries;
            for name in all.keys().chain([&asked]) {
                prop_assert_eq!(names.get(name), all.get(name));
                prop_assert_eq!(names.contains_key(name), all.contains_key(name));
            }
        }
    }

    #[test]
    fn few_names_look_alike() {
        let mut names = Names::default();
        for n in 0..1000 {
            names.insert(format!("tool-{n}").into(), ());
        }
        let asked = (0..1000).map(|n| format!("search_{n}"));
        let alike = asked.filter(|name| {
            let place = place(name);
            names.filter[place.word] & place.bit != 0
        });
        assert!(alike.count() < 300);
    }
}
