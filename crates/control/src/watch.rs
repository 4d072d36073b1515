//! The watch over one rollout: it gathers what the cores send into blocks, and has blocks judged that are on the disk.

use crate::view::{ArmView, Arms};
use jiff::Timestamp;
use serin_judge::{
    Arm, Assessment, LogHistogram, Metric, Resources, Tally, sequential::Forecast, trial::Ledger,
};
use serin_model::{
    course::{Block, Course, Step},
    name::{ServiceName, VersionName},
    observe::{Counts, NO_TOOL, Outcome, Sealed, TOOL_LABELS_MAX},
    rollout::Rollout,
    service::Protocol,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most tools a version told apart in a step, like the labels of the metrics.
const TOOLS_MAX: usize = TOOL_LABELS_MAX + 3;

/// The watch over one rollout.
pub(crate) struct Watch {
    service: ServiceName,
    /// Whether calls without a tool are judged: those of plain HTTP services are, `tools/list` and its like are not.
    judge_toolless: bool,
    /// What the blocks have shown.
    course: Course,
    pending: Pending,
    /// The trials of the judge's block that is under way.
    ledger: Ledger,
    /// Length of such a block, and when the present one began.
    block_seconds: f64,
    block_began: f64,
    /// Affinity keys of this step, by the version they got, without those of the block under way.
    keys: Arms<u64>,
    /// The last look.
    pub(crate) assessment: Option<Assessment>,
    /// When the judge may decide, as of the last block.
    forecast: Option<Forecast>,
}

/// What came of the two versions since the last tick.
struct Pending {
    from: VersionName,
    to: VersionName,
    stable: Arm,
    candidate: Arm,
}

impl Pending {
    /// The side of a version; nothing for a third one.
    fn of(&mut self, version: &VersionName) -> Option<&mut Arm> {
        if *version == self.to {
            Some(&mut self.candidate)
        } else {
            (*version == self.from).then_some(&mut self.stable)
        }
    }

    fn take(&mut self) -> (Arm, Arm) {
        let (stable, candidate) = (&mut self.stable, &mut self.candidate);
        (std::mem::take(stable), std::mem::take(candidate))
    }
}

impl Watch {
    /// A watch over a rollout as it is.
    pub(crate) fn new(rollout: &Rollout, protocol: Protocol, now: f64) -> Self {
        let began = seconds(rollout.step_started_at);
        Self {
            service: rollout.service.clone(),
            judge_toolless: protocol == Protocol::Http,
            course: Course::new(rollout.plan.clone(), Step::of(rollout, began)),
            pending: Pending {
                from: rollout.from.clone(),
                to: rollout.to.clone(),
                stable: Arm::default(),
                candidate: Arm::default(),
            },
            ledger: Ledger::new(rollout.step),
            block_seconds: rollout.plan.judge.block.as_secs_f64(),
            block_began: now,
            keys: Arms::default(),
            assessment: None,
            forecast: None,
        }
    }

    /// Starts anew when the rollout has taken another step: counts of one share are not mixed with those of another.
    pub(crate) fn follow(&mut self, rollout: &Rollout, now: f64) {
        if self.course.step().number == rollout.step {
            return;
        }
        let began = seconds(rollout.step_started_at);
        self.course.begin(Step::of(rollout, began));
        self.ledger.begin(rollout.step);
        self.block_began = now;
        self.pending.take();
        self.keys = Arms::default();
        self.assessment = None;
        self.forecast = None;
    }

    /// Takes what a core sent.
    pub(crate) fn gather(&mut self, rollout: &Rollout, sealed: &Sealed) {
        let Self {
            service, pending, ..
        } = self;
        for (key, counts) in sealed
            .cells
            .iter()
            .filter(|(key, _)| key.service == *service)
        {
            let Some(arm) = pending.of(&key.version) else {
                continue;
            };
            let tally = tally(counts);
            if &*key.tool == NO_TOOL && !self.judge_toolless {
                // A version that fails its `initialize` or lists is broken too, but such calls are no trials, and how long they
                // take is nobody's measure.
                let errors = Tally {
                    first_byte: LogHistogram::default(),
                    last_byte: LogHistogram::default(),
                    ..tally
                };
                arm.add_apart(&key.tool, &errors);
            } else if arm.tools.len() < TOOLS_MAX || arm.tools.contains_key(&key.tool) {
                arm.add(&key.tool, &tally);
            }
        }
        for (service, version, name, value) in &sealed.values {
            if *service == self.service
                && let Some(arm) = self.pending.of(version)
            {
                arm.add_value(name, *value);
            }
        }
        let mine = sealed
            .trials
            .iter()
            .filter(|trials| (trials.rollout, trials.step) == (rollout.id, rollout.step));
        for trials in mine {
            self.ledger.gather(&trials.report);
        }
    }

    /// Takes what a version says of its machine.
    pub(crate) fn learn(
        &mut self,
        service: &ServiceName,
        version: &VersionName,
        sample: &Resources,
    ) {
        if *service == self.service
            && let Some(arm) = self.pending.of(version)
        {
            arm.add_resources(sample);
        }
    }

    /// The block that ends now, if anything came. `shared` are the tools that both versions have, if that is known.
    pub(crate) fn seal(
        &mut self,
        rollout: &Rollout,
        now: f64,
        shared: Option<&BTreeSet<Arc<str>>>,
    ) -> Option<Block> {
        let (stable, candidate) = self.pending.take();
        let mut block = Block {
            step: self.course.step().number,
            at_seconds: now,
            stable,
            candidate,
            trials: None,
        };
        // A clock that was set back must not keep a block open for as long.
        self.block_began = self.block_began.min(now);
        if now - self.block_began >= self.block_seconds {
            self.block_began = now;
            let share = rollout.share.ratio();
            let trials = self.ledger.close(now, share, block.step, shared);
            let (stable, candidate) = trials.keys;
            self.keys.stable += stable;
            self.keys.candidate += candidate;
            block.trials = (!trials.booked.is_empty()).then(|| Box::new(trials));
        }
        (!block.is_empty()).then_some(block)
    }

    /// Takes a block with its place on the disk and what stands there; without them if the disk has refused it.
    pub(crate) fn take(&mut self, stored: Option<(u64, &[u8])>, block: &Block) {
        match stored {
            Some((sequence, bytes)) => self.course.take(sequence, bytes, block),
            None => self.course.take_unstored(block),
        }
        if block.trials.is_some() {
            self.forecast = self.course.forecast();
        }
    }

    /// A block that was taken before is on the disk now.
    pub(crate) fn stored(&mut self, sequence: u64, bytes: &[u8]) {
        self.course.stored(sequence, bytes);
    }

    /// Takes a block of before a restart: what was booked in it is not booked again.
    pub(crate) fn remember(&mut self, sequence: u64, bytes: &[u8], block: &Block) {
        if let Some(trials) = &block.trials
            && block.step == self.course.step().number
        {
            self.ledger.restore(trials);
            self.keys.stable += trials.keys.0;
            self.keys.candidate += trials.keys.1;
        }
        self.take(Some((sequence, bytes)), block);
        if block.step == self.course.step().number {
            // A breach that has to last has lasted since it was first looked at, not since the restart.
            self.course.assess(block.at_seconds);
        }
    }

    /// How the candidate stands.
    pub(crate) fn assess(&mut self, now: f64) -> Assessment {
        let assessment = self.course.assess(now);
        self.assessment = Some(assessment.clone());
        assessment
    }

    /// Affinity keys by the version they got.
    pub(crate) fn keys(&self) -> Arms<u64> {
        let (stable, candidate) = self.ledger.new_keys();
        Arms {
            stable: self.keys.stable + stable,
            candidate: self.keys.candidate + candidate,
        }
    }

    /// Seconds until the judge may decide, at the present traffic: that the candidate is safe, that it is worse. The latter only
    /// where something speaks against it already: what a handful of trials seem to promise would frighten without reason.
    pub(crate) fn to_verdict_seconds(&self) -> (Option<f64>, Option<f64>) {
        let seconds = |blocks: Option<u64>| blocks.map(|blocks| blocks as f64 * self.block_seconds);
        let forecast = self.forecast.unwrap_or_default();
        let proof = self.assessment.as_ref().and_then(|a| a.proof.as_ref());
        let is_suspect = proof.is_some_and(|proof| proof.worse.log10 > 0.0);
        let worse_blocks = forecast.worse_blocks.filter(|_| is_suspect);
        (seconds(forecast.safe_blocks), seconds(worse_blocks))
    }

    /// Both sides over the present step, all calls together.
    pub(crate) fn arms(&self, now: f64) -> Arms<ArmView> {
        let (stable, candidate) = self.course.whole();
        Arms {
            stable: self.arm(&stable.pooled, now),
            candidate: self.arm(&candidate.pooled, now),
        }
    }

    /// Both sides, tool by tool.
    pub(crate) fn tools(&self, now: f64) -> BTreeMap<Arc<str>, Arms<ArmView>> {
        let (stable, candidate) = self.course.whole();
        let mut tools: BTreeMap<Arc<str>, Arms<ArmView>> = BTreeMap::new();
        for (tool, tally) in &stable.tools {
            tools.entry(Arc::clone(tool)).or_default().stable = self.arm(tally, now);
        }
        for (tool, tally) in &candidate.tools {
            tools.entry(Arc::clone(tool)).or_default().candidate = self.arm(tally, now);
        }
        tools
    }

    fn arm(&self, tally: &Tally, now: f64) -> ArmView {
        let elapsed = (now - self.course.step().began_seconds).max(1e-3);
        let value = |metric| {
            tally
                .value(metric, elapsed)
                .filter(|value| value.is_finite())
        };
        ArmView {
            calls: tally.calls,
            bad: tally.bad,
            error_rate: value(Metric::ErrorRate),
            calls_per_second: tally.calls as f64 / elapsed,
            latency_p50_seconds: value(Metric::LatencyP50),
            latency_p95_seconds: value(Metric::LatencyP95),
            latency_p99_seconds: value(Metric::LatencyP99),
            first_byte_p95_seconds: value(Metric::FirstByteP95),
        }
    }
}

fn tally(counts: &Counts) -> Tally {
    Tally {
        calls: counts.calls(),
        bad: counts.bad(),
        client_errors: counts.of(Outcome::Http4xx),
        auth_failures: counts.auth_failures,
        first_byte: counts.first_byte.clone(),
        last_byte: counts.last_byte.clone(),
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}
