//! A flag: flagd's definition, and beside it what flagd lacks.

use crate::{environment::Environment, rule::Rule};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

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
    /// What a gate does when nothing is known of the flag's definition (a cold start without one).
    #[serde(default, skip_serializing_if = "FailMode::is_default")]
    pub fail_mode: FailMode,
    /// How its percentage and its environments change with time, earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Stage>,
    /// How it is bucketed.
    #[serde(default, skip_serializing_if = "is_default_bucketing")]
    pub bucketing: Bucketing,
}

/// What a flag answers when its definition cannot be evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// The off variant.
    #[default]
    Off,
    /// The default variant.
    Default,
}

impl FailMode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn is_default_bucketing(bucketing: &Bucketing) -> bool {
    *bucketing == Bucketing::default()
}

/// One line of a schedule: from a moment on, so many get the variant, in these environments only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    /// From then on, until the next line.
    pub from: Timestamp,
    /// How many get `variant`, in percent from 0 to 100; the others get the off variant.
    pub percentage: f64,
    /// What they get; the default variant unless set.
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

impl Flag {
    /// Everything that is wrong with it; nothing when it can be evaluated.
    pub fn problems(&self) -> Vec<Problem> {
        let named = [
            ("defaultVariant", &self.default_variant),
            ("serin.offVariant", &self.serin.off_variant),
        ];
        let unknown = named
            .into_iter()
            .filter(|(_, variant)| !self.variants.contains_key(*variant));
        let problem = |(at, variant): (&str, &Arc<str>)| Problem {
            at: at.to_owned(),
            what: format!("`{variant}` is none of its variants"),
            help: "name one of `variants`".to_owned(),
        };
        unknown.map(problem).collect()
    }
}
