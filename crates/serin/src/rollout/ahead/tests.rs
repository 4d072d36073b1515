//! What the texts look like, for made-up figures.

use super::{characteristics, forecast, is_worse, traffic};
use crate::cli::{SimulateArgs, TrafficArgs};
use serin_model::plan::Plan;
use serin_simulate::{
    Characteristics, Degradation, Detection, Middle, PhaseForecast, Traffic, figures::Chance,
};
use std::time::Duration;

fn args() -> TrafficArgs {
    TrafficArgs {
        calls_per_second: 50.0,
        callers: None,
        sessions_per_minute: Some(150.0),
        call_every: Duration::from_secs(5),
        tools: 10,
        error_rate: "0.3 %".parse().unwrap(),
        latency: Duration::from_millis(50),
    }
}

fn stage_i() -> Plan {
    serin_config::builtin_plans().remove("stage-i").unwrap()
}

fn detection(what: Degradation, back: Option<f64>, held: Option<f64>) -> Detection {
    Detection {
        what,
        rolled_back_seconds: back,
        held_seconds: held,
        keys: None,
    }
}

fn phase(phase: usize, share: f64) -> PhaseForecast {
    PhaseForecast {
        phase,
        name: None,
        share,
        hold_seconds: 7200.0,
        deadline_seconds: Some(14400.0),
        trials: 7863.0,
        trials_by_deadline: 15726.0,
        keys: 900.0,
        calls: 18000.0,
        detections: vec![
            detection(Degradation::Errors(0.02), Some(9000.0), None),
            detection(Degradation::Errors(0.2), Some(80.0), None),
            detection(Degradation::Slower(1.5), None, Some(1000.0)),
            detection(Degradation::Slower(1.2), None, None),
        ],
        safe_seconds: None,
        evidence_seconds: Some(1900.0),
        thresholds_alone: false,
        too_short: false,
    }
}

fn phases() -> Vec<PhaseForecast> {
    let few = PhaseForecast {
        name: Some("few".to_owned()),
        trials: 20.0,
        trials_by_deadline: 22.0,
        keys: 2.0,
        detections: Vec::new(),
        evidence_seconds: None,
        thresholds_alone: true,
        too_short: true,
        ..phase(1, 0.25)
    };
    let quick = PhaseForecast {
        hold_seconds: 10.0,
        safe_seconds: Some(12_000.0),
        evidence_seconds: Some(5.0),
        too_short: true,
        ..phase(2, 0.5)
    };
    let all = PhaseForecast {
        hold_seconds: 0.0,
        deadline_seconds: None,
        trials: 0.0,
        keys: 0.0,
        detections: Vec::new(),
        ..phase(3, 1.0)
    };
    vec![phase(0, 0.05), few, quick, all]
}

fn text(traffic: &Traffic) -> String {
    forecast::text("stage-i", &stage_i(), traffic, &phases())
}

#[test]
fn what_a_plan_can_see() {
    insta::assert_snapshot!(text(&traffic(&args())));
}

#[test]
fn few_callers_are_told_that_they_are_few() {
    let few = text(&traffic(&TrafficArgs {
        callers: Some(20),
        sessions_per_minute: None,
        ..args()
    }));
    let few = few.replace('\n', " ");
    for part in [
        "20 callers are few",
        "thresholds alone decide. Waiting does not help",
        "renew",
    ] {
        assert!(few.contains(part), "{part} in {few}");
    }
}

#[test]
fn a_threshold_that_stable_breaks_itself_is_named() {
    let sick = text(&traffic(&TrafficArgs {
        error_rate: "2 %".parse().unwrap(),
        ..args()
    }));
    assert!(sick.contains("expect false alarms"), "{sick}");
}

#[test]
fn who_fails_less_than_stable_is_not_asked_about() {
    let sick = traffic(&TrafficArgs {
        error_rate: "4 %".parse().unwrap(),
        ..args()
    });
    let asked = Degradation::worth_asking(10).into_iter();
    let asked: Vec<_> = asked.filter(|what| is_worse(*what, &sick)).collect();
    assert!(!asked.contains(&Degradation::Errors(0.03)), "{asked:?}");
    assert!(asked.contains(&Degradation::Errors(0.05)), "{asked:?}");
    assert!(asked.contains(&Degradation::Slower(1.2)), "{asked:?}");
}

#[test]
fn what_becomes_of_candidates() {
    let args = SimulateArgs {
        plan: "stage-i".to_owned(),
        traffic: args(),
        runs: 100,
        seed: 1,
        svg: None,
        json: false,
    };
    let traffic = traffic(&args.traffic);
    let row = |what, back, promoted| {
        let middle = |median| {
            let p90 = 2.0 * median;
            (back > 0).then_some(Middle { median, p90 })
        };
        let chance = |hits| Chance { hits, runs: 100 };
        Characteristics {
            what,
            rolled_back: chance(back),
            promoted: chance(promoted),
            inconclusive: chance(100 - back - promoted),
            seconds: middle(140.0),
            candidate_calls: middle(600.0),
            harmed_calls: middle(31.0),
        }
    };
    let found = [
        row(Degradation::None, 1, 85),
        row(Degradation::Errors(0.02), 30, 65),
        row(Degradation::OneTool(0.2), 97, 2),
    ];
    let mut text = characteristics::head("stage-i", &traffic, &args);
    text.extend(found.iter().map(characteristics::row));
    text += &characteristics::lessons(&stage_i(), &traffic, &found);
    insta::assert_snapshot!(text);
}
