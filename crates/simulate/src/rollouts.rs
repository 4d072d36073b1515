//! Whole rollouts under virtual time: the plan's phases, its thresholds and criteria, the judge, and the rollout machine itself.

use crate::{
    Characteristics, Degradation, Middle, Seed, Traffic, all_runs,
    figures::{Chance, quantile},
    town::{Town, latencies},
};
use jiff::Timestamp;
use serin_judge::{Metric, Unit, trial::TrialBlock};
use serin_model::{
    course::{Block, Course, Step},
    event::{Actor, Event, Preflight, Recorded, Started},
    name::{RolloutId, ServiceName, VersionName},
    plan::{EXTENSIONS_MAX, Plan},
    rollout::{Rollout, Status},
    state::State,
};
use std::time::Duration;
use uuid::Uuid;

/// A look is taken after this part of the time a step has lasted already, so that a delay is known within a thirtieth.
const LOOK_PART: f64 = 0.03;

/// Looks are so often within the window of a threshold: it moves on by half.
const LOOKS_A_WINDOW: f64 = 2.0;

/// Looks are so often within a hold: its end is met within a twentieth.
const LOOKS_A_HOLD: f64 = 20.0;

/// Looks within a hold are no more than this, whatever the windows: phases of many hours are looked at by thresholds less often
/// than in life, and the few false alarms of thresholds alone are fewer still.
const LOOKS_A_HOLD_MAX: f64 = 150.0;

/// Where a plan bounds no time, such as a single phase without a hold.
const LONGEST_DEFAULT: Duration = Duration::from_hours(24);

/// The share that a plan gives to a rollout that the machine would never end is cut off after this many of its deadlines.
const DEADLINES_MAX: u32 = 1 + EXTENSIONS_MAX;

/// What happens to candidates with this degradation under this plan, in so many rollouts.
///
/// Every part that decides is the real one; clients, and how their calls end, are drawn at random. What depends on more than
/// traffic is taken to be fine: numbers inside results, resources, signals given by hand. Whoever must approve a promotion does.
pub fn simulate(
    plan: &Plan,
    traffic: &Traffic,
    what: Degradation,
    runs: u64,
    seed: &Seed,
) -> Characteristics {
    let plan = simulated(plan);
    let seed = seed.of(&format!("rollouts, {what}"));
    let latencies = latencies(traffic, what);
    let ends = all_runs(runs, |run| {
        let source = &mut seed.run(run);
        let settings = (plan.judge.block.as_secs_f64(), looks_at_latency(&plan));
        let town = Town::new(*traffic, what, settings, &latencies, source);
        Simulated::new(&plan).run(town)
    });
    let of =
        |status: &dyn Fn(Status) -> bool| Chance::of(ends.iter().map(|end| status(end.status)));
    let middle = |figure: &dyn Fn(&End) -> f64| {
        let figures: Vec<_> = ends
            .iter()
            .filter(|end| end.status == Status::RolledBack)
            .map(figure)
            .collect();
        Some(Middle {
            median: quantile(&figures, 0.5)?,
            p90: quantile(&figures, 0.9)?,
        })
    };
    Characteristics {
        what,
        rolled_back: of(&|status| status == Status::RolledBack),
        promoted: of(&|status| status == Status::Promoted),
        inconclusive: of(&|status| !matches!(status, Status::RolledBack | Status::Promoted)),
        seconds: middle(&|end| end.seconds),
        candidate_calls: middle(&|end| end.candidate_calls as f64),
        harmed_calls: middle(&|end| end.harmed_calls as f64),
    }
}

/// The plan as far as traffic alone decides.
fn simulated(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let of_traffic =
        |metric: &Metric| !matches!(metric.unit(), Unit::Cores | Unit::Bytes | Unit::Count);
    plan.values.clear();
    plan.thresholds.retain(|metric, _| of_traffic(metric));
    plan.criteria.retain(|metric, _| of_traffic(metric));
    for phase in &mut plan.phases {
        phase.thresholds.retain(|metric, _| of_traffic(metric));
        phase.criteria.retain(|metric, _| of_traffic(metric));
    }
    plan.auto_promote = true;
    plan
}

