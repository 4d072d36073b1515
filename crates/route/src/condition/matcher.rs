//! Conditions made ready: names are looked up once, and what is cheap is asked first.

use super::{
    Condition, Request, Test,
    check::{self, Case, Check},
    index::Index,
    values::{Names, Values},
};
use ipnet::IpNet;
use regex::bytes::RegexSet;
use std::net::IpAddr;

/// A list of conditions, ready to be asked for the first that holds. It is made when rules change and asked by every request.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    names: Names,
    /// None where a condition cannot be understood: it never holds, and whoever takes rules refuses it
    /// ([`problems`](super::problems())).
    pub(super) conditions: Box<[Option<Node>]>,
    /// Of many conditions, which of them may hold.
    index: Option<Index>,
    asks_tools: bool,
    /// Of each input with expressions, what tells whether any of them fits.
    sets: Vec<Set>,
}

/// The expressions of an input.
#[derive(Clone, Debug)]
struct Set {
    of: Input,
    wholes: Vec<String>,
    regexes: Option<RegexSet>,
}

/// A condition, with what it asks of what.
#[derive(Clone, Debug)]
pub(super) enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    /// A value of this is so.
    Is(Input, Check),
    /// The address is in one of these.
    Within(Box<Nets>),
}

/// Ranges of addresses, as they are written and as they are asked: base and mask.
#[derive(Clone, Debug)]
pub(super) struct Nets {
    pub(super) all: Box<[IpNet]>,
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// What a text is of, by name those of [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Header(usize),
    Cookie(usize),
    Parameter(usize),
    Path,
    Method,
    Host,
    Tenant,
    Role,
    Tool,
}

impl Matcher {
    /// Of a list; none stands for a condition that always holds.
    pub fn compile<'c>(conditions: impl IntoIterator<Item = Option<&'c Condition>>) -> Self {
        let mut matcher = Self::default();
        let compile = |condition: Option<&Condition>| match condition {
            Some(condition) => matcher.node(condition),
            None => Some(Node::always()),
        };
        let conditions: Box<[_]> = conditions.into_iter().map(compile).collect();
        for set in &mut matcher.sets {
            set.regexes = check::set(&set.wholes);
        }
        Self {
            index: Index::of(&conditions),
            conditions,
            ..matcher
        }
    }

    /// The place of the first that holds.
    pub fn first(&self, request: &Request<'_>) -> Option<usize> {
        let values = Values::new(&self.names, request, self.sets.len());
        let holds = |node: &Option<Node>| {
            let node = node.as_ref();
            node.is_some_and(|node| node.holds(&values, &self.sets))
        };
        match &self.index {
            Some(index) => index
                .may_hold(&values)
                .find(|at| self.conditions.get(*at).is_some_and(holds)),
            None => self.conditions.iter().position(holds),
        }
    }

    /// Whether one at a place holds, whatever the others do.
    pub fn holds(&self, at: usize, request: &Request<'_>) -> bool {
        let node = self.conditions.get(at).and_then(Option::as_ref);
        let values = Values::new(&self.names, request, self.sets.len());
        node.is_some_and(|node| node.holds(&values, &self.sets))
    }

    /// Whether any of them asks for tools.
    pub const fn asks_tools(&self) -> bool {
        self.asks_tools
    }

    fn node(&mut self, condition: &Condition) -> Option<Node> {
        Some(match condition {
            Condition::All(all) => Node::All(self.nodes(all)?),
            Condition::Any(any) => Node::Any(self.nodes(any)?),
            Condition::Not(not) => Node::Not(self.node(not)?.into()),
            Condition::Address { within } => Node::Within(Nets::new(within).into()),
            Condition::Header(test) => {
                let input = Input::Header(self.names.header(test.name.as_ref()?)?);
                self.test(test, input)?
            }
            Condition::Cookie(test) => {
                let input = Input::Cookie(self.names.cookie(test.name.as_ref()?));
                self.test(test, input)?
            }
            Condition::Query(test) => {
                let input = Input::Parameter(self.names.parameter(test.name.as_ref()?));
                self.test(test, input)?
            }
            Condition::Path(test) => self.nameless(test, Input::Path)?,
            Condition::Method(test) => self.nameless(test, Input::Method)?,
            Condition::Host(test) => self.nameless(test, Input::Host)?,
            Condition::Tenant(test) => self.nameless(test, Input::Tenant)?,
            Condition::Role(test) => self.nameless(test, Input::Role)?,
            Condition::Tool(test) => {
                self.asks_tools = true;
                self.nameless(test, Input::Tool)?
            }
        })
    }

    fn nameless(&mut self, test: &Test, input: Input) -> Option<Node> {
        if test.name.is_some() {
            return None;
        }
        self.test(test, input)
    }

    fn test(&mut self, test: &Test, input: Input) -> Option<Node> {
        let mut check = Check::compile(test, input.case())?;
        if let Check::Matches(pattern) = &mut check {
            pattern.set = self.set(input);
            self.sets[pattern.set].wholes.push(pattern.whole());
        }
        let is_there = matches!(check, Check::There);
        let node = if is_there && input.is_always_there() {
            Node::always()
        } else {
            Node::Is(input, check)
        };
        Some(if test.present == Some(false) {
            Node::Not(node.into())
        } else {
            node
        })
    }

    /// The place of the expressions of an input.
    fn set(&mut self, of: Input) -> usize {
        let known = self.sets.iter().position(|set| set.of == of);
        known.unwrap_or_else(|| {
            self.sets.push(Set {
                of,
                wholes: Vec::new(),
                regexes: None,
            });
            self.sets.len() - 1
        })
    }

    fn nodes(&mut self, conditions: &[Condition]) -> Option<Box<[Node]>> {
        let nodes: Option<Vec<_>> = conditions.iter().map(|one| self.node(one)).collect();
        let mut nodes = nodes?;
        nodes.sort_by_key(Node::cost);
        Some(nodes.into())
    }
}

