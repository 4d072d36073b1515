//! Sealed values: what the gateway hands to clients and must be able to trust when it comes back.
//!
//! A sealed value is `base64url(format ‖ key id ‖ nonce ‖ AES-256-GCM-SIV(plain))`, bound to a purpose, a service and an owner by its
//! associated data (RFC 8452; the mode forgives a repeated nonce, so nodes need not agree on any counter). Nobody but a
//! holder of the keyring can make, read or change one, so a session costs no memory here and no lookup anywhere.

use aes_gcm_siv::{
    Aes256GcmSiv, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use serin_tenancy::{Principal, signature::Master};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// First byte of a sealed value; another layout gets another one.
const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Format byte, key id and nonce.
const HEAD_BYTES: usize = 2 + NONCE_BYTES;
/// Most keys kept: the one that seals and three that only open, enough for a rotation each session life.
const KEYS_MAX: usize = 4;
/// First line of a keyring file.
const FILE_HEAD: &str = "serin-keyring 1";
/// Largest keyring file that is read: four keys need 250 bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// What a sealed value is for. One made for one purpose does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A legacy session id.
    Session,
    /// A list's cursor.
    Cursor,
    /// A task id.
    Task,
    /// The state of a call that asked for input.
    RequestState,
}

impl Purpose {
    const fn byte(self) -> u8 {
        match self {
            Self::Session => b'S',
            Self::Cursor => b'C',
            Self::Task => b'T',
            Self::RequestState => b'R',
        }
    }
}

/// To whom a value is bound, where callers prove who they are: brought by anybody else it is nothing of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner([u8; 32]);

impl Owner {
    /// The tenant, and who of it.
    pub(crate) fn of(principal: &Principal) -> Self {
        let mut hasher = blake3::Hasher::new();
        // A subject of a token is not the key of the same name.
        hasher.update(&[u8::from(principal.key.is_some())]);
        hasher.update(principal.tenant.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(principal.subject.as_bytes());
        Self(hasher.finalize().into())
    }
}

/// For which service a value is, and for whom.
pub(crate) type Bound<'a> = (&'a str, Option<Owner>);

/// The keys that seal: the newest seals, all of them open.
pub struct Keyring {
    /// Oldest first, never empty.
    keys: Vec<Key>,
}

struct Key {
    id: u8,
    secret: [u8; KEY_BYTES],
    cipher: Aes256GcmSiv,
    /// Makes the nonces of values that must look the same each time.
    nonces: [u8; KEY_BYTES],
}

impl Key {
    fn new(id: u8, secret: [u8; KEY_BYTES]) -> Self {
        Self {
            id,
            secret,
            cipher: Aes256GcmSiv::new(&secret.into()),
            nonces: blake3::derive_key("serin 2026 nonces of minted values", &secret),
        }
    }

    fn nonce(&self, purpose: Purpose, data: &[u8], plain: &[u8]) -> Option<[u8; NONCE_BYTES]> {
        let mut nonce = [0; NONCE_BYTES];
        match purpose {
            Purpose::Session => getrandom::fill(&mut nonce).ok()?,
            Purpose::Cursor | Purpose::Task | Purpose::RequestState => {
                let mut hasher = blake3::Hasher::new_keyed(&self.nonces);
                hasher.update(data).update(plain);
                hasher.finalize_xof().fill(&mut nonce);
            }
        }
        Some(nonce)
    }

    fn random(id: u8) -> io::Result<Self> {
        let mut secret = [0; KEY_BYTES];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        Ok(Self::new(id, secret))
    }
}

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file could not be read or written.
    #[error("cannot {doing} the keyring {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner could read or change it.
    #[error("the keyring {} has mode {mode:o}; others must not read it: run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no keyring.
    #[error("line {line} of the keyring {} is not what was written there; restore the file, or delete it to end all sessions", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

impl Keyring {
    /// A keyring of one new key that no file holds: sessions end with the process.
    pub fn ephemeral() -> io::Result<Self> {
        Ok(Self {
            keys: vec![Key::random(0)?],
        })
    }

