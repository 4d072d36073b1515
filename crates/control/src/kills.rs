//! Kills: the switchboard that puts them in force.
//!
//! It holds the book, the kill file, and the latch that the data plane and the flags read. It waits for nobody: not for the
//! orchestrator, not for the log, not for the network.
//!
//! - A kill is first in the book and in the latch, then in the file, then answered; the log gets its copy afterwards.
//! - A revival is first in the log, then in the file, then in the latch. Who wants one must have seen the kill's revision.
//!
//! A crash between two of these steps leaves something killed, never something revived that nobody was told of.

mod file;
mod glass;
mod notify;
mod switches;

pub use file::KillFileError;
pub use glass::{folder_of as break_glass_folder, request as break_glass_request};
pub(crate) use switches::{Errand, Switches, actor as switch_actor};
pub use switches::{SwitchState, SwitchStatus};

use crate::{Control, ControlError, flags::FlagChanges};
use arc_swap::ArcSwap;
use file::KillFile;
use glass::Glass;
use jiff::Timestamp;
use serin_flags::{
    Kill, Kills, Latch, Target,
    kill::{Cause, KillError, Revival, Wish},
};
use serin_judge::LogHistogram;
use serin_model::{
    decide::{Command, Refusal, RefusalKind},
    event::Actor,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task,
};
use uuid::Uuid;

/// How often the folder of break-glass requests is looked into, and another process's writing of the kill file is seen.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a file that could not be written is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// Longest time over which revivals are spread.
pub const SPREAD_MAX: Duration = Duration::from_mins(10);
/// Most changes that wait to be copied to the log. Beyond it only the last one of each target is: what stands in the book.
const PENDING_MAX: usize = 1000;

/// Why something is not killed or revived, or only for as long as this process lives.
#[derive(Debug, thiserror::Error)]
pub enum SwitchboardError {
    /// The wish makes no sense as things are. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] KillError),
    /// It is in force, but not on the disk.
    #[error(
        "{0} is killed and stays so while this process runs, but the kill file cannot be written: after a restart it would not be"
    )]
    NotSaved(Target, #[source] io::Error),
    /// The log has the revival, the file has not.
    #[error(
        "the kill file cannot be written, so {0} stays killed until it can be; the log has the revival already"
    )]
    NotRevived(Target, #[source] io::Error),
}

/// How long kills take from the wish on, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Propagation {
    /// Until requests are stopped.
    pub latch: LogHistogram,
    /// Until it is on the disk.
    pub file: LogHistogram,
    /// Until the log has its copy.
    pub log: LogHistogram,
}

/// The switchboard. Clones share it.
#[derive(Clone)]
pub struct Switchboard(Arc<Inner>);

struct Inner {
    book: Mutex<Book>,
    /// None where kills are to be forgotten: in tests.
    file: Option<Mutex<Saved>>,
    latch: Arc<ArcSwap<Latch>>,
    changes: watch::Sender<u64>,
    copies: Notify,
    /// As the orchestrator last saw them.
    switches: ArcSwap<Vec<SwitchStatus>>,
    propagation: Mutex<Propagation>,
    /// What is being revived with others, and when its turn is.
    spread: Mutex<BTreeMap<Target, Timestamp>>,
}

#[derive(Default)]
struct Book {
    kills: Kills,
    /// Counts changes of the book, to tell whether the file has the latest.
    revision: u64,
    pending: VecDeque<Pending>,
    /// The revision up to which the log is known to have everything.
    copied: u64,
}

struct Pending {
    kill: Kill,
    began: Option<Instant>,
}

struct Saved {
    file: KillFile,
    revision: u64,
}

impl Default for Switchboard {
    /// One without a file: it forgets everything with the process.
    fn default() -> Self {
        Self::new(Kills::default(), None)
    }
}

