//! `serin run`: binds every listener, opens the store, starts control plane, gateway and admin API, waits, and tidies up.

mod ending;
mod files;
mod listen;

use crate::{
    cli::{Global, RunArgs},
    client::CONFIG_DEFAULT,
    exit::Exit,
    problem::{self, Problem},
};
use arc_swap::ArcSwap;
use ending::{Ending, Endings};
use files::Files;
use listen::{AdminListener, Bound};
use miette::Report;
use serin_admin::{Access, Build};
use serin_config::{Config, Cores, builtin_plans};
use serin_control::{Control, ControlError, Options};
use serin_gateway::Gateway;
use serin_model::snapshot::Snapshot;
use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Messages of the cores that may wait for the control plane: at one a core each 100 ms, many seconds of a stalled disk.
const OBSERVATIONS_MAX: usize = 4096;
/// Threads of the control side. One carries a slow scrape while the other ticks.
const CONTROL_THREADS: usize = 2;
/// Time for the last answers of the admin API.
const ADMIN_DRAIN: Duration = Duration::from_secs(2);
/// Time for the gateway's calls after a panic: whoever restarts us waits.
const PANIC_DRAIN: Duration = Duration::from_secs(1);

const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("SERIN_REVISION") {
        Some(revision) => revision,
        None => "unknown",
    },
};

pub(crate) fn run(global: &Global, args: &RunArgs) -> miette::Result<Exit> {
    let config = load(global)?;
    log_to_stderr(args)?;
    // Everything that is made from here on (store, keys, token, socket) is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let bound = Bound::open(&config)?;
    let endings = Endings::watch();
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
    let exit = runtime.block_on(serve(&config, args, bound, endings));
    // A task that is stuck must not keep a process alive whose work is done.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

async fn serve(
    config: &Config,
    args: &RunArgs,
    bound: Bound,
    mut endings: Endings,
) -> miette::Result<Exit> {
    let files = Files::open(config, args.new_keys).await?;
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (observed, observations) = mpsc::channel(OBSERVATIONS_MAX);
    let options = Options {
        log: files.log.clone(),
        blocks: files.blocks.clone(),
        snapshot: Arc::clone(&snapshot),
        observations,
        tick: config.control.tick,
        plans: builtin_plans(),
        manifest: config.manifest.clone(),
    };
    let control = Control::start(options).await.map_err(not_started)?;
    let Bound {
        gateway: listener,
        admin,
        socket,
    } = bound;
    let options = gateway_options(config, &listener)?;
    let gateway =
        Gateway::start(listener, options, files.keys, snapshot, observed).map_err(|error| {
            failed(
                "the gateway cannot be started",
                "free some memory, threads or file descriptors",
                error,
            )
        })?;
    let stop = CancellationToken::new();
    let (admin, admin_place) =
        start_admin(control.clone(), config, admin, files.token, stop.clone())?;
    endings.hold_socket(socket.as_ref());
    announce(&gateway, &admin_place)?;
    endings.arm(args)?;
    let ending = endings.next().await;
    tracing::info!(reason = %ending, "shutting down");
    let drain = if ending == Ending::Panic {
        PANIC_DRAIN
    } else {
        config.gateway.drain
    };
    tokio::select! {
        () = shut_down(gateway, drain, stop, admin) => {}
        again = endings.next() => tracing::warn!(reason = %again, "asked again: not waiting any longer"),
    }
    files.log.close().await;
    files.blocks.close().await;
    drop(socket);
    Ok(if ending == Ending::Panic || endings.panicked() {
        Exit::Error
    } else {
        Exit::Done
    })
}

async fn shut_down(
    gateway: Gateway,
    drain: Duration,
    stop: CancellationToken,
    admin: JoinHandle<io::Result<()>>,
) {
    let report = gateway.shutdown(drain).await;
    if report.cut > 0 {
        tracing::warn!(
            cut = report.cut,
            "some calls and streams were still open after the drain and were cut"
        );
    }
    stop.cancel();
    match tokio::time::timeout(ADMIN_DRAIN, admin).await {
        Ok(Ok(Err(error))) => tracing::error!(%error, "the admin API failed"),
        Ok(_) => {}
        Err(_) => tracing::warn!("an admin request was still open and was cut"),
    }
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
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

fn gateway_options(
    config: &Config,
    listener: &std::net::TcpListener,
) -> miette::Result<serin_gateway::Options> {
    let address = listener.local_addr().map_err(|error| {
        failed(
            "the gateway's listener has no address",
            "start again",
            error,
        )
    })?;
    let settings = &config.gateway;
    let mut options = serin_gateway::Options::for_listener(address);
    if let Cores::Count(count) = settings.cores {
        options.cores = count.get();
    }
    options.hosts.extend(settings.hosts.iter().cloned());
    options.origins.clone_from(&settings.origins);
    options
        .trusted_proxies
        .clone_from(&settings.trusted_proxies);
    options.connections_max = settings.connections_max;
    options.head_bytes_max = settings.header_bytes_max;
    Ok(options)
}

fn start_admin(
    control: Control,
    config: &Config,
    listener: AdminListener,
    token: serin_admin::Token,
    stop: CancellationToken,
) -> miette::Result<(JoinHandle<io::Result<()>>, String)> {
    let cannot = |error| {
        failed(
            "the admin API cannot be started",
            "free some file descriptors",
            error,
        )
    };
    let (listener, place, token) = match listener {
        AdminListener::Tcp(listener) => {
            let address = listener.local_addr().map_err(cannot)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
            (
                serin_admin::Listener::Tcp(listener),
                format!("http://{address}"),
                Some(token),
            )
        }
        AdminListener::Socket(listener, path) => {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(cannot)?;
            (
                serin_admin::Listener::Unix(listener),
                format!("unix:{}", path.display()),
                None,
            )
        }
    };
    let access = Access {
        token,
        hosts: config.gateway.hosts.clone(),
    };
    let router = serin_admin::router(control, access, BUILD, stop.clone());
    Ok((
        tokio::spawn(serin_admin::serve(listener, router, stop)),
        place,
    ))
}

/// The two lines that scripts wait for.
fn announce(gateway: &Gateway, admin: &str) -> miette::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "gateway listening on http://{}", gateway.address())
        .and_then(|()| writeln!(out, "admin listening on {admin}"))
        .and_then(|()| out.flush())
        .or_else(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                Ok(())
            } else {
                Err(problem::output(error))
            }
        })
}

fn not_started(error: ControlError) -> Report {
    match error {
        ControlError::Refused(refusal) => Report::new(Problem::new(
            format!(
                "the services of the configuration cannot be applied: {}",
                refusal.what
            ),
            refusal.help,
        )),
        error => failed(
            "the control plane cannot be started",
            "the cause above says what to do",
            error,
        ),
    }
}

fn failed(what: &str, help: &str, error: impl Error + Send + Sync + 'static) -> Report {
    Report::new(Problem::new(what, help).because(error))
}
