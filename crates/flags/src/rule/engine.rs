//! The seam to the rule engine: compile, and run with a bound on the work.
//!
//! The engine does control flow, variables and iteration. Every other operator is ours ([`super::operators`]), because rules must
//! mean here what they mean to flagd's own evaluators, also where types are mixed.

use super::{fractional, operators, version};
use crate::{environment::Environment, flag::Bucketing};
use datalogic_rs::{
    CustomOperator, DataValue, Engine, Error, EvaluationConfig, Logic,
    bumpalo::Bump,
    datavalue::{NumberValue, OwnedDataValue},
    operator::EvalContext,
};
use jiff::Timestamp;
use serde_json::{Map, Number, Value};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

/// Most elements of lists that one evaluation goes through, so that lists within lists from outside cannot keep a core busy.
pub const ELEMENTS_MAX: u32 = 10_000;
/// Most text that one evaluation puts together, in bytes: a rule that doubles a text with every element must not take all memory.
pub const BYTES_MAX: u32 = 256 * 1024;
/// Most elements that one evaluation compares: ten lists of all the users that a rule can hold, many times over.
pub const COMPARISONS_MAX: u32 = 1_000_000;
/// Deepest value that a rule makes: what it is given ([`super::RULE_LEVELS_MAX`] and the limit of the JSON parser, 128) and as much
/// again. A list that grows by a level with every element would otherwise fill the stack of whoever reads it.
pub const VALUE_LEVELS_MAX: usize = 384;
/// An arena that has grown beyond this is not kept for the next evaluation, in bytes.
const ARENA_BYTES_MAX: usize = 256 * 1024;

/// What a rule may look at.
pub(crate) struct Facts<'v> {
    /// The flag's key.
    pub(crate) key: &'v str,
    /// The caller's.
    pub(crate) targeting_key: Option<&'v str>,
    pub(crate) attributes: Option<&'v Map<String, Value>>,
    pub(crate) tenant: Option<&'v str>,
    pub(crate) environment: Environment,
    pub(crate) now: Timestamp,
    /// Percent of each service's candidate.
    pub(crate) shares: &'v BTreeMap<Arc<str>, f64>,
}

/// What a rule answers.
pub(crate) enum Answer<'v> {
    /// The rule cannot be compiled.
    Unsound,
    /// It cannot be evaluated with these facts.
    Failed,
    /// None of its branches fits.
    Nothing,
    /// A variant.
    Variant {
        /// Its name.
        name: &'v str,
        /// Whether a percentage took part.
        is_split: bool,
    },
}

/// The attributes that a rule reads.
#[derive(Default)]
pub(super) struct Reads {
    /// All of them: a name is computed.
    pub(super) everything: bool,
    /// The first parts of the names.
    pub(super) names: BTreeSet<Box<str>>,
}

/// A compiled rule.
pub(super) struct Program {
    logic: Logic,
    reads: Reads,
}

