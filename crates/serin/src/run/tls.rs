//! The certificates of the listeners.

use super::failed;
use serin_config::{Config, Tls};
use serin_tls::{Acceptor, Certificate, Pair, TlsError};
use std::{net::IpAddr, path::PathBuf};

/// Whose certificate it is.
pub(super) struct Whose {
    /// As it is named to people.
    pub(super) name: &'static str,
    /// The field of the configuration.
    pub(super) field: &'static str,
}

/// Who shakes hands with clients of a listener; nobody if it speaks no TLS. Its certificate is read again when it changes.
pub(super) fn acceptor(
    tls: Option<&Tls>,
    config: &Config,
    whose: &Whose,
) -> miette::Result<Option<Acceptor>> {
    let Some(tls) = tls else {
        return Ok(None);
    };
    let shown = || -> Result<_, TlsError> {
        let certificate = Certificate::open(pair(tls, config)?)?;
        Ok((Acceptor::new(&certificate)?, certificate))
    };
    let (acceptor, certificate) = shown().map_err(|error| {
        failed(
            &format!("the {} cannot speak TLS", whose.name),
            &format!(
                "the cause above says what to do, or set `{}` to other files",
                whose.field
            ),
            error,
        )
    })?;
    let fingerprint = certificate.fingerprint();
    if *tls == Tls::SelfSigned {
        tracing::warn!(listener = whose.name, fingerprint, cert = %self_signed_cert(config).display(),
            "a certificate that is signed by itself is shown: for development; clients trust it by this file");
    } else {
        tracing::info!(
            listener = whose.name,
            fingerprint,
            "the certificate is shown"
        );
    }
    tokio::spawn(certificate.keep_fresh());
    Ok(Some(acceptor))
}

/// Why a certificate cannot be shown, if it cannot. One that is signed by itself is made at the start.
pub(super) fn problem_of(tls: &Tls) -> Option<TlsError> {
    let Tls::Files { cert, key } = tls else {
        return None;
    };
    let pair = Pair {
        cert: cert.clone(),
        key: key.clone(),
    };
    Certificate::open(pair).err()
}

fn pair(tls: &Tls, config: &Config) -> Result<Pair, TlsError> {
    match tls {
        Tls::Files { cert, key } => Ok(Pair {
            cert: cert.clone(),
            key: key.clone(),
        }),
        Tls::SelfSigned => Pair::self_signed(config.store.path(), names(config)),
    }
}

/// The certificate that `self_signed` makes, beside the store.
pub(crate) fn self_signed_cert(config: &Config) -> PathBuf {
    Pair::self_signed_at(config.store.path()).cert
}

/// By which names clients may call either listener.
fn names(config: &Config) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    let mut add = |name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    let admin: Option<IpAddr> = match &config.admin.listen {
        serin_config::AdminListen::Tcp(address) => Some(address.ip()),
        serin_config::AdminListen::Socket(_) => None,
    };
    for address in admin.into_iter().chain([config.gateway.listen.ip()]) {
        if !address.is_unspecified() {
            add(address.to_string());
        }
    }
    for host in config.gateway.hosts.iter().filter(|host| *host != "*") {
        add(host.trim_matches(['[', ']']).to_owned());
    }
    names
}
