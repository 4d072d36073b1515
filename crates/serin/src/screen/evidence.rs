//! The two sides beside each other, with what their difference proves.

use super::{
    line::{BAD, BOLD, FAINT, GOOD, Line, ODD, PLAIN},
    parts::{LABEL, ratio, seconds, wrapped},
};
use anstyle::Style;
use serin_control::view::{ArmView, Arms, RolloutView};
use serin_judge::{
    Scope,
    sequential::{Aspect, Line as Comparison, Progress, Proof},
};
use serin_model::words::{line_in_words, progress_in_words};

/// Calls of a side below which a difference is chance.
const CALLS_TELLING: u64 = 20;

/// Cells of a bar.
const BAR_CELLS: usize = 8;
/// A cell from empty to full.
const CELL: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];

/// Where the columns are.
struct Columns {
    /// Where the two sides end.
    stable: usize,
    candidate: usize,
    /// Where the others begin; there is no room for tolerances on a small terminal.
    tolerance: Option<usize>,
    safe: usize,
    worse: usize,
    verdict: usize,
}

impl Columns {
    const WIDE: Self = Self {
        stable: 25,
        candidate: 37,
        tolerance: Some(40),
        safe: 55,
        worse: 70,
        verdict: 86,
    };
    /// Ends at the 80th column.
    const NARROW: Self = Self {
        stable: 24,
        candidate: 35,
        tolerance: None,
        safe: 37,
        worse: 52,
        verdict: 68,
    };

    /// The widest that fits: a time to the verdict takes twelve columns.
    const fn fitting(columns: usize) -> Self {
        if columns >= Self::WIDE.verdict + 12 {
            Self::WIDE
        } else {
            Self::NARROW
        }
    }
}

/// A row: what it shows, and what is proven about it.
struct Row<'a> {
    label: &'static str,
    stable: String,
    candidate: String,
    /// A hint at the candidate's value.
    style: Style,
    tolerance: String,
    compared: Option<&'a Comparison>,
    /// Left out where there is little room.
    is_detail: bool,
}

type Show = fn(&ArmView) -> String;
type Value = fn(&ArmView) -> Option<f64>;

impl<'a> Row<'a> {
    fn new(label: &'static str, stable: String, candidate: String) -> Self {
        Self {
            label,
            stable,
            candidate,
            style: PLAIN,
            tolerance: String::new(),
            compared: None,
            is_detail: false,
        }
    }

    /// Of all calls.
    fn of(label: &'static str, arms: &Arms<ArmView>, show: Show) -> Self {
        Self::new(label, show(&arms.stable), show(&arms.candidate))
    }

    fn latency(label: &'static str, arms: &Arms<ArmView>, value: Value) -> Self {
        let show = |arm| seconds(value(arm));
        Self {
            style: hint(arms, value),
            ..Self::new(label, show(&arms.stable), show(&arms.candidate))
        }
    }

    fn detail(self) -> Self {
        Self {
            is_detail: true,
            ..self
        }
    }

    fn compared(self, line: Option<&'a Comparison>, tolerance: &str) -> Self {
        Self {
            compared: line,
            tolerance: line.map_or_else(String::new, |_| tolerance.to_owned()),
            ..self
        }
    }

    /// Without colours where the comparison does not count.
    fn draw(&self, at: &Columns, counts: bool) -> Line {
        let mut line = Line::default()
            .styled(FAINT, self.label)
            .right(at.stable, PLAIN, &self.stable)
            .right(at.candidate, self.style, &self.candidate);
        let Some(compared) = self.compared else {
            return line;
        };
        if let Some(tolerance) = at.tolerance {
            line = line.to(tolerance).styled(FAINT, &self.tolerance);
        }
        bars(line, at, counts, compared.safe, compared.worse)
    }
}

