//! What ends the process: a signal, or a panic anywhere. Nothing hangs half-alive.

use super::listen::SocketFile;
use crate::{cli::RunArgs, exit::Exit, problem::Problem};
use miette::Report;
use std::{
    fmt, fs, io,
    sync::{
        Arc,
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
    HangUp,
    Panic,
}

impl Ending {
    /// A server that was asked to end and did has done its job.
    pub(super) const fn exit(self) -> Exit {
        match self {
            Self::Panic => Exit::Error,
            Self::Interrupt | Self::Terminate | Self::HangUp => Exit::Done,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "asked to terminate",
            Self::HangUp => "the terminal is gone",
            Self::Panic => "a thread panicked",
        })
    }
}

/// The signals by which people and supervisors end a process.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
            _ = self.hang_up.recv() => Ending::HangUp,
        }
    }
}

/// Completes when somebody asks the process to end. Where signals cannot be received they end it by themselves.
pub(crate) async fn interrupted() {
    match Signals::listen() {
        Ok(mut signals) => drop(signals.next().await),
        Err(_) => std::future::pending().await,
    }
}

/// The reasons to end, as they come.
pub(super) struct Endings {
    shared: Arc<Shared>,
    signals: Option<Signals>,
}

#[derive(Default)]
struct Shared {
    panicked: AtomicBool,
    notify: Notify,
}

impl Endings {
    /// From now on a panic of any thread ends the process: tidily within five seconds, else at once. `socket` is removed in
    /// any case.
    pub(super) fn watch(socket: Option<&SocketFile>) -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let socket = socket.map(|socket| socket.path().to_owned());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let thread = thread::current();
            tracing::error!(
                thread = thread.name().unwrap_or("unnamed"),
                "a thread panicked; the process ends"
            );
            if told.panicked.swap(true, Ordering::SeqCst) {
                return;
            }
            told.notify.notify_one();
            let socket = socket.clone();
            // Where no thread can be had either, the tidy end is all there is.
            let _ = thread::Builder::new()
                .name("last-resort".to_owned())
                .spawn(move || {
                    thread::sleep(TIDY_SECONDS_MAX);
                    if let Some(socket) = socket {
                        let _ = fs::remove_file(socket);
                    }
                    std::process::exit(1);
                });
        }));
        Self {
            shared,
            signals: None,
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
        self.signals = Some(Signals::listen().map_err(cannot)?);
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
        let Some(signals) = &mut self.signals else {
            self.shared.notify.notified().await;
            return Ending::Panic;
        };
        tokio::select! {
            ending = signals.next() => ending,
            () = self.shared.notify.notified() => Ending::Panic,
        }
    }

    /// Whether anything has panicked.
    pub(super) fn panicked(&self) -> bool {
        self.shared.panicked.load(Ordering::SeqCst)
    }
}
