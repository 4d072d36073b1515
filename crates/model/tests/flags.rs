//! Flags in the state: who may change them, what the file of flags changes, and what rollouts do with them.

mod support;

use serde_json::json;
use serin_flags::{Flag, FlagKey, State as FlagState};
use serin_model::{
    decide::{Candidate, Command, Expects, FlagFile, RefusalKind, SetFlag, SetOverride, Source},
    manifest::Manifest,
    plan::{Plan, RollbackStrategy},
    rollout::Status,
    share::Share,
    snapshot::{Observed, Snapshot},
};
use std::sync::Arc;
use support::{World, apply, tools};

fn key(text: &str) -> FlagKey {
    text.parse().unwrap()
}

/// A boolean flag, disabled unless said otherwise.
fn flag(state: &str) -> Flag {
    let flag = json!({"state": state, "variants": {"on": true, "off": false}, "defaultVariant": "on",
        "serin": {"offVariant": "off"}});
    serde_json::from_value(flag).unwrap()
}

/// One that is enabled, and that nobody has yet.
fn idle() -> Flag {
    let mut flag = flag("ENABLED");
    flag.default_variant = "off".into();
    flag
}

fn v2() -> Candidate {
    Candidate::Version("v2".parse().unwrap())
}

/// Sets `newAuth` from its second phase on, and turns it off when it is taken back.
fn auth_plan() -> Plan {
    let phases = json!([{"share": "10 %", "hold": "60s"}, {"share": "50 %", "hold": "60s", "flags": {"newAuth": "on"}}, {"share": "100 %"}]);
    plan(&json!({"phases": phases, "flags_off": ["newAuth"]}))
}

/// A service with versions, as it stands in a manifest.
fn service(name: &str, versions: &[&str]) -> Manifest {
    let versions: serde_json::Map<_, _> = versions
        .iter()
        .map(|version| {
            (
                (*version).to_owned(),
                json!({"endpoints": [format!("http://{version}.{name}.test/mcp")]}),
            )
        })
        .collect();
    let service = json!({"protocol": "mcp", "path": format!("/{name}"), "stable": "v1", "versions": versions});
    serde_json::from_value(json!({"services": {name: service}})).unwrap()
}

fn plan(extra: &serde_json::Value) -> Plan {
    let mut plan = json!({"phases": [{"share": "10 %", "hold": "60s"}, {"share": "50 %", "hold": "60s"}, {"share": "100 %"}]});
    plan.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    serde_json::from_value(plan).unwrap()
}

impl World {
    fn new() -> Self {
        let manifest = json!({"services": {"tools": {"protocol": "mcp", "path": "/mcp", "stable": "v1", "versions": {
            "v1": {"endpoints": ["http://127.0.0.1:9001/mcp"]}, "v2": {"endpoints": ["http://127.0.0.1:9002/mcp"]}}}}});
        Self::of(serde_json::from_value(manifest).unwrap())
    }

    /// One in the phase of [`auth_plan`] that sets its flag.
    fn with_auth() -> Self {
        let mut world = Self::new();
        world
            .set("newAuth", Some(flag("DISABLED")), Expects::New)
            .unwrap();
        world.start(v2(), auth_plan()).unwrap();
        world.promote(false);
        world
    }

    fn set(
        &mut self,
        name: &str,
        flag: Option<Flag>,
        expects: Expects,
    ) -> Result<usize, RefusalKind> {
        let wish = SetFlag {
            flag: key(name),
            definition: flag.map(Box::new),
            expects,
            reason: "because".into(),
        };
        self.run(&Command::SetFlag(Box::new(wish)))
            .map(|events| events.len())
    }

    fn give(
        &mut self,
        tenant: &str,
        name: &str,
        variant: Option<&str>,
    ) -> Result<usize, RefusalKind> {
        let wish = SetOverride {
            tenant: tenant.parse().unwrap(),
            flag: key(name),
            variant: variant.map(Into::into),
            reason: String::new(),
        };
        self.run(&Command::SetOverride(Box::new(wish)))
            .map(|events| events.len())
    }

