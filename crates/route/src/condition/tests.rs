//! Matchers and what they say of each other, beside an evaluator that does as the words say and nothing else.

use super::*;
use http::{HeaderName, HeaderValue, header};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// A request before it was written down.
#[derive(Clone, Debug)]
struct Sample {
    headers: Vec<(&'static str, &'static str)>,
    cookies: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
    path: &'static str,
    method: &'static str,
    host: &'static str,
    tenant: Option<&'static str>,
    role: Option<&'static str>,
    tools: Vec<&'static str>,
    address: IpAddr,
}

/// Around the length to which an index looks at them.
const LONG: [&str; 10] = [
    "a",
    "b",
    "",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaa",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaa",
    "AAAAaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaa",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaa",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaab",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaabb",
    "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaBb",
];
/// Few texts, so that they meet.
const TEXTS: [&str; 8] = ["", "a", "A", "ab", "aB", "b", "bab", "ä"];
const PATHS: [&str; 5] = ["", "/", "/a", "/a/b", "/b"];
const METHODS: [&str; 3] = ["GET", "POST", "get"];
const HOSTS: [&str; 3] = ["a", "A.b", "b"];
const NAMES: [&str; 2] = ["x-a", "b"];
const REGEXES: [&str; 7] = ["a.*", "[ab]+", "(?i)AB", "a|b", "", ".", "/a(/.*)?"];
const NETS: [&str; 6] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "0.0.0.0/0",
    "fd00::/8",
    "::/0",
];
const ADDRESSES: [&str; 5] = [
    "10.1.2.3",
    "10.2.0.0",
    "127.0.0.1",
    "fd00::1",
    "::ffff:10.1.2.3",
];

impl Sample {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        // In two lines, as HTTP/2 allows.
        for pairs in self.cookies.chunks(2) {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            headers.append(
                header::COOKIE,
                HeaderValue::from_str(&pairs.join("; ")).unwrap(),
            );
        }
        headers
    }

    fn query(&self) -> Option<String> {
        let pairs = self.query.iter().map(|(name, value)| {
            let bytes = value.bytes();
            bytes.fold(format!("{name}="), |pair, byte| {
                pair + &format!("%{byte:02x}")
            })
        });
        let pairs: Vec<_> = pairs.collect();
        (!pairs.is_empty()).then(|| pairs.join("&"))
    }

    fn ask<T>(&self, ask: impl Fn(&Request<'_>) -> T) -> T {
        ask(&Request {
            headers: &self.headers(),
            method: self.method,
            host: self.host,
            path: self.path,
            query: self.query().as_deref(),
            tenant: self.tenant,
            role: self.role,
            tools: &self.tools,
            address: self.address,
        })
    }
}

/// Whether a condition holds, by its words.
fn naive(condition: &Condition, sample: &Sample) -> bool {
    let of = |pairs: &[(&'static str, &'static str)], test: &Test| {
        let name = test.name.clone().unwrap();
        let values = pairs
            .iter()
            .filter(|(own, _)| *own == name)
            .map(|(_, value)| *value);
        values.collect::<Vec<_>>()
    };
    match condition {
        Condition::All(parts) => parts.iter().all(|part| naive(part, sample)),
        Condition::Any(parts) => parts.iter().any(|part| naive(part, sample)),
        Condition::Not(part) => !naive(part, sample),
        Condition::Header(test) => test_naively(test, &of(&sample.headers, test)),
        Condition::Cookie(test) => {
            let values = of(&sample.cookies, test);
            test_naively(test, values.get(..1).unwrap_or_default())
        }
        Condition::Query(test) => test_naively(test, &of(&sample.query, test)),
        Condition::Path(test) => test_naively(test, &[sample.path]),
        Condition::Method(test) => {
            let test = Test {
                ignore_case: false,
                ..test.clone()
            };
            test_naively(&test, &[sample.method])
        }
        Condition::Host(test) => {
            let test = Test {
                ignore_case: true,
                ..test.clone()
            };
            test_naively(&test, &[sample.host])
        }
        Condition::Tenant(test) => test_naively(test, sample.tenant.as_slice()),
        Condition::Role(test) => test_naively(test, sample.role.as_slice()),
        Condition::Tool(test) => test_naively(test, &sample.tools),
        Condition::Address { within } => {
            let address = sample.address.to_canonical();
            within.iter().any(|net| net.contains(&address))
        }
    }
}

