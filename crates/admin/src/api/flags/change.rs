//! What a flag is to be: a whole definition in any shape that is known, or a few fields in the compact form.

use super::exchange;
use crate::problem::Problem;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use serin_flags::{Compact, Environment, Flag, FlagKey, State, flag::Metadata, rule::Rule};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;

/// Everybody, in percent.
const ALL: f64 = 100.0;

/// A whole definition.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// The definition: as `GET` shows it, or as flagd has it, or the compact form.
    #[schema(value_type = Object)]
    pub(super) flag: Value,
    /// Why.
    #[serde(default)]
    pub(super) reason: String,
    /// The revision that was seen; `If-Match` does the same.
    #[serde(default)]
    pub(super) revision: Option<u64>,
}

impl Change {
    /// The definition, in our own form.
    pub(super) fn definition(&self, key: &FlagKey) -> Result<Flag, Problem> {
        exchange::one(key, &self.flag)
    }
}

/// What is to be different.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    /// Whether it does anything.
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    /// How many get it, in percent; the others get the off variant.
    #[serde(default)]
    pub(super) rollout_percentage: Option<f64>,
    /// Where it works; elsewhere everybody gets the off variant.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub(super) environments: Option<Vec<Environment>>,
    /// For whom: all of them must hold, such as `{"plan": "pro"}` or `{"user_id": ["ann", "bob"]}`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) conditions: Option<Value>,
    /// The answer where no rule says otherwise.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) default_variant: Option<Arc<str>>,
    /// From then on everybody gets the off variant; `null` for never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "null is not the same as nothing")]
    pub(super) expires: Option<Option<Timestamp>>,
    /// Who answers for it; `null` for nobody.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "null is not the same as nothing")]
    pub(super) owner: Option<Option<Arc<str>>>,
    /// Notes that are added; `null` removes one.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) metadata: BTreeMap<Arc<str>, Option<Metadata>>,
    /// Why.
    #[serde(default)]
    pub(super) reason: String,
    /// The revision that was seen; `If-Match` does the same.
    #[serde(default)]
    pub(super) revision: Option<u64>,
}

/// Tells a field that is `null` from one that is not there.
#[expect(clippy::option_option, reason = "null is not the same as nothing")]
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Patch {
    /// Whether it asks for nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.enabled.is_none()
            && self.rollout_percentage.is_none()
            && self.environments.is_none()
            && self.conditions.is_none()
            && self.default_variant.is_none()
            && self.expires.is_none()
            && self.owner.is_none()
            && self.metadata.is_empty()
    }

    /// The definition after it.
    pub(super) fn apply(&self, key: &FlagKey, before: &Flag) -> Result<Flag, Problem> {
        if self.is_empty() {
            return Err(Problem::bad_request("the body changes nothing").help(
                "name what is to be different, such as `{\"enabled\": true}` or `{\"rollout_percentage\": 25}`",
            ));
        }
        let mut flag = match Compact::of(before) {
            _ if !self.says_who() => before.clone(),
            Some(compact) => compact
                .patched(&self.compact_fields())
                .map_err(exchange::refused)?
                .flag(Some(before)),
            None => self.apply_to_any(key, before)?,
        };
        if let Some(enabled) = self.enabled {
            flag.state = if enabled {
                State::Enabled
            } else {
                State::Disabled
            };
        }
        if let Some(variant) = &self.default_variant {
            flag.default_variant = variant.clone();
        }
        if let Some(expires) = self.expires {
            flag.serin.expires = expires;
        }
        if let Some(owner) = &self.owner {
            flag.serin.owner.clone_from(owner);
        }
        for (name, note) in &self.metadata {
            match note {
                Some(note) => flag.metadata.insert(name.clone(), note.clone()),
                None => flag.metadata.remove(name),
            };
        }
        Ok(flag)
    }
}

impl Patch {
    /// Whether it says who gets the flag. Without that, rule and default stay as they were.
    fn says_who(&self) -> bool {
        self.rollout_percentage.is_some()
            || self.environments.is_some()
            || self.conditions.is_some()
    }

