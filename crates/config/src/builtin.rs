//! The plans that come with Serin: the schedules of the teams whose guides it grew from, and the demo's.

use serin_model::plan::Plan;
use std::collections::BTreeMap;

const FILES: [(&str, &str); 9] = [
    ("cohorts", include_str!("../../../plans/cohorts.yaml")),
    (
        "conservative",
        include_str!("../../../plans/conservative.yaml"),
    ),
    ("demo", include_str!("../../../plans/demo.yaml")),
    (
        "erlmcp-staging",
        include_str!("../../../plans/erlmcp-staging.yaml"),
    ),
    ("extended", include_str!("../../../plans/extended.yaml")),
    ("fast-track", include_str!("../../../plans/fast-track.yaml")),
    ("stage-i", include_str!("../../../plans/stage-i.yaml")),
    ("standard", include_str!("../../../plans/standard.yaml")),
    ("three-day", include_str!("../../../plans/three-day.yaml")),
];

/// The built-in plans, by name. A manifest's plan of the same name takes the place of one.
pub fn builtin_plans() -> BTreeMap<String, Plan> {
    let plan = |(name, text): &(&str, &str)| match serde_saphyr::from_str(text) {
        Ok(plan) => ((*name).to_owned(), plan),
        Err(error) => unreachable!("the built-in plan {name} is read in a test: {error}"),
    };
    FILES.iter().map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_plan;

    #[test]
    fn built_in_plans_pass_the_checks_of_any_other() {
        for (name, text) in FILES {
            let checked = read_plan(text, name).unwrap_or_else(|error| panic!("{error}"));
            let odd: Vec<_> = checked.warnings.iter().map(|w| w.field.as_str()).collect();
            // The guide asks for perfection in its first phase; inclusive limits let it be met.
            let expected: &[_] = match name {
                "cohorts" => &[
                    "phases[0].criteria.availability.limit",
                    "phases[0].criteria.error_rate.limit",
                ],
                _ => &[],
            };
            assert_eq!(odd, expected, "{name}");
            assert_eq!(Some(&checked.value), builtin_plans().get(name), "{name}");
        }
    }

    #[test]
    fn schedules_are_those_of_the_guides() {
        let plans = builtin_plans();
        let schedule = |name: &str| {
            let minutes = |phase: &serin_model::plan::Phase| {
                format!("{}/{}", phase.share.percent(), phase.hold.as_secs() / 60)
            };
            plans[name]
                .phases
                .iter()
                .map(minutes)
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (name, expected) in [
            ("stage-i", "5/120 25/120 50/60 100/0"),
            ("conservative", "5/60 25/30 50/30 100/60"),
            ("three-day", "10/1440 50/1440 100/1440"),
            ("fast-track", "10/60 50/60 100/60"),
            ("cohorts", "1/10 5/30 25/60 100/120"),
            ("standard", "5/60 10/30 25/30 50/30 100/30"),
            ("extended", "5/60 10/60 25/60 50/60 100/60"),
        ] {
            assert_eq!(schedule(name), expected, "{name}");
        }
        assert_eq!(plans.len(), FILES.len());
    }
}
