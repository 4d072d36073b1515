//! `serin rollout list`.

use crate::{
    client::Client,
    exit::Exit,
    rollout::{print, to_json},
};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

pub(super) async fn list(client: &mut Client, json: bool) -> miette::Result<Exit> {
    let rollouts: Vec<Value> = client.get("/admin/v1/rollouts").await?;
    print(&if json {
        to_json(&rollouts)?
    } else {
        table(&rollouts)
    })?;
    Ok(Exit::Done)
}

fn table(rollouts: &[Value]) -> String {
    if rollouts.is_empty() {
        return "no rollouts; begin one with `serin rollout start SERVICE --to VERSION`\n"
            .to_owned();
    }
    let mut out = format!(
        "{:<20} {:<16} {:<24} {:<14} {:<13} {:>8}  {}\n",
        "STARTED", "SERVICE", "VERSIONS", "PLAN", "STATUS", "SHARE", "WHY"
    );
    for rollout in rollouts {
        let text = |key: &str| rollout[key].as_str().unwrap_or("-").to_owned();
        let started = text("started_at").parse::<Timestamp>().map_or_else(
            |_| "-".to_owned(),
            |at| {
                at.to_zoned(TimeZone::system())
                    .strftime("%Y-%m-%d %H:%M:%S")
                    .to_string()
            },
        );
        out += &format!(
            "{started:<20} {:<16} {:<24} {:<14} {:<13} {:>8}  {}\n",
            text("service"),
            format!("{} -> {}", text("from"), text("to")),
            text("plan"),
            text("status"),
            text("share"),
            text("ended_reason"),
        );
    }
    out
}
