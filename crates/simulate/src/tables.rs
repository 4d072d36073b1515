//! The tables of judge.md section 5 with this judge's own figures, and what must be true of them.
//!
//! `cargo xtask simulate` prints them; short versions run as tests. A figure that must stay within a bound and does not is a
//! failure of its table.

pub mod alarms;
pub mod counting;
pub mod delays;
pub mod floor;
pub mod late;
pub mod paired;

use crate::{Seed, figures::Chance};
use std::fmt::{self, Write as _};

/// How much is simulated, and from which seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// What all seeds are made of, such as the commit: with it and the name of a row anybody can repeat the row.
    pub root: String,
    /// Runs of a row that bounds a chance.
    pub runs: u64,
    /// Runs of a row that takes a median.
    pub median_runs: u64,
    /// Whether a bound is broken only when that is shown.
    pub is_glance: bool,
}

impl Scope {
    /// What is published: a bound that is not shown to be kept is broken.
    pub fn full(root: &str) -> Self {
        Self {
            root: root.to_owned(),
            runs: 4000,
            median_runs: 4000,
            is_glance: false,
        }
    }

    /// A glance: with so few runs a bound is broken only when that is shown, not when it is not shown to be kept.
    pub fn quick(root: &str) -> Self {
        Self {
            root: root.to_owned(),
            runs: 400,
            median_runs: 400,
            is_glance: true,
        }
    }

    /// What chance alone may add to a ratio of medians. In a full run nothing: its medians are known within two in a hundred.
    pub const fn leeway(&self) -> f64 {
        if self.is_glance { 1.1 } else { 1.0 }
    }

    /// The seed of a row.
    pub fn seed(&self, row: &str) -> Seed {
        Seed::new(&self.root, row)
    }
}

/// Figures in rows and columns, with what is wrong about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// What the columns hold.
    pub columns: Vec<String>,
    /// The cells, row by row.
    pub rows: Vec<Vec<String>>,
    /// What to know when reading it.
    pub notes: Vec<String>,
    /// Which figures break their bound, and how.
    pub failures: Vec<String>,
}

impl Table {
    /// An empty one.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds what to know.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// Fails unless `kept`.
    pub fn must(&mut self, kept: bool, otherwise: impl FnOnce() -> String) {
        if !kept {
            let failure = format!("{}: {}", self.title, otherwise());
            self.failures.push(failure);
        }
    }

    /// Fails unless the chance is shown to be at most `alpha`: its upper bound is. At a glance, only if its lower bound is not.
    pub fn must_be_rare(
        &mut self,
        scope: &Scope,
        row: &str,
        judge: &str,
        chance: Chance,
        alpha: f64,
    ) {
        let bound = if scope.is_glance {
            chance.lower()
        } else {
            chance.upper()
        };
        self.must(bound <= alpha, || {
            format!(
                "{row}: {judge} raised {} false alarms in {} runs: up to {}, more than {}",
                chance.hits,
                chance.runs,
                percent(chance.upper()),
                percent(alpha)
            )
        });
    }
}

/// In Markdown: it reads well on a screen too.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widths = cells
                .chain(self.columns.get(column))
                .map(|cell| cell.chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut line = String::from("|");
            for (column, width) in widths.iter().enumerate() {
                let cell = cells.get(column).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                // Names to the left, figures to the right.
                let _ = if column == 0 {
                    write!(line, " {cell}{pad} |")
                } else {
                    write!(line, " {pad}{cell} |")
                };
            }
            line
        };
        writeln!(f, "## {}\n", self.title)?;
        writeln!(f, "{}", line(&self.columns))?;
        let rule: Vec<_> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| {
                let dashes = "-".repeat(width.saturating_sub(usize::from(column > 0)));
                if column == 0 { dashes } else { dashes + ":" }
            })
            .collect();
        writeln!(f, "{}", line(&rule))?;
        for row in &self.rows {
            writeln!(f, "{}", line(row))?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "\nFAILED {failure}")?;
        }
        Ok(())
    }
}

/// A chance with its upper bound: `0.15 % (< 0.29 %)`.
pub fn shown(chance: Chance) -> String {
    format!("{} (< {})", percent(chance.rate()), percent(chance.upper()))
}

/// `1.25 %`.
pub fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent >= 10.0 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.2} %")
    }
}

/// A number of calls or looks, `-` when it was not found in half of the runs.
pub fn count(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.0}"),
        _ => "-".to_owned(),
    }
}

/// `1.43`.
pub fn ratio(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.2}")
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_tell_what_failed() {
        let mut table = Table::new("Alarms", &["row", "ours"]);
        let chance = Chance {
            hits: 40,
            runs: 4000,
        };
        table.row(["constant 1 %".to_owned(), shown(chance)]);
        table.must_be_rare(&Scope::full(""), "constant 1 %", "ours", chance, 0.05);
        assert!(table.failures.is_empty());
        table.must_be_rare(&Scope::full(""), "constant 1 %", "ours", chance, 0.01);
        assert_eq!(table.failures.len(), 1);
        let text = table.to_string();
        assert!(
            text.contains("| constant 1 % | 1.00 % (< 1.30 %) |"),
            "{text}"
        );
        assert!(
            text.contains("| ------------ | ----------------: |"),
            "{text}"
        );
        assert!(
            text.contains("FAILED Alarms: constant 1 %: ours raised 40"),
            "{text}"
        );
    }
}
