//! The questions that are asked of the table `audit_logs`: those of the Stage I seed (sections 3.2 to 3.6), as they run on `SQLite`.
//!
//! The seed's own do not: `PERCENTILE_CONT` and `INDEX` inside of `CREATE TABLE` are not `SQLite`'s, tools are searched in the error
//! messages of calls that have none, and a window is compared with times in another form.

use std::{fmt::Write as _, time::Duration};

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// As it is asked for: `serin report NAME`.
    pub name: &'static str,
    /// What it answers.
    pub about: &'static str,
    template: &'static str,
}

macro_rules! question {
    ($name:literal, $about:literal) => {
        Question {
            name: $name,
            about: $about,
            template: include_str!(concat!("questions/", $name, ".sql")),
        }
    };
}

/// All of them.
pub const QUESTIONS: [Question; 11] = [
    question!("errors", "Error rate by endpoint"),
    question!("latency", "Latency by endpoint: P50, P95, P99"),
    question!("auth", "How many requests got neither 401 nor 403"),
    question!("tools", "Success and latency by tool"),
    question!("uploads", "Success of document uploads"),
    question!("search", "Latency of searches"),
    question!("generation", "Latency of multi-candidate generation"),
    question!("guards", "How many guard runs pass"),
    question!("publishing", "Success of publishing, by platform"),
    question!("oauth", "Success of OAuth calls"),
    question!("analytics", "Success of analytics syncs"),
];

impl Question {
    /// The one of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        QUESTIONS.iter().find(|question| question.name == name)
    }

    /// To run, with the time since when as `?1`, in the table's form, and the tenant, if it is about one, as `?2`.
    pub fn query(&self, of_tenant: bool) -> String {
        self.filled("?1", if of_tenant { " AND tenant_id = ?2" } else { "" })
    }

    /// To read, and to run by hand.
    pub fn text(&self, window: Duration, tenant: Option<&str>) -> String {
        let mut of_tenant = String::new();
        if let Some(tenant) = tenant {
            // Writing into memory does not fail.
            let _ = write!(
                of_tenant,
                " AND tenant_id = '{}'",
                tenant.replace('\'', "''")
            );
        }
        self.filled(
            &format!("datetime('now', '{}')", modifier(window)),
            &of_tenant,
        )
    }

    fn filled(&self, since: &str, tenant: &str) -> String {
        let filled = self.template.replace("{since}", since);
        filled.replace("{tenant}", tenant)
    }
}

/// A window in `SQLite`'s words.
fn modifier(window: Duration) -> String {
    let seconds = window.as_secs();
    match (seconds / 3600, seconds % 3600, seconds % 60) {
        (1, 0, _) => "-1 hour".to_owned(),
        (hours, 0, _) => format!("-{hours} hours"),
        (_, _, 0) => format!("-{} minutes", seconds / 60),
        _ => format!("-{seconds} seconds"),
    }
}

macro_rules! quantile {
    ($quantile:literal) => {
        concat!(
            "WITH ranked AS (SELECT request_duration_ms AS ms, ROW_NUMBER() OVER (ORDER BY request_duration_ms) - 1 AS place,
             COUNT(*) OVER () - 1 AS last FROM audit_logs WHERE timestamp > ?1{tenant} AND outcome <> 'cancelled'
             AND COALESCE(rpc_method, '') NOT IN ('stream', 'subscriptions/listen'))
             SELECT COUNT(*) AS requests, SUM(ms * MAX(0, 1 - ABS(place - ",
            $quantile,
            " * last))) AS value FROM ranked"
        )
    };
}

/// A number about a window, as the seed's scripts ask for it (section 9.2).
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// As it is asked for.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    sql: &'static str,
}

/// All of them.
pub const FIGURES: [Figure; 6] = [
    Figure {
        name: "error_rate",
        unit: "percent",
        sql: "SELECT COUNT(*) AS requests, SUM(status_code >= 400 OR outcome IN ('tool_error', 'rpc_error', 'timeout', 'transport'))
              * 100.0 / COUNT(*) AS value FROM audit_logs WHERE timestamp > ?1{tenant} AND outcome <> 'cancelled'",
    },
    Figure {
        name: "p95_latency",
        unit: "milliseconds",
        sql: quantile!("0.95"),
    },
    Figure {
        name: "p99_latency",
        unit: "milliseconds",
        sql: quantile!("0.99"),
    },
    Figure {
        name: "availability",
        unit: "percent",
        sql: "SELECT COUNT(*) AS requests, SUM(status_code < 500 AND outcome NOT IN ('timeout', 'transport')) * 100.0 / COUNT(*)
              AS value FROM audit_logs WHERE timestamp > ?1{tenant} AND outcome <> 'cancelled'",
    },
    Figure {
        name: "throughput",
        unit: "requests a second",
        sql: "SELECT COUNT(*) AS requests, COUNT(*) * 1.0 / {seconds} AS value FROM audit_logs WHERE timestamp > ?1{tenant}",
    },
    Figure {
        name: "auth_success_rate",
        unit: "percent",
        sql: "SELECT COUNT(*) AS requests, SUM(status_code NOT IN (401, 403)) * 100.0 / COUNT(*) AS value FROM audit_logs
              WHERE timestamp > ?1{tenant}",
    },
];

impl Figure {
    /// The one of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.name == name)
    }

    /// To run, as [`Question::query`]; gives one row, of `requests` and `value`, which is null without a request.
    pub fn query(&self, window: Duration, of_tenant: bool) -> String {
        let tenant = if of_tenant { " AND tenant_id = ?2" } else { "" };
        let seconds = window.as_secs().max(1).to_string();
        let filled = self.sql.replace("{tenant}", tenant);
        filled.replace("{seconds}", &seconds)
    }
}
