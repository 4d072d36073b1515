//! The parts of the screen, from top to bottom.

use super::{
    evidence::hint,
    line::{BAD, BOLD, BUSY, FAINT, GOOD, Line, ODD, PLAIN},
};
use crate::exit::Exit;
use anstyle::Style;
use jiff::{Timestamp, tz::TimeZone};
use serin_control::view::{Arms, RolloutView, ServiceView};
use serin_model::rollout::Status;
use std::{borrow::Cow, time::Duration};

/// Where the labels end.
pub(super) const LABEL: usize = 8;
/// Where the stable side of a tool's columns ends.
const TOOL_COLUMNS: [usize; 3] = [33, 52, 68];
/// Room that a text beside a label has at least, in columns.
const TEXT_COLUMNS_MIN: usize = 20;
/// Longest name of a tool that is shown whole.
const TOOL_CHARS_MAX: usize = 24;

/// A label, and from column `said` on a text that may take several lines.
pub(super) fn below(
    label: &str,
    style: Style,
    text: &str,
    said: usize,
    columns: usize,
) -> Vec<Line> {
    let room = columns.saturating_sub(said).max(TEXT_COLUMNS_MIN);
    let line = |(at, part): (usize, &Cow<'_, str>)| {
        let line = if at == 0 {
            Line::default().styled(style, label).to(said)
        } else {
            Line::default().text(" ".repeat(said))
        };
        line.text(part)
    };
    (textwrap::wrap(text, room).iter().enumerate())
        .map(line)
        .collect()
}

/// What of an endpoint's troubles is so, in words.
pub(super) fn standing_of(troubles: &[(bool, &str)]) -> (Style, String) {
    let words: Vec<_> = (troubles.iter())
        .filter(|(is, _)| *is)
        .map(|(_, word)| *word)
        .collect();
    let is_meant = |word: &&str| matches!(*word, "draining" | "drained" | "new" | "warming up");
    match words.as_slice() {
        [] => (GOOD, "healthy".to_owned()),
        words if words.iter().all(is_meant) => (ODD, words.join(", ")),
        _ => (BAD, words.join(", ")),
    }
}

pub(super) fn header(service: &ServiceView, rollout: &RolloutView, now: Timestamp) -> Line {
    let (style, mark) = match rollout.status {
        Status::Running if rollout.held.is_some() => (ODD, "● running, held"),
        Status::Running if rollout.ready => (ODD, "● running, ready to promote"),
        Status::Running => (BUSY, "● running"),
        Status::Paused => (ODD, "‖ paused"),
        Status::Inconclusive => (ODD, "? inconclusive"),
        Status::Promoted => (GOOD, "✔ promoted"),
        Status::RolledBack => (BAD, "✖ rolled back"),
        Status::Aborted => (BAD, "✖ aborted"),
    };
    let since = rollout
        .ended_at
        .unwrap_or(now)
        .duration_since(rollout.started_at);
    Line::default()
        .styled(BOLD, service.name.as_str())
        .to(LABEL)
        .styled(BOLD, format!("{} → {}", rollout.from, rollout.to))
        .text(format!("   plan {}   ", rollout.plan))
        .styled(style, mark)
        .text(format!("   {}", span(since.as_secs_f64())))
}

/// What the plan says of itself.
pub(super) fn plan(rollout: &RolloutView, columns: usize) -> Vec<Line> {
    if rollout.plan_description.is_empty() {
        return Vec::new();
    }
    wrapped("plan", LABEL, FAINT, &rollout.plan_description, columns)
}

pub(super) fn share(rollout: &RolloutView) -> Line {
    let by_hand = if rollout.share_by_hand {
        " by hand"
    } else {
        ""
    };
    let realised = rollout.share_realised().map_or_else(
        || "no new keys yet".to_owned(),
        |share| format!("{:.1} % realised", share * 100.0),
    );
    let Arms { stable, candidate } = rollout.keys;
    Line::default()
        .styled(FAINT, "share")
        .to(LABEL)
        .styled(BOLD, rollout.share_wanted.to_string())
        .text(format!(" wanted{by_hand}   {realised}"))
        .styled(
            FAINT,
            format!("   new keys {stable} stable, {candidate} candidate"),
        )
}

