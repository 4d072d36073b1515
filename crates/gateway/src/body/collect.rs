//! A request's body, collected before it is read.

use crate::{BODY_BYTES_PER_SECOND_MIN, Options};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::time::Duration;

/// Why a request's body could not be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncollected {
    TooLarge,
    Broken,
    TooSlow,
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Time for all of it.
    pub(crate) whole: Duration,
    /// Time without a byte.
    pub(crate) silence: Duration,
    /// Time from which on its rate counts.
    pub(crate) grace: Duration,
}

impl Pace {
    /// That of a body which is collected.
    pub(crate) fn collected(options: &Options) -> Self {
        Self {
            whole: options.body_timeout,
            silence: options.body_silence,
            grace: options.body_grace,
        }
    }

    /// That of a body which passes as it comes. It may be a talk, whose client waits for a first word before it goes on.
    pub(crate) fn streamed(options: &Options) -> Self {
        Self {
            whole: Duration::MAX,
            silence: options.body_silence,
            grace: options.body_grace.max(options.body_silence),
        }
    }

    /// How long after its beginning a body has time for its next byte, when so many have come, the last after so long.
    pub(super) fn time_for_next(&self, received_bytes: usize, last: Duration) -> Duration {
        let earned_ms = received_bytes.saturating_mul(1000) / BODY_BYTES_PER_SECOND_MIN;
        let earned = Duration::from_millis(earned_ms as u64);
        self.whole
            .min(last.saturating_add(self.silence))
            .min(self.grace.saturating_add(earned))
    }
}

/// Collects a request's body of at most `bytes_max`, as long as it keeps pace.
pub(crate) async fn collect(
    mut body: Incoming,
    bytes_max: usize,
    pace: Pace,
) -> Result<Bytes, Uncollected> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Uncollected::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let begun = tokio::time::Instant::now();
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut last = Duration::ZERO;
    loop {
        let until = begun + pace.time_for_next(first.len() + more.len(), last);
        let frame = tokio::time::timeout_at(until, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Uncollected::TooSlow)? else {
            break;
        };
        last = begun.elapsed();
        let Ok(data) = frame.map_err(|_| Uncollected::Broken)?.into_data() else {
            continue;
        };
        if first.len() + more.len() + data.len() > bytes_max {
            return Err(Uncollected::TooLarge);
        }
        // Most bodies come in one piece, which then is not copied.
        if first.is_empty() && more.is_empty() {
            first = data;
            if body.is_end_stream() {
                break;
            }
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() {
        first
    } else {
        more.freeze()
    })
}
