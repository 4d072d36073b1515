//! What happens in the demo, in order.

use super::scratch::Scratch;
use crate::{
    exit::Exit,
    run::{Server, interrupted},
    screen::{self, Live},
};
use anstream::println;
use anstyle::Style;
use jiff::Timestamp;
use miette::{Context as _, IntoDiagnostic as _, miette};
use serin_control::{
    PlanChoice, StartRequest,
    view::{RolloutView, ServiceView, View},
};
use serin_model::{decide::Candidate, event::Actor, name::ServiceName, rollout::Status};
use serin_testbed::{
    faults::{Fault, FaultKind},
    population::{Change, Population, PopulationOptions, Stats},
    sample::{Running, Sample, SampleOptions, ToolSet},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The tool that breaks.
const BROKEN_TOOL: &str = "search_knowledge";

/// Longest time of a rollout here; its plan needs a quarter of it.
const ROLLOUT_SECONDS_MAX: u64 = 50;

/// Phases of the demo's plan.
const PHASES: usize = 4;

/// Calls of the population after a rollback that show where everybody is now.
const CALLS_AFTERWARDS: u64 = 200;

/// Runs the demo and cleans up.
pub(super) fn tell(keep: bool, panic_on_usr2: bool) -> miette::Result<Exit> {
    end_on_panic();
    let scratch = Scratch::make()
        .into_diagnostic()
        .wrap_err("the demo needs a temporary folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .into_diagnostic()?;
    runtime.block_on(async {
        tokio::select! {
            told = play(&scratch, keep) => told,
            () = asked_to_panic(), if panic_on_usr2 => panic!("asked to panic"),
            () = interrupted() => {
                println!();
                Ok(Exit::Interrupted)
            }
        }
    })
}

/// A panic of any thread ends the demo: nothing hangs half-alive, and the janitor tidies up.
fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::exit(Exit::Error as i32);
    }));
}

async fn asked_to_panic() {
    if let Ok(mut signal) = signal(SignalKind::user_defined2()) {
        signal.recv().await;
    }
}

async fn play(scratch: &Scratch, keep: bool) -> miette::Result<Exit> {
    let began = Instant::now();
    let stage = Stage::set(scratch).await?;
    let teller = Teller { began };

    teller.say("A gateway in front of three versions of an MCP server, and a hundred clients calling its tools about");
    teller
        .say("100 times a second: half with sessions (to 2025-11-25), half without (2026-07-28).");
    teller.say("The demo's plan has wide tolerances and short phases so that a minute suffices.");

    Teller::head("Act 1: v2.0.0 is rolled out, and one of its tools breaks");
    teller.say(&format!(
        "From phase 2 on every call of {BROKEN_TOOL} on v2.0.0 fails: HTTP 200, with isError inside."
    ));
    stage.start("v2.0.0").await?;
    let mut painter = Painter::new(&teller);
    stage
        .follow(&mut painter, |rollout| rollout.phase > 0)
        .await?;
    let message = "the index is not reachable".to_owned();
    let fault = Fault::new(FaultKind::ToolError { message }).on_tool(BROKEN_TOOL);
    let injected = stage.bad.faults().set(fault).into_diagnostic()?;
    let rollout = stage.follow(&mut painter, has_ended).await?;
    drop(painter);
    expect(&rollout, Status::RolledBack)?;
    stage.settle().await;
    let taken_back = TakenBack::measure(&rollout, injected, &stage.population);
    taken_back.tell(&teller, &stage.rollout().unwrap_or(rollout));

    Teller::head("Act 2: v2.0.1 is rolled out, and it is good");
    stage.start("v2.0.1").await?;
    let rollout = stage.follow(&mut Painter::new(&teller), has_ended).await?;
    expect(&rollout, Status::Promoted)?;
    stage.settle().await;

    if keep {
        stage.keep();
        std::future::pending::<()>().await;
    }
    stage.close(&teller).await
}

fn has_ended(rollout: &RolloutView) -> bool {
    rollout.status.is_terminal()
}

fn expect(rollout: &RolloutView, status: Status) -> miette::Result<()> {
    if rollout.status == status {
        return Ok(());
    }
    Err(miette!(
        help = "run it again on a machine with less to do; if it happens again, please report it with this output",
        "the rollout to {} should be {}, and it is {}: {}",
        rollout.to,
        status.label(),
        rollout.status.label(),
        rollout.ended_reason.as_deref().unwrap_or("no reason given")
    ))
}