fn test_naively(test: &Test, values: &[&str]) -> bool {
    if let Some(present) = test.present {
        return present != values.is_empty();
    }
    let fold = |text: &str| {
        if test.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    values.iter().any(|value| {
        let (value, folded) = (*value, fold(value));
        if let Some(text) = &test.equals {
            folded == fold(text)
        } else if let Some(text) = &test.prefix {
            folded.starts_with(&fold(text))
        } else if let Some(text) = &test.suffix {
            folded.ends_with(&fold(text))
        } else if let Some(text) = &test.matches {
            let whole = regex::bytes::RegexBuilder::new(&format!("^(?:{text})$"));
            let mut whole = whole.clone();
            let whole = whole.unicode(false).case_insensitive(test.ignore_case);
            whole.build().unwrap().is_match(value.as_bytes())
        } else {
            test.one_of.iter().any(|text| folded == fold(text))
        }
    })
}

fn a_test(texts: &'static [&'static str], is_named: bool) -> impl Strategy<Value = Test> {
    let text = || select(texts).prop_map(str::to_owned);
    let operator = prop_oneof![
        text().prop_map(|text| Test {
            equals: Some(text),
            ..Test::default()
        }),
        text().prop_map(|text| Test {
            prefix: Some(text),
            ..Test::default()
        }),
        text().prop_map(|text| Test {
            suffix: Some(text),
            ..Test::default()
        }),
        vec(text(), 1..4).prop_map(|one_of| Test {
            one_of,
            ..Test::default()
        }),
        select(&REGEXES[..]).prop_map(|text| Test {
            matches: Some(text.to_owned()),
            ..Test::default()
        }),
        any::<bool>().prop_map(|present| Test {
            present: Some(present),
            ..Test::default()
        }),
    ];
    (operator, select(&NAMES[..]), any::<bool>()).prop_map(move |(test, name, ignore_case)| Test {
        name: is_named.then(|| name.to_owned()),
        ignore_case,
        ..test
    })
}

fn a_condition() -> impl Strategy<Value = Condition> {
    let nets = vec(select(&NETS[..]), 1..3);
    let leaf = prop_oneof![
        a_test(&TEXTS, true).prop_map(Condition::Header),
        a_test(&TEXTS, true).prop_map(Condition::Cookie),
        a_test(&TEXTS, true).prop_map(Condition::Query),
        a_test(&PATHS, false).prop_map(Condition::Path),
        a_test(&METHODS, false).prop_map(Condition::Method),
        a_test(&HOSTS, false).prop_map(Condition::Host),
        a_test(&TEXTS, false).prop_map(Condition::Tenant),
        a_test(&TEXTS, false).prop_map(Condition::Role),
        a_test(&TEXTS, false).prop_map(Condition::Tool),
        nets.prop_map(|nets| Condition::Address {
            within: nets.into_iter().map(|net| net.parse().unwrap()).collect()
        }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Condition::All),
            vec(inner.clone(), 0..4).prop_map(Condition::Any),
            inner.prop_map(|inner| Condition::Not(inner.into())),
        ]
    })
}

fn a_sample() -> impl Strategy<Value = Sample> {
    let pairs = || vec((select(&NAMES[..]), select(&TEXTS[..])), 0..4);
    let plain = (
        select(&PATHS[..]),
        select(&METHODS[..]),
        select(&HOSTS[..]),
        select(&ADDRESSES[..]),
    );
    let caller = (
        option::of(select(&TEXTS[..])),
        option::of(select(&TEXTS[..])),
        vec(select(&TEXTS[..]), 0..3),
    );
    (pairs(), pairs(), pairs(), plain, caller).prop_map(
        |(headers, cookies, query, plain, caller)| Sample {
            headers,
            cookies,
            query,
            path: plain.0,
            method: plain.1,
            host: plain.2,
            tenant: caller.0,
            role: caller.1,
            tools: caller.2,
            address: plain.3.parse().unwrap(),
        },
    )
}

