//! Break glass: kills without admin API, token or log. Whoever may write into the folder beside the store may kill.
//!
//! Each file in it is a request: a line a target, `TARGET REASON...`. It is removed when its kills are on the disk; what cannot be
//! read is renamed and logged.

use super::Switchboard;
use serin_flags::{
    Target,
    kill::{ACTOR_CHARS_MAX, Cause, Priority, REASON_CHARS_MAX, Wish},
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Most targets of a request.
const LINES_MAX: usize = 100;
/// Most requests that are looked at in one go.
const REQUESTS_MAX: usize = 100;
/// A request without an end of line may still be on its way, for so long.
const HALF_WRITTEN: Duration = Duration::from_secs(1);
/// What a request ends with that could not be read.
const BAD: &str = "bad";
/// The line that says who asks.
const ACTOR: &str = "# actor ";

/// Where requests are put for the store in a file.
pub fn folder_of(store: &Path) -> PathBuf {
    let mut folder = store.as_os_str().to_owned();
    folder.push("-kill.d");
    folder.into()
}

/// The text of a request.
pub fn request(actor: &str, target: &Target, reason: &str) -> String {
    let line = |text: &str| text.replace(char::is_control, " ");
    format!("{ACTOR}{}\n{target} {}\n", line(actor), line(reason))
}

/// The folder of requests.
pub(super) struct Glass {
    folder: PathBuf,
    /// Requests that are in force, and not on the disk yet or not removed.
    done: BTreeSet<(PathBuf, Mark)>,
}

/// What tells a file from another one of its name.
type Mark = (u64, i64, i64, u64);

impl Glass {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            done: BTreeSet::new(),
        }
    }

    /// Carries out what is asked.
    pub(super) fn look(&mut self, board: &Switchboard) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            // Nobody has asked for anything yet.
            return;
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_request(path))
            .collect();
        paths.sort();
        self.done.retain(|(path, _)| paths.contains(path));
        for path in paths.into_iter().take(REQUESTS_MAX) {
            let Ok(about) = fs::symlink_metadata(&path) else {
                continue;
            };
            let known = (path, mark(&about));
            if !self.done.contains(&known) && carry_out(board, &known.0, &about) {
                self.done.insert(known);
            }
        }
        if !self.done.is_empty() && board.is_saved() {
            self.settle(board);
        }
    }

    /// Removes what is on the disk.
    pub(super) fn settle(&mut self, board: &Switchboard) {
        if board.is_saved() {
            for (path, was) in &self.done {
                if fs::symlink_metadata(path).is_ok_and(|about| mark(&about) == *was) {
                    // One that cannot be removed is remembered, and asked for again after a restart: rather killed twice than not.
                    let _ = fs::remove_file(path);
                }
            }
        }
    }
}

/// Whether it is done with; bad ones are renamed, and those still on their way are left alone.
fn carry_out(board: &Switchboard, path: &Path, about: &Metadata) -> bool {
    let text = match read(path, about) {
        Ok(Some(text)) => text,
        Ok(None) => return false,
        Err(error) => {
            set_aside(path, &error.to_string());
            return true;
        }
    };
    let (wishes, mut wrong) = parse(&text, &format!("user {}", about.uid()));
    for wish in wishes {
        let target = wish.target.clone();
        tracing::warn!(request = %path.display(), %target, "a kill past the admin API");
        match board.kill(wish) {
            Ok(_) => {}
            Err(super::SwitchboardError::Refused(error)) => {
                wrong.push(format!("{error}: {}", error.help()));
            }
            // In force, and tried again.
            Err(error) => tracing::error!(%error, "the kill file cannot be written"),
        }
    }
    if !wrong.is_empty() && board.is_saved() {
        set_aside(path, &wrong.join("; "));
    }
    true
}

/// Files that end in `.bad` were looked at, and those with a dot first or `.new` last are being written.
fn is_request(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension();
    !hidden && extension != Some(OsStr::new(BAD)) && extension != Some(OsStr::new("new"))
}

fn mark(about: &Metadata) -> Mark {
    (about.ino(), about.mtime(), about.mtime_nsec(), about.size())
}

/// None while it is still on its way.
fn read(path: &Path, about: &Metadata) -> io::Result<Option<String>> {
    if !about.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    if about.len() > REQUEST_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has more than {REQUEST_BYTES_MAX} bytes"
        )));
    }
    // It may have become something else meanwhile: what would be waited for is not waited for.
    let flags = i32::try_from(
        rustix::fs::OFlags::NONBLOCK
            .union(rustix::fs::OFlags::NOFOLLOW)
            .bits(),
    );
    let mut file = File::options()
        .read(true)
        .custom_flags(flags.unwrap_or_default())
        .open(path)?;
    let mut text = String::new();
    Read::by_ref(&mut file)
        .take(REQUEST_BYTES_MAX)
        .read_to_string(&mut text)?;
    let age = about.modified().ok().and_then(|at| at.elapsed().ok());
    let may_grow = age.is_some_and(|age| age < HALF_WRITTEN);
    Ok((text.ends_with('\n') || !may_grow).then_some(text))
}

