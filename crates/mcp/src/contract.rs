//! What changed between two `tools/list` results: the tool contract's difference.
//!
//! A client read the old list and will call by it. A change is *breaking* when such a call may be
//! refused or such a reader may miss what it was promised, *risky* when a model may behave
//! differently, *fine* otherwise. Arguments may only be accepted more widely, results only be
//! promised more narrowly.
//!
//! The comparison knows the keywords of JSON Schema 2020-12 that tools use and errs on the strict
//! side: what it cannot prove compatible, such as a changed `pattern`, is breaking.

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use self::schema::Direction;

/// Most tools in a list. Servers offer tens; a model cannot use thousands.
pub const MAX_TOOLS: usize = 10_000;

/// Most changes that are listed; further ones are counted in [`ContractDiff::omitted`].
pub const MAX_CHANGES: usize = 1000;

/// How much a change may hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Callers by the old list notice nothing.
    Fine,
    /// A model may choose or use the tool differently.
    Risky,
    /// A call by the old list may fail, or its result lack what was promised.
    Breaking,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Fine => "fine",
            Severity::Risky => "risky",
            Severity::Breaking => "breaking",
        })
    }
}

/// One change of one tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The tool's name.
    pub tool: String,
    /// Where in the tool's definition: a JSON pointer (RFC 6901), empty for the whole tool.
    pub pointer: String,
    /// How much it may hurt.
    pub severity: Severity,
    /// What happened, for people.
    pub what: String,
}

/// The difference of two lists. Displays as one line: `35 tools added, none changed`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ContractDiff {
    /// Tools in the new list only.
    pub added: usize,
    /// Tools in the old list only.
    pub removed: usize,
    /// Tools in both with some change.
    pub changed: usize,
    /// Tools in both without any.
    pub unchanged: usize,
    /// Each change, by tool, as far as [`MAX_CHANGES`] goes.
    pub changes: Vec<Change>,
    /// Changes beyond [`MAX_CHANGES`].
    pub omitted: usize,
    /// The worst of all changes, also of those left out; `None` if there are none.
    pub severity: Option<Severity>,
}

impl ContractDiff {
    /// Nothing differs that matters to anyone.
    pub fn is_empty(&self) -> bool {
        self.severity.is_none()
    }

    fn note(&mut self, tool: &str, pointer: String, severity: Severity, what: String) {
        self.severity = self.severity.max(Some(severity));
        if self.changes.len() == MAX_CHANGES {
            self.omitted += 1;
            return;
        }
        self.changes.push(Change {
            tool: tool.to_owned(),
            pointer,
            severity,
            what,
        });
    }

    /// Tools with a change of this severity and none worse.
    fn tools_at(&self, severity: Severity) -> usize {
        let mut worst: BTreeMap<&str, Severity> = BTreeMap::new();
        for change in self
            .changes
            .iter()
            .filter(|change| !change.pointer.is_empty())
        {
            let entry = worst.entry(&change.tool).or_insert(change.severity);
            *entry = (*entry).max(change.severity);
        }
        worst.values().filter(|worst| **worst == severity).count()
    }
}

impl fmt::Display for ContractDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no change");
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        if self.added > 0 {
            write!(f, "{} tool{} added, ", self.added, plural(self.added))?;
        }
        if self.removed > 0 {
            write!(f, "{} tool{} removed, ", self.removed, plural(self.removed))?;
        }
        if self.changed == 0 {
            return f.write_str("none changed");
        }
        write!(f, "{} changed", self.changed)?;
        let hurts: Vec<_> = [Severity::Breaking, Severity::Risky]
            .into_iter()
            .map(|severity| (self.tools_at(severity), severity))
            .filter(|(count, _)| *count > 0)
            .map(|(count, severity)| format!("{count} {severity}"))
            .collect();
        if hurts.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", hurts.join(", "))
    }
}

/// Why a list cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// No `tools` array.
    #[error("the {list} tool list has no \"tools\" array; pass the result of tools/list")]
    NotAList {
        /// `old` or `new`.
        list: &'static str,
    },
    /// More than [`MAX_TOOLS`].
    #[error("the {list} tool list has {count} tools; at most {MAX_TOOLS} are compared")]
    TooManyTools {
        /// `old` or `new`.
        list: &'static str,
        /// How many it has.
        count: usize,
    },
    /// A tool without a name.
    #[error("tool {index} of the {list} tool list has no name; the server must name each tool")]
    NoName {
        /// `old` or `new`.
        list: &'static str,
        /// Its place, from 0.
        index: usize,
    },
    /// Two tools of one name.
    #[error("the {list} tool list names {name:?} twice; the server must name each tool once")]
    DuplicateTool {
        /// `old` or `new`.
        list: &'static str,
        /// The name.
        name: String,
    },
}

