//! The operators that compare, calculate and put together. They mean what they mean to flagd's evaluator for Python, which follows
//! `JavaScript`; `tests/oracle.rs` lists where we follow `JavaScript` and it does not.

#![expect(clippy::unnecessary_wraps, reason = "all operators have one signature")]

use super::{
    engine::{Given, Operator, VALUE_LEVELS_MAX, spend_bytes, spend_comparisons, spend_elements},
    number::{self, calculate},
};
use datalogic_rs::{
    ArenaExt, DataValue, Error,
    bumpalo::{Bump, collections::Vec as BumpVec},
    datavalue::NumberValue,
};
use std::cmp::Ordering;

/// How an operator of ours is named to the engine, whose own of that name would win otherwise.
pub(super) const OURS: char = '@';

/// Gives the first argument as a list to go through, counted; what is no list is an empty one.
pub(super) const LIST: &str = "@list";
/// Gives the first argument, what `map` or `reduce` make of an element, unless it has grown too large or too deep.
pub(super) const MADE: &str = "@made";
/// Gives the first argument, and the second where that is null.
pub(super) const DEFAULT: &str = "@default";
/// Of pairs of a name and a value one after the other, the names whose values are null or empty.
pub(super) const MISSING: &str = "@missing";
/// The same, but none if at least so many as the first argument says are there.
pub(super) const MISSING_SOME: &str = "@missing_some";

pub(super) const OPERATORS: &[(&str, Operator)] = &[
    (LIST, Operator(list)),
    (MADE, Operator(|args, _, _| made(arg(args, 0)))),
    (DEFAULT, Operator(default)),
    (MISSING, Operator(|args, _, arena| missing(args, arena))),
    (MISSING_SOME, Operator(missing_some)),
    (
        "starts_with",
        Operator(|args, _, arena| texts(args, arena, |text, part| text.starts_with(part))),
    ),
    (
        "ends_with",
        Operator(|args, _, arena| texts(args, arena, |text, part| text.ends_with(part))),
    ),
    (
        "@==",
        Operator(|args, _, arena| Ok(arena.bool(equal(arg(args, 0), arg(args, 1))?))),
    ),
    (
        "@!=",
        Operator(|args, _, arena| Ok(arena.bool(!equal(arg(args, 0), arg(args, 1))?))),
    ),
    (
        "@===",
        Operator(|args, _, arena| Ok(arena.bool(same(arg(args, 0), arg(args, 1))?))),
    ),
    (
        "@!==",
        Operator(|args, _, arena| Ok(arena.bool(!same(arg(args, 0), arg(args, 1))?))),
    ),
    (
        "@<",
        Operator(|args, _, arena| ordered(args, arena, Ordering::is_lt)),
    ),
    (
        "@<=",
        Operator(|args, _, arena| ordered(args, arena, Ordering::is_le)),
    ),
    (
        "@>",
        Operator(|args, _, arena| ordered(args, arena, Ordering::is_gt)),
    ),
    (
        "@>=",
        Operator(|args, _, arena| ordered(args, arena, Ordering::is_ge)),
    ),
    ("@in", Operator(contains)),
    ("@cat", Operator(cat)),
    ("@substr", Operator(substr)),
    ("@merge", Operator(merge)),
    ("@+", Operator(|args, _, arena| sum(args, arena))),
    ("@*", Operator(|args, _, arena| product(args, arena))),
    ("@-", Operator(minus)),
    ("@/", Operator(divide)),
    ("@%", Operator(remainder)),
    (
        "@min",
        Operator(|args, _, arena| extreme(args, arena, Ordering::Less)),
    ),
    (
        "@max",
        Operator(|args, _, arena| extreme(args, arena, Ordering::Greater)),
    ),
];

static NULL: DataValue<'static> = DataValue::Null;

/// An argument; null where there are fewer.
fn arg<'v>(args: &[&'v DataValue<'v>], n: usize) -> &'v DataValue<'v> {
    args.get(n).copied().unwrap_or(&NULL)
}

fn number(number: NumberValue, arena: &Bump) -> Given<'_> {
    Ok(arena.alloc(DataValue::Number(number)))
}

fn list<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let list = arg(args, 0);
    match list {
        DataValue::Array(items) => spend_elements(items.len()).map(|()| list),
        _ => Ok(arena.array(&[])),
    }
}

fn made<'v>(value: &'v DataValue<'v>) -> Given<'v> {
    fn look(value: &DataValue<'_>, levels_left: usize) -> Result<(), Error> {
        let Some(levels_left) = levels_left.checked_sub(1) else {
            return Err(Error::custom_message("too many levels"));
        };
        match value {
            DataValue::Array(items) => {
                spend_elements(items.len())?;
                items.iter().try_for_each(|item| look(item, levels_left))
            }
            DataValue::Object(pairs) => {
                spend_elements(pairs.len())?;
                pairs
                    .iter()
                    .try_for_each(|(_, value)| look(value, levels_left))
            }
            _ => Ok(()),
        }
    }
    look(value, VALUE_LEVELS_MAX).map(|()| value)
}

