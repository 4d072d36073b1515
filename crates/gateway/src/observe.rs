//! Observe: each call once, summed up by the core that carried it, and told to the control plane every 100 ms.
//!
//! A core owns its counters, so counting takes no lock. They are drained only when the channel has room: a control plane that
//! lags behind gets fewer and larger messages, never wrong sums.

use crate::{
    audit::Trail,
    body::{ToUpstream, Upload},
    loads::{Passage, Room},
    route,
    session::Sessions,
    trials::{Clock, ServiceTrials, Trial, Watched},
};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serin_flags::{Environment, FlagKey, Latch, Reason, kill::Stop};
use serin_judge::{
    DenseHistogram, LogHistogram, ValueSum, bucket_of,
    trial::{Latency, Shown},
};
use serin_mcp::scan::{self, Pointers, Scanner};
use serin_model::{
    name::{RolloutId, ServiceName, VersionName},
    observe::{
        CallEra, CellKey, Counts, Detour, Moved, NO_TOOL, OTHER_TOOL, Open, Outcome, Rejection,
        STREAK_URGENT, Sealed, TOOL_LABELS_MAX, UNKNOWN_TOOL,
    },
    snapshot::{ServiceRoute, VersionRoute},
};
use serin_route::{
    breaker,
    budget::{self, Budget},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

/// Time from one message of a core to the next, also when nothing happened: the control plane sees that the core lives.
pub(crate) const SEAL_EVERY: Duration = Duration::from_millis(100);
/// Largest number inside a result that counts, on either side of zero. A larger one would drown all others in a mean, and sums of
/// them would leave the range of numbers.
const VALUE_MAX: f64 = 1e15;
/// Messages without traffic after which the counters of a version are dropped: a minute.
const QUIET_MAX: u32 = 600;

/// How often a flag gave which variant, and why.
type Answers = Vec<(Arc<str>, Reason, u64)>;
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The counters of one core.
pub(crate) struct Counters {
    core: u16,
    sequence: Cell<u64>,
    sender: mpsc::Sender<Sealed>,
    services: RefCell<Map<ServiceName, ServiceCounters>>,
    rejections: RefCell<Map<(Option<ServiceName>, Rejection), u64>>,
    moved: RefCell<Map<ServiceName, Moved>>,
    /// Who proved who they are, and who did not.
    auth: RefCell<Map<&'static str, u64>>,
    /// Requests over a limit.
    limited: RefCell<Map<(ServiceName, &'static str), u64>>,
    /// Fallbacks that were used.
    degraded: RefCell<Map<&'static str, u64>>,
    /// What was done that requests reach an endpoint that serves them.
    detours: RefCell<Map<(ServiceName, Detour), u64>>,
    /// Requests that a rule was for.
    rules: RefCell<Map<(ServiceName, Arc<str>), u64>>,
    /// Answers of flags.
    flags: RefCell<Map<FlagKey, Answers>>,
    clock: Clock,
    urgent: Notify,
    hung_after: Duration,
    /// The gateway itself drops what is under way.
    is_cutting: Cell<bool>,
    tool_names: ToolNames,
}

/// The labels that are no tool's name, made once.
struct ToolNames {
    none: Arc<str>,
    unknown: Arc<str>,
    other: Arc<str>,
}

/// What is counted for one service.
#[derive(Default)]
struct ServiceCounters {
    versions: Map<VersionName, Rc<VersionCounters>>,
    trials: Rc<ServiceTrials>,
}

/// What is counted for one version.
pub(crate) struct VersionCounters {
    service: ServiceName,
    version: VersionName,
    /// The version whose servers it has, if it is the side of a flag.
    served_by: Option<VersionName>,
    /// The value of `X-Serin-Version`.
    pub(crate) header: HeaderValue,
    tools: RefCell<Map<Arc<str>, Rc<Tool>>>,
    /// Calls of no tool. A tool may have the same name.
    no_tool: Rc<Tool>,
    labels: RefCell<Labels>,
    overhead: RefCell<DenseHistogram>,
    /// Those of the service.
    trials: Rc<ServiceTrials>,
    /// Numbers found in results, by name.
    values: RefCell<Map<Arc<str>, ValueSum>>,
    /// The rollout in which it serves now, if any.
    rollout: Cell<Option<RolloutId>>,
    /// Transport failures in a row, in this rollout.
    streak: Cell<u32>,
    /// The streak grew since the last message.
    streak_grew: Cell<bool>,
    /// Something of it may be other than in the last message.
    is_touched: Cell<bool>,
    quiet: Cell<u32>,
    open: Cell<Open>,
    /// What of its requests may be tried again.
    budget: Cell<Budget>,
}

/// What is counted for one label of a version. A call holds it, so that counting looks nothing up.
#[derive(Debug)]
pub(crate) struct Tool {
    label: Arc<str>,
    /// It stands for calls of a tool.
    is_call: bool,
    cells: RefCell<ToolCells>,
}

impl Tool {
    fn new(label: &Arc<str>, is_call: bool) -> Self {
        Self {
            label: label.clone(),
            is_call,
            cells: RefCell::default(),
        }
    }

    /// Whether it is counted under this name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        *self.label == *name
    }

    fn change(&self, era: CallEra, change: impl FnOnce(&mut ToolCell)) {
        let [legacy, modern, none] = &mut *self.cells.borrow_mut();
        let cell = match era {
            CallEra::Legacy => legacy,
            CallEra::Modern => modern,
            CallEra::None => none,
        };
        change(cell.get_or_insert_default());
    }
}

/// The cells of a tool, by era.
type ToolCells = [Option<Box<ToolCell>>; 3];

#[derive(Default)]
struct Labels {
    of: Option<Arc<[Arc<str>]>>,
    names: Map<Arc<str>, Rc<Tool>>,
}

#[derive(Debug, Default)]
struct ToolCell {
    outcomes: [u64; Outcome::ALL.len()],
    auth_failures: u64,
    first_byte: DenseHistogram,
    last_byte: DenseHistogram,
    left: LogHistogram,
    request_bytes: u64,
    response_bytes: u64,
}

impl ToolCell {
    fn drain(&mut self) -> Option<Counts> {
        if self.outcomes == [0; Outcome::ALL.len()] {
            return None;
        }
        Some(Counts {
            outcomes: std::mem::take(&mut self.outcomes),
            auth_failures: std::mem::take(&mut self.auth_failures),
            first_byte: self.first_byte.drain(),
            last_byte: self.last_byte.drain(),
            left: std::mem::take(&mut self.left),
            request_bytes: std::mem::take(&mut self.request_bytes),
            response_bytes: std::mem::take(&mut self.response_bytes),
        })
    }
}

impl Counters {
    pub(crate) fn new(core: u16, sender: mpsc::Sender<Sealed>, hung_after: Duration) -> Self {
        Self {
            core,
            sequence: Cell::new(0),
            sender,
            services: RefCell::default(),
            rejections: RefCell::default(),
            auth: RefCell::default(),
            limited: RefCell::default(),
            detours: RefCell::default(),
            rules: RefCell::default(),
            degraded: RefCell::default(),
            moved: RefCell::default(),
            flags: RefCell::default(),
            clock: Clock::new(),
            urgent: Notify::new(),
            hung_after,
            is_cutting: Cell::new(false),
            tool_names: ToolNames {
                none: NO_TOOL.into(),
                unknown: UNKNOWN_TOOL.into(),
                other: OTHER_TOOL.into(),
            },
        }
    }

    /// The counters of a version.
    pub(crate) fn of(&self, service: &ServiceRoute, version: &VersionRoute) -> Rc<VersionCounters> {
        let rollout = service.split.as_ref().map(|split| split.rollout);
        let mut services = self.services.borrow_mut();
        let counters = match services.get_mut(&service.name) {
            Some(known) => known,
            None => services.entry(service.name.clone()).or_default(),
        };
        counters.trials.follow(service.split.as_ref(), &self.clock);
        if let Some(found) = counters.versions.get(&version.name) {
            found.enter(rollout);
            return found.clone();
        }
        let made = Rc::new(VersionCounters {
            service: service.name.clone(),
            version: version.name.clone(),
            served_by: served_by(service, version),
            // Names are visible ASCII by construction.
            header: HeaderValue::from_str(version.name.as_str())
                .unwrap_or(HeaderValue::from_static("")),
            tools: RefCell::default(),
            no_tool: Rc::new(Tool::new(&self.tool_names.none, false)),
            labels: RefCell::default(),
            overhead: RefCell::default(),
            trials: counters.trials.clone(),
            values: RefCell::default(),
            rollout: Cell::new(rollout),
            streak: Cell::new(0),
            streak_grew: Cell::new(false),
            is_touched: Cell::new(true),
            quiet: Cell::new(0),
            open: Cell::default(),
            budget: Cell::default(),
        });
        counters.versions.insert(version.name.clone(), made.clone());
        made
    }

    /// The label of a tool: its name only if the version lists it, so that callers cannot make labels up.
    pub(crate) fn label(
        &self,
        counters: &VersionCounters,
        version: &VersionRoute,
        tool: Option<&str>,
    ) -> Rc<Tool> {
        let Some(tool) = tool else {
            return counters.no_tool.clone();
        };
        let mut labels = counters.labels.borrow_mut();
        if !labels
            .of
            .as_ref()
            .is_some_and(|of| Arc::ptr_eq(of, &version.tools))
        {
            labels.of = Some(version.tools.clone());
            let listed = version.tools.iter().take(TOOL_LABELS_MAX);
            labels.names = listed
                .map(|name| (name.clone(), counters.tool(name)))
                .collect();
        }
        if let Some(tool) = labels.names.get(tool) {
            tool.clone()
        } else if version.tools.iter().any(|name| **name == *tool) {
            counters.tool(&self.tool_names.other)
        } else {
            counters.tool(&self.tool_names.unknown)
        }
    }

    pub(crate) fn reject(&self, service: Option<&ServiceName>, why: Rejection) {
        let mut rejections = self.rejections.borrow_mut();
        *rejections.entry((service.cloned(), why)).or_default() += 1;
    }

    /// A caller proved who it is, or did not.
    pub(crate) fn authenticated(&self, result: &'static str) {
        *self.auth.borrow_mut().entry(result).or_default() += 1;
    }

    /// A request was over a limit.
    pub(crate) fn limited(&self, service: &ServiceName, limit: &'static str) {
        let mut limited = self.limited.borrow_mut();
        *limited.entry((service.clone(), limit)).or_default() += 1;
    }

    /// Something was done that a request reaches an endpoint that serves it.
    pub(crate) fn detoured(&self, service: &ServiceName, detour: Detour) {
        let mut detours = self.detours.borrow_mut();
        *detours.entry((service.clone(), detour)).or_default() += 1;
    }

    /// A rule was for a request. Names are shared texts: that costs no allocation.
    pub(crate) fn ruled(&self, service: &ServiceName, rule: &Arc<str>) {
        let mut rules = self.rules.borrow_mut();
        *rules.entry((service.clone(), rule.clone())).or_default() += 1;
    }

    /// Something took the place of what did not answer.
    pub(crate) fn degraded(&self, dependency: &'static str, times: u64) {
        *self.degraded.borrow_mut().entry(dependency).or_default() += times;
    }

    /// A flag answered.
    pub(crate) fn evaluated(&self, flag: &FlagKey, variant: &str, reason: Reason) {
        let mut flags = self.flags.borrow_mut();
        let answers = match flags.get_mut(flag) {
            Some(known) => known,
            None => flags.entry(flag.clone()).or_default(),
        };
        let same =
            |answer: &&mut (Arc<str>, Reason, u64)| *answer.0 == *variant && answer.1 == reason;
        match answers.iter_mut().find(same) {
            Some((_, _, n)) => *n += 1,
            None => answers.push((variant.into(), reason, 1)),
        }
    }

    pub(crate) fn moved(&self, service: &ServiceName, add: impl FnOnce(&mut Moved)) {
        add(self.moved.borrow_mut().entry(service.clone()).or_default());
    }

    /// From now on it is the gateway that drops calls: none of them is held against a version.
    pub(crate) fn cutting(&self) {
        self.is_cutting.set(true);
    }

    /// Sends messages until the channel closes: on time, and at once when a version stops answering.
    pub(crate) async fn keep_sealing(&self) {
        let mut timer = tokio::time::interval(SEAL_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.sender.is_closed() {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.urgent.notified() => {}
            }
            self.seal();
        }
    }

    /// Sends what was counted since the last message, if there is room for one.
    pub(crate) fn seal(&self) {
        let Ok(permit) = self.sender.try_reserve() else {
            return;
        };
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let mut sealed = Sealed {
            core: self.core,
            sequence,
            ..Sealed::default()
        };
        for (name, service) in self.services.borrow_mut().iter_mut() {
            let versions = &mut service.versions;
            versions
                .retain(|_, version| version.seal(&mut sealed) || Rc::strong_count(version) > 1);
            sealed.trials.extend(service.trials.drain(name));
        }
        let rejections = self.rejections.borrow_mut().drain().collect::<Vec<_>>();
        sealed.rejections = rejections
            .into_iter()
            .map(|((service, why), n)| (service, why, n))
            .collect();
        sealed.auth = self.auth.borrow_mut().drain().collect();
        sealed.degraded = self.degraded.borrow_mut().drain().collect();
        let limited = self.limited.borrow_mut().drain().collect::<Vec<_>>();
        sealed.limited = (limited.into_iter())
            .map(|((service, limit), n)| (service, limit, n))
            .collect();
        let detours = self.detours.borrow_mut().drain().collect::<Vec<_>>();
        sealed.detours = (detours.into_iter())
            .map(|((service, detour), n)| (service, detour, n))
            .collect();
        let rules = self.rules.borrow_mut().drain().collect::<Vec<_>>();
        sealed.rules = (rules.into_iter())
            .map(|((service, rule), n)| (service, rule, n))
            .collect();
        sealed.moved = self.moved.borrow_mut().drain().collect();
        for (flag, answers) in self.flags.borrow_mut().drain() {
            let answers = answers.into_iter();
            sealed
                .flags
                .extend(answers.map(|(variant, reason, n)| (flag.clone(), variant, reason, n)));
        }
        permit.send(sealed);
    }
}

fn served_by(service: &ServiceRoute, version: &VersionRoute) -> Option<VersionName> {
    let mut versions = service.versions.iter();
    let at = versions.position(|other| other.name == version.name)?;
    let served_by = service.versions.get(route::served_by(service, at))?;
    (served_by.name != version.name).then(|| served_by.name.clone())
}

impl VersionCounters {
    /// Adds what was counted; false once there was nothing for long. Of a thousand versions few have anything to tell.
    fn seal(&self, sealed: &mut Sealed) -> bool {
        if !self.is_touched.take() {
            self.quiet.set(self.quiet.get().saturating_add(1));
            return self.quiet.get() < QUIET_MAX;
        }
        self.quiet.set(0);
        for tool in self.tools.borrow().values().chain([&self.no_tool]) {
            for (era, cell) in [CallEra::Legacy, CallEra::Modern, CallEra::None]
                .into_iter()
                .zip(tool.cells.borrow_mut().iter_mut())
            {
                if let Some(counts) = cell.as_mut().and_then(|cell| cell.drain()) {
                    let key = CellKey {
                        service: self.service.clone(),
                        version: self.version.clone(),
                        tool: tool.label.clone(),
                        era,
                    };
                    sealed.cells.push((key, counts));
                }
            }
        }
        let overhead = self.overhead.borrow_mut().drain();
        if !overhead.is_empty() {
            match sealed.overhead.last_mut() {
                // The versions of a service come one after the other.
                Some((service, sum)) if *service == self.service => sum.merge(&overhead),
                _ => sealed.overhead.push((self.service.clone(), overhead)),
            }
        }
        let names = || (self.service.clone(), self.version.clone());
        for (name, sum) in self.values.borrow_mut().drain() {
            let (service, version) = names();
            sealed.values.push((service, version, name, sum));
        }
        if self.streak_grew.take() {
            let (service, version) = names();
            sealed.streaks.push((service, version, self.streak.get()));
        }
        let (service, version) = names();
        sealed.open.push((service, version, self.open.get()));
        true
    }

    /// The split gave this version to a caller.
    pub(crate) fn assigned(&self, trial: Trial) {
        self.trials.assigned(trial);
    }

    /// What is counted under the label of a tool.
    fn tool(&self, label: &Arc<str>) -> Rc<Tool> {
        let mut tools = self.tools.borrow_mut();
        let tool = match tools.get(label) {
            Some(known) => known,
            None => tools
                .entry(label.clone())
                .or_insert_with(|| Rc::new(Tool::new(label, true))),
        };
        tool.clone()
    }

    fn open_changed(&self, change: impl FnOnce(&mut Open)) {
        self.is_touched.set(true);
        let mut open = self.open.get();
        change(&mut open);
        self.open.set(open);
    }

    /// A request comes. The service's routing table names this rollout: failures of another one say nothing about it.
    fn enter(&self, rollout: Option<RolloutId>) {
        self.is_touched.set(true);
        if self.rollout.replace(rollout) != rollout {
            self.streak.set(0);
            self.streak_grew.set(false);
        }
    }

    /// An exchange, begun in a rollout, reached the version's server, or did not.
    fn transport(&self, counters: &Counters, begun_in: Option<RolloutId>, outcome: Outcome) {
        self.is_touched.set(true);
        if begun_in != self.rollout.get() {
            return;
        }
        match outcome {
            Outcome::Transport => {
                let streak = self.streak.get().saturating_add(1);
                self.streak.set(streak);
                self.streak_grew.set(true);
                if streak == STREAK_URGENT {
                    counters.urgent.notify_one();
                }
            }
            // They say nothing about the connection.
            Outcome::Timeout | Outcome::Cancelled => {}
            _ => self.streak.set(0),
        }
    }
}

/// Lets one warning a second through, so that a dead endpoint does not fill the log.
#[derive(Default)]
pub(crate) struct Warnings {
    last: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl Warnings {
    /// Calls `log` with the number of warnings left out before, unless it did so within the last second.
    pub(crate) fn warn(&self, log: impl FnOnce(u64)) {
        if self
            .last
            .get()
            .is_some_and(|last| last.elapsed() < Duration::from_secs(1))
        {
            self.left_out.set(self.left_out.get() + 1);
        } else {
            self.last.set(Some(Instant::now()));
            log(self.left_out.take());
        }
    }
}

/// What a request is to the counters.
#[derive(Clone, Debug)]
pub(crate) enum Calls {
    /// No call: a notification, an answer to the server, the end of a session.
    None,
    /// An open stream of events: counted as open, nothing else.
    Stream,
    /// One call, by its label and, in a legacy session, its id.
    One(Rc<Tool>, Option<Box<str>>),
    /// The calls of a batch.
    Batch(Vec<(Rc<Tool>, Box<str>)>),
}

/// The observation of one exchange. Dropped unfinished, it counts as cancelled: that is what a client's disconnect does. A call
/// that had to wait for too long by then counts as timed out: otherwise a version that hangs would look as if it had no calls.
pub(crate) struct Observation {
    counters: Rc<Counters>,
    version: Rc<VersionCounters>,
    calls: Calls,
    /// What of it counts as open.
    open: Open,
    era: CallEra,
    /// The rollout under way when the request came.
    rollout: Option<RolloutId>,
    /// The legacy session, where its client may cancel calls by a notification.
    session: Option<(Arc<Sessions>, Uuid)>,
    /// When the request went to the version's server.
    sent: Instant,
    /// How much of the request's body went there, if it passes as the client sends it.
    upload: Option<Rc<Cell<Upload>>>,
    first_byte: Option<Instant>,
    request_bytes: u64,
    response_bytes: u64,
    /// A tester chose the version by hand: left out of the comparison.
    is_tester: bool,
    /// The caller is one of those by whom the versions are compared.
    trial: Option<Trial>,
    /// What is looked for in the results.
    watched: Option<Rc<Watched>>,
    /// If the client drops the call, that says nothing about the version, however old the call is.
    excused: bool,
    done: bool,
    /// Where it stands what becomes of the request.
    trail: Trail,
    /// Its way to the endpoint, whose breaker hears how it ended.
    passage: Option<Passage>,
    /// The places that it holds until it is over.
    rooms: [Option<Room>; 2],
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
struct End {
    outcome: Outcome,
    /// The age at which its client left it, where that may say something about the version.
    left: Option<Duration>,
    /// It was refused for want of a right.
    auth: bool,
}

impl End {
    const fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            left: None,
            auth: false,
        }
    }

    /// What it shows of the caller's trial, if anything. For a call that its client left the age decides, not what it is counted as.
    fn shows(self, latency: Option<Latency>) -> Option<Shown> {
        match (self.left, self.outcome) {
            (Some(age), _) => Some(Shown::Left(bucket_of(age.as_secs_f64()))),
            (None, Outcome::Cancelled) => None,
            (None, outcome) if outcome.is_bad() => Some(Shown::Badly),
            (None, Outcome::CalledBadly | Outcome::Http4xx) => Some(Shown::Refused),
            (None, _) => Some(Shown::Well(latency)),
        }
    }
}

impl Observation {
    pub(crate) fn begin(
        counters: Rc<Counters>,
        version: Rc<VersionCounters>,
        calls: Calls,
        era: CallEra,
    ) -> Self {
        let own = Open {
            calls: u64::from(matches!(calls, Calls::One(..) | Calls::Batch(_))),
            streams: u64::from(matches!(calls, Calls::Stream)),
        };
        version.open_changed(|open| {
            open.calls += own.calls;
            open.streams += own.streams;
        });
        let sent = Instant::now();
        let mut budget = version.budget.get();
        budget.request(counters.clock.ms(sent));
        version.budget.set(budget);
        let rollout = version.rollout.get();
        let watched = version.trials.watched().filter(|watched| match &calls {
            Calls::None | Calls::Stream => false,
            Calls::One(tool, _) => watched.is_of(&tool.label),
            Calls::Batch(calls) => calls.iter().any(|(tool, _)| watched.is_of(&tool.label)),
        });
        Self {
            counters,
            version,
            calls,
            open: own,
            era,
            rollout,
            session: None,
            sent,
            upload: None,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
            is_tester: false,
            trial: None,
            watched,
            excused: false,
            done: false,
            trail: Trail::default(),
            passage: None,
            rooms: [None, None],
        }
    }

    /// It holds these places until it is over.
    pub(crate) fn holds(&mut self, rooms: [Option<Room>; 2]) {
        self.rooms = rooms;
    }

    /// Gives the places up, to another observation of the same request.
    pub(crate) fn give_up(&mut self) -> [Option<Room>; 2] {
        std::mem::take(&mut self.rooms)
    }

    /// The endpoint began to answer. How that ends says whether it works, with two exceptions: a stream does not end, and a probe must
    /// not be waited for until a slow client has read its answer.
    pub(crate) fn headed(&mut self, mut passage: Passage, status: StatusCode) {
        if is_down(status) {
            passage.tell(breaker::End::Failed);
        } else if self.is_stream() || passage.is_probe() {
            passage.tell(breaker::End::Ok);
        }
        self.passage = Some(passage);
        if matches!(self.calls, Calls::None) {
            self.served();
        }
    }

    /// Answers that are waited for.
    pub(crate) fn asked(&self) -> usize {
        match &self.calls {
            Calls::None | Calls::Stream => 0,
            Calls::One(..) => 1,
            Calls::Batch(calls) => calls.len(),
        }
    }

    /// All answers are there. The endpoint is done, though its stream may stay open or its client be slow: others may have the places.
    pub(crate) fn served(&mut self) {
        self.tell_passage(breaker::End::Ok);
        self.passage = None;
        self.rooms = [None, None];
        self.close();
    }

    fn tell_passage(&mut self, end: breaker::End) {
        if let Some(passage) = &mut self.passage {
            passage.tell(end);
        }
    }

    /// Whether the request may be tried again, within what of the version's requests may be.
    pub(crate) fn may_try_again(&self, settings: &budget::Settings) -> bool {
        let now_ms = self.counters.clock.ms(Instant::now());
        let mut budget = self.version.budget.get();
        let may = budget.retry(now_ms, settings);
        self.version.budget.set(budget);
        may
    }

    pub(crate) fn in_session(&mut self, sessions: Arc<Sessions>, session: Uuid) {
        self.session = Some((sessions, session));
    }

    pub(crate) fn recorded(&mut self, trail: Trail) {
        self.trail = trail;
        if self.is_stream() {
            self.trail.streams();
        }
    }

    pub(crate) fn trail(&self) -> &Trail {
        &self.trail
    }

    pub(crate) fn by_tester(&mut self) {
        self.is_tester = true;
    }

    pub(crate) fn of_trial(&mut self, trial: Trial) {
        self.trial = Some(trial);
    }

    /// Where in the results numbers are looked for, if anywhere.
    pub(crate) fn pointers(&self) -> Option<Arc<Pointers>> {
        let watched = self.watched.as_ref().filter(|_| !self.is_tester)?;
        Some(watched.pointers.clone())
    }

    /// The client may drop the call at any age: it has begun to get what it asked for, can come back for it, or was asked
    /// something itself.
    pub(crate) fn excuse(&mut self) {
        self.excused = true;
    }

    /// Whether a hang is held against the version: it is a tool that is called, or plain HTTP. Other requests of MCP, such as
    /// `tasks/result`, may wait by design.
    pub(crate) fn may_hang(&self) -> bool {
        match &self.calls {
            Calls::None | Calls::Stream => false,
            Calls::One(tool, _) => self.era == CallEra::None || tool.is_call,
            Calls::Batch(calls) => calls.iter().any(|(tool, _)| tool.is_call),
        }
    }

    /// Since when the endpoint has had the whole request, if it has.
    fn complete(&self) -> Option<Instant> {
        match self.upload.as_ref().map(|upload| upload.get()) {
            None => Some(self.sent),
            Some(Upload::Sent(at)) => Some(at),
            Some(
                Upload::Sending(_)
                | Upload::Awaited
                | Upload::Answered(_)
                | Upload::Broken
                | Upload::Late,
            ) => None,
        }
    }

    /// When the client last sent something of a body whose answer has begun already.
    pub(crate) fn sent_behind(&self) -> Option<Instant> {
        match self.upload.as_ref()?.get() {
            Upload::Answered(at) => Some(at),
            _ => None,
        }
    }

    /// How long the endpoint has had the whole request, if a client who goes away now says something about the version by it.
    fn waited(&self) -> Option<Duration> {
        self.complete()
            .filter(|_| !self.excused && !self.counters.is_cutting.get())
            .map(|since| since.elapsed())
    }

    /// Whether a client who goes away has waited in vain.
    fn is_hung(&self, waited: Duration) -> bool {
        waited >= self.counters.hung_after && self.may_hang()
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.calls, Calls::Stream)
    }

    /// The request is on its way.
    pub(crate) fn sending(&mut self, body: &ToUpstream) {
        self.request_bytes = body.len() as u64;
        self.sent = Instant::now();
        self.upload = body.upload();
    }

    /// The request that another observation has sent is now sent under this one.
    pub(crate) fn goes_on(&mut self, other: &Self) {
        self.request_bytes = other.request_bytes;
        self.upload.clone_from(&other.upload);
    }

    /// The service.
    pub(crate) fn service(&self) -> &ServiceName {
        &self.version.service
    }

    /// Time the gateway itself took, in seconds.
    pub(crate) fn overhead(&self, spent: Duration) {
        self.version.is_touched.set(true);
        let mut overhead = self.version.overhead.borrow_mut();
        overhead.record(spent.as_secs_f64());
    }

    /// A first event or byte has come.
    pub(crate) fn first_byte(&mut self) {
        self.first_byte.get_or_insert_with(Instant::now);
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// An attempt failed before any byte was sent; another follows.
    pub(crate) fn attempt_failed(&mut self) {
        self.count_all(End::of(Outcome::Transport));
        self.transport(Outcome::Transport);
    }

    /// Another version takes the place of this one. A trial of it has failed here: else a version with a fallback would look better than
    /// one without, which has the same troubles.
    pub(crate) fn passed_by(&mut self) {
        if self.trial.is_some() {
            self.attempt_failed();
        }
    }

    fn transport(&self, outcome: Outcome) {
        self.version
            .transport(&self.counters, self.rollout, outcome);
    }

    /// When the call has to be over because something of it is killed. `tenant` is whose it is, and `unlisted` are the tools that it
    /// calls and that have no label of their own.
    pub(crate) fn ends(
        &self,
        latch: &Latch,
        environment: Environment,
        tenant: Option<&str>,
        unlisted: &[Box<str>],
    ) -> Option<Timestamp> {
        let service = self.version.service.as_str();
        let (one, batch) = match &self.calls {
            Calls::One(tool, _) => (Some(tool), &[][..]),
            Calls::Batch(calls) => (None, calls.as_slice()),
            Calls::None | Calls::Stream => (None, &[][..]),
        };
        let labels = one.into_iter().chain(batch.iter().map(|(tool, _)| tool));
        let labels = labels.filter(|tool| tool.is_call).map(|tool| &*tool.label);
        let tools = labels.chain(unlisted.iter().map(|tool| &**tool));
        let of_tools = tools.filter_map(|tool| latch.stops_tool(service, tool));
        let versions = std::iter::once(&self.version.version).chain(&self.version.served_by);
        let stops = latch
            .stops_service(environment, service, tenant)
            .into_iter()
            .chain(versions.filter_map(|version| latch.stops_version(service, version.as_str())))
            .chain(of_tools);
        let end = |stop: &Stop| {
            let grace = Duration::from_secs(stop.grace_seconds.into());
            stop.at.checked_add(grace).unwrap_or(Timestamp::MAX)
        };
        // One that lets calls through again lets those finish that are under way.
        stops.filter(|stop| stop.one_in.is_none()).map(end).min()
    }

    /// The exchange is repeated as another one: this one does not count.
    pub(crate) fn void(&mut self) {
        self.done = true;
    }

    /// Whether what went wrong is the client's doing. A connection breaks with the body that is on it; and an endpoint that waits for the
    /// rest of a body has no more to say.
    fn is_by_client(&self, outcome: Outcome) -> bool {
        (self.upload.as_ref()).is_some_and(|upload| match upload.get() {
            Upload::Broken | Upload::Late => true,
            Upload::Answered(_) => outcome == Outcome::Timeout,
            Upload::Sending(_) | Upload::Awaited | Upload::Sent(_) => false,
        })
    }

    /// The exchange is over, without an answer to be read.
    pub(crate) fn failed(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.done, true) {
            let is_by_client = self.is_by_client(outcome);
            self.tell_passage(match outcome {
                Outcome::Transport | Outcome::Timeout if !is_by_client => breaker::End::Failed,
                _ => breaker::End::Unknown,
            });
            let end = match outcome {
                _ if is_by_client => End::of(Outcome::Cancelled),
                _ if outcome == Outcome::Cancelled => {
                    let left = self.waited();
                    let is_hung = left.is_some_and(|waited| self.is_hung(waited));
                    End {
                        outcome: if is_hung { Outcome::Timeout } else { outcome },
                        left,
                        auth: false,
                    }
                }
                _ => End::of(outcome),
            };
            self.transport(end.outcome);
            let is_call = matches!(self.calls, Calls::One(..) | Calls::Batch(_));
            if is_call || end.outcome != Outcome::Cancelled {
                self.trail.ended(end.outcome);
            }
            self.count_all(end);
        }
    }

    /// The answer was read to its end. `resumable` says that the rest of a stream may come by another one.
    pub(crate) fn answered(
        &mut self,
        status: StatusCode,
        scanner: Option<&Scanner>,
        resumable: bool,
    ) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.transport(Outcome::Ok);
        self.tell_passage(breaker::End::Ok);
        let by_status = of_status(status);
        let auth = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let end = |outcome| End {
            auth,
            ..End::of(outcome)
        };
        let (Some(scanner), Outcome::Ok) = (scanner, by_status) else {
            self.count_all(end(by_status));
            return;
        };
        let unanswered = if resumable {
            Outcome::Cancelled
        } else {
            Outcome::Transport
        };
        // A person was asked meanwhile: the time says nothing about the tool.
        if scanner.server_requests() > 0 {
            self.first_byte = None;
            self.excused = true;
        }
        let of = |outcome: Option<scan::Outcome>| end(outcome.map_or(unanswered, of_scan));
        match std::mem::replace(&mut self.calls, Calls::None) {
            Calls::None => {}
            Calls::Stream => self.calls = Calls::Stream,
            Calls::One(tool, id) => {
                self.count(&tool, id.as_deref(), of(scanner.outcome()));
                self.found(&tool.label, scanner.answers().last());
                self.close();
            }
            Calls::Batch(calls) => {
                for (tool, id) in calls {
                    let answer = scanner
                        .answers()
                        .iter()
                        .find(|answer| answer.id.as_deref() == Some(&id));
                    let end = of(answer.map(|answer| answer.outcome));
                    self.count(&tool, Some(&id), end);
                    self.found(&tool.label, answer);
                }
                self.close();
            }
        }
    }

    /// Adds the numbers of a good answer.
    fn found(&self, tool: &str, answer: Option<&scan::Answer>) {
        let answer = answer.filter(|answer| answer.outcome == scan::Outcome::Ok);
        let (Some(watched), Some(answer)) = (&self.watched, answer) else {
            return;
        };
        let mut values = self.version.values.borrow_mut();
        for (pointer, number) in &answer.numbers {
            if let Some(name) = watched.name(tool, *pointer)
                && number.abs() <= VALUE_MAX
            {
                values.entry(name.clone()).or_default().merge(ValueSum {
                    count: 1,
                    sum: *number,
                });
            }
        }
    }

    fn count_all(&mut self, end: End) {
        match std::mem::replace(&mut self.calls, Calls::None) {
            Calls::One(tool, id) => {
                self.count(&tool, id.as_deref(), end);
                self.calls = Calls::One(tool, id);
            }
            Calls::Batch(calls) => {
                for (tool, id) in &calls {
                    self.count(tool, Some(id), end);
                }
                self.calls = Calls::Batch(calls);
            }
            other => self.calls = other,
        }
    }

    fn count(&self, tool: &Tool, id: Option<&str>, end: End) {
        let end = match self.cancelled_at(id) {
            Some(at) => End {
                outcome: Outcome::Cancelled,
                left: (!self.excused).then(|| at.saturating_duration_since(self.sent)),
                ..end
            },
            None => end,
        };
        // An attempt that is repeated is not the end of the request.
        if self.done {
            self.trail.ended(end.outcome);
        }
        if self.is_tester {
            return;
        }
        self.version.is_touched.set(true);
        let now = Instant::now();
        // A refusal says nothing about how long the tool takes: a version that refuses at once is not fast.
        let timed = matches!(end.outcome, Outcome::Ok | Outcome::InputRequired);
        // Nor does one that begins while its client still sends.
        let begun = self.complete().zip(self.first_byte).filter(|_| timed);
        let latency = begun.and_then(|(complete, first_byte)| {
            let first_byte = first_byte.checked_duration_since(complete)?;
            let last_byte = now.saturating_duration_since(complete);
            Some(Latency {
                first_byte: bucket_of(first_byte.as_secs_f64()),
                last_byte: bucket_of(last_byte.as_secs_f64()),
            })
        });
        tool.change(self.era, |cell| {
            if let Some(n) = cell.outcomes.get_mut(end.outcome as usize) {
                *n += 1;
            }
            cell.auth_failures += u64::from(end.auth);
            cell.request_bytes += self.request_bytes;
            cell.response_bytes += self.response_bytes;
            if let Some(latency) = latency {
                cell.first_byte.add(latency.first_byte);
                cell.last_byte.add(latency.last_byte);
            }
            if let (Outcome::Cancelled, Some(age)) = (end.outcome, end.left) {
                cell.left.record(age.as_secs_f64());
            }
        });
        if let (Some(trial), Some(shown)) = (self.trial, end.shows(latency)) {
            let at_ms = self.counters.clock.ms(now);
            let trials = &self.version.trials;
            if self.era == CallEra::None {
                trials.record(trial, None, shown, at_ms);
            } else if tool.is_call {
                trials.record(trial, Some(&tool.label), shown, at_ms);
            }
        }
    }

    /// When the client cancelled a call by a notification, if it did.
    fn cancelled_at(&self, id: Option<&str>) -> Option<Instant> {
        let (sessions, session) = self.session.as_ref().filter(|_| self.done)?;
        sessions.take_cancelled(*session, id?)
    }

    /// What it has open is so no longer.
    fn close(&mut self) {
        let was_open = std::mem::take(&mut self.open);
        if was_open == Open::default() {
            return;
        }
        self.version.open_changed(|open| {
            open.calls = open.calls.saturating_sub(was_open.calls);
            open.streams = open.streams.saturating_sub(was_open.streams);
        });
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.failed(Outcome::Cancelled);
        self.close();
    }
}

/// Whether a status says that the endpoint cannot answer. Other errors are answers.
pub(crate) fn is_down(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

fn of_status(status: StatusCode) -> Outcome {
    match status.as_u16() {
        400..500 => Outcome::Http4xx,
        500.. => Outcome::Http5xx,
        _ => Outcome::Ok,
    }
}

fn of_scan(outcome: scan::Outcome) -> Outcome {
    match outcome {
        scan::Outcome::Ok => Outcome::Ok,
        scan::Outcome::InputRequired => Outcome::InputRequired,
        scan::Outcome::ToolError { called_badly: true }
        | scan::Outcome::RpcError {
            called_badly: true, ..
        } => Outcome::CalledBadly,
        scan::Outcome::ToolError { .. } => Outcome::ToolError,
        // An answer that cannot be read is no better than one that says "internal error".
        scan::Outcome::RpcError { .. } | scan::Outcome::Malformed => Outcome::RpcError,
    }
}
