//! Access: who asks, in the words of flags, and what of a service is there for them. The decision itself is made in
//! [`serin_model::access`], for calls, lists and features alike.

use crate::{core::Core, lists, route};
use jiff::Timestamp;
use serde_json::{Map, Value};
use serin_flags::{Context, Environment, Evaluation, Latch, Table};
use serin_model::{
    access::{Access, Answers, Asked, Denied},
    api::ApiSpec,
    gate::Feature,
    name::EndpointId,
    observe::CallEra,
    reach::is_limited,
    snapshot::ServiceRoute,
};
use serin_tenancy::Principal;
use std::{
    cell::Cell,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, LazyLock},
};

/// Nothing is killed.
static OPEN: LazyLock<Arc<Latch>> = LazyLock::new(Arc::default);

/// The flags and kills that a request is decided by. Requests that no flag and no kill concerns go without.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) flags: Arc<Table>,
    pub(crate) latch: Arc<Latch>,
}

impl Rules {
    /// These; no latch means that nothing is killed.
    pub(crate) fn new(flags: Arc<Table>, latch: Option<Arc<Latch>>) -> Self {
        Self {
            flags,
            latch: latch.unwrap_or_else(|| OPEN.clone()),
        }
    }

    /// Those of a request, if they have a say in it.
    pub(crate) fn of(
        core: &Core,
        service: &ServiceRoute,
        latch: Option<Arc<Latch>>,
        principal: Option<&Principal>,
        only: Option<&ApiSpec>,
    ) -> Option<Self> {
        (only.is_some() || Self::concern(service, latch.as_deref(), principal))
            .then(|| Self::new(core.with_snapshot(|snapshot| snapshot.flags.clone()), latch))
    }

    /// Whether flags, kills or scopes have a say in what of a service is there.
    fn concern(
        service: &ServiceRoute,
        latch: Option<&Latch>,
        principal: Option<&Principal>,
    ) -> bool {
        latch.is_some()
            || principal.is_some()
            || !service.settings.gates.is_empty()
            || service.gates.has_features()
            || service
                .split
                .as_ref()
                .is_some_and(|split| split.flag.is_some())
    }
}

/// A caller, in the words of flags.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) targeting_key: String,
    pub(crate) tenant: Option<Box<str>>,
    /// Who that is, if their scopes or role leave less than all of the service.
    limited: Option<Arc<Principal>>,
    /// Tasks are not theirs alone: older MCP has them with ids that the gateway does not seal, and lists them all.
    shares_tasks: bool,
    /// The version of the API that was asked, if it has less than all of the service.
    only: Option<Arc<ApiSpec>>,
    /// The version that answers.
    version: Cell<usize>,
    /// Where the process runs.
    home: Environment,
    /// Where the caller is: `canary` on a candidate.
    environment: Cell<Environment>,
    attributes: Map<String, Value>,
}

impl Viewer {
    pub(crate) fn new(
        service: &ServiceRoute,
        targeting_key: String,
        tenant: Option<&str>,
        principal: Option<&Arc<Principal>>,
        session: Option<&str>,
        era: CallEra,
        environment: Environment,
    ) -> Self {
        let mut attributes = Map::new();
        let mut add = |name: &str, value: &str| {
            attributes.insert(name.to_owned(), Value::from(value));
        };
        add("service", service.name.as_str());
        match era {
            CallEra::Legacy => add("era", "legacy"),
            CallEra::Modern => add("era", "modern"),
            CallEra::None => {}
        }
        if let Some(session) = session {
            add("session", session);
        }
        Self {
            targeting_key,
            tenant: tenant.map(Into::into),
            limited: principal
                .filter(|principal| is_limited(principal, service.name.as_str()))
                .cloned(),
            shares_tasks: principal.is_some() && era == CallEra::Legacy,
            only: None,
            version: Cell::new(service.stable),
            home: environment,
            environment: Cell::new(environment),
            attributes,
        }
    }

    /// The same, by a version of the API.
    pub(crate) fn through(mut self, only: Option<&Arc<ApiSpec>>) -> Self {
        self.only = only.cloned();
        self
    }

