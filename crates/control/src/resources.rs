//! What a version takes of its machine, read from its own metrics in the Prometheus text format: processor time, memory, and
//! when its process began. One small task a version that says where its metrics are.

use crate::{ask, probe::Found};
use futures_util::StreamExt as _;
use reqwest::{Client, header};
use serin_judge::Resources;
use serin_model::{
    name::{ServiceName, VersionName},
    state::State,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval},
};

/// How often a version's metrics are read: two to a window of the health monitor, as often as Prometheus itself does.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);
/// Time for one reading.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest page that is read: far above what a server writes about itself.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most processes told apart on one page; the others are left out.
const PROCESSES_MAX: usize = 64;
/// Start times that differ by less are the same: some clients work them out from the machine's, which wavers by a second.
const START_TOLERANCE_SECONDS: f64 = 2.0;

/// The readers of all versions. Dropping it ends them.
pub(crate) struct Scrapes {
    client: Client,
    report: mpsc::Sender<Found>,
    running: BTreeMap<(ServiceName, VersionName), (String, AbortHandle)>,
}

impl Scrapes {
    /// No readers yet; what they read goes to `report`.
    pub(crate) fn new(client: Client, report: mpsc::Sender<Found>) -> Self {
        Self {
            client,
            report,
            running: BTreeMap::new(),
        }
    }

    /// Reads the metrics that there are, and no others.
    pub(crate) fn follow(&mut self, state: &State) {
        let mut wanted = BTreeMap::new();
        for service in state.services.values() {
            for (version, of) in &service.versions {
                let is_off = of.drain.as_ref().is_some_and(|drain| drain.is_over);
                if let Some(url) = of.metrics.as_ref().filter(|_| !is_off) {
                    wanted.insert((service.name.clone(), version.clone()), url);
                }
            }
        }
        self.running.retain(|key, (url, task)| {
            let keep = wanted.get(key) == Some(&&*url);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, url) in wanted {
            self.running.entry(key).or_insert_with_key(|key| {
                let task = tokio::spawn(watch(
                    self.client.clone(),
                    key.clone(),
                    url.clone(),
                    self.report.clone(),
                ));
                (url.clone(), task.abort_handle())
            });
        }
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

/// Reads one version's metrics for as long as they are wanted.
async fn watch(
    client: Client,
    (service, version): (ServiceName, VersionName),
    url: String,
    report: mpsc::Sender<Found>,
) {
    let mut timer = interval(SCRAPE_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    let mut meter = Meter::default();
    loop {
        timer.tick().await;
        let sample = match once(&client, &url).await {
            Ok(page) => Ok(meter.take(began.elapsed().as_secs_f64(), &page)),
            Err(why) => Err(why),
        };
        let found = Found::Resources {
            service: service.clone(),
            version: version.clone(),
            sample,
        };
        if report.send(found).await.is_err() {
            return;
        }
    }
}

/// Reads a page of metrics; if it cannot be read, why.
pub(crate) async fn once(client: &Client, url: &str) -> Result<Page, String> {
    let broken = |error| ask::no_answer(url, error).to_string();
    let response = client
        .get(url)
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .timeout(SCRAPE_TIMEOUT)
        .send()
        .await
        .map_err(broken)?;
    if !response.status().is_success() {
        return Err(format!("{url} answers with status {}", response.status()));
    }
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.map_err(broken)?);
        if body.len() > PAGE_BYTES_MAX {
            return Err(format!("{url} has more than {PAGE_BYTES_MAX} bytes"));
        }
    }
    let page = Page::read(&String::from_utf8_lossy(&body));
    if page.is_empty() {
        return Err(format!(
            "{url} has none of `process_cpu_seconds_total`, `process_resident_memory_bytes` and `process_start_time_seconds`"
        ));
    }
    Ok(page)
}

/// What a page of metrics says of its processes, by their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    cpu_seconds: BTreeMap<String, f64>,
    memory_bytes: BTreeMap<String, f64>,
    started_seconds: BTreeMap<String, f64>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        for (name, labels, value) in text.lines().filter_map(sample) {
            let values = match name {
                "process_cpu_seconds_total" => &mut page.cpu_seconds,
                "process_resident_memory_bytes" => &mut page.memory_bytes,
                "process_start_time_seconds" => &mut page.started_seconds,
                _ => continue,
            };
            if value.is_finite() && value >= 0.0 && values.len() < PROCESSES_MAX {
                values.insert(labels.to_owned(), value);
            }
        }
        page
    }