/// Everything that runs.
struct Stage {
    server: Server,
    population: Population,
    /// Held so that they go on running.
    _samples: [Running; 2],
    bad: Running,
}

impl Stage {
    async fn set(scratch: &Scratch) -> miette::Result<Self> {
        let v1 = sample("v1.0.0", ToolSet::V1).await?;
        let bad = sample("v2.0.0", ToolSet::V2).await?;
        let good = sample("v2.0.1", ToolSet::V2).await?;
        let file = scratch.path().join("serin.yaml");
        let text = format!(
            "# The demo's configuration.\n\
             gateway: {{ listen: 127.0.0.1:0 }}\n\
             admin: {{ listen: 127.0.0.1:0 }}\n\
             store: sqlite:serin.db\n\
             control: {{ tick: 100ms }}\n\
             services:\n  tools:\n    protocol: mcp\n    path: /mcp\n    stable: v1.0.0\n    versions:\n\
             \x20     v1.0.0: {{ endpoints: [\"{}\"] }}\n\
             \x20     v2.0.0: {{ endpoints: [\"{}\"] }}\n\
             \x20     v2.0.1: {{ endpoints: [\"{}\"] }}\n",
            v1.url(),
            bad.url(),
            good.url()
        );
        std::fs::write(&file, text).into_diagnostic()?;
        let server = Server::start(&file).await?;
        let population = Population::start(PopulationOptions {
            legacy: 50,
            modern: 50,
            calls_per_session: 10,
            ..PopulationOptions::new(format!("http://{}/mcp", server.gateway_address()))
        })
        .into_diagnostic()?;
        let stage = Self {
            server,
            population,
            _samples: [v1, good],
            bad,
        };
        // The tools are known and everybody has begun before the story does.
        stage
            .wait(|view| {
                view.service("tools")
                    .is_some_and(|s| s.versions.iter().all(|v| v.tools.is_some()))
            })
            .await?;
        Ok(stage)
    }

    async fn start(&self, version: &str) -> miette::Result<()> {
        let request = StartRequest {
            service: service()?,
            candidate: Candidate::Version(version.parse().into_diagnostic()?),
            plan: PlanChoice::Named("demo".to_owned()),
            reason: String::new(),
            accept_breaking: false,
        };
        self.server
            .control()
            .start_rollout(Actor::named("demo"), request)
            .await
            .into_diagnostic()?;
        Ok(())
    }

    /// Tells what happens until the rollout is as it should be.
    async fn follow(
        &self,
        painter: &mut Painter<'_>,
        until: impl Fn(&RolloutView) -> bool,
    ) -> miette::Result<RolloutView> {
        let mut views = self.server.control().subscribe();
        let deadline = tokio::time::sleep(Duration::from_secs(ROLLOUT_SECONDS_MAX));
        tokio::pin!(deadline);
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(service) = view.service("tools")
                && let Some(rollout) = &service.rollout
            {
                painter.show(service, rollout);
                if until(rollout) {
                    return Ok(rollout.clone());
                }
            }
            tokio::select! {
                changed = views.changed() => changed.into_diagnostic()?,
                () = &mut deadline => return Err(miette!("nothing was decided in {ROLLOUT_SECONDS_MAX} s")),
            }
        }
    }

    /// The rollout as it is now.
    fn rollout(&self) -> Option<RolloutView> {
        self.server
            .control()
            .view()
            .service("tools")?
            .rollout
            .clone()
    }

    async fn wait(&self, until: impl Fn(&View) -> bool) -> miette::Result<()> {
        let mut views: watch::Receiver<Arc<View>> = self.server.control().subscribe();
        while !until(&views.borrow_and_update()) {
            views.changed().await.into_diagnostic()?;
        }
        Ok(())
    }

    /// Until the population has gone on for a while.
    async fn settle(&self) {
        let enough = self.population.stats().calls + CALLS_AFTERWARDS;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while self.population.stats().calls < enough {
            look.tick().await;
        }
    }

    fn keep(&self) {
        let gateway = self.server.gateway_address();
        Teller::head("It goes on until Ctrl-C. Things to try by hand");
        for (what, how) in [
            ("an MCP client", format!("http://{gateway}/mcp")),
            (
                "where it stands",
                self.server.admin_command("rollout watch tools"),
            ),
            (
                "back to v1.0.0",
                self.server
                    .admin_command("rollout rollback tools --reason \"I saw enough\""),
            ),
            (
                "once more",
                self.server
                    .admin_command("rollout start tools --to v2.0.1 --plan demo --wait"),
            ),
            ("metrics", format!("curl {}", self.server.metrics_url())),
        ] {
            println!("  {what:16} {how}");
        }
    }

    async fn close(self, teller: &Teller) -> miette::Result<Exit> {
        let report = self.population.stop().await;
        self.server.stop().await?;
        let changes = ["v2.0.0", "v2.0.1"].map(|version| Change::Raised(version.to_owned()));
        // A raise a phase, and the end of v2.0.0.
        let mut changes: Vec<_> = changes
            .iter()
            .flat_map(|raise| std::iter::repeat_n(raise.clone(), PHASES))
            .collect();
        changes.push(Change::RolledBack("v2.0.0".to_owned()));
        let odd = report.unexplained_moves(&changes).len();
        Teller::head("In the end");
        let Stats {
            calls, mismatches, ..
        } = report.stats;
        teller.say(&format!(
            "{calls} calls; answers from a wrong version, endpoint, session or call: {mismatches}; callers moved without reason: {odd}"
        ));
        teller.say(&format!(
            "{:.0} s; nothing is left behind.",
            teller.began.elapsed().as_secs_f64()
        ));
        Ok(if mismatches == 0 && odd == 0 {
            Exit::Done
        } else {
            Exit::Error
        })
    }
}

