//! The traffic of a service, as far as a plan depends on it.

use crate::{
    figures::Chance,
    latency::{Slowdown, Spread},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a service is called like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Calls a second, of both versions together.
    pub calls_per_second: f64,
    /// Who makes them: what trials there are depends on it.
    pub keys: Keys,
    /// How many tools they are spread over, evenly. None for services that have no tools.
    pub tools: u32,
    /// The part of stable's calls that fail.
    pub error_rate: f64,
    /// How long stable takes.
    pub latency: Spread,
}

/// Whose calls they are. A trial is a key's first block, so few keys mean few trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// So many callers that stay the same, such as the tenants of a service: each makes one trial a tool and step, and then there
    /// are no more.
    Callers(u64),
    /// Sessions that come and go.
    Sessions {
        /// How many begin each second.
        per_second: f64,
        /// Time between two calls of one.
        call_every_seconds: f64,
    },
}

impl Traffic {
    /// Calls that each key makes a second while it lives.
    pub(crate) fn calls_per_second_of_a_key(&self) -> f64 {
        match self.keys {
            Keys::Callers(callers) => self.calls_per_second / callers.max(1) as f64,
            Keys::Sessions {
                call_every_seconds, ..
            } => 1.0 / call_every_seconds.max(1e-3),
        }
    }

    /// How long a session lives; nothing for callers that stay.
    pub(crate) fn session_seconds(&self) -> Option<f64> {
        match self.keys {
            Keys::Callers(_) => None,
            Keys::Sessions {
                per_second,
                call_every_seconds,
            } => Some(self.calls_per_second / per_second.max(1e-9) * call_every_seconds),
        }
    }

    /// Calls that a trial has beyond its first, on average: what its key does until the block ends.
    pub(crate) fn further_calls(&self, block_seconds: f64) -> f64 {
        let rate = self.calls_per_second_of_a_key();
        match self.keys {
            Keys::Callers(_) => {
                let expected = rate * block_seconds;
                expected / -libm::expm1(-expected) - 1.0
            }
            Keys::Sessions { per_second, .. } => {
                let calls_each = self.calls_per_second / per_second.max(1e-9);
                (rate * block_seconds / 2.0).min((calls_each - 1.0).max(0.0))
            }
        }
    }

    /// The chance that a key's first block has a call of a certain tool.
    pub(crate) fn first_block_has_tool(&self, block_seconds: f64) -> f64 {
        touched(self.tools, 1.0 + self.further_calls(block_seconds))
    }

    /// The chance that a session calls a certain tool at all.
    pub(crate) fn session_has_tool(&self) -> f64 {
        let calls = self.session_seconds().unwrap_or(0.0) * self.calls_per_second_of_a_key();
        touched(self.tools, calls.max(1.0))
    }
}

/// The chance that one of so many tools is among so many calls.
fn touched(tools: u32, calls: f64) -> f64 {
    if tools <= 1 {
        return 1.0;
    }
    1.0 - libm::pow(1.0 - 1.0 / f64::from(tools), calls)
}

/// What is wrong with a simulated candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degradation {
    /// Nothing.
    None,
    /// This part of its calls fails.
    Errors(f64),
    /// This part of the calls of one tool fails.
    OneTool(f64),
    /// It is so many times slower.
    Slower(f64),
}

impl Degradation {
    /// What is worth asking about for a service with so many tools: nothing, errors, one tool of several, slowness.
    pub fn worth_asking(tools: u32) -> Vec<Self> {
        let mut all = vec![Self::None];
        all.extend([0.02, 0.03, 0.05, 0.1, 0.2].map(Self::Errors));
        if tools > 1 {
            all.push(Self::OneTool(0.2));
        }
        all.extend([1.2, 1.5, 2.0].map(Self::Slower));
        all
    }

    /// The part of the calls of a tool that fail, where stable has `stable`.
    pub(crate) fn error_rate(self, stable: f64, tool: usize) -> f64 {
        match self {
            Self::Errors(rate) => rate,
            Self::OneTool(rate) if tool == 0 => rate,
            _ => stable,
        }
    }

    /// How it slows calls down.
    pub(crate) fn slowdown(self) -> Slowdown {
        match self {
            Self::Slower(factor) => Slowdown::all(factor),
            _ => Slowdown::NONE,
        }
    }
}

/// In words: `errors of 5 %`.
impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |rate: f64| (rate * 1e4).round() / 1e2;
        match *self {
            Self::None => f.pad("none"),
            Self::Errors(rate) => f.pad(&format!("errors of {} %", percent(rate))),
            Self::OneTool(rate) => f.pad(&format!("errors of {} % in one tool", percent(rate))),
            Self::Slower(factor) => f.pad(&format!("{factor} times slower")),
        }
    }
}

/// The middle of what many runs have shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Middle {
    /// Half of the runs took no more.
    pub median: f64,
    /// Nine of ten took no more.
    pub p90: f64,
}

/// What happens to candidates with one degradation under a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Characteristics {
    /// What is wrong with them.
    pub what: Degradation,
    /// Runs in which the candidate was taken back: a false alarm where nothing is wrong.
    pub rolled_back: Chance,
    /// Runs in which it became stable.
    pub promoted: Chance,
    /// Runs that ended with neither: they wait for a person.
    pub inconclusive: Chance,
    /// Seconds until it was taken back, in the runs where it was.
    pub seconds: Option<Middle>,
    /// The candidate's calls until then.
    pub candidate_calls: Option<Middle>,
    /// Those of them that failed because of the fault, or were slower.
    pub harmed_calls: Option<Middle>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_follow_from_who_calls() {
        let callers = Traffic {
            calls_per_second: 10.0,
            keys: Keys::Callers(20),
            tools: 1,
            error_rate: 0.01,
            latency: Spread::default(),
        };
        // Half a call a second each makes five in a block of ten seconds.
        assert!((callers.further_calls(10.0) - 4.034).abs() < 1e-3);
        let sessions = Traffic {
            keys: Keys::Sessions {
                per_second: 0.5,
                call_every_seconds: 10.0,
            },
            tools: 4,
            ..callers
        };
        assert_eq!(sessions.session_seconds(), Some(200.0));
        assert!((sessions.further_calls(10.0) - 0.5).abs() < 1e-12);
        assert!((sessions.session_has_tool() - 0.9968).abs() < 1e-4);
        assert!(sessions.first_block_has_tool(10.0) < 0.4);
    }

    #[test]
    fn degradations_in_words() {
        assert_eq!(Degradation::Errors(0.02).to_string(), "errors of 2 %");
        assert_eq!(Degradation::Slower(1.5).to_string(), "1.5 times slower");
        let all = Degradation::worth_asking(8);
        assert_eq!(all.len(), 10);
        assert_eq!(Degradation::worth_asking(1).len(), 9);
    }
}
