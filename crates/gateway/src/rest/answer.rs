//! The answer of MCP, read whole or streamed on as events of REST's own.

use super::{
    ask::Running,
    problem::{About, Problem, code_of},
    said::{Answer, Reader, Said, Unreadable},
};
use crate::{
    body::{RelayError, ToClient},
    headers,
    refusal::{Form, Refusal},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serin_mcp::{header::MISMATCH_CODE, scan::BodyKind};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Most of an answer that is no success that is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Time for a server to end its answer after the result, so that its connection can be used again.
const END_MAX: Duration = Duration::from_secs(1);

/// An answer that has begun.
pub(crate) struct Started {
    head: Parts,
    body: ToClient,
    reader: Reader,
    running: Option<Running>,
    /// What was read of an answer that is no success, and the error in it.
    said: Option<(Bytes, Option<Box<RawValue>>)>,
}

impl Started {
    pub(crate) fn new(id: u64, response: Response<ToClient>, running: Option<Running>) -> Self {
        let (head, body) = response.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|value| value.to_str().ok());
        Self {
            reader: Reader::new(id, kind.map_or(BodyKind::Other, BodyKind::of_content_type)),
            head,
            body,
            running,
            said: None,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The version that answers.
    pub(crate) fn version(&self) -> Option<&str> {
        headers::text(&self.head.headers, &headers::VERSION)
    }

    /// Reads the answer to its end. `hear` is told of progress.
    pub(crate) async fn answer(
        mut self,
        about: About<'_>,
        hear: &mut dyn FnMut(Box<RawValue>),
    ) -> Result<(HeaderMap, Answer), Refusal> {
        if !self.head.status.is_success() {
            return Err(self.refused(about).await);
        }
        let mut heard = None;
        while heard.is_none() {
            let Self { body, reader, .. } = &mut self;
            let mut listen = |said| listen(said, &mut heard, hear);
            let read = match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => reader.feed(&data, &mut listen),
                    Err(_) => Ok(()),
                },
                Some(Err(error)) => return Err(self.with_head(broke(&error, about).refuse())),
                None => match reader.finish(&mut listen) {
                    Ok(()) if heard.is_none() => Err(Unreadable::Ended),
                    read => read,
                },
            };
            if let Err(error) = read {
                let problem = Problem::no_answer(&error.to_string(), about);
                return Err(self.with_head(problem.refuse()));
            }
        }
        let answer = heard.unwrap_or(Answer::NeedsClient);
        // A server that waits for its client still has the call under way.
        if !matches!(answer, Answer::NeedsClient)
            && let Some(running) = &mut self.running
        {
            running.answered();
        }
        end(self.body);
        Ok((carried(&self.head.headers), answer))
    }

    /// Reads an answer that is no success.
    pub(crate) async fn refused(mut self, about: About<'_>) -> Refusal {
        if let Some(running) = &mut self.running {
            running.answered();
        }
        self.read_error().await;
        let (text, error) = self.said.take().unwrap_or_default();
        let problem = match error {
            Some(error) => Problem::of_rpc(&error, about, self.own_status()),
            None => Problem::of_status(self.head.status, &String::from_utf8_lossy(&text), about),
        };
        self.with_head(problem.refuse())
    }

    /// Whether the server misses headers that mirror arguments: then it has done nothing (2026-07-28, "Custom Headers").
    pub(crate) async fn misses_headers(&mut self) -> bool {
        if self.head.status != StatusCode::BAD_REQUEST {
            return false;
        }
        self.read_error().await;
        let error = self.said.as_ref().and_then(|(_, error)| error.as_deref());
        error.is_some_and(|error| code_of(error) == MISMATCH_CODE)
    }

    async fn read_error(&mut self) {
        if self.said.is_some() {
            return;
        }
        let mut said = BytesMut::new();
        while let Some(Ok(frame)) = self.body.frame().await {
            if let Ok(data) = frame.into_data() {
                said.extend_from_slice(&data);
            }
            if said.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        let mut error = None;
        let mut hear = |said| {
            if let Said::Answer(Answer::Error(said)) = said {
                error = Some(said);
            }
        };
        let text = said.freeze();
        let _ = self.reader.feed(&text, &mut hear);
        let _ = self.reader.finish(&mut hear);
        self.said = Some((text, error));
    }

    /// A status that says more than the error beside it.
    fn own_status(&self) -> Option<StatusCode> {
        let status = self.head.status;
        matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        )
        .then_some(status)
    }

    fn with_head(&self, refusal: Refusal) -> Refusal {
        with(refusal, &carried(&self.head.headers))
    }

    /// Streams it on: progress as it comes, then the result or the error.
    pub(crate) fn stream(
        self,
        tool: &str,
        is_listed: Option<bool>,
        blame: impl FnOnce(Box<RawValue>) -> Later + 'static,
    ) -> (HeaderMap, ToClient) {
        let headers = carried(&self.head.headers);
        let events = Events {
            body: Some(self.body),
            reader: self.reader,
            running: self.running,
            tool: tool.to_owned(),
            is_listed,
            blame: Some(Box::new(blame)),
            later: None,
            ready: VecDeque::new(),
        };
        (headers, ToClient::events(events))
    }
}

