//! Framing: where the heads are in what an HTTP/1 client sends, and whether one of them tells two lengths.
//!
//! hyper takes `Transfer-Encoding`, drops `Content-Length` and closes the connection after such a request (RFC 9112 section
//! 6.3). A gateway had better refuse what two servers could read differently, so it looks for itself. It follows bodies as
//! well, since they can hold anything. Where it cannot follow, it says that lengths conflict; hyper refuses such requests.

/// Most bytes of a line that are looked at: names, lengths and sizes of chunks are shorter. A length that is padded beyond
/// counts as one that cannot be read.
const LINE_BYTES_MAX: usize = 128;

/// What was sent so far, in a few bytes.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    at: At,
    /// The beginning of the line that has not ended yet.
    line: Vec<u8>,
    head: Head,
    conflicts: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Head,
    /// This many more bytes of a body or of a chunk with its end of line.
    Body {
        left: u64,
        chunked: bool,
    },
    ChunkSize,
    Trailers,
    /// It cannot be followed any more, or it is HTTP/2.
    Lost,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    has_begun: bool,
    is_encoded: bool,
    length: Option<u64>,
}

impl Framing {
    /// Whether a head had both `Transfer-Encoding` and `Content-Length`. It stays so: hyper closes the connection.
    pub(crate) fn conflicts(&self) -> bool {
        self.conflicts
    }

    /// Whether a head has begun and not ended. Of HTTP/2 it is not known.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.at, At::Head) && (self.head.has_begun || !self.line.is_empty())
    }

    /// Reads on.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.at {
                At::Lost => return,
                At::Body { left, chunked } => {
                    let here = usize::try_from(left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    bytes = bytes.get(here..).unwrap_or_default();
                    let left = left - here as u64;
                    self.at = match (left, chunked) {
                        (0, true) => At::ChunkSize,
                        (0, false) => At::Head,
                        _ => At::Body { left, chunked },
                    };
                }
                At::Head | At::ChunkSize | At::Trailers => {
                    let end = memchr::memchr(b'\n', bytes);
                    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
                    self.line
                        .extend_from_slice(line.get(..room).unwrap_or(line));
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.line(line.strip_suffix(b"\r").unwrap_or(&line));
                        self.line = line;
                        self.line.clear();
                    }
                    bytes = rest.get(1..).unwrap_or_default();
                }
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        self.at = match self.at {
            At::Head if line.is_empty() && self.head.has_begun => {
                let head = std::mem::take(&mut self.head);
                match head.length {
                    _ if head.is_encoded => At::ChunkSize,
                    Some(left) if left > 0 => At::Body {
                        left,
                        chunked: false,
                    },
                    _ => At::Head,
                }
            }
            // Empty lines may stand before a request (RFC 9112 section 2.2).
            At::Head | At::Trailers if line.is_empty() => At::Head,
            At::Head => self.field(line),
            At::ChunkSize => {
                let digits = line.split(|byte| !byte.is_ascii_hexdigit()).next();
                match digits.and_then(|digits| number(digits, 16)) {
                    Some(0) => At::Trailers,
                    Some(size) => At::Body {
                        left: size.saturating_add(2),
                        chunked: true,
                    },
                    None => self.lose(),
                }
            }
            at => at,
        };
    }

    fn field(&mut self, line: &[u8]) -> At {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        if !std::mem::replace(&mut self.head.has_begun, true) {
            // The preface of HTTP/2, which has no such heads (RFC 9113 section 3.4).
            return if line == b"PRI * HTTP/2.0" {
                At::Lost
            } else {
                At::Head
            };
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.is_encoded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = parts.next().unwrap_or_default().trim_ascii();
            if line.len() >= LINE_BYTES_MAX {
                return self.lose();
            }
            let Some(length) = number(value, 10) else {
                return self.lose();
            };
            self.head.length = Some(length);
        }
        self.conflicts |= self.head.is_encoded && self.head.length.is_some();
        At::Head
    }

    fn lose(&mut self) -> At {
        self.conflicts = true;
        At::Lost
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CASES: [(bool, &str); 15] = [
        (
            true,
            "POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            true,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: 1\r\ncontent-length: 3\r\n",
        ),
        (
            true,
            "\r\n\nPOST / HTTP/1.1\nTransfer-Encoding: chunked\ncontent-length:3\n\n",
        ),
        (
            false,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 3\r\n\r\n0\r\n\r\n",
        ),
        // Behind bodies.
        (
            false,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA \r\n0123456789\r\n0\r\nX: 1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        ),
        (
            true,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            true,
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            true,
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        // In bodies they mean nothing.
        (
            false,
            "POST / HTTP/1.1\r\nContent-Length: 42\r\n\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: \r\nGET / HTTP/1.1\r\n\r\n",
        ),
        (
            false,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2a\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n",
        ),
        // The framing cannot be followed.
        (true, "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n"),
        (
            true,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ),
        (
            true,
            "POST / HTTP/1.1\r\nContent-Length:                                                                                                                               3\r\n\r\n",
        ),
        (
            false,
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        ),
        (false, ""),
    ];

    #[test]
    fn two_lengths_in_one_head_conflict() {
        for (conflicts, sent) in CASES {
            let mut framing = Framing::default();
            framing.read(sent.as_bytes());
            assert_eq!(framing.conflicts(), conflicts, "{sent:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_it_is_cut(case in 0..CASES.len(), cuts in prop::collection::vec(1..9_usize, 1..9)) {
            let (conflicts, sent) = CASES[case];
            let (mut framing, mut rest) = (Framing::default(), sent.as_bytes());
            for n in cuts.iter().cycle() {
                let (piece, more) = rest.split_at((*n).min(rest.len()));
                framing.read(piece);
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(framing.conflicts(), conflicts, "{:?}", sent);
        }

        #[test]
        fn outside_bytes_are_read_in_bounds(pieces: Vec<Vec<u8>>) {
            let mut framing = Framing::default();
            for piece in pieces {
                framing.read(&piece);
                prop_assert!(framing.line.len() <= LINE_BYTES_MAX);
            }
        }
    }
}