impl Switchboard {
    /// Opens a kill file, or makes one, and puts in force what it holds and what is asked for in the folder beside the store. From
    /// now on that folder is watched.
    ///
    /// `store` is the file of the log: `serin.db` has `serin.kills` and `serin.db-kill.d/` beside it.
    pub fn open(store: &Path, rebuild: bool) -> Result<Self, KillFileError> {
        let path = store.with_extension("kills");
        let opened = match KillFile::open(&path) {
            Err(KillFileError::Damaged(_)) if rebuild => {
                let io = |source| KillFileError::Io {
                    path: path.clone(),
                    source,
                };
                KillFile::set_aside(&path).map_err(io)?;
                tracing::warn!(path = %path.display(), "the damaged kill file is set aside; its kills are taken from the log");
                KillFile::open(&path)?
            }
            opened => opened?,
        };
        let half = opened.half;
        let board = Self::new(opened.kills, Some(opened.file));
        if half {
            tracing::warn!(path = %path.display(), "one of the two generations in the kill file is damaged: the other one is used, and the log's copies are added");
            // Both are whole again after the next writing.
            if let Err(error) = board.rewrite() {
                tracing::error!(%error, "the kill file cannot be written");
            }
        }
        let mut glass = Glass::new(glass::folder_of(store));
        glass.look(&board);
        board.watch(glass);
        Ok(board)
    }

    fn new(kills: Kills, file: Option<KillFile>) -> Self {
        let latch = Arc::new(ArcSwap::from_pointee(kills.latch()));
        let changes = watch::Sender::new(kills.generation());
        let book = Book {
            // Whether the log has it all is not known yet.
            revision: 1,
            kills,
            ..Book::default()
        };
        let saved = |file| Mutex::new(Saved { file, revision: 1 });
        Self(Arc::new(Inner {
            book: Mutex::new(book),
            file: file.map(saved),
            latch,
            changes,
            copies: Notify::new(),
            switches: ArcSwap::default(),
            propagation: Mutex::default(),
            spread: Mutex::default(),
        }))
    }

    /// Looks for break-glass requests, and tries again what could not be written, for as long as anybody holds the switchboard. A
    /// thread of its own: it works while everything else is stuck.
    fn watch(&self, mut glass: Glass) {
        let weak = Arc::downgrade(&self.0);
        let watcher = thread::Builder::new()
            .name("kills".to_owned())
            .spawn(move || {
                let mut saved_at = Instant::now();
                while let Some(board) = Weak::upgrade(&weak).map(Self) {
                    glass.look(&board);
                    board.take_from_others();
                    if saved_at.elapsed() >= SAVE_AGAIN {
                        saved_at = Instant::now();
                        let revision = board.book().revision;
                        if board.save(revision).is_ok() {
                            glass.settle(&board);
                        }
                    }
                    drop(board);
                    thread::sleep(LOOK_EVERY);
                }
            });
        if let Err(error) = watcher {
            tracing::error!(%error, "no thread for break-glass requests; kill through the admin API");
        }
    }

    /// The latch to read on the way of every request.
    pub fn latch(&self) -> Arc<ArcSwap<Latch>> {
        Arc::clone(&self.0.latch)
    }

    /// Tells whenever the latch was swapped. The number is the book's generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The book.
    pub fn kills(&self) -> Kills {
        self.book().kills.clone()
    }

    /// How long kills took.
    pub fn propagation(&self) -> Propagation {
        lock(&self.0.propagation).clone()
    }

    /// Kills at once, for as long as this process lives; [`Self::keep`] keeps it. None where it was killed already and stays as it is.
    pub fn kill_now(&self, wish: Wish) -> Result<Option<Kill>, KillError> {
        let began = Instant::now();
        let mut book = self.book();
        let Some(kill) = book.kills.kill(wish, Timestamp::now())? else {
            return Ok(None);
        };
        self.put(&mut book, kill.clone(), Some(began));
        drop(book);
        let took = began.elapsed().as_secs_f64();
        lock(&self.0.propagation).latch.record(took);
        tracing::warn!(target = %kill.target, actor = kill.actor, reason = kill.reason, generation = kill.generation, "killed");
        failpoint("kill_in_force");
        Ok(Some(kill))
    }

