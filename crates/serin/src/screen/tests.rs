//! What the screen looks like, and that it never leaves its room.

use super::{PAPER, Size, draw};
use anstream::adapter::strip_str;
use jiff::Timestamp;
use serin_control::view::{
    ArmView, Arms, EventView, PhaseView, RolloutView, ServiceView, Tolerances, ToolView,
};
use serin_judge::{
    Scope,
    sequential::{Aspect, Culprit, Distrust, Line, Progress, Proof},
};
use serin_model::{name::RolloutId, rollout::Status, service::Protocol, words::distrust_in_words};
use std::collections::BTreeMap;
use uuid::Uuid;

const BEGAN: Timestamp = Timestamp::constant(1_790_000_000, 0);

fn arm(calls: u64, bad: u64, seconds: f64) -> ArmView {
    ArmView {
        calls,
        bad,
        error_rate: (calls > 0).then(|| bad as f64 / calls as f64),
        calls_per_second: calls as f64 / 10.0,
        latency_p50_seconds: (calls > 0).then_some(seconds),
        latency_p95_seconds: (calls > 0).then_some(seconds * 4.0),
        latency_p99_seconds: (calls > 0).then_some(seconds * 9.0),
        first_byte_p95_seconds: (calls > 0).then_some(seconds * 3.0),
    }
}

fn tool(name: &str, stable: ArmView, candidate: ArmView) -> ToolView {
    ToolView {
        tool: name.to_owned(),
        arms: Arms { stable, candidate },
    }
}

fn event(position: u64, seconds: i64, actor: &str, text: &str) -> EventView {
    EventView {
        position,
        at: BEGAN + jiff::SignedDuration::from_secs(seconds),
        actor: actor.to_owned(),
        text: text.to_owned(),
    }
}

fn progress(log10: f64, needed: f64) -> Progress {
    Progress { log10, needed }
}

/// Evidence of so many powers of ten: that it is worse, that it is safe.
fn line(aspect: Aspect, worse: f64, safe: f64, stable: (u64, u64), candidate: (u64, u64)) -> Line {
    Line {
        aspect,
        scope: Scope::All,
        worse: progress(worse, 2.9),
        slower: None,
        safe: Some(progress(safe, 1.301)),
        stable,
        candidate,
        percentile: None,
    }
}

fn proof() -> Proof {
    let mut proof = Proof {
        lines: vec![
            line(Aspect::Errors, -0.4, 0.9, (1480, 5), (402, 1)),
            line(Aspect::Unserved, -0.3, 0.42, (1502, 12), (408, 3)),
            line(Aspect::FirstByte, 0.31, 0.05, (1475, 74), (401, 22)),
            line(Aspect::LastByte, -0.2, 1.4, (1475, 74), (401, 17)),
        ],
        worse: progress(0.2, 2.0),
        safe: progress(0.05, 1.301),
        p_value: 0.6,
        trials: 1204,
        stable_trials: 3700,
        blocks: 12,
        ..Proof::default()
    };
    proof.lines.push(Line {
        scope: Scope::Tool("search_knowledge".into()),
        worse: progress(0.62, 3.5),
        safe: None,
        ..line(Aspect::Errors, 0.0, 0.0, (400, 2), (131, 4))
    });
    proof
}

