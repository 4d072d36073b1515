//! `cargo xtask bench services`: what a request costs with 1 service and with 1,000, through the real binary.
//!
//! Two gateways that differ in nothing else get the same requests in turns: a thousand callers, each at a path of its own. In the one all
//! these paths are below that of its only service, in the other each is that of a service. What goes on beside the requests is counted with
//! them, and measured by itself while nobody calls.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    Era, Load, machine,
    peer::{Upstream, release},
    report::{Ratio, bounds_name, median},
};
use crate::{Result, gateway::Gateway, process, root};

/// The most that a request may cost with many services, beside what it costs with one, by the lower bound of the ratio.
const TIMES_MAX: f64 = 1.10;

/// Connections, each with one call in flight.
const CONNECTIONS: u16 = 16;

/// By then each core has a connection to each endpoint: before, a call would carry the cost of making one.
const WARM_UP_SECONDS: f64 = 1.5;

/// The audit trail is written when its threads use nothing for so long. Connections lie idle meanwhile, which they may for four seconds.
const AUDIT_LOOK_EVERY: Duration = Duration::from_millis(100);
const AUDIT_TIME_MAX: Duration = Duration::from_secs(2);

/// A gateway is at rest once it uses less than this part of a core for a second.
const REST_CORES: f64 = 0.05;
const REST_SECONDS_MAX: u64 = 120;

/// What threads are called that carry requests, that decide, and that write the audit trail.
const PARTS: [(&str, &[&str]); 3] = [
    ("gateway", &["gateway"]),
    ("control", &["control"]),
    ("audit", &["audit", "sqlx-sqlite"]),
];

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Services of the larger gateway, and callers of both.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=5000))]
    services: u16,
    /// Rounds, each of which calls both in each era once.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long each is called, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How long nobody calls, in seconds. Probes come every thirty.
    #[arg(long, default_value_t = 30.0)]
    idle_seconds: f64,
    /// Take the programs as they were built last.
    #[arg(long)]
    no_build: bool,
    /// Fail where a request costs more with many services, or one fails.
    #[arg(long)]
    check: bool,
}

/// A gateway, and what it is seen to do.
struct Side {
    services: u16,
    gateway: Gateway,
    /// What it used until it was at rest, in seconds.
    start: f64,
    /// What it uses while nobody calls: before the first call and after the last, in cores.
    idle: [f64; 2],
    memory_bytes: u64,
    /// By era, a sample a round.
    samples: [Vec<Sample>; 2],
}

struct Sample {
    load: Load,
    /// Seconds of all its threads.
    total: f64,
    /// Seconds of each of [`PARTS`].
    parts: [f64; PARTS.len()],
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        process::build_release()?;
    }
    let folder = root().join("target/services");
    let _ = fs::remove_dir_all(&folder);
    let upstream = Upstream::start(&folder, "v1")?;
    let mut sides = [
        Side::start(1, &folder.join("one"), &upstream)?,
        Side::start(args.services, &folder.join("many"), &upstream)?,
    ];
    idle(&mut sides, 0, args.idle_seconds);
    for round in 0..args.rounds {
        println!("round {} of {}", round + 1, args.rounds);
        for (at, era) in Era::ALL.into_iter().enumerate() {
            for turn in 0..sides.len() {
                let side = &mut sides[(turn + round) % 2];
                let sample = side.sample(era, args)?;
                side.samples[at].push(sample);
            }
        }
    }
    idle(&mut sides, 1, args.idle_seconds);
    for side in &mut sides {
        side.memory_bytes = machine::memory_bytes(side.gateway.pid());
    }
    let broken = print(&sides, args);
    if !args.check {
        return Ok(());
    }
    if !broken.is_empty() {
        return Err(format!("bounds that do not hold:\n  {}", broken.join("\n  ")).into());
    }
    println!("a request costs at most {TIMES_MAX} times as much, and none failed");
    Ok(())
}

