//! From text to data: the YAML reader with its limits, and its errors in our words.

use crate::{
    Checked, ConfigError, Diagnostic, Position, Severity,
    config::File,
    name::suggestion,
    position::{Path, Tree},
    service,
};
use miette::NamedSource;
use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Location, MessageFormatter, Options, UserMessageFormatter};
use serin_model::manifest::Manifest;
use std::sync::Arc;

/// Largest file, in bytes. A service takes some 300 bytes, so thousands fit; beyond this somebody named the wrong file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting. The deepest field there is (a threshold in a phase) is at 7; aliases may add some.
const DEPTH_MAX: usize = 32;

/// Most nodes, aliases expanded: more than a file of [`FILE_BYTES_MAX`] sensibly holds, and read in well under a second.
const NODES_MAX: usize = 100_000;

/// Reads services and plans from YAML or JSON and checks them. The static sections of a `serin.yaml` may be there and
/// are left alone. `name` is what the diagnostics call the text.
pub fn read_manifest(text: &str, name: &str) -> Result<Checked<Manifest>, ConfigError> {
    let (file, mut report): (File, Report) = read(text, name)?;
    let manifest = file.manifest();
    service::check_manifest(&manifest, &mut report);
    report.finish(manifest)
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
    let data = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| report.refuse_syntax(&error))?;
    report.tree = Some(
        serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| report.refuse_syntax(&error))?,
    );
    Ok((data, report))
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

    fn refuse_syntax(&self, error: &Error) -> ConfigError {
        let error = error.without_snippet();
        let (message, help) = explain(error);
        self.refuse(error.location(), message, help)
    }

    fn diagnostic(
        &self,
        severity: Severity,
        place: Option<Location>,
        message: String,
        help: String,
    ) -> Diagnostic {
        let length = self.source.inner().len();
        let position = place.filter(|place| place.line() > 0).map(|place| {
            let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let offset = place.span().byte_offset().map_or(0, number).min(length);
            Position {
                line: number(place.line()),
                column: number(place.column()),
                offset,
                length: place
                    .span()
                    .byte_len()
                    .map_or(0, number)
                    .min(length - offset),
            }
        });
        Diagnostic {
            severity,
            message,
            help,
            field: String::new(),
            file: self.name.clone(),
            position,
            source: Some(Arc::clone(&self.source)),
        }
    }
}

/// The reader's error as what is wrong and what to do.
fn explain(error: &Error) -> (String, String) {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => explain(error),
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let help = suggestion(field, expected.iter().copied());
            (format!("there is no field `{}` here", short(field)), help)
        }
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            let help = suggestion(variant, expected.iter().copied());
            (format!("`{}` is not known here", short(variant)), help)
        }
        Error::SerdeMissingField { field, .. } => (
            format!("the field `{field}` is missing"),
            format!("add `{field}:` here"),
        ),
        Error::DuplicateMappingKey { key, .. } => (
            format!(
                "`{}` is here twice",
                short(key.as_deref().unwrap_or("a key"))
            ),
            "remove or rename one of the two".to_owned(),
        ),
        Error::Message { msg, .. } => split(msg),
        other => {
            let message = UserMessageFormatter.format_message(other).into_owned();
            (
                message,
                "check the indentation, quotes, colons and brackets at this place".to_owned(),
            )
        }
    }
}

/// Our own types put what to do behind what is wrong: "`x` is not a limit; write `1 %`".
fn split(message: &str) -> (String, String) {
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