    /// The kill switches, as they stood at the last tick.
    pub fn switches(&self) -> Arc<Vec<SwitchStatus>> {
        self.0.switches.load_full()
    }

    pub(crate) fn show_switches(&self, switches: Vec<SwitchStatus>) {
        self.0.switches.store(Arc::new(switches));
    }

    /// Kills, and returns when it is in force and on the disk. Waits for the disk.
    pub fn kill(&self, wish: Wish) -> Result<Option<Kill>, SwitchboardError> {
        let (began, target) = (Instant::now(), wish.target.clone());
        let kill = self.kill_now(wish)?;
        self.keep(began, target)?;
        Ok(kill)
    }

    /// Moves what a kill switch killed, for as long as this process lives; [`Self::keep_soon`] keeps it.
    pub(crate) fn shift_now(
        &self,
        make: impl FnOnce(&Kills) -> Result<Kill, KillError>,
    ) -> Result<(), KillError> {
        let mut book = self.book();
        let kill = make(&book.kills)?;
        self.put(&mut book, kill, None);
        Ok(())
    }

    /// Keeps what is in force, without anybody waiting for it. What the disk refuses is tried again.
    pub(crate) fn keep_soon(&self) {
        let board = self.clone();
        task::spawn_blocking(move || {
            let revision = board.book().revision;
            if let Err(error) = board.save(revision) {
                tracing::error!(%error, "the kill file cannot be written");
            }
        });
    }

    /// Keeps what is in force. Waits for the disk.
    pub fn keep(&self, began: Instant, target: Target) -> Result<(), SwitchboardError> {
        let revision = self.book().revision;
        self.save(revision)
            .map_err(|error| SwitchboardError::NotSaved(target, error))?;
        lock(&self.0.propagation)
            .file
            .record(began.elapsed().as_secs_f64());
        failpoint("kill_saved");
        Ok(())
    }

    /// The record that the log must have before [`Self::revive`].
    pub fn revival(&self, wish: Revival) -> Result<Kill, KillError> {
        self.book().kills.revive(wish, Timestamp::now())
    }

    /// Revives what the log says is revived, and returns when that is on the disk and in force. Whether it is: somebody may have killed
    /// it again meanwhile. Waits for the disk.
    pub fn revive(&self, revived: &Kill) -> Result<bool, SwitchboardError> {
        failpoint("revival_logged");
        self.take_logged(vec![revived.clone()])
            .map_err(|error| SwitchboardError::NotRevived(revived.target.clone(), error))?;
        let is_so = self.book().kills.get(&revived.target) == Some(revived);
        if is_so {
            tracing::warn!(target = %revived.target, actor = revived.actor, reason = revived.reason, "revived");
        }
        Ok(is_so)
    }

    /// Takes what the log has and the book has not: after a start, or when an answer of the log got lost.
    pub(crate) fn take_from_log(&self, logged: &Kills) -> io::Result<()> {
        let newer = {
            let mut kills = self.book().kills.clone();
            let newer = logged.iter().filter(|kill| kills.take((*kill).clone()));
            newer.cloned().collect::<Vec<_>>()
        };
        if newer.is_empty() {
            return Ok(());
        }
        self.take_logged(newer)
    }

