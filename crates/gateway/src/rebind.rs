//! Rebinding: a legacy session that must live elsewhere is initialised there anew, behind its client's back.
//!
//! Only if nothing is lost by it: the gateway knows how the client initialised, has seen the session from its beginning, and
//! has seen no state that the server made for it. Everybody else gets a 404, at which MCP clients start again.

use crate::{
    body::ToUpstream,
    core::Core,
    forward::{deadline, version_of},
    headers,
    observe::is_down,
    pool::Target,
    route::Destination,
    session::{self, Place, Token},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serin_model::{service::Rebind, snapshot::ServiceRoute};
use serin_route::breaker::End;
use std::{rc::Rc, time::Duration};

/// Largest answer to `initialize` that is read: instructions may be long, but not that long.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Time for a session to be initialised elsewhere, the wait for another request that does so included. It needs no tool and
/// is quick where a server lives; the client waits for it before its call has even begun.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Why a session must be initialised anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// Its version was taken back, or its endpoint is gone.
    Withdrawn,
    /// Its server does not know it any more.
    Forgotten,
    /// Its endpoint cannot be reached.
    Lost,
}

/// Initialises a session at an endpoint, once for all requests that ask, and remembers it there; nothing where that is not
/// safe or the server refuses.
pub(crate) async fn rebind(
    core: &Rc<Core>,
    service: &ServiceRoute,
    token: &Token,
    from: &Place,
    to: Destination,
    request_headers: &HeaderMap,
    because: Because,
) -> Option<Place> {
    let init = token.init.as_deref()?;
    let sessions = core.sessions();
    if service.settings.rebind == Rebind::Never || !sessions.is_stateless(token) {
        return None;
    }
    let version = version_of(service, to.version).ok()?;
    let endpoint = version.endpoints.get(to.endpoint)?;
    let target = core
        .pool
        .target(endpoint, &service.settings.upstream)
        .ok()?;
    let moving = sessions.moving(token, from)?;
    let since_ms = session::now_ms();
    // Over the wait too: those that wait for a handshake that fails give up with it, not one after the other.
    let until = tokio::time::Instant::now() + HANDSHAKE_MAX.min(deadline(service, endpoint));
    let initialising = async {
        let (loads, settings) = (&core.shared.loads, &service.settings);
        // One that takes nothing now would not take the call that waits for this either.
        let passage = loads.begin(endpoint.id, version, settings, false);
        let mut passage = passage.ok_or(Refused::Unreachable)?;
        let handshake = Handshake {
            service,
            target: &target,
            client: request_headers,
        };
        let upstream = tokio::time::timeout_at(until, handshake.run(init)).await;
        let upstream = upstream.unwrap_or(Err(Refused::TooSlow));
        passage.tell(match &upstream {
            Err(Refused::TooSlow | Refused::Unreachable | Refused::Down) => End::Failed,
            Ok(_) | Err(Refused::NoResult | Refused::OtherVersion) => End::Ok,
        });
        let upstream = upstream?;
        if because == Because::Withdrawn {
            core.counters
                .moved(&service.name, |moved| moved.rebound += 1);
        }
        Ok(Place {
            endpoint: endpoint.id,
            since_ms,
            upstream,
        })
    };
    let moved = Box::pin(moving.get_or_try_init(|| initialising));
    let moved = tokio::time::timeout_at(until, moved).await;
    match moved.unwrap_or(Err(Refused::TooSlow)) {
        Ok(place) => Some(place.clone()),
        Err(error) => {
            tracing::debug!(service = %service.name, %error, "a session could not be moved");
            None
        }
    }
}

/// Why a server did not take a session over.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no answer in time")]
    TooSlow,
    #[error("the endpoint cannot be reached")]
    Unreachable,
    #[error("the endpoint says that it cannot answer")]
    Down,
    #[error("the answer is no result of `initialize`")]
    NoResult,
    #[error("the server speaks another protocol version than the client was told")]
    OtherVersion,
}

struct Handshake<'a> {
    service: &'a ServiceRoute,
    target: &'a Rc<Target>,
    client: &'a HeaderMap,
}

