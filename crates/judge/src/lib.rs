//! Statistics of the canary decision: windows, thresholds, verdicts. Pure.
