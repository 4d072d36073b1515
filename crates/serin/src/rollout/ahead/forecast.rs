//! What `serin rollout plan` expects, as text.

use super::{in_words, number, percent, tolerated, wrapped};
use crate::screen;
use serin_model::plan::{Evidence, Plan};
use serin_simulate::{Detection, Keys, PhaseForecast, Traffic};

/// What to know of `evidence: safe`; the figures are those of judge.md.
const OF_SAFE: &str = "To show that a candidate is safe takes thousands of trials at tight tolerances: 4,450 to 6,700 at \
+20 % +0.2pp, when 0.3 to 1 % of stable's fail. `evidence: trials N` says less: that no regression was proven in N trials, \
though one of the faults above that are not found in time would have passed.";

/// As tables and in words.
pub(super) fn text(name: &str, plan: &Plan, traffic: &Traffic, phases: &[PhaseForecast]) -> String {
    let mut out = wrapped(&format!("plan {name}: {}", in_words(traffic)));
    out += "\n";
    out += &expected(plan, phases);
    out += "\n";
    out += &found(phases);
    out += "\n";
    for phase in phases {
        out += &wrapped(&verdict(plan, traffic, phase));
    }
    out += "\n";
    for line in notes(plan, traffic, phases) {
        out += &wrapped(&line);
    }
    out
}

/// What each phase will have seen of the candidate.
fn expected(plan: &Plan, phases: &[PhaseForecast]) -> String {
    let row = |cells: [&str; 9]| {
        let [
            phase,
            share,
            hold,
            deadline,
            callers,
            trials,
            wants,
            has,
            safe,
        ] = cells;
        let row = format!(
            "{phase:<14}{share:>7}{hold:>8}{deadline:>9}{callers:>9}{trials:>9}   {wants:<13}{has:<13}{safe}"
        );
        row.trim_end().to_owned() + "\n"
    };
    let mut out = row([
        "phase", "share", "hold", "deadline", "callers", "trials", "wants", "has it", "is safe",
    ]);
    let time = |seconds: Option<f64>| match seconds {
        Some(seconds) if seconds > 0.0 => screen::span(seconds),
        _ => "-".to_owned(),
    };
    let when =
        |seconds: Option<f64>| seconds.map_or_else(|| "not in time".to_owned(), screen::about);
    for phase in phases {
        let is_mere = plan.is_mere_promotion(phase.phase);
        let wants = plan.evidence(phase.phase).to_string();
        let (mut has, mut safe) = (when(phase.evidence_seconds), when(phase.safe_seconds));
        if is_mere {
            has.clear();
        }
        if phase.share >= 1.0 {
            safe.clear();
        }
        out += &row([
            &called(phase),
            &percent(phase.share),
            &time(Some(phase.hold_seconds)),
            &time(phase.deadline_seconds),
            &number(phase.keys),
            &number(phase.trials),
            if is_mere { "" } else { &wants },
            &has,
            &safe,
        ]);
    }
    out + &wrapped(
        "Callers and trials are the candidate's, within the hold. What the phase wants, the time until it has it, and the time until \
a candidate as good as stable is shown to be safe.",
    )
}

/// How soon the judge finds what, phase by phase.
fn found(phases: &[PhaseForecast]) -> String {
    let compared: Vec<_> = phases.iter().filter(|phase| phase.share < 1.0).collect();
    let Some(first) = compared.first() else {
        return String::new();
    };
    let mut out = format!("{:<30}", "fault");
    for phase in &compared {
        out += &format!("{:>14}", called(phase));
    }
    out += "\n";
    for (row, fault) in first.detections.iter().enumerate() {
        let mut line = format!("{:<30}", fault.what.to_string());
        for phase in &compared {
            let cell = phase.detections.get(row).map(|found| cell(phase, found));
            line += &format!("{:>14}", cell.unwrap_or_default());
        }
        out += line.trim_end();
        out += "\n";
    }
    out + &wrapped(
        "From the start of the phase: time until the judge takes the candidate back, or `h` until the rollout holds, in the middle of many rollouts; in \
brackets: after the hold, when the phase may have passed; -: not by the deadline.",
    )
}

