//! From text to data: the YAML reader with its limits, and its errors in our words.

use crate::{
    Checked, ConfigError, Diagnostic, Position, Severity,
    config::File,
    name::suggestion,
    position::{Path, Tree},
    service,
    settings::Settings,
};
use miette::NamedSource;
use serde::de::DeserializeOwned;
use serde_saphyr::{
    Error, Location, MessageFormatter, Options, UserMessageFormatter, budget::BudgetBreach,
};
use serin_model::{manifest::Manifest, plan::Plan};
use std::sync::Arc;

/// Largest file, in bytes. A service takes some 300 bytes, so thousands fit; beyond this somebody named the wrong file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting. The deepest field there is (a threshold in a phase) is at 7; aliases may add some.
const DEPTH_MAX: usize = 32;

/// Most nodes, aliases expanded: more than a file of [`FILE_BYTES_MAX`] sensibly holds, and read in well under a second.
const NODES_MAX: usize = 100_000;

/// What to write into fields whose names make one expect something else.
const EXAMPLES: [(&str, &str); 1] = [(
    "settings.overrides",
    "overrides: { canary: true, version: true }",
)];

/// Reads services and plans from YAML or JSON and checks them. The static sections of a `serin.yaml` may be there and
/// are left alone. `name` is what the diagnostics call the text.
pub fn read_manifest(text: &str, name: &str) -> Result<Checked<Manifest>, ConfigError> {
    let Checked { value, warnings } = read_file(text, name)?;
    let (_, value) = value;
    Ok(Checked { value, warnings })
}

/// The same, with the static sections, which are not checked.
pub fn read_file(text: &str, name: &str) -> Result<Checked<(Settings, Manifest)>, ConfigError> {
    let (file, mut report): (File, Report) = read(text, name)?;
    let (settings, manifest) = Settings::split(file);
    service::check_manifest(&manifest, &mut report);
    report.finish((settings, manifest))
}

/// Reads one plan from YAML or JSON, as it stands in a file of its own, and checks it.
pub fn read_plan(text: &str, name: &str) -> Result<Checked<Plan>, ConfigError> {
    let (plan, mut report): (Plan, Report) = read(text, name)?;
    service::check_phases(&plan, &Path::default(), &mut report);
    report.finish(plan)
}

/// Data from text, and a report that knows the places of its fields.
pub(crate) fn read<T: DeserializeOwned>(
    text: &str,
    name: &str,
) -> Result<(T, Report), ConfigError> {
    let mut report = Report::new(text, name);
    if text.len() > FILE_BYTES_MAX {
        return Err(report.refuse(
            None,
            format!("the file is larger than {} KiB", FILE_BYTES_MAX / 1024),
            "split it and `serin apply` the parts one by one".to_owned(),
        ));
    }
    let tree = parse(text, &report)?;
    report.tree = Some(tree);
    let data = parse(text, &report)?;
    Ok((data, report))
}

fn parse<T: DeserializeOwned>(text: &str, report: &Report) -> Result<T, ConfigError> {
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| report.refuse_unread(&error))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_recorded_anchor_events: NODES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        with_snippet: false,
        emit_comments: false,
    }
}

/// What was found in a file so far.
pub(crate) struct Report {
    name: String,
    source: Arc<NamedSource<String>>,
    tree: Option<Tree>,
    found: Vec<Diagnostic>,
}

impl Report {
    fn new(text: &str, name: &str) -> Self {
        // A file that is too large is not shown either.
        let shown = if text.len() > FILE_BYTES_MAX {
            ""
        } else {
            text
        };
        let source = NamedSource::new(name, shown.to_owned()).with_language("yaml");
        Self {
            name: name.to_owned(),
            source: Arc::new(source),
            tree: None,
            found: Vec::new(),
        }
    }

    pub(crate) fn error(&mut self, at: &Path, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, at, message.into(), help.into());
    }

    pub(crate) fn warning(
        &mut self,
        at: &Path,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Severity::Warning, at, message.into(), help.into());
    }

    fn add(&mut self, severity: Severity, at: &Path, message: String, help: String) {
        let place = self.tree.as_ref().map(|tree| tree.locate(at));
        let found = self.diagnostic(severity, place, message, help);
        self.found.push(Diagnostic {
            field: at.to_string(),
            ..found
        });
    }

    /// The value with its warnings, or everything found if there is an error among it.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<Checked<T>, ConfigError> {
        self.found
            .sort_by_key(|found| found.position.map(|at| at.offset));
        if self
            .found
            .iter()
            .any(|found| found.severity == Severity::Error)
        {
            return Err(ConfigError {
                diagnostics: self.found,
            });
        }
        Ok(Checked {
            value,
            warnings: self.found,
        })
    }

    fn refuse(&self, place: Option<Location>, message: String, help: String) -> ConfigError {
        ConfigError {
            diagnostics: vec![self.diagnostic(Severity::Error, place, message, help)],
        }
    }

    /// The first thing at which reading stopped.
    fn refuse_unread(&self, error: &Error) -> ConfigError {
        let error = error.without_snippet();
        let (message, help) = explain(error);
        let mut refusal = self.refuse(error.location(), message, help);
        if let (Some(tree), Some(place)) = (&self.tree, error.location())
            && let Some(path) = tree.path_at(place)
        {
            let field = path.to_string();
            let example = EXAMPLES.iter().find(|(name, _)| field.ends_with(name));
            for found in &mut refusal.diagnostics {
                if let Some((_, example)) = example {
                    found.help = format!("write for example `{example}`");
                }
                found.field.clone_from(&field);
            }
        }
        refusal
    }

    fn diagnostic(
        &self,
        severity: Severity,
        place: Option<Location>,
        message: String,
        help: String,
    ) -> Diagnostic {
        let position = place.filter(|place| place.line() > 0);
        Diagnostic {
            severity,
            message,
            help,
            field: String::new(),
            file: self.name.clone(),
            position: position.map(|place| position_of(place, self.source.inner())),
            source: Some(Arc::clone(&self.source)),
        }
    }
}

