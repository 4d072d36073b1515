//! Kill switches in files: what is wrong is said with its place.

use serin_config::read_manifest;
use serin_flags::kill::Priority;
use std::time::Duration;

/// The switch of the Cortex guide: off at 20 % errors, three attempts to come back, five minutes apart.
const CORTEX: &str = "\
kill_switches:
  search:
    description: Search is switched off when a fifth of its calls fail
    target: tool:tools/search
    triggers:
      - { error_rate: 20 %, for: 10s, min_calls: 50 }
      - { latency_p95: 5s, for: 1m }
      - { health: down }
      - { alert: memory_leak, level: critical }
    window: 1m
    grace: 30s
    priority: critical
    recovery:
      delay: 5m
      attempts: 3
      probe: { one_in: 10, calls: 20 }
      actions:
        - webhook: env:SEARCH_RESTART_HOOK
        - flag_off: new_search
    notify: [\"env:ON_CALL_HOOK\"]
";

#[test]
fn the_example_is_read() {
    let read = read_manifest(CORTEX, "kills.yaml").unwrap();
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    let switch = &read.value.kill_switches["search"];
    assert_eq!(switch.priority, Priority::Critical);
    assert_eq!(switch.triggers[0].lasting, Duration::from_secs(10));
    let recovery = switch.recovery.as_ref().unwrap();
    assert_eq!((recovery.attempts, recovery.actions.len()), (3, 2));
    let text = serde_json::to_string(&read.value).unwrap();
    assert_eq!(
        read_manifest(&text, "kills.json").unwrap().value,
        read.value
    );
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (good, bad, line, field, message) in [
        (
            "target: tool:tools/search",
            "target: search",
            4,
            "",
            "not something that can be killed",
        ),
        (
            "target: tool:tools/search",
            "target: tenant:acme",
            5,
            "triggers",
            "not counted",
        ),
        (
            "target: tool:tools/search",
            "target: flag:a\n    watch: flags",
            5,
            "watch",
            "not counted",
        ),
        (
            "error_rate: 20 %, ",
            "error_rate: 20 %, health: down, ",
            6,
            "triggers[0]",
            "2 conditions",
        ),
        ("error_rate: 20 %, ", "", 6, "triggers[0]", "0 conditions"),
        ("memory_leak", "memory_leek", 9, "alert", "no alert"),
        (
            "{ health: down }",
            "{ health: down, level: critical }",
            8,
            "level",
            "of alerts",
        ),
        ("for: 1m", "for: 2d", 7, "", ""),
        ("window: 1m", "window: 2h", 10, "window", "out of bounds"),
        ("grace: 30s", "grace: 2h", 11, "grace", "out of bounds"),
        ("priority: critical", "priority: urgent", 12, "", ""),
        ("delay: 5m", "delay: 0s", 14, "delay", "out of bounds"),
        (
            "attempts: 3",
            "attempts: 101",
            15,
            "attempts",
            "out of bounds",
        ),
        ("one_in: 10", "one_in: 0", 16, "one_in", "out of bounds"),
        ("calls: 20 }", "calls: 0 }", 16, "calls", "out of bounds"),
        (
            "env:SEARCH_RESTART_HOOK",
            "hook",
            18,
            "webhook",
            "no address",
        ),
        (
            "env:ON_CALL_HOOK",
            "ftp://h/x",
            20,
            "notify[0]",
            "no address of http",
        ),
        (
            "env:ON_CALL_HOOK",
            "https://user:secret@h/x",
            20,
            "notify[0]",
            "into the log",
        ),
        ("  search:", "  'se arch':", 2, "se arch", "not a name"),
    ] {
        assert!(CORTEX.contains(good), "{good}");
        let error = read_manifest(&CORTEX.replacen(good, bad, 1), "kills.yaml").unwrap_err();
        let found = &error.diagnostics[0];
        assert!(found.message.contains(message), "{bad}: {found:?}");
        assert!(found.field.ends_with(field), "{bad}: {found:?}");
        assert_eq!(found.position.unwrap().line, line, "{bad}: {found:?}");
        assert!(
            !found.help.is_empty() && !found.to_string().contains("secret@"),
            "{bad}"
        );
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    for (good, bad, message) in [
        (
            "env:ON_CALL_HOOK",
            "https://h/x?token=1",
            "gets into the log",
        ),
        (
            "    triggers:\n      - { error_rate: 20 %, for: 10s, min_calls: 50 }\n      - { latency_p95: 5s, for: 1m }\n      - { health: down }\n      - { alert: memory_leak, level: critical }\n",
            "",
            "only pulled by hand",
        ),
    ] {
        let read = read_manifest(&CORTEX.replacen(good, bad, 1), "kills.yaml").unwrap();
        assert!(
            read.warnings[0].message.contains(message),
            "{:?}",
            read.warnings
        );
    }
}
