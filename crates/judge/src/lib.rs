//! Statistics of the canary decision: histograms, windows, thresholds, verdicts.
//!
//! Pure: no clock, no I/O. The sources are named at each item.

mod histogram;

pub use histogram::{BUCKETS, DenseHistogram, LogHistogram, bucket_of, upper_edge_seconds};
