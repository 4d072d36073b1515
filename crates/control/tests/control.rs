//! The control plane with a real store and real endpoints; what the gateway would count is sent by hand.

use arc_swap::ArcSwap;
use serin_control::{
    Control, ControlError, Options, PlanChoice, Removal, StartRequest, TICK_MIN,
    kills::Switchboard,
    view::{RolloutView, View},
};
use serin_flags::{Environment, table::Forced};
use serin_judge::{
    Verdict,
    trial::{NewKey, Part, Report, Seen, Shown},
};
use serin_model::{
    decide::{Candidate, Command, DrainWish, Expects, RefusalKind, SetFlag},
    drain::{DRAIN_DEFAULT, Drained},
    event::{Actor, Event},
    manifest::Manifest,
    name::ServiceName,
    observe::{CallEra, CellKey, Counts, Outcome, STREAK_URGENT, Sealed, Trials},
    plan::RollbackStrategy,
    rollout::Status,
    service::{Protocol, VersionStage},
    share::Share,
    snapshot::Snapshot,
};
use serin_store::{Blocks, Log};
use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// No condition of a test takes so long on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// An endpoint that answers everything with 200 and nothing.
struct Upstream {
    url: String,
    task: JoinHandle<()>,
}

impl Upstream {
    async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    async fn start_on(address: &str) -> Self {
        Self::answering(address, "").await
    }

    /// Answers everything with this JSON.
    async fn answering(address: &str, body: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let head = format!(
                    "content-type: application/json\r\ncontent-length: {}",
                    body.len()
                );
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{head}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, task }
    }
}

struct Plane {
    control: Control,
    snapshot: Arc<ArcSwap<Snapshot>>,
    counts: mpsc::Sender<Sealed>,
}

impl Plane {
    async fn open(folder: &Path, manifest: Manifest) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let (counts, observations) = mpsc::channel(16);
        let control = Control::start(Options {
            log: Log::open(&folder.join("serin.db")).await.unwrap(),
            blocks: Blocks::open(&folder.join("serin.blocks.db")).await.unwrap(),
            snapshot: Arc::clone(&snapshot),
            observations,
            tick: TICK_MIN,
            plans: BTreeMap::new(),
            manifest,
            environment: Environment::default(),
            forced: Forced::default(),
            flag_file: None,
            kills: Switchboard::default(),
        })
        .await
        .unwrap();
        Self {
            control,
            snapshot,
            counts,
        }
    }

    async fn start(&self, plan: &str) -> Result<(), ControlError> {
        let v2 = Candidate::Version("v2".parse().unwrap());
        self.start_with(v2, plan).await
    }

    async fn start_with(&self, candidate: Candidate, plan: &str) -> Result<(), ControlError> {
        let plan = Box::new(serde_json::from_str(plan).unwrap());
        let request = StartRequest {
            service: shop(),
            candidate,
            plan: PlanChoice::Given {
                name: "test".into(),
                plan,
            },
            reason: "because".into(),
            accept_breaking: false,
        };
        self.control
            .start_rollout(Actor::named("ops"), request)
            .await
            .map(|_| ())
    }

    async fn count(&self, version: &str, calls: u64, bad: u64) {
        let mut counts = Counts::default();
        counts.outcomes[Outcome::Ok as usize] = calls - bad;
        counts.outcomes[Outcome::ToolError as usize] = bad;
        let key = CellKey {
            service: shop(),
            version: version.parse().unwrap(),
            tool: "none".into(),
            era: CallEra::None,
        };
        self.counts
            .send(Sealed {
                cells: vec![(key, counts)],
                ..Sealed::default()
            })
            .await
            .unwrap();
    }

    /// The first calls of so many callers, of whom one in `bad_one_in` has a bad one.
    async fn callers(&self, keys: std::ops::Range<u64>, is_candidate: bool, bad_one_in: u64) {
        let rollout = self.until("there", |_| true).await.id;
        let parts = keys.map(|key| Part {
            // Spread over all bits, as hashes are.
            key: key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            tool: None,
            is_candidate,
            seen: Seen::of(
                if key % bad_one_in == 0 {
                    Shown::Badly
                } else {
                    Shown::Well(None)
                },
                0,
            ),
        });
        let trials = Trials {
            service: shop(),
            rollout,
            step: 1,
            share: Share::ZERO,
            report: Report {
                parts: parts.collect(),
                ..Report::default()
            },
        };
        let sealed = Sealed {
            trials: vec![trials],
            ..Sealed::default()
        };
        self.counts.send(sealed).await.unwrap();
    }

    /// A second process on the same store, as after a restart.
    async fn reopen(folder: &Path) -> Self {
        Self::open(folder, Manifest::default()).await
    }

    /// Waits until the picture looks as it should.
    async fn until_view(&self, what: &str, looks: impl Fn(&View) -> bool) -> Arc<View> {
        let mut views = self.control.subscribe();
        let wait = async {
            loop {
                let view = views.borrow_and_update().clone();
                if looks(&view) {
                    return view;
                }
                views.changed().await.unwrap();
            }
        };
        let Ok(view) = timeout(PATIENCE, wait).await else {
            panic!("never {what}: {:#?}", self.control.view())
        };
        view
    }

    /// Waits until the rollout looks as it should.
    async fn until(&self, what: &str, looks: impl Fn(&RolloutView) -> bool) -> RolloutView {
        let rollout = |view: &View| view.service("shop").and_then(|s| s.rollout.clone());
        let view = self
            .until_view(what, |view| rollout(view).as_ref().is_some_and(&looks))
            .await;
        rollout(&view).unwrap()
    }

    async fn kinds(&self) -> Vec<&'static str> {
        self.control
            .events(0, 100)
            .await
            .unwrap()
            .iter()
            .map(|recorded| recorded.event.kind())
            .collect()
    }
}

