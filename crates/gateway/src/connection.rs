//! What is known of one client connection.

use http::HeaderValue;
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

/// Most bytes of a connection that are kept to look at a request's head again: more than heads have that are not made to
/// hide something, and few enough for many connections.
const RECENT_BYTES_MAX: usize = 8 * 1024;

/// One client connection.
pub(crate) struct Connection {
    /// The other end.
    pub(crate) address: IpAddr,
    /// Whether it is a proxy whose word about the client is taken.
    pub(crate) is_trusted: bool,
    /// The other end, for `X-Forwarded-For`.
    pub(crate) address_header: HeaderValue,
    busy: Cell<u32>,
    /// Requests under way on all connections of the core.
    in_flight: Rc<Cell<u32>>,
    idle_since: Cell<Instant>,
    recent: RefCell<Vec<u8>>,
    recent_is_old: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, is_trusted: bool, in_flight: Rc<Cell<u32>>) -> Self {
        let address = peer.ip().to_canonical();
        Self {
            address,
            is_trusted,
            address_header: HeaderValue::from_str(&address.to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            busy: Cell::new(0),
            in_flight,
            idle_since: Cell::new(Instant::now()),
            recent: RefCell::default(),
            recent_is_old: Cell::new(false),
        }
    }

    /// Notes that a request has begun; what is read from now on belongs to it or to the next.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        self.recent_is_old.set(true);
        Busy(self.clone())
    }

    /// For how long no request has been under way. A head that comes in drop by drop is no request yet.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        (self.busy.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Whether a head among what was read last has both `Transfer-Encoding` and `Content-Length` (RFC 9112 section 6.3).
    /// hyper takes the former, drops the latter and closes the connection afterwards; a gateway had better refuse what two
    /// servers could read differently.
    pub(crate) fn has_conflicting_lengths(&self) -> bool {
        has_conflicting_lengths(&self.recent.borrow())
    }

    fn note(&self, bytes: &[u8]) {
        let mut recent = self.recent.borrow_mut();
        if self.recent_is_old.replace(false) {
            recent.clear();
        }
        let room = RECENT_BYTES_MAX.saturating_sub(recent.len());
        recent.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
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

fn has_conflicting_lengths(read: &[u8]) -> bool {
    let (mut encoding, mut length) = (false, false);
    for line in read.split(|byte| *byte == b'\n') {
        if line.is_empty() || line == b"\r" {
            (encoding, length) = (false, false);
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        encoding |= name.eq_ignore_ascii_case(b"transfer-encoding");
        length |= name.eq_ignore_ascii_case(b"content-length");
        if encoding && length {
            return true;
        }
    }
    false
}

/// A client's socket that keeps a copy of what it read last.
pub(crate) struct Tap {
    pub(crate) stream: TcpStream,
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
        this.connection
            .note(buffer.filled().get(before..).unwrap_or_default());
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

    #[test]
    fn two_lengths_in_one_head_conflict() {
        for (conflict, read) in [
            (
                true,
                "POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
            (
                true,
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: 1\r\ncontent-length: 3\r\n",
            ),
            (
                false,
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            ),
            (
                false,
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 3\r\n\r\n",
            ),
            (false, ""),
        ] {
            assert_eq!(
                has_conflicting_lengths(read.as_bytes()),
                conflict,
                "{read:?}"
            );
        }
    }
}
