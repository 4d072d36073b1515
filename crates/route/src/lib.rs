//! Which request goes where, as far as it can be said without knowing services and versions: conditions of rules, choices by weight,
//! what keeps a caller in one place, and what is known of an endpoint that fails. Pure: time, loads and randomness are arguments.
//!
//! - [`condition`]: what a rule asks of a request, and the first rule that fits;
//! - [`source`]: by what a caller is known again (header, cookie, tenant, address);
//! - [`weigh`]: one of several by key, in turn, or by load;
//! - [`breaker`] and [`outlier`]: endpoints that fail are left alone for a while;
//! - [`standing`]: which endpoints of a version may be used now;
//! - [`budget`]: how many attempts may be made twice.
//!
//! `serin-model` gives these their services and versions ([`serin_model::route`](../serin_model/route/index.html)); the gateway
//! keeps the numbers.

pub mod breaker;
pub mod budget;
pub mod condition;
pub mod outlier;
pub mod source;
pub mod standing;
pub mod text;
pub mod weigh;
