//! `cargo xtask bench`: what Serin costs, measured beside nginx, `HAProxy` and other MCP gateways in one run.
//!
//! All run at once and are called in turns, so that whatever else the machine does meets all of them alike; every ratio is
//! taken within a round. Load generator, upstream and proxy share the machine's cores.

mod faults;
pub(crate) mod machine;
mod parts;
pub(crate) mod peer;
mod report;
mod services;

use std::{process::Command, thread, time::Duration};

use serde::Deserialize;

use crate::{Result, process, root, tools};
use machine::Cpu;
use peer::{Kind, Peer, Upstream};
use report::Report;

/// Connections, each with one call in flight.
const CONNECTIONS: [u16; 3] = [1, 16, 64];

/// Many short rounds rather than few long ones: the bounds of a median then leave out a round or three that others spoiled.
/// Seven are the fewest that bound it in 95 of 100 runs.
const ROUNDS: usize = 15;
const SECONDS: f64 = 0.6;
const SESSIONS: u32 = 100_000;

/// `--quick` shows that it works, and roughly what comes out.
const QUICK_ROUNDS: usize = 3;
const QUICK_SECONDS: f64 = 0.5;
const QUICK_SESSIONS: u32 = 10_000;

/// Pools fill and allocators settle before anything counts.
const WARM_UP_SECONDS: f64 = 0.5;
const WARM_UP_CONNECTIONS: u16 = 64;

/// One load generator opens no more than this; the rest is for the next.
const SESSIONS_AT_ONCE: u32 = 10_000;

/// What a freshly started server still does on its own is over by then.
const REST: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(clap::Args, Default)]
#[command(args_conflicts_with_subcommands = true)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of a command line, each by itself"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// A few rounds of half a second: a glance, not a measurement
    #[arg(long)]
    quick: bool,
    /// Fail unless Serin keeps its bounds
    #[arg(long)]
    check: bool,
    /// Rounds, each of which calls everything once
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Measure the programs as they were last built
    #[arg(long)]
    no_build: bool,
    /// Only these
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// Only what single parts cost: judging, recording an outcome, asking flags and kills, finding a service
    #[arg(long)]
    parts: bool,
}

/// What is measured by itself.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Kill endpoints and bring them back while clients of both eras call
    Faults(faults::Args),
    /// Call 1 service and 1,000 in turns, and compare what a request costs
    Services(services::Args),
}

/// A protocol era.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

impl Era {
    const ALL: [Self; 2] = [Self::Legacy, Self::Modern];

    /// As the load generator is told.
    fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// What the load generator says of one run.
#[derive(Deserialize)]
struct Load {
    calls: u64,
    errors: u64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Load {
    fn calls_per_second(&self) -> f64 {
        self.calls as f64 / self.seconds
    }
}

/// One run.
struct Sample {
    load: Load,
    /// What the proxy used for it.
    cpu: Option<Cpu>,
}

/// What came of calling `kind` in one way: a sample a round, none where the run failed.
struct Cell {
    kind: Kind,
    era: Era,
    connections: u16,
    samples: Vec<Option<Sample>>,
}

/// What one of them holds in memory, in bytes.
struct Memory {
    kind: Kind,
    at_rest: u64,
    after_calls: u64,
    /// While the first sessions were opened.
    first: Option<Growth>,
    /// While later ones were, as many: Serin remembers who it has counted towards the realised share of a phase, up to a
    /// limit, so that its first sessions say nothing about the ones after.
    later: Option<Growth>,
}

/// By how much memory grew while sessions were opened.
struct Growth {
    sessions: u32,
    bytes: f64,
}

/// Measures, prints the tables, and with `--check` fails unless the bounds hold.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Faults(args)) => return faults::run(args),
        Some(What::Services(args)) => return services::run(args),
        None => {}
    }
    let mut broken = parts::measure(!args.no_build)?;
    if !args.parts {
        broken.extend(proxies(args)?);
    }
    if !args.check {
        return Ok(());
    }
    if broken.is_empty() {
        println!("every bound holds");
        Ok(())
    } else {
        Err(format!("bounds that do not hold:\n  {}", broken.join("\n  ")).into())
    }
}

