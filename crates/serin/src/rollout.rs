//! `serin rollout`: begin, look, steer.

mod ahead;
mod explain;
mod figures;
mod list;
mod replay;
mod watch;

use crate::{
    cli::{Global, LookArgs, Rollout, RolloutCommand, StartArgs, Strategy},
    client::{Client, block_on},
    exit::Exit,
    problem::{self, Problem},
    screen,
};
use jiff::Timestamp;
use miette::Report;
use serde::Deserialize;
use serde_json::{Value, json};
use serin_control::view::{RolloutView, ServiceView};
use serin_model::name::{RolloutId, ServiceName};
use std::path::Path;

/// What a command has done.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {
    #[serde(rename = "done")]
    lines: Vec<String>,
    rollout: Option<RolloutId>,
    position: Option<u64>,
}

pub(crate) fn dispatch(global: &Global, command: RolloutCommand) -> miette::Result<Exit> {
    let command = match command {
        RolloutCommand::Plan(args) => return ahead::plan(global, &args),
        RolloutCommand::Simulate(args) => return ahead::simulate(global, &args),
        RolloutCommand::Asked(command) => command,
    };
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Rollout::Start(args) => start(&mut client, args).await,
            Rollout::Status(args) => status(&mut client, &args).await,
            Rollout::Abort(args) => {
                steer(
                    &mut client,
                    &args.service,
                    "abort",
                    json!({ "reason": args.reason }),
                )
                .await
            }
            Rollout::Pause(args) => {
                steer(
                    &mut client,
                    &args.service,
                    "pause",
                    json!({ "reason": args.reason }),
                )
                .await
            }
            Rollout::Resume { service } => steer(&mut client, &service, "resume", json!({})).await,
            Rollout::Share {
                service,
                share,
                reason,
            } => {
                steer(
                    &mut client,
                    &service,
                    "share",
                    json!({ "share": share, "reason": reason }),
                )
                .await
            }
            Rollout::Promote {
                service,
                full,
                overridden,
                reason,
            } => {
                let body = json!({ "full": full, "override": overridden, "reason": reason.unwrap_or_default() });
                steer(&mut client, &service, "promote", body).await
            }
            Rollout::Rollback {
                steer: args,
                strategy,
            } => {
                let strategy = match strategy {
                    Strategy::Immediate => "immediate",
                    Strategy::Gradual => "gradual",
                };
                let body = json!({ "reason": args.reason, "strategy": strategy });
                steer(&mut client, &args.service, "rollback", body).await
            }
            Rollout::Watch(args) => {
                watch::watch(
                    &mut client,
                    &args.service,
                    watch::Sink::choose(args.json),
                    None,
                )
                .await
            }
            Rollout::Signal {
                service,
                kind,
                reason,
            } => {
                let body = json!({ "signal": kind, "reason": reason });
                steer(&mut client, &service, "signal", body).await
            }
            Rollout::Replay(args) => replay::replay(&mut client, &args).await,
            Rollout::Explain(args) => explain::explain(&mut client, &args).await,
            Rollout::List { json } => list::list(&mut client, json).await,
        }
    })
}

async fn start(client: &mut Client, args: StartArgs) -> miette::Result<Exit> {
    let (plan, plan_name) = plan(&args.plan)?;
    let body = json!({
        "to": args.to,
        "flag": args.flag,
        "variant": args.variant,
        "plan": plan,
        "plan_name": plan_name,
        "reason": args.reason,
        "accept_breaking": args.accept_breaking,
    });
    let done: Done = client
        .post(
            &format!("/admin/v1/services/{}/rollout", args.service),
            &body,
        )
        .await?;
    say(&done)?;
    if args.wait {
        let sink = watch::Sink::after(done.position.unwrap_or_default());
        return watch::watch(client, &args.service, sink, done.rollout).await;
    }
    Ok(Exit::Done)
}

/// Whether a plan is named by its file: a word with a dot or slash is one.
fn is_file(text: &str) -> bool {
    text.contains(['/', '.'])
}

/// A plan by its name, or the content of a file and what it is called.
fn plan(text: &str) -> miette::Result<(Value, Option<String>)> {
    let path = Path::new(text);
    if !is_file(text) {
        return Ok((Value::String(text.to_owned()), None));
    }
    let plan = crate::check::read_plan(path)?;
    let plan = serde_json::to_value(&plan).map_err(|error| {
        Report::new(
            Problem::new("the plan cannot be sent", "this is a bug worth a report").because(error),
        )
    })?;
    let name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    Ok((plan, name))
}

async fn steer(
    client: &mut Client,
    service: &ServiceName,
    what: &str,
    body: Value,
) -> miette::Result<Exit> {
    let done: Done = client
        .post(
            &format!("/admin/v1/services/{service}/rollout/{what}"),
            &body,
        )
        .await?;
    say(&done)?;
    Ok(Exit::Done)
}

pub(crate) fn say(done: &Done) -> miette::Result<()> {
    if done.lines.is_empty() {
        return print("nothing to do: it is so already\n");
    }
    print(&(done.lines.join("\n") + "\n"))
}

async fn status(client: &mut Client, args: &LookArgs) -> miette::Result<Exit> {
    let service: ServiceView = client
        .get(&format!("/admin/v1/services/{}", args.service))
        .await?;
    let rollout = rollout_of(&service)?;
    let exit = Exit::of(rollout.status);
    if args.json {
        print(&to_json(rollout)?)?;
    } else {
        let size = screen::Size {
            rows: usize::MAX,
            ..screen::terminal().unwrap_or(screen::PAPER)
        };
        print(&(screen::draw(&service, rollout, Timestamp::now(), size).join("\n") + "\n"))?;
    }
    Ok(exit)
}

pub(crate) fn rollout_of(service: &ServiceView) -> miette::Result<&RolloutView> {
    service.rollout.as_ref().ok_or_else(|| {
        Report::new(Problem::new(
            format!("service `{}` has had no rollout", service.name),
            format!(
                "begin one with `serin rollout start {} --to VERSION`",
                service.name
            ),
        ))
    })
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> miette::Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Report::new(
            Problem::new(
                "the answer cannot be written as JSON",
                "this is a bug worth a report",
            )
            .because(error),
        )
    })?;
    Ok(text + "\n")
}

pub(crate) fn print(text: &str) -> miette::Result<()> {
    use std::io::Write as _;
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(problem::output)
}
