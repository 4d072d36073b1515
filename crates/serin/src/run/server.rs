//! The wiring: store, control plane, gateway and admin API, started in this order and stopped in the other.

use super::{
    failed,
    files::{Files, Fresh},
    limiter,
    listen::{AdminListener, Bound, SocketFile},
    tls::{self, Whose},
};
use crate::{doubts, problem::Problem};
use arc_swap::ArcSwap;
use miette::Report;
use serin_admin::{Access, Build, Token};
use serin_config::{AuditArguments, AuditMode, Config, Cores, Settings, builtin_plans};
use serin_control::{
    Control, ControlError, Options,
    audit::{self, Recorder},
    flags::FlagFile,
    tables::Tables,
};
use serin_flags::table::Forced;
use serin_gateway::{AuditTo, Gateway, Signer};
use serin_model::snapshot::Snapshot;
use serin_store::{Audit, Blocks, Log};
use serin_tls::Acceptor;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Messages of the cores that may wait for the control plane: at one a core each 100 ms, many seconds of a stalled disk.
const OBSERVATIONS_MAX: usize = 4096;
/// Time for the last answers of the admin API.
const ADMIN_DRAIN: Duration = Duration::from_secs(2);

/// Switches flags for one process.
const FLAGS_VARIABLE: &str = "SERIN_FLAGS";

const GATEWAY: Whose = Whose {
    name: "gateway",
    field: "gateway.tls",
};
const ADMIN: Whose = Whose {
    name: "admin API",
    field: "admin.tls",
};

const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("SERIN_REVISION") {
        Some(revision) => revision,
        None => "unknown",
    },
};

/// Everything that `serin run` runs.
pub(crate) struct Server {
    gateway: Gateway,
    gateway_scheme: &'static str,
    control: Control,
    log: Log,
    blocks: Blocks,
    tables: Audit,
    recorder: Option<Recorder>,
    /// Keeps the tables of keys and flags.
    keeper: Tables,
    admin: JoinHandle<io::Result<()>>,
    admin_place: String,
    #[cfg(feature = "demo")]
    token_file: std::path::PathBuf,
    stop: CancellationToken,
    drain: Duration,
    /// Removed when the server is gone.
    _socket: Option<SocketFile>,
}

impl Server {
    /// Starts what a configuration describes.
    #[cfg(feature = "demo")]
    pub(crate) async fn start(config: &std::path::Path) -> miette::Result<Self> {
        let checked = Config::load(config).map_err(crate::problem::refused)?;
        crate::problem::warn(checked.warnings);
        let bound = Bound::open(&checked.value)?;
        Self::start_on(checked.value, bound, Fresh::default()).await
    }