    fn is_empty(&self) -> bool {
        self.cpu_seconds.is_empty()
            && self.memory_bytes.is_empty()
            && self.started_seconds.is_empty()
    }
}

/// The name, the labels as they stand there, and the value in a line; nothing when it is a comment or not a sample.
///
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>: `name{label="value"} 1.5 1395066363000`. What follows the
/// value, a time or an exemplar, is not needed.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let end = end_of_labels(inside)?;
            (inside.get(..end)?, inside.get(end + 1..)?)
        }
        None => ("", rest),
    };
    let value = rest.split_whitespace().next()?;
    Some((name, labels.trim(), value.parse().ok()?))
}

/// Where the closing brace is: one inside a quoted value does not count.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Makes of pages what was taken between them.
#[derive(Debug, Default)]
struct Meter {
    last: Option<(f64, Page)>,
    /// The latest start of each process so far. Later ones only: behind one address there may be several processes that answer
    /// in turns, and that is no restart.
    started: BTreeMap<String, f64>,
}

impl Meter {
    /// What was taken since the page before, which was read so many seconds earlier.
    fn take(&mut self, at: f64, page: &Page) -> Resources {
        let mut restarted = Vec::new();
        for (labels, start) in &page.started_seconds {
            let has_room = self.started.len() < PROCESSES_MAX;
            match self.started.get_mut(labels) {
                Some(known) if *start > *known + START_TOLERANCE_SECONDS => {
                    *known = *start;
                    restarted.push(labels.clone());
                }
                None if has_room => {
                    self.started.insert(labels.clone(), *start);
                }
                _ => {}
            }
        }
        let (mut cpu_seconds, mut observed_seconds) = (0.0, 0.0);
        if let Some((before, known)) = &self.last {
            for (labels, now) in &page.cpu_seconds {
                let Some(then) = known.cpu_seconds.get(labels) else {
                    continue;
                };
                // Two processes that answer in turns have counters of their own: what lies between them nobody used.
                let starts = [page, known].map(|page| page.started_seconds.get(labels));
                let is_same = match starts {
                    [Some(now), Some(then)] => (now - then).abs() <= START_TOLERANCE_SECONDS,
                    [now, then] => now == then,
                };
                if !is_same && !restarted.contains(labels) {
                    continue;
                }
                observed_seconds = at - before;
                let fell = now < then;
                if fell && page.started_seconds.is_empty() {
                    restarted.push(labels.clone());
                }
                // A counter that begins anew has counted from zero since.
                cpu_seconds += if fell || restarted.contains(labels) {
                    *now
                } else {
                    now - then
                };
            }
        }
        if !page.cpu_seconds.is_empty() {
            self.last = Some((at, page.clone()));
        }
        Resources {
            samples: 1,
            cpu_millis: whole(cpu_seconds * 1000.0),
            observed_millis: whole(observed_seconds * 1000.0),
            memory_bytes: whole(page.memory_bytes.values().sum()),
            memory_samples: u64::from(!page.memory_bytes.is_empty()),
            restarts: restarted.len() as u64,
        }
    }
}