impl Side {
    fn start(services: u16, folder: &Path, upstream: &Upstream) -> Result<Self> {
        let config = config(services, &upstream.url);
        let gateway = Gateway::start_config(release("serin")?, folder, &config)?;
        let pid = gateway.pid();
        let deadline = Instant::now() + Duration::from_secs(REST_SECONDS_MAX);
        while used(pid, 1.0) > REST_CORES {
            if Instant::now() > deadline {
                return Err(
                    format!("a gateway of {services} services does not come to rest").into(),
                );
            }
        }
        Ok(Self {
            services,
            start: machine::cpu(pid).total(),
            gateway,
            idle: [0.0; 2],
            memory_bytes: 0,
            samples: [Vec::new(), Vec::new()],
        })
    }

    /// Calls it once in one way, connected to all endpoints; waits until what was called is in the audit trail.
    fn sample(&self, era: Era, args: &Args) -> Result<Sample> {
        self.load(era, args.services, WARM_UP_SECONDS)?;
        self.wait_for_audit();
        let (begun, load) = self.load(era, args.services, args.seconds)?;
        self.wait_for_audit();
        let ended = Used::now(self.gateway.pid());
        let mut parts = ended.parts;
        for (part, before) in parts.iter_mut().zip(begun.parts) {
            *part -= before;
        }
        Ok(Sample {
            load,
            total: ended.total - begun.total,
            parts,
        })
    }

    /// Calls; also gives what it had used when the sessions were opened and the calls began.
    fn load(&self, era: Era, callers: u16, seconds: f64) -> Result<(Used, Load)> {
        let mut command = Command::new(release("serin-testbed")?);
        command
            .args(["load", "--json", "--era", era.name()])
            .args(["--url", &format!("{}/services/{{n}}", self.gateway.url)])
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--callers", &callers.to_string()])
            .args(["--warm-up-seconds", "0"])
            .args(["--seconds", &seconds.to_string()])
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let out = child.stdout.take().ok_or("the load has no output")?;
        let mut lines = BufReader::new(out).lines();
        let mut line = || -> Result<String> { Ok(lines.next().ok_or("the load ended early")??) };
        line()?;
        let begun = Used::now(self.gateway.pid());
        let load = serde_json::from_str(&line()?)?;
        child.wait()?;
        Ok((begun, load))
    }

    /// Rows are written after the calls, the later the busier the machine is.
    fn wait_for_audit(&self) {
        let now = || machine::threads(self.gateway.pid(), PARTS[2].1);
        let deadline = Instant::now() + AUDIT_TIME_MAX;
        let mut before = now();
        while Instant::now() < deadline {
            thread::sleep(AUDIT_LOOK_EVERY);
            let after = now();
            if after - before < 1e-9 {
                return;
            }
            before = after;
        }
    }
}

/// What a process has used so far, in seconds.
struct Used {
    total: f64,
    parts: [f64; PARTS.len()],
}

impl Used {
    fn now(pid: u32) -> Self {
        Self {
            total: machine::cpu(pid).total(),
            parts: PARTS.map(|(_, names)| machine::threads(pid, names)),
        }
    }
}

/// The cores that a process uses for so long.
fn used(pid: u32, seconds: f64) -> f64 {
    let before = machine::cpu(pid).total();
    thread::sleep(Duration::from_secs_f64(seconds));
    (machine::cpu(pid).total() - before) / seconds
}

/// Lets both be for a while.
fn idle(sides: &mut [Side; 2], at: usize, seconds: f64) {
    let now = |side: &Side| machine::cpu(side.gateway.pid()).total();
    let before = sides.each_ref().map(now);
    thread::sleep(Duration::from_secs_f64(seconds));
    for (side, before) in sides.iter_mut().zip(before) {
        side.idle[at] = (now(side) - before) / seconds;
    }
}

/// A gateway whose services have all the paths below `/services`. Their names are no longer with many than with one.
fn config(services: u16, upstream: &str) -> String {
    let mut config = "environment: test
gateway: { listen: 127.0.0.1:0 }
admin: { listen: 127.0.0.1:0 }
store: sqlite:serin.db
services:
"
    .to_owned();
    for n in 0..services {
        let path = if services == 1 {
            "/services".to_owned()
        } else {
            format!("/services/{n}")
        };
        let _ = write!(
            config,
            "  service-{n:04}:
    protocol: mcp
    path: {path}
    stable: v1
    versions:
      v1: {{ endpoints: [{upstream}] }}
"
        );
    }
    config
}

