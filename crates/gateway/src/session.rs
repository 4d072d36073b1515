//! Legacy sessions: the token that a client holds as its session id, and the little that must be remembered beside it.
//!
//! A token says where a session lives, so an ordinary session costs no memory here. Bounded tables hold the
//! exceptions: sessions that were moved, that ended, or for which the server has made state, and calls their client cancelled.
//! They are shared by the cores, since a session's requests come over any connection; each is behind an atomic count, so
//! that the way of an ordinary request takes no lock.

use crate::seal::{Bound, Keyring, Purpose};
use serin_model::name::{EndpointId, RolloutId};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// Longest `params` of an `initialize` that a token carries: without them a session cannot be moved.
pub(crate) const INIT_BYTES_MAX: usize = 512;
/// Longest session id of an upstream beside which init parameters still fit. Ids are UUIDs or short tokens.
pub(crate) const UPSTREAM_BYTES_BESIDE_INIT_MAX: usize = 512;
/// Longest session id of an upstream at all: sealed, it stays below the 1.5 KB that any server takes in a header.
pub(crate) const UPSTREAM_BYTES_MAX: usize = 1024;
/// Stands for "no session id" in place of its length.
const NO_UPSTREAM: u16 = u16::MAX;

/// The bits of a token's flags.
const IS_TESTER: u8 = 1;
const BY_SPLIT: u8 = 2;
const HAS_SIDE: u8 = 4;
const SIDE_IS_ON: u8 = 8;
const HAS_KEY: u8 = 16;

/// The side of a flag under release that a tester chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// The rollout of the flag: in another one it means nothing.
    pub(crate) rollout: RolloutId,
    pub(crate) is_on: bool,
}

/// What a session id of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The session; also its affinity key, unless its caller was known by another.
    pub(crate) session: Uuid,
    /// Where it was made.
    pub(crate) endpoint: EndpointId,
    /// The gateway process that made it: what it saw of the session is known to it alone.
    pub(crate) incarnation: u64,
    /// When it was made, in milliseconds since 1970.
    pub(crate) issued_ms: u64,
    /// When it ends, in seconds since 1970.
    pub(crate) expires_seconds: u64,
    /// A tester chose its version by hand: its calls stay out of the comparison.
    pub(crate) is_tester: bool,
    /// The split of a rollout gave it its version.
    pub(crate) by_split: bool,
    /// The hash of that other key, by which the versions are compared. None beside a side: testers are not compared.
    pub(crate) key: Option<u64>,
    /// The side of a flag that its tester chose: both sides have the same endpoints.
    pub(crate) side: Option<Side>,
    /// The server's own session id, if it gave one.
    pub(crate) upstream: Option<Box<str>>,
    /// `params` of the client's `initialize` (with the protocol version it asked for), if they were short enough.
    pub(crate) init: Option<Box<str>>,
}

impl Token {
    /// The session id for the client; nothing if the upstream's is too long.
    pub(crate) fn seal(&self, keys: &Keyring, bound: Bound<'_>) -> Option<String> {
        keys.seal(Purpose::Session, bound, &self.encode()?)
    }

