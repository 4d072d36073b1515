//! The file for rows that the table has not taken yet: lines with a checksum each, in segments that are removed one by one.
//!
//! It is written by plain writes and never synced: it has to outlive the process, not the machine. What a crash tears is one line at
//! the end, which its checksum tells.

use serin_store::AuditEntry;
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Bytes of a segment, from which on the next one is begun.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes of the segment in use, from which on it is emptied when all of it is in the table. Below, it costs more than it frees.
const EMPTIED_BYTES: u64 = 1024 * 1024;
/// Most bytes of all segments: some three million rows. Beyond, it is as if the disk were full.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Hex digits of a checksum: 64 bits, against accidents.
const CHECKSUM_CHARS: usize = 16;

pub(super) struct Spill {
    base: PathBuf,
    /// The oldest first; the last is written to if `file` is there.
    segments: VecDeque<Segment>,
    file: Option<File>,
    /// The last write left something in the file that cannot be taken back.
    is_torn: bool,
    /// Rows that are in the file alone, and where they begin: a segment's number and a place in it.
    behind: u64,
    reading: (u64, u64),
    bytes_max: u64,
    segment_bytes: u64,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// Rows that the table does not have.
    left: u64,
}

impl Spill {
    /// Opens what an earlier process left.
    pub(super) fn open(base: &Path) -> io::Result<Self> {
        let mut spill = Self {
            base: base.to_owned(),
            segments: VecDeque::new(),
            file: None,
            is_torn: false,
            behind: 0,
            reading: (0, 0),
            bytes_max: BYTES_MAX,
            segment_bytes: SEGMENT_BYTES,
        };
        let mut numbers = found(base)?;
        numbers.sort_unstable();
        for number in numbers {
            let mut lines = Lines::open(&spill.path(number), 0)?;
            let mut left = 0;
            while let Some(line) = lines.next()? {
                left += u64::from(matches!(line, Line::Row(_)));
            }
            spill.behind += left;
            spill.segments.push_back(Segment {
                number,
                bytes: lines.at,
                left,
            });
        }
        let first = spill.segments.front().map_or(0, |segment| segment.number);
        spill.reading = (first, 0);
        spill.sweep()?;
        Ok(spill)
    }

