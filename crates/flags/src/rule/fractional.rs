//! `fractional`: who gets which variant, by the hash of a key.
//!
//! Never change it: every user would move. `V3` is that of flagd-core 2, `V2` that of flagd-core 1; they differ in what is hashed.

use super::engine::{Operator, fact, note_split};
use ciborium::ser::into_writer;
use datalogic_rs::{ArenaExt, DataValue, bumpalo::Bump, datavalue::NumberValue};
use serde::{Serialize, Serializer, ser::SerializeMap};

/// The most that weights may sum up to.
pub(super) const WEIGHTS_MAX: u64 = i32::MAX as u64;

pub(super) const V3: Operator = Operator(|args, root, arena| {
    let Some(first) = args.first() else {
        return Ok(arena.null());
    };
    let (hash, shares) = match first {
        DataValue::Null => return Ok(arena.null()),
        DataValue::Array(_) => match keys(root) {
            Some((flag, key)) => (hash_pair(flag, key), args),
            None => return Ok(arena.null()),
        },
        key => (hash_cbor(&Cbor(key)), &args[1..]),
    };
    Ok(choose(hash, shares, arena))
});

pub(super) const V2: Operator = Operator(|args, root, arena| {
    let (hash, shares) = match args.first() {
        Some(DataValue::String(key)) if !key.is_empty() => (hash(key.as_bytes()), &args[1..]),
        Some(DataValue::Array(_)) => match keys(root) {
            Some((flag, key)) => (hash_joined(flag, key), args),
            None => return Ok(arena.null()),
        },
        _ => return Ok(arena.null()),
    };
    Ok(choose(hash, shares, arena))
});

/// Flag key and targeting key, if there is one.
fn keys<'v>(root: &'v DataValue<'v>) -> Option<(&'v str, &'v str)> {
    let key = fact(root, &["targetingKey"]).filter(|key| !key.is_empty())?;
    Some((fact(root, &["$flagd", "flagKey"]).unwrap_or_default(), key))
}

/// The share whose part of the sum the hash falls into; null where the shares are none.
fn choose<'v>(hash: u32, shares: &[&'v DataValue<'v>], arena: &'v Bump) -> &'v DataValue<'v> {
    let weights = shares.iter().map(|share| weight(share));
    let Some(sum) = weights
        .clone()
        .try_fold(0_u64, |sum, weight| sum.checked_add(weight?))
    else {
        return arena.null();
    };
    if sum == 0 || sum > WEIGHTS_MAX {
        return arena.null();
    }
    let bucket = (u64::from(hash) * sum) >> 32;
    let mut end = 0;
    for (share, weight) in shares.iter().zip(weights) {
        end += weight.unwrap_or(0);
        if bucket < end
            && let Some([variant, ..]) = share.as_array()
        {
            note_split();
            return variant;
        }
    }
    arena.null()
}

/// `[variant]` weighs 1, `[variant, integer]` so much; less than nothing counts as nothing.
fn weight(share: &DataValue<'_>) -> Option<u64> {
    match share.as_array()? {
        [_] => Some(1),
        [_, DataValue::Number(NumberValue::Integer(weight))] => {
            Some(u64::try_from(*weight).unwrap_or(0))
        }
        _ => None,
    }
}

/// Whether a targeting key is among so many percent of a flag's: the same keys as with
/// `{"fractional": [["on", percent], ["off", 100 - percent]]}`, and for fractions of a percent those between.
pub(crate) fn share_of(v3: bool, flag: &str, key: &str, percent: f64) -> bool {
    let hash = if v3 {
        hash_pair(flag, key)
    } else {
        hash_joined(flag, key)
    };
    // Both sides are exact: 32 bits times 100, and a power of two.
    f64::from(hash) * 100.0 < percent * 4_294_967_296.0
}

fn hash_pair(flag: &str, key: &str) -> u32 {
    hash_cbor(&(flag, key))
}

fn hash_joined(flag: &str, key: &str) -> u32 {
    hash([flag.as_bytes(), key.as_bytes()].concat().as_slice())
}

fn hash_cbor(value: &impl Serialize) -> u32 {
    let mut bytes = Vec::with_capacity(64);
    // Writing to memory does not fail, and neither does any JSON value.
    let _ = into_writer(value, &mut bytes);
    hash(&bytes)
}

fn hash(mut bytes: &[u8]) -> u32 {
    // Reading from memory does not fail.
    murmur3::murmur3_32(&mut bytes, 0).unwrap_or(0)
}

/// A value in the deterministic form of RFC 8949: floats without a fraction as integers, others as short as they are exact, keys of
/// objects sorted by their bytes.
struct Cbor<'v>(&'v DataValue<'v>);

impl Serialize for Cbor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            DataValue::Null => serializer.serialize_unit(),
            DataValue::Bool(bool) => serializer.serialize_bool(*bool),
            DataValue::Number(NumberValue::Integer(integer)) => serializer.serialize_i64(*integer),
            DataValue::Number(NumberValue::Float(float)) => serialize_float(*float, serializer),
            DataValue::String(text) => serializer.serialize_str(text),
            DataValue::Array(items) => serializer.collect_seq(items.iter().map(Cbor)),
            DataValue::Object(pairs) => {
                let mut sorted: Vec<_> = pairs.iter().collect();
                // The length stands in front of a key's bytes.
                sorted.sort_by_key(|(key, _)| (key.len(), *key));
                let mut map = serializer.serialize_map(Some(sorted.len()))?;
                for (key, value) in sorted {
                    map.serialize_entry(key, &Cbor(value))?;
                }
                map.end()
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, and within the bounds that are checked"
)]
fn serialize_float<S: Serializer>(float: f64, serializer: S) -> Result<S::Ok, S::Error> {
    const U64_END: f64 = 18_446_744_073_709_551_616.0;
    const I64_START: f64 = -9_223_372_036_854_775_808.0;
    if float.fract() != 0.0 {
        return serializer.serialize_f64(float);
    }
    if (0.0..U64_END).contains(&float) {
        return serializer.serialize_u64(float as u64);
    }
    if (I64_START..0.0).contains(&float) {
        return serializer.serialize_i64(float as i64);
    }
    serializer.serialize_f64(float)
}
