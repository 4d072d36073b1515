//! The control plane: it takes what the data plane counted, decides, appends to the log, and swaps the snapshot by which the
//! data plane routes.
//!
//! [`Control`] is the handle. Behind it one task, the orchestrator, owns the state and is the only one to change it.
//!
//! **Invariant:** this crate does not know the gateway. They meet in `serin-model`: [`Sealed`] counts come in, a
//! [`Snapshot`] goes out.
//!
//! [`Sealed`]: serin_model::observe::Sealed
//! [`Snapshot`]: serin_model::snapshot::Snapshot

mod ask;
mod asker;
pub mod audit;
mod credentials;
pub mod doubts;
pub mod flags;
pub mod health;
mod journal;
mod jwks;
pub mod kills;
mod orchestrator;
mod picture;
mod preflight;
mod probe;
mod resources;
pub mod tables;
pub mod totals;
pub mod view;
mod watch;

use arc_swap::ArcSwap;
use flags::{FlagChanges, FlagFile, FlagFileStatus, FlagsNow, Follower};
use health::Health;
use kills::Switchboard;
use serin_flags::{Environment, FlagKey, Reason, table::Forced};
use serin_model::{
    decide::{Candidate, Command, Refusal, RefusalKind, Source, Start},
    degraded::Dependency,
    event::{Actor, Recorded},
    manifest::Manifest,
    name::{RolloutId, ServiceName},
    observe::Sealed,
    plan::Plan,
    replay::{Replay, Replayer},
    route::{Live, Unloaded},
    snapshot::Snapshot,
    state::State,
};
use serin_store::{Blocks, Log};
use serin_tenancy::{
    KeyId, KeyRecord,
    signature::{Master, SigningSecret},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tables::KeyUses;
use tokio::sync::{mpsc, oneshot, watch as channel};
use totals::Totals;
use uuid::Uuid;
use view::View;

/// Commands that wait for the orchestrator before a further one has to wait.
const REQUESTS_MAX: usize = 64;

/// Events and blocks read at a time for a replay.
const REPLAY_PAGE: u32 = 1000;

/// Shortest tick: below it the blocks would hold nothing but noise.
pub const TICK_MIN: Duration = Duration::from_millis(100);

/// What the control plane works with.
pub struct Options {
    /// The log.
    pub log: Log,
    /// The blocks.
    pub blocks: Blocks,
    /// Where the snapshot is swapped.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What the data plane counted.
    pub observations: mpsc::Receiver<Sealed>,
    /// Time from one look at the counts to the next, at least [`TICK_MIN`].
    pub tick: Duration,
    /// The plans that are always there.
    pub plans: BTreeMap<String, Plan>,
    /// What the process was started with.
    pub manifest: Manifest,
    /// Where the process runs.
    pub environment: Environment,
    /// What the process's own environment variable says of flags.
    pub forced: Forced,
    /// The file of flags, if there is one.
    pub flag_file: Option<FlagFile>,
    /// What is killed. The data plane reads its latch.
    pub kills: Switchboard,
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The command makes no sense as things are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot be read or written.
    #[error("the log cannot be used")]
    Store(#[source] serin_store::StoreError),
    /// The log was written by something else, or is damaged.
    #[error("the log holds something that cannot be read")]
    Decode(#[source] serin_model::event::DecodeError),
    /// Something is not killed, not revived, or not for good.
    #[error(transparent)]
    Kill(#[from] kills::SwitchboardError),
    /// Another process decides now.
    #[error(
        "another process has opened the log and decides now; this one goes on routing as it was last told. Send commands to the other, or stop it and restart this one"
    )]
    NotLeader,
    /// The control plane has stopped.
    #[error("the control plane has stopped; restart serin")]
    Stopped,
}

/// The handle of the control plane. Clones share it.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<orchestrator::Request>,
    view: channel::Receiver<Arc<View>>,
    totals: Arc<Mutex<Totals>>,
    health: Arc<Mutex<Health>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    kills: Switchboard,
    flag_changes: FlagChanges,
    flag_file: Option<channel::Receiver<FlagFileStatus>>,
    key_uses: KeyUses,
    books: audit::Books,
    log: Log,
    blocks: Blocks,
    plans: Arc<BTreeMap<String, Plan>>,
    client: reqwest::Client,
    key_fetcher: mpsc::Sender<String>,
    signing: Option<Arc<Master>>,
    live: Arc<dyn Live + Send + Sync>,
}

/// The wish for a rollout, as somebody asks for it.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The service.
    pub service: ServiceName,
    /// The candidate.
    pub candidate: Candidate,
    /// The plan.
    pub plan: PlanChoice,
    /// Why.
    pub reason: String,
    /// Whether a change that clients will notice is accepted.
    pub accept_breaking: bool,
}

