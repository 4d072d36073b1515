//! `/metrics`: the counters and gauges of `docs/metrics.md`, made anew for each scrape from what the control plane holds.

mod endpoints;
mod histogram;
mod process;

use crate::{App, Build};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use histogram::Edges;
use http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use serin_control::{
    Control,
    totals::Totals,
    view::{RolloutView, ServiceView, View},
};
use serin_judge::{
    LogHistogram, Scope,
    sequential::{Aspect, Proof},
};
use serin_model::{
    observe::{Counts, Outcome},
    rollout::Status,
};
use std::{collections::BTreeMap, fmt};

/// The format that is answered.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The scopes of kills: always there, so that an alert on one of them sees it come.
const SCOPES: [&str; 8] = [
    "environment",
    "flag",
    "flags",
    "service",
    "system",
    "tenant",
    "tool",
    "version",
];

pub(crate) fn registry(control: Control, build: Build) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics { control, build }));
    registry.register_collector(Box::new(process::Process));
    registry
}

/// Everything, in the `OpenMetrics` text format.
pub(crate) async fn scrape(State(app): State<App>) -> Response {
    let mut out = String::new();
    match text::encode(&mut out, &app.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], out).into_response(),
        // Writing into memory fails only by a mistake in a metric's name.
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

struct Metrics {
    control: Control,
    build: Build,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.control.view();
        let totals = self.control.totals();
        let mut page = Page { encoder };
        calls(&mut page, &totals)?;
        versions(&mut page, &view)?;
        endpoints::of_each(&mut page, &self.control)?;
        endpoints::counters(&mut page, &totals)?;
        turned_away(&mut page, &totals)?;
        flags(&mut page, &totals)?;
        rollouts(&mut page, &view, &totals)?;
        control_plane(&mut page, &view, &totals)?;
        kills(&mut page, &self.control)?;
        audit(&mut page, &self.control)?;
        let build = [
            ("version", self.build.version),
            ("revision", self.build.revision),
        ];
        page.family(
            "serin_build_info",
            "What this is",
            MetricType::Gauge,
            |family| family.gauge(&build, 1.0),
        )
    }
}

