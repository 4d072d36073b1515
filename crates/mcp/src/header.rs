//! The MCP headers, and whether those of a modern request agree with its body
//! (2026-07-28, "Standard Request Headers").

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::envelope::Message;

/// The version a request speaks; equal to `_meta`'s in a modern request.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The session of a legacy client.
pub const SESSION_ID: &str = "mcp-session-id";
/// `method` of a modern request.
pub const METHOD: &str = "mcp-method";
/// The tool, prompt, resource or task of a modern request.
pub const NAME: &str = "mcp-name";
/// Start of the headers that mirror arguments marked `x-mcp-header`.
pub const PARAM_PREFIX: &str = "mcp-param-";
/// Where a legacy client resumes a stream.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// Largest header value that is decoded, in bytes: what common servers accept for a whole header.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;

const ENCODED_PREFIX: &str = "=?base64?";
const ENCODED_SUFFIX: &str = "?=";

/// What a header value means: `=?base64?...?=` decoded, anything else as it is.
///
/// # Errors
/// Too long, or marked as base64 and not base64 of UTF-8.
pub fn decode(value: &str) -> Result<Cow<'_, str>, BadValue> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(BadValue::TooLong);
    }
    let Some(inner) = encoded(value) else {
        return Ok(Cow::Borrowed(value));
    };
    let bytes = BASE64_STANDARD
        .decode(inner)
        .map_err(|_| BadValue::NotBase64)?;
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| BadValue::NotBase64)
}

/// The header value that means `text`: encoded when it could not travel as it is (outside
/// visible ASCII and inner spaces, blanks at an end, or itself looking encoded).
pub fn encode(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && encoded(text).is_none();
    if plain {
        return Cow::Borrowed(text);
    }
    let inner = BASE64_STANDARD.encode(text);
    Cow::Owned(format!("{ENCODED_PREFIX}{inner}{ENCODED_SUFFIX}"))
}

fn encoded(value: &str) -> Option<&str> {
    value
        .strip_prefix(ENCODED_PREFIX)?
        .strip_suffix(ENCODED_SUFFIX)
}

/// Why a header value cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Longer than [`MAX_VALUE_BYTES`].
    #[error("the value is longer than {MAX_VALUE_BYTES} bytes")]
    TooLong,
    /// `=?base64?...?=` around something else.
    #[error("the value between =?base64? and ?= is not base64 of UTF-8")]
    NotBase64,
}

/// The MCP headers of a modern request as they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModernHeaders<'a> {
    /// [`PROTOCOL_VERSION`].
    pub protocol_version: Option<&'a str>,
    /// [`METHOD`].
    pub method: Option<&'a str>,
    /// [`NAME`].
    pub name: Option<&'a str>,
}

impl ModernHeaders<'_> {
    /// Whether the headers say what the body says.
    ///
    /// # Errors
    /// [`Disagreement`]; the specification answers it with 400 and code [`MISMATCH_CODE`].
    pub fn agree_with(&self, message: &Message<'_>) -> Result<(), Disagreement> {
        let version = message.meta_protocol_version.as_deref();
        let name = name_of(message);
        agree(PROTOCOL_VERSION, self.protocol_version, version)?;
        agree(METHOD, self.method, message.method.as_deref())?;
        agree(NAME, self.name, name)?;
        // A header that names something and a body that does not: who believes the header would act on it.
        if name.is_none() && self.name.is_some() && is_named(message.method()) {
            return Err(Disagreement::Different { header: NAME });
        }
        Ok(())
    }
}

fn agree(
    header: &'static str,
    sent: Option<&str>,
    in_body: Option<&str>,
) -> Result<(), Disagreement> {
    let Some(in_body) = in_body else {
        return Ok(());
    };
    let sent = sent.ok_or(Disagreement::Missing { header })?;
    let sent = decode(sent).map_err(|source| Disagreement::Unreadable { header, source })?;
    if sent == in_body {
        Ok(())
    } else {
        Err(Disagreement::Different { header })
    }
}

/// Whether requests of this method carry [`NAME`].
pub fn is_named(method: &str) -> bool {
    matches!(
        method,
        "tools/call"
            | "prompts/get"
            | "resources/read"
            | "tasks/get"
            | "tasks/update"
            | "tasks/cancel"
    )
}

/// The part of the body that `Mcp-Name` mirrors, for the methods that have one.
pub fn name_of<'m>(message: &'m Message<'_>) -> Option<&'m str> {
    match message.method() {
        "tools/call" | "prompts/get" => message.name.as_deref(),
        "resources/read" => message.uri.as_deref(),
        "tasks/get" | "tasks/update" | "tasks/cancel" => message.task_id(),
        _ => None,
    }
}