/// What becomes of what a manifest does not name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Removal {
    /// It is removed. Endpoints of a version always are.
    pub prunes: bool,
    /// Versions and endpoints are not drained before.
    pub at_once: bool,
}

impl Removal {
    fn command(self, manifest: Manifest) -> Command {
        Command::Apply {
            manifest: Box::new(manifest),
            source: Source::Request,
            prune: self.prunes,
            at_once: self.at_once,
            silent: std::collections::BTreeSet::new(),
        }
    }
}

/// Wishes for newer keys that wait; more of them would say the same.
const KEY_WISHES_MAX: usize = 16;

/// A plan, by name or in full.
#[derive(Clone, Debug)]
pub enum PlanChoice {
    /// One that is known: from a manifest, or built in.
    Named(String),
    /// One of one's own.
    Given {
        /// What it is called.
        name: String,
        /// The recipe.
        plan: Box<Plan>,
    },
}

impl Control {
    /// Reads the log, becomes its writer, applies the manifest, and begins to decide. When it returns, the snapshot is in place.
    pub async fn start(options: Options) -> Result<Self, ControlError> {
        let client = ask::client();
        let totals = Arc::new(Mutex::new(Totals::default()));
        let began = watch::seconds(jiff::Timestamp::now());
        let health = Arc::new(Mutex::new(Health::new(began)));
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (key_fetcher, key_wishes) = mpsc::channel(KEY_WISHES_MAX);
        let plans = Arc::new(options.plans.clone());
        let (log, blocks) = (options.log.clone(), options.blocks.clone());
        let snapshot = Arc::clone(&options.snapshot);
        let flag_changes = FlagChanges::new();
        let kills = options.kills.clone();
        tokio::spawn(kills::tell(kills.changes(), flag_changes.clone()));
        let file = options.flag_file.clone();
        let mut follower = file.map(|file| Follower::new(file, &requests));
        let view = orchestrator::spawn(
            options,
            Arc::clone(&totals),
            Arc::clone(&health),
            client.clone(),
            flag_changes.clone(),
            follower.as_mut(),
            (inbox, key_wishes),
        )
        .await?;
        let flag_file = follower.map(|follower| {
            let status = follower.status();
            tokio::spawn(follower.follow());
            status
        });
        Ok(Self {
            requests,
            view,
            totals,
            health,
            snapshot,
            kills,
            flag_changes,
            flag_file,
            key_uses: KeyUses::default(),
            books: audit::Books::default(),
            log,
            blocks,
            plans,
            client,
            key_fetcher,
            signing: None,
            live: Arc::new(Unloaded),
        })
    }

    /// Who fetches the keys of identity providers anew, by where they are.
    pub fn key_fetcher(&self) -> mpsc::Sender<String> {
        self.key_fetcher.clone()
    }

    /// The same, with what the secrets are made of by which requests are signed.
    #[must_use]
    pub fn with_signing(self, master: Arc<Master>) -> Self {
        Self {
            signing: Some(master),
            ..self
        }
    }

    /// The same, with how the endpoints do, as the data plane sees it.
    #[must_use]
    pub fn with_live(self, live: Arc<dyn Live + Send + Sync>) -> Self {
        if let Ok(mut health) = self.health.lock() {
            health.look_at(Arc::clone(&live));
        }
        Self { live, ..self }
    }

    /// How the endpoints do, as the data plane sees it.
    pub fn live(&self) -> Arc<dyn Live + Send + Sync> {
        Arc::clone(&self.live)
    }