/// Prints the tables; gives the bounds that do not hold.
fn print(sides: &[Side; 2], args: &Args) -> Vec<String> {
    let mut broken = Vec::new();
    println!(
        "\n{CONNECTIONS} connections, {} callers, each at a path of its own; processor time in us a call",
        args.services
    );
    println!(
        "{:<24}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "calls/s", "p50 ms", "p99 ms", "CPU", "gateway", "control", "audit"
    );
    for (at, era) in Era::ALL.into_iter().enumerate() {
        for side in sides {
            print_side(side, era, &side.samples[at]);
        }
        let [one, many] = sides.each_ref().map(|side| &side.samples[at]);
        let times = |of: &dyn Fn(&Sample) -> f64| {
            let ratios = one.iter().zip(many).map(|(one, many)| of(many) / of(one));
            Ratio::of(ratios.filter(|ratio| ratio.is_finite()).collect())
        };
        let cpu = times(&|sample| sample.total / sample.load.calls as f64);
        let gateway = times(&|sample| sample.parts[0] / sample.load.calls as f64);
        // Connections without a pause: the time that a call takes is the inverse of the calls a second.
        let time = times(&|sample| 1.0 / sample.load.calls_per_second());
        let (Some(cpu), Some(gateway), Some(time)) = (cpu, gateway, time) else {
            broken.push(format!("{}: nothing was measured", era.name()));
            continue;
        };
        println!("  with {} services, times as much", args.services);
        println!("    processor time a call          {cpu}");
        println!("    that of the gateway's threads  {gateway}");
        println!("    time a call                    {time}");
        for (what, ratio) in [("processor time", cpu), ("time", time)] {
            if ratio.low > TIMES_MAX {
                broken.push(format!(
                    "{}: a call takes {ratio} times as much {what} with {} services, at most {TIMES_MAX}",
                    era.name(),
                    args.services
                ));
            }
        }
    }
    let errors: u64 = (sides.iter().flat_map(|side| &side.samples).flatten())
        .map(|sample| sample.load.errors)
        .sum();
    if errors > 0 {
        broken.push(format!("{errors} calls failed"));
    }
    println!(
        "\n{:<24}{:>14}{:>26}{:>22}{:>12}",
        "beside the calls",
        "start, CPU s",
        "idle, never called, CPU",
        "idle after calls, CPU",
        "memory MB"
    );
    for side in sides {
        let [before, after] = side.idle.map(|cores| format!("{:.1} %", cores * 100.0));
        println!(
            "{:<24}{:>14.2}{before:>26}{after:>22}{:>12.1}",
            name(side.services),
            side.start,
            side.memory_bytes as f64 / 1_048_576.0
        );
    }
    println!(
        "\nMedians of {} rounds; a ratio is the median of the rounds' ratios (bounds of that median, {}). {errors} calls failed.",
        args.rounds,
        bounds_name(args.rounds)
    );
    broken
}

fn print_side(side: &Side, era: Era, samples: &[Sample]) {
    let middle = |of: &dyn Fn(&Sample) -> f64| median(samples.iter().map(of).collect());
    // Over all rounds: a single one has few of the kernel's ticks.
    let calls: u64 = samples.iter().map(|sample| sample.load.calls).sum();
    let micros = |of: &dyn Fn(&Sample) -> f64| {
        samples.iter().map(of).sum::<f64>() * 1e6 / calls.max(1) as f64
    };
    let parts: Vec<_> = (0..PARTS.len())
        .map(|part| format!("{:>9.1}", micros(&|sample| sample.parts[part])))
        .collect();
    println!(
        "{:<24}{:>9.0}{:>9.2}{:>9.2}{:>9.1}{}",
        format!("{}, {}", era.name(), name(side.services)),
        middle(&|sample| sample.load.calls_per_second()),
        middle(&|sample| sample.load.p50_us) / 1000.0,
        middle(&|sample| sample.load.p99_us) / 1000.0,
        micros(&|sample| sample.total),
        parts.concat(),
    );
}

fn name(services: u16) -> String {
    let plural = if services == 1 { "" } else { "s" };
    format!("{services} service{plural}")
}
