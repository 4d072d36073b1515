//! Why a request goes where it goes: the same question as [`route`](super::route), asked of the same functions, with what they went by.
//!
//! Nothing is changed by asking: a turn that is looked at is not taken.

mod words;

use super::{
    Caller, Destination, Live, Nowhere, READINGS_MAX, RuleRoute, Ruled, Stopped, Why, among,
    assign, key_hash, route_past, seats, sources,
};
use crate::{
    access::leads_up,
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    rule::{Place, Refuse, Target},
    service::VersionStage,
    share::{Share, bucket},
    snapshot::{EndpointRoute, ServiceRoute},
};
use serde::{Deserialize, Serialize};
use serin_route::{
    condition::{Condition, Matcher, Request},
    source::{self, Known, Source, Sources, Who},
    standing::{Among, Marks, Seat, Standing},
    weigh::{Balance, Strategy},
};
use serin_tenancy::Per;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use words::{condition_in_words, what_fails};

/// Longest value of a header that is shown, in characters.
const VALUE_CHARS_MAX: usize = 60;
/// Names of headers, in part, whose values may be secrets.
const SECRET_NAMES: [&str; 6] = ["auth", "cookie", "key", "token", "secret", "session"];
/// Characters of a hash that are shown in place of what may be a secret.
const HASH_CHARS: usize = 16;
/// Callers with keys of their own that are routed to see what becomes of those whose key is not known.
const DRAWS: u32 = 1000;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What conditions may ask of the request.
    pub request: Request<'a>,
    /// Who sends it.
    pub who: Who<'a>,
    /// Whether a session begins with it, which is its own key where nothing else is said.
    pub begins_session: bool,
    /// The version chosen by hand.
    pub chosen: Option<usize>,
    /// The time, for callers who are assigned anew from time to time.
    pub since_1970: Duration,
}

/// Where a request goes, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The service.
    pub service: ServiceName,
    /// The rules that were asked, in this order: all up to the one that fits.
    pub rules: Vec<RuleAsked>,
    /// How many more there are below it, which were not asked.
    pub rules_not_asked: usize,
    /// The rules that fit the request as a server may read it otherwise than it is written: what they refuse and limit holds too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules_otherwise: Vec<String>,
    /// How it is answered without a version: by a rule that fits, or because of its path or host.
    pub refusal: Option<Refuse>,
    /// The limits of the rules that fit.
    pub limit: Option<String>,
    /// By what the caller is known again.
    pub key: Key,
    /// The place of the key in the rollout under way.
    pub bucket: Option<Bucket>,
    /// Where callers go whose key is another one each time, as so many of many such: about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chances: Vec<Chance>,
    /// The version; none if nothing can take the request, or if that is drawn for each new key.
    pub version: Option<VersionName>,
    /// Why that one.
    pub version_why: String,
    /// The endpoints of the version, or of the one in whose place it is.
    pub endpoints: Vec<EndpointSaid>,
    /// The endpoint; none if nothing can take the request, or if that is drawn for each new key.
    pub endpoint: Option<String>,
    /// Why that one.
    pub endpoint_why: String,
}

/// A rule that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAsked {
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: i32,
    /// Whether it fits.
    pub fits: bool,
    /// What it asks, or what of that is not so.
    pub why: String,
}

/// By what a caller is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// What that is: `header X-User-Id`, `tenant`.
    pub source: String,
    /// Its value, or a hash of one that may be a secret. None if it is another one each time.
    pub value: Option<String>,
    /// The hash of the key, as it stands in records.
    pub hash: Option<String>,
}

/// The place of a key in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The rollout.
    pub rollout: RolloutId,
    /// From 0 to 9999.
    pub bucket: u16,
    /// Keys below it get the candidate: hundredths of a percent.
    pub below: u16,
    /// The same as a share.
    pub share: Share,
}

/// How many callers with a new key go somewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// The version.
    pub version: VersionName,
    /// The endpoint; none if they are refused there.
    pub endpoint: Option<String>,
    /// Of a hundred.
    pub percent: f64,
}