fn position_of(place: Location, text: &str) -> Position {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let (line, column) = (number(place.line()), number(place.column()));
    // The scanner gives its errors a line and column only.
    let offset = place.span().byte_offset().map_or_else(
        || {
            let before = text.split_inclusive('\n').take(line.saturating_sub(1));
            let start: usize = before.map(str::len).sum();
            let rest = text.get(start..).unwrap_or_default().chars();
            start
                + rest
                    .take(column.saturating_sub(1))
                    .map(char::len_utf8)
                    .sum::<usize>()
        },
        number,
    );
    let offset = offset.min(text.len());
    let length = place
        .span()
        .byte_len()
        .map_or(0, number)
        .min(text.len() - offset);
    Position {
        line,
        column,
        offset,
        length,
    }
}

/// The reader's error as what is wrong and what to do.
fn explain(error: &Error) -> (String, String) {
    let (message, help) = match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => {
            return explain(error);
        }
        Error::Message { msg, .. } => return split(msg),
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let help = suggestion(field, expected.iter().copied());
            return (format!("there is no field `{}` here", short(field)), help);
        }
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            let help = suggestion(variant, expected.iter().copied());
            return (format!("`{}` is not known here", short(variant)), help);
        }
        Error::SerdeMissingField { field, .. } => {
            return (
                format!("the field `{field}` is missing"),
                format!("add `{field}:` to this block"),
            );
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            let message = format!("`{}` is here twice", short(key));
            return (message, "remove or rename one of the two".to_owned());
        }
        Error::Unexpected { expected, .. } if expected.contains("mapping") => (
            "a block of fields belongs here",
            "write `name: value` lines, indented below the key",
        ),
        Error::Unexpected { expected, .. } if expected.contains("sequence") => {
            ("a list belongs here", "write `[first, second]`")
        }
        Error::Unexpected { .. } => (
            "a single value belongs here",
            "write one text or number, without brackets",
        ),
        Error::InvalidScalar { ty: "boolean", .. } | Error::InvalidBooleanStrict { .. } => {
            ("this is neither true nor false", "write `true` or `false`")
        }
        Error::InvalidScalar { .. } => (
            "this is not a whole number of a fitting size",
            "write digits only, without a unit",
        ),
        // What is expected is what to write.
        Error::SerdeInvalidType { expected, .. } => {
            let message = UserMessageFormatter.format_message(error).into_owned();
            return (message, format!("write {expected}"));
        }
        Error::NullIntoString { .. } => (
            "there is no value here",
            "write a value after the colon, or remove the field",
        ),
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => (
            "several things stand here, and one belongs here",
            "keep one of them; conditions that must all hold go into a list: `all: [ { .. }, { .. } ]`",
        ),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => (
            "a list stands here, and one thing belongs here",
            "write it without the brackets `[ ]`; several conditions go into `all: [ .. ]` or `any: [ .. ]`",
        ),
        Error::UnknownAnchor { .. } => (
            "this alias stands for nothing",
            "put quotes around a value that begins with `*`, or mark what it stands for with `&`",
        ),
        Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => (
            "the file holds more than one document",
            "remove the `---` lines or split the file",
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => (
            "the file is nested too deep or too large once its aliases are expanded",
            "write it without aliases, or split it and `serin apply` the parts one by one",
        ),
        other => {
            let message = UserMessageFormatter.format_message(other).into_owned();
            let help = "check the indentation, quotes, colons and brackets at this place";
            return (message, help.to_owned());
        }
    };
    (message.to_owned(), help.to_owned())
}

/// Our own types put what to do behind what is wrong: "`x` is not a limit; write `1 %`".
pub(crate) fn split(message: &str) -> (String, String) {
    let cut = ["; write ", ": write ", ": use "]
        .iter()
        .filter_map(|mark| message.rfind(mark))
        .max();
    match cut.and_then(|at| Some((message.get(..at)?, message.get(at + 2..)?))) {
        Some((what, help)) => (what.to_owned(), help.to_owned()),
        None => (
            message.to_owned(),
            "write a value of the kind that belongs here".to_owned(),
        ),
    }
}

/// As much of outside text as a message carries.
pub(crate) fn short(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
