//! `cargo xtask bench services`: what a request costs with 1 service and with 1,000, through the real binary and beside nginx.
//!
//! Two gateways that differ in nothing else, and two nginx set up likewise, get the same requests in turns, in two ways: all for the same
//! path, or from a thousand callers, each at a path of its own. In the one these paths are below that of its only service, in the other
//! each is that of a service with an endpoint of its own. The first way shows what there being many services costs; in the second a
//! thousand times as many connections are in use too, and nginx shows what that costs by itself. What goes on beside the requests is
//! counted with them, and measured by itself while nobody calls.

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
    peer::{Locations, Peer, Upstream, release},
    report::{Ratio, bounds_name, median},
};
use crate::{Result, gateway::Gateway, process, root, tools};

/// The most that a request may cost with many services beside what it costs with one, where one of them is called, and the most that this may
/// be beside nginx where all are called: by the lower bound of the ratio.
const TIMES_MAX: f64 = 1.10;

/// Connections, each with one call in flight.
const CONNECTIONS: u16 = 16;

/// The audit trail is written when its threads use nothing for so long. Connections lie idle meanwhile, which they may for four seconds.
const AUDIT_LOOK_EVERY: Duration = Duration::from_millis(100);
const AUDIT_TIME_MAX: Duration = Duration::from_secs(2);

/// A proxy is at rest once it uses less than this part of a core for a second.
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
    /// Services of the larger ones, and callers where all are called.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=5000))]
    services: u16,
    /// Rounds, each of which calls all four in each era once, in each way.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each is called, in seconds.
    #[arg(long, default_value_t = 0.8)]
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

/// Which services are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Called {
    /// One, by one caller.
    One,
    /// Another with each call, by as many callers.
    All,
}

impl Called {
    /// What was called is looked after for a minute: so all rounds with one come before those with all.
    const ALL: [Self; 2] = [Self::One, Self::All];

    /// By then each core has a connection to each endpoint: before, a call would carry the cost of making one.
    fn warm_up_seconds(self) -> f64 {
        match self {
            Self::One => 0.3,
            Self::All => 1.5,
        }
    }
}

/// What answers the calls.
enum Proxy {
    Serin(Box<Gateway>),
    Nginx(Peer),
}

impl Proxy {
    fn name(&self) -> &'static str {
        match self {
            Self::Serin(_) => "Serin",
            Self::Nginx(_) => "nginx",
        }
    }

    /// Where it is, without a path.
    fn url(&self) -> &str {
        match self {
            Self::Serin(gateway) => &gateway.url,
            Self::Nginx(peer) => &peer.url,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Serin(gateway) => gateway.pid(),
            Self::Nginx(peer) => peer.pid().unwrap_or_default(),
        }
    }

    /// What it and its children have used so far.
    fn used(&self) -> Used {
        let total = machine::cpu(self.pid()).total();
        let parts = match self {
            Self::Serin(_) => PARTS.map(|(_, names)| machine::threads(self.pid(), names)),
            // Its workers do nothing but carry requests.
            Self::Nginx(_) => [total, 0.0, 0.0],
        };
        Used { total, parts }
    }
}

/// A proxy, and what it is seen to do.
struct Side {
    services: u16,
    proxy: Proxy,
    /// What it used until it was at rest, in seconds.
    start: f64,
    /// What it uses while nobody calls: before the first call and after the last, in cores.
    idle: [f64; 2],
    memory_bytes: u64,
    samples: Vec<Sample>,
}

/// What came of calling a side in one way in one round.
struct Sample {
    called: Called,
    era: Era,
    load: Load,
    used: Used,
}

/// Processor time in seconds.
struct Used {
    /// Of all threads and children.
    total: f64,
    /// Of each of [`PARTS`].
    parts: [f64; PARTS.len()],
}