/// The rail: passed, present, to come.
pub(super) fn phases(rollout: &RolloutView) -> Line {
    let mut line = Line::default().styled(FAINT, "phases").to(LABEL);
    for (index, phase) in rollout.phases.iter().enumerate() {
        if index > 0 {
            line = line.styled(FAINT, " ── ");
        }
        let name = phase
            .name
            .as_ref()
            .map(|name| format!("{name} "))
            .unwrap_or_default();
        let label = format!("{name}{}", phase.share);
        line = match (index.cmp(&rollout.phase), rollout.status) {
            (_, Status::Promoted) | (std::cmp::Ordering::Less, _) => {
                line.styled(GOOD, format!("✔ {label}"))
            }
            (std::cmp::Ordering::Greater, _) => line.styled(FAINT, format!("○ {label}")),
            (_, Status::RolledBack | Status::Aborted) => line.styled(BAD, format!("✖ {label}")),
            _ => line.styled(BUSY, format!("◉ {label}")),
        };
    }
    line
}

/// What it waits for: hold, deadline, evidence, a person.
pub(super) fn waiting(rollout: &RolloutView, columns: usize) -> Vec<Line> {
    if rollout.status.is_terminal() {
        return Vec::new();
    }
    let hold = rollout.hold_seconds - rollout.step_seconds;
    let hold = if hold > 0.0 {
        format!("hold {} left", span(hold.ceil()))
    } else {
        "hold is over".to_owned()
    };
    let deadline = rollout
        .deadline_seconds
        .map(|deadline| deadline - rollout.step_seconds);
    let deadline = deadline.map_or_else(
        || "no deadline".to_owned(),
        |left| {
            if left > 0.0 {
                format!("deadline in {}", span(left.ceil()))
            } else {
                "deadline is over".to_owned()
            }
        },
    );
    let seen = if rollout.evidence_wanted.starts_with("calls") {
        format!("{} calls", rollout.arms.candidate.calls)
    } else {
        format!("{} trials", rollout.trials)
    };
    let mut lines = vec![
        Line::default()
            .styled(FAINT, "waits")
            .to(LABEL)
            .text(format!(
                "{hold}   {deadline}   evidence `{}`, {seen} so far",
                rollout.evidence_wanted
            )),
    ];
    let reasons = [
        ("missing", ODD, rollout.missing.clone()),
        ("held", ODD, rollout.held.clone()),
        (
            "ready",
            GOOD,
            rollout
                .ready
                .then(|| "passed; waits for `serin rollout promote`".to_owned()),
        ),
    ];
    for (label, style, reason) in reasons {
        if let Some(reason) = reason {
            lines.extend(wrapped(label, LABEL, style, &reason, columns));
        }
    }
    lines
}

/// Tool by tool, as `stable → candidate`.
pub(super) fn tools(rollout: &RolloutView, most: usize) -> Vec<Line> {
    if rollout.tools.is_empty() || most == 0 {
        return Vec::new();
    }
    let [errors, latency, calls] = TOOL_COLUMNS;
    let title = Line::default()
        .styled(FAINT, "tool, worst first")
        .right(errors, FAINT, "errors")
        .styled(FAINT, " →")
        .right(latency, FAINT, "p95")
        .styled(FAINT, " →")
        .right(calls, FAINT, "calls")
        .styled(FAINT, " →");
    let mut lines = vec![Line::default(), title];
    for tool in rollout.tools.iter().take(most) {
        let Arms { stable, candidate } = &tool.arms;
        let name: String = tool.tool.chars().take(TOOL_CHARS_MAX).collect();
        lines.push(
            Line::default()
                .text(name)
                .right(errors, PLAIN, &ratio(stable.error_rate))
                .text(" → ")
                .styled(
                    hint(&tool.arms, |arm| arm.error_rate),
                    ratio(candidate.error_rate),
                )
                .right(latency, PLAIN, &seconds(stable.latency_p95_seconds))
                .text(" → ")
                .styled(
                    hint(&tool.arms, |arm| arm.latency_p95_seconds),
                    seconds(candidate.latency_p95_seconds),
                )
                .right(calls, PLAIN, &stable.calls.to_string())
                .text(format!(" → {}", candidate.calls)),
        );
    }
    if rollout.tools.len() > most {
        lines.push(
            Line::default().styled(FAINT, format!("and {} more", rollout.tools.len() - most)),
        );
    }
    lines
}

