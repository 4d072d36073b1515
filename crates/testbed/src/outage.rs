//! Endpoints that are killed and brought back while a population calls through a gateway: which calls fail, and why.
//!
//! The endpoints are processes of their own, killed with `kill -9`. They record the marks of what they were sent, so that it can be said
//! of a failed call whether it was under way at an endpoint that died, and of every request that it was sent once at most.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    population::{Book, Harm, Outcome, Population, PopulationError, PopulationOptions},
    record,
};

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct OutageOptions {
    /// How often an endpoint is killed, one after the other.
    pub kills: usize,
    /// How long an endpoint is up, all of them before the first is killed too, and how long it is down.
    pub hold: Duration,
    /// Calls a second.
    pub calls_per_second: f64,
    /// Clients, half of each era.
    pub clients: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OutageError {
    /// An endpoint could not be started, killed or read.
    #[error("cannot start, kill or read an endpoint")]
    Endpoint(#[from] io::Error),
    /// The population could not be started.
    #[error("cannot start the population")]
    Population(#[from] PopulationError),
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OutageReport {
    /// Calls that ended, however they ended.
    pub calls: u64,
    /// Sessions that had to be opened anew, as the protocol has it (HTTP 404).
    pub sessions_gone: u64,
    /// Failed calls that were under way when an endpoint died, and had reached no other.
    pub failed_in_flight: u64,
    /// All other failed calls.
    pub failed_otherwise: u64,
    /// Failed calls by what the client got.
    pub causes: BTreeMap<String, u64>,
    /// Of the others, the first few in words.
    pub others: Vec<String>,
    /// Answers that were not the caller's own, or from where they cannot come.
    pub mismatches: u64,
    /// Requests that were sent more than once.
    pub sent_twice: u64,
    /// Requests that the endpoints got.
    pub requests: u64,
    /// Each death.
    pub deaths: Vec<Death>,
    /// Latency by what was the matter.
    pub phases: Vec<Phase>,
}

/// One kill.
#[derive(Clone, Debug, Serialize)]
pub struct Death {
    /// The endpoint's name.
    pub endpoint: String,
    /// Calls that failed because they were under way there.
    pub failed: u64,
    /// From its death to when the last call was sent that failed in this outage, in milliseconds; nothing if none was sent after it.
    pub last_failed_ms: Option<f64>,
    /// From its return to the first request that it got again, in milliseconds.
    pub back_ms: Option<f64>,
}

/// The latency of calls that went well.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What was the matter.
    pub name: &'static str,
    /// How many calls.
    pub calls: u64,
    /// Half of them took at most so long, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most so long.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Others that a report names in words.
const OTHERS_MAX: usize = 10;
/// How long a call that was sent before a kill may take to fail.
const DYING: Duration = Duration::from_secs(5);

/// An endpoint that can be killed.
#[derive(Debug)]
pub struct Endpoint {
    name: String,
    address: SocketAddr,
    record: PathBuf,
    process: Child,
}

impl Endpoint {
    /// Starts a sample server of `v1` by this very program, on a free port, with a record in `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(folder: &Path, name: &str) -> io::Result<Self> {
        let record = folder.join(format!("{name}.record"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = spawn(name, any, &record).await?;
        Ok(Self {
            name: name.to_owned(),
            address,
            record,
            process,
        })
    }

    /// The URL of its MCP endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    async fn start_again(&mut self) -> io::Result<()> {
        (self.process, _) = spawn(&self.name, self.address, &self.record).await?;
        Ok(())
    }
}

async fn spawn(name: &str, listen: SocketAddr, record: &Path) -> io::Result<(Child, SocketAddr)> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["sample", "--endpoint", name, "--listen"])
        .arg(listen.to_string())
        .arg("--record")
        .arg(record)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let line = BufReader::new(out).lines().next_line().await?;
    let address = line.as_deref().and_then(|line| {
        let url = line.rsplit(' ').next()?.strip_prefix("http://")?;
        url.strip_suffix("/mcp")?.parse().ok()
    });
    let address =
        address.ok_or_else(|| io::Error::other("an endpoint does not say where it is"))?;
    Ok((process, address))
}

/// When an endpoint was killed, was dead, and was back.
struct Outage {
    endpoint: usize,
    killed_at: Instant,
    dead_at: Instant,
    back_at: Instant,
    back: Option<Duration>,
}

/// Kills the endpoints behind the gateway at `url` one after the other while a population calls.
///
/// # Errors
/// When an endpoint cannot be killed or started again, or the population not be started.
pub async fn run(
    url: &str,
    mut endpoints: Vec<Endpoint>,
    options: &OutageOptions,
) -> Result<OutageReport, OutageError> {
    let population = Population::start(PopulationOptions {
        legacy: options.clients / 2,
        modern: options.clients - options.clients / 2,
        calls_per_second: Some(options.calls_per_second),
        marks: true,
        ..PopulationOptions::new(url)
    })?;
    let book = population.book();
    let (mut outages, mut phases) = (Vec::new(), Phases::default());
    // Lists are read and pools filled before anything counts.
    tokio::time::sleep(options.hold / 4).await;
    book.take_latencies();
    tokio::time::sleep(options.hold).await;
    phases.add("before", &book);
    for kill in 0..options.kills {
        let at = kill % endpoints.len();
        let Some(endpoint) = endpoints.get_mut(at) else {
            break;
        };
        let killed_at = Instant::now();
        endpoint.process.kill().await?;
        let dead_at = Instant::now();
        tokio::time::sleep(options.hold).await;
        phases.add("an endpoint is dead", &book);
        let sent = std::fs::metadata(&endpoint.record)?.len();
        endpoint.start_again().await?;
        let back_at = Instant::now();
        let back = until_sent_more(&endpoint.record, sent, options.hold * 4).await?;
        outages.push(Outage {
            endpoint: at,
            killed_at,
            dead_at,
            back_at,
            back,
        });
        tokio::time::sleep(options.hold).await;
        phases.add("all are back", &book);
    }
    let report = population.stop().await;
    let lines = endpoints
        .iter()
        .map(|endpoint| record::read(&endpoint.record))
        .collect::<io::Result<Vec<_>>>()?;
    let names: Vec<_> = endpoints.iter().map(|e| e.name.as_str()).collect();
    let mut summary = sum_up(&report.harms, &outages, &lines, &names);
    summary.calls = report.stats.calls;
    summary.sessions_gone = report.stats.gone;
    summary.mismatches = report.stats.mismatches;
    summary.phases = phases.0;
    Ok(summary)
}

/// How long it takes until a record has more than so many bytes; nothing if it does not get them.
async fn until_sent_more(path: &Path, than: u64, max: Duration) -> io::Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < max {
        if std::fs::metadata(path)?.len() > than {
            return Ok(Some(began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

/// Latency by what was the matter, in the order in which it was first the matter.
#[derive(Default)]
struct Phases(Vec<Phase>);

impl Phases {
    fn add(&mut self, name: &'static str, book: &Book) {
        let Some(latencies) = book.take_latencies() else {
            return;
        };
        self.0.push(Phase {
            name,
            calls: latencies.len(),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            max_us: latencies.max(),
        });
    }
}

fn sum_up(
    harms: &[Harm],
    outages: &[Outage],
    lines: &[Vec<String>],
    names: &[&str],
) -> OutageReport {
    let mut report = OutageReport::default();
    let mut times: HashMap<&str, u64> = HashMap::new();
    for line in lines.iter().flatten() {
        *times.entry(line).or_default() += 1;
    }
    report.requests = times.values().sum();
    report.sent_twice = times.values().filter(|times| **times > 1).count() as u64;
    let mark = |line: &'_ String| line.split(' ').next().map(str::to_owned);
    let sent_to: Vec<HashSet<String>> = lines
        .iter()
        .map(|lines| lines.iter().filter_map(mark).collect())
        .collect();
    let went_elsewhere = |harm: &Harm, endpoint: usize| {
        let mark = harm.mark.as_deref().unwrap_or_default();
        let mut others = sent_to.iter().enumerate().filter(|(at, _)| *at != endpoint);
        others.any(|(_, marks)| marks.contains(mark))
    };
    let mut of_outage = vec![0; outages.len()];
    for harm in harms {
        *report.causes.entry(cause(&harm.outcome)).or_default() += 1;
        let was_under_way = |outage: &Outage| {
            harm.sent_at <= outage.dead_at
                && harm.ended_at >= outage.killed_at
                && harm.ended_at <= outage.dead_at + DYING
                && !went_elsewhere(harm, outage.endpoint)
        };
        if let Some(outage) = outages.iter().position(was_under_way) {
            report.failed_in_flight += 1;
            of_outage[outage] += 1;
            continue;
        }
        report.failed_otherwise += 1;
        if report.others.len() < OTHERS_MAX {
            report.others.push(in_words(harm, outages, names));
        }
    }
    report.deaths = outages
        .iter()
        .zip(of_outage)
        .map(|(outage, failed)| {
            let during = |harm: &&Harm| (outage.dead_at..outage.back_at).contains(&harm.sent_at);
            let last = harms.iter().filter(during).map(|harm| harm.sent_at).max();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            Death {
                endpoint: names[outage.endpoint].to_owned(),
                failed,
                last_failed_ms: last.map(|last| ms(last - outage.dead_at)),
                back_ms: outage.back.map(ms),
            }
        })
        .collect();
    report
}

fn cause(outcome: &Outcome) -> String {
    match outcome {
        Outcome::HttpError(status) => format!("HTTP {status}"),
        Outcome::RpcError(code) => format!("JSON-RPC {code}"),
        Outcome::Transport(why) | Outcome::Malformed(why) => why.clone(),
        outcome => format!("{outcome:?}"),
    }
}

/// A failed call, and where it stands to the deaths.
fn in_words(harm: &Harm, outages: &[Outage], names: &[&str]) -> String {
    let before = outages
        .iter()
        .rev()
        .find(|outage| outage.dead_at <= harm.sent_at);
    let since = before.map_or_else(String::new, |outage| {
        let name = names[outage.endpoint];
        let ms = (harm.sent_at - outage.dead_at).as_millis();
        let state = if harm.sent_at < outage.back_at {
            "dead"
        } else {
            "back"
        };
        format!(", sent {ms} ms after the death of {name}, which was {state}")
    });
    let tool = harm.tool.as_deref().unwrap_or("opening a session");
    format!("{tool}: {}{since}", cause(&harm.outcome))
}