fn looks_at_latency(plan: &Plan) -> bool {
    (0..plan.phases.len()).any(|phase| {
        let thresholds = plan.thresholds(phase);
        let criteria = plan.criteria(phase);
        let metrics = thresholds.iter().map(|rule| rule.metric);
        metrics
            .chain(criteria.iter().map(|rule| rule.metric))
            .any(|metric| metric.unit() == Unit::Seconds)
    })
}

/// How a rollout ended.
struct End {
    status: Status,
    seconds: f64,
    candidate_calls: u64,
    harmed_calls: u64,
}

/// One rollout under virtual time.
struct Simulated {
    state: State,
    id: RolloutId,
    position: u64,
    longest_seconds: f64,
}

impl Simulated {
    fn new(plan: &Plan) -> Self {
        let deadlines: Duration = (0..plan.phases.len())
            .filter_map(|phase| plan.deadline(phase))
            .sum();
        let longest = if deadlines.is_zero() {
            plan.longest.unwrap_or(LONGEST_DEFAULT)
        } else {
            deadlines * DEADLINES_MAX
        };
        let mut simulated = Self {
            state: State::default(),
            id: RolloutId(Uuid::nil()),
            position: 0,
            longest_seconds: longest.as_secs_f64(),
        };
        let started = names().map(|(service, from, to)| Started {
            rollout: simulated.id,
            service,
            from,
            to,
            flag: None,
            plan_name: "simulated".to_owned(),
            plan: plan.clone(),
            reason: String::new(),
            preflight: Preflight::default(),
        });
        if let (Some(started), Some(first)) = (started, plan.phases.first()) {
            simulated.apply(Event::RolloutStarted(Box::new(started)), 0.0);
            let entered = Event::PhaseEntered {
                rollout: simulated.id,
                phase: 0,
                share: first.share,
                evidence: None,
                overridden: None,
            };
            simulated.apply(entered, 0.0);
        }
        simulated
    }

    fn rollout(&self) -> Option<&Rollout> {
        self.state.rollout(self.id)
    }

    fn apply(&mut self, event: Event, at_seconds: f64) {
        self.position += 1;
        self.state.apply(&Recorded {
            position: self.position,
            at: timestamp(at_seconds),
            actor: Actor::serin(),
            epoch: 1,
            event,
        });
    }

    /// Until it is over, or waits for a person.
    fn run(mut self, mut town: Town<'_>) -> End {
        let mut end = End {
            status: Status::Inconclusive,
            seconds: 0.0,
            candidate_calls: 0,
            harmed_calls: 0,
        };
        let Some((step, share)) = self.rollout().map(|r| (Step::of(r, 0.0), r.share)) else {
            return end;
        };
        let Some(plan) = self.rollout().map(|rollout| rollout.plan.clone()) else {
            return end;
        };
        town.begin(share.ratio());
        let mut course = Course::new(plan.clone(), step);
        while end.seconds < self.longest_seconds {
            let step = course.step();
            let age = end.seconds - step.began_seconds;
            let blocks = look_blocks(&plan, step.phase, age);
            let seconds = f64::from(blocks) * plan.judge.block.as_secs_f64();
            end.seconds += seconds;
            let (block, harmed) = town.live(step.number, end.seconds, age + seconds, seconds);
            end.candidate_calls += block.candidate.pooled.calls;
            end.harmed_calls += harmed;
            // Of the blocks of a long look all trials are in the last; the others count as blocks all the same.
            for _ in 1..blocks {
                course.look_at(&silent(&block));
            }
            course.look_at(&block);
            self.decide(&mut course, end.seconds);
            let Some(rollout) = self.rollout() else {
                return end;
            };
            if rollout.status.is_terminal() || rollout.status == Status::Inconclusive {
                end.status = rollout.status;
                return end;
            }
            if rollout.step != step.number {
                town.begin(rollout.share.ratio());
                course.begin(Step::of(rollout, end.seconds));
            }
        }
        end
    }

