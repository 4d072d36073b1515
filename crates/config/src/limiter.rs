//! `limiter:`: where gateways share the buckets of rate limits, and what happens while they cannot.

use crate::{config::between, position::Path as Field, read::Report};
use serde::Deserialize;
use serin_model::text;
use std::{fmt, time::Duration};

/// Time for an answer unless told. A backend in the same network takes less than a millisecond.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Shortest time: below it a pause of either process would count as an outage.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Longest time: every limited request waits so long when an outage begins.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// What an example looks like.
const EXAMPLE: &str = "env:SERIN_REDIS";

/// Where gateways share the buckets of rate limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limiter {
    /// The server.
    pub redis: RedisUrl,
    /// What becomes of requests while it does not answer.
    pub on_failure: LimiterFailure,
    /// Time for an answer.
    pub timeout: Duration,
}

/// Where the URL of a Redis or Valkey is, or the URL. It may hold a password, and shows as much as may be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// `env:NAME`, `file:PATH` or the URL itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_reference(&self.0) {
            &self.0
        } else {
            "redis://..."
        })
    }
}

/// What becomes of limited requests while the backend does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimiterFailure {
    /// Each gateway limits by its own buckets, which have followed those of the backend.
    #[default]
    Local,
    /// They are refused with 503.
    Refuse,
    /// They pass.
    Allow,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimiterFile {
    redis: Unseen,
    #[serde(default)]
    on_failure: LimiterFailure,
    #[serde(default = "timeout", with = "text::duration")]
    timeout: Duration,
}

fn timeout() -> Duration {
    TIMEOUT
}

/// A text that may be a secret.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
struct Unseen(String);

impl fmt::Debug for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

impl LimiterFile {
    pub(crate) fn check(self, report: &mut Report) -> Limiter {
        let at = Field::default().key("limiter");
        let Unseen(url) = self.redis;
        let redis = at.key("redis");
        if let Some(problem) = problem_of(&url) {
            // The text is not repeated: it may hold a password.
            report.error(
                &redis,
                problem,
                format!("write `redis: {EXAMPLE}`, or `redis: redis://HOST:6379`"),
            );
        } else if url.contains('@') && !is_reference(&url) {
            report.warning(
                &redis,
                "there is a password in the file",
                format!("write `redis: {EXAMPLE}` and put the URL into that variable"),
            );
        }
        between(
            self.timeout,
            TIMEOUT_MIN,
            TIMEOUT_MAX,
            &at.key("timeout"),
            report,
        );
        Limiter {
            redis: RedisUrl(url),
            on_failure: self.on_failure,
            timeout: self.timeout,
        }
    }
}

fn is_reference(url: &str) -> bool {
    url.starts_with("env:") || url.starts_with("file:")
}

fn problem_of(url: &str) -> Option<&'static str> {
    let named = url
        .strip_prefix("env:")
        .or_else(|| url.strip_prefix("file:"));
    match named {
        Some("") => Some("there is no name behind the colon"),
        Some(_) => None,
        None if url.starts_with("rediss://") => {
            Some("TLS to the backend of rate limits is not in this release")
        }
        None => {
            let is_one = url::Url::parse(url).is_ok_and(|url| match url.scheme() {
                "redis" => url.has_host(),
                "redis+unix" => url.path().len() > 1,
                _ => false,
            });
            (!is_one).then_some("this is no URL of a Redis or Valkey")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[track_caller]
    fn check(limiter: &str, problem: Option<&str>) -> Option<Limiter> {
        match Config::parse(&format!("limiter: {limiter}\n"), "serin.yaml") {
            Ok(checked) => {
                let said = checked.warnings.first().map(|found| found.message.clone());
                assert_eq!(said.as_deref(), problem);
                checked.value.limiter
            }
            Err(error) => {
                let said = error.to_string();
                assert!(
                    problem.is_some_and(|problem| said.contains(problem)),
                    "{said}"
                );
                assert!(!said.contains("geheim"), "{said}");
                None
            }
        }
    }

    #[test]
    fn a_backend_is_read_with_its_defaults() {
        let limiter = check("{ redis: env:SERIN_REDIS }", None).unwrap();
        assert_eq!(limiter.redis.expose(), "env:SERIN_REDIS");
        assert_eq!(
            (limiter.on_failure, limiter.timeout),
            (LimiterFailure::Local, TIMEOUT)
        );
        let limiter = check(
            "{ redis: redis://10.0.0.1:6379/2, on_failure: refuse, timeout: 20ms }",
            None,
        );
        assert_eq!(limiter.unwrap().on_failure, LimiterFailure::Refuse);
        check("{ redis: 'redis+unix:///run/valkey.sock?db=1' }", None);
        assert_eq!(Config::parse("", "serin.yaml").unwrap().value.limiter, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (limiter, problem) in [
            ("{}", "`redis` is missing"),
            ("{ redis: 'env:' }", "no name behind the colon"),
            ("{ redis: 'redis+unix://' }", "no URL of a Redis"),
            ("{ redis: geheim }", "no URL of a Redis"),
            ("{ redis: 'http://u:geheim@h' }", "no URL of a Redis"),
            ("{ redis: 'rediss://u:geheim@h' }", "TLS to the backend"),
            ("{ redis: 'env:X', timeout: 0s }", "out of bounds"),
            ("{ redis: 'env:X', timeout: 1m }", "out of bounds"),
            ("{ redis: 'env:X', on_failure: deny }", "not known here"),
        ] {
            check(limiter, Some(problem));
        }
    }

    #[test]
    fn a_password_is_warned_of_and_never_shown() {
        let limiter = check(
            "{ redis: 'redis://u:geheim@h:1' }",
            Some("there is a password in the file"),
        );
        assert!(!format!("{limiter:?}").contains("geheim"));
    }
}
