//! The command line: one definition for parser, help and completions.

use crate::exit::Exit;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use serin_flags::{FlagKey, Target};
use serin_model::{
    name::{RolloutId, ServiceName, VersionName},
    share::Share,
};
use std::{io::Write as _, path::PathBuf, time::Duration};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 error, 2 usage, 10 rolled back or aborted, 11 inconclusive, 12 still running.";

/// Progressive delivery for MCP servers: a new version gets a small share of sessions, is compared with the stable one call by
/// call, and is promoted or taken back by itself.
#[derive(Debug, Parser)]
#[command(name = "serin", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration; without it, `serin.yaml` in this folder.
    #[arg(short, long, global = true, value_name = "FILE", env = "SERIN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The admin API: `http://127.0.0.1:9090`, `https://...` or `unix:PATH`; without it, as the configuration says.
    #[arg(long, global = true, value_name = "URL", env = "SERIN_ADMIN")]
    pub(crate) admin: Option<String>,
    /// The file with the admin API's token; without it, `$SERIN_TOKEN`, then as the configuration says.
    #[arg(long, global = true, value_name = "FILE", env = "SERIN_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file of certificates (PEM) that an admin API at `https://` is checked by; without it, the system's.
    #[arg(long, global = true, value_name = "FILE", env = "SERIN_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// No colours. `NO_COLOR` does the same.
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway, the control plane and the admin API.
    Run(RunArgs),
    /// Say what is wrong in a configuration, or in a plan.
    Check(CheckArgs),
    /// Make what a file describes.
    Apply(FileArgs),
    /// Show what `serin apply` would change. Exits with 0 when nothing, 1 when something, 2 when it cannot tell.
    Diff(FileArgs),
    /// Begin, watch and steer rollouts.
    Rollout {
        #[command(subcommand)]
        command: RolloutCommand,
    },
    /// Show everything on one page: services, endpoints, rollouts, flags, kills, traffic.
    Status(StatusArgs),
    /// Show what each version of a service did, what is wrong with it, and where it is going.
    Health {
        #[command(subcommand)]
        command: Health,
    },
    /// Show what the audit trail says: errors, latency, authentication, tools, publishing.
    Report(crate::report::ReportArgs),
    /// Look at and change feature flags.
    Flag {
        #[command(subcommand)]
        command: crate::flag::Flag,
    },
    /// Make, look at, rotate and revoke keys.
    Key {
        #[command(subcommand)]
        command: crate::key::Key,
    },
    /// Create, look at, suspend and delete tenants.
    Tenant {
        #[command(subcommand)]
        command: crate::tenant::Tenant,
    },
    /// Stop something at once: in force before this command ends.
    Kill(KillArgs),
    /// Let something go again that was killed.
    Revive(ReviveArgs),
    /// Show what is killed, and the kill switches.
    Kills(KillsArgs),
    /// Let a version or endpoint take no new callers; what is there finishes.
    Drain(crate::drain::DrainArgs),
    /// Let a version or endpoint take callers again.
    Undrain(crate::drain::UndrainArgs),
    /// Show where a request would go, and why.
    Route {
        #[command(subcommand)]
        command: crate::route::Route,
    },
    /// Show services.
    Service {
        #[command(subcommand)]
        command: Service,
    },
    /// Show a bad version taken back and a good one promoted, on a sample server, in under a minute.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// Wait for the end of a demo and remove its folder.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoJanitor(crate::demo::JanitorArgs),
    /// Print a completion script: `source <(serin completions bash)`.
    Completions {
        /// For this shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Make new sealing keys although the log is not empty: sessions sealed with the old ones end.
    #[arg(long)]
    pub(crate) new_keys: bool,
    /// Make a new kill file in place of one that is damaged: its kills are taken from the log.
    #[arg(long)]
    pub(crate) rebuild_kills: bool,
    /// What is logged to standard error, such as `info` or `serin_gateway=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        env = "RUST_LOG",
        default_value = "info,sqlx=warn"
    )]
    pub(crate) log: String,
    /// Panic on SIGUSR2, to see what is left behind. Not in release builds.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    pub(crate) panic_on_usr2: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A plan by itself, in place of a configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// A set of flags by itself, in place of a configuration.
    #[arg(long, value_name = "FILE", conflicts_with = "plan")]
    pub(crate) flags: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The file with services and plans, in YAML or JSON; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Also remove what it does not name: services, versions, plans, tiers, versions of the API and kill switches.
    #[arg(long)]
    pub(crate) prune: bool,
    /// Versions and endpoints that are removed are gone at once; otherwise they take no new callers for an hour and are gone then.
    #[arg(long)]
    pub(crate) now: bool,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    #[command(flatten)]
    Asked(Rollout),
    /// What a plan can see at a traffic, phase by phase, before anything begins. Needs no server.
    Plan(PlanArgs),
    /// What becomes of good and bad candidates under a plan, in many simulated rollouts. Needs no server.
    Simulate(SimulateArgs),
}