    /// Rows that are in the file alone.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// Writes rows, all or none. `kept`: the caller keeps them too, and does not ask for them.
    pub(super) fn append(&mut self, rows: &[AuditEntry], kept: bool) -> io::Result<()> {
        if self
            .segments
            .iter()
            .map(|segment| segment.bytes)
            .sum::<u64>()
            >= self.bytes_max
        {
            let text = "the file has reached its largest size, since the table takes no rows";
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.begin_segment()?;
        let mut lines = Vec::with_capacity(rows.len() * 256);
        if self.is_torn {
            lines.push(b'\n');
        }
        for row in rows {
            write_line(&mut lines, row)?;
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(&lines) {
            // A part may have been written; without this the first row after it would be lost with it.
            self.is_torn = file.set_len(segment.bytes).is_err();
            return Err(error);
        }
        self.is_torn = false;
        let count = rows.len() as u64;
        if !kept {
            if self.behind == 0 {
                self.reading = (segment.number, segment.bytes);
            }
            self.behind += count;
        }
        segment.bytes += lines.len() as u64;
        segment.left += count;
        Ok(())
    }

    /// The next rows that are in the file alone. They count as given.
    pub(super) fn read(&mut self, rows_max: usize) -> io::Result<Vec<AuditEntry>> {
        let mut rows = Vec::new();
        while rows.len() < rows_max && self.behind > 0 {
            let (number, at) = self.reading;
            let mut lines = Lines::open(&self.path(number), at)?;
            let mut line = lines.next()?;
            while let Some(read) = line {
                if let Line::Row(row) = read {
                    self.behind -= 1;
                    rows.push(*row);
                }
                self.reading.1 = lines.at;
                if rows.len() >= rows_max || self.behind == 0 {
                    return Ok(rows);
                }
                line = lines.next()?;
            }
            let Some(next) = self.segments.iter().find(|segment| segment.number > number) else {
                tracing::error!(
                    missing = self.behind,
                    "rows of the audit trail are damaged in its file"
                );
                self.behind = 0;
                break;
            };
            self.reading = (next.number, 0);
        }
        Ok(rows)
    }

    /// The table has the oldest `count` rows that it did not have.
    pub(super) fn done(&mut self, mut count: u64) -> io::Result<()> {
        for segment in &mut self.segments {
            let here = count.min(segment.left);
            segment.left -= here;
            count -= here;
        }
        self.sweep()
    }

    /// Removes segments that the table has all of, and empties the one in use.
    fn sweep(&mut self) -> io::Result<()> {
        while let Some(front) = self.segments.front()
            && front.left == 0
        {
            let is_in_use = self.segments.len() == 1 && self.file.is_some();
            if !is_in_use {
                let path = self.path(front.number);
                self.segments.pop_front();
                fs::remove_file(path)?;
                continue;
            }
            let (Some(file), Some(front)) = (&mut self.file, self.segments.front_mut()) else {
                break;
            };
            if front.bytes >= EMPTIED_BYTES {
                file.set_len(0)?;
                front.bytes = 0;
            }
            break;
        }
        Ok(())
    }

    /// Begins a segment where there is none, or the last is full.
    fn begin_segment(&mut self) -> io::Result<()> {
        let is_full = self
            .segments
            .back()
            .is_some_and(|last| last.bytes >= self.segment_bytes);
        if self.file.is_some() && !is_full {
            return Ok(());
        }
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(number))?;
        self.file = Some(file);
        self.is_torn = false;
        self.segments.push_back(Segment {
            number,
            bytes: 0,
            left: 0,
        });
        self.sweep()
    }

    fn path(&self, number: u64) -> PathBuf {
        let mut path = self.base.as_os_str().to_owned();
        path.push(format!(".{number:08}"));
        path.into()
    }
}

/// The numbers of the segments that there are.
fn found(base: &Path) -> io::Result<Vec<u64>> {
    let folder = match base.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = base.file_name().unwrap_or_default().to_string_lossy();
    let mut numbers = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?.file_name();
        let number = file
            .to_string_lossy()
            .strip_prefix(&*name)
            .and_then(|rest| {
                let digits = rest.strip_prefix('.')?;
                digits.parse::<u64>().ok()
            });
        numbers.extend(number);
    }
    Ok(numbers)
}

fn write_line(lines: &mut Vec<u8>, row: &AuditEntry) -> io::Result<()> {
    let begin = lines.len();
    lines.extend_from_slice(&[b' '; CHECKSUM_CHARS + 1]);
    serde_json::to_writer(&mut *lines, row)?;
    let checksum = checksum(lines.get(begin + CHECKSUM_CHARS + 1..).unwrap_or_default());
    if let Some(place) = lines.get_mut(begin..begin + CHECKSUM_CHARS) {
        place.copy_from_slice(&checksum);
    }
    lines.write_all(b"\n")
}

fn checksum(json: &[u8]) -> [u8; CHECKSUM_CHARS] {
    let hex = blake3::hash(json).to_hex();
    let mut checksum = [0; CHECKSUM_CHARS];
    checksum.copy_from_slice(
        hex.as_bytes()
            .get(..CHECKSUM_CHARS)
            .unwrap_or(&[0; CHECKSUM_CHARS]),
    );
    checksum
}

/// A line of a segment.
enum Line {
    Row(Box<AuditEntry>),
    Damaged,
}

/// The lines of a segment.
struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
    /// Behind the last whole line.
    at: u64,
}

