//! Connections to endpoints: one small pool a core, behind one [`Pool::send`].
//!
//! A request is given back for another attempt only while no byte of it was sent: when no connection could be made, or when
//! a pooled one turned out to be closed. What a server may have seen is never sent twice.

use crate::{body::ToUpstream, connection};
use http::{HeaderValue, Request, Response, Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serin_model::{auth::Upstream, name::EndpointId, snapshot::EndpointRoute};
use serin_tls::{ServerName, TlsConnector, Trusts};
use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long a connection may lie idle: less than the five seconds after which uvicorn and Node close theirs, so that a
/// request does not meet a closing one.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Most idle connections a core keeps to an endpoint.
const IDLE_COUNT_MAX: usize = 256;
/// Most headers of an answer.
const HEADERS_MAX: usize = 256;

/// The connections of one core.
pub(crate) struct Pool {
    trusts: Arc<Trusts>,
    targets: RefCell<HashMap<EndpointId, Rc<Target>, foldhash::fast::RandomState>>,
}

/// An endpoint as a place to connect to.
pub(crate) struct Target {
    url: String,
    host: String,
    port: u16,
    address: Option<SocketAddr>,
    secure: Option<Secure>,
    /// The value of `Host`.
    pub(crate) authority: HeaderValue,
    /// The path, without a slash at its end.
    path: String,
    /// The same, ready to use.
    exact: Uri,
    idle: RefCell<Vec<(SendRequest<ToUpstream>, Instant)>>,
}

/// How an endpoint at `https://` is checked.
struct Secure {
    trusts: Arc<Trusts>,
    /// As the service says.
    ca: Option<String>,
    server_name: Option<String>,
    /// What its certificate must be for.
    name: ServerName<'static>,
}

/// A connection that carries a request; given back when its answer was read to the end.
pub(crate) struct Lease {
    target: Rc<Target>,
    sender: SendRequest<ToUpstream>,
}

/// Why a request was not answered.
pub(crate) enum SendError {
    /// No connection, so nothing was sent.
    Connect(Box<Request<ToUpstream>>, io::Error),
    /// The connection broke with the request under way.
    Broken(hyper::Error),
}

/// An endpoint whose URL cannot be used.
pub(crate) struct BadUrl;

impl Pool {
    pub(crate) fn new(trusts: Arc<Trusts>) -> Self {
        Self {
            trusts,
            targets: RefCell::default(),
        }
    }

    /// The place behind an endpoint.
    pub(crate) fn target(
        &self,
        endpoint: &EndpointRoute,
        upstream: &Upstream,
    ) -> Result<Rc<Target>, BadUrl> {
        let mut targets = self.targets.borrow_mut();
        match targets.get(&endpoint.id) {
            Some(target) if target.url == endpoint.url && target.is_checked_as(upstream) => {
                Ok(target.clone())
            }
            _ => {
                let target = Target::new(&endpoint.url, upstream, &self.trusts).ok_or(BadUrl)?;
                let target = Rc::new(target);
                targets.insert(endpoint.id, target.clone());
                Ok(target)
            }
        }
    }

    /// Closes what lay idle for too long.
    pub(crate) fn sweep(&self) {
        self.targets.borrow_mut().retain(|_, target| {
            let mut idle = target.idle.borrow_mut();
            idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_MAX);
            !idle.is_empty() || Rc::strong_count(target) > 1
        });
    }
}

