//! The promises of the book and of its latch.

use super::*;
use crate::Environment;
use proptest::prelude::*;

#[test]
fn targets_read_back_as_they_are_written() {
    for text in [
        "system",
        "environment:production",
        "service:tools",
        "version:tools/v2.0.0",
        "tool:tools/search",
        "tool:*/a/b",
        "tenant:acme",
        "flag:new_search",
        "flags",
    ] {
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "tools",
        "tool:",
        "tool:search",
        "version:tools",
        "flag:",
        "flag:a b",
        "environment:moon",
    ] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}

fn wish(target: &str, cause: Cause) -> Wish {
    Wish {
        target: target.parse().unwrap(),
        actor: "ops".to_owned(),
        reason: "because".to_owned(),
        cause,
        priority: Priority::High,
        grace_seconds: 30,
    }
}

fn revival(target: &str, seen: u64) -> Revival {
    Revival {
        target: target.parse().unwrap(),
        seen,
        actor: "ops".to_owned(),
        reason: "mended".to_owned(),
        cause: Cause::Manual,
    }
}

fn book(targets: &[&str]) -> Kills {
    let mut book = Kills::default();
    for target in targets {
        let kill = book.kill(wish(target, Cause::Manual), Timestamp::UNIX_EPOCH);
        assert!(book.take(kill.unwrap().unwrap()));
    }
    book
}

#[test]
fn a_kill_needs_who_and_why_and_is_bounded() {
    let book = Kills::default();
    let at = Timestamp::UNIX_EPOCH;
    let fine = || wish("system", Cause::Manual);
    let long = |chars: usize| "é".repeat(chars);
    for (wrong, want) in [
        (
            Wish {
                actor: " ".into(),
                ..fine()
            },
            "answers for them",
        ),
        (
            Wish {
                reason: "\t".into(),
                ..fine()
            },
            "needs a reason",
        ),
        (
            Wish {
                actor: long(ACTOR_CHARS_MAX + 1),
                ..fine()
            },
            "101 characters",
        ),
        (
            Wish {
                reason: long(REASON_CHARS_MAX + 1),
                ..fine()
            },
            "501 characters",
        ),
        (
            Wish {
                grace_seconds: GRACE_SECONDS_MAX + 1,
                ..fine()
            },
            "3601 seconds",
        ),
    ] {
        let error = book.kill(wrong, at).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.is_invalid() && !error.help().is_empty(), "{error}");
    }
    let most = Wish {
        actor: long(ACTOR_CHARS_MAX),
        reason: long(REASON_CHARS_MAX),
        grace_seconds: GRACE_SECONDS_MAX,
        ..fine()
    };
    assert!(book.kill(most, at).is_ok());
    let odd = Wish {
        reason: " two\nlines\u{1b}[2J ".into(),
        ..fine()
    };
    let kill = book.kill(odd, at).unwrap().unwrap();
    assert_eq!(kill.reason, "two lines [2J");
}

#[test]
fn a_revival_needs_the_revision_that_is_there() {
    let at = Timestamp::UNIX_EPOCH;
    let mut book = book(&["service:tools", "flags"]);
    assert_eq!(book.get(&Target::Flags).unwrap().generation, 2);
    for (wrong, want) in [
        (revival("flags", 1), "at revision 2, not 1"),
        (revival("flags", 3), "at revision 2, not 3"),
        (revival("tenant:acme", 0), "not killed"),
        (
            Revival {
                reason: String::new(),
                ..revival("flags", 2)
            },
            "needs a reason",
        ),
    ] {
        let error = book.revive(wrong, at).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(!error.help().is_empty());
    }
    let revived = book.revive(revival("flags", 2), at).unwrap();
    assert!(book.take(revived.clone()));
    assert!(!book.latch().stops_flags(None, Environment::Production));
    assert_eq!(
        book.revive(revival("flags", 3), at),
        Err(KillError::NotKilled(Target::Flags))
    );
    // Somebody who killed it at the same moment wins.
    let mut other = book.get(&Target::Flags).unwrap().clone();
    other.position = Position::Killed;
    assert!(book.take(other) && !book.take(revived));
}

