//! The rules that apply to a service's callers, in the form in which they are asked. Made anew when the routing table changes.

use super::{Caller, Limiter, Want};
use serin_flags::FlagKey;
use serin_model::{access::Route, gate::ToolPattern, name::ServiceName, snapshot::Snapshot};
use serin_tenancy::{Limit, LimitRule, Per, TierName};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

/// The Stage I seed's flag: off for a tenant, what its tier says is not in force.
const FLAG: &str = "rate_limiting_v2";

/// The rules of all services, of one routing table.
#[derive(Default)]
pub(crate) struct Plans {
    of: Option<Arc<Snapshot>>,
    services: HashMap<ServiceName, ByTier, foldhash::fast::RandomState>,
    /// The flag, where there is one.
    flag: Option<FlagKey>,
}

#[derive(Default)]
struct ByTier {
    own: Option<Rc<Rules>>,
    tiers: HashMap<TierName, Option<Rc<Rules>>, foldhash::fast::RandomState>,
}

/// The rules for one caller of a service.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub(crate) tier: Option<Rc<Rules>>,
    pub(crate) own: Option<Rc<Rules>>,
    /// The flag that must not be off for those of the tier.
    pub(crate) flag: Option<FlagKey>,
}

/// Some rules.
pub(crate) struct Rules {
    all: Vec<Rule>,
    by_tool: bool,
    by_key: bool,
}

/// A rule.
pub(super) struct Rule {
    /// Which it is: the same while its rate changes.
    pub(super) id: u128,
    pub(super) per: Per,
    pub(super) limit: Limit,
    tools: Vec<ToolPattern>,
    /// None: all.
    route: Option<Route>,
}

/// What a request is, to a rule.
pub(crate) struct Request<'a> {
    /// What stands behind the service's path.
    pub(crate) path: &'a str,
    /// Its method, and those that its headers name.
    pub(crate) methods: &'a [&'a str],
    /// How many requests it counts for.
    pub(crate) count: u32,
    /// The tools that it calls, each with how often.
    pub(crate) tools: &'a [(&'a str, u32)],
}

impl Plans {
    /// The rules for callers of a tier at a service.
    pub(crate) fn find(
        &mut self,
        snapshot: &Arc<Snapshot>,
        service: &ServiceName,
        tier: Option<&TierName>,
    ) -> Plan {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            self.of = Some(snapshot.clone());
            self.services.clear();
            self.flag = FLAG.parse().ok().filter(|flag: &FlagKey| {
                let flags = &snapshot.flags;
                flags.flags.contains_key(flag.as_str())
                    || flags.forced.flags.contains_key(flag.as_str())
            });
        }
        let known = match self.services.get_mut(service) {
            Some(known) => known,
            None => (self.services.entry(service.clone())).or_insert(of_all(snapshot, service)),
        };
        let tier = tier.and_then(|tier| match known.tiers.get(tier) {
            Some(rules) => rules.clone(),
            None => (known.tiers.entry(tier.clone()))
                .or_insert(of_tier(snapshot, service, tier))
                .clone(),
        });
        Plan {
            flag: self.flag.clone().filter(|_| tier.is_some()),
            tier,
            own: known.own.clone(),
        }
    }
}

/// The rules for all callers of a service.
fn of_all(snapshot: &Snapshot, service: &ServiceName) -> ByTier {
    let route = snapshot.service(service);
    ByTier {
        own: route.and_then(|route| Rules::new(None, service, &route.settings.limits)),
        ..ByTier::default()
    }
}

fn of_tier(snapshot: &Snapshot, service: &ServiceName, tier: &TierName) -> Option<Rc<Rules>> {
    let limits = &snapshot.tenancy.tier(tier.as_str())?.limits;
    Rules::new(Some(tier), service, limits)
}

impl Plan {
    fn all(&self) -> impl Iterator<Item = &Rules> {
        [&self.tier, &self.own]
            .into_iter()
            .flatten()
            .map(|rules| &**rules)
    }

    /// Whether there is any rule.
    pub(crate) fn is_empty(&self) -> bool {
        self.tier.is_none() && self.own.is_none()
    }

    /// Whether calls of tools are told apart.
    pub(crate) fn by_tool(&self) -> bool {
        self.all().any(|rules| rules.by_tool)
    }

    /// Whether callers are told apart.
    pub(crate) fn by_key(&self) -> bool {
        self.all().any(|rules| rules.by_key)
    }

