//! The questions of the audit trail, asked of known rows whose answers are worked out here in another way.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]

use jiff::{SignedDuration, Timestamp};
use serin_control::audit::{
    Cell,
    questions::{FIGURES, Figure, QUESTIONS, Question},
    sql_time,
};
use serin_store::{Answer, Audit, AuditEntry};
use std::{collections::BTreeMap, time::Duration};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_hours(1);
const ENDPOINTS: [&str; 4] = ["/mcp", "/api/tool", "/api/tools", "/v1/tools"];
const TOOLS: [&str; 14] = [
    "upload_documents",
    "search_knowledge",
    "generate_multi_candidate",
    "run_guards",
    "publish_multi_platform",
    "publish_linkedin",
    "publish_twitter",
    "publish_facebook",
    "publish_instagram",
    "oauth_connect",
    "oauth_callback",
    "sync_post_analytics",
    "echo",
    "publish_other",
];
const ENDS: [(u16, &str); 12] = [
    (200, "ok"),
    (200, "ok"),
    (200, "ok"),
    (200, "tool_error"),
    (200, "called_badly"),
    (200, "rpc_error"),
    (401, "auth"),
    (403, "scope"),
    (429, "rate_limit"),
    (502, "transport"),
    (504, "timeout"),
    (499, "cancelled"),
];

/// Numbers that look random and are always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }
}

/// Rows of the last two hours; every second is older than one.
fn rows(count: usize) -> Vec<AuditEntry> {
    let mut dice = Dice(7);
    let now = Timestamp::now();
    (0..count)
        .map(|number| {
            let age = if number % 2 == 0 {
                60 + dice.below(3000)
            } else {
                3700 + dice.below(3000)
            };
            let at = now - SignedDuration::from_secs(i64::try_from(age).unwrap());
            let (status, outcome) = ENDS[dice.below(ENDS.len())];
            let is_stream = dice.below(20) == 0;
            AuditEntry {
                id: format!("01890000-0000-7000-8000-{number:012}").into(),
                at_micros: at.as_microsecond(),
                tenant: ["acme", "globex"][dice.below(2)].into(),
                endpoint: ENDPOINTS[dice.below(ENDPOINTS.len())].into(),
                method: "POST".into(),
                status,
                duration_ms: u32::try_from(dice.below(2000)).unwrap(),
                tool: (!is_stream && dice.below(10) > 0)
                    .then(|| TOOLS[dice.below(TOOLS.len())].into()),
                rpc_method: Some(if is_stream { "stream" } else { "tools/call" }.into()),
                outcome: outcome.into(),
                ..AuditEntry::default()
            }
        })
        .collect()
}

async fn tables(rows: &[AuditEntry]) -> (TempDir, Audit) {
    let folder = tempfile::tempdir().unwrap();
    let tables = Audit::open(&folder.path().join("a.audit.db"))
        .await
        .unwrap();
    for rows in rows.chunks(5000) {
        tables.append(rows).await.unwrap();
    }
    (folder, tables)
}

fn since() -> String {
    sql_time(Timestamp::now() - SignedDuration::from_hours(1))
}

async fn ask(tables: &Audit, name: &str, tenant: Option<&str>) -> Answer {
    let question = Question::find(name).unwrap();
    let mut values = vec![Cell::Text(since())];
    values.extend(tenant.map(|tenant| Cell::Text(tenant.into())));
    tables
        .ask(&question.query(tenant.is_some()), &values)
        .await
        .unwrap()
}

/// Between two values, in proportion, as `PERCENTILE_CONT` is defined (SQL:2003).
fn percentile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = quantile * (values.len() - 1) as f64;
    let (low, high) = (
        values[place.floor() as usize],
        values[place.ceil() as usize],
    );
    low + (high - low) * (place - place.floor())
}

fn number(cell: &Cell) -> f64 {
    match cell {
        Cell::Integer(number) => *number as f64,
        Cell::Real(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn by_name(answer: &Answer) -> BTreeMap<String, Vec<f64>> {
    let named = answer.rows.iter().map(|row| match &row[0] {
        Cell::Text(name) => (name.clone(), row[1..].iter().map(number).collect()),
        other => panic!("{other:?}"),
    });
    named.collect()
}

fn same(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
    }
}

fn grouped<'a>(
    rows: impl Iterator<Item = &'a AuditEntry>,
    name: impl Fn(&AuditEntry) -> Option<String>,
) -> BTreeMap<String, Vec<&'a AuditEntry>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        if let Some(name) = name(row) {
            groups.entry(name).or_default().push(row);
        }
    }
    groups
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn is_good(row: &AuditEntry) -> bool {
    matches!(&*row.outcome, "ok" | "input_required")
}

fn times(rows: &[&AuditEntry]) -> Vec<f64> {
    rows.iter().map(|row| f64::from(row.duration_ms)).collect()
}

/// Total, good ones, their share.
fn success(rows: &[&AuditEntry]) -> Vec<f64> {
    let good = rows.iter().filter(|row| is_good(row)).count();
    vec![rows.len() as f64, good as f64, share(good, rows.len())]
}