#[test]
fn a_switch_touches_only_what_it_killed() {
    let at = Timestamp::UNIX_EPOCH;
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let mut book = book(&["system"]);
    let by_a = || wish("system", Cause::Switch(a.clone()));
    assert_eq!(book.kill(by_a(), at), Ok(None), "a person has killed it");
    assert!(
        book.shift(
            &Target::System,
            &a,
            (Position::Revived, 0),
            "well".into(),
            at
        )
        .is_err()
    );
    let revive_by_a = |seen| Revival {
        cause: Cause::Switch(a.clone()),
        ..revival("system", seen)
    };
    assert!(matches!(
        book.revive(revive_by_a(1), at),
        Err(KillError::NotOurs { .. })
    ));
    book.take(book.revive(revival("system", 1), at).unwrap());

    book.take(book.kill(by_a(), at).unwrap().unwrap());
    assert_eq!(
        book.kill(wish("system", Cause::Switch(b.clone())), at),
        Ok(None)
    );
    let probing = (Position::Probing { one_in: 10 }, 1);
    assert!(
        book.shift(&Target::System, &b, probing, "try".into(), at)
            .is_err()
    );
    book.take(
        book.shift(&Target::System, &a, probing, "try".into(), at)
            .unwrap(),
    );
    let stop = *book
        .latch()
        .stops_service(Environment::Test, "tools", None)
        .unwrap();
    assert_eq!(stop.one_in, Some(10));
    // A person who kills it too takes it over.
    book.take(
        book.kill(wish("system", Cause::Manual), at)
            .unwrap()
            .unwrap(),
    );
    let now = book.get(&Target::System).unwrap().generation;
    assert!(matches!(
        book.revive(revive_by_a(now), at),
        Err(KillError::NotOurs { .. })
    ));
    assert!(book.revive(revival("system", now), at).is_ok());
}

#[test]
fn what_relapses_has_used_up_its_attempts() {
    let cause = Cause::Switch("s".into());
    let mut book = Kills::default();
    let mut at = Timestamp::UNIX_EPOCH;
    let kill = |book: &mut Kills, at| {
        book.take(
            book.kill(wish("system", cause.clone()), at)
                .unwrap()
                .unwrap(),
        );
        book.get(&Target::System).unwrap().clone()
    };
    let revive = |book: &mut Kills, cause: Cause, at| {
        let seen = book.get(&Target::System).unwrap().generation;
        book.take(
            book.revive(
                Revival {
                    cause,
                    ..revival("system", seen)
                },
                at,
            )
            .unwrap(),
        );
    };
    assert_eq!(kill(&mut book, at).attempts, 0);
    let probing = (Position::Probing { one_in: 2 }, 1);
    book.take(
        book.shift(&Target::System, &"s".into(), probing, "try".into(), at)
            .unwrap(),
    );
    revive(&mut book, cause.clone(), at);
    at += RELAPSE - SignedDuration::from_secs(1);
    assert_eq!(
        kill(&mut book, at).attempts,
        1,
        "it came back and broke again"
    );
    revive(&mut book, cause.clone(), at);
    at += RELAPSE;
    assert_eq!(kill(&mut book, at).attempts, 0, "that is another time");
    book.take(
        book.shift(&Target::System, &"s".into(), probing, "try".into(), at)
            .unwrap(),
    );
    revive(&mut book, Cause::Manual, at);
    assert_eq!(
        kill(&mut book, at).attempts,
        0,
        "a person says that it is mended"
    );
}

#[test]
fn switches_that_take_turns_use_up_the_same_attempts() {
    let mut book = Kills::default();
    let at = Timestamp::UNIX_EPOCH;
    for attempt in 1..5 {
        // One kills what the other one tries, and tries it itself then.
        let switch: std::sync::Arc<str> = if attempt % 2 == 0 { "a" } else { "b" }.into();
        let wish = wish("system", Cause::Switch(switch.clone()));
        book.take(book.kill(wish, at).unwrap().unwrap());
        let before = book.get(&Target::System).unwrap().attempts;
        assert_eq!(before, attempt - 1);
        let probing = (Position::Probing { one_in: 2 }, before + 1);
        let tries = book.shift(&Target::System, &switch, probing, "try".into(), at);
        book.take(tries.unwrap());
    }
}

