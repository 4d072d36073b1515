//! Seeded randomness: the same numbers for the same seed on every machine, in any order of runs and on any number of cores.

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rand_distr::{Binomial, Distribution, Poisson};
use std::{num::NonZero, thread};

/// Where the runs of one row of a table get their seeds from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The seed of a row: the hash of `root`, such as a commit, and the row's name. Whoever names both cannot pick the result.
    pub fn new(root: &str, row: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(root.as_bytes()).update(b"\0");
        hasher.update(row.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The seed of something within the row.
    #[must_use]
    pub fn of(&self, part: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(part.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The source of one run: independent of every other run's.
    pub fn run(&self, run: u64) -> Source {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_stream(run);
        Source(rng)
    }

    /// Its first eight digits, to print.
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// A stream of random numbers.
#[derive(Debug)]
pub struct Source(ChaCha8Rng);

impl Source {
    /// Another source, which goes its own way: what is drawn from one makes no difference to the other.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Any 16 bits.
    #[expect(clippy::cast_possible_truncation, reason = "that is what is asked for")]
    pub fn bits16(&mut self) -> u16 {
        self.0.next_u32() as u16
    }

    /// Below `limit`, which is above 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit.max(1))
    }

    /// How many of `trials` happen, each with this probability.
    pub fn binomial(&mut self, trials: u64, probability: f64) -> u64 {
        let probability = probability.clamp(0.0, 1.0);
        if trials == 0 || probability <= 0.0 {
            return 0;
        }
        Binomial::new(trials, probability).map_or(0, |binomial| binomial.sample(&mut self.0))
    }

    /// How many things happen of which `mean` are expected.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole and not negative"
        )]
        let count = Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(&mut self.0)) as u64;
        count
    }

    /// Seconds until something happens that happens every `mean_seconds` on average, at any moment alike.
    pub fn wait_seconds(&mut self, mean_seconds: f64) -> f64 {
        -mean_seconds * libm::log1p(-self.unit())
    }
}

/// Runs `one` for every run from 0 to `runs`, on all cores; the answers are in order, so cores make no difference.
pub fn all_runs<T: Send>(runs: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let chunk = runs.div_ceil(cores).max(1);
    let one = &one;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..runs)
            .step_by(usize::try_from(chunk).unwrap_or(1))
            .map(|first| {
                scope.spawn(move || {
                    (first..runs.min(first + chunk))
                        .map(one)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| match thread.join() {
                Ok(answers) => answers,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_everywhere() {
        let mut source = Seed::new("root", "row").run(3);
        let drawn = (
            source.bits(),
            source.binomial(300, 0.1),
            source.binomial(10, 0.01),
            source.poisson(300.0),
            source.poisson(0.5),
        );
        assert_eq!(
            drawn,
            (3_408_471_974_243_002_729, 36, 0, 283, 0),
            "recorded on x86-64 Linux"
        );
    }

    #[test]
    fn rows_and_runs_differ() {
        let first = |root: &str, row: &str, run| Seed::new(root, row).run(run).bits();
        let all = [
            first("a", "b", 0),
            first("a", "b", 1),
            first("a", "c", 0),
            first("ab", "", 0),
            first("", "ab", 0),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
    }

    #[test]
    fn means_are_as_asked_for() {
        let mut source = Seed::new("means", "").run(0);
        let n = 20_000;
        let mut mean = |draw: &dyn Fn(&mut Source) -> f64| {
            (0..n).map(|_| draw(&mut source)).sum::<f64>() / f64::from(n)
        };
        assert!((mean(&|s| s.binomial(300, 0.1) as f64) - 30.0).abs() < 0.2);
        assert!((mean(&|s| s.binomial(30, 0.01) as f64) - 0.3).abs() < 0.02);
        assert!((mean(&|s| s.poisson(300.0) as f64) - 300.0).abs() < 0.6);
        assert!((mean(&|s| s.wait_seconds(7.0)) - 7.0).abs() < 0.2);
    }

    #[test]
    fn answers_are_in_order() {
        assert_eq!(
            all_runs(7, |run| run * run),
            [0, 1, 4, 9, 16, 25, 36].to_vec()
        );
        assert!(all_runs(0, |run| run).is_empty());
    }
}