    /// The secret by which requests with a key are signed, if there can be one.
    pub fn signing_secret(&self, key: KeyId) -> Option<SigningSecret> {
        Some(self.signing.as_ref()?.secret(key))
    }

    /// The picture as of the last tick or command.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The picture as it changes.
    pub fn subscribe(&self) -> channel::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The flags and kills as they are now.
    pub fn flags(&self) -> FlagsNow {
        FlagsNow {
            snapshot: self.snapshot.load_full(),
            latch: self.kills.latch().load_full(),
        }
    }

    /// How the file of flags was when it was last looked at, if there is one.
    pub fn flag_file(&self) -> Option<FlagFileStatus> {
        Some(self.flag_file.as_ref()?.borrow().clone())
    }

    /// Tells whenever flags may answer something else.
    pub fn flag_changes(&self) -> channel::Receiver<u64> {
        self.flag_changes.subscribe()
    }

    /// Counts answers that were given outside the data plane.
    pub fn count_evaluations(
        &self,
        answers: impl IntoIterator<Item = (FlagKey, Arc<str>, Reason)>,
    ) {
        let now = jiff::Timestamp::now();
        // Counts only: what somebody left half done is still worth adding to.
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        for (flag, variant, reason) in answers {
            totals.add_answers(&flag, &variant, reason, 1, now);
        }
    }

    /// Counts that fallbacks were used, outside the data plane, by what failed.
    pub fn count_degraded(&self, times: impl IntoIterator<Item = (&'static str, u64)>) {
        // Counts only, as above.
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add_degraded(times);
    }

    /// What there is of the audit trail. Clones share it.
    pub fn books(&self) -> audit::Books {
        self.books.clone()
    }

    /// When keys were last used. Clones share it.
    pub fn key_uses(&self) -> KeyUses {
        self.key_uses.clone()
    }

    /// When a key was last used, as far as it is known.
    pub fn last_used(&self, key: &KeyRecord) -> Option<jiff::Timestamp> {
        self.key_uses.of(key)
    }

    /// Everything that the log has made.
    pub async fn state(&self) -> Result<Arc<State>, ControlError> {
        self.ask(|answer| orchestrator::Request::State { answer })
            .await
    }

    /// What was counted since the process began.
    pub fn totals(&self) -> Totals {
        let totals = self.totals.lock().map(|totals| totals.clone());
        let mut totals = totals.unwrap_or_default();
        let fallbacks = self.books.fallbacks();
        if fallbacks > 0 {
            totals.add_degraded([(Dependency::Audit.label(), fallbacks)]);
        }
        totals
    }

    /// Asks the health monitor, with the time in seconds since 1970.
    pub fn health<T>(&self, ask: impl FnOnce(&Health, f64) -> T) -> T {
        let now = watch::seconds(jiff::Timestamp::now());
        // It holds counts only: what somebody left half done is still worth a look.
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&health, now)
    }

    /// Events after a position, oldest first.
    pub async fn events(&self, after: u64, limit: u32) -> Result<Vec<Recorded>, ControlError> {
        journal::read(&self.log, after, limit).await
    }

    /// Carries out a command. When it returns, what follows from it is in the log, on the disk, and in force.
    pub async fn command(
        &self,
        actor: Actor,
        command: Command,
    ) -> Result<Vec<Recorded>, ControlError> {
        self.ask(|answer| orchestrator::Request::Command {
            actor,
            command: Box::new(command),
            answer,
        })
        .await?
    }

    /// Makes what a manifest describes.
    pub async fn apply(
        &self,
        actor: Actor,
        manifest: Manifest,
        removal: Removal,
    ) -> Result<Vec<Recorded>, ControlError> {
        self.command(actor, removal.command(manifest)).await
    }

    /// What applying a manifest would change, as events that do not happen.
    pub async fn diff(
        &self,
        manifest: Manifest,
        removal: Removal,
    ) -> Result<Vec<serin_model::event::Event>, ControlError> {
        let state = self.state().await?;
        let mut command = removal.command(manifest);
        if let Command::Apply { silent, .. } = &mut command {
            let view = self.view();
            let versions = view.services.iter().flat_map(|of| &of.versions);
            let endpoints = versions.flat_map(|version| &version.endpoints);
            let of_none_known = endpoints.filter(|endpoint| !endpoint.healthy || endpoint.is_new);
            *silent = of_none_known.map(|endpoint| endpoint.id).collect();
        }
        Ok(serin_model::decide::decide(
            &state,
            &command,
            jiff::Timestamp::now(),
        )?)
    }

