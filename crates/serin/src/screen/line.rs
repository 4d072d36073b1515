//! A line that knows how wide it is on the terminal.

use anstyle::{AnsiColor, Style};
use textwrap::core::display_width;

pub(super) const PLAIN: Style = Style::new();
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const ODD: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const BUSY: Style = AnsiColor::Cyan.on_default();

/// Pieces of text with their styles.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pieces: Vec<(Style, String)>,
    width: usize,
}

impl Line {
    pub(super) fn text(self, text: impl AsRef<str>) -> Self {
        self.styled(PLAIN, text)
    }

    /// Text from outside comes in here too: control characters would leave the line.
    pub(super) fn styled(mut self, style: Style, text: impl AsRef<str>) -> Self {
        let text: String = text
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        self.width += display_width(&text);
        self.pieces.push((style, text));
        self
    }

    /// Blanks up to a column, at least one if there is something already.
    pub(super) fn to(self, column: usize) -> Self {
        let blanks = column
            .saturating_sub(self.width)
            .max(usize::from(self.width > 0));
        self.text(" ".repeat(blanks))
    }

    /// Text that ends before a column.
    pub(super) fn right(self, column: usize, style: Style, text: &str) -> Self {
        let start = column.saturating_sub(display_width(text));
        self.to(start).styled(style, text)
    }

    /// The line for the terminal, no wider than that.
    pub(super) fn cut(self, columns: usize) -> String {
        let fits = self.width <= columns;
        let mut left = if fits {
            columns
        } else {
            columns.saturating_sub(1)
        };
        let mut out = String::new();
        for (style, text) in &self.pieces {
            let mut part = String::new();
            for c in text.chars() {
                let width = display_width(c.encode_utf8(&mut [0; 4]));
                if width > left {
                    left = 0;
                    break;
                }
                left -= width;
                part.push(c);
            }
            if !part.is_empty() {
                out += &format!("{style}{part}{style:#}");
            }
            if left == 0 {
                break;
            }
        }
        if !fits {
            out.push('…');
        }
        out.truncate(out.trim_end().len());
        out
    }
}