    /// What stops more is in force at once; what stops less when it is on the disk.
    fn take_logged(&self, records: Vec<Kill>) -> io::Result<()> {
        let (killed, other): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|kill| kill.position == serin_flags::kill::Position::Killed);
        let mut book = self.book();
        for kill in killed {
            self.put_known(&mut book, kill);
        }
        let revision = book.revision;
        drop(book);
        self.save(revision)?;
        if other.is_empty() {
            return Ok(());
        }
        self.write_with(&other)?;
        failpoint("revival_saved");
        let mut book = self.book();
        for kill in other {
            self.put_known(&mut book, kill);
        }
        // The file is written once more within a second: somebody may have killed meanwhile.
        Ok(())
    }

    /// Records that the log has not: all that happened since it was last told, oldest first.
    pub(crate) fn to_copy(&self, logged: &Kills) -> Vec<Kill> {
        let mut book = self.book();
        if !book.pending.is_empty() {
            return book
                .pending
                .iter()
                .map(|pending| pending.kill.clone())
                .collect();
        }
        if book.copied == book.revision {
            return Vec::new();
        }
        let mut known = logged.clone();
        let mut missing: Vec<_> = book
            .kills
            .iter()
            .filter(|kill| known.take((*kill).clone()))
            .cloned()
            .collect();
        missing.sort_by_key(|kill| kill.generation);
        if missing.is_empty() {
            book.copied = book.revision;
        }
        missing
    }

    /// Whether the log has something newer. What was revived long ago is not missed.
    pub(crate) fn is_behind(&self, logged: &Kills) -> bool {
        let book = self.book();
        logged
            .iter()
            .any(|kill| match book.kills.get(&kill.target) {
                Some(known) => kill.generation > known.generation,
                None => kill.is_active(),
            })
    }

    /// The log has these.
    pub(crate) fn copied(&self, records: &[Kill]) {
        let mut book = self.book();
        let mut took = Vec::new();
        book.pending.retain(|pending| {
            let is_copied = records.contains(&pending.kill);
            if is_copied {
                took.extend(pending.began.map(|began| began.elapsed().as_secs_f64()));
            }
            !is_copied
        });
        drop(book);
        let mut propagation = lock(&self.0.propagation);
        for seconds in took {
            propagation.log.record(seconds);
        }
    }

    /// Completes when there is something to copy.
    pub(crate) async fn nudged(&self) {
        self.0.copies.notified().await;
    }

    /// Takes what another process wrote into the file: one that takes over, or one that still drains.
    fn take_from_others(&self) {
        if let Some(file) = &self.0.file {
            self.absorb(&mut lock(file));
        }
    }

    fn absorb(&self, saved: &mut Saved) {
        match saved.file.written_by_others() {
            Ok(Some(kills)) => {
                let mut book = self.book();
                for kill in kills.iter() {
                    self.put_known(&mut book, kill.clone());
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the kill file cannot be read"),
        }
    }

    fn put(&self, book: &mut Book, kill: Kill, began: Option<Instant>) {
        if !book.kills.take(kill.clone()) {
            return;
        }
        book.pending.push_back(Pending { kill, began });
        while book.pending.len() > PENDING_MAX {
            book.pending.pop_front();
        }
        self.swap(book);
        self.0.copies.notify_one();
    }

    fn put_known(&self, book: &mut Book, kill: Kill) {
        if book.kills.take(kill) {
            self.swap(book);
        }
    }

    /// The book is locked, so that latches are swapped in the order of their books.
    fn swap(&self, book: &mut Book) {
        book.kills.trim();
        book.revision += 1;
        self.0.latch.store(Arc::new(book.kills.latch()));
        self.0.changes.send_replace(book.kills.generation());
    }

    /// Writes the book, unless the file has this revision of it already: of kills that come together, the first writes for all.
    fn save(&self, revision: u64) -> io::Result<()> {
        let Some(file) = &self.0.file else {
            return Ok(());
        };
        let mut saved = lock(file);
        if saved.revision >= revision {
            return Ok(());
        }
        self.absorb(&mut saved);
        let (kills, revision) = {
            let book = self.book();
            (book.kills.clone(), book.revision)
        };
        saved.file.write(&kills)?;
        saved.revision = revision;
        Ok(())
    }

    fn rewrite(&self) -> io::Result<()> {
        self.write_with(&[])
    }

    /// Writes the book as it will be with these records.
    fn write_with(&self, records: &[Kill]) -> io::Result<()> {
        let Some(file) = &self.0.file else {
            return Ok(());
        };
        let mut saved = lock(file);
        self.absorb(&mut saved);
        let mut kills = self.kills();
        for kill in records {
            kills.take(kill.clone());
        }
        kills.trim();
        saved.file.write(&kills)
    }

    fn is_saved(&self) -> bool {
        let revision = self.book().revision;
        self.0
            .file
            .as_ref()
            .is_none_or(|file| lock(file).revision >= revision)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.0.book)
    }
}

