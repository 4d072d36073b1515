//! What a server says in answer to one request: progress, questions, and in the end the answer. Read from JSON or events as it comes.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use serin_mcp::{
    scan::{BodyKind, Outcome, ResultType, Scanner},
    sse::{Parser, Part},
};
use std::borrow::Cow;

/// Largest message that is read: results with images and documents inside have some megabytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One thing that a server says.
#[derive(Debug)]
pub(crate) enum Said {
    /// How far the call is: `params` of the notification.
    Progress(Box<RawValue>),
    /// A question to the client: sampling, elicitation, roots.
    Asked,
    /// The answer.
    Answer(Answer),
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A result.
    Result(Box<RawValue>),
    /// A result that says that the tool failed.
    Failed {
        result: Box<RawValue>,
        /// By the fault of whoever called it.
        called_badly: bool,
    },
    /// The server wants something of its client first, or has made a task of the call.
    NeedsClient,
    /// A JSON-RPC error.
    Error(Box<RawValue>),
}

/// What a server said cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the server's answer has a message of more than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the server's answer is not JSON-RPC")]
    NotRpc,
    #[error("the server's answer ended before its result")]
    Ended,
}

/// Reads what a server says to one request.
pub(crate) struct Reader {
    /// The id of the request.
    id: u64,
    kind: BodyKind,
    events: Parser,
    /// The message under way.
    message: BytesMut,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Reader {
    pub(crate) fn new(id: u64, kind: BodyKind) -> Self {
        Self {
            id,
            kind,
            events: Parser::new(),
            message: BytesMut::new(),
        }
    }

    /// Reads a piece; `hear` is told what it completes.
    pub(crate) fn feed(
        &mut self,
        piece: &Bytes,
        hear: &mut dyn FnMut(Said),
    ) -> Result<(), Unreadable> {
        if self.kind != BodyKind::EventStream {
            return self.keep(piece);
        }
        let mut at = 0;
        while let Some(part) = self.events.next(piece, &mut at) {
            match part {
                Part::Line { is_first: true } => self.message.clear(),
                Part::Line { is_first: false } => self.keep(b"\n")?,
                Part::Data(range) => self.keep(piece.get(range).unwrap_or_default())?,
                Part::End => {
                    let message = self.message.split();
                    // What opens a stream, so that it can be resumed, is empty (2025-11-25, "Sending Messages to the Server").
                    if !message.iter().all(u8::is_ascii_whitespace) {
                        self.read(&message, hear)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// There is no more.
    pub(crate) fn finish(&mut self, hear: &mut dyn FnMut(Said)) -> Result<(), Unreadable> {
        let message = self.message.split();
        if self.kind == BodyKind::EventStream {
            return Ok(());
        }
        self.read(&message, hear)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        if self.message.len() + bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Unreadable::TooLarge);
        }
        self.message.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&self, text: &[u8], hear: &mut dyn FnMut(Said)) -> Result<(), Unreadable> {
        let message: Message<'_> = serde_json::from_slice(text).map_err(|_| Unreadable::NotRpc)?;
        let is_mine = || {
            let id = message.id.map(|id| id.get().parse::<u64>());
            // A server that could not read the request does not know its id.
            id.is_none_or(|id| id == Ok(self.id)) || message.error.is_some()
        };
        match (&message.method, message.result, message.error) {
            (Some(method), ..) if message.id.is_some() => {
                // Whether we are alive, a server sees by its connection too.
                if method != "ping" {
                    hear(Said::Asked);
                }
            }
            (Some(method), ..) => {
                if let ("notifications/progress", Some(params)) = (&**method, message.params) {
                    hear(Said::Progress(params.to_owned()));
                }
            }
            (None, Some(result), None) if is_mine() => {
                hear(Said::Answer(answer(text, result)));
            }
            (None, None, Some(error)) if is_mine() => {
                hear(Said::Answer(Answer::Error(error.to_owned())));
            }
            // An answer to another request: none of our business.
            (None, Some(_), None) => {}
            _ => return Err(Unreadable::NotRpc),
        }
        Ok(())
    }
}

/// What a message with a result says of the call, in the words by which calls are counted.
fn answer(message: &[u8], result: &RawValue) -> Answer {
    let mut scanner = Scanner::new(BodyKind::Json);
    scanner.feed(Bytes::copy_from_slice(message), None);
    scanner.finish();
    let is_task = (scanner.answers().iter())
        .any(|answer| matches!(answer.result_type, Some(ResultType::Task)));
    match scanner.outcome() {
        Some(Outcome::ToolError { called_badly }) => Answer::Failed {
            result: result.to_owned(),
            called_badly,
        },
        Some(Outcome::InputRequired) => Answer::NeedsClient,
        _ if is_task => Answer::NeedsClient,
        _ => Answer::Result(result.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is heard of a body that comes in pieces of this size.
    fn heard(kind: BodyKind, body: &str, size: usize) -> Result<Vec<String>, Unreadable> {
        let mut reader = Reader::new(7, kind);
        let mut heard = Vec::new();
        let mut hear = |said: Said| {
            heard.push(match said {
                Said::Progress(params) => format!("progress {params}"),
                Said::Asked => "asked".to_owned(),
                Said::Answer(Answer::Result(result)) => format!("result {result}"),
                Said::Answer(Answer::Failed {
                    result,
                    called_badly,
                }) => format!("failed {called_badly} {result}"),
                Said::Answer(Answer::NeedsClient) => "needs client".to_owned(),
                Said::Answer(Answer::Error(error)) => format!("error {error}"),
            });
        };
        for piece in body.as_bytes().chunks(size) {
            reader.feed(&Bytes::copy_from_slice(piece), &mut hear)?;
        }
        reader.finish(&mut hear)?;
        Ok(heard)
    }

    #[test]
    fn an_answer_is_read_for_what_it_is() {
        for (body, want) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#,
                Ok(&[r#"result {"content":[]}"#][..]),
            ),
            (
                r#"{"id":7,"result":{"isError":true,"content":[{"type":"text","text":"boom"}]}}"#,
                Ok(&[r#"failed false {"isError":true,"content":[{"type":"text","text":"boom"}]}"#]),
            ),
            (
                r#"{"id":7,"result":{"resultType":"input_required","inputRequests":{}}}"#,
                Ok(&["needs client"]),
            ),
            (
                r#"{"id":7,"result":{"resultType":"task","taskId":"1"}}"#,
                Ok(&["needs client"]),
            ),
            (
                r#"{"id":7,"error":{"code":-32602,"message":"no"}}"#,
                Ok(&[r#"error {"code":-32602,"message":"no"}"#]),
            ),
            (
                r#"{"id":null,"error":{"code":-32700}}"#,
                Ok(&[r#"error {"code":-32700}"#]),
            ),
            (r#"{"id":8,"result":{}}"#, Ok(&[])),
            (r#"{"id":7}"#, Err(Unreadable::NotRpc)),
            ("[]", Err(Unreadable::NotRpc)),
            ("", Err(Unreadable::NotRpc)),
        ] {
            let want = want.map(|said| said.iter().map(|said| (*said).to_owned()).collect());
            assert_eq!(heard(BodyKind::Json, body, 1000), want, "{body}");
        }
    }

    #[test]
    fn a_message_is_bounded() {
        let mut reader = Reader::new(7, BodyKind::Json);
        let piece = Bytes::from(vec![b' '; MESSAGE_BYTES_MAX]);
        let mut hear = |_| {};
        assert_eq!(reader.feed(&piece, &mut hear), Ok(()));
        let more = Bytes::from_static(b" ");
        assert_eq!(reader.feed(&more, &mut hear), Err(Unreadable::TooLarge));
    }

    proptest! {
        #[test]
        fn events_are_read_however_they_are_cut(size in 1..200_usize) {
            let body = concat!(
                "id: 1\nretry: 10\ndata:\n\n: alive\n\n",
                "event: message\ndata: {\"method\":\"notifications/progress\",\ndata: \"params\":{\"progress\":1}}\n\n",
                "data: {\"method\":\"notifications/message\",\"params\":{}}\r\n\r\n",
                "data: {\"id\":1,\"method\":\"ping\"}\n\n",
                "data: {\"id\":1,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n",
                "data: {\"id\":9,\"result\":{}}\n\n",
                "data: {\"id\":7,\"result\":{\"content\":[]}}\n\n",
            );
            let want = ["progress {\"progress\":1}", "asked", "result {\"content\":[]}"];
            prop_assert_eq!(heard(BodyKind::EventStream, body, size).unwrap(), want);
        }

        #[test]
        fn nothing_that_a_server_says_panics(body: String, size in 1..50_usize, is_stream: bool) {
            let kind = if is_stream { BodyKind::EventStream } else { BodyKind::Json };
            let _ = heard(kind, &body, size);
        }
    }
}