pub(crate) fn run(args: &Args) -> Result<()> {
    tools::nginx()?;
    if !args.no_build {
        process::build_release()?;
    }
    let folder = root().join("target/services");
    let _ = fs::remove_dir_all(&folder);
    let upstream = Upstream::start(&folder, "v1")?;
    let mut sides = [
        Side::serin(1, &folder.join("serin-one"), &upstream)?,
        Side::serin(args.services, &folder.join("serin-many"), &upstream)?,
        Side::nginx(1, &folder.join("nginx-one"), &upstream)?,
        Side::nginx(args.services, &folder.join("nginx-many"), &upstream)?,
    ];
    idle(&mut sides, 0, args.idle_seconds);
    for (at, called) in Called::ALL.into_iter().enumerate() {
        for round in 0..args.rounds {
            let number = at * args.rounds + round + 1;
            println!("round {number} of {}", Called::ALL.len() * args.rounds);
            for era in Era::ALL {
                for at in turns(round) {
                    let side = &mut sides[at];
                    let sample = side.sample(called, era, args)?;
                    side.samples.push(sample);
                }
            }
        }
    }
    idle(&mut sides, 1, args.idle_seconds);
    for side in &mut sides {
        side.memory_bytes = machine::memory_bytes(side.proxy.pid());
    }
    let broken = print(&sides, args);
    if !args.check {
        return Ok(());
    }
    if !broken.is_empty() {
        return Err(format!("bounds that do not hold:\n  {}", broken.join("\n  ")).into());
    }
    println!("every bound holds");
    Ok(())
}

/// The sides in the order of a round: those that are compared one after the other, and each of them first as often as the other.
fn turns(round: usize) -> [usize; 4] {
    std::array::from_fn(|turn| turn ^ (round % 4))
}

impl Side {
    fn serin(services: u16, folder: &Path, upstream: &Upstream) -> Result<Self> {
        let config = config(services, &upstream.url);
        let gateway = Gateway::start_config(release("serin")?, folder, &config)?;
        Self::at_rest(services, Proxy::Serin(Box::new(gateway)))
    }

    /// Each worker carries its part of the connections, as each core of Serin does; no upstream has more calls at a time than there are.
    fn nginx(services: u16, folder: &Path, upstream: &Upstream) -> Result<Self> {
        let paths: Vec<_> = if services == 1 {
            vec!["/services/".to_owned()]
        } else {
            (0..services).map(|n| format!("/services/{n}")).collect()
        };
        let locations = Locations {
            paths,
            kept: CONNECTIONS,
            is_shared_out: true,
        };
        let peer = Peer::nginx(folder, upstream, &locations)?;
        println!("{:<24}{}", name("nginx", services), peer.program);
        Self::at_rest(services, Proxy::Nginx(peer))
    }

    fn at_rest(services: u16, proxy: Proxy) -> Result<Self> {
        let pid = proxy.pid();
        let deadline = Instant::now() + Duration::from_secs(REST_SECONDS_MAX);
        while cores(pid, 1.0) > REST_CORES {
            if Instant::now() > deadline {
                let name = name(proxy.name(), services);
                return Err(format!("{name}: it does not come to rest").into());
            }
        }
        Ok(Self {
            services,
            start: machine::cpu(pid).total(),
            proxy,
            idle: [0.0; 2],
            memory_bytes: 0,
            samples: Vec::new(),
        })
    }

    /// Calls it once in one way, with the connections made before; waits until what was called is in the audit trail.
    fn sample(&self, called: Called, era: Era, args: &Args) -> Result<Sample> {
        self.load(called, era, args.services, called.warm_up_seconds())?;
        self.wait_for_audit();
        let (begun, load) = self.load(called, era, args.services, args.seconds)?;
        self.wait_for_audit();
        let mut used = self.proxy.used();
        used.total -= begun.total;
        for (part, before) in used.parts.iter_mut().zip(begun.parts) {
            *part -= before;
        }
        Ok(Sample {
            called,
            era,
            load,
            used,
        })
    }

