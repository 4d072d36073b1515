//! Kill switches: that each can trip, names what it can see, and holds no secret.

use crate::{
    config::between,
    name::suggestion,
    position::Path,
    read::{Report, short},
};
use serin_flags::{Target, kill::GRACE_SECONDS_MAX};
use serin_model::{
    manifest::Manifest,
    name::ServiceName,
    switch::{
        ADDRESSES_MAX, ALERTS, ATTEMPTS_MAX, Action, KillSwitch, ONE_IN_MAX, Recovery,
        SWITCH_NAME_BYTES_MAX, SWITCHES_MAX, TIME_MAX, TRIGGERS_MAX, Trigger, WINDOW,
    },
};
use std::time::Duration;

/// Checks the kill switches of a manifest.
pub(crate) fn check_switches(manifest: &Manifest, report: &mut Report) {
    let at = Path::default().key("kill_switches");
    if manifest.kill_switches.len() > SWITCHES_MAX {
        report.error(
            &at,
            format!("there are {} kill switches", manifest.kill_switches.len()),
            format!("have at most {SWITCHES_MAX}: each keeps counts of its own"),
        );
    }
    for (name, switch) in &manifest.kill_switches {
        let at = at.key(name);
        if name.len() > SWITCH_NAME_BYTES_MAX || name.parse::<ServiceName>().is_err() {
            report.error(
                &at,
                format!("`{}` is not a name for a kill switch", short(name)),
                format!("use 1 to {SWITCH_NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`"),
            );
        }
        check_switch(switch, &at, report);
    }
}

fn check_switch(switch: &KillSwitch, at: &Path, report: &mut Report) {
    check_watched(switch, at, report);
    let triggers = at.key("triggers");
    at_most(switch.triggers.len(), TRIGGERS_MAX, &triggers, report);
    for (index, trigger) in switch.triggers.iter().enumerate() {
        check_trigger(trigger, &triggers.index(index), report);
    }
    if switch.triggers.is_empty() && switch.recovery.is_some() {
        report.warning(
            &at.key("recovery"),
            "this switch is only pulled by hand, and what a person kills does not recover by itself",
            "add `triggers`, or leave `recovery` out",
        );
    }
    let [least, most] = WINDOW;
    between(switch.window, least, most, &at.key("window"), report);
    let most = Duration::from_secs(GRACE_SECONDS_MAX.into());
    between(switch.grace, Duration::ZERO, most, &at.key("grace"), report);
    let notify = at.key("notify");
    at_most(switch.notify.len(), ADDRESSES_MAX, &notify, report);
    for (index, address) in switch.notify.iter().enumerate() {
        check_address(address, &notify.index(index), report);
    }
    if let Some(recovery) = &switch.recovery {
        check_recovery(recovery, &at.key("recovery"), report);
    }
}

fn check_watched(switch: &KillSwitch, at: &Path, report: &mut Report) {
    let is_seen = |target: &Target| {
        matches!(
            target,
            Target::System
                | Target::Environment(_)
                | Target::Service(_)
                | Target::Version { .. }
                | Target::Tool { .. }
        )
    };
    let help =
        "write `watch: service:NAME`, `version:SERVICE/VERSION`, `tool:SERVICE/TOOL` or `system`";
    match &switch.watch {
        Some(watch) if !is_seen(watch) => report.error(
            &at.key("watch"),
            format!("calls of `{watch}` are not counted"),
            help,
        ),
        None if !is_seen(&switch.target) && !switch.triggers.is_empty() => report.error(
            &at.key("triggers"),
            format!(
                "calls of `{}` are not counted, so that these triggers see nothing",
                switch.target
            ),
            help,
        ),
        _ => {}
    }
}

fn check_trigger(trigger: &Trigger, at: &Path, report: &mut Report) {
    let conditions = trigger.conditions();
    if conditions != 1 {
        report.error(
            at,
            format!("a trigger with {conditions} conditions"),
            "give it one of `error_rate`, `latency_p95`, `latency_p99`, `health` and `alert`; a switch may have several triggers",
        );
    }
    if let Some(alert) = &trigger.alert {
        check_alert(alert, &at.key("alert"), report);
    } else if trigger.level.is_some() {
        report.error(
            &at.key("level"),
            "`level` is of alerts",
            "put it beside `alert`, or leave it out",
        );
    }
    if trigger.lasting > TIME_MAX {
        between(
            trigger.lasting,
            Duration::ZERO,
            TIME_MAX,
            &at.key("for"),
            report,
        );
    }
}

fn check_alert(alert: &str, at: &Path, report: &mut Report) {
    if ALERTS.contains(&alert) {
        return;
    }
    let help = suggestion(alert, ALERTS);
    report.error(
        at,
        format!("the health monitor has no alert `{}`", short(alert)),
        help,
    );
}

fn check_recovery(recovery: &Recovery, at: &Path, report: &mut Report) {
    between(
        recovery.delay,
        Duration::from_secs(1),
        TIME_MAX,
        &at.key("delay"),
        report,
    );
    let number = |value: u32, most: u32, field: &str, report: &mut Report| {
        between(value as usize, 1, most as usize, &at.below(field), report);
    };
    number(recovery.attempts, ATTEMPTS_MAX, "attempts", report);
    number(recovery.probe.one_in, ONE_IN_MAX, "probe.one_in", report);
    number(recovery.probe.calls, ONE_IN_MAX, "probe.calls", report);
    let actions = at.key("actions");
    at_most(recovery.actions.len(), ADDRESSES_MAX, &actions, report);
    for (index, action) in recovery.actions.iter().enumerate() {
        if let Action::Webhook(address) = action {
            check_address(address, &actions.index(index).key("webhook"), report);
        }
    }
}

/// The file goes into the log, where no secret may be.
fn check_address(address: &str, at: &Path, report: &mut Report) {
    if address.starts_with("env:") || address.starts_with("file:") {
        return;
    }
    let help = "write `https://HOST/PATH`, or `env:NAME` or `file:PATH` where the address is";
    match address.parse::<url::Url>() {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            report.error(at, "this is no address of http or https", help);
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => report.error(
            at,
            "an address with a password would get into the log",
            "put it into a variable or a file, and write `env:NAME` or `file:PATH`",
        ),
        Ok(url) if url.query().is_some() => report.warning(
            at,
            "what stands after `?` gets into the log with the address",
            "if it is a secret, write `env:NAME` or `file:PATH`",
        ),
        Ok(_) => {}
        Err(_) => report.error(at, "this is no address", help),
    }
}

fn at_most(count: usize, most: usize, at: &Path, report: &mut Report) {
    if count > most {
        report.error(
            at,
            format!("there are {count}"),
            format!("have at most {most}"),
        );
    }
}