impl Program {
    /// What is wrong is said in the engine's words: what people get wrong is found before.
    pub(super) fn compile(logic: &OwnedDataValue, reads: Reads) -> Result<Self, String> {
        match ENGINES[0].compile(logic) {
            Ok(logic) => Ok(Self { logic, reads }),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn run<R>(
        &self,
        bucketing: Bucketing,
        facts: &Facts<'_>,
        read: impl FnOnce(Answer<'_>) -> R,
    ) -> R {
        let mut arena = ARENA.take().unwrap_or_default();
        WORK.set(Work::default());
        #[cfg(test)]
        RUNS.set(RUNS.get() + 1);
        let answer = {
            let engine = &ENGINES[usize::from(bucketing == Bucketing::V2)];
            let root = DataValue::Object(self.root(facts, &arena));
            match engine.evaluate(&self.logic, root, &arena) {
                Ok(value) => read(answer(value, &arena)),
                Err(_) => read(Answer::Failed),
            }
        };
        if arena.allocated_bytes() <= ARENA_BYTES_MAX {
            arena.reset();
            ARENA.set(Some(arena));
        }
        answer
    }

    /// The facts as the engine takes them: only those that the rule reads, so that a large context costs nothing.
    fn root<'v>(&self, facts: &Facts<'v>, arena: &'v Bump) -> &'v [(&'v str, DataValue<'v>)] {
        let mut root = datalogic_rs::bumpalo::collections::Vec::with_capacity_in(8, arena);
        let flagd = arena.alloc([
            ("flagKey", DataValue::String(facts.key)),
            ("timestamp", integer(facts.now.as_second())),
        ]);
        root.push((FLAGD, DataValue::Object(&*flagd)));
        root.push((TARGETING_KEY, text(facts.targeting_key)));
        if self.reads.everything || self.reads.names.contains(SERIN) {
            root.push((SERIN, serin(facts, arena)));
        }
        let Some(attributes) = facts.attributes else {
            return root.into_bump_slice();
        };
        let mut push = |name: &'v str, value| {
            if ![FLAGD, TARGETING_KEY, SERIN].contains(&name) {
                root.push((name, data(value, arena)));
            }
        };
        if self.reads.everything {
            for (name, value) in attributes {
                push(name, value);
            }
        } else {
            for name in &self.reads.names {
                if let Some((name, value)) = attributes.get_key_value(&**name) {
                    push(name, value);
                }
            }
        }
        root.into_bump_slice()
    }
}

const FLAGD: &str = "$flagd";
const SERIN: &str = "$serin";
const TARGETING_KEY: &str = "targetingKey";

/// What we say beyond flagd.
fn serin<'v>(facts: &Facts<'v>, arena: &'v Bump) -> DataValue<'v> {
    let share = |(service, percent): (&Arc<str>, &f64)| {
        let service: &'v str = arena.alloc_str(service);
        (service, number(*percent))
    };
    let shares = arena.alloc_slice_fill_iter(facts.shares.iter().map(share).collect::<Vec<_>>());
    DataValue::Object(arena.alloc([
        ("share", DataValue::Object(shares)),
        ("environment", DataValue::String(facts.environment.label())),
        ("tenant", text(facts.tenant)),
    ]))
}

fn text(text: Option<&str>) -> DataValue<'_> {
    text.map_or(DataValue::Null, DataValue::String)
}

const fn integer<'v>(integer: i64) -> DataValue<'v> {
    DataValue::Number(NumberValue::Integer(integer))
}

/// Whole percentages as integers, so that they print as people write them.
fn number<'v>(number: f64) -> DataValue<'v> {
    DataValue::Number(
        super::number::whole(number).map_or(NumberValue::Float(number), NumberValue::Integer),
    )
}

/// JSON as the engine takes it, borrowed as far as that goes.
fn data<'v>(value: &'v Value, arena: &'v Bump) -> DataValue<'v> {
    match value {
        Value::Null => DataValue::Null,
        Value::Bool(bool) => DataValue::Bool(*bool),
        Value::Number(number) => DataValue::Number(number_value(number)),
        Value::String(text) => DataValue::String(text),
        Value::Array(items) => DataValue::Array(
            arena.alloc_slice_fill_iter(items.iter().map(|item| data(item, arena))),
        ),
        Value::Object(map) => {
            let mut pairs =
                datalogic_rs::bumpalo::collections::Vec::with_capacity_in(map.len(), arena);
            pairs.extend(
                map.iter()
                    .map(|(name, value)| (name.as_str(), data(value, arena))),
            );
            DataValue::Object(pairs.into_bump_slice())
        }
    }
}

/// Integers beyond 64 bits with a sign become the nearest float.
pub(super) fn number_value(number: &Number) -> NumberValue {
    number.as_i64().map_or_else(
        || NumberValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        NumberValue::Integer,
    )
}

/// A rule's result as the name of a variant: booleans and numbers by how flagd writes them.
fn answer<'v>(value: &'v DataValue<'v>, arena: &'v Bump) -> Answer<'v> {
    let name = match value {
        DataValue::Null => return Answer::Nothing,
        DataValue::Bool(true) => "true",
        DataValue::Bool(false) => "false",
        DataValue::String(name) => name,
        DataValue::Number(number) => arena.alloc_str(&super::number::variant(*number)),
        DataValue::Array(_) | DataValue::Object(_) => return Answer::Failed,
    };
    Answer::Variant {
        name,
        is_split: WORK.get().is_split,
    }
}

