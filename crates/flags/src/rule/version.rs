//! `sem_ver`: compares versions.

use super::engine::Operator;
use datalogic_rs::{ArenaExt, DataValue};
use semver::Version;
use std::{borrow::Cow, cmp::Ordering};

/// What compares versions, as rules name it.
pub(super) const COMPARISONS: [&str; 8] = ["=", "!=", "<", "<=", ">", ">=", "^", "~"];

/// Null where something is no version or no comparison.
pub(super) const SEM_VER: Operator = Operator(|args, _, arena| {
    let holds = match args {
        [left, DataValue::String(comparison), right] => compare(left, comparison, right),
        _ => None,
    };
    Ok(holds.map_or_else(|| arena.null(), |holds| arena.bool(holds)))
});

fn compare(left: &DataValue<'_>, comparison: &str, right: &DataValue<'_>) -> Option<bool> {
    let (left, right) = (version(left)?, version(right)?);
    // What was built of it does not count.
    let order = left.cmp_precedence(&right);
    Some(match comparison {
        "=" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        ">=" => order != Ordering::Less,
        "^" => left.major == right.major,
        "~" => (left.major, left.minor) == (right.major, right.minor),
        _ => return None,
    })
}

/// `v1.2` is 1.2.0, and the number 1.2 as well.
fn version(value: &DataValue<'_>) -> Option<Version> {
    let text = match value {
        DataValue::String(text) => Cow::Borrowed(*text),
        DataValue::Number(number) => Cow::Owned(super::number::variant(*number)),
        _ => return None,
    };
    let text = text.strip_prefix(['v', 'V']).unwrap_or(&text);
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    match numbers.matches('.').count() {
        0 => format!("{numbers}.0.0{rest}").parse().ok(),
        1 => format!("{numbers}.0{rest}").parse().ok(),
        _ => text.parse().ok(),
    }
}
