//! A folder that is gone when the demo is, however the demo ends.
//!
//! On an ordinary end and on a panic it is removed by its owner. Against a kill there is a janitor: this same binary, waiting on a
//! pipe whose other end only the demo holds. The system closes it when the demo is no more, and the janitor removes the folder.

use crate::exit::Exit;
use std::{
    io::{self, Read},
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// What the janitor is called on the command line.
const JANITOR: &str = "demo-janitor";

/// What the folder's name begins with. The janitor touches no other.
const PREFIX: &str = "serin-demo-";

/// The folder.
pub(crate) struct Scratch {
    folder: Option<TempDir>,
    janitor: Child,
}

impl Scratch {
    /// Makes the folder and sets the janitor to wait.
    pub(crate) fn make() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(JANITOR)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A group of its own: an interrupt at the terminal is for the demo, and the janitor must outlive it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let janitor = command.spawn()?;
        Ok(Self {
            folder: Some(folder),
            janitor,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.folder.take());
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Waits until the demo is no more and removes its folder.
pub(crate) fn janitor(folder: &Path) -> Exit {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let is_ours = folder
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if is_ours && folder.exists() && std::fs::remove_dir_all(folder).is_err() {
        return Exit::Error;
    }
    Exit::Done
}
