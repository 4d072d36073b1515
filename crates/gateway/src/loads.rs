//! How the endpoints do: what is under way at each, whose breaker is open, which is ejected. Shared by the cores, and read by whoever
//! wants to know.
//!
//! What is known of an endpoint is a few atomic numbers, found in a map that is never changed: whoever misses one puts a larger map in
//! its place. What the numbers mean and how they change is said by pure functions ([`Breaker`], [`Window`], [`Ejection`]); here they are
//! compared and swapped.

use crate::session;
use arc_swap::ArcSwap;
use serin_model::{
    name::{EndpointId, ServiceName, VersionName},
    route::Live,
    service::ServiceSettings,
    snapshot::{EndpointRoute, Snapshot, VersionRoute},
};
use serin_route::{
    breaker::{self, Breaker, End, Ticket},
    outlier::{self, Ejection, Window, may_eject},
    standing::{Marks, Standing},
};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Instant,
};

/// Most cycles whose turns are counted when the routing table changes: what takes turns has come and gone then, and all begin anew.
const CYCLES_MAX: usize = 10_000;

type Map<K, V> = ArcSwap<HashMap<K, Arc<V>, foldhash::fast::RandomState>>;

/// How the endpoints do, as the gateway sees it while it serves.
pub struct Loads {
    began: Instant,
    began_ms: u64,
    endpoints: Map<EndpointId, Load>,
    /// Calls under way at the versions that take only so many.
    versions: Map<(ServiceName, VersionName), AtomicUsize>,
    /// Calls under way, whatever the service.
    calls: Arc<AtomicUsize>,
    /// By the hashes of cycles.
    turns: Map<u64, AtomicU64>,
    /// Held while a map is replaced, or an endpoint ejected: neither happens often, and both must look before they do it.
    changing: Mutex<()>,
    /// The position of the routing table by which what is gone was forgotten last.
    swept: AtomicU64,
}

/// How one endpoint does.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicU32,
    breaker: AtomicU64,
    window: AtomicU64,
    ejection: AtomicU64,
    /// It failed more often than it may. Whoever comes next ejects it, knowing the version's other endpoints.
    is_outlier: AtomicBool,
    /// How often its breaker opened, and it was ejected.
    openings: AtomicU64,
    ejections: AtomicU64,
}

/// A request on its way to an endpoint, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Passage {
    loads: Arc<Loads>,
    load: Arc<Load>,
    breaker: breaker::Settings,
    outliers: outlier::Settings,
    /// None once its end was told, or where nothing is learned from it: it was sent although the breaker is open.
    ticket: Option<Ticket>,
    /// Whether the version has other endpoints: the only one is never ejected.
    has_others: bool,
    /// Whether it counts as under way: open streams do not.
    is_counted: bool,
    told: Told,
}

/// What was told of a request to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// That nobody waits any more for what it shows.
    Aside,
    End,
}

/// A place among those that a version, or the gateway, has.
#[derive(Debug)]
pub(crate) struct Room(Arc<AtomicUsize>);

impl Default for Loads {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            began_ms: session::now_ms(),
            endpoints: Map::default(),
            versions: Map::default(),
            calls: Arc::default(),
            turns: Map::default(),
            changing: Mutex::default(),
            swept: AtomicU64::default(),
        }
    }
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads")
            .field("endpoints", &self.endpoints.load())
            .finish_non_exhaustive()
    }
}

impl Live for Loads {
    fn standing(&self, endpoint: EndpointId) -> Standing {
        let endpoints = self.endpoints.load();
        let load = endpoints.get(&endpoint);
        load.map_or_else(Standing::default, |load| load.standing(|| self.now_ms()))
    }

    fn now_ms(&self) -> u64 {
        let since = self.began.elapsed();
        self.began_ms + since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }

    fn turn(&self, cycle: u64) -> u64 {
        if let Some(count) = self.turns.load().get(&cycle) {
            return count.fetch_add(1, Relaxed);
        }
        found(&self.turns, &self.changing, &cycle).fetch_add(1, Relaxed)
    }

    fn next_turn(&self, cycle: u64) -> u64 {
        let turns = self.turns.load();
        turns.get(&cycle).map_or(0, |count| count.load(Relaxed))
    }

    fn marks(&self, endpoint: EndpointId) -> Marks {
        let endpoints = self.endpoints.load();
        let load = endpoints.get(&endpoint);
        load.map_or_else(Marks::default, |load| Marks {
            openings: load.openings.load(Relaxed),
            ejections: load.ejections.load(Relaxed),
        })
    }
}

