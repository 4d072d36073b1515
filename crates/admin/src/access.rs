//! Who may use the admin API: holders of the local token, those whom the file system lets reach the socket, and holders of keys as far
//! as their role and scopes go; and only under a name and from a page that are ours, so that no web page can reach it through a browser
//! (DNS rebinding).

mod caller;

pub(crate) use caller::{Caller, forbidden};

use crate::{App, ofrep, problem::Problem};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serin_route::condition::without_port;
use serin_tenancy::{AdminAction, Directory, key};
use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq as _;

/// The header that says who acts; goes into the log.
pub const ACTOR_HEADER: &str = "x-serin-actor";
/// The actor when nobody is named.
const ACTOR_UNNAMED: &str = "admin";
/// Bytes of randomness in a token: beyond guessing.
const TOKEN_BYTES: usize = 32;
/// Characters of a token: hexadecimal.
pub const TOKEN_CHARS: usize = TOKEN_BYTES * 2;
/// Largest token file that is read.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;
/// What needs no token: what a supervisor and a scraper ask.
const OPEN: [&str; 3] = ["/health", "/ready", "/metrics"];

/// What lets somebody in.
#[derive(Debug)]
pub struct Access {
    /// The token; none on a Unix socket, whose permissions say who may connect.
    pub token: Option<Token>,
    /// Hosts that the gateway takes requests for. Under those that are names the API may be called too, beside `localhost` and addresses;
    /// lower case.
    pub hosts: Vec<String>,
    /// The token that opens the asking of flags, and nothing else.
    pub flags_token: Option<Token>,
    /// `Origin` values of the pages that may ask for flags.
    pub flag_origins: Vec<String>,
}

/// A token in a file of its owner's.
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("cannot {doing} the token file {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error("the token file {} has mode {mode:o}; others must not read it: run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no token.
    #[error("the token file {} holds no token of at least 32 characters; delete it, and `serin run` makes a new one", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

impl Token {
    /// A new one.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let mut text = String::with_capacity(TOKEN_CHARS);
        for byte in bytes {
            text += &format!("{byte:02x}");
        }
        Ok(Self(text))
    }

    /// The token in a file that its owner alone may read.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let token = text.trim();
        // Short ones could be guessed; a header cannot carry others.
        if token.len() < TOKEN_CHARS / 2 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed {
                path: path.to_owned(),
            });
        }
        Ok(Self(token.to_owned()))
    }

    /// The token in a file, or a new one, written there for its owner alone.
    pub fn read_or_create(path: &Path) -> Result<Self, TokenError> {
        match Self::read(path) {
            Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    fn create(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io {
            doing: "create",
            path: path.to_owned(),
            source,
        };
        let token = Self::random().map_err(failed)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        writeln!(file, "{}", token.0)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(token)
    }

    /// As it stands in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether that is it. The time it takes does not tell how much of it was right.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        given.ct_eq(self.0.as_bytes()).into()
    }
}