    /// The rollouts under way and the latest that ended, oldest first.
    pub async fn rollouts(&self) -> Result<Vec<serin_model::rollout::Rollout>, ControlError> {
        Ok(self.state().await?.rollouts.clone())
    }

    /// Judges a recorded rollout again, from the log and the stored blocks: by its own plan, or by another under a name.
    pub async fn replay(
        &self,
        rollout: RolloutId,
        plan: Option<(String, Plan)>,
    ) -> Result<Replay, ControlError> {
        let mut log = Vec::new();
        loop {
            let after = log.last().map_or(0, |last: &Recorded| last.position);
            let page = self.events(after, REPLAY_PAGE).await?;
            if page.is_empty() {
                break;
            }
            log.extend(page);
        }
        let Some(mut replayer) = Replayer::new(&log, rollout, plan) else {
            return Err(ControlError::Refused(Refusal {
                kind: RefusalKind::NotFound,
                what: format!("the log has no rollout {rollout}"),
                help: "`serin rollout list` shows those that there are".to_owned(),
            }));
        };
        let mut after = 0;
        loop {
            let page = self
                .blocks
                .read(&rollout.to_string(), after, REPLAY_PAGE)
                .await
                .map_err(ControlError::Store)?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for block in &page {
                replayer.take(block.sequence, &block.bytes);
                // A long record is folded without keeping others from their turn.
                tokio::task::consume_budget().await;
            }
        }
        Ok(replayer.finish())
    }

    /// The plans that can be named, built-in ones and those of manifests.
    pub async fn plans(&self) -> Result<BTreeMap<String, Plan>, ControlError> {
        let state = self.state().await?;
        let mut plans = self.plans.as_ref().clone();
        plans.extend(state.plans.clone());
        Ok(plans)
    }

    /// Checks the candidate and begins a rollout.
    pub async fn start_rollout(
        &self,
        actor: Actor,
        request: StartRequest,
    ) -> Result<Vec<Recorded>, ControlError> {
        let (plan_name, plan) = match request.plan {
            PlanChoice::Given { name, plan } => (name, *plan),
            PlanChoice::Named(name) => {
                let mut plans = self.plans().await?;
                let Some(plan) = plans.remove(&name) else {
                    let known: Vec<_> = plans.into_keys().collect();
                    return Err(ControlError::Refused(Refusal {
                        kind: RefusalKind::NotFound,
                        what: format!("there is no plan `{name}`"),
                        help: format!("the plans are: {}", known.join(", ")),
                    }));
                };
                (name, plan)
            }
        };
        let state = self.state().await?;
        let mut start = Start {
            rollout: RolloutId(Uuid::now_v7()),
            service: request.service,
            candidate: request.candidate,
            plan_name,
            plan,
            reason: request.reason,
            preflight: serin_model::event::Preflight::default(),
            accept_breaking: request.accept_breaking,
        };
        // What is wrong with the wish itself is said before anybody is asked anything over the network.
        serin_model::decide::decide(
            &state,
            &Command::Start(Box::new(start.clone())),
            jiff::Timestamp::now(),
        )?;
        match (&start.candidate, state.services.get(&start.service)) {
            (Candidate::Version(to), Some(service)) => {
                start.preflight = preflight::check(&self.client, service, to, &start.plan).await;
            }
            (Candidate::Flag { flag, .. }, _) => {
                start.preflight =
                    flags::preflight(&self.flags(), flag.as_str(), jiff::Timestamp::now());
            }
            (Candidate::Version(_), None) => {}
        }
        self.command(actor, Command::Start(Box::new(start))).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> orchestrator::Request,
    ) -> Result<T, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| ControlError::Stopped)?;
        answered.await.map_err(|_| ControlError::Stopped)
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