/// Flags answer something else when the latch was swapped.
pub(crate) async fn tell(mut changes: watch::Receiver<u64>, flags: FlagChanges) {
    while changes.changed().await.is_ok() {
        flags.note();
    }
}

impl Control {
    /// The book of kills.
    pub fn kills(&self) -> Kills {
        self.kills.kills()
    }

    /// Tells whenever something was killed or revived.
    pub fn kill_changes(&self) -> watch::Receiver<u64> {
        self.kills.changes()
    }

    /// How long kills took.
    pub fn kill_propagation(&self) -> Propagation {
        self.kills.propagation()
    }

    /// What is being revived with others, one after another, and when its turn is.
    pub fn coming_back(&self) -> BTreeMap<Target, Timestamp> {
        lock(&self.kills.0.spread).clone()
    }

    /// The kill switches, as they stood at the last tick; one that was applied since is among them.
    pub fn kill_switches(&self) -> Arc<Vec<SwitchStatus>> {
        self.kills.switches()
    }

    /// Kills: in force and on the disk when it returns. Waits neither for the orchestrator nor for the log. None where it was killed
    /// already and stays as it is.
    pub async fn kill(&self, wish: Wish) -> Result<Option<Kill>, ControlError> {
        let (began, target) = (Instant::now(), wish.target.clone());
        let kill = self.kills.kill_now(wish).map_err(SwitchboardError::from)?;
        let board = self.kills.clone();
        task::spawn_blocking(move || board.keep(began, target))
            .await
            .map_err(|_| ControlError::Stopped)??;
        Ok(kill)
    }

    /// Revives: in the log, on the disk and in force when it returns.
    pub async fn revive(&self, wish: Revival) -> Result<Kill, ControlError> {
        failpoint("revival_asked");
        let revival = self.kills.revival(wish).map_err(SwitchboardError::from)?;
        let actor = Actor::named(&revival.actor);
        // What it ends goes before it, if the log has not got it yet.
        let before = self.kills.kills().get(&revival.target).cloned();
        let records = before.into_iter().chain([revival.clone()]).collect();
        self.command(actor, Command::CopyKills(records)).await?;
        let (board, revived) = (self.kills.clone(), revival.clone());
        let is_so = task::spawn_blocking(move || board.revive(&revived))
            .await
            .map_err(|_| ControlError::Stopped)??;
        if is_so {
            return Ok(revival);
        }
        Err(ControlError::Refused(Refusal {
            kind: RefusalKind::Conflict,
            what: format!("`{}` was killed again meanwhile", revival.target),
            help: "look at it with `serin kills`".to_owned(),
        }))
    }
}

impl Control {
    /// Revives everything that was killed when the book was at revision `seen`, one after another over so long: what comes back at
    /// once may break at once. Each waits for the log as any revival does; what is killed again meanwhile stays killed. How many there
    /// are.
    pub fn revive_all(
        &self,
        (actor, reason): (&str, &str),
        seen: u64,
        over: Duration,
    ) -> Result<usize, ControlError> {
        let kills = self.kills.kills();
        if kills.generation() != seen {
            return Err(ControlError::Refused(Refusal {
                kind: RefusalKind::Conflict,
                what: format!(
                    "the book of kills is at revision {}, not {seen}",
                    kills.generation()
                ),
                help: "look at it with `serin kills`, and revive with the revision it shows"
                    .to_owned(),
            }));
        }
        let wishes = kills.active().map(|kill| Revival {
            target: kill.target.clone(),
            seen: kill.generation,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            cause: Cause::Manual,
        });
        // What is wrong with the wish is wrong with each.
        let wishes = wishes
            .map(|wish| self.kills.revival(wish.clone()).map(|_| wish))
            .collect::<Result<Vec<_>, _>>()
            .map_err(SwitchboardError::from)?;
        let count = wishes.len();
        let turns = turns(wishes, over.min(SPREAD_MAX));
        let now = Timestamp::now();
        lock(&self.kills.0.spread).extend(turns.iter().map(|(wish, after)| {
            let at = now.checked_add(*after).unwrap_or(now);
            (wish.target.clone(), at)
        }));
        tokio::spawn(self.clone().revive_spread(turns));
        Ok(count)
    }