#[tokio::test]
async fn the_seeds_questions_are_answered_rightly() {
    let all = rows(4000);
    let (_folder, tables) = tables(&all).await;
    for tenant in [None, Some("acme")] {
        let recent = || {
            let limit = (Timestamp::now() - SignedDuration::from_hours(1)).as_microsecond();
            let of_tenant =
                move |row: &&AuditEntry| tenant.is_none_or(|tenant| *row.tenant == *tenant);
            all.iter()
                .filter(move |row| row.at_micros > limit)
                .filter(of_tenant)
        };

        let found = by_name(&ask(&tables, "errors", tenant).await);
        let groups = grouped(recent(), |row| Some(row.endpoint.to_string()));
        assert_eq!(found.len(), groups.len());
        for (endpoint, rows) in &groups {
            let errors = rows.iter().filter(|row| row.status >= 400).count();
            let inside = rows.iter().filter(|row| {
                row.status == 200 && matches!(&*row.outcome, "tool_error" | "rpc_error")
            });
            same(
                &found[endpoint],
                &[
                    rows.len() as f64,
                    errors as f64,
                    share(errors, rows.len()),
                    inside.count() as f64,
                ],
            );
        }

        let found = by_name(&ask(&tables, "latency", tenant).await);
        let no_stream = recent().filter(|row| row.rpc_method.as_deref() != Some("stream"));
        for (endpoint, rows) in grouped(no_stream, |row| Some(row.endpoint.to_string())) {
            let mut ms = times(&rows);
            let quantiles = [0.5, 0.95, 0.99].map(|quantile| percentile(&mut ms, quantile));
            same(
                &found[&endpoint],
                &[&[rows.len() as f64][..], &quantiles].concat(),
            );
        }

        let answer = ask(&tables, "auth", tenant).await;
        let fine = recent()
            .filter(|row| !matches!(row.status, 401 | 403))
            .count();
        let found: Vec<_> = answer.rows[0].iter().map(number).collect();
        same(
            &found,
            &[
                recent().count() as f64,
                fine as f64,
                share(fine, recent().count()),
            ],
        );

        let kept = || recent().filter(|row| &*row.outcome != "cancelled");
        let tools = grouped(kept(), |row| row.tool.as_deref().map(str::to_owned));
        let found = by_name(&ask(&tables, "tools", tenant).await);
        assert_eq!(found.len(), tools.len());
        for (tool, rows) in &tools {
            let mut ms = times(rows);
            let mean = ms.iter().sum::<f64>() / ms.len() as f64;
            same(
                &found[tool],
                &[success(rows), vec![mean, percentile(&mut ms, 0.95)]].concat(),
            );
        }

        for (name, tool) in [
            ("uploads", "upload_documents"),
            ("guards", "run_guards"),
            ("analytics", "sync_post_analytics"),
        ] {
            let answer = ask(&tables, name, tenant).await;
            let found: Vec<_> = answer.rows[0].iter().map(number).collect();
            same(&found, &success(&tools[tool]));
        }
        for (name, tool) in [
            ("search", "search_knowledge"),
            ("generation", "generate_multi_candidate"),
        ] {
            let answer = ask(&tables, name, tenant).await;
            let mut ms = times(&tools[tool]);
            let found: Vec<_> = answer.rows[0][..2].iter().map(number).collect();
            same(&found, &[ms.len() as f64, percentile(&mut ms, 0.95)]);
            if let Some(mean) = answer.rows[0].get(2) {
                same(&[number(mean)], &[ms.iter().sum::<f64>() / ms.len() as f64]);
            }
        }

        let oauth: Vec<_> = kept()
            .filter(|row| {
                row.tool
                    .as_deref()
                    .is_some_and(|tool| tool.contains("oauth"))
            })
            .collect();
        let answer = ask(&tables, "oauth", tenant).await;
        let found: Vec<_> = answer.rows[0].iter().map(number).collect();
        same(&found, &success(&oauth));

        let platform = |row: &AuditEntry| {
            let tool = row.tool.as_deref()?;
            let platform = match tool.strip_prefix("publish_")? {
                "linkedin" => "LinkedIn",
                "twitter" => "Twitter",
                "facebook" => "Facebook",
                "instagram" => "Instagram",
                "multi_platform" => "All",
                _ => "Other",
            };
            Some(platform.to_owned())
        };
        let found = by_name(&ask(&tables, "publishing", tenant).await);
        let platforms = grouped(kept(), platform);
        assert_eq!(found.len(), 6);
        for (platform, rows) in &platforms {
            same(&found[platform], &success(rows));
        }
    }
}