/// Both sides, metric by metric, with the evidence as bars. Without details only what decides.
pub(super) fn table(rollout: &RolloutView, columns: usize, details: bool) -> Vec<Line> {
    let at = Columns::fitting(columns);
    let mut title =
        Line::default()
            .right(at.stable, FAINT, "stable")
            .right(at.candidate, FAINT, "candidate");
    if rollout.proof.is_some() {
        if let Some(tolerance) = at.tolerance {
            title = title.to(tolerance).styled(FAINT, "tolerance");
        }
        title = title.to(at.safe).styled(FAINT, "evidence");
        title = title.to(at.verdict).styled(FAINT, "to verdict");
    }
    let rows = rows(rollout).into_iter();
    let shown = rows.filter(|row| details || !row.is_detail);
    let mut lines = vec![title];
    let counts = rollout.proof.as_ref().is_none_or(counts);
    lines.extend(shown.map(|row| row.draw(&at, counts)));
    lines.extend(
        rollout
            .proof
            .as_ref()
            .map(|proof| together(rollout, proof, &at)),
    );
    lines
}

fn rows(rollout: &RolloutView) -> Vec<Row<'_>> {
    let arms = &rollout.arms;
    let mut rows = vec![
        Row::of("calls", arms, |arm| arm.calls.to_string()),
        Row::of("calls/s", arms, |arm| {
            format!("{:.1}", arm.calls_per_second)
        })
        .detail(),
        Row {
            style: hint(arms, |arm| arm.error_rate),
            ..Row::of("call errors", arms, |arm| ratio(arm.error_rate))
        },
    ];
    let pooled = |aspect| pooled(rollout.proof.as_ref()?, aspect);
    if let Some(proof) = &rollout.proof {
        let trials = [proof.stable_trials, proof.trials].map(|trials| trials.to_string());
        let [stable, candidate] = trials;
        rows.push(Row::new("trials", stable, candidate));
        for (label, aspect) in [("errors", Aspect::Errors), ("unserved", Aspect::Unserved)] {
            if let Some(line) = pooled(aspect) {
                let row = Row::new(label, part(line.stable), part(line.candidate));
                rows.push(row.compared(Some(line), &rollout.tolerances.errors));
            }
        }
    }
    let tolerance = format!(
        "+{} %, +{} %",
        percent(rollout.tolerances.latency_ratio),
        percent(rollout.tolerances.latency_critical_ratio)
    );
    rows.extend([
        Row::latency("first byte p95", arms, |arm| arm.first_byte_p95_seconds)
            .compared(pooled(Aspect::FirstByte), &tolerance),
        Row::latency("last byte p95", arms, |arm| arm.latency_p95_seconds)
            .compared(pooled(Aspect::LastByte), &tolerance),
        Row::latency("last byte p50", arms, |arm| arm.latency_p50_seconds),
        Row::latency("last byte p99", arms, |arm| arm.latency_p99_seconds).detail(),
    ]);
    rows
}

fn pooled(proof: &Proof, aspect: Aspect) -> Option<&Comparison> {
    let is_it = |line: &&Comparison| line.scope == Scope::All && line.aspect == aspect;
    proof.lines.iter().find(is_it)
}

/// What all comparisons say together, and when they are expected to decide.
fn together(rollout: &RolloutView, proof: &Proof, at: &Columns) -> Line {
    let line = Line::default().styled(BOLD, "together");
    let line = bars(line, at, counts(proof), Some(proof.safe), proof.worse);
    let (style, text) = verdict(rollout, proof);
    line.to(at.verdict).styled(style, text)
}

/// Whether the comparison counts, or is set aside.
fn counts(proof: &Proof) -> bool {
    proof.distrust.is_none()
}

fn verdict(rollout: &RolloutView, proof: &Proof) -> (Style, String) {
    if proof.regression {
        return (BAD, "worse".to_owned());
    }
    if rollout.set_aside.is_some() || !counts(proof) {
        return (ODD, "set aside".to_owned());
    }
    if proof.safe.reached() {
        return (GOOD, "safe".to_owned());
    }
    if rollout.status.is_terminal() {
        return (PLAIN, "no verdict".to_owned());
    }
    match (rollout.to_worse_seconds, rollout.to_safe_seconds) {
        (Some(worse), safe) if safe.is_none_or(|safe| worse < safe) => {
            (BAD, format!("worse {}", about(worse)))
        }
        (_, Some(safe)) => (GOOD, format!("safe {}", about(safe))),
        _ => (PLAIN, "not in sight".to_owned()),
    }
}

