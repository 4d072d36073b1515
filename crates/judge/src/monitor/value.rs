//! Rules on numbers inside the results of tools: a guard's pass rate, the accuracy of a search.

use super::window::Window;
use crate::{Arm, Check, Level, ValueFinding};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A rule on the mean of a number that a tool's results hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueThreshold {
    /// What the plan calls it.
    pub name: Arc<str>,
    /// The tool.
    pub tool: Arc<str>,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Beyond it, the rollout holds.
    pub warning: Option<f64>,
    /// Beyond it, the candidate is taken back.
    pub critical: Option<f64>,
    /// How long it must be so before it counts.
    pub lasting: Duration,
    /// How far back it looks.
    pub window: Duration,
    /// Fewer results than this in the window say nothing.
    pub min_samples: u64,
}

impl ValueThreshold {
    /// What is found in a window. [`Check::Fail`] names the worst level that is breached.
    pub(super) fn look(&self, window: &Window) -> ValueFinding {
        let sum = |arm: &Arm| arm.values.get(&self.name).copied().unwrap_or_default();
        let (stable, candidate) = (sum(&window.stable), sum(&window.candidate));
        let beyond = |limit: f64| {
            candidate.mean().is_some_and(|mean| {
                if self.higher_is_better {
                    mean < limit
                } else {
                    mean > limit
                }
            })
        };
        let breached = [
            (Level::Critical, self.critical),
            (Level::Warning, self.warning),
        ]
        .into_iter()
        .find_map(|(level, limit)| Some((level, limit.filter(|limit| beyond(*limit))?)));
        let (check, level, limit) = match breached {
            _ if candidate.count == 0 => (Check::NoData, None, None),
            _ if candidate.count < self.min_samples => (Check::Insufficient, None, None),
            Some((level, limit)) => (Check::Fail, Some(level), Some(limit)),
            None => (Check::Pass, None, None),
        };
        ValueFinding {
            name: Arc::clone(&self.name),
            tool: Arc::clone(&self.tool),
            level,
            check,
            limit: limit.or(self.warning).or(self.critical).unwrap_or_default(),
            candidate: candidate.mean(),
            stable: stable.mean(),
            samples: candidate.count,
        }
    }
}
