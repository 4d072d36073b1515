//! `serin rollout watch`: follows a rollout until it ends; the exit code says how.

use crate::{
    client::{Client, Events},
    exit::Exit,
    problem::Problem,
    rollout::print,
    run::interrupted,
    screen::{self, Live},
};
use jiff::Timestamp;
use miette::Report;
use serin_control::view::{RolloutView, ServiceView};
use serin_model::{
    name::{RolloutId, ServiceName},
    rollout::Status,
};
use std::time::{Duration, Instant};

/// How long a server that has gone may stay away: a restart takes a second or two.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Time from one attempt to reach it again to the next.
const AGAIN: Duration = Duration::from_millis(500);

/// Where changes are shown.
pub(super) enum Sink {
    /// A screen drawn over itself.
    Screen(Box<Live>),
    /// A line an event.
    Lines {
        /// The last event that was told.
        told: u64,
    },
    /// A JSON text a change.
    Json {
        /// The last one.
        last: Option<Box<ServiceView>>,
    },
}

impl Sink {
    pub(super) fn choose(json: bool) -> Self {
        if json {
            Self::Json { last: None }
        } else {
            Self::after(0)
        }
    }

    /// Events up to a position were told already.
    pub(super) fn after(told: u64) -> Self {
        match screen::terminal() {
            Some(_) => Self::Screen(Box::new(Live::new())),
            None => Self::Lines { told },
        }
    }

    fn show(&mut self, service: ServiceView, rollout: &RolloutView) -> miette::Result<()> {
        match self {
            Self::Screen(live) => live.paint(&service, Timestamp::now()),
            Self::Lines { told } => {
                print(&lines(rollout, told))?;
            }
            Self::Json { last } => {
                if last.as_deref().is_some_and(|last| same(last, &service)) {
                    return Ok(());
                }
                let text = serde_json::to_string(&service).map_err(|error| {
                    Report::new(
                        Problem::new(
                            "the picture cannot be written as JSON",
                            "this is a bug worth a report",
                        )
                        .because(error),
                    )
                })?;
                print(&(text + "\n"))?;
                *last = Some(Box::new(service));
            }
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        match self {
            Self::Screen(live) => live.note(text),
            Self::Lines { .. } | Self::Json { .. } => eprintln!("{text}"),
        }
    }
}

/// Events that were not told yet, and the end.
fn lines(rollout: &RolloutView, told: &mut u64) -> String {
    let mut text = String::new();
    if *told == 0 {
        text += &format!(
            "{} -> {}, plan {}, {}\n",
            rollout.from,
            rollout.to,
            rollout.plan,
            rollout.status.label()
        );
    }
    for event in rollout.events.iter().filter(|event| event.position > *told) {
        text += &format!("{}  {}\n", screen::clock(event.at), event.text);
    }
    *told = rollout
        .events
        .last()
        .map_or(*told, |event| event.position.max(*told));
    text
}

/// Time alone is no change.
fn same(a: &ServiceView, b: &ServiceView) -> bool {
    let still = |view: &ServiceView| {
        let mut view = view.clone();
        if let Some(rollout) = &mut view.rollout {
            rollout.step_seconds = 0.0;
        }
        view
    };
    still(a) == still(b)
}

/// Follows the rollout, or the one with an id, until it ends or somebody interrupts.
pub(super) async fn watch(
    client: &mut Client,
    service: &ServiceName,
    mut sink: Sink,
    only: Option<RolloutId>,
) -> miette::Result<Exit> {
    let path = format!("/admin/v1/services/{service}/rollout/watch");
    let mut events = client.follow(&path).await?;
    let mut exit = Exit::StillRunning;
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        let next = tokio::select! {
            next = events.next::<ServiceView>() => next,
            () = &mut interrupted => return Ok(exit),
        };
        let Ok(Some(view)) = next else {
            sink.note("the connection to the server is lost; trying to reach it again");
            events = tokio::select! {
                events = again(client, &path) => events?,
                () = &mut interrupted => return Ok(exit),
            };
            continue;
        };
        let rollout = super::rollout_of(&view)?.clone();
        if only.is_some_and(|only| only != rollout.id) {
            continue;
        }
        sink.show(view, &rollout)?;
        exit = Exit::of(rollout.status);
        if rollout.status.is_terminal() || rollout.status == Status::Inconclusive {
            return Ok(exit);
        }
    }
}

/// A rollout goes on when its server is started again; so does whoever watches it.
async fn again(client: &mut Client, path: &str) -> miette::Result<Events> {
    let began = Instant::now();
    loop {
        tokio::time::sleep(AGAIN).await;
        match client.follow(path).await {
            Err(error) if began.elapsed() > AWAY_MAX => return Err(error),
            Err(_) => {}
            Ok(events) => return Ok(events),
        }
    }
}
