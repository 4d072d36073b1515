//! The event stream: tells clients that flags may answer something else, so that they ask again at once.

use crate::App;
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::Serialize;
use serin_control::flags::FlagsNow;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Most streams at a time: each holds a connection.
pub(crate) const STREAMS_MAX: usize = 1000;
/// Time between two signs of life: proxies cut what is silent for a minute, and clients are to see soon that a server is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time after which a client that lost its stream comes back.
const RETRY: Duration = Duration::from_secs(1);
/// Seconds after which to come again when there are too many streams.
const RETRY_AFTER_SECONDS: &str = "30";
/// The header by which a client says which event it has seen last.
const LAST_EVENT_ID: &str = "last-event-id";

/// The streams that may still be opened.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STREAMS_MAX))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refetch<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    etag: &'a str,
    last_modified: i64,
}

/// Server-sent events that say when flags may answer something else; the first says so at once, unless `Last-Event-ID` shows that
/// nothing has changed since. Browsers' `EventSource` cannot send headers: the address in `eventStreams` carries what lets it in.
#[utoipa::path(
    get, path = "/ofrep/v1/events", tag = "ofrep",
    params(
        ("until" = Option<String>, Query, description = "Until when the address opens the stream"),
        ("proof" = Option<String>, Query, description = "That it was given by this server"),
    ),
    responses(
        (status = OK, description = "`data: {\"type\": \"refetchEvaluation\", \"etag\": ..., \"lastModified\": ...}`", body = String, content_type = "text/event-stream"),
        (status = UNAUTHORIZED, description = "No token, or the address is too old"),
        (status = SERVICE_UNAVAILABLE, description = "Too many streams"),
    ),
)]
pub(super) async fn events(State(app): State<App>, headers: HeaderMap) -> Response {
    let Ok(place) = Arc::clone(&app.streams).try_acquire_owned() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)],
        )
            .into_response();
    };
    let mut changes = app.control.flag_changes();
    changes.mark_changed();
    let seen = headers
        .get(LAST_EVENT_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let events = stream::unfold(
        (changes, app.control.clone(), seen, place),
        |(mut changes, control, mut seen, place)| async move {
            loop {
                // The sender is gone when the control plane has stopped: that ends the stream.
                changes.changed().await.ok()?;
                let count = *changes.borrow_and_update();
                let etag = state_of(&control.flags(), count);
                if etag != seen {
                    let sent = refetch(&etag);
                    seen = etag;
                    return Some((sent, (changes, control, seen, place)));
                }
            }
        },
    );
    let events = events.take_until(app.stop.clone().cancelled_owned());
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
        .into_response();
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    response
}

fn refetch(etag: &str) -> Result<Sent, axum::Error> {
    let data = Refetch {
        kind: "refetchEvaluation",
        etag,
        last_modified: Timestamp::now().as_second(),
    };
    Sent::default().id(etag).retry(RETRY).json_data(data)
}

/// What tells two states of all flags apart: definitions and rollouts, kills, and dates that have come.
fn state_of(now: &FlagsNow, changes: u64) -> String {
    format!(
        "{:x}-{:x}-{changes:x}",
        now.snapshot.flags_revision,
        now.latch.generation()
    )
}