/// The nearest whole number from zero on.
fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float to integer saturates"
    )]
    let whole = value.round() as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// As the Python client writes it, with odd things around.
    const PAGE: &str = r#"
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds. {not="labels"}
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
process_resident_memory_bytes 2.5e+08 1395066363000
process_start_time_seconds 1.69e+09
http_requests_total{path="/a}\"b\\",code="200"} 3 # {trace_id="x"} 0.5
go_gc_seconds{quantile="0.5"} NaN
nothing
bucket{le="+Inf"} +Inf
process_open_fds{ 3
{"quoted.name"} 4
"#;

    #[test]
    fn the_three_metrics_are_found_among_others() {
        let page = Page::read(PAGE);
        let one = |value| BTreeMap::from([(String::new(), value)]);
        assert_eq!(
            page,
            Page {
                cpu_seconds: one(12.5),
                memory_bytes: one(2.5e8),
                started_seconds: one(1.69e9),
            }
        );
    }

    #[test]
    fn lines_as_servers_write_them() {
        for (line, expected) in [
            ("a 1", Some(("a", "", 1.0))),
            ("a:b_1{} 2.5", Some(("a:b_1", "", 2.5))),
            (r#"a{x="1",} 3"#, Some(("a", r#"x="1","#, 3.0))),
            (r#"a { x="}" } 3"#, Some(("a", r#"x="}""#, 3.0))),
            (r#"a{x="\\"} 3"#, Some(("a", r#"x="\\""#, 3.0))),
            (r#"a{x="\""} 3 17"#, Some(("a", r#"x="\"""#, 3.0))),
            ("a +Inf", Some(("a", "", f64::INFINITY))),
            ("\ta\t-Inf\r", Some(("a", "", f64::NEG_INFINITY))),
            ("a 1 # {t=\"x\"} 1 2", Some(("a", "", 1.0))),
            ("# a 1", None),
            ("a", None),
            ("a{x=\"1\" 2", None),
            ("a one", None),
            ("", None),
            ("{} 1", None),
            ("é 1", None),
        ] {
            assert_eq!(sample(line), expected, "{line}");
        }
        assert!(sample("a NaN").is_some_and(|(.., value)| value.is_nan()));
        let odd = Page::read(
            "process_cpu_seconds_total NaN\nprocess_resident_memory_bytes -1\nprocess_start_time_seconds +Inf",
        );
        assert!(odd.is_empty(), "{odd:?}");
    }

    fn page(processes: &[(&str, f64, f64, f64)]) -> Page {
        let mut page = Page::default();
        for (labels, cpu, memory, started) in processes {
            page.cpu_seconds.insert((*labels).to_owned(), *cpu);
            page.memory_bytes.insert((*labels).to_owned(), *memory);
            page.started_seconds.insert((*labels).to_owned(), *started);
        }
        page
    }

    #[test]
    fn processor_time_is_what_was_used_between_two_pages() {
        let mut meter = Meter::default();
        let first = meter.take(0.0, &page(&[("", 100.0, 5e8, 1000.0)]));
        assert_eq!(first.observed_millis, 0, "one page shows no use");
        assert_eq!((first.memory_bytes, first.restarts), (500_000_000, 0));
        let second = meter.take(15.0, &page(&[("", 113.5, 6e8, 1000.9)]));
        assert_eq!(
            (second.cpu_millis, second.observed_millis),
            (13_500, 15_000)
        );
        assert_eq!(second.restarts, 0, "the clock of the machine wavers");
    }

    #[test]
    fn processes_are_summed_but_not_their_starts() {
        let mut meter = Meter::default();
        meter.take(
            0.0,
            &page(&[("a", 10.0, 1e8, 1000.0), ("b", 20.0, 2e8, 2000.0)]),
        );
        let next = meter.take(
            10.0,
            &page(&[("a", 11.0, 1e8, 1000.0), ("b", 24.0, 2e8, 2000.0)]),
        );
        assert_eq!((next.cpu_millis, next.memory_bytes), (5_000, 300_000_000));
        assert_eq!(next.restarts, 0);
        // One of them begins anew, and a third is new: that one is nobody's restart.
        let next = meter.take(
            20.0,
            &page(&[
                ("a", 0.5, 1e8, 3000.0),
                ("b", 25.0, 2e8, 2000.0),
                ("c", 9.0, 1e8, 3001.0),
            ]),
        );
        assert_eq!((next.cpu_millis, next.restarts), (1_500, 1));
    }

    #[test]
    fn two_servers_that_answer_in_turns_do_not_restart_all_the_time() {
        let mut meter = Meter::default();
        let (a, b) = (
            page(&[("", 1.0, 1.0, 1000.0)]),
            page(&[("", 1.0, 1.0, 2000.0)]),
        );
        let restarts: u64 = (0..20)
            .map(|turn| {
                meter
                    .take(f64::from(turn), if turn % 2 == 0 { &a } else { &b })
                    .restarts
            })
            .sum();
        assert_eq!(restarts, 1);
    }

    #[test]
    fn nor_do_they_use_what_lies_between_their_counters() {
        let mut meter = Meter::default();
        let at = |turn: u32| {
            let turn_seconds = f64::from(turn);
            if turn.is_multiple_of(2) {
                page(&[("", 1000.0 + turn_seconds, 1.0, 1000.0)])
            } else {
                page(&[("", 5000.0 + turn_seconds, 1.0, 2000.0)])
            }
        };
        let used: Vec<_> = (0..20)
            .map(|turn| meter.take(15.0 * f64::from(turn), &at(turn)).cpu_millis)
            .skip(2)
            .collect();
        assert!(used.iter().all(|millis| *millis == 0), "{used:?}");
    }

    #[test]
    fn a_counter_that_falls_shows_a_restart_where_no_start_is_told() {
        let mut meter = Meter::default();
        let cpu = |value| Page {
            cpu_seconds: BTreeMap::from([(String::new(), value)]),
            ..Page::default()
        };
        meter.take(0.0, &cpu(100.0));
        let next = meter.take(10.0, &cpu(2.0));
        assert_eq!((next.restarts, next.cpu_millis), (1, 2_000));
        assert_eq!(next.memory_samples, 0);
    }

    /// Answers every request with this.
    async fn server(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        url
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
            .into_bytes()
    }

    #[tokio::test]
    async fn a_version_is_read_for_as_long_as_it_says_where() {
        let url = server(http("200 OK", PAGE)).await;
        let (report, mut found) = mpsc::channel(4);
        let mut scrapes = Scrapes::new(ask::client(), report);
        let mut state = State::default();
        let service = serde_json::json!({
            "name": "tools", "protocol": "mcp", "path": "/mcp", "hosts": [], "stable": "v1",
            "versions": { "v1": { "endpoints": [], "stage": "serving", "metrics": url } },
            "settings": {},
        });
        let name: ServiceName = "tools".parse().unwrap();
        state
            .services
            .insert(name.clone(), serde_json::from_value(service).unwrap());
        scrapes.follow(&state);
        let Some(Found::Resources {
            service,
            version,
            sample,
        }) = found.recv().await
        else {
            panic!("something else was found");
        };
        assert_eq!((service.as_str(), version.as_str()), ("tools", "v1"));
        assert_eq!(sample.unwrap().memory_bytes, 250_000_000);
        state.services.remove(&name);
        scrapes.follow(&state);
        assert!(scrapes.running.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_why() {
        let client = ask::client();
        for (answer, expected) in [
            (http("404 Not Found", ""), "answers with status 404"),
            (http("200 OK", "up 1\n"), "has none of"),
            (
                http("200 OK", &"# x\n".repeat(PAGE_BYTES_MAX / 4 + 1)),
                "has more than 4194304 bytes",
            ),
            (Vec::new(), "does not answer"),
        ] {
            let url = server(answer).await;
            let why = once(&client, &url).await.unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
