//! The backend that gateways share their limits by, from where the configuration says that its URL is.

use super::failed;
use serin_config::{Limiter, LimiterFailure};
use serin_gateway::{Backend, OnFailure};
use std::io::{Error, ErrorKind, Read as _};

/// Longest URL in a file, in bytes: beyond it somebody named the wrong file.
const URL_BYTES_MAX: u64 = 4096;

/// Makes it. The server need not be there yet.
pub(super) fn backend(limiter: &Limiter) -> miette::Result<Backend> {
    let url = resolve(limiter.redis.expose()).map_err(|error| {
        failed(
            "the URL of the limiter's backend cannot be had",
            "set the variable or write the file that `limiter.redis` names, or remove `limiter`",
            error,
        )
    })?;
    let on_failure = match limiter.on_failure {
        LimiterFailure::Local => OnFailure::Local,
        LimiterFailure::Refuse => OnFailure::Refuse,
        LimiterFailure::Allow => OnFailure::Allow,
    };
    Backend::new(url.trim(), on_failure, limiter.timeout).map_err(|error| {
        failed(
            "the limiter's backend cannot be used",
            "the cause above says how its URL is written",
            error,
        )
    })
}

/// Why there is no URL, if there is none.
pub(super) fn problem_of(limiter: &Limiter) -> Option<Error> {
    resolve(limiter.redis.expose()).err()
}

/// The URL behind `env:NAME` or `file:PATH`, or one that stands there. What is wrong with it is said without it.
fn resolve(text: &str) -> Result<String, Error> {
    if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name).map_err(|_| {
            let text = format!("the environment variable {name} is not set");
            Error::new(ErrorKind::NotFound, text)
        })
    } else if let Some(path) = text.strip_prefix("file:") {
        let mut url = String::new();
        let file = std::fs::File::open(path)?;
        file.take(URL_BYTES_MAX).read_to_string(&mut url)?;
        Ok(url)
    } else {
        Ok(text.to_owned())
    }
}
