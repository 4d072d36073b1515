//! Active health checks: one small task an endpoint, which reports only changes.

use crate::{ask, asker::Asker};
use reqwest::{Client, Url};
use serde_json::Value;
use serin_judge::Resources;
use serin_model::{
    auth::Secret,
    name::{EndpointId, ServiceName, VersionName},
    rule::RuleList,
    service::{HealthCheck, Protocol, Service},
    state::State,
};
use serin_tenancy::token::KeySet;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// How often the tools of a version are asked for again: they change with a deployment, not by themselves.
const TOOLS_EVERY: Duration = Duration::from_mins(1);

/// How soon an endpoint is asked again of which something hangs on the answer, unless its interval is shorter: the candidate of a
/// rollout, which must not have callers for half a minute after it is gone; one that fails, which should be back soon; a new one.
const SOON: Duration = Duration::from_secs(5);
/// A timer rounds below this.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// What a probe found.
#[derive(Debug)]
pub(crate) enum Found {
    /// An endpoint became healthy or unhealthy.
    Health {
        endpoint: EndpointId,
        healthy: bool,
        why: Option<String>,
    },
    /// An endpoint answered for the first time since it is probed like this.
    Answered { endpoint: EndpointId },
    /// A version lists these tools.
    Tools {
        service: ServiceName,
        version: VersionName,
        tools: Arc<[Arc<str>]>,
        /// Those of them that say that they only read.
        read_only: Arc<[Arc<str>]>,
    },
    /// The keys of an identity provider were read; nothing if they could not be.
    Keys {
        source: String,
        keys: Option<Arc<KeySet>>,
    },
    /// A credential for endpoints is there, or is another.
    Credential { reference: String, value: Secret },
    /// A version's own metrics were read; else why not.
    Resources {
        service: ServiceName,
        version: VersionName,
        sample: Result<Resources, String>,
    },
}

/// What a task probes. A change of any part starts another task.
#[derive(Clone, PartialEq)]
struct Target {
    service: Service,
    version: VersionName,
    endpoint: EndpointId,
    url: String,
    is_candidate: bool,
}

/// The probes of all endpoints. Dropping it ends them.
pub(crate) struct Probes {
    client: Client,
    report: mpsc::Sender<Found>,
    running: BTreeMap<EndpointId, (Target, AbortHandle)>,
}

impl Probes {
    /// No probes yet; what they find goes to `report`.
    pub(crate) fn new(client: Client, report: mpsc::Sender<Found>) -> Self {
        Self {
            client,
            report,
            running: BTreeMap::new(),
        }
    }

