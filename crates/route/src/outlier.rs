//! Outliers: an endpoint that fails more often than it may is ejected for a while, whatever its probes say.

use crate::text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of failures in a window from which on it is ejected, in percent; 0: never.
    pub failures_percent: u8,
    /// Fewest requests in the window.
    pub requests: u32,
    /// The window.
    #[serde(with = "text::duration")]
    pub window: Duration,
    /// For how long it is ejected the first time; each further time so much longer, to ten times.
    #[serde(with = "text::duration")]
    pub eject: Duration,
    /// Most of a version's endpoints that may be ejected at a time, in percent; one always may if there are others.
    pub eject_percent_max: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_percent: 50,
            requests: 20,
            window: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            eject_percent_max: 50,
        }
    }
}

/// Bits of each of the counts in a window.
const COUNT_BITS: u32 = 11;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Bits of the number of a half-window. It comes round after 2^20 of them (two months at the default): an endpoint that was
/// silent for exactly so long would find its old counts.
const HALF_BITS: u32 = 64 - 4 * COUNT_BITS;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
/// Most requests that [`Settings::requests`] may ask for: what half a window surely holds, however many there are.
pub const REQUESTS_MAX: u32 = 1 << (COUNT_BITS - 1);
/// Most times of its first length that an ejection lasts.
pub const TIMES_MAX: u32 = 10;
/// Bits of the end of an ejection, in milliseconds.
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// The requests and failures of the last window, as a number: those of the half of a window under way and of the half before. Where
/// there are more than fit, both numbers of a half are halved, which keeps their ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window(u64);

/// Requests and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Half {
    requests: u64,
    failures: u64,
}

impl Half {
    fn from_bits(bits: u64) -> Self {
        Self {
            requests: (bits >> COUNT_BITS) & COUNT_MASK,
            failures: bits & COUNT_MASK,
        }
    }

    fn bits(self) -> u64 {
        (self.requests << COUNT_BITS) | self.failures
    }

    fn plus(mut self, is_failure: bool) -> Self {
        if self.requests == COUNT_MASK {
            self.requests = self.requests.div_ceil(2);
            self.failures = self.failures.div_ceil(2);
        }
        Self {
            requests: self.requests + 1,
            failures: self.failures + u64::from(is_failure),
        }
    }
}

impl Window {
    /// The window of a word that [`Self::bits`] gave.
    pub fn from_bits(word: u64) -> Self {
        Self(word)
    }

    /// As a word.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// With one more request.
    #[must_use]
    pub fn plus(self, is_failure: bool, now_ms: u64, settings: &Settings) -> Self {
        let half_ms = u64::try_from(settings.window.as_millis() / 2).unwrap_or(u64::MAX);
        let number = (now_ms / half_ms.max(1)) & HALF_MASK;
        let known = self.0 >> (4 * COUNT_BITS);
        let (before, current) = (
            Half::from_bits(self.0 >> (2 * COUNT_BITS)),
            Half::from_bits(self.0),
        );
        let (before, current) = match number.wrapping_sub(known) & HALF_MASK {
            0 => (before, current),
            1 => (current, Half::default()),
            _ => (Half::default(), Half::default()),
        };
        let current = current.plus(is_failure);
        Self((number << (4 * COUNT_BITS)) | (before.bits() << (2 * COUNT_BITS)) | current.bits())
    }

    /// Whether there were enough requests, and too many of them failed. To be asked after [`Self::plus`], which forgets what is old.
    pub fn is_outlier(self, settings: &Settings) -> bool {
        let (before, current) = (
            Half::from_bits(self.0 >> (2 * COUNT_BITS)),
            Half::from_bits(self.0),
        );
        let requests = before.requests + current.requests;
        let failures = before.failures + current.failures;
        settings.failures_percent > 0
            && requests >= u64::from(settings.requests.clamp(1, REQUESTS_MAX))
            && failures * 100 >= requests * u64::from(settings.failures_percent)
    }
}

/// Until when an endpoint is ejected, and how often in a row it was, as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection(u64);

impl Ejection {
    /// The ejection of a word that [`Self::bits`] gave.
    pub fn from_bits(word: u64) -> Self {
        Self(word)
    }

    /// As a word.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Until when it lasts, in milliseconds; 0 if it never was.
    pub fn until_ms(self) -> u64 {
        self.0 & TIME_MASK
    }

    /// Whether it lasts.
    pub fn lasts(self, now_ms: u64) -> bool {
        now_ms < self.until_ms()
    }

