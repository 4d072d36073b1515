//! Signed requests: whether one must be signed, is signed by the holder of its key, and comes for the first time.

use crate::{core::Core, headers, refusal::Refusal};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serin_flags::{Context, Evaluation, Why};
use serin_model::{auth::Signing, observe::Rejection, snapshot::ServiceRoute};
use serin_tenancy::{
    Denial, KeyId, Principal,
    signature::{Master, Signed, WINDOW_SECONDS},
};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

static TIMESTAMP: HeaderName = HeaderName::from_static("x-serin-timestamp");
static NONCE: HeaderName = HeaderName::from_static("x-serin-nonce");
static SIGNATURE: HeaderName = HeaderName::from_static("x-serin-signature");

/// Parts of the table of nonces, each behind a lock of its own. A nonce's own hash says in which it is.
const SHARDS: usize = 16;
/// Most nonces of a generation of a part: with 17 bytes for each place of a table, all of them take some 150 MB at the very most.
const NONCES_MAX: usize = 200_000;
/// Most of them that are one key's: 120,000 in all parts, for some more than 10,000 requests a minute. A key that sends more is refused
/// by itself.
const NONCES_OF_KEY_MAX: u32 = 7_500;
/// Seconds of a generation. A request can be sent for twice the window, by a clock that is ahead and one that is behind; two
/// generations remember all of that.
const GENERATION_SECONDS: i64 = 2 * WINDOW_SECONDS;

/// What tells signed requests from forged and repeated ones, for all cores.
pub struct Signer {
    master: Arc<Master>,
    /// What was signed up to this second may have been seen by a process before this one.
    began_seconds: i64,
    shards: [Mutex<Nonces>; SHARDS],
}

#[derive(Default)]
struct Nonces {
    generation: i64,
    now: HashSet<[u8; 16]>,
    before: HashSet<[u8; 16]>,
    /// How many of `now` are a key's.
    counts: HashMap<KeyId, u32>,
}

/// Whether a nonce is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Never,
    Before,
    /// The key has too many to know.
    Busy,
    /// There are too many to know.
    Full,
}

impl Signer {
    /// By secrets that are made of this one.
    pub fn new(master: Arc<Master>) -> Self {
        Self {
            master,
            began_seconds: 0,
            shards: Default::default(),
        }
    }

    /// Takes only what is signed after this: the nonces from before, which another process has seen, are not known.
    #[must_use]
    pub fn since(self, began: Timestamp) -> Self {
        Self {
            began_seconds: began.as_second(),
            ..self
        }
    }

    /// Whether the nonces of what was signed then are known.
    fn remembers(&self, timestamp: &str) -> bool {
        let at = timestamp.parse::<i64>();
        at.is_ok_and(|at| at > self.began_seconds)
    }

    fn see(&self, key: KeyId, nonce: &str, now_seconds: i64) -> Seen {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key.to_string().as_bytes());
        hasher.update(b"\0").update(nonce.as_bytes());
        let mut mark = [0; 16];
        hasher.finalize_xof().fill(&mut mark);
        let Some(shard) = self.shards.get(usize::from(mark[0]) % SHARDS) else {
            return Seen::Full;
        };
        let mut nonces = shard.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.see(key, mark, now_seconds.div_euclid(GENERATION_SECONDS))
    }
}

impl Nonces {
    fn see(&mut self, key: KeyId, mark: [u8; 16], generation: i64) -> Seen {
        match generation - self.generation {
            // A clock that was set back changes nothing.
            ..=0 => {}
            1 => (self.before, self.counts) = (std::mem::take(&mut self.now), HashMap::new()),
            _ => (self.now, self.before, self.counts) = Default::default(),
        }
        self.generation = self.generation.max(generation);
        if self.before.contains(&mark) || self.now.contains(&mark) {
            return Seen::Before;
        }
        if self.now.len() >= NONCES_MAX {
            return Seen::Full;
        }
        let count = self.counts.entry(key).or_default();
        if *count >= NONCES_OF_KEY_MAX {
            return Seen::Busy;
        }
        *count += 1;
        self.now.insert(mark);
        Seen::Never
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(..)")
    }
}