    /// Probes the endpoints that there are, and no others.
    ///
    /// A probe that begins anew, because its settings changed, goes on from what is known of its endpoint.
    pub(crate) fn follow(&mut self, state: &State, unhealthy: &BTreeSet<EndpointId>) {
        let mut wanted = BTreeMap::new();
        for service in state.services.values() {
            let rollout = state.active(&service.name);
            for (version, of) in &service.versions {
                let is_candidate = rollout.is_some_and(|rollout| rollout.to == *version);
                for endpoint in of.reachable() {
                    // What the probe needs of the service; its versions, stages and rules come and go.
                    let service = Service {
                        versions: BTreeMap::new(),
                        rules: RuleList::default(),
                        stable: version.clone(),
                        ..service.clone()
                    };
                    let (url, version) = (endpoint.url.clone(), version.clone());
                    wanted.insert(
                        endpoint.id,
                        Target {
                            service,
                            version,
                            endpoint: endpoint.id,
                            url,
                            is_candidate,
                        },
                    );
                }
            }
        }
        self.running.retain(|id, (target, task)| {
            let keep = wanted.get(id) == Some(target);
            if !keep {
                task.abort();
            }
            keep
        });
        for (id, target) in wanted {
            self.running.entry(id).or_insert_with(|| {
                let task = tokio::spawn(watch(
                    self.client.clone(),
                    target.clone(),
                    !unhealthy.contains(&target.endpoint),
                    self.report.clone(),
                ));
                (target, task.abort_handle())
            });
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

/// Probes one endpoint for as long as it is wanted. One that is new counts as healthy until it fails: a new endpoint must not wait for
/// several good probes before it may serve, pre-flight has asked it already.
async fn watch(client: Client, target: Target, known_healthy: bool, report: mpsc::Sender<Found>) {
    let settings = &target.service.settings;
    let (check, client) = (&settings.health, Asker::new(client, &settings.upstream));
    let mut course = Course::new(known_healthy, target.is_candidate);
    let mut tools_asked: Option<Instant> = None;
    let mut has_answered = false;
    loop {
        let asked = Instant::now();
        let result = once(&client, &target.service, &target.url).await;
        if result.is_ok() && !std::mem::replace(&mut has_answered, true) {
            let endpoint = target.endpoint;
            if report.send(Found::Answered { endpoint }).await.is_err() {
                return;
            }
        }
        if let Some(healthy) = course.take(result.is_ok(), check) {
            let found = Found::Health {
                endpoint: target.endpoint,
                healthy,
                why: result.as_ref().err().cloned(),
            };
            if report.send(found).await.is_err() {
                return;
            }
        }
        let due = tools_asked.is_none_or(|at| at.elapsed() >= TOOLS_EVERY);
        if target.service.protocol == Protocol::Mcp && result.is_ok() && due {
            tools_asked = Some(Instant::now());
            if let Ok(tools) = ask::tools(&client, &target.url).await {
                let (service, version) = (target.service.name.clone(), target.version.clone());
                let name = |tool: &Value| Some(Arc::from(tool.get("name")?.as_str()?));
                let read_only = tools.iter().filter(|tool| only_reads(tool));
                let read_only = read_only.filter_map(name).collect();
                let tools = tools.iter().filter_map(name).collect();
                if report
                    .send(Found::Tools {
                        service,
                        version,
                        tools,
                        read_only,
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        sleep_until(asked + course.interval(check)).await;
    }
}

/// How an endpoint has answered so far.
#[derive(Debug)]
struct Course {
    healthy: bool,
    /// Probes in a row that say otherwise.
    against: u32,
    /// Probes in a row that were answered, as far as they are counted.
    answered: u32,
    is_candidate: bool,
}

impl Course {
    fn new(healthy: bool, is_candidate: bool) -> Self {
        Self {
            healthy,
            against: 0,
            answered: 0,
            is_candidate,
        }
    }

    /// Takes the answer to a probe; whether it is healthy now, if that has changed.
    fn take(&mut self, is_answered: bool, check: &HealthCheck) -> Option<bool> {
        self.answered = if is_answered {
            self.answered.saturating_add(1)
        } else {
            0
        };
        if is_answered == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.healthy {
            check.unhealthy_after
        } else {
            check.healthy_after
        };
        if self.against < needed.max(1) {
            return None;
        }
        self.healthy = is_answered;
        self.against = 0;
        Some(self.healthy)
    }

    /// Time from one probe to the next.
    fn interval(&self, check: &HealthCheck) -> Duration {
        let is_settled = self.healthy && self.answered >= check.healthy_after;
        let interval = if is_settled && !self.is_candidate {
            check.interval
        } else {
            check.interval.min(SOON)
        };
        interval.max(INTERVAL_MIN)
    }
}

/// Whether a tool says of itself that it only reads (2025-11-25, "Tool Annotations").
fn only_reads(tool: &Value) -> bool {
    let hint = tool.pointer("/annotations/readOnlyHint");
    hint.and_then(Value::as_bool) == Some(true)
}

/// Whether an endpoint answers; if not, why.
///
/// With a path, that path must answer 2xx, or one of the statuses that are expected. Without one, any answer below 500 shows that the server is there: an MCP endpoint is
/// asked `server/discover`, which a legacy server refuses with a 400 and no session is made.
pub(crate) async fn once(client: &Asker, service: &Service, url: &str) -> Result<(), String> {
    let check = &service.settings.health;
    let request = match (&check.path, service.protocol) {
        (Some(path), _) => {
            let joined = Url::parse(url)
                .and_then(|url| url.join(path))
                .map_err(|e| format!("{url}: {e}"))?;
            client.get(joined)
        }
        (None, Protocol::Http) => client.get(url),
        (None, Protocol::Mcp) => return alive(ask::discover(client, url, check.timeout).await),
    };
    let response = request.timeout(check.timeout).send().await;
    let status = response
        .map_err(|error| ask::no_answer(url, error).to_string())?
        .status();
    let fine = match &check.path {
        Some(_) if check.expected.is_empty() => status.is_success(),
        Some(_) => check.expected.contains(&status.as_u16()),
        None => !status.is_server_error(),
    };
    if fine {
        Ok(())
    } else {
        Err(format!("{url} answers with status {status}"))
    }
}

fn alive<T>(answer: Result<T, ask::AskError>) -> Result<(), String> {
    match answer {
        // A server that does not know the question is there all the same.
        Ok(_) | Err(ask::AskError::NotMcp { .. }) => Ok(()),
        Err(ask::AskError::Status { status, .. }) if !status.is_server_error() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(interval_seconds: u64) -> HealthCheck {
        HealthCheck {
            interval: Duration::from_secs(interval_seconds),
            ..HealthCheck::default()
        }
    }

    #[test]
    fn what_matters_is_asked_soon_and_the_rest_by_the_interval() {
        let (slow, quick) = (check(30), check(1));
        let seconds = |course: &Course, check| course.interval(check).as_secs();
        let mut course = Course::new(true, false);
        assert_eq!(seconds(&course, &slow), 5, "new");
        // Healthy from the beginning, it is asked soon until it has answered twice.
        assert_eq!(course.take(true, &slow), None);
        assert_eq!(seconds(&course, &slow), 5);
        assert_eq!(course.take(true, &slow), None);
        assert_eq!(seconds(&course, &slow), 30);
        // One failed probe is enough to look closer, and three make it unhealthy.
        for (answered, changed, soon) in [
            (false, None, 5),
            (false, None, 5),
            (false, Some(false), 5),
            (true, None, 5),
            (false, None, 5),
            (true, None, 5),
            (true, Some(true), 30),
        ] {
            assert_eq!(course.take(answered, &slow), changed);
            assert_eq!(seconds(&course, &slow), soon);
            assert_eq!(seconds(&course, &quick), 1, "never slower than asked for");
        }
        let mut candidate = Course::new(true, true);
        for _ in 0..9 {
            assert_eq!(candidate.take(true, &slow), None);
            assert_eq!(seconds(&candidate, &slow), 5);
        }
    }

    #[test]
    fn a_restart_goes_on_from_what_is_known() {
        let mut course = Course::new(false, false);
        assert_eq!(course.take(true, &check(30)), None);
        assert_eq!(course.take(true, &check(30)), Some(true));
    }
}