/// As many of the newest events as there is room for, oldest of them first, below a blank line.
pub(super) fn events(rollout: &RolloutView, most: usize, room: usize, columns: usize) -> Vec<Line> {
    let mut shown = Vec::new();
    for event in rollout.events.iter().rev().take(most) {
        let by = if event.actor == "serin" {
            String::new()
        } else {
            format!(" ({})", event.actor)
        };
        let text = format!("{}{by}", event.text);
        let lines = wrapped(&clock(event.at), LABEL + 2, PLAIN, &text, columns);
        let taken: usize = shown.iter().map(Vec::len).sum();
        if taken + lines.len() + 1 > room {
            break;
        }
        shown.push(lines);
    }
    if shown.is_empty() {
        return Vec::new();
    }
    let events = shown.into_iter().rev().flatten();
    std::iter::once(Line::default()).chain(events).collect()
}

/// How it ended, and what the exit code says.
pub(super) fn ending(service: &ServiceView, rollout: &RolloutView, columns: usize) -> Vec<Line> {
    let style = match rollout.status {
        Status::Promoted => GOOD,
        Status::Inconclusive => ODD,
        Status::RolledBack | Status::Aborted => BAD,
        Status::Running | Status::Paused => return Vec::new(),
    };
    let what = match rollout.status {
        Status::Inconclusive => {
            "waits for a decision: `serin rollout promote`, `abort` or `rollback`".to_owned()
        }
        _ => rollout.ended_reason.clone().unwrap_or_default(),
    };
    let mut lines = vec![Line::default()];
    lines.extend(wrapped(
        rollout.status.label().replace('_', " ").as_str(),
        LABEL + 6,
        style,
        &what,
        columns,
    ));
    if rollout.sessions_rebound + rollout.sessions_ended > 0 {
        lines.push(Line::default().to(LABEL + 6).text(format!(
            "live sessions: {} went on with {}, {} got a 404 and begin again",
            rollout.sessions_rebound, service.stable, rollout.sessions_ended
        )));
    }
    lines.push(
        Line::default()
            .styled(FAINT, "exit code")
            .to(LABEL + 6)
            .styled(FAINT, (Exit::of(rollout.status) as u8).to_string()),
    );
    lines
}

/// A label and a text that may take several lines, the further ones below the first.
pub(super) fn wrapped(
    label: &str,
    column: usize,
    style: Style,
    text: &str,
    columns: usize,
) -> Vec<Line> {
    let room = columns.saturating_sub(column).max(20);
    // A number and its percent sign stay together.
    let text = text.replace(" %", "\u{a0}%");
    let mut lines = Vec::new();
    for (index, part) in textwrap::wrap(&text, room).iter().enumerate() {
        let line = if index == 0 {
            Line::default().styled(FAINT, label)
        } else {
            Line::default()
        };
        let line = if index == 0 {
            line.to(column)
        } else {
            line.text(" ".repeat(column))
        };
        lines.push(line.styled(style, part.replace('\u{a0}', " ")));
    }
    lines
}

pub(crate) fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system())
        .strftime("%H:%M:%S")
        .to_string()
}

/// A span in whole seconds: `1m 4s`.
pub(crate) fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0).floor()).unwrap_or_default();
    serin_model::text::format_duration(whole)
}

pub(crate) fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
}

pub(crate) fn seconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 0.01 => format!("{:.1} ms", value * 1e3),
        Some(value) if value < 1.0 => format!("{:.0} ms", value * 1e3),
        Some(value) => format!("{value:.2} s"),
    }
}
