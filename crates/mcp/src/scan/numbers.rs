//! Numbers inside structured results, found by JSON pointer (RFC 6901).

/// Longest pointer that is looked for, in bytes. It bounds the keys that are compared.
pub const POINTER_BYTES_MAX: usize = 256;

/// Pointers to look for below `result.structuredContent`, as one tree, so that a result is read once for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointers {
    /// The first is `structuredContent` itself.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// By unescaped reference token.
    inner: Vec<(Box<str>, u16)>,
    /// The pointers that end here.
    ends: Vec<u16>,
}

impl Pointers {
    /// A set of pointers; a number that is found is named by the place of its pointer among them. One that is not a pointer or
    /// too long finds nothing.
    pub fn new<'a>(pointers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self {
            nodes: vec![Node::default()],
        };
        for (number, pointer) in (0..u16::MAX).zip(pointers) {
            if let Some(tokens) = tokens(pointer) {
                all.add(number, tokens);
            }
        }
        all
    }

    fn add(&mut self, number: u16, tokens: Vec<Box<str>>) {
        let mut at = 0;
        for token in tokens {
            let next = self.inner(at, &token).or_else(|| {
                let new = u16::try_from(self.nodes.len()).ok()?;
                self.nodes.push(Node::default());
                self.nodes
                    .get_mut(usize::from(at))?
                    .inner
                    .push((token, new));
                Some(new)
            });
            let Some(next) = next else { return };
            at = next;
        }
        if let Some(node) = self.nodes.get_mut(usize::from(at)) {
            node.ends.push(number);
        }
    }

    /// What the value of a key is, below a node.
    pub(super) fn inner(&self, node: u16, key: &str) -> Option<u16> {
        let inner = &self.nodes.get(usize::from(node))?.inner;
        inner
            .iter()
            .find(|(token, _)| **token == *key)
            .map(|(_, at)| *at)
    }

    /// What an element of an array is, below a node. Its token is a number without leading zeros.
    pub(super) fn element(&self, node: u16, index: u32) -> Option<u16> {
        let inner = &self.nodes.get(usize::from(node))?.inner;
        let is_it = |token: &str| {
            let is_plain = token == "0" || token.starts_with(|c: char| ('1'..='9').contains(&c));
            is_plain && token.parse() == Ok(index)
        };
        inner
            .iter()
            .find(|(token, _)| is_it(token))
            .map(|(_, at)| *at)
    }

    /// Whether pointers lead through a node.
    pub(super) fn leads_on(&self, node: u16) -> bool {
        let node = self.nodes.get(usize::from(node));
        node.is_some_and(|node| !node.inner.is_empty())
    }

    /// The pointers that end at a node.
    pub(super) fn ends(&self, node: u16) -> &[u16] {
        let node = self.nodes.get(usize::from(node));
        node.map(|node| &*node.ends).unwrap_or_default()
    }
}

/// The unescaped reference tokens of a pointer.
fn tokens(pointer: &str) -> Option<Vec<Box<str>>> {
    if pointer.is_empty() {
        return Some(vec![]);
    }
    if pointer.len() > POINTER_BYTES_MAX {
        return None;
    }
    pointer
        .strip_prefix('/')?
        .split('/')
        .map(unescape)
        .collect()
}

fn unescape(token: &str) -> Option<Box<str>> {
    let mut parts = token.split('~');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', part.get(1..)),
            Some(b'1') => ('/', part.get(1..)),
            _ => return None,
        };
        out.push(escaped);
        out.push_str(rest?);
    }
    Some(out.into())
}

/// The number that a scalar stands for: true and false are 1 and 0, so that a mean of them is a rate.
pub(super) fn number_of(raw: &[u8]) -> Option<f64> {
    match raw {
        b"true" => Some(1.0),
        b"false" => Some(0.0),
        _ => {
            let number: f64 = std::str::from_utf8(raw).ok()?.parse().ok()?;
            number.is_finite().then_some(number)
        }
    }
}
