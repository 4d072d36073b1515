//! Events, decide and apply, plans, the rollout machine, the routing snapshot. Pure.
