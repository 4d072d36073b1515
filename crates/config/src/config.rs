//! `serin.yaml`: the static settings (listeners, store, tick), and the resources that are applied at start.

use crate::{
    Checked, ConfigError, Diagnostic, Severity,
    audit::{Audit, AuditFile},
    limiter::{Limiter, LimiterFile},
    position::Path as Field,
    read::{FILE_BYTES_MAX, Report, read, short, split},
    service,
    settings::Settings,
    tls::{self, Tls, TlsFile},
};
use ipnet::IpNet;
use serde::Deserialize;
use serin_flags::Environment;
use serin_model::{
    api::{ApiSpec, ApiVersion},
    manifest::Manifest,
    name::ServiceName,
    plan::Plan,
    service::ServiceSpec,
    switch::KillSwitch,
    text,
};
use serin_route::text::{network_problem, parse_network};
use serin_tenancy::{Tier, TierName};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    mem::take,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the gateway listens unless told.
const GATEWAY_LISTEN: &str = "127.0.0.1:8080";
/// Where the admin API listens unless told.
const ADMIN_LISTEN: &str = "127.0.0.1:9090";
/// Where the log is unless told.
const STORE: &str = "sqlite:serin.db";
/// Connections held at once unless told: with a few file descriptors each, inside the usual limit of 65,536.
pub const CONNECTIONS_MAX_DEFAULT: usize = 10_000;
/// Calls under way at once unless told: as many as there may be connections, each of which carries one with HTTP/1.1.
pub const REQUESTS_MAX_DEFAULT: usize = 10_000;
/// Most calls under way that can be asked for: as many as there may be connections at most.
const REQUESTS_MAX: usize = CONNECTIONS_MAX;
/// Largest head of a request unless told: session tokens are up to about 2 KiB, cookies and credentials the rest.
pub const HEADER_BYTES_MAX_DEFAULT: usize = 64 * 1024;
/// Bounds of `header_bytes_max`: a session token must fit, and every connection may hold so much in memory.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = 8 * 1024..=1024 * 1024;
/// Most connections that can be asked for: the file descriptors of a process end about here.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Most cores that can be asked for.
const CORES_MAX: usize = 1024;
/// Shortest tick: the gateway seals its counts as often as this.
pub const TICK_MIN: Duration = Duration::from_millis(100);
/// Longest tick: beyond it a bad candidate would serve for too long.
pub const TICK_MAX: Duration = Duration::from_mins(1);
/// Time from one look at the file of flags to the next unless told.
const FLAGS_POLL: Duration = Duration::from_secs(1);
/// Bounds of `flags.poll`: below it looking would cost more than it tells; above it a kill by the file would come too late.
const FLAGS_POLL_MIN: Duration = Duration::from_millis(100);
/// The same, above.
const FLAGS_POLL_MAX: Duration = Duration::from_mins(1);
/// Longest drain on shutdown: whoever stops the process has given up long before.
const DRAIN_MAX: Duration = Duration::from_hours(1);

/// A `serin.yaml`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where Serin runs.
    pub environment: Environment,
    /// The data plane.
    pub gateway: Gateway,
    /// The admin API.
    pub admin: Admin,
    /// Where the log is.
    pub store: Store,
    /// The file of flags and who may ask for them.
    pub flags: Flags,
    /// The control plane.
    pub control: Control,
    /// What is kept of requests.
    pub audit: Audit,
    /// Where gateways share the buckets of rate limits; without it each has its own.
    pub limiter: Option<Limiter>,
    /// Services and plans to apply at start.
    pub manifest: Manifest,
    /// The rest, as it is written: what another file is compared with.
    pub settings: Settings,
}

