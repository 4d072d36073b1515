//! The one task that owns the state: it takes counts, commands and probe results, decides, appends, and swaps the snapshot.

use crate::{
    ControlError, Options, chain,
    credentials::Credentials,
    flags::{FlagChanges, Follower, a_date_has_come},
    health::Health,
    journal::{AppendFailure, Journal},
    jwks::Providers,
    kills::{Errand, Switchboard, Switches, failpoint, switch_actor},
    picture::{self, Recent},
    probe::{Found, Probes},
    resources::Scrapes,
    totals::{Ending, Totals},
    view::View,
    watch::{Watch, seconds},
};
use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use serin_flags::kill::Revival;
use serin_model::{
    course::Block,
    decide::{Command, Expects, Refusal, RefusalKind, SetFlag, Source, decide},
    degraded::Dependency,
    event::{Actor, Event, Recorded},
    name::{EndpointId, RolloutId, ServiceName, VersionName},
    observe::{Moved, OTHER_TOOL, Sealed, TOOL_LABELS_MAX},
    plan::RollbackStrategy,
    rollout::Rollout,
    service::{Service, Version},
    snapshot::{Observed, Snapshot},
    state::State,
    switch::Action,
};
use serin_store::{BlockKey, Blocks};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch as channel},
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

/// Blocks read at a time after a restart.
const PAGE: u32 = 1000;

/// How long blocks are kept: longer than any rollout should last, so that what decided it can be judged again.
const BLOCKS_KEPT: Duration = Duration::from_hours(90 * 24);

/// How often older ones are removed.
const PRUNE_EVERY: Duration = Duration::from_hours(1);

/// Probe results that wait before a probe has to.
const FOUND_MAX: usize = 256;

/// Most blocks of a rollout that wait for a disk which refuses them: ten minutes of ticks of a second.
const UNSTORED_MAX: usize = 600;

/// How soon kills are copied again after the log refused them.
const COPY_AGAIN: Duration = Duration::from_secs(1);

/// A block that waits for the disk.
struct Unstored {
    key: BlockKey,
    at: Timestamp,
    bytes: Vec<u8>,
    /// Until it was judged.
    block: Option<Block>,
}

/// What has to be drawn anew after something was learnt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    None,
    /// What is shown.
    View,
    /// The routing table, and what is shown.
    Table,
}

/// What is asked of the orchestrator.
pub(crate) enum Request {
    /// Carry out a command.
    Command {
        actor: Actor,
        command: Box<Command>,
        answer: oneshot::Sender<Result<Vec<Recorded>, ControlError>>,
    },
    /// Show the state.
    State { answer: oneshot::Sender<Arc<State>> },
}

/// Reads the log, applies the manifest, puts the first snapshot in place, and leaves the task running.
pub(crate) async fn spawn(
    options: Options,
    totals: Arc<Mutex<Totals>>,
    health: Arc<Mutex<Health>>,
    client: Client,
    flag_changes: FlagChanges,
    flag_file: Option<&mut Follower>,
    (inbox, key_wishes): (mpsc::Receiver<Request>, mpsc::Receiver<String>),
) -> Result<channel::Receiver<Arc<View>>, ControlError> {
    let (journal, state, recent) = Journal::open(options.log).await?;
    // Before anything is served: a kill file that was lost is made up from the log.
    if let Err(error) = options.kills.take_from_log(&state.kills) {
        tracing::error!(%error, "the kill file cannot be written; what the log has revived stays killed until it can be");
    }
    let (report, found) = mpsc::channel(FOUND_MAX);
    let first = View {
        at: Timestamp::now(),
        position: 0,
        leader: true,
        services: Vec::new(),
    };
    let (view, viewed) = channel::channel(Arc::new(first));
    let switches = Switches::new(client.clone());
    let mut orchestrator = Orchestrator {
        journal,
        blocks: options.blocks,
        state: Arc::new(state),
        observed: Observed {
            environment: options.environment,
            forced: options.forced,
            flags_in_doubt: flag_file.is_some(),
            ..Observed::default()
        },
        watches: BTreeMap::new(),
        recent,
        moved: BTreeMap::new(),
        taken_back: BTreeMap::new(),
        snapshot: options.snapshot,
        view,
        totals,
        health,
        scrapes: Scrapes::new(client.clone(), report.clone()),
        providers: Providers::new(client.clone(), report.clone()),
        credentials: Credentials::new(report.clone()),
        probes: Probes::new(client, report),
        leader: true,
        incarnation: Uuid::now_v7().to_string(),
        block: 0,
        unstored: BTreeMap::new(),
        pruned: None,
        flag_changes,
        flags_looked_at: Timestamp::now(),
        kills: options.kills,
        kills_copied: None,
        switches,
    };
    let manifest = Box::new(options.manifest);
    orchestrator
        .carry_out(
            &Actor::serin(),
            &Command::Apply {
                manifest,
                source: Source::Start,
                prune: false,
                at_once: false,
                silent: BTreeSet::new(),
            },
        )
        .await?;
    // What a process begins with is taken as it is: nobody would know anything that answers.
    orchestrator.observed.unproven.clear();
    if let Some(file) = flag_file {
        file.begin(async |actor: &Actor, command: &Command| {
            orchestrator.carry_out(actor, command).await?;
            orchestrator.observed.flags_in_doubt = false;
            Ok(())
        })
        .await;
    }
    orchestrator.publish();
    tokio::spawn(orchestrator.run(
        inbox,
        options.observations,
        found,
        key_wishes,
        options.tick.max(crate::TICK_MIN),
    ));
    Ok(viewed)
}

