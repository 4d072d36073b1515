//! Logs of each release, as they were written then. What is in them must fold for ever; a new release adds a file and changes none.

use serin_flags::{FlagKey, State as FlagState};
use serin_judge::Check;
use serin_model::{
    auth::Auth,
    event::{EVENT_VERSION, Event, Recorded},
    rollout::Status,
    state::State,
};
use serin_tenancy::{Role, TenantState};
use std::{collections::BTreeSet, time::Duration};

/// One record a line, with `kind` and `body` as the store keeps them.
const LOG_1: &str = include_str!("golden/log-1.jsonl");
/// With what the sequential judge has added: plans, proofs, signals, comparisons set aside.
const LOG_2: &str = include_str!("golden/log-2.jsonl");
/// With what flags have added: flags, overrides, kills, kill switches, a rollout of a flag.
const LOG_3: &str = include_str!("golden/log-3.jsonl");
/// With what tenants have added: tenants, keys, tiers, versions of the API, a service that asks for a key.
const LOG_4: &str = include_str!("golden/log-4.jsonl");
/// With what routing has added: rules, endpoints with weights, drains.
const LOG_5: &str = include_str!("golden/log-5.jsonl");

fn records(log: &str) -> impl Iterator<Item = Recorded> {
    log.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn fold(log: &str) -> State {
    let mut state = State::default();
    for recorded in records(log) {
        state.apply(&recorded);
    }
    state
}

#[test]
fn the_first_log_still_folds_to_the_same_state() {
    let state = fold(LOG_1);
    let statuses: Vec<_> = state
        .rollouts
        .iter()
        .map(|rollout| rollout.status)
        .collect();
    assert_eq!(
        statuses,
        [
            Status::Promoted,
            Status::RolledBack,
            Status::Aborted,
            Status::RolledBack,
            Status::Inconclusive
        ]
    );
    assert_eq!(state.services.len(), 1);
    let service = state.services.values().next().unwrap();
    assert_eq!((service.stable.as_str(), state.next_endpoint), ("v1", 3));
    assert_eq!(state.plans.len(), 1);
}

#[test]
fn the_second_log_still_folds_to_the_same_state() {
    let state = fold(LOG_2);
    let rollout = &state.rollouts[0];
    assert_eq!(
        (rollout.status, rollout.phase, rollout.step),
        (Status::RolledBack, 1, 2)
    );
    assert_eq!(rollout.signals["complaint"], 1);
    assert_eq!(rollout.set_aside, None);
    let plan = &rollout.plan;
    assert_eq!(plan.judge.block, Duration::from_secs(5));
    assert_eq!(plan.values.len(), 1);
    assert_eq!(plan.affinity.renew, Some(Duration::from_hours(1)));
    let evidence = rollout.ended.as_ref().unwrap().evidence.as_ref().unwrap();
    let proof = evidence.proof.as_deref().unwrap();
    assert!(proof.regression && proof.culprit.as_ref().is_some_and(|culprit| culprit.proven));
    assert_eq!(evidence.basis.as_ref().unwrap().blocks, 12);
    assert_eq!(evidence.values[0].check, Check::Pass);
}

#[test]
fn the_third_log_still_folds_to_the_same_state() {
    let state = fold(LOG_3);
    let flags = &state.flags;
    let keys: Vec<_> = flags.definitions.keys().map(FlagKey::as_str).collect();
    assert_eq!(keys, ["new_search", "other"]);
    // The rollout of the first was taken back, and the plan switched off the other.
    for flag in flags.definitions.values() {
        assert_eq!(flag.state, FlagState::Disabled);
    }
    assert!(flags.histories["new_search"].file.is_some());
    assert!(flags.histories["other"].file.is_none());
    assert_eq!(flags.histories["new_search"].revision, 16);
    assert_eq!(
        &*flags.overrides.values().next().unwrap()["new_search"],
        "on"
    );
    assert_eq!(
        &*flags.file_overrides.values().next().unwrap()["new_search"],
        "off"
    );
    let killed: Vec<_> = state
        .kills
        .active()
        .map(|kill| kill.target.to_string())
        .collect();
    assert_eq!(
        (killed, state.kills.generation()),
        (vec!["flags".to_owned()], 4)
    );
    assert!(state.kill_switches.is_empty());
    let service = state.services.values().next().unwrap();
    assert_eq!(service.settings.gates.len(), 4);
    assert_eq!(service.stable.as_str(), "v1");
    assert_eq!(state.rollouts[0].to.as_str(), "v1+new_search");
}

#[test]
fn the_fourth_log_still_folds_to_the_same_state() {
    let state = fold(LOG_4);
    let tenancy = &state.tenancy;
    let tenants: Vec<_> = tenancy
        .tenants
        .iter()
        .map(|(id, tenant)| (id.as_str(), tenant.title.as_str(), tenant.state))
        .collect();
    assert_eq!(
        tenants,
        [
            ("acme", "Acme Inc.", TenantState::Active),
            ("globex", "", TenantState::Suspended)
        ]
    );
    assert_eq!(tenancy.tiers.len(), 1);
    assert_eq!(tenancy.tiers["free"].limits[0].rate.to_string(), "100/hour");
    let keys: Vec<_> = tenancy.keys.values().collect();
    let [rotated, revoked, fresh] = keys.as_slice() else {
        panic!("{keys:?}");
    };
    assert_eq!(rotated.replaced_by, Some(fresh.id));
    assert_eq!(
        rotated.expires_at.to_string(),
        "2026-11-22T12:00:08Z",
        "the end of the overlap"
    );
    assert!(revoked.revoked_at.is_some() && revoked.signs && revoked.role == Role::Admin);
    assert_eq!((fresh.scopes.len(), fresh.revoked_at), (4, None));
    assert_eq!(tenancy.revision, 18);
    let api: Vec<_> = state.api.keys().map(ToString::to_string).collect();
    assert_eq!(api, ["v2"]);
    let settings = &state.services.values().next().unwrap().settings;
    assert_eq!((settings.auth, settings.limits.len()), (Auth::Serin, 1));
    assert!(settings.jwt.is_some() && settings.upstream.credential.is_some());
}

#[test]
fn the_fifth_log_still_folds_to_the_same_state() {
    let state = fold(LOG_5);
    let service = state.services.values().next().unwrap();
    assert_eq!(service.rules.len(), 2);
    assert_eq!(service.settings.health.expected, [200, 204]);
    let [v1, v2] = ["v1", "v2"].map(|name| &service.versions[&name.parse().unwrap()]);
    let endpoints = v1.endpoints.iter();
    let endpoints: Vec<_> = endpoints.map(|e| (e.id.0, e.weight)).collect();
    // The first came back under another id, the third has left.
    assert_eq!(endpoints, [(4, 1), (1, 3)]);
    assert!(v1.endpoints.iter().all(|e| v1.takes_callers(e)));
    assert!(v2.drain.as_ref().unwrap().is_over && v2.reachable().next().is_none());
    assert_eq!(v2.fallback.len(), 1);
    assert_eq!(state.next_endpoint, 5);
}

#[test]
fn the_logs_read_back_as_they_were_written() {
    for (line, recorded) in [LOG_1, LOG_2, LOG_3, LOG_4, LOG_5]
        .into_iter()
        .flat_map(|log| log.lines().zip(records(log)))
    {
        let stored: serde_json::Value = serde_json::from_str(line).unwrap();
        let body: serde_json::Value =
            serde_json::from_str(&recorded.event.encode_body().unwrap()).unwrap();
        assert_eq!(body, stored["body"], "{line}");
        let decoded =
            Event::decode(recorded.event.kind(), EVENT_VERSION, &body.to_string()).unwrap();
        assert_eq!(decoded, recorded.event);
    }
}

#[test]
fn the_first_log_has_every_kind_of_event() {
    let kinds: BTreeSet<_> = records(LOG_1)
        .map(|recorded| recorded.event.kind())
        .collect();
    assert_eq!(kinds.len(), 20, "{kinds:?}");
}

#[test]
fn an_event_of_a_later_release_is_refused_with_help() {
    let error = Event::decode("resumed", EVENT_VERSION + 1, "{}")
        .unwrap_err()
        .to_string();
    assert!(error.contains("later release"), "{error}");
    let error = Event::decode("resumed", EVENT_VERSION, "{}")
        .unwrap_err()
        .to_string();
    assert!(error.contains("restore"), "{error}");
}
