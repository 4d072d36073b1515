//! Exit codes: what a script can tell apart.

use serin_model::rollout::Status;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Something went wrong; also: `serin diff` found drift.
    Error = 1,
    /// The command line makes no sense (clap's own code); `serin diff` could not compare.
    Usage = 2,
    /// The rollout was rolled back or aborted.
    RolledBack = 10,
    /// The rollout ran out of time and waits for a decision.
    Inconclusive = 11,
    /// The rollout goes on.
    StillRunning = 12,
    /// Interrupted, as shells say it: 128 and the signal's number.
    #[cfg(feature = "demo")]
    Interrupted = 130,
}

impl Exit {
    /// The code that tells where a rollout is.
    pub(crate) const fn of(status: Status) -> Self {
        match status {
            Status::Promoted => Self::Done,
            Status::RolledBack | Status::Aborted => Self::RolledBack,
            Status::Inconclusive => Self::Inconclusive,
            Status::Running | Status::Paused => Self::StillRunning,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
