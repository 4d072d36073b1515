//! What `serin flag` prints for people.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

/// Longest value that a table shows, in characters.
const VALUE_CHARS_MAX: usize = 60;

pub(super) fn list(answer: &Value, stale: bool) -> String {
    let mut out = String::new();
    if let Some(why) = answer["file"]["stale"].as_str() {
        out += &format!(
            "the file of flags {} is not in force: {why}\n\n",
            text(&answer["file"]["path"])
        );
    }
    let flags = answer["flags"].as_array().map_or(&[][..], Vec::as_slice);
    let alone = alone(&answer["forced"]);
    if flags.is_empty() {
        out += if !stale && !alone.is_empty() {
            &alone
        } else if stale {
            "no stale flags\n"
        } else {
            "no flags; create one with `serin flag create KEY`\n"
        };
        return out;
    }
    let wide = flags.iter().map(|flag| text(&flag["key"]).len()).max();
    let wide = wide.unwrap_or_default().max(3);
    out += &format!(
        "{:<wide$}  {:<9} {:<12} {:>8} {:>8}  {:<17} {:<14} {}\n",
        "KEY", "STATE", "DEFAULT", "SHARE", "ASKED", "CHANGED", "BY", "NOTES"
    );
    for flag in flags {
        out += &format!(
            "{:<wide$}  {:<9} {:<12} {:>8} {:>8}  {:<17} {:<14} {}\n",
            text(&flag["key"]),
            state(flag),
            text(&flag["flag"]["defaultVariant"]),
            share(flag),
            asked(flag),
            time(&flag["changed_at"]),
            text(&flag["changed_by"]),
            notes(flag).join(", "),
        );
    }
    if !stale && !alone.is_empty() {
        out += &format!("\n{alone}");
    }
    // Lines without notes end in blanks.
    let lines: Vec<_> = out.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// What `SERIN_FLAGS` says of names that no flag has.
fn alone(forced: &Value) -> String {
    let names = forced.as_object().into_iter().flatten();
    let said: Vec<_> = names
        .map(|(key, on)| format!("{key} is {}", on_or_off(on)))
        .collect();
    if said.is_empty() {
        return String::new();
    }
    format!("by SERIN_FLAGS, without a flag: {}\n", said.join(", "))
}

fn on_or_off(on: &Value) -> &'static str {
    if *on == true { "on" } else { "off" }
}

pub(super) fn one(flag: &Value) -> String {
    let definition = &flag["flag"];
    let ours = &definition["serin"];
    let mut out = format!("{}  {}", text(&flag["key"]), state(flag));
    for note in notes(flag) {
        out += &format!("  {note}");
    }
    out += &format!(
        "\n  who gets it now: {}\n  revision {}, changed {} by {}\n",
        share(flag),
        flag["revision"],
        time(&flag["changed_at"]),
        text(&flag["changed_by"])
    );
    let off = text(&ours["offVariant"]);
    let default = text(&definition["defaultVariant"]);
    for (name, value) in definition["variants"].as_object().into_iter().flatten() {
        let mut marks = String::new();
        for (mark, is_it) in [("  default", *name == default), ("  off", *name == off)] {
            if is_it {
                marks += mark;
            }
        }
        let asked = flag["evaluations"][name].as_u64().unwrap_or_default();
        out += &format!("  {name} = {}{marks}  asked {asked} times\n", brief(value));
    }
    for (name, value) in [
        ("rule", &definition["targeting"]),
        ("environments", &ours["environments"]),
        ("schedule", &ours["schedule"]),
        ("expires", &ours["expires"]),
        ("owner", &ours["owner"]),
        ("notes", &definition["metadata"]),
    ] {
        if !value.is_null() {
            let shown = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            out += &format!("  {name}: {shown}\n");
        }
    }
    for (tenant, variant) in flag["overrides"].as_object().into_iter().flatten() {
        out += &format!("  tenant {tenant}: {}\n", text(variant));
    }
    let shown = flag["overrides"]
        .as_object()
        .map_or(0, serde_json::Map::len) as u64;
    let tenants = flag["tenants"].as_u64().unwrap_or_default();
    if tenants > shown {
        out += &format!("  and {} more tenants\n", tenants - shown);
    }
    out
}

