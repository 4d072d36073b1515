//! A sliding window over blocks of counts.

use crate::Arm;
use std::{collections::VecDeque, time::Duration};

/// How many buckets a window has at most: the memory of a rule does not grow with its window, and what leaves the window leaves
/// it in steps of a six-hundredth.
const BUCKETS_MAX: f64 = 600.0;

/// A sliding window: the sum of the blocks that are not too old.
#[derive(Clone, Debug)]
pub(super) struct Window {
    span_seconds: f64,
    buckets: VecDeque<Bucket>,
    pub(super) stable: Arm,
    pub(super) candidate: Arm,
}

/// Blocks that leave the window together.
#[derive(Clone, Debug)]
struct Bucket {
    first: f64,
    last: f64,
    stable: Arm,
    candidate: Arm,
}

impl Window {
    pub(super) fn new(span: Duration) -> Self {
        let span_seconds = span.as_secs_f64();
        Self {
            span_seconds,
            buckets: VecDeque::new(),
            stable: Arm::default(),
            candidate: Arm::default(),
        }
    }

    pub(super) fn push(&mut self, at: f64, stable: &Arm, candidate: &Arm) {
        self.stable.merge(stable);
        self.candidate.merge(candidate);
        match self.buckets.back_mut() {
            Some(bucket) if at - bucket.first < self.span_seconds / BUCKETS_MAX => {
                bucket.last = at;
                bucket.stable.merge(stable);
                bucket.candidate.merge(candidate);
            }
            _ => {
                let (stable, candidate) = (stable.clone(), candidate.clone());
                self.buckets.push_back(Bucket {
                    first: at,
                    last: at,
                    stable,
                    candidate,
                });
            }
        }
    }

    /// Forgets what is older than the span at `now`.
    pub(super) fn slide(&mut self, now: f64) {
        let before = now - self.span_seconds;
        while let Some(bucket) = self.buckets.pop_front_if(|bucket| bucket.last <= before) {
            self.stable.unmerge(&bucket.stable);
            self.candidate.unmerge(&bucket.candidate);
            if !(bucket.stable.values.is_empty() && bucket.candidate.values.is_empty()) {
                self.sum_values();
            }
        }
    }
}

impl Window {
    /// Sums the numbers inside results up anew: to take one out again would leave what rounding had made of the others.
    fn sum_values(&mut self) {
        for (sum, side) in [
            (&mut self.stable, Bucket::stable as fn(&Bucket) -> &Arm),
            (&mut self.candidate, Bucket::candidate),
        ] {
            sum.values.clear();
            for bucket in &self.buckets {
                for (name, value) in &side(bucket).values {
                    sum.add_value(name, *value);
                }
            }
        }
    }
}

impl Bucket {
    fn stable(&self) -> &Arm {
        &self.stable
    }

    fn candidate(&self) -> &Arm {
        &self.candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tally;

    fn arm(tool: &str, calls: u64, bad: u64) -> Arm {
        let mut arm = Arm::default();
        let tally = Tally {
            calls,
            bad,
            ..Tally::default()
        };
        arm.add(&tool.into(), &tally);
        arm
    }

    #[test]
    fn a_long_window_of_many_blocks_stays_small() {
        let mut window = Window::new(Duration::from_hours(24));
        for tick in 0..100_000_u32 {
            let at = f64::from(tick);
            window.push(at, &arm("echo", 1, 0), &arm("echo", 1, 0));
            window.slide(at);
        }
        assert!(window.buckets.len() <= 602, "{}", window.buckets.len());
        let kept = window.candidate.pooled.calls;
        assert!((86_400..86_400 + 2 * 144).contains(&kept), "{kept}");
    }
}