/// Sorts what is heard; of several answers the first counts.
fn listen(said: Said, heard: &mut Option<Answer>, hear: &mut dyn FnMut(Box<RawValue>)) {
    match said {
        Said::Progress(params) => hear(params),
        // It waits for an answer that nobody can give.
        Said::Asked => {
            heard.get_or_insert(Answer::NeedsClient);
        }
        Said::Answer(answer) => {
            heard.get_or_insert(answer);
        }
    }
}

/// Reads the last bytes of an answer, so that its connection is free for the next one.
fn end(mut body: ToClient) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(async move {
        let ending = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(END_MAX, ending).await;
    });
}

fn broke(error: &RelayError, about: About<'_>) -> Problem {
    let (status, kind) = match error {
        RelayError::Idle => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        RelayError::Killed => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        RelayError::Revoked => (StatusCode::UNAUTHORIZED, "unauthorized"),
        _ => (StatusCode::BAD_GATEWAY, "bad_gateway"),
    };
    Problem::new(status, kind, error.to_string()).about(about)
}

/// The problem that an answer is, if it is one.
pub(crate) fn problem_of(answer: Answer, about: About<'_>) -> Result<Box<RawValue>, Box<Problem>> {
    match answer {
        Answer::Result(result) => Ok(result),
        Answer::Failed {
            result,
            called_badly,
        } => Err(Box::new(Problem::of_tool(&result, called_badly, about))),
        Answer::NeedsClient => Err(Box::new(Problem::needs_client(about))),
        Answer::Error(error) => Err(Box::new(Problem::of_rpc(&error, about, None))),
    }
}

/// Why a session could not be opened.
pub(crate) fn of_handshake(answer: Answer) -> Refusal {
    let detail = "the server did not open a session";
    let problem = Problem::no_answer(detail, About::default());
    match answer {
        Answer::Error(error) => problem.error(&error).refuse(),
        _ => problem.refuse(),
    }
}

/// The headers of an answer of MCP that one of REST has too.
fn carried(head: &HeaderMap) -> HeaderMap {
    let names = [
        &headers::VERSION,
        &headers::CANARY,
        &header::WWW_AUTHENTICATE,
        &header::RETRY_AFTER,
    ];
    let named = names.into_iter().filter_map(|name| {
        let value = head.get(name)?;
        Some((name.clone(), value.clone()))
    });
    named.collect()
}

/// A refusal with the headers of the answer that it is made of.
pub(crate) fn with(refusal: Refusal, headers: &HeaderMap) -> Refusal {
    let said: Vec<(HeaderName, HeaderValue)> = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let say = |refusal: Refusal, (name, value)| refusal.header(name, value);
    said.into_iter().fold(refusal, say)
}

