//! Windows back to back: "in three of the last five". One bad window may be chance, three are not.

use serde::{Deserialize, Serialize, de::Error as _};
use std::{collections::VecDeque, fmt, str::FromStr};

/// Most windows of a series: beyond it a longer window says the same.
pub const SERIES_MAX: u32 = 100;

/// In how many of the last windows a rule must be breached before it counts. Written `3 of 5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// So many.
    pub needed: u32,
    /// Of so many.
    pub windows: u32,
}

/// What the latest windows of a rule have shown.
#[derive(Clone, Debug)]
pub(super) struct Series {
    next: f64,
    recent: VecDeque<bool>,
}

impl Series {
    /// A series whose first window ends at `first`.
    pub(super) fn new(first: f64) -> Self {
        Self {
            next: first,
            recent: VecDeque::new(),
        }
    }

    /// Notes a look at `now`; it counts when a window has just ended. True once enough of the latest windows were breached.
    pub(super) fn look(&mut self, now: f64, span_seconds: f64, breached: bool, of: Of) -> bool {
        if now >= self.next {
            // Windows in which nobody looked have shown nothing.
            let missed = ((now - self.next) / span_seconds).floor();
            self.next += (missed + 1.0) * span_seconds;
            let windows = of.windows.max(1) as usize;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to the series"
            )]
            let missed = missed.clamp(0.0, (windows - 1) as f64) as usize;
            self.recent.extend(std::iter::repeat_n(false, missed));
            self.recent.push_back(breached);
            while self.recent.len() > windows {
                self.recent.pop_front();
            }
        }
        self.recent.iter().filter(|breached| **breached).count() >= of.needed as usize
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.needed, self.windows)
    }
}

impl FromStr for Of {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(" of ").and_then(|(needed, windows)| {
            let (needed, windows) = (needed.trim().parse().ok()?, windows.trim().parse().ok()?);
            let fine = 0 < needed && needed <= windows && windows <= SERIES_MAX;
            fine.then_some(Self { needed, windows })
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is no number of windows; write `3 of 5`, of {SERIES_MAX} at most")
        })
    }
}

impl Serialize for Of {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Of {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_a_window_counts() {
        let of: Of = "2 of 3".parse().unwrap();
        let mut series = Series::new(60.0);
        assert!(!series.look(59.0, 60.0, true, of), "no window has ended");
        assert!(!series.look(60.0, 60.0, true, of));
        assert!(!series.look(61.0, 60.0, true, of), "the same window");
        assert!(!series.look(120.0, 60.0, false, of));
        assert!(series.look(180.0, 60.0, true, of), "two of the last three");
        assert!(!series.look(240.0, 60.0, false, of), "the first has left");
        assert!(
            !series.look(1000.0, 60.0, true, of),
            "nobody looked in between"
        );
        assert!(series.look(1030.0, 60.0, true, of));
    }

    #[test]
    fn it_reads_back_as_written() {
        assert_eq!("3 of 5".parse::<Of>().unwrap().to_string(), "3 of 5");
        for bad in ["0 of 5", "6 of 5", "3", "3 of 500", "three of five"] {
            assert!(bad.parse::<Of>().is_err(), "{bad}");
        }
    }
}
