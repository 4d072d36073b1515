//! What endpoints are checked by: the system's certificates, or those of a file.

use crate::{
    file::{Stamp, TlsError, read},
    provider,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Most files that are remembered; a configuration names a few.
const FILES_MAX: usize = 64;

/// Settings for connections to endpoints, by the file of certificates that they are checked by. Read once, and again when a file
/// changes.
#[derive(Debug, Default)]
pub struct Trusts(Mutex<HashMap<Option<PathBuf>, Known>>);

#[derive(Debug)]
struct Known {
    stamp: Option<Stamp>,
    config: Arc<ClientConfig>,
}

impl Trusts {
    /// Those for a file, or without one for the system's certificates. It may read files, so it is nothing for a thread that carries
    /// requests.
    ///
    /// # Errors
    /// The file cannot be read, holds no certificate, or the system has none. A file that was fine before is still good for what
    /// it held.
    pub fn config(&self, ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
        let stamp = ca.and_then(Stamp::of);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca.map(Path::to_owned);
        let before = known.get(&key);
        if let Some(same) = before.filter(|before| before.stamp == stamp) {
            return Ok(same.config.clone());
        }
        let config = match (load(ca), before) {
            (Ok(roots), _) => Arc::new(client(roots)?),
            (Err(error), Some(before)) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, why, "certificates to check endpoints by have changed to what cannot be used; those before are still in force");
                before.config.clone()
            }
            (Err(error), None) => return Err(error),
        };
        if known.len() >= FILES_MAX {
            known.clear();
        }
        let now = Known {
            stamp,
            config: config.clone(),
        };
        known.insert(key, now);
        Ok(config)
    }
}

/// Settings that trust nobody: no connection comes about.
pub fn trusts_nobody() -> ClientConfig {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap_or_else(|_| ClientConfig::builder());
    config
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn client(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // The pool speaks one protocol, and counts on one request a connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn load(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        return if roots.is_empty() {
            Err(TlsError::NoRoots)
        } else {
            Ok(roots)
        };
    };
    let malformed = |what: String| TlsError::Malformed {
        path: path.to_owned(),
        what,
    };
    let text = read(path)?;
    for cert in CertificateDer::pem_slice_iter(&text) {
        let cert = cert.map_err(|error| malformed(format!("no certificate in PEM: {error}")))?;
        roots
            .add(cert)
            .map_err(|error| malformed(format!("a certificate that cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(malformed("no certificate in PEM".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pair;
    use std::fs;

    #[test]
    fn a_file_is_read_again_when_it_changes_and_kept_when_it_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let names = || vec!["localhost".to_owned()];
        let a = Pair::self_signed(&folder.path().join("a"), names()).unwrap();
        let b = Pair::self_signed(&folder.path().join("b"), names()).unwrap();
        let trusts = Trusts::default();
        let first = trusts.config(Some(&a.cert)).unwrap();
        assert!(Arc::ptr_eq(&first, &trusts.config(Some(&a.cert)).unwrap()));
        fs::rename(&b.cert, &a.cert).unwrap();
        let second = trusts.config(Some(&a.cert)).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::write(&a.cert, "nothing").unwrap();
        let third = trusts.config(Some(&a.cert)).unwrap();
        assert!(Arc::ptr_eq(&second, &third));
    }

    #[test]
    fn what_holds_no_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let trusts = Trusts::default();
        assert!(trusts.config(Some(&path)).is_err());
        for text in [
            "",
            "nothing",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            fs::write(&path, text).unwrap();
            let error = trusts.config(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("ca.pem"), "{error}");
        }
    }
}
