//! Modern MCP (from 2026-07-28): stateless callers, who bring back what a version minted.

use super::{Admitted, Answered};
use crate::{
    access::Closed,
    body::{ToUpstream, purpose_of},
    forward::{self, Asks, Call, Treatment},
    headers, lists,
    refusal::Refusal,
    route::Caller,
    session,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use serin_mcp::{
    envelope::{Envelope, Kind, Message, splice},
    error::GatewayError,
    header::{decode, encode},
};
use serin_model::{
    name::EndpointId,
    observe::{CallEra, Rejection},
};
use std::borrow::Cow;

impl Admitted<'_> {
    /// Modern: stateless, assigned by affinity key unless a minted value leads to an endpoint.
    pub(super) async fn modern(&mut self, body: Bytes) -> Answered {
        let method = self.header_text(&headers::METHOD);
        let name = self.header_text(&headers::NAME);
        let mut sent = body.clone();
        let mut pinned = None;
        let is_guarded = self.is_guarded();
        let is_read = self.is_read() || self.is_counted_by(&body);
        let envelope = if method.is_none() || is_read || may_hold_minted(&body) {
            Some(self.read(&body)?)
        } else {
            None
        };
        self.record(&body, envelope.as_ref(), method.as_deref(), name.as_deref());
        if let Some(envelope) = envelope.as_ref().filter(|_| is_read) {
            self.check_reading(envelope)?;
            self.check_headers(envelope)?;
        }
        self.check_rule(envelope.as_ref())?;
        self.check_limits(envelope.as_ref()).await?;
        if let Some(envelope) = &envelope {
            let unsealed = self.unseal(envelope)?;
            pinned = unsealed.endpoint;
            sent = unsealed.of(sent);
        }
        let message = envelope.as_ref().and_then(Envelope::single);
        let method =
            method.or_else(|| message.and_then(|message| message.method.as_deref().map(Cow::from)));
        let method = method.as_deref().unwrap_or_default();
        let (key, by) = (self.affinity_key(), self.ruled_by());
        let is_listening = method == "subscriptions/listen";
        let viewer = if is_listening {
            Some(self.any_viewer(None, CallEra::Modern))
        } else {
            self.viewer(None, CallEra::Modern)
        };
        let mut headers = self.take_headers()?;
        if method.starts_with("tasks/")
            && let Some(name) = &name
            && let Some((endpoint, value)) = self.own(serin_mcp::Minted::TaskId, name, None)?
        {
            pinned = Some(agreed(pinned, endpoint).map_err(|()| self.torn())?);
            if let Ok(value) = HeaderValue::from_str(&encode(&value)) {
                headers.insert(&headers::NAME, value);
            }
        }
        let caller = match pinned {
            Some(endpoint) => Caller::Pinned(endpoint),
            None => self.new_caller(&key, by.as_deref()),
        };
        let to = self.route(caller)?;
        let viewer = viewer.map(|viewer| viewer.on(self.service, to.version));
        let mut closed = Closed::default();
        if let Some(envelope) = &envelope {
            closed = self.check_messages(viewer.as_ref(), envelope, CallEra::Modern)?;
            sent = Self::without_closed(sent, closed);
        }
        if sent.len() != body.len() {
            headers.insert(header::CONTENT_LENGTH, sent.len().into());
        }
        let to = self.steer(to, self.chosen, viewer.as_ref(), &mut headers);
        let sight = match viewer {
            Some(viewer) if is_listening => {
                // Its server says first to what it listens.
                Some(Self::stream_sight(viewer, tools_changed(&body), 1))
            }
            viewer => self.sight(viewer.as_ref(), envelope.as_ref(), CallEra::Modern, closed),
        };
        let tool = name
            .as_deref()
            .or_else(|| message.and_then(|message| message.name.as_deref()));
        let asks = match method {
            "subscriptions/listen" => Asks::Stream,
            "tools/call" => Asks::Call(Call {
                tool: Some(tool.unwrap_or_default()),
                id: None,
            }),
            method if method.starts_with("notifications/") => Asks::Nothing,
            _ => Asks::Call(Call::default()),
        };
        let mut outbound =
            self.outbound(headers, to, ToUpstream::full(sent), CallEra::Modern, asks);
        outbound.key = Some(&key);
        let inbound = forward::send(self.core, outbound).await?;
        let treatment = Treatment::Modern {
            restricts_list: (lists::is_list(method)
                && (self.service.split.as_ref()).is_some_and(|split| split.contract_differs))
                || (is_guarded && matches!(method, "tools/list" | "server/discover")),
        };
        Ok(forward::answer(self.core, self.service, inbound, treatment, sight).await)
    }

    /// Notes what it asks by its body, which its headers need not agree with; by them where the body cannot be read.
    fn record(
        &self,
        body: &[u8],
        envelope: Option<&Envelope<'_>>,
        method: Option<&str>,
        name: Option<&str>,
    ) {
        if !self.trail.is_kept() {
            return;
        }
        if let Some(envelope) = envelope {
            self.trail.asks(envelope);
        } else if let Ok(envelope) = Envelope::read(body) {
            self.trail.asks(&envelope);
        } else {
            self.trail
                .names(method, name.filter(|_| method == Some("tools/call")));
        }
    }

    fn header_text(&self, name: &http::HeaderName) -> Option<Cow<'static, str>> {
        let text = headers::text(&self.headers, name)?;
        Some(Cow::Owned(decode(text).ok()?.into_owned()))
    }

    /// A legacy body as its server is to get it. Servers' own values are sealed for callers who are told apart, and for these alone:
    /// their sessions keep all others where these were made.
    pub(super) fn unsealed(
        &mut self,
        envelope: &Envelope<'_>,
        body: Bytes,
    ) -> Result<Bytes, Refusal> {
        // Methods of tasks there are none, and a body with one is refused whole.
        let is_of_tasks = |message: &Message<'_>| message.method().starts_with("tasks/");
        if self.principal.is_none() || envelope.messages.iter().any(is_of_tasks) {
            return Ok(body);
        }
        let before = body.len();
        let body = self.unseal(envelope)?.of(body);
        if body.len() != before {
            self.headers
                .insert(header::CONTENT_LENGTH, body.len().into());
        }
        Ok(body)
    }

    fn unseal(&self, envelope: &Envelope<'_>) -> Result<Unsealed, Refusal> {
        let mut unsealed = Unsealed::default();
        for message in &envelope.messages {
            // An answer, and what asks for none, is not answered by its id.
            let id = message.id.filter(|_| message.kind == Kind::Request);
            for minted in &message.minted {
                let opened = self.own(minted.kind, &minted.value, id)?;
                let Some((endpoint, value)) = opened else {
                    continue;
                };
                let agreed = agreed(unsealed.endpoint, endpoint).map_err(|()| self.torn())?;
                unsealed.endpoint = Some(agreed);
                unsealed.edits.push((minted.span.clone(), value));
            }
        }
        Ok(unsealed)
    }

    fn open(&self, kind: serin_mcp::Minted, text: &str) -> Option<(EndpointId, String)> {
        session::open_minted(&self.core.shared.keys, purpose_of(kind), self.bound(), text)
    }

    /// What was sealed for this caller. What was not goes on as it is, where callers do not say who they are: the server refuses it in
    /// its own words, as it would without us.
    ///
    /// # Errors
    /// It was not, and its caller is told apart from others: a server would take the value of anybody.
    fn own(
        &self,
        kind: serin_mcp::Minted,
        text: &str,
        id: Option<&str>,
    ) -> Result<Option<(EndpointId, String)>, Refusal> {
        let opened = self.open(kind, text);
        if opened.is_some() || self.principal.is_none() {
            return Ok(opened);
        }
        let what = match kind {
            serin_mcp::Minted::Cursor => "cursor",
            serin_mcp::Minted::TaskId => "taskId",
            serin_mcp::Minted::RequestState => "requestState",
        };
        let text = format!("there is no such `{what}`; start again without it");
        let status = StatusCode::BAD_REQUEST;
        let refusal = Refusal::rpc(status, id, GatewayError::InvalidParams, &text);
        Err(refusal.counted(Rejection::Session).of(&self.service.name))
    }

    fn torn(&self) -> Refusal {
        let text = "the values come from two versions; start again without them";
        let status = StatusCode::BAD_REQUEST;
        Refusal::rpc(status, None, GatewayError::InvalidParams, text)
            .counted(Rejection::Session)
            .of(&self.service.name)
    }
}

