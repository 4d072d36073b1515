//! What the rules of a service say to a request: that it is refused, that so many of its kind are taken, where its callers go.
//!
//! The rule is looked for as soon as it can be found: at once, unless rules ask which tools are called, or the routing table is another one
//! by the time that the body is there. A server may read a request in other ways than it is written here; what a rule refuses or limits in
//! any reading is refused or limited.

use super::{Admitted, checks::era_of};
use crate::{affinity::client_address, headers, refusal::Refusal};
use http::{HeaderMap, Method, StatusCode};
use serin_mcp::{
    envelope::{Envelope, Kind, Message},
    era::Era,
    error::GatewayError,
};
use serin_model::{
    observe::Rejection,
    route::{self, Caller, READINGS_MAX, RuleRoute, Ruled},
    rule::{Refuse, RuleLimit},
    service::Protocol,
};
use serin_route::{
    condition,
    source::{Sources, Who},
};
use std::{borrow::Cow, net::IpAddr};

/// What rules say to a request.
#[derive(Clone, Default)]
pub(super) struct Ruling<'a> {
    /// They were asked, with all that they ask for.
    is_complete: bool,
    /// The one that fits.
    rule: Option<&'a RuleRoute>,
    /// Those that fit it in another reading: what they refuse and limit holds too.
    others: Vec<&'a RuleRoute>,
}

impl<'a> Ruling<'a> {
    fn all(&self) -> impl Iterator<Item = &'a RuleRoute> {
        self.rule.into_iter().chain(self.others.iter().copied())
    }

    /// The limits of those that fit, with their names.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&'a str, &'a RuleLimit)> {
        self.all().filter_map(|route| {
            let rule = &route.rule;
            Some((&*rule.name, rule.limit.as_ref()?))
        })
    }
}

/// What rules ask of a request of REST. The messages that are sent on its behalf have other headers and no path.
#[derive(Clone)]
pub(super) struct Outside {
    method: Box<str>,
    query: Option<Box<str>>,
    headers: HeaderMap,
    tools: Box<[Box<str>]>,
}

/// What a request is, to a condition.
struct Seen<'s> {
    headers: Cow<'s, HeaderMap>,
    host: Cow<'s, str>,
    address: IpAddr,
}

impl<'a> Admitted<'a> {
    /// Asks the rules before the body is there, if they need nothing of it.
    ///
    /// # Errors
    /// They refuse the request.
    pub(super) fn check_rule_by_head(&mut self, has_message: bool) -> Result<(), Refusal> {
        if has_message && self.service.rules.ask_for_tools() {
            return Ok(());
        }
        self.check_rule(None)
    }

    /// Asks the rules, unless they were asked already.
    ///
    /// # Errors
    /// They refuse the request.
    pub(super) fn check_rule(&mut self, envelope: Option<&Envelope<'_>>) -> Result<(), Refusal> {
        if self.service.rules.is_empty() || self.ruling.is_complete {
            return Ok(());
        }
        let tools = tools_of(envelope);
        self.ruling = self.find_rule(&tools)?;
        let message = envelope.and_then(Envelope::single);
        let mut rules = self.ruling.all();
        let refusing = rules.find_map(|route| Some((route, route.rule.refuse.as_ref()?)));
        // Of the ways in which a request can be read it may be another one that a rule is for.
        let was_for = refusing.map(|(route, _)| route).or(self.ruling.rule);
        if let Some(route) = was_for {
            let counters = &self.core.counters;
            counters.ruled(&self.service.name, &route.rule.name);
        }
        match refusing {
            Some((route, refuse)) => {
                let refusal = self.refused_by(route, refuse, message);
                Err(
                    if refuse.status == StatusCode::METHOD_NOT_ALLOWED.as_u16() {
                        refusal.allow(&self.methods_left(&tools))
                    } else {
                        refusal
                    },
                )
            }
            None => Ok(()),
        }
    }

    /// The methods by which no rule would refuse the request, as a 405 has to say (RFC 9110, section 15.5.6).
    fn methods_left(&self, tools: &[&str]) -> String {
        let seen = self.seen();
        let request = self.request(&seen, tools);
        let is_of_api = self.below != &*self.service.path;
        let methods: &[&str] = match self.service.protocol {
            Protocol::Http => &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            Protocol::Mcp if !is_of_api => &["GET", "POST", "DELETE"],
            Protocol::Mcp if self.method == Method::POST => &["POST"],
            Protocol::Mcp => &["GET", "HEAD"],
        };
        let is_left = |method: &&str| {
            let rule = (self.service.rules).find(&condition::Request { method, ..request });
            rule.is_none_or(|route| route.rule.refuse.is_none())
        };
        let left: Vec<&str> = methods.iter().copied().filter(is_left).collect();
        left.join(", ")
    }

    /// Asks the rules about a message of our own: the request on whose behalf it is was not refused.
    pub(super) fn find_rule_inside(&mut self, outside: &Outside) {
        let tools: Vec<&str> = outside.tools.iter().map(|tool| &**tool).collect();
        let seen = Seen {
            headers: Cow::Borrowed(&outside.headers),
            ..self.seen()
        };
        let request = condition::Request {
            method: &outside.method,
            query: outside.query.as_deref(),
            ..self.request(&seen, &tools)
        };
        let rule = self.service.rules.find(&request);
        self.ruling = Ruling {
            is_complete: true,
            rule,
            others: Vec::new(),
        };
    }