    /// What a session id says, if it is one of ours and its time is not over.
    pub(crate) fn open(
        keys: &Keyring,
        bound: Bound<'_>,
        text: &[u8],
        now_seconds: u64,
    ) -> Option<Self> {
        let token = Self::decode(&keys.open_value(Purpose::Session, bound, text)?)?;
        (token.expires_seconds > now_seconds).then_some(token)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let upstream = self.upstream.as_deref();
        let upstream_length = upstream.map_or(0, str::len);
        if upstream_length > UPSTREAM_BYTES_MAX {
            return None;
        }
        let fits = |init: &&str| {
            init.len() <= INIT_BYTES_MAX && upstream_length <= UPSTREAM_BYTES_BESIDE_INIT_MAX
        };
        let init = self.init.as_deref().filter(fits).unwrap_or_default();
        let mut out = Vec::with_capacity(80 + upstream_length + init.len());
        out.extend_from_slice(self.session.as_bytes());
        out.extend_from_slice(&self.endpoint.0.to_be_bytes());
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.issued_ms.to_be_bytes());
        out.extend_from_slice(&self.expires_seconds.to_be_bytes());
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let key = self.key.filter(|_| self.side.is_none());
        let side_is_on = self.side.is_some_and(|side| side.is_on);
        out.push(
            bit(self.is_tester, IS_TESTER)
                | bit(self.by_split, BY_SPLIT)
                | bit(self.side.is_some(), HAS_SIDE)
                | bit(side_is_on, SIDE_IS_ON)
                | bit(key.is_some(), HAS_KEY),
        );
        if let Some(side) = &self.side {
            out.extend_from_slice(side.rollout.0.as_bytes());
        }
        if let Some(key) = key {
            out.extend_from_slice(&key.to_be_bytes());
        }
        // Once the length of a tenant, which its owner has taken the place of.
        out.push(0);
        let length = upstream.map_or(Some(NO_UPSTREAM), |id| u16::try_from(id.len()).ok())?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(upstream.unwrap_or_default().as_bytes());
        out.extend_from_slice(init.as_bytes());
        Some(out)
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<Self> {
        let (session, raw) = raw.split_first_chunk()?;
        let (endpoint, raw) = raw.split_first_chunk()?;
        let (incarnation, raw) = raw.split_first_chunk()?;
        let (issued, raw) = raw.split_first_chunk()?;
        let (expires, raw) = raw.split_first_chunk()?;
        let (&flags, raw) = raw.split_first()?;
        let (side, raw) = if flags & HAS_SIDE == 0 {
            (None, raw)
        } else {
            let (rollout, raw) = raw.split_first_chunk()?;
            let side = Side {
                rollout: RolloutId(Uuid::from_bytes(*rollout)),
                is_on: flags & SIDE_IS_ON != 0,
            };
            (Some(side), raw)
        };
        let (key, raw) = if flags & HAS_KEY == 0 {
            (None, raw)
        } else if side.is_some() {
            return None;
        } else {
            let (key, raw) = raw.split_first_chunk()?;
            (Some(u64::from_be_bytes(*key)), raw)
        };
        let (&0, raw) = raw.split_first()? else {
            return None;
        };
        let (length, raw) = raw.split_first_chunk()?;
        let text = |raw| std::str::from_utf8(raw).ok().map(Box::<str>::from);
        let (upstream, init) = match u16::from_be_bytes(*length) {
            NO_UPSTREAM => (None, raw),
            length => {
                let (upstream, init) = raw.split_at_checked(usize::from(length))?;
                (Some(text(upstream)?), init)
            }
        };
        Some(Self {
            session: Uuid::from_bytes(*session),
            endpoint: EndpointId(u32::from_be_bytes(*endpoint)),
            incarnation: u64::from_be_bytes(*incarnation),
            issued_ms: u64::from_be_bytes(*issued),
            expires_seconds: u64::from_be_bytes(*expires),
            is_tester: flags & IS_TESTER != 0,
            by_split: flags & BY_SPLIT != 0,
            key,
            side,
            upstream,
            init: if init.is_empty() {
                None
            } else {
                Some(text(init)?)
            },
        })
    }
}

/// Most sessions that are remembered as moved or as having state, each: 100,000 take some 20 MB.
const SESSIONS_MAX: usize = 100_000;
/// Most cancelled calls that are remembered until they end.
const CANCELLED_MAX: usize = 4096;
/// How long a cancelled call is remembered beyond the longest time it can last without an answer.
const CANCELLED_FOR: Duration = Duration::from_mins(1);

/// Where a session lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) endpoint: EndpointId,
    /// Since when, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    pub(crate) upstream: Option<Box<str>>,
}

/// A place that one request finds while the others of the session wait for it.
pub(crate) type Moving = Arc<OnceCell<Place>>;

/// What is remembered of sessions, by all cores.
pub(crate) struct Sessions {
    /// This process.
    pub(crate) incarnation: u64,
    moved_count: AtomicUsize,
    moved: Mutex<HashMap<Uuid, Moved>>,
    stateful: Mutex<Stateful>,
    ended: Mutex<Ended>,
    cancelled_count: AtomicUsize,
    cancelled: Mutex<VecDeque<Cancelled>>,
}

/// A call that its client cancelled by a notification.
struct Cancelled {
    call: u64,
    at: Instant,
    /// When it is forgotten.
    until: Instant,
}

/// A session that was moved, or is being moved.
struct Moved {
    /// Where it lived before, if it was moved there: it does so until `to` is found.
    from: Option<Place>,
    to: Moving,
    expires_seconds: u64,
}

impl Moved {
    fn place(&self) -> Option<&Place> {
        self.to.get().or(self.from.as_ref())
    }
}