impl Nets {
    fn new(nets: &[IpNet]) -> Self {
        let v4 = nets.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some((net.network().to_bits(), net.netmask().to_bits())),
            IpNet::V6(_) => None,
        });
        let v6 = nets.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some((net.network().to_bits(), net.netmask().to_bits())),
            IpNet::V4(_) => None,
        });
        Self {
            all: nets.into(),
            v4: v4.collect(),
            v6: v6.collect(),
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                self.v4.iter().any(|(base, mask)| bits & mask == *base)
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.v6.iter().any(|(base, mask)| bits & mask == *base)
            }
        }
    }
}

impl Input {
    const fn case(self) -> Case {
        match self {
            Self::Method => Case::Kept,
            Self::Host => Case::Ignored,
            _ => Case::AsSaid,
        }
    }

    /// Whether every request has one.
    pub(super) const fn is_always_there(self) -> bool {
        matches!(self, Self::Path | Self::Method | Self::Host)
    }

    /// Whether a request may have several values of it.
    pub(super) const fn may_be_several(self) -> bool {
        matches!(self, Self::Header(_) | Self::Parameter(_) | Self::Tool)
    }

    const fn cost(self) -> u8 {
        match self {
            Self::Header(_) | Self::Cookie(_) | Self::Parameter(_) => 2,
            _ => 0,
        }
    }
}

impl Node {
    pub(super) fn always() -> Self {
        Self::All([].into())
    }

    fn holds(&self, values: &Values<'_, '_>, sets: &[Set]) -> bool {
        match self {
            Self::All(all) => all.iter().all(|node| node.holds(values, sets)),
            Self::Any(any) => any.iter().any(|node| node.holds(values, sets)),
            Self::Not(not) => !not.holds(values, sets),
            Self::Is(input, Check::Matches(pattern)) => {
                may_match(pattern.set, values, sets)
                    && input.any(values, |value| pattern.regex.is_match(value))
            }
            Self::Is(input, check) => input.any(values, |value| check.holds(value)),
            Self::Within(nets) => nets.contain(values.address()),
        }
    }

    /// How much asking it takes.
    fn cost(&self) -> u8 {
        const NESTED: u8 = 4;
        const REGEX: u8 = 8;
        match self {
            Self::All(_) | Self::Any(_) => NESTED,
            Self::Not(not) => not.cost(),
            Self::Is(input, check) => input.cost() + REGEX * check.cost(),
            Self::Within(_) => 1,
        }
    }
}

/// Whether any expression of a set fits, as far as one look tells: most often none does.
fn may_match(at: usize, values: &Values<'_, '_>, sets: &[Set]) -> bool {
    let set = sets.get(at);
    let Some((set, regexes)) = set.and_then(|set| Some((set, set.regexes.as_ref()?))) else {
        return true;
    };
    values.may_match(at, || set.of.any(values, |value| regexes.is_match(value)))
}

impl Input {
    /// Shows every value of it.
    pub(super) fn each(self, values: &Values<'_, '_>, mut show: impl FnMut(&[u8])) {
        self.any(values, |value| {
            show(value);
            false
        });
    }

    fn any(self, values: &Values<'_, '_>, mut is_so: impl FnMut(&[u8]) -> bool) -> bool {
        let request = values.request;
        match self {
            Self::Header(at) => values.any_header(at, is_so),
            Self::Cookie(at) => values.any_cookie(at, is_so),
            Self::Parameter(at) => values.any_parameter(at, is_so),
            Self::Path => is_so(request.path.as_bytes()),
            Self::Method => is_so(request.method.as_bytes()),
            Self::Host => is_so(request.host.as_bytes()),
            Self::Tenant => request
                .tenant
                .is_some_and(|tenant| is_so(tenant.as_bytes())),
            Self::Role => request.role.is_some_and(|role| is_so(role.as_bytes())),
            Self::Tool => request.tools.iter().any(|tool| is_so(tool.as_bytes())),
        }
    }
}
