//! `serin service`: what there is.

use crate::{
    cli::{Global, Service},
    client::{Client, block_on},
    exit::Exit,
    rollout::{print, to_json},
};
use jiff::Timestamp;
use serin_control::view::ServiceView;
use serin_model::drain::Drain;

pub(crate) fn dispatch(global: &Global, command: &Service) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Service::List { json } => {
                let services: Vec<ServiceView> = client.get("/admin/v1/services").await?;
                print(&if *json {
                    to_json(&services)?
                } else {
                    list(&services)
                })?;
            }
            Service::Show { service, json } => {
                let service: ServiceView =
                    client.get(&format!("/admin/v1/services/{service}")).await?;
                print(&if *json {
                    to_json(&service)?
                } else {
                    show(&service)
                })?;
            }
        }
        Ok(Exit::Done)
    })
}

fn list(services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "no services; describe them in a file and run `serin apply -f FILE`\n".to_owned();
    }
    let mut out = format!(
        "{:<20} {:<20} {:<16} {:<16} {}\n",
        "SERVICE", "PATH", "STABLE", "CANDIDATE", "ROLLOUT"
    );
    for service in services {
        let active = service
            .rollout
            .as_ref()
            .filter(|rollout| !rollout.status.is_terminal());
        let candidate = active.map_or("-", |rollout| rollout.to.as_str());
        let state = service.rollout.as_ref().map_or_else(
            || "-".to_owned(),
            |rollout| match active {
                Some(_) => format!("{} at {}", rollout.status.label(), rollout.share_wanted),
                None => format!("{} ({})", rollout.status.label(), rollout.to),
            },
        );
        out += &format!(
            "{:<20} {:<20} {:<16} {:<16} {state}\n",
            service.name, service.path, service.stable, candidate
        );
    }
    out
}

fn show(service: &ServiceView) -> String {
    let mut out = format!(
        "{}  {}  {:?}\n",
        service.name, service.path, service.protocol
    )
    .to_lowercase();
    for version in &service.versions {
        let stable = if version.name == service.stable {
            "  stable"
        } else {
            ""
        };
        let tools = version
            .tools
            .map_or_else(String::new, |tools| format!("  {tools} tools"));
        let stage = format!("{:?}", version.stage).to_lowercase();
        let drain = drained(version.drain.as_ref());
        out += &format!(
            "  {}{stable}  {stage}{tools}  {} calls and {} streams open{drain}\n",
            version.name, version.open_calls, version.open_streams
        );
        for endpoint in &version.endpoints {
            let of_version = version.drain.as_ref();
            // What is drained is not probed any more.
            let health = match endpoint.healthy {
                _ if version.drained().any(|drained| drained.id == endpoint.id) => "not probed",
                true if endpoint.is_new => "new",
                true => "healthy",
                false => "unhealthy",
            };
            let drain = match (&endpoint.drain, of_version) {
                (None, Some(of_version)) if !of_version.is_over => "  draining".to_owned(),
                (drain, _) => drained(drain.as_ref()),
            };
            out += &format!("    {}  {}  {health}{drain}\n", endpoint.id, endpoint.url);
        }
    }
    out
}

/// Whether something takes no new callers, and until when what is there may go on.
fn drained(drain: Option<&Drain>) -> String {
    let Some(drain) = drain else {
        return String::new();
    };
    let what = match (drain.is_over, drain.is_leaving) {
        (true, _) => "drained".to_owned(),
        (false, leaves) => format!(
            "{} until {}",
            if leaves { "leaving" } else { "draining" },
            to_the_second(drain.until)
        ),
    };
    format!("  {what} ({})", drain.reason)
}

/// A time without its fraction of a second.
fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
