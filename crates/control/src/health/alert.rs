//! Alerts: issues as somebody would be told of them, once each.

use super::{
    issue::{Issue, Subject},
    timestamp,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_judge::Level;
use serin_model::name::VersionName;
use std::collections::{BTreeMap, VecDeque};

/// How long an issue must stay away before its alert is over (Cortex's `cooldownPeriodMs`): one that comes and goes is one alert.
const COOL_DOWN_SECONDS: f64 = 300.0;

/// Most alerts of a service that are over and still on show.
const RESOLVED_MAX: usize = 100;

/// An issue over its whole time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The worst that it was.
    pub level: Level,
    /// What it is about.
    pub subject: Subject,
    /// Whose.
    pub version: VersionName,
    /// What was wrong, in words, when it was last seen.
    pub text: String,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// How often it came: more than once when it went away for less than the cool-down.
    pub times: u32,
    /// When it was over.
    pub resolved_at: Option<Timestamp>,
}

/// The alerts of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alerts {
    /// Those that go on, worst first.
    pub active: Vec<Alert>,
    /// Those that are over, latest first.
    pub resolved: Vec<Alert>,
}

/// The alerts of a service as they are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    active: BTreeMap<(VersionName, Subject), Active>,
    resolved: VecDeque<Alert>,
}

#[derive(Clone, Debug)]
struct Active {
    alert: Alert,
    last_seen: f64,
    /// Whether the issue was there at the last look.
    is_there: bool,
}

impl Board {
    /// Takes the issues that there are at `now`.
    pub(super) fn look<'a>(&mut self, now: f64, issues: impl Iterator<Item = &'a Issue>) {
        let was_there: Vec<_> = self
            .active
            .values_mut()
            .map(|active| std::mem::take(&mut active.is_there))
            .collect();
        let was_there: BTreeMap<_, _> = self.active.keys().cloned().zip(was_there).collect();
        for issue in issues {
            let key = (issue.version.clone(), issue.subject.clone());
            let came_back = was_there.get(&key) == Some(&false);
            let active = self.active.entry(key).or_insert_with(|| Active {
                alert: first(issue, now),
                last_seen: now,
                is_there: true,
            });
            active.is_there = true;
            active.last_seen = now;
            let alert = &mut active.alert;
            alert.last_seen = timestamp(now);
            alert.level = alert.level.max(issue.level);
            alert.text.clone_from(&issue.text);
            alert.times += u32::from(came_back);
        }
        self.resolve(now);
    }

    fn resolve(&mut self, now: f64) {
        let resolved = &mut self.resolved;
        self.active.retain(|_, active| {
            // A clock that was set back must not keep it for ever.
            active.last_seen = active.last_seen.min(now);
            if now - active.last_seen < COOL_DOWN_SECONDS {
                return true;
            }
            let mut alert = active.alert.clone();
            alert.resolved_at = Some(timestamp(now));
            resolved.push_front(alert);
            false
        });
        resolved.truncate(RESOLVED_MAX);
    }

    /// As they are shown.
    pub(super) fn show(&self) -> Alerts {
        let mut active: Vec<_> = self.active.values().map(|a| a.alert.clone()).collect();
        active.sort_by_key(|alert| (std::cmp::Reverse(alert.level), alert.first_seen));
        Alerts {
            active,
            resolved: self.resolved.iter().cloned().collect(),
        }
    }
}

fn first(issue: &Issue, now: f64) -> Alert {
    Alert {
        level: issue.level,
        subject: issue.subject.clone(),
        version: issue.version.clone(),
        text: issue.text.clone(),
        first_seen: timestamp(now),
        last_seen: timestamp(now),
        times: 1,
        resolved_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(level: Level) -> Issue {
        Issue {
            level,
            subject: Subject::MemoryLeak,
            version: "v2".parse().unwrap(),
            since: timestamp(0.0),
            value: None,
            limit: None,
            text: "something".to_owned(),
        }
    }

    #[test]
    fn an_issue_that_comes_and_goes_is_one_alert() {
        let mut board = Board::default();
        for turn in 0..10 {
            board.look(f64::from(turn) * 300.0, [issue(Level::Warning)].iter());
            board.look(f64::from(turn) * 300.0 + 1.0, [].iter());
        }
        let shown = board.show();
        assert_eq!((shown.active.len(), shown.resolved.len()), (1, 0));
        assert_eq!(shown.active[0].times, 10);
        assert_eq!(shown.active[0].first_seen, timestamp(0.0));
        assert_eq!(shown.active[0].last_seen, timestamp(2700.0));
        board.look(2999.9, [].iter());
        assert_eq!(board.show().active.len(), 1);
        board.look(3000.0, [].iter());
        let shown = board.show();
        assert_eq!((shown.active.len(), shown.resolved.len()), (0, 1));
        assert_eq!(shown.resolved[0].resolved_at, Some(timestamp(3000.0)));
        board.look(3001.0, [issue(Level::Warning)].iter());
        assert_eq!(board.show().active[0].times, 1, "this is another one");
    }

    #[test]
    fn an_alert_is_as_bad_as_it_ever_was() {
        let mut board = Board::default();
        for level in [Level::Warning, Level::Critical, Level::Warning] {
            board.look(1.0, [issue(level)].iter());
        }
        assert_eq!(board.show().active[0].level, Level::Critical);
        assert_eq!(board.show().active[0].times, 1);
    }

    #[test]
    fn alerts_that_are_over_do_not_pile_up() {
        let mut board = Board::default();
        for turn in 0..300 {
            board.look(f64::from(turn) * 1000.0, [issue(Level::Warning)].iter());
            board.look(f64::from(turn) * 1000.0 + 500.0, [].iter());
        }
        assert_eq!(board.show().resolved.len(), RESOLVED_MAX);
        assert_eq!(
            board.show().resolved[0].first_seen,
            timestamp(299_000.0),
            "the latest is first"
        );
    }

    #[test]
    fn a_clock_that_is_set_back_ends_no_alert_and_keeps_none() {
        let mut board = Board::default();
        board.look(1e6, [issue(Level::Warning)].iter());
        board.look(10.0, [].iter());
        assert_eq!(board.show().active.len(), 1);
        board.look(310.0, [].iter());
        assert!(board.show().active.is_empty());
    }
}
