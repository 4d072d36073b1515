//! REST beside MCP: lists and calls of tools as plain HTTP, by version.
//!
//! There is no second way to a server. What REST asks becomes a request of MCP that goes through the gateway's own admission, so that
//! flags, kills, scopes, limits, rollouts and counts are the same by construction; its answer is put in the words of HTTP. Whatever is
//! refused is an RFC 9457 problem document ([`problem`]).
//!
//! - [`place`]: which version a path names, and what is said about its end;
//! - [`ask`]: the client of MCP, in both eras;
//! - [`said`]: what a server says, piece by piece;
//! - [`answer`]: the whole answer, or its events;
//! - [`schema`]: what a tool wants for arguments;
//! - [`list`] and [`openapi`]: what there is to call.

mod answer;
mod ask;
mod list;
mod openapi;
mod place;
mod problem;
mod said;
mod schema;

pub(crate) use self::{answer::Events, ask::Memory, place::Place};

use self::{
    answer::{Later, problem_of, translated, with},
    ask::{Client, Question},
    place::Resource,
    problem::{About, Problem},
    said::Answer,
};
use crate::{
    admit::{Account, Asker},
    audit::Trail,
    body::ToClient,
    core::Core,
    headers,
    refusal::Refusal,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use serin_mcp::envelope::{Envelope, EnvelopeError};
use serin_model::observe::Rejection;
use std::{borrow::Cow, rc::Rc};

/// Longest name of a tool, in bytes: it goes into a header. MCP wants at most 128 characters (2025-11-25, "Tool Names").
const TOOL_BYTES_MAX: usize = 1024;
/// Longest name of a tool that a problem repeats, in characters.
const SHOWN_CHARS_MAX: usize = 100;

type Answered = Result<Response<ToClient>, Refusal>;

/// What a call has for a body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `tool` and `args`")]
struct CallBody<'a> {
    #[serde(borrow)]
    tool: Cow<'a, str>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

/// Refuses a method that a resource does not have, and a body that is not JSON. Asked before the body is read.
pub(crate) fn check(
    place: &Place,
    method: &Method,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    place.check()?;
    let allowed = match place.resource {
        Resource::Call => "POST",
        Resource::Rpc => return check_rpc_type(method, headers),
        _ => "GET, HEAD",
    };
    if !allowed
        .split(", ")
        .any(|allowed| allowed == method.as_str())
    {
        let detail = format!("this is asked with {allowed}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let refusal = Problem::new(status, "method_not_allowed", detail).refuse();
        return Err(refusal.allow(allowed).counted(Rejection::Route));
    }
    if place.resource == Resource::Call && !is_of_type(headers, &["application/json"]) {
        return Err(wrong_type(place, headers));
    }
    Ok(())
}

/// JSON-RPC comes as JSON, or under the name that the Stage I clients give it and servers do not know.
fn check_rpc_type(method: &Method, headers: &mut HeaderMap) -> Result<(), Refusal> {
    if *method != Method::POST || is_of_type(headers, &["application/json"]) {
        return Ok(());
    }
    if is_of_type(headers, &["application/json-rpc"]) {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        return Ok(());
    }
    let help = "send JSON-RPC as `Content-Type: application/json-rpc` or `application/json`";
    Err(unsupported(headers, help))
}

fn is_of_type(headers: &HeaderMap, types: &[&str]) -> bool {
    let value = headers::text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    types
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

fn wrong_type(place: &Place, headers: &HeaderMap) -> Refusal {
    let form = is_of_type(headers, &["application/x-www-form-urlencoded"]);
    let curl = if form {
        "; `curl -d` says that it sends a form: add `-H 'Content-Type: application/json'`, or use `--json`"
    } else {
        ""
    };
    let help = format!(
        "use `Content-Type: application/json` for REST, or `application/json-rpc` for MCP at `/{}`{curl}",
        place.version
    );
    unsupported(headers, &help)
}

fn unsupported(headers: &HeaderMap, help: &str) -> Refusal {
    let said = headers::text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let said: String = said.chars().take(SHOWN_CHARS_MAX).collect();
    let detail = if said.is_empty() {
        "the body has no `Content-Type`".to_owned()
    } else {
        format!("a body of type `{said}` is not read here")
    };
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let problem = Problem::new(status, "unsupported_media_type", detail).help(help);
    problem.refuse().counted(Rejection::Body)
}

/// Answers a request of REST. `body` is the whole of it.
pub(crate) async fn serve(
    core: &Rc<Core>,
    place: &Place,
    asker: Asker,
    headers: &HeaderMap,
    body: &Bytes,
    trail: &Trail,
) -> Answered {
    let client = Rc::new(Client {
        core: Rc::clone(core),
        asker: Rc::new(asker),
        account: Account::new(trail.clone()),
    });
    answer(&client, place, headers, body).await
}

/// What a request will ask in MCP, as far as limits and records go; nothing if it cannot be read, and is refused.
pub(crate) fn asked(place: &Place, body: &[u8]) -> Option<String> {
    Some(match &place.resource {
        Resource::Call => Wanted::read(body).ok()?.message(),
        _ => r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned(),
    })
}

/// The call that a body asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) tool: Cow<'a, str>,
    /// An object of JSON, as it was sent.
    pub(crate) args: &'a str,
    /// Both as members of `params`, each with a comma behind it.
    params: String,
}

impl<'a> Wanted<'a> {
    /// Reads a body.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Refusal> {
        let CallBody { tool, args } =
            serde_json::from_slice(body).map_err(|error| unread(&error))?;
        if tool.is_empty() || tool.len() > TOOL_BYTES_MAX {
            let detail = format!("`tool` is a name of 1 to {TOOL_BYTES_MAX} bytes");
            return Err(bad_body(&detail));
        }
        let args = args.map_or("{}", RawValue::get);
        if !args.starts_with('{') && args != "null" {
            return Err(bad_body("`args` is not an object"));
        }
        let args = if args == "null" { "{}" } else { args };
        let name = serde_json::to_string(&tool).map_err(|error| unread(&error))?;
        // As they were sent: they are no business of ours, and may have numbers that only the tool understands.
        let params = format!("\"name\":{name},\"arguments\":{args},");
        let wanted = Self { tool, args, params };
        wanted.check_depth()?;
        Ok(wanted)
    }

    /// The message that limits and records go by.
    pub(crate) fn message(&self) -> String {
        let params = &self.params;
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}"_meta":{{}}}}}}"#
        )
    }

    /// Refuses what no server should have to read: servers differ in how deep they go before they break.
    fn check_depth(&self) -> Result<(), Refusal> {
        match Envelope::read(self.message().as_bytes()) {
            Ok(_) => Ok(()),
            Err(EnvelopeError::TooLarge { .. }) => Err(bad_body("the body is too large")),
            Err(error) => Err(bad_body(&error.to_string())),
        }
    }
}

