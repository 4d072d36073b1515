//! The walk over the tokens of a request body. The shape we read is fixed and shallow, so it reads
//! as one function an object; everything else is skipped by the tokenizer.

use std::borrow::Cow;
use std::ops::Range;

use super::keys::Keys;
use super::{
    Envelope, EnvelopeError, Kind, MAX_BATCH, MAX_BODY_BYTES, MAX_TASK_IDS, Message, MintedValue,
};
use crate::json::{self, Token, Tokenizer};
use crate::{META_PROTOCOL_VERSION, META_RELATED_TASK, Minted, Syntax};

pub(super) fn read(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(EnvelopeError::TooLarge { bytes: body.len() });
    }
    let text = std::str::from_utf8(body).map_err(|error| EnvelopeError::NotJson {
        what: Syntax::NotUtf8,
        at: error.valid_up_to(),
    })?;
    let mut reader = Reader {
        text,
        tokens: Tokenizer::new(),
        pos: 0,
    };
    let envelope = reader.envelope();
    // Read to the end even when the message is refused: a body that is not JSON is -32700 first.
    reader.end()?;
    envelope
}

/// The one of `names` for which a reader takes `key` that does not tell capitals from small letters, as Go's does: to it a long s
/// is an s and the Kelvin sign is a k.
fn lookalike(key: &str, names: &[&'static str]) -> Option<&'static str> {
    let folded = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    let is_like =
        |name: &&&str| key != **name && key.chars().map(folded).eq(name.chars().map(folded));
    names.iter().find(is_like).copied()
}

/// The keys of `params` by which a server is told what to do, for whom, or what a version made.
const PARAMS: [&str; 8] = [
    "name",
    "task",
    "_meta",
    "capabilities",
    "cursor",
    "taskId",
    "requestState",
    "notifications",
];

const RELATED_TASK_ID: &str = "the related task's taskId";

/// Where a value stands, and of what type it is.
struct Raw {
    span: Range<usize>,
    /// The token it began with.
    begin: Token,
}

/// What a string literal says, and where it stands, quotes included.
type Literal<'a> = (Cow<'a, str>, Range<usize>);

struct Reader<'a> {
    text: &'a str,
    tokens: Tokenizer,
    pos: usize,
}

