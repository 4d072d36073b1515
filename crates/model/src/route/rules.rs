//! Which rule fits a request, and which version it leads to.

use super::Live;
use crate::{rule::Rule, snapshot::ServiceRoute};
use serin_route::condition::Request;
use std::sync::Arc;

/// The rules of a service, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Arc<[RuleRoute]>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct RuleRoute {
    /// As it was written.
    pub rule: Rule,
}

impl Rules {
    /// Of a list in any order; those that are off are left out.
    pub fn compile(rules: &[Rule]) -> Self {
        let mut rules: Vec<_> = rules.iter().filter(|rule| rule.enabled).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
        let rules = rules.into_iter().cloned();
        Self {
            rules: rules.map(|rule| RuleRoute { rule }).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any of them asks which tools are called.
    pub fn ask_for_tools(&self) -> bool {
        false
    }

    /// The first that fits.
    pub fn find(&self, _request: &Request<'_>) -> Option<&RuleRoute> {
        None
    }
}

impl RuleRoute {
    /// The version it leads to; none if that is where the request would go without it.
    pub fn version(
        &self,
        _service: &ServiceRoute,
        _key: Option<&[u8]>,
        _live: &impl Live,
    ) -> Option<usize> {
        None
    }
}
