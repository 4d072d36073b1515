//! The screen of the whole system: services, flags, kills, the audit trail and the log, on one page.

use super::{
    PAPER, Size, clock,
    line::{BAD, BOLD, BUSY, FAINT, GOOD, Line, ODD},
    parts::{below, standing_of},
    ratio, seconds, span,
};
use anstyle::Style;
use serin_admin::status::{
    EndpointStatus, KillStatus, RolloutStatus, ServiceStatus, Status, Traffic, VersionStatus,
};
use serin_flags::FlagKey;
use serin_judge::Level;
use serin_model::{rollout::Status as RolloutState, service::VersionStage};

/// Where what is said of a version, and of an endpoint, begins.
const SAID: usize = 22;
/// Where the number of an endpoint's requests ends, and its URL begins.
const LOAD: usize = 46;
/// More endpoints of a version than this are shown only as far as something is wrong with them.
const ENDPOINTS_MAX: usize = 8;
/// With more services than this, those with which nothing is wrong or under way get one line each.
const SERVICES_MAX: usize = 8;
/// Minutes that are over before what is "now": the last one has hardly begun.
const RECENT_MINUTES: usize = 2;

/// Everything, as lines no longer and no more than there is room for.
pub(crate) fn draw(status: &Status, size: Size) -> Vec<String> {
    let mut lines = vec![head(status)];
    if !status.leader {
        let text =
            "another process has opened the log and decides; this one goes on as it was last told";
        lines.extend(below("not in charge", BAD, text, SAID, size.columns));
    }
    if status.services.is_empty() {
        lines.push(
            Line::default()
                .text("no services; describe them in a file and run `serin apply -f FILE`"),
        );
    }
    let are_many = status.services.len() > SERVICES_MAX;
    for service in &status.services {
        lines.push(title(service));
        if !are_many || !is_quiet(service) {
            lines.extend(details(service, size.columns));
        }
    }
    lines.push(flags(status));
    lines.extend(status.kills.iter().flat_map(|of| kill(of, size.columns)));
    lines.extend(books(status));
    let rows = size.rows.saturating_sub(1);
    let hidden = lines.len().saturating_sub(rows);
    if hidden > 0 && size != PAPER {
        lines.truncate(rows.saturating_sub(1));
        let more = format!("and {} more lines; make the terminal larger", hidden + 1);
        lines.push(Line::default().styled(FAINT, more));
    }
    let lines = lines.into_iter().map(|line| line.cut(size.columns));
    lines.take(rows).collect()
}

fn head(status: &Status) -> Line {
    let up = status.at.duration_since(status.started_at).as_secs_f64();
    Line::default()
        .styled(BOLD, format!("serin {}", status.version))
        .text(format!(" ({:.12})", status.revision))
        .text(format!("  {}  up {}", status.environment, span(up)))
        .styled(FAINT, format!("  event {}", status.position))
}

fn title(service: &ServiceStatus) -> Line {
    let protocol = format!("{:?}", service.protocol).to_lowercase();
    let path = match service.path.as_str() {
        "" => "/",
        path => path,
    };
    let line = Line::default()
        .styled(BOLD, service.name.as_str())
        .text(format!("  {protocol} {path}  "));
    let (calls_per_second, bad) = recent(&service.traffic);
    let style = match bad {
        Some(bad) if bad >= 0.05 => BAD,
        Some(bad) if bad >= 0.01 => ODD,
        _ => super::line::PLAIN,
    };
    line.text(format!("{calls_per_second:.1} calls/s  "))
        .styled(style, format!("{} bad  ", ratio(bad)))
        .styled(BUSY, history(&service.traffic))
}

/// Calls a second, and the part of them for which a version is to blame, over the last two minutes.
fn recent(traffic: &[Traffic]) -> (f64, Option<f64>) {
    let recent = traffic.iter().rev().take(RECENT_MINUTES);
    let (mut seconds, mut calls, mut bad) = (0.0, 0, 0);
    for minute in recent {
        seconds += minute.seconds;
        calls += minute.calls;
        bad += minute.bad;
    }
    let bad = (calls > 0).then(|| bad as f64 / calls as f64);
    (calls as f64 / f64::max(seconds, 0.1), bad)
}

