//! What conditions say about each other: whether one can hold at all, whether two can hold together, whether one holds wherever another
//! does.
//!
//! All three are one question: can these hold together? It is answered by taking conditions apart until only tests are left (a tableau,
//! Smullyan 1968) and looking for two of them that contradict each other. What cannot be told (two different regular expressions, more
//! than [`STEPS_MAX`] steps) is taken for possible: nothing is called impossible that can be.

use super::{
    Condition,
    check::Check,
    matcher::{Input, Matcher, Node},
};
use ipnet::IpNet;

/// Most steps for one question: far more than what people write takes, and less than a millisecond.
const STEPS_MAX: usize = 20_000;
/// Most steps for all questions about one list of conditions: every pair of two hundred with hundreds of texts each, in a tenth of a
/// second.
const STEPS_IN_ALL_MAX: usize = 10_000_000;

/// Whether no request is as a condition says. What cannot be told is not so.
pub fn never_holds(condition: &Condition) -> bool {
    let matcher = Matcher::compile([Some(condition)]);
    matcher.compare().never_holds(0)
}

/// Whether `wide` holds of every request of which `narrow` does. What cannot be told is not so.
pub fn covers(wide: &Condition, narrow: &Condition) -> bool {
    let matcher = Matcher::compile([Some(wide), Some(narrow)]);
    matcher.compare().covers(0, 1)
}

/// Whether both may hold of one request. What cannot be told is so.
pub fn may_overlap(a: &Condition, b: &Condition) -> bool {
    let matcher = Matcher::compile([Some(a), Some(b)]);
    matcher.compare().may_overlap(0, 1)
}

impl Matcher {
    /// Its conditions, to be compared with each other.
    pub const fn compare(&self) -> Comparison<'_> {
        Comparison {
            matcher: self,
            left: STEPS_IN_ALL_MAX,
        }
    }
}

/// Conditions of a matcher that are compared with each other, by their places. Of one that is not understood nothing is said.
#[derive(Clone, Debug)]
pub struct Comparison<'m> {
    matcher: &'m Matcher,
    /// Steps that may be taken yet.
    left: usize,
}

impl Comparison<'_> {
    /// Whether no request is as a condition says. What cannot be told is not so.
    pub fn never_holds(&mut self, at: usize) -> bool {
        let node = self.at(at);
        node.is_some_and(|node| !self.may_hold(&[(node, true)]))
    }

    /// Whether the condition at `wide` holds wherever that at `narrow` does. What cannot be told is not so.
    pub fn covers(&mut self, wide: usize, narrow: usize) -> bool {
        let both = self.at(wide).zip(self.at(narrow));
        both.is_some_and(|(wide, narrow)| !self.may_hold(&[(narrow, true), (wide, false)]))
    }

    /// Whether both conditions may hold of one request. What cannot be told is so.
    pub fn may_overlap(&mut self, a: usize, b: usize) -> bool {
        let both = self.at(a).zip(self.at(b));
        both.is_some_and(|(a, b)| self.may_hold(&[(a, true), (b, true)]))
    }

    /// Whether all of these may be as they are wanted.
    fn may_hold(&mut self, wanted: &[Wanted<'_>]) -> bool {
        let most = self.left.min(STEPS_MAX);
        let mut left = most;
        let may_hold = is_open(wanted.to_vec(), Vec::new(), &mut left);
        self.left -= most - left;
        may_hold
    }
}

impl<'m> Comparison<'m> {
    fn at(&self, at: usize) -> Option<&'m Node> {
        self.matcher.conditions.get(at)?.as_ref()
    }
}

/// A condition that has to hold, or must not.
type Wanted<'a> = (&'a Node, bool);

/// Whether all of these may be as they are wanted, beside tests that do not contradict each other. With no steps left they may.
fn is_open<'a>(mut wanted: Vec<Wanted<'a>>, mut tests: Vec<Wanted<'a>>, left: &mut usize) -> bool {
    let mut choices = Vec::new();
    while let Some((node, yes)) = wanted.pop() {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return true;
        }
        match (node, yes) {
            (Node::All(nodes), true) | (Node::Any(nodes), false) => {
                wanted.extend(nodes.iter().map(|node| (node, yes)));
            }
            (Node::All(_), false) | (Node::Any(_), true) => choices.push((node, yes)),
            (Node::Not(node), _) => wanted.push((node, !yes)),
            (Node::Is(..) | Node::Within(_), _) => {
                let steps: usize = tests.iter().map(|(test, _)| size(test) + size(node)).sum();
                *left = left.saturating_sub(steps);
                if tests.iter().any(|test| contradict(*test, (node, yes))) {
                    return false;
                }
                tests.push((node, yes));
            }
        }
    }
    let Some((Node::All(nodes) | Node::Any(nodes), yes)) = choices.pop() else {
        return true;
    };
    nodes.iter().any(|node| {
        let mut wanted = choices.clone();
        wanted.push((node, yes));
        is_open(wanted, tests.clone(), left)
    })
}

fn size(test: &Node) -> usize {
    match test {
        Node::Is(_, check) => check.size(),
        // Each is compared with each of the other.
        Node::Within(nets) => nets.all.len() * nets.all.len() / 8,
        Node::All(_) | Node::Any(_) | Node::Not(_) => 1,
    }
}

/// Whether two tests can never be as they are wanted at once.
fn contradict(a: Wanted<'_>, b: Wanted<'_>) -> bool {
    match (a, b) {
        ((Node::Is(of, a), a_yes), (Node::Is(other, b), b_yes)) => {
            of == other && checks_contradict(*of, (a, a_yes), (b, b_yes))
        }
        ((Node::Within(a), true), (Node::Within(b), true)) => {
            !a.all.iter().any(|a| b.all.iter().any(|b| meet(a, b)))
        }
        ((Node::Within(inner), true), (Node::Within(outer), false))
        | ((Node::Within(outer), false), (Node::Within(inner), true)) => {
            let mut inner = inner.all.iter();
            inner.all(|inner| outer.all.iter().any(|outer| outer.contains(inner)))
        }
        _ => false,
    }
}

fn checks_contradict(of: Input, a: (&Check, bool), b: (&Check, bool)) -> bool {
    match (a, b) {
        // Of several values one may be as the one says, another as the other.
        ((a, true), (b, true)) => !of.may_be_several() && a.excludes(b),
        ((is, true), (is_not, false)) | ((is_not, false), (is, true)) => is.implies(is_not),
        ((_, false), (_, false)) => false,
    }
}

fn meet(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
