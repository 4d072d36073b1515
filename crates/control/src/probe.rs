//! Active health checks: one small task an endpoint, which reports only changes.

use crate::{ask, asker::Asker};
use reqwest::{Client, Url};
use serde_json::Value;
use serin_judge::Resources;
use serin_model::{
    name::{EndpointId, ServiceName, VersionName},
    service::{Protocol, Service},
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
    time::{MissedTickBehavior, interval},
};

/// How often the tools of a version are asked for again: they change with a deployment, not by themselves.
const TOOLS_EVERY: Duration = Duration::from_mins(1);

/// What a probe found.
#[derive(Debug)]
pub(crate) enum Found {
    /// An endpoint became healthy or unhealthy.
    Health {
        endpoint: EndpointId,
        healthy: bool,
        why: Option<String>,
    },
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
            for (version, of) in &service.versions {
                for endpoint in &of.endpoints {
                    // What the probe needs of the service; its versions and stages come and go.
                    let service = Service {
                        versions: BTreeMap::new(),
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
    let mut timer = interval(check.interval.max(Duration::from_millis(10)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut healthy, mut streak) = (known_healthy, 0_u32);
    let mut tools_asked: Option<tokio::time::Instant> = None;
    loop {
        timer.tick().await;
        let result = once(&client, &target.service, &target.url).await;
        streak = if result.is_ok() == healthy {
            0
        } else {
            streak + 1
        };
        let needed = if healthy {
            check.unhealthy_after
        } else {
            check.healthy_after
        };
        if streak >= needed.max(1) {
            healthy = !healthy;
            streak = 0;
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
            tools_asked = Some(tokio::time::Instant::now());
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
    }
}

/// Whether a tool says of itself that it only reads (2025-11-25, "Tool Annotations").
fn only_reads(tool: &Value) -> bool {
    let hint = tool.pointer("/annotations/readOnlyHint");
    hint.and_then(Value::as_bool) == Some(true)
}

/// Whether an endpoint answers; if not, why.
///
/// With a path, that path must answer 2xx. Without one, any answer below 500 shows that the server is there: an MCP endpoint is
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
    let fine = if check.path.is_some() {
        status.is_success()
    } else {
        !status.is_server_error()
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
