//! How errors are shown: what was wrong, what it comes from, and what to do.

use miette::{Diagnostic, MietteHandlerOpts, Report, Severity};
use std::{error::Error, fmt, io};

/// Something that went wrong, and what to do about it.
#[derive(Debug)]
pub(crate) struct Problem {
    what: String,
    help: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    severity: Severity,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: help.into(),
            source: None,
            severity: Severity::Error,
        }
    }

    /// Worth a look, and no reason to stop.
    pub(crate) fn warning(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::new(what, help)
        }
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as _)
    }
}

/// Lines are not wrapped: commands in a help line stay whole.
pub(crate) fn install(no_color: bool) {
    // Set once, here, at the start: there is no other hook that it could collide with.
    let _ = miette::set_hook(Box::new(move |_| {
        let mut options = MietteHandlerOpts::new().wrap_lines(false);
        if no_color {
            options = options.color(false);
        }
        Box::new(options.build())
    }));
}

/// Whether whoever read our output has gone.
pub(crate) fn is_broken_pipe(error: &Report) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The problems of a file, shown one after another, and the report that ends the command.
pub(crate) fn refused(error: serin_config::ConfigError) -> Report {
    let mut problems = error
        .diagnostics
        .into_iter()
        .map(Report::new)
        .collect::<Vec<_>>();
    let last = problems.pop();
    for problem in problems {
        eprintln!("{problem:?}");
    }
    last.unwrap_or_else(|| Report::new(Problem::new("the file is refused", "")))
}

/// What is merely odd in a file.
pub(crate) fn warn(warnings: Vec<serin_config::Diagnostic>) {
    for warning in warnings {
        eprintln!("{:?}", Report::new(warning));
    }
}

/// Standard output cannot be written.
pub(crate) fn output(error: io::Error) -> Report {
    Report::new(
        Problem::new(
            "the output cannot be written",
            "look at where standard output goes",
        )
        .because(error),
    )
}