/// An endpoint, as it does now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is something of its own that an endpoint can be"
)]
pub struct EndpointSaid {
    /// Its id.
    pub id: EndpointId,
    /// Its URL.
    pub url: String,
    /// Its version.
    pub version: VersionName,
    /// Whether the request goes there.
    pub chosen: bool,
    /// Whether it was one of those that were chosen from.
    pub considered: bool,
    /// What its probes say.
    pub healthy: bool,
    /// Its breaker takes nothing now.
    pub breaker_open: bool,
    /// It fails too often, and is left alone for a while.
    pub ejected: bool,
    /// It takes no new callers.
    pub draining: bool,
    /// Requests under way there.
    pub in_flight: u32,
    /// How much it takes beside the others, as it is written.
    pub weight: u32,
    /// The same now: less while it is back for a short time.
    pub weight_now: f64,
}

/// A look at how endpoints do that takes nobody's turn.
pub struct Glance<'a, L: ?Sized>(pub &'a L);

impl<L: Live + ?Sized> Live for Glance<'_, L> {
    fn standing(&self, endpoint: EndpointId) -> Standing {
        self.0.standing(endpoint)
    }

    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn turn(&self, cycle: u64) -> u64 {
        self.0.next_turn(cycle)
    }

    fn next_turn(&self, cycle: u64) -> u64 {
        self.0.next_turn(cycle)
    }

    fn marks(&self, endpoint: EndpointId) -> Marks {
        self.0.marks(endpoint)
    }
}

/// The same for many callers one after the other: each has the turn after that of the one before.
struct Glances<'a, L: ?Sized> {
    live: &'a L,
    /// Turns that were had, by cycle.
    had: RefCell<BTreeMap<u64, u64>>,
}

impl<L: Live + ?Sized> Live for Glances<'_, L> {
    fn standing(&self, endpoint: EndpointId) -> Standing {
        self.live.standing(endpoint)
    }

    fn now_ms(&self) -> u64 {
        self.live.now_ms()
    }

    fn turn(&self, cycle: u64) -> u64 {
        let mut had = self.had.borrow_mut();
        let had = had.entry(cycle).or_default();
        *had += 1;
        self.live.next_turn(cycle).wrapping_add(*had - 1)
    }
}

/// What a caller is known by.
enum Caught<'a> {
    /// The same in each of its requests.
    Known {
        /// Where it stands.
        source: String,
        known: Known<'a>,
    },
    /// Another one for each new caller of this kind.
    New(String),
}

/// Explains. `is_killed` says which of the service's versions are killed.
pub fn explain(
    service: &ServiceRoute,
    question: &Question<'_>,
    is_killed: &dyn Fn(usize) -> bool,
    live: &(impl Live + ?Sized),
) -> Explanation {
    let live = &Glance(live);
    let rule = service.rules.find(&question.request);
    let others = service.rules.find_others(&question.request, rule);
    let has_too_many = others.is_none();
    let others = others.unwrap_or_default();
    let all = || rule.into_iter().chain(others.iter().copied());
    let rules = rules_asked(service, &question.request, rule);
    let caught = catch(service, rule, question);
    let key = key_of(service, &caught, question);
    let mut explanation = Explanation {
        service: service.name.clone(),
        rules_not_asked: service.rules.iter().count() - rules.len(),
        rules,
        rules_otherwise: others.iter().map(|of| of.rule.name.to_string()).collect(),
        refusal: None,
        limit: limits_in_words(all()),
        key: key_in_words(&caught, key.as_deref()),
        bucket: None,
        chances: Vec::new(),
        version: None,
        version_why: String::new(),
        endpoints: Vec::new(),
        endpoint: None,
        endpoint_why: String::new(),
    };
    if let Some((refusal, why)) = refusal(&question.request, has_too_many, all()) {
        explanation.refuse(refusal, why);
        return explanation;
    }
    let asked = Asked {
        service,
        question,
        rule,
        by: rule.and_then(|rule| ruled_by(rule, &question.who)),
        is_killed,
        live,
    };
    match &key {
        Some(key) => {
            explanation.bucket = asked.bucket(key);
            asked.explain(&mut explanation, key);
        }
        None => asked.explain_draws(&mut explanation),
    }
    explanation
}

impl Explanation {
    /// Makes it that of a request that is answered without a version.
    pub fn refuse(&mut self, refusal: Refuse, why: String) {
        self.refusal = Some(refusal);
        self.version_why = why;
        (self.bucket, self.version, self.endpoint) = (None, None, None);
        self.chances.clear();
        self.endpoints.clear();
        self.endpoint_why.clear();
    }
}

/// A question with what is known of it.
struct Asked<'a, L: ?Sized> {
    service: &'a ServiceRoute,
    question: &'a Question<'a>,
    rule: Option<&'a RuleRoute>,
    by: Option<Vec<u8>>,
    is_killed: &'a dyn Fn(usize) -> bool,
    live: &'a Glance<'a, L>,
}

