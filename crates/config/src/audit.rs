//! `audit:`: what is kept of requests, and for how long.

use crate::{
    config::between,
    position::Path as Field,
    read::{Report, short},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serin_model::text;
use std::{borrow::Cow, time::Duration};

/// How long rows are kept unless told: a quarter, as auditors ask for.
const RETENTION: Duration = Duration::from_hours(90 * 24);
/// Shortest time: below it the questions of `serin report` would have no day to compare with.
const RETENTION_MIN: Duration = Duration::from_hours(1);
/// Longest time: ten years. Nothing here is meant to be an archive.
const RETENTION_MAX: Duration = Duration::from_hours(10 * 366 * 24);

/// What is kept of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether rows are kept, and what happens when they cannot be.
    pub mode: AuditMode,
    /// How long.
    pub retention: Duration,
    /// Whether the arguments of calls are kept.
    pub arguments: AuditArguments,
}

/// Whether a row is kept of each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditMode {
    /// It is. Where that is not possible any more, requests are served all the same and what is lost is counted.
    #[default]
    BestEffort,
    /// It is. Where that is not possible, requests are refused.
    Required,
    /// It is not.
    Off,
}

/// Whether the arguments of calls are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditArguments {
    /// They are not.
    #[default]
    Off,
    /// They are, without what looks like a secret.
    Redacted,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuditFile {
    mode: AuditMode,
    #[serde(deserialize_with = "days")]
    retention: Duration,
    arguments: AuditArguments,
}

/// Days, which durations do not know: not every day has the same length. Here it does.
fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    let days = text
        .trim()
        .strip_suffix('d')
        .and_then(|days| days.parse::<u16>().ok());
    match days {
        Some(days) => Ok(Duration::from_hours(24 * u64::from(days))),
        None => text::parse_duration(&text).map_err(|_| {
            D::Error::custom(format!(
                "`{}` is no time; write for example 90d or 36h",
                short(&text)
            ))
        }),
    }
}

impl Default for AuditFile {
    fn default() -> Self {
        Self {
            mode: AuditMode::default(),
            retention: RETENTION,
            arguments: AuditArguments::default(),
        }
    }
}

impl AuditFile {
    pub(crate) fn check(self, report: &mut Report) -> Audit {
        let at = Field::default().key("audit");
        let retention = at.key("retention");
        between(
            self.retention,
            RETENTION_MIN,
            RETENTION_MAX,
            &retention,
            report,
        );
        if self.mode == AuditMode::Off && self.arguments == AuditArguments::Redacted {
            report.warning(
                &at.key("arguments"),
                "nothing is recorded, so no arguments are either",
                "write `mode: best_effort`, or remove `arguments`",
            );
        }
        Audit {
            mode: self.mode,
            retention: self.retention,
            arguments: self.arguments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn audit(text: &str) -> Audit {
        Config::parse(text, "serin.yaml").unwrap().value.audit
    }

    #[test]
    fn rows_are_kept_and_arguments_are_not_unless_told() {
        let defaults = Audit {
            mode: AuditMode::BestEffort,
            retention: RETENTION,
            arguments: AuditArguments::Off,
        };
        assert_eq!(audit(""), defaults);
        assert_eq!(audit("audit: {}"), defaults);
        let said = audit("audit: { mode: required, retention: 30d, arguments: redacted }");
        assert_eq!(said.mode, AuditMode::Required);
        assert_eq!(said.retention, Duration::from_hours(30 * 24));
        assert_eq!(said.arguments, AuditArguments::Redacted);
        assert_eq!(audit("audit: { mode: off }").mode, AuditMode::Off);
        assert_eq!(
            audit("audit: { arguments: off }").arguments,
            AuditArguments::Off
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (text, says) in [
            ("audit: { retention: 1m }", "out of bounds"),
            ("audit: { retention: 4000d }", "out of bounds"),
            ("audit: { mode: sometimes }", "sometimes"),
            ("audit: { arguments: all }", "all"),
            ("audit: { keep: 3d }", "keep"),
        ] {
            let refused = Config::parse(text, "serin.yaml").unwrap_err();
            let found = format!("{refused:?}");
            assert!(found.contains(says), "{found}");
        }
        let checked = Config::parse("audit: { mode: off, arguments: redacted }", "f").unwrap();
        assert_eq!(checked.warnings.len(), 1);
    }
}