#[test]
fn a_full_book_drops_what_was_revived_and_refuses_nothing_broad() {
    let at = Timestamp::UNIX_EPOCH;
    let names: Vec<_> = (0..RECORDS_MAX).map(|n| format!("tool:a/{n}")).collect();
    let mut book = book(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let one_more = || wish("tool:a/more", Cause::Manual);
    assert_eq!(book.kill(one_more(), at), Err(KillError::Full));
    assert!(book.kill(wish("system", Cause::Manual), at).is_ok());
    for n in [5, 3] {
        book.take(book.revive(revival(&names[n], n as u64 + 1), at).unwrap());
    }
    let generation = book.generation();
    book.take(book.kill(one_more(), at).unwrap().unwrap());
    book.trim();
    assert_eq!(book.iter().count(), RECORDS_MAX);
    assert_eq!(book.generation(), generation + 1);
    assert!(
        book.get(&names[5].parse().unwrap()).is_none(),
        "it was revived first"
    );
    assert!(book.get(&names[3].parse().unwrap()).is_some());
    assert_eq!(book.active().count(), RECORDS_MAX - 1);
}

fn targets() -> impl Strategy<Value = Target> {
    let texts = [
        "system",
        "flags",
        "environment:test",
        "environment:production",
        "service:a",
        "service:b",
        "version:a/v1",
        "version:a/v2",
        "tool:a/x",
        "tool:b/x",
        "tool:*/x",
        "tool:*/y",
        "tenant:t",
        "tenant:u",
        "flag:f",
        "flag:g",
    ];
    proptest::sample::select(texts.map(|text| text.parse().unwrap()).to_vec())
}

fn records() -> impl Strategy<Value = Kill> {
    let position = prop_oneof![
        Just(Position::Killed),
        Just(Position::Revived),
        (1..4u32).prop_map(|one_in| Position::Probing { one_in }),
    ];
    let cause = prop_oneof![
        Just(Cause::Manual),
        Just(Cause::BreakGlass),
        Just(Cause::Switch("s".into()))
    ];
    (targets(), 1..4u64, position, cause, 0..3i64, "[ab]", "[ab]").prop_map(
        |(target, generation, position, cause, at, actor, reason)| Kill {
            target,
            generation,
            position,
            at: Timestamp::from_second(at).unwrap(),
            actor,
            reason,
            cause,
            priority: Priority::Low,
            grace_seconds: 0,
            attempts: 0,
        },
    )
}

fn books() -> impl Strategy<Value = Kills> {
    proptest::collection::vec(records(), 0..12).prop_map(|records| {
        let mut book = Kills::default();
        for record in records {
            book.take(record);
        }
        book
    })
}

fn merged(a: &Kills, b: &Kills) -> Kills {
    let mut a = a.clone();
    a.merge(b);
    a
}

proptest! {
    #[test]
    fn books_merge_in_any_order(a in books(), b in books(), c in books()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a);
    }

    #[test]
    fn a_tie_means_killed(a in books(), b in books()) {
        for kill in merged(&a, &b).iter() {
            let both = [a.get(&kill.target), b.get(&kill.target)].into_iter().flatten();
            let highest = both.clone().map(|kill| kill.generation).max();
            let mut tied = both.filter(|kill| Some(kill.generation) == highest);
            let is_killed = tied.any(|kill| kill.position == Position::Killed);
            prop_assert_eq!(kill.position == Position::Killed, is_killed);
        }
    }

    #[test]
    fn trimming_leaves_a_small_book_alone(book in books()) {
        let mut trimmed = book.clone();
        trimmed.trim();
        prop_assert_eq!(trimmed, book);
    }

    /// The latch answers as somebody would who reads the book from front to back.
    #[test]
    fn the_latch_says_what_the_book_says(
        book in books(),
        environment in proptest::sample::select(Environment::ALL.to_vec()),
        service in "[abc]", version in "v[12]", tool in "[xyz]",
        tenant in proptest::option::of("[tuv]"), flag in "[fgh]",
    ) {
        let latch = book.latch();
        // Of several stops the strictest counts.
        let one_in = |texts: &[String]| {
            let matching = book.active().filter(|kill| texts.contains(&kill.target.to_string()));
            let let_through = matching.map(|kill| match kill.position {
                Position::Probing { one_in } => one_in,
                _ => u32::MAX,
            });
            let_through.max()
        };
        let of_stop = |stop: Option<&Stop>| stop.map(|stop| stop.one_in.unwrap_or(u32::MAX));
        let stops = |texts: &[String]| {
            let mut stopped = book.active().filter(|kill| {
                let is_flag = matches!(kill.target, Target::Flag(_) | Target::Flags);
                kill.position == Position::Killed || !is_flag
            });
            stopped.any(|kill| texts.contains(&kill.target.to_string()))
        };
        let mut of_service = vec!["system".to_owned(), format!("environment:{environment}"), format!("service:{service}")];
        let mut of_flags = vec!["system".to_owned(), format!("environment:{environment}"), "flags".to_owned()];
        if let Some(tenant) = &tenant {
            of_service.push(format!("tenant:{tenant}"));
            of_flags.push(format!("tenant:{tenant}"));
        }
        let tenant = tenant.as_deref();
        prop_assert_eq!(latch.is_open(), book.active().count() == 0);
        prop_assert_eq!(latch.stops_service(environment, &service, tenant).is_some(), stops(&of_service));
        prop_assert_eq!(latch.stops_flags(tenant, environment), stops(&of_flags));
        prop_assert_eq!(latch.stops_flag(&flag), stops(&[format!("flag:{flag}")]));
        prop_assert_eq!(latch.stops_version(&service, &version).is_some(), stops(&[format!("version:{service}/{version}")]));
        let of_tool = [format!("tool:{service}/{tool}"), format!("tool:*/{tool}")];
        prop_assert_eq!(latch.stops_tool(&service, &tool).is_some(), stops(&of_tool));
        prop_assert_eq!(of_stop(latch.stops_tool(&service, &tool)), one_in(&of_tool));
        prop_assert_eq!(of_stop(latch.stops_service(environment, &service, tenant)), one_in(&of_service));
        prop_assert!(latch.stops_tool(&service, &tool).is_none() || latch.stops_tools_of(&service));
    }
}