    async fn revive_spread(self, turns: Vec<(Revival, Duration)>) {
        let began = tokio::time::Instant::now();
        for (wish, after) in turns {
            tokio::time::sleep_until(began + after).await;
            let target = wish.target.clone();
            if let Err(error) = self.revive(wish).await {
                tracing::error!(%target, error = %error, "not revived with the others");
            }
            lock(&self.kills.0.spread).remove(&target);
        }
    }
}

/// Revivals in a random order, each somewhere in its own part of the time.
fn turns(mut wishes: Vec<Revival>, over: Duration) -> Vec<(Revival, Duration)> {
    wishes.sort_by_cached_key(|_| Uuid::new_v4());
    let part = over.div_f64((wishes.len() as f64).max(1.0));
    let turns = wishes.into_iter().zip(0_u32..).map(|(wish, slot)| {
        let jitter = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        (wish, part.mul_f64(f64::from(slot) + jitter))
    });
    turns.collect()
}

/// Records are whole whatever somebody else left half done: a poisoned lock is no reason not to kill.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where tests stop a process for good, to see what the next one finds: the step that `SERIN_TEST_STOP_AT` names. Not in release
/// builds.
pub(crate) fn failpoint(step: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("SERIN_TEST_STOP_AT").is_some_and(|at| at == step) {
        tracing::error!(step, "stopped for a test");
        loop {
            thread::park();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_flags::kill::{Position, Priority};
    use std::path::PathBuf;

    fn wish(target: &str) -> Wish {
        Wish {
            target: target.parse().unwrap(),
            actor: "ops".to_owned(),
            reason: "because".to_owned(),
            cause: Cause::Manual,
            priority: Priority::High,
            grace_seconds: 0,
        }
    }

    fn revival(board: &Switchboard, target: &str) -> Kill {
        let target: Target = target.parse().unwrap();
        let seen = board.kills().get(&target).unwrap().generation;
        board
            .revival(Revival {
                target,
                seen,
                actor: "ops".to_owned(),
                reason: "mended".to_owned(),
                cause: Cause::Manual,
            })
            .unwrap()
    }

    fn killed(board: &Switchboard) -> Vec<String> {
        let kills = board.kills();
        kills.active().map(|kill| kill.target.to_string()).collect()
    }

    fn store() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("serin.db");
        (folder, store)
    }

    #[test]
    fn what_was_answered_is_there_after_a_restart() {
        let (_folder, store) = store();
        let board = Switchboard::open(&store, false).unwrap();
        let mut changes = board.changes();
        board.kill(wish("flags")).unwrap();
        assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == 1);
        board.kill(wish("system")).unwrap();
        assert!(
            board
                .latch()
                .load()
                .stops_flags(None, serin_flags::Environment::Test)
        );
        let revived = revival(&board, "system");
        assert!(board.revive(&revived).unwrap());
        let again = Switchboard::open(&store, false).unwrap();
        assert_eq!(
            (killed(&again), again.kills()),
            (vec!["flags".to_owned()], board.kills())
        );
    }

    #[test]
    fn who_kills_while_another_revives_wins() {
        let (_folder, store) = store();
        let board = Switchboard::open(&store, false).unwrap();
        board.kill(wish("flags")).unwrap();
        let revived = revival(&board, "flags");
        board.kill(wish("flags")).unwrap();
        assert!(!board.revive(&revived).unwrap());
        assert_eq!(killed(&board), ["flags"]);
        assert_eq!(
            killed(&Switchboard::open(&store, false).unwrap()),
            ["flags"]
        );
    }

    #[test]
    fn many_at_once_are_all_in_force_and_all_kept() {
        let (_folder, store) = store();
        let board = Switchboard::open(&store, false).unwrap();
        thread::scope(|scope| {
            for n in 0..8 {
                let board = &board;
                scope.spawn(move || {
                    for turn in 0..10 {
                        let target = format!("tool:a/{n}-{turn}");
                        board.kill(wish(&target)).unwrap();
                        assert!(board.latch().load().stops_tool("a", &target[7..]).is_some());
                        if turn % 2 == 0 {
                            assert!(board.revive(&revival(board, &target)).unwrap());
                        }
                    }
                });
            }
        });
        assert_eq!(killed(&board).len(), 40);
        assert_eq!(
            Switchboard::open(&store, false).unwrap().kills(),
            board.kills()
        );
    }

    #[test]
    fn what_another_process_kills_is_in_force_here_too() {
        let (_folder, store) = store();
        let here = Switchboard::open(&store, false).unwrap();
        let there = Switchboard::open(&store, false).unwrap();
        there.kill(wish("flags")).unwrap();
        here.kill(wish("system")).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while killed(&here).len() + killed(&there).len() < 4 {
            assert!(
                Instant::now() < deadline,
                "{:?} {:?}",
                killed(&here),
                killed(&there)
            );
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(killed(&Switchboard::open(&store, false).unwrap()).len(), 2);
    }

    #[test]
    fn the_log_gets_everything_once_and_in_order() {
        let board = Switchboard::default();
        let mut logged = Kills::default();
        assert!(board.to_copy(&logged).is_empty());
        board.kill(wish("flags")).unwrap();
        board.kill(wish("system")).unwrap();
        board.kill(wish("flags")).unwrap();
        let records = board.to_copy(&logged);
        let generations: Vec<_> = records.iter().map(|kill| kill.generation).collect();
        assert_eq!(generations, [1, 2, 3], "also those that were overtaken");
        board.copied(&records[..1]);
        assert_eq!(board.to_copy(&logged), records[1..]);
        for record in &records {
            logged.take(record.clone());
        }
        board.copied(&records);
        assert!(board.to_copy(&logged).is_empty());
        assert_eq!(board.propagation().log.count(), 3);
        // A log from before: what it lacks is found by comparing.
        let empty = Switchboard::new(board.kills(), None);
        assert_eq!(empty.to_copy(&Kills::default()).len(), 2);
    }

    #[test]
    fn what_only_the_log_has_is_taken() {
        let (_folder, store) = store();
        let other = Switchboard::default();
        other.kill(wish("flags")).unwrap();
        other.kill(wish("system")).unwrap();
        other.revive(&revival(&other, "system")).unwrap();
        let board = Switchboard::open(&store, false).unwrap();
        board.kill(wish("system")).unwrap();
        assert!(board.is_behind(&other.kills()));
        board.take_from_log(&other.kills()).unwrap();
        assert_eq!(killed(&board), ["flags"]);
        assert!(!board.is_behind(&other.kills()));
        assert_eq!(
            Switchboard::open(&store, false).unwrap().kills(),
            board.kills()
        );
        // At the same generation, what is killed stays killed.
        let mut tied = other.kills().get(&Target::System).unwrap().clone();
        tied.position = Position::Killed;
        let board = Switchboard::new(Kills::default(), None);
        board.take_logged(vec![tied]).unwrap();
        board.take_from_log(&other.kills()).unwrap();
        assert_eq!(killed(&board), ["system", "flags"]);
    }
}