impl<L: Live + ?Sized> Asked<'_, L> {
    fn caller<'k>(&'k self, key: &'k [u8]) -> Caller<'k> {
        let by = self.by.as_deref();
        Caller::New {
            key: Some(key),
            chosen: self.question.chosen,
            rule: self.rule.map(|rule| Ruled { rule, by }),
            stable_only: false,
        }
    }

    fn route(&self, key: &[u8]) -> Result<Destination, Stopped> {
        self.route_by(key, self.live)
    }

    fn route_by(&self, key: &[u8], live: &impl Live) -> Result<Destination, Stopped> {
        let to = route_past(self.service, self.caller(key), self.is_killed, live)?;
        to.usable().map_err(Stopped::Nowhere)
    }

    fn name(&self, version: usize) -> &str {
        let version = self.service.versions.get(version);
        version.map_or("?", |version| version.name.as_str())
    }

    fn bucket(&self, key: &[u8]) -> Option<Bucket> {
        let (_, why) = assign(self.service, self.caller(key), self.live);
        let split = self.service.split.as_ref()?;
        matches!(why, Why::Split(_)).then(|| Bucket {
            rollout: split.rollout,
            bucket: bucket(split.rollout, key),
            below: split.share.hundredths(),
            share: split.share,
        })
    }

    /// Where a caller with a key goes, and why.
    fn explain(&self, explanation: &mut Explanation, key: &[u8]) {
        let (assigned, why) = assign(self.service, self.caller(key), self.live);
        let to = self.route(key);
        explanation.version_why = self.why(assigned, why, explanation.bucket);
        match to {
            Ok(to) => {
                explanation.version = self
                    .service
                    .versions
                    .get(to.version)
                    .map(|v| v.name.clone());
                let meant = to.instead_of.unwrap_or(to.version);
                if meant != assigned {
                    let (killed, stable) = (self.name(assigned), self.name(meant));
                    explanation.version_why +=
                        &format!("; `{killed}` is killed, so its callers go to `{stable}`");
                }
                if to.instead_of.is_some() {
                    explanation.version_why += &format!(
                        "; none of its endpoints may be used, and `{}` is its fallback",
                        self.name(to.version)
                    );
                }
                explanation.endpoints = self.endpoints(to.version, Some(to.endpoint));
                let version = self.service.versions.get(to.version);
                let endpoint = version.and_then(|version| version.endpoints.get(to.endpoint));
                explanation.endpoint = endpoint.map(|endpoint| endpoint.url.clone());
                explanation.endpoint_why = self.why_endpoint(to.version);
            }
            Err(stopped) => {
                explanation.endpoints = self.endpoints(assigned, None);
                why_nowhere(stopped).clone_into(&mut explanation.endpoint_why);
            }
        }
    }

    /// What becomes of many callers each with a key of its own.
    fn explain_draws(&self, explanation: &mut Explanation) {
        let mut counts: BTreeMap<(usize, Option<usize>), u32> = BTreeMap::new();
        let mut last = Vec::new();
        let live = Glances {
            live: self.live,
            had: RefCell::default(),
        };
        for draw in 0..DRAWS {
            last = format!("\0nobody {draw}").into_bytes();
            let place = match self.route_by(&last, &live) {
                Ok(to) => (to.version, Some(to.endpoint)),
                Err(_) => (assign(self.service, self.caller(&last), &live).0, None),
            };
            *counts.entry(place).or_default() += 1;
        }
        let versions: BTreeSet<usize> = counts.keys().map(|(version, _)| *version).collect();
        self.explain(explanation, &last);
        if counts.len() == 1 {
            return;
        }
        explanation.chances = counts
            .iter()
            .filter_map(|((version, endpoint), count)| {
                let version = self.service.versions.get(*version)?;
                let endpoint = endpoint.and_then(|endpoint| version.endpoints.get(endpoint));
                Some(Chance {
                    version: version.name.clone(),
                    endpoint: endpoint.map(|endpoint| endpoint.url.clone()),
                    percent: f64::from(*count) * 100.0 / f64::from(DRAWS),
                })
            })
            .collect();
        explanation.endpoint = None;
        "drawn for each new caller".clone_into(&mut explanation.endpoint_why);
        if let [version] = versions.iter().collect::<Vec<_>>()[..] {
            explanation.endpoints = self.endpoints(*version, None);
            return;
        }
        explanation.version = None;
        explanation.version_why = format!("drawn for each new caller{}", self.missed());
        let each = versions
            .iter()
            .flat_map(|version| self.endpoints(*version, None));
        explanation.endpoints = each.collect();
    }

    fn why(&self, assigned: usize, why: Why, bucket: Option<Bucket>) -> String {
        let version = self.name(assigned);
        match (why, bucket) {
            (Why::StableOnly, _) => {
                format!("only stable, `{version}`, speaks what the caller speaks")
            }
            (Why::Chosen, _) => format!("`{version}` was chosen by hand"),
            (Why::Rule, _) => self.why_rule(version) + &self.missed(),
            (
                Why::Split(_),
                Some(Bucket {
                    bucket,
                    below,
                    share,
                    ..
                }),
            ) => {
                let (is, whose) = if bucket < below {
                    ("is", "the candidate")
                } else {
                    ("is not", "stable")
                };
                format!(
                    "bucket {bucket} {is} below {below} ({share}), so {whose}, `{version}`, takes it"
                )
            }
            (Why::Split(_), None) => format!("the rollout's split says `{version}`"),
            (Why::Stable, _) => match self
                .service
                .split
                .as_ref()
                .and_then(|split| split.flag.as_ref())
            {
                Some(release) => format!(
                    "stable, `{version}`, serves both sides of flag `{}`; who has it on says `serin flag evaluate {}`",
                    release.flag, release.flag
                ),
                None => format!("nothing else says where it goes: `{version}` is stable"),
            },
        }
    }

    /// The places to which the rule leads and which take no callers now, and why.
    fn missed(&self) -> String {
        let of_rule = self.rule.filter(|_| self.question.chosen.is_none());
        let places: Vec<&Place> = match of_rule.and_then(|rule| rule.rule.to.as_ref()) {
            Some(Target::One(place)) => vec![place],
            Some(Target::Weighted(places)) => places.keys().collect(),
            None => Vec::new(),
        };
        let whys = places.into_iter().filter_map(|place| self.why_not(place));
        whys.fold(String::new(), |said, why| {
            said + "; " + &why + ", so stable takes its callers"
        })
    }

    fn why_not(&self, place: &Place) -> Option<String> {
        let name = match place {
            Place::Stable => return None,
            Place::Candidate => {
                let is_none = self.service.split.is_none();
                return is_none.then(|| "no rollout is under way".to_owned());
            }
            Place::Version(name) => name,
        };
        let Some(version) = self.service.versions.iter().find(|of| of.name == *name) else {
            return Some(format!("`{name}` is not there"));
        };
        if version.stage == VersionStage::Withdrawn {
            return Some(format!("`{name}` is withdrawn until another rollout to it"));
        }
        let takes = version.endpoints.iter().any(|of| !of.is_draining);
        (!takes).then(|| format!("`{name}` is drained"))
    }

    fn why_rule(&self, version: &str) -> String {
        let Some(rule) = self.rule.map(|route| &route.rule) else {
            return String::new();
        };
        let name = &rule.name;
        let Some(Target::Weighted(weights)) = &rule.to else {
            return format!(
                "rule `{name}` leads to {}",
                place_in_words(rule.to.as_ref(), version)
            );
        };
        let weights: Vec<_> = weights
            .iter()
            .map(|(place, weight)| format!("{place} {weight}"))
            .collect();
        let how = match (&rule.strategy, &self.by) {
            (Some(Strategy::RoundRobin), _) => "in turn".to_owned(),
            (Some(Strategy::LeastRequests), _) => {
                "to the one with the fewest requests under way for its weight".to_owned()
            }
            (Some(Strategy::Header(header)), Some(_)) => format!("by header `{header}`"),
            (Some(Strategy::Cookie(cookie)), Some(_)) => format!("by cookie `{}`", cookie.name),
            (Some(Strategy::IpHash), Some(_)) => "by the address".to_owned(),
            _ => "by the affinity key".to_owned(),
        };
        format!(
            "rule `{name}` spreads over {} {how}: `{version}`",
            weights.join(", ")
        )
    }

    fn endpoints(&self, version: usize, chosen: Option<usize>) -> Vec<EndpointSaid> {
        let Some(route) = self.service.versions.get(version) else {
            return Vec::new();
        };
        let among = among(self.service, route, self.live);
        let (now_ms, slow_start) = (self.live.now_ms(), self.service.settings.slow_start);
        let seats = route.endpoints.iter().zip(seats(route, self.live));
        let say = |(at, (endpoint, seat)): (usize, (&EndpointRoute, Seat))| EndpointSaid {
            id: endpoint.id,
            url: endpoint.url.clone(),
            version: route.name.clone(),
            chosen: chosen == Some(at),
            considered: chosen == Some(at) || among.is_some_and(|among| seat.is_among(among)),
            healthy: seat.is_healthy,
            breaker_open: seat.standing.is_open,
            ejected: seat.standing.is_ejected,
            draining: seat.is_draining,
            in_flight: seat.standing.in_flight,
            weight: seat.weight,
            weight_now: seat.weight_now(now_ms, slow_start),
        };
        seats.enumerate().map(say).collect()
    }

    fn why_endpoint(&self, version: usize) -> String {
        let Some(route) = self.service.versions.get(version) else {
            return String::new();
        };
        if let [_] = route.endpoints.as_slice() {
            return "the only one".to_owned();
        }
        let settings = &self.service.settings;
        let how = match route.balance {
            Balance::Hash => "by the affinity key, so that a caller stays at its own",
            Balance::RoundRobin => "in turn",
            Balance::LeastRequests => "the one with the fewest requests under way for its weight",
        };
        match among(self.service, route, self.live) {
            Some(Among::Usable) => how.to_owned(),
            Some(_) => format!(
                "{how}; fewer than {} % may be used, so health and ejections are ignored",
                settings.panic_below_percent
            ),
            None => format!(
                "{how}; none may be used, and `on_failure: fail_open` tries one all the same"
            ),
        }
    }
}