    /// Those of its fields that say who gets the flag.
    fn compact_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        for (name, value) in [
            (
                "rollout_percentage",
                self.rollout_percentage.map(Value::from),
            ),
            (
                "environments",
                self.environments.as_ref().map(|all| json!(all)),
            ),
            ("conditions", self.conditions.clone()),
        ] {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        fields
    }

    /// Where the flag says more than the compact form can: what does not touch that is changed.
    fn apply_to_any(&self, key: &FlagKey, before: &Flag) -> Result<Flag, Problem> {
        let mut flag = before.clone();
        if let Some(percentage) = self.rollout_percentage {
            set_percentage(key, &mut flag, percentage)?;
        }
        if let Some(environments) = &self.environments {
            set_environments(&mut flag, environments);
        }
        if self.conditions.is_some() {
            return Err(own_rule(key));
        }
        Ok(flag)
    }
}

fn own_rule(key: &FlagKey) -> Problem {
    invalid(
        format!("flag `{key}` has a rule of its own, which says who gets it"),
        format!("change the rule: `serin flag set {key} --file FILE`"),
    )
}

fn invalid(what: String, help: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", what).help(help)
}

/// So many percent get the flag. A condition before that stays; any other rule is its author's, and is not overwritten.
fn set_percentage(key: &FlagKey, flag: &mut Flag, percentage: f64) -> Result<(), Problem> {
    if !(0.0..=ALL).contains(&percentage) {
        return Err(invalid(
            format!("`rollout_percentage` is {percentage}"),
            "write a number from 0 to 100",
        ));
    }
    if !flag.serin.schedule.is_empty() {
        return Err(invalid(
            format!("flag `{key}` has a schedule, which says how many get it"),
            format!("change the schedule: `serin flag set {key} --file FILE`"),
        ));
    }
    let off = flag.serin.off_variant.clone();
    let rule = flag.targeting.as_ref().map(Rule::source);
    let (condition, split) = match rule.map(conditional) {
        None => (None, None),
        Some(Some((condition, then))) => (Some(condition.clone()), Some(then)),
        Some(None) => (None, rule),
    };
    let on: Arc<str> = match split {
        Some(split) => part(split, &off)
            .ok_or_else(|| own_rule(key))?
            .0
            .unwrap_or("")
            .into(),
        None => "".into(),
    };
    let on = if !on.is_empty() {
        on
    } else if flag.default_variant == off {
        flag.on_variant().clone()
    } else {
        flag.default_variant.clone()
    };
    let split = if percentage >= ALL {
        None
    } else {
        let number = |number: f64| {
            let whole = number.fract() == 0.0;
            // A percentage fits.
            #[expect(clippy::cast_possible_truncation, reason = "from 0 to 100")]
            if whole {
                json!(number as i64)
            } else {
                json!(number)
            }
        };
        let weights = if percentage.fract() == 0.0 {
            [number(percentage), number(ALL - percentage)]
        } else {
            // Weights are whole numbers: a hundredth of a percent is the finest.
            [
                number((percentage * 100.0).round()),
                number(((ALL - percentage) * 100.0).round()),
            ]
        };
        let [of_on, of_off] = weights;
        Some(json!({ "fractional": [[on.as_ref(), of_on], [off.as_ref(), of_off]] }))
    };
    let everybody = split.is_none() && condition.is_none();
    let rule = match (condition, split) {
        (None, split) => split,
        (Some(condition), None) => Some(json!({ "if": [condition, on.as_ref(), off.as_ref()] })),
        (Some(condition), Some(split)) => Some(json!({ "if": [condition, split, off.as_ref()] })),
    };
    flag.targeting = rule.map(Rule::new);
    // Those without a key to bucket by are in when everybody is.
    flag.default_variant = if everybody { on } else { off };
    Ok(())
}

/// Condition and outcome of `{"if": [condition, outcome, ...]}`, if it is no longer chain.
fn conditional(rule: &Value) -> Option<(&Value, &Value)> {
    let parts = rule.as_object().filter(|rule| rule.len() == 1)?;
    match parts.get("if")?.as_array()?.as_slice() {
        [condition, outcome] | [condition, outcome, Value::String(_) | Value::Null] => {
            Some((condition, outcome))
        }
        _ => None,
    }
}

