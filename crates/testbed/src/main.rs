//! `serin-testbed`: the test servers, clients and the load generator as commands, for people, tests and benchmarks.

use std::{
    error::Error,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use serin_testbed::{
    client::Era,
    fixture,
    load::{self, LoadOptions},
    outage::{self, OutageOptions},
    population::{Population, PopulationOptions},
    ramp,
    sample::{Running, Sample, SampleOptions, ToolSet},
    upstream::Upstream,
};

/// How a sample that crashed on purpose ends its process.
const CRASHED: u8 = 70;

/// Test servers, a client population and a load generator for Serin.
#[derive(Debug, Parser)]
#[command(name = "serin-testbed")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the sample MCP server; prints its URL. Exits with 70 when a fault makes it crash.
    Sample(SampleArgs),
    /// Serve what the public conformance suite expects; prints its URL.
    Fixture {
        /// Where to listen; port 0 picks a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The version's name.
        #[arg(long, default_value = "v1")]
        release: String,
    },
    /// Serve prepared answers of both eras, for benchmarks; prints its URL.
    Upstream {
        /// Where to listen; port 0 picks a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The version's name.
        #[arg(long, default_value = "v1")]
        release: String,
    },
    /// Measure calls a second and latency with prepared requests.
    Load(LoadArgs),
    /// Let calls of many tenants come at a growing rate, by the admin API's keys, and report each stage as a line of JSON
    Ramp(RampArgs),
    /// Start endpoints, print their URLs, read the URL of a gateway in front of them, and kill them one after the other while clients of
    /// both eras call through it; reports as a line of JSON
    Outages(OutagesArgs),
    /// Let clients of both eras call, check every answer, and report.
    Populate(PopulateArgs),
}

#[derive(Args, Debug)]
struct SampleArgs {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The version's name.
    #[arg(long, default_value = "v1")]
    release: String,
    /// The endpoint's name.
    #[arg(long, default_value = "a")]
    endpoint: String,
    /// The tools on offer.
    #[arg(long, value_enum, default_value_t)]
    tools: ToolSet,
    /// The file into which it writes the marks of the requests that it gets.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Let callers on loopback inject faults: POST, GET and DELETE on /faults.
    #[cfg(feature = "faults")]
    #[arg(long)]
    control: bool,
}

#[derive(Args, Debug)]
struct LoadArgs {
    /// The MCP endpoint; {n} in it is the number of a caller.
    #[arg(long)]
    url: String,
    /// Connections, each with one call in flight.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Callers whose calls all connections take in turn; without, each connection has one of its own.
    #[arg(long)]
    callers: Option<usize>,
    /// How long to count, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long to call before counting, in seconds.
    #[arg(long, default_value_t = 0.5)]
    warm_up_seconds: f64,
    /// The era of the calls.
    #[arg(long, value_enum, default_value = "legacy")]
    era: Era,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RampArgs {
    /// The MCP endpoint.
    #[arg(long)]
    url: String,
    /// The admin API that makes the keys.
    #[arg(long)]
    admin: String,
    /// The file with its token.
    #[arg(long)]
    token_file: PathBuf,
    /// Tenants, with a key each.
    #[arg(long, default_value_t = 1000)]
    tenants: usize,
    /// Their tier.
    #[arg(long)]
    tier: String,
    /// How much shorter the ramp is than the seed's five minutes.
    #[arg(long, default_value_t = 10)]
    shorter: u32,
    /// How long each level after it lasts, in seconds.
    #[arg(long, default_value_t = 15)]
    hold_seconds: u64,
}

#[derive(Args, Debug)]
struct OutagesArgs {
    /// The folder of the endpoints' records.
    #[arg(long)]
    folder: PathBuf,
    /// Endpoints.
    #[arg(long, default_value_t = 3)]
    endpoints: u8,
    /// How often one is killed.
    #[arg(long, default_value_t = 6)]
    kills: usize,
    /// How long one is down, and all are up in between, in seconds.
    #[arg(long, default_value_t = 4.0)]
    hold_seconds: f64,
    /// Calls a second of all clients together.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Clients, half of each era.
    #[arg(long, default_value_t = 200)]
    clients: usize,
}

#[derive(Args, Debug)]
struct PopulateArgs {
    /// The MCP endpoint.
    #[arg(long)]
    url: String,
    /// Clients of the legacy era.
    #[arg(long, default_value_t = 10)]
    legacy: usize,
    /// Clients of the modern era.
    #[arg(long, default_value_t = 10)]
    modern: usize,
    /// Calls a second of all clients together.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Calls of one session.
    #[arg(long, default_value_t = 20)]
    calls_per_session: u32,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Picks tools and arguments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// One thread: a load generator must leave the other cores to what it measures, and the servers need no more.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Sample(args) => sample(args).await,
        Command::Fixture { listen, release } => tokio::select! {
            served = fixture::serve(listen, &release) => {
                served.map(|()| ExitCode::SUCCESS).map_err(Into::into)
            }
            stopped = interrupted() => stopped.map(|()| ExitCode::SUCCESS),
        },
        Command::Upstream { listen, release } => upstream(listen, &release).await,
        Command::Load(args) => measure(args).await,
        Command::Ramp(args) => ramped(args).await,
        Command::Outages(args) => outages(args).await,
        Command::Populate(args) => populate(args).await,
    };
    done.unwrap_or_else(|error| {
        eprint!("serin-testbed: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            eprint!(": {error}");
            cause = error.source();
        }
        eprintln!();
        ExitCode::FAILURE
    })
}

