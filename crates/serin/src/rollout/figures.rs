//! The numbers that a decision rests on, as text.

use serin_judge::{
    Assessment, Basis, Check, Level, Scope, ValueFinding,
    sequential::{Culprit, Line, Progress, Proof},
};
use serin_model::{
    observe::NO_TOOL,
    words::{
        aspect_briefly, aspect_in_words, distrust_in_words, factor, finding_in_words,
        progress_in_words, value_in_words,
    },
};

/// Before every line: below the event that it is about.
const INDENT: &str = "    ";
/// Longest name of a comparison that is shown whole.
const NAME_CHARS_MAX: usize = 30;
/// Digits of a digest that tell it from any other one looks at; `--json` has them all.
const DIGEST_CHARS: usize = 16;

/// Everything in an assessment, most telling first.
fn figures(assessment: &Assessment) -> String {
    let mut lines = vec![counts(assessment)];
    lines.extend(assessment.basis.as_ref().map(blocks));
    let proof = assessment.proof.as_deref();
    lines.extend(proof.map(lines_of).into_iter().flatten());
    for finding in &assessment.findings {
        let note = if finding.stable_too {
            "; stable is beyond it too, so it says nothing of the candidate"
        } else {
            ""
        };
        lines.push(format!(
            "{}{}: {}{note}",
            level(finding.level),
            word(finding.check),
            finding_in_words(finding)
        ));
    }
    lines.extend(assessment.values.iter().map(value));
    lines.extend(assessment.criteria.iter().map(|criterion| {
        format!(
            "criterion {}: {}",
            word(criterion.check),
            finding_in_words(criterion)
        )
    }));
    indented(&lines)
}

/// The same for one of several decisions: those taken at one moment rest on the same evidence, which is told once.
pub(super) fn figures_after(before: Option<&Assessment>, assessment: &Assessment) -> String {
    if before == Some(assessment) {
        return indented(&["on the same evidence".to_owned()]);
    }
    figures(assessment)
}

/// What trials prove.
pub(super) fn proven(proof: &Proof) -> String {
    indented(&lines_of(proof))
}

fn indented(lines: &[String]) -> String {
    let lines = lines.iter().map(|line| format!("{INDENT}{line}\n"));
    lines.collect()
}

fn counts(assessment: &Assessment) -> String {
    let calls = |candidate, stable| {
        format!("{candidate} calls of the candidate and {stable} of stable in this step")
    };
    let Some(proof) = assessment.proof.as_deref() else {
        // An event from before there were trials has its calls there.
        let candidate = assessment.calls.max(assessment.trials);
        return format!("from {}", calls(candidate, assessment.stable_calls));
    };
    format!(
        "from {} trials of the candidate and {} of stable, in {}",
        proof.trials,
        proof.stable_trials,
        calls(assessment.calls, assessment.stable_calls)
    )
}

fn blocks(basis: &Basis) -> String {
    let digest: String = basis.digest.chars().take(DIGEST_CHARS).collect();
    format!(
        "on blocks {} to {} of the store, {} of this rollout, digest {digest}…",
        basis.first, basis.last, basis.blocks
    )
}

fn lines_of(proof: &Proof) -> Vec<String> {
    let mut lines = vec![row([
        "comparison",
        "candidate",
        "stable",
        "worse E",
        "slower E",
        "safe E'",
    ])];
    lines.extend(proof.lines.iter().map(comparison));
    lines.push(row([
        "together",
        "",
        "",
        &evidence(proof.worse),
        &evidence(proof.slower),
        &evidence(proof.safe),
    ]));
    if let Some(why) = proof.distrust {
        lines.push(format!(
            "set aside, thresholds alone decide: {}",
            distrust_in_words(why)
        ));
    }
    if proof.regression {
        lines.push("a regression is proven; that stands for the whole rollout".to_owned());
    }
    lines.extend(proof.culprit.as_ref().map(culprit));
    lines.push(format!(
        "p-value {}: so likely is this much evidence, at whatever moment one looks, if the candidate is within tolerance",
        chance(proof.p_value)
    ));
    for (name, progress, fine, wrong) in [
        (
            "sample ratio",
            proof.sample_ratio,
            "callers are split as they should be",
            "callers are not split as they should be",
        ),
        (
            "two halves of stable",
            proof.sentinel,
            "they do not differ",
            "they differ as if they were two versions",
        ),
    ] {
        let found = if progress.reached() { wrong } else { fine };
        lines.push(format!(
            "{name}: {found}; {}",
            progress_in_words("E", progress)
        ));
    }
    lines
}

fn comparison(line: &Line) -> String {
    row([
        &name(line),
        &part(line.candidate),
        &part(line.stable),
        &evidence(line.worse),
        &line.slower.map_or_else(String::new, evidence),
        &line.safe.map_or_else(String::new, evidence),
    ])
}

fn name(line: &Line) -> String {
    let aspect = aspect_briefly(line.aspect);
    match &line.scope {
        Scope::All => aspect.to_owned(),
        Scope::Tool(tool) if &**tool == NO_TOOL => format!("{aspect}, no tool"),
        Scope::Tool(tool) => format!("{aspect}, {tool}"),
    }
}

fn row([name, candidate, stable, worse, slower, safe]: [&str; 6]) -> String {
    let name = match name.chars().count() {
        0..=NAME_CHARS_MAX => name.to_owned(),
        _ => name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect(),
    };
    let row = format!(
        "{name:<NAME_CHARS_MAX$} {candidate:>17} {stable:>17} {worse:>13} {slower:>12} {safe:>12}"
    );
    row.trim_end().to_owned()
}

/// `21/142 14.79 %`.
fn part((all, bad): (u64, u64)) -> String {
    let rate = crate::screen::ratio((all > 0).then(|| bad as f64 / all as f64));
    format!("{bad}/{all} {rate:>8}")
}

/// `964 of 100`.
fn evidence(progress: Progress) -> String {
    format!("{} of {}", factor(progress.log10), factor(progress.needed))
}

/// `0.001`, `10^-7`.
fn chance(p_value: f64) -> String {
    if p_value < 0.0001 {
        factor(p_value.max(f64::MIN_POSITIVE).log10())
    } else {
        format!("{p_value:.4}")
    }
}

fn culprit(culprit: &Culprit) -> String {
    let about = aspect_in_words(culprit.aspect);
    if culprit.proven {
        format!(
            "to blame: tool {}, for its {about}; its own evidence suffices, the many tools accounted for",
            culprit.tool
        )
    } else {
        format!(
            "most suspicious: tool {}, for its {about}; its own evidence does not suffice",
            culprit.tool
        )
    }
}

fn value(finding: &ValueFinding) -> String {
    format!(
        "{}{}: {}",
        level(finding.level),
        word(finding.check),
        value_in_words(finding)
    )
}

const fn level(level: Option<Level>) -> &'static str {
    match level {
        Some(Level::Critical) => "critical, ",
        Some(Level::Warning) => "warning, ",
        None => "",
    }
}

const fn word(check: Check) -> &'static str {
    match check {
        Check::NoData => "no calls",
        Check::Insufficient => "too few calls",
        Check::Pass => "met",
        Check::Pending => "beyond the limit, not yet for long enough",
        Check::Fail => "beyond the limit",
    }
}

#[cfg(test)]
mod tests;
