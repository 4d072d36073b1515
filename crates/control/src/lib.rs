//! The control plane: monitor, orchestrator, health and pre-flight probes.