/// The data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How many threads carry calls.
    pub cores: Cores,
    /// `Host` names that calls may carry beside the listener's own, lower case.
    pub hosts: Vec<String>,
    /// `Origin` values that calls may carry beside the listener's own, such as `https://app.example.com`.
    pub origins: Vec<String>,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections held at once; more wait.
    pub connections_max: usize,
    /// Calls under way at once, open streams left out; more are told to come again.
    pub requests_max: usize,
    /// Largest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// Time for calls in flight to finish on shutdown.
    pub drain: Duration,
    /// The certificate that clients are shown; without one, the gateway speaks no TLS.
    pub tls: Option<Tls>,
}

/// How many threads carry calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// As many as the process may use.
    #[default]
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: AdminListen,
    /// The file that holds its token; made at first start.
    pub token_file: PathBuf,
    /// The certificate that it shows; without one, it speaks no TLS.
    pub tls: Option<Tls>,
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// A port; loopback unless `expose` is set.
    Tcp(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

/// The file of flags and who may ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// A flagd document; without one, flags come from the admin API alone.
    pub file: Option<PathBuf>,
    /// Longest time after which a change of the file is seen, also where the file system tells nothing.
    pub poll: Duration,
    /// The file that holds the token for asking flags; made at first start. It opens nothing else.
    pub token_file: PathBuf,
    /// `Origin` values of pages that may ask flags, such as `https://app.example.com`.
    pub origins: Vec<String>,
}

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A file, with the others of the store beside it.
    Sqlite(PathBuf),
}

/// The control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Time from one look at the counts to the next.
    pub tick: Duration,
}

impl Store {
    /// The file of the log.
    pub fn path(&self) -> &Path {
        let Self::Sqlite(path) = self;
        path
    }
}

impl Config {
    /// Reads and checks a file. Relative paths inside it start from its folder.
    pub fn load(path: &Path) -> Result<Checked<Self>, ConfigError> {
        let name = path.display().to_string();
        let refuse = |message, help: &str| {
            let diagnostic = Diagnostic {
                severity: Severity::Error,
                message,
                help: help.to_owned(),
                field: String::new(),
                file: name.clone(),
                position: None,
                source: None,
            };
            ConfigError {
                diagnostics: vec![diagnostic],
            }
        };
        let read = || {
            let mut bytes = Vec::new();
            // One byte more than allowed: a file that is too large is seen as such and not read whole.
            let limit = FILE_BYTES_MAX as u64 + 1;
            std::fs::File::open(path)?
                .take(limit)
                .read_to_end(&mut bytes)?;
            if bytes.len() > FILE_BYTES_MAX {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into())
        };
        let text = read().map_err(|error: std::io::Error| {
            let help = match error.kind() {
                ErrorKind::InvalidData => "save it as UTF-8 text",
                ErrorKind::NotFound => "name another file with `-c FILE`, or create this one",
                _ => "make it a file that this user may read",
            };
            refuse(format!("the file cannot be read: {error}"), help)
        })?;
        Self::parse_in(&text, &name, path.parent().unwrap_or(Path::new("")))
    }

    /// Checks a text. `name` is what the diagnostics call it; relative paths stay as they are.
    pub fn parse(text: &str, name: &str) -> Result<Checked<Self>, ConfigError> {
        Self::parse_in(text, name, Path::new(""))
    }

    fn parse_in(text: &str, name: &str, folder: &Path) -> Result<Checked<Self>, ConfigError> {
        let (file, mut report): (File, Report) = read(text, name)?;
        let config = file.check(folder, &mut report);
        service::check_manifest(&config.manifest, &mut report);
        report.finish(config)
    }
}

