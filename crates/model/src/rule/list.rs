//! The rules of a service with what is made of them, so that they are compiled when they change and not with every snapshot.

use super::Rule;
use crate::route::Rules;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

/// A list of rules that is compiled once, when it is first asked for. It is written, read, compared and shown as the list alone, and
/// never changes: another list is another one of these. Clones are cheap and share what was compiled, whichever of them asked for it.
#[derive(Clone, Default)]
pub struct RuleList(Arc<Kept>);

#[derive(Default)]
struct Kept {
    rules: Vec<Rule>,
    compiled: OnceLock<Rules>,
}

impl RuleList {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// Ready to be asked: compiled if nobody has asked for it yet, which may take a millisecond for a regular expression.
    pub fn compiled(&self) -> &Rules {
        (self.0.compiled).get_or_init(|| Rules::compile(&self.0.rules))
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> Self {
        let compiled = OnceLock::new();
        Self(Arc::new(Kept { rules, compiled }))
    }
}

impl Deref for RuleList {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.0.rules
    }
}

impl PartialEq for RuleList {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.rules == other.0.rules
    }
}

impl Eq for RuleList {}

impl fmt::Debug for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.rules.fmt(f)
    }
}

impl Serialize for RuleList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.rules.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RuleList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::{Command, Source, decide},
        event::{Actor, Recorded},
        route::RuleRoute,
        snapshot::{Observed, Snapshot},
        state::State,
    };
    use jiff::Timestamp;
    use serde_json::{Value, json};

    const RULES: &str =
        r#"[{"name":"old","priority":2,"when":{"path":{"prefix":"/old"}},"to":"v1"}]"#;

    fn apply(state: &mut State, rules: &Value, response_timeout: &str) {
        let manifest = json!({ "services": { "tools": {
            "protocol": "mcp", "path": "/mcp", "stable": "v1", "rules": rules,
            "versions": { "v1": { "endpoints": ["http://127.0.0.1:9001/mcp"] } },
            "settings": { "response_timeout": response_timeout },
        } } });
        let command = Command::Apply {
            manifest: serde_json::from_value(manifest).unwrap(),
            source: Source::Request,
            prune: false,
            at_once: false,
            silent: std::collections::BTreeSet::new(),
        };
        for event in decide(state, &command, Timestamp::UNIX_EPOCH).unwrap() {
            let recorded = Recorded {
                position: state.position + 1,
                at: Timestamp::UNIX_EPOCH,
                actor: Actor::named("ops"),
                epoch: 1,
                event,
            };
            state.apply(&recorded);
        }
    }

    /// Where the first rule of a snapshot of a state lies.
    fn compiled(state: &State) -> *const RuleRoute {
        let snapshot = Snapshot::build(state, &Observed::default());
        std::ptr::from_ref(snapshot.services[0].rules.iter().next().unwrap())
    }

    #[test]
    fn snapshots_share_what_is_compiled_until_the_list_changes() {
        let mut state = State::default();
        let rules: Value = serde_json::from_str(RULES).unwrap();
        apply(&mut state, &rules, "10s");
        let before = state.clone();
        let first = compiled(&state);
        assert_eq!(compiled(&state), first);
        assert_eq!(compiled(&before), first);

        // The service is another one, its rules are the same.
        apply(&mut state, &rules, "20s");
        assert_ne!(state.services, before.services);
        assert_eq!(compiled(&state), first);

        apply(
            &mut state,
            &json!([{ "name": "all", "priority": 1, "to": "v1" }]),
            "20s",
        );
        assert_ne!(compiled(&state), first);
        let snapshot = Snapshot::build(&state, &Observed::default());
        let names = snapshot.services[0].rules.iter();
        assert!(names.map(|route| &*route.rule.name).eq(["all"]));
        assert_eq!(compiled(&before), first);
    }

    #[test]
    fn it_reads_compares_and_writes_as_the_list_alone() {
        let plain: Vec<Rule> = serde_json::from_str(RULES).unwrap();
        let list: RuleList = serde_json::from_str(RULES).unwrap();
        let other = RuleList::from(plain.clone());
        assert!(!list.compiled().is_empty() && !list.is_empty());
        assert_eq!(list, other);
        assert_ne!(list, RuleList::default());
        assert_eq!(format!("{list:?}"), format!("{plain:?}"));
        assert_eq!(serde_json::to_string(&list).unwrap(), RULES);
    }
}
