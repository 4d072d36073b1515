//! The handshake with who connects: bounded in time and in number.

use crate::{Certificate, Stream, TlsError};
use rustls::ServerConfig;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Time for a handshake: two round trips of the slowest line, and no more for who only holds a place.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Handshakes at a time, at all cores: each costs about a millisecond of a core, and some 20 KiB while it lasts. Others wait, within
/// their own time.
pub const HANDSHAKES_MAX: usize = 512;

/// The first byte of every handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;

/// What a client is told that speaks HTTP without TLS.
const NOT_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 42\r\n\r\nthis port speaks TLS; call it by https://\n";

/// Speaks TLS with who connects to a listener.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    places: Arc<Semaphore>,
    time_max: Duration,
}

/// Never shows a key.
impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// One that shows a certificate.
    ///
    /// # Errors
    /// rustls does not take the settings.
    pub fn new(certificate: &Arc<Certificate>) -> Result<Self, TlsError> {
        Ok(Self {
            config: Arc::new(certificate.server_config()?),
            places: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            time_max: HANDSHAKE_TIME_MAX,
        })
    }

    /// With other bounds.
    #[must_use]
    pub fn bounded(mut self, time_max: Duration, handshakes_max: usize) -> Self {
        self.time_max = time_max;
        self.places = Arc::new(Semaphore::new(handshakes_max));
        self
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The client speaks no TLS of ours, or not in time.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let shaking = async {
            let _place = self.places.acquire().await.map_err(io::Error::other)?;
            let stream = expect_tls(stream).await?;
            let acceptor = TlsAcceptor::from(self.config.clone());
            let stream = acceptor.accept(stream).await?;
            Ok(Stream::Tls(Box::new(stream)))
        };
        (timeout(self.time_max, shaking).await)
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Says in its own words to who speaks no TLS that it should.
async fn expect_tls(mut stream: TcpStream) -> io::Result<TcpStream> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first == [HANDSHAKE] {
        return Ok(stream);
    }
    // What is left unread when a connection closes resets it, and takes the answer with it.
    let _ = stream.read(&mut [0; 4096]).await?;
    stream.write_all(NOT_TLS).await?;
    Err(io::Error::other("it speaks no TLS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pair, ServerName, TlsConnector, Trusts};
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    struct Listening {
        folder: tempfile::TempDir,
        address: SocketAddr,
        listener: TcpListener,
        acceptor: Acceptor,
    }

    async fn listening() -> Listening {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::self_signed(&folder.path().join("a"), vec!["localhost".into()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Listening {
            folder,
            address: listener.local_addr().unwrap(),
            listener,
            acceptor: Acceptor::new(&Certificate::open(pair).unwrap()).unwrap(),
        }
    }

    #[tokio::test]
    async fn who_trusts_the_certificate_shakes_hands() {
        let here = listening().await;
        let trusts = Trusts::default();
        for (name, fine) in [("localhost", true), ("elsewhere", false)] {
            let ca = here.folder.path().join("a.tls-cert.pem");
            let config = trusts.config(Some(&ca)).unwrap();
            let client = async {
                let stream = TcpStream::connect(here.address).await.unwrap();
                let name = ServerName::try_from(name).unwrap();
                TlsConnector::from(config).connect(name, stream).await
            };
            let server = async {
                let (stream, _) = here.listener.accept().await.unwrap();
                here.acceptor.accept(stream).await
            };
            let (client, server) = tokio::join!(client, server);
            assert_eq!(client.is_ok(), fine, "{client:?}");
            assert_eq!(server.is_ok(), fine, "{server:?}");
        }
    }

    #[tokio::test]
    async fn who_says_nothing_loses_the_place_and_who_waits_for_it_the_time() {
        let here = listening().await;
        let acceptor = here.acceptor.bounded(Duration::from_millis(50), 1);
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(here.address).await.unwrap());
        }
        let [first, second] = [
            here.listener.accept().await.unwrap().0,
            here.listener.accept().await.unwrap().0,
        ];
        let (first, second) = tokio::join!(acceptor.accept(first), acceptor.accept(second));
        for shaken in [first, second] {
            assert_eq!(shaken.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn who_speaks_no_tls_is_told() {
        let here = listening().await;
        let client = async {
            let mut stream = TcpStream::connect(here.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            String::from_utf8(said).unwrap()
        };
        let server = async {
            let (stream, _) = here.listener.accept().await.unwrap();
            here.acceptor.accept(stream).await
        };
        let (said, shaken) = tokio::join!(client, server);
        assert!(shaken.is_err());
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
    }
}