/// Serin beside other proxies: prints the tables, and gives the bounds that do not hold.
fn proxies(args: &Args) -> Result<Vec<String>> {
    let chosen = |kind: &Kind| args.only.is_empty() || args.only.contains(kind);
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(chosen).collect();
    let (rounds, seconds, sessions) = if args.quick {
        (QUICK_ROUNDS, QUICK_SECONDS, QUICK_SESSIONS)
    } else {
        (ROUNDS, SECONDS, SESSIONS)
    };
    let rounds = args.rounds.map_or(rounds, usize::from);

    tools::proxies()?;
    if !args.no_build {
        build(&kinds)?;
    }
    let folder = root().join("out/bench");
    let upstreams = [
        Upstream::start(&folder, "v1")?,
        Upstream::start(&folder, "v2")?,
    ];
    let mut peers = Vec::new();
    for &kind in &kinds {
        let peer = Peer::start(kind, &folder.join(kind.folder()), &upstreams)
            .map_err(|error| format!("{}: {error}", kind.name()))?;
        println!("{:<18}{:<32}{}", kind.name(), peer.url, peer.program);
        peers.push(peer);
    }

    thread::sleep(REST);
    let mut memory: Vec<_> = peers
        .iter()
        .filter_map(|peer| {
            Some(Memory {
                kind: peer.kind,
                at_rest: machine::memory_bytes(peer.pid()?),
                after_calls: 0,
                first: None,
                later: None,
            })
        })
        .collect();

    let before = (machine::busy_seconds(), machine::cpu(std::process::id()));
    let started = std::time::Instant::now();
    let cells = measure(&peers, rounds, seconds)?;
    let elapsed = started.elapsed().as_secs_f64() * machine::cores() as f64;
    let own = machine::cpu(std::process::id()).since(before.1).total();
    let others = (machine::busy_seconds() - before.0 - own).max(0.0) / elapsed;

    for peer in &peers {
        let own = memory.iter_mut().find(|memory| memory.kind == peer.kind);
        if let (Some(own), Some(pid)) = (own, peer.pid()) {
            own.after_calls = machine::memory_bytes(pid);
            if peer.kind.is_gateway() {
                println!("{}: opening {sessions} sessions", peer.kind.name());
                open_sessions(peer, sessions / 10)?;
                own.first = Some(growth(peer, pid, sessions)?);
                if peer.kind == Kind::Serin {
                    println!("...and {} more", 3 * sessions);
                    open_sessions(peer, 2 * sessions)?;
                    own.later = Some(growth(peer, pid, sessions)?);
                }
            }
        }
    }
    let mut shares = None;
    for peer in &peers {
        shares = shares.or(peer.calls_per_version()?);
    }

    let report = Report {
        cells,
        memory,
        shares,
        others,
    };
    println!("{report}");
    Ok(report.broken_bounds())
}

fn build(kinds: &[Kind]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--package", "serin-testbed"]);
    if kinds.contains(&Kind::Serin) || kinds.contains(&Kind::Audited) {
        cargo.args(["--package", "serin"]);
    }
    process::run(cargo.current_dir(root()))
}

/// Calls every peer in every way in every round; who goes first changes from round to round.
fn measure(peers: &[Peer], rounds: usize, seconds: f64) -> Result<Vec<Cell>> {
    let ways = |era: Era| CONNECTIONS.map(|connections| (era, connections));
    let mut cells = Vec::new();
    for (era, connections) in Era::ALL.into_iter().flat_map(ways) {
        for peer in peers {
            if peer.kind.unable(era).is_none() {
                cells.push(Cell {
                    kind: peer.kind,
                    era,
                    connections,
                    samples: Vec::new(),
                });
            }
        }
    }
    for peer in peers {
        for era in Era::ALL {
            if peer.kind.unable(era).is_none() {
                let load = load(peer, era, WARM_UP_CONNECTIONS, WARM_UP_SECONDS)
                    .map_err(|error| format!("{}: {error}", peer.kind.name()))?;
                if load.calls == 0 {
                    let (name, era) = (peer.kind.name(), era.name());
                    return Err(format!("{name} answered no {era} call well").into());
                }
            }
        }
    }
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for (era, connections) in Era::ALL.into_iter().flat_map(ways) {
            for turn in 0..peers.len() {
                let Some(peer) = peers.get((turn + round) % peers.len()) else {
                    continue;
                };
                let cell = cells.iter_mut().find(|cell| {
                    (cell.kind, cell.era, cell.connections) == (peer.kind, era, connections)
                });
                if let Some(cell) = cell {
                    cell.samples.push(sample(peer, era, connections, seconds));
                }
            }
        }
    }
    Ok(cells)
}

/// A run that fails is missing from its round; the others go on.
fn sample(peer: &Peer, era: Era, connections: u16, seconds: f64) -> Option<Sample> {
    let before = peer.pid().map(machine::cpu);
    let load = load(peer, era, connections, seconds)
        .inspect_err(|error| println!("{}: {error}", peer.kind.name()))
        .ok()?;
    let after = peer.pid().map(machine::cpu);
    Some(Sample {
        load,
        cpu: after.zip(before).map(|(after, before)| after.since(before)),
    })
}

/// Nothing is left out at the start, so that processor time and calls are of the same time.
fn load(peer: &Peer, era: Era, connections: u16, seconds: f64) -> Result<Load> {
    let mut command = Command::new(peer::release("serin-testbed")?);
    command
        .args(["load", "--json", "--warm-up-seconds", "0"])
        .args(["--url", &peer.url, "--era", era.name()])
        .args(["--connections", &connections.to_string()])
        .args(["--seconds", &seconds.to_string()]);
    Ok(serde_json::from_str(&process::output(&mut command)?)?)
}

/// Opens `sessions` legacy sessions, each on a connection of its own that is closed again.
fn growth(peer: &Peer, pid: u32, sessions: u32) -> Result<Growth> {
    let before = machine::memory_bytes(pid);
    open_sessions(peer, sessions)?;
    let after = machine::memory_bytes(pid);
    Ok(Growth {
        sessions,
        bytes: after as f64 - before as f64,
    })
}

/// A load of no time opens its sessions and calls nobody.
fn open_sessions(peer: &Peer, count: u32) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let now = left.min(SESSIONS_AT_ONCE);
        left -= now;
        let connections = u16::try_from(now)?;
        load(peer, Era::Legacy, connections, 0.0)?;
    }
    Ok(())
}