fn shop() -> ServiceName {
    "shop".parse().unwrap()
}

fn manifest(v1: &str, v2: &str) -> Manifest {
    serde_json::from_str(&format!(
        r#"{{"services": {{"shop": {{"protocol": "http", "path": "/shop", "stable": "v1",
            "settings": {{"health": {{"interval": "20ms", "unhealthy_after": 2}}}},
            "versions": {{"v1": {{"endpoints": ["{v1}"]}}, "v2": {{"endpoints": ["{v2}"]}}}}}}}}}}"#
    ))
    .unwrap()
}

async fn world() -> (TempDir, Upstream, Upstream, Manifest) {
    let (v1, v2) = (Upstream::start().await, Upstream::start().await);
    let manifest = manifest(&v1.url, &v2.url);
    (TempDir::new().unwrap(), v1, v2, manifest)
}

const QUICK: &str = r#"{"phases": [{"share": "10 %"}, {"share": "50 %"}, {"share": "100 %"}], "evidence": "calls 50",
    "thresholds": {"error_rate": {"critical": "10 %", "min_samples": 10}}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_candidate_is_promoted_on_its_counts() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    assert_eq!(
        plane.snapshot.load().services.len(),
        1,
        "the snapshot is in place before start returns"
    );
    plane.start(QUICK).await.unwrap();
    let split = plane.snapshot.load().services[0].split.clone().unwrap();
    assert_eq!(
        split.share,
        "10 %".parse().unwrap(),
        "in force before the answer"
    );
    plane.count("v1", 500, 0).await;
    plane.count("v2", 50, 0).await;
    plane.until("in phase 2", |r| r.phase == 1).await;
    plane
        .until("counting anew", |r| r.arms.candidate.calls == 0)
        .await;
    plane.count("v2", 50, 1).await;
    let rollout = plane
        .until("promoted", |r| r.status == Status::Promoted)
        .await;
    assert_eq!(rollout.ended_reason.as_deref(), Some("every phase passed"));
    let snapshot = plane.snapshot.load();
    assert_eq!(
        snapshot.services[0].versions[snapshot.services[0].stable]
            .name
            .as_str(),
        "v2"
    );
    assert_eq!(
        snapshot.services[0].versions[0].stage,
        VersionStage::Draining
    );
    assert_eq!(
        plane.kinds().await,
        [
            "service_created",
            "manifest_read",
            "rollout_started",
            "phase_entered",
            "phase_entered",
            "phase_entered",
            "promoted"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_candidate_is_taken_back_and_the_log_says_why() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    plane.count("v1", 200, 0).await;
    plane.count("v2", 20, 20).await;
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    let reason = rollout.ended_reason.unwrap();
    assert!(
        reason.contains("error_rate") && reason.contains("100 %") && reason.contains("10 %"),
        "{reason}"
    );
    let snapshot = plane.snapshot.load();
    assert!(snapshot.services[0].split.is_none());
    assert_eq!(
        snapshot.services[0].versions[1].stage,
        VersionStage::Withdrawn
    );
    let events = plane.control.events(0, 100).await.unwrap();
    let Event::RolledBack {
        evidence: Some(evidence),
        ..
    } = &events.last().unwrap().event
    else {
        panic!("{events:?}")
    };
    assert_eq!(evidence.calls, 20);
    assert_eq!(
        plane.control.totals().rollback_seconds[&(shop(), RollbackStrategy::Immediate)].count(),
        1
    );
}

/// Nobody can append while this is held.
async fn lock_the_log(folder: &Path) -> SqliteConnection {
    lock(&folder.join("serin.db")).await
}

/// Nobody can write a file while this is held.
async fn lock(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.unwrap();
    connection.execute("BEGIN IMMEDIATE").await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_taken_back_even_while_the_log_cannot_be_written() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    let mut lock = lock_the_log(folder.path()).await;
    plane.count("v2", 20, 20).await;
    let wait = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while plane.snapshot.load().services[0].split.is_some() {
            look.tick().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the split ends");
    assert_eq!(
        plane.snapshot.load().services[0].versions[1].stage,
        VersionStage::Withdrawn
    );
    assert!(
        !plane.kinds().await.contains(&"rolled_back"),
        "it is not recorded: the log is locked"
    );
    let promote = Command::Promote {
        service: shop(),
        full: true,
        overridden: Some("sure".into()),
        assessment: None,
    };
    let undone = plane.control.command(Actor::named("ops"), promote).await;
    assert!(
        matches!(undone, Err(ControlError::Refused(_))),
        "nobody moves on what was taken back: {undone:?}"
    );
    lock.execute("ROLLBACK").await.unwrap();
    plane
        .until("recorded", |r| r.status == Status::RolledBack)
        .await;
    assert_eq!(plane.kinds().await.last(), Some(&"rolled_back"));
    assert!(plane.snapshot.load().services[0].split.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streak_of_transport_failures_takes_back_without_statistics() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    let streak = |n| Sealed {
        streaks: vec![(shop(), "v2".parse().unwrap(), n)],
        ..Sealed::default()
    };
    plane.counts.send(streak(STREAK_URGENT)).await.unwrap();
    plane.counts.send(streak(9)).await.unwrap();
    plane.count("v2", 1, 0).await;
    plane
        .until("still running at nine", |r| {
            r.status == Status::Running && r.arms.candidate.calls == 1
        })
        .await;
    plane.counts.send(streak(10)).await.unwrap();
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    assert!(rollout.ended_reason.unwrap().contains("10 calls in a row"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_stable_is_no_fault_of_the_flag_that_is_released() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    let flag = r#"{"state": "DISABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "serin": {"offVariant": "off"}}"#;
    let create = SetFlag {
        flag: "f".parse().unwrap(),
        definition: Some(Box::new(serde_json::from_str(flag).unwrap())),
        expects: Expects::New,
        reason: String::new(),
    };
    plane
        .control
        .command(Actor::named("ops"), Command::SetFlag(Box::new(create)))
        .await
        .unwrap();
    let release = Candidate::Flag {
        flag: "f".parse().unwrap(),
        on: None,
    };
    plane.start_with(release, QUICK).await.unwrap();
    let nobody_answers = Sealed {
        streaks: vec![(shop(), "v1+f".parse().unwrap(), 100)],
        ..Sealed::default()
    };
    plane.counts.send(nobody_answers).await.unwrap();
    plane.count("v1+f", 1, 1).await;
    let rollout = plane
        .until("counted", |r| r.arms.candidate.calls == 1)
        .await;
    assert_eq!(rollout.status, Status::Running);
    // What fails with the flag and not without it is.
    plane.count("v1", 100, 0).await;
    plane.count("v1+f", 100, 100).await;
    plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_fails_its_probes_is_taken_back() {
    let (folder, _v1, v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    v2.task.abort();
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    assert!(rollout.ended_reason.unwrap().contains("failed its probes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_with_the_same_numbers() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    plane.start(QUICK).await.unwrap();
    plane.count("v2", 40, 0).await;
    plane
        .until("counted", |r| r.arms.candidate.calls == 40)
        .await;
    // The first is not told to stop: the second takes over, as after a kill.
    let second = Plane::open(folder.path(), manifest).await;
    let rollout = second
        .until("remembered", |r| r.arms.candidate.calls == 40)
        .await;
    assert_eq!(rollout.phase, 0);
    assert!(second.snapshot.load().services[0].split.is_some());
    second.count("v2", 10, 0).await;
    second.until("in phase 2", |r| r.phase == 1).await;
    // And the first knows that it no longer decides.
    let pause = Command::Pause {
        service: shop(),
        reason: "lunch".into(),
    };
    let refused = plane.control.command(Actor::named("ops"), pause).await;
    assert!(
        matches!(refused, Err(ControlError::NotLeader)),
        "{refused:?}"
    );
    assert!(!plane.control.view().leader);
    assert!(
        plane.snapshot.load().services[0].split.is_some(),
        "it goes on routing as it was last told"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pre_flight_refuses_a_candidate_that_is_down_until_it_is_up() {
    let (folder, _v1, v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    let address = v2
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    v2.task.abort();
    let _ = v2.task.await;
    let Err(ControlError::Refused(refusal)) = plane.start(QUICK).await else {
        panic!("started")
    };
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    assert!(
        refusal.what.contains("health") && refusal.what.contains(&address),
        "{refusal:?}"
    );
    assert!(refusal.help.contains("start again"), "{refusal:?}");
    assert_eq!(
        plane.kinds().await,
        ["service_created", "manifest_read"],
        "a refused change changes nothing"
    );
    // What the help says: bring it up and start again.
    let _again = Upstream::start_on(&address).await;
    plane.start(QUICK).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_realised_share_counts_keys() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    let rollout = plane.until("there", |_| true).await.id;
    let new = |key| NewKey {
        key,
        is_candidate: key == 9,
    };
    let trials = Trials {
        service: shop(),
        rollout,
        step: 1,
        share: Share::ZERO,
        report: Report {
            keys: (0..10).chain([9]).map(new).collect(),
            ..Report::default()
        },
    };
    plane
        .counts
        .send(Sealed {
            trials: vec![trials],
            ..Sealed::default()
        })
        .await
        .unwrap();
    let rollout = plane.until("counted", |r| r.keys.stable == 9).await;
    assert_eq!(rollout.share_realised(), Some(0.1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_was_down_is_healthy_again_after_its_settings_changed() {
    let (folder, _v1, v2, mut manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    let healthy = |view: &View| {
        view.service("shop")
            .is_some_and(|s| s.versions[1].endpoints[0].healthy)
    };
    let address = v2
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    v2.task.abort();
    plane.until_view("unhealthy", |view| !healthy(view)).await;
    let settings = &mut manifest.services.get_mut(&shop()).unwrap().settings;
    settings.connect_timeout = Duration::from_secs(3);
    plane
        .control
        .apply(Actor::named("ops"), manifest, Removal::default())
        .await
        .unwrap();
    assert!(
        !healthy(&plane.control.view()),
        "nothing is known that would make it healthy"
    );
    let _again = Upstream::start_on(&address).await;
    plane.until_view("healthy again", healthy).await;
}

/// The endpoints of v1 as the data plane gets them: id, healthy, whether it takes callers, and since when it grows.
fn of_v1(plane: &Plane) -> Vec<(u32, bool, bool, bool)> {
    let snapshot = plane.snapshot.load();
    let service = snapshot.service(&shop()).unwrap();
    let endpoints = service.versions[0].endpoints.iter();
    endpoints
        .map(|e| {
            let grows = e.healthy_since.is_some();
            (e.id.0, e.healthy, !e.is_draining, grows)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_joins_others_serves_at_once_and_grows() {
    let (folder, _v1, v2, mut manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    assert_eq!(of_v1(&plane), [(0, true, true, false)], "the first of all");
    let other = Upstream::start().await;
    let versions = &mut manifest.services.get_mut(&shop()).unwrap().versions;
    let v1 = versions.get_mut(&"v1".parse().unwrap()).unwrap();
    v1.endpoints.push(other.url.as_str().into());
    let apply = |manifest: &Manifest| {
        plane
            .control
            .apply(Actor::named("ops"), manifest.clone(), Removal::default())
    };
    apply(&manifest).await.unwrap();
    let joined = [(0, true, true, false), (2, true, true, true)];
    assert_eq!(of_v1(&plane), joined, "nobody waits for its probes");
    // What was down grows again too.
    v2.task.abort();
    let healthy = |view: &View| view.service("shop").unwrap().versions[1].endpoints[0].healthy;
    plane.until_view("unhealthy", |view| !healthy(view)).await;
    let address = v2.url.trim_start_matches("http://").trim_end_matches('/');
    let _again = Upstream::start_on(address).await;
    plane.until_view("healthy again", healthy).await;
    let snapshot = plane.snapshot.load();
    let v2 = &snapshot.service(&shop()).unwrap().versions[1];
    assert!(v2.endpoints[0].healthy_since.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_over_at_a_tick_and_outlives_a_restart() {
    let (folder, _v1, _v2, mut manifest) = world().await;
    let other = Upstream::start().await;
    let versions = &mut manifest.services.get_mut(&shop()).unwrap().versions;
    let v1 = versions.get_mut(&"v1".parse().unwrap()).unwrap();
    v1.endpoints.push(other.url.as_str().into());
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    let drain = |plane: &Plane, cap| {
        let wish = DrainWish {
            service: shop(),
            what: Drained::Endpoint(other.url.clone()),
            cap,
            reason: "maintenance".into(),
            silent: BTreeSet::new(),
        };
        let control = plane.control.clone();
        async move {
            let command = Command::Drain(Box::new(wish));
            control.command(Actor::named("ops"), command).await
        }
    };
    drain(&plane, DRAIN_DEFAULT).await.unwrap();
    let drains = [(0, true, true, false), (1, true, false, false)];
    assert_eq!(of_v1(&plane), drains);
    let plane = Plane::reopen(folder.path()).await;
    assert_eq!(of_v1(&plane), drains);
    drain(&plane, Duration::ZERO).await.unwrap();
    let over = |view: &View| {
        let endpoint = &view.service("shop").unwrap().versions[0].endpoints[1];
        endpoint.drain.as_ref().is_some_and(|drain| drain.is_over)
    };
    plane.until_view("over", over).await;
    assert_eq!(of_v1(&plane), [(0, true, true, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_endpoint_that_answers_cannot_be_drained() {
    let (folder, _v1, _v2, mut manifest) = world().await;
    let other = Upstream::start().await;
    let versions = &mut manifest.services.get_mut(&shop()).unwrap().versions;
    let v1 = versions.get_mut(&"v1".parse().unwrap()).unwrap();
    v1.endpoints.push(other.url.as_str().into());
    let first = v1.endpoints[0].url.clone();
    let plane = Plane::open(folder.path(), manifest).await;
    other.task.abort();
    let healthy = |view: &View| view.service("shop").unwrap().versions[0].endpoints[1].healthy;
    plane.until_view("unhealthy", |view| !healthy(view)).await;
    let wish = DrainWish {
        service: shop(),
        what: Drained::Endpoint(first),
        cap: DRAIN_DEFAULT,
        reason: "maintenance".into(),
        silent: BTreeSet::new(),
    };
    let command = Command::Drain(Box::new(wish));
    let refused = plane.control.command(Actor::named("ops"), command).await;
    let Err(ControlError::Refused(refusal)) = refused else {
        panic!("{refused:?}")
    };
    assert!(refusal.what.contains("last endpoint"), "{refusal:?}");
}

/// The url of an address where nobody listens.
async fn nobody() -> String {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", free.local_addr().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_never_answered_is_nobody_to_fall_back_on() {
    let (folder, v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    let (slip, other) = (nobody().await, Upstream::start().await);
    let apply = |urls: &[&str]| {
        let mut manifest = manifest.clone();
        let versions = &mut manifest.services.get_mut(&shop()).unwrap().versions;
        let v1 = versions.get_mut(&"v1".parse().unwrap()).unwrap();
        v1.endpoints = urls.iter().map(|url| (*url).into()).collect();
        let control = plane.control.clone();
        async move {
            let removal = Removal::default();
            let diff = control.diff(manifest.clone(), removal).await;
            let done = control.apply(Actor::named("ops"), manifest, removal).await;
            assert_eq!(diff.is_ok(), done.is_ok(), "{diff:?} {done:?}");
            done
        }
    };
    let drain = |url: &str| {
        let wish = DrainWish {
            service: shop(),
            what: Drained::Endpoint(url.to_owned()),
            cap: DRAIN_DEFAULT,
            reason: "maintenance".into(),
            silent: BTreeSet::new(),
        };
        let command = Command::Drain(Box::new(wish));
        plane.control.command(Actor::named("ops"), command)
    };
    let refused = |done| {
        let Err(ControlError::Refused(refusal)) = done else {
            panic!("{done:?}")
        };
        assert!(refusal.help.contains("`new`"), "{refusal:?}");
    };
    apply(&[&v1.url, &slip]).await.unwrap();
    refused(drain(&v1.url).await);
    refused(apply(&[&slip]).await);
    refused(apply(&[&slip, &other.url]).await);
    // One that answers is enough, and the slip can go.
    apply(&[&v1.url, &other.url]).await.unwrap();
    let is_known = |view: &View| {
        let endpoints = &view.service("shop").unwrap().versions[0].endpoints;
        let other = endpoints.iter().find(|e| e.url == other.url).unwrap();
        !other.is_new
    };
    plane.until_view("an answer", is_known).await;
    drain(&v1.url).await.unwrap();
    apply(&[&other.url]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_healthy_at_the_statuses_that_are_expected() {
    let (folder, _v1, _v2, mut manifest) = world().await;
    // Both answer 200; of one 204 is expected.
    let health = &mut manifest.services.get_mut(&shop()).unwrap().settings.health;
    health.path = Some("/health".into());
    let mut picky = manifest.services[&shop()].clone();
    (picky.path, picky.settings.health.expected) = ("/picky".into(), vec![204]);
    manifest.services.insert("picky".parse().unwrap(), picky);
    let plane = Plane::open(folder.path(), manifest).await;
    let view = plane
        .until_view("unhealthy", |view| {
            let picky = view.service("picky").unwrap();
            !picky.versions[0].endpoints[0].healthy
        })
        .await;
    assert!(view.service("shop").unwrap().versions[0].endpoints[0].healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_know_the_probes_question_is_healthy_all_the_same() {
    let (folder, v1, _v2, _) = world().await;
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#;
    let ignorant = Upstream::answering("127.0.0.1:0", body).await;
    let mut manifest = manifest(&v1.url, &ignorant.url);
    manifest.services.get_mut(&shop()).unwrap().protocol = Protocol::Mcp;
    let plane = Plane::open(folder.path(), manifest).await;
    // The other server answers nothing that is MCP either; one that is gone shows that the probes run.
    v1.task.abort();
    let view = plane
        .until_view("unhealthy", |view| {
            view.service("shop")
                .is_some_and(|s| !s.versions[0].endpoints[0].healthy)
        })
        .await;
    assert!(view.service("shop").unwrap().versions[1].endpoints[0].healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_whose_lists_fail_is_taken_back_though_it_has_no_trial() {
    let (folder, v1, v2, _) = world().await;
    let mut manifest = manifest(&v1.url, &v2.url);
    // Judged as MCP, where `none` is what uses no tool.
    let plane = Plane::open(folder.path(), manifest.clone()).await;
    plane.start(QUICK).await.unwrap();
    manifest.services.get_mut(&shop()).unwrap().protocol = Protocol::Mcp;
    plane
        .control
        .apply(Actor::named("ops"), manifest, Removal::default())
        .await
        .unwrap();
    let restarted = Plane::reopen(folder.path()).await;
    restarted.count("v2", 20, 20).await;
    let rollout = restarted
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    assert_eq!(rollout.trials, 0);
    assert!(rollout.ended_reason.unwrap().contains("without a tool"));
}

/// Judged by its own plan alone, without thresholds.
const JUDGED: &str = r#"{"phases": [{"share": "50 %"}, {"share": "100 %"}], "evidence": "trials 100000", "judge": {"block": "1s"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_judged_across_two_restarts_gets_the_verdict_of_its_blocks() {
    let (folder, _v1, _v2, manifest) = world().await;
    let mut plane = Plane::open(folder.path(), manifest).await;
    plane.start(JUDGED).await.unwrap();
    let mut blocks = 0;
    for round in 0..3_u64 {
        let keys = |side: u64| 1000 * (2 * round + side)..1000 * (2 * round + side) + 40;
        plane.callers(keys(0), false, 1_000_000).await;
        // Two of forty fail at first: not enough to tell. All of them do in the end.
        let bad_one_in = if round == 2 { 1 } else { 20 };
        plane.callers(keys(1), true, bad_one_in).await;
        if round < 2 {
            let rollout = plane
                .until("judged", |r| {
                    r.proof.as_ref().is_some_and(|p| p.blocks > blocks)
                })
                .await;
            let proof = rollout.proof.unwrap();
            assert_eq!(
                proof.trials,
                40 * (round + 1),
                "none is lost, none counts twice"
            );
            assert!(!proof.regression);
            blocks = proof.blocks;
            // The one before is not told to stop: as after a kill.
            plane = Plane::reopen(folder.path()).await;
        }
    }
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    let reason = rollout.ended_reason.unwrap();
    assert!(
        reason.contains("worse than stable is proven: errors"),
        "{reason}"
    );

    let events = plane.control.events(0, 100).await.unwrap();
    let Event::RolledBack {
        evidence: Some(evidence),
        ..
    } = &events.last().unwrap().event
    else {
        panic!("{events:?}")
    };
    assert_eq!(evidence.verdict, Verdict::Regression);
    let basis = evidence.basis.clone().unwrap();
    assert!(basis.blocks >= 3 && basis.first < basis.last, "{basis:?}");

    // All blocks at once, as without any restart.
    let replay = plane.control.replay(rollout.id, None).await.unwrap();
    assert!(
        !replay.verified.is_empty() && replay.is_verified(),
        "{:?}",
        replay.verified
    );
    assert!(replay.end.contains("rolled back"), "{}", replay.end);

    // A plan that tolerates anything would have gone on.
    let lenient = JUDGED.replace(
        r#""1s""#,
        r#""1s", "errors": "+0 % +97pp", "mode": "sequential""#,
    );
    let lenient = serde_json::from_str(&lenient).unwrap();
    let replay = plane
        .control
        .replay(rollout.id, Some(("lenient".to_owned(), lenient)))
        .await
        .unwrap();
    assert!(
        replay.end.contains("no reason to take the candidate back"),
        "{}",
        replay.end
    );
    assert!(replay.is_verified(), "the record is judged by its own plan");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_was_changed_afterwards_is_noticed() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(JUDGED).await.unwrap();
    plane.callers(0..40, false, 1_000_000).await;
    plane.callers(1000..1040, true, 1).await;
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    let options = SqliteConnectOptions::new().filename(folder.path().join("serin.blocks.db"));
    let mut connection = options.connect().await.unwrap();
    connection
        .execute(r#"UPDATE blocks SET bytes = CAST(replace(CAST(bytes AS TEXT), '"bad":40', '"bad":39') AS BLOB)"#)
        .await
        .unwrap();
    let replay = plane.control.replay(rollout.id, None).await.unwrap();
    assert!(!replay.is_verified(), "{:?}", replay.verified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enough_signals_by_hand_take_the_candidate_back() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(JUDGED).await.unwrap();
    let signal = |kind: &str| Command::Signal {
        service: shop(),
        signal: kind.to_owned(),
        reason: "data is lost".to_owned(),
    };
    let ops = Actor::named("ops");
    plane
        .control
        .command(ops.clone(), signal("complaint"))
        .await
        .unwrap();
    plane
        .until("held", |r| {
            r.held
                .as_ref()
                .is_some_and(|held| held.contains("complaint"))
        })
        .await;
    plane
        .control
        .command(ops, signal("critical_bug"))
        .await
        .unwrap();
    let rollout = plane
        .until("rolled back", |r| r.status == Status::RolledBack)
        .await;
    assert!(rollout.ended_reason.unwrap().contains("data is lost"));
    assert!(plane.snapshot.load().services[0].split.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_phase_passes_on_counts_that_no_disk_has_and_they_are_stored_later() {
    let (folder, _v1, _v2, manifest) = world().await;
    let plane = Plane::open(folder.path(), manifest).await;
    plane.start(QUICK).await.unwrap();
    let mut lock = lock(&folder.path().join("serin.blocks.db")).await;
    plane.count("v1", 500, 0).await;
    plane.count("v2", 50, 0).await;
    let rollout = plane
        .until("refused by the disk", |r| {
            r.missing
                .as_ref()
                .is_some_and(|missing| missing.contains("disk"))
        })
        .await;
    assert_eq!((rollout.phase, rollout.arms.candidate.calls), (0, 50));
    lock.execute("ROLLBACK").await.unwrap();
    plane.until("in phase 2", |r| r.phase == 1).await;
    let replay = plane.control.replay(rollout.id, None).await.unwrap();
    assert!(
        !replay.verified.is_empty() && replay.is_verified(),
        "{:?}",
        replay.verified
    );
}
