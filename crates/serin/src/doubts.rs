//! What is well formed and will do nothing all the same: gates on flags that there are not, and addresses that nothing gives.

use crate::problem::Problem;
use serin_control::{
    Control,
    doubts::{of_flags, of_state},
};
use serin_flags::FlagKey;
use serin_model::{
    api::{ApiSpec, ApiVersion},
    manifest::Manifest,
    name::ServiceName,
    switch::{Action, KillSwitch},
};
use std::{collections::BTreeMap, sync::Arc};

pub(crate) use serin_control::doubts::Doubt;

/// The variables of the environment that kill switches name and that are not set.
pub(crate) fn of_addresses(
    switches: &BTreeMap<Arc<str>, KillSwitch>,
    is_set: impl Fn(&str) -> bool,
) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (name, switch) in switches {
        let actions = switch
            .recovery
            .iter()
            .flat_map(|recovery| &recovery.actions);
        let called = actions.filter_map(|action| match action {
            Action::Webhook(address) => Some((address, "called")),
            Action::FlagOn(_) | Action::FlagOff(_) => None,
        });
        let told = switch.notify.iter().map(|address| (address, "told"));
        for (address, what) in told.chain(called) {
            let variable = address.strip_prefix("env:");
            if let Some(variable) = variable.filter(|variable| !is_set(variable)) {
                doubts.push(Doubt {
                    what: format!(
                        "kill switch `{name}`: nobody is {what}, because the environment variable {variable} is not set"
                    ),
                    help: "set it for `serin run`, or write the address or `file:PATH`".to_owned(),
                });
            }
        }
    }
    doubts
}

/// The versions of the API whose services the file does not have: they are refused, unless the service was applied before.
pub(crate) fn of_api(manifest: &Manifest) -> Vec<Doubt> {
    let names = || manifest.services.keys().map(ServiceName::as_str);
    let lonely = manifest.api.iter();
    let lonely = lonely.filter(|(_, spec)| !manifest.services.contains_key(&spec.service));
    let doubt = |(version, spec): (&ApiVersion, &ApiSpec)| Doubt {
        what: format!(
            "API {version} is of service `{}`, which this file does not have",
            spec.service
        ),
        help: match serin_config::closest(spec.service.as_str(), names()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "it is refused unless the service was applied before; name one of `services`"
                .to_owned(),
        },
    };
    lonely.map(doubt).collect()
}

/// Whether a variable of this process is set.
pub(crate) fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok()
}

/// Shows them, for people.
pub(crate) fn show(doubts: Vec<Doubt>) {
    for doubt in doubts {
        eprintln!(
            "{:?}",
            miette::Report::new(Problem::warning(doubt.what, doubt.help))
        );
    }
}

/// Logs what is doubtful as a server begins, once, and what there is beyond the file that it was started with.
pub(crate) async fn log(control: &Control, described: &Manifest) {
    // Without a state there is nothing to look at, and the server says so itself.
    let Ok(state) = control.state().await else {
        return;
    };
    let flags = control.flags();
    let unnamed = described.unnamed(&state);
    if !unnamed.is_empty() {
        tracing::info!(
            also = unnamed.join(", "),
            "there is more than the configuration describes, as it was applied before; `serin apply --prune` removes it"
        );
    }
    let mut doubts = of_addresses(&state.kill_switches, is_set);
    doubts.extend(of_state(&state).await);
    for service in state.services.values() {
        let is_flag = |key: &FlagKey| flags.table().keys().any(|known| known == key);
        doubts.extend(of_flags(&service.name, &service.settings, is_flag));
    }
    for doubt in doubts {
        tracing::warn!(help = doubt.help, "{}", doubt.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_variables_are_named() {
        let switch: KillSwitch = serde_json::from_value(serde_json::json!({
            "target": "service:tools",
            "triggers": [{"error_rate": "20 %"}],
            "notify": ["env:SET", "env:NOTIFY", "https://example.com"],
            "recovery": {"delay": "5m", "actions": [{"webhook": "env:RESTART"}, {"flag_off": "a"}]},
        }))
        .unwrap();
        let doubts = of_addresses(&BTreeMap::from([("down".into(), switch)]), |name| {
            name == "SET"
        });
        let named: Vec<_> = doubts.iter().map(|doubt| doubt.what.as_str()).collect();
        assert!(
            matches!(named.as_slice(), [told, called] if told.contains("told, because the environment variable NOTIFY") && called.contains("RESTART")),
            "{named:?}"
        );
    }
}
