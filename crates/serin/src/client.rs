//! The client of the admin API: finds address and token, sends, and shows refusals as they came.

use crate::{
    cli::Global,
    problem::{self, Problem},
};
use miette::Report;
use reqwest::{Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use serin_config::{AdminListen, Config, Tls};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// The configuration that is read when none is named.
pub(crate) const CONFIG_DEFAULT: &str = "serin.yaml";
/// Where the admin API is when nothing says so.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9090";
/// Time for an answer: a pre-flight asks every endpoint.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Time for a connection on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a byte after which a watched process counts as gone: it says something every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// As much as is shown of what somebody else says.
const SAID_CHARS_MAX: usize = 200;
/// What to do when nobody answers.
const HELP_UNREACHABLE: &str = "start `serin run`, or name another with `--admin URL` or `-c FILE`";
/// Largest event of a watched service: a picture with some hundred tools is far below it.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A client of one admin API.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// As it is named to people.
    place: String,
    token: Option<String>,
    /// Why there is no token, for the moment when one is asked for.
    token_missing: Option<Report>,
    actor: String,
    was_refused: bool,
}

impl Client {
    /// Finds address and token: as told, else as the configuration says.
    pub(crate) fn find(global: &Global) -> miette::Result<Self> {
        let config = configured(global)?;
        let admin = match (&global.admin, &config) {
            (Some(admin), _) => admin.clone(),
            (None, Some(config)) => match &config.admin.listen {
                AdminListen::Tcp(address) if address.port() == 0 => {
                    return Err(Report::new(Problem::new(
                        "the configuration leaves the port of the admin API open",
                        "name it with `--admin http://ADDRESS`; `serin run` printed it at its start",
                    )));
                }
                AdminListen::Tcp(address) if config.admin.tls.is_some() => {
                    format!("https://{address}")
                }
                AdminListen::Tcp(address) => format!("http://{address}"),
                AdminListen::Socket(path) => format!("unix:{}", path.display()),
            },
            (None, None) => ADMIN_DEFAULT.to_owned(),
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(trust(global, config.as_ref(), &admin)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX.max(TIMEOUT))
            .no_proxy();
        let base = if let Some(path) = admin.strip_prefix("unix:") {
            builder = builder.unix_socket(Path::new(path));
            "http://localhost".to_owned()
        } else if admin.starts_with("http://") || admin.starts_with("https://") {
            admin.trim_end_matches('/').to_owned()
        } else {
            format!("http://{}", admin.trim_end_matches('/'))
        };
        let http = builder.build().map_err(|error| {
            Report::new(
                Problem::new(
                    "no HTTP client can be made",
                    "look at this machine's settings",
                )
                .because(error),
            )
        })?;
        let (token, token_missing) = if admin.starts_with("unix:") {
            (None, None)
        } else {
            match token(global, config.as_ref()) {
                Ok(token) => (token, None),
                Err(report) => (None, Some(report)),
            }
        };
        let actor = std::env::var("USER").unwrap_or_default();
        Ok(Self {
            http,
            base,
            place: admin,
            token,
            token_missing,
            actor,
            was_refused: false,
        })
    }

    /// Whether the admin API has understood what was asked, and refused it.
    pub(crate) const fn was_refused(&self) -> bool {
        self.was_refused
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> miette::Result<T> {
        let request = self.request(Method::GET, path);
        let response = self.send(request).await?;
        self.read(response).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> miette::Result<T> {
        let request = self.request(Method::POST, path).json(body);
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// With a body and any verb.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> miette::Result<T> {
        let request = self.request(method, path).json(body);
        let response = self.send(request).await?;
        self.read(response).await
    }

    pub(crate) async fn post_text<T: DeserializeOwned>(
        &mut self,
        path: &str,
        text: String,
    ) -> miette::Result<T> {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/yaml")
            .body(text);
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// Follows a stream of server-sent events.
    pub(crate) async fn follow(&mut self, path: &str) -> miette::Result<Events> {
        let request = self.http.get(format!("{}{path}", self.base));
        let response = self.send(self.dressed(request)).await?;
        Ok(Events {
            response,
            buffer: Vec::new(),
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.dressed(
            self.http
                .request(method, format!("{}{path}", self.base))
                .timeout(TIMEOUT),
        )
    }

    fn dressed(&self, request: RequestBuilder) -> RequestBuilder {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        // A name that cannot stand in a header is left out: the token counts, the name is for the log.
        match http_value(&self.actor) {
            Some(actor) => request.header(serin_admin::access::ACTOR_HEADER, actor),
            None => request,
        }
    }

    async fn send(&mut self, request: RequestBuilder) -> miette::Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == reqwest::StatusCode::UNAUTHORIZED
            && let Some(report) = self.token_missing.take()
        {
            return Err(report);
        }
        let status = response.status();
        self.was_refused = status.is_client_error()
            && status != reqwest::StatusCode::UNAUTHORIZED
            && status != reqwest::StatusCode::FORBIDDEN;
        let body = response.bytes().await.unwrap_or_default();
        let problem = serde_json::from_slice::<serin_admin::problem::Problem>(&body);
        Err(Report::new(match problem {
            Ok(problem) => Problem::new(problem.detail, problem.help),
            Err(_) => Problem::new(
                format!("{} answered {status}{}", self.place, said(&body)),
                "is this the admin API of serin? name it with `--admin URL`",
            ),
        }))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> miette::Result<T> {
        response.json().await.map_err(|error| {
            Report::new(
                Problem::new(
                    format!("the answer of {} cannot be read", self.place),
                    "are this command and `serin run` of the same release?",
                )
                .because(error),
            )
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> Report {
        let (what, help) = if error.is_timeout() {
            ("did not answer in time", HELP_UNREACHABLE)
        } else if has_bad_certificate(&error) {
            (
                "shows a certificate that cannot be checked",
                "name the certificates that it is checked by with `--ca FILE` or `SERIN_CA` (what `self_signed` makes is STORE.tls-cert.pem), and the API by a name that its certificate has",
            )
        } else {
            ("cannot be reached", HELP_UNREACHABLE)
        };
        Report::new(
            Problem::new(format!("the admin API at {} {what}", self.place), help)
                .because(error.without_url()),
        )
    }
}

/// Whether the other side could not prove that it is whom we asked.
fn has_bad_certificate(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The beginning of what somebody says who is not the admin API, behind a colon.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.trim().lines().next().unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let line: String = line.chars().take(SAID_CHARS_MAX).collect();
    if line.is_empty() {
        line
    } else {
        format!(": {line}")
    }
}

/// The payloads of server-sent events, one by one.
pub(crate) struct Events {
    response: Response,
    buffer: Vec<u8>,
}

impl Events {
    /// The next one; nothing when the stream has ended.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> miette::Result<Option<T>> {
        let broken = |error: reqwest::Error| {
            Report::new(
                Problem::new(
                    "the connection to the admin API broke",
                    "look whether `serin run` still runs, and try again",
                )
                .because(error.without_url()),
            )
        };
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..at + 2).collect();
                // The server writes one `data` line an event, and comments to keep the connection.
                let data = event
                    .split(|byte| *byte == b'\n')
                    .find_map(|line| line.strip_prefix(b"data:"));
                if let Some(data) = data {
                    return serde_json::from_slice(data).map(Some).map_err(|error| {
                        Report::new(
                            Problem::new(
                                "an event of the admin API cannot be read",
                                "are this command and `serin run` of the same release?",
                            )
                            .because(error),
                        )
                    });
                }
                continue;
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(Report::new(Problem::new(
                    format!("an event of the admin API has more than {EVENT_BYTES_MAX} bytes"),
                    "is this the admin API of serin? name it with `--admin URL`",
                )));
            }
            match self.response.chunk().await.map_err(broken)? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// The configuration, where one is named or stands in this folder.
pub(crate) fn configured(global: &Global) -> miette::Result<Option<Config>> {
    let path = match &global.config {
        Some(path) => path.clone(),
        None if Path::new(CONFIG_DEFAULT).exists() => PathBuf::from(CONFIG_DEFAULT),
        None => return Ok(None),
    };
    let checked = Config::load(&path).map_err(problem::refused)?;
    Ok(Some(checked.value))
}

/// Whom an admin API at `https://` is checked by: as told, else the one that `serin run` made, else the system's.
fn trust(
    global: &Global,
    config: Option<&Config>,
    admin: &str,
) -> miette::Result<serin_tls::ClientConfig> {
    if !admin.starts_with("https://") {
        return Ok(serin_tls::trusts_nobody());
    }
    let made = config.filter(|config| config.admin.tls == Some(Tls::SelfSigned));
    let made = made.map(crate::run::self_signed_cert);
    let ca = global.ca.clone().or(made);
    let config = serin_tls::Trusts::default().config(ca.as_deref());
    let config = config.map_err(|error| {
        Report::new(
            Problem::new(
                "the admin API cannot be checked",
                "name the certificates that it is checked by with `--ca FILE`",
            )
            .because(error),
        )
    })?;
    Ok((*config).clone())
}

fn token(global: &Global, config: Option<&Config>) -> miette::Result<Option<String>> {
    if global.token_file.is_none()
        && let Ok(token) = std::env::var("SERIN_TOKEN")
    {
        // Out of a file it often comes with the end of its line.
        let token = token.trim();
        if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Report::new(Problem::new(
                "the admin API needs its token, and what `SERIN_TOKEN` holds is none",
                "put the token or a key into it, in one line, or unset it",
            )));
        }
        return Ok(Some(token.to_owned()));
    }
    let file = global
        .token_file
        .as_deref()
        .or(config.map(|config| config.admin.token_file.as_path()));
    let Some(file) = file else {
        return Err(Report::new(Problem::new(
            "the admin API needs its token, and nothing says where that is",
            "run this beside `serin.yaml` or with `-c FILE`, or name the token with `--token-file FILE` or `SERIN_TOKEN`",
        )));
    };
    match serin_admin::Token::read(file) {
        Ok(token) => Ok(Some(token.as_str().to_owned())),
        Err(error) => Err(Report::new(
            Problem::new(
                "the admin API needs its token, and that cannot be read",
                "`serin run` makes the file at its first start; run this as the same user, or name it with `--token-file FILE`",
            )
            .because(error),
        )),
    }
}

fn http_value(text: &str) -> Option<reqwest::header::HeaderValue> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    fine.then(|| text.parse().ok()).flatten()
}

/// Runs one question and answer.
pub(crate) fn block_on<T>(work: impl Future<Output = miette::Result<T>>) -> miette::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Report::new(
                Problem::new(
                    "this machine gives no resources",
                    "free some memory or file descriptors",
                )
                .because(error),
            )
        })?;
    runtime.block_on(work)
}
