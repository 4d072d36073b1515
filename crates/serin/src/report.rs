//! `serin report`: what the audit trail says.

use crate::{
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    flag::in_query,
    problem::Problem,
    rollout::{print, to_json},
};
use clap::{Args, builder::PossibleValuesParser};
use miette::Report as Refused;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_control::audit::questions::{QUESTIONS, Question};
use serin_model::text::{format_duration, parse_duration};
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What about.
    #[arg(value_parser = PossibleValuesParser::new(QUESTIONS.map(|question| question.name)))]
    question: String,
    /// How far back, such as `5m`, `12h` or `7d`, up to 31d.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    window: Duration,
    /// Of one tenant alone.
    #[arg(long)]
    tenant: Option<String>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
    /// Print the SQL and ask nothing: it runs on the file STORE.audit.db.
    #[arg(long, conflicts_with = "json")]
    sql: bool,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    report: String,
    about: String,
    window_seconds: u64,
    recording: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    sql: String,
}

pub(crate) fn report(global: &Global, args: &ReportArgs) -> miette::Result<Exit> {
    if args.sql {
        let Some(question) = Question::find(&args.question) else {
            return Err(Refused::new(Problem::new(
                format!("there is no report `{}`", args.question),
                "`serin report --help` names them",
            )));
        };
        print(&question.text(args.window, args.tenant.as_deref()))?;
        return Ok(Exit::Done);
    }
    let mut client = Client::find(global)?;
    let path = path(args);
    let answer: Answer = block_on(async { client.get(&path).await })?;
    if !answer.recording {
        eprintln!("nothing is recorded now: `audit.mode` is off");
    }
    print(&if args.json {
        to_json(&answer)?
    } else {
        table(&answer)
    })?;
    Ok(Exit::Done)
}

fn path(args: &ReportArgs) -> String {
    let window = in_query(&format_duration(args.window));
    let mut path = format!("/admin/v1/report/{}?window={window}", args.question);
    if let Some(tenant) = &args.tenant {
        path += &format!("&tenant={}", in_query(tenant));
    }
    path
}

/// As a table: texts to the left, numbers to the right.
fn table(answer: &Answer) -> String {
    if answer.rows.is_empty() {
        return "no requests in this time\n".to_owned();
    }
    let names = answer.columns.iter().map(|name| name.to_uppercase());
    let mut lines: Vec<Vec<String>> = vec![names.collect()];
    lines.extend(
        answer
            .rows
            .iter()
            .map(|row| row.iter().map(shown).collect()),
    );
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..answer.columns.len()).map(width).collect();
    let is_text = |column: usize| {
        let first = answer.rows.first().and_then(|row| row.get(column));
        first.is_some_and(Value::is_string)
    };
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text += &if is_text(column) {
                format!("{cell:<width$}  ")
            } else {
                format!("{cell:>width$}  ")
            };
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // Names come from clients: nothing of them steers a terminal.
        Value::String(text) => text
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter })
            .collect(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let answer = Answer {
            report: "errors".into(),
            about: String::new(),
            window_seconds: 3600,
            recording: true,
            tenant: None,
            columns: vec!["endpoint".into(), "total".into(), "rate".into()],
            rows: vec![
                vec!["/mcp".into(), 1000.into(), 0.25.into()],
                vec!["/a\u{1b}[2J".into(), 7.into(), Value::Null],
            ],
            sql: String::new(),
        };
        let wanted = "ENDPOINT  TOTAL  RATE\n/mcp       1000  0.25\n/a?[2J        7     -\n";
        assert_eq!(table(&answer), wanted);
        let none = Answer {
            rows: vec![],
            ..answer
        };
        assert_eq!(table(&none), "no requests in this time\n");
    }

    #[test]
    fn a_tenant_is_written_so_that_it_stays_one() {
        let args = ReportArgs {
            question: "errors".into(),
            window: Duration::from_mins(90),
            tenant: Some("a&b c".into()),
            json: false,
            sql: false,
        };
        assert_eq!(
            path(&args),
            "/admin/v1/report/errors?window=1h%2030m&tenant=a%26b%20c"
        );
    }
}