/// Never shows the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Lets a request through, or answers it. Fails closed: what is not in [`OPEN`] needs everything.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(ofrep::PREFIX) {
        return ofrep::door::guard(&app, request, next).await;
    }
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match admit(&app, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Who a request comes from, if they may do what it does.
fn admit(app: &App, request: &Request) -> Result<Caller, Problem> {
    let headers = request.headers();
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    app.access.check_origin(headers, authority)?;
    let keys = app.control.flags().snapshot;
    let at = Timestamp::now();
    let caller = app.access.caller(headers, &keys.tenancy, at)?;
    // Where there is no route, there is nothing but the answer that says so.
    let action = match request.extensions().get::<MatchedPath>() {
        Some(route) => caller::action(request.method(), route.as_str()),
        None => Some(AdminAction::Read),
    };
    if let Caller::Key { hash, .. } = &caller {
        app.control.key_uses().note([(hash.as_str(), at)]);
    }
    match (action, &caller) {
        (Some(action), _) => caller.check(action)?,
        (None, Caller::Local(_)) => {}
        (None, Caller::Key { .. }) => {
            let method = request.method();
            return Err(
                forbidden(format!("{method} is not there, or not for keys"))
                    .help("`GET /admin/v1/openapi.json` describes every route; those that are not for keys take the local token"),
            );
        }
    }
    Ok(caller)
}

impl Access {
    /// The name under which the API is called, if it is one of ours. `authority` is what HTTP/2 has in place of a Host header.
    pub(crate) fn host<'a>(
        &self,
        headers: &'a HeaderMap,
        authority: Option<&'a str>,
    ) -> Option<&'a str> {
        let host = asked_host(headers, authority);
        self.knows(host).then_some(host)
    }

    fn check_origin(&self, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Problem> {
        let Some(host) = self.host(headers, authority) else {
            let host = asked_host(headers, authority);
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "host",
                format!("`{}` is no name of the admin API", cut(host)),
            )
            .help("call it by its address or as localhost, or add the name to `gateway.hosts`"));
        };
        if let Some(origin) = headers.get(header::ORIGIN)
            && origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://"))
                != Some(host)
        {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "origin",
                format!("pages of {} may not use the admin API", cut(&origin)),
            )
            .help("call it from a program, not from a web page of another origin"));
        }
        Ok(())
    }

    /// By the local token, by a key, or through the socket. Who shows a key is taken for its holder everywhere, also where nothing
    /// would be needed.
    fn caller(
        &self,
        headers: &HeaderMap,
        keys: &Directory,
        now: Timestamp,
    ) -> Result<Caller, Problem> {
        let given = bearer(headers);
        if let Some(text) = given.filter(|text| text.starts_with(key::PREFIX.as_bytes())) {
            // Whoever shows a wrong one is not told what is wrong with it.
            let refused = |_| {
                unauthorized(
                    "the key is not one that opens anything",
                    "look at it with `serin key list`: it may be cut, expired or revoked; `serin key create` makes another",
                )
            };
            let principal = keys.find(text, now).map_err(refused)?;
            let record = principal.key.and_then(|id| keys.record(id));
            return Ok(Caller::key(Arc::clone(principal), record));
        }
        let what = match (&self.token, given) {
            (None, _) => return Ok(Caller::local(headers)),
            (Some(token), Some(given)) if token.is(given) => return Ok(Caller::local(headers)),
            (_, Some(_)) => "the token is not that of this process",
            (_, None) => "the admin API needs its local token, or a key",
        };
        Err(unauthorized(
            what,
            "send `Authorization: Bearer TOKEN`; the token is in the file beside the store that `serin run` names at its start",
        ))
    }

    /// An address is no name: who can be reached by it needs no DNS server of an attacker's.
    fn knows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || address.parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }
}

fn asked_host<'a>(headers: &'a HeaderMap, authority: Option<&'a str>) -> &'a str {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().or(authority).unwrap_or_default(),
        (None, _) => authority.unwrap_or_default(),
        // Two names are none.
        (Some(_), Some(_)) => "",
    }
}

/// The token that a request carries as `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn unauthorized(what: &str, help: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", what).help(help)
}

