//! What the numbers behind a decision look like.

use super::figures_after;
use serin_judge::{
    Assessment, Basis, Check, Finding, Level, Limit, Metric, Scope, ValueFinding, Verdict,
    sequential::{Aspect, Culprit, Distrust, Line, Progress, Proof},
};

const fn progress(log10: f64, needed: f64) -> Progress {
    Progress { log10, needed }
}

fn proof() -> Proof {
    let pooled = Line {
        aspect: Aspect::Errors,
        scope: Scope::All,
        worse: progress(1.4, 2.6),
        slower: None,
        safe: Some(progress(-1.15, 1.301)),
        stable: (440, 0),
        candidate: (180, 13),
        percentile: None,
    };
    let last_byte = Line {
        aspect: Aspect::LastByte,
        worse: progress(-0.3, 2.9),
        slower: Some(progress(0.1, 2.0)),
        safe: Some(progress(3.9, 1.301)),
        stable: (382, 77),
        candidate: (158, 19),
        percentile: Some(50),
        ..pooled.clone()
    };
    let tool = Line {
        scope: Scope::Tool("get_entry".into()),
        worse: progress(4.5, 3.556),
        safe: None,
        stable: (310, 0),
        candidate: (142, 21),
        ..pooled.clone()
    };
    let unheard = Line {
        scope: Scope::Tool("a_tool_that_nobody_has_called_so_far".into()),
        slower: Some(progress(0.0, 2.0)),
        safe: None,
        worse: progress(0.0, 3.857),
        stable: (0, 0),
        candidate: (0, 0),
        ..last_byte.clone()
    };
    Proof {
        lines: vec![pooled, last_byte, tool, unheard],
        worse: progress(2.98, 2.0),
        slower: progress(0.2, 2.0),
        safe: progress(-1.15, 1.301),
        regression: true,
        p_value: 0.001_04,
        culprit: Some(Culprit {
            tool: "get_entry".into(),
            aspect: Aspect::Errors,
            proven: true,
        }),
        sample_ratio: progress(-0.38, 3.0),
        sentinel: progress(-0.01, 3.0),
        distrust: None,
        trials: 1036,
        stable_trials: 2567,
        blocks: 51,
    }
}

fn assessment() -> Assessment {
    Assessment {
        verdict: Verdict::Regression,
        findings: vec![Finding {
            metric: Metric::ErrorRate,
            scope: Scope::All,
            level: Some(Level::Warning),
            check: Check::Pending,
            limit: Limit::Percent(1.0),
            candidate: Some(0.0174),
            stable: Some(0.0),
            samples: 1728,
            stable_too: false,
        }],
        criteria: Vec::new(),
        trials: 1036,
        calls: 1728,
        stable_calls: 4482,
        fresh: true,
        values: vec![ValueFinding {
            name: "guard_pass_rate".into(),
            tool: "generate_content".into(),
            level: Some(Level::Critical),
            check: Check::Fail,
            limit: 0.7,
            candidate: Some(0.62),
            stable: Some(0.93),
            samples: 80,
        }],
        proof: Some(Box::new(proof())),
        unstored: 0,
        basis: Some(Basis {
            first: 3,
            last: 57,
            blocks: 51,
            digest: "5efaec321fc7c006aa11bb22".to_owned(),
        }),
    }
}

#[test]
fn a_proven_regression() {
    insta::assert_snapshot!(figures_after(None, &assessment()));
}

#[test]
fn a_comparison_that_is_set_aside() {
    let mut aside = assessment();
    aside.findings.clear();
    aside.values.clear();
    let proof = aside.proof.as_mut().unwrap();
    proof.regression = false;
    proof.lines.truncate(1);
    proof.culprit = None;
    proof.p_value = 1.0;
    proof.sample_ratio = progress(3.2, 3.0);
    proof.distrust = Some(Distrust::SampleRatio);
    insta::assert_snapshot!(figures_after(None, &aside));
}

#[test]
fn an_event_from_before_there_were_trials() {
    let old = Assessment {
        trials: 230,
        calls: 0,
        proof: None,
        unstored: 0,
        basis: None,
        findings: Vec::new(),
        values: Vec::new(),
        ..assessment()
    };
    assert_eq!(
        figures_after(Some(&assessment()), &old),
        "    from 230 calls of the candidate and 4482 of stable in this step\n"
    );
}

#[test]
fn what_is_told_already_is_not_told_again() {
    assert_eq!(
        figures_after(Some(&assessment()), &assessment()),
        "    on the same evidence\n"
    );
}
