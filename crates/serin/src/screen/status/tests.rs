//! What the page looks like, and that it never leaves its room.

use super::{PAPER, Size, draw};
use anstream::adapter::strip_str;
use jiff::{SignedDuration, Timestamp};
use serin_admin::status::{
    AuditStatus, EndpointStatus, FlagsStatus, KillStatus, RolloutStatus, ServiceStatus, Status,
    StoreStatus, Traffic, VersionStatus,
};
use serin_control::health::{Issue, Subject};
use serin_judge::{Level, Metric};
use serin_model::{
    name::{EndpointId, RolloutId},
    rollout::Status as RolloutState,
    service::{Protocol, VersionStage},
};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

fn endpoint(port: u32) -> EndpointStatus {
    EndpointStatus {
        id: EndpointId(port),
        url: format!("http://10.0.0.1:{port}/mcp"),
        weight: 1,
        healthy: true,
        is_new: false,
        in_flight: 3,
        breaker_open: false,
        ejected: false,
        draining: false,
        drained: false,
        warming_up: false,
    }
}

fn version(name: &str, stage: VersionStage, endpoints: Vec<EndpointStatus>) -> VersionStatus {
    VersionStatus {
        name: name.parse().unwrap(),
        stage,
        draining_until: None,
        drained: false,
        tools: Some(12),
        open_calls: 14,
        open_streams: 2,
        in_flight_max: None,
        endpoints,
    }
}

fn traffic(calls: &[u64]) -> Vec<Traffic> {
    let minutes = (0..).zip(calls);
    let minute = |(at, calls): (i64, &u64)| Traffic {
        at: NOW + SignedDuration::from_secs(60 * at),
        seconds: 60.0,
        calls: *calls,
        bad: calls / 50,
    };
    minutes.map(minute).collect()
}

fn rollout() -> RolloutStatus {
    RolloutStatus {
        id: RolloutId(Uuid::from_u128(1)),
        from: "v1.5.0".parse().unwrap(),
        to: "v2.0.0".parse().unwrap(),
        plan: "standard".to_owned(),
        status: RolloutState::Running,
        phase: 1,
        phases: 4,
        share: "25 %".parse().unwrap(),
        share_realised: Some(0.241),
        step_seconds: 64.2,
        hold_seconds: 7200.0,
        held: None,
        ready: false,
        started_at: NOW,
        ended_at: None,
        ended_reason: None,
    }
}

fn tools() -> ServiceStatus {
    let stable = vec![
        endpoint(9001),
        EndpointStatus {
            weight: 3,
            healthy: false,
            breaker_open: true,
            in_flight: 0,
            ..endpoint(9002)
        },
        EndpointStatus {
            warming_up: true,
            ..endpoint(9003)
        },
    ];
    let candidate = vec![EndpointStatus {
        ejected: true,
        ..endpoint(9004)
    }];
    let old = vec![EndpointStatus {
        draining: true,
        ..endpoint(9005)
    }];
    ServiceStatus {
        name: "tools".parse().unwrap(),
        protocol: Protocol::Mcp,
        path: "/mcp".to_owned(),
        stable: "v1.5.0".parse().unwrap(),
        versions: vec![
            VersionStatus {
                draining_until: Some(NOW),
                ..version("v1.4.0", VersionStage::Draining, old)
            },
            VersionStatus {
                in_flight_max: Some(500),
                ..version("v1.5.0", VersionStage::Serving, stable)
            },
            version("v2.0.0", VersionStage::Serving, candidate),
        ],
        rules: 4,
        rollout: Some(rollout()),
        issues: vec![Issue {
            level: Level::Critical,
            subject: Subject::Metric(Metric::ErrorRate),
            version: "v2.0.0".parse().unwrap(),
            since: NOW,
            value: Some(0.11),
            limit: Some(0.1),
            text:
                "error_rate of v2.0.0 is 11 %, limit 10 %, in 1204 calls of the last five minutes"
                    .to_owned(),
        }],
        traffic: traffic(&[0, 60, 240, 600, 900, 1200, 1180, 1210, 640, 630]),
    }
}

fn quiet(name: &str) -> ServiceStatus {
    ServiceStatus {
        name: name.parse().unwrap(),
        protocol: Protocol::Http,
        path: String::new(),
        stable: "v1".parse().unwrap(),
        versions: vec![version("v1", VersionStage::Serving, vec![endpoint(9100)])],
        rules: 0,
        rollout: None,
        issues: Vec::new(),
        traffic: traffic(&[0; 10]),
    }
}

