//! What a server was sent, on the disk: a test can read it when the server is dead.
//!
//! A client that marks its requests ([`Client::mark`](crate::client::Client::mark)) gives each of them a [`MARK`] of its own. A server
//! with a record writes it down, with what the request asks for, when it has the request and before anything can go wrong. A line that
//! stands in the records twice is a request that was sent twice. A mark may: a gateway that opens a session in the name of a client does so
//! with the headers of the client's request.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use http::{HeaderMap, Method};
use serde::Deserialize;

/// The header that tells a client's requests apart.
pub const MARK: &str = "x-testbed-mark";

/// The longest mark that is written down, in bytes.
const MARK_BYTES_MAX: usize = 200;

/// The file into which a server writes.
#[derive(Debug)]
pub(crate) struct Record(File);

impl Record {
    /// Goes on with a file, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// A request has come: a message of JSON-RPC, or, if its body is none, a plain one. One without a mark is of no interest.
    pub(crate) fn note(&self, method: &Method, headers: &HeaderMap, body: &[u8]) {
        let mark = headers.get(MARK).and_then(|mark| mark.to_str().ok());
        let Some(mark) = mark.filter(|mark| mark.len() <= MARK_BYTES_MAX) else {
            return;
        };
        let message = serde_json::from_slice::<Message<'_>>(body).ok();
        let asked = message
            .and_then(|message| message.method)
            .unwrap_or(method.as_str().into());
        // In one write, so that the line is whole whenever the process dies. A test whose disk is full fails by what is missing.
        let _ = (&self.0).write_all(format!("{mark} {asked}\n").as_bytes());
    }
}

/// What of a message is written down.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
}

/// The lines of a server's record, in the order in which they came: a mark, and what was asked for (`tools/call`, or `GET` where that is
/// no message). None if it was never sent any.
///
/// # Errors
/// When there is a file that cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_to_string(path) {
        Ok(lines) => Ok(lines.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    }
}