/// Compares two results of `tools/list`, or arrays of tools put together from several pages.
///
/// # Errors
/// A value is no such list; see [`ContractError`].
pub fn compare(old: &Value, new: &Value) -> Result<ContractDiff, ContractError> {
    let (old, new) = (tools("old", old)?, tools("new", new)?);
    let mut diff = ContractDiff::default();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some(_), None) => {
                diff.removed += 1;
                diff.note(
                    name,
                    String::new(),
                    Severity::Breaking,
                    "tool removed".to_owned(),
                );
            }
            (None, _) => {
                diff.added += 1;
                diff.note(name, String::new(), Severity::Fine, "tool added".to_owned());
            }
            (Some(old), Some(new)) => {
                let mut is_changed = false;
                compare_tool(old, new, &mut |pointer, severity, what| {
                    is_changed = true;
                    diff.note(name, pointer, severity, what);
                });
                diff.changed += usize::from(is_changed);
                diff.unchanged += usize::from(!is_changed);
            }
        }
    }
    Ok(diff)
}

fn tools<'v>(
    list: &'static str,
    value: &'v Value,
) -> Result<BTreeMap<&'v str, &'v Value>, ContractError> {
    let tools = value
        .get("tools")
        .unwrap_or(value)
        .as_array()
        .ok_or(ContractError::NotAList { list })?;
    if tools.len() > MAX_TOOLS {
        let count = tools.len();
        return Err(ContractError::TooManyTools { list, count });
    }
    let mut by_name = BTreeMap::new();
    for (index, tool) in tools.iter().enumerate() {
        let name = tool
            .get("name")
            .and_then(Value::as_str)
            .ok_or(ContractError::NoName { list, index })?;
        if by_name.insert(name, tool).is_some() {
            let name = name.to_owned();
            return Err(ContractError::DuplicateTool { list, name });
        }
    }
    Ok(by_name)
}

/// Where a change goes: pointer, severity, what happened.
type Note<'n> = dyn FnMut(String, Severity, String) + 'n;

fn compare_tool(old: &Value, new: &Value, note: &mut Note<'_>) {
    if old == new {
        return;
    }
    for key in keys(old, new) {
        let (before, after) = (old.get(key), new.get(key));
        if before == after {
            continue;
        }
        let pointer = pointer("", key);
        match key {
            "inputSchema" => schema::compare(Direction::Input, before, after, &pointer, note),
            "outputSchema" => match (before, after) {
                (_, None) => note(
                    pointer,
                    Severity::Breaking,
                    "output schema removed".to_owned(),
                ),
                (None, _) => note(pointer, Severity::Fine, "output schema added".to_owned()),
                _ => schema::compare(Direction::Output, before, after, &pointer, note),
            },
            "annotations" => compare_annotations(before, after, note),
            "execution" => compare_task_support(before, after, note),
            "title" | "icons" | "_meta" => note(pointer, Severity::Fine, format!("{key} changed")),
            _ => note(pointer, Severity::Risky, format!("{key} changed")),
        }
    }
}

/// The hints of a tool with the values they have when absent (2025-11-25, `ToolAnnotations`).
const HINTS: [(&str, bool); 4] = [
    ("readOnlyHint", false),
    ("destructiveHint", true),
    ("idempotentHint", false),
    ("openWorldHint", true),
];

fn compare_annotations(old: Option<&Value>, new: Option<&Value>, note: &mut Note<'_>) {
    let get = |annotations: Option<&Value>, hint: &str, default: bool| {
        let value = annotations.and_then(|annotations| annotations.get(hint));
        value.and_then(Value::as_bool).unwrap_or(default)
    };
    for (hint, default) in HINTS {
        let (before, after) = (get(old, hint, default), get(new, hint, default));
        if before != after {
            let what = format!("{hint} changed from {before} to {after}");
            note(format!("/annotations/{hint}"), Severity::Risky, what);
        }
    }
}

fn compare_task_support(old: Option<&Value>, new: Option<&Value>, note: &mut Note<'_>) {
    let get = |execution: Option<&Value>| match execution
        .and_then(|execution| execution.get("taskSupport"))
        .and_then(Value::as_str)
    {
        Some("required") => "required",
        Some("optional") => "optional",
        _ => "forbidden",
    };
    let (before, after) = (get(old), get(new));
    if before != after {
        let severity = match after {
            "optional" => Severity::Fine,
            _ => Severity::Breaking,
        };
        let what = format!("task support changed from {before} to {after}");
        note("/execution/taskSupport".to_owned(), severity, what);
    }
}

/// The keys of either object, each once, in order.
fn keys<'v>(old: &'v Value, new: &'v Value) -> BTreeSet<&'v str> {
    [old, new]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|fields| fields.keys().map(String::as_str))
        .collect()
}

/// `base` with one more step.
fn pointer(base: &str, key: &str) -> String {
    format!("{base}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests;