    /// Makes a keyring of one new key in a file that must not exist yet, readable by its owner alone.
    pub fn create(path: &Path) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Io {
            doing: "create",
            path: path.to_owned(),
            source,
        };
        let keyring = Self::ephemeral().map_err(failed)?;
        keyring.write(path).map_err(failed)?;
        Ok(keyring)
    }

    /// Reads a keyring.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        parse(&text).map_err(|line| KeyringError::Malformed {
            path: path.to_owned(),
            line,
        })
    }

    /// Reads a keyring, or makes one where there is none.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyringError> {
        match Self::open(path) {
            Err(KeyringError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    /// What the secrets are made of by which requests are signed. A ring of its own, that is never rotated, has it.
    pub fn master(&self) -> Master {
        let secret = self.keys.first().map(|key| key.secret).unwrap_or_default();
        Master::new(blake3::derive_key(
            "serin 2026 master of signing secrets",
            &secret,
        ))
    }

    /// Adds a new key that seals from now on, and writes the file anew. The older keys go on opening; beyond four, the
    /// oldest goes, and with it the sessions it sealed.
    pub fn rotate(&mut self, path: &Path) -> Result<(), KeyringError> {
        let failed = |source| KeyringError::Io {
            doing: "rotate",
            path: path.to_owned(),
            source,
        };
        let id = self.newest().map_or(0, |key| key.id.wrapping_add(1));
        self.keys.push(Key::random(id).map_err(failed)?);
        if self.keys.len() > KEYS_MAX {
            self.keys.remove(0);
        }
        let beside = path.with_extension("new");
        self.write(&beside).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)
    }

    /// Seals a value for a purpose and a service. What a version minted looks the same each time it is sealed by a key, for a
    /// client compares the id of its task with the one it knows, and a list must not differ from one caller to the next.
    pub(crate) fn seal(
        &self,
        purpose: Purpose,
        (service, owner): Bound<'_>,
        plain: &[u8],
    ) -> Option<String> {
        let key = self.newest()?;
        let associated = associated(purpose, service, owner);
        let nonce = key.nonce(purpose, &associated, plain)?;
        let sealed = key
            .cipher
            .encrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: plain,
                    aad: &associated,
                },
            )
            .ok()?;
        let mut out = Vec::with_capacity(HEAD_BYTES + sealed.len());
        out.extend_from_slice(&[FORMAT, key.id]);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Some(BASE64_URL_SAFE_NO_PAD.encode(out))
    }

    /// What was sealed, if it was sealed by a key of ours for this purpose and service, and nobody touched it.
    pub(crate) fn open_value(
        &self,
        purpose: Purpose,
        (service, owner): Bound<'_>,
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let raw = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, sealed) = raw.split_at_checked(HEAD_BYTES)?;
        let (&[FORMAT, id], nonce) = head.split_first_chunk::<2>()? else {
            return None;
        };
        if sealed.len() < TAG_BYTES {
            return None;
        }
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let key = self.keys.iter().rfind(|key| key.id == id)?;
        let payload = Payload {
            msg: sealed,
            aad: &associated(purpose, service, owner),
        };
        key.cipher.decrypt(&Nonce::from(nonce), payload).ok()
    }

    fn newest(&self) -> Option<&Key> {
        self.keys.last()
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut text = format!("{FILE_HEAD}\n");
        for key in &self.keys {
            text += &format!("{} {}\n", key.id, BASE64_STANDARD_NO_PAD.encode(key.secret));
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // The name must last as long as the content.
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id);
        f.debug_list().entries(ids).finish()
    }
}

fn associated(purpose: Purpose, service: &str, owner: Option<Owner>) -> Vec<u8> {
    let owner = owner.map(|Owner(hash)| hash);
    let mut data = Vec::with_capacity(2 + service.len() + owner.map_or(0, |owner| owner.len()));
    data.push(purpose.byte());
    data.extend_from_slice(service.as_bytes());
    if let Some(owner) = owner {
        // No name of a service has such a byte in it.
        data.push(0);
        data.extend_from_slice(&owner);
    }
    data
}