    /// Starts on listeners that are bound.
    pub(super) async fn start_on(
        config: Config,
        bound: Bound,
        fresh: Fresh,
    ) -> miette::Result<Self> {
        let files = Files::open(&config, fresh).await?;
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let (observed, observations) = mpsc::channel(OBSERVATIONS_MAX);
        let mut gateway_options = gateway_options(&config, &bound.gateway)?;
        gateway_options.latch = files.kills.latch();
        gateway_options.tls = tls::acceptor(config.gateway.tls.as_ref(), &config, &GATEWAY)?;
        let gateway_scheme = scheme(gateway_options.tls.as_ref());
        let admin_tls = tls::acceptor(config.admin.tls.as_ref(), &config, &ADMIN)?;
        gateway_options.limiter = (config.limiter.as_ref())
            .map(limiter::backend)
            .transpose()?;
        let options = Options {
            log: files.log.clone(),
            blocks: files.blocks.clone(),
            snapshot: Arc::clone(&snapshot),
            observations,
            tick: config.control.tick,
            plans: builtin_plans(),
            manifest: config.manifest.clone(),
            environment: config.environment,
            forced: forced()?,
            flag_file: flag_file(&config.flags),
            kills: files.kills,
        };
        let control = Control::start(options).await.map_err(not_started)?;
        let control = control.with_signing(Arc::clone(&files.signing));
        let control = control.with_live(gateway_options.loads.clone());
        doubts::log(&control, &config.manifest).await;
        let recorder = recorder(config.audit, config.store.path(), &files.audit, &control)?;
        gateway_options.audit = recorder.as_ref().map(|recorder| AuditTo {
            rows: recorder.rows(),
            gate: recorder.gate(),
            is_required: config.audit.mode == AuditMode::Required,
            with_arguments: config.audit.arguments == AuditArguments::Redacted,
            lost: control.books().lost(),
        });
        let keeper = Tables::start(control.clone(), files.audit.clone());
        let signer = Signer::new(Arc::clone(&files.signing)).since(jiff::Timestamp::now());
        gateway_options.signer = Some(Arc::new(signer));
        gateway_options.key_fetcher = Some(control.key_fetcher());
        let hosts = gateway_options.hosts.clone();
        let gateway = Gateway::start(
            bound.gateway,
            gateway_options,
            files.keys,
            snapshot,
            observed,
        )
        .map_err(|error| {
            failed(
                "the gateway cannot be started",
                "free some memory, threads or file descriptors",
                error,
            )
        })?;
        let stop = CancellationToken::new();
        let flags_token = Token::read_or_create(&config.flags.token_file).map_err(|error| {
            failed(
                "the token for asking flags cannot be used",
                "the cause above says what to do, or set `flags.token_file` to another file",
                error,
            )
        })?;
        let access = Access {
            token: Some(files.token),
            hosts,
            flags_token: Some(flags_token),
            flag_origins: config.flags.origins.clone(),
        };
        let (admin, admin_place) = start_admin(
            control.clone(),
            bound.admin,
            admin_tls,
            access,
            config.settings,
            stop.clone(),
        )?;
        let token_file = config.admin.token_file;
        tracing::info!(token_file = %token_file.display(), "the admin API's token is in this file");
        Ok(Self {
            gateway,
            gateway_scheme,
            control,
            log: files.log,
            blocks: files.blocks,
            tables: files.audit,
            recorder,
            keeper,
            admin,
            admin_place,
            #[cfg(feature = "demo")]
            token_file,
            stop,
            drain: config.gateway.drain,
            _socket: bound.socket,
        })
    }

    /// Where clients reach the services: `http://ADDRESS` or `https://ADDRESS`.
    pub(crate) fn gateway_place(&self) -> String {
        format!("{}://{}", self.gateway_scheme, self.gateway.address())
    }

    /// The address of the same.
    #[cfg(feature = "demo")]
    pub(crate) fn gateway_address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Where the admin API is: `http://ADDRESS`, `https://ADDRESS` or `unix:PATH`.
    pub(crate) fn admin_place(&self) -> &str {
        &self.admin_place
    }

    /// The control plane.
    #[cfg(feature = "demo")]
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// A command line that reaches this server from anywhere on this machine.
    #[cfg(feature = "demo")]
    pub(crate) fn admin_command(&self, command: &str) -> String {
        let program = std::env::current_exe()
            .map_or_else(|_| "serin".to_owned(), |path| path.display().to_string());
        format!(
            "{program} --admin {} --token-file {} {command}",
            self.admin_place,
            self.token_file.display()
        )
    }

    /// Where the metrics are.
    #[cfg(feature = "demo")]
    pub(crate) fn metrics_url(&self) -> String {
        format!("{}/metrics", self.admin_place)
    }

    /// Lets what is under way finish, for as long as the configuration says, and ends.
    pub(crate) async fn stop(self) -> miette::Result<()> {
        let drain = self.drain;
        self.stop_within(drain).await
    }