/// Anything as text, counted.
fn text_of(value: &DataValue<'_>) -> Result<String, Error> {
    let mut text = String::new();
    number::to_text(value, &mut text);
    spend_bytes(text.len()).map(|()| text)
}

fn default<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, _: &'v Bump) -> Given<'v> {
    let value = arg(args, 0);
    Ok(if value.is_null() { arg(args, 1) } else { value })
}

fn missing<'v>(args: &[&'v DataValue<'v>], arena: &'v Bump) -> Given<'v> {
    let mut names = BumpVec::new_in(arena);
    for pair in args.chunks_exact(2) {
        if matches!(pair[1], DataValue::Null | DataValue::String("")) {
            names.push(*pair[0]);
        }
    }
    Ok(arena.alloc(DataValue::Array(names.into_bump_slice())))
}

fn missing_some<'v>(
    args: &[&'v DataValue<'v>],
    _: &'v DataValue<'v>,
    arena: &'v Bump,
) -> Given<'v> {
    let (need, pairs) = args
        .split_first()
        .ok_or_else(|| Error::custom_message("no arguments"))?;
    let names = missing(pairs, arena)?;
    let present = pairs.len() / 2 - names.as_array().map_or(0, <[_]>::len);
    if present as f64 >= number::of(need).as_f64() {
        return Ok(arena.array(&[]));
    }
    Ok(names)
}

fn texts<'v>(
    args: &[&'v DataValue<'v>],
    arena: &'v Bump,
    holds: fn(&str, &str) -> bool,
) -> Given<'v> {
    Ok(match args {
        [DataValue::String(text), DataValue::String(part)] => arena.bool(holds(text, part)),
        _ => arena.null(),
    })
}

/// `==`: numbers decide where one side is a number or a boolean; null equals 0 and `false`, but no text.
fn equal(left: &DataValue<'_>, right: &DataValue<'_>) -> Result<bool, Error> {
    use DataValue::{Array, Bool, Null, Number, Object, String};
    let is_numeric = |value: &DataValue<'_>| matches!(value, Bool(_) | Number(_));
    Ok(match (left, right) {
        (Null, Null) => true,
        (String(left), String(right)) => left == right,
        _ if is_numeric(left) || is_numeric(right) => {
            equal_numbers(number::of(left), number::of(right))
        }
        // Lists are equal to themselves only.
        (Array(left), Array(right)) => std::ptr::eq(*left, *right),
        (Object(left), Object(right)) => std::ptr::eq(*left, *right),
        (String(text), list @ (Array(_) | Object(_)))
        | (list @ (Array(_) | Object(_)), String(text)) => text_of(list)? == *text,
        // Null equals no text and no list.
        _ => false,
    })
}

fn equal_numbers(left: NumberValue, right: NumberValue) -> bool {
    compare_numbers(left, right) == Some(Ordering::Equal)
}

fn compare_numbers(left: NumberValue, right: NumberValue) -> Option<Ordering> {
    match (left, right) {
        (NumberValue::Integer(left), NumberValue::Integer(right)) => Some(left.cmp(&right)),
        _ => left.as_f64().partial_cmp(&right.as_f64()),
    }
}

/// `===`: the same type and value; lists by their elements.
fn same(left: &DataValue<'_>, right: &DataValue<'_>) -> Result<bool, Error> {
    Ok(match (left, right) {
        (DataValue::Number(left), DataValue::Number(right)) => equal_numbers(*left, *right),
        (DataValue::Array(left), DataValue::Array(right)) => {
            spend_comparisons(left.len())?;
            left.len() == right.len() && all(left.iter().zip(*right), |(l, r)| same(l, r))?
        }
        (DataValue::Object(left), DataValue::Object(right)) => {
            spend_comparisons(left.len().saturating_mul(right.len()))?;
            let found = |name| right.iter().find(|(other, _)| *other == name);
            left.len() == right.len()
                && all(*left, |(name, value)| match found(*name) {
                    Some((_, other)) => same(value, other),
                    None => Ok(false),
                })?
        }
        _ => left == right,
    })
}

/// Whether all hold.
fn all<T>(
    items: impl IntoIterator<Item = T>,
    mut holds: impl FnMut(T) -> Result<bool, Error>,
) -> Result<bool, Error> {
    for item in items {
        if !holds(item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// With a third argument: whether the second lies between the others.
fn ordered<'v>(
    args: &[&'v DataValue<'v>],
    arena: &'v Bump,
    holds: fn(Ordering) -> bool,
) -> Given<'v> {
    let pair = |left, right| compare(left, right).map(|order| order.is_some_and(holds));
    let mut is_ordered = pair(arg(args, 0), arg(args, 1))?;
    if let Some(third) = args.get(2) {
        is_ordered = is_ordered && pair(arg(args, 1), third)?;
    }
    Ok(arena.bool(is_ordered))
}

/// As texts where one side is a text and none a number; as numbers otherwise. Nothing: they have no order.
fn compare(left: &DataValue<'_>, right: &DataValue<'_>) -> Result<Option<Ordering>, Error> {
    use DataValue::{Bool, Number, String};
    if let (String(left), String(right)) = (left, right) {
        return Ok(Some(left.cmp(right)));
    }
    let is_numeric = |value: &DataValue<'_>| matches!(value, Bool(_) | Number(_));
    let has_text = matches!(left, String(_)) || matches!(right, String(_));
    if has_text && !is_numeric(left) && !is_numeric(right) {
        return Ok(Some(text_of(left)?.cmp(&text_of(right)?)));
    }
    Ok(compare_numbers(number::of(left), number::of(right)))
}

fn contains<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let needle = arg(args, 0);
    Ok(arena.bool(match (needle, arg(args, 1)) {
        (_, DataValue::Array(items)) => {
            spend_comparisons(items.len())?;
            !all(*items, |item| same(needle, item).map(|same| !same))?
        }
        (DataValue::String(needle), DataValue::String(text)) => text.contains(needle),
        (_, DataValue::String(text)) => text.contains(&text_of(needle)?),
        _ => false,
    }))
}