    /// Adds what a request wants of which buckets.
    pub(crate) fn wants(
        &self,
        limiter: &Limiter,
        caller: &Caller<'_>,
        request: &Request<'_>,
        wants: &mut Vec<Want>,
    ) {
        for rule in self.all().flat_map(|rules| &rules.all) {
            let is_for = |route: &Route| {
                let mut methods = request.methods.iter();
                methods.any(|method| route.may_have(request.path, method))
            };
            if !rule.route.as_ref().is_none_or(is_for) {
                continue;
            }
            if rule.tools.is_empty() {
                wants.push(limiter.want(rule, caller, None, request.count));
                continue;
            }
            let fits = |tool: &str| rule.tools.iter().any(|tools| tools.fits(tool));
            let tools = request.tools.iter().filter(|(tool, _)| fits(tool));
            wants.extend(tools.map(|(tool, n)| limiter.want(rule, caller, Some(tool), *n)));
        }
    }
}

impl Rules {
    /// Nothing where there are none.
    fn new(
        tier: Option<&TierName>,
        service: &ServiceName,
        rules: &[LimitRule],
    ) -> Option<Rc<Self>> {
        // Of several for the same requests the slowest is the first: others may come and go beside it, and it keeps its buckets.
        let mut sorted: Vec<_> = rules.iter().collect();
        sorted.sort_by_key(|rule| Reverse(rule.limit().depth()));
        let mut before = BTreeMap::<Vec<u8>, u64>::new();
        let rules: Vec<Rule> = sorted
            .into_iter()
            .map(|rule| {
                let scope = scope(tier, service, rule);
                let nth = before.entry(scope.clone()).or_default();
                let mut hasher = blake3::Hasher::new();
                hasher.update(&scope).update(&nth.to_be_bytes());
                *nth += 1;
                Rule::new(first_half(&hasher.finalize()), rule)
            })
            .collect();
        (!rules.is_empty()).then(|| {
            Rc::new(Self {
                by_tool: rules.iter().any(|rule| !rule.tools.is_empty()),
                by_key: rules.iter().any(|rule| rule.per == Per::Key),
                all: rules,
            })
        })
    }
}

/// Which requests a rule counts, whatever its rate. A key has one tier at a time, so its buckets stay when it gets another one.
fn scope(tier: Option<&TierName>, service: &ServiceName, rule: &LimitRule) -> Vec<u8> {
    let origin = match (tier, rule.per) {
        (None, _) => "service",
        (Some(_), Per::Key) => "tier",
        (Some(tier), Per::Tenant | Per::Service) => &format!("tier {}", tier.as_str()),
    };
    let per = name_of(rule.per);
    let path = rule.path.as_deref().unwrap_or_default();
    let lists = [&rule.tools, &rule.methods].map(|list| list.join("\u{1f}"));
    let parts = [origin, service.as_str(), per, path, &lists[0], &lists[1]];
    parts.join("\u{1e}").into_bytes()
}

fn name_of(per: Per) -> &'static str {
    match per {
        Per::Key => "key",
        Per::Tenant => "tenant",
        Per::Service => "service",
    }
}

/// Which limit that of a rule is: the same while its rate changes.
pub(super) fn id_of_rule(service: &ServiceName, rule: &str, per: Per) -> u128 {
    let parts = ["rule", service.as_str(), name_of(per), rule];
    first_half(&blake3::hash(parts.join("\u{1e}").as_bytes()))
}

/// As many bits as a key has.
pub(super) fn first_half(hash: &blake3::Hash) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_be_bytes(half)
}

impl Rule {
    fn new(id: u128, rule: &LimitRule) -> Self {
        let is_for_all = rule.path.is_none() && rule.methods.is_empty();
        let path = rule.path.as_deref().unwrap_or_default();
        Self {
            id,
            per: rule.per,
            limit: rule.limit(),
            tools: rule
                .tools
                .iter()
                .map(|tool| ToolPattern::new(tool))
                .collect(),
            route: (!is_for_all).then(|| Route::new(path, &rule.methods)),
        }
    }

    /// The value of the label `limit`.
    pub(super) fn label(&self) -> &'static str {
        match self.per {
            _ if !self.tools.is_empty() => "tool",
            Per::Key => "key",
            Per::Tenant => "tenant",
            Per::Service => "service",
        }
    }
}