    /// Lets what is under way finish, for no longer than `most`, and ends.
    pub(crate) async fn stop_within(self, most: Duration) -> miette::Result<()> {
        let report = self.gateway.shutdown(most.min(self.drain)).await;
        if report.cut > 0 {
            tracing::warn!(
                cut = report.cut,
                "some calls and streams were still open after the drain and were cut"
            );
        }
        self.stop.cancel();
        let admin = tokio::time::timeout(ADMIN_DRAIN, self.admin).await;
        if let Some(recorder) = self.recorder {
            recorder.finish().await;
        }
        self.keeper.stop().await;
        drop(self.control);
        self.log.close().await;
        self.blocks.close().await;
        self.tables.close().await;
        match admin {
            Ok(Ok(Err(error))) => Err(failed(
                "the admin API failed",
                "look at its address and start again",
                error,
            )),
            // A panic in it was reported by the panic hook.
            Ok(_) => Ok(()),
            Err(_) => {
                tracing::warn!("an admin request was still open and was cut");
                Ok(())
            }
        }
    }
}

/// What writes a row of each request, if the configuration wants them.
fn recorder(
    wanted: serin_config::Audit,
    log: &std::path::Path,
    tables: &Audit,
    control: &Control,
) -> miette::Result<Option<Recorder>> {
    let books = control.books();
    books.open(tables);
    if wanted.mode == AuditMode::Off {
        return Ok(None);
    }
    let options = audit::Options {
        tables: tables.clone(),
        spill: log.with_extension("audit-spill"),
        is_required: wanted.mode == AuditMode::Required,
        retention: wanted.retention,
        key_uses: control.key_uses(),
        books,
    };
    Recorder::start(options).map(Some).map_err(|error| {
        failed(
            "the audit trail cannot be written",
            "let this user read and write the folder of the store, or write `audit: { mode: off }`",
            error,
        )
    })
}

/// What `SERIN_FLAGS` says.
fn forced() -> miette::Result<Forced> {
    let Some(text) = std::env::var_os(FLAGS_VARIABLE) else {
        return Ok(Forced::default());
    };
    Forced::parse(&text.to_string_lossy()).map_err(|error| {
        failed(
            &format!("the environment variable {FLAGS_VARIABLE} makes no sense"),
            "the cause above says how it is written",
            error,
        )
    })
}

fn flag_file(flags: &serin_config::Flags) -> Option<FlagFile> {
    Some(FlagFile {
        path: flags.file.clone()?,
        poll: flags.poll,
    })
}

fn gateway_options(
    config: &Config,
    listener: &TcpListener,
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
    options.requests_max = settings.requests_max;
    options.environment = config.environment;
    options.head_bytes_max = settings.header_bytes_max;
    Ok(options)
}

fn scheme(tls: Option<&Acceptor>) -> &'static str {
    if tls.is_some() { "https" } else { "http" }
}

fn start_admin(
    control: Control,
    listener: AdminListener,
    tls: Option<Acceptor>,
    access: Access,
    settings: Settings,
    stop: CancellationToken,
) -> miette::Result<(JoinHandle<io::Result<()>>, String)> {
    let cannot = |error| {
        failed(
            "the admin API cannot be started",
            "free some file descriptors",
            error,
        )
    };
    let (listener, place, access) = match listener {
        AdminListener::Tcp(listener) => {
            let address = listener.local_addr().map_err(cannot)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
            let place = format!("{}://{address}", scheme(tls.as_ref()));
            let listener = match tls {
                Some(acceptor) => serin_admin::Listener::Tls(listener, acceptor),
                None => serin_admin::Listener::Tcp(listener),
            };
            (listener, place, access)
        }
        AdminListener::Socket(listener, path) => {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(cannot)?;
            (
                serin_admin::Listener::Unix(listener),
                format!("unix:{}", path.display()),
                // Its permissions say who may connect.
                Access {
                    token: None,
                    flags_token: None,
                    ..access
                },
            )
        }
    };
    let router = serin_admin::router(control, access, BUILD, settings, stop.clone());
    Ok((
        tokio::spawn(serin_admin::serve(listener, router, stop)),
        place,
    ))
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