/// Those that ended last.
#[derive(Default)]
struct Ended {
    sessions: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

#[derive(Default)]
struct Stateful {
    sessions: HashMap<Uuid, u64>,
    /// There were more than fit: until all of those are over, in seconds since 1970, those not found may have state too.
    overflowed_until_seconds: Option<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder leaves a consistent table behind at every step, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            moved_count: AtomicUsize::new(0),
            moved: Mutex::default(),
            stateful: Mutex::default(),
            ended: Mutex::default(),
            cancelled_count: AtomicUsize::new(0),
            cancelled: Mutex::default(),
        }
    }

    /// Where a session was moved to, if it was.
    pub(crate) fn moved(&self, session: Uuid) -> Option<Place> {
        if self.moved_count.load(Relaxed) == 0 {
            return None;
        }
        let table = lock(&self.moved);
        table.get(&session)?.place().cloned()
    }

    /// The cell to which a session's next place goes, the same for all that ask while `from` is where it lives; nothing
    /// when the table is full.
    pub(crate) fn moving(&self, token: &Token, from: &Place) -> Option<Moving> {
        let mut table = lock(&self.moved);
        let known = table.get(&token.session);
        if let Some(known) = known
            && known.to.get() != Some(from)
        {
            return Some(known.to.clone());
        }
        if table.len() >= SESSIONS_MAX && known.is_none() {
            return None;
        }
        let moved = Moved {
            from: known.is_some().then(|| from.clone()),
            to: Moving::default(),
            expires_seconds: token.expires_seconds,
        };
        let to = moved.to.clone();
        table.insert(token.session, moved);
        self.moved_count.store(table.len(), Relaxed);
        Some(to)
    }

    /// Notes that its client has ended a session: it must not come to life again.
    pub(crate) fn end(&self, session: Uuid) {
        let mut table = lock(&self.ended);
        if table.order.len() >= SESSIONS_MAX
            && let Some(oldest) = table.order.pop_front()
        {
            table.sessions.remove(&oldest);
        }
        if table.sessions.insert(session) {
            table.order.push_back(session);
        }
    }

    /// Notes that the server has made state for a session, which another one would not have.
    pub(crate) fn mark_stateful(&self, token: &Token) {
        let mut table = lock(&self.stateful);
        if table.sessions.len() < SESSIONS_MAX {
            table.sessions.insert(token.session, token.expires_seconds);
        } else if !table.sessions.contains_key(&token.session) {
            let until = table
                .overflowed_until_seconds
                .max(Some(token.expires_seconds));
            table.overflowed_until_seconds = until;
        }
    }

    /// Whether another server can take a session over: it has made no state that we could see, and we saw it all. Of a
    /// session that began before this process we know nothing, so it cannot.
    pub(crate) fn is_stateless(&self, token: &Token) -> bool {
        if token.incarnation != self.incarnation
            || lock(&self.ended).sessions.contains(&token.session)
        {
            return false;
        }
        let table = lock(&self.stateful);
        table.overflowed_until_seconds.is_none() && !table.sessions.contains_key(&token.session)
    }

    /// Notes that a client cancelled a call, which may last for `call_max`; `id` is JSON text.
    pub(crate) fn cancel(&self, session: Uuid, id: &str, call_max: Duration) {
        let keep = call_max.saturating_add(CANCELLED_FOR);
        let at = Instant::now();
        let Some(until) = at.checked_add(keep) else {
            return;
        };
        let mut table = lock(&self.cancelled);
        if table.len() >= CANCELLED_MAX {
            table.pop_front();
        }
        let call = call_hash(session, id);
        table.push_back(Cancelled { call, at, until });
        self.cancelled_count.store(table.len(), Relaxed);
    }

    /// When the client cancelled this call, if it did. Forgets it.
    pub(crate) fn take_cancelled(&self, session: Uuid, id: &str) -> Option<Instant> {
        if self.cancelled_count.load(Relaxed) == 0 {
            return None;
        }
        let hash = call_hash(session, id);
        let mut table = lock(&self.cancelled);
        let found = table.iter().position(|cancelled| cancelled.call == hash)?;
        let cancelled = table.remove(found);
        self.cancelled_count.store(table.len(), Relaxed);
        cancelled.map(|cancelled| cancelled.at)
    }

    /// Drops what is over. Called now and then by one core.
    pub(crate) fn sweep(&self, now_seconds: u64) {
        if self.cancelled_count.load(Relaxed) > 0 {
            let mut table = lock(&self.cancelled);
            table.retain(|cancelled| cancelled.until > Instant::now());
            self.cancelled_count.store(table.len(), Relaxed);
        }
        if self.moved_count.load(Relaxed) > 0 {
            let mut table = lock(&self.moved);
            // A first move that failed leaves nothing worth keeping behind.
            table.retain(|_, moved| {
                moved.expires_seconds > now_seconds
                    && (moved.place().is_some() || Arc::strong_count(&moved.to) > 1)
            });
            self.moved_count.store(table.len(), Relaxed);
        }
        let mut table = lock(&self.stateful);
        table.sessions.retain(|_, expires| *expires > now_seconds);
        let until = table.overflowed_until_seconds;
        table.overflowed_until_seconds = until.filter(|until| *until > now_seconds);
    }
}