fn why_nowhere(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Killed | Stopped::Bound => {
            "503: it is killed, and so is stable, where its callers would go"
        }
        Stopped::Nowhere(Nowhere::Unusable { .. }) => {
            "503 with a time to come again: none may be used, and the service has `on_failure: fail_closed`"
        }
        Stopped::Nowhere(Nowhere::NoEndpoints { .. } | Nowhere::EndpointGone) => {
            "503: the version has no endpoint that takes new callers"
        }
    }
}

fn place_in_words(target: Option<&Target>, version: &str) -> String {
    match target {
        Some(Target::One(Place::Version(name))) if name.as_str() == version => {
            format!("`{version}`")
        }
        Some(Target::One(place)) => format!("{place}, which is `{version}` now"),
        Some(Target::Weighted(_)) | None => format!("`{version}`"),
    }
}

/// The rules that are asked until one fits, with what of each is not so.
fn rules_asked(
    service: &ServiceRoute,
    request: &Request<'_>,
    fits: Option<&RuleRoute>,
) -> Vec<RuleAsked> {
    let mut asked = Vec::new();
    for route in service.rules.iter() {
        let rule = &route.rule;
        let is_it = fits.is_some_and(|fits| std::ptr::eq(fits, route));
        let holds = |part: &Condition| Matcher::compile([Some(part)]).holds(0, request);
        let why = match &rule.when {
            None => "it is for all requests".to_owned(),
            Some(condition) if is_it => condition_in_words(condition),
            Some(condition) => what_fails(condition, &holds),
        };
        asked.push(RuleAsked {
            name: rule.name.to_string(),
            priority: rule.priority,
            fits: is_it,
            why,
        });
        if is_it {
            break;
        }
    }
    asked
}