async fn answer(client: &Rc<Client>, place: &Place, headers: &HeaderMap, body: &Bytes) -> Answered {
    match &place.resource {
        Resource::Call => call(client, headers, body).await,
        Resource::Tools => {
            let listed = list::tools(client).await?;
            let tools: Vec<&str> = listed.tools.iter().map(|tool| tool.get()).collect();
            let text = format!("{{\"tools\":[{}]}}", tools.join(","));
            Ok(json(listed.headers, text))
        }
        Resource::Tool(name) => {
            let listed = list::tools(client).await?;
            let mut tools = listed.tools.iter();
            match tools.find(|tool| list::name_of(tool).as_deref() == Some(name)) {
                Some(tool) => Ok(json(listed.headers, tool.get().to_owned())),
                None => Err(with(no_tool(name), &listed.headers)),
            }
        }
        Resource::OpenApi => {
            let listed = list::tools(client).await?;
            let needs_key = client.asker.has_principal();
            let document = openapi::document(place, needs_key, &listed.tools);
            Ok(json(listed.headers, document.to_string()))
        }
        Resource::Rpc | Resource::Nothing => Err(no_tool("")),
    }
}

/// An answer as the API gives it: a refusal of REST is a problem, and of a version that ends everything says so.
pub(crate) fn finish(place: &Place, answered: Answered) -> Answered {
    let mut notice = HeaderMap::new();
    place.announce(&mut notice);
    match answered {
        Ok(mut response) => {
            response.headers_mut().extend(notice);
            Ok(response)
        }
        Err(refusal) if place.is_rest() => {
            Err(with(translated(refusal, About::default()), &notice))
        }
        Err(refusal) => Err(with(refusal, &notice)),
    }
}

fn no_tool(name: &str) -> Refusal {
    let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
    let detail = format!("there is no tool `{shown}` for you in this version");
    let about = About {
        tool: Some(&shown),
        is_listed: Some(false),
    };
    Problem::new(StatusCode::NOT_FOUND, "unknown_tool", detail)
        .help("`GET` the `tools` of this version for those that there are")
        .about(about)
        .refuse()
}