/// What the evaluation under way has done so far.
#[derive(Clone, Copy, Default)]
struct Work {
    elements: u32,
    comparisons: u32,
    bytes: u32,
    is_split: bool,
}

thread_local! {
    static ARENA: Cell<Option<Bump>> = const { Cell::new(None) };
    static WORK: Cell<Work> = const { Cell::new(Work { elements: 0, comparisons: 0, bytes: 0, is_split: false }) };
}

#[cfg(test)]
thread_local! {
    /// How many rules ran on this thread.
    pub(crate) static RUNS: Cell<u32> = const { Cell::new(0) };
}

/// Counts elements of lists that are about to be gone through.
pub(super) fn spend_elements(count: usize) -> Result<(), Error> {
    spend(
        |work| raise(&mut work.elements, count) > ELEMENTS_MAX,
        "too many elements",
    )
}

/// Counts elements that are about to be compared.
pub(super) fn spend_comparisons(count: usize) -> Result<(), Error> {
    spend(
        |work| raise(&mut work.comparisons, count) > COMPARISONS_MAX,
        "too many comparisons",
    )
}

/// Counts text that was put together.
pub(super) fn spend_bytes(count: usize) -> Result<(), Error> {
    spend(
        |work| raise(&mut work.bytes, count) > BYTES_MAX,
        "too much text",
    )
}

fn raise(counter: &mut u32, count: usize) -> u32 {
    *counter = u32::try_from(count).map_or(u32::MAX, |count| counter.saturating_add(count));
    *counter
}

fn spend(is_too_much: impl FnOnce(&mut Work) -> bool, what: &str) -> Result<(), Error> {
    let mut work = WORK.get();
    let refused = is_too_much(&mut work);
    WORK.set(work);
    if refused {
        return Err(Error::custom_message(what));
    }
    Ok(())
}

/// A percentage took part.
pub(super) fn note_split() {
    let mut work = WORK.get();
    work.is_split = true;
    WORK.set(work);
}

/// What an operator gives.
pub(super) type Given<'v> = Result<&'v DataValue<'v>, Error>;

/// An operator of ours: it takes its arguments evaluated, the facts and the arena.
#[derive(Clone, Copy)]
pub(super) struct Operator(
    pub(super) for<'v> fn(&[&'v DataValue<'v>], &'v DataValue<'v>, &'v Bump) -> Given<'v>,
);

impl CustomOperator for Operator {
    fn evaluate<'v>(
        &self,
        args: &[&'v DataValue<'v>],
        context: &mut EvalContext<'_, 'v>,
        arena: &'v Bump,
    ) -> Given<'v> {
        (self.0)(args, context.root_input(), arena)
    }
}

/// One for each way to bucket, `V3` first; compiled rules run on both.
static ENGINES: LazyLock<[Engine; 2]> =
    LazyLock::new(|| [engine(fractional::V3), engine(fractional::V2)]);

fn engine(fractional: Operator) -> Engine {
    let mut builder = Engine::builder()
        .with_config(EvaluationConfig::default())
        .add_operator("fractional", fractional)
        .add_operator("sem_ver", version::SEM_VER);
    for (name, operator) in operators::OPERATORS {
        builder = builder.add_operator(*name, *operator);
    }
    builder.build()
}

/// The text that an entry of the facts holds.
pub(super) fn fact<'v>(root: &'v DataValue<'v>, path: &[&str]) -> Option<&'v str> {
    let mut value = root;
    for name in path {
        let pairs = value.as_object()?;
        value = &pairs.iter().find(|(found, _)| found == name)?.1;
    }
    value.as_str()
}