impl Loads {
    /// A request goes to an endpoint of a version; none if it takes none now.
    pub(crate) fn begin(
        self: &Arc<Self>,
        endpoint: EndpointId,
        version: &VersionRoute,
        settings: &ServiceSettings,
        is_stream: bool,
    ) -> Option<Passage> {
        let load = self.load(endpoint);
        let has_others = version.endpoints.len() > 1;
        if has_others
            && load.is_outlier.load(Relaxed)
            && self.eject(&load, version, &settings.outliers)
        {
            return None;
        }
        let ticket = load.begin(&settings.breaker, || self.now_ms())?;
        let mut passage = self.passage(load, settings, is_stream);
        (passage.ticket, passage.has_others) = (Some(ticket), has_others);
        Some(passage)
    }

    /// The same whatever its breaker says; nothing is learned from it then.
    pub(crate) fn begin_anyway(
        self: &Arc<Self>,
        endpoint: EndpointId,
        settings: &ServiceSettings,
        is_stream: bool,
    ) -> Passage {
        self.passage(self.load(endpoint), settings, is_stream)
    }

    fn passage(
        self: &Arc<Self>,
        load: Arc<Load>,
        settings: &ServiceSettings,
        is_stream: bool,
    ) -> Passage {
        if !is_stream {
            load.in_flight.fetch_add(1, Relaxed);
        }
        Passage {
            loads: self.clone(),
            load,
            breaker: settings.breaker,
            outliers: settings.outliers,
            ticket: None,
            has_others: false,
            is_counted: !is_stream,
            told: Told::Nothing,
        }
    }

    /// A place for a call at a version that has so many; none if they are taken.
    pub(crate) fn room_at(
        &self,
        service: &ServiceName,
        version: &VersionName,
        max: u32,
    ) -> Option<Room> {
        // Names are shared texts: a key costs no allocation.
        let key = (service.clone(), version.clone());
        let taken = found(&self.versions, &self.changing, &key);
        Room::take(taken, usize::try_from(max).unwrap_or(usize::MAX))
    }

    /// A place for a call in a gateway that has so many; none if they are taken.
    pub(crate) fn room(&self, max: usize) -> Option<Room> {
        Room::take(self.calls.clone(), max)
    }

    fn load(&self, endpoint: EndpointId) -> Arc<Load> {
        found(&self.endpoints, &self.changing, &endpoint)
    }

    /// Ejects an endpoint that was found to be an outlier, unless as many of its version's endpoints are ejected as may be.
    fn eject(&self, load: &Load, version: &VersionRoute, settings: &outlier::Settings) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !load.is_outlier.swap(false, Relaxed) {
            return false;
        }
        let (endpoints, now_ms) = (self.endpoints.load(), self.now_ms());
        let ejection = |load: &Load| Ejection::from_bits(load.ejection.load(Acquire));
        let is_ejected = |endpoint: &&EndpointRoute| {
            let load = endpoints.get(&endpoint.id);
            load.is_some_and(|load| ejection(load).lasts(now_ms))
        };
        let ejected = version.endpoints.iter().filter(is_ejected).count();
        if ejection(load).lasts(now_ms) || !may_eject(ejected, version.endpoints.len(), settings) {
            return false;
        }
        let again = ejection(load).again(now_ms, settings);
        load.ejection.store(again.bits(), Release);
        load.ejections.fetch_add(1, Relaxed);
        // It begins anew when it is back.
        load.window.store(Window::default().bits(), Relaxed);
        true
    }

    /// Forgets what is not in the routing table any more. What is under way there keeps what it has.
    pub(crate) fn sweep(&self, snapshot: &Snapshot) {
        if self.swept.swap(snapshot.position, Relaxed) == snapshot.position {
            return;
        }
        let services = || snapshot.services.iter();
        let versions = || services().flat_map(|s| s.versions.iter().map(move |v| (s, v)));
        let endpoints: HashSet<EndpointId> = versions()
            .flat_map(|(_, version)| version.endpoints.iter().map(|endpoint| endpoint.id))
            .collect();
        let names: HashSet<_> = versions()
            .map(|(service, version)| (service.name.clone(), version.name.clone()))
            .collect();
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        retain(&self.endpoints, |id| endpoints.contains(id));
        retain(&self.versions, |key| names.contains(key));
        let are_few = self.turns.load().len() <= CYCLES_MAX;
        retain(&self.turns, |_| are_few);
    }
}

