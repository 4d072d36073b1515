//! A bounded look at a request body: what the gateway must know to route it, and nothing else.
//!
//! No tree is built: the reader walks the tokens once and keeps borrowed pieces. Where upstreams
//! might read a body differently than we do (duplicate keys, a name that is not a string), it
//! refuses: a lax upstream must not be a way around a rule about names.

mod keys;
mod reader;

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{INVALID_REQUEST, PARSE_ERROR};
use crate::{Minted, Syntax, json};

/// Largest request body, in bytes: the most that a service may be set to take. Whoever collects bodies has a lower limit.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Most messages in one batch. The 2025-03-26 specification names no limit; clients send a handful.
pub const MAX_BATCH: usize = 100;

/// Most keys in an object that is read (message, `params`, `_meta`): bounds the search for duplicates.
pub const MAX_KEYS: usize = 1024;

/// Most tasks that a subscription names. The tasks extension has no limit; each id costs a decryption.
pub const MAX_TASK_IDS: usize = 1024;

/// What kind of message it is (JSON-RPC 2.0, sections 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `method` and `id`: an answer is due.
    Request,
    /// `method` without `id`.
    Notification,
    /// `id` with `result` or `error`: an answer to a server's request (legacy only).
    Response,
}

/// A value in the body that some version made: see [`Minted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintedValue<'a> {
    /// Which kind.
    pub kind: Minted,
    /// It stands in `params` itself: it is what the message asks for.
    pub in_params: bool,
    /// What it says, escapes resolved.
    pub value: Cow<'a, str>,
    /// Where its JSON string literal, quotes included, stands in the body: for [`splice`].
    pub span: Range<usize>,
}

/// One message of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// The id as it stands in the body (JSON text: `7`, `"abc"`, `null`).
    pub id: Option<&'a str>,
    /// `method`; none in a response.
    pub method: Option<Cow<'a, str>>,
    /// The whole `params` object as it stands in the body.
    pub params: Option<&'a str>,
    /// `params.name`: the tool or prompt.
    pub name: Option<Cow<'a, str>>,
    /// `params.uri`: the resource.
    pub uri: Option<Cow<'a, str>>,
    /// `params.protocolVersion`, of `initialize`.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`, of every modern request.
    pub meta_protocol_version: Option<Cow<'a, str>>,
    /// `params.requestId` as it stands in the body, of `notifications/cancelled`.
    pub request_id: Option<&'a str>,
    /// `params.task` is there: the call is to go on as a task.
    pub wants_task: bool,
    /// A key that is not one of those read here, but that a reader who does not tell capitals from small letters takes for one:
    /// which one it takes it for.
    pub lookalike: Option<&'static str>,
    /// Values that some version made, in the order of the body: `params.taskId`, `.cursor`,
    /// `.requestState`, `.notifications.taskIds` of a subscription, and the related task's id in `_meta` of `params` or `result`.
    pub minted: Vec<MintedValue<'a>>,
}

impl Message<'_> {
    /// The method, empty for a response.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// `params.taskId`.
    pub fn task_id(&self) -> Option<&str> {
        let mut own = self.minted.iter().filter(|value| value.in_params);
        own.find(|value| value.kind == Minted::TaskId)
            .map(|value| &*value.value)
    }

    /// The first minted value of this kind.
    pub fn minted(&self, kind: Minted) -> Option<&MintedValue<'_>> {
        self.minted.iter().find(|value| value.kind == kind)
    }
}

/// What a request body holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The body is an array, even if of one message. Legal only where
    /// [`crate::era::ProtocolVersion::allows_batches`] says so.
    pub is_batch: bool,
    /// At least one, at most [`MAX_BATCH`].
    pub messages: Vec<Message<'a>>,
}

impl<'a> Envelope<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; [`EnvelopeError::code`] is the JSON-RPC code to answer with.
    pub fn read(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        reader::read(body)
    }

    /// The message, unless the body is a batch.
    pub fn single(&self) -> Option<&Message<'a>> {
        match self.messages.as_slice() {
            [message] if !self.is_batch => Some(message),
            _ => None,
        }
    }
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Larger than [`MAX_BODY_BYTES`].
    #[error("the body has {bytes} bytes; send at most {MAX_BODY_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not one JSON text.
    #[error("the body is not valid JSON: {what} at byte {at}")]
    NotJson {
        /// What is wrong.
        what: Syntax,
        /// Offset in the body, from 0.
        at: usize,
    },
    /// A key stands twice in an object whose fields matter.
    #[error("duplicate key {key:?} in {object}; send each key once")]
    DuplicateKey {
        /// Which object.
        object: &'static str,
        /// The key, cut short.
        key: String,
    },
    /// More than [`MAX_KEYS`] keys.
    #[error("{object} has more than {MAX_KEYS} keys")]
    TooManyKeys {
        /// Which object.
        object: &'static str,
    },
    /// A field has a type that it cannot have.
    #[error("{field} must be {expected}")]
    WrongType {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// `jsonrpc` is missing or another version.
    #[error("not a JSON-RPC 2.0 message: \"jsonrpc\" must be \"2.0\"")]
    NotJsonRpc,
    /// Neither a request nor a notification nor a response.
    #[error(
        "not a JSON-RPC message: send \"method\", or \"id\" with exactly one of \"result\" and \"error\""
    )]
    NoKind,
    /// More than [`MAX_TASK_IDS`] tasks.
    #[error("the subscription names more than {MAX_TASK_IDS} tasks; listen in parts")]
    TooManyTaskIds,
    /// A batch of nothing.
    #[error("the batch is empty; send at least one message")]
    EmptyBatch,
    /// More than [`MAX_BATCH`] messages.
    #[error("the batch has more than {MAX_BATCH} messages; send it in parts")]
    BatchTooLong,
}

impl EnvelopeError {
    /// The JSON-RPC code: -32700 when the body is not JSON, -32600 when it is not a message.
    pub fn code(&self) -> i64 {
        match self {
            EnvelopeError::NotJson { .. } => PARSE_ERROR,
            _ => INVALID_REQUEST,
        }
    }
}

/// The body with other strings in the places of the given spans; every other byte stays.
///
/// Replacements are plain text and are escaped here. Spans must be in order, apart, and inside
/// the body, as [`Message::minted`] gives them; otherwise `None`.
pub fn splice(body: &[u8], edits: &[(Range<usize>, &str)]) -> Option<Vec<u8>> {
    let grown: usize = edits.iter().map(|(_, text)| text.len() + 2).sum();
    let mut out = Vec::with_capacity(body.len() + grown);
    let mut copied = 0;
    for (span, text) in edits {
        if span.end < span.start {
            return None;
        }
        out.extend_from_slice(body.get(copied..span.start)?);
        out.extend_from_slice(json::quote(text).as_bytes());
        copied = span.end;
    }
    out.extend_from_slice(body.get(copied..)?);
    Some(out)
}

#[cfg(test)]
mod tests;