/// As much of outside text as a message carries.
fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    text.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_tenancy::SecretKey;
    use std::collections::BTreeMap;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn names_and_pages_that_are_not_ours_are_turned_away() {
        let access = Access {
            token: None,
            hosts: vec!["serin.internal".into()],
            flags_token: None,
            flag_origins: vec![],
        };
        for (host, origin, fine) in [
            ("127.0.0.1:9090", None, true),
            ("localhost", None, true),
            ("LOCALHOST:1", None, true),
            ("[::1]:9090", None, true),
            ("serin.internal:9090", None, true),
            ("", None, false),
            ("evil.example:9090", None, false),
            ("127.0.0.1.evil.example", None, false),
            ("localhost:evil", None, false),
            ("10.1.2.3:9090", None, true),
            ("127.0.0.1:9090", Some("http://127.0.0.1:9090"), true),
            ("127.0.0.1:9090", Some("https://127.0.0.1:9090"), false),
            ("127.0.0.1:9090", Some("http://127.0.0.1:8080"), false),
            ("127.0.0.1:9090", Some("http://evil.example"), false),
            ("127.0.0.1:9090", Some("null"), false),
        ] {
            let mut all = headers(&[("host", host)]);
            if let Some(origin) = origin {
                all.insert("origin", origin.parse().unwrap());
            }
            assert_eq!(
                access.check_origin(&all, None).is_ok(),
                fine,
                "{host} {origin:?}"
            );
        }
        assert!(
            access
                .check_origin(&HeaderMap::new(), Some("localhost:9090"))
                .is_ok()
        );
    }

    fn opens(access: &Access, keys: &Directory, value: Option<&str>) -> Option<Caller> {
        let headers = match value {
            Some(value) => headers(&[("authorization", value)]),
            None => HeaderMap::new(),
        };
        access.caller(&headers, keys, Timestamp::UNIX_EPOCH).ok()
    }

    fn access_by(token: Option<Token>) -> Access {
        Access {
            token,
            hosts: vec![],
            flags_token: None,
            flag_origins: vec![],
        }
    }

    #[test]
    fn only_the_token_opens() {
        let access = access_by(Some(Token("s".repeat(64))));
        let with = |value: &str| opens(&access, &Directory::default(), Some(value)).is_some();
        assert!(with(&format!("Bearer {}", "s".repeat(64))));
        assert!(with(&format!("bearer {}", "s".repeat(64))));
        for wrong in [
            "",
            "Bearer ",
            "Bearer s",
            "Basic c2VyaW4=",
            &format!("Bearer {}", "t".repeat(64)),
            &format!("Bearer serin_{}", "0".repeat(86)),
        ] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(opens(&access, &Directory::default(), None).is_none());
    }

    #[test]
    fn a_key_opens_as_itself_also_where_nothing_is_needed() {
        let key = SecretKey::new(&[7; key::RANDOM_BYTES]);
        let (id, hash) = key.parts().unwrap();
        let record = serde_json::from_value(serde_json::json!({
            "id": id, "tenant": "acme", "name": "ci", "hash": hash, "role": "user",
            "created_at": "1970-01-01T00:00:00Z", "expires_at": "1970-01-02T00:00:00Z",
        }));
        let tenant = serde_json::from_value(
            serde_json::json!({"state": "active", "created_at": "1970-01-01T00:00:00Z"}),
        );
        let keys = Directory::new(
            &[("acme".parse().unwrap(), Arc::new(tenant.unwrap()))].into(),
            &[(id, Arc::new(record.unwrap()))].into(),
            &BTreeMap::new(),
        );
        let socket = access_by(None);
        let port = access_by(Some(Token("s".repeat(64))));
        let (whole, cut) = (
            format!("Bearer {}", key.expose()),
            format!("Bearer {}", &key.expose()[..80]),
        );
        for access in [&socket, &port] {
            let caller = opens(access, &keys, Some(&whole)).unwrap();
            assert_eq!(caller.actor().as_str(), format!("key:{id} ci"));
            assert!(!caller.may(AdminAction::Read));
            assert!(opens(access, &keys, Some(&cut)).is_none());
        }
        assert!(opens(&socket, &keys, None).unwrap().may(AdminAction::Keys));
    }

    #[test]
    fn a_token_file_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serin.db.token");
        let made = Token::read_or_create(&path).unwrap();
        assert_eq!(made.as_str().len(), TOKEN_CHARS);
        assert_eq!(
            Token::read_or_create(&path).unwrap().as_str(),
            made.as_str()
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = Token::read_or_create(&path).unwrap_err();
        assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        let short = Token::read_or_create(&path).unwrap_err();
        assert!(matches!(short, TokenError::Malformed { .. }), "{short}");
        fs::remove_file(&path).unwrap();
        assert_ne!(
            Token::read_or_create(&path).unwrap().as_str(),
            made.as_str()
        );
    }
}
