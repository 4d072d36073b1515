//! The screen on a terminal: drawn over itself, and the cursor given back however it ends.

use super::{PAPER, Size, draw};
use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use jiff::Timestamp;
use serin_control::view::ServiceView;
use std::io::{self, IsTerminal as _, Write as _};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_TO_END_OF_SCREEN: &str = "\x1b[J";

/// A screen that is drawn over itself.
pub(crate) struct Live {
    /// Lines that it has at present.
    lines: usize,
    coloured: bool,
}

impl Live {
    /// Begins below what is on the terminal.
    pub(crate) fn new() -> Self {
        print(HIDE_CURSOR);
        let coloured = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Self { lines: 0, coloured }
    }

    /// Draws the rollout of a service in place of what was drawn before.
    pub(crate) fn paint(&mut self, service: &ServiceView, now: Timestamp) {
        let Some(rollout) = &service.rollout else {
            return;
        };
        self.paint_lines(&draw(service, rollout, now, terminal().unwrap_or(PAPER)));
    }

    /// Draws lines in place of what was drawn before.
    pub(crate) fn paint_lines(&mut self, lines: &[String]) {
        let mut frame = match self.lines {
            0 => String::new(),
            n => format!("\x1b[{n}A\r"),
        };
        for line in lines {
            if self.coloured {
                frame += line;
            } else {
                frame += &strip_str(line).to_string();
            }
            frame += CLEAR_TO_END_OF_LINE;
            frame.push('\n');
        }
        frame += CLEAR_TO_END_OF_SCREEN;
        self.lines = lines.len();
        print(&frame);
    }

    /// A line below the screen that the next one takes the place of.
    pub(crate) fn note(&mut self, text: &str) {
        print(&format!("{text}{CLEAR_TO_END_OF_LINE}\n"));
        self.lines += 1;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        print(SHOW_CURSOR);
    }
}

/// Not through `anstream`: without colours it would take the cursor's moves out too. A terminal that is gone is noticed by
/// whoever waits for signals.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The room on the terminal, when standard output is one.
pub(crate) fn terminal() -> Option<Size> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = terminal_size::terminal_size_of(io::stdout());
    Some(size.map_or(
        Size {
            columns: 80,
            rows: 24,
        },
        |(columns, rows)| Size {
            columns: columns.0.into(),
            rows: rows.0.into(),
        },
    ))
}