fn running() -> RolloutView {
    let phase = |share: &str, hold_seconds: f64| PhaseView {
        name: None,
        share: share.parse().unwrap(),
        hold_seconds,
    };
    RolloutView {
        id: RolloutId(Uuid::from_u128(1)),
        from: "v1.5.0".parse().unwrap(),
        to: "v2.0.0".parse().unwrap(),
        plan: "stage-i".to_owned(),
        plan_description: String::new(),
        status: Status::Running,
        phase: 1,
        phases: vec![
            phase("5 %", 7200.0),
            phase("25 %", 7200.0),
            phase("50 %", 3600.0),
            phase("100 %", 0.0),
        ],
        started_at: BEGAN,
        started_by: "kim".to_owned(),
        step_seconds: 121.4,
        hold_seconds: 7200.0,
        deadline_seconds: Some(14400.0),
        share_wanted: "25 %".parse().unwrap(),
        share_by_hand: false,
        keys: Arms {
            stable: 412,
            candidate: 131,
        },
        held: None,
        ready: false,
        evidence_wanted: "trials 2000".to_owned(),
        trials: 1204,
        proof: Some(proof()),
        tolerances: Tolerances {
            errors: "+20 % +0.2pp".to_owned(),
            latency_ratio: 1.1144,
            latency_critical_ratio: 1.5092,
        },
        to_safe_seconds: Some(1330.0),
        to_worse_seconds: None,
        killed: None,
        set_aside: None,
        signals: BTreeMap::new(),
        missing: Some("1204 of 2000 trials seen".to_owned()),
        arms: Arms {
            stable: arm(3_700, 11, 0.009),
            candidate: arm(1_204, 4, 0.0095),
        },
        tools: vec![
            tool("search_knowledge", arm(400, 2, 0.008), arm(131, 1, 0.02)),
            tool("find_similar", arm(900, 0, 0.002), arm(240, 0, 0.002)),
            tool(
                "brand_new_tool_with_quite_a_long_name",
                arm(0, 0, 0.0),
                arm(12, 0, 0.3),
            ),
        ],
        findings: Vec::new(),
        events: vec![
            event(
                3,
                0,
                "kim",
                "rollout v1.5.0 -> v2.0.0 started, plan stage-i; contract: 35 tools added, none changed",
            ),
            event(4, 0, "kim", "phase 1 at 5 %"),
            event(
                5,
                7205,
                "serin",
                "phase 2 at 25 %: phase 1 passed after 5210 trials",
            ),
        ],
        ended_reason: None,
        ended_at: None,
        sessions_rebound: 0,
        sessions_ended: 0,
    }
}

fn rolled_back() -> RolloutView {
    let reason =
        "error_rate of tool search_knowledge is 96 %, limit 20 % (stable 0 %), in 25 calls";
    let mut rollout = RolloutView {
        status: Status::RolledBack,
        share_wanted: "0 %".parse().unwrap(),
        ended_reason: Some(reason.to_owned()),
        ended_at: Some(BEGAN + jiff::SignedDuration::from_secs(7330)),
        sessions_rebound: 17,
        sessions_ended: 2,
        missing: None,
        ..running()
    };
    rollout.events.push(event(
        6,
        7330,
        "serin",
        &format!("rolled back (immediate): {reason}"),
    ));
    rollout
}

fn screen(rollout: &RolloutView, columns: usize, rows: usize) -> Vec<String> {
    let service = ServiceView {
        name: "tools".parse().unwrap(),
        protocol: Protocol::Mcp,
        path: "/mcp".to_owned(),
        stable: "v1.5.0".parse().unwrap(),
        versions: Vec::new(),
        rollout: Some(rollout.clone()),
    };
    let now = BEGAN + jiff::SignedDuration::from_secs(7322);
    let lines = draw(&service, rollout, now, Size { columns, rows });
    lines
        .iter()
        .map(|line| strip_str(line).to_string())
        .collect()
}

