//! Graceful degradation: what takes the place of a dependency that does not answer, how often it did, and when that is worth a word in
//! the log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What Serin depends on and can do without for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The shared backend of rate limits.
    Limiter,
    /// The keys of an identity provider.
    Jwks,
    /// The store of the audit trail.
    Audit,
    /// The log of events.
    Store,
}

impl Dependency {
    /// The value of the label `dependency` of `serin_degraded_total`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Limiter => "limiter",
            Self::Jwks => "jwks",
            Self::Audit => "audit",
            Self::Store => "store",
        }
    }
}

/// Whether a dependency answers, and how often something else took its place. All who ask it share one.
#[derive(Debug)]
pub struct Outage {
    dependency: Dependency,
    is_under_way: AtomicBool,
    fallbacks: AtomicU64,
}

/// What is worth a word in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<E> {
    /// The dependency stopped answering, for this reason.
    Began(E),
    /// It answers again.
    Ended,
}

impl Outage {
    /// None so far.
    pub const fn of(dependency: Dependency) -> Self {
        Self {
            dependency,
            is_under_way: AtomicBool::new(false),
            fallbacks: AtomicU64::new(0),
        }
    }

    /// What does not answer.
    pub const fn dependency(&self) -> Dependency {
        self.dependency
    }

    /// Whether the dependency did not answer when it was last asked.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way.load(Relaxed)
    }

    /// What the dependency answered or, where it failed, what takes the answer's place. `tell` hears when an outage begins, with its
    /// reason, and when it ends: once each, whoever asks and however often.
    pub fn settle<T, E>(
        &self,
        primary: Result<T, E>,
        tell: impl FnOnce(News<&E>),
        fallback: impl FnOnce() -> T,
    ) -> T {
        match primary {
            Ok(answer) => {
                if self.ended() {
                    tell(News::Ended);
                }
                answer
            }
            Err(error) => {
                if self.began() {
                    tell(News::Began(&error));
                }
                self.fell_back();
                fallback()
            }
        }
    }

    /// The dependency did not answer. True where it did when it was last asked.
    pub fn began(&self) -> bool {
        !self.is_under_way.swap(true, Relaxed)
    }

    /// The dependency answered. True where it did not when it was last asked.
    pub fn ended(&self) -> bool {
        // A look costs less than a write to what all cores share.
        self.is_under_way() && self.is_under_way.swap(false, Relaxed)
    }

    /// Something took its place.
    pub fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Relaxed);
    }

    /// How often something took its place since this was last asked, with the label of what it is.
    pub fn take(&self) -> Option<(&'static str, u64)> {
        let n = self.fallbacks.swap(0, Relaxed);
        (n > 0).then(|| (self.dependency.label(), n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_every_fallback_counts() {
        let outage = Outage::of(Dependency::Limiter);
        let mut told = Vec::new();
        let mut settle = |primary: Result<u8, &'static str>| {
            let tell = |news: News<&&'static str>| {
                told.push(match news {
                    News::Began(why) => *why,
                    News::Ended => "ended",
                });
            };
            outage.settle(primary, tell, || 0)
        };
        let answers = [
            Ok(1),
            Err("refused"),
            Err("timeout"),
            Ok(2),
            Ok(3),
            Err("reset"),
        ]
        .map(&mut settle);
        assert_eq!(answers, [1, 0, 0, 2, 3, 0]);
        assert_eq!(told, ["refused", "ended", "reset"]);
        assert!(outage.is_under_way());
        assert_eq!(outage.take(), Some(("limiter", 3)));
        assert_eq!(outage.take(), None);
    }
}