    /// The same on a version: callers of a candidate evaluate flags as those of the environment `canary`, if the process runs in
    /// production. Where the candidate is stable with a flag on, both sides are one server, which sees one environment.
    pub(crate) fn on(self, service: &ServiceRoute, version: usize) -> Self {
        self.move_to(service, version);
        self
    }

    /// Moves the caller to a version, as a promotion does in the middle of a stream.
    fn move_to(&self, service: &ServiceRoute, version: usize) {
        self.version.set(version);
        let split = service.split.as_ref();
        let is_canary = split.is_some_and(|s| s.flag.is_none() && s.candidate == version);
        self.environment.set(match self.home {
            Environment::Production if is_canary => Environment::Canary,
            home => home,
        });
    }

    fn context(&self) -> Context<'_> {
        Context {
            targeting_key: Some(&self.targeting_key),
            tenant: self.tenant.as_deref(),
            environment: self.environment.get(),
            attributes: Some(&self.attributes),
            now: Timestamp::now(),
        }
    }

    /// What a flag answers the caller.
    pub(crate) fn evaluate<'r>(&self, rules: &'r Rules, flag: &str) -> Option<Evaluation<'r>> {
        rules.flags.evaluate(&rules.latch, flag, &self.context())
    }

    fn access<'a>(&'a self, service: &'a ServiceRoute, rules: &'a Rules) -> Access<'a> {
        Access {
            service: service.name.as_str(),
            gates: &service.gates,
            flags: &rules.flags,
            latch: &rules.latch,
            principal: self.limited.as_deref(),
            only: self.only.as_deref(),
            read_only_tools: service
                .versions
                .get(self.version.get())
                .map(|version| &*version.read_only_tools)
                .unwrap_or_default(),
            context: self.context(),
        }
    }

    /// Whether flags, kills or scopes may leave out some of the tools.
    fn has_guarded_tools(&self, service: &ServiceRoute, rules: &Rules) -> bool {
        self.limited.is_some()
            || self.only.is_some()
            || service.gates.has_tools()
            || rules.latch.stops_tools_of(service.name.as_str())
    }

    /// Whether what is asked for is there.
    pub(crate) fn may<'r>(
        &'r self,
        core: &Core,
        service: &'r ServiceRoute,
        rules: &'r Rules,
        asked: Asked<'_>,
    ) -> Result<(), Denied<'r>> {
        let mut answers = Answers::new();
        let decided = self.access(service, rules).decide(asked, &mut answers);
        for (flag, variant, reason) in answers {
            core.counters.evaluated(flag, variant, reason);
        }
        decided
    }

    /// The features that are closed.
    pub(crate) fn closed(&self, core: &Core, service: &ServiceRoute, rules: &Rules) -> Closed {
        let mut answers = Answers::new();
        let closed = self.closed_quietly(service, rules, &mut answers);
        for (flag, variant, reason) in answers {
            core.counters.evaluated(flag, variant, reason);
        }
        closed
    }

    fn closed_quietly<'a>(
        &'a self,
        service: &'a ServiceRoute,
        rules: &'a Rules,
        answers: &mut Answers<'a>,
    ) -> Closed {
        let mut closed = Closed::of(&self.access(service, rules), answers);
        closed.tasks |= self.shares_tasks;
        closed
    }
}

/// Features that are closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) sampling: bool,
    pub(crate) elicitation: bool,
    pub(crate) tasks: bool,
}

impl Closed {
    const ALL: Self = Self {
        sampling: true,
        elicitation: true,
        tasks: true,
    };

    fn of<'a>(access: &Access<'a>, answers: &mut Answers<'a>) -> Self {
        let mut is_closed = |feature| {
            access.gates.has(feature) && access.decide(Asked::Feature(feature), answers).is_err()
        };
        Self {
            sampling: is_closed(Feature::Sampling),
            elicitation: is_closed(Feature::Elicitation),
            tasks: is_closed(Feature::Tasks),
        }
    }

    pub(crate) const fn any(self) -> bool {
        self.sampling || self.elicitation || self.tasks
    }

    /// The feature by which a server asks its client with this method, if it is closed.
    pub(crate) fn asked_by(self, method: &str) -> Option<Feature> {
        match method {
            "sampling/createMessage" if self.sampling => Some(Feature::Sampling),
            "elicitation/create" if self.elicitation => Some(Feature::Elicitation),
            _ => None,
        }
    }
}