async fn sample(args: SampleArgs) -> Result<ExitCode> {
    let mut options = SampleOptions::new(args.release, args.endpoint, args.tools);
    options.listen = args.listen;
    options.record = args.record;
    #[cfg(feature = "faults")]
    {
        options.control = args.control;
    }
    let server: Running = Sample::start(options).await?;
    println!("sample listening on {}", server.url());
    tokio::select! {
        () = server.crashed() => return Ok(ExitCode::from(CRASHED)),
        stopped = interrupted() => stopped?,
    }
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn upstream(listen: SocketAddr, release: &str) -> Result<ExitCode> {
    let server = Upstream::start(listen, release).await?;
    println!("upstream listening on {}", server.url());
    interrupted().await?;
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: LoadArgs) -> Result<ExitCode> {
    let options = LoadOptions {
        url: args.url,
        connections: args.connections,
        callers: args.callers,
        era: args.era,
        warm_up: Duration::try_from_secs_f64(args.warm_up_seconds)?,
        duration: Duration::try_from_secs_f64(args.seconds)?,
    };
    // Whoever measures what the calls cost leaves out what opening many sessions and connections does.
    let begins = || {
        if options.callers.is_some() {
            println!("load begins");
        }
    };
    let report = load::run(&options, begins).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "{:.0} calls/s, {} errors, p50 {} us, p99 {} us, max {} us",
            report.calls_per_second, report.errors, report.p50_us, report.p99_us, report.max_us
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn ramped(args: RampArgs) -> Result<ExitCode> {
    let token = std::fs::read_to_string(&args.token_file)?;
    let keys = ramp::make_keys(&args.admin, token.trim(), args.tenants, &args.tier).await?;
    println!("ramp begins");
    for stage in ramp::seed_stages(args.shorter, Duration::from_secs(args.hold_seconds)) {
        for report in ramp::run(&args.url, &keys, &[stage]).await? {
            println!("{}", serde_json::to_string(&report)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn outages(args: OutagesArgs) -> Result<ExitCode> {
    let mut endpoints = Vec::new();
    for name in ('a'..='z').take(args.endpoints.into()) {
        endpoints.push(outage::Endpoint::start(&args.folder, &name.to_string()).await?);
    }
    let urls: Vec<_> = endpoints.iter().map(outage::Endpoint::url).collect();
    println!("endpoints {}", urls.join(","));
    let mut url = String::new();
    std::io::stdin().read_line(&mut url)?;
    let options = OutageOptions {
        kills: args.kills,
        hold: Duration::try_from_secs_f64(args.hold_seconds)?,
        calls_per_second: args.rate,
        clients: args.clients,
    };
    let report = outage::run(url.trim(), endpoints, &options).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

async fn populate(args: PopulateArgs) -> Result<ExitCode> {
    let population = Population::start(PopulationOptions {
        legacy: args.legacy,
        modern: args.modern,
        calls_per_second: Some(args.rate),
        calls_per_session: args.calls_per_session,
        seed: args.seed,
        ..PopulationOptions::new(args.url)
    })?;
    let end = Instant::now() + Duration::try_from_secs_f64(args.seconds)?;
    while Instant::now() < end {
        let second = Duration::from_secs(1).min(end - Instant::now());
        tokio::select! {
            () = tokio::time::sleep(second) => {}
            stopped = interrupted() => {
                stopped?;
                break;
            }
        }
        let stats = population.stats();
        print!(
            "{} calls, {} lives, {} harmed, {} gone, {} moves, {} mismatches",
            stats.calls, stats.lives, stats.harmed, stats.gone, stats.moves, stats.mismatches
        );
        for (name, version) in &stats.versions {
            print!(
                "; {name}: {} calls, {} harmed, p95 {:?}",
                version.calls,
                version.harmed(),
                version.recent_p95
            );
        }
        println!();
    }
    let report = population.stop().await;
    for mismatch in &report.mismatches {
        println!("{mismatch:?}");
    }
    for moved in &report.moves {
        println!("{moved:?}");
    }
    Ok(if report.mismatches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Completes on an interrupt or a request to terminate.
async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
