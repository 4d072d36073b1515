//! What it costs a core to record outcomes, and to look whether a caller is over its limits. For benchmarks alone.

use crate::{
    limit,
    observe::{Calls, Counters, Observation, Tool},
    trials::Trial,
};
use serin_model::{
    name::RolloutId,
    observe::CallEra,
    route,
    service::Protocol,
    share::Share,
    snapshot::{ServiceRoute, Snapshot, Split, VersionRoute},
};
use serin_tenancy::{LimitRule, Per};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Tools that are called in turn.
const TOOLS: usize = 8;
/// Calls from one message to the next: 50,000 a second, and ten messages.
const CALLS_A_MESSAGE: usize = 5_000;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// So many, over and over.
    Few(usize),
    /// Each call comes from another one.
    EverNew,
}

/// Records outcomes of calls to two versions on one core, and hands them on as a core does. The time of one outcome, on average.
///
/// `Whole` requests are noted as new keys and measured from their beginning, with the hash of the key, as the gateway does beside
/// recording the outcome.
///
/// `clock` is best one that stands still while others have the core.
///
/// # Panics
/// Never: its names are names.
pub fn time_of_an_outcome(
    outcomes: usize,
    callers: Callers,
    whole: bool,
    clock: impl Fn() -> Duration,
) -> Duration {
    let service = service();
    let (sender, mut receiver) = mpsc::channel(16);
    let counters = Rc::new(Counters::new(0, sender, crate::HUNG_AFTER));
    let tools: Vec<String> = (0..TOOLS).map(|n| format!("a_tool_of_eight_{n}")).collect();
    let calls: Vec<_> = (service.versions.iter().enumerate())
        .map(|(at, version)| {
            let of_version = counters.of(&service, version);
            let labels = tools
                .iter()
                .map(|tool| counters.label(&of_version, version, Some(tool)));
            (at, version, labels.collect::<Vec<_>>())
        })
        .collect();
    let mut spent = Duration::ZERO;
    let mut sealed = 0;
    while sealed < outcomes {
        let until = (sealed + CALLS_A_MESSAGE).min(outcomes);
        let observing: Vec<_> = (sealed..until)
            .filter(|_| !whole)
            .map(|n| begun(&counters, &service, &calls, callers, n))
            .collect();
        let begun_at = clock();
        if whole {
            for n in sealed..until {
                let mut observation = begun(&counters, &service, &calls, callers, n);
                observation.first_byte();
                observation.answered(http::StatusCode::OK, None, false);
            }
        }
        for mut observation in observing {
            observation.answered(http::StatusCode::OK, None, false);
        }
        counters.seal();
        spent += clock().saturating_sub(begun_at);
        while receiver.try_recv().is_ok() {}
        sealed = until;
    }
    spent / u32::try_from(outcomes).unwrap_or(u32::MAX)
}

/// Looks whether callers have room by three rules (of a key, of its tenant, and of a tool), one after the other, so many callers in
/// turn. The time of one look, on average.
///
/// `clock` is best one that stands still while others have the core.
///
/// # Panics
/// Never: its rules are rules.
pub fn time_of_a_limit(checks: usize, keys: usize, clock: impl Fn() -> Duration) -> Duration {
    let rule = |per, tools: &[&str]| LimitRule {
        per,
        rate: "10000000/second".parse().expect("a rate"),
        burst: None,
        tools: tools.iter().map(|&tool| tool.into()).collect(),
        path: None,
        methods: vec![],
    };
    let mut route = service();
    route.settings.limits = vec![
        rule(Per::Key, &[]),
        rule(Per::Tenant, &[]),
        rule(Per::Key, &["a_tool_of_*"]),
    ];
    let name = route.name.clone();
    let snapshot = Arc::new(Snapshot {
        services: [Arc::new(route)].into_iter().collect(),
        ..Snapshot::default()
    });
    let callers: Vec<_> = (0..keys)
        .map(|n| (format!("tenant-{}", n / 10), format!("key-{n}")))
        .collect();
    let (limiter, mut plans) = (limit::Limiter::new(None), limit::Plans::default());
    let mut wants = Vec::new();
    let begun_at = clock();
    for (tenant, subject) in callers.iter().cycle().take(checks) {
        let plan = plans.find(&snapshot, &name, None);
        let caller = limit::Caller {
            tenant,
            subject: subject.as_bytes(),
            kind: b'k',
        };
        let request = limit::Request {
            path: "",
            methods: &["POST"],
            count: 1,
            tools: &[("a_tool_of_eight_3", 1)],
        };
        plan.wants(&limiter, &caller, &request, &mut wants);
        let taken = limiter.take(&wants, limiter.now());
        std::hint::black_box(taken).expect("there is room");
        wants.clear();
    }
    clock().saturating_sub(begun_at) / u32::try_from(checks).unwrap_or(u32::MAX)
}

/// The `n`th call, on its way.
fn begun(
    counters: &Rc<Counters>,
    service: &ServiceRoute,
    calls: &[(usize, &VersionRoute, Vec<Rc<Tool>>)],
    callers: Callers,
    n: usize,
) -> Observation {
    let caller = match callers {
        Callers::Few(callers) => (n / TOOLS) % callers,
        Callers::EverNew => n,
    };
    // A tenth of the callers have the candidate.
    let (at, version, labels) = &calls[usize::from(caller.is_multiple_of(10))];
    let tool = labels[n % TOOLS].clone();
    let of_version = counters.of(service, version);
    let trial = Trial::of(service, *at, route::key_hash(&caller.to_be_bytes()));
    if let Some(trial) = trial {
        of_version.assigned(trial);
    }
    let mut observation = Observation::begin(
        counters.clone(),
        of_version,
        Calls::One(tool, None),
        CallEra::Modern,
    );
    if let Some(trial) = trial {
        observation.of_trial(trial);
    }
    observation.first_byte();
    observation
}

pub(crate) fn service() -> ServiceRoute {
    let tools: Arc<[Arc<str>]> = (0..TOOLS)
        .map(|n| format!("a_tool_of_eight_{n}").into())
        .collect();
    let version = |name: &str| VersionRoute {
        tools: tools.clone(),
        ..VersionRoute::new(name.parse().expect("a name"), vec![])
    };
    let versions = vec![version("v1"), version("v2")];
    ServiceRoute {
        split: Some(Split::new(RolloutId(Uuid::nil()), 1, Share::ZERO)),
        ..ServiceRoute::new(
            "tools".parse().expect("a name"),
            Protocol::Mcp,
            "/mcp",
            versions,
        )
    }
}
