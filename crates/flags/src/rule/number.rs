//! Numbers as rules compare, convert and print them: as flagd's evaluator for Python does.

use super::engine::BYTES_MAX;
use datalogic_rs::{DataValue, datavalue::NumberValue};

/// Significant digits of a float in a text.
const DIGITS: usize = 15;

/// A float without a fraction as an integer, where it has one.
pub(super) fn whole(float: f64) -> Option<i64> {
    // Beyond 2^53 neighbouring integers are one float.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
    let integer = float as i64;
    (float.abs() <= EXACT_MAX && float.fract() == 0.0).then_some(integer)
}

/// Anything as a number; what has none is NaN, which no comparison holds for.
pub(super) fn of(value: &DataValue<'_>) -> NumberValue {
    const NAN: NumberValue = NumberValue::Float(f64::NAN);
    match value {
        DataValue::Null | DataValue::Array([]) => NumberValue::Integer(0),
        DataValue::Bool(bool) => NumberValue::Integer(i64::from(*bool)),
        DataValue::Number(number) => *number,
        DataValue::String(text) => NumberValue::Float(parse(text)),
        DataValue::Array([only]) => of(only),
        DataValue::Array(_) | DataValue::Object(_) => NAN,
    }
}

/// Only what is written as a number: no `inf`, no `nan`, nothing empty.
fn parse(text: &str) -> f64 {
    let text = text.trim();
    let is_plain = text
        .bytes()
        .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    is_plain
        .then(|| text.parse().ok())
        .flatten()
        .unwrap_or(f64::NAN)
}

/// Anything as text. It ends soon after [`BYTES_MAX`], as lists within lists may hold one list many times.
pub(super) fn to_text(value: &DataValue<'_>, out: &mut String) {
    if out.len() > BYTES_MAX as usize {
        return;
    }
    match value {
        DataValue::Null => out.push_str("null"),
        DataValue::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
        DataValue::Number(NumberValue::Integer(integer)) => out.push_str(&integer.to_string()),
        DataValue::Number(NumberValue::Float(float)) => out.push_str(&significant(*float)),
        DataValue::String(text) => out.push_str(text),
        DataValue::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                to_text(item, out);
            }
        }
        DataValue::Object(_) => out.push_str("[object Object]"),
    }
}

/// C's `%.15g`.
fn significant(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() {
            "nan"
        } else if float > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{float:.*e}", DIGITS - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits_max = i32::try_from(DIGITS).unwrap_or(i32::MAX);
    if (-4..digits_max).contains(&exponent) {
        let decimals = usize::try_from(digits_max - 1 - exponent).unwrap_or(0);
        return without_zeros(&format!("{float:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs())
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.');
    }
    text
}

/// A number as the name of a variant or a version: the shortest text that reads back, with `.0` where a float has no fraction.
pub(super) fn variant(number: NumberValue) -> String {
    match number {
        NumberValue::Integer(integer) => integer.to_string(),
        NumberValue::Float(float) => format!("{float:?}"),
    }
}

/// `left op right`: as integers where both are and the result is one.
pub(super) fn calculate(
    left: NumberValue,
    right: NumberValue,
    integers: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
) -> NumberValue {
    if let (NumberValue::Integer(left), NumberValue::Integer(right)) = (left, right)
        && let Some(integer) = integers(left, right)
    {
        return NumberValue::Integer(integer);
    }
    NumberValue::Float(floats(left.as_f64(), right.as_f64()))
}
