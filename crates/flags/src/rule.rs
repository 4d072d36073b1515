//! Rules: `JsonLogic` with flagd's operators. A rule is compiled once, when it is read, and evaluated often.
//!
//! The rule engine hides behind the module `engine`: nothing else knows it. It runs control flow, variables and iteration; the
//! operators are ours and mean what they mean to flagd's own evaluators, which `tests/oracle.rs` shows.

mod check;
mod engine;
mod fractional;
mod number;
mod operators;
mod version;

use crate::flag::{Bucketing, Problem};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::{fmt, sync::Arc};

pub(crate) use check::Branch;
pub use check::{RULE_LEVELS_MAX, RULE_VALUES_MAX};
pub(crate) use engine::{Answer, Facts};
pub use engine::{BYTES_MAX, COMPARISONS_MAX, ELEMENTS_MAX, VALUE_LEVELS_MAX};
pub(crate) use fractional::share_of;

/// A targeting rule, as it was written and as it runs. Cloning it is cheap.
#[derive(Clone)]
pub struct Rule(Arc<Inner>);

struct Inner {
    source: Value,
    /// Nothing: it cannot be compiled.
    program: Option<engine::Program>,
    problems: Vec<Problem>,
    branches: Vec<Branch>,
}

impl Rule {
    /// A rule from its JSON, compiled. One that cannot be compiled is kept all the same, and [`Rule::problems`] says what is wrong.
    pub fn new(source: Value) -> Self {
        let checked = check::check(&source);
        let mut problems = checked.problems;
        let program = checked.compiled.and_then(|(logic, reads)| {
            engine::Program::compile(&logic, reads)
                .map_err(|what| problems.push(Problem::of_rule(what)))
                .ok()
        });
        Self(Arc::new(Inner {
            source,
            program,
            problems,
            branches: checked.branches,
        }))
    }

    /// As it was written.
    pub fn source(&self) -> &Value {
        &self.0.source
    }

    /// Whether it can run. One that cannot makes its flag answer the default variant with `PARSE_ERROR`.
    pub fn is_sound(&self) -> bool {
        self.0.program.is_some()
    }

    /// Everything that is wrong with it, whether it can run or not. Positions are within the rule: `if[1].fractional[0]`.
    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    /// Whether it says nothing: `{}`, which flagd allows.
    pub fn is_empty(&self) -> bool {
        self.0
            .source
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    }

    /// The variants that it names in so many words.
    pub(crate) fn branches(&self) -> &[Branch] {
        &self.0.branches
    }

    /// What it answers. It never panics, and its work is bounded by [`ELEMENTS_MAX`], [`COMPARISONS_MAX`], [`BYTES_MAX`] and
    /// [`VALUE_LEVELS_MAX`].
    pub(crate) fn run<R>(
        &self,
        bucketing: Bucketing,
        facts: &Facts<'_>,
        read: impl FnOnce(Answer<'_>) -> R,
    ) -> R {
        match &self.0.program {
            Some(program) => program.run(bucketing, facts, read),
            None => read(Answer::Unsound),
        }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.source == other.0.source
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.0.source).finish()
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.source.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests;
