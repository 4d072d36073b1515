//! Sieve: a stream of events, taken apart into whole events, so that some can be changed or held back and others put in between.

use crate::{access::View, core::Core, lists::Edit};
use bytes::{Bytes, BytesMut};
use std::rc::Rc;

/// Largest event that is held until it is whole: a page of tools with their schemas.
pub(crate) const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An event that is larger than the gateway holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Holds what has come of an event that is not whole yet.
pub(crate) struct Sieve {
    core: Rc<Core>,
    view: Rc<View>,
    held: BytesMut,
    /// Bytes of `held` that were looked at.
    looked: usize,
    /// The rest of an event that is too large to be held passes as it comes: nothing of it would be changed.
    is_passing: bool,
    line: Line,
    /// Whole events so far that had something in them.
    events: u64,
    /// Requests of the server that were held back.
    refused: Vec<String>,
}

/// Where the end of an event is looked for.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    has_text: bool,
    after_return: bool,
}

impl Line {
    /// Whether an event ends with this byte.
    fn ends(&mut self, byte: u8) -> bool {
        let after_return = std::mem::take(&mut self.after_return);
        match byte {
            // The second half of a line end.
            b'\n' if after_return => false,
            b'\n' | b'\r' => {
                self.after_return = byte == b'\r';
                !std::mem::take(&mut self.has_text)
            }
            _ => {
                self.has_text = true;
                false
            }
        }
    }
}

impl Sieve {
    pub(crate) fn new(core: Rc<Core>, view: Rc<View>) -> Self {
        Self {
            core,
            view,
            held: BytesMut::new(),
            looked: 0,
            is_passing: false,
            line: Line::default(),
            events: 0,
            refused: Vec::new(),
        }
    }

    /// Takes a piece, and gives the events that are whole with it.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Bytes, TooLarge> {
        self.held.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while let Some(&byte) = self.held.get(self.looked) {
            self.looked += 1;
            if self.line.ends(byte) {
                let event = self.held.split_to(self.looked);
                self.looked = 0;
                if std::mem::take(&mut self.is_passing) {
                    out.extend_from_slice(&event);
                } else {
                    self.pass(&event, &mut out);
                }
            }
        }
        if self.held.len() > EVENT_BYTES_MAX && !self.is_passing {
            if self.view.is_guarded(&self.core) {
                return Err(TooLarge);
            }
            self.is_passing = true;
            self.events += 1;
        }
        if self.is_passing {
            out.extend_from_slice(&self.held.split());
            self.looked = 0;
        }
        Ok(out.freeze())
    }

    /// The stream is over: what was held of an event that never ended. Clients should drop it; for those that do not it agrees too.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.looked = 0;
        let event = std::mem::take(&mut self.held);
        if self.is_passing {
            return event.freeze();
        }
        let mut out = BytesMut::new();
        self.pass(&event, &mut out);
        out.freeze()
    }

    /// Whether an event may be put in now: between two, and not before the first.
    pub(crate) fn is_between(&self, after: u64) -> bool {
        // Half of a line end may still come.
        let is_empty = self.held.iter().all(|byte| *byte == b'\n');
        is_empty && !self.is_passing && self.events >= after
    }

    /// Answers for the server to requests of its own that were held back.
    pub(crate) fn take_refused(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refused)
    }

    fn pass(&mut self, event: &[u8], out: &mut BytesMut) {
        let data = data(event);
        self.events += u64::from(!data.is_empty());
        let edit = if data.is_empty() {
            Edit::Keep
        } else {
            self.view.edit(&self.core, &data)
        };
        match edit {
            Edit::Keep => out.extend_from_slice(event),
            Edit::Replace(message) => {
                others(event, out);
                out.extend_from_slice(b"data: ");
                out.extend(message.into_iter().map(|byte| match byte {
                    b'\n' | b'\r' => b' ',
                    byte => byte,
                }));
                out.extend_from_slice(b"\n\n");
            }
            Edit::Refuse(answer) => {
                // Its id stays: clients resume behind it.
                others(event, out);
                out.extend_from_slice(b"\n");
                self.refused.push(answer);
            }
        }
    }
}

fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = event.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.filter(|line| !line.is_empty())
}

fn is_data(line: &[u8]) -> bool {
    line == b"data" || line.starts_with(b"data:")
}

/// The data of an event, its lines joined.
fn data(event: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for line in lines(event).filter(|line| is_data(line)) {
        let line = line.strip_prefix(b"data:").unwrap_or_default();
        data.extend_from_slice(line.strip_prefix(b" ").unwrap_or(line));
        data.push(b'\n');
    }
    data.pop();
    data
}

/// The lines of an event that are not its data.
fn others(event: &[u8], out: &mut BytesMut) {
    for line in lines(event).filter(|line| !is_data(line)) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of a stream, cut after each blank line.
    fn events(stream: &[u8]) -> Vec<Vec<u8>> {
        let (mut line, mut open, mut done) = (Line::default(), Vec::new(), Vec::new());
        for byte in stream {
            open.push(*byte);
            if line.ends(*byte) {
                done.push(std::mem::take(&mut open));
            }
        }
        done
    }

    #[test]
    fn events_end_at_blank_lines() {
        for (stream, want) in [
            ("data: a\n\ndata: b\n\n", 2),
            ("data: a\r\n\r\ndata: b\r\n\r\n", 2),
            ("data: a\r\rdata: b\r\r", 2),
            ("id: 1\ndata: a\ndata: b\n\n: ping\n\n", 2),
            ("data: a\n", 0),
        ] {
            assert_eq!(events(stream.as_bytes()).len(), want, "{stream:?}");
        }
    }

    #[test]
    fn data_and_the_other_lines_are_told_apart() {
        let event = b"id: 1\r\ndata: {\r\ndata:}\r\nevent: message\r\n\r\n";
        assert_eq!(data(event), b"{\n}");
        let mut rest = BytesMut::new();
        others(event, &mut rest);
        assert_eq!(&rest[..], b"id: 1\nevent: message\n");
        assert_eq!(data(b"id: 1\ndata:\n\n"), b"");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_events(stream in "(data: a|id: 1|\r\n|\r|\n|: x){0,30}") {
            let whole: Vec<u8> = events(stream.as_bytes()).concat();
            prop_assert!(stream.as_bytes().starts_with(&whole));
        }
    }
}
