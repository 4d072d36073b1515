//! `serin run`: starts the server, waits, and tidies up. [`Server`] is the same for the demo.

mod ending;
mod files;
mod limiter;
mod listen;
mod server;
mod tls;

pub(crate) use ending::interrupted;
pub(crate) use server::Server;
pub(crate) use tls::self_signed_cert;

use crate::{
    cli::{Global, RunArgs},
    client::CONFIG_DEFAULT,
    doubts::Doubt,
    exit::Exit,
    problem::{self, Problem},
};
use ending::{Ending, Endings};
use files::Fresh;
use listen::Bound;
use miette::Report;
use serin_config::Config;
use serin_control::chain;
use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// Threads of the control side. One carries a slow scrape while the other ticks.
const CONTROL_THREADS: usize = 2;
/// Time for the gateway's calls after a panic: whoever restarts us waits.
const PANIC_DRAIN: Duration = Duration::from_secs(1);

pub(crate) fn run(global: &Global, args: &RunArgs) -> miette::Result<Exit> {
    let config = load(global)?;
    log_to_stderr(args)?;
    // Everything that is made from here on (store, keys, token, socket) is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let bound = Bound::open(&config)?;
    let endings = Endings::watch(bound.socket.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| {
            failed(
                "no threads can be started",
                "free some memory or processes",
                error,
            )
        })?;
    let exit = runtime.block_on(serve(config, args, bound, endings));
    // A task that is stuck must not keep a process alive whose work is done.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

async fn serve(
    config: Config,
    args: &RunArgs,
    bound: Bound,
    mut endings: Endings,
) -> miette::Result<Exit> {
    endings.arm(args)?;
    let fresh = Fresh {
        keys: args.new_keys,
        kills: args.rebuild_kills,
    };
    // Nothing is being served yet, so there is nothing to wait for.
    let server = tokio::select! {
        server = Server::start_on(config, bound, fresh) => server?,
        ending = endings.next() => return Ok(ending.exit()),
    };
    announce(&server)?;
    let ending = endings.next().await;
    tracing::info!(reason = %ending, "shutting down");
    let stopped = async {
        match ending {
            Ending::Panic => server.stop_within(PANIC_DRAIN).await,
            _ => server.stop().await,
        }
    };
    tokio::select! {
        stopped = stopped => stopped?,
        again = endings.next() => {
            tracing::warn!(reason = %again, "asked again: not waiting any longer");
            return Ok(again.exit());
        }
    }
    Ok(if endings.panicked() {
        Exit::Error
    } else {
        ending.exit()
    })
}

fn load(global: &Global) -> miette::Result<Config> {
    let path = global
        .config
        .as_deref()
        .unwrap_or(Path::new(CONFIG_DEFAULT));
    if global.config.is_none() && !path.exists() {
        return Err(Report::new(Problem::new(
            format!("there is no `{CONFIG_DEFAULT}` in this folder"),
            "name a configuration with `-c FILE`, or write one; an empty file runs with the defaults, and `serin apply` adds services",
        )));
    }
    let checked = Config::load(path).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    Ok(checked.value)
}

/// What of the static settings would keep a process from starting here: files and variables that they name.
pub(crate) fn missing(config: &Config) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (field, tls) in [
        ("gateway.tls", &config.gateway.tls),
        ("admin.tls", &config.admin.tls),
    ] {
        if let Some(error) = tls.as_ref().and_then(tls::problem_of) {
            doubts.push(Doubt {
                what: format!("`{field}`: {}", chain(&error)),
                help: "`serin run` needs these files".to_owned(),
            });
        }
    }
    if let Some(error) = config.limiter.as_ref().and_then(limiter::problem_of) {
        doubts.push(Doubt {
            what: format!("`limiter.redis`: {}", chain(&error)),
            help: "`serin run` needs this variable or file".to_owned(),
        });
    }
    doubts
}

fn log_to_stderr(args: &RunArgs) -> miette::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        Report::new(
            Problem::new(
                format!("`{}` is not a log filter", args.log),
                "write for example `--log info`",
            )
            .because(error),
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Where a line cannot be written, as to a file on a full disk, it is lost: saying so to the same place would be a panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

/// The two lines that scripts wait for.
fn announce(server: &Server) -> miette::Result<()> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "gateway listening on {}", server.gateway_place())
        .and_then(|()| writeln!(out, "admin listening on {}", server.admin_place()))
        .and_then(|()| out.flush());
    match said {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(problem::output(error)),
        _ => Ok(()),
    }
}

fn failed(what: &str, help: &str, error: impl Error + Send + Sync + 'static) -> Report {
    Report::new(Problem::new(what, help).because(error))
}
