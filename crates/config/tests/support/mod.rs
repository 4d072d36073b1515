//! Files with one thing wrong in them, and what is said of it.

use serin_config::{Config, ConfigError};

/// A slip of the hand in a file in which nothing is wrong.
pub(crate) struct Case {
    /// What stands in the file, and what a hand slipped to.
    pub(crate) good: &'static str,
    pub(crate) bad: &'static str,
    /// Where, and the field.
    pub(crate) place: (usize, usize),
    pub(crate) field: &'static str,
    pub(crate) message: &'static str,
    pub(crate) help: &'static str,
    /// What doing as the help says makes of `bad`.
    pub(crate) mended: &'static str,
}

/// What is said of a file that must not be taken.
pub(crate) fn refused(text: &str) -> ConfigError {
    match Config::parse(text, "serin.yaml") {
        Err(error) => error,
        Ok(checked) => panic!("nothing was wrong in:\n{text}\n{:?}", checked.warnings),
    }
}

/// Each case in this file is one problem, which is said with its place; and doing as the help says makes it go away.
pub(crate) fn each_is_told_and_its_help_helps(file: &str, cases: &[Case]) {
    Config::parse(file, "serin.yaml").unwrap_or_else(|error| panic!("{error}"));
    let mut wrong = Vec::new();
    for case in cases {
        let written = |part| file.replacen(case.good, part, 1);
        assert_ne!(written(case.bad), file, "{:?}", case.good);
        let found = refused(&written(case.bad)).diagnostics;
        let is_told = matches!(found.as_slice(), [only]
            if only.position.map(|at| (at.line, at.column)) == Some(case.place)
                && only.field == case.field
                && only.message.contains(case.message)
                && only.help.contains(case.help)
                && !only.help.is_empty());
        if !is_told {
            wrong.push(format!("{:?}\n  {found:?}", case.bad));
        }
        if let Err(error) = Config::parse(&written(case.mended), "serin.yaml") {
            wrong.push(format!("{:?}\n  still refused: {error}", case.mended));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