struct Orchestrator {
    journal: Journal,
    blocks: Blocks,
    state: Arc<State>,
    observed: Observed,
    watches: BTreeMap<RolloutId, Watch>,
    recent: Recent,
    /// What became of live sessions since the last rollout of a service began.
    moved: BTreeMap<ServiceName, Moved>,
    /// Decisions to take a candidate back that are not in the log yet, or that it would not take. They are in force all the same
    /// and tried again each tick: a full disk must not keep callers on a broken version.
    taken_back: BTreeMap<RolloutId, (Actor, Event)>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    view: channel::Sender<Arc<View>>,
    totals: Arc<Mutex<Totals>>,
    health: Arc<Mutex<Health>>,
    probes: Probes,
    providers: Providers,
    credentials: Credentials,
    scrapes: Scrapes,
    leader: bool,
    incarnation: String,
    block: u64,
    unstored: BTreeMap<RolloutId, VecDeque<Unstored>>,
    /// When old blocks were last removed.
    pruned: Option<Instant>,
    flag_changes: FlagChanges,
    /// Until when the dates of flags have been looked at.
    flags_looked_at: Timestamp,
    kills: Switchboard,
    /// When kills were last tried to be copied in vain.
    kills_copied: Option<Instant>,
    switches: Switches,
}