/// What of a request is signed beside its headers.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a Method,
    /// Path and query as sent.
    pub(crate) target: &'a str,
    pub(crate) body: &'a [u8],
}

/// Whether a signature is looked at: it must be there, or it is.
pub(crate) fn is_asked(
    core: &Core,
    service: &ServiceRoute,
    principal: &Principal,
    headers: &HeaderMap,
) -> bool {
    headers.contains_key(&SIGNATURE) || must_sign(core, service, principal)
}

/// Whether a flag has a say is the operator's; that it was killed, is over, is misspelt or was deleted opens nothing that it closed.
fn must_sign(core: &Core, service: &ServiceRoute, principal: &Principal) -> bool {
    let flag = match &service.settings.signing {
        Signing::Optional => return false,
        Signing::Required => return true,
        Signing::Flag(flag) => flag,
    };
    let latch = core.latch().unwrap_or_default();
    let flags = core.with_snapshot(|snapshot| snapshot.flags.clone());
    let context = Context {
        targeting_key: Some(principal.tenant.as_str()),
        tenant: Some(principal.tenant.as_str()),
        environment: core.options().environment,
        attributes: None,
        now: Timestamp::now(),
    };
    let answer = flags.evaluate(&latch, flag.as_str(), &context);
    answer.is_none_or(|answer| demands(&answer))
}

fn demands(answer: &Evaluation<'_>) -> bool {
    let is_stopped = matches!(answer.why, Why::Latch | Why::Kill | Why::Expired);
    is_stopped || answer.value.as_bool() != Some(false)
}

/// Refuses a request that is not signed by the holder of its key, just now and for the first time.
pub(crate) fn check(
    core: &Core,
    service: &ServiceRoute,
    principal: &Principal,
    headers: &HeaderMap,
    request: &Request<'_>,
) -> Result<(), Refusal> {
    let refuse = |text: &str| {
        core.counters.authenticated(Denial::Signature.label());
        let refusal = Refusal::plain(StatusCode::UNAUTHORIZED, text);
        let refusal = refusal.challenge(HeaderValue::from_static("Bearer realm=\"serin\""));
        Err(refusal.counted(Rejection::Auth).of(&service.name))
    };
    let text = |name| headers::text(headers, name);
    let (Some(timestamp), Some(nonce), Some(signature)) =
        (text(&TIMESTAMP), text(&NONCE), text(&SIGNATURE))
    else {
        return refuse(
            "this request must be signed: send `X-Serin-Timestamp`, `X-Serin-Nonce` and `X-Serin-Signature`, each once",
        );
    };
    let signs = principal.key.filter(|key| {
        core.with_snapshot(|snapshot| snapshot.tenancy.record(*key).is_some_and(|key| key.signs))
    });
    let (Some(key), Some(signer)) = (signs, &core.options().signer) else {
        return refuse(
            "requests with this credential cannot be signed; ask for a key with a signing secret (`serin key create --signing`)",
        );
    };
    let now = Timestamp::now().as_second();
    let signed = Signed {
        timestamp,
        nonce,
        method: request.method.as_str(),
        target: request.target,
        body: request.body,
    };
    if !signed.has_nonce() {
        return refuse("`X-Serin-Nonce` must be 16 to 64 letters, digits, `-` and `_`");
    }
    if !signed.is_timely(now) {
        let text = format!(
            "`X-Serin-Timestamp` must be the time in whole seconds since 1970, which is {now} here; it may be {WINDOW_SECONDS} off"
        );
        return refuse(&text);
    }
    if !signer.remembers(timestamp) {
        return refuse(
            "this was signed before the gateway started, which cannot tell whether it came already; sign it anew, with the time of now",
        );
    }
    if !signer
        .master
        .secret(key)
        .verify(&signed, signature.as_bytes())
    {
        return refuse(
            "the signature is not that of this request; sign timestamp, nonce, method, path with query, and the SHA-256 of the body, as sent",
        );
    }
    match signer.see(key, nonce, now) {
        Seen::Never => Ok(()),
        Seen::Before => refuse("this nonce was used already; take a new one for each request"),
        Seen::Busy => {
            let text = format!(
                "this key has signed {} requests within {GENERATION_SECONDS} s; send them more slowly, or with several keys",
                SHARDS * NONCES_OF_KEY_MAX as usize,
            );
            let refusal = Refusal::plain(StatusCode::TOO_MANY_REQUESTS, text);
            Err(refusal.counted(Rejection::RateLimit).of(&service.name))
        }
        Seen::Full => {
            let text = "too many signed requests; send them more slowly";
            let refusal = Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, text);
            Err(refusal.counted(Rejection::Overload).of(&service.name))
        }
    }
}

