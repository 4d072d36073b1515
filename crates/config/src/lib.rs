//! Configuration: YAML to model with positions, built-in plans, manifests.