    /// Ejected from now on, once more: longer than the last time, unless that is long past. Each `eject` of time that it did well takes
    /// one of the earlier times away.
    #[must_use]
    pub fn again(self, now_ms: u64, settings: &Settings) -> Self {
        let eject_ms = u64::try_from(settings.eject.as_millis()).unwrap_or(TIME_MASK);
        let forgiven = now_ms.saturating_sub(self.until_ms()) / eject_ms.max(1);
        let times = (self.0 >> TIME_BITS).saturating_sub(forgiven) + 1;
        let times = times.min(u64::from(TIMES_MAX));
        let until = now_ms.saturating_add(eject_ms.saturating_mul(times));
        Self((times << TIME_BITS) | until.min(TIME_MASK))
    }
}

/// Whether one more of a version's endpoints may be ejected, when so many of so many are.
pub fn may_eject(ejected: usize, of: usize, settings: &Settings) -> bool {
    let within = (ejected + 1) * 100 <= of * usize::from(settings.eject_percent_max);
    within && of > 1 || ejected == 0 && of > 1 && settings.eject_percent_max > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ratio_is_that_of_the_last_window(
            steps in proptest::collection::vec((0..400_u64, any::<bool>()), 1..300),
            percent in 1..=100_u8,
            least in 1..20_u32,
        ) {
            let settings = Settings {
                failures_percent: percent,
                requests: least,
                window: Duration::from_secs(2),
                ..Settings::default()
            };
            let (mut window, mut all, mut now) = (Window::default(), Vec::new(), 1_000_000_u64);
            for (wait, is_failure) in steps {
                now += wait;
                window = window.plus(is_failure, now, &settings);
                all.push((now / 1_000, is_failure));
                // Of this half and the one before.
                let recent = || all.iter().filter(|(half, _)| half + 1 >= now / 1_000);
                let requests = recent().count();
                let failures = recent().filter(|(_, is_failure)| *is_failure).count();
                let is_outlier = requests >= least as usize && failures * 100 >= requests * usize::from(percent);
                prop_assert_eq!(window.is_outlier(&settings), is_outlier);
            }
        }

        #[test]
        fn never_more_are_ejected_than_may_be(of in 0..50_usize, percent in 0..=100_u8) {
            let settings = Settings { eject_percent_max: percent, ..Settings::default() };
            let mut ejected = 0;
            while may_eject(ejected, of, &settings) {
                ejected += 1;
            }
            let cap = of * usize::from(percent) / 100;
            let expected = match of {
                0 | 1 => 0,
                _ if percent == 0 => 0,
                _ => cap.max(1),
            };
            prop_assert_eq!(ejected, expected);
        }

        #[test]
        fn ejections_grow_and_are_forgiven(times in 1..30_u64, quiet in 0..20_u64) {
            let settings = Settings::default();
            let eject = 30_000;
            let (mut ejection, mut now) = (Ejection::default(), 1_000);
            for n in 1..=times {
                ejection = ejection.again(now, &settings);
                prop_assert_eq!(ejection.until_ms() - now, eject * n.min(10));
                prop_assert!(ejection.lasts(now) && !ejection.lasts(ejection.until_ms()));
                now = ejection.until_ms();
            }
            now += quiet * eject;
            let after = times.min(10).saturating_sub(quiet) + 1;
            prop_assert_eq!(ejection.again(now, &settings).until_ms() - now, eject * after.min(10));
        }
    }

    #[test]
    fn however_many_requests_there_are_the_ratio_stays() {
        let settings = Settings {
            requests: REQUESTS_MAX,
            ..Settings::default()
        };
        for (failing, of, is_outlier) in [
            (6, 10, true),
            (4, 10, false),
            (10, 10, true),
            (0, 10, false),
        ] {
            let mut window = Window::default();
            for n in 0..100_000_u64 {
                window = window.plus(n % of < failing, 1_000, &settings);
                if n > 5_000 {
                    assert_eq!(
                        window.is_outlier(&settings),
                        is_outlier,
                        "{failing} of {of}"
                    );
                }
            }
        }
    }

    #[test]
    fn few_requests_and_no_percentage_eject_nobody() {
        let mut window = Window::default();
        let never = Settings {
            failures_percent: 0,
            ..Settings::default()
        };
        for n in 1..=19 {
            window = window.plus(true, n, &Settings::default());
            assert!(!window.is_outlier(&Settings::default()), "{n}");
        }
        window = window.plus(true, 20, &Settings::default());
        assert!(window.is_outlier(&Settings::default()));
        assert!(!window.is_outlier(&never));
    }
}
