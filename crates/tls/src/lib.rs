//! TLS: the certificates that listeners show ([`Certificate`]), the handshake with who connects ([`Acceptor`]), and those that
//! endpoints are checked by ([`Trusts`]).
//!
//! TLS 1.2 and later, by rustls with the one provider of cryptography of the whole program. Files are read again when they
//! change; what cannot be used then changes nothing.

mod accept;
mod certificate;
mod file;
mod stream;
mod trust;

pub use accept::{Acceptor, HANDSHAKE_TIME_MAX, HANDSHAKES_MAX};
pub use certificate::{Certificate, Pair};
pub use file::TlsError;
pub use rustls::{ClientConfig, pki_types::ServerName};
pub use stream::Stream;
pub use tokio_rustls::{TlsConnector, client::TlsStream as ClientStream};
pub use trust::{Trusts, trusts_nobody};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