fn cat<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let mut text = String::new();
    for arg in args {
        let before = text.len();
        number::to_text(arg, &mut text);
        spend_bytes(text.len() - before)?;
    }
    Ok(arena.string(&text))
}

/// Start and length count characters; below zero they count from the end.
fn substr<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let text = text_of(arg(args, 0))?;
    let chars = text.chars().count();
    let from_end = |back: f64| chars.saturating_sub(count(back));
    let start = number::of(arg(args, 1)).as_f64();
    let start = match start {
        start if start < 0.0 && count(-start) >= chars => 0,
        start if start < 0.0 => from_end(-start),
        start => count(start).min(chars),
    };
    let end = match arg(args, 2) {
        DataValue::Null => chars,
        length => match number::of(length).as_f64() {
            length if length.is_nan() => start,
            length if length < 0.0 => from_end(-length),
            length => start.saturating_add(count(length)),
        },
    };
    let part: String = text
        .chars()
        .skip(start)
        .take(end.saturating_sub(start))
        .collect();
    Ok(arena.string(&part))
}

/// A whole number of characters; NaN is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and NaN becomes 0"
)]
const fn count(float: f64) -> usize {
    float as usize
}

fn merge<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let mut items = BumpVec::new_in(arena);
    for arg in args {
        let part = arg.as_array().unwrap_or(std::slice::from_ref(*arg));
        spend_elements(part.len())?;
        items.extend_from_slice(part);
    }
    Ok(arena.alloc(DataValue::Array(items.into_bump_slice())))
}

fn sum<'v>(args: &[&'v DataValue<'v>], arena: &'v Bump) -> Given<'v> {
    let numbers = args.iter().map(|arg| number::of(arg));
    let add = |sum, next| calculate(sum, next, i64::checked_add, |sum, next| sum + next);
    number(numbers.fold(NumberValue::Integer(0), add), arena)
}

fn product<'v>(args: &[&'v DataValue<'v>], arena: &'v Bump) -> Given<'v> {
    let numbers = args.iter().map(|arg| number::of(arg));
    let times = |product, next| {
        calculate(product, next, i64::checked_mul, |product, next| {
            product * next
        })
    };
    number(numbers.fold(NumberValue::Integer(1), times), arena)
}

/// One argument with the other sign, or the first less the second.
fn minus<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let first = number::of(arg(args, 0));
    let (left, right) = match args.get(1) {
        Some(second) => (first, number::of(second)),
        None => (NumberValue::Integer(0), first),
    };
    number(
        calculate(left, right, i64::checked_sub, |left, right| left - right),
        arena,
    )
}

/// What is to be divided, and by what, which is not 0.
fn division(args: &[&DataValue<'_>]) -> Result<(NumberValue, NumberValue), Error> {
    let (left, right) = (number::of(arg_ref(args, 0)), number::of(arg_ref(args, 1)));
    if right.as_f64() == 0.0 {
        return Err(Error::custom_message("division by zero"));
    }
    Ok((left, right))
}

fn arg_ref<'s>(args: &'s [&DataValue<'_>], n: usize) -> &'s DataValue<'s> {
    args.get(n).copied().unwrap_or(&NULL)
}

fn divide<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let (left, right) = division(args)?;
    number(NumberValue::Float(left.as_f64() / right.as_f64()), arena)
}

/// What is left has the sign of what is divided.
fn remainder<'v>(args: &[&'v DataValue<'v>], _: &'v DataValue<'v>, arena: &'v Bump) -> Given<'v> {
    let (left, right) = division(args)?;
    number(
        calculate(left, right, i64::checked_rem, |left, right| left % right),
        arena,
    )
}

/// The first of the numbers that no other is further than; NaN where there are none.
fn extreme<'v>(args: &[&'v DataValue<'v>], arena: &'v Bump, further: Ordering) -> Given<'v> {
    let numbers = args.iter().map(|arg| number::of(arg));
    let keep = |best, next| {
        if compare_numbers(next, best) == Some(further) {
            next
        } else {
            best
        }
    };
    number(
        numbers.reduce(keep).unwrap_or(NumberValue::Float(f64::NAN)),
        arena,
    )
}