/// What is asked for, and what is wrong with the rest.
fn parse(text: &str, owner: &str) -> (Vec<Wish>, Vec<String>) {
    let (mut wishes, mut wrong) = (Vec::new(), Vec::new());
    let mut actor = owner.to_owned();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(named) = line.strip_prefix(ACTOR) {
            actor = named.trim().chars().take(ACTOR_CHARS_MAX).collect();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        if wishes.len() == LINES_MAX {
            wrong.push(format!("it names more than {LINES_MAX} targets"));
            break;
        }
        let (target, reason) = split(line);
        match target.parse() {
            Ok(target) => wishes.push(Wish {
                target,
                actor: actor.clone(),
                reason: reason.chars().take(REASON_CHARS_MAX).collect(),
                cause: Cause::BreakGlass,
                priority: Priority::Critical,
                grace_seconds: 0,
            }),
            Err(error) => wrong.push(format!("{error}")),
        }
    }
    if wishes.is_empty() && wrong.is_empty() {
        wrong.push("it names nothing".to_owned());
    }
    (wishes, wrong)
}

/// A target ends with the first space; a name with a space in it is for the admin API.
fn split(line: &str) -> (&str, &str) {
    line.split_once(char::is_whitespace)
        .map_or((line, ""), |(target, reason)| (target, reason.trim()))
}

fn set_aside(path: &Path, why: &str) {
    tracing::error!(request = %path.display(), why, "a break-glass request cannot be read in full; it is renamed. Write one `TARGET REASON` a line");
    let mut bad = path.as_os_str().to_owned();
    bad.push(format!(".{BAD}"));
    if fs::rename(path, &bad).is_err() {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn requests_are_read_line_by_line() {
        let text = "# actor alice\n\n# what follows is a comment\ntool:*/search it deletes things\n  flags  \ttoo much  \n";
        let (wishes, wrong) = parse(text, "user 7");
        let read: Vec<_> = wishes
            .iter()
            .map(|wish| {
                (
                    wish.target.to_string(),
                    wish.reason.as_str(),
                    wish.actor.as_str(),
                )
            })
            .collect();
        assert_eq!(
            read,
            [
                ("tool:*/search".to_owned(), "it deletes things", "alice"),
                ("flags".to_owned(), "too much", "alice")
            ]
        );
        assert!(wrong.is_empty());
        assert_eq!(parse("flags x", "user 7").0[0].actor, "user 7");
        assert_eq!(parse("", "user 7").1, ["it names nothing"]);
        assert!(parse("serach x", "user 7").1[0].contains("serach"));
        let many = "flags x\n".repeat(LINES_MAX + 1);
        let (wishes, wrong) = parse(&many, "user 7");
        assert_eq!((wishes.len(), wrong.len()), (LINES_MAX, 1));
        let written = request("eve\nflags x", &Target::System, "two\nlines");
        assert_eq!(parse(&written, "user 7").0.len(), 1, "{written}");
    }

    #[test]
    fn what_is_no_request_is_set_aside_or_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let large = "#".repeat(usize::try_from(REQUEST_BYTES_MAX).unwrap()) + "\n\n";
        let files = [
            ("large", large.as_str()),
            ("empty", "\n"),
            ("noreason", "flags\n"),
            (".hidden", "system x\n"),
            ("half.new", "system x\n"),
            ("young", "system on its w"),
            ("good", "tenant:acme because\n"),
        ];
        for (name, text) in files {
            fs::write(at(name), text).unwrap();
        }
        fs::write(at("binary"), [0xff, 0xfe, b'\n']).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("elsewhere.bad"), "system x\n").unwrap();
        symlink(at("elsewhere.bad"), at("link")).unwrap();
        let fifo = at("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let board = Switchboard::default();
        let mut glass = Glass::new(folder.path().to_owned());
        glass.look(&board);
        let kills = board.kills();
        let killed: Vec<_> = kills.active().map(|kill| kill.target.to_string()).collect();
        assert_eq!(killed, ["tenant:acme"]);
        for name in [
            "large", "empty", "noreason", "binary", "folder", "link", "fifo",
        ] {
            assert!(
                fs::symlink_metadata(at(&format!("{name}.bad"))).is_ok(),
                "{name}"
            );
        }
        assert!(at(".hidden").exists() && at("half.new").exists() && at("young").exists());
        assert!(!at("good").exists());
        // Looked at again, nothing is killed again.
        glass.look(&board);
        assert_eq!(board.kills(), kills);
    }

    #[test]
    fn a_request_that_cannot_be_removed_is_carried_out_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine");
        fs::write(&path, "flags because\n").unwrap();
        let about = fs::symlink_metadata(&path).unwrap();
        let board = Switchboard::default();
        let mut glass = Glass::new(folder.path().to_owned());
        glass.done.insert((path.clone(), mark(&about)));
        glass.look(&board);
        assert_eq!(board.kills().active().count(), 0);
        fs::write(&path, "flags because, again\n").unwrap();
        glass.look(&board);
        assert_eq!(board.kills().active().count(), 1, "this is another one");
    }
}