/// What is asked of a server.
#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Begin a rollout.
    Start(StartArgs),
    /// Where the rollout is; the exit code says so too.
    Status(LookArgs),
    /// Follow the rollout until it ends.
    Watch(LookArgs),
    /// Why the rollout is where it is.
    Explain(LookArgs),
    /// List rollouts, newest first.
    List {
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set the share by hand.
    Share {
        /// The service.
        service: ServiceName,
        /// In percent, such as `12.5`.
        share: Share,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Go on to the next phase.
    Promote {
        /// The service.
        service: ServiceName,
        /// To the end at once.
        #[arg(long)]
        full: bool,
        /// Also without the evidence that the plan asks for.
        #[arg(long = "override", requires = "reason")]
        overridden: bool,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Stop it where it is; a critical breach still takes the candidate back.
    Pause(SteerArgs),
    /// Let it go on: after a pause, or when what was signalled has been dealt with.
    Resume {
        /// The service.
        service: ServiceName,
    },
    /// Say that something was seen which no counter sees; the plan says what follows.
    Signal {
        /// The service.
        service: ServiceName,
        /// What kind, as the plan names it; `critical_bug` and `complaint` unless it names its own.
        kind: String,
        /// What was seen.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Judge a recorded rollout again: by its own plan, to see that its verdicts hold, or by another.
    Replay(ReplayArgs),
    /// End it: the desired version is stable.
    Abort(SteerArgs),
    /// Take the candidate back; after a promotion, make the version before stable again.
    Rollback {
        #[command(flatten)]
        steer: SteerArgs,
        /// How live sessions leave.
        #[arg(long, value_enum, default_value_t)]
        strategy: Strategy,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// The candidate.
    #[arg(long, value_name = "VERSION", required_unless_present = "flag")]
    pub(crate) to: Option<VersionName>,
    /// A flag in place of another version: stable's callers who have it are compared with those who have not.
    #[arg(long, value_name = "KEY", conflicts_with = "to")]
    pub(crate) flag: Option<FlagKey>,
    /// The variant of the flag; without it, its default, or the only one that is not off.
    #[arg(long, value_name = "VARIANT", requires = "flag")]
    pub(crate) variant: Option<String>,
    /// The name of a plan, or a file with one.
    #[arg(long, value_name = "NAME|FILE", default_value = "standard")]
    pub(crate) plan: String,
    /// Why.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Accept a change of the tools that clients will notice.
    #[arg(long)]
    pub(crate) accept_breaking: bool,
    /// Wait for the end; the exit code says which.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// Answer in JSON; `watch` gives one a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// Which rollout; without it, the latest one of the service.
    #[arg(long, value_name = "ID")]
    pub(crate) rollout: Option<RolloutId>,
    /// The name of another plan, or a file with one.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) plan: Option<String>,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The traffic of a service, as far as a plan depends on it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TrafficArgs {
    /// Calls a second, of both versions together.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) calls_per_second: f64,
    /// How many callers there are who stay the same, such as tenants.
    #[arg(long, value_name = "N", conflicts_with = "sessions_per_minute", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) callers: Option<u64>,
    /// How many sessions begin each minute; without this and without callers, one for every 20 calls.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) sessions_per_minute: Option<f64>,
    /// Time from one call of a session to the next.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) call_every: Duration,
    /// How many tools the calls are spread over.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub(crate) tools: u32,
    /// The part of stable's calls that fail.
    #[arg(long, value_name = "PERCENT", default_value = "0.3%")]
    pub(crate) error_rate: Share,
    /// How long the middle one of stable's calls takes.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time)]
    pub(crate) latency: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The name of a plan, or a file with one.
    #[arg(value_name = "NAME|FILE")]
    pub(crate) plan: String,
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The name of a plan, or a file with one.
    #[arg(value_name = "NAME|FILE")]
    pub(crate) plan: String,
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// Rollouts of each kind of candidate.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) runs: u64,
    /// The same number gives the same figures.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Also draw it, into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("write a number above 0, such as 50 or 0.5".to_owned()),
    }
}

/// A time above 0.
fn time(text: &str) -> Result<Duration, String> {
    let time = serin_model::text::parse_duration(text)?;
    if time.is_zero() {
        return Err("write a time above 0, such as 50ms or 5s".to_owned());
    }
    Ok(time)
}

#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// Why.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// How live sessions leave a version.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Strategy {
    /// At once.
    #[default]
    Immediate,
    /// When they end.
    Gradual,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Health {
    /// Calls, errors, latency and resources, in windows of 30 seconds.
    Metrics {
        #[command(flatten)]
        args: HealthArgs,
        /// How far back, up to a day.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
    },
    /// What is wrong now.
    Issues(HealthArgs),
    /// Where each metric went in the last hour.
    Trends(HealthArgs),
    /// What was wrong and for how long; what comes and goes is one alert.
    Alerts(HealthArgs),
    /// Stable beside the candidate, over the last five minutes.
    Compare(HealthArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The service.
    pub(crate) service: ServiceName,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw it anew each second.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// List services.
    List {
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a service with its versions and endpoints.
    Show {
        /// The service.
        service: ServiceName,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// What: `system`, `environment:NAME`, `service:NAME`, `version:SERVICE/VERSION`, `tool:SERVICE/TOOL` (`tool:*/TOOL` for every
    /// service), `tenant:ID`, `flag:KEY` or `flags`.
    #[arg(required_unless_present = "switch", conflicts_with = "switch")]
    pub(crate) target: Option<Target>,
    /// A kill switch, in place of a target: its own is killed.
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    pub(crate) switch: Option<String>,
    /// Why.
    #[arg(long)]
    pub(crate) reason: String,
    /// Calls in flight may go on for so long; 30s unless given.
    #[arg(long, value_name = "TIME", conflicts_with = "local", value_parser = serin_model::text::parse_duration)]
    pub(crate) grace: Option<Duration>,
    /// How urgent: P0 is critical, P3 low; medium unless given.
    #[arg(long, value_enum, conflicts_with = "local")]
    pub(crate) priority: Option<KillPriority>,
    /// Past the admin API, by a file beside the store: needs no token, and works while the process is down.
    #[arg(long)]
    pub(crate) local: bool,
    /// The store, where no configuration names it.
    #[arg(long, value_name = "FILE", requires = "local")]
    pub(crate) store: Option<PathBuf>,
    /// Do not ask. Without a terminal nobody is asked anyway.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// How urgent a kill is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KillPriority {
    /// P0.
    #[value(alias = "P0", alias = "p0")]
    Critical,
    /// P1.
    #[value(alias = "P1", alias = "p1")]
    High,
    /// P2.
    #[value(alias = "P2", alias = "p2")]
    Medium,
    /// P3.
    #[value(alias = "P3", alias = "p3")]
    Low,
}

impl KillPriority {
    /// As the admin API has it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReviveArgs {
    /// What, as `serin kills` shows it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) target: Option<Target>,
    /// Everything, one after another.
    #[arg(long)]
    pub(crate) all: bool,
    /// The one that `serin kills` shows: of a target the number in its line, with `--all` the revision of the book.
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// Why.
    #[arg(long)]
    pub(crate) reason: String,
    /// With `--all`: over so long; 30s unless given.
    #[arg(long, value_name = "TIME", requires = "all", value_parser = serin_model::text::parse_duration)]
    pub(crate) over: Option<Duration>,
    /// Do not ask; needs the revision.
    #[arg(long, requires = "revision")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillsArgs {
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> miette::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "serin", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(crate::problem::output(error))
        }
        _ => Ok(Exit::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
