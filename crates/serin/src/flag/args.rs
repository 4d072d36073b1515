//! The command line of `serin flag`.

use clap::{Args, Subcommand};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serin_flags::{Environment, FlagKey, TenantId};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Flag {
    /// List flags.
    List {
        /// Those that may be deleted: expired, the same for everybody for 30 days, or not asked since the server began.
        #[arg(long)]
        stale: bool,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a flag.
    Get {
        /// The flag.
        key: FlagKey,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create a flag: a boolean one that is off, unless told otherwise.
    Create(CreateArgs),
    /// Change a flag.
    Set(SetArgs),
    /// Delete a flag: it is off for everybody from then on.
    Delete {
        /// The flag.
        key: FlagKey,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Give a tenant a variant of its own, or take it away.
    #[command(group = clap::ArgGroup::new("own").required(true))]
    Override {
        /// The flag.
        key: FlagKey,
        /// The tenant.
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// The variant that the tenant gets.
        #[arg(long, value_name = "NAME", group = "own")]
        variant: Option<String>,
        /// The tenant gets what everybody gets.
        #[arg(long, group = "own")]
        clear: bool,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Say what a flag answers somebody, and which step decided.
    Eval(EvalArgs),
    /// Take over a set of flags, whole or not at all; flags that it does not name stay.
    Import {
        /// A flagd document, flags in the compact form, an object of booleans, or a table of weeks (with `--start`); `-` is standard
        /// input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only say what it would change.
        #[arg(long)]
        dry_run: bool,
        /// When the first week of a table of weeks begins: a date or a time in UTC.
        #[arg(long, value_name = "DATE", value_parser = moment)]
        start: Option<Timestamp>,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print all flags as a flagd document.
    Export {
        /// As they are in force now, with nothing that flagd does not know, in place of the definitions.
        #[arg(long)]
        effective: bool,
        /// The effective set of this tenant.
        #[arg(long, value_name = "ID", requires = "effective")]
        tenant: Option<TenantId>,
        /// The effective set in this environment.
        #[arg(long, value_name = "NAME", requires = "effective")]
        env: Option<Environment>,
    },
    /// Show what happened to a flag, also kills and rollouts that touched it.
    History {
        /// The flag.
        key: FlagKey,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop all flags at once: each answers its off variant until `serin revive flags`.
    DisableAll {
        /// Why.
        #[arg(long)]
        reason: String,
        /// Do not ask. Without a terminal nobody is asked anyway.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Why.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Only if it was not changed since this revision: `serin flag get` shows it.
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The flag.
    pub(crate) key: FlagKey,
    /// It is on.
    #[arg(long)]
    pub(crate) on: bool,
    /// It is off.
    #[arg(long, conflicts_with = "on")]
    pub(crate) off: bool,
    /// Its definition, in flagd's form or the compact one, in JSON; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "off", "percentage", "env", "expires", "owner"])]
    pub(crate) file: Option<PathBuf>,
    /// So many get it, in percent.
    #[arg(long, value_name = "N", value_parser = number)]
    pub(crate) percentage: Option<f64>,
    /// Only in these environments.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) env: Vec<Environment>,
    /// From then on everybody gets the off variant: a date or a time in UTC.
    #[arg(long, value_name = "DATE", value_parser = expiry)]
    pub(crate) expires: Option<Expiry>,
    /// Who answers for it.
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Why.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct SetArgs {
    /// The flag.
    pub(crate) key: FlagKey,
    /// Its rules and its default count.
    #[arg(long, group = "what")]
    pub(crate) enable: bool,
    /// Everybody gets the off variant.
    #[arg(long, group = "what", conflicts_with = "enable")]
    pub(crate) disable: bool,
    /// So many get it, in percent.
    #[arg(long, value_name = "N", value_parser = number, group = "what")]
    pub(crate) percentage: Option<f64>,
    /// The answer where no rule says otherwise.
    #[arg(long, value_name = "VARIANT", group = "what")]
    pub(crate) default: Option<String>,
    /// Only in these environments.
    #[arg(long, value_name = "NAME", value_delimiter = ',', group = "what")]
    pub(crate) env: Vec<Environment>,
    /// From then on everybody gets the off variant: a date or a time in UTC, or `never`.
    #[arg(long, value_name = "DATE", value_parser = expiry, group = "what")]
    pub(crate) expires: Option<Expiry>,
    /// Who answers for it.
    #[arg(long, value_name = "NAME", group = "what")]
    pub(crate) owner: Option<String>,
    /// A whole definition in its place, in JSON; `-` is standard input.
    #[arg(long, value_name = "FILE", group = "what", conflicts_with_all = ["enable", "disable", "percentage", "default", "env", "expires", "owner"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) why: WhyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The flag.
    pub(crate) key: FlagKey,
    /// Who asks, as `OpenFeature` has it: `{"targetingKey": "u-1", "plan": "pro"}`.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["targeting_key", "tenant", "env"])]
    pub(crate) context: Option<String>,
    /// What keeps a caller in one bucket: a user, a session.
    #[arg(long = "key", id = "targeting_key", value_name = "KEY")]
    pub(crate) targeting_key: Option<String>,
    /// Whose caller it is.
    #[arg(long, value_name = "ID")]
    pub(crate) tenant: Option<String>,
    /// Where it is asked.
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<Environment>,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// When a flag ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    At(Timestamp),
}

/// A percentage; whether it fits is said by the admin API.
fn number(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let number = number
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "write a number from 0 to 100, such as 25 or 12.5".to_owned())
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    moment(text)
        .map(Expiry::At)
        .map_err(|help| format!("{help}, or never"))
}

/// A day begins at midnight in UTC.
fn moment(text: &str) -> Result<Timestamp, String> {
    let date = || {
        let date: Date = text.parse().ok()?;
        Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
    };
    text.parse().ok().or_else(date).ok_or_else(|| {
        "write a date such as 2027-01-31 or a time such as 2027-01-31T12:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_read_as_utc() {
        for (text, at) in [
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
            ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
        ] {
            assert_eq!(expiry(text), Ok(Expiry::At(at.parse().unwrap())), "{text}");
        }
        assert_eq!(expiry("never"), Ok(Expiry::Never));
        assert!(expiry("soon").is_err());
    }
}