/// Tells the listener of a subscription to ask for the tools again, if that is what it listens for (2026-07-28,
/// "Subscriptions": the notification names the request that it belongs to).
fn tools_changed(body: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Listen<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
        params: Params,
    }
    #[derive(Deserialize)]
    struct Params {
        notifications: Wanted,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wanted {
        #[serde(default)]
        tools_list_changed: bool,
    }
    let listen: Listen<'_> = serde_json::from_slice(body).ok()?;
    listen.params.notifications.tools_list_changed.then(|| {
        let id = listen.id.get();
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{{\"_meta\":{{\"io.modelcontextprotocol/subscriptionId\":{id}}}}}}}\n\n"
        )
        .into()
    })
}

/// What a request's minted values say.
#[derive(Default)]
struct Unsealed {
    endpoint: Option<EndpointId>,
    edits: Vec<(std::ops::Range<usize>, String)>,
}

impl Unsealed {
    /// The body with them in it.
    fn of(&self, body: Bytes) -> Bytes {
        if self.edits.is_empty() {
            return body;
        }
        let edits = self.edits.iter();
        let edits: Vec<_> = edits
            .map(|(span, value)| (span.clone(), value.as_str()))
            .collect();
        splice(&body, &edits).map_or(body, Bytes::from)
    }
}

fn agreed(before: Option<EndpointId>, now: EndpointId) -> Result<EndpointId, ()> {
    match before {
        Some(before) if before != now => Err(()),
        _ => Ok(now),
    }
}

/// Whether a body can hold a value that a version minted. A backslash may hide a key.
fn may_hold_minted(body: &[u8]) -> bool {
    use memchr::memmem::find;
    memchr::memchr(b'\\', body).is_some()
        || find(body, b"requestState").is_some()
        || find(body, b"taskId").is_some()
        || find(body, b"cursor").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_may_hide_a_minted_value_is_read() {
        for body in [
            "{\"cursor\":1}",
            "{\"requestState\":1}",
            "{\"taskId\":1}",
            "{\"curs\\u006fr\":1}",
        ] {
            assert!(may_hold_minted(body.as_bytes()), "{body}");
        }
        assert!(!may_hold_minted(b"{\"name\":\"add\"}"));
    }
}