/// How a request is answered without a version, and why: first because of its path, as the gateway does, then by rules.
fn refusal<'a>(
    request: &Request<'_>,
    has_too_many_readings: bool,
    mut rules: impl Iterator<Item = &'a RuleRoute>,
) -> Option<(Refuse, String)> {
    if leads_up(request.path) {
        let refuse = Refuse {
            status: 400,
            text: Some("the path has a `..` in it; send it resolved".to_owned()),
        };
        let why =
            "400 before anything is routed: a server may read the path as one with `..` in it";
        return Some((refuse, why.to_owned()));
    }
    if has_too_many_readings {
        let refuse = Refuse {
            status: 403,
            text: None,
        };
        let why = format!("403: a server may read it in more than {READINGS_MAX} ways");
        return Some((refuse, why));
    }
    rules.find_map(|route| {
        let refuse = route.rule.refuse.clone()?;
        let why = format!(
            "rule `{}` refuses it with {}",
            route.rule.name, refuse.status
        );
        Some((refuse, why))
    })
}

fn limits_in_words<'a>(rules: impl Iterator<Item = &'a RuleRoute>) -> Option<String> {
    let limits: Vec<_> = rules.filter_map(limit_in_words).collect();
    (!limits.is_empty()).then(|| limits.join("; "))
}

