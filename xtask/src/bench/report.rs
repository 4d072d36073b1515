//! The tables, the ratios and the bounds.

use std::fmt::{self, Display, Formatter};

use super::{CONNECTIONS, Cell, Era, Growth, Memory, Sample, peer::Kind};

/// At least this part of nginx's calls a second...
const OF_NGINX_MIN: f64 = 0.7;

/// ...at so many connections.
const OF_NGINX_CONNECTIONS: u16 = 16;

/// A session may leave nothing behind. Where every session left this much, memory would grow by 1.6 MB in 100,000...
const SESSION_BYTES_MAX: f64 = 16.0;

/// ...beside what an allocator keeps or gives back as it likes, whatever the number of sessions.
const NOISE_BYTES: f64 = 1_048_576.0;

/// Both versions serve, or there was no rollout to measure.
const SHARE_MIN: f64 = 0.2;

/// How sure the bounds of a ratio are.
const CONFIDENCE: f64 = 0.95;

const MEGABYTE: f64 = 1_048_576.0;

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) cells: Vec<Cell>,
    pub(crate) memory: Vec<Memory>,
    /// Calls served by stable and candidate.
    pub(crate) shares: Option<[u64; 2]>,
    /// The part of the machine that others used meanwhile.
    pub(crate) others: f64,
}