/// What a map has for a key; if it has nothing, it does from now on.
fn found<K: Clone + Eq + Hash, V: Default>(
    map: &Map<K, V>,
    changing: &Mutex<()>,
    key: &K,
) -> Arc<V> {
    if let Some(known) = map.load().get(key) {
        return known.clone();
    }
    let _changing = changing.lock().unwrap_or_else(PoisonError::into_inner);
    // Another core may have been faster.
    let known = map.load();
    if let Some(known) = known.get(key) {
        return known.clone();
    }
    let made = Arc::<V>::default();
    let mut larger = (**known).clone();
    larger.insert(key.clone(), made.clone());
    map.store(Arc::new(larger));
    made
}

fn retain<K: Clone + Eq + Hash, V>(map: &Map<K, V>, is_there: impl Fn(&K) -> bool) {
    let known = map.load();
    if known.keys().all(&is_there) {
        return;
    }
    let left = known.iter().filter(|(key, _)| is_there(key));
    let left = left.map(|(key, value)| (key.clone(), value.clone()));
    map.store(Arc::new(left.collect()));
}

impl Load {
    fn standing(&self, now_ms: impl FnOnce() -> u64) -> Standing {
        let breaker = Breaker::from_bits(self.breaker.load(Relaxed));
        let ejection = Ejection::from_bits(self.ejection.load(Relaxed));
        let standing = Standing {
            in_flight: self.in_flight.load(Relaxed),
            ..Standing::default()
        };
        // An endpoint with which nothing is or was wrong, as nearly all are.
        if breaker == Breaker::default() && ejection == Ejection::default() {
            return standing;
        }
        let now_ms = now_ms();
        let until_ms = Some(ejection.until_ms()).filter(|until_ms| *until_ms > 0);
        let is_ejected = ejection.lasts(now_ms);
        Standing {
            is_open: !breaker.admits(now_ms),
            is_ejected,
            back_since_ms: breaker
                .closed_since_ms()
                .max(until_ms.filter(|_| !is_ejected)),
            ..standing
        }
    }

    fn begin(&self, settings: &breaker::Settings, now_ms: impl Fn() -> u64) -> Option<Ticket> {
        let mut known = self.breaker.load(Relaxed);
        loop {
            // One that is closed does not ask for the time.
            let now_ms = if known == 0 { 0 } else { now_ms() };
            let (next, ticket) = Breaker::from_bits(known).began(now_ms, settings)?;
            match Self::change(&self.breaker, known, next.bits()) {
                Ok(()) => return Some(ticket),
                Err(other) => known = other,
            }
        }
    }

    fn end(&self, ticket: Ticket, end: End, now_ms: u64, settings: &breaker::Settings) {
        let mut known = self.breaker.load(Relaxed);
        loop {
            let next = Breaker::from_bits(known).ended(ticket, end, now_ms, settings);
            match Self::change(&self.breaker, known, next.bits()) {
                Ok(()) => {
                    if next.is_open() && next.bits() != known {
                        self.openings.fetch_add(1, Relaxed);
                    }
                    return;
                }
                Err(other) => known = other,
            }
        }
    }

    /// Counts a request in the window; whether it made the endpoint an outlier.
    fn count(&self, is_failure: bool, now_ms: u64, settings: &outlier::Settings) -> bool {
        let mut known = self.window.load(Relaxed);
        loop {
            let next = Window::from_bits(known).plus(is_failure, now_ms, settings);
            match Self::change(&self.window, known, next.bits()) {
                Ok(()) => return is_failure && next.is_outlier(settings),
                Err(other) => known = other,
            }
        }
    }

    /// Swaps a word, unless it is another one by now. One that stays as it is is not written: the cores would take it from each other.
    fn change(word: &AtomicU64, known: u64, next: u64) -> Result<(), u64> {
        if known == next {
            return Ok(());
        }
        let changed = word.compare_exchange_weak(known, next, AcqRel, Relaxed);
        changed.map(drop)
    }
}

impl Passage {
    /// Whether it shows whether the endpoint works again: others wait for what it says.
    pub(crate) fn is_probe(&self) -> bool {
        self.ticket.is_some_and(Breaker::is_probe)
    }

    /// A probe that takes its time makes room for the next one; what it shows in the end counts all the same, if the others have not shown
    /// more by then.
    pub(crate) fn step_aside(&mut self) {
        if let (Told::Nothing, Some(ticket)) = (self.told, self.ticket) {
            self.told = Told::Aside;
            let now_ms = self.loads.now_ms();
            self.load.end(ticket, End::Unknown, now_ms, &self.breaker);
        }
    }