/// A bar a minute, as high as its calls a second are beside those of the busiest minute.
fn history(traffic: &[Traffic]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let rate = |minute: &Traffic| minute.calls as f64 / f64::max(minute.seconds, 0.1);
    let most = traffic.iter().map(rate).fold(0.0, f64::max);
    let bar = |minute: &Traffic| match rate(minute) {
        rate if rate > 0.0 => {
            let eighths = rate / most * (BARS.len() - 1) as f64;
            let nearest = (0..BARS.len()).find(|bar| *bar as f64 + 0.5 > eighths);
            BARS[nearest.unwrap_or(BARS.len() - 1)]
        }
        _ => '·',
    };
    traffic.iter().map(bar).collect()
}

/// Whether nothing is wrong and nothing under way.
fn is_quiet(service: &ServiceStatus) -> bool {
    let endpoints = || service.versions.iter().flat_map(|v| &v.endpoints);
    service.issues.is_empty()
        && endpoints().all(EndpointStatus::is_well)
        && (service.rollout.as_ref()).is_none_or(|rollout| rollout.status.is_terminal())
}

fn details(service: &ServiceStatus, columns: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for version in &service.versions {
        lines.push(version_line(service, version));
        lines.extend(endpoints(version));
    }
    if service.rules > 0 {
        let rules = match service.rules {
            1 => "1 rule".to_owned(),
            n => format!("{n} rules"),
        };
        let help = format!("{rules}; `serin route explain {}` asks them", service.name);
        lines.push(Line::default().styled(FAINT, "  rules").to(SAID).text(help));
    }
    lines.extend((service.rollout.as_ref()).map(rollout).unwrap_or_default());
    for issue in &service.issues {
        let (style, level) = match issue.level {
            Level::Warning => (ODD, "  warning"),
            Level::Critical => (BAD, "  critical"),
        };
        let text = format!("since {}: {}", clock(issue.since), issue.text);
        lines.extend(below(level, style, &text, SAID, columns));
    }
    lines
}

fn version_line(service: &ServiceStatus, version: &VersionStatus) -> Line {
    let active = (service.rollout.as_ref()).filter(|rollout| !rollout.status.is_terminal());
    let is_candidate = active.is_some_and(|rollout| rollout.to == version.name);
    let (style, what) = match version.stage {
        _ if version.name == service.stable => (GOOD, "stable"),
        _ if is_candidate => (BUSY, "candidate"),
        _ if version.drained => (FAINT, "drained"),
        _ if version.draining_until.is_some() => (ODD, "draining"),
        VersionStage::Registered => (FAINT, "registered"),
        VersionStage::Serving => (GOOD, "serving"),
        VersionStage::Draining => (ODD, "draining"),
        VersionStage::Withdrawn => (ODD, "withdrawn"),
    };
    let most = (version.in_flight_max).map_or_else(String::new, |most| format!(" of {most}"));
    let tools = version.tools.filter(|_| version.draining_until.is_none());
    let tools = tools.map_or_else(String::new, |tools| format!(", {tools} tools"));
    let until = (version.draining_until.filter(|_| !version.drained))
        .map_or_else(String::new, |until| format!(" until {}", clock(until)));
    Line::default()
        .text("  ")
        .styled(BOLD, version.name.as_str())
        .to(SAID)
        .styled(style, what)
        .text(format!(
            "{until}  {}{most} calls and {} streams open{tools}",
            version.open_calls, version.open_streams
        ))
}

fn endpoints(version: &VersionStatus) -> Vec<Line> {
    let all = version.endpoints.as_slice();
    if all.len() <= ENDPOINTS_MAX {
        return all.iter().map(endpoint).collect();
    }
    let unwell = all.iter().filter(|endpoint| !endpoint.is_well());
    let mut lines: Vec<_> = unwell.take(ENDPOINTS_MAX).map(endpoint).collect();
    let well = all.iter().filter(|endpoint| endpoint.is_well()).count();
    let more = (all.len() - well).saturating_sub(ENDPOINTS_MAX);
    let mut text = format!("{well} more endpoints are well");
    if more > 0 {
        text += &format!(", {more} more are not");
    }
    lines.push(Line::default().text("    ").styled(FAINT, text));
    lines
}

