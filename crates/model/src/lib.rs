//! What Serin knows and how it decides: names, services, plans, events, `decide` and `apply`, and the snapshot by which the
//! data plane routes.
//!
//! Pure: no clock, no I/O, no randomness. Time and new ids are arguments.

pub mod access;
pub mod api;
pub mod audit;
pub mod auth;
pub mod course;
pub mod decide;
pub mod degraded;
pub mod drain;
pub mod event;
pub mod flags;
pub mod gate;
pub mod manifest;
pub mod name;
pub mod observe;
pub mod plan;
pub mod reach;
pub mod replay;
pub mod rollout;
pub mod route;
pub mod rule;
pub mod service;
pub mod share;
pub mod snapshot;
pub mod state;
pub mod switch;
pub mod tenancy;
pub mod words;

pub use serin_route::text;