    fn read(&mut self, flags: &[(&str, Flag)]) -> Result<usize, RefusalKind> {
        let flags = flags
            .iter()
            .map(|(name, flag)| (key(name), Arc::new(flag.clone())));
        let file = FlagFile {
            flags: flags.collect(),
            ..FlagFile::default()
        };
        self.run(&Command::ReadFlags(Box::new(file)))
            .map(|events| events.len())
    }

    fn apply(&mut self, manifest: Manifest, prune: bool) -> Result<usize, RefusalKind> {
        self.run(&apply(manifest, Source::Request, prune, true))
            .map(|events| events.len())
    }

    fn start(&mut self, candidate: Candidate, plan: Plan) -> Result<(), RefusalKind> {
        self.start_on("tools", candidate, plan)
    }

    fn start_on(
        &mut self,
        service: &str,
        candidate: Candidate,
        plan: Plan,
    ) -> Result<(), RefusalKind> {
        self.begin(service.parse().unwrap(), candidate, plan)
            .map(drop)
    }

    fn release(&mut self, name: &str) -> Result<(), RefusalKind> {
        let candidate = Candidate::Flag {
            flag: key(name),
            on: None,
        };
        self.start(candidate, plan(&json!({})))
    }

    fn promote(&mut self, full: bool) {
        self.run(&Command::Promote {
            service: tools(),
            full,
            overridden: Some("test".into()),
            assessment: None,
        })
        .unwrap();
    }

    fn roll_back(&mut self) {
        self.run(&Command::Rollback {
            service: tools(),
            strategy: RollbackStrategy::Immediate,
            reason: "bad".into(),
        })
        .unwrap();
    }

    fn flag(&self, name: &str) -> &Flag {
        &self.state.flags.definitions[name]
    }

    /// The share of `tools` that rules read.
    fn share(&self) -> f64 {
        self.snapshot().flags.shares["tools"]
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::build(&self.state, &Observed::default())
    }
}

#[test]
fn changes_need_what_they_take_for_granted() {
    let mut world = World::new();
    assert_eq!(
        world.set("a", Some(flag("ENABLED")), Expects::Known),
        Err(RefusalKind::NotFound)
    );
    assert_eq!(world.set("a", Some(flag("ENABLED")), Expects::New), Ok(1));
    assert_eq!(
        world.set("a", Some(flag("DISABLED")), Expects::New),
        Err(RefusalKind::Conflict)
    );
    let revision = world.state.flags.histories["a"].revision;
    assert_eq!(
        world.set("a", Some(flag("ENABLED")), Expects::Revision(revision)),
        Ok(0)
    );
    assert_eq!(
        world.set("a", Some(flag("DISABLED")), Expects::Revision(revision)),
        Ok(1)
    );
    let stale = world.set("a", Some(flag("ENABLED")), Expects::Revision(revision));
    assert_eq!(stale, Err(RefusalKind::Conflict));
    assert_eq!(world.flag("a").state, FlagState::Disabled);
    let mut odd = flag("ENABLED");
    odd.default_variant = "maybe".into();
    assert_eq!(
        world.set("a", Some(odd), Expects::Anything),
        Err(RefusalKind::Invalid)
    );
    assert_eq!(world.set("a", None, Expects::Known), Ok(1));
    assert!(world.state.flags.definitions.is_empty() && world.state.flags.histories.is_empty());
}

#[test]
fn tenants_have_variants_that_exist() {
    let mut world = World::new();
    assert_eq!(
        world.give("acme", "a", Some("on")),
        Err(RefusalKind::NotFound)
    );
    world.set("a", Some(flag("ENABLED")), Expects::New).unwrap();
    assert_eq!(
        world.give("acme", "a", Some("maybe")),
        Err(RefusalKind::Invalid)
    );
    assert_eq!(world.give("acme", "a", Some("on")), Ok(1));
    assert_eq!(world.give("acme", "a", Some("on")), Ok(0));
    let mut fewer = flag("ENABLED");
    fewer.variants.remove("on");
    fewer.default_variant = "off".into();
    assert_eq!(
        world.set("a", Some(fewer), Expects::Known),
        Err(RefusalKind::Conflict)
    );
    assert_eq!(world.give("acme", "a", None), Ok(1));
    assert!(world.state.flags.overrides.is_empty());
}