    /// How it ended. Only the first time counts.
    pub(crate) fn tell(&mut self, end: End) {
        let before = std::mem::replace(&mut self.told, Told::End);
        if before == Told::End {
            return;
        }
        // Its room was given back already.
        let is_no_news = before == Told::Aside && end == End::Unknown;
        let ticket = self.ticket.take().filter(|_| !is_no_news);
        let is_counted =
            self.has_others && end != End::Unknown && self.outliers.failures_percent > 0;
        if ticket.is_none() && !is_counted {
            return;
        }
        let now_ms = self.loads.now_ms();
        if let Some(ticket) = ticket {
            self.load.end(ticket, end, now_ms, &self.breaker);
        }
        if is_counted && self.load.count(end == End::Failed, now_ms, &self.outliers) {
            self.load.is_outlier.store(true, Relaxed);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.tell(End::Unknown);
        if self.is_counted {
            self.load.in_flight.fetch_sub(1, Relaxed);
        }
    }
}

impl Room {
    fn take(taken: Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let is_free = taken.fetch_add(1, Relaxed) < max;
        // One too many gives its place back at once.
        let room = Self(taken);
        is_free.then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_model::{service::Protocol, snapshot::ServiceRoute};
    use std::{ops::Range, thread, time::Duration};

    fn version(ids: Range<u32>) -> VersionRoute {
        let endpoint = |id| EndpointRoute::new(EndpointId(id), format!("http://127.0.0.1/{id}"));
        VersionRoute::new("v1".parse().unwrap(), ids.map(endpoint).collect())
    }

    #[test]
    fn whatever_cores_do_at_once_nothing_stays_under_way_and_no_more_are_ejected_than_may_be() {
        let loads = Arc::new(Loads::default());
        let version = version(1..5);
        let mut settings = ServiceSettings::default();
        settings.breaker.failures = 3;
        settings.breaker.open = Duration::from_millis(1);
        settings.outliers.requests = 5;
        let work = |core: u32| {
            for n in 0..2_000 {
                let endpoint = EndpointId(1 + (n + core) % 4);
                let passage = loads.begin(endpoint, &version, &settings, false);
                let mut passage =
                    passage.unwrap_or_else(|| loads.begin_anyway(endpoint, &settings, false));
                match n % 3 {
                    0 => passage.tell(End::Ok),
                    1 => passage.tell(End::Failed),
                    _ => {}
                }
                let standings = (1..5).map(|id| loads.standing(EndpointId(id)));
                assert!(standings.filter(|standing| standing.is_ejected).count() <= 2);
            }
        };
        thread::scope(|scope| {
            let work = &work;
            for core in 0..4 {
                scope.spawn(move || work(core));
            }
        });
        let standings = (1..5).map(|id| loads.standing(EndpointId(id)));
        assert!(standings.clone().all(|standing| standing.in_flight == 0));
        assert_eq!(standings.filter(|standing| standing.is_ejected).count(), 2);
    }

    #[test]
    fn there_is_room_for_exactly_so_many() {
        let loads = Loads::default();
        let (service, version) = ("tools".parse().unwrap(), "v1".parse().unwrap());
        for _ in 0..3 {
            let at_version = || loads.room_at(&service, &version, 3);
            let held: Vec<_> = (0..5).filter_map(|_| at_version()).collect();
            assert_eq!(held.len(), 3);
            let held: Vec<_> = (0..5).filter_map(|_| loads.room(2)).collect();
            assert_eq!(held.len(), 2);
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_and_turns_are_counted_by_cycle() {
        let loads = Arc::new(Loads::default());
        let settings = ServiceSettings::default();
        for id in 1..5 {
            drop(loads.begin(EndpointId(id), &version(1..5), &settings, false));
        }
        let service = ServiceRoute::new(
            "tools".parse().unwrap(),
            Protocol::Mcp,
            "/mcp",
            vec![version(1..3)],
        );
        loads.sweep(&Snapshot {
            position: 7,
            services: [Arc::new(service)].into_iter().collect(),
            ..Snapshot::default()
        });
        let mut left: Vec<_> = loads.endpoints.load().keys().map(|id| id.0).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 2]);
        let turns = [1, 1, 2, 1, 2, 1 + 1024].map(|cycle| loads.turn(cycle));
        assert_eq!(turns, [0, 1, 0, 2, 1, 0]);
        assert_eq!([1, 2, 3].map(|cycle| loads.next_turn(cycle)), [3, 2, 0]);
        let sweep_at = |position| {
            loads.sweep(&Snapshot {
                position,
                ..Snapshot::default()
            });
        };
        sweep_at(8);
        assert_eq!(loads.next_turn(1), 3, "few are kept");
        let many = (0..).take(CYCLES_MAX + 1);
        let many = many.map(|cycle| (cycle, Arc::default()));
        loads.turns.store(Arc::new(many.collect()));
        sweep_at(9);
        assert!(loads.turns.load().is_empty());
    }
}
