//! The kill file: what is killed, across restarts.
//!
//! It holds the whole book twice. A change overwrites the older one of the two in place and syncs it, so that a crash in the middle
//! leaves the other. All of its bytes were written when it was made: overwriting them needs no room on a disk that is full.

use serin_flags::{Kill, Kills};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// What a generation begins with.
const MARK: [u8; 8] = *b"serinkil";
/// How the rest of it is to be read.
const FORMAT: u32 = 1;
/// Mark, format, length, sequence, checksum.
const HEAD_BYTES: usize = 8 + 4 + 4 + 8 + 32;
/// Room for a generation: a full book with the longest names fits, with its reasons cut short.
const GENERATION_BYTES: usize = 2 * 1024 * 1024;
/// Where reasons and actors are cut in a book that would not fit otherwise, in characters. The log has them in full.
const CUT_CHARS: usize = 40;
/// What is said of a book that cannot be written.
const TOO_LARGE: &str = "the book of kills does not fit into its file";

/// Why a kill file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KillFileError {
    /// Neither of its generations is whole.
    #[error(
        "the kill file {0} is damaged: neither of its two generations is whole, so what is killed is not known. Restore the file, or start with `--rebuild-kills`, which takes the kills from the log; what was killed just before may then be missing there"
    )]
    Damaged(PathBuf),
    /// A later release wrote it.
    #[error(
        "the kill file {path} has format {found}, and this release reads up to {FORMAT}: run the release that wrote it"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The system refuses.
    #[error("the kill file {path} cannot be used: make sure that this user may read and write it, and that the disk has {} MB left", 2 * GENERATION_BYTES / 1_000_000)]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open kill file.
#[derive(Debug)]
pub(super) struct KillFile {
    file: File,
    /// The sequence of the newer generation.
    sequence: u64,
    /// Where the next one goes: 0 or 1.
    next: usize,
}

/// What a file had to tell when it was opened.
pub(super) struct Opened {
    pub(super) file: KillFile,
    pub(super) kills: Kills,
    /// One of its generations is damaged.
    pub(super) half: bool,
}

/// A place in the file.
enum Slot {
    Empty,
    Whole(u64, Kills),
    Damaged,
    Newer(u32),
}

impl KillFile {
    /// Opens a file, or makes one.
    pub(super) fn open(path: &Path) -> Result<Opened, KillFileError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let failed = |source| KillFileError::Io {
            path: path.clone(),
            source,
        };
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        let slots = [
            read(&file, 0).map_err(failed)?,
            read(&file, 1).map_err(failed)?,
        ];
        let newer = |slot: &Slot| match slot {
            Slot::Newer(found) => Some(*found),
            _ => None,
        };
        if let Some(found) = slots.iter().find_map(newer) {
            return Err(KillFileError::Newer { path, found });
        }
        let half = slots.iter().any(|slot| matches!(slot, Slot::Damaged));
        let (next, sequence, kills) = match slots {
            [Slot::Whole(a, _), Slot::Whole(b, kills)] if b > a => (0, b, kills),
            [Slot::Whole(a, kills), _] => (1, a, kills),
            [_, Slot::Whole(b, kills)] => (0, b, kills),
            _ => return Err(KillFileError::Damaged(path)),
        };
        let file = Self {
            file,
            sequence,
            next,
        };
        Ok(Opened { file, kills, half })
    }

    /// Sets a damaged file aside.
    pub(super) fn set_aside(path: &Path) -> io::Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        match fs::rename(path, aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What another process has written meanwhile: one that takes over while this one still drains.
    pub(super) fn written_by_others(&mut self) -> io::Result<Option<Kills>> {
        let mut newest = None;
        for slot in [0, 1] {
            let sequence = sequence(&self.file, slot)?;
            if sequence.is_some_and(|sequence| sequence > self.sequence)
                && let Slot::Whole(sequence, kills) = read(&self.file, slot)?
                && newest
                    .as_ref()
                    .is_none_or(|(_, before, _)| sequence > *before)
            {
                newest = Some((slot, sequence, kills));
            }
        }
        Ok(newest.map(|(slot, sequence, kills)| {
            self.sequence = sequence;
            self.next = 1 - slot;
            kills
        }))
    }

    /// Writes a book. When it returns, the book is on the disk.
    pub(super) fn write(&mut self, kills: &Kills) -> io::Result<()> {
        let payload = encode(kills)?;
        let sequence = self.sequence + 1;
        let bytes = generation(sequence, &payload)?;
        let at = (self.next * GENERATION_BYTES) as u64;
        self.file.write_all_at(&bytes, at)?;
        super::failpoint("kill_written");
        self.file.sync_data()?;
        self.sequence = sequence;
        self.next = 1 - self.next;
        Ok(())
    }
}