/// The keyring in a text, or the line that is wrong.
fn parse(text: &str) -> Result<Keyring, usize> {
    let mut lines = text.lines().zip(1_usize..);
    match lines.next() {
        Some((FILE_HEAD, _)) => {}
        _ => return Err(1),
    }
    let key = |line: &str| {
        let (id, secret) = line.split_once(' ')?;
        let secret = BASE64_STANDARD_NO_PAD.decode(secret).ok()?;
        Some(Key::new(id.parse().ok()?, secret.try_into().ok()?))
    };
    let keys: Vec<_> = lines
        .map(|(line, at)| key(line).ok_or(at))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(2);
    }
    Ok(Keyring { keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_value_opens_for_its_purpose_and_service_alone() {
        let ring = Keyring::ephemeral().unwrap();
        let sealed = ring
            .seal(Purpose::Cursor, ("tools", None), b"page 2")
            .unwrap();
        let open = |purpose, service| ring.open_value(purpose, (service, None), sealed.as_bytes());
        assert_eq!(open(Purpose::Cursor, "tools").unwrap(), b"page 2");
        assert_eq!(open(Purpose::Task, "tools"), None);
        assert_eq!(open(Purpose::Cursor, "tool"), None);
        let other = Keyring::ephemeral().unwrap();
        assert_eq!(
            other.open_value(Purpose::Cursor, ("tools", None), sealed.as_bytes()),
            None
        );
    }

    #[test]
    fn minted_values_look_the_same_each_time_and_sessions_never() {
        let ring = Keyring::ephemeral().unwrap();
        for purpose in [Purpose::Cursor, Purpose::Task, Purpose::RequestState] {
            let seal = |service, plain| ring.seal(purpose, (service, None), plain).unwrap();
            assert_eq!(seal("s", b"1"), seal("s", b"1"));
            assert_ne!(seal("s", b"1")[..20], seal("s", b"2")[..20]);
            assert_ne!(seal("s", b"1")[..20], seal("t", b"1")[..20]);
        }
        let session = || ring.seal(Purpose::Session, ("s", None), b"1").unwrap();
        assert_ne!(session(), session());
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back(plain: Vec<u8>, service in "[a-z]{1,8}") {
            let ring = Keyring::ephemeral().unwrap();
            let sealed = ring.seal(Purpose::Session, (&service, None), &plain).unwrap();
            prop_assert_eq!(ring.open_value(Purpose::Session, (&service, None), sealed.as_bytes()), Some(plain));
        }

        #[test]
        fn any_flipped_bit_is_refused(plain in prop::collection::vec(any::<u8>(), 0..80), at: prop::sample::Index, bit in 0..8_u32) {
            let ring = Keyring::ephemeral().unwrap();
            let mut sealed = ring.seal(Purpose::Task, ("tools", None), &plain).unwrap().into_bytes();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(ring.open_value(Purpose::Task, ("tools", None), &sealed), None);
        }

        #[test]
        fn outside_text_never_opens(text: Vec<u8>) {
            let ring = Keyring::ephemeral().unwrap();
            prop_assert_eq!(ring.open_value(Purpose::Session, ("tools", None), &text), None);
        }
    }

    #[test]
    fn a_keyring_survives_its_file_and_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let mut ring = Keyring::open_or_create(&path).unwrap();
        let old = ring.seal(Purpose::Session, ("s", None), b"1").unwrap();
        assert!(Keyring::create(&path).is_err(), "never over an old one");
        ring.rotate(&path).unwrap();
        let new = ring.seal(Purpose::Session, ("s", None), b"2").unwrap();
        let ring = Keyring::open_or_create(&path).unwrap();
        let open = |text: &str| ring.open_value(Purpose::Session, ("s", None), text.as_bytes());
        assert_eq!(
            (open(&old), open(&new)),
            (Some(vec![b'1']), Some(vec![b'2']))
        );
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn old_keys_go_after_three_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let mut ring = Keyring::create(&path).unwrap();
        let sealed = ring.seal(Purpose::Session, ("s", None), b"1").unwrap();
        let opens = |ring: &Keyring| {
            ring.open_value(Purpose::Session, ("s", None), sealed.as_bytes())
                .is_some()
        };
        for _ in 1..KEYS_MAX {
            ring.rotate(&path).unwrap();
            assert!(opens(&ring));
        }
        ring.rotate(&path).unwrap();
        assert!(!opens(&ring));
    }

    #[test]
    fn a_keyring_that_others_can_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        Keyring::create(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let said = Keyring::open(&path).unwrap_err().to_string();
        assert!(said.contains("644") && said.contains("chmod 600"), "{said}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        Keyring::open(&path).unwrap();
        std::fs::write(&path, format!("{FILE_HEAD}\n0 short\n")).unwrap();
        let said = Keyring::open(&path).unwrap_err().to_string();
        assert!(said.contains("line 2"), "{said}");
        for bad in ["", "x", FILE_HEAD] {
            std::fs::write(&path, bad).unwrap();
            assert!(Keyring::open(&path).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let ring = Keyring::ephemeral().unwrap();
        assert_eq!(format!("{ring:?}"), "[0]");
    }
}
