//! Configuration: `serin.yaml` and manifests become model types, and whatever is wrong in them is said with its place
//! in the file and what to do about it.
//!
//! Reading goes in two steps. First the text becomes data, where the first mistake ends it (broken YAML, an unknown
//! field, a text that is no duration). Then the data is checked, and every problem is reported at once. JSON is read
//! by the same reader: it is YAML too.
//!
//! Pure but for [`Config::load`], which reads one file.

mod affinity;
mod api;
mod audit;
mod auth;
mod builtin;
mod config;
mod diagnostic;
mod endpoints;
mod gate;
mod limiter;
mod name;
mod position;
mod read;
mod rules;
mod service;
mod settings;
mod switch;
mod tenancy;
mod tls;

pub use audit::{Audit, AuditArguments, AuditMode};
pub use builtin::builtin_plans;
pub use config::{
    Admin, AdminListen, CONNECTIONS_MAX_DEFAULT, Config, Control, Cores, Flags, Gateway,
    HEADER_BYTES_MAX_DEFAULT, REQUESTS_MAX_DEFAULT, Store, TICK_MAX, TICK_MIN,
};
pub use diagnostic::{Checked, ConfigError, Diagnostic, Position, Severity};
pub use limiter::{Limiter, LimiterFailure, RedisUrl};
pub use name::closest;
pub use read::{FILE_BYTES_MAX, read_file, read_manifest, read_plan};
pub use serin_flags::Environment;
pub use service::{BODY_BYTES_LEAST, BODY_BYTES_MOST};
pub use settings::Settings;
pub use tls::Tls;