/// The variant and the percentage of a rule that splits between one variant and the off variant, or names one.
fn part<'a>(rule: &'a Value, off: &str) -> Option<(Option<&'a str>, f64)> {
    if let Value::String(variant) = rule {
        return Some(if variant == off {
            (None, 0.0)
        } else {
            (Some(variant), ALL)
        });
    }
    let rule = rule.as_object().filter(|rule| rule.len() == 1)?;
    let mut on = None;
    let (mut of_on, mut sum) = (0.0, 0.0);
    for line in rule.get("fractional")?.as_array()? {
        let [variant, weight] = line.as_array()?.as_slice() else {
            return None;
        };
        // A negative weight counts as none.
        let (variant, weight) = (variant.as_str()?, weight.as_f64()?.max(0.0));
        sum += weight;
        if variant == off {
            continue;
        }
        if on.replace(variant).is_some_and(|before| before != variant) {
            return None;
        }
        of_on += weight;
    }
    (sum > 0.0).then(|| (on, of_on / sum * ALL))
}

/// How many get a flag, in percent, where that can be said in one number.
pub(super) fn percentage(flag: &Flag) -> Option<f64> {
    let off = &flag.serin.off_variant;
    if !flag.serin.schedule.is_empty() {
        return None;
    }
    match flag.targeting.as_ref().map(Rule::source) {
        None if flag.default_variant == *off => Some(0.0),
        None => Some(ALL),
        Some(rule) => {
            let split = conditional(rule).map_or(rule, |(_, then)| then);
            part(split, off).map(|(_, percentage)| percentage)
        }
    }
}

/// How many of all callers get a flag by its rule, where that is neither for some only nor too much for one number.
pub(super) fn percentage_of_all(flag: &Flag) -> Option<f64> {
    let rule = flag.targeting.as_ref().filter(|rule| !rule.is_empty());
    if rule.is_some_and(|rule| conditional(rule.source()).is_some()) {
        return None;
    }
    percentage(flag)
}

/// Where a flag works: where nothing fixes it to the off variant.
pub(super) fn environments(flag: &Flag) -> Vec<Environment> {
    let off = &flag.serin.off_variant;
    let fixed = &flag.serin.environments;
    let works = |at: &Environment| match (fixed.get(at), at) {
        (Some(variant), _) => variant != off,
        (None, Environment::Canary) => fixed.get(&Environment::Production) != Some(off),
        (None, _) => true,
    };
    Environment::ALL.into_iter().filter(works).collect()
}

