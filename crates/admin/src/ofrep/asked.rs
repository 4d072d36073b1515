//! What clients send: a context, bounded, in which a few names mean something to us.

use super::answer::{Code, Failure};
use axum::body::Body;
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use serin_flags::{Context, Environment};

/// Largest body of an evaluation, in bytes: a context describes a caller, it does not carry documents.
pub(super) const CONTEXT_BYTES_MAX: usize = 128 * 1024;
/// How deep a context may be: rules look a few levels into it.
pub(super) const CONTEXT_DEPTH_MAX: usize = 32;

/// The names of the attribute that says whose caller it is.
const TENANT_NAMES: [&str; 3] = ["tenant", "tenantId", "tenant_id"];

/// Who asks.
#[derive(Debug)]
pub(crate) struct Asker {
    targeting_key: Option<String>,
    tenant: Option<String>,
    environment: Option<Environment>,
    attributes: Map<String, Value>,
    now: Timestamp,
}

#[derive(Deserialize)]
struct Request {
    context: Map<String, Value>,
}

impl Asker {
    pub(super) async fn read(body: Body) -> Result<Self, Failure> {
        let bytes = match Limited::new(body, CONTEXT_BYTES_MAX).collect().await {
            Ok(bytes) => bytes.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Failure::new(
                    Code::InvalidContext,
                    format!(
                        "the context is too large: the body has more than {CONTEXT_BYTES_MAX} bytes"
                    ),
                ));
            }
            Err(_) => {
                return Err(Failure::new(
                    Code::ParseError,
                    "the body broke off: send it again",
                ));
            }
        };
        let request: Request = serde_json::from_slice(&bytes).map_err(|error| {
            let code = if error.is_data() {
                Code::InvalidContext
            } else {
                Code::ParseError
            };
            Failure::new(
                code,
                format!("the body cannot be read: {error}; send `{{\"context\": {{...}}}}`"),
            )
        })?;
        Self::new(request.context, Timestamp::now())
    }

    /// Whose caller it is.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// From a context.
    pub(crate) fn new(context: Map<String, Value>, now: Timestamp) -> Result<Self, Failure> {
        if context
            .values()
            .any(|value| is_deeper(value, CONTEXT_DEPTH_MAX))
        {
            return Err(Failure::new(
                Code::InvalidContext,
                format!("the context has more than {CONTEXT_DEPTH_MAX} levels: make it flatter"),
            ));
        }
        let targeting_key = match context.get("targetingKey") {
            None | Some(Value::Null) => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => {
                return Err(Failure::new(
                    Code::InvalidContext,
                    "`targetingKey` is not a text: write it in quotes",
                ));
            }
        };
        let tenant = TENANT_NAMES
            .iter()
            .find_map(|name| match context.get(*name)? {
                Value::String(tenant) => Some(tenant.clone()),
                Value::Number(tenant) => Some(tenant.to_string()),
                _ => None,
            });
        // An application may have an attribute of this name that means something else: that is left to rules.
        let environment = context.get("environment").and_then(Value::as_str);
        Ok(Self {
            targeting_key,
            tenant,
            environment: environment.and_then(|name| name.parse().ok()),
            attributes: context,
            now,
        })
    }

    /// As evaluation takes it, in a process that runs somewhere.
    pub(crate) fn context(&self, here: Environment) -> Context<'_> {
        Context {
            targeting_key: self.targeting_key.as_deref(),
            tenant: self.tenant.as_deref(),
            environment: self.environment.unwrap_or(here),
            attributes: Some(&self.attributes),
            now: self.now,
        }
    }
}

/// Whether a value has more levels than that.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| is_deeper(item, left)),
        Value::Object(fields) => fields.values().any(|field| is_deeper(field, left)),
        _ => false,
    }
}

/// What an event has told may come back in the query; it means nothing to us, but nonsense in it is said to be nonsense.
pub(super) fn check_query(query: &str) -> Result<(), Failure> {
    for pair in query.split('&') {
        let Some(value) = pair.strip_prefix("flagConfigLastModified=") else {
            continue;
        };
        let value = value.replace("%3A", ":").replace("%3a", ":");
        let value = value.replace("%2B", "+").replace("%2b", "+");
        if value.parse::<u64>().is_err() && value.parse::<Timestamp>().is_err() {
            return Err(Failure::new(
                Code::General,
                "`flagConfigLastModified` is no time: send seconds since 1970, or what the event had",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asker(context: Value) -> Result<Asker, Failure> {
        let Value::Object(context) = context else {
            panic!("an object");
        };
        Asker::new(context, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn names_in_a_context_are_found() {
        for (context, tenant, environment) in [
            (json!({}), None, Environment::Test),
            (json!({"tenant": "a"}), Some("a"), Environment::Test),
            (json!({"tenantId": "b"}), Some("b"), Environment::Test),
            (json!({"tenant_id": 7}), Some("7"), Environment::Test),
            (
                json!({"tenant": ["a"], "tenantId": "b"}),
                Some("b"),
                Environment::Test,
            ),
            (
                json!({"environment": "prod"}),
                None,
                Environment::Production,
            ),
            (json!({"environment": "qa"}), None, Environment::Test),
            (json!({"environment": 1}), None, Environment::Test),
        ] {
            let asker = asker(context.clone()).unwrap();
            let read = asker.context(Environment::Test);
            assert_eq!(
                (read.tenant, read.environment),
                (tenant, environment),
                "{context}"
            );
            assert_eq!(
                read.attributes.unwrap().len(),
                context.as_object().unwrap().len()
            );
        }
    }

    #[test]
    fn a_targeting_key_is_a_text_or_nothing() {
        assert_eq!(
            asker(json!({"targetingKey": "u"})).unwrap().targeting_key,
            Some("u".into())
        );
        assert_eq!(
            asker(json!({"targetingKey": null})).unwrap().targeting_key,
            None
        );
        assert!(asker(json!({"targetingKey": 1})).is_err());
        assert!(asker(json!({"targetingKey": ["u"]})).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| (1..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(asker(json!({ "a": nested(CONTEXT_DEPTH_MAX) })).is_ok());
        assert!(asker(json!({ "a": nested(CONTEXT_DEPTH_MAX + 1) })).is_err());
    }

    #[test]
    fn times_in_the_query_are_times() {
        for (query, fine) in [
            ("", true),
            ("flagConfigEtag=abc", true),
            ("flagConfigLastModified=1771622898", true),
            (
                "flagConfigEtag=a&flagConfigLastModified=2026-02-20T21:28:18Z",
                true,
            ),
            ("flagConfigLastModified=2026-02-20T21%3A28%3A18Z", true),
            ("flagConfigLastModified=-1", false),
            ("flagConfigLastModified=soon", false),
        ] {
            assert_eq!(check_query(query).is_ok(), fine, "{query}");
        }
    }
}
