//! What is compared: rates and latencies, of all callers together and tool by tool.

use super::{
    Aspect, Line, Progress, Settings,
    weights::{Mean, Weights},
};
use crate::{
    Scope,
    eprocess::{Budget, Counts, EProcess, Rules, least},
    exceedance::{Exceedance, Values},
    trial::Trials,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The comparison of how often something happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rate {
    worse: EProcess,
    /// Pooled lines only.
    safe: Option<EProcess>,
    /// In this step: `(bad, all)`.
    stable: (u64, u64),
    candidate: (u64, u64),
}

impl Rate {
    fn new(settings: &Settings, safe: bool, budget: Budget) -> Self {
        Self {
            worse: EProcess::restarting(&Rules::worse(settings.errors), budget),
            safe: safe.then(|| EProcess::plain(&Rules::within(settings.errors))),
            stable: (0, 0),
            candidate: (0, 0),
        }
    }

    pub(super) fn begin_step(&mut self, settings: &Settings) {
        self.worse.begin_step(&Rules::worse(settings.errors));
        if let Some(safe) = &mut self.safe {
            safe.begin_anew(&Rules::within(settings.errors));
        }
        self.stable = (0, 0);
        self.candidate = (0, 0);
    }

    pub(super) fn take(
        &mut self,
        settings: &Settings,
        budget: Budget,
        stable: (u64, u64),
        candidate: (u64, u64),
    ) {
        if stable.1 == 0 && candidate.1 == 0 {
            return;
        }
        add(&mut self.stable, stable);
        add(&mut self.candidate, candidate);
        self.expect(settings, budget, Counts::new(candidate, stable));
    }

    /// Takes counts that need not be whole, and books none.
    pub(super) fn expect(&mut self, settings: &Settings, budget: Budget, counts: Counts) {
        self.worse.restart(budget);
        self.worse.take(&Rules::worse(settings.errors), counts);
        if let Some(safe) = &mut self.safe {
            safe.take(&Rules::within(settings.errors), counts);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts::new(self.candidate, self.stable)
    }
}

/// All callers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pooled {
    pub(super) errors: Rate,
    pub(super) unserved: Rate,
    pub(super) first_byte: Exceedance,
    pub(super) last_byte: Exceedance,
}

impl Pooled {
    pub(super) fn new(settings: &Settings, budget: Budget) -> Self {
        Self {
            errors: Rate::new(settings, true, budget),
            unserved: Rate::new(settings, true, budget),
            first_byte: Exceedance::new(true, budget),
            last_byte: Exceedance::new(true, budget),
        }
    }

    pub(super) fn begin_step(&mut self, settings: &Settings) {
        self.errors.begin_step(settings);
        self.unserved.begin_step(settings);
        self.first_byte.begin_step();
        self.last_byte.begin_step();
    }

    pub(super) fn take(
        &mut self,
        settings: &Settings,
        budget: Budget,
        stable: &Trials,
        candidate: &Trials,
    ) {
        self.errors
            .take(settings, budget, errors(stable), errors(candidate));
        self.unserved
            .take(settings, budget, unserved(stable), unserved(candidate));
        let margins = settings.margins();
        self.first_byte
            .take(margins, budget, first_byte(stable), first_byte(candidate));
        self.last_byte
            .take(margins, budget, last_byte(stable), last_byte(candidate));
    }

    pub(super) fn mean(&self, weights: &Weights, latency: impl Fn(&Exceedance) -> f64) -> Mean {
        let mut mean = Mean::default();
        mean.add(weights.errors, self.errors.worse.ln_e());
        mean.add(weights.unserved, self.unserved.worse.ln_e());
        mean.add(weights.first_byte, latency(&self.first_byte));
        mean.add(weights.last_byte, latency(&self.last_byte));
        mean
    }

    /// The least over what is compared: all of it must be within tolerance. No evidence where nothing is compared.
    pub(super) fn ln_safe(&self, aspects: &[Aspect]) -> f64 {
        let of = |aspect: &Aspect| match aspect {
            Aspect::Errors => self.errors.safe.as_ref().map(EProcess::ln_e),
            Aspect::Unserved => self.unserved.safe.as_ref().map(EProcess::ln_e),
            Aspect::FirstByte => self.first_byte.ln_safe(),
            Aspect::LastByte => self.last_byte.ln_safe(),
        };
        aspects.iter().filter_map(of).reduce(least).unwrap_or(0.0)
    }

    pub(super) fn lines(&self, settings: &Settings, weights: &Weights) -> Vec<Line> {
        let lines = [
            rate_line(
                Aspect::Errors,
                Scope::All,
                &self.errors,
                settings,
                weights.errors,
            ),
            rate_line(
                Aspect::Unserved,
                Scope::All,
                &self.unserved,
                settings,
                weights.unserved,
            ),
            latency_line(
                Aspect::FirstByte,
                Scope::All,
                &self.first_byte,
                settings,
                weights.first_byte,
            ),
            latency_line(
                Aspect::LastByte,
                Scope::All,
                &self.last_byte,
                settings,
                weights.last_byte,
            ),
        ];
        lines
            .into_iter()
            .filter(|line| settings.aspects.contains(&line.aspect))
            .collect()
    }
}

/// One tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tool {
    errors: Rate,
    last_byte: Exceedance,
    compared: bool,
}