/// How two of them compare: the median of the rounds' ratios, and bounds for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Report {
    /// What Serin promises and does not keep, a sentence each.
    pub(crate) fn broken_bounds(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for era in Era::ALL {
            let name = era.name();
            match self.ratio(era, OF_NGINX_CONNECTIONS, Kind::Nginx) {
                Some(ratio) if ratio.low >= OF_NGINX_MIN => {}
                Some(ratio) => broken.push(format!(
                    "{name}, {OF_NGINX_CONNECTIONS} connections: {ratio} of nginx's calls a second, at least {OF_NGINX_MIN} wanted"
                )),
                None => broken.push(format!("{name}: nginx or Serin was not measured")),
            }
            for connections in CONNECTIONS {
                for other in [Kind::Envoy, Kind::McpProxy] {
                    let ratio = self.ratio(era, connections, other);
                    if let Some(ratio) = ratio.filter(|ratio| ratio.low <= 1.0) {
                        broken.push(format!(
                            "{name}, {connections} connection(s): {ratio} of the calls a second of {}, more than 1 wanted",
                            other.name()
                        ));
                    }
                }
            }
        }
        let failed: u64 = self
            .cells
            .iter()
            .filter(|cell| cell.kind == Kind::Serin)
            .map(Cell::failed)
            .sum();
        if failed > 0 {
            broken.push(format!("{failed} of Serin's calls failed"));
        }
        let of_serin = self.memory.iter().find(|memory| memory.kind == Kind::Serin);
        match of_serin.and_then(|memory| memory.later.as_ref()) {
            Some(growth) => {
                let bytes_max = f64::from(growth.sessions) * SESSION_BYTES_MAX + NOISE_BYTES;
                if growth.bytes > bytes_max {
                    broken.push(format!(
                        "{} later sessions cost Serin {:.0} bytes of memory, at most {bytes_max:.0} wanted",
                        growth.sessions, growth.bytes
                    ));
                }
            }
            None => broken.push("no session was opened through Serin".to_owned()),
        }
        let both = SHARE_MIN..=1.0 - SHARE_MIN;
        if !self
            .candidate_share()
            .is_some_and(|share| both.contains(&share))
        {
            broken.push("stable and candidate did not both serve".to_owned());
        }
        broken
    }

    /// Serin's calls a second in those of `other`.
    fn ratio(&self, era: Era, connections: u16, other: Kind) -> Option<Ratio> {
        let serin = self.cell(Kind::Serin, era, connections)?;
        serin.ratio_to(self.cell(other, era, connections)?)
    }

    fn cell(&self, kind: Kind, era: Era, connections: u16) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| (cell.kind, cell.era, cell.connections) == (kind, era, connections))
    }

    fn candidate_share(&self) -> Option<f64> {
        let [stable, candidate] = self.shares?;
        let all = stable + candidate;
        (all > 0).then(|| candidate as f64 / all as f64)
    }

    fn write_way(&self, f: &mut Formatter<'_>, era: Era, connections: u16) -> fmt::Result {
        writeln!(
            f,
            "\n{}, {connections} connection{}",
            match era {
                Era::Legacy => "legacy (2025-11-25, with sessions)",
                Era::Modern => "modern (2026-07-28, with headers)",
            },
            if connections == 1 { "" } else { "s" }
        )?;
        writeln!(
            f,
            "{:<18}{:>9}{:>9}{:>9}{:>10}{:>9}   {:<22}{:<22}",
            "", "calls/s", "p50 ms", "p99 ms", "CPU us", "system", "of nginx", "of direct"
        )?;
        for kind in Kind::ALL {
            let Some(cell) = self.cell(kind, era, connections) else {
                if kind.unable(era).is_some() {
                    writeln!(f, "{:<18}{:>9}", kind.name(), "-")?;
                }
                continue;
            };
            let ratio = |other| {
                self.cell(other, era, connections)
                    .and_then(|other| cell.ratio_to(other))
                    .map_or_else(|| "-".to_owned(), |ratio| ratio.to_string())
            };
            let (cpu, system) = cell.cpu().map_or_else(
                || ("-".to_owned(), "-".to_owned()),
                |(micros, system)| (format!("{micros:.0}"), format!("{:.0} %", system * 100.0)),
            );
            writeln!(
                f,
                "{:<18}{:>9.0}{:>9.2}{:>9.2}{cpu:>10}{system:>9}   {:<22}{:<22}",
                kind.name(),
                cell.median(|sample| sample.load.calls_per_second()),
                cell.median(|sample| sample.load.p50_us) / 1000.0,
                cell.median(|sample| sample.load.p99_us) / 1000.0,
                ratio(Kind::Nginx),
                ratio(Kind::Direct),
            )?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for era in Era::ALL {
            for connections in CONNECTIONS {
                self.write_way(f, era, connections)?;
            }
        }
        writeln!(
            f,
            "\n{:<18}{:>12}{:>14}{:>26}{:>26}",
            "memory, MB",
            "at rest",
            "after calls",
            "first 100,000 sessions",
            "later 100,000 sessions"
        )?;
        for memory in &self.memory {
            let megabytes = |growth: &Option<Growth>| {
                growth.as_ref().map_or_else(
                    || "-".to_owned(),
                    |growth| {
                        let scale = 100_000.0 / f64::from(growth.sessions);
                        format!("{:.1}", growth.bytes * scale / MEGABYTE)
                    },
                )
            };
            writeln!(
                f,
                "{:<18}{:>12.1}{:>14.1}{:>26}{:>26}",
                memory.kind.name(),
                memory.at_rest as f64 / MEGABYTE,
                memory.after_calls as f64 / MEGABYTE,
                megabytes(&memory.first),
                megabytes(&memory.later),
            )?;
        }
        writeln!(f)?;
        let rounds = self.cells.iter().map(|cell| cell.samples.len()).max();
        writeln!(
            f,
            "Medians of {} rounds; a ratio is the median of the rounds' ratios (bounds of that median, {}).",
            rounds.unwrap_or_default(),
            bounds_name(rounds.unwrap_or_default()),
        )?;
        writeln!(
            f,
            "CPU: processor time of the proxy per call, and the part of it in the kernel. Others used {:.0} % of the machine.",
            self.others * 100.0
        )?;
        if let Some(share) = self.candidate_share() {
            writeln!(
                f,
                "Serin's candidate served {:.0} % of the calls.",
                share * 100.0
            )?;
        }
        if let Some(growth) = self.memory.iter().find_map(|memory| memory.first.as_ref()) {
            writeln!(
                f,
                "Sessions opened through each gateway at a time: {}.",
                growth.sessions
            )?;
        }
        for kind in Kind::ALL {
            for reason in Era::ALL.into_iter().filter_map(|era| kind.unable(era)) {
                writeln!(f, "-: {reason}.")?;
            }
        }
        for cell in self.cells.iter().filter(|cell| cell.failed() > 0) {
            writeln!(
                f,
                "{}, {}, {} connection(s): {} failed.",
                cell.kind.name(),
                cell.era.name(),
                cell.connections,
                cell.failed()
            )?;
        }
        Ok(())
    }
}