#[test]
fn the_file_changes_only_what_its_author_changed() {
    let mut world = World::new();
    assert_eq!(
        world.read(&[("a", flag("ENABLED")), ("b", flag("ENABLED"))]),
        Ok(2)
    );
    assert_eq!(
        world.read(&[("a", flag("ENABLED")), ("b", flag("ENABLED"))]),
        Ok(0)
    );
    // Somebody disables one by hand; the file, read again, does not undo it.
    world
        .set("a", Some(flag("DISABLED")), Expects::Known)
        .unwrap();
    assert_eq!(
        world.read(&[("a", flag("ENABLED")), ("b", flag("ENABLED"))]),
        Ok(0)
    );
    assert_eq!(world.flag("a").state, FlagState::Disabled);
    // One that is deleted by hand does not come back with the next start.
    world.set("b", None, Expects::Known).unwrap();
    assert_eq!(
        world.read(&[("a", flag("ENABLED")), ("b", flag("ENABLED"))]),
        Ok(0)
    );
    assert!(!world.state.flags.definitions.contains_key("b"));
    // The author changes the first, and removes the second: the newest word counts.
    let mut changed = flag("ENABLED");
    changed.serin.owner = Some("team".into());
    assert_eq!(world.read(&[("a", changed.clone())]), Ok(2));
    assert_eq!(world.flag("a"), &changed);
    assert_eq!(world.read(&[("a", changed)]), Ok(0));
    assert_eq!(world.read(&[]), Ok(1));
    assert!(world.state.flags.definitions.is_empty() && world.state.flags.histories.is_empty());
    // What was never in the file is not touched by it.
    world.set("c", Some(flag("ENABLED")), Expects::New).unwrap();
    assert_eq!(world.read(&[]), Ok(0));
}

#[test]
fn a_release_climbs_and_settles() {
    let mut world = World::new();
    assert_eq!(world.release("a"), Err(RefusalKind::NotFound));
    world
        .set("a", Some(flag("DISABLED")), Expects::New)
        .unwrap();
    world.release("a").unwrap();
    let snapshot = world.snapshot();
    assert!((snapshot.flags.releases["a"].percentage - 10.0).abs() < 1e-9);
    let service = &snapshot.services[0];
    let split = service.split.as_ref().unwrap();
    let candidate = &service.versions[split.candidate];
    assert_eq!(candidate.name.as_str(), "v1+a");
    assert_eq!(
        candidate.endpoints,
        service.versions[service.stable].endpoints
    );
    // Who steers it is the rollout.
    let by_hand = world.set("a", Some(flag("ENABLED")), Expects::Known);
    assert_eq!(by_hand, Err(RefusalKind::Conflict));
    assert_eq!(
        world.read(&[("a", flag("ENABLED"))]),
        Err(RefusalKind::Conflict)
    );
    assert_eq!(world.release("a"), Err(RefusalKind::Conflict));
    world.promote(false);
    let after = world.snapshot();
    assert!((after.flags.releases["a"].percentage - 50.0).abs() < 1e-9);
    assert_ne!(after.flags_revision, snapshot.flags_revision);
    world.promote(true);
    let snapshot = world.snapshot();
    assert!(snapshot.flags.releases.is_empty() && snapshot.services[0].split.is_none());
    let settled = world.flag("a");
    assert_eq!(
        (settled.state, &*settled.default_variant),
        (FlagState::Enabled, "on")
    );
    assert_eq!(world.state.services[&tools()].stable.as_str(), "v1");
    // A rollback after the end switches it off again.
    world.roll_back();
    assert_eq!(world.flag("a").state, FlagState::Disabled);
}

#[test]
fn a_release_that_is_taken_back_is_off_for_everybody() {
    for abort in [false, true] {
        let mut world = World::new();
        world.set("a", Some(idle()), Expects::New).unwrap();
        world.release("a").unwrap();
        if abort {
            world
                .run(&Command::Abort {
                    service: tools(),
                    reason: "no".into(),
                })
                .unwrap();
        } else {
            world.roll_back();
        }
        assert_eq!(world.flag("a").state, FlagState::Disabled);
        assert!(world.snapshot().flags.releases.is_empty());
        assert_eq!(world.state.services[&tools()].stable.as_str(), "v1");
    }
}