impl Tool {
    pub(super) fn new(settings: &Settings, budget: Budget) -> Self {
        Self {
            errors: Rate::new(settings, false, budget),
            last_byte: Exceedance::new(false, budget),
            compared: false,
        }
    }

    pub(super) fn begin_step(&mut self, settings: &Settings) {
        self.errors.begin_step(settings);
        self.last_byte.begin_step();
    }

    /// Whether both versions have had a trial of it.
    pub(super) const fn is_compared(&self) -> bool {
        self.compared
    }

    pub(super) fn add_to(
        &self,
        mean: &mut Mean,
        weights: &Weights,
        latency: impl Fn(&Exceedance) -> f64,
    ) {
        mean.add(weights.tool_errors, self.errors.worse.ln_e());
        mean.add(weights.tool_last_byte, latency(&self.last_byte));
    }

    pub(super) fn take(
        &mut self,
        settings: &Settings,
        budget: Budget,
        stable: &Trials,
        candidate: &Trials,
    ) {
        self.errors
            .take(settings, budget, errors(stable), errors(candidate));
        self.last_byte.take(
            settings.margins(),
            budget,
            last_byte(stable),
            last_byte(candidate),
        );
        self.compared |= self.errors.stable.1 > 0 && self.errors.candidate.1 > 0;
    }

    pub(super) fn lines(
        &self,
        name: &Arc<str>,
        settings: &Settings,
        weights: &Weights,
    ) -> Vec<Line> {
        let scope = || Scope::Tool(Arc::clone(name));
        let lines = [
            rate_line(
                Aspect::Errors,
                scope(),
                &self.errors,
                settings,
                weights.tool_errors,
            ),
            latency_line(
                Aspect::LastByte,
                scope(),
                &self.last_byte,
                settings,
                weights.tool_last_byte,
            ),
        ];
        lines
            .into_iter()
            .filter(|line| settings.aspects.contains(&line.aspect))
            .collect()
    }
}

fn errors(side: &Trials) -> (u64, u64) {
    (side.bad, side.trials)
}

fn unserved(side: &Trials) -> (u64, u64) {
    (side.unserved, side.callers)
}

fn first_byte(side: &Trials) -> Values<'_> {
    Values {
        histogram: &side.first_byte,
        endless: side.endless,
    }
}

fn last_byte(side: &Trials) -> Values<'_> {
    Values {
        histogram: &side.last_byte,
        endless: side.endless,
    }
}

fn rate_line(aspect: Aspect, scope: Scope, rate: &Rate, settings: &Settings, weight: f64) -> Line {
    let safe = rate.safe.as_ref();
    Line {
        aspect,
        scope,
        worse: Progress::new(rate.worse.ln_e(), settings.alpha * weight),
        slower: None,
        safe: safe.map(|safe| Progress::new(safe.ln_e(), settings.beta)),
        stable: (rate.stable.1, rate.stable.0),
        candidate: (rate.candidate.1, rate.candidate.0),
        percentile: None,
    }
}

fn latency_line(
    aspect: Aspect,
    scope: Scope,
    latency: &Exceedance,
    settings: &Settings,
    weight: f64,
) -> Line {
    let (percentile, stable, candidate) = latency.most_telling();
    let safe = latency.ln_safe();
    Line {
        aspect,
        scope,
        worse: Progress::new(latency.ln_worse(), settings.alpha * weight),
        slower: Some(Progress::new(latency.ln_slower(), settings.alpha)),
        safe: safe.map(|ln| Progress::new(ln, settings.beta)),
        stable: (stable.1, stable.0),
        candidate: (candidate.1, candidate.0),
        percentile: Some(percentile),
    }
}

fn add(sum: &mut (u64, u64), more: (u64, u64)) {
    sum.0 += more.0;
    sum.1 += more.1;
}