    /// Calls; also gives what it had used when the sessions were opened and the calls began.
    fn load(&self, called: Called, era: Era, services: u16, seconds: f64) -> Result<(Used, Load)> {
        let (service, callers) = match called {
            Called::One => ((services / 2).to_string(), 1),
            Called::All => ("{n}".to_owned(), services),
        };
        let mut command = Command::new(release("serin-testbed")?);
        command
            .args(["load", "--json", "--era", era.name()])
            .args(["--url", &format!("{}/services/{service}", self.proxy.url())])
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
        let begun = self.proxy.used();
        let load = serde_json::from_str(&line()?)?;
        child.wait()?;
        Ok((begun, load))
    }

    /// Rows are written after the calls, the later the busier the machine is.
    fn wait_for_audit(&self) {
        let Proxy::Serin(gateway) = &self.proxy else {
            return;
        };
        let now = || machine::threads(gateway.pid(), PARTS[2].1);
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

    fn name(&self) -> String {
        name(self.proxy.name(), self.services)
    }

    /// By round.
    fn samples(&self, called: Called, era: Era) -> Vec<&Sample> {
        let is_one = |sample: &&Sample| (sample.called, sample.era) == (called, era);
        self.samples.iter().filter(is_one).collect()
    }
}

impl Sample {
    /// Processor time a call, in seconds.
    fn cpu(&self) -> f64 {
        self.used.total / self.load.calls as f64
    }

    /// That of the threads that carry requests.
    fn gateway_cpu(&self) -> f64 {
        self.used.parts[0] / self.load.calls as f64
    }

