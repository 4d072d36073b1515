//! The writer of the audit trail: it takes the rows of the data plane's requests and puts them into the table `audit_logs`.
//!
//! Each batch goes to a file first (`spill`), by one plain write, and only then, when the store has time, into the table: what a
//! killed process loses are the rows that were not yet in the file, ten milliseconds' worth. The file is not synced, the table is: a
//! power cut loses what was not yet in the table. A store that is slow, locked or broken makes the file longer and nothing else; what
//! no longer fits into memory is read back from there, in order, also after a restart. A row has an id, so that one that is sent to
//! the table twice is there once.
//!
//! Where neither takes a row, as on a full disk, it waits in memory. With `required` the gate shuts until everything is written, so
//! that only requests under way add to what waits; with `best_effort` the oldest go beyond a bound, and are counted.

pub mod questions;
mod spill;

pub use serin_store::{Answer, Cell, sql_time};

use crate::tables::KeyUses;
use jiff::{SignedDuration, Timestamp};
use serin_model::audit::{AuditGate, AuditRow};
use serin_store::{Audit, AuditEntry, PRUNE_ROWS_MAX, StoreError};
use spill::Spill;
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use uuid::Uuid;

/// Batches that wait for the writer before the cores keep them.
const BATCHES_MAX: usize = 1024;
/// Rows of one transaction: larger ones hardly cost less a row, and keep others from the table for longer.
const STORED_ROWS_MAX: usize = 5000;
/// Rows that wait in memory, and in the file, for the table: some ten megabytes. More are in the file alone.
const QUEUED_ROWS_MAX: usize = 20_000;
/// Rows that neither the file nor the table took, unless they must be kept.
const HELD_ROWS_MAX: usize = 50_000;
/// Time until something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Time from one warning of the same to the next.
const WARN_EVERY: Duration = Duration::from_mins(1);
/// Time from one look for rows that are too old to the next.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// Pause between two steps of a removal, in which rows are stored.
const PRUNE_PAUSE: Duration = Duration::from_millis(20);
/// Time to store what is left when the process ends. The rest is in the file, and is stored after the next start.
const FINISH_TIME: Duration = Duration::from_secs(5);

/// What the writer works with.
pub struct Options {
    /// The tables.
    pub tables: Audit,
    /// The file for what the table has not taken yet; a number is put behind its name.
    pub spill: PathBuf,
    /// Whether requests are refused that could not be recorded.
    pub is_required: bool,
    /// How long rows are kept.
    pub retention: Duration,
    /// Where it is noted which keys were used.
    pub key_uses: KeyUses,
    /// What others see of it.
    pub books: Books,
}

/// What others see of the audit trail. Clones share it.
#[derive(Clone, Default)]
pub struct Books(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tables: OnceLock<Audit>,
    stored: AtomicU64,
    spilled: AtomicU64,
    lost: Arc<AtomicU64>,
    waiting: AtomicU64,
    fallbacks: AtomicU64,
    is_recording: AtomicBool,
}

/// What was counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows that the table has taken.
    pub stored: u64,
    /// Rows that had to wait in the file alone.
    pub spilled: u64,
    /// Rows that are nowhere.
    pub lost: u64,
    /// Rows that wait for the table now.
    pub waiting: u64,
}

impl Books {
    /// What was counted; nothing if no rows are kept.
    pub fn counted(&self) -> Counted {
        Counted {
            stored: self.0.stored.load(Relaxed),
            spilled: self.0.spilled.load(Relaxed),
            lost: self.0.lost.load(Relaxed),
            waiting: self.0.waiting.load(Relaxed),
        }
    }

    /// How often the file had to do for the table, and memory for the file, because it took no rows.
    pub fn fallbacks(&self) -> u64 {
        self.0.fallbacks.load(Relaxed)
    }