fn service() -> miette::Result<ServiceName> {
    "tools".parse().into_diagnostic()
}

async fn sample(version: &str, tools: ToolSet) -> miette::Result<Running> {
    Sample::start(SampleOptions::new(version, version, tools))
        .await
        .into_diagnostic()
}

/// How a candidate was taken back, by the clients' clock.
struct TakenBack {
    /// From the injection of the fault to the decision.
    detect: Duration,
    /// From the decision to the last new call on the candidate; none when none came after it.
    act: Duration,
    /// Calls that the fault harmed.
    harmed: usize,
}

impl TakenBack {
    fn measure(rollout: &RolloutView, injected: Instant, population: &Population) -> Self {
        // The decision is on the wall clock, the clients' calls are not: one moment on both links them.
        let (instant, wall) = (Instant::now(), Timestamp::now());
        let since = rollout
            .ended_at
            .and_then(|ended| Duration::try_from(wall.duration_since(ended)).ok());
        let decided = instant
            .checked_sub(since.unwrap_or_default())
            .unwrap_or(instant);
        let last_call = population
            .stats()
            .versions
            .get("v2.0.0")
            .and_then(|stats| stats.last_sent_at);
        Self {
            detect: decided.saturating_duration_since(injected),
            act: last_call
                .map(|last| last.saturating_duration_since(decided))
                .unwrap_or_default(),
            harmed: population.book().harmed_since(injected),
        }
    }

    fn tell(&self, teller: &Teller, rollout: &RolloutView) {
        let Self {
            detect,
            act,
            harmed,
        } = self;
        teller.say(&format!(
            "by the clients' clock: {:.1} s to detect, {} ms to act (last new call on v2.0.0), {harmed} calls harmed",
            detect.as_secs_f64(),
            act.as_millis(),
        ));
        teller.say(&format!(
            "live sessions of v2.0.0: {} went on with v1.0.0, {} got a 404 and began again",
            rollout.sessions_rebound, rollout.sessions_ended
        ));
    }
}

/// Says what happens.
struct Teller {
    began: Instant,
}

impl Teller {
    fn head(text: &str) {
        let bold = Style::new().bold();
        println!("\n{bold}{text}{bold:#}");
    }

    fn say(&self, text: &str) {
        println!("{:5.1}s  {text}", self.began.elapsed().as_secs_f64());
    }
}

/// Shows a rollout as it goes on: the screen of `serin rollout watch` on a terminal, events elsewhere.
struct Painter<'a> {
    teller: &'a Teller,
    live: Option<Live>,
    /// The last event that was said.
    told: u64,
}

impl<'a> Painter<'a> {
    fn new(teller: &'a Teller) -> Self {
        Self {
            teller,
            live: screen::terminal().map(|_| Live::new()),
            told: 0,
        }
    }

    fn show(&mut self, service: &ServiceView, rollout: &RolloutView) {
        if let Some(live) = &mut self.live {
            live.paint(service, Timestamp::now());
            return;
        }
        for event in rollout
            .events
            .iter()
            .filter(|event| event.position > self.told)
        {
            self.teller.say(&event.text);
        }
        let newest = rollout.events.last().map_or(0, |event| event.position);
        self.told = self.told.max(newest);
    }
}
