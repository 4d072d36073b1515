//! The file for rows that the table has not taken yet: lines with a checksum each, in segments that are removed one by one.
//!
//! It is written by plain writes and never synced: it has to outlive the process, not the machine. What a crash tears is one line at
//! the end, which its checksum tells. A segment with a line that is damaged otherwise is kept under another name, for people.

use serin_store::AuditEntry;
use std::{
    collections::{BTreeMap, VecDeque},
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
/// Behind the name of a segment that is kept because it is damaged.
const ASIDE: &str = ".damaged";

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
    /// Rows that should be in the file and are not, since this was last asked.
    missing: u64,
    /// The number of the next segment: never one that there was.
    next_number: u64,
    bytes_max: u64,
    segment_bytes: u64,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// Rows that the table does not have.
    left: u64,
    /// It has a line that cannot be read.
    is_damaged: bool,
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
            missing: 0,
            next_number: 1,
            bytes_max: BYTES_MAX,
            segment_bytes: SEGMENT_BYTES,
        };
        for (number, is_whole) in found(base)? {
            spill.next_number = spill.next_number.max(number + 1);
            if is_whole {
                spill.open_segment(number)?;
            }
        }
        spill.sweep()?;
        Ok(spill)
    }

    /// Counts what an earlier process left in a segment.
    fn open_segment(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let mut lines = Lines::open(&path, 0)?;
        let (mut left, mut damaged) = (0, 0);
        while let Some(line) = lines.next()? {
            match line {
                Line::Row(_) => left += 1,
                Line::Damaged => damaged += 1,
            }
        }
        if damaged > 0 {
            let path = path.display();
            tracing::error!(damaged, %path, "lines in the file of the audit trail cannot be read; it is kept with `.damaged` behind its name");
        }
        self.behind += left;
        self.missing += damaged;
        self.segments.push_back(Segment {
            number,
            bytes: lines.at,
            left,
            is_damaged: damaged > 0,
        });
        Ok(())
    }

    /// Rows that are in the file alone.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// Rows that should be in the file and are not, since this was last asked.
    pub(super) fn take_missing(&mut self) -> u64 {
        std::mem::take(&mut self.missing)
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
        if self.is_torn {
            segment.bytes = file.metadata()?.len();
        }
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
        loop {
            match self.read_segment(rows_max, &mut rows) {
                Ok(()) => {}
                // One that the table has all of is gone. What else was there shows when there is no other.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // What was read is given; the error comes again.
                Err(_) if !rows.is_empty() => return Ok(rows),
                Err(error) => return Err(error),
            }
            if rows.len() >= rows_max || self.behind == 0 {
                return Ok(rows);
            }
            let (number, _) = self.reading;
            let mut segments = self.segments.iter();
            let Some(next) = segments.find(|segment| segment.number > number) else {
                self.give_up();
                return Ok(rows);
            };
            self.reading = (next.number, 0);
        }
    }

    /// The next rows of the segment that is being read.
    fn read_segment(&mut self, rows_max: usize, rows: &mut Vec<AuditEntry>) -> io::Result<()> {
        if self.behind == 0 {
            return Ok(());
        }
        let (number, at) = self.reading;
        let mut lines = Lines::open(&self.path(number), at)?;
        while rows.len() < rows_max
            && self.behind > 0
            && let Some(line) = lines.next()?
        {
            match line {
                Line::Row(row) => {
                    self.behind -= 1;
                    rows.push(*row);
                }
                Line::Damaged => {
                    let mut all = self.segments.iter_mut();
                    if let Some(segment) = all.find(|segment| segment.number == number) {
                        segment.is_damaged = true;
                    }
                }
            }
            self.reading.1 = lines.at;
        }
        Ok(())
    }

    /// Waits no longer for rows that are in no segment.
    fn give_up(&mut self) {
        let mut missing = std::mem::take(&mut self.behind);
        tracing::error!(missing, "rows of the audit trail are missing in its file");
        self.missing += missing;
        // The newest first: what was read and is not in the table yet keeps the oldest where it is.
        for segment in self.segments.iter_mut().rev() {
            let here = missing.min(segment.left);
            segment.left -= here;
            missing -= here;
        }
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
                let (path, is_damaged) = (self.path(front.number), front.is_damaged);
                self.segments.pop_front();
                put_away(path, is_damaged)?;
                continue;
            }
            let (Some(file), Some(front)) = (&mut self.file, self.segments.front_mut()) else {
                break;
            };
            if front.bytes >= EMPTIED_BYTES && !front.is_damaged {
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
        let number = self.next_number;
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(number))?;
        self.file = Some(file);
        self.is_torn = false;
        self.next_number = number + 1;
        self.segments.push_back(Segment {
            number,
            bytes: 0,
            left: 0,
            is_damaged: false,
        });
        self.sweep()
    }

    fn path(&self, number: u64) -> PathBuf {
        let mut path = self.base.as_os_str().to_owned();
        path.push(format!(".{number:08}"));
        path.into()
    }
}

