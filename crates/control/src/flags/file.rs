//! The file of flags: read at start and followed while the process runs. What cannot be read or is refused changes nothing: the last
//! good content stays in force and the file counts as stale.

use super::{FlagFile, FlagFileStatus};
use crate::{ControlError, orchestrator::Request};
use jiff::Timestamp;
use notify::{RecursiveMode, Watcher as _};
use serin_flags::document::Document;
use serin_model::{
    decide::{self, Command, RefusalKind},
    event::Actor,
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{sleep, timeout},
};

/// Largest file that is read: [`FLAGS_MAX`](serin_flags::table::FLAGS_MAX) flags of some kilobytes, and as much of overrides.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A content that makes no sense is looked at again after so long: somebody may be writing it.
const SETTLE: Duration = Duration::from_millis(100);

/// Follows one file.
pub(crate) struct Follower {
    file: FlagFile,
    /// Weak: a follower keeps no control plane alive.
    requests: mpsc::WeakSender<Request>,
    status: watch::Sender<FlagFileStatus>,
    /// The content that was last looked at.
    seen: Option<Result<String, String>>,
    /// It may be taken another time, as it is.
    is_waiting: bool,
}

impl Follower {
    /// Follows a file.
    pub(crate) fn new(file: FlagFile, requests: &mpsc::Sender<Request>) -> Self {
        let status = FlagFileStatus {
            path: file.path.clone(),
            read_at: None,
            stale: None,
        };
        Self {
            file,
            requests: requests.downgrade(),
            status: watch::Sender::new(status),
            seen: None,
            is_waiting: false,
        }
    }

    /// Reads the file for the first time, and has it put in force by `carry_out`, before anybody listens.
    pub(crate) async fn begin(
        &mut self,
        carry_out: impl AsyncFnOnce(&Actor, &Command) -> Result<(), ControlError>,
    ) {
        let content = read(self.file.path.clone()).await;
        let outcome = match content.as_deref().map(|text| parse(text, true)) {
            Ok(Ok(file)) => {
                let command = Command::ReadFlags(Box::new(file));
                of_answer(carry_out(&self.actor(), &command).await)
            }
            Ok(Err(why)) => Err(NotTaken::Wrong(why)),
            Err(why) => Err(NotTaken::Wrong(why.clone())),
        };
        self.note(content, outcome);
    }

    /// How the file was when it was last looked at.
    pub(crate) fn status(&self) -> watch::Receiver<FlagFileStatus> {
        self.status.subscribe()
    }

    /// Follows the file until control stops. The folder is watched, because whoever replaces a file replaces its entry there, and
    /// so do the symbolic links of a `ConfigMap`; and it is looked at now and then all the same, since some file systems tell nothing.
    pub(crate) async fn follow(mut self) {
        let changed = Arc::new(Notify::new());
        let watcher = watch_folder(&self.file.path, Arc::clone(&changed));
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the folder of the file of flags cannot be watched; the file is looked at now and then");
        }
        while self.requests.strong_count() > 0 {
            let _ = timeout(self.file.poll, changed.notified()).await;
            self.look().await;
        }
    }

    /// Looks at the file, and takes what is new in it, or what could not be taken so far.
    async fn look(&mut self) {
        let mut content = read(self.file.path.clone()).await;
        let is_new = self.seen.as_ref() != Some(&content);
        if !is_new && !self.is_waiting {
            return;
        }
        while !makes_sense(&content) {
            sleep(SETTLE).await;
            let again = read(self.file.path.clone()).await;
            if again == content {
                break;
            }
            content = again;
        }
        let outcome = match &content {
            Ok(text) => self.take(text, is_new).await,
            Err(why) => Err(NotTaken::Wrong(why.clone())),
        };
        self.note(content, outcome);
    }

    fn note(&mut self, content: Result<String, String>, outcome: Result<(), NotTaken>) {
        let (stale, is_waiting) = match outcome {
            Ok(()) => (None, false),
            Err(NotTaken::Wrong(why)) => (Some(why), false),
            Err(NotTaken::NotNow(why)) => (Some(why), true),
        };
        let is_known = stale.is_some() && self.status.borrow().stale == stale;
        if let Some(why) = stale.as_ref().filter(|_| !is_known) {
            tracing::error!(file = %self.file.path.display(), why, "the file of flags is not taken; what was read before stays in force");
        }
        self.status.send_modify(|status| {
            if stale.is_none() {
                status.read_at = Some(Timestamp::now());
            }
            status.stale = stale;
        });
        self.seen = Some(content);
        self.is_waiting = is_waiting;
    }

    /// Puts a content in force.
    async fn take(&self, text: &str, is_new: bool) -> Result<(), NotTaken> {
        let file = parse(text, is_new).map_err(NotTaken::Wrong)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Command {
            actor: self.actor(),
            command: Box::new(Command::ReadFlags(Box::new(file))),
            answer,
        };
        let stopped = || NotTaken::NotNow(ControlError::Stopped.to_string());
        let requests = self.requests.upgrade().ok_or_else(stopped)?;
        requests.send(request).await.map_err(|_| stopped())?;
        drop(requests);
        let answer = answered.await.map_err(|_| stopped())?;
        of_answer(answer.map(drop))
    }

    fn actor(&self) -> Actor {
        let name = self.file.path.file_name().unwrap_or_default();
        Actor::named(&format!("file {}", name.to_string_lossy()))
    }
}

/// Why a content is not in force.
enum NotTaken {
    /// It must be changed first.
    Wrong(String),
    /// The log refuses for now, or a rollout decides about one of the flags: it is tried again.
    NotNow(String),
}

fn of_answer(answer: Result<(), ControlError>) -> Result<(), NotTaken> {
    match answer {
        Ok(()) => Ok(()),
        Err(ControlError::Refused(refusal)) => {
            let why = format!("{}; {}", refusal.what, refusal.help);
            Err(match refusal.kind {
                RefusalKind::Conflict => NotTaken::NotNow(why),
                RefusalKind::NotFound | RefusalKind::Invalid => NotTaken::Wrong(why),
            })
        }
        Err(error) => Err(NotTaken::NotNow(error.to_string())),
    }
}

fn makes_sense(content: &Result<String, String>) -> bool {
    content
        .as_ref()
        .is_ok_and(|text| Document::parse(text).is_ok())
}

fn parse(text: &str, is_new: bool) -> Result<decide::FlagFile, String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    for problem in document.warnings.iter().filter(|_| is_new) {
        tracing::warn!(%problem, "a rule in the file of flags should be mended; one that cannot run makes its flag answer its default");
    }
    Ok(decide::FlagFile {
        flags: document.flags,
        overrides: document.overrides,
    })
}

async fn read(path: PathBuf) -> Result<String, String> {
    let read = move || {
        let mut bytes = Vec::new();
        let file = fs::File::open(&path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "it is larger than {FILE_BYTES_MAX} bytes; remove flags that nobody needs any more"
        ));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

fn watch_folder(path: &Path, changed: Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| changed.notify_one())?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