/// A file as it was written. Texts become addresses and paths in [`File::check`], so that several can be wrong at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    environment: Environment,
    gateway: GatewayFile,
    admin: AdminFile,
    store: Option<String>,
    control: ControlFile,
    audit: AuditFile,
    limiter: Option<LimiterFile>,
    services: BTreeMap<ServiceName, ServiceSpec>,
    plans: BTreeMap<String, Plan>,
    flags: FlagsFile,
    kill_switches: BTreeMap<Arc<str>, KillSwitch>,
    tiers: BTreeMap<TierName, Tier>,
    api: BTreeMap<ApiVersion, ApiSpec>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FlagsFile {
    file: Option<PathBuf>,
    #[serde(with = "text::duration")]
    poll: Duration,
    token_file: Option<PathBuf>,
    origins: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GatewayFile {
    listen: String,
    cores: String,
    hosts: Vec<String>,
    origins: Vec<String>,
    trusted_proxies: Vec<String>,
    connections_max: usize,
    requests_max: usize,
    header_bytes_max: usize,
    #[serde(with = "text::duration")]
    drain: Duration,
    tls: Option<TlsFile>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdminFile {
    listen: Option<String>,
    socket: Option<PathBuf>,
    token_file: Option<PathBuf>,
    expose: bool,
    tls: Option<TlsFile>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ControlFile {
    #[serde(with = "text::duration")]
    tick: Duration,
}

impl Default for GatewayFile {
    fn default() -> Self {
        Self {
            listen: GATEWAY_LISTEN.to_owned(),
            cores: "auto".to_owned(),
            hosts: Vec::new(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            connections_max: CONNECTIONS_MAX_DEFAULT,
            requests_max: REQUESTS_MAX_DEFAULT,
            header_bytes_max: HEADER_BYTES_MAX_DEFAULT,
            drain: Duration::from_secs(30),
            tls: None,
        }
    }
}

impl Default for ControlFile {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
        }
    }
}

impl File {
    /// Its resources, unchecked; none are left in it.
    pub(crate) fn take_manifest(&mut self) -> Manifest {
        Manifest {
            services: take(&mut self.services),
            plans: take(&mut self.plans),
            kill_switches: take(&mut self.kill_switches),
            tiers: take(&mut self.tiers),
            api: take(&mut self.api),
        }
    }

    /// The static sections that another file has otherwise.
    pub(crate) fn sections_unlike(&self, other: &Self) -> Vec<&'static str> {
        let sections = [
            ("environment", self.environment == other.environment),
            ("gateway", self.gateway == other.gateway),
            ("admin", self.admin == other.admin),
            ("store", self.store == other.store),
            ("flags", self.flags == other.flags),
            ("control", self.control == other.control),
            ("audit", self.audit == other.audit),
            ("limiter", self.limiter == other.limiter),
        ];
        let unlike = sections.into_iter().filter(|(_, is_same)| !is_same);
        unlike.map(|(name, _)| name).collect()
    }

    /// The settings, with everything wrong in them reported. What could not be read stands as its default; the report
    /// then refuses the whole.
    fn check(mut self, folder: &Path, report: &mut Report) -> Config {
        let manifest = self.take_manifest();
        let (settings, _) = Settings::split(self.clone());
        let store = check_store(self.store.as_deref().unwrap_or(STORE), folder, report);
        let gateway = self.gateway.check(folder, report);
        let is_named = manifest
            .services
            .values()
            .any(|service| !service.hosts.is_empty());
        if gateway.listen.ip().is_unspecified() && gateway.hosts.is_empty() && !is_named {
            report.warning(
                &Field::default().key("gateway").key("listen"),
                format!(
                    "clients of other machines are refused: {} is no name by which they call",
                    gateway.listen.ip()
                ),
                "add the names and addresses by which they do, such as `hosts: [mcp.example.com]`",
            );
        }
        let admin = self.admin.check(gateway.listen, &store, folder, report);
        tls::check_environment(
            self.environment,
            [("gateway", &gateway.tls), ("admin", &admin.tls)],
            report,
        );
        let flags = self.flags.check(&store, folder, report);
        let tick = self.control.tick;
        between(
            tick,
            TICK_MIN,
            TICK_MAX,
            &Field::default().key("control").key("tick"),
            report,
        );
        Config {
            environment: self.environment,
            gateway,
            admin,
            store,
            flags,
            control: Control { tick },
            audit: self.audit.check(report),
            limiter: self.limiter.map(|limiter| limiter.check(report)),
            manifest,
            settings,
        }
    }
}

impl Default for FlagsFile {
    fn default() -> Self {
        Self {
            file: None,
            poll: FLAGS_POLL,
            token_file: None,
            origins: Vec::new(),
        }
    }
}

impl FlagsFile {
    fn check(self, store: &Store, folder: &Path, report: &mut Report) -> Flags {
        let at = Field::default().key("flags");
        between(
            self.poll,
            FLAGS_POLL_MIN,
            FLAGS_POLL_MAX,
            &at.key("poll"),
            report,
        );
        for (index, origin) in self.origins.iter().enumerate() {
            check_origin(origin, &at.key("origins").index(index), report);
        }
        Flags {
            file: self.file.map(|file| folder.join(file)),
            poll: self.poll,
            token_file: self
                .token_file
                .map_or_else(|| beside(store, ".flags-token"), |path| folder.join(path)),
            origins: self.origins,
        }
    }
}

/// A file beside the log.
fn beside(store: &Store, suffix: &str) -> PathBuf {
    let mut beside = store.path().as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

impl GatewayFile {
    fn check(self, folder: &Path, report: &mut Report) -> Gateway {
        let at = Field::default().key("gateway");
        let tls = (self.tls).and_then(|tls| tls.check(folder, &at.key("tls"), report));
        for (index, host) in self.hosts.iter().enumerate() {
            service::check_host(host, &at.key("hosts").index(index), report);
        }
        for (index, origin) in self.origins.iter().enumerate() {
            check_origin(origin, &at.key("origins").index(index), report);
        }
        let networks = self.trusted_proxies.iter().enumerate();
        let trusted_proxies = networks
            .filter_map(|(index, text)| {
                let at = at.key("trusted_proxies").index(index);
                let net = parse_network(text).map_err(|error| {
                    let (what, help) = split(&error);
                    report.error(&at, what, help);
                });
                let problem = net.as_ref().ok().and_then(network_problem);
                if let Some((what, help)) = problem {
                    report.error(&at, what, help);
                }
                net.ok()
            })
            .collect();
        between(
            self.connections_max,
            1,
            CONNECTIONS_MAX,
            &at.key("connections_max"),
            report,
        );
        between(
            self.requests_max,
            1,
            REQUESTS_MAX,
            &at.key("requests_max"),
            report,
        );
        let (least, most) = HEADER_BYTES.into_inner();
        between(
            self.header_bytes_max,
            least,
            most,
            &at.key("header_bytes_max"),
            report,
        );
        if self.drain > DRAIN_MAX {
            between(
                self.drain,
                Duration::ZERO,
                DRAIN_MAX,
                &at.key("drain"),
                report,
            );
        }
        Gateway {
            listen: address(&self.listen, GATEWAY_LISTEN, &at.key("listen"), report),
            cores: cores(&self.cores, &at.key("cores"), report),
            hosts: self
                .hosts
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            origins: self.origins,
            trusted_proxies,
            connections_max: self.connections_max,
            requests_max: self.requests_max,
            header_bytes_max: self.header_bytes_max,
            drain: self.drain,
            tls,
        }
    }
}

impl AdminFile {
    fn check(
        self,
        gateway: SocketAddr,
        store: &Store,
        folder: &Path,
        report: &mut Report,
    ) -> Admin {
        let at = Field::default().key("admin");
        let tls = (self.tls).and_then(|tls| tls.check(folder, &at.key("tls"), report));
        if tls.is_some() && self.socket.is_some() {
            report.error(
                &at.key("tls"),
                "a socket of this machine speaks no TLS",
                "remove `tls`, or name a port by `listen` in place of `socket`",
            );
        }
        let listen = match (self.listen, self.socket) {
            (Some(_), Some(_)) => {
                report.error(
                    &at.key("socket"),
                    "the admin API has both a port and a socket",
                    "remove `listen` or `socket`",
                );
                None
            }
            (None, Some(socket)) => Some(AdminListen::Socket(folder.join(socket))),
            (listen, None) => {
                let text = listen.as_deref().unwrap_or(ADMIN_LISTEN);
                let field = at.key("listen");
                let listen = address(text, ADMIN_LISTEN, &field, report);
                if !listen.ip().is_loopback() && !self.expose {
                    report.error(
                        &field,
                        format!("the admin API would be reachable from other machines at {listen}"),
                        format!(
                            "write `listen: 127.0.0.1:{}`, or add `expose: true` beside it if that is wanted",
                            listen.port()
                        ),
                    );
                }
                if listen == gateway && listen.port() != 0 {
                    report.error(
                        &field,
                        format!("the gateway listens at {listen} too"),
                        "give the admin API a port of its own",
                    );
                }
                Some(AdminListen::Tcp(listen))
            }
        };
        let token_file = self
            .token_file
            .map_or_else(|| beside(store, ".token"), |path| folder.join(path));
        let fallback = || AdminListen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        Admin {
            listen: listen.unwrap_or_else(fallback),
            token_file,
            tls,
        }
    }
}

fn check_store(text: &str, folder: &Path, report: &mut Report) -> Store {
    let at = Field::default().key("store");
    let (kind, path) = text.split_once(':').unwrap_or(("", text));
    match kind {
        "sqlite" if path.is_empty() || path.starts_with(':') => report.error(
            &at,
            "the log needs a file: what is only in memory would not outlive a restart",
            format!("write `store: {STORE}`"),
        ),
        "sqlite" => {}
        "postgres" | "postgresql" => report.error(
            &at,
            "PostgreSQL is not in this release",
            format!("write `store: {STORE}`"),
        ),
        _ => report.error(
            &at,
            format!("`{}` is not a store", short(text)),
            format!("write `store: {STORE}`"),
        ),
    }
    // `sqlite://serin.db` is how other programs write it.
    let path = path.strip_prefix("//").unwrap_or(path);
    Store::Sqlite(folder.join(path))
}

fn address(text: &str, example: &str, at: &Field, report: &mut Report) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        report.error(
            at,
            format!("`{}` is not an address and port", short(text)),
            format!(
                "write for example `listen: {example}`, or `0.0.0.0` as address for every interface"
            ),
        );
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn cores(text: &str, at: &Field, report: &mut Report) -> Cores {
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= CORES_MAX => Cores::Count(count),
        _ if text == "auto" => Cores::Auto,
        _ => {
            report.error(
                at,
                format!("`{}` is not a number of cores", short(text)),
                format!("write `auto`, or a number from 1 to {CORES_MAX}"),
            );
            Cores::Auto
        }
    }
}

fn check_origin(origin: &str, at: &Field, report: &mut Report) {
    let fits = url::Url::parse(origin).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == origin
    });
    if !fits {
        report.error(
            at,
            format!("`{}` is not an origin", short(origin)),
            "write scheme and host in lower case, without a path or a default port, such as `https://app.example.com`",
        );
    }
}

/// Refuses what is out of bounds.
pub(crate) fn between<T: PartialOrd + Copy + Shown>(
    value: T,
    least: T,
    most: T,
    at: &Field,
    report: &mut Report,
) {
    if value < least || value > most {
        report.error(
            at,
            format!("{} is out of bounds", value.shown()),
            format!("write a value from {} to {}", least.shown(), most.shown()),
        );
    }
}

/// A setting as it stands in a file.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        // As the document has it: nobody reads 400 days in 9600 hours.
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let days = self.as_secs() / DAY_SECONDS;
        if days >= 7 && *self == Self::from_secs(days * DAY_SECONDS) {
            return format!("{days}d");
        }
        text::format_duration(*self)
    }
}

impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}
