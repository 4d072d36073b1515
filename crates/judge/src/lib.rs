//! Statistics of the canary decision: histograms, tallies, limits, and the monitor that turns blocks of counts into findings.
//!
//! Pure: no clock, no I/O; time is an argument, in seconds since any fixed point. The sources are named at each item.

mod assessment;
pub mod binomial;
pub mod eprocess;
pub mod exceedance;
mod histogram;
mod limit;
mod monitor;
pub mod sample_ratio;
pub mod sequential;
mod tally;
pub mod trend;
pub mod trial;

pub use assessment::{Assessment, Basis, Check, Finding, Level, Scope, ValueFinding, Verdict};
pub use histogram::{
    BUCKETS, DenseHistogram, LogHistogram, bucket_of, ratio_of_steps, steps_of_ratio,
    upper_edge_seconds,
};
pub use limit::{Direction, Limit, LimitError, Metric, Unit};
pub use monitor::{Criterion, Monitor, Of, SERIES_MAX, Threshold, ValueThreshold};
pub use tally::{Arm, Resources, Tally, ValueSum};
