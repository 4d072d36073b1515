//! Limit: whether a caller has room for one more request.
//!
//! Every rule that applies has a bucket for those whose requests it counts together; all of them must have room, or nothing is taken out
//! of any. The buckets are shared by the cores. Where a backend is configured they are there, for all gateways together, and those here
//! follow, to take their place while the backend does not answer.

mod backend;
mod buckets;
mod rules;

pub use backend::{Backend, BackendError, OnFailure};
pub(crate) use backend::{Connection, Unavailable};
pub(crate) use rules::{Plan, Plans, Request};

use buckets::Buckets;
use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue};
use serin_model::{
    degraded::{Dependency, Outage},
    name::ServiceName,
    rule::RuleLimit,
};
use serin_tenancy::{Limit, Per, Taken};
use std::{
    hash::{BuildHasher as _, Hasher as _},
    time::{Duration, Instant},
};

/// How much a caller may do at once, how much of it is left, and in how many seconds all of it is.
static LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The buckets of all callers.
pub(crate) struct Limiter {
    buckets: Buckets,
    began: Instant,
    hashing: Hashing,
    pub(crate) backend: Option<Backend>,
    pub(crate) outage: Outage,
}

/// How buckets get their keys.
enum Hashing {
    /// For this process alone, with seeds that nobody knows.
    Own(RandomState, RandomState),
    /// The same for every gateway.
    Shared,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// Whose: proven, or named by a header that is believed; empty where nobody says.
    pub(crate) tenant: &'a str,
    /// Who of it: the id of a key, the subject of a token, or the affinity key of a caller who was not asked.
    pub(crate) subject: &'a [u8],
    /// What the subject is, so that one kind cannot pass for another.
    pub(crate) kind: u8,
}

/// What is wanted of one bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    key: u128,
    limit: Limit,
    count: u32,
    label: &'static str,
}

/// What a caller is told about its limits: the state of the bucket with the least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    limit: u32,
    remaining: u32,
    reset_after: Duration,
}

/// There was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// The limit, as the label of `serin_rate_limited_total`.
    pub(crate) label: &'static str,
    pub(crate) limit: Limit,
    /// Time after which there is; nothing if there never will be, because more was asked for at once than the bucket holds.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) standing: Standing,
}

impl Limiter {
    pub(crate) fn new(backend: Option<Backend>) -> Self {
        let hashing = if backend.is_some() {
            Hashing::Shared
        } else {
            Hashing::Own(RandomState::default(), RandomState::default())
        };
        Self {
            buckets: Buckets::new(),
            began: Instant::now(),
            hashing,
            backend,
            outage: Outage::of(Dependency::Limiter),
        }
    }

    /// Nanoseconds of the clock by which the buckets here fill.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What is wanted of a rule's bucket.
    fn want(
        &self,
        rule: &rules::Rule,
        caller: &Caller<'_>,
        tool: Option<&str>,
        count: u32,
    ) -> Want {
        Want {
            key: self.key(rule.id, rule.per, caller, tool),
            limit: rule.limit,
            count,
            label: rule.label(),
        }
    }

    /// What is wanted of the bucket that a rule of a service has for its own requests.
    pub(crate) fn want_of_rule(
        &self,
        service: &ServiceName,
        rule: &str,
        limit: &RuleLimit,
        caller: &Caller<'_>,
        count: u32,
    ) -> Want {
        let id = rules::id_of_rule(service, rule, limit.per);
        Want {
            key: self.key(id, limit.per, caller, None),
            limit: Limit {
                rate: limit.rate,
                burst: limit.burst.unwrap_or(limit.rate.count),
            },
            count,
            label: "rule",
        }
    }

    /// Names the bucket of those whose requests are counted together.
    fn key(&self, id: u128, per: Per, caller: &Caller<'_>, tool: Option<&str>) -> u128 {
        let kind = [caller.kind];
        let parts: [&[u8]; 3] = match per {
            Per::Key => [caller.tenant.as_bytes(), &kind, caller.subject],
            Per::Tenant => [caller.tenant.as_bytes(), &[], &[]],
            Per::Service => [&[], &[], &[]],
        };
        self.hashing.key(id, &parts, tool)
    }

