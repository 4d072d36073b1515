//! Arguments for the audit trail: what may be a secret is taken out, by the name of its key and by its shape, and the rest is bounded.
//!
//! In doubt it goes: a record that says less is no loss beside one that holds a password.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// Largest arguments that are looked into, in bytes; of larger ones only the size is recorded.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of texts and names that are recorded.
const KEPT_BYTES_MAX: usize = 4 * 1024;
/// Deepest nesting that is recorded.
const DEPTH_MAX: usize = 8;
/// Most members of one object, or items of one list, that are recorded.
const ITEMS_MAX: usize = 50;
/// Longest text that is recorded, in characters.
const TEXT_CHARS_MAX: usize = 200;
/// Digits in a row, blanks and dashes between them left out, from which on they may be a card's or an account's.
const DIGITS_MIN: usize = 9;
/// Characters without a blank, letters and digits among them, from which on they may be a key.
const DENSE_CHARS_MIN: usize = 24;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// What stands in place of what is beyond the bounds.
const CUT: &str = "[cut]";

/// Parts of names whose values are secrets, in small letters without anything between them.
const NAMES: [&str; 26] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "token",
    "secret",
    "authorization",
    "apikey",
    "cookie",
    "credential",
    "privatekey",
    "accesskey",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "bearer",
    "signature",
    "session",
    "otp",
    "cvv",
    "cvc",
    "ssn",
    "iban",
    "cardnumber",
    "connectionstring",
];
/// The same, too short to be looked for within other words.
const WORDS: [&str; 13] = [
    "pass", "pw", "auth", "oauth", "jwt", "cred", "creds", "pin", "mfa", "psk", "sid", "csrf",
    "xsrf",
];
/// Beginnings of keys that are told by them.
const PREFIXES: [&str; 14] = [
    "serin_",
    "sk-",
    "sk_",
    "pk_",
    "rk_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "AIza",
    "-----BEGIN ",
];

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// The arguments in `params`, redacted, as JSON; nothing if there are none.
pub(super) fn arguments(params: &str) -> Option<String> {
    let params: Params<'_> = serde_json::from_str(params).ok()?;
    Some(redacted(params.arguments?.get()))
}

fn redacted(json: &str) -> String {
    if json.len() > READ_BYTES_MAX {
        return format!("\"[{} bytes]\"", json.len());
    }
    let Ok(value) = serde_json::from_str(json) else {
        return format!("\"{CUT}\"");
    };
    let mut room = KEPT_BYTES_MAX;
    let value = Redactor { room: &mut room }.value(value, 0);
    value.to_string()
}

struct Redactor<'a> {
    room: &'a mut usize,
}

impl Redactor<'_> {
    fn value(&mut self, value: Value, depth: usize) -> Value {
        if depth > DEPTH_MAX || *self.room == 0 {
            return CUT.into();
        }
        match value {
            Value::Null | Value::Bool(_) => {
                self.take(4);
                value
            }
            Value::Number(number) => {
                let text = number.to_string();
                self.take(text.len());
                if is_secret(&text) {
                    return REDACTED.into();
                }
                Value::Number(number)
            }
            Value::String(text) => self.text(&text).into(),
            Value::Array(items) => {
                let more = items.len() > ITEMS_MAX;
                let items = items.into_iter().take(ITEMS_MAX);
                let mut kept: Vec<Value> = items.map(|item| self.value(item, depth + 1)).collect();
                if more {
                    kept.push(CUT.into());
                }
                Value::Array(kept)
            }
            Value::Object(members) => {
                let more = members.len() > ITEMS_MAX;
                let members = members.into_iter().take(ITEMS_MAX);
                let mut kept: serde_json::Map<_, _> = members
                    .map(|(name, value)| self.member(&name, value, depth))
                    .collect();
                if more {
                    kept.insert(CUT.to_owned(), Value::Null);
                }
                Value::Object(kept)
            }
        }
    }

    fn member(&mut self, name: &str, value: Value, depth: usize) -> (String, Value) {
        let value = if is_secret_name(name) {
            self.take(REDACTED.len());
            REDACTED.into()
        } else {
            self.value(value, depth + 1)
        };
        (self.text(name), value)
    }

    fn text(&mut self, text: &str) -> String {
        // All of it is looked at before it is cut: a secret must not be hidden by its own end.
        let kept = if is_secret(text) {
            REDACTED
        } else {
            super::cut(text, TEXT_CHARS_MAX)
        };
        if kept.len() > *self.room {
            *self.room = 0;
            return CUT.to_owned();
        }
        self.take(kept.len());
        kept.to_owned()
    }

    fn take(&mut self, bytes: usize) {
        *self.room = self.room.saturating_sub(bytes);
    }
}