fn status(services: Vec<ServiceStatus>) -> Status {
    Status {
        at: NOW + SignedDuration::from_mins(134),
        version: "0.6.0".to_owned(),
        revision: "cdcd8bd3c032178a74da".to_owned(),
        started_at: NOW,
        environment: "production".parse().unwrap(),
        position: 1234,
        leader: true,
        services,
        flags: FlagsStatus {
            all: 12,
            off: 2,
            off_names: vec!["dark_mode".parse().unwrap(), "search-v2".parse().unwrap()],
            ..FlagsStatus::default()
        },
        kills: vec![KillStatus {
            target: "tool:tools/search".parse().unwrap(),
            one_in: Some(10),
            at: NOW,
            actor: "kim".to_owned(),
            reason: "it deletes what it finds".to_owned(),
        }],
        audit: AuditStatus {
            rows: 120_345,
            waiting: 12,
            lost: 3,
        },
        store: StoreStatus {
            appends: 431,
            append_p99_seconds: Some(0.0042),
        },
    }
}

fn page(status: &Status, columns: usize, rows: usize) -> Vec<String> {
    let lines = draw(status, Size { columns, rows });
    lines
        .iter()
        .map(|line| strip_str(line).to_string())
        .collect()
}

/// Clock times depend on where the test runs.
fn shown(status: &Status, columns: usize, rows: usize) -> String {
    let text = page(status, columns, rows).join("\n");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest
        .find("since ")
        .into_iter()
        .chain(rest.find("until "))
        .min()
    {
        let clock = at + "since ".len();
        out += &rest[..clock];
        out += "HH:MM:SS";
        rest = &rest[clock + "HH:MM:SS".len()..];
    }
    out + rest
}

#[test]
fn a_system_in_trouble() {
    insta::assert_snapshot!(shown(
        &status(vec![quiet("files"), tools()]),
        80,
        usize::MAX
    ));
}

#[test]
fn one_without_anything() {
    let mut empty = status(vec![]);
    empty.kills.clear();
    empty.flags = FlagsStatus {
        in_doubt: true,
        ..FlagsStatus::default()
    };
    empty.audit = AuditStatus::default();
    empty.store.append_p99_seconds = None;
    empty.leader = false;
    insta::assert_snapshot!(shown(&empty, 80, 24));
}

#[test]
fn many_services_get_a_line_each_unless_something_is_wrong() {
    let mut services: Vec<_> = (1..12).map(|n| quiet(&format!("files-{n}"))).collect();
    let mut wide = quiet("wide");
    wide.versions[0].endpoints = (9000..9020).map(endpoint).collect();
    wide.versions[0].endpoints[7].healthy = false;
    services.push(wide);
    insta::assert_snapshot!(shown(&status(services), 80, 40));
}

#[test]
fn the_page_stays_in_its_room() {
    let mut odd = status(vec![tools(), quiet("files")]);
    odd.kills[0].reason = "tab\there\nand \x1b[31mred 規則".repeat(10);
    odd.services[0].issues[0].text = "規則 ".repeat(60);
    for columns in [1, 2, 20, 40, 79, 80, 200] {
        for rows in [1, 2, 5, 24, 60, usize::MAX] {
            let lines = page(&odd, columns, rows);
            assert!(lines.len() < rows, "{} lines on {rows} rows", lines.len());
            for line in lines {
                assert!(
                    textwrap::core::display_width(&line) <= columns,
                    "{line:?} on {columns} columns"
                );
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
            }
        }
    }
    let paper = page(&odd, PAPER.columns, PAPER.rows).join("\n");
    assert!(paper.contains("log") && paper.contains("killed"), "{paper}");
}

#[test]
fn a_drain_that_is_over_has_no_end_to_come() {
    let (said, mut over) = (tools(), tools());
    over.versions[0].drained = true;
    let line = |service: &ServiceStatus| super::details(service, 200).remove(0).cut(200);
    assert!(line(&said).contains(" until "), "{}", line(&said));
    let over = line(&over);
    assert!(
        over.contains("drained") && !over.contains("until"),
        "{over}"
    );
}