#[test]
fn what_is_released_must_be_one_variant_that_is_not_off() {
    let mut world = World::new();
    let mut many = flag("ENABLED");
    many.variants = [("a", 1), ("b", 2), ("off", 0)]
        .map(|(name, value)| (name.into(), json!(value)))
        .into();
    many.default_variant = "off".into();
    world.set("many", Some(many), Expects::New).unwrap();
    assert_eq!(world.release("many"), Err(RefusalKind::Invalid));
    for (on, want) in [
        ("off", Err(RefusalKind::Invalid)),
        ("c", Err(RefusalKind::Invalid)),
        ("b", Ok(())),
    ] {
        let candidate = Candidate::Flag {
            flag: key("many"),
            on: Some(on.into()),
        };
        assert_eq!(world.start(candidate, plan(&json!({}))), want, "{on}");
    }
}

#[test]
fn a_rollout_sets_flags_and_leaves_them_as_it_ends() {
    let plan = plan(&json!({
        "phases": [{"share": "10 %", "hold": "60s"}, {"share": "60 %", "hold": "60s", "flags": {"newAuth": "on"}}, {"share": "100 %"}],
        "flags_off": ["risky"]
    }));
    let v2 = Candidate::Version("v2".parse().unwrap());
    for promoted in [false, true] {
        let mut world = World::new();
        assert_eq!(
            world.start(v2.clone(), plan.clone()),
            Err(RefusalKind::NotFound)
        );
        world
            .set("newAuth", Some(flag("DISABLED")), Expects::New)
            .unwrap();
        world
            .set("risky", Some(flag("ENABLED")), Expects::New)
            .unwrap();
        world.start(v2.clone(), plan.clone()).unwrap();
        assert!(world.snapshot().flags.set_by_rollouts.is_empty());
        world.promote(false);
        assert_eq!(&*world.snapshot().flags.set_by_rollouts["newAuth"], "on");
        assert_eq!(world.flag("newAuth").state, FlagState::Disabled);
        if promoted {
            world.promote(true);
        } else {
            world.roll_back();
        }
        let (state, risky) = if promoted {
            (FlagState::Enabled, FlagState::Enabled)
        } else {
            (FlagState::Disabled, FlagState::Disabled)
        };
        assert_eq!(world.flag("newAuth").state, state);
        assert_eq!(world.flag("risky").state, risky);
        assert!(world.snapshot().flags.set_by_rollouts.is_empty());
    }
}

#[test]
fn rules_can_read_the_share_of_a_rollout() {
    let mut world = World::new();
    assert!(world.snapshot().flags.shares.is_empty());
    world
        .start(Candidate::Version("v2".parse().unwrap()), plan(&json!({})))
        .unwrap();
    assert!((world.share() - 10.0).abs() < 1e-9);
    world
        .run(&Command::SetShare {
            service: tools(),
            share: Share::from_percent(60.0).unwrap(),
            reason: "test".into(),
        })
        .unwrap();
    assert!((world.share() - 60.0).abs() < 1e-9);
    // A promotion keeps it at 100, so that what reads it does not fall back.
    world.promote(true);
    assert!((world.share() - 100.0).abs() < 1e-9);
    assert_eq!(world.state.rollouts[0].status, Status::Promoted);
}

#[test]
fn many_commands_happen_all_or_not_at_all() {
    let mut world = World::new();
    let create = |name: &str, expects| {
        Command::SetFlag(Box::new(SetFlag {
            flag: key(name),
            definition: Some(Box::new(flag("ENABLED"))),
            expects,
            reason: String::new(),
        }))
    };
    let variant = |name: &str| {
        Command::SetOverride(Box::new(SetOverride {
            tenant: "acme".parse().unwrap(),
            flag: key(name),
            variant: Some("off".into()),
            reason: String::new(),
        }))
    };
    // The second one sees what the first has done.
    let both = vec![create("a", Expects::New), variant("a")];
    assert_eq!(world.run(&Command::All(both)).unwrap().len(), 2);
    let broken = vec![create("b", Expects::New), variant("c")];
    let refused = world.run(&Command::All(broken));
    assert_eq!(refused, Err(RefusalKind::NotFound));
    assert!(!world.state.flags.definitions.contains_key(&key("b")));
    assert!(world.run(&Command::All(vec![])).unwrap().is_empty());
}

