//! Where the fields of a file stand: a tree of the file's keys and values with their places, looked up by path.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// A path of fields, such as `services.tools.versions.v2.0.0.endpoints[0]`. Kept in steps: names contain dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The field `name` below this one.
    pub(crate) fn key(&self, name: impl fmt::Display) -> Self {
        self.step(Step::Key(name.to_string()))
    }

    /// The item `index` below this one.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The fields named by a text such as `phases[1].share` or `versions["v1.5.0"].fallback`, below this one.
    pub(crate) fn below(&self, text: &str) -> Self {
        let (mut path, mut rest) = (self.clone(), text);
        while !rest.is_empty() {
            let quoted = rest.strip_prefix("[\"");
            if let Some((name, after)) = quoted.and_then(|rest| rest.split_once("\"]")) {
                (path, rest) = (path.key(name), after);
                continue;
            }
            let part = rest.trim_start_matches(['.', '[']);
            let (part, after) = part.split_at(part.find(['.', '[']).unwrap_or(part.len()));
            rest = after;
            path = match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
                Some(index) => path.index(index),
                None if part.is_empty() => path,
                None => path.key(part),
            };
        }
        path
    }

    fn step(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if position == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A file's nodes with their places.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Tree(Spanned<Node>);

#[derive(Debug)]
enum Node {
    Leaf,
    List(Vec<Tree>),
    Map(Vec<(Spanned<String>, Tree)>),
}

impl Tree {
    /// The place of the value at `path`; of its key if the value spans lines; of the nearest field above it if the
    /// file does not have it.
    pub(crate) fn locate(&self, path: &Path) -> Location {
        let (mut tree, mut place) = (self, self.0.defined);
        for step in &path.0 {
            let below = match (step, &tree.0.value) {
                (Step::Index(index), Node::List(items)) => {
                    items.get(*index).map(|item| (item.0.defined, item))
                }
                (Step::Key(name), Node::Map(entries)) => entries
                    .iter()
                    .find(|(key, _)| key.value == *name)
                    .map(|(key, value)| (key.defined, value)),
                _ => None,
            };
            match below {
                Some((at, below)) => (place, tree) = (at, below),
                None => return place,
            }
        }
        match tree.0.value {
            Node::Leaf => tree.0.defined,
            Node::List(_) | Node::Map(_) => place,
        }
    }

    /// The path of the key or value that stands at a place.
    pub(crate) fn path_at(&self, place: Location) -> Option<Path> {
        self.search(place, &Path::default())
    }

    fn search(&self, place: Location, here: &Path) -> Option<Path> {
        let same = |at: Location| (at.line(), at.column()) == (place.line(), place.column());
        let below = match &self.0.value {
            Node::Leaf => None,
            Node::List(items) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(index, item)| item.search(place, &here.index(index)))
            }
            Node::Map(entries) => entries.iter().find_map(|(key, value)| {
                let path = here.key(&key.value);
                if same(key.defined) {
                    Some(path)
                } else {
                    value.search(place, &path)
                }
            }),
        };
        below.or_else(|| same(self.0.defined).then(|| here.clone()))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_where_it_stands() {
        let text = "services:\n  tools:\n    versions:\n      v1.5.0: { endpoints: [a, b] }\nplans: &p\n  x:\n    phases:\n    - share: 5\n";
        let tree: Tree = serde_saphyr::from_str(text).unwrap();
        let root = Path::default();
        let version = root
            .key("services")
            .key("tools")
            .key("versions")
            .key("v1.5.0");
        for (path, line, column) in [
            (version.key("endpoints").index(1), 4, 32),
            (version.clone(), 4, 7),
            (version.key("absent").index(3), 4, 7),
            (root.key("plans").key("x").below("phases[0].share"), 8, 14),
            (root.key("plans").key("x").below("phases"), 7, 5),
            (
                root.below("services.tools.versions[\"v1.5.0\"].endpoints[1]"),
                4,
                32,
            ),
        ] {
            let at = tree.locate(&path);
            assert_eq!((at.line(), at.column()), (line, column), "{path}");
        }
        for path in [&version, &version.key("endpoints").index(1)] {
            assert_eq!(tree.path_at(tree.locate(path)).as_ref(), Some(path));
        }
        assert_eq!(
            version.key("endpoints").index(1).to_string(),
            "services.tools.versions.v1.5.0.endpoints[1]"
        );
    }
}