pub(super) fn evaluation(answer: &Value) -> String {
    let mut out = format!(
        "{} = {} ({}, {}: {})\n",
        text(&answer["key"]),
        brief(&answer["value"]),
        text(&answer["variant"]),
        text(&answer["reason"]),
        in_words(answer["why"].as_str().unwrap_or_default()),
    );
    if let Some(error) = answer["error"].as_str() {
        out += &format!("its rule cannot be evaluated: {error}\n");
    }
    out
}

fn in_words(why: &str) -> &str {
    match why {
        "latch" => "all flags are killed, or everything here is",
        "kill" => "it is killed",
        "expired" => "its time is over",
        "tenant_override" => "the tenant has a variant of its own",
        "environment_override" => "the environment has a variant of its own",
        "rollout" => "a rollout sets it",
        "release" => "a rollout of the flag splits its users",
        "state" => "it is disabled",
        "schedule" => "its schedule",
        "targeting" => "its rule",
        "default" => "its default",
        other => other,
    }
}

pub(super) fn imported(answer: &Value) -> String {
    let mut out = String::new();
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        out += &format!("note: {}\n", text(warning));
    }
    let done = answer["done"].as_array().map_or(&[][..], Vec::as_slice);
    for line in done {
        out += &format!("{}\n", text(line));
    }
    let unchanged = answer["unchanged"].as_u64().unwrap_or_default();
    let changes = counted(done.len() as u64, "change");
    let flags = counted(unchanged, "flag");
    out += &match answer["applied"].as_bool() {
        Some(true) => format!("{changes}; {flags} as before\n"),
        _ => format!("{changes} would be made; {flags} would stay as before\n"),
    };
    out
}

pub(super) fn history(events: &[Value]) -> String {
    if events.is_empty() {
        return "nothing has happened to it\n".to_owned();
    }
    let mut out = String::new();
    for event in events {
        out += &format!(
            "{:<17} {:<14} {}\n",
            time(&event["at"]),
            text(&event["actor"]),
            text(&event["text"])
        );
    }
    out
}

fn counted(number: u64, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

fn state(flag: &Value) -> String {
    if flag["killed"] == true {
        return "killed".to_owned();
    }
    text(&flag["flag"]["state"]).to_lowercase()
}

fn notes(flag: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(service) = flag["released_on"].as_str() {
        notes.push(format!("released on {service}"));
    }
    if !flag["forced"].is_null() {
        notes.push(format!("{} by SERIN_FLAGS", on_or_off(&flag["forced"])));
    }
    let tenants = flag["tenants"].as_u64().unwrap_or_default();
    if tenants > 0 {
        notes.push(counted(tenants, "tenant"));
    }
    for mark in flag["stale"].as_array().into_iter().flatten() {
        notes.push(text(mark).replace('_', " "));
    }
    notes
}

/// How many get it now; a rule may not say that in one number.
fn share(flag: &Value) -> String {
    let percentage = flag["share"].as_f64();
    percentage.map_or_else(
        || "by rule".to_owned(),
        |percentage| format!("{percentage} %"),
    )
}

fn asked(flag: &Value) -> u64 {
    let counts = flag["evaluations"].as_object().into_iter().flatten();
    counts.filter_map(|(_, count)| count.as_u64()).sum()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn brief(value: &Value) -> String {
    let shown = value.to_string();
    if shown.chars().count() <= VALUE_CHARS_MAX {
        return shown;
    }
    let start: String = shown.chars().take(VALUE_CHARS_MAX).collect();
    format!("{start}...")
}

fn time(value: &Value) -> String {
    let at = value.as_str().and_then(|at| at.parse::<Timestamp>().ok());
    at.map_or_else(
        || "-".to_owned(),
        |at| {
            at.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M")
                .to_string()
        },
    )
}