fn endpoint(endpoint: &EndpointStatus) -> Line {
    let (style, words) = standing(endpoint);
    let load = format!("{} in flight", endpoint.in_flight);
    let line = Line::default()
        .text("    ")
        .styled(style, words)
        .right(LOAD - 2, super::line::PLAIN, &load)
        .to(LOAD)
        .text(&endpoint.url);
    match endpoint.weight {
        1 => line,
        weight => line.styled(FAINT, format!("  weight {weight}")),
    }
}

/// What keeps an endpoint from taking its part, in words.
fn standing(endpoint: &EndpointStatus) -> (Style, String) {
    let words = [
        (!endpoint.healthy, "unhealthy"),
        (endpoint.healthy && endpoint.is_new, "new"),
        (endpoint.breaker_open, "breaker open"),
        (endpoint.ejected, "ejected"),
        (endpoint.draining, "draining"),
        (endpoint.drained, "drained"),
        (endpoint.warming_up, "warming up"),
    ];
    standing_of(&words)
}

fn rollout(rollout: &RolloutStatus) -> Vec<Line> {
    let place = format!("  {} -> {}", rollout.from, rollout.to);
    let style = match rollout.status {
        RolloutState::Running => BUSY,
        RolloutState::Promoted => GOOD,
        RolloutState::Paused | RolloutState::Inconclusive | RolloutState::Aborted => ODD,
        RolloutState::RolledBack => BAD,
    };
    let line = Line::default()
        .text(place)
        .to(SAID)
        .styled(style, rollout.status.label());
    if rollout.status.is_terminal() {
        let when = (rollout.ended_at).map_or_else(String::new, |at| format!(" at {}", clock(at)));
        let why = rollout.ended_reason.as_deref().unwrap_or_default();
        return vec![line.text(format!("{when}: {why}"))];
    }
    let got = match rollout.share_realised {
        Some(share) => format!(" (got {})", ratio(Some(share))),
        None => String::new(),
    };
    let line = line.text(format!(
        ", phase {} of {} at {}{got}, {} of {}",
        rollout.phase + 1,
        rollout.phases,
        rollout.share,
        span(rollout.step_seconds),
        span(rollout.hold_seconds),
    ));
    let said = |style, text: &str| {
        Line::default()
            .to(0)
            .text(" ".repeat(SAID))
            .styled(style, text)
    };
    let held = (rollout.held.as_ref()).map(|held| said(ODD, &format!("held: {held}")));
    let ready = rollout.ready.then(|| {
        said(
            ODD,
            "waits for somebody to run `serin rollout promote SERVICE`",
        )
    });
    [Some(line), held, ready].into_iter().flatten().collect()
}

fn flags(status: &Status) -> Line {
    let flags = &status.flags;
    let mut line = Line::default()
        .styled(FAINT, "flags")
        .to(SAID)
        .text(format!("{}, {} off", flags.all, flags.off));
    if !flags.off_names.is_empty() {
        let names: Vec<_> = flags.off_names.iter().map(FlagKey::as_str).collect();
        line = line.text(format!(": {}", names.join(", ")));
    }
    if flags.in_doubt {
        line = line.styled(BAD, "; in doubt: their file could not be read yet");
    } else if let Some(stale) = &flags.file_stale {
        line = line.styled(
            ODD,
            format!("; an older state of their file counts: {stale}"),
        );
    }
    line
}

fn kill(kill: &KillStatus, columns: usize) -> Vec<Line> {
    let tried = (kill.one_in).map_or_else(String::new, |one_in| format!(", 1 in {one_in} tried"));
    let text = format!(
        "{}{tried} since {} by {}: {}",
        kill.target,
        clock(kill.at),
        kill.actor,
        kill.reason
    );
    below("killed", BAD, &text, SAID, columns)
}

fn books(status: &Status) -> [Line; 2] {
    let (audit, store) = (&status.audit, &status.store);
    let line = Line::default()
        .styled(FAINT, "audit trail")
        .to(SAID)
        .text(format!("{} rows, {} waiting", audit.rows, audit.waiting));
    let line = match audit.lost {
        0 => line,
        lost => line.styled(BAD, format!(", {lost} lost")),
    };
    let time = match store.append_p99_seconds {
        Some(time) => format!(", 99 % of them within {}", seconds(Some(time))),
        None => String::new(),
    };
    let log = Line::default()
        .styled(FAINT, "log")
        .to(SAID)
        .text(format!("{} appends{time}", store.appends));
    [line, log]
}

#[cfg(test)]
mod tests;