proptest! {
    #[test]
    fn the_first_that_holds_is_the_first_by_the_words(conditions in vec(option::weighted(0.95, a_condition()), 0..12), sample in a_sample()) {
        let matcher = Matcher::compile(conditions.iter().map(Option::as_ref));
        let holds = |condition: &Option<Condition>| condition.as_ref().is_none_or(|condition| naive(condition, &sample));
        prop_assert_eq!(sample.ask(|request| matcher.first(request)), conditions.iter().position(holds));
        for (at, condition) in conditions.iter().enumerate() {
            prop_assert_eq!(sample.ask(|request| matcher.holds(at, request)), holds(condition), "{:?}", condition);
        }
    }

    #[test]
    fn so_it_is_of_many(picked in vec((0..LONG.len(), 0..3_usize, any::<bool>(), any::<bool>()), 0..140), value in 0..LONG.len(), path in 0..LONG.len()) {
        let conditions: Vec<_> = picked.into_iter().map(|(text, how, ignore_case, is_path)| {
            let mut test = Test { ignore_case, ..Test::default() };
            let text = LONG[text].to_owned();
            match how {
                0 => test.equals = Some(text),
                1 => test.prefix = Some(text),
                _ => test.one_of = vec![text, "another".to_owned()],
            }
            Some(if is_path { Condition::Path(test) } else { Condition::Tenant(test) })
        }).collect();
        let matcher = Matcher::compile(conditions.iter().map(Option::as_ref));
        let sample = Sample { tenant: Some(LONG[value]), path: LONG[path], ..nobody() };
        let first = conditions.iter().flatten().position(|condition| naive(condition, &sample));
        prop_assert_eq!(sample.ask(|request| matcher.first(request)), first);
    }

    #[test]
    fn nothing_is_said_of_conditions_that_a_request_shows_to_be_wrong(a in a_condition(), b in a_condition(), samples in vec(a_sample(), 60)) {
        let (a_covers, b_covers) = (covers(&a, &b), covers(&b, &a));
        let (overlap, a_never, b_never) = (may_overlap(&a, &b), never_holds(&a), never_holds(&b));
        for sample in &samples {
            let (a_holds, b_holds) = (naive(&a, sample), naive(&b, sample));
            prop_assert!(!(a_covers && b_holds && !a_holds), "{sample:?}");
            prop_assert!(!(b_covers && a_holds && !b_holds), "{sample:?}");
            prop_assert!(overlap || !(a_holds && b_holds), "{sample:?}");
            prop_assert!(!(a_never && a_holds || b_never && b_holds), "{sample:?}");
        }
        prop_assert!(covers(&a, &a) && (b_never || may_overlap(&b, &b)));
    }

    /// One input at a time meets itself more often.
    #[test]
    fn of_one_input_too(a in a_test(&TEXTS, false), b in a_test(&TEXTS, false), c in a_test(&TEXTS, false), several: bool, samples in vec(a_sample(), 40)) {
        let of = if several { Condition::Tool } else { Condition::Tenant };
        let a = Condition::Any(vec![of(a), Condition::Not(of(c).into())]);
        let b = of(b);
        let (covered, overlap) = (covers(&a, &b), may_overlap(&a, &b));
        for sample in &samples {
            let (a_holds, b_holds) = (naive(&a, sample), naive(&b, sample));
            prop_assert!(!(covered && b_holds && !a_holds), "{sample:?}");
            prop_assert!(overlap || !(a_holds && b_holds), "{sample:?}");
        }
    }

    #[test]
    fn what_has_no_problems_is_understood(condition in a_condition()) {
        let matcher = Matcher::compile([Some(&condition)]);
        prop_assert!(matcher.conditions[0].is_some());
        prop_assert!(condition_reads_back(&condition));
    }
}

fn condition_reads_back(condition: &Condition) -> bool {
    let json = serde_json::to_value(condition).unwrap();
    serde_json::from_value::<Condition>(json).unwrap() == *condition
}

