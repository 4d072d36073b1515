//! Files of certificates and keys: read in bounds, and seen to change.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Largest file that is read: the roots of a whole system are a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner can read a key.
    #[error("the private key {} has mode {mode:o}; others must not read it: run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds something else than it should.
    #[error("{} holds {what}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it holds, or does not.
        what: String,
    },
    /// Certificate and key are not of each other, or rustls does not take them.
    #[error("the certificate {} and the key {} cannot be used together", .cert.display(), .key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The system has no certificates to check others by.
    #[error(
        "this system has no certificates to check endpoints by; install its package of CA certificates, or set `upstream.ca`"
    )]
    NoRoots,
    /// A certificate could not be made.
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
    /// rustls refused a setting.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> TlsError {
    move |source| TlsError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// By what a file is seen to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64, i64, i64, u64);

impl Stamp {
    /// That of a file, or of none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let of = fs::metadata(path).ok()?;
        Some(Self(of.ino(), of.mtime(), of.mtime_nsec(), of.len()))
    }
}

/// All of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let mut bytes = Vec::new();
    (file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(failed("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::Malformed {
            path: path.to_owned(),
            what: format!("more than {FILE_BYTES_MAX} bytes, which is no certificate"),
        });
    }
    Ok(bytes)
}

/// All of a file that its owner alone may read.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, TlsError> {
    let of = fs::metadata(path).map_err(failed("read", path))?;
    let mode = of.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}
