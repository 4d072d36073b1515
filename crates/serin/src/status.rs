//! `serin status`: the whole system on one page.

use crate::{
    cli::{Global, StatusArgs},
    client::{Client, block_on},
    exit::Exit,
    problem::Problem,
    rollout::{print, to_json},
    run::interrupted,
    screen::{self, Live, status::draw},
};
use miette::Report;
use serin_admin::status::Status;
use std::time::{Duration, Instant};

/// Where it is asked for.
const PATH: &str = "/admin/v1/status";
/// Time from one picture to the next.
const EVERY: Duration = Duration::from_secs(1);
/// How long a server that has gone may stay away: a restart takes a second or two.
const AWAY_MAX: Duration = Duration::from_secs(30);

pub(crate) fn status(global: &Global, args: &StatusArgs) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        let status: Status = client.get(PATH).await?;
        if args.watch {
            return watch(&mut client, status, args.json).await;
        }
        print(&if args.json {
            to_json(&status)?
        } else {
            page(&status)
        })?;
        Ok(Exit::Done)
    })
}

fn page(status: &Status) -> String {
    let size = screen::Size {
        rows: usize::MAX,
        ..screen::terminal().unwrap_or(screen::PAPER)
    };
    draw(status, size).join("\n") + "\n"
}

/// Draws it anew each second until somebody interrupts: over itself on a terminal, else one below the other; as JSON, a line each.
async fn watch(client: &mut Client, first: Status, json: bool) -> miette::Result<Exit> {
    let mut live = (!json && screen::terminal().is_some()).then(Live::new);
    let mut next = Some(first);
    let mut seen = Instant::now();
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        if let Some(status) = next {
            seen = Instant::now();
            match &mut live {
                Some(live) => {
                    let size = screen::terminal().unwrap_or(screen::PAPER);
                    live.paint_lines(&draw(&status, size));
                }
                None if json => print(&line(&status)?)?,
                None => print(&(page(&status) + "\n"))?,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = &mut interrupted => return Ok(Exit::Done),
        }
        let asked = tokio::select! {
            asked = client.get(PATH) => asked,
            () = &mut interrupted => return Ok(Exit::Done),
        };
        next = match asked {
            Ok(status) => Some(status),
            Err(error) if seen.elapsed() > AWAY_MAX => return Err(error),
            Err(_) => {
                if let Some(live) = &mut live {
                    live.note("the server does not answer; trying to reach it again");
                }
                None
            }
        };
    }
}

fn line(status: &Status) -> miette::Result<String> {
    let text = serde_json::to_string(status).map_err(|error| {
        let what = "the picture cannot be written as JSON";
        Report::new(Problem::new(what, "this is a bug worth a report").because(error))
    })?;
    Ok(text + "\n")
}
