//! Server-sent events, pushed in pieces cut anywhere (WHATWG HTML, section 9.2.6).
//!
//! Says where the payload of `data` fields stands in each piece, and where events end. All other
//! fields and comments are stepped over.

use memchr::memchr2;

/// What was found. `pos` stands just behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A `data` field begins: the first of its event, or one that a line feed joins to the last.
    Line {
        /// No `data` field came before it in this event.
        is_first: bool,
    },
    /// Payload of the `data` field that began last: this range of the piece. One field may come in
    /// several ranges, and an empty field has none.
    Data(std::ops::Range<usize>),
    /// A blank line: the event is complete.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of the stream, behind so many bytes of a byte order mark.
    Mark(u8),
    /// At the start of a line or in a field name, behind so many letters of `data`.
    Name(u8),
    /// Behind the colon of `data:`; one space is not payload.
    Space,
    /// In the payload of a `data` field.
    Payload,
    /// In a line of no interest.
    Other,
}

const NAME: &[u8] = b"data";
const MARK: &[u8] = "\u{feff}".as_bytes();

/// The line machine.
#[derive(Debug, Clone)]
pub struct Parser {
    state: State,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// The event that is open has a `data` field.
    has_data: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// At the start of a stream.
    pub const fn new() -> Self {
        Self {
            state: State::Mark(0),
            after_return: false,
            has_data: false,
        }
    }

    /// Reads on from `pos`; `None` when the piece is used up.
    pub fn next(&mut self, piece: &[u8], pos: &mut usize) -> Option<Part> {
        while let Some(&byte) = piece.get(*pos) {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                *pos += 1;
                continue;
            }
            let is_line_end = matches!(byte, b'\n' | b'\r');
            match self.state {
                State::Mark(seen) => {
                    if MARK.get(usize::from(seen)) == Some(&byte) {
                        *pos += 1;
                        self.state = match seen {
                            2 => State::Name(0),
                            _ => State::Mark(seen + 1),
                        };
                    } else if seen == 0 {
                        self.state = State::Name(0);
                    } else {
                        self.state = State::Other;
                    }
                }
                State::Name(0) if is_line_end => {
                    self.end_line(byte, pos);
                    if std::mem::take(&mut self.has_data) {
                        return Some(Part::End);
                    }
                }
                State::Name(4) if byte == b':' => {
                    *pos += 1;
                    self.state = State::Space;
                    return Some(self.begin_data());
                }
                // A field without colon has an empty value.
                State::Name(4) if is_line_end => {
                    self.end_line(byte, pos);
                    return Some(self.begin_data());
                }
                State::Name(seen) if NAME.get(usize::from(seen)) == Some(&byte) => {
                    *pos += 1;
                    self.state = State::Name(seen + 1);
                }
                State::Name(_) => self.state = State::Other,
                State::Space => {
                    *pos += usize::from(byte == b' ');
                    self.state = State::Payload;
                }
                State::Payload | State::Other if is_line_end => self.end_line(byte, pos),
                State::Payload | State::Other => {
                    let start = *pos;
                    let rest = piece.get(start..).unwrap_or_default();
                    *pos += memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    if self.state == State::Payload {
                        return Some(Part::Data(start..*pos));
                    }
                }
            }
        }
        None
    }

    fn begin_data(&mut self) -> Part {
        let is_first = !std::mem::replace(&mut self.has_data, true);
        Part::Line { is_first }
    }

    fn end_line(&mut self, byte: u8, pos: &mut usize) {
        *pos += 1;
        self.after_return = byte == b'\r';
        self.state = State::Name(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of each event, read in pieces of the given sizes.
    fn events(stream: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut parser = Parser::new();
        let (mut done, mut open) = (Vec::new(), Vec::new());
        let mut rest = stream;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts
                .next()
                .map_or(rest.len(), |cut| (*cut).clamp(1, rest.len()));
            let (piece, later) = rest.split_at(cut);
            rest = later;
            let mut pos = 0;
            while let Some(part) = parser.next(piece, &mut pos) {
                match part {
                    Part::Line { is_first: true } => assert!(open.is_empty()),
                    Part::Line { is_first: false } => open.push(b'\n'),
                    Part::Data(range) => open.extend_from_slice(&piece[range]),
                    Part::End => {
                        done.push(String::from_utf8_lossy(&std::mem::take(&mut open)).into_owned());
                    }
                }
            }
            assert_eq!(pos, piece.len());
        }
        done
    }

    #[test]
    fn streams_are_read_as_the_standard_says() {
        let none: [&str; 0] = [];
        for (stream, want) in [
            ("data: a\n\n", &["a"] as &[&str]),
            ("data:a\r\rdata:b\r\n\r\n", &["a", "b"]),
            ("\u{feff}data: a\n\n", &["a"]),
            ("data: \u{feff}a\n\n", &["\u{feff}a"]),
            (": hi\nevent: x\nid: 1\nretry: 5\ndata:  a\n\n", &[" a"]),
            ("data: a\nid: 1\ndata: b\n\n", &["a\nb"]),
            ("data\n\n", &[""]),
            ("id: 1\ndata: \n\n", &[""]),
            ("data\ndata\n\n", &["\n"]),
            ("datax: a\ndat: b\n data: c\nxdata: d\n\n", &none),
            ("id: 1\n\n\n\n", &none),
            ("data: never dispatched\n", &none),
        ] {
            for cut in [1, 2, 3, 5, usize::MAX] {
                assert_eq!(
                    events(stream.as_bytes(), &[cut]),
                    want,
                    "{stream:?} by {cut}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            stream in "(data|id|:|: |\r\n|\r|\n|a|\u{feff}|\u{fc}){0,40}",
            cuts in prop::collection::vec(1usize..6, 1..8),
        ) {
            prop_assert_eq!(events(stream.as_bytes(), &cuts), events(stream.as_bytes(), &[]));
        }
    }
}