/// Makes a file that holds an empty book. It appears whole or not at all.
fn create(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let empty = generation(1, &encode(&Kills::default())?)?;
    // Zeros that are written, not a hole: there must be room for what comes when the disk is full.
    io::copy(
        &mut io::repeat(0).take(2 * GENERATION_BYTES as u64),
        &mut file,
    )?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&empty)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

fn encode(kills: &Kills) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(&kills.iter().collect::<Vec<_>>())?;
    if HEAD_BYTES + bytes.len() <= GENERATION_BYTES {
        return Ok(bytes);
    }
    let cut = |text: &str| text.chars().take(CUT_CHARS).collect::<String>();
    let short = |kill: &Kill| Kill {
        actor: cut(&kill.actor),
        reason: cut(&kill.reason),
        ..kill.clone()
    };
    Ok(serde_json::to_vec(
        &kills.iter().map(short).collect::<Vec<_>>(),
    )?)
}

fn generation(sequence: u64, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::other(TOO_LARGE))?;
    if HEAD_BYTES + payload.len() > GENERATION_BYTES {
        return Err(io::Error::other(TOO_LARGE));
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend(MARK);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(checksum(sequence, payload));
    bytes.extend(payload);
    Ok(bytes)
}

fn checksum(sequence: u64, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

fn head(file: &File, slot: usize) -> io::Result<Option<[u8; HEAD_BYTES]>> {
    let mut head = [0; HEAD_BYTES];
    match file.read_exact_at(&mut head, (slot * GENERATION_BYTES) as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other.map(|()| Some(head)),
    }
}

fn sequence(file: &File, slot: usize) -> io::Result<Option<u64>> {
    let head = head(file, slot)?.filter(|head| head[..8] == MARK);
    Ok(head.map(|head| u64_at(&head, 16)))
}

fn read(file: &File, slot: usize) -> io::Result<Slot> {
    let Some(head) = head(file, slot)? else {
        return Ok(Slot::Damaged);
    };
    if head == [0; HEAD_BYTES] {
        return Ok(Slot::Empty);
    }
    let format = u32_at(&head, 8);
    if head[..8] != MARK || format == 0 {
        return Ok(Slot::Damaged);
    }
    let (length, sequence) = (u32_at(&head, 12) as usize, u64_at(&head, 16));
    if HEAD_BYTES + length > GENERATION_BYTES {
        return Ok(Slot::Damaged);
    }
    let mut payload = vec![0; length];
    let at = (slot * GENERATION_BYTES + HEAD_BYTES) as u64;
    match file.read_exact_at(&mut payload, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Slot::Damaged),
        other => other?,
    }
    if checksum(sequence, &payload) != head[24..] {
        return Ok(Slot::Damaged);
    }
    if format > FORMAT {
        return Ok(Slot::Newer(format));
    }
    let Ok(records) = serde_json::from_slice::<Vec<Kill>>(&payload) else {
        return Ok(Slot::Damaged);
    };
    let mut kills = Kills::default();
    for kill in records {
        kills.take(kill);
    }
    Ok(Slot::Whole(sequence, kills))
}

