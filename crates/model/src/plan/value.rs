//! Rules on numbers inside the results of tools, and on signals that people give.

use super::{Problem, WINDOW_MAX, min_samples, window, window_problem};
use crate::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serin_judge::ValueThreshold;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Most numbers that a plan watches: each costs a look at every result of its tool.
pub const VALUES_MAX: usize = 20;

/// Longest JSON pointer of a watched number, in bytes.
pub const POINTER_BYTES_MAX: usize = 200;

/// A rule on the mean of a number inside a tool's structured result. A phase passes only while it is known and within limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueRule {
    /// The tool.
    pub tool: Arc<str>,
    /// Where the number stands below the result's `structuredContent`, as a JSON pointer (RFC 6901): `/guard/passed`. True and
    /// false are 1 and 0, so that their mean is a rate.
    pub pointer: String,
    /// On which side it is good.
    #[serde(default)]
    pub better: Better,
    /// Beyond it, the rollout holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<Number>,
    /// Beyond it, the candidate is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<Number>,
    /// How long it must be so before it counts.
    #[serde(default, rename = "for", with = "text::duration")]
    pub lasting: Duration,
    /// How far back it looks.
    #[serde(default = "window", with = "text::duration")]
    pub window: Duration,
    /// Fewer results than this in the window say nothing.
    #[serde(default = "min_samples")]
    pub min_samples: u64,
}

/// On which side of its limit a number is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Above: a pass rate, an accuracy.
    #[default]
    Higher,
    /// Below: a cost, a distance.
    Lower,
}

/// A number as people write it: `0.9` or `90 %`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Number(pub f64);

/// How many signals of a kind hold the rollout, and how many take the candidate back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRule {
    /// So many hold the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<u32>,
    /// So many take the candidate back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<u32>,
}

/// The signals that count in a plan that names none: a critical bug takes the candidate back, a complaint holds it.
pub(super) fn signals() -> BTreeMap<String, SignalRule> {
    let rule = |warning, critical| SignalRule { warning, critical };
    BTreeMap::from([
        ("critical_bug".to_owned(), rule(None, Some(1))),
        ("complaint".to_owned(), rule(Some(1), None)),
    ])
}

pub(super) fn are_default_signals(rules: &BTreeMap<String, SignalRule>) -> bool {
    *rules == signals()
}

impl ValueRule {
    pub(super) fn resolve(&self, name: &Arc<str>) -> ValueThreshold {
        ValueThreshold {
            name: Arc::clone(name),
            tool: Arc::clone(&self.tool),
            higher_is_better: self.better == Better::Higher,
            warning: self.warning.map(|limit| limit.0),
            critical: self.critical.map(|limit| limit.0),
            lasting: self.lasting,
            window: self.window,
            min_samples: self.min_samples,
        }
    }

    pub(super) fn problems(&self, at: &str, problems: &mut Vec<Problem>) {
        let mut error = |key: &str, what: String, help: &str| {
            problems.push(Problem {
                at: format!("{at}.{key}"),
                what,
                help: help.to_owned(),
                fatal: true,
            });
        };
        if !(self.pointer.starts_with('/') && self.pointer.len() <= POINTER_BYTES_MAX) {
            error(
                "pointer",
                format!("`{}` is no JSON pointer", self.pointer),
                "write the way to the number below `structuredContent`, such as `/guard/passed`",
            );
        }
        match (self.warning, self.critical) {
            (None, None) => {
                error(
                    "critical",
                    "a rule without a limit does nothing".to_owned(),
                    "give it `warning:`, `critical:` or both",
                );
            }
            (Some(warning), Some(critical)) if self.better.breaches(warning.0, critical.0) => {
                error(
                    "critical",
                    format!("{critical} is reached before {warning}"),
                    "let the critical limit lie beyond the warning, or change `better:`",
                );
            }
            _ => {}
        }
        problems.extend(window_problem(
            at,
            self.window.min(WINDOW_MAX + Duration::from_nanos(1)),
        ));
    }
}

impl Better {
    /// Whether a value lies beyond a limit.
    pub fn breaches(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Higher => value < limit,
            Self::Lower => value > limit,
        }
    }
}

impl SignalRule {
    pub(super) fn problem(&self, at: &str) -> Option<Problem> {
        let what = match (self.warning, self.critical) {
            (None, None) => "a rule without a number does nothing".to_owned(),
            (Some(0), _) | (_, Some(0)) => {
                "no signal at all would already be one too many".to_owned()
            }
            _ => return None,
        };
        Some(Problem {
            at: at.to_owned(),
            what,
            help: "write how many signals hold the rollout or take the candidate back: `{ warning: 1, critical: 3 }`".to_owned(),
            fatal: true,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        let number = match Written::deserialize(deserializer)? {
            Written::Number(number) => Some(number),
            Written::Text(text) => match text.trim().strip_suffix('%') {
                Some(percent) => percent
                    .trim()
                    .parse()
                    .ok()
                    .map(|percent: f64| percent / 100.0),
                None => text.trim().parse().ok(),
            },
        };
        number
            .filter(|number: &f64| number.is_finite())
            .map(Self)
            .ok_or_else(|| D::Error::custom("this is no number; write `0.9` or `90 %`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        for (text, expected) in [
            ("0.9", 0.9),
            ("3", 3.0),
            (r#""90 %""#, 0.9),
            (r#""2.5""#, 2.5),
        ] {
            let number: Number = serde_json::from_str(text).unwrap();
            assert!((number.0 - expected).abs() < 1e-12, "{text}");
        }
        assert!(serde_json::from_str::<Number>(r#""many""#).is_err());
    }

    #[test]
    fn limits_lie_in_order() {
        let rule = |json: &str| {
            let mut problems = Vec::new();
            serde_json::from_str::<ValueRule>(json)
                .unwrap()
                .problems("values.x", &mut problems);
            problems
                .into_iter()
                .map(|problem| problem.at)
                .collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(
            rule(r#"{"tool": "t", "pointer": "/a", "warning": "90 %", "critical": "70 %"}"#),
            none
        );
        assert_eq!(
            rule(r#"{"tool": "t", "pointer": "/a", "warning": 0.7, "critical": 0.9}"#),
            ["values.x.critical"]
        );
        assert_eq!(
            rule(
                r#"{"tool": "t", "pointer": "/a", "better": "lower", "warning": 0.7, "critical": 0.9}"#
            ),
            none
        );
        assert_eq!(
            rule(r#"{"tool": "t", "pointer": "a", "warning": 1}"#),
            ["values.x.pointer"]
        );
        assert_eq!(
            rule(r#"{"tool": "t", "pointer": "/a"}"#),
            ["values.x.critical"]
        );
        assert_eq!(
            rule(r#"{"tool": "t", "pointer": "/a", "critical": 1, "window": "48h"}"#),
            ["values.x.window"]
        );
    }
}