fn call_hash(session: Uuid, id: &str) -> u64 {
    use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    session.as_bytes().hash(&mut hasher);
    id.hash(&mut hasher);
    hasher.finish()
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A minted value of a version, sealed: which endpoint made it, and what it was.
pub(crate) fn seal_minted(
    keys: &Keyring,
    purpose: Purpose,
    bound: Bound<'_>,
    endpoint: EndpointId,
    value: &str,
) -> Option<String> {
    let mut plain = Vec::with_capacity(4 + value.len());
    plain.extend_from_slice(&endpoint.0.to_be_bytes());
    plain.extend_from_slice(value.as_bytes());
    keys.seal(purpose, bound, &plain)
}

/// What [`seal_minted`] sealed.
pub(crate) fn open_minted(
    keys: &Keyring,
    purpose: Purpose,
    bound: Bound<'_>,
    text: &str,
) -> Option<(EndpointId, String)> {
    let plain = keys.open_value(purpose, bound, text.as_bytes())?;
    let (endpoint, value) = plain.split_first_chunk()?;
    let value = std::str::from_utf8(value).ok()?.to_owned();
    Some((EndpointId(u32::from_be_bytes(*endpoint)), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(upstream: Option<String>, init: Option<String>) -> Token {
        Token {
            session: Uuid::from_u128(5),
            endpoint: EndpointId(7),
            incarnation: 11,
            issued_ms: 900_000,
            expires_seconds: 1000,
            is_tester: false,
            by_split: true,
            key: None,
            side: None,
            upstream: upstream.map(Into::into),
            init: init.map(Into::into),
        }
    }

    proptest! {
        #[test]
        fn tokens_read_back_as_written(
            upstream in prop::option::of("[!-~]{0,512}"),
            init in prop::option::of("\\{[a-zü]{0,200}\\}"),
            side in prop::option::of(any::<(u128, bool)>()),
            key: Option<u64>,
        ) {
            let keys = Keyring::ephemeral().unwrap();
            let mut token = token(upstream, init);
            token.side = side.map(|(rollout, is_on)| Side { rollout: RolloutId(Uuid::from_u128(rollout)), is_on });
            token.key = key.filter(|_| side.is_none());
            let text = token.seal(&keys, ("tools", None)).unwrap();
            prop_assert!(text.len() < 1500);
            let back = Token::open(&keys, ("tools", None), text.as_bytes(), 999);
            prop_assert_eq!(back.as_ref(), Some(&token));
            prop_assert_eq!(Token::open(&keys, ("tools", None), text.as_bytes(), 1000), None, "expired");
            prop_assert_eq!(Token::open(&keys, ("other", None), text.as_bytes(), 999), None, "foreign");
        }

        #[test]
        fn outside_bytes_never_panic(raw: Vec<u8>) {
            let _ = Token::decode(&raw);
        }
    }

    #[test]
    fn a_token_of_before_keys_still_opens() {
        // As version 0.5 wrote it: no key, and the length of a tenant.
        let mut raw = [5_u128.to_be_bytes().as_slice(), &7_u32.to_be_bytes()].concat();
        for number in [11, 900_000, 1000_u64] {
            raw.extend_from_slice(&number.to_be_bytes());
        }
        raw.extend_from_slice(&[BY_SPLIT, 0, 0, 2]);
        raw.extend_from_slice(b"s1{}");
        let want = token(Some("s1".into()), Some("{}".into()));
        assert_eq!(Token::decode(&raw), Some(want.clone()));
        assert_eq!(
            want.encode(),
            Some(raw),
            "those without a key are as they were"
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_or_refused() {
        let keys = Keyring::ephemeral().unwrap();
        let back = |token: &Token| {
            let text = token.seal(&keys, ("s", None))?;
            assert!(text.len() < 1500, "{}", text.len());
            Token::open(&keys, ("s", None), text.as_bytes(), 0)
        };
        let init = |n| Some("i".repeat(n));
        let id = |n| Some("u".repeat(n));
        let mut most = token(id(UPSTREAM_BYTES_BESIDE_INIT_MAX), init(INIT_BYTES_MAX));
        let rollout = RolloutId(Uuid::from_u128(1));
        most.side = Some(Side {
            rollout,
            is_on: true,
        });
        assert_eq!(back(&most), Some(most.clone()));
        for (upstream, init) in [
            (id(8), init(INIT_BYTES_MAX + 1)),
            (id(UPSTREAM_BYTES_MAX), init(8)),
        ] {
            let mut kept = token(upstream, init);
            let opened = back(&kept);
            kept.init = None;
            assert_eq!(opened, Some(kept), "all else is kept");
        }
        assert_eq!(back(&token(id(UPSTREAM_BYTES_MAX + 1), None)), None);
    }

    #[test]
    fn a_session_moves_once_for_all_that_ask_and_again_from_there() {
        let sessions = Sessions::new(11);
        let token = token(None, None);
        let place = |n| Place {
            endpoint: EndpointId(n),
            since_ms: u64::from(n),
            upstream: None,
        };
        assert_eq!(sessions.moved(token.session), None);
        let moving = sessions.moving(&token, &place(7)).unwrap();
        assert!(Arc::ptr_eq(
            &moving,
            &sessions.moving(&token, &place(7)).unwrap()
        ));
        assert_eq!(sessions.moved(token.session), None, "not there yet");
        moving.set(place(8)).unwrap();
        assert_eq!(sessions.moved(token.session), Some(place(8)));
        assert!(Arc::ptr_eq(
            &moving,
            &sessions.moving(&token, &place(7)).unwrap()
        ));
        let again = sessions.moving(&token, &place(8)).unwrap();
        assert!(again.get().is_none());
        // Until the second move is done, and if it fails, it lives where the first one led.
        let stays = |sessions: &Sessions| {
            assert_eq!(sessions.moved(token.session), Some(place(8)));
            for from in [place(7), place(8)] {
                let moving = sessions.moving(&token, &from).unwrap();
                assert!(Arc::ptr_eq(&again, &moving));
            }
        };
        stays(&sessions);
        sessions.sweep(999);
        stays(&sessions);
        again.set(place(9)).unwrap();
        assert_eq!(sessions.moved(token.session), Some(place(9)));
        sessions.sweep(1000);
        assert_eq!(lock(&sessions.moved).len(), 0);
    }

    #[test]
    fn sessions_of_earlier_processes_and_with_state_stay() {
        let sessions = Sessions::new(11);
        let mut token = token(None, None);
        assert!(sessions.is_stateless(&token));
        sessions.mark_stateful(&token);
        assert!(!sessions.is_stateless(&token));
        token.session = Uuid::from_u128(6);
        assert!(sessions.is_stateless(&token));
        sessions.end(token.session);
        assert!(!sessions.is_stateless(&token), "ended");
        token.session = Uuid::from_u128(7);
        token.incarnation = 10;
        assert!(!sessions.is_stateless(&token));
    }

    #[test]
    fn a_full_table_makes_every_session_count_as_having_state() {
        let sessions = Sessions::new(11);
        let mut token = token(None, None);
        for n in 0..=SESSIONS_MAX as u128 {
            token.session = Uuid::from_u128(n);
            sessions.mark_stateful(&token);
        }
        token.session = Uuid::from_u128(u128::MAX);
        assert!(!sessions.is_stateless(&token));
        assert_eq!(lock(&sessions.stateful).sessions.len(), SESSIONS_MAX);
        sessions.sweep(999);
        assert!(!sessions.is_stateless(&token));
        sessions.sweep(1000);
        assert!(
            sessions.is_stateless(&token),
            "all that did not fit are over"
        );
    }

    #[test]
    fn cancelled_calls_are_found_once_and_bounded() {
        let sessions = Sessions::new(11);
        let session = Uuid::from_u128(1);
        sessions.cancel(session, "7", Duration::ZERO);
        sessions.sweep(0);
        assert_eq!(sessions.take_cancelled(session, "8"), None);
        assert!(sessions.take_cancelled(session, "7").unwrap() <= Instant::now());
        assert_eq!(sessions.take_cancelled(session, "7"), None);
        for id in 0..=CANCELLED_MAX {
            sessions.cancel(session, &id.to_string(), Duration::ZERO);
        }
        assert_eq!(
            sessions.take_cancelled(session, "0"),
            None,
            "the oldest went"
        );
        assert!(sessions.take_cancelled(session, "1").is_some());
    }
}