fn cell(phase: &PhaseForecast, found: &Detection) -> String {
    let Some(seconds) = found.seconds() else {
        return "-".to_owned();
    };
    let holds = found.rolled_back_seconds.is_none_or(|back| back > seconds);
    let cell = format!(
        "{}{}",
        screen::about(seconds),
        if holds { " h" } else { "" }
    );
    if seconds > phase.hold_seconds {
        format!("({cell})")
    } else {
        cell
    }
}

/// What becomes of a phase, in words.
fn verdict(plan: &Plan, traffic: &Traffic, phase: &PhaseForecast) -> String {
    let name = sentence(phase);
    if plan.is_mere_promotion(phase.phase) {
        return format!("{name} only promotes: the candidate becomes stable.");
    }
    let wanted = plan.evidence(phase.phase);
    let mut text = if phase.share >= 1.0 {
        format!("{name} has nobody left on stable to compare with: thresholds alone decide.")
    } else if phase.thresholds_alone {
        format!(
            "{name} sees {} of the candidate's callers, too few to prove anything: thresholds alone decide.{}",
            number(phase.keys),
            if matches!(traffic.keys, Keys::Callers(_)) {
                " Waiting does not help, as a caller is one trial a tool and phase."
            } else {
                ""
            }
        )
    } else {
        seen(&name, phase)
    };
    if phase.evidence_seconds.is_none() {
        text += &match wanted {
            Evidence::Trials(needed) => format!(
                " TOO SHORT: of the {needed} trials that it wants, {} come by the deadline, so it ends without a decision.",
                number(phase.trials_by_deadline)
            ),
            wanted => format!(
                " TOO SHORT: its evidence `{wanted}` is not there by the deadline, so it ends without a decision."
            ),
        };
    } else if phase.evidence_seconds > Some(phase.hold_seconds) {
        text += &format!(
            " Its evidence `{wanted}` takes longer than its hold, {}.",
            screen::about(phase.evidence_seconds.unwrap_or_default())
        );
    } else if phase.too_short {
        text += " TOO SHORT: not even the coarsest of these faults is found before it may pass.";
    }
    text
}

/// What the judge finds before the phase may pass, and what not.
fn seen(name: &str, phase: &PhaseForecast) -> String {
    let (found, missed): (Vec<_>, Vec<_>) = phase.detections.iter().partition(|detection| {
        detection
            .seconds()
            .is_some_and(|seconds| seconds <= phase.hold_seconds)
    });
    let named = |faults: &[&Detection]| {
        let names = faults.iter().map(|fault| fault.what.to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    match (found.is_empty(), missed.is_empty()) {
        (true, _) => format!("{name} finds none of these faults within its hold."),
        (_, true) => format!("{name} finds all of these faults within its hold."),
        _ => format!("{name} does not find within its hold: {}.", named(&missed)),
    }
}

fn notes(plan: &Plan, traffic: &Traffic, phases: &[PhaseForecast]) -> Vec<String> {
    let mut lines = vec![tolerated(plan, traffic)];
    if let Keys::Callers(callers) = traffic.keys
        && phases
            .iter()
            .any(|phase| phase.thresholds_alone && phase.share < 1.0)
    {
        let renewal = match plan.affinity.renew {
            None => {
                " `affinity: { renew: 1h }` in the plan draws them anew each hour and so makes new trials, at the price of \
callers who change version."
            }
            Some(_) => {
                " The plan draws them anew by `affinity: { renew }`, which makes more trials than are counted here."
            }
        };
        lines.push(format!(
            "{callers} callers are few: a trial is a caller's first block with a tool, and a caller stays on one version. No \
statistics can change that.{renewal}"
        ));
    }
    lines.push(OF_SAFE.to_owned());
    lines
}

fn called(phase: &PhaseForecast) -> String {
    match &phase.name {
        Some(name) => format!("{} {name}", phase.phase + 1),
        None => format!("phase {}", phase.phase + 1),
    }
}

fn sentence(phase: &PhaseForecast) -> String {
    let name = phase.name.as_ref();
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    format!("Phase {}{name}", phase.phase + 1)
}
