//! What limits say to a request: after its caller is known, and before it goes anywhere.

use super::{Admitted, rules::Outside};
use crate::{
    affinity, headers,
    limit::{self, Caller, Over, Request},
    refusal::Refusal,
    rest, route,
};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serin_flags::Context;
use serin_mcp::envelope::{Envelope, Kind, Message};
use serin_model::observe::Rejection;
use serin_tenancy::{Per, Principal};
use std::borrow::Cow;

/// Seconds after which a caller may ask again when the limiter cannot be asked: by then it is, or its failure is known.
const RETRY_AFTER_SECONDS: u32 = 1;

impl Admitted<'_> {
    /// The rules as they are now. Tiers do not bind a tenant for whom the seed's flag is off.
    pub(super) fn find_limits(&mut self) {
        let principal = self.principal.as_deref();
        let tier = principal.and_then(|principal| principal.tier.as_ref());
        if tier.is_none() && self.service.settings.limits.is_empty() {
            self.limits = limit::Plan::default();
            return;
        }
        let mut plan = self.core.limits_of(&self.service.name, tier);
        if let Some(flag) = plan.flag.take() {
            let latch = self.core.latch().unwrap_or_default();
            let is_off = self.core.with_snapshot(|snapshot| {
                let context = Context {
                    targeting_key: self.tenant.as_deref(),
                    tenant: self.tenant.as_deref(),
                    environment: self.core.options().environment,
                    attributes: None,
                    now: Timestamp::now(),
                };
                let answer = snapshot.flags.evaluate(&latch, flag.as_str(), &context)?;
                let counters = &self.core.counters;
                counters.evaluated(&flag, answer.variant, answer.reason);
                Some(!answer.is_on())
            });
            if is_off == Some(true) {
                plan.tier = None;
            }
        }
        self.limits = plan;
    }

    /// Whether its caller, its service or a rule says how many requests are taken.
    fn has_limits(&self) -> bool {
        !self.limits.is_empty() || self.ruling.limits().next().is_some()
    }

    /// Whether a body says something that limits ask for: which tools, or how many calls.
    pub(super) fn is_counted_by(&self, body: &[u8]) -> bool {
        self.has_limits()
            && (self.limits.by_tool() || body.trim_ascii_start().first() == Some(&b'['))
    }

    /// Takes the request out of its caller's buckets.
    ///
    /// # Errors
    /// One of them has no room, or cannot be asked.
    pub(super) async fn check_limits(
        &self,
        envelope: Option<&Envelope<'_>>,
    ) -> Result<(), Refusal> {
        if !self.has_limits() || self.is_counted.replace(true) {
            return Ok(());
        }
        let (core, service) = (self.core, self.service);
        let (limiter, connection) = (&core.shared.limiter, &core.limiter);
        let mut wants = core.wants.take();
        self.want(envelope, &mut wants);
        let answer = match &*wants {
            [] => Ok(Ok(None)),
            wants => limiter.ask(connection, wants).await,
        };
        wants.clear();
        core.wants.replace(wants);
        let refusal = match answer {
            Ok(Ok(standing)) => {
                self.standing.set(standing);
                return Ok(());
            }
            Ok(Err(over)) => {
                self.standing.set(Some(over.standing));
                core.counters.limited(&service.name, over.label);
                too_many(&over)
            }
            Err(limit::Unavailable) => {
                let text = "how much this caller may do cannot be found out now; try again later";
                Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text)
                    .retry_after(RETRY_AFTER_SECONDS)
            }
        };
        Err(refusal.counted(Rejection::RateLimit).of(&service.name))
    }

    /// Takes a request of REST out of its caller's buckets, before a server hears of it; what rules ask of it, for its messages.
    ///
    /// # Errors
    /// As of [`Self::check_limits`], or a rule refuses it.
    pub(super) async fn count_rest(
        &mut self,
        place: &rest::Place,
        body: &[u8],
    ) -> Result<Option<Outside>, Refusal> {
        self.find_limits();
        if self.limits.is_empty() && !self.trail.is_kept() && self.service.rules.is_empty() {
            // From here on it is a message.
            self.method = Method::POST;
            return Ok(None);
        }
        let message = rest::asked(place, body);
        let envelope = message.as_ref();
        let envelope = envelope.and_then(|message| Envelope::read(message.as_bytes()).ok());
        if let Some(envelope) = &envelope {
            self.trail.asks(envelope);
        }
        self.check_rule(envelope.as_ref())?;
        let outside = self.outside(envelope.as_ref());
        self.method = Method::POST;
        self.check_limits(envelope.as_ref()).await?;
        Ok(outside)
    }

    /// What the request wants of which buckets.
    fn want(&self, envelope: Option<&Envelope<'_>>, wants: &mut Vec<limit::Want>) {
        let mut tools = Vec::new();
        let mut count = 0;
        for message in envelope.iter().flat_map(|envelope| &envelope.messages) {
            let is_tool = message.method() == "tools/call";
            // A server that is lax may do what a notification asks.
            count += u32::from(is_tool || message.kind == Kind::Request);
            if is_tool && self.limits.by_tool() {
                add(&mut tools, message);
            }
        }
        let overrides = headers::METHOD_OVERRIDES.into_iter();
        let overrides = overrides.flat_map(|name| self.headers.get_all(name));
        let overrides = overrides.filter_map(|method| Some(method.to_str().ok()?.trim()));
        let others: Vec<&str> = overrides.collect();
        let alone = [self.method.as_str()];
        let methods = match &*others {
            [] => Cow::Borrowed(&alone[..]),
            others => Cow::Owned([&alone[..], others].concat()),
        };
        let request = Request {
            path: self.rest,
            methods: &methods,
            count: count.max(1),
            tools: &tools,
        };
        let limit_key;
        let (subject, kind) = match self.principal.as_deref() {
            Some(Principal { subject, key, .. }) => {
                (subject.as_bytes(), if key.is_some() { b'k' } else { b't' })
            }
            None if self.limits.by_key()
                || (self.ruling.limits()).any(|(_, limit)| limit.per == Per::Key) =>
            {
                let sources = route::sources(&self.service.settings, None);
                limit_key = affinity::limit_key(sources, &self.who());
                (&*limit_key, b'a')
            }
            None => (&[][..], b'a'),
        };
        let caller = Caller {
            tenant: self.tenant.as_deref().unwrap_or_default(),
            subject,
            kind,
        };
        let limiter = &self.core.shared.limiter;
        self.limits.wants(limiter, &caller, &request, wants);
        for (rule, limit) in self.ruling.limits() {
            wants.push(limiter.want_of_rule(
                &self.service.name,
                rule,
                limit,
                &caller,
                request.count,
            ));
        }
    }
}

/// Counts the call of a tool.
fn add<'m>(tools: &mut Vec<(&'m str, u32)>, message: &'m Message<'_>) {
    let name = message.name.as_deref().unwrap_or_default();
    match tools.iter_mut().find(|(tool, _)| *tool == name) {
        Some((_, n)) => *n += 1,
        None => tools.push((name, 1)),
    }
}

fn too_many(over: &Over) -> Refusal {
    let Over { limit, label, .. } = over;
    let whose = match *label {
        "key" => "this caller",
        "tenant" => "this tenant",
        "service" => "this service",
        "rule" => "this kind of request",
        _ => "this tool",
    };
    let status = StatusCode::TOO_MANY_REQUESTS;
    if let Some(wait) = over.retry_after {
        let seconds = limit::seconds(wait);
        let text = format!(
            "too many requests: {whose} has {} with at most {} at once; try again in {seconds} s",
            limit.rate, limit.burst
        );
        Refusal::plain(status, text).retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
    } else {
        let text = format!(
            "too many calls in one request: {whose} has at most {} at once; send fewer",
            limit.burst
        );
        Refusal::plain(status, text)
    }
}