#[test]
fn what_the_file_no_longer_vouches_for_fails_as_it_says() {
    let mut world = World::new();
    let with = |mode: &str| {
        let mut flag = flag("ENABLED");
        flag.serin.fail_mode = serde_json::from_value(json!(mode)).unwrap();
        flag.targeting = serde_json::from_value(json!({"if": [false, "on", "off"]})).unwrap();
        flag
    };
    world
        .read(&[
            ("last", with("last")),
            ("default", with("default")),
            ("off", with("off")),
        ])
        .unwrap();
    // One that the file has never had is nobody else's to doubt.
    world
        .set("by_hand", Some(with("off")), Expects::New)
        .unwrap();
    let known = world.snapshot();
    let doubted = Snapshot::build(
        &world.state,
        &Observed {
            flags_in_doubt: true,
            ..Observed::default()
        },
    );
    assert_ne!(known.flags_revision, doubted.flags_revision);
    for (name, changes) in [
        ("last", false),
        ("by_hand", false),
        ("default", true),
        ("off", true),
    ] {
        let is_same = known.flags.flags[name] == doubted.flags.flags[name];
        assert_eq!(is_same, !changes, "{name}");
    }
    assert_eq!(doubted.flags.flags["off"].state, FlagState::Disabled);
    assert_eq!(doubted.flags.flags["default"].targeting, None);
}

#[test]
fn a_release_lives_through_a_manifest_that_does_not_know_it() {
    let mut world = World::new();
    world.set("f", Some(idle()), Expects::New).unwrap();
    let manifest = service("tools", &["v1", "v2"]);
    world.apply(manifest.clone(), true).unwrap();
    world.release("f").unwrap();
    assert_eq!(world.apply(manifest, true), Ok(0));
    assert!(world.snapshot().services[0].split.is_some());
    // Stable itself cannot go.
    let gone = world.apply(service("tools", &["v2"]), true);
    assert_eq!(gone, Err(RefusalKind::Conflict));
}

#[test]
fn a_release_and_a_version_do_not_have_one_name() {
    let mut world = World::new();
    world.set("f", Some(idle()), Expects::New).unwrap();
    world.release("f").unwrap();
    let manifest = service("tools", &["v1", "v1+f"]);
    let during = world.apply(manifest.clone(), false);
    assert_eq!(during, Err(RefusalKind::Conflict));
    world.roll_back();
    world.apply(manifest, false).unwrap();
    assert_eq!(world.release("f"), Err(RefusalKind::Conflict));
}

#[test]
fn a_promotion_that_is_taken_back_turns_flags_off_too() {
    let mut world = World::with_auth();
    world.promote(true);
    assert_eq!(world.flag("newAuth").state, FlagState::Enabled);
    assert!((world.share() - 100.0).abs() < 1e-9);
    world.roll_back();
    assert_eq!(world.state.services[&tools()].stable.as_str(), "v1");
    assert_eq!(world.flag("newAuth").state, FlagState::Disabled);
    assert!(world.share() < 1e-9);
    // Once is enough: what somebody enables afterwards stays.
    world
        .set("newAuth", Some(flag("ENABLED")), Expects::Known)
        .unwrap();
    world.roll_back();
    assert_eq!(world.flag("newAuth").state, FlagState::Enabled);
}

#[test]
fn the_share_of_a_release_that_is_taken_back_is_nobody() {
    let mut world = World::new();
    world.set("f", Some(idle()), Expects::New).unwrap();
    world.release("f").unwrap();
    world.promote(true);
    assert!((world.share() - 100.0).abs() < 1e-9);
    world.roll_back();
    assert!(world.share() < 1e-9);
}

#[test]
fn at_a_share_of_nobody_the_flags_of_the_phases_wait_too() {
    let mut world = World::with_auth();
    let is_set = |world: &World| {
        world
            .snapshot()
            .flags
            .set_by_rollouts
            .contains_key("newAuth")
    };
    assert!(is_set(&world));
    world
        .run(&Command::SetShare {
            service: tools(),
            share: Share::ZERO,
            reason: "stop".into(),
        })
        .unwrap();
    assert!(!is_set(&world));
    world.run(&Command::Resume { service: tools() }).unwrap();
    assert!(is_set(&world));
}