    /// What rules ask of a request of REST, if there are any; before it becomes a message.
    pub(super) fn outside(&self, envelope: Option<&Envelope<'_>>) -> Option<Outside> {
        if self.service.rules.is_empty() {
            return None;
        }
        let tools = tools_of(envelope);
        Some(Outside {
            method: self.method.as_str().into(),
            query: self.query.map(Into::into),
            headers: self.seen().headers.into_owned(),
            tools: tools.into_iter().map(Into::into).collect(),
        })
    }

    fn find_rule(&self, tools: &[&str]) -> Result<Ruling<'a>, Refusal> {
        let rules = &self.service.rules;
        let seen = self.seen();
        let request = self.request(&seen, tools);
        let rule = rules.find(&request);
        let others = rules.find_others(&request, rule).ok_or_else(|| {
            let service = &self.service.name;
            let text = format!(
                "a server may read this request in more than {READINGS_MAX} ways, by more than which the rules of service `{service}` are not asked; send the path and the headers plain, and a batch in parts"
            );
            let refusal = Refusal::plain(StatusCode::FORBIDDEN, text);
            refusal.counted(Rejection::Rule).of(service)
        })?;
        Ok(Ruling {
            is_complete: true,
            rule,
            others,
        })
    }

    /// The request as conditions may see it: what only a proxy may say, of trusted ones alone, and nothing that the gateway itself says
    /// in headers of these names.
    fn seen(&self) -> Seen<'_> {
        let is_trusted = self.connection.is_trusted;
        // Each proxy adds what it was asked for: only what the last one says is more than what its client says.
        let forwarded = self
            .headers
            .get_all(&headers::FORWARDED_HOST)
            .iter()
            .next_back();
        let forwarded = forwarded.filter(|_| is_trusted);
        let forwarded = forwarded.and_then(|hosts| hosts.to_str().ok()?.rsplit(',').next());
        let forwarded = forwarded.map(str::trim).filter(|host| !host.is_empty());
        let host = condition::without_port(forwarded.unwrap_or(self.host));
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        Seen {
            headers: condition::visible(&self.headers, is_trusted),
            host,
            address: self.address(),
        }
    }

    fn request<'s>(&'s self, seen: &'s Seen<'_>, tools: &'s [&'s str]) -> condition::Request<'s> {
        condition::Request {
            headers: &seen.headers,
            method: self.method.as_str(),
            host: &seen.host,
            path: self.rest,
            query: self.query,
            tenant: self.tenant.as_deref(),
            role: self
                .principal
                .as_deref()
                .map(|principal| principal.role.label()),
            tools,
            address: seen.address,
        }
    }

    fn address(&self) -> IpAddr {
        let trusted = &self.core.options().trusted_proxies;
        client_address(&self.headers, self.connection, trusted)
    }

    fn refused_by(
        &self,
        route: &RuleRoute,
        refuse: &Refuse,
        message: Option<&Message<'_>>,
    ) -> Refusal {
        let service = &self.service.name;
        let text = refuse.text.clone().unwrap_or_else(|| {
            format!(
                "rule `{}` of service `{service}` refuses this request",
                route.rule.name
            )
        });
        let status = StatusCode::from_u16(refuse.status).unwrap_or(StatusCode::FORBIDDEN);
        // A plain 400 or 404 would tell a client of both eras that the server is of the older one.
        let is_read_as_era = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
            && self.service.protocol == Protocol::Mcp
            && era_of(&self.headers) == Some(Era::Modern);
        let refusal = if is_read_as_era {
            let id = message.filter(|message| message.kind == Kind::Request);
            let id = id.and_then(|message| message.id);
            Refusal::rpc(status, id, GatewayError::Forbidden, &text)
        } else {
            Refusal::plain(status, text)
        };
        refusal.counted(Rejection::Rule).of(service)
    }

    /// Who asks, as far as a caller can be known again.
    pub(super) fn who(&self) -> Who<'_> {
        let principal = self.principal.as_deref();
        Who {
            headers: &self.headers,
            tenant: self.tenant.as_deref(),
            principal: principal.map(|p| (p.tenant.as_str(), &*p.subject)),
            address: self.address(),
        }
    }

    /// By what callers of this request's kind are known again.
    pub(super) fn sources(&self) -> Sources<'a> {
        route::sources(&self.service.settings, self.ruling.rule)
    }

    /// What the strategy of the rule goes by, where that is something else than the affinity key.
    pub(super) fn ruled_by(&self) -> Option<Vec<u8>> {
        let source = self.ruling.rule?.source()?;
        let sources = Sources::new(std::slice::from_ref(source));
        let known = sources.first(&self.who(), |cookie| self.gifts.give(cookie, self.below));
        Some(known?.key())
    }

    /// Whether the rule says where callers go.
    pub(super) fn is_ruled(&self) -> bool {
        self.ruling
            .rule
            .is_some_and(|route| route.rule.to.is_some())
    }

    /// A caller who may be assigned; `by` is what [`Self::ruled_by`] says.
    pub(super) fn new_caller<'k>(&'k self, key: &'k [u8], by: Option<&'k [u8]>) -> Caller<'k> {
        Caller::New {
            key: Some(key),
            chosen: self.chosen.or(self.led),
            rule: self.ruling.rule.map(|rule| Ruled { rule, by }),
            stable_only: false,
        }
    }
}

/// The tools that a message calls, each once.
fn tools_of<'e>(envelope: Option<&'e Envelope<'_>>) -> Vec<&'e str> {
    let messages = envelope.iter().flat_map(|envelope| &envelope.messages);
    let calls = messages.filter(|message| message.method() == "tools/call");
    let mut tools: Vec<&str> = calls
        .map(|message| message.name.as_deref().unwrap_or_default())
        .collect();
    tools.sort_unstable();
    tools.dedup();
    tools
}