    /// The counter of rows that are nowhere, for those who lose some.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.lost)
    }

    /// Whether there is a writer of rows. Where there is none the tables have what earlier ones wrote.
    pub fn is_recording(&self) -> bool {
        self.0.is_recording.load(Relaxed)
    }

    /// Makes the tables known to those who ask.
    pub fn open(&self, tables: &Audit) {
        // It is said once, at the start.
        let _ = self.0.tables.set(tables.clone());
    }

    /// Asks the tables something; nothing if there are none.
    ///
    /// # Errors
    /// The tables cannot be read, or not in time.
    pub async fn ask(&self, sql: &str, values: &[Cell]) -> Result<Option<Answer>, StoreError> {
        match self.0.tables.get() {
            Some(tables) => tables.ask(sql, values).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The running writer.
pub struct Recorder {
    rows: mpsc::Sender<Vec<AuditRow>>,
    gate: AuditGate,
    ended: oneshot::Receiver<()>,
}

impl Recorder {
    /// Starts the writer, which begins with what an earlier one left in the file.
    ///
    /// # Errors
    /// What was left cannot be read, or there are no more threads.
    pub fn start(options: Options) -> io::Result<Self> {
        let (rows, batches) = mpsc::channel(BATCHES_MAX);
        let gate = AuditGate::default();
        let writer = Writer {
            spill: Spill::open(&options.spill)?,
            gate: gate.clone(),
            held: VecDeque::new(),
            queue: VecDeque::new(),
            storing: None,
            retry_at: [None; 2],
            warned: [None; 2],
            options,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (end, ended) = oneshot::channel();
        let books = writer.options.books.clone();
        // A thread of its own: a write to a disk that hangs must hold up nothing else.
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                runtime.block_on(writer.run(batches));
                let _ = end.send(());
            })?;
        books.0.is_recording.store(true, Relaxed);
        Ok(Self { rows, gate, ended })
    }

    /// Where rows go.
    pub fn rows(&self) -> mpsc::Sender<Vec<AuditRow>> {
        self.rows.clone()
    }

    /// Shut while rows must be kept and cannot.
    pub fn gate(&self) -> AuditGate {
        self.gate.clone()
    }

    /// Waits until all that was sent is stored, or in the file. Everybody else who may send has to be gone.
    pub async fn finish(self) {
        drop(self.rows);
        let time = FINISH_TIME * 2;
        if tokio::time::timeout(time, self.ended).await.is_err() {
            tracing::error!("the audit trail could not be written to its end: its disk hangs");
        }
    }
}

struct Writer {
    options: Options,
    gate: AuditGate,
    spill: Spill,
    /// Rows that are neither in the file nor in the table.
    held: VecDeque<AuditEntry>,
    /// Rows that are in the file, and go to the table next.
    queue: VecDeque<AuditEntry>,
    storing: Option<Storing>,
    /// When the file, and the table, is tried again, where it failed.
    retry_at: [Option<Instant>; 2],
    /// When it was last said that the file, and the table, take nothing.
    warned: [Option<Instant>; 2],
}

/// Rows on their way into the table.
struct Storing {
    rows: Arc<Vec<AuditEntry>>,
    /// They are not in the file.
    were_held: bool,
    task: JoinHandle<Result<u64, StoreError>>,
}

#[derive(Clone, Copy)]
enum Place {
    File,
    Table,
}

impl Writer {
    async fn run(mut self, mut batches: mpsc::Receiver<Vec<AuditRow>>) {
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let mut until = None;
        self.count_missing();
        loop {
            self.spill_held();
            self.store_next();
            self.report();
            if let Some(until) = until
                && (self.is_idle() || Instant::now() >= until)
            {
                break;
            }
            let retry = self.retry_at.into_iter().chain([until]).flatten().min();
            let retry = retry.map(tokio::time::Instant::from_std);
            let has_timer = retry.is_some();
            let retry = retry.unwrap_or_else(tokio::time::Instant::now);
            tokio::select! {
                batch = batches.recv(), if until.is_none() => match batch {
                    Some(batch) => {
                        self.take(batch);
                        while self.held.len() < STORED_ROWS_MAX && let Ok(batch) = batches.try_recv() {
                            self.take(batch);
                        }
                    }
                    None => until = Some(Instant::now() + FINISH_TIME),
                },
                stored = stored(&mut self.storing) => self.stored(stored),
                () = tokio::time::sleep_until(retry), if has_timer => self.retry(),
                _ = prune.tick(), if until.is_none() => self.prune(),
            }
        }
        self.end();
    }

    /// What failed a while ago may be tried again.
    fn retry(&mut self) {
        let now = Instant::now();
        for retry_at in &mut self.retry_at {
            retry_at.take_if(|at| *at <= now);
        }
    }

    /// The file, or the table, failed.
    fn failed(&mut self, place: Place) {
        self.retry_at[place as usize] = Some(Instant::now() + RETRY_AFTER);
        self.options.books.0.fallbacks.fetch_add(1, Relaxed);
    }

    fn count_missing(&mut self) {
        let missing = self.spill.take_missing();
        self.options.books.0.lost.fetch_add(missing, Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.storing.is_none()
            && self.queue.is_empty()
            && self.held.is_empty()
            && self.spill.behind() == 0
    }

    fn take(&mut self, rows: Vec<AuditRow>) {
        // With a key that opens nothing any more nothing was used.
        let opened = rows.iter().filter(|row| row.status != 401);
        let uses = opened.filter_map(|row| {
            let at = Timestamp::from_microsecond(row.at_micros).ok()?;
            Some((&*row.key_hash, at))
        });
        self.options
            .key_uses
            .note(uses.filter(|(hash, _)| !hash.is_empty()));
        self.held.extend(rows.into_iter().map(entry));
    }

    /// Puts what is held into the file.
    fn spill_held(&mut self) {
        if self.held.is_empty() || self.retry_at[Place::File as usize].is_some() {
            return;
        }
        let fits =
            self.spill.behind() == 0 && self.queue.len() + self.held.len() <= QUEUED_ROWS_MAX;
        match self.spill.append(self.held.make_contiguous(), fits) {
            Ok(()) => {
                if fits {
                    self.queue.append(&mut self.held);
                } else {
                    self.options
                        .books
                        .0
                        .spilled
                        .fetch_add(self.held.len() as u64, Relaxed);
                    self.held.clear();
                }
                self.open_gate();
            }
            Err(error) => self.cannot_spill(&error),
        }
    }

    fn cannot_spill(&mut self, error: &io::Error) {
        self.failed(Place::File);
        let is_required = self.options.is_required;
        if is_required && !self.gate.is_shut() {
            self.gate.shut(true);
            tracing::error!(%error, "requests cannot be recorded and are refused; make room on the disk of the audit trail");
        }
        let lost = self.held.len().saturating_sub(HELD_ROWS_MAX);
        if !is_required && lost > 0 {
            self.held.drain(..lost);
            self.options.books.0.lost.fetch_add(lost as u64, Relaxed);
        }
        if self.may_warn(Place::File) {
            tracing::warn!(%error, waiting = self.held.len(), lost = self.options.books.counted().lost,
                "requests cannot be recorded; make room on the disk of the audit trail");
        }
    }

    fn open_gate(&mut self) {
        self.warned[Place::File as usize] = None;
        if self.gate.is_shut() {
            self.gate.shut(false);
            tracing::info!("requests can be recorded again and are served");
        }
    }

    /// Gives the table something to do, if it has nothing.
    fn store_next(&mut self) {
        if self.storing.is_some() || self.retry_at[Place::Table as usize].is_some() {
            return;
        }
        if self.queue.is_empty() && self.spill.behind() > 0 {
            match self.spill.read(STORED_ROWS_MAX) {
                Ok(rows) => self.queue.extend(rows),
                Err(error) => {
                    self.retry_at[Place::Table as usize] = Some(Instant::now() + RETRY_AFTER);
                    if self.may_warn(Place::File) {
                        tracing::warn!(%error, "the rows in the file of the audit trail cannot be read");
                    }
                }
            }
            self.count_missing();
        }
        let were_held = self.queue.is_empty() && self.spill.behind() == 0;
        let from = if were_held {
            &mut self.held
        } else {
            &mut self.queue
        };
        let rows: Vec<_> = from.drain(..from.len().min(STORED_ROWS_MAX)).collect();
        if rows.is_empty() {
            return;
        }
        let rows = Arc::new(rows);
        let (tables, sent) = (self.options.tables.clone(), Arc::clone(&rows));
        self.storing = Some(Storing {
            rows,
            were_held,
            task: tokio::spawn(async move { tables.append(&sent).await }),
        });
    }

    fn stored(&mut self, (storing, result): (Storing, Result<u64, StoreError>)) {
        let count = storing.rows.len();
        match result {
            Ok(new) => {
                self.options.books.0.stored.fetch_add(new, Relaxed);
                self.warned[Place::Table as usize] = None;
                if storing.were_held {
                    if self.held.is_empty() {
                        self.open_gate();
                    }
                } else if let Err(error) = self.spill.done(count as u64) {
                    // It only means that they are stored again after a restart, which changes nothing.
                    tracing::debug!(%error, "a file of the audit trail could not be removed");
                }
            }
            Err(error) => {
                let rows = Arc::unwrap_or_clone(storing.rows);
                let back = if storing.were_held {
                    &mut self.held
                } else {
                    &mut self.queue
                };
                for row in rows.into_iter().rev() {
                    back.push_front(row);
                }
                self.failed(Place::Table);
                if self.may_warn(Place::Table) {
                    tracing::warn!(%error, waiting = self.waiting(),
                        "the table of the audit trail takes no rows; they wait in a file beside it");
                }
            }
        }
    }

    fn waiting(&self) -> u64 {
        let storing = self
            .storing
            .as_ref()
            .map_or(0, |storing| storing.rows.len());
        (self.held.len() + self.queue.len() + storing) as u64 + self.spill.behind()
    }

    fn report(&self) {
        self.options.books.0.waiting.store(self.waiting(), Relaxed);
    }

    fn may_warn(&mut self, place: Place) -> bool {
        let warned = &mut self.warned[place as usize];
        let may = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if may {
            *warned = Some(Instant::now());
        }
        may
    }

    /// Removes what is too old, beside the rest.
    fn prune(&self) {
        let retention =
            SignedDuration::try_from(self.options.retention).unwrap_or(SignedDuration::MAX);
        let Ok(before) = Timestamp::now().checked_sub(retention) else {
            return;
        };
        let tables = self.options.tables.clone();
        tokio::spawn(async move {
            loop {
                match tables.prune(before).await {
                    Ok(removed) if removed < u64::from(PRUNE_ROWS_MAX) => return,
                    Ok(_) => tokio::time::sleep(PRUNE_PAUSE).await,
                    Err(error) => {
                        tracing::warn!(%error, "old rows of the audit trail could not be removed; this is tried again in an hour");
                        return;
                    }
                }
            }
        });
    }

    fn end(&mut self) {
        let lost = self.held.len();
        if lost > 0 {
            self.options.books.0.lost.fetch_add(lost as u64, Relaxed);
            tracing::error!(
                lost,
                "requests could not be recorded before the end, and their rows are lost"
            );
        }
        let waiting = self.waiting() - lost as u64;
        if waiting > 0 {
            tracing::warn!(
                waiting,
                "rows of the audit trail are still in its file; they are stored after the next start"
            );
        }
    }
}

/// Waits for what is on its way into the table; for ever if nothing is.
async fn stored(storing: &mut Option<Storing>) -> (Storing, Result<u64, StoreError>) {
    let Some(under_way) = storing else {
        return std::future::pending().await;
    };
    let result = (&mut under_way.task).await;
    match (storing.take(), result) {
        (Some(storing), Ok(result)) => (storing, result),
        // The store has no such panic, and what was sent is sent again after a restart.
        (_, Err(_)) | (None, _) => std::future::pending().await,
    }
}

/// A row as the table has it.
fn entry(row: AuditRow) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7().to_string().into(),
        at_micros: row.at_micros,
        tenant: row.tenant,
        subject: row.subject,
        key_hash: row.key_hash,
        endpoint: row.endpoint,
        method: row.method,
        status: row.status,
        duration_ms: row.duration_ms,
        address: row.address.map(|address| address.to_string().into()),
        user_agent: row.user_agent,
        error: row.error,
        service: row.service,
        version: row.version,
        rpc_method: row.rpc_method,
        tool: row.tool,
        outcome: row.outcome.into(),
        arguments: row.arguments,
    }
}
