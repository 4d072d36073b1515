//! Checks of rules and of what takes the place of versions.

use crate::{
    affinity::{check_cookie, check_header, check_sources},
    name::suggestion,
    position::Path,
    read::Report,
};
use serin_model::{rule, service::ServiceSpec};
use serin_route::weigh::Strategy;

/// Checks the rules of a service and the fallbacks of its versions.
pub(crate) fn check_rules(spec: &ServiceSpec, at: &Path, report: &mut Report) {
    let meant = |name: &str, names: &[&str]| suggestion(name, names.iter().copied());
    for problem in rule::problems(spec, &meant) {
        let at = at.below(&problem.at);
        if problem.fatal {
            report.error(&at, problem.what, problem.help);
        } else {
            report.warning(&at, problem.what, problem.help);
        }
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let at = at.key("rules").index(index);
        check_sources(&rule.affinity, &spec.settings, &at.key("affinity"), report);
        let at = at.key("strategy");
        match &rule.strategy {
            Some(Strategy::Header(name)) => check_header(name, &at.key("header"), report),
            Some(Strategy::Cookie(cookie)) => check_cookie(cookie, &at.key("cookie"), report),
            _ => {}
        }
    }
}