/// Clock times depend on where the test runs.
fn shown(rollout: &RolloutView, columns: usize, rows: usize) -> String {
    let lines = screen(rollout, columns, rows).into_iter().map(|line| {
        let is_clock = line.len() > 8 && line.as_bytes()[2] == b':' && line.as_bytes()[5] == b':';
        if is_clock {
            format!("HH:MM:SS{}", &line[8..])
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_rollout_under_way() {
    insta::assert_snapshot!(shown(&running(), 100, 40));
}

#[test]
fn one_that_was_taken_back() {
    insta::assert_snapshot!(shown(&rolled_back(), 80, 40));
}

#[test]
fn one_that_is_held_on_a_small_terminal() {
    let held = RolloutView {
        held: Some("latency_p95 is 72 ms, limit +51 % (stable 36 ms), in 1204 calls".to_owned()),
        plan_description: "For the demo only. Its tolerances are wide so that a minute suffices."
            .to_owned(),
        share_by_hand: true,
        ..running()
    };
    insta::assert_snapshot!(shown(&held, 60, 24));
}

#[test]
fn one_whose_comparison_is_set_aside() {
    let mut aside = RolloutView {
        set_aside: Some(distrust_in_words(Distrust::StableBroken).to_owned()),
        signals: BTreeMap::from([("complaint".to_owned(), 2), ("critical_bug".to_owned(), 1)]),
        to_safe_seconds: None,
        tools: Vec::new(),
        events: Vec::new(),
        ..running()
    };
    aside.proof.as_mut().unwrap().distrust = Some(Distrust::StableBroken);
    insta::assert_snapshot!(shown(&aside, 100, 40));
}

#[test]
fn one_that_is_shown_to_be_worse() {
    let mut worse = rolled_back();
    let proof = worse.proof.as_mut().unwrap();
    proof.regression = true;
    proof.worse = progress(2.3, 2.0);
    proof.lines[4].worse = progress(9.2, 3.5);
    proof.culprit = Some(Culprit {
        tool: "search_knowledge".into(),
        aspect: Aspect::Errors,
        proven: true,
    });
    insta::assert_snapshot!(shown(&worse, 100, 40));
}

#[test]
fn one_that_thresholds_alone_decide() {
    let thresholds = RolloutView {
        proof: None,
        tools: Vec::new(),
        events: Vec::new(),
        ..running()
    };
    insta::assert_snapshot!(shown(&thresholds, 100, 40));
}

#[test]
fn the_time_to_a_verdict_is_as_coarse_as_it_is_known() {
    let mut rollout = running();
    for (safe, worse, expected) in [
        (Some(61.0), None, "safe ~1m 10s"),
        (Some(61.0), Some(12.0), "worse ~20s"),
        (None, Some(6000.0), "worse ~1h 40m"),
        (Some(49_900.0), None, "safe ~14h"),
        (None, None, "not in sight"),
    ] {
        rollout.to_safe_seconds = safe;
        rollout.to_worse_seconds = worse;
        let lines = screen(&rollout, 100, 40);
        let together = lines.iter().find(|line| line.starts_with("together"));
        let together = together.unwrap();
        assert!(together.ends_with(expected), "{together}");
    }
}

#[test]
fn one_that_waits_for_a_person() {
    let ready = RolloutView {
        ready: true,
        missing: None,
        step_seconds: 8000.0,
        ..running()
    };
    insta::assert_snapshot!(
        shown(&ready, 100, 40)
            .lines()
            .take(5)
            .collect::<Vec<_>>()
            .join("\n")
    );
    let late = RolloutView {
        status: Status::Inconclusive,
        step_seconds: 15000.0,
        ended_reason: None,
        ..running()
    };
    insta::assert_snapshot!(shown(&late, 100, 40));
}

#[test]
fn one_that_is_promoted_before_anybody_called() {
    let promoted = RolloutView {
        status: Status::Promoted,
        phase: 3,
        keys: Arms::default(),
        arms: Arms::default(),
        proof: Some(Proof::default()),
        tools: Vec::new(),
        events: Vec::new(),
        ended_reason: Some("every phase passed".to_owned()),
        ended_at: Some(BEGAN + jiff::SignedDuration::from_secs(60)),
        missing: None,
        share_wanted: "100 %".parse().unwrap(),
        ..running()
    };
    insta::assert_snapshot!(shown(&promoted, 100, 40));
}

#[test]
fn the_screen_stays_in_its_room() {
    let mut odd = rolled_back();
    odd.plan_description = "規則 ".repeat(40);
    odd.held = Some("tab\there\nand \x1b[31mred".to_owned());
    odd.status = Status::Running;
    for rollout in [running(), rolled_back(), odd] {
        for columns in [1, 2, 20, 40, 79, 80, 200] {
            for rows in [1, 2, 5, 10, 24, 25, 60, usize::MAX] {
                let lines = screen(&rollout, columns, rows);
                assert!(lines.len() < rows, "{} lines on {rows} rows", lines.len());
                for line in lines {
                    assert!(
                        textwrap::core::display_width(&line) <= columns,
                        "{line:?} on {columns} columns"
                    );
                    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                }
            }
        }
    }
}

#[test]
fn on_paper_nothing_is_lost() {
    let text = screen(&rolled_back(), PAPER.columns, PAPER.rows).join("\n");
    for part in [
        "search_knowledge",
        "17 went on with v1.5.0",
        "2 got a 404",
        "exit code",
        "10",
        "96 %",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_end_is_always_on_the_screen() {
    let mut rollout = rolled_back();
    rollout.tools = vec![rollout.tools[0].clone(); 12];
    for rows in 24..60 {
        let lines = screen(&rollout, 80, rows);
        let first = lines.first().unwrap();
        let last = lines.last().unwrap();
        assert!(
            first.starts_with("tools") && last.starts_with("exit code"),
            "{rows} rows: {lines:#?}"
        );
    }
}