fn u32_at(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8; HEAD_BYTES], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_flags::{
        Target,
        kill::{
            ACTOR_CHARS_MAX, Cause, Priority, REASON_CHARS_MAX, RECORDS_MAX, TARGET_NAME_BYTES_MAX,
            Wish,
        },
    };
    use std::os::unix::fs::PermissionsExt as _;

    fn book(targets: &[&str]) -> Kills {
        let mut kills = Kills::default();
        for target in targets {
            let wish = wish(target.parse().unwrap());
            let kill = kills
                .kill(wish, jiff::Timestamp::UNIX_EPOCH)
                .unwrap()
                .unwrap();
            kills.take(kill);
        }
        kills
    }

    fn wish(target: Target) -> Wish {
        Wish {
            target,
            actor: "ops".to_owned(),
            reason: "because".to_owned(),
            cause: Cause::Manual,
            priority: Priority::High,
            grace_seconds: 30,
        }
    }

    fn flip(path: &Path, slot: usize) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let at = (slot * GENERATION_BYTES + HEAD_BYTES + 1) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn a_book_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serin.kills");
        let mut opened = KillFile::open(&path).unwrap();
        assert_eq!(opened.kills, Kills::default());
        for targets in [&["system"][..], &["system", "flags"], &["tool:a/b"]] {
            opened.file.write(&book(targets)).unwrap();
            let read = KillFile::open(&path).unwrap();
            assert_eq!((read.kills, read.half), (book(targets), false));
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_damaged_generation_leaves_the_other_and_two_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serin.kills");
        let mut file = KillFile::open(&path).unwrap().file;
        file.write(&book(&["system"])).unwrap();
        file.write(&book(&["system", "flags"])).unwrap();
        // The second book stands in the first place again.
        flip(&path, 0);
        let read = KillFile::open(&path).unwrap();
        assert_eq!((read.kills, read.half), (book(&["system"]), true));
        let mut file = read.file;
        file.write(&book(&["flags"])).unwrap();
        let healed = KillFile::open(&path).unwrap();
        assert_eq!((healed.kills, healed.half), (book(&["flags"]), false));
        flip(&path, 0);
        flip(&path, 1);
        assert!(matches!(
            KillFile::open(&path),
            Err(KillFileError::Damaged(_))
        ));
        KillFile::set_aside(&path).unwrap();
        assert_eq!(KillFile::open(&path).unwrap().kills, Kills::default());
    }

    #[test]
    fn what_is_no_kill_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("text", b"hello"),
            ("long", &[7; 9000]),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let refused = KillFile::open(&path);
            assert!(matches!(refused, Err(KillFileError::Damaged(_))), "{name}");
        }
    }

    #[test]
    fn another_process_that_writes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serin.kills");
        let mut here = KillFile::open(&path).unwrap().file;
        let mut there = KillFile::open(&path).unwrap().file;
        assert!(here.written_by_others().unwrap().is_none());
        there.write(&book(&["flags"])).unwrap();
        assert_eq!(here.written_by_others().unwrap(), Some(book(&["flags"])));
        assert!(here.written_by_others().unwrap().is_none());
        here.write(&book(&["system"])).unwrap();
        assert_eq!(KillFile::open(&path).unwrap().kills, book(&["system"]));
    }

    #[test]
    fn the_fullest_book_fits() {
        let mut kills = Kills::default();
        let name = "\\".repeat(TARGET_NAME_BYTES_MAX - 4);
        for n in 0..RECORDS_MAX {
            let target = format!("tool:{name}{n:04}/{name}{n:04}").parse().unwrap();
            let wish = Wish {
                actor: "\"".repeat(ACTOR_CHARS_MAX),
                reason: "\"".repeat(REASON_CHARS_MAX),
                ..wish(target)
            };
            let kill = kills.kill(wish, jiff::Timestamp::MAX).unwrap().unwrap();
            kills.take(kill);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serin.kills");
        let mut file = KillFile::open(&path).unwrap().file;
        file.write(&kills).unwrap();
        let read = KillFile::open(&path).unwrap().kills;
        assert_eq!(read.iter().count(), RECORDS_MAX);
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            2 * GENERATION_BYTES as u64
        );
    }
}