fn read(json: &str) -> Condition {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn what_two_conditions_say_of_each_other_is_seen() {
    // The wider one, the narrower one, whether that is so.
    for (wide, narrow, want) in [
        (
            r#"{"tenant":{"one_of":["a","b"]}}"#,
            r#"{"tenant":{"equals":"a"}}"#,
            true,
        ),
        (
            r#"{"tenant":{"equals":"a"}}"#,
            r#"{"tenant":{"one_of":["a","b"]}}"#,
            false,
        ),
        (
            r#"{"tenant":{"equals":"A","ignore_case":true}}"#,
            r#"{"tenant":{"equals":"a"}}"#,
            true,
        ),
        (
            r#"{"tenant":{"equals":"a"}}"#,
            r#"{"tenant":{"equals":"a","ignore_case":true}}"#,
            false,
        ),
        (
            r#"{"path":{"prefix":"/a"}}"#,
            r#"{"path":{"prefix":"/a/b"}}"#,
            true,
        ),
        (
            r#"{"path":{"suffix":".js"}}"#,
            r#"{"path":{"equals":"/x.js"}}"#,
            true,
        ),
        (
            r#"{"path":{"matches":"/[a-c]"}}"#,
            r#"{"path":{"one_of":["/a","/c"]}}"#,
            true,
        ),
        (
            r#"{"path":{"matches":"/[a-c]"}}"#,
            r#"{"path":{"one_of":["/a","/d"]}}"#,
            false,
        ),
        (
            r#"{"path":{"matches":"/x.*"}}"#,
            r#"{"path":{"matches":"/x.*"}}"#,
            true,
        ),
        (
            r#"{"address":{"within":["10.0.0.0/8"]}}"#,
            r#"{"address":{"within":["10.1.0.0/16","10.2.0.1/32"]}}"#,
            true,
        ),
        (
            r#"{"address":{"within":["10.1.0.0/16"]}}"#,
            r#"{"address":{"within":["10.0.0.0/8"]}}"#,
            false,
        ),
        (
            r#"{"header":{"name":"X-A","present":true}}"#,
            r#"{"header":{"name":"x-a","prefix":"b"}}"#,
            true,
        ),
        (
            r#"{"header":{"name":"x-a","equals":"a"}}"#,
            r#"{"all":[{"header":{"name":"x-a","equals":"a"}},{"method":{"equals":"GET"}}]}"#,
            true,
        ),
        (
            r#"{"any":[{"tenant":{"equals":"a"}},{"tenant":{"equals":"b"}}]}"#,
            r#"{"tenant":{"equals":"b"}}"#,
            true,
        ),
        (
            r#"{"not":{"tenant":{"equals":"a"}}}"#,
            r#"{"tenant":{"equals":"b"}}"#,
            true,
        ),
        // Of tools there may be several: one that is `b` does not mean that none is `a`.
        (
            r#"{"not":{"tool":{"equals":"a"}}}"#,
            r#"{"tool":{"equals":"b"}}"#,
            false,
        ),
        (r#"{"all":[]}"#, r#"{"tool":{"equals":"b"}}"#, true),
    ] {
        assert_eq!(covers(&read(wide), &read(narrow)), want, "{wide} {narrow}");
    }
    for (a, b, want) in [
        (
            r#"{"tenant":{"equals":"a"}}"#,
            r#"{"tenant":{"equals":"b"}}"#,
            false,
        ),
        (
            r#"{"header":{"name":"x","equals":"a"}}"#,
            r#"{"header":{"name":"x","equals":"b"}}"#,
            true,
        ),
        (
            r#"{"cookie":{"name":"x","equals":"a"}}"#,
            r#"{"cookie":{"name":"x","equals":"b"}}"#,
            false,
        ),
        (
            r#"{"cookie":{"name":"x","equals":"a"}}"#,
            r#"{"cookie":{"name":"y","equals":"b"}}"#,
            true,
        ),
        (
            r#"{"cookie":{"name":"x","present":false}}"#,
            r#"{"cookie":{"name":"x","suffix":"b"}}"#,
            false,
        ),
        (
            r#"{"path":{"prefix":"/a"}}"#,
            r#"{"path":{"prefix":"/b"}}"#,
            false,
        ),
        (
            r#"{"path":{"prefix":"/a"}}"#,
            r#"{"path":{"suffix":"b"}}"#,
            true,
        ),
        (
            r#"{"host":{"equals":"A"}}"#,
            r#"{"host":{"equals":"a"}}"#,
            true,
        ),
        (
            r#"{"method":{"equals":"POST"}}"#,
            r#"{"method":{"equals":"GET"}}"#,
            false,
        ),
        (
            r#"{"address":{"within":["10.0.0.0/8"]}}"#,
            r#"{"address":{"within":["11.0.0.0/8","::/0"]}}"#,
            false,
        ),
        (
            r#"{"path":{"matches":"/x.*"}}"#,
            r#"{"path":{"matches":"/y.*"}}"#,
            true,
        ),
        (
            r#"{"path":{"matches":"/x.*"}}"#,
            r#"{"path":{"equals":"/y"}}"#,
            false,
        ),
        (
            r#"{"any":[{"tenant":{"equals":"a"}},{"role":{"equals":"user"}}]}"#,
            r#"{"all":[{"tenant":{"equals":"b"}},{"role":{"equals":"admin"}}]}"#,
            false,
        ),
    ] {
        assert_eq!(may_overlap(&read(a), &read(b)), want, "{a} {b}");
        assert_eq!(may_overlap(&read(b), &read(a)), want, "{b} {a}");
    }
    for (never, want) in [
        (r#"{"any":[]}"#, true),
        (
            r#"{"all":[{"tenant":{"equals":"a"}},{"tenant":{"equals":"b"}}]}"#,
            true,
        ),
        (
            r#"{"all":[{"tenant":{"equals":"a"}},{"not":{"tenant":{"present":true}}}]}"#,
            true,
        ),
        (r#"{"method":{"present":false}}"#, true),
        (r#"{"not":{"path":{"present":true}}}"#, true),
        (
            r#"{"all":[{"header":{"name":"a","equals":"a"}},{"not":{"header":{"name":"a","prefix":"a"}}}]}"#,
            true,
        ),
        (
            r#"{"all":[{"header":{"name":"a","equals":"a"}},{"header":{"name":"a","equals":"b"}}]}"#,
            false,
        ),
        (r#"{"tenant":{"equals":"a"}}"#, false),
    ] {
        assert_eq!(never_holds(&read(never)), want, "{never}");
    }
}

#[test]
fn comparing_conditions_ends_in_time() {
    let choices = |n: usize| {
        let any = (0..n).map(|n| {
            Condition::Tool(Test {
                equals: Some(n.to_string()),
                ..Test::default()
            })
        });
        Condition::Any(any.collect())
    };
    let wide = Condition::All((1..30).map(choices).collect());
    // What would take as many steps as there are atoms is taken for possible.
    assert!(
        !covers(&wide, &Condition::All(vec![wide.clone(), choices(2)]))
            || may_overlap(&wide, &wide)
    );
    assert!(may_overlap(&wide, &wide) && !never_holds(&wide));
}

#[test]
fn expressions_describe_the_whole_of_a_text_and_are_bounded() {
    let holds = |pattern: &str, value: &'static str| {
        let test = Test {
            matches: Some(pattern.to_owned()),
            ..Test::default()
        };
        let matcher = Matcher::compile([Some(&Condition::Tenant(test))]);
        let sample = Sample {
            tenant: Some(value),
            ..nobody()
        };
        sample.ask(|request| matcher.first(request)).is_some()
    };
    for (pattern, value, want) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a", "ba", false),
        ("a|b", "ab", false),
        ("a|ab", "ab", true),
        ("a\n", "a\n", true),
        ("a", "a\n", false),
        (".*", "a\nb", false),
        ("(?s).*", "a\nb", true),
        ("(?x) a # all of it", "a", false),
        ("", "", true),
    ] {
        assert_eq!(holds(pattern, value), want, "{pattern:?} {value:?}");
    }
    for (pattern, want) in [
        (r"[\w.-]{1,64}@example\.com", None),
        (r"v\d+\.\d+\.\d+(-rc\.\d+)?", None),
        (r"(?u)\w{1,1000}", Some("too large once it is compiled")),
        (
            r"((a{1,100}){1,100}){1,100}",
            Some("too large once it is compiled"),
        ),
        (r"a)|(b", Some("unopened group")),
        (r"(a", Some("unclosed group")),
        (r"(?=a)", Some("look-around")),
        (r"(a)\1", Some("backreferences are not supported")),
        (
            &format!("{}a{}", "(".repeat(500), ")".repeat(500)),
            Some("nest"),
        ),
        (&"a".repeat(TEXT_BYTES_MAX + 1), Some("too long")),
    ] {
        let condition = Condition::Tenant(Test {
            matches: Some(pattern.to_owned()),
            ..Test::default()
        });
        let found = problems(&condition, "when");
        match want {
            None => assert_eq!(found, [], "{pattern}"),
            Some(want) => {
                assert_eq!(found[0].at, "when.tenant.matches");
                assert!(found[0].what.contains(want), "{pattern}: {found:?}");
            }
        }
    }
}

fn nobody() -> Sample {
    Sample {
        headers: vec![],
        cookies: vec![],
        query: vec![],
        path: "",
        method: "GET",
        host: "a",
        tenant: None,
        role: None,
        tools: vec![],
        address: [127, 0, 0, 1].into(),
    }
}

#[test]
fn cookies_and_queries_are_read_as_they_are_sent() {
    let ask = |json: &str, cookie: &str, query: &str| {
        let matcher = Matcher::compile([Some(&read(json))]);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookie.parse().unwrap());
        let request = Request {
            headers: &headers,
            method: "GET",
            host: "a",
            path: "",
            query: Some(query),
            tenant: None,
            role: None,
            tools: &[],
            address: [127, 0, 0, 1].into(),
        };
        matcher.first(&request).is_some()
    };
    for (cookie, want) in [
        ("b=1", true),
        ("a=1; b=1;c", true),
        ("a=1;b=1", true),
        (" b = 1 ", true),
        ("b=2; b=1", false),
        ("b=1; b=2", true),
        ("B=1", false),
        ("b", false),
        ("b=\"1\"", false),
        ("xb=1", false),
        (";;=;b=1", true),
    ] {
        assert_eq!(
            ask(r#"{"cookie":{"name":"b","equals":"1"}}"#, cookie, ""),
            want,
            "{cookie}"
        );
    }
    for (query, want) in [
        ("q=a%20b", true),
        ("q=a+b", true),
        ("%71=a+b", true),
        ("q=x&q=a+b", true),
        ("q=a%2Bb", false),
        ("q", false),
        ("Q=a+b", false),
        ("&&q=a+b&", true),
        ("q=%zz", false),
    ] {
        assert_eq!(
            ask(r#"{"query":{"name":"q","equals":"a b"}}"#, "", query),
            want,
            "{query}"
        );
    }
}

#[test]
fn values_that_are_no_text_are_compared_by_their_bytes() {
    let matcher = |json: &str| Matcher::compile([Some(&read(json))]);
    let mut headers = HeaderMap::new();
    headers.insert("x", HeaderValue::from_bytes(b"a\xff").unwrap());
    let request = Request {
        headers: &headers,
        ..plain(&headers)
    };
    assert!(
        matcher(r#"{"header":{"name":"x","prefix":"a"}}"#)
            .first(&request)
            .is_some()
    );
    assert!(
        matcher(r#"{"header":{"name":"x","matches":"(?u).*"}}"#)
            .first(&request)
            .is_none()
    );
    assert!(
        matcher(r#"{"header":{"name":"x","matches":".*"}}"#)
            .first(&request)
            .is_some()
    );
}

fn plain(headers: &HeaderMap) -> Request<'_> {
    Request {
        headers,
        method: "GET",
        host: "a",
        path: "",
        query: None,
        tenant: None,
        role: None,
        tools: &[],
        address: [127, 0, 0, 1].into(),
    }
}

#[test]
fn what_is_wrong_with_a_condition_is_said_where_it_stands() {
    let many = |n: usize| vec![r#"{"tenant":{"equals":"a"}}"#; n].join(",");
    let texts = (0..=TEXTS_MAX)
        .map(|n| format!("\"{n}\""))
        .collect::<Vec<_>>()
        .join(",");
    let nets = (0..=NETS_MAX)
        .map(|n| format!("\"10.0.{}.{}/32\"", n / 256, n % 256))
        .collect::<Vec<_>>()
        .join(",");
    let deep = (0..DEPTH_MAX).fold(r#"{"tenant":{"equals":"a"}}"#.to_owned(), |inner, _| {
        format!(r#"{{"not":{inner}}}"#)
    });
    for (json, at, what) in [
        (
            r#"{"all":[]}"#.to_owned(),
            "when.all",
            "there is no condition here",
        ),
        (
            r#"{"tenant":{}}"#.to_owned(),
            "when.tenant",
            "nothing is asked",
        ),
        (
            r#"{"any":[{"tenant":{"equals":"a","prefix":"b"}}]}"#.to_owned(),
            "when.any[0].tenant",
            "`equals` and `prefix` stand in one test",
        ),
        (
            r#"{"not":{"header":{"equals":"a"}}}"#.to_owned(),
            "when.not.header",
            "a header without a name",
        ),
        (
            r#"{"cookie":{"equals":"a"}}"#.to_owned(),
            "when.cookie",
            "a cookie without a name",
        ),
        (
            r#"{"query":{"present":true}}"#.to_owned(),
            "when.query",
            "a parameter without a name",
        ),
        (
            r#"{"header":{"name":"a b","equals":"a"}}"#.to_owned(),
            "when.header.name",
            "`a b` is not the name of a header",
        ),
        (
            r#"{"cookie":{"name":"a=b","equals":"a"}}"#.to_owned(),
            "when.cookie.name",
            "`a=b` is not the name of a cookie",
        ),
        (
            r#"{"cookie":{"name":"","equals":"a"}}"#.to_owned(),
            "when.cookie.name",
            "`` is not the name of a cookie",
        ),
        (
            r#"{"tenant":{"name":"a","equals":"a"}}"#.to_owned(),
            "when.tenant.name",
            "only headers, cookies and parameters",
        ),
        (
            r#"{"tenant":{"prefix":""}}"#.to_owned(),
            "when.tenant.prefix",
            "every text has an empty `prefix`",
        ),
        (
            r#"{"path":{"prefix":"old"}}"#.to_owned(),
            "when.path.prefix",
            "no path begins like `old`",
        ),
        (
            r#"{"path":{"one_of":["/a","b"]}}"#.to_owned(),
            "when.path.one_of[1]",
            "no path begins like `b`",
        ),
        (
            r#"{"path":{"present":true}}"#.to_owned(),
            "when.path.present",
            "every request has one",
        ),
        (
            r#"{"method":{"equals":"post"}}"#.to_owned(),
            "when.method.equals",
            "`post` is not the method",
        ),
        (
            r#"{"method":{"equals":"A B"}}"#.to_owned(),
            "when.method.equals",
            "`A B` is not a method",
        ),
        (
            r#"{"host":{"equals":"a:80"}}"#.to_owned(),
            "when.host.equals",
            "`a:80` is never a host",
        ),
        (
            r#"{"host":{"equals":"http://a"}}"#.to_owned(),
            "when.host.equals",
            "is never a host",
        ),
        (
            r#"{"host":{"equals":"a","ignore_case":true}}"#.to_owned(),
            "when.host.ignore_case",
            "changes nothing",
        ),
        (
            r#"{"tenant":{"one_of":["a","a"]}}"#.to_owned(),
            "when.tenant.one_of[1]",
            "`a` is here twice",
        ),
        (
            r#"{"address":{"within":[]}}"#.to_owned(),
            "when.address.within",
            "no range of addresses",
        ),
        (
            r#"{"address":{"within":["::ffff:10.0.0.0/104"]}}"#.to_owned(),
            "when.address.within[0]",
            "addresses of IPv4",
        ),
        (
            r#"{"address":{"within":["10.0.0.0/8","10.0.0.0/8"]}}"#.to_owned(),
            "when.address.within[1]",
            "is here twice",
        ),
        (
            r#"{"tenant":{"matches":"[a"}}"#.to_owned(),
            "when.tenant.matches",
            "not a regular expression: unclosed character class",
        ),
        (
            format!(r#"{{"all":[{}]}}"#, many(PARTS_MAX)),
            "when",
            "a condition of 65 parts",
        ),
        (
            format!(r#"{{"tenant":{{"one_of":[{texts}]}}}}"#),
            "when.tenant.one_of",
            "1001 texts are too many",
        ),
        (
            format!(r#"{{"address":{{"within":[{nets}]}}}}"#),
            "when.address.within",
            "257 ranges are too many",
        ),
        (
            format!(
                r#"{{"tenant":{{"equals":"{}"}}}}"#,
                "a".repeat(TEXT_BYTES_MAX + 1)
            ),
            "when.tenant.equals",
            "too long",
        ),
        (
            deep,
            "when.not.not.not.not.not.not.not.not",
            "nested too deep",
        ),
    ] {
        let found = problems(&read(&json), "when");
        let [only] = found.as_slice() else {
            panic!("{json}: {found:?}")
        };
        assert_eq!(only.at, at, "{json}");
        assert!(
            only.what.contains(what) && !only.help.is_empty(),
            "{json}: {only:?}"
        );
    }
    for json in [
        r#"{"host":{"equals":"[::1]"}}"#,
        r#"{"path":{"equals":""}}"#,
        r#"{"query":{"name":"a b[]","equals":""}}"#,
        r#"{"header":{"name":"X-Beta-User","equals":"true","ignore_case":true}}"#,
        r#"{"address":{"within":["10.0.0.0/8","fd00::/8","::/0"]}}"#,
    ] {
        assert_eq!(problems(&read(json), "when"), [], "{json}");
    }
}