impl Orchestrator {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Request>,
        mut observations: mpsc::Receiver<Sealed>,
        mut found: mpsc::Receiver<Found>,
        mut key_wishes: mpsc::Receiver<String>,
        tick: Duration,
    ) {
        let kills = self.kills.clone();
        // The data plane routes meanwhile: there may be days of blocks.
        if let Err(error) = self.remember_blocks().await {
            tracing::error!(error = %chain(&error), "stored blocks of counts cannot be read; rollouts under way begin their step anew");
        }
        let mut timer = interval(tick);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                Some(sealed) = observations.recv() => self.observe(&sealed).await,
                Some(first) = found.recv() => self.learn_all(first, &mut found).await,
                Some(source) = key_wishes.recv() => self.providers.wish(&source),
                () = kills.nudged() => self.copy_kills().await,
                _ = timer.tick() => self.tick().await,
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::State { answer } => {
                let _ = answer.send(Arc::clone(&self.state));
            }
            Request::Command {
                actor,
                mut command,
                answer,
            } => {
                match command.as_mut() {
                    Command::Promote {
                        service,
                        assessment,
                        ..
                    } => *assessment = self.assess(&service.clone()).map(Box::new),
                    Command::Drain(wish) => wish.silent = self.silent(),
                    Command::Apply { silent, .. } => *silent = self.silent(),
                    _ => {}
                }
                let done = self.carry_out(&actor, &command).await;
                let is_read = matches!(*command, Command::ReadFlags(_)) && done.is_ok();
                if is_read && std::mem::take(&mut self.observed.flags_in_doubt) {
                    self.publish();
                }
                let _ = answer.send(done);
            }
        }
    }

    /// The endpoints of which nobody knows that they answer.
    fn silent(&self) -> BTreeSet<EndpointId> {
        &self.observed.unhealthy | &self.observed.unproven
    }

    /// How the candidate of a service stands now.
    fn assess(&mut self, service: &ServiceName) -> Option<serin_judge::Assessment> {
        let rollout = self.state.active(service)?.id;
        Some(
            self.watches
                .get_mut(&rollout)?
                .assess(seconds(Timestamp::now())),
        )
    }

    /// Takes what a core counted. The catastrophic guard looks at once: it does not wait for the tick.
    async fn observe(&mut self, sealed: &Sealed) {
        self.count(|totals| totals.add(sealed));
        self.note(|health| health.add(sealed));
        self.switches.add(sealed, Timestamp::now());
        for (service, moved) in &sealed.moved {
            let sum = self.moved.entry(service.clone()).or_default();
            sum.rebound += moved.rebound;
            sum.ended += moved.ended;
        }
        let state = Arc::clone(&self.state);
        for rollout in active(&state) {
            if let Some(watch) = self.watches.get_mut(&rollout.id) {
                watch.gather(rollout, sealed);
            }
            // A flag's candidate runs on the endpoints of stable: that nobody answers there is no fault of the flag.
            if rollout.flag.is_some() {
                continue;
            }
            let limit = rollout.plan.guard.transport_failures;
            let streak = sealed
                .streaks
                .iter()
                .find(|(s, v, _)| *s == rollout.service && *v == rollout.to);
            if let Some((.., streak)) = streak.filter(|(.., streak)| limit > 0 && *streak >= limit)
            {
                let cause = format!("{streak} calls in a row found no answering candidate");
                self.catastrophe(rollout.id, cause).await;
            }
        }
    }

    /// Takes what a probe found.
    /// Learns what was found, and all that waits behind it: a thousand services that are probed at start are one table, not a thousand.
    async fn learn_all(&mut self, first: Found, more: &mut mpsc::Receiver<Found>) {
        let mut news = self.learn(first).await;
        for _ in 0..more.len() {
            let Ok(found) = more.try_recv() else { break };
            news = news.max(self.learn(found).await);
        }
        match news {
            News::None => {}
            News::View => self.publish_view(),
            News::Table => self.publish(),
        }
    }

    async fn learn(&mut self, found: Found) -> News {
        match found {
            Found::Tools {
                service,
                version,
                tools,
                read_only,
            } => {
                let of = (service.clone(), version.clone());
                let known = self
                    .observed
                    .read_only_tools
                    .insert(of, Arc::clone(&read_only));
                let is_same = known.as_ref() == Some(&read_only);
                if self
                    .observed
                    .tools
                    .insert((service, version), Arc::clone(&tools))
                    .as_ref()
                    == Some(&tools)
                    && is_same
                {
                    return News::None;
                }
            }
            Found::Resources {
                service,
                version,
                sample,
            } => {
                self.note(|health| health.add_resources(&service, &version, &sample));
                if let Ok(sample) = &sample {
                    for watch in self.watches.values_mut() {
                        watch.learn(&service, &version, sample);
                    }
                }
                return News::None;
            }
            Found::Keys {
                source,
                keys: Some(keys),
            } => {
                if keys.is_empty() {
                    self.observed.token_keys.remove(&source);
                } else {
                    self.observed.token_keys.insert(source, keys);
                }
            }
            Found::Credential { reference, value } => {
                self.observed.credentials.insert(reference, value);
            }
            Found::Keys { keys: None, .. } => {
                self.count(|totals| totals.add_degraded([(Dependency::Jwks.label(), 1)]));
                return News::None;
            }
            Found::Answered { endpoint } => {
                let is_news = self.observed.unproven.remove(&endpoint);
                return if is_news { News::View } else { News::None };
            }
            Found::Health {
                endpoint,
                healthy: true,
                ..
            } => {
                tracing::info!(%endpoint, "an endpoint is healthy again");
                self.observed.unhealthy.remove(&endpoint);
                let now = Timestamp::now();
                self.observed.healthy_since.insert(endpoint, now);
            }
            Found::Health {
                endpoint,
                healthy: false,
                why,
            } => {
                tracing::warn!(%endpoint, why, "an endpoint is unhealthy");
                self.observed.unhealthy.insert(endpoint);
                self.observed.healthy_since.remove(&endpoint);
                self.guard_readiness(endpoint).await;
            }
        }
        News::Table
    }

    async fn guard_readiness(&mut self, endpoint: EndpointId) {
        let state = Arc::clone(&self.state);
        for rollout in active(&state).filter(|rollout| rollout.plan.guard.readiness) {
            let candidate = state
                .services
                .get(&rollout.service)
                .and_then(|s| s.versions.get(&rollout.to));
            let Some(candidate) =
                candidate.filter(|c| c.endpoints.iter().any(|e| e.id == endpoint))
            else {
                continue;
            };
            if candidate
                .reachable()
                .all(|e| self.observed.unhealthy.contains(&e.id))
            {
                let cause = format!("every endpoint of {} has failed its probes", rollout.to);
                self.catastrophe(rollout.id, cause).await;
            }
        }
    }

    async fn catastrophe(&mut self, rollout: RolloutId, cause: String) {
        self.decide_alone(&Command::Catastrophe { rollout, cause })
            .await;
    }

    /// Seals a block for each rollout, judges it, and does what follows.
    async fn tick(&mut self) {
        let began = Instant::now();
        let now = Timestamp::now();
        self.look_at_dates(now);
        self.retry_taken_back().await;
        self.copy_kills().await;
        self.end_drains().await;
        let state = Arc::clone(&self.state);
        for rollout in active(&state) {
            // What was taken back is not judged again, whatever the log says of it so far.
            if self.taken_back.contains_key(&rollout.id) {
                continue;
            }
            let Some(watch) = self.watches.get_mut(&rollout.id) else {
                continue;
            };
            let shared = tools_in_both(&self.observed, rollout);
            let block = watch.seal(rollout, seconds(now), shared.as_ref());
            self.store_block(rollout.id, now, block).await;
            let Some(watch) = self.watches.get_mut(&rollout.id) else {
                continue;
            };
            let assessment = Box::new(watch.assess(seconds(now)));
            self.decide_alone(&Command::Judge {
                rollout: rollout.id,
                assessment,
            })
            .await;
        }
        self.unstored
            .retain(|id, _| active(&state).any(|rollout| rollout.id == *id));
        self.prune_blocks(now).await;
        self.note_all(now);
        self.pull_switches(now).await;
        self.publish_view();
        self.count(|totals| totals.tick_seconds.record(began.elapsed().as_secs_f64()));
    }

    /// Ends the drains whose time has come.
    async fn end_drains(&mut self) {
        let unhealthy = self.observed.unhealthy.clone();
        self.decide_alone(&Command::EndDrains { unhealthy }).await;
    }

    /// Counts are stored before they are judged, so that a restart goes on with the same numbers. When the disk refuses, they are
    /// judged all the same: protection goes before bookkeeping. They are stored later, in their order, and no phase passes until then.
    async fn store_block(&mut self, rollout: RolloutId, now: Timestamp, block: Option<Block>) {
        let mut waiting = self.unstored.remove(&rollout).unwrap_or_default();
        if let Some(block) = block {
            self.block += 1;
            let key = BlockKey {
                rollout: rollout.to_string(),
                node: "local".to_owned(),
                incarnation: self.incarnation.clone(),
                block: self.block,
            };
            waiting.push_back(Unstored {
                key,
                at: now,
                bytes: block.pack(),
                block: Some(block),
            });
        }
        while let Some(next) = waiting.front_mut() {
            let stored = self.blocks.put(&next.key, next.at, &next.bytes).await;
            let Some(watch) = self.watches.get_mut(&rollout) else {
                return;
            };
            match (stored, next.block.take()) {
                (Ok(stored), Some(block)) => {
                    watch.take(Some((stored.sequence, &next.bytes)), &block);
                }
                (Ok(stored), None) => watch.stored(stored.sequence, &next.bytes),
                (Err(error), Some(block)) => {
                    tracing::warn!(%error, "a block of counts is not stored; no phase passes until it is");
                    watch.take(None, &block);
                    break;
                }
                (Err(_), None) => {
                    // Those behind it have to wait for it, but not to be judged.
                    for later in &mut waiting {
                        if let Some(block) = later.block.take() {
                            watch.take(None, &block);
                        }
                    }
                    break;
                }
            }
            waiting.pop_front();
        }
        // Those that are given up are missing for good: the phase cannot pass by itself any more.
        while waiting.len() > UNSTORED_MAX {
            waiting.pop_front();
        }
        if !waiting.is_empty() {
            self.unstored.insert(rollout, waiting);
        }
    }

    /// Removes blocks that nobody will judge again.
    async fn prune_blocks(&mut self, now: Timestamp) {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(Instant::now());
        if let Ok(before) =
            now.checked_sub(SignedDuration::try_from(BLOCKS_KEPT).unwrap_or_default())
            && let Err(error) = self.blocks.prune(before).await
        {
            tracing::warn!(%error, "old blocks of counts are not removed");
        }
    }

    /// A decision of Serin's own. What cannot be appended is logged and comes up again at the next tick, if it still holds.
    async fn decide_alone(&mut self, command: &Command) {
        if let Err(error) = self.carry_out(&Actor::serin(), command).await
            && self.leader
        {
            tracing::error!(error = %chain(&error), "a decision could not be recorded");
        }
    }

    async fn carry_out(
        &mut self,
        actor: &Actor,
        command: &Command,
    ) -> Result<Vec<Recorded>, ControlError> {
        let began = Instant::now();
        loop {
            let now = Timestamp::now();
            let events = decide(&self.state, command, now)?;
            self.refuse_undoing(&events)?;
            if events.is_empty() {
                return Ok(Vec::new());
            }
            if let Some(recorded) = self.commit(actor, now, events, began).await? {
                return Ok(recorded);
            }
        }
    }

    /// What was taken back stays so until the log has it; nobody moves it on meanwhile.
    fn refuse_undoing(&self, events: &[Event]) -> Result<(), ControlError> {
        let undoes = |event: &Event| {
            !takes_back(event)
                && event
                    .rollout()
                    .is_some_and(|rollout| self.taken_back.contains_key(&rollout))
        };
        if !events.iter().any(undoes) {
            return Ok(());
        }
        Err(ControlError::Refused(Refusal {
            kind: RefusalKind::Conflict,
            what: "the candidate was taken back, and the log could not be written since".to_owned(),
            help: "mend the disk of the store (the process's log says what is wrong); the end of the rollout is recorded by itself then".to_owned(),
        }))
    }

    /// Appends events and puts them in force. Nothing: the state was behind the log and has caught up; decide again.
    async fn commit(
        &mut self,
        actor: &Actor,
        now: Timestamp,
        events: Vec<Event>,
        began: Instant,
    ) -> Result<Option<Vec<Recorded>>, ControlError> {
        if !self.leader {
            return Err(ControlError::NotLeader);
        }
        let takes_back = events.iter().find(|event| takes_back(event)).cloned();
        if let Some(event) = &takes_back {
            // Taking callers off a broken version waits for nobody, not even for the disk.
            let rollout = event.rollout();
            let what = (actor.clone(), event.clone());
            self.taken_back
                .extend(rollout.map(|rollout| (rollout, what)));
            self.put_in_force();
        }
        let in_force = began.elapsed().as_secs_f64();
        let appending = Instant::now();
        let recorded = match self.journal.append(&self.state, actor, now, events).await {
            Ok(recorded) => recorded,
            Err(AppendFailure::Behind) => {
                self.catch_up().await?;
                return Ok(None);
            }
            Err(AppendFailure::Final(error)) => {
                if matches!(error, ControlError::NotLeader) {
                    self.resign();
                }
                self.publish_view();
                return Err(error);
            }
        };
        let took = appending.elapsed().as_secs_f64();
        self.count(|totals| totals.append_seconds.record(took));
        for recorded in &recorded {
            self.apply(recorded);
        }
        self.put_in_force();
        let strategy = match &takes_back {
            Some(Event::RolledBack { strategy, .. }) => *strategy,
            _ => RollbackStrategy::Immediate,
        };
        if let Some(rollout) = takes_back.and_then(|event| event.rollout()) {
            self.taken_back.remove(&rollout);
            if let Some(service) = self.state.rollout(rollout).map(|r| r.service.clone()) {
                let key = (service, strategy);
                self.count(|totals| {
                    totals
                        .rollback_seconds
                        .entry(key)
                        .or_default()
                        .record(in_force);
                });
            }
        }
        self.publish_view();
        Ok(Some(recorded))
    }

    /// An append that failed with an unclear answer may be in the log all the same.
    async fn catch_up(&mut self) -> Result<(), ControlError> {
        loop {
            let page = self.journal.after(self.state.position).await?;
            if page.is_empty() {
                self.publish();
                return Ok(());
            }
            for recorded in &page {
                self.apply(recorded);
            }
        }
    }

    /// Another process decides now. This one goes on routing as the log last told it.
    fn resign(&mut self) {
        self.leader = false;
        tracing::error!("another process has opened the log; this one no longer decides");
    }

    fn apply(&mut self, recorded: &Recorded) {
        let service = recorded.event.changes_service().cloned();
        let endpoints = |state: &State| {
            let service = state.services.get(service.as_ref()?)?;
            Some(by_version(service))
        };
        let before = endpoints(&self.state).unwrap_or_default();
        Arc::make_mut(&mut self.state).apply(recorded);
        let after = endpoints(&self.state).unwrap_or_default();
        self.note_added(&before, after, recorded.at);
        let rollout = recorded
            .event
            .rollout()
            .and_then(|id| self.state.rollout(id));
        self.recent.push(recorded, rollout.map(|r| &r.service));
        if let Event::RolloutStarted(started) = &recorded.event {
            self.moved.remove(&started.service);
        }
        if let Some(rollout) = rollout
            && let Some(ending) = Ending::of(rollout.status)
            && ends(&recorded.event)
        {
            let service = rollout.service.clone();
            self.count(|totals| *totals.rollouts.entry((service, ending)).or_default() += 1);
        }
        tracing::info!(
            position = recorded.position,
            actor = recorded.actor.as_str(),
            "{}",
            serin_model::words::event_in_words(&recorded.event)
        );
    }

    /// Endpoints that join others take their part by and by. The first of a version have nobody to leave it to meanwhile.
    fn note_added(&mut self, before: &Endpoints, after: Endpoints, at: Timestamp) {
        for (version, mut endpoints) in after {
            let known = before.get(&version).filter(|known| !known.is_empty());
            if let Some(known) = known {
                endpoints.retain(|endpoint| !known.contains(endpoint));
                let added = endpoints.iter().map(|endpoint| (*endpoint, at));
                self.observed.healthy_since.extend(added);
            }
            self.observed.unproven.extend(endpoints);
        }
    }

    async fn retry_taken_back(&mut self) {
        for (rollout, (actor, event)) in self.taken_back.clone() {
            if self
                .state
                .rollout(rollout)
                .is_none_or(|r| r.status.is_terminal())
            {
                self.taken_back.remove(&rollout);
            } else if self
                .commit(&actor, Timestamp::now(), vec![event], Instant::now())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Puts what is now decided and known in force, and shows it.
    fn publish(&mut self) {
        self.put_in_force();
        self.publish_view();
    }

    fn put_in_force(&mut self) {
        let mut state = Arc::clone(&self.state);
        for (actor, event) in self.taken_back.values() {
            let (position, at) = (state.position, Timestamp::now());
            let recorded = Recorded {
                position,
                at,
                actor: actor.clone(),
                epoch: 0,
                event: event.clone(),
            };
            Arc::make_mut(&mut state).apply(&recorded);
        }
        self.credentials.follow(&state, &mut self.observed);
        let next = Snapshot::build(&state, &self.observed);
        let other_flags = next.flags_revision != self.snapshot.load().flags_revision;
        self.snapshot.store(Arc::new(next));
        if other_flags {
            self.flag_changes.note();
        }
        self.switches
            .keep_to(&self.state, &self.kills, Timestamp::now());
        self.follow();
    }

    /// Watches the rollouts that are under way and probes the endpoints that there are.
    fn follow(&mut self) {
        let now = seconds(Timestamp::now());
        for rollout in active(&self.state) {
            let protocol = self
                .state
                .services
                .get(&rollout.service)
                .map(|s| s.protocol);
            let watch = self.watches.entry(rollout.id);
            if let Some(protocol) = protocol {
                watch
                    .or_insert_with(|| Watch::new(rollout, protocol, now))
                    .follow(rollout, now);
            }
        }
        // The last rollout of a service stays on show after its end.
        let state = &self.state;
        self.watches.retain(|id, _| {
            state.rollout(*id).is_some_and(|r| {
                state
                    .latest(&r.service)
                    .is_some_and(|latest| latest.id == *id)
            })
        });
        let known: BTreeSet<_> = endpoints(state).collect();
        self.observed
            .unhealthy
            .retain(|endpoint| known.contains(endpoint));
        self.observed
            .unproven
            .retain(|endpoint| known.contains(endpoint));
        self.observed
            .healthy_since
            .retain(|endpoint, _| known.contains(endpoint));
        let sources = self.providers.follow(state);
        self.observed
            .token_keys
            .retain(|source, _| sources.contains(source));
        self.probes.follow(state, &self.observed.unhealthy);
        self.scrapes.follow(state);
    }

    fn publish_view(&mut self) {
        let totals = self
            .totals
            .lock()
            .map(|totals| totals.clone())
            .unwrap_or_default();
        let picture = picture::Sources {
            state: &self.state,
            observed: &self.observed,
            watches: &self.watches,
            recent: &self.recent,
            moved: &self.moved,
            totals: &totals,
            kills: &self.kills.kills(),
            leader: self.leader,
        };
        self.view
            .send_replace(Arc::new(picture.draw(Timestamp::now())));
    }

    /// After a restart, the counts of the steps that are under way.
    async fn remember_blocks(&mut self) -> Result<(), ControlError> {
        self.follow();
        let state = Arc::clone(&self.state);
        for rollout in active(&state) {
            let mut after = 0;
            loop {
                let page = self
                    .blocks
                    .read(&rollout.id.to_string(), after, PAGE)
                    .await
                    .map_err(ControlError::Store)?;
                let Some(last) = page.last() else { break };
                after = last.sequence;
                if let Some(watch) = self.watches.get_mut(&rollout.id) {
                    for stored in &page {
                        if let Some(block) = Block::unpack(&stored.bytes) {
                            watch.remember(stored.sequence, &stored.bytes, &block);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies to the log what was killed and revived since. What the log refuses is tried again, but not at each tick: one that is
    /// locked keeps the rest waiting.
    async fn copy_kills(&mut self) {
        if !self.leader
            || self
                .kills_copied
                .is_some_and(|at| at.elapsed() < COPY_AGAIN)
        {
            return;
        }
        self.kills_copied = None;
        let records = self.kills.to_copy(&self.state.kills);
        // Each is its actor's.
        for of_one in records.chunk_by(|a, b| a.actor == b.actor) {
            let actor = Actor::named(&of_one[0].actor);
            let copied = self
                .carry_out(&actor, &Command::CopyKills(of_one.to_vec()))
                .await;
            if let Err(error) = copied {
                self.kills_copied = Some(Instant::now());
                tracing::error!(error = %chain(&error), "kills are in force, but not in the log yet");
                return;
            }
            self.kills.copied(of_one);
            failpoint("kill_copied");
        }
        // An answer of the log that got lost was about something that is in it all the same.
        if self.kills.is_behind(&self.state.kills) {
            let (kills, logged) = (self.kills.clone(), self.state.kills.clone());
            let taken = tokio::task::spawn_blocking(move || kills.take_from_log(&logged)).await;
            if let Ok(Err(error)) = taken {
                self.kills_copied = Some(Instant::now());
                tracing::error!(%error, "the kill file cannot be written; what the log has revived stays killed until it can be");
            }
        }
    }

    /// Lets the kill switches act.
    async fn pull_switches(&mut self, now: Timestamp) {
        if !self.leader {
            return;
        }
        let errands = match self.health.lock() {
            Ok(health) => {
                self.switches
                    .look(&self.state, (&self.observed, &health), &self.kills, now)
            }
            Err(_) => return,
        };
        for errand in errands {
            match errand {
                Errand::Revive(wish) => self.revive_alone(wish).await,
                Errand::Flag { switch, action } => self.set_flag_for(&switch, &action).await,
            }
        }
    }

    /// A revival by a kill switch: it waits for the log too.
    async fn revive_alone(&mut self, wish: Revival) {
        let revival = match self.kills.revival(wish) {
            Ok(revival) => revival,
            // Somebody was faster.
            Err(error) => return tracing::info!(%error, "a kill switch does not revive"),
        };
        let actor = Actor::named(&revival.actor);
        let before = self.kills.kills().get(&revival.target).cloned();
        let records = before.into_iter().chain([revival.clone()]).collect();
        if let Err(error) = self.carry_out(&actor, &Command::CopyKills(records)).await {
            return tracing::error!(error = %chain(&error), "a kill switch cannot revive without the log");
        }
        let kills = self.kills.clone();
        let revived = tokio::task::spawn_blocking(move || kills.revive(&revival)).await;
        if let Ok(Err(error)) = revived {
            tracing::error!(error = %chain(&error), "a kill switch cannot revive");
        }
    }

    /// A flag that a kill switch turns on or off before it tries to recover.
    async fn set_flag_for(&mut self, switch: &str, action: &Action) {
        let (key, wanted) = match action {
            Action::FlagOn(key) => (key, serin_flags::State::Enabled),
            Action::FlagOff(key) => (key, serin_flags::State::Disabled),
            Action::Webhook(_) => return,
        };
        let Some(flag) = self.state.flags.definitions.get(key) else {
            return tracing::error!(flag = %key, switch, "a kill switch is to set a flag that there is not");
        };
        let mut definition = flag.as_ref().clone();
        definition.state = wanted;
        let wish = SetFlag {
            flag: key.clone(),
            definition: Some(Box::new(definition)),
            expects: Expects::Known,
            reason: format!("kill switch {switch} tries to recover"),
        };
        let actor = Actor::named(&switch_actor(switch));
        if let Err(error) = self
            .carry_out(&actor, &Command::SetFlag(Box::new(wish)))
            .await
        {
            tracing::error!(error = %chain(&error), switch, "a kill switch cannot set a flag");
        }
    }

    /// Says so when the date of a flag has come.
    fn look_at_dates(&mut self, now: Timestamp) {
        let before = std::mem::replace(&mut self.flags_looked_at, now);
        if a_date_has_come(&self.state.flags.definitions, before, now) {
            self.flag_changes.note();
        }
    }

    /// Lets the health monitor look at everything.
    fn note_all(&self, now: Timestamp) {
        self.note(|health| health.close(seconds(now), &self.state, &self.observed));
    }

    fn note(&self, add: impl FnOnce(&mut Health)) {
        if let Ok(mut health) = self.health.lock() {
            add(&mut health);
        }
    }

    fn count(&self, add: impl FnOnce(&mut Totals)) {
        if let Ok(mut totals) = self.totals.lock() {
            add(&mut totals);
        }
    }
}

/// The endpoints of the versions of a service.
type Endpoints = BTreeMap<VersionName, BTreeSet<EndpointId>>;

fn by_version(service: &Service) -> Endpoints {
    let versions = service.versions.iter();
    versions
        .map(|(name, version)| {
            let endpoints = version.reachable().map(|endpoint| endpoint.id);
            (name.clone(), endpoints.collect())
        })
        .collect()
}

fn endpoints(state: &State) -> impl Iterator<Item = EndpointId> {
    let versions = state
        .services
        .values()
        .flat_map(|service| service.versions.values());
    versions
        .flat_map(Version::reachable)
        .map(|endpoint| endpoint.id)
}

/// The labels of the tools that both versions of a rollout list, once both lists are known.
fn tools_in_both(observed: &Observed, rollout: &Rollout) -> Option<BTreeSet<Arc<str>>> {
    let tools = |version: &VersionName| {
        observed
            .tools
            .get(&(rollout.service.clone(), version.clone()))
    };
    // With a flag, it is stable that answers on both sides.
    let to = rollout.flag.as_ref().map_or(&rollout.to, |_| &rollout.from);
    let (from, to) = tools(&rollout.from).zip(tools(to))?;
    let of_stable: BTreeSet<_> = from.iter().collect();
    let shared = to.iter().filter(|tool| of_stable.contains(tool));
    let mut shared: BTreeSet<_> = shared.cloned().collect();
    // Tools beyond the limit of labels have one together, on both sides.
    if from.len().min(to.len()) > TOOL_LABELS_MAX {
        shared.insert(OTHER_TOOL.into());
    }
    Some(shared)
}

fn active(state: &State) -> impl Iterator<Item = &Rollout> {
    state
        .rollouts
        .iter()
        .filter(|rollout| !rollout.status.is_terminal())
}

const fn takes_back(event: &Event) -> bool {
    matches!(event, Event::RolledBack { .. } | Event::Aborted { .. })
}

const fn ends(event: &Event) -> bool {
    matches!(
        event,
        Event::Promoted { .. }
            | Event::RolledBack { .. }
            | Event::Aborted { .. }
            | Event::Inconclusive { .. }
    )
}
