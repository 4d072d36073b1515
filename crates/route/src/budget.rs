//! Attempts after the first: how many a request may make, and how many all requests together.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Attempts a second after the first that are always within the budget: where there are few requests, a share of them is nothing.
pub const RETRIES_PER_SECOND_MIN: u64 = 10;
/// What is counted together: short enough to follow what happens, long enough for a share of it to be a number.
const WINDOW_SECONDS: u64 = 10;
/// Most doublings of the wait: beyond it the wait stays as it is.
const DOUBLINGS_MAX: u32 = 6;

/// How often a request is tried that no endpoint can have taken: only then is it ever tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Attempts after the first. The Cortex seed's three.
    pub attempts: u32,
    /// Share of a version's requests of the last ten seconds on a core that may be tried again, in percent, beside a few that
    /// always may ([`RETRIES_PER_SECOND_MIN`]).
    pub budget_percent: u8,
    /// Wait before an endpoint is tried for the second time, doubled each time, with jitter; another one is tried at once.
    #[serde(with = "text::duration")]
    pub backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget_percent: 20,
            // Not the seed's second: a caller waits for it.
            backoff: Duration::from_millis(25),
        }
    }
}

/// The requests and the further attempts of the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Which half of a window is under way.
    number: u64,
    /// Requests of the half before and of this one.
    requests: [u64; 2],
    /// Further attempts likewise.
    retries: [u64; 2],
}

impl Budget {
    fn turn(&mut self, now_ms: u64) {
        let number = now_ms / (WINDOW_SECONDS * 1000 / 2);
        for counts in [&mut self.requests, &mut self.retries] {
            *counts = match number.saturating_sub(self.number) {
                0 => *counts,
                1 => [counts[1], 0],
                _ => [0, 0],
            };
        }
        self.number = self.number.max(number);
    }

    /// A request came.
    pub fn request(&mut self, now_ms: u64) {
        self.turn(now_ms);
        self.requests[1] = self.requests[1].saturating_add(1);
    }

    /// Whether one may be tried again; it then counts as having been.
    pub fn retry(&mut self, now_ms: u64, settings: &Settings) -> bool {
        self.turn(now_ms);
        let [before, current] = self.requests;
        let share = before.saturating_add(current) / 100 * u64::from(settings.budget_percent)
            + before.saturating_add(current) % 100 * u64::from(settings.budget_percent) / 100;
        let most = share.saturating_add(RETRIES_PER_SECOND_MIN * WINDOW_SECONDS);
        let is_within = self.retries[0] + self.retries[1] < most;
        self.retries[1] += u64::from(is_within);
        is_within
    }
}

impl Settings {
    /// How long to wait before an endpoint is tried once more that was tried `times` times: doubled each time, and somewhere between
    /// half of it and one and a half, so that those who failed together do not come back together. `jitter` is any number.
    pub fn wait(&self, times: u32, jitter: u16) -> Duration {
        let doubled = self.backoff * (1 << times.saturating_sub(1).min(DOUBLINGS_MAX));
        doubled.mul_f64(0.5 + f64::from(jitter) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_is_tried_again_than_the_share_and_the_few(
            steps in proptest::collection::vec((0..1000_u64, 0..40_u32, 0..40_u32), 1..60),
            percent in 0..=100_u8,
        ) {
            let settings = Settings { budget_percent: percent, ..Settings::default() };
            let (mut budget, mut now) = (Budget::default(), 0);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (wait, came, wanted) in steps {
                now += wait;
                for _ in 0..came {
                    budget.request(now);
                    requests.push(now);
                }
                let recent = |all: &[u64]| all.iter().filter(|at| **at / 5_000 + 1 >= now / 5_000).count();
                let most = recent(&requests) * usize::from(percent) / 100 + 100;
                for _ in 0..wanted {
                    let may = budget.retry(now, &settings);
                    prop_assert_eq!(may, recent(&retries) < most);
                    if may {
                        retries.push(now);
                    }
                }
            }
        }

        #[test]
        fn waits_double_and_scatter(times in 1..40_u32, jitter: u16) {
            let wait = Settings::default().wait(times, jitter).as_secs_f64();
            let middle = 0.025 * f64::from(1 << (times - 1).min(6));
            prop_assert!(wait >= 0.499 * middle && wait <= 1.501 * middle);
        }
    }
}
