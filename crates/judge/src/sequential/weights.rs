//! How the evidence of many comparisons becomes one.

use super::Aspect;
use crate::eprocess::LnSum;

/// How much of the whole evidence each kind of line is, before those that are off give theirs to the rest.
pub(super) struct Weights {
    pub(super) errors: f64,
    pub(super) unserved: f64,
    pub(super) first_byte: f64,
    pub(super) last_byte: f64,
    /// Each tool's.
    pub(super) tool_errors: f64,
    pub(super) tool_last_byte: f64,
}

impl Weights {
    /// Half to errors, for they are the plainest sign; half of that to single tools, as one faulty tool of many hides in the sum.
    pub(super) const ALL: Self = Self {
        errors: 0.25,
        unserved: 0.125,
        first_byte: 0.125,
        last_byte: 0.125,
        tool_errors: 0.25,
        tool_last_byte: 0.125,
    };

    /// Latency lines only.
    pub(super) const SLOWER: Self = Self {
        errors: 0.0,
        unserved: 0.0,
        tool_errors: 0.0,
        ..Self::ALL
    };

    /// Spread over the aspects that are compared and over so many tools.
    pub(super) fn spread(self, aspects: &[Aspect], tools: usize) -> Self {
        let on = |aspect: Aspect, weight: f64| {
            if aspects.contains(&aspect) {
                weight
            } else {
                0.0
            }
        };
        let tool = |aspect: Aspect, weight: f64| if tools > 0 { on(aspect, weight) } else { 0.0 };
        let kept = Self {
            errors: on(Aspect::Errors, self.errors),
            unserved: on(Aspect::Unserved, self.unserved),
            first_byte: on(Aspect::FirstByte, self.first_byte),
            last_byte: on(Aspect::LastByte, self.last_byte),
            tool_errors: tool(Aspect::Errors, self.tool_errors),
            tool_last_byte: tool(Aspect::LastByte, self.tool_last_byte),
        };
        let pooled = kept.errors + kept.unserved + kept.first_byte + kept.last_byte;
        let sum = (pooled + kept.tool_errors + kept.tool_last_byte).max(f64::MIN_POSITIVE);
        let tools = tools.max(1) as f64;
        Self {
            errors: kept.errors / sum,
            unserved: kept.unserved / sum,
            first_byte: kept.first_byte / sum,
            last_byte: kept.last_byte / sum,
            tool_errors: kept.tool_errors / sum / tools,
            tool_last_byte: kept.tool_last_byte / sum / tools,
        }
    }
}

/// A weighted mean of evidence, from logarithms.
#[derive(Clone, Copy, Default)]
pub(super) struct Mean(LnSum);

impl Mean {
    pub(super) fn add(&mut self, weight: f64, ln: f64) {
        if weight > 0.0 {
            self.0.add(weight.ln() + ln);
        }
    }

    /// Adds what was weighed before.
    pub(super) fn merge(&mut self, other: Self) {
        self.0.add(other.0.ln());
    }

    /// Of nothing: no evidence either way.
    pub(super) fn ln(self) -> f64 {
        Some(self.0.ln()).filter(|ln| ln.is_finite()).unwrap_or(0.0)
    }
}