impl Cell {
    /// Calls that failed; a run that failed counts as one.
    fn failed(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| sample.as_ref().map_or(1, |sample| sample.load.errors))
            .sum()
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().flatten().map(of).collect())
    }

    /// Processor time per call in microseconds, and the part of it in the kernel, over all rounds: a single one has few of
    /// the kernel's ticks.
    fn cpu(&self) -> Option<(f64, f64)> {
        let (mut total, mut system, mut calls) = (0.0, 0.0, 0);
        for sample in self.samples.iter().flatten() {
            let cpu = sample.cpu?;
            total += cpu.total();
            system += cpu.system;
            calls += sample.load.calls;
        }
        (calls > 0 && total > 0.0).then(|| (total * 1e6 / calls as f64, system / total))
    }

    fn ratio_to(&self, other: &Self) -> Option<Ratio> {
        let ratios: Vec<f64> = self
            .samples
            .iter()
            .zip(&other.samples)
            .filter_map(|(of, to)| Some((of.as_ref()?, to.as_ref()?)))
            .filter(|(_, to)| to.load.calls_per_second() > 0.0)
            .map(|(of, to)| of.load.calls_per_second() / to.load.calls_per_second())
            .collect();
        Ratio::of(ratios)
    }
}

impl Ratio {
    /// Of the rounds' ratios.
    pub(crate) fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        let rank = rank(ratios.len());
        Some(Self {
            low: *ratios.get(rank)?,
            high: *ratios.get(ratios.len() - 1 - rank)?,
            median: median(ratios),
        })
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} ({:.2} to {:.2})",
            self.median, self.low, self.high
        )
    }
}

/// How many of the lowest and of the highest values lie outside the bounds of the median: as many as leave it inside with
/// [`CONFIDENCE`]. The number of values below the median is binomial, whatever their distribution.
fn rank(count: usize) -> usize {
    let mut outside = 0;
    while count > 0 && coverage(count, outside + 1) >= CONFIDENCE {
        outside += 1;
    }
    outside
}

/// How probably the median lies between the values of this rank from either end.
fn coverage(count: usize, rank: usize) -> f64 {
    let mut term = 0.5_f64.powf(count as f64);
    let mut below = 0.0;
    for k in 0..=rank {
        below += term;
        term *= count.saturating_sub(k) as f64 / (k + 1) as f64;
    }
    1.0 - 2.0 * below
}

/// What the bounds leave out, and how sure they are.
pub(crate) fn bounds_name(rounds: usize) -> String {
    let rank = rank(rounds);
    let kind = if rank == 0 {
        "the lowest and highest".to_owned()
    } else {
        format!("without the {rank} lowest and highest")
    };
    format!(
        "{kind}: {:.0} % sure",
        coverage(rounds, rank).max(0.0) * 100.0
    )
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2);
    let lower = values.get(values.len().saturating_sub(1) / 2);
    match (lower, upper) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ratio, coverage, median, rank};

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(Vec::new()).is_nan());
    }

    /// From the tables of the binomial distribution: P(median within) is 1 - 2 P(Bin(n, 1/2) <= rank).
    #[test]
    fn bounds_hold_the_median_as_often_as_they_say() {
        for (count, outside, covered) in [(7, 0, 0.984_375), (9, 1, 0.960_937_5), (3, 0, 0.75)] {
            assert_eq!(rank(count), outside, "{count} rounds");
            assert!(
                (coverage(count, outside) - covered).abs() < 1e-12,
                "{count} rounds"
            );
        }
        assert_eq!(rank(0), 0);
    }

    #[test]
    fn a_ratio_has_bounds() {
        let ratio = Ratio::of(vec![0.9, 0.7, 0.8]).expect("three rounds");
        assert_eq!(ratio.to_string(), "0.80 (0.70 to 0.90)");
        assert_eq!(Ratio::of(Vec::new()), None);
    }
}