    fn decide(&mut self, course: &mut Course, at_seconds: f64) {
        let assessment = course.assess(at_seconds);
        let events = self
            .rollout()
            .map(|rollout| rollout.advance(&assessment, timestamp(at_seconds)));
        for event in events.into_iter().flatten() {
            self.apply(event, at_seconds);
        }
    }
}

/// How many blocks go into the next look at a step of this age.
fn look_blocks(plan: &Plan, phase: usize, age_seconds: f64) -> u32 {
    let windows = plan.thresholds(phase).into_iter().map(|rule| rule.window);
    let windows = windows.chain(plan.criteria(phase).into_iter().map(|rule| rule.window));
    let window = windows
        .min()
        .map_or(f64::INFINITY, |window| window.as_secs_f64());
    let hold = plan.phases.get(phase).map(|phase| phase.hold.as_secs_f64());
    // A phase without a hold is over as soon as its evidence is there.
    let hold = hold.filter(|hold| *hold > 0.0).unwrap_or(3600.0);
    let seconds = (age_seconds * LOOK_PART)
        .min((window / LOOKS_A_WINDOW).max(hold / LOOKS_A_HOLD_MAX))
        .min(hold / LOOKS_A_HOLD);
    let blocks = (seconds / plan.judge.block.as_secs_f64().max(1e-3)).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at least one, and a part of a step's age"
    )]
    let blocks = blocks.max(1.0) as u32;
    blocks
}

/// A block of the judge in which nobody called.
fn silent(block: &Block) -> Block {
    let trials = block.trials.as_ref().map(|trials| {
        Box::new(TrialBlock {
            step: trials.step,
            ended_seconds: trials.ended_seconds,
            share: trials.share,
            tools_listed: trials.tools_listed,
            ..TrialBlock::default()
        })
    });
    Block {
        step: block.step,
        at_seconds: block.at_seconds,
        trials,
        ..Block::default()
    }
}

fn names() -> Option<(ServiceName, VersionName, VersionName)> {
    let version = |name: &str| name.parse().ok();
    Some(("service".parse().ok()?, version("v1")?, version("v2")?))
}

fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH
        .checked_add(Duration::from_secs_f64(seconds))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keys, Spread};

    fn plan(json: &str) -> Plan {
        serde_json::from_str(json).unwrap()
    }

    fn traffic() -> Traffic {
        Traffic {
            calls_per_second: 50.0,
            keys: Keys::Sessions {
                per_second: 5.0,
                call_every_seconds: 5.0,
            },
            tools: 4,
            error_rate: 0.005,
            latency: Spread::default(),
        }
    }

    const SHORT: &str = r#"{"phases": [{"share": "10 %", "hold": "10m"}, {"share": "50 %", "hold": "10m"}, {"share": "100 %"}],
        "evidence": "trials 200"}"#;

    fn short(what: Degradation) -> Characteristics {
        simulate(
            &plan(SHORT),
            &traffic(),
            what,
            12,
            &Seed::new("tests", "rollouts"),
        )
    }

    #[test]
    fn a_good_candidate_is_promoted_and_a_bad_one_taken_back() {
        let good = short(Degradation::None);
        assert!(good.promoted.hits >= 11, "{good:?}");
        let bad = short(Degradation::Errors(0.2));
        assert_eq!(bad.rolled_back.hits, 12, "{bad:?}");
        assert!(bad.seconds.unwrap().p90 < 300.0, "{bad:?}");
        let (all, harmed) = (bad.candidate_calls.unwrap(), bad.harmed_calls.unwrap());
        assert!(harmed.median < all.median, "{bad:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_figures() {
        assert_eq!(
            short(Degradation::Slower(2.0)),
            short(Degradation::Slower(2.0))
        );
    }

    #[test]
    fn few_callers_show_little() {
        let few = Traffic {
            keys: Keys::Callers(10),
            ..traffic()
        };
        let seed = Seed::new("tests", "few");
        let plan = plan(SHORT);
        let end = simulate(&plan, &few, Degradation::None, 4, &seed);
        assert_eq!(
            end.inconclusive.hits, 4,
            "two hundred trials never come: {end:?}"
        );
    }
}