    /// Takes all of it out of the buckets here, or nothing.
    ///
    /// # Errors
    /// One of them has no room.
    pub(crate) fn take(&self, wants: &[Want], now: u64) -> Result<Option<Standing>, Over> {
        let mut answers = Answers::default();
        for (at, want) in wants.iter().enumerate() {
            let Want {
                key, limit, count, ..
            } = *want;
            if answers.over.is_some() {
                // Who waits must not be told to come back too early.
                answers.add(want, self.buckets.peek(key, limit, now, count));
                continue;
            }
            answers.add(want, self.buckets.take(key, limit, now, count));
            if answers.over.is_some() {
                for taken in &wants[..at] {
                    self.buckets
                        .give_back(taken.key, taken.limit, now, taken.count);
                }
            }
        }
        answers.into_result()
    }

    /// Forgets full buckets, a few shards at a time.
    pub(crate) fn sweep(&self) {
        self.buckets.sweep(self.now());
    }
}

/// What the buckets say to one request.
#[derive(Default)]
struct Answers {
    least: Option<Standing>,
    over: Option<Over>,
}

impl Answers {
    fn add(&mut self, want: &Want, taken: Taken) {
        let standing = Standing {
            limit: want.limit.burst,
            remaining: taken.remaining,
            reset_after: taken.reset_after,
        };
        if (self.least).is_none_or(|least| standing.is_less_than(least)) {
            self.least = Some(standing);
        }
        let Some(wait) = taken.retry_after else {
            return;
        };
        // More than it ever holds.
        let is_hopeless = want.count > want.limit.burst;
        let over = Over {
            label: want.label,
            limit: want.limit,
            retry_after: (!is_hopeless).then_some(wait),
            standing,
        };
        let is_longer = |before: Over| match (before.retry_after, over.retry_after) {
            (Some(before), Some(now)) => now > before,
            (before, None) => before.is_some(),
            (None, Some(_)) => false,
        };
        if self.over.is_none_or(is_longer) {
            self.over = Some(over);
        }
    }

    fn into_result(self) -> Result<Option<Standing>, Over> {
        match self.over {
            Some(over) => Err(over),
            None => Ok(self.least),
        }
    }
}

impl Standing {
    fn is_less_than(self, other: Self) -> bool {
        (self.remaining, other.reset_after) < (other.remaining, self.reset_after)
    }

    /// Says it in the headers of an answer.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(&LIMIT, HeaderValue::from(self.limit));
        headers.insert(&REMAINING, HeaderValue::from(self.remaining));
        headers.insert(&RESET, HeaderValue::from(seconds(self.reset_after)));
    }
}

/// Whole seconds, rounded up: who waits so long has waited long enough.
pub(crate) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Hashing {
    fn key(&self, rule: u128, parts: &[&[u8]], tool: Option<&str>) -> u128 {
        match self {
            Self::Own(high, low) => {
                let half = |state: &RandomState| {
                    let mut hasher = state.build_hasher();
                    hasher.write_u128(rule);
                    // The lengths keep parts apart.
                    for part in parts {
                        hasher.write_usize(part.len());
                        hasher.write(part);
                    }
                    hasher.write(tool.unwrap_or_default().as_bytes());
                    hasher.finish()
                };
                u128::from(half(high)) << 64 | u128::from(half(low))
            }
            Self::Shared => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&rule.to_be_bytes());
                for part in parts {
                    hasher.update(&(part.len() as u64).to_be_bytes());
                    hasher.update(part);
                }
                hasher.update(tool.unwrap_or_default().as_bytes());
                rules::first_half(&hasher.finalize())
            }
        }
    }
}

#[cfg(test)]
mod tests;