#[test]
fn a_variant_that_a_plan_sets_stays_until_its_rollout_ends() {
    let mut world = World::new();
    world.read(&[("newAuth", flag("DISABLED"))]).unwrap();
    world.start(v2(), auth_plan()).unwrap();
    let mut other = flag("ENABLED");
    other.variants.remove("on");
    other.variants.insert("yes".into(), json!(true));
    other.default_variant = "yes".into();
    // The phase that sets it is still to come.
    let refused = Err(RefusalKind::Conflict);
    let by_hand = world.set("newAuth", Some(other.clone()), Expects::Known);
    assert_eq!(by_hand, refused);
    assert_eq!(world.set("newAuth", None, Expects::Known), refused);
    assert_eq!(world.read(&[("newAuth", other.clone())]), refused);
    assert_eq!(world.read(&[]), refused);
    // Whatever keeps the variant is as good as before.
    let mut owned = flag("DISABLED");
    owned.serin.owner = Some("team".into());
    assert_eq!(world.read(&[("newAuth", owned)]), Ok(1));
    world.promote(true);
    let changed = world.set("newAuth", Some(other), Expects::Known);
    assert_eq!(changed, Ok(1));
}

#[test]
fn one_rollout_decides_about_a_flag() {
    let begin = || {
        let mut world = World::new();
        world.apply(service("other", &["v1", "v2"]), false).unwrap();
        for name in ["newAuth", "b"] {
            world.set(name, Some(idle()), Expects::New).unwrap();
        }
        world
    };
    let released = |name: &str| Candidate::Flag {
        flag: key(name),
        on: None,
    };
    let by = |name: &str| plan(&json!({"flags_off": [name]}));
    let plain = || plan(&json!({}));
    for (first, second, want) in [
        ((released("newAuth"), plain()), (v2(), auth_plan()), false),
        ((v2(), auth_plan()), (released("newAuth"), plain()), false),
        (
            (released("newAuth"), plain()),
            (released("newAuth"), plain()),
            false,
        ),
        ((v2(), auth_plan()), (v2(), auth_plan()), false),
        ((v2(), auth_plan()), (v2(), by("newAuth")), false),
        ((v2(), by("newAuth")), (released("newAuth"), plain()), false),
        ((v2(), by("newAuth")), (v2(), by("newAuth")), true),
        ((released("b"), plain()), (v2(), auth_plan()), true),
    ] {
        let mut world = begin();
        let case = format!("{:?} {:?}", first.0, second.0);
        world.start(first.0, first.1).unwrap();
        let started = world.start_on("other", second.0, second.1);
        let want = if want {
            Ok(())
        } else {
            Err(RefusalKind::Conflict)
        };
        assert_eq!(started, want, "{case}");
    }
    // Nor does a plan set the flag that it releases.
    let itself = begin().start(released("newAuth"), auth_plan());
    assert_eq!(itself, Err(RefusalKind::Invalid));
}

#[test]
fn what_everybody_has_is_not_released() {
    let mut world = World::new();
    world
        .set("live", Some(flag("ENABLED")), Expects::New)
        .unwrap();
    assert_eq!(world.release("live"), Err(RefusalKind::Conflict));
    // Where some have it, by a rule or a schedule, the release takes over from there.
    for part in [
        json!({"targeting": {"fractional": [["on", 10], ["off", 90]]}}),
        json!({"serin": {"offVariant": "off", "schedule": [{"from": "2026-01-01T00:00:00Z", "percentage": 10}]}}),
        json!({"state": "DISABLED"}),
    ] {
        let mut world = World::new();
        let mut some = serde_json::to_value(flag("ENABLED")).unwrap();
        some.as_object_mut()
            .unwrap()
            .extend(part.as_object().unwrap().clone());
        let some = serde_json::from_value(some).unwrap();
        world.set("some", Some(some), Expects::New).unwrap();
        assert_eq!(world.release("some"), Ok(()), "{part}");
    }
}