/// What an answer on its way must agree with: the caller's view of the service, as it is at that moment.
pub(crate) struct View {
    pub(crate) viewer: Viewer,
    pub(crate) service: serin_model::name::ServiceName,
    pub(crate) endpoint: EndpointId,
}

impl View {
    /// Reads the caller's view, if the service is still there.
    fn read<T>(
        &self,
        core: &Core,
        read: impl FnOnce(&Viewer, &ServiceRoute, &Rules) -> T,
    ) -> Option<T> {
        let (service, flags) = core.with_snapshot(|snapshot| {
            let service = snapshot.service(&self.service);
            Some((service?.clone(), snapshot.flags.clone()))
        })?;
        if let Some((version, _)) = route::locate(&service, self.endpoint) {
            self.viewer.move_to(&service, version);
        }
        let rules = Rules::new(flags, core.latch());
        Some(read(&self.viewer, &service, &rules))
    }

    /// Changes a message so that it agrees with what the caller may call. Of a service that is gone that is nothing.
    pub(crate) fn edit(&self, core: &Core, message: &[u8]) -> lists::Edit {
        let edit = self.read(core, |viewer, service, rules| {
            // Asked for every event of a stream: only lists count as answers of flags.
            let closed = viewer.closed_quietly(service, rules, &mut Answers::new());
            if !viewer.has_guarded_tools(service, rules) && !closed.any() {
                return lists::Edit::Keep;
            }
            let mut answers = Answers::new();
            let access = viewer.access(service, rules);
            let is_visible = |tool: &str| match access.decide(Asked::Tool(tool), &mut answers) {
                Ok(()) => true,
                // It may be called now and then.
                Err(Denied::Killed(stop)) => stop.one_in.is_some(),
                Err(Denied::Hidden | Denied::Beyond | Denied::Role) => false,
            };
            let edit = lists::edit(message, closed, is_visible);
            for (flag, variant, reason) in answers {
                core.counters.evaluated(flag, variant, reason);
            }
            edit
        });
        edit.unwrap_or_else(|| lists::edit(message, Closed::ALL, |_| false))
    }

    /// Whether flags or kills may have a say in what passes.
    pub(crate) fn is_guarded(&self, core: &Core) -> bool {
        let guarded = self.read(core, |viewer, service, rules| {
            service.gates.has_features() || viewer.has_guarded_tools(service, rules)
        });
        guarded.unwrap_or(true)
    }

    /// What of the known tools the caller does not see.
    pub(crate) fn hidden(&self, core: &Core) -> Hidden {
        let hidden = self.read(core, |viewer, service, rules| {
            let version = route::locate(service, self.endpoint);
            let version = version.and_then(|(version, _)| service.versions.get(version));
            let tools = version.map(|version| version.tools.clone());
            let tools = tools.unwrap_or_default();
            let name = service.name.as_str();
            let mut hasher = DefaultHasher::new();
            if viewer.has_guarded_tools(service, rules) {
                let access = viewer.access(service, rules);
                let mut answers = Answers::new();
                for tool in &*tools {
                    match access.decide(Asked::Tool(tool), &mut answers) {
                        Err(Denied::Killed(stop)) if stop.one_in.is_some() => {}
                        Err(_) => tool.hash(&mut hasher),
                        Ok(()) => {}
                    }
                }
                // Before the tools are known: whatever may hide some.
                if tools.is_empty() {
                    for flag in service.gates.tool_flags() {
                        let answer = viewer.evaluate(rules, flag.as_str());
                        answer
                            .is_some_and(|answer| answer.is_on())
                            .hash(&mut hasher);
                    }
                    if rules.latch.stops_tools_of(name) {
                        rules.latch.generation().hash(&mut hasher);
                    }
                }
            }
            Hidden {
                tools,
                digest: hasher.finish(),
            }
        });
        hidden.unwrap_or_default()
    }
}

/// What a caller does not see, in short.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden {
    tools: Arc<[Arc<str>]>,
    digest: u64,
}

impl Hidden {
    /// Whether the caller sees other tools than before. When the tools of the version themselves have changed, its server says so.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        let are_same = Arc::ptr_eq(&self.tools, &before.tools)
            || (self.tools.is_empty() && before.tools.is_empty());
        are_same && self.digest != before.digest
    }
}
