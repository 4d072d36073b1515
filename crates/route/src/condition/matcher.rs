//! Conditions made ready: names are looked up once, and what is cheap is asked first.

use super::{
    Condition, Request, Test,
    check::{Case, Check},
    values::{Names, Values},
};
use ipnet::IpNet;

/// A list of conditions, ready to be asked for the first that holds. It is made when rules change and asked by every request.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    names: Names,
    /// None where a condition cannot be understood: it never holds, and whoever takes rules refuses it
    /// ([`problems`](super::problems())).
    pub(super) conditions: Box<[Option<Node>]>,
    asks_tools: bool,
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
    Within(Box<[IpNet]>),
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
        let conditions = conditions.into_iter().map(compile).collect();
        Self {
            conditions,
            ..matcher
        }
    }

    /// The place of the first that holds.
    pub fn first(&self, request: &Request<'_>) -> Option<usize> {
        let values = Values::new(&self.names, request);
        let holds = |node: &Option<Node>| node.as_ref().is_some_and(|node| node.holds(&values));
        self.conditions.iter().position(holds)
    }

    /// Whether one at a place holds, whatever the others do.
    pub fn holds(&self, at: usize, request: &Request<'_>) -> bool {
        let node = self.conditions.get(at).and_then(Option::as_ref);
        node.is_some_and(|node| node.holds(&Values::new(&self.names, request)))
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
            Condition::Address { within } => Node::Within(within.as_slice().into()),
            Condition::Header(test) => {
                let input = Input::Header(self.names.header(test.name.as_ref()?)?);
                test.node(input)?
            }
            Condition::Cookie(test) => {
                let input = Input::Cookie(self.names.cookie(test.name.as_ref()?));
                test.node(input)?
            }
            Condition::Query(test) => {
                let input = Input::Parameter(self.names.parameter(test.name.as_ref()?));
                test.node(input)?
            }
            Condition::Path(test) => test.nameless(Input::Path)?,
            Condition::Method(test) => test.nameless(Input::Method)?,
            Condition::Host(test) => test.nameless(Input::Host)?,
            Condition::Tenant(test) => test.nameless(Input::Tenant)?,
            Condition::Role(test) => test.nameless(Input::Role)?,
            Condition::Tool(test) => {
                self.asks_tools = true;
                test.nameless(Input::Tool)?
            }
        })
    }

    fn nodes(&mut self, conditions: &[Condition]) -> Option<Box<[Node]>> {
        let nodes: Option<Vec<_>> = conditions.iter().map(|one| self.node(one)).collect();
        let mut nodes = nodes?;
        nodes.sort_by_key(Node::cost);
        Some(nodes.into())
    }
}

impl Test {
    fn nameless(&self, input: Input) -> Option<Node> {
        if self.name.is_some() {
            return None;
        }
        self.node(input)
    }

    fn node(&self, input: Input) -> Option<Node> {
        let check = Check::compile(self, input.case())?;
        let is_there = matches!(check, Check::There);
        let node = if is_there && input.is_always_there() {
            Node::always()
        } else {
            Node::Is(input, check)
        };
        Some(if self.present == Some(false) {
            Node::Not(node.into())
        } else {
            node
        })
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

    fn holds(&self, values: &Values<'_, '_>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|node| node.holds(values)),
            Self::Any(any) => any.iter().any(|node| node.holds(values)),
            Self::Not(not) => !not.holds(values),
            Self::Is(input, check) => input.any(values, |value| check.holds(value)),
            Self::Within(nets) => {
                let address = values.request.address.to_canonical();
                nets.iter().any(|net| net.contains(&address))
            }
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

impl Input {
    fn any(self, values: &Values<'_, '_>, is_so: impl Fn(&[u8]) -> bool) -> bool {
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