impl Target {
    fn new(url: &str, upstream: &Upstream, trusts: &Arc<Trusts>) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']);
        let (secure, port) = match uri.scheme_str()? {
            "http" => (None, 80),
            "https" => (Some(Secure::new(host, upstream, trusts)?), 443),
            _ => return None,
        };
        let port = authority.port_u16().unwrap_or(port);
        let address = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        let path = uri.path().trim_end_matches('/').to_owned();
        Some(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            port,
            address,
            secure,
            authority: HeaderValue::from_str(authority.as_str()).ok()?,
            exact: origin_form(uri.path())?,
            path,
            idle: RefCell::default(),
        })
    }

    /// Whether the service still says what it said. Of what is not checked it says nothing.
    fn is_checked_as(&self, upstream: &Upstream) -> bool {
        self.secure.as_ref().is_none_or(|secure| {
            secure.ca == upstream.ca && secure.server_name == upstream.server_name
        })
    }

    /// The URI of a request: the endpoint's path, what the client wrote behind the service's path, and its query.
    pub(crate) fn uri(&self, rest: &str, query: Option<&str>) -> Option<Uri> {
        if rest.is_empty() && query.is_none() {
            return Some(self.exact.clone());
        }
        let mut text =
            String::with_capacity(self.path.len() + rest.len() + 2 + query.map_or(0, str::len));
        if rest.is_empty() {
            text += self.exact.path();
        } else {
            text += &self.path;
            text += rest;
        }
        if let Some(query) = query {
            text.push('?');
            text += query;
        }
        origin_form(&text)
    }

    /// Sends a request over an idle connection, or a new one.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut request: Request<ToUpstream>,
        connect_timeout: Duration,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        while let Some(mut sender) = self.take_idle().await {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let target = self.clone();
                    return Ok((response, Lease { target, sender }));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
        let mut sender = match tokio::time::timeout(connect_timeout, self.connect()).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => return Err(SendError::Connect(Box::new(request), error)),
            Err(_) => {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                return Err(SendError::Connect(Box::new(request), error));
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let target = self.clone();
                Ok((response, Lease { target, sender }))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => {
                    SendError::Connect(Box::new(unsent), io::Error::other(error.into_error()))
                }
                None => SendError::Broken(error.into_error()),
            }),
        }
    }

    /// The idle connection used last that can take a request at once.
    async fn take_idle(&self) -> Option<SendRequest<ToUpstream>> {
        poll_fn(|context| {
            let mut idle = self.idle.borrow_mut();
            let mut at = idle.len();
            while at > 0 {
                at -= 1;
                let Some((sender, since)) = idle.get_mut(at) else {
                    break;
                };
                let is_fresh = since.elapsed() < IDLE_MAX;
                match sender.poll_ready(context) {
                    Poll::Ready(Ok(())) if is_fresh => {
                        return Poll::Ready(Some(idle.remove(at).0));
                    }
                    Poll::Ready(_) => drop(idle.remove(at)),
                    // Still busy with the end of its last exchange.
                    Poll::Pending => {}
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    async fn connect(&self) -> io::Result<SendRequest<ToUpstream>> {
        let stream = match self.address {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect((self.host.as_str(), self.port)).await?,
        };
        stream.set_nodelay(true)?;
        connection::keep_alive(&stream)?;
        match &self.secure {
            None => speak(stream).await,
            Some(secure) => Box::pin(secure.speak(stream)).await,
        }
    }
}

impl Secure {
    fn new(host: &str, upstream: &Upstream, trusts: &Arc<Trusts>) -> Option<Self> {
        let name = upstream.server_name.as_deref().unwrap_or(host);
        Some(Self {
            trusts: trusts.clone(),
            ca: upstream.ca.clone(),
            server_name: upstream.server_name.clone(),
            name: ServerName::try_from(name).ok()?.to_owned(),
        })
    }

    async fn speak(&self, stream: TcpStream) -> io::Result<SendRequest<ToUpstream>> {
        let (trusts, ca) = (self.trusts.clone(), self.ca.clone());
        // It may read files, which is nothing for a thread that carries requests.
        let config =
            tokio::task::spawn_blocking(move || trusts.config(ca.as_deref().map(Path::new)));
        let config = config.await?.map_err(io::Error::other)?;
        let connector = TlsConnector::from(config);
        speak(connector.connect(self.name.clone(), stream).await?).await
    }
}

/// Speaks HTTP/1.1 on a stream.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> io::Result<SendRequest<ToUpstream>> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an endpoint broke");
        }
    });
    Ok(sender)
}

impl Lease {
    /// The answer was read to its end: the connection can carry another request.
    pub(crate) fn give_back(self) {
        let mut idle = self.target.idle.borrow_mut();
        if idle.len() < IDLE_COUNT_MAX && !self.sender.is_closed() {
            idle.push((self.sender, Instant::now()));
        }
    }
}

fn origin_form(path: &str) -> Option<Uri> {
    let path: PathAndQuery = path.parse().ok()?;
    Some(Uri::from(path))
}