    /// Connections without a pause: the time that a call takes is the inverse of the calls a second.
    fn time(&self) -> f64 {
        1.0 / self.load.calls_per_second()
    }
}

/// The cores that a process uses for so long.
fn cores(pid: u32, seconds: f64) -> f64 {
    let before = machine::cpu(pid).total();
    thread::sleep(Duration::from_secs_f64(seconds));
    (machine::cpu(pid).total() - before) / seconds
}

/// Lets all be for a while.
fn idle(sides: &mut [Side; 4], at: usize, seconds: f64) {
    let now = |side: &Side| machine::cpu(side.proxy.pid()).total();
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

/// What is compared: a figure of a sample.
type Figure = fn(&Sample) -> f64;

/// How many services compare with one.
struct Times {
    serin: Ratio,
    nginx: Ratio,
    /// The first beside the second.
    beside: Ratio,
}

impl Times {
    /// Taken within rounds; none where nothing was measured.
    fn of(sides: &[Side; 4], called: Called, era: Era, figure: Figure) -> Option<Self> {
        let [one, many, nginx_one, nginx_many] =
            sides.each_ref().map(|side| side.samples(called, era));
        let times = |one: &[&Sample], many: &[&Sample]| -> Vec<f64> {
            let pairs = one.iter().zip(many);
            pairs
                .map(|(one, many)| figure(many) / figure(one))
                .collect()
        };
        let (serin, nginx) = (times(&one, &many), times(&nginx_one, &nginx_many));
        let beside = serin.iter().zip(&nginx).map(|(of, to)| of / to).collect();
        let ratio = |ratios: Vec<f64>| {
            let measured = ratios.iter().all(|ratio| ratio.is_finite());
            measured.then(|| Ratio::of(ratios)).flatten()
        };
        Some(Self {
            beside: ratio(beside)?,
            serin: ratio(serin)?,
            nginx: ratio(nginx)?,
        })
    }
}

/// Prints the tables; gives the bounds that do not hold.
fn print(sides: &[Side; 4], args: &Args) -> Vec<String> {
    let mut broken = Vec::new();
    for called in Called::ALL {
        match called {
            Called::One => println!("\none service is called, by one caller"),
            Called::All => println!(
                "\nall services are called, by {} callers: each call is for another one than that before",
                args.services
            ),
        }
        println!(
            "{:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "", "calls/s", "p50 ms", "p99 ms", "CPU us", "gateway", "control", "audit"
        );
        for era in Era::ALL {
            for side in sides {
                print_side(side, called, era);
            }
            println!(
                "  {:<34}{:<22}{:<22}Serin's beside nginx's",
                format!("{} services to 1, times", args.services),
                "Serin",
                "nginx"
            );
            broken.extend(print_times(sides, called, era, args.services));
        }
    }
    let errors = print_rest(sides);
    if errors > 0 {
        broken.push(format!("{errors} calls failed"));
    }
    println!(
        "\n{CONNECTIONS} connections. Medians of {} rounds; a ratio is the median of the rounds' ratios (bounds of that median, {}).\n\
         CPU: processor time a call, with children, and that of the threads that carry requests. {errors} calls failed.",
        args.rounds,
        bounds_name(args.rounds)
    );
    broken
}

/// Prints how many services compare with one; gives the bounds that do not hold.
fn print_times(sides: &[Side; 4], called: Called, era: Era, services: u16) -> Vec<String> {
    let mut broken = Vec::new();
    let figures: [(&str, Figure); 3] = [
        ("processor time", Sample::cpu),
        ("that of the gateway's threads", Sample::gateway_cpu),
        ("time", Sample::time),
    ];
    for (at, (what, figure)) in figures.into_iter().enumerate() {
        let Some(times) = Times::of(sides, called, era, figure) else {
            broken.push(format!("{}: {what}: nothing was measured", era.name()));
            continue;
        };
        let [serin, nginx] = [times.serin, times.nginx].map(|ratio| ratio.to_string());
        println!("    {what:<32}{serin:<22}{nginx:<22}{}", times.beside);
        let era = era.name();
        match called {
            Called::One if at != 1 && times.serin.low > TIMES_MAX => broken.push(format!(
                "{era}, one service called: {serin} times the {what} a call with {services} services, at most {TIMES_MAX}"
            )),
            Called::All if at == 1 && times.beside.low > TIMES_MAX => broken.push(format!(
                "{era}, all services called: the processor time of the gateway's threads grows {} times as much as nginx's, at most {TIMES_MAX}",
                times.beside
            )),
            _ => {}
        }
    }
    broken
}

fn print_side(side: &Side, called: Called, era: Era) {
    let samples = side.samples(called, era);
    let middle = |of: Figure| median(samples.iter().map(|sample| of(sample)).collect());
    // Over all rounds: a single one has few of the kernel's ticks.
    let calls: u64 = samples.iter().map(|sample| sample.load.calls).sum();
    let micros = |of: &dyn Fn(&Used) -> f64| {
        let seconds: f64 = samples.iter().map(|sample| of(&sample.used)).sum();
        format!("{:>9.1}", seconds * 1e6 / calls.max(1) as f64)
    };
    let parts: Vec<_> = (0..PARTS.len())
        .map(|part| match side.proxy {
            Proxy::Serin(_) => micros(&|used| used.parts[part]),
            Proxy::Nginx(_) => format!("{:>9}", "-"),
        })
        .collect();
    println!(
        "{:<28}{:>9.0}{:>9.2}{:>9.2}{}{}",
        format!("{}, {}", era.name(), side.name()),
        middle(|sample| sample.load.calls_per_second()),
        middle(|sample| sample.load.p50_us) / 1000.0,
        middle(|sample| sample.load.p99_us) / 1000.0,
        micros(&|used| used.total),
        parts.concat(),
    );
}

/// Prints what goes on beside the calls; gives the calls that failed.
fn print_rest(sides: &[Side; 4]) -> u64 {
    println!(
        "\n{:<24}{:>14}{:>26}{:>24}{:>12}{:>14}",
        "beside the calls",
        "start, CPU s",
        "idle, never called, CPU",
        "idle after calls, CPU",
        "memory MB",
        "calls failed"
    );
    let mut all_errors = 0;
    for side in sides {
        let [before, after] = side.idle.map(|cores| format!("{:.1} %", cores * 100.0));
        let errors: u64 = side.samples.iter().map(|sample| sample.load.errors).sum();
        all_errors += errors;
        println!(
            "{:<24}{:>14.2}{before:>26}{after:>24}{:>12.1}{errors:>14}",
            side.name(),
            side.start,
            side.memory_bytes as f64 / 1_048_576.0
        );
    }
    all_errors
}

fn name(proxy: &str, services: u16) -> String {
    let plural = if services == 1 { "" } else { "s" };
    format!("{proxy}, {services} service{plural}")
}
