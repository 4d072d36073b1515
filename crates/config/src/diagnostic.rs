//! What is wrong in a file, where, and what to do: one type for the terminal (miette) and the admin API (JSON).

use miette::{LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;
use std::{fmt, sync::Arc};

/// A value that passed its checks, with what is merely odd about it.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    /// The value.
    pub value: T,
    /// Worth a look, no reason to refuse.
    pub warnings: Vec<Diagnostic>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken.
    Warning,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In bytes, from 0.
    #[serde(skip)]
    pub offset: usize,
    /// In bytes.
    #[serde(skip)]
    pub length: usize,
}

/// One problem.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// The field, as a path such as `plans.mine.phases[1].share`; empty where the text could not be read at all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// The file, as it was named to us.
    pub file: String,
    /// Where in the file; nothing when there is no such place, as for a file that cannot be opened.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(skip)]
    pub(crate) source: Option<Arc<NamedSource<String>>>,
}

/// Why a file was refused: at least one diagnostic of severity error, and the warnings found beside it.
#[derive(Clone, Debug)]
pub struct ConfigError {
    /// In the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Diagnostic {
    /// `serin.yaml:7:13`, or as much of it as is known.
    pub fn place(&self) -> String {
        match self.position {
            Some(Position { line, column, .. }) => format!("{}:{line}:{column}", self.file),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_deref().map(|source| source as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = self.position?;
        let label = LabeledSpan::new(Some("here".to_owned()), at.offset, at.length);
        Some(Box::new(std::iter::once(label)))
    }
}

/// Without a source to show: one line a problem, for logs and for clients of the admin API.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.diagnostics.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            let Diagnostic { message, help, .. } = problem;
            write!(f, "{end}{}: {message}; {help}", problem.place())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use crate::Config;
    use miette::{GraphicalReportHandler, GraphicalTheme};

    #[test]
    fn a_diagnostic_shows_the_line_and_what_to_do() {
        let text = "control:\n  tick: 5ms\n";
        let error = Config::parse(text, "serin.yaml").unwrap_err();
        let mut shown = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::none())
            .render_report(&mut shown, &error.diagnostics[0])
            .unwrap();
        for part in ["serin.yaml:2:9", "tick: 5ms", "here", "help: write"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn a_diagnostic_is_json_for_the_admin_api() {
        let error = Config::parse("control:\n  tick: 5ms\n", "serin.yaml").unwrap_err();
        let json = serde_json::to_value(&error.diagnostics[0]).unwrap();
        assert_eq!(json["severity"], "error");
        assert_eq!(json["field"], "control.tick");
        assert_eq!(
            (json["line"].as_u64(), json["column"].as_u64()),
            (Some(2), Some(9))
        );
        assert!(json.get("source").is_none());
    }
}
