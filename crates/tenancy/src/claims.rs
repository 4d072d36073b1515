//! Claims of a token that was verified: whose it is, what for, and until when.

use crate::{
    directory::Denial,
    role::Role,
    scope::{SCOPES_MAX, Scope, Scopes},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use serin_flags::TenantId;
use std::sync::Arc;

/// How far the clocks of a provider and the gateway may be apart.
pub const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// Longest subject, in bytes.
const SUBJECT_BYTES_MAX: usize = 255;
/// What scopes of ours begin with; others are for somebody else.
const KINDS: [&str; 4] = ["service:", "tool:", "category:", "admin:"];

/// What the claims of a service's tokens must be and where they stand.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// One of `aud`.
    pub audience: &'a str,
    /// The claim with the tenant.
    pub tenant: &'a str,
    /// The claim with the scopes.
    pub scope: &'a str,
    /// The claim with the role.
    pub role: &'a str,
}

/// What claims say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The customer.
    pub tenant: TenantId,
    /// Who of it.
    pub subject: Arc<str>,
    /// What for.
    pub role: Role,
    /// What they reach.
    pub scopes: Scopes,
    /// When it ends, leeway included.
    pub until: Timestamp,
}

/// Claims open nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// As it is counted.
    pub denial: Denial,
    /// Which of them, for whoever runs the gateway.
    pub why: &'static str,
    /// What they say all the same, where only their time is over.
    pub claimed: Option<Box<Claimed>>,
}

/// One of them is not what it must be.
const fn unfit(why: &'static str) -> Unfit {
    Unfit {
        denial: Denial::Unknown,
        why,
        claimed: None,
    }
}

/// Reads claims.
///
/// A tenant, a subject and an end must be there. Without the claim of scopes they reach what a key without scopes does; where it is there,
/// what its scopes of ours say, and no service where none of them is for one. One of ours that makes no sense opens nothing. Without a role it is [`Role::User`]; a role that is none of ours is
/// the least.
///
/// # Errors
/// Why they open nothing.
pub fn read(
    claims: &Map<String, Value>,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Claimed, Unfit> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(expected.issuer) {
        return Err(unfit("`iss` is not `jwt.issuer`"));
    }
    if !is_for(claims.get("aud"), expected.audience) {
        return Err(unfit("`aud` does not name `jwt.audience`"));
    }
    let until = moment(claims.get("exp")).and_then(|end| end.checked_add(LEEWAY).ok());
    let until = until.ok_or(unfit("`exp` is missing or no time"))?;
    if let Some(begins) = claims.get("nbf") {
        let begins = moment(Some(begins)).ok_or(unfit("`nbf` is no time"))?;
        if begins.duration_since(now) > LEEWAY {
            return Err(unfit("`nbf` is yet to come"));
        }
    }
    let is_plain = |subject: &&str| {
        !subject.is_empty()
            && subject.len() <= SUBJECT_BYTES_MAX
            && !subject.chars().any(char::is_control)
    };
    let subject = text("sub").filter(is_plain);
    let tenant = text(expected.tenant).and_then(|tenant| tenant.parse().ok());
    let claimed = Claimed {
        tenant: tenant.ok_or(unfit(
            "the claim of the tenant is missing or no id of a tenant",
        ))?,
        subject: subject
            .ok_or(unfit("`sub` is missing, too long or not plain text"))?
            .into(),
        role: role(claims.get(expected.role)),
        scopes: scopes(claims.get(expected.scope)).ok_or(unfit(
            "the claim of the scopes has one of ours that makes no sense, or is no list and no text",
        ))?,
        until,
    };
    if until <= now {
        return Err(Unfit {
            denial: Denial::Expired,
            why: "`exp` is over",
            claimed: Some(Box::new(claimed)),
        });
    }
    Ok(claimed)
}

