//! What processes used, from `/proc`.

use std::fs;

/// The kernel counts processor time in hundredths of a second towards user space, on every machine we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// The fields of `/proc/PID/stat` after the name in parentheses, from the state on: see `proc_pid_stat(5)`.
const PARENT: usize = 1;
const USER: usize = 11;
const SYSTEM: usize = 12;
const REAPED_USER: usize = 13;
const REAPED_SYSTEM: usize = 14;

/// Processor time in seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }
}

/// What the process and its descendants have used so far, those that have ended included.
pub(crate) fn cpu(root: u32) -> Cpu {
    tree(root).iter().fold(Cpu::default(), |sum, &pid| {
        let Some(stat) = stat(pid) else { return sum };
        Cpu {
            user: sum.user + seconds(&stat, USER) + seconds(&stat, REAPED_USER),
            system: sum.system + seconds(&stat, SYSTEM) + seconds(&stat, REAPED_SYSTEM),
        }
    })
}

/// What the threads of a process have used so far whose name begins with one of these, in seconds.
pub(crate) fn threads(pid: u32, names: &[&str]) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let lines = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let path = task.path().join("stat");
        fs::read_to_string(path).ok()
    });
    lines
        .filter_map(|line| {
            let (head, fields) = line.rsplit_once(") ")?;
            let (_, name) = head.split_once('(')?;
            let is_one = names.iter().any(|begin| name.starts_with(begin));
            let fields: Vec<_> = fields.split_whitespace().map(str::to_owned).collect();
            is_one.then(|| seconds(&fields, USER) + seconds(&fields, SYSTEM))
        })
        .sum()
}

/// The memory that the process and its descendants hold, in bytes: resident, with shared pages divided among those that
/// share them, so that a server of several processes is not counted several times.
pub(crate) fn memory_bytes(root: u32) -> u64 {
    let kilobytes: u64 = tree(root)
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
        .filter_map(|page| {
            let line = page.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    kilobytes * 1024
}

/// Processor time that the whole machine has used since it started, in seconds.
pub(crate) fn busy_seconds() -> f64 {
    let page = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = page.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, (idle, waiting), interrupts, (soft interrupts: charged to whoever runs as well).
    [0, 1, 2, 5]
        .iter()
        .filter_map(|&field| ticks.get(field))
        .sum::<f64>()
        / TICKS_PER_SECOND
}

/// The processors of this machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `root` and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(PARENT)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            all.iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    found
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = line.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn seconds(stat: &[String], field: usize) -> f64 {
    let ticks: u32 = stat
        .get(field)
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or_default();
    f64::from(ticks) / TICKS_PER_SECOND
}
