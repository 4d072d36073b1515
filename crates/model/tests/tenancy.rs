//! The promises of tenants and keys, over random histories: what is over stays over, what is refused changes nothing, and what is in the
//! log is all there is.

mod support;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serin_model::{
    decide::{Command, KEYS_OF_TENANT_MAX, SetTenant, Source, decide},
    event::Event,
    manifest::Manifest,
    tenancy::KeyChange,
};
use serin_tenancy::{
    Denial, KeyId, KeyRecord, Role, Scopes, SecretKey, TenantId, TenantState, key::RANDOM_BYTES,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use support::{World, apply};

/// Keys of a history: few, so that they are met again.
const KEYS: u8 = 6;

#[derive(Clone, Debug)]
enum Step {
    Tenant {
        who: bool,
        new: bool,
        state: Option<bool>,
    },
    Forget {
        who: bool,
    },
    Issue {
        key: u8,
        who: bool,
        life: i64,
        tier: bool,
    },
    Rotate {
        key: u8,
        by: u8,
        overlap: i64,
        life: i64,
    },
    Revoke {
        key: u8,
    },
    Wait {
        seconds: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let life = || -5_i64..60;
    prop_oneof![
        2 => (any::<bool>(), any::<bool>(), any::<Option<bool>>())
            .prop_map(|(who, new, state)| Step::Tenant { who, new, state }),
        1 => any::<bool>().prop_map(|who| Step::Forget { who }),
        5 => (key(), any::<bool>(), life(), any::<bool>())
            .prop_map(|(key, who, life, tier)| Step::Issue { key, who, life, tier }),
        3 => (key(), key(), 0_i64..30, life())
            .prop_map(|(key, by, overlap, life)| Step::Rotate { key, by, overlap, life }),
        2 => key().prop_map(|key| Step::Revoke { key }),
        3 => (1_i64..20).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn secret(key: u8) -> SecretKey {
    SecretKey::new(&[key + 1; RANDOM_BYTES])
}

fn id(key: u8) -> KeyId {
    secret(key).parts().unwrap().0
}

fn tenant(who: bool) -> TenantId {
    if who { "acme" } else { "globex" }.parse().unwrap()
}

fn record(key: u8, who: bool, now: Timestamp, life: i64) -> KeyRecord {
    let (id, hash) = secret(key).parts().unwrap();
    KeyRecord {
        id,
        tenant: tenant(who),
        name: String::new(),
        hash,
        role: Role::User,
        scopes: Scopes::default(),
        tier: None,
        created_at: now,
        expires_at: now + SignedDuration::from_secs(life),
        revoked_at: None,
        replaced_by: None,
        signs: false,
    }
}

/// A world, and what must stay true of its keys.
struct Watched {
    world: World,
    /// Keys that were refused once for a reason that lasts, with it.
    over: BTreeMap<KeyId, Denial>,
}

impl Watched {
    fn new() -> Self {
        let manifest: Manifest = serde_json::from_str(
            r#"{"tiers": {"free": {"limits": [{"rate": "100/hour"}]}},
                "services": {"tools": {"protocol": "mcp", "path": "/mcp", "stable": "v1", "versions": {"v1": {"endpoints": []}}}}}"#,
        )
        .unwrap();
        Self {
            world: World::of(manifest),
            over: BTreeMap::new(),
        }
    }

    /// One with both tenants.
    fn with_tenants() -> Self {
        let mut watched = Self::new();
        for who in [true, false] {
            watched.step(&Step::Tenant {
                who,
                new: true,
                state: None,
            });
        }
        watched
    }

    /// The events, or nothing if it was refused.
    fn run(&mut self, command: &Command) -> Option<Vec<Event>> {
        self.world.run(command).ok()
    }

    fn step(&mut self, step: &Step) {
        let now = self.world.now;
        let reason = String::new();
        match step {
            Step::Tenant { who, new, state } => {
                self.run(&Command::SetTenant(Box::new(SetTenant {
                    tenant: tenant(*who),
                    is_new: *new,
                    title: None,
                    tier: None,
                    state: state.map(|on| {
                        if on {
                            TenantState::Active
                        } else {
                            TenantState::Suspended
                        }
                    }),
                    reason,
                })));
            }
            Step::Forget { who } => {
                let tenant = tenant(*who);
                let command = Command::RemoveTenant {
                    tenant: tenant.clone(),
                    reason,
                };
                if self.run(&command).is_some() {
                    // Who comes under that name later begins anew, also with keys of these ids.
                    let keys = &self.world.state.tenancy.keys;
                    self.over.retain(|id, _| keys.contains_key(id));
                    assert!(keys.values().all(|key| key.tenant != tenant));
                }
            }
            Step::Issue {
                key,
                who,
                life,
                tier,
            } => {
                let mut record = record(*key, *who, now, *life);
                record.tier = tier.then(|| "free".parse().unwrap());
                let command = Command::IssueKey {
                    key: Box::new(record),
                    reason,
                };
                if let Some(events) = self.run(&command) {
                    assert_eq!(changes(&events), [(id(*key), KeyChange::Created)]);
                }
            }
            Step::Rotate {
                key,
                by,
                overlap,
                life,
            } => {
                let who = self.world.state.tenancy.keys.get(&id(*key));
                let who = who.is_none_or(|key| key.tenant == tenant(true));
                let command = Command::RotateKey {
                    key: id(*key),
                    replacement: Box::new(record(*by, who, now, *life)),
                    overlap: SignedDuration::from_secs(*overlap),
                    reason,
                };
                let expires = self
                    .world
                    .state
                    .tenancy
                    .keys
                    .get(&id(*key))
                    .map(|key| key.expires_at);
                if let Some(events) = self.run(&command) {
                    let (old, new) = (id(*key), id(*by));
                    let both = [(new, KeyChange::Created), (old, KeyChange::Rotated)];
                    assert_eq!(changes(&events), both);
                    let old = &self.world.state.tenancy.keys[&old];
                    assert_eq!(old.replaced_by, Some(new));
                    assert!(
                        old.expires_at <= expires.unwrap(),
                        "nothing lives longer by it"
                    );
                    assert!(old.expires_at <= now + SignedDuration::from_secs(*overlap));
                }
            }
            Step::Revoke { key } => {
                let key = id(*key);
                let command = Command::RevokeKey { key, reason };
                if let Some(events) = self.run(&command) {
                    assert!(events.len() <= 1);
                    let again = self.run(&command).unwrap();
                    assert!(again.is_empty(), "asking again changes nothing");
                    assert!(self.world.state.tenancy.keys[&key].revoked_at.is_some());
                }
            }
            Step::Wait { seconds } => self.world.now += SignedDuration::from_secs(*seconds),
        }
    }

    /// A key opens if, and only if, the log says so; one that is over never opens again.
    fn check(&mut self) {
        let directory = self.world.state.tenancy.directory().clone();
        for key in 0..KEYS {
            let (secret, id) = (secret(key), id(key));
            let found = directory.find(secret.expose().as_bytes(), self.world.now);
            let record = self.world.state.tenancy.keys.get(&id);
            let want = match record {
                None => Err(Denial::Unknown),
                Some(record) => {
                    let of = self.world.state.tenancy.tenants.get(&record.tenant);
                    let active = of.is_some_and(|of| of.state == TenantState::Active);
                    if record.revoked_at.is_some() || !active {
                        Err(Denial::Revoked)
                    } else if record.expires_at <= self.world.now {
                        Err(Denial::Expired)
                    } else {
                        Ok(&record.tenant)
                    }
                }
            };
            let got = found.map(|principal| &principal.tenant);
            assert_eq!(got, want);
            assert_eq!(
                directory.find_id(id, self.world.now).map(|it| &it.tenant),
                want
            );
            if let Some(record) = record {
                let is_over = record.revoked_at.is_some() || record.expires_at <= self.world.now;
                if is_over {
                    self.over.insert(id, got.unwrap_err());
                }
            }
            assert!(
                !self.over.contains_key(&id) || got.is_err(),
                "{id} opens again"
            );
        }
    }
}

fn changes(events: &[Event]) -> Vec<(KeyId, KeyChange)> {
    let change = |event: &Event| match event {
        Event::KeySet { key, change, .. } => (key.id, *change),
        other => panic!("{other:?}"),
    };
    events.iter().map(change).collect()
}

#[test]
fn one_tenant_takes_no_room_from_the_others() {
    let mut watched = Watched::with_tenants();
    let key = |number: usize, who| {
        let mut bytes = [0; RANDOM_BYTES];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let (id, hash) = SecretKey::new(&bytes).parts().unwrap();
        let record = KeyRecord {
            id,
            hash,
            ..record(0, who, Timestamp::UNIX_EPOCH, 60)
        };
        Command::IssueKey {
            key: Box::new(record),
            reason: String::new(),
        }
    };
    // Six bytes of it are the id.
    let at = |number: usize| (number + 1) << 16;
    let keys: BTreeMap<_, _> = (0..KEYS_OF_TENANT_MAX)
        .map(|number| match key(at(number), true) {
            Command::IssueKey { key, .. } => (key.id, Arc::new(*key)),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(keys.len(), KEYS_OF_TENANT_MAX);
    watched.world.state.tenancy.keys = Arc::new(keys);
    assert!(watched.run(&key(at(KEYS_OF_TENANT_MAX), true)).is_none());
    assert!(watched.run(&key(at(KEYS_OF_TENANT_MAX), false)).is_some());
    // Those that are over make room.
    watched.world.now += SignedDuration::from_secs(60);
    let Command::IssueKey { mut key, reason } = key(at(KEYS_OF_TENANT_MAX + 1), true) else {
        unreachable!()
    };
    key.expires_at = watched.world.now + SignedDuration::from_secs(60);
    assert!(watched.run(&Command::IssueKey { key, reason }).is_some());
}

#[test]
fn a_key_is_replaced_by_one_of_the_same_tenant() {
    let mut watched = Watched::with_tenants();
    watched.step(&Step::Issue {
        key: 0,
        who: true,
        life: 60,
        tier: false,
    });
    let rotate = |who| Command::RotateKey {
        key: id(0),
        replacement: Box::new(record(1, who, Timestamp::UNIX_EPOCH, 60)),
        overlap: SignedDuration::ZERO,
        reason: String::new(),
    };
    assert!(watched.run(&rotate(false)).is_none());
    assert!(watched.run(&rotate(true)).is_some());
}

#[test]
fn a_tier_stays_while_somebody_has_it_and_no_longer() {
    let prune = || apply(Manifest::default(), Source::Request, true, false);
    let with_a_key = || {
        let mut watched = Watched::new();
        watched.step(&Step::Tenant {
            who: true,
            new: true,
            state: None,
        });
        watched.step(&Step::Issue {
            key: 0,
            who: true,
            life: 60,
            tier: true,
        });
        let refusal = decide(&watched.world.state, &prune(), watched.world.now).unwrap_err();
        assert!(refusal.help.contains("serin key revoke"), "{refusal:?}");
        watched
    };
    let mut watched = with_a_key();
    watched.step(&Step::Revoke { key: 0 });
    assert!(watched.run(&prune()).is_some(), "the key was revoked");
    let mut watched = with_a_key();
    watched.step(&Step::Wait { seconds: 60 });
    assert!(watched.run(&prune()).is_some(), "the key has expired");
    assert!(watched.world.state.tenancy.tiers.is_empty());
    // Of a tenant it is that has bought it, whatever its keys do.
    let mut watched = Watched::new();
    let wish = SetTenant {
        tenant: tenant(true),
        is_new: true,
        title: None,
        tier: Some(Some("free".parse().unwrap())),
        state: Some(TenantState::Suspended),
        reason: String::new(),
    };
    watched.run(&Command::SetTenant(Box::new(wish))).unwrap();
    let refusal = decide(&watched.world.state, &prune(), watched.world.now).unwrap_err();
    assert!(
        refusal.help.contains("serin tenant set acme --tier"),
        "{refusal:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_over_stays_over_and_what_is_refused_changes_nothing(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut watched = Watched::with_tenants();
        for step in &steps {
            watched.step(step);
            watched.check();
        }
        // The log is all there is.
        prop_assert_eq!(&watched.world.folded(), &watched.world.state);
        // Each event once: no key is made, rotated or revoked twice while its tenant is there.
        let mut seen = BTreeSet::new();
        for recorded in &watched.world.log {
            match &recorded.event {
                Event::KeySet { key, change, .. } => {
                    prop_assert!(seen.insert((key.id, *change as u8)), "{:?} {:?}", key, change);
                }
                Event::TenantRemoved { tenant, .. } => {
                    // Forgotten with everything that was its.
                    let gone: Vec<_> = watched.world.log.iter().filter_map(|it| match &it.event {
                        Event::KeySet { key, .. } if key.tenant == *tenant => Some(key.id),
                        _ => None,
                    }).collect();
                    seen.retain(|(id, _)| !gone.contains(id));
                }
                _ => {}
            }
        }
        // No secret is in it.
        let log = serde_json::to_string(&watched.world.log).unwrap();
        for key in 0..KEYS {
            prop_assert!(!log.contains(&secret(key).expose()[20..60]));
        }
    }
}
