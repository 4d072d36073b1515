//! The certificate that a listener shows: from files that are read again when they change, or made for development.

use crate::{
    file::{Stamp, TlsError, failed, read, read_secret},
    provider,
};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Time from one look at the files to the next: a new certificate comes days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is spoken inside, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where a certificate and its key are (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, with those between it and a root behind it.
    pub cert: PathBuf,
    /// Its private key, which nobody but its owner may read.
    pub key: PathBuf,
}

/// The certificate that a listener shows.
#[derive(Debug)]
pub struct Certificate {
    pair: Pair,
    shown: ArcSwap<CertifiedKey>,
    /// The files as they were looked at last.
    stamps: Mutex<[Option<Stamp>; 2]>,
}

impl Pair {
    /// Where [`Pair::self_signed`] has them.
    pub fn self_signed_at(beginning: &Path) -> Self {
        let file = |suffix: &str| {
            let mut path = beginning.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        Self {
            cert: file(".tls-cert.pem"),
            key: file(".tls-key.pem"),
        }
    }

    /// A certificate for these names that is signed by itself, in two files with this beginning; what is there is taken.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn self_signed(beginning: &Path, names: Vec<String>) -> Result<Self, TlsError> {
        let pair = Self::self_signed_at(beginning);
        if pair.cert.exists() && pair.key.exists() {
            return Ok(pair);
        }
        let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Make)?;
        write_new(&pair.key, &made.signing_key.serialize_pem(), 0o600)?;
        write_new(&pair.cert, &made.cert.pem(), 0o644)?;
        Ok(pair)
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.cert, &self.key].map(|path| Stamp::of(path))
    }

    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let malformed = |path: &Path, what: String| TlsError::Malformed {
            path: path.to_owned(),
            what,
        };
        let text = read(&self.cert)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain
            .map_err(|error| malformed(&self.cert, format!("no certificate in PEM: {error}")))?;
        if chain.is_empty() {
            return Err(malformed(&self.cert, "no certificate in PEM".to_owned()));
        }
        let text = read_secret(&self.key)?;
        // What is wrong with a key is not told in more words: they could be of the key.
        let key = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| malformed(&self.key, "no private key in PEM".to_owned()))?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })
    }
}

/// Half a pair that is left from before is written over.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let failed = failed("write", path);
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path).map_err(&failed)?;
    (file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all()))
    .map_err(&failed)
}

impl Certificate {
    /// Reads a pair of files.
    ///
    /// # Errors
    /// They cannot be read or do not fit, or others may read the key.
    pub fn open(pair: Pair) -> Result<Arc<Self>, TlsError> {
        let stamps = Mutex::new(pair.stamps());
        let shown = ArcSwap::from_pointee(pair.load()?);
        Ok(Arc::new(Self {
            pair,
            shown,
            stamps,
        }))
    }

    /// The settings of a listener that shows it, whatever it is by then.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Who comes again need not do all of it again, at whatever core.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
        Ok(config)
    }

    /// The SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` writes it.
    pub fn fingerprint(&self) -> String {
        let shown = self.shown.load();
        let digest = Sha256::digest(shown.cert.first().map_or(&[][..], |cert| cert));
        let bytes: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }

    /// Reads the files again if they have changed; whether another certificate is shown now.
    ///
    /// # Errors
    /// They changed to what cannot be used: the one before is still shown. It is said once for each change.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let now = self.pair.stamps();
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *stamps, now) == now {
            return Ok(false);
        }
        drop(stamps);
        let loaded = self.pair.load()?;
        let is_new = loaded.cert != self.shown.load().cert;
        self.shown.store(Arc::new(loaded));
        Ok(is_new)
    }

    /// Looks at the files for ever.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut timer = tokio::time::interval(LOOK_EVERY);
        loop {
            timer.tick().await;
            let certificate = self.clone();
            // Files can be on a disk that does not answer.
            let looked = tokio::task::spawn_blocking(move || certificate.refresh()).await;
            match looked {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    let fingerprint = self.fingerprint();
                    tracing::info!(cert = %self.pair.cert.display(), fingerprint, "a new certificate is shown");
                }
                Ok(Err(error)) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, why, "the certificate has changed to what cannot be used; the one before is still shown");
                }
                Err(_) => return,
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn made(folder: &Path, name: &str) -> Pair {
        Pair::self_signed(&folder.join(name), vec!["localhost".into()]).unwrap()
    }

    #[test]
    fn one_signed_by_itself_is_kept_and_its_key_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let pair = made(folder.path(), "a");
        let mode = fs::metadata(&pair.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let first = Certificate::open(pair).unwrap().fingerprint();
        assert_eq!(first.len(), 32 * 3 - 1);
        let again = Certificate::open(made(folder.path(), "a")).unwrap();
        assert_eq!(again.fingerprint(), first);
    }

    #[test]
    fn half_a_pair_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::remove_file(made(folder.path(), "a").cert).unwrap();
        Certificate::open(made(folder.path(), "a")).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pair = made(folder.path(), "a");
        for mode in [0o640, 0o604, 0o644] {
            fs::set_permissions(&pair.key, fs::Permissions::from_mode(mode)).unwrap();
            let error = Certificate::open(pair.clone()).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn what_is_no_pair_is_refused_without_a_word_of_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| made(folder.path(), name));
        let swapped = |cert: &Path, key: &Path| Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        for (pair, says) in [
            (swapped(&a.cert, &b.key), "cannot be used together"),
            (swapped(&a.key, &a.key), "no certificate"),
            (swapped(&folder.path().join("none"), &a.key), "cannot read"),
        ] {
            let error = Certificate::open(pair).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let key = fs::read_to_string(&a.key).unwrap();
        fs::write(&a.key, key.replace("PRIVATE", "SECRET")).unwrap();
        let error = format!("{:?}", Certificate::open(a).unwrap_err());
        assert!(error.contains("no private key"), "{error}");
        assert!(!error.contains("MIG"), "{error}");
    }

    #[test]
    fn new_files_are_shown_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| made(folder.path(), name));
        let shown = Certificate::open(a.clone()).unwrap();
        let [first, second] = [&a, &b].map(|pair| Certificate::open(pair.clone()).unwrap());
        assert!(!shown.refresh().unwrap());
        // One of the two comes first: for a moment they do not fit.
        fs::rename(&b.cert, &a.cert).unwrap();
        assert!(shown.refresh().is_err());
        assert!(!shown.refresh().unwrap(), "it is said once");
        assert_eq!(shown.fingerprint(), first.fingerprint());
        fs::rename(&b.key, &a.key).unwrap();
        assert!(shown.refresh().unwrap());
        assert_eq!(shown.fingerprint(), second.fingerprint());
        fs::remove_file(&a.key).unwrap();
        assert!(shown.refresh().is_err());
        assert_eq!(shown.fingerprint(), second.fingerprint());
    }
}
