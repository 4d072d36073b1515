//! The screen of a rollout: what is drawn is a pure function of the picture, the time and the size.
//!
//! Lines carry their colours as ANSI sequences; whoever prints them takes the colours out where they are not wanted
//! (`anstream`).

mod evidence;
pub(crate) mod explain;
mod line;
mod live;
mod parts;
pub(crate) mod status;

pub(crate) use evidence::about;
pub(crate) use live::{Live, terminal};
pub(crate) use parts::{clock, ratio, seconds, span};

use jiff::Timestamp;
use line::Line;
use serin_control::view::{RolloutView, ServiceView};

/// Room on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Room where there is no terminal: nothing is cut off.
pub(crate) const PAPER: Size = Size {
    columns: 120,
    rows: usize::MAX,
};

/// Tools shown at most: the worst are first.
const TOOLS_MAX: usize = 8;
/// Events shown at most: the newest.
const EVENTS_MAX: usize = 8;

/// A terminal with fewer rows gets no details.
const DETAIL_ROWS: usize = 30;

/// Everything about the rollout of a service, as lines no longer and no more than there is room for.
pub(crate) fn draw(
    service: &ServiceView,
    rollout: &RolloutView,
    now: Timestamp,
    size: Size,
) -> Vec<String> {
    let mut head = vec![parts::header(service, rollout, now)];
    head.extend(parts::plan(rollout, size.columns));
    head.extend([parts::share(rollout), parts::phases(rollout)]);
    head.extend(parts::waiting(rollout, size.columns));
    head.extend(evidence::notes(rollout, size.columns));
    head.push(Line::default());
    let details = size.rows >= DETAIL_ROWS;
    head.extend(evidence::table(rollout, size.columns, details));
    let tail = parts::ending(service, rollout, size.columns);
    // Tools and events share what is left, events first: they say why.
    let room = size.rows.saturating_sub(head.len() + tail.len() + 1);
    let events = parts::events(rollout, EVENTS_MAX, room, size.columns);
    // Beside the tools themselves: a blank line, their title, and how many more there are.
    let left = (room - events.len()).saturating_sub(3);
    let tools = parts::tools(rollout, TOOLS_MAX.min(left));
    let all = head.into_iter().chain(tools).chain(events).chain(tail);
    let lines = all.map(|line| line.cut(size.columns));
    lines.take(size.rows.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests;