/// RFC 7519, section 4.1.3: one text, or a list of them.
fn is_for(audience: Option<&Value>, wanted: &str) -> bool {
    match audience {
        Some(Value::String(audience)) => audience == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}

/// RFC 7519, section 2, "NumericDate": seconds since 1970, maybe with a fraction, which is dropped.
fn moment(value: Option<&Value>) -> Option<Timestamp> {
    let value = value?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and is then no time"
    )]
    let seconds = value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64))?;
    Timestamp::from_second(seconds).ok()
}

fn role(claim: Option<&Value>) -> Role {
    match claim {
        None | Some(Value::Null) => Role::User,
        Some(claim) => {
            let named = |role: &Role| claim.as_str() == Some(role.label());
            Role::ALL.into_iter().find(named).unwrap_or(Role::ReadOnly)
        }
    }
}

fn scopes(claim: Option<&Value>) -> Option<Scopes> {
    let texts: Vec<&str> = match claim {
        None | Some(Value::Null) => return Some(Scopes::default()),
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let ours = texts
        .into_iter()
        .filter(|text| KINDS.iter().any(|kind| text.starts_with(kind)));
    let ours: Vec<Scope> = ours.map(|text| text.parse().ok()).collect::<Option<_>>()?;
    // Who is given scopes, and none for a service, was not meant to reach them all: they may be misspelled.
    (ours.len() <= SCOPES_MAX).then(|| Scopes::new(ours).or_no_service())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const EXPECTED: Expected<'static> = Expected {
        issuer: "https://id.example",
        audience: "https://gateway.example/mcp",
        tenant: "tenant",
        scope: "scope",
        role: "role",
    };
    const NOW: i64 = 1_790_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn with(changes: &Value) -> Map<String, Value> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "https://gateway.example/mcp", "sub": "ann", "tenant": "acme", "exp": NOW + 10,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let mut claims = claims.as_object().unwrap().clone();
        claims.retain(|_, value| *value != json!("absent"));
        claims
    }

    fn read_with(changes: &Value) -> Result<Claimed, Unfit> {
        read(&with(changes), &EXPECTED, now())
    }

    #[test]
    fn claims_say_who_calls() {
        let claimed = read_with(&json!({})).unwrap();
        assert_eq!(
            (claimed.tenant.as_str(), &*claimed.subject, claimed.role),
            ("acme", "ann", Role::User)
        );
        assert!(claimed.scopes.is_empty());
        assert_eq!(claimed.until.as_second(), NOW + 70);
    }

    #[test]
    fn claims_that_are_not_for_us_or_not_whole_open_nothing() {
        for (changes, denial) in [
            (json!({ "iss": "https://id.example/" }), Denial::Unknown),
            (json!({ "iss": "absent" }), Denial::Unknown),
            (json!({ "aud": "https://other.example" }), Denial::Unknown),
            (json!({ "aud": ["a", "b"] }), Denial::Unknown),
            (json!({ "aud": "absent" }), Denial::Unknown),
            (
                json!({ "aud": { "https://gateway.example/mcp": 1 } }),
                Denial::Unknown,
            ),
            (json!({ "exp": NOW - 60 }), Denial::Expired),
            (json!({ "exp": "absent" }), Denial::Unknown),
            (json!({ "exp": "soon" }), Denial::Unknown),
            (json!({ "exp": 1e300 }), Denial::Unknown),
            (json!({ "exp": i64::MAX }), Denial::Unknown),
            (json!({ "nbf": NOW + 61 }), Denial::Unknown),
            (json!({ "nbf": "later" }), Denial::Unknown),
            (json!({ "sub": "" }), Denial::Unknown),
            (json!({ "sub": "absent" }), Denial::Unknown),
            (json!({ "sub": "a\nb" }), Denial::Unknown),
            (json!({ "sub": "a".repeat(256) }), Denial::Unknown),
            (json!({ "tenant": "absent" }), Denial::Unknown),
            (json!({ "tenant": "a/b" }), Denial::Unknown),
            (json!({ "tenant": ["acme"] }), Denial::Unknown),
            (json!({ "scope": 7 }), Denial::Unknown),
            (json!({ "scope": "service:" }), Denial::Unknown),
            (json!({ "scope": ["tool:x"] }), Denial::Unknown),
        ] {
            let unfit = read_with(&changes).unwrap_err();
            assert_eq!(unfit.denial, denial, "{changes}");
            let name = changes.as_object().unwrap().keys().next().unwrap();
            let is_named = unfit.why.contains(name);
            assert!(is_named, "{changes}: {}", unfit.why);
            // Whose it was stands in it, where nothing else is wrong.
            let claimed = unfit.claimed.map(|claimed| claimed.subject);
            let is_over = denial == Denial::Expired;
            assert_eq!(claimed.as_deref(), is_over.then_some("ann"), "{changes}");
        }
        for changes in [
            json!({ "aud": ["a", "https://gateway.example/mcp"] }),
            json!({ "exp": NOW - 59 }),
            json!({ "exp": 1_790_000_000.5 }),
            json!({ "nbf": NOW + 60 }),
        ] {
            assert!(read_with(&changes).is_ok(), "{changes}");
        }
    }

    #[test]
    fn roles_and_scopes_are_mapped() {
        for (claim, role) in [
            (json!("admin"), Role::Admin),
            (json!("user"), Role::User),
            (json!("read_only"), Role::ReadOnly),
            (json!("Admin"), Role::ReadOnly),
            (json!("viewer"), Role::ReadOnly),
            (json!(["admin"]), Role::ReadOnly),
            (json!("absent"), Role::User),
        ] {
            assert_eq!(
                read_with(&json!({ "role": claim })).unwrap().role,
                role,
                "{claim}"
            );
        }
        for (claim, scopes) in [
            (
                json!("openid service:tools profile"),
                &["service:tools"][..],
            ),
            (json!(["tool:tools/a", "x"]), &["tool:tools/a"]),
            (json!("absent"), &[]),
            (Value::Null, &[]),
        ] {
            let claimed = read_with(&json!({ "scope": claim })).unwrap();
            let texts: Vec<_> = claimed.scopes.iter().map(ToString::to_string).collect();
            assert_eq!(texts, scopes, "{claim}");
        }
    }

    #[test]
    fn a_near_miss_of_a_scope_opens_no_service() {
        for claim in [
            json!("Service:tools"),
            json!("services:tools"),
            json!("serin/service:tools"),
            json!("openid profile"),
            json!("admin:read"),
            json!(""),
            json!([]),
        ] {
            let claimed = read_with(&json!({ "scope": claim })).unwrap();
            for service in ["tools", "payments"] {
                assert!(!claimed.scopes.reach(service), "{claim}: {service}");
            }
        }
        let listed = json!({ "scope": "service:tools,tool:x/y" });
        assert_eq!(read_with(&listed).unwrap_err().denial, Denial::Unknown);
        let absent = read_with(&json!({ "scope": "absent" })).unwrap();
        assert!(absent.scopes.reach_all_of("payments"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(Value::Null),
            Just(json!("https://id.example")),
            Just(json!("https://gateway.example/mcp")),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(Value::from)
        })
    }

    proptest! {
        #[test]
        fn whatever_claims_say_they_are_for_us_and_not_over_where_they_open(
            iss in any_json(), aud in any_json(), exp in any_json(), nbf in any_json(), scope in any_json(), role in any_json(),
        ) {
            let mut claims = with(&json!({}));
            for (name, value) in [("iss", iss), ("aud", aud), ("exp", exp), ("nbf", nbf), ("scope", scope), ("role", role)] {
                if value != Value::Null {
                    claims.insert(name.to_owned(), value);
                }
            }
            if let Ok(claimed) = read(&claims, &EXPECTED, now()) {
                prop_assert_eq!(claims["iss"].as_str(), Some(EXPECTED.issuer));
                prop_assert!(is_for(claims.get("aud"), EXPECTED.audience));
                prop_assert!(claimed.until > now());
                prop_assert_eq!(claimed.role == Role::Admin, claims.get("role") == Some(&json!("admin")));
            }
        }
    }
}
