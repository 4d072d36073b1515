//! What is different between two definitions of a flag, in a few words.

use crate::{
    environment::Environment,
    flag::{Flag, State},
    import::Compact,
};
use std::fmt::Display;

impl Flag {
    /// What a change from `before` to this has made different, in a few words each; nothing where both are the same.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut all = Vec::new();
        if self.state != before.state {
            all.push(match self.state {
                State::Enabled => "enabled".to_owned(),
                State::Disabled => "disabled".to_owned(),
            });
        }
        if self.variants != before.variants {
            let names: Vec<_> = self.variants.keys().map(AsRef::as_ref).collect();
            all.push(format!("variants {}", names.join(", ")));
        }
        match (Compact::of(before), Compact::of(self)) {
            // Of a plain flag, whom it is for says more than default and rule.
            (Some(before), Some(after)) => {
                let (was, is) = (before.rollout_percentage, after.rollout_percentage);
                if (was - is).abs() > f64::EPSILON {
                    all.push(format!("percentage {was} % -> {is} %"));
                }
                let (was, is) = (before.whom(), after.whom());
                if was != is {
                    all.push(format!("for {was} -> {is}"));
                }
            }
            _ => self.rule_differences(before, &mut all),
        }
        self.extension_differences(before, &mut all);
        if self.metadata != before.metadata {
            all.push("notes".to_owned());
        }
        if all.is_empty() && self != before {
            all.push("written in another way".to_owned());
        }
        all
    }

    fn rule_differences(&self, before: &Self, all: &mut Vec<String>) {
        if self.default_variant != before.default_variant {
            let (was, is) = (&before.default_variant, &self.default_variant);
            all.push(format!("default {was} -> {is}"));
        }
        match (&before.targeting, &self.targeting) {
            (was, is) if was == is => {}
            (_, None) => all.push("rule removed".to_owned()),
            (None, Some(_)) => all.push("rule added".to_owned()),
            (Some(_), Some(_)) => all.push("rule".to_owned()),
        }
    }

    fn extension_differences(&self, before: &Self, all: &mut Vec<String>) {
        let (was, is) = (&before.serin, &self.serin);
        if was.off_variant != is.off_variant {
            all.push(format!(
                "off variant {} -> {}",
                was.off_variant, is.off_variant
            ));
        }
        if was.environments != is.environments {
            let fixed = is.environments.iter();
            let fixed = fixed.map(|(at, variant)| format!("{variant} in {at}"));
            let fixed: Vec<_> = fixed.collect();
            all.push(match fixed.as_slice() {
                [] => "no fixed environments".to_owned(),
                fixed => format!("environments {}", fixed.join(", ")),
            });
        }
        if was.expires != is.expires {
            all.push(format!("expires {}", or_never(is.expires.as_ref())));
        }
        if was.owner != is.owner {
            all.push(format!("owner {}", is.owner.as_deref().unwrap_or("nobody")));
        }
        if was.schedule != is.schedule {
            let lines = match is.schedule.len() {
                0 => "removed".to_owned(),
                1 => "of 1 line".to_owned(),
                lines => format!("of {lines} lines"),
            };
            all.push(format!("schedule {lines}"));
        }
        if was.fail_mode != is.fail_mode {
            all.push("fail mode".to_owned());
        }
        if was.bucketing != is.bucketing {
            all.push("bucketing".to_owned());
        }
    }
}

impl Compact {
    /// For whom it is.
    fn whom(&self) -> String {
        let conditions = self.conditions.iter();
        let conditions = conditions.map(|condition| {
            serde_json::to_string(condition).unwrap_or_else(|_| condition.attribute.to_string())
        });
        let environments = self.environments.iter().map(Environment::to_string);
        let all: Vec<_> = environments.chain(conditions).collect();
        if all.is_empty() {
            return "everybody".to_owned();
        }
        all.join(", ").chars().take(WHOM_CHARS_MAX).collect()
    }
}

/// Most of what is said of conditions, in characters.
const WHOM_CHARS_MAX: usize = 120;

fn or_never(date: Option<&impl Display>) -> String {
    date.map_or_else(|| "never".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn flag(changes: &Value) -> Flag {
        let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "serin": {"offVariant": "off"}});
        for (field, value) in changes.as_object().unwrap() {
            flag[field] = value.clone();
        }
        serde_json::from_value(flag).unwrap()
    }

    #[test]
    fn a_change_is_told_in_a_few_words() {
        let ten = json!({"defaultVariant": "off", "targeting": {"fractional": [["on", 10], ["off", 90]]}});
        let own = json!({"targeting": {"if": [true, "off", "on"]}});
        let pro = json!({"defaultVariant": "off", "targeting": {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}});
        for (before, after, said) in [
            (json!({}), json!({}), vec![]),
            (json!({}), json!({"state": "DISABLED"}), vec!["disabled"]),
            (json!({}), ten.clone(), vec!["percentage 100 % -> 10 %"]),
            (
                ten.clone(),
                json!({"defaultVariant": "off"}),
                vec!["percentage 10 % -> 0 %"],
            ),
            (json!({}), pro, vec![r#"for everybody -> {"plan":"pro"}"#]),
            (json!({}), own.clone(), vec!["rule added"]),
            (
                own.clone(),
                json!({"defaultVariant": "off"}),
                vec!["default on -> off", "rule removed"],
            ),
            (
                own,
                json!({"targeting": {"if": [true, "on", "off"]}}),
                vec!["rule"],
            ),
            (
                json!({}),
                json!({"metadata": {"a": 1}, "serin": {"offVariant": "off", "owner": "kim", "expires": "2027-01-01T00:00:00Z",
                    "environments": {"test": "off"}, "schedule": [{"from": "2027-01-01T00:00:00Z", "percentage": 1}]}}),
                vec![
                    "environments off in test",
                    "expires 2027-01-01T00:00:00Z",
                    "owner kim",
                    "schedule of 1 line",
                    "notes",
                ],
            ),
        ] {
            assert_eq!(
                flag(&after).differences(&flag(&before)),
                said,
                "{before} {after}"
            );
        }
    }
}
