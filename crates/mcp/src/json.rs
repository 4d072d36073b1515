//! The JSON grammar (RFC 8259) as one push tokenizer, shared by the envelope and the scanner.
//!
//! Bytes come in pieces cut anywhere; tokens say where values begin and end. Text between a `Begin`
//! and its `End` is the caller's to keep or to ignore. No recursion and no allocation: the open
//! containers are one bit each in a `u128`.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

/// Deepest nesting of arrays and objects. The depth that `serde_json` and many SDK parsers stop at; one
/// bit of a `u128` each.
pub const MAX_DEPTH: u32 = 128;

/// What a step over the text found. `pos` stands just behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    /// The opening quote of a key.
    KeyBegin,
    /// The closing quote of a key.
    KeyEnd,
    /// The opening quote of a value.
    StringBegin,
    /// The closing quote of a value.
    StringEnd,
    /// The first byte of a number, `true`, `false` or `null`.
    ScalarBegin,
    /// Behind its last byte.
    ScalarEnd,
}

/// Why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// A byte that cannot stand here.
    UnexpectedByte,
    /// A control character inside a string must be escaped.
    ControlCharacter,
    /// A backslash followed by something that is no escape, or a lone surrogate.
    BadEscape,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// The text ends before the value does.
    Truncated,
    /// Not UTF-8.
    NotUtf8,
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Syntax::UnexpectedByte => f.write_str("unexpected byte"),
            Syntax::ControlCharacter => f.write_str("unescaped control character in a string"),
            Syntax::BadEscape => f.write_str("bad escape in a string"),
            Syntax::TooDeep => write!(f, "nested deeper than {MAX_DEPTH}"),
            Syntax::Truncated => f.write_str("the text ends too early"),
            Syntax::NotUtf8 => f.write_str("not UTF-8"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// A value or `]`.
    FirstElement,
    /// A key or `}`.
    FirstKey,
    /// A key.
    Key,
    Colon,
    /// `,` or the end of the container.
    Next,
    String {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        left: u8,
    },
    /// What is left of `true`, `false`, `null`.
    Literal(&'static [u8]),
    Number(Number),
    /// The one value is complete; only white space may follow.
    Done,
}

/// Where we are in `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    fn step(self, byte: u8) -> Option<Self> {
        use Number::{E, Exponent, Fraction, Minus, Point, Sign, Whole, Zero};
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Whole,
            (Zero | Whole, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Whole | Fraction, b'e' | b'E') => E,
            (E, b'+' | b'-') => Sign,
            (E | Sign | Exponent, b'0'..=b'9') => Exponent,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Number::Zero | Number::Whole | Number::Fraction | Number::Exponent
        )
    }
}

/// Deeper than anything: nothing is skipped.
const AUDIBLE: u32 = u32::MAX;

/// Reads one JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Tokenizer {
    state: State,
    /// Open containers, innermost in the lowest bit: 1 an object, 0 an array.
    containers: u128,
    depth: u32,
    /// Tokens are reported at depths below this one: that of a skipped container, or [`AUDIBLE`].
    quiet_depth: u32,
}

