//! A flag: flagd's definition, and beside it what flagd lacks.

use crate::{environment::Environment, rule::Rule};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Largest flag as JSON, in bytes: it stands in one event of the log, and the whole table is held in memory.
pub const FLAG_BYTES_MAX: usize = 256 * 1024;
/// Longest place of a problem, in characters.
const AT_CHARS_MAX: usize = 120;
/// After so many problems nobody reads on.
const PROBLEMS_MAX: usize = 50;

/// Whether a flag does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Its rules and its default count.
    Enabled,
    /// Everybody gets the off variant.
    Disabled,
}

/// A value of a flag's metadata: flagd allows no others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metadata {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(Arc<str>),
}

/// How flags are bucketed. Changing it moves every user, so it is never changed silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bucketing {
    /// flagd-core 1: hashes the text, or flag key and targeting key one after the other.
    V2,
    /// flagd-core 2: hashes CBOR.
    #[default]
    V3,
}

/// A flag as it stands in the log and in the admin API: flagd's fields, and ours under `serin`. A rule that cannot be compiled is
/// kept: such a flag answers its default with `PARSE_ERROR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Flag {
    /// Whether it does anything.
    pub state: State,
    /// What it may answer, by name; all of one type.
    pub variants: BTreeMap<Arc<str>, Value>,
    /// The answer where no rule says otherwise.
    pub default_variant: Arc<str>,
    /// Who gets which variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targeting: Option<Rule>,
    /// Notes that go out with every answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<Arc<str>, Metadata>,
    /// What flagd lacks.
    pub serin: Extension,
}

/// What flagd lacks. In a flagd document it stands under `serin.flags.KEY` at the root, because flagd's own readers refuse keys that
/// they do not know inside a flag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extension {
    /// The answer when it is disabled, killed or expired.
    pub off_variant: Arc<str>,
    /// Variants that are fixed in an environment, whatever the rules say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environments: BTreeMap<Environment, Arc<str>>,
    /// From then on everybody gets the off variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// What it answers when its file cannot be read at a start, or its rule cannot be used.
    #[serde(default, skip_serializing_if = "FailMode::is_default")]
    pub fail_mode: FailMode,
    /// How its percentage and its environments change with time, earliest first. Before the first line everybody gets the off
    /// variant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Stage>,
    /// How it is bucketed.
    #[serde(default, skip_serializing_if = "is_default_bucketing")]
    pub bucketing: Bucketing,
}

/// What a flag of a file answers after a start at which the file could not be read, until it can be; and what it answers when its
/// rule cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// What its last known definition says; the default variant where the rule cannot be used, as with flagd.
    #[default]
    Last,
    /// The default variant.
    Default,
    /// The off variant.
    Off,
}

impl Flag {
    /// The flag as its fail mode wants it while nobody knows whether its definition still holds; nothing if the last known one counts.
    pub fn in_doubt(&self) -> Option<Self> {
        let mut flag = self.clone();
        match self.serin.fail_mode {
            FailMode::Last => return None,
            FailMode::Off => flag.state = State::Disabled,
            FailMode::Default => {
                flag.targeting = None;
                flag.serin.schedule.clear();
            }
        }
        Some(flag)
    }
}

impl FailMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default_bucketing(bucketing: &Bucketing) -> bool {
    *bucketing == Bucketing::default()
}

/// One line of a schedule: from a moment on, so many get the variant, in these environments only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    /// From then on, until the next line.
    pub from: Timestamp,
    /// How many get `variant`, in percent from 0 to 100; the others get the off variant. A caller without a targeting key gets the
    /// default variant, but never `variant` unless everybody does.
    pub percentage: f64,
    /// What they get unless the flag's rule chooses another for them; the default variant unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Arc<str>>,
    /// Where; everywhere unless set. Elsewhere everybody gets the off variant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
}

/// Something wrong with a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a field, such as `targeting.if[0]`.
    pub at: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Problem {
    pub(crate) fn new(
        at: impl Into<String>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            at: at.into(),
            what: what.into(),
            help: help.into(),
        }
    }

    /// Something that the rule engine alone knows.
    pub(crate) fn of_rule(what: String) -> Self {
        Self::new(
            "",
            what,
            "see https://jsonlogic.com and https://flagd.dev for what rules may be",
        )
    }

    /// The same with a place that can be read: of a very long one, its beginning and its end.
    pub(crate) fn brief(mut self) -> Self {
        let chars: Vec<char> = self.at.chars().collect();
        if chars.len() > AT_CHARS_MAX {
            let (start, end) = (
                &chars[..AT_CHARS_MAX / 2],
                &chars[chars.len() - AT_CHARS_MAX / 4..],
            );
            self.at = start.iter().chain(&['…']).chain(end).collect();
        }
        self
    }

    /// The same, in a field of something larger.
    pub(crate) fn within(&self, field: &str) -> Self {
        let dot = if field.is_empty() || self.at.is_empty() || self.at.starts_with('[') {
            ""
        } else {
            "."
        };
        Self {
            at: format!("{field}{dot}{}", self.at),
            ..self.clone()
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "{}: {}", self.what, self.help)
    }
}