fn calls(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    page.family(
        "serin_requests",
        "Finished calls",
        MetricType::Counter,
        |family| {
            for (key, counts) in &totals.calls {
                for outcome in Outcome::ALL {
                    let n = counts.of(outcome);
                    if n > 0 {
                        let labels = [
                            ("service", key.service.as_str()),
                            ("version", key.version.as_str()),
                            ("tool", &key.tool),
                            ("era", key.era.label()),
                            ("outcome", outcome.label()),
                        ];
                        family.counter(&labels, n)?;
                    }
                }
            }
            Ok(())
        },
    )?;
    let by_tool = summed(totals, |key| {
        [key.service.as_str(), key.version.as_str(), &key.tool]
    });
    page.family(
        "serin_request_duration_seconds",
        "Time to the last byte of good calls",
        MetricType::Histogram,
        |family| {
            for ([service, version, tool], counts) in &by_tool {
                let labels = [
                    ("service", *service),
                    ("version", *version),
                    ("tool", *tool),
                ];
                family.histogram(&labels, Edges::LATENCY, &counts.last_byte)?;
            }
            Ok(())
        },
    )?;
    let by_version = summed(totals, |key| [key.service.as_str(), key.version.as_str()]);
    page.family(
        "serin_first_byte_seconds",
        "Time to the first byte of good calls",
        MetricType::Histogram,
        |family| {
            for ([service, version], counts) in &by_version {
                family.histogram(
                    &[("service", *service), ("version", *version)],
                    Edges::LATENCY,
                    &counts.first_byte,
                )?;
            }
            Ok(())
        },
    )?;
    for (name, help, bytes) in [
        (
            "serin_request_bytes",
            "Bytes of request bodies",
            (|c| c.request_bytes) as fn(&Counts) -> u64,
        ),
        ("serin_response_bytes", "Bytes of answers", |c| {
            c.response_bytes
        }),
    ] {
        page.family(name, help, MetricType::Counter, |family| {
            for ([service, version], counts) in &by_version {
                family.counter(
                    &[("service", *service), ("version", *version)],
                    bytes(counts),
                )?;
            }
            Ok(())
        })?;
    }
    page.family(
        "serin_overhead_seconds",
        "Time spent in the gateway, upstream excluded",
        MetricType::Histogram,
        |family| {
            for (service, seconds) in &totals.overhead {
                family.histogram(&[("service", service.as_str())], Edges::SHORT, seconds)?;
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_rollback_seconds",
        "From the decision to take a candidate back to the routing table that does so",
        MetricType::Histogram,
        |family| {
            for ((service, strategy), seconds) in &totals.rollback_seconds {
                let labels = [
                    ("service", service.as_str()),
                    ("strategy", strategy.label()),
                ];
                family.histogram(&labels, Edges::SHORT, seconds)?;
            }
            Ok(())
        },
    )
}

/// The calls summed up by a part of their key.
fn summed<'a, const N: usize>(
    totals: &'a Totals,
    part: impl Fn(&'a serin_model::observe::CellKey) -> [&'a str; N],
) -> BTreeMap<[&'a str; N], Counts> {
    let mut sums: BTreeMap<_, Counts> = BTreeMap::new();
    for (key, counts) in &totals.calls {
        sums.entry(part(key)).or_default().merge(counts);
    }
    sums
}

fn versions(page: &mut Page<'_>, view: &View) -> fmt::Result {
    for (name, help, value) in [
        (
            "serin_in_flight_requests",
            "Calls open now",
            (|v| v.open_calls) as fn(&serin_control::view::VersionView) -> u64,
        ),
        (
            "serin_open_streams",
            "Event streams and subscriptions open now",
            |v| v.open_streams,
        ),
    ] {
        page.family(name, help, MetricType::Gauge, |family| {
            for service in &view.services {
                for version in &service.versions {
                    let labels = [
                        ("service", service.name.as_str()),
                        ("version", version.name.as_str()),
                    ];
                    family.gauge(&labels, value(version) as f64)?;
                }
            }
            Ok(())
        })?;
    }
    page.family(
        "serin_upstream_health",
        "1 when the endpoint answers its probes",
        MetricType::Gauge,
        |family| {
            for service in &view.services {
                for version in &service.versions {
                    for endpoint in &version.endpoints {
                        let labels = [
                            ("service", service.name.as_str()),
                            ("version", version.name.as_str()),
                            ("endpoint", &endpoint.url),
                        ];
                        family.gauge(&labels, f64::from(u8::from(endpoint.healthy)))?;
                    }
                }
            }
            Ok(())
        },
    )
}

fn turned_away(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    page.family(
        "serin_rejections",
        "Requests that the gateway turned away",
        MetricType::Counter,
        |family| {
            for ((service, reason), n) in &totals.rejections {
                let service = service.as_ref().map_or("none", |service| service.as_str());
                family.counter(&[("service", service), ("reason", reason.label())], *n)?;
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_auth",
        "Requests that had to prove who they come from",
        MetricType::Counter,
        |family| {
            for (result, n) in &totals.auth {
                family.counter(&[("result", result)], *n)?;
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_rate_limited",
        "Requests over a limit",
        MetricType::Counter,
        |family| {
            for ((service, limit), n) in &totals.limited {
                family.counter(&[("service", service.as_str()), ("limit", limit)], *n)?;
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_degraded",
        "Times that something took the place of what did not answer",
        MetricType::Counter,
        |family| {
            for (dependency, n) in &totals.degraded {
                family.counter(&[("dependency", dependency)], *n)?;
            }
            Ok(())
        },
    )
}

fn flags(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    page.family(
        "serin_flag_evaluations",
        "Answers of flags",
        MetricType::Counter,
        |family| {
            for (flag, answers) in &totals.flags {
                for ((variant, reason), n) in &answers.counts {
                    let labels = [
                        ("flag", flag.as_str()),
                        ("variant", variant.as_ref()),
                        ("reason", reason.label()),
                    ];
                    family.counter(&labels, *n)?;
                }
            }
            Ok(())
        },
    )
}

fn rollouts(page: &mut Page<'_>, view: &View, totals: &Totals) -> fmt::Result {
    let latest = || {
        view.services
            .iter()
            .filter_map(|service| Some((service, service.rollout.as_ref()?)))
    };
    let gauge =
        |page: &mut Page<'_>, name, help, value: fn(&ServiceView, &RolloutView) -> Option<f64>| {
            page.family(name, help, MetricType::Gauge, |family| {
                for (service, rollout) in latest() {
                    if let Some(value) = value(service, rollout) {
                        family.gauge(&[("service", service.name.as_str())], value)?;
                    }
                }
                Ok(())
            })
        };
    gauge(
        page,
        "serin_share_wanted_ratio",
        "Share of new keys that should get the candidate",
        |_, rollout| Some(rollout.share_wanted.ratio()),
    )?;
    gauge(
        page,
        "serin_share_realised_ratio",
        "Share of new keys that got the candidate in this step",
        |_, rollout| rollout.share_realised(),
    )?;
    gauge(
        page,
        "serin_rollout_phase",
        "Phase of the rollout, from 1; 0 when it is over",
        |_, rollout| {
            Some(if rollout.status.is_terminal() {
                0.0
            } else {
                (rollout.phase + 1) as f64
            })
        },
    )?;
    page.family(
        "serin_rollout_state",
        "1 for the state of the latest rollout",
        MetricType::Gauge,
        |family| {
            for (service, rollout) in latest() {
                for status in Status::ALL {
                    let labels = [
                        ("service", service.name.as_str()),
                        ("state", status.label()),
                    ];
                    family.gauge(&labels, f64::from(u8::from(rollout.status == status)))?;
                }
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_verdict_evidence",
        "Decimal logarithm of the evidence on the candidate of the latest rollout",
        MetricType::Gauge,
        |family| {
            for (service, rollout) in latest() {
                for (metric, side, log10) in rollout.proof.iter().flat_map(evidence) {
                    let labels = [
                        ("service", service.name.as_str()),
                        ("metric", metric),
                        ("side", side),
                    ];
                    family.gauge(&labels, log10)?;
                }
            }
            Ok(())
        },
    )?;
    page.family(
        "serin_rollouts",
        "Rollouts that ended",
        MetricType::Counter,
        |family| {
            for ((service, ending), n) in &totals.rollouts {
                family.counter(
                    &[("service", service.as_str()), ("result", ending.label())],
                    *n,
                )?;
            }
            Ok(())
        },
    )
}

/// The pooled comparisons and what they say together, by metric and side. Tools are left out: they are many, and `all` has them.
fn evidence(proof: &Proof) -> Vec<(&'static str, &'static str, f64)> {
    let mut sides = vec![
        ("all", "regression", proof.worse.log10),
        ("all", "safe", proof.safe.log10),
    ];
    for line in proof.lines.iter().filter(|line| line.scope == Scope::All) {
        let metric = match line.aspect {
            Aspect::Errors => "errors",
            Aspect::Unserved => "unserved",
            Aspect::FirstByte => "first_byte",
            Aspect::LastByte => "last_byte",
        };
        sides.push((metric, "regression", line.worse.log10));
        sides.extend(line.safe.map(|safe| (metric, "safe", safe.log10)));
    }
    sides
}

fn control_plane(page: &mut Page<'_>, view: &View, totals: &Totals) -> fmt::Result {
    page.family(
        "serin_log_appends",
        "Appends to the log",
        MetricType::Counter,
        |family| family.counter(&[], totals.append_seconds.count()),
    )?;
    page.family(
        "serin_log_append_seconds",
        "Time of an append, to the disk",
        MetricType::Histogram,
        |family| family.histogram(&[], Edges::SHORT, &totals.append_seconds),
    )?;
    page.family(
        "serin_control_tick_seconds",
        "Time of one look at the counts",
        MetricType::Histogram,
        |family| family.histogram(&[], Edges::SHORT, &totals.tick_seconds),
    )?;
    page.family(
        "serin_leader",
        "1 on the process that decides",
        MetricType::Gauge,
        |family| family.gauge(&[], f64::from(u8::from(view.leader))),
    )
}

fn audit(page: &mut Page<'_>, control: &Control) -> fmt::Result {
    let counted = control.books().counted();
    for (name, help, n) in [
        (
            "serin_audit_rows",
            "Requests in the audit table",
            counted.stored,
        ),
        (
            "serin_audit_spilled",
            "Requests that waited for the audit table in its file alone",
            counted.spilled,
        ),
        (
            "serin_audit_lost",
            "Requests that could not be recorded",
            counted.lost,
        ),
    ] {
        page.family(name, help, MetricType::Counter, |family| {
            family.counter(&[], n)
        })?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let waiting = counted.waiting as f64;
    page.family(
        "serin_audit_waiting",
        "Requests that wait for the audit table",
        MetricType::Gauge,
        |family| family.gauge(&[], waiting),
    )
}

fn kills(page: &mut Page<'_>, control: &Control) -> fmt::Result {
    let book = control.kills();
    let mut active: BTreeMap<_, u32> = SCOPES.map(|scope| (scope, 0)).into();
    for kill in book.active() {
        *active.entry(kill.target.scope()).or_default() += 1;
    }
    page.family(
        "serin_kill_switches_active",
        "What is killed or being tried",
        MetricType::Gauge,
        |family| {
            for (scope, n) in &active {
                family.gauge(&[("scope", scope)], f64::from(*n))?;
            }
            Ok(())
        },
    )?;
    let took = control.kill_propagation();
    page.family(
        "serin_kill_propagation_seconds",
        "Time from a kill to where it is in force (latch), kept (file) and recorded (log)",
        MetricType::Histogram,
        |family| {
            for (path, seconds) in [
                ("latch", &took.latch),
                ("file", &took.file),
                ("log", &took.log),
            ] {
                family.histogram(&[("path", path)], Edges::SHORT, seconds)?;
            }
            Ok(())
        },
    )
}

/// Families one after another.
pub(crate) struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

/// The series of one family.
pub(crate) struct Family<'a> {
    encoder: MetricEncoder<'a>,
}

type Labels<'a> = [(&'a str, &'a str)];

impl Page<'_> {
    /// `name` without the ending `_total` of counters, which the format adds.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, kind)?;
        series(&mut Family { encoder })
    }
}

impl Family<'_> {
    fn counter(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.series(labels, |series| {
            series.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        self.series(labels, |series| series.encode_gauge(&value))
    }

    fn histogram(
        &mut self,
        labels: &Labels<'_>,
        edges: Edges,
        values: &LogHistogram,
    ) -> fmt::Result {
        let buckets = edges.count(values);
        let sum = histogram::sum_seconds(values);
        self.series(labels, |series| {
            series.encode_histogram::<NoLabelSet>(sum, values.count(), &buckets, None)
        })
    }

    fn series(
        &mut self,
        labels: &Labels<'_>,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        if labels.is_empty() {
            return write(&mut self.encoder);
        }
        write(&mut self.encoder.encode_family(&labels)?)
    }
}
