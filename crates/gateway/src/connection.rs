//! What is known of one client connection.

use crate::{auth::Proven, framing::Framing, seal::Owner, session::Token};
use http::HeaderValue;
use serin_model::name::ServiceName;
use serin_tls::Stream;
use socket2::{SockRef, TcpKeepalive};
use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Silence after which a peer is asked whether it is still there, the time between such questions, and how many of them go
/// unanswered before the connection counts as broken: two minutes in all. A stream of events can be silent for ever, and its
/// peer can be gone without a word.
const SILENCE_MAX: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES_MAX: u32 = 4;

/// Time for which a peer that is there may take nothing of what was sent to it. One that reads nothing would hold its answers, and the
/// connection to an endpoint that makes them, for ever.
const UNTAKEN_MAX: Duration = Duration::from_mins(2);

/// Most bytes that the system takes beyond what is on its way. It would take megabytes, and it would look as if the peer had them.
const UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// Lets the system find out that the peer is gone, or takes nothing, and us that it takes what it is sent.
pub(crate) fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(SILENCE_MAX)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES_MAX);
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNTAKEN_MAX))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_keepalive(&probes)
}

/// One client connection.
pub(crate) struct Connection {
    /// The other end.
    pub(crate) address: IpAddr,
    /// Whether it is a proxy whose word about the client is taken.
    pub(crate) is_trusted: bool,
    /// The other end, for `X-Forwarded-For`.
    pub(crate) address_header: HeaderValue,
    /// Whether it is inside TLS.
    pub(crate) is_tls: bool,
    busy: Cell<u32>,
    /// Requests under way on all connections of the core.
    in_flight: Rc<Cell<u32>>,
    idle_since: Cell<Instant>,
    framing: RefCell<Framing>,
    /// Since when a head has been coming in that did not come in one piece.
    head_since: Cell<Option<Instant>>,
    /// What the session id meant that came last: a client's next request mostly brings the same, and unsealing it again would
    /// say the same.
    unsealed: RefCell<Option<Unsealed>>,
    /// Whose the key was that came last.
    pub(crate) proven: RefCell<Option<Proven>>,
}

/// A session id and what it means.
struct Unsealed {
    id: HeaderValue,
    service: ServiceName,
    owner: Option<Owner>,
    token: Rc<Token>,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, is_trusted: bool, in_flight: Rc<Cell<u32>>) -> Self {
        let address = peer.ip().to_canonical();
        Self {
            address,
            is_trusted,
            address_header: HeaderValue::from_str(&address.to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            is_tls: false,
            busy: Cell::new(0),
            in_flight,
            idle_since: Cell::new(Instant::now()),
            framing: RefCell::default(),
            head_since: Cell::new(None),
            unsealed: RefCell::default(),
            proven: RefCell::default(),
        }
    }

    /// What a session id of a service means, if it is the one that came last and its time is not over.
    pub(crate) fn recall(
        &self,
        (service, owner): (&ServiceName, Option<Owner>),
        id: &HeaderValue,
        now_seconds: u64,
    ) -> Option<Rc<Token>> {
        let unsealed = self.unsealed.borrow();
        let same = unsealed
            .as_ref()
            .filter(|last| last.id == id && last.service == *service && last.owner == owner)?;
        (same.token.expires_seconds > now_seconds).then(|| Rc::clone(&same.token))
    }

    /// Remembers what a session id of a service means.
    pub(crate) fn remember(
        &self,
        (service, owner): (&ServiceName, Option<Owner>),
        id: &HeaderValue,
        token: &Rc<Token>,
    ) {
        let (id, service, token) = (id.clone(), service.clone(), Rc::clone(token));
        *self.unsealed.borrow_mut() = Some(Unsealed {
            id,
            service,
            owner,
            token,
        });
    }

    /// Notes that a request has begun.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        Busy(self.clone())
    }

    /// For how long a head has been coming in.
    pub(crate) fn in_head_for(&self) -> Option<Duration> {
        self.head_since.get().map(|since| since.elapsed())
    }

    /// Follows what the client sent.
    fn read(&self, bytes: &[u8]) {
        let mut framing = self.framing.borrow_mut();
        framing.read(bytes);
        let since = if framing.is_in_head() {
            self.head_since.get().or_else(|| Some(Instant::now()))
        } else {
            None
        };
        self.head_since.set(since);
    }

    /// For how long no request has been under way. A head that comes in drop by drop is no request yet.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        (self.busy.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Whether a head had both `Transfer-Encoding` and `Content-Length`, which hyper does not say.
    pub(crate) fn has_conflicting_lengths(&self) -> bool {
        self.framing.borrow().conflicts()
    }
}

/// A request under way; the connection is idle again when it is dropped.
pub(crate) struct Busy(Rc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
        let in_flight = &self.0.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}

/// A client's socket that follows what it reads.
pub(crate) struct Tap {
    pub(crate) stream: Stream,
    pub(crate) connection: Rc<Connection>,
}

impl AsyncRead for Tap {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        this.connection.read(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn the_system_watches_over_a_silent_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        keep_alive(&stream).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE_MAX);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES_MAX);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNTAKEN_MAX));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
    }

    #[test]
    fn only_the_last_session_of_the_same_service_is_recalled_and_only_in_its_time() {
        let connection = Connection::new(([127, 0, 0, 1], 1).into(), false, Rc::default());
        let [tools, other] = ["tools", "other"].map(|name| name.parse::<ServiceName>().unwrap());
        let [first, second] = ["one", "two"].map(HeaderValue::from_static);
        let token = |session: u128| {
            Rc::new(Token {
                session: Uuid::from_u128(session),
                endpoint: serin_model::name::EndpointId(1),
                incarnation: 1,
                issued_ms: 0,
                expires_seconds: 100,
                is_tester: false,
                side: None,
                by_split: false,
                key: None,
                upstream: None,
                init: None,
            })
        };
        assert_eq!(connection.recall((&tools, None), &first, 0), None);
        connection.remember((&tools, None), &first, &token(1));
        assert_eq!(
            connection.recall((&tools, None), &first, 99),
            Some(token(1))
        );
        assert_eq!(
            connection.recall((&tools, None), &first, 100),
            None,
            "its time is over"
        );
        assert_eq!(
            connection.recall((&other, None), &first, 0),
            None,
            "another service"
        );
        assert_eq!(
            connection.recall((&tools, None), &second, 0),
            None,
            "another session"
        );
        connection.remember((&tools, None), &second, &token(2));
        assert_eq!(
            connection.recall((&tools, None), &first, 0),
            None,
            "one at a time"
        );
        assert_eq!(
            connection.recall((&tools, None), &second, 0),
            Some(token(2))
        );
    }
}