impl Tokenizer {
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Value,
            containers: 0,
            depth: 0,
            quiet_depth: AUDIBLE,
        }
    }

    /// Containers open behind the last token.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Nothing but white space has come so far.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state == State::Value && self.depth == 0
    }

    /// After an `ObjectBegin` or `ArrayBegin`: be silent until the matching end.
    pub(crate) fn skip_container(&mut self) {
        self.quiet_depth = self.depth;
    }

    /// The input is over.
    pub(crate) fn finish(&self) -> Result<(), Syntax> {
        match self.state {
            State::Done => Ok(()),
            State::Number(number) if number.may_end() && self.depth == 0 => Ok(()),
            _ => Err(Syntax::Truncated),
        }
    }

    /// Reads on from `pos` to the next token; `None` when the piece is used up.
    pub(crate) fn next(&mut self, piece: &[u8], pos: &mut usize) -> Result<Option<Token>, Syntax> {
        while let Some(&byte) = piece.get(*pos) {
            let token = match self.state {
                State::String { is_key } => self.string(is_key, piece, pos)?,
                State::Escape { is_key } => {
                    self.state = match byte {
                        b'u' => State::Hex { is_key, left: 4 },
                        _ if is_short_escape(byte) => State::String { is_key },
                        _ => return Err(Syntax::BadEscape),
                    };
                    *pos += 1;
                    None
                }
                State::Hex { is_key, left } => {
                    if !byte.is_ascii_hexdigit() {
                        return Err(Syntax::BadEscape);
                    }
                    self.state = match left {
                        1 => State::String { is_key },
                        _ => State::Hex {
                            is_key,
                            left: left - 1,
                        },
                    };
                    *pos += 1;
                    None
                }
                State::Number(number) => self.number(number, piece, pos)?,
                State::Literal(rest) => match rest.split_first() {
                    Some((want, rest)) if *want == byte => {
                        *pos += 1;
                        self.state = State::Literal(rest);
                        rest.is_empty().then(|| self.end_value(Token::ScalarEnd))
                    }
                    _ => return Err(Syntax::UnexpectedByte),
                },
                _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {
                    *pos += 1;
                    None
                }
                _ => {
                    let token = self.punctuation(byte)?;
                    *pos += 1;
                    token
                }
            };
            if token.is_some() && self.depth < self.quiet_depth {
                self.quiet_depth = AUDIBLE;
                return Ok(token);
            }
        }
        Ok(None)
    }

    /// Inside a string, up to its end, to an escape that may be cut, or to the end of the piece.
    fn string(
        &mut self,
        is_key: bool,
        piece: &[u8],
        pos: &mut usize,
    ) -> Result<Option<Token>, Syntax> {
        loop {
            *pos += plain_len(piece.get(*pos..).unwrap_or_default());
            match piece.get(*pos) {
                None => return Ok(None),
                Some(b'"') => {
                    *pos += 1;
                    if !is_key {
                        return Ok(Some(self.end_value(Token::StringEnd)));
                    }
                    self.state = State::Colon;
                    return Ok(Some(Token::KeyEnd));
                }
                Some(b'\\') => *pos += 1,
                Some(_) => return Err(Syntax::ControlCharacter),
            }
            if piece.get(*pos).is_none_or(|byte| !is_short_escape(*byte)) {
                self.state = State::Escape { is_key };
                return Ok(None);
            }
            *pos += 1;
        }
    }

    /// Inside a number, up to the byte behind it or to the end of the piece.
    fn number(
        &mut self,
        mut number: Number,
        piece: &[u8],
        pos: &mut usize,
    ) -> Result<Option<Token>, Syntax> {
        while let Some(byte) = piece.get(*pos) {
            match number.step(*byte) {
                Some(next) => number = next,
                None if number.may_end() => return Ok(Some(self.end_value(Token::ScalarEnd))),
                None => {
                    self.state = State::Number(number);
                    return Err(Syntax::UnexpectedByte);
                }
            }
            *pos += 1;
        }
        self.state = State::Number(number);
        Ok(None)
    }

    /// A byte between values: what begins, what ends.
    fn punctuation(&mut self, byte: u8) -> Result<Option<Token>, Syntax> {
        let token = match (self.state, byte) {
            (State::Value | State::FirstElement, b'{') => {
                self.open(true)?;
                Token::ObjectBegin
            }
            (State::Value | State::FirstElement, b'[') => {
                self.open(false)?;
                Token::ArrayBegin
            }
            (State::Value | State::FirstElement, b'"') => {
                self.state = State::String { is_key: false };
                Token::StringBegin
            }
            (State::Value | State::FirstElement, _) if byte != b']' => {
                self.state = match byte {
                    b't' => State::Literal(b"rue"),
                    b'f' => State::Literal(b"alse"),
                    b'n' => State::Literal(b"ull"),
                    b'-' => State::Number(Number::Minus),
                    b'0' => State::Number(Number::Zero),
                    b'1'..=b'9' => State::Number(Number::Whole),
                    _ => return Err(Syntax::UnexpectedByte),
                };
                Token::ScalarBegin
            }
            (State::FirstKey | State::Key, b'"') => {
                self.state = State::String { is_key: true };
                Token::KeyBegin
            }
            (State::Colon, b':') => {
                self.state = State::Value;
                return Ok(None);
            }
            (State::Next, b',') => {
                self.state = if self.in_object() {
                    State::Key
                } else {
                    State::Value
                };
                return Ok(None);
            }
            (State::FirstKey, b'}') => self.close(Token::ObjectEnd),
            (State::FirstElement, b']') => self.close(Token::ArrayEnd),
            (State::Next, b'}') if self.in_object() => self.close(Token::ObjectEnd),
            (State::Next, b']') if !self.in_object() => self.close(Token::ArrayEnd),
            _ => return Err(Syntax::UnexpectedByte),
        };
        Ok(Some(token))
    }

    fn in_object(&self) -> bool {
        self.containers & 1 == 1
    }

    fn open(&mut self, is_object: bool) -> Result<(), Syntax> {
        if self.depth == MAX_DEPTH {
            return Err(Syntax::TooDeep);
        }
        self.containers = self.containers << 1 | u128::from(is_object);
        self.depth += 1;
        self.state = if is_object {
            State::FirstKey
        } else {
            State::FirstElement
        };
        Ok(())
    }

    fn close(&mut self, token: Token) -> Token {
        self.containers >>= 1;
        self.depth -= 1;
        self.end_value(token)
    }

    fn end_value(&mut self, token: Token) -> Token {
        self.state = if self.depth == 0 {
            State::Done
        } else {
            State::Next
        };
        token
    }
}

/// What may follow a backslash, but for `u`.
fn is_short_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// Bytes up to the first quote, backslash or control character: eight at a time, because nearly
/// all bytes of a tool result are inside strings.
fn plain_len(bytes: &[u8]) -> usize {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // Sets the high bit of each zero byte; exact for the lowest one, which is all we use.
    let zeros = |word: u64| word.wrapping_sub(LOW) & !word;
    let mut len = 0;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        let word = u64::from_le_bytes(eight);
        let quotes = zeros(word ^ (LOW * u64::from(b'"')));
        let escapes = zeros(word ^ (LOW * u64::from(b'\\')));
        let controls = word.wrapping_sub(LOW * 0x20) & !word;
        let found = (quotes | escapes | controls) & HIGH;
        if found != 0 {
            return len + found.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    let tail = words.remainder();
    len + tail
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
        .unwrap_or(tail.len())
}

/// What the text between two quotes means. `None`: a lone surrogate, or not UTF-8.
pub(crate) fn unescape(raw: &[u8]) -> Option<Cow<'_, str>> {
    if memchr(b'\\', raw).is_none() {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok().map(Cow::Owned)
}

/// The JSON string literal, quotes and all, that means `text`.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