/// `safe ▇▇▇▇▇▁▁▁  worse ▁▁▁▁▁▁▁▁`: a full bar decides.
fn bars(line: Line, at: &Columns, counts: bool, safe: Option<Progress>, worse: Progress) -> Line {
    let bar = |line: Line, column, label, style, progress: Progress| {
        let (filled, empty) = bar(progress);
        let style = if counts { style } else { FAINT };
        let label_style = if progress.reached() { style } else { FAINT };
        let line = line.to(column).styled(label_style, label).text(" ");
        line.styled(style, filled).styled(FAINT, empty)
    };
    let line = match safe {
        Some(safe) => bar(line, at.safe, "safe", GOOD, safe),
        None => line,
    };
    bar(line, at.worse, "worse", BAD, worse)
}

/// The filled and the empty cells of a bar. Only what decides fills it.
fn bar(progress: Progress) -> (String, String) {
    let part = if progress.needed > 0.0 {
        (progress.log10 / progress.needed).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let steps = CELL.len() - 1;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to the number of steps"
    )]
    let filled = (part * (BAR_CELLS * steps) as f64) as usize;
    let (whole, rest) = (filled / steps, filled % steps);
    let mut bar = CELL[steps].to_string().repeat(whole);
    if rest > 0 {
        bar.push(CELL[rest]);
    }
    let empty = BAR_CELLS - whole - usize::from(rest > 0);
    (bar, CELL[0].to_string().repeat(empty))
}

/// What needs words: the comparison set aside, the worst tool, signals given by hand.
pub(super) fn notes(rollout: &RolloutView, columns: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(text) = &rollout.killed {
        lines.extend(wrapped("killed", LABEL, BAD, text, columns));
    }
    if let Some(why) = &rollout.set_aside {
        let text = format!("the versions are not compared, thresholds alone decide: {why}");
        lines.extend(wrapped("aside", LABEL, ODD, &text, columns));
    }
    if let Some((style, text)) = rollout.proof.as_ref().and_then(worst_tool) {
        lines.extend(wrapped("worst", LABEL, style, &text, columns));
    }
    if !rollout.signals.is_empty() {
        let signals = rollout.signals.iter();
        let signals = signals.map(|(kind, count)| format!("{count} {kind}"));
        let text = signals.collect::<Vec<_>>().join(", ");
        lines.extend(wrapped("signals", LABEL, ODD, &text, columns));
    }
    lines
}

/// The tool with the most evidence against it, once there is any.
fn worst_tool(proof: &Proof) -> Option<(Style, String)> {
    let suspect = |line: &&Comparison| line.scope != Scope::All && line.worse.log10 > 0.0;
    let line = proof.lines.iter().find(suspect)?;
    let style = if line.worse.reached() { BAD } else { PLAIN };
    let progress = progress_in_words("E", line.worse);
    Some((style, format!("{}; {progress}", line_in_words(line))))
}

/// A hint for the eye, not a verdict: half as much again, by more than a thousandth (of a second, of the calls).
pub(super) fn hint(arms: &Arms<ArmView>, value: Value) -> Style {
    let enough = arms.stable.calls.min(arms.candidate.calls) >= CALLS_TELLING;
    match (value(&arms.stable), value(&arms.candidate)) {
        (Some(stable), Some(candidate)) if enough && candidate > stable * 1.5 + 0.001 => BAD,
        _ => PLAIN,
    }
}

/// Bad trials of all.
fn part((all, bad): (u64, u64)) -> String {
    ratio((all > 0).then(|| bad as f64 / all as f64))
}

/// By how much a ratio is above one: three digits tell all that a tolerance has.
fn percent(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    if percent < 20.0 {
        format!("{percent:.1}")
    } else {
        format!("{percent:.0}")
    }
}

/// A time to come, as coarse as such a guess is: `~40s`, `~6m`, `~1h 20m`, `~14h`.
pub(crate) fn about(seconds: f64) -> String {
    let unit = match seconds {
        seconds if seconds < 100.0 => 10.0,
        seconds if seconds < 3600.0 => 60.0,
        seconds if seconds < 10.0 * 3600.0 => 600.0,
        _ => 3600.0,
    };
    let rounded = (seconds / unit).ceil().max(1.0) * unit;
    format!("~{}", super::span(rounded))
}