/// A flag works in these environments: in all others everybody gets the off variant.
fn set_environments(flag: &mut Flag, environments: &[Environment]) {
    let off = flag.serin.off_variant.clone();
    for at in Environment::ALL {
        // What holds in production holds for its candidates.
        let is_in = environments.contains(&at)
            || (at == Environment::Canary && environments.contains(&Environment::Production));
        let fixed = &mut flag.serin.environments;
        if !is_in {
            fixed.insert(at, off.clone());
        } else if fixed.get(&at) == Some(&off) {
            fixed.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(changes: &Value) -> Flag {
        let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "serin": {"offVariant": "off"}});
        for (key, value) in changes.as_object().unwrap() {
            flag[key] = value.clone();
        }
        serde_json::from_value(flag).unwrap()
    }

    fn patched(before: &Flag, patch: &Value) -> Result<Flag, Problem> {
        let patch: Patch = Patch::deserialize(patch).unwrap();
        patch.apply(&"k".parse().unwrap(), before)
    }

    #[test]
    fn percentages_are_set_and_read_back() {
        let mut flag = flag(&json!({}));
        for percentage in [10.0, 25.0, 12.5, 50.0, 0.0, 100.0] {
            flag = patched(&flag, &json!({ "rollout_percentage": percentage })).unwrap();
            assert_eq!(super::percentage(&flag), Some(percentage));
            let all = percentage >= 100.0;
            assert_eq!(flag.targeting.is_none(), all);
            let expected = if all { "on" } else { "off" };
            assert_eq!(&*flag.default_variant, expected, "without a key");
        }
        let negative = json!({"fractional": [["on", 50], ["off", 50], ["off", -3]]});
        let negative = self::flag(&json!({ "targeting": negative }));
        assert_eq!(super::percentage(&negative), Some(50.0));
    }

    #[test]
    fn a_condition_stays_and_a_rule_is_not_overwritten() {
        let condition = json!({"==": [{"var": "plan"}, "pro"]});
        let conditional =
            flag(&json!({"defaultVariant": "off", "targeting": {"if": [condition, "on", "off"]}}));
        let half = patched(&conditional, &json!({"rollout_percentage": 50})).unwrap();
        let rule = half.targeting.as_ref().unwrap().source();
        assert_eq!(
            *rule,
            json!({"if": [condition, {"fractional": [["on", 50], ["off", 50]]}, "off"]})
        );
        assert_eq!(
            patched(&half, &json!({"rollout_percentage": 100})).unwrap(),
            conditional
        );
        for own in [
            json!({"if": [condition, "on", condition, "off", "on"]}),
            json!({"if": [condition, "on", {"if": [condition, "on"]}]}),
            json!({"fractional": [{"var": "email"}, ["on", 50], ["off", 50]]}),
        ] {
            let refused = patched(
                &flag(&json!({ "targeting": own })),
                &json!({"rollout_percentage": 5}),
            );
            assert!(
                refused.unwrap_err().detail.contains("a rule of its own"),
                "{own}"
            );
        }
    }

    #[test]
    fn what_is_given_changes_and_nothing_else() {
        let before = flag(
            &json!({"metadata": {"a": 1, "b": "x"}, "serin": {"offVariant": "off", "environments": {"staging": "off"}}}),
        );
        let after = patched(
            &before,
            &json!({"enabled": false, "environments": ["test", "production"], "owner": "kim", "expires": "2027-01-01T00:00:00Z", "metadata": {"a": null, "c": true}}),
        )
        .unwrap();
        let expected = flag(
            &json!({"state": "DISABLED", "metadata": {"b": "x", "c": true}, "serin": {
            "offVariant": "off", "owner": "kim", "expires": "2027-01-01T00:00:00Z",
            "environments": {"development": "off", "staging": "off"}}}),
        );
        assert_eq!(after, expected);
        let listed = [
            Environment::Test,
            Environment::Canary,
            Environment::Production,
        ];
        assert_eq!(super::environments(&after), listed);
        let back = patched(&after, &json!({"owner": null, "expires": null})).unwrap();
        assert_eq!((back.serin.owner, back.serin.expires), (None, None));
        assert!(patched(&before, &json!({})).is_err());
        assert!(patched(&before, &json!({"rollout_percentage": 101})).is_err());
        assert!(patched(&before, &json!({"conditions": []})).is_err());
    }

    #[test]
    fn a_state_is_set_without_a_rule_and_a_default_counts_then() {
        for default in ["off", "on"] {
            let disabled = flag(&json!({"state": "DISABLED", "defaultVariant": default}));
            let enabled = patched(&disabled, &json!({"enabled": true})).unwrap();
            assert_eq!(enabled, flag(&json!({"defaultVariant": default})));
            let on = patched(&enabled, &json!({"default_variant": "on"})).unwrap();
            assert_eq!(on, flag(&json!({"defaultVariant": "on"})));
            let owned = patched(&disabled, &json!({"owner": "kim"})).unwrap();
            assert!(owned.targeting.is_none());
        }
    }

    #[test]
    fn what_began_compact_stays_compact() {
        let flag = patched(
            &flag(&json!({})),
            &json!({"rollout_percentage": 25, "environments": ["test"], "conditions": [{"plan": "pro"}], "owner": "kim"}),
        )
        .unwrap();
        let compact = Compact::of(&flag).unwrap();
        assert!((compact.rollout_percentage - 25.0).abs() < 1e-9);
        assert_eq!(
            (compact.environments.len(), compact.conditions.len()),
            (1, 1)
        );
        let half = patched(&flag, &json!({"rollout_percentage": 50})).unwrap();
        let compact = Compact::of(&half).unwrap();
        assert_eq!(
            (compact.environments.len(), compact.conditions.len()),
            (1, 1)
        );
        assert_eq!(half.serin.owner.as_deref(), Some("kim"));
    }
}
