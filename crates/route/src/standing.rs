//! Which endpoints of a version may be used now.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What becomes of a request when no endpoint may be used, and no other version is to take its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is sent to one of them all the same: what is known of them may be old.
    #[default]
    FailOpen,
    /// It is refused with 503 and a time to come again: servers that are down are left alone.
    FailClosed,
}

/// How an endpoint does, as those see it who send requests there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests under way there, without open streams.
    pub in_flight: u32,
    /// Its breaker takes nothing now.
    pub is_open: bool,
    /// It is ejected.
    pub is_ejected: bool,
    /// Since when it may be used again, in milliseconds of the same clock as the caller's `now`; none if it always could.
    pub back_since_ms: Option<u64>,
}

/// What has happened to an endpoint since it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// How often its breaker opened.
    pub openings: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

/// The part of its weight that an endpoint takes when it comes back; it grows from there to the whole.
const SLOW_START_LEAST: f64 = 0.1;

/// One of the endpoints of a version, and all that is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// How much it takes beside the others.
    pub weight: u32,
    /// What its probes say.
    pub is_healthy: bool,
    /// It takes no new callers.
    pub is_draining: bool,
    /// Since when it is healthy after it was not, or is there beside others, in milliseconds of the clock of [`Standing`].
    pub healthy_since_ms: Option<u64>,
    /// How it does.
    pub standing: Standing,
}

/// Which of the endpoints of a version are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Those that are healthy, not ejected, with a breaker that takes requests.
    Usable,
    /// Health and ejections are ignored: too few are usable, or none.
    Admitting,
    /// Breakers too: there is no other way.
    All,
}

impl Seat {
    /// Whether it is one of those that are chosen from. One that drains never is.
    pub fn is_among(&self, among: Among) -> bool {
        let Standing {
            is_open,
            is_ejected,
            ..
        } = self.standing;
        !self.is_draining
            && match among {
                Among::Usable => self.is_healthy && !is_open && !is_ejected,
                Among::Admitting => !is_open,
                Among::All => true,
            }
    }

    /// Its weight now: one that came back a short time ago takes a tenth of it, and a little more with every moment.
    pub fn weight_now(&self, now_ms: u64, slow_start: Duration) -> f64 {
        let whole = f64::from(self.weight);
        let since = self.healthy_since_ms.max(self.standing.back_since_ms);
        // A time to come is one of a clock that was set since: it says nothing.
        let age = since.and_then(|since| now_ms.checked_sub(since));
        let Some(age) = age.map(Duration::from_millis) else {
            return whole;
        };
        if age >= slow_start {
            return whole;
        }
        whole * (SLOW_START_LEAST + (1.0 - SLOW_START_LEAST) * age.div_duration_f64(slow_start))
    }
}

/// How many of the endpoints of a version that do not drain are usable, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that may be used.
    pub usable: usize,
    /// All of them.
    pub of: usize,
}

impl Count {
    /// Counts.
    pub fn of(seats: impl IntoIterator<Item = Seat>) -> Self {
        let mut count = Self::default();
        for seat in seats {
            count.usable += usize::from(seat.is_among(Among::Usable));
            count.of += usize::from(seat.is_among(Among::All));
        }
        count
    }

    /// From which of them one is chosen; none if none is usable. Too few would be overrun by what was meant for all: then health and
    /// ejections are ignored, since some that were judged by them may still do.
    pub fn among(self, panic_below_percent: u8) -> Option<Among> {
        if self.usable == 0 {
            None
        } else if self.usable * 100 < self.of * usize::from(panic_below_percent) {
            Some(Among::Admitting)
        } else {
            Some(Among::Usable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seat() -> impl Strategy<Value = Seat> {
        let flags = any::<[bool; 4]>();
        let since = proptest::option::of(0..200_000_u64);
        (1..10_u32, flags, since.clone(), since).prop_map(
            |(weight, flags, healthy_since_ms, back)| {
                let [is_healthy, is_draining, is_open, is_ejected] = flags;
                Seat {
                    weight,
                    is_healthy,
                    is_draining,
                    healthy_since_ms,
                    standing: Standing {
                        in_flight: 0,
                        is_open,
                        is_ejected,
                        back_since_ms: back,
                    },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn in_panic_health_and_ejections_are_ignored_and_nothing_else(
            seats in proptest::collection::vec(seat(), 0..12),
            percent in 0..=100_u8,
        ) {
            let count = Count::of(seats.iter().copied());
            let staying = seats.iter().filter(|seat| !seat.is_draining);
            prop_assert_eq!(count.of, staying.clone().count());
            let good = |seat: &&Seat| seat.is_healthy && !seat.standing.is_open && !seat.standing.is_ejected;
            let usable = staying.filter(good).count();
            let panics = usable * 100 < count.of * usize::from(percent);
            match count.among(percent) {
                None => prop_assert_eq!(usable, 0),
                Some(Among::All) => prop_assert!(false, "never of itself"),
                Some(among) => {
                    prop_assert_eq!(among == Among::Admitting, panics);
                    for seat in &seats {
                        let is_good = panics || seat.is_healthy && !seat.standing.is_ejected;
                        let expected = !seat.is_draining && !seat.standing.is_open && is_good;
                        prop_assert_eq!(seat.is_among(among), expected);
                    }
                    prop_assert!(seats.iter().any(|seat| seat.is_among(among)));
                }
            }
        }

        #[test]
        fn an_endpoint_that_is_back_takes_from_a_tenth_to_the_whole(seat in seat(), now in 0..300_000_u64, more in 0..60_000_u64) {
            let slow = Duration::from_secs(30);
            let (then, later) = (seat.weight_now(now, slow), seat.weight_now(now + more, slow));
            let whole = f64::from(seat.weight);
            prop_assert!(then >= whole * 0.099 && then <= whole);
            let since = seat.healthy_since_ms.max(seat.standing.back_since_ms);
            match since {
                Some(since) if since <= now => {
                    prop_assert!(later >= then);
                    let age = (now - since) as f64 / 30_000.0;
                    let expected = whole * (0.1 + 0.9 * age).min(1.0);
                    prop_assert!((then - expected).abs() < 1e-9 * whole, "{then} {expected}");
                }
                _ => prop_assert!(then >= whole),
            }
            prop_assert!(seat.weight_now(now, Duration::ZERO) >= whole);
        }
    }
}