impl Flag {
    /// Everything that is wrong with it; nothing when it can be evaluated as it was meant. A flag with problems is evaluated all the
    /// same as far as that goes, so that whatever is in the log has an answer.
    pub fn problems(&self) -> Vec<Problem> {
        let problems = self.problems_in_full().into_iter();
        problems.map(Problem::brief).collect()
    }

    /// The same, however long their places are.
    pub(crate) fn problems_in_full(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_variants(&mut problems);
        self.check_names(&mut problems);
        self.check_schedule(&mut problems);
        self.check_rule(&mut problems);
        let bytes = serde_json::to_vec(self).map_or(0, |json| json.len());
        if bytes > FLAG_BYTES_MAX {
            problems.push(Problem::new(
                "",
                format!("it has {bytes} bytes, more than {FLAG_BYTES_MAX}"),
                "compare an attribute of the callers instead of listing them, and keep large values elsewhere",
            ));
        }
        problems.truncate(PROBLEMS_MAX);
        problems
    }

    /// The variant that means on: `true`, or named so, or the default one, or the only other one.
    pub fn on_variant(&self) -> &Arc<str> {
        let off = &self.serin.off_variant;
        let is_true = |value: &Value| value.as_bool() == Some(true);
        let of_value = self.variants.iter().find(|(_, value)| is_true(value));
        let of_name = || self.variants.get_key_value("on");
        let other = || self.variants.iter().find(|(name, _)| *name != off);
        let found = of_value.or_else(of_name).map(|(name, _)| name);
        match found {
            Some(found) => found,
            None if self.default_variant != *off => &self.default_variant,
            None => other().map_or(off, |(name, _)| name),
        }
    }

    fn check_variants(&self, problems: &mut Vec<Problem>) {
        let Some((first, value)) = self.variants.first_key_value() else {
            problems.push(Problem::new(
                "variants",
                "there are none",
                "write at least one, such as {\"on\": true, \"off\": false}",
            ));
            return;
        };
        for (name, other) in &self.variants {
            let at = || format!("variants.{name}");
            if name.is_empty() {
                problems.push(Problem::new("variants", "a variant has no name", "name it"));
            }
            match kind(other) {
                None => problems.push(Problem::new(
                    at(),
                    "null and lists are no values of a flag",
                    "use a boolean, a number, a text or an object",
                )),
                Some(other) if kind(value).is_some_and(|first| first != other) => {
                    problems.push(Problem::new(
                        at(),
                        format!(
                            "it is {other}, but `{first}` is {}",
                            kind(value).unwrap_or("none")
                        ),
                        "give all variants values of one type",
                    ));
                }
                Some(_) => {}
            }
        }
    }

    /// The variants that are named elsewhere.
    fn check_names(&self, problems: &mut Vec<Problem>) {
        let mut check = |at: String, variant: &str| {
            if !self.variants.contains_key(variant) {
                problems.push(Problem::new(
                    at,
                    format!("`{variant}` is none of its variants"),
                    "name one of `variants`",
                ));
            }
        };
        check("defaultVariant".to_owned(), &self.default_variant);
        check("serin.offVariant".to_owned(), &self.serin.off_variant);
        for (environment, variant) in &self.serin.environments {
            check(format!("serin.environments.{environment}"), variant);
        }
        for (n, stage) in self.serin.schedule.iter().enumerate() {
            if let Some(variant) = &stage.variant {
                check(format!("serin.schedule[{n}].variant"), variant);
            }
        }
    }

    fn check_schedule(&self, problems: &mut Vec<Problem>) {
        let stages = &self.serin.schedule;
        for (n, stage) in stages.iter().enumerate() {
            if !(0.0..=100.0).contains(&stage.percentage) {
                problems.push(Problem::new(
                    format!("serin.schedule[{n}].percentage"),
                    format!("{} is not from 0 to 100", stage.percentage),
                    "write a percentage, such as 25",
                ));
            }
            if n > 0 && stages[n - 1].from >= stage.from {
                problems.push(Problem::new(
                    format!("serin.schedule[{n}].from"),
                    "it is not after the line before",
                    "order the lines by `from`, each later than the one before",
                ));
            }
        }
    }

    fn check_rule(&self, problems: &mut Vec<Problem>) {
        let Some(rule) = &self.targeting else {
            return;
        };
        problems.extend(
            rule.problems()
                .iter()
                .map(|problem| problem.within("targeting")),
        );
        for branch in rule.branches() {
            if !self.variants.contains_key(branch.variant.as_str()) {
                let variant: String = branch.variant.chars().take(80).collect();
                let problem = Problem::new(
                    branch.at.as_str(),
                    format!("`{variant}` is none of its variants"),
                    "answer one of `variants`, or null for the default",
                );
                problems.push(problem.within("targeting"));
            }
        }
    }
}

/// What type a variant is of; nothing where flags have no such type.
const fn kind(value: &Value) -> Option<&'static str> {
    match value {
        Value::Bool(_) => Some("a boolean"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("a text"),
        Value::Object(_) => Some("an object"),
        Value::Null | Value::Array(_) => None,
    }
}