/// The code of "missing or mismatched header" (2026-07-28), sent with HTTP 400.
pub const MISMATCH_CODE: i64 = -32020;

/// How headers and body disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// The body names something, the header is not there.
    #[error("header {header} is missing; send it with the value of the body")]
    Missing {
        /// Which header.
        header: &'static str,
    },
    /// Both are there and differ.
    #[error("header {header} differs from the body; send the same value in both")]
    Different {
        /// Which header.
        header: &'static str,
    },
    /// The header cannot be decoded.
    #[error("header {header} cannot be read; encode it as =?base64?...?= or plainly")]
    Unreadable {
        /// Which header.
        header: &'static str,
        /// Why.
        source: BadValue,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::Envelope;

    #[test]
    fn values_are_decoded() {
        for (value, want) in [
            ("add", Ok("add")),
            ("", Ok("")),
            ("=?base64?w6lt?=", Ok("\u{e9}m")),
            ("=?base64??=", Ok("")),
            ("=?base64?w6lt", Ok("=?base64?w6lt")),
            ("=?base64?!?=", Err(BadValue::NotBase64)),
            ("=?base64?/w==?=", Err(BadValue::NotBase64)),
        ] {
            assert_eq!(decode(value).as_deref(), want.as_ref().copied(), "{value}");
        }
        assert!(decode(&"a".repeat(MAX_VALUE_BYTES)).is_ok());
        assert_eq!(
            decode(&"a".repeat(MAX_VALUE_BYTES + 1)),
            Err(BadValue::TooLong)
        );
    }

    #[test]
    fn headers_are_compared_with_the_body() {
        const V: &str = "2026-07-28";
        let missing = |header| Err(Disagreement::Missing { header });
        let different = |header| Err(Disagreement::Different { header });
        for (method, params, version, header_method, name, want) in [
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                Some("tools/call"),
                Some("add"),
                Ok(()),
            ),
            (
                "tools/call",
                r#""name":"a\u0064d""#,
                Some(V),
                Some("tools/call"),
                Some("=?base64?YWRk?="),
                Ok(()),
            ),
            (
                "prompts/get",
                r#""name":"p""#,
                Some(V),
                Some("prompts/get"),
                Some("p"),
                Ok(()),
            ),
            (
                "resources/read",
                r#""uri":"x://y","name":"z""#,
                Some(V),
                Some("resources/read"),
                Some("x://y"),
                Ok(()),
            ),
            (
                "tasks/get",
                r#""taskId":"t""#,
                Some(V),
                Some("tasks/get"),
                Some("t"),
                Ok(()),
            ),
            (
                "tools/list",
                r#""name":"x""#,
                Some(V),
                Some("tools/list"),
                None,
                Ok(()),
            ),
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                Some("tools/call"),
                None,
                missing(NAME),
            ),
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                Some("tools/call"),
                Some("sub"),
                different(NAME),
            ),
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                Some("tools/list"),
                Some("add"),
                different(METHOD),
            ),
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                None,
                Some("add"),
                missing(METHOD),
            ),
            // A name in the header alone, where the method has one and where it has none.
            (
                "tools/call",
                r#""x":1"#,
                Some(V),
                Some("tools/call"),
                Some("add"),
                different(NAME),
            ),
            (
                "tools/list",
                r#""x":1"#,
                Some(V),
                Some("tools/list"),
                Some("add"),
                Ok(()),
            ),
            (
                "tools/list",
                r#""x":1"#,
                Some("2025-11-25"),
                Some("tools/list"),
                None,
                different(PROTOCOL_VERSION),
            ),
            (
                "tools/list",
                r#""x":1"#,
                None,
                Some("tools/list"),
                None,
                missing(PROTOCOL_VERSION),
            ),
            (
                "tools/call",
                r#""name":"add""#,
                Some(V),
                Some("tools/call"),
                Some("=?base64?*?="),
                Err(Disagreement::Unreadable {
                    header: NAME,
                    source: BadValue::NotBase64,
                }),
            ),
        ] {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params},"_meta":{{"io.modelcontextprotocol/protocolVersion":"{V}"}}}}}}"#
            );
            let envelope = Envelope::read(body.as_bytes()).unwrap();
            let headers = ModernHeaders {
                protocol_version: version,
                method: header_method,
                name,
            };
            assert_eq!(
                headers.agree_with(envelope.single().unwrap()),
                want,
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_travels_and_comes_back(text in any::<String>(), inner in "[ -~]{0,9}") {
            for text in [text, inner.clone(), format!("=?base64?{inner}?=")] {
                let value = encode(&text);
                prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                prop_assert_eq!(value.trim_matches(' '), &*value);
                prop_assert_eq!(decode(&value).unwrap(), &*text);
            }
        }
    }
}
