//! The judge's error process, as a [`Watcher`].

use crate::counts::{Block, Watcher};
use serin_judge::eprocess::{Budget, Counts, EProcess, Rules, Tolerance};

/// One error process over whole blocks.
#[derive(Clone, Debug)]
pub struct Process {
    rules: Rules,
    evidence: EProcess,
    restarts: Option<Restarts>,
}

#[derive(Clone, Debug)]
struct Restarts {
    budget: Budget,
    /// The first look of each further step.
    steps: Vec<u32>,
    looks: u32,
}

/// The tolerance `(relative, absolute)`.
pub(crate) const fn tolerance((relative, absolute): (f64, f64)) -> Tolerance {
    Tolerance { relative, absolute }
}

impl Process {
    /// The plain process, which is that of the reference.
    pub fn plain(margin: (f64, f64)) -> Self {
        let rules = Rules {
            half_life_trials: f64::INFINITY,
            ..Rules::worse(tolerance(margin))
        };
        Self::of(rules, None)
    }

    /// The plain mirror: evidence that the candidate is within tolerance.
    pub fn safe(margin: (f64, f64)) -> Self {
        Self::of(Rules::within(tolerance(margin)), None)
    }

    /// With restarts, as it judges rollouts: one that is planned to take so many looks, with further steps at these.
    pub fn restarting(margin: (f64, f64), horizon_looks: u32, steps: &[u32]) -> Self {
        let rules = Rules::worse(tolerance(margin));
        Self::of(
            rules,
            Some(Restarts {
                budget: Budget::new(f64::from(horizon_looks)),
                steps: steps.to_vec(),
                looks: 0,
            }),
        )
    }

    fn of(rules: Rules, restarts: Option<Restarts>) -> Self {
        let evidence = match &restarts {
            Some(restarts) => EProcess::restarting(&rules, restarts.budget),
            None => EProcess::plain(&rules),
        };
        Self {
            rules,
            evidence,
            restarts,
        }
    }

    /// Takes counts, or what is expected of them, as one look; the natural logarithm of the evidence so far.
    pub fn take(&mut self, counts: Counts) -> f64 {
        if let Some(restarts) = &mut self.restarts {
            if restarts.steps.contains(&restarts.looks) {
                restarts.budget.step();
            }
            if restarts.looks > 0 {
                restarts.budget.block();
                self.evidence.restart(restarts.budget);
            }
            restarts.looks += 1;
        }
        self.evidence.take(&self.rules, counts);
        self.evidence.ln_e()
    }
}

impl Watcher for Process {
    fn look(&mut self, block: &Block) -> f64 {
        self.take(Counts::new(
            (block.candidate_bad, block.candidate),
            (block.stable_bad, block.stable),
        ))
    }
}
