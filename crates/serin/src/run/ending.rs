//! What ends the process: a signal, or a panic anywhere. Nothing hangs half-alive.

use super::listen::SocketFile;
use crate::{cli::RunArgs, problem::Problem};
use miette::Report;
use std::{
    fmt, fs,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

/// Time for a tidy end after a panic; then the process ends as it is.
const TIDY_SECONDS_MAX: Duration = Duration::from_secs(5);

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Interrupt,
    Terminate,
    Panic,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "asked to terminate",
            Self::Panic => "a thread panicked",
        })
    }
}

/// The reasons to end, as they come.
pub(super) struct Endings {
    shared: Arc<Shared>,
    signals: Option<(Signal, Signal)>,
}

#[derive(Default)]
struct Shared {
    panicked: AtomicBool,
    notify: Notify,
    /// What must be removed even when the runtime can no longer do it.
    socket: OnceLock<PathBuf>,
}

impl Endings {
    /// From now on a panic of any thread ends the process: tidily within five seconds, else at once.
    pub(super) fn watch() -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let thread = thread::current();
            tracing::error!(
                thread = thread.name().unwrap_or("unnamed"),
                "a thread panicked; the process ends"
            );
            if !told.panicked.swap(true, Ordering::SeqCst) {
                told.notify.notify_one();
                let told = Arc::clone(&told);
                let _ = thread::Builder::new()
                    .name("last-resort".to_owned())
                    .spawn(move || {
                        thread::sleep(TIDY_SECONDS_MAX);
                        if let Some(socket) = told.socket.get() {
                            let _ = fs::remove_file(socket);
                        }
                        std::process::exit(1);
                    });
            }
        }));
        Self {
            shared,
            signals: None,
        }
    }

    /// The socket to remove in any case.
    pub(super) fn hold_socket(&self, socket: Option<&SocketFile>) {
        if let Some(socket) = socket {
            // There is one socket, and it is told once.
            let _ = self.shared.socket.set(socket.path().to_owned());
        }
    }

    /// Listens to signals. Until then they end the process at once, as there is nothing to finish yet.
    pub(super) fn arm(&mut self, args: &RunArgs) -> miette::Result<()> {
        let cannot = |error| {
            Report::new(
                Problem::new("signals cannot be received", "free some file descriptors")
                    .because(error),
            )
        };
        let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        self.signals = Some((interrupt, terminate));
        #[cfg(debug_assertions)]
        if args.panic_on_usr2 {
            let mut usr2 = signal(SignalKind::user_defined2()).map_err(cannot)?;
            tokio::spawn(async move {
                usr2.recv().await;
                panic!("asked to panic");
            });
        }
        #[cfg(not(debug_assertions))]
        let _ = args;
        Ok(())
    }

    /// The next reason.
    pub(super) async fn next(&mut self) -> Ending {
        let Some((interrupt, terminate)) = &mut self.signals else {
            self.shared.notify.notified().await;
            return Ending::Panic;
        };
        tokio::select! {
            _ = interrupt.recv() => Ending::Interrupt,
            _ = terminate.recv() => Ending::Terminate,
            () = self.shared.notify.notified() => Ending::Panic,
        }
    }

    /// Whether anything has panicked.
    pub(super) fn panicked(&self) -> bool {
        self.shared.panicked.load(Ordering::SeqCst)
    }
}