/// A name without what people put between its words.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn is_secret_name(name: &str) -> bool {
    let name_alone = plain(name);
    NAMES.iter().any(|secret| name_alone.contains(secret))
        || words(name).iter().any(|word| is_secret_word(word))
}

fn is_secret_word(word: &str) -> bool {
    WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret))
}

/// The words of a name: `dbPass`, `db_pass`, `DB-PASS2`, `JWTValue`. Digits belong to none.
fn words(name: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut from, mut before) = (0, ' ');
    let mut letters = name.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let is_next_small = letters.peek().is_some_and(|(_, next)| next.is_lowercase());
        let begins = !letter.is_alphabetic()
            || !before.is_alphabetic()
            || (letter.is_uppercase() && (before.is_lowercase() || is_next_small));
        if begins {
            words.extend(name.get(from..at));
            from = at;
        }
        before = letter;
    }
    words.extend(name.get(from..));
    words
}

/// Whether a text has something in it that looks like a secret.
fn is_secret(text: &str) -> bool {
    PREFIXES.iter().any(|prefix| has_prefix(text, prefix))
        || has_digits(text)
        || has_dense_word(text)
        || has_jwt(text)
        || has_assignment(text)
        || has_login(text)
}

/// Whether a word begins so, with something behind it.
fn has_prefix(text: &str, prefix: &str) -> bool {
    text.match_indices(prefix).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let behind = text.get(at + prefix.len()..).unwrap_or_default();
        before.is_none_or(|letter| !letter.is_alphanumeric())
            && behind
                .chars()
                .next()
                .is_some_and(|letter| !letter.is_whitespace())
    })
}

fn has_digits(text: &str) -> bool {
    let mut run = 0;
    for letter in text.chars() {
        if letter.is_numeric() {
            run += 1;
            if run >= DIGITS_MIN {
                return true;
            }
        } else if !matches!(letter, ' ' | '-' | '.' | '_') {
            run = 0;
        }
    }
    false
}

/// A JSON Web Token: three parts, of which the first is the beginning of a JSON object in base64.
fn has_jwt(text: &str) -> bool {
    text.match_indices("eyJ").any(|(at, _)| {
        let word = text.get(at..).unwrap_or_default();
        let end = word
            .find(|letter: char| !is_dense(letter))
            .unwrap_or(word.len());
        word.get(..end)
            .is_some_and(|word| word.matches('.').count() >= 2)
    })
}

fn is_dense(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '+' | '/' | '=' | '.' | '~')
}

/// Random characters, in base64 or hex: long, and of letters and digits mixed. Links and paths have no such part.
fn has_dense_word(text: &str) -> bool {
    text.split(|letter: char| {
        !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | '-' | '+' | '=')
    })
    .any(|word| {
        word.len() >= DENSE_CHARS_MIN
            && word.bytes().any(|letter| letter.is_ascii_digit())
            && word.bytes().any(|letter| letter.is_ascii_alphabetic())
    })
}