impl<'a> Reader<'a> {
    fn envelope(&mut self) -> Result<Envelope<'a>, EnvelopeError> {
        let first = self.token()?;
        let is_batch = first == Token::ArrayBegin;
        let messages = if is_batch {
            self.batch()?
        } else {
            vec![self.message(first)?]
        };
        Ok(Envelope { is_batch, messages })
    }

    fn batch(&mut self) -> Result<Vec<Message<'a>>, EnvelopeError> {
        let mut messages = Vec::new();
        loop {
            match self.token()? {
                Token::ArrayEnd if messages.is_empty() => return Err(EnvelopeError::EmptyBatch),
                Token::ArrayEnd => return Ok(messages),
                _ if messages.len() == MAX_BATCH => return Err(EnvelopeError::BatchTooLong),
                first => messages.push(self.message(first)?),
            }
        }
    }

    fn message(&mut self, first: Token) -> Result<Message<'a>, EnvelopeError> {
        if first != Token::ObjectBegin {
            return Err(EnvelopeError::WrongType {
                field: "a message",
                expected: "an object",
            });
        }
        let mut message = Message {
            kind: Kind::Notification,
            id: None,
            method: None,
            params: None,
            name: None,
            uri: None,
            protocol_version: None,
            meta_protocol_version: None,
            request_id: None,
            wants_task: false,
            lookalike: None,
            minted: Vec::new(),
        };
        let (mut is_version_2, mut has_result, mut has_error) = (false, false, false);
        let mut keys = Keys::of("the message");
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                "jsonrpc" => {
                    is_version_2 = self.string("jsonrpc")?.is_some_and(|(v, _)| v == "2.0");
                }
                "id" => message.id = Some(self.id("id")?),
                "method" => message.method = self.string("method")?.map(|(method, _)| method),
                "params" => self.params(&mut message)?,
                "result" => {
                    has_result = true;
                    self.result(&mut message)?;
                }
                "error" => {
                    has_error = true;
                    self.value()?;
                }
                key => self.other(&mut message, key, &["method", "params", "id", "result"])?,
            }
        }
        if !is_version_2 {
            return Err(EnvelopeError::NotJsonRpc);
        }
        message.kind = match (message.method.is_some(), message.id, has_result, has_error) {
            (true, Some("null"), false, false) => {
                return Err(EnvelopeError::WrongType {
                    field: "the id of a request",
                    expected: "a string or a number",
                });
            }
            (true, Some(_), false, false) => Kind::Request,
            (true, None, false, false) => Kind::Notification,
            (false, Some(_), true, false) | (false, _, false, true) => Kind::Response,
            _ => return Err(EnvelopeError::NoKind),
        };
        Ok(message)
    }

    fn params(&mut self, message: &mut Message<'a>) -> Result<(), EnvelopeError> {
        let first = self.token()?;
        let start = self.pos - 1;
        if first != Token::ObjectBegin {
            let value = self.rest_of(first)?;
            return self.absent("params", "an object", &value);
        }
        let mut keys = Keys::of("params");
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                "name" => message.name = self.string("params.name")?.map(|(text, _)| text),
                "uri" => message.uri = self.string("params.uri")?.map(|(text, _)| text),
                "protocolVersion" => {
                    message.protocol_version =
                        self.string("params.protocolVersion")?.map(|(text, _)| text);
                }
                "requestId" => message.request_id = Some(self.id("params.requestId")?),
                "cursor" => self.minted(message, Minted::Cursor, "params.cursor")?,
                "taskId" => self.minted(message, Minted::TaskId, "params.taskId")?,
                "requestState" => {
                    self.minted(message, Minted::RequestState, "params.requestState")?;
                }
                "_meta" => self.meta(message, "params._meta")?,
                "notifications" => self.wanted(message)?,
                "task" => {
                    let value = self.value()?;
                    message.wants_task = self.text.get(value.span) != Some("null");
                }
                key => self.other(message, key, &PARAMS)?,
            }
        }
        message.params = self.text.get(start..self.pos);
        Ok(())
    }

    /// What a subscription is for (2026-07-28, "Subscriptions"): the tasks that it names.
    fn wanted(&mut self, message: &mut Message<'a>) -> Result<(), EnvelopeError> {
        let first = self.token()?;
        if first != Token::ObjectBegin {
            // Of another method it may be anything.
            self.rest_of(first)?;
            return Ok(());
        }
        let mut keys = Keys::of("params.notifications");
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                "taskIds" => self.task_ids(message)?,
                key => self.other(message, key, &["taskIds"])?,
            }
        }
        Ok(())
    }

    fn task_ids(&mut self, message: &mut Message<'a>) -> Result<(), EnvelopeError> {
        let (field, expected) = ("params.notifications.taskIds", "an array of strings");
        let first = self.token()?;
        if first != Token::ArrayBegin {
            let value = self.rest_of(first)?;
            return self.absent(field, expected, &value);
        }
        for _ in 0..=MAX_TASK_IDS {
            let first = self.token()?;
            if first == Token::ArrayEnd {
                return Ok(());
            }
            if first != Token::StringBegin {
                return Err(EnvelopeError::WrongType { field, expected });
            }
            let span = self.rest_of(first)?.span;
            message.minted.push(MintedValue {
                kind: Minted::TaskId,
                in_params: false,
                value: self.unescape(span.start + 1..span.end - 1)?,
                span,
            });
        }
        Err(EnvelopeError::TooManyTaskIds)
    }

    /// The `result` of an answer to a server's request: only its related task matters.
    fn result(&mut self, message: &mut Message<'a>) -> Result<(), EnvelopeError> {
        let first = self.token()?;
        if first != Token::ObjectBegin {
            self.rest_of(first)?;
            return Ok(());
        }
        let mut keys = Keys::of("result");
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                "_meta" => self.meta(message, "result._meta")?,
                key => self.other(message, key, &["_meta"])?,
            }
        }
        Ok(())
    }

    fn meta(
        &mut self,
        message: &mut Message<'a>,
        object: &'static str,
    ) -> Result<(), EnvelopeError> {
        let first = self.token()?;
        if first != Token::ObjectBegin {
            let value = self.rest_of(first)?;
            return self.absent(object, "an object", &value);
        }
        let mut keys = Keys::of(object);
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                META_PROTOCOL_VERSION => {
                    message.meta_protocol_version =
                        self.string(META_PROTOCOL_VERSION)?.map(|(text, _)| text);
                }
                META_RELATED_TASK => self.related_task(message)?,
                key => self.other(message, key, &[META_RELATED_TASK])?,
            }
        }
        Ok(())
    }

    fn related_task(&mut self, message: &mut Message<'a>) -> Result<(), EnvelopeError> {
        let first = self.token()?;
        if first != Token::ObjectBegin {
            let value = self.rest_of(first)?;
            return self.absent(META_RELATED_TASK, "an object", &value);
        }
        let mut keys = Keys::of(META_RELATED_TASK);
        while let Some(key) = self.key(&mut keys)? {
            match &*key {
                "taskId" => self.minted(message, Minted::TaskId, RELATED_TASK_ID)?,
                key => self.other(message, key, &["taskId"])?,
            }
        }
        Ok(())
    }

    /// Steps over what is not read, noting whose place its key may take.
    fn other(
        &mut self,
        message: &mut Message<'a>,
        key: &str,
        names: &[&'static str],
    ) -> Result<(), EnvelopeError> {
        message.lookalike = message.lookalike.or_else(|| lookalike(key, names));
        self.value()?;
        Ok(())
    }

    fn minted(
        &mut self,
        message: &mut Message<'a>,
        kind: Minted,
        field: &'static str,
    ) -> Result<(), EnvelopeError> {
        let in_params = field != RELATED_TASK_ID;
        if let Some((value, span)) = self.string(field)? {
            message.minted.push(MintedValue {
                kind,
                in_params,
                value,
                span,
            });
        }
        Ok(())
    }

    /// The next key of the object that is open, or `None` at its end.
    fn key(&mut self, keys: &mut Keys<'a>) -> Result<Option<Cow<'a, str>>, EnvelopeError> {
        if self.token()? != Token::KeyBegin {
            return Ok(None);
        }
        let start = self.pos;
        self.token()?;
        let key = self.unescape(start..self.pos - 1)?;
        keys.note(key.clone())?;
        Ok(Some(key))
    }

    /// A string or `null`, which counts as absent.
    fn string(&mut self, field: &'static str) -> Result<Option<Literal<'a>>, EnvelopeError> {
        let value = self.value()?;
        if value.begin != Token::StringBegin {
            self.absent(field, "a string", &value)?;
            return Ok(None);
        }
        let text = self.unescape(value.span.start + 1..value.span.end - 1)?;
        Ok(Some((text, value.span)))
    }

    /// An id as it stands: a string, a number or `null`.
    fn id(&mut self, field: &'static str) -> Result<&'a str, EnvelopeError> {
        let value = self.value()?;
        let raw = self.text.get(value.span).unwrap_or_default();
        match (value.begin, raw) {
            (Token::StringBegin, _) => Ok(raw),
            (Token::ScalarBegin, raw) if raw != "true" && raw != "false" => Ok(raw),
            _ => Err(EnvelopeError::WrongType {
                field,
                expected: "a string or a number",
            }),
        }
    }

    /// Accepts `null` in the place of a value of another type.
    fn absent(
        &self,
        field: &'static str,
        expected: &'static str,
        value: &Raw,
    ) -> Result<(), EnvelopeError> {
        match self.text.get(value.span.clone()) {
            Some("null") => Ok(()),
            _ => Err(EnvelopeError::WrongType { field, expected }),
        }
    }

    /// Steps over the next value.
    fn value(&mut self) -> Result<Raw, EnvelopeError> {
        let begin = self.token()?;
        self.rest_of(begin)
    }

    /// Steps to the end of the value that has just begun.
    fn rest_of(&mut self, begin: Token) -> Result<Raw, EnvelopeError> {
        let start = self.pos - 1;
        if matches!(begin, Token::ObjectBegin | Token::ArrayBegin) {
            self.tokens.skip_container();
        }
        self.token()?;
        Ok(Raw {
            span: start..self.pos,
            begin,
        })
    }

    fn unescape(&self, span: Range<usize>) -> Result<Cow<'a, str>, EnvelopeError> {
        let at = span.start;
        let raw = self.text.as_bytes().get(span).unwrap_or_default();
        json::unescape(raw).ok_or(EnvelopeError::NotJson {
            what: Syntax::BadEscape,
            at,
        })
    }

    fn token(&mut self) -> Result<Token, EnvelopeError> {
        self.step()?.ok_or(EnvelopeError::NotJson {
            what: Syntax::Truncated,
            at: self.pos,
        })
    }

    fn end(&mut self) -> Result<(), EnvelopeError> {
        while self.step()?.is_some() {}
        self.tokens
            .finish()
            .map_err(|what| EnvelopeError::NotJson { what, at: self.pos })
    }

    fn step(&mut self) -> Result<Option<Token>, EnvelopeError> {
        self.tokens
            .next(self.text.as_bytes(), &mut self.pos)
            .map_err(|what| EnvelopeError::NotJson { what, at: self.pos })
    }
}