#[tokio::test]
async fn figures_are_those_of_the_window() {
    let all = rows(3000);
    let (_folder, tables) = tables(&all).await;
    let limit = (Timestamp::now() - SignedDuration::from_hours(1)).as_microsecond();
    let recent: Vec<_> = all.iter().filter(|row| row.at_micros > limit).collect();
    let kept: Vec<_> = recent
        .iter()
        .copied()
        .filter(|row| &*row.outcome != "cancelled")
        .collect();
    let count = |rows: &[&AuditEntry], is: &dyn Fn(&AuditEntry) -> bool| {
        rows.iter().filter(|row| is(row)).count()
    };
    let is_error = |row: &AuditEntry| {
        row.status >= 400
            || matches!(
                &*row.outcome,
                "tool_error" | "rpc_error" | "timeout" | "transport"
            )
    };
    let steady: Vec<_> = kept
        .iter()
        .copied()
        .filter(|row| row.rpc_method.as_deref() != Some("stream"))
        .collect();
    let mut ms = times(&steady);
    for (name, wanted) in [
        ("error_rate", share(count(&kept, &is_error), kept.len())),
        ("p95_latency", percentile(&mut ms.clone(), 0.95)),
        ("p99_latency", percentile(&mut ms, 0.99)),
        (
            "availability",
            share(count(&kept, &|row| row.status < 500), kept.len()),
        ),
        ("throughput", recent.len() as f64 / 3600.0),
        (
            "auth_success_rate",
            share(
                count(&recent, &|row| !matches!(row.status, 401 | 403)),
                recent.len(),
            ),
        ),
    ] {
        let figure = Figure::find(name).unwrap();
        let answer = tables
            .ask(&figure.query(HOUR, false), &[Cell::Text(since())])
            .await
            .unwrap();
        assert_eq!(answer.columns, ["requests", "value"], "{name}");
        same(&[number(&answer.rows[0][1])], &[wanted]);
    }
    assert_eq!(FIGURES.len(), 6);
}

#[tokio::test]
async fn without_a_request_there_is_no_figure() {
    let (_folder, tables) = tables(&[]).await;
    for figure in &FIGURES {
        let values = [Cell::Text(since()), Cell::Text("acme".into())];
        let answer = tables
            .ask(&figure.query(HOUR, true), &values)
            .await
            .unwrap();
        assert_eq!(answer.rows[0][0], Cell::Integer(0), "{}", figure.name);
        let value = &answer.rows[0][1];
        assert!(
            matches!(value, Cell::Null) || *value == Cell::Real(0.0),
            "{}: {value:?}",
            figure.name
        );
    }
}

/// No question reads more than its window, and none of a tenant more than the tenant's part of it.
#[tokio::test]
async fn every_question_uses_an_index() {
    let (_folder, tables) = tables(&rows(2000)).await;
    let queries = |of_tenant| {
        let questions = QUESTIONS
            .iter()
            .map(move |question| (question.name, question.query(of_tenant)));
        questions.chain(
            FIGURES
                .iter()
                .map(move |figure| (figure.name, figure.query(HOUR, of_tenant))),
        )
    };
    for of_tenant in [false, true] {
        for (name, query) in queries(of_tenant) {
            let sql = query
                .lines()
                .filter(|line| !line.starts_with("--"))
                .collect::<Vec<_>>()
                .join("\n");
            let values = [Cell::Text(since()), Cell::Text("acme".into())];
            let plan = tables
                .ask(
                    &format!("EXPLAIN QUERY PLAN {sql}"),
                    &values[..=usize::from(of_tenant)],
                )
                .await
                .unwrap();
            let steps: Vec<String> = plan
                .rows
                .iter()
                .map(|row| format!("{:?}", row[3]))
                .collect();
            let reads: Vec<_> = steps
                .iter()
                .filter(|step| step.contains("audit_logs"))
                .collect();
            assert_eq!(reads.len(), 1, "{name}: {steps:?}");
            let index = [
                "idx_timestamp",
                "idx_tenant_timestamp",
                "idx_tool",
                "idx_endpoint",
            ];
            assert!(
                reads[0].contains("SEARCH") && index.iter().any(|index| reads[0].contains(index)),
                "{name}: {steps:?}"
            );
            if of_tenant {
                assert!(
                    reads[0].contains("tenant_id=?") || reads[0].contains("tool=?"),
                    "{name}: {steps:?}"
                );
            }
        }
    }
}

/// What the guide says is what is asked: each block of SQL there is that of a question, runs, and gives the same answer.
#[tokio::test]
async fn the_guide_has_the_same_questions() {
    let guide =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit.md"))
            .unwrap();
    let blocks: Vec<_> = guide
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let (_folder, tables) = tables(&rows(1000)).await;
    for question in &QUESTIONS {
        let text = question.text(HOUR, None);
        assert!(
            blocks.contains(&text.as_str()),
            "docs/audit.md lacks `{}`, or has it otherwise:\n{text}",
            question.name
        );
        let by_hand = tables.ask(&text, &[]).await.unwrap();
        assert_eq!(
            by_hand,
            ask(&tables, question.name, None).await,
            "{}",
            question.name
        );
        let of_tenant = tables
            .ask(&question.text(HOUR, Some("acme")), &[])
            .await
            .unwrap();
        assert_eq!(of_tenant, ask(&tables, question.name, Some("acme")).await);
    }
    let quoted = Question::find("auth").unwrap().text(
        Duration::from_mins(90),
        Some("a'; DROP TABLE audit_logs; --"),
    );
    assert!(
        quoted.contains("'-90 minutes'") && quoted.contains("'a''; DROP"),
        "{quoted}"
    );
    tables.ask(&quoted, &[]).await.unwrap();
}
