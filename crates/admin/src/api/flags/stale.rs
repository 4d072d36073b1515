//! Which flags nobody needs any more.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use serin_control::totals::Answers;
use serin_flags::{Flag, State};
use serin_model::flags::History;

/// A flag that gives everybody the same and was not changed for so long has done its work.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Why a flag may be deleted, if it may.
pub(super) fn marks(
    flag: &Flag,
    history: Option<&History>,
    answers: Option<&Answers>,
    now: Timestamp,
) -> Vec<&'static str> {
    let mut marks = Vec::new();
    if flag.serin.expires.is_some_and(|at| at <= now) {
        marks.push("expired");
    }
    let is_settled =
        history.is_some_and(|history| now.duration_since(history.changed_at) >= SETTLED_AFTER);
    if is_settled && let Some(variant) = everybodys(flag, now) {
        let off = flag.state == State::Disabled || variant == flag.serin.off_variant.as_ref();
        marks.push(if off { "off" } else { "rolled_out" });
    }
    if answers.is_none_or(|answers| answers.counts.values().all(|count| *count == 0)) {
        marks.push("never_evaluated");
    }
    marks
}

/// The variant that everybody gets, if it is the same one everywhere and for good.
fn everybodys(flag: &Flag, now: Timestamp) -> Option<&str> {
    if flag.state == State::Disabled {
        return Some(&flag.serin.off_variant);
    }
    if flag.serin.schedule.iter().any(|stage| stage.from > now) {
        return None;
    }
    let variant = match (flag.serin.schedule.last(), &flag.targeting) {
        (Some(stage), _) if !stage.environments.is_empty() => return None,
        (Some(stage), _) if stage.percentage >= 100.0 => {
            stage.variant.as_ref().unwrap_or(&flag.default_variant)
        }
        (Some(stage), _) if stage.percentage <= 0.0 => &flag.serin.off_variant,
        (Some(_), _) => return None,
        (None, None) => &flag.default_variant,
        (None, Some(rule)) => only_one(rule.source())?,
    };
    let elsewhere = flag.serin.environments.values();
    elsewhere
        .into_iter()
        .all(|other| other.as_ref() == variant)
        .then_some(variant)
}

/// The variant of a `fractional` that has all the weight.
fn only_one(rule: &Value) -> Option<&str> {
    let parts = rule.as_object()?.get("fractional")?.as_array()?;
    let parts: Vec<_> = parts.iter().map(Value::as_array).collect::<Option<_>>()?;
    let mut weighty = parts.into_iter().filter(|part| {
        part.get(1)
            .is_none_or(|weight| weight.as_f64().is_some_and(|weight| weight > 0.0))
    });
    let one = weighty.next()?;
    weighty.next().is_none().then(|| one.first()?.as_str())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn flags_that_have_done_their_work_are_marked() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let plain = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "serin": {"offVariant": "off"}});
        let asked = Answers {
            counts: BTreeMap::from([(("on".into(), serin_flags::Reason::Static), 1)]),
            last: Some(now),
        };
        let with = |changes: Value| {
            let mut flag = plain.clone();
            for (key, value) in changes.as_object().unwrap() {
                flag[key] = value.clone();
            }
            flag
        };
        for (flag, days, answers, want) in [
            (plain.clone(), 29, Some(&asked), vec![]),
            (plain.clone(), 30, Some(&asked), vec!["rolled_out"]),
            (
                with(json!({"state": "DISABLED"})),
                30,
                Some(&asked),
                vec!["off"],
            ),
            (
                with(json!({"defaultVariant": "off"})),
                30,
                Some(&asked),
                vec!["off"],
            ),
            (
                with(json!({"targeting": {"fractional": [["on", 50], ["off", 50]]}})),
                30,
                Some(&asked),
                vec![],
            ),
            (
                with(json!({"targeting": {"fractional": [["on", 100], ["off", 0]]}})),
                30,
                Some(&asked),
                vec!["rolled_out"],
            ),
            (
                with(json!({"serin": {"offVariant": "off", "expires": "2026-11-20T00:00:00Z"}})),
                1,
                Some(&asked),
                vec!["expired"],
            ),
            (
                with(
                    json!({"serin": {"offVariant": "off", "environments": {"production": "off"}}}),
                ),
                30,
                Some(&asked),
                vec![],
            ),
            (plain.clone(), 1, None, vec!["never_evaluated"]),
        ] {
            let history = History {
                created_at: now,
                changed_at: now - SignedDuration::from_hours(24 * days),
                changed_by: serin_model::event::Actor::named("kim"),
                revision: 1,
                file: None,
            };
            let read: Flag = serde_json::from_value(flag.clone()).unwrap();
            assert_eq!(
                marks(&read, Some(&history), answers, now),
                want,
                "{flag} {days}"
            );
        }
    }
}