/// Takes out what was signed for the gateway alone.
pub(crate) fn remove(headers: &mut HeaderMap) {
    for name in [&TIMESTAMP, &NONCE, &SIGNATURE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins a generation, long after the signers of these tests.
    const NOW: i64 = 1_790_000_400;

    fn key(n: u32) -> KeyId {
        format!("{n:012x}").parse().unwrap()
    }

    fn signer(began_seconds: i64) -> Signer {
        let began = Timestamp::from_second(began_seconds).unwrap();
        Signer::new(Arc::new(Master::new([1; 32]))).since(began)
    }

    #[test]
    fn a_nonce_is_new_once_for_as_long_as_it_could_come_again() {
        let mut nonces = Nonces::default();
        let mut see = |mark, generation| nonces.see(key(1), [mark; 16], generation);
        assert_eq!(see(7, 10), Seen::Never);
        for generation in [10, 9, 11, 11] {
            assert_eq!(see(7, generation), Seen::Before, "{generation}");
        }
        assert_eq!(see(8, 11), Seen::Never);
        assert_eq!(see(7, 12), Seen::Never, "too old to come again");
        assert_eq!(see(8, 12), Seen::Before);
        assert_eq!(see(7, 20), Seen::Never);
        assert!(nonces.before.is_empty());
    }

    #[test]
    fn a_full_table_lets_nothing_through_and_is_empty_again_later() {
        let mut nonces = Nonces::default();
        for n in 0..NONCES_MAX {
            let mark = (n as u128).to_be_bytes();
            let key = key(u32::try_from(n).unwrap() / NONCES_OF_KEY_MAX);
            assert_eq!(nonces.see(key, mark, 1), Seen::Never);
        }
        assert_eq!(nonces.see(key(1000), [255; 16], 1), Seen::Full);
        assert_eq!(nonces.see(key(1000), [255; 16], 2), Seen::Never);
    }

    #[test]
    fn a_key_that_signs_too_much_is_refused_alone() {
        let signer = signer(0);
        // Ten thousand a minute are fine, for ten minutes.
        for n in 0..100_000 {
            let nonce = format!("nonce-{n:012}");
            assert_eq!(signer.see(key(1), &nonce, NOW + n / 167), Seen::Never);
        }
        let end = NOW + GENERATION_SECONDS - 1;
        let more = (100_000..150_000).map(|n| signer.see(key(1), &format!("nonce-{n:012}"), end));
        let busy = more.filter(|seen| *seen == Seen::Busy).count();
        assert!((29_000..=31_000).contains(&busy), "{busy}");
        for quiet in 2..162 {
            let seen = signer.see(key(quiet), "nonce-of-the-quiet", end);
            assert_eq!(seen, Seen::Never, "{quiet}");
        }
        // What was let through stays known while it could come again, and the next generation has room.
        let later = NOW + GENERATION_SECONDS;
        for (nonce, seen) in [(99_999, Seen::Before), (150_000, Seen::Never)] {
            let nonce = format!("nonce-{nonce:012}");
            assert_eq!(signer.see(key(1), &nonce, later), seen, "{nonce}");
        }
    }

    #[test]
    fn what_was_signed_before_the_start_is_not_known() {
        let signer = signer(NOW);
        for (timestamp, known) in [(NOW - 1, false), (NOW, false), (NOW + 1, true)] {
            assert_eq!(signer.remembers(&timestamp.to_string()), known);
        }
        assert!(!signer.remembers("now"));
    }
}