/// `password = x`, `"token": "x"`, `Bearer x`, `Basic x` in the middle of a text.
fn has_assignment(text: &str) -> bool {
    let small = text.to_lowercase();
    if ["bearer ", "basic "]
        .iter()
        .any(|scheme| small.contains(scheme))
    {
        return true;
    }
    let is_after_word = |(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let before = before.trim_end_matches(|letter: char| !letter.is_alphanumeric());
        let start = before.rfind(char::is_whitespace).unwrap_or(0);
        let word = before.get(start..).unwrap_or_default();
        words(word).iter().any(|word| is_secret_word(word))
    };
    if text.match_indices(['=', ':']).any(is_after_word) {
        return true;
    }
    small.match_indices(['=', ':']).any(|(at, _)| {
        let before = small.get(..at).unwrap_or_default();
        let before = before.trim_end_matches(|letter: char| !letter.is_alphanumeric());
        let from = before
            .char_indices()
            .rev()
            .take(32)
            .last()
            .map_or(0, |(at, _)| at);
        is_secret_name(before.get(from..).unwrap_or_default())
    })
}

/// `https://user:password@host`
fn has_login(text: &str) -> bool {
    text.match_indices("://").any(|(at, _)| {
        let behind = text.get(at + 3..).unwrap_or_default();
        let end = behind.find(['/', '?', '#', ' ']).unwrap_or(behind.len());
        behind
            .get(..end)
            .is_some_and(|authority| authority.contains('@'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(value: &Value) -> String {
        redacted(&value.to_string())
    }

    #[test]
    fn secrets_go_by_the_name_of_their_key() {
        for name in [
            "password",
            "Password",
            "user_password",
            "API-Key",
            "api_key",
            "apiKey",
            "Authorization",
            "access_token",
            "clientSecret",
            "Set-Cookie",
            "x-session-id",
            "private key",
            "AWS_SECRET_ACCESS_KEY",
            "pass",
            "pw",
            "PW",
            "auth",
            "jwt",
            "cred",
            "creds",
            "pwd",
            "dbPass",
            "user_pass",
            "pass2",
            "JWTValue",
            "basicAuth",
            "auth-header",
            "userPIN",
        ] {
            for value in [
                json!("hunter2"),
                json!({"inner": "hunter2"}),
                json!(["hunter2"]),
                json!(7),
            ] {
                let text = of(&json!({ name: value, "other": "kept" }));
                assert!(!text.contains("hunter2"), "{text}");
                assert!(text.contains(REDACTED) && text.contains("kept"), "{text}");
            }
        }
    }

    #[test]
    fn secrets_go_by_their_shape() {
        for text in [
            "serin_0123456789ab_abcdefghijkl",
            "use serin_abc now",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "call +1 202 555 0175 x",
            "Bearer abc",
            "the password: hunter2",
            "user=me pass=hunter2",
            "PW: hunter2",
            r#"{"dbPass":"x"}"#,
            r#"{"token":"x"}"#,
            "https://me:hunter2@example.com/",
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_abc",
            "-----BEGIN PRIVATE KEY-----",
            "9f86d081884c7d659a2feaa0c55ad015",
        ] {
            assert_eq!(
                of(&json!({ "a": text })),
                json!({ "a": REDACTED }).to_string(),
                "{text}"
            );
            let named = of(&json!({ text: 1 }));
            assert!(named.starts_with(r#"{"[redacted]":"#), "{named}");
        }
        assert_eq!(
            of(&json!([4_111_111_111_111_111_u64])),
            json!([REDACTED]).to_string()
        );
    }

    #[test]
    fn ordinary_words_stay() {
        let value = json!({
            "text": "How is the weather in Paris, 2026-05-01?", "limit": 25, "ratio": 0.5, "deep": true, "none": null,
            "author": "Ann", "compass": "north", "passage": "a: b", "bypass": true, "authority": "id", "pinned": 1, "spins": 2, "newPassenger": "x",
            "path": "/docs/guide/getting-started/index.html", "link": "https://example.com/a/b?c=d", "ids": [1, 2, 3],
        });
        assert_eq!(of(&value), value.to_string());
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let deep = (0..100).fold(json!("x"), |inner, _| json!([inner]));
        assert!(of(&deep).len() < 100);
        let wide = json!({ "list": vec!["word"; 1000], "text": "a b ".repeat(1000) });
        let text = of(&wide);
        assert!(text.len() < 1000 && text.contains(CUT), "{text}");
        let long = json!(vec![vec!["word of some length"; 50]; 50]);
        assert!(of(&long).len() < 2 * KEPT_BYTES_MAX);
        let huge = json!("a ".repeat(READ_BYTES_MAX));
        assert_eq!(of(&huge), format!("\"[{} bytes]\"", READ_BYTES_MAX * 2 + 2));
        assert_eq!(arguments("{}"), None);
        assert_eq!(arguments("[1"), None);
    }

    /// A JSON value with `secret` put somewhere into it.
    fn planted(secret: Value) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[ -~]{0,30}".prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from)
        ];
        let noise = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        (noise, prop::collection::vec("[a-z]{1,6}", 0..12)).prop_map(move |(noise, path)| {
            path.iter().fold(
                secret.clone(),
                |inner, name| json!({ "noise": noise, name.as_str(): inner }),
            )
        })
    }

    fn shaped() -> impl Strategy<Value = String> {
        prop_oneof![
            "serin_[a-z0-9]{8}_[A-Za-z0-9]{8,40}",
            "eyJ[A-Za-z0-9]{6,20}\\.[A-Za-z0-9_-]{6,40}\\.[A-Za-z0-9_-]{6,40}",
            "[0-9]{9,24}",
            "[0-9]{4}( |-)[0-9]{4}( |-)[0-9]{4}( |-)[0-9]{4}",
            "[0-9a-f]{10}[0-9][a-f][0-9a-f]{20}",
        ]
    }

    proptest! {
        #[test]
        fn no_planted_secret_survives_by_its_shape(
            (secret, value) in ("[a-z ]{0,10}[ :\"]?", shaped(), "([ ,\"][ -~]{0,10})?")
                .prop_flat_map(|(before, secret, behind)| {
                    let text = format!("{before} {secret}{behind}");
                    (Just(secret), planted(text.into()))
                })
        ) {
            prop_assert!(!of(&value).contains(&secret), "{}", of(&value));
        }

        #[test]
        fn no_planted_secret_survives_by_its_key(
            (secret, value) in ("Q[a-z]{9}Q", prop::sample::select(NAMES.to_vec()), "[_-]?", any::<bool>())
                .prop_flat_map(|(secret, name, mark, capitals)| {
                    let name = format!("my{mark}{name}");
                    let name = if capitals { name.to_uppercase() } else { name };
                    let inner = json!({ name: { "deep": [secret.clone()] } });
                    (Just(secret), planted(inner))
                })
        ) {
            prop_assert!(!of(&value).contains(&secret), "{}", of(&value));
        }

        #[test]
        fn no_planted_secret_survives_by_a_word_of_its_key(
            (secret, value) in ("Q[a-z]{9}Q", prop::sample::select(WORDS.to_vec()), prop::sample::select(vec!["", "my", "MY"]), "[_. -]", "[0-9]{0,2}", 0..3)
                .prop_flat_map(|(secret, word, before, mark, digits, form)| {
                    let name = match form {
                        0 => format!("{before}{mark}{word}{digits}"),
                        1 => format!("{before}{mark}{}{digits}{mark}of", word.to_uppercase()),
                        _ => format!("my{}{}Of", word[..1].to_uppercase(), &word[1..]),
                    };
                    let inner = json!({ name: { "deep": [secret.clone()] } });
                    (Just(secret), planted(inner))
                })
        ) {
            prop_assert!(!of(&value).contains(&secret), "{}", of(&value));
        }

        #[test]
        fn anything_is_read_without_a_panic_and_stays_small(json: String) {
            prop_assert!(redacted(&json).len() <= READ_BYTES_MAX);
        }
    }
}