/// A refusal of the gateway's own, as a problem.
pub(crate) fn translated(refusal: Refusal, about: About<'_>) -> Refusal {
    refusal.translated(|status, text, form: Form| {
        let problem = Problem::of_refusal(status, text, form, about);
        (problem.status(), problem.text())
    })
}

/// An answer as events: `progress` as often as it comes, and in the end `result` or `error`.
pub(crate) struct Events {
    /// Gone when the answer is over.
    body: Option<ToClient>,
    reader: Reader,
    running: Option<Running>,
    tool: String,
    is_listed: Option<bool>,
    /// Finds out whose fault it is that the tool has failed.
    blame: Option<Box<dyn FnOnce(Box<RawValue>) -> Later>>,
    later: Option<Later>,
    ready: VecDeque<Bytes>,
}

/// A problem that takes another question.
pub(crate) type Later = Pin<Box<dyn Future<Output = Box<Problem>>>>;

impl Events {
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if let Some(later) = &mut self.later {
                let problem = ready!(later.as_mut().poll(context));
                self.later = None;
                self.ready.push_back(event("error", &problem.text()));
                continue;
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            let frame = ready!(Pin::new(body).poll_frame(context));
            self.take(frame);
        }
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, RelayError>>) {
        let Self { reader, ready, .. } = self;
        let mut heard = None;
        let mut hear = |params: Box<RawValue>| ready.extend(progress(&params));
        let mut listen = |said| listen(said, &mut heard, &mut hear);
        let about = About {
            tool: Some(&self.tool),
            is_listed: self.is_listed,
        };
        let read = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => reader.feed(&data, &mut listen),
                Err(_) => Ok(()),
            },
            Some(Err(error)) => {
                let problem = broke(&error, about).text();
                return self.over(event("error", &problem));
            }
            None => match reader.finish(&mut listen) {
                Ok(()) if heard.is_none() => Err(Unreadable::Ended),
                read => read,
            },
        };
        let last = match (read, heard) {
            (_, Some(answer)) => {
                if !matches!(answer, Answer::NeedsClient)
                    && let Some(running) = &mut self.running
                {
                    running.answered();
                }
                let answer = match (answer, self.blame.take()) {
                    (
                        Answer::Failed {
                            result,
                            called_badly: false,
                        },
                        Some(blame),
                    ) => {
                        self.later = Some(blame(result));
                        return self.close();
                    }
                    (answer, _) => answer,
                };
                match problem_of(answer, about) {
                    Ok(result) => event("result", &format!("{{\"result\":{result}}}")),
                    Err(problem) => event("error", &problem.text()),
                }
            }
            (Err(error), None) => {
                let problem = Problem::no_answer(&error.to_string(), about);
                event("error", &problem.text())
            }
            (Ok(()), None) => return,
        };
        self.over(last);
    }

    fn over(&mut self, last: Bytes) {
        self.ready.push_back(last);
        self.close();
    }

    fn close(&mut self) {
        self.running = None;
        if let Some(body) = self.body.take() {
            end(body);
        }
    }
}

/// How far a call is: what of it is not between us and the server.
fn progress(params: &RawValue) -> Option<Bytes> {
    #[derive(Deserialize, Serialize)]
    struct Stage<'a> {
        #[serde(borrow)]
        progress: &'a RawValue,
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        total: Option<&'a RawValue>,
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        message: Option<&'a RawValue>,
    }
    let progress: Stage<'_> = serde_json::from_str(params.get()).ok()?;
    Some(event("progress", &serde_json::to_string(&progress).ok()?))
}

/// One event. JSON may have line feeds between its tokens, which would end a field.
fn event(name: &str, json: &str) -> Bytes {
    let json = json.replace(['\r', '\n'], " ");
    format!("event: {name}\ndata: {json}\n\n").into()
}