impl Lines {
    fn open(path: &Path, at: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Self {
            file: BufReader::with_capacity(256 * 1024, file),
            line: Vec::new(),
            at,
        })
    }

    /// The next line; nothing at the end, and before a line that was torn there.
    fn next(&mut self) -> io::Result<Option<Line>> {
        self.line.clear();
        let read = self.file.read_until(b'\n', &mut self.line)?;
        let Some(line) = self.line.strip_suffix(b"\n") else {
            return Ok(None);
        };
        self.at += read as u64;
        let row = line
            .split_at_checked(CHECKSUM_CHARS)
            .and_then(|(sum, json)| {
                let json = json.strip_prefix(b" ")?;
                (checksum(json) == *sum).then(|| serde_json::from_slice(json).ok())?
            });
        Ok(Some(
            row.map_or(Line::Damaged, |row| Line::Row(Box::new(row))),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(numbers: std::ops::Range<u64>) -> Vec<AuditEntry> {
        let row = |number: u64| AuditEntry {
            id: number.to_string().into(),
            at_micros: 7,
            endpoint: "/mcp\n\"".into(),
            tool: Some("echo".into()),
            outcome: "ok".into(),
            ..AuditEntry::default()
        };
        numbers.map(row).collect()
    }

    fn ids(rows: &[AuditEntry]) -> Vec<u64> {
        rows.iter().map(|row| row.id.parse().unwrap()).collect()
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn read_all(spill: &mut Spill, at_a_time: usize) -> Vec<u64> {
        let mut all = Vec::new();
        while spill.behind() > 0 {
            let rows = spill.read(at_a_time).unwrap();
            spill.done(rows.len() as u64).unwrap();
            all.extend(ids(&rows));
        }
        all
    }

    #[test]
    fn rows_come_back_in_order_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("x.spill");
        let mut spill = Spill::open(&base).unwrap();
        spill.append(&rows(0..3), true).unwrap();
        assert_eq!(spill.behind(), 0);
        spill.append(&rows(3..10), false).unwrap();
        spill.done(3).unwrap();
        assert_eq!(ids(&spill.read(4).unwrap()), [3, 4, 5, 6]);
        spill.append(&rows(10..12), false).unwrap();
        assert_eq!(ids(&spill.read(100).unwrap()), [7, 8, 9, 10, 11]);
        assert_eq!(spill.behind(), 0);
        drop(spill);

        // What the table was not said to have comes again, with what it had: it knows them by their ids.
        let mut spill = Spill::open(&base).unwrap();
        assert_eq!(spill.behind(), 12);
        spill.append(&rows(12..14), false).unwrap();
        assert_eq!(read_all(&mut spill, 5), (0..14).collect::<Vec<_>>());
        drop(spill);
        let spill = Spill::open(&base).unwrap();
        assert_eq!(
            spill.behind(),
            2,
            "the segment in use is only emptied when it is worth it"
        );
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(&folder.path().join("s")).unwrap();
        spill.append(&rows(0..2), false).unwrap();
        assert_eq!(spill.read(9).unwrap(), rows(0..2));
    }

    #[test]
    fn segments_go_when_the_table_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(&folder.path().join("s")).unwrap();
        spill.segment_bytes = 10_000;
        let mut next = 0;
        while files(folder.path()) < 4 {
            spill.append(&rows(next..next + 50), false).unwrap();
            next += 50;
        }
        assert_eq!(read_all(&mut spill, 120), (0..next).collect::<Vec<_>>());
        assert_eq!(files(folder.path()), 1);
        spill.append(&rows(0..1), false).unwrap();
        assert_eq!(read_all(&mut spill, 5), [0]);
    }

    #[test]
    fn a_torn_end_and_a_damaged_line_cost_only_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("s");
        let mut spill = Spill::open(&base).unwrap();
        spill.append(&rows(0..5), false).unwrap();
        let path = spill.path(1);
        drop(spill);
        let whole = fs::read(&path).unwrap();
        let line = whole.len() / 5;
        for cut in [1, line / 2, line - 1] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut spill = Spill::open(&base).unwrap();
            assert_eq!(spill.behind(), 4);
            assert_eq!(ids(&spill.read(9).unwrap()), [0, 1, 2, 3]);
        }
        let mut damaged = whole.clone();
        damaged[line + line / 2] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let mut spill = Spill::open(&base).unwrap();
        assert_eq!(read_all(&mut spill, 2), [0, 2, 3, 4]);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn it_has_a_largest_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(&folder.path().join("s")).unwrap();
        spill.bytes_max = 1000;
        spill.append(&rows(0..10), false).unwrap();
        let full = spill.append(&rows(10..11), false).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read_all(&mut spill, 100), (0..10).collect::<Vec<_>>());
    }
}