fn limit_in_words(route: &RuleRoute) -> Option<String> {
    let limit = route.rule.limit.as_ref()?;
    let burst = limit
        .burst
        .map_or_else(String::new, |burst| format!(", {burst} at once"));
    let whose = match limit.per {
        Per::Key => "of each key",
        Per::Tenant => "of each tenant",
        Per::Service => "of all together",
    };
    Some(format!("{} {whose}{burst}", limit.rate))
}

/// What the strategy of a rule goes by, where the request has it.
fn ruled_by(rule: &RuleRoute, who: &Who<'_>) -> Option<Vec<u8>> {
    Some(rule.source()?.of(who)?.key())
}

fn catch<'a>(
    service: &'a ServiceRoute,
    rule: Option<&'a RuleRoute>,
    question: &Question<'a>,
) -> Caught<'a> {
    let (who, sources) = (&question.who, sources(&service.settings, rule));
    let begins = question.begins_session;
    // A session is its own key unless something of the list is there.
    let sources = if begins {
        Sources::new(sources.list)
    } else {
        sources
    };
    let mut missing = None;
    let known = sources.first(who, |_| None).filter(|_| begins);
    let known = known.or_else(|| {
        sources.first(who, |cookie| {
            missing = Some(cookie.name.clone());
            Some(String::new())
        })
    });
    match (known, missing) {
        (Some(Known::Cookie(value)), Some(cookie)) if value.is_empty() => Caught::New(format!(
            "cookie `{cookie}`, which it is given with the answer"
        )),
        (Some(known), _) => Caught::Known {
            source: source_in_words(sources, who, &known),
            known,
        },
        (None, _) if begins => Caught::New("the session that begins".to_owned()),
        (None, _) => {
            let known = source::unless_said(who);
            let source = source_in_words(Sources::default(), who, &known);
            Caught::Known { source, known }
        }
    }
}

fn key_of(service: &ServiceRoute, caught: &Caught<'_>, question: &Question<'_>) -> Option<Vec<u8>> {
    let Caught::Known { known, .. } = caught else {
        return None;
    };
    let mut key = known.key();
    if let Some(renew) = service.split.as_ref().and_then(|split| split.renew) {
        source::renew(&mut key, question.since_1970, renew);
    }
    Some(key)
}

/// Where in a request that stands by which a caller is known.
fn source_in_words(sources: Sources<'_>, who: &Who<'_>, known: &Known<'_>) -> String {
    let named = sources.list.iter().find(|source| source.of(who).is_some());
    match (known, named) {
        (Known::Header(_), Some(Source::Header(name))) => format!("header `{name}`"),
        (Known::Header(_), _) => format!("header `{}`", sources.header.unwrap_or("?")),
        (Known::Cookie(_), Some(Source::Cookie(cookie))) => format!("cookie `{}`", cookie.name),
        (Known::Cookie(_), _) => "cookie".to_owned(),
        (Known::Tenant(_), _) => "tenant".to_owned(),
        (Known::Principal { .. }, _) => "who the caller proved to be".to_owned(),
        (Known::Claimed { .. }, _) => "whom the token names, unchecked".to_owned(),
        (Known::Credential(_), _) => "hash of `Authorization`".to_owned(),
        (Known::Address(_), _) => "address".to_owned(),
    }
}

fn key_in_words(caught: &Caught<'_>, key: Option<&[u8]>) -> Key {
    let (source, value) = match caught {
        Caught::New(source) => (source.clone(), None),
        Caught::Known { source, known } => {
            let name = source.to_ascii_lowercase();
            let is_secret = matches!(known, Known::Cookie(_) | Known::Credential(_))
                || matches!(known, Known::Header(_))
                    && SECRET_NAMES.iter().any(|part| name.contains(part));
            let value: String = if is_secret {
                let hash = blake3::hash(&known.key()).to_hex();
                format!("hash {}", &hash[..HASH_CHARS])
            } else {
                known.text().chars().take(VALUE_CHARS_MAX).collect()
            };
            (source.clone(), Some(value))
        }
    };
    Key {
        source,
        value,
        hash: key.map(|key| format!("{:016x}", key_hash(key))),
    }
}

#[cfg(test)]
mod tests;