#[derive(Deserialize)]
struct Answer {
    result: InitializeResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult {
    protocol_version: String,
}

impl Handshake<'_> {
    /// `initialize` and `notifications/initialized` (2025-11-25, "Lifecycle"); the server's session id, if it gives one.
    async fn run(&self, init: &str) -> Result<Option<Box<str>>, Refused> {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":"serin","method":"initialize","params":{init}}}"#);
        let mut response = self.post(body, None, None).await?;
        if !response.status().is_success() {
            return Err(Refused::NoResult);
        }
        let session = response.headers_mut().remove(&headers::SESSION_ID);
        let version = protocol_version(response).await.ok_or(Refused::NoResult)?;
        if headers::text(self.client, &headers::PROTOCOL_VERSION)
            .is_some_and(|told| told != version)
        {
            return Err(Refused::OtherVersion);
        }
        let version = HeaderValue::from_str(&version).map_err(|_| Refused::NoResult)?;
        let id = match &session {
            Some(id) => Some(id.to_str().map_err(|_| Refused::NoResult)?.into()),
            None => None,
        };
        let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned();
        let response = self.post(done, session, Some(version)).await?;
        if !response.status().is_success() {
            return Err(Refused::NoResult);
        }
        Ok(id)
    }

    async fn post(
        &self,
        body: String,
        session: Option<HeaderValue>,
        version: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Refused> {
        // Whatever lets the client in lets it in here too; the rest of its headers describe another message.
        let mut headers = self.client.clone();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(&headers::LAST_EVENT_ID);
        headers::post_message(&mut headers);
        headers.insert(header::HOST, self.target.authority.clone());
        for (name, value) in [
            (&headers::SESSION_ID, session),
            (&headers::PROTOCOL_VERSION, version),
        ] {
            match value {
                Some(value) => headers.insert(name, value),
                None => headers.remove(name),
            };
        }
        headers::ask_for_identity(&mut headers);
        let mut request = Request::new(ToUpstream::full(body.into()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        *request.uri_mut() = self.target.uri("", None).ok_or(Refused::Unreachable)?;
        let sent = self
            .target
            .send(request, self.service.settings.connect_timeout);
        let (response, lease) = sent.await.map_err(|_| Refused::Unreachable)?;
        if response.body().is_end_stream() {
            lease.give_back();
        }
        if is_down(response.status()) {
            return Err(Refused::Down);
        }
        Ok(response)
    }
}

/// The protocol version in an answer to `initialize`, be it JSON or events; a server may keep the stream of events open
/// after it.
async fn protocol_version(mut response: Response<Incoming>) -> Option<String> {
    let mut read = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let Ok(data) = frame.ok()?.into_data() else {
            continue;
        };
        if read.len() + data.len() > ANSWER_BYTES_MAX {
            return None;
        }
        read.extend_from_slice(&data);
        if let Some(version) = find_version(&read) {
            return Some(version);
        }
    }
    None
}

fn find_version(read: &[u8]) -> Option<String> {
    let version = |text: &[u8]| {
        let answer: Answer = serde_json::from_slice(text).ok()?;
        Some(answer.result.protocol_version)
    };
    let lines = read.split(|byte| matches!(byte, b'\r' | b'\n'));
    version(read).or_else(|| {
        lines
            .filter_map(|line| line.strip_prefix(b"data:"))
            .find_map(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_json_and_in_events() {
        let json = r#"{"jsonrpc":"2.0","id":"serin","result":{"protocolVersion":"2025-11-25","capabilities":{}}}"#;
        let events = format!("id: 1\r\ndata:\r\n\r\nevent: message\r\ndata: {json}\r\n\r\n");
        for text in [json, &events] {
            assert_eq!(find_version(text.as_bytes()).as_deref(), Some("2025-11-25"));
            assert_eq!(find_version(&text.as_bytes()[..text.len() / 2]), None);
        }
        assert_eq!(find_version(br#"{"error":{}}"#), None);
    }
}
