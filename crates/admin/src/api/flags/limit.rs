//! A limit on changes: a script that has gone wild must not fill the log. Reading, evaluating and killing have none.

use crate::{App, extract::Text, problem::Problem};
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use std::{
    num::NonZeroU16,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Changes that may come at once: as many as there can be flags, so that a script may touch each of them.
const BURST: f64 = serin_flags::table::FLAGS_MAX as f64;
/// Changes a second that may go on for ever: more than people and pipelines make, less than a disk can sync.
const PER_SECOND: f64 = 50.0;

/// A bucket of tokens, one a change.
#[derive(Debug)]
pub(crate) struct Writes(Mutex<(f64, Instant)>);

impl Default for Writes {
    fn default() -> Self {
        Self(Mutex::new((BURST, Instant::now())))
    }
}

impl Writes {
    /// Takes a token; without one, the time until there is one.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        // Two numbers: they cannot be left half changed.
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *bucket;
        let come = now.saturating_duration_since(at).as_secs_f64() * PER_SECOND;
        let left = (left + come).min(BURST);
        if left < 1.0 {
            *bucket = (left, now);
            return Err(Duration::from_secs_f64((1.0 - left) / PER_SECOND));
        }
        *bucket = (left - 1.0, now);
        Ok(())
    }
}

/// What a change brings, if it is within the limit.
pub(super) struct Allowed<T>(pub(super) T);

impl<T: FromRequest<App, Rejection = Problem>> FromRequest<App> for Allowed<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        match app.writes.take(Instant::now()) {
            Ok(()) => T::from_request(request, app).await.map(Self),
            Err(wait) => {
                // Read to its end, so that the connection can stay open: a client that has to wait should not have to connect anew.
                let _ = Text::from_request(request, app).await;
                Err(too_many(wait))
            }
        }
    }
}

fn too_many(wait: Duration) -> Problem {
    // One change takes far less than a second to be due.
    let seconds = u16::try_from(wait.as_secs()).map_or(NonZeroU16::MAX, |whole| {
        NonZeroU16::MIN.saturating_add(whole)
    });
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_changes",
        format!("flags are changed more than {PER_SECOND} times a second"),
    )
    .help(format!(
        "wait {seconds} s, or change many at once with `serin flag import FILE`; a kill is never held up"
    ))
    .retry_after(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let writes = Writes::default();
        let began = Instant::now();
        let mut allowed = 0;
        while writes.take(began).is_ok() {
            allowed += 1;
        }
        assert_eq!(allowed, serin_flags::table::FLAGS_MAX);
        let wait = writes.take(began).unwrap_err();
        assert!(wait <= Duration::from_millis(20), "{wait:?}");
        let later = began + Duration::from_millis(101);
        let again = (0..100).take_while(|_| writes.take(later).is_ok()).count();
        assert_eq!(again, 5);
    }
}
