//! What rules found and what trials prove, in words and figures.

use crate::observe::NO_TOOL;
use serin_judge::{
    Finding, Scope, ValueFinding,
    sequential::{Aspect, Line, Progress, Proof},
};

/// A finding in words: `error_rate of tool search is 96 %, limit 20 %, stable 0 %, in 25 calls`.
pub fn finding_in_words(finding: &Finding) -> String {
    let metric = finding.metric;
    let value = finding
        .candidate
        .map_or_else(|| "unknown".to_owned(), |value| metric.show(value));
    let stable = finding
        .stable
        .map(|value| format!(", stable {}", metric.show(value)))
        .unwrap_or_default();
    // Resources are read from the version's own metrics, not counted from calls.
    let counted = if metric.is_resource() {
        "readings"
    } else {
        "calls"
    };
    format!(
        "{metric}{} is {value}, limit {}{stable}, in {} {counted}",
        whose(&finding.scope),
        finding.limit,
        finding.samples
    )
}

/// A finding on a number inside results: `guard_pass_rate of tool generate is 0.62, limit 0.7, stable 0.93, in 80 results`.
pub fn value_in_words(finding: &ValueFinding) -> String {
    let value = finding
        .candidate
        .map_or_else(|| "unknown".to_owned(), short);
    let stable = finding
        .stable
        .map(|value| format!(", stable {}", short(value)))
        .unwrap_or_default();
    format!(
        "{} of tool {} is {value}, limit {}{stable}, in {} results",
        finding.name,
        finding.tool,
        short(finding.limit),
        finding.samples
    )
}

/// What makes the candidate a regression: `errors of tool search: 12 of 40 trials, 1 of 380 of stable's; of all together E = 1240, 100 needed`.
pub fn regression_in_words(proof: &Proof) -> String {
    let culprit = proof.culprit.as_ref();
    let of_culprit = |line: &&Line| {
        culprit.is_some_and(|culprit| {
            line.aspect == culprit.aspect
                && matches!(&line.scope, Scope::Tool(tool) if *tool == culprit.tool)
        })
    };
    let telling = |line: &&Line| line.worse.log10 - line.worse.needed;
    let worst = proof.lines.iter().find(of_culprit).or_else(|| {
        proof
            .lines
            .iter()
            .max_by(|a, b| telling(a).total_cmp(&telling(b)))
    });
    let what = worst.map_or_else(|| "the candidate is worse".to_owned(), line_in_words);
    let note = match culprit {
        Some(culprit) if !culprit.proven => " (this tool is the most suspicious of several)",
        _ => "",
    };
    format!(
        "worse than stable is proven: {what}{note}; of all together {}",
        progress_in_words("E", proof.worse)
    )
}

/// What makes the candidate slower than passes without a hold.
pub fn slower_in_words(proof: &Proof) -> String {
    let margin = |line: &&Line| line.slower.map_or(f64::NEG_INFINITY, |slower| slower.log10);
    let worst = proof
        .lines
        .iter()
        .filter(|line| line.slower.is_some())
        .max_by(|a, b| margin(a).total_cmp(&margin(b)));
    let what = worst.map_or_else(|| "it takes longer".to_owned(), line_in_words);
    format!(
        "slower than stable is proven: {what}; of all together {}",
        progress_in_words("E", proof.slower)
    )
}

/// What is missing until the candidate is safe.
pub fn unsafe_in_words(proof: &Proof) -> String {
    let least = proof
        .lines
        .iter()
        .filter_map(|line| Some((line, line.safe?)))
        .min_by(|(_, a), (_, b)| a.log10.total_cmp(&b.log10));
    match least {
        Some((line, safe)) => format!(
            "not yet shown to be safe: {}{} {}, after {} trials",
            aspect_in_words(line.aspect),
            whose(&line.scope),
            progress_in_words("E'", safe),
            proof.trials
        ),
        None => "not yet shown to be safe: there are no trials yet".to_owned(),
    }
}

/// One comparison: `errors of tool search: 12 of 40 trials, 1 of 380 of stable's`.
pub fn line_in_words(line: &Line) -> String {
    let beyond = match line.percentile {
        None => String::new(),
        Some(50) => " beyond stable's median".to_owned(),
        Some(percentile) => format!(" beyond stable's {percentile}th percentile"),
    };
    format!(
        "{}{}: {} of {} trials{beyond}, {} of {} of stable's",
        aspect_in_words(line.aspect),
        whose(&line.scope),
        line.candidate.1,
        line.candidate.0,
        line.stable.1,
        line.stable.0
    )
}

/// `E = 12 of 100 needed`: evidence is a factor, which is easier to picture than its logarithm.
pub fn progress_in_words(name: &str, progress: Progress) -> String {
    format!(
        "{name} = {}, {} needed",
        factor(progress.log10),
        factor(progress.needed)
    )
}

/// What a comparison is about.
pub const fn aspect_in_words(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Errors => "errors",
        Aspect::Unserved => "calls given up or refused",
        Aspect::FirstByte => "time to the first byte",
        Aspect::LastByte => "time to the last byte",
    }
}

/// The same, where there is room for a word or two only.
pub const fn aspect_briefly(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Errors => "errors",
        Aspect::Unserved => "unserved",
        Aspect::FirstByte => "first byte",
        Aspect::LastByte => "last byte",
    }
}

/// Ten to this power, as people write it.
pub fn factor(log10: f64) -> String {
    match log10 {
        log10 if log10 >= 6.0 => format!("10^{log10:.0}"),
        log10 if log10 >= 1.0 => format!("{:.0}", 10_f64.powf(log10)),
        log10 if log10 >= -2.0 => format!("{:.2}", 10_f64.powf(log10)),
        log10 => format!("10^{log10:.0}"),
    }
}

fn whose(scope: &Scope) -> String {
    match scope {
        Scope::All => String::new(),
        Scope::Tool(tool) if &**tool == NO_TOOL => " of calls without a tool".to_owned(),
        Scope::Tool(tool) => format!(" of tool {tool}"),
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_the_percentile_that_they_are_counted_beyond() {
        let line = |percentile| Line {
            aspect: Aspect::FirstByte,
            scope: Scope::All,
            worse: Progress::default(),
            slower: None,
            safe: None,
            stable: (341, 17),
            candidate: (138, 30),
            percentile,
        };
        assert_eq!(
            line_in_words(&line(Some(99))),
            "time to the first byte: 30 of 138 trials beyond stable's 99th percentile, 17 of 341 of stable's"
        );
        assert!(line_in_words(&line(Some(50))).contains("beyond stable's median"));
    }

    #[test]
    fn factors_are_short() {
        for (log10, text) in [
            (2.0, "100"),
            (3.1, "1259"),
            (9.2, "10^9"),
            (0.5, "3.16"),
            (-1.0, "0.10"),
            (-7.4, "10^-7"),
        ] {
            assert_eq!(factor(log10), text);
        }
    }
}