async fn call(client: &Rc<Client>, headers: &HeaderMap, body: &Bytes) -> Answered {
    let Wanted { tool, args, params } = Wanted::read(body)?;
    let about = About {
        tool: Some(&tool),
        is_listed: None,
    };
    let streams = wants_events(headers);
    let question = Question {
        method: "tools/call",
        name: Some(&tool),
        params: &params,
        progress: streams,
        mirrored: &[],
    };
    let started = client.ask(&question).await;
    let mut started = started.map_err(|refusal| translated(refusal, about))?;
    if started.misses_headers().await
        && let Some(mirrored) = mirrored(client, &tool, args).await
    {
        let question = Question {
            mirrored: &mirrored,
            ..question
        };
        started = client.ask(&question).await?;
    }
    let about = About {
        is_listed: client
            .asker
            .is_listed(&client.core, started.version(), &tool),
        ..about
    };
    if !started.status().is_success() {
        return Err(started.refused(about).await);
    }
    if streams {
        let (client, tool, args) = (Rc::clone(client), tool.to_string(), args.to_owned());
        let (name, is_listed) = (tool.clone(), about.is_listed);
        let blame = move |result: Box<RawValue>| -> Later {
            Box::pin(async move {
                let about = About {
                    tool: Some(&tool),
                    is_listed,
                };
                failed(&client, about, &args, &result).await
            })
        };
        let (headers, body) = started.stream(&name, is_listed, blame);
        return Ok(events(headers, body));
    }
    let (headers, answer) = started.answer(about, &mut |_| {}).await?;
    let answered = match answer {
        Answer::Failed {
            result,
            called_badly: false,
        } => Err(failed(client, about, args, &result).await),
        answer => problem_of(answer, about),
    };
    match answered {
        Ok(result) => Ok(json(headers, format!("{{\"result\":{result}}}"))),
        Err(problem) => Err(with(problem.refuse(), &headers)),
    }
}

/// The headers that mirror arguments, as the tool's schema asks for them; nothing if it asks for none.
async fn mirrored(
    client: &Client,
    tool: &str,
    args: &str,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let schema = list::input_schema(client, tool).await?;
    let args: Value = serde_json::from_str(args).ok()?;
    Some(schema::headers(&schema, &args)).filter(|mirrored| !mirrored.is_empty())
}

/// The problem of a tool that has failed and does not say by whose fault: by the caller's, where the arguments are not what its schema
/// asks for.
async fn failed(client: &Client, about: About<'_>, args: &str, result: &RawValue) -> Box<Problem> {
    let schema = list::input_schema(client, about.tool.unwrap_or_default()).await;
    let args: Option<Value> = serde_json::from_str(args).ok();
    let called_badly = schema
        .zip(args)
        .is_some_and(|(schema, args)| !schema::can_fit(&schema, &args));
    Box::new(Problem::of_tool(result, called_badly, about))
}

fn unread(error: &serde_json::Error) -> Refusal {
    bad_body(&format!("the body cannot be read: {error}"))
}

fn bad_body(detail: &str) -> Refusal {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
        .help("send `{\"tool\": \"NAME\", \"args\": {...}}`")
        .refuse()
        .counted(Rejection::Body)
}

/// Whether events are what the caller would rather have.
fn wants_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let ranges = values.filter_map(|value| value.to_str().ok());
    let ranges = ranges.flat_map(|value| value.split(','));
    let mut ranges = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
    let first = ranges.find(|range| {
        let known = [
            "text/event-stream",
            "text/*",
            "application/json",
            "application/*",
            "*/*",
        ];
        known.iter().any(|known| range.eq_ignore_ascii_case(known))
    });
    first.is_some_and(|first| first.to_ascii_lowercase().starts_with("text/"))
}

fn json(mut headers: HeaderMap, text: String) -> Response<ToClient> {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // What there is to see depends on who asks, and on the version that answers.
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    let mut response = Response::new(ToClient::full(text));
    *response.headers_mut() = headers;
    response
}

fn events(mut headers: HeaderMap, body: ToClient) -> Response<ToClient> {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| (header::ACCEPT, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn arguments_go_on_as_they_were_sent() {
        for args in [r#"{"a":1e999}"#, r#"{ "a" : 1.10, "a":-0 }"#, "{}"] {
            let body = format!(r#"{{"args":{args},"tool":"a\"dd"}}"#);
            let wanted = Wanted::read(body.as_bytes()).unwrap();
            assert_eq!((&*wanted.tool, wanted.args), ("a\"dd", args));
            let message = wanted.message();
            assert!(message.contains(args), "{message}");
            let read = Envelope::read(message.as_bytes()).unwrap();
            let single = read.single().unwrap();
            assert_eq!(single.name.as_deref(), Some("a\"dd"));
        }
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        let deep = format!(r#"{{"tool":"add","args":{{"a":{deep}}}}}"#);
        assert!(Wanted::read(deep.as_bytes()).is_err());
    }

    #[test]
    fn events_are_sent_to_whoever_names_them_first() {
        for (values, wants) in [
            (&[][..], false),
            (&["text/event-stream"], true),
            (&["Text/Event-Stream;q=0.9"], true),
            (&["*/*"], false),
            (&["application/json, text/event-stream"], false),
            (&["text/event-stream, application/json"], true),
            (&["text/html", "text/event-stream"], true),
            (&["junk"], false),
        ] {
            assert_eq!(wants_events(&accepting(values)), wants, "{values:?}");
        }
    }
}