/// Removes a segment, or keeps it for people.
fn put_away(path: PathBuf, is_damaged: bool) -> io::Result<()> {
    let done = if is_damaged {
        let mut aside = path.clone().into_os_string();
        aside.push(ASIDE);
        fs::rename(path, aside)
    } else {
        fs::remove_file(path)
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The numbers of the segments that there are, in order, and whether each is one to be read.
fn found(base: &Path) -> io::Result<BTreeMap<u64, bool>> {
    let folder = match base.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = base.file_name().unwrap_or_default().to_string_lossy();
    let mut numbers = BTreeMap::new();
    for file in fs::read_dir(folder)? {
        let file = file?.file_name();
        let number = file
            .to_string_lossy()
            .strip_prefix(&*name)
            .and_then(|rest| {
                let rest = rest.strip_prefix('.')?;
                let digits = rest.strip_suffix(ASIDE);
                let number = digits.unwrap_or(rest).parse::<u64>().ok()?;
                Some((number, digits.is_none()))
            });
        if let Some((number, is_whole)) = number {
            *numbers.entry(number).or_default() |= is_whole;
        }
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
        assert_eq!((spill.take_missing(), spill.take_missing()), (1, 0));
        // Kept for people, and not read again nor written over.
        let aside = folder.path().join("s.00000001.damaged");
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        let mut spill = Spill::open(&base).unwrap();
        assert_eq!(spill.behind(), 0);
        spill.append(&rows(5..6), false).unwrap();
        assert!(spill.path(2).exists() && !path.exists());
        assert_eq!(fs::read(&aside).unwrap(), damaged);
    }

    #[test]
    fn two_processes_that_were_killed_leave_two_segments_that_come_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("s");
        let mut first = Spill::open(&base).unwrap();
        first.append(&rows(0..5), false).unwrap();
        let mut second = Spill::open(&base).unwrap();
        second.append(&rows(5..8), false).unwrap();
        for (path, torn) in [(first.path(1), 3), (second.path(2), 1)] {
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() - torn]).unwrap();
        }
        let mut third = Spill::open(&base).unwrap();
        third.append(&rows(8..9), false).unwrap();
        assert_eq!(third.behind(), 7);
        assert_eq!(ids(&third.read(100).unwrap()), [0, 1, 2, 3, 5, 6, 8]);
        assert_eq!(
            third.take_missing(),
            0,
            "what was torn was never said to be there"
        );
        // The table has the first segment, and the process is killed before it has the second.
        third.done(4).unwrap();
        assert_eq!(files(folder.path()), 2);
        let mut fourth = Spill::open(&base).unwrap();
        assert_eq!(read_all(&mut fourth, 2), [5, 6, 8]);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn reading_goes_on_where_a_segment_ends_with_what_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(&folder.path().join("s")).unwrap();
        spill.segment_bytes = 1;
        for begin in [0, 3, 6] {
            spill.append(&rows(begin..begin + 3), false).unwrap();
        }
        assert_eq!(files(folder.path()), 3);
        assert_eq!(read_all(&mut spill, 3), (0..9).collect::<Vec<_>>());
        assert_eq!(spill.take_missing(), 0);
    }

    #[test]
    fn garbage_and_segments_that_vanish_hold_nothing_up_and_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("s");
        let mut spill = Spill::open(&base).unwrap();
        spill.segment_bytes = 1;
        for begin in [0, 3, 6] {
            spill.append(&rows(begin..begin + 3), false).unwrap();
        }
        fs::remove_file(spill.path(2)).unwrap();
        assert_eq!(read_all(&mut spill, 2), [0, 1, 2, 6, 7, 8]);
        assert_eq!((spill.behind(), spill.take_missing()), (0, 3));
        spill.append(&rows(9..12), false).unwrap();
        assert_eq!(read_all(&mut spill, 2), [9, 10, 11]);
        drop(spill);

        for file in fs::read_dir(folder.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        fs::write(folder.path().join("s.00000001"), [0; 5000]).unwrap();
        fs::write(folder.path().join("s.00000002"), "\n\0\n{}\nx").unwrap();
        fs::write(folder.path().join("s.00000003"), "").unwrap();
        fs::write(folder.path().join("s.notes"), "of somebody else").unwrap();
        let mut spill = Spill::open(&base).unwrap();
        assert_eq!((spill.behind(), spill.take_missing()), (0, 3));
        spill.append(&rows(0..2), false).unwrap();
        assert_eq!(read_all(&mut spill, 9), [0, 1]);
        assert!(folder.path().join("s.00000002.damaged").exists());
        assert!(folder.path().join("s.notes").exists());
    }

    #[test]
    fn rows_of_other_releases_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("s");
        // The first release's, and one with a column that is not known yet.
        let first = r#"{"id":"1","at_micros":7,"tenant":"acme","key_hash":"","endpoint":"/mcp","method":"POST","status":200,"duration_ms":3,"outcome":"ok"}"#;
        let later = first.replace("\"ok\"", "\"ok\",\"region\":{\"name\":\"eu\"}");
        let lines = [first, &later].map(|json| {
            let sum = checksum(json.as_bytes());
            format!("{} {json}\n", str::from_utf8(&sum).unwrap())
        });
        assert!(lines[0].starts_with("bb7d339243f13419 "), "{}", lines[0]);
        fs::write(folder.path().join("s.00000001"), lines.concat()).unwrap();
        let mut spill = Spill::open(&base).unwrap();
        let rows = spill.read(9).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], rows[1]);
        assert_eq!((&*rows[0].tenant, rows[0].status), ("acme", 200));
        assert_eq!(spill.take_missing(), 0);
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
