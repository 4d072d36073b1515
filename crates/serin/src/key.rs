//! `serin key`: the keys of tenants. A key is printed once, alone on standard output, so that a script can take it; everything else goes
//! to standard error.

use crate::{
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    flag::in_query,
    kill::confirm,
    rollout::{print, to_json},
};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};
use serin_flags::TenantId;
use serin_tenancy::{KeyId, Scope, TierName};
use std::io::{self, IsTerminal as _};

/// Where all keys are.
const KEYS: &str = "/admin/v1/keys";

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it. It is not kept: nobody can show it again.
    Create(CreateArgs),
    /// List keys.
    List {
        /// Those of a tenant.
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// Those in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a key, without what opens.
    Show {
        /// Its id: the 12 digits behind `serin_`.
        id: KeyId,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a key that takes the place of another, and print it. For a while both open.
    Rotate {
        /// The id of the other.
        id: KeyId,
        /// For how long both open, such as `7d`; `24h` unless given, `0s` ends the other at once.
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        /// When the new one ends: a date, a time, or how long it lives; unless given it lives as long as the other was to.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a key at once.
    Revoke {
        /// Its id.
        id: KeyId,
        /// Why.
        #[arg(long)]
        reason: String,
        /// Do not ask. Without a terminal nobody is asked anyway.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Whose it is to be.
    #[arg(long, value_name = "ID")]
    tenant: TenantId,
    /// What it is called, for people.
    #[arg(long, default_value = "")]
    name: String,
    /// What it is for.
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// What it reaches: `service:NAME`, `tool:SERVICE/TOOL`, `category:SERVICE/NAME`, `admin:ACTION`; a `*` at the end of a name stands for
    /// anything. May be given several times. Without one: every service.
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// A tier of its own, in place of its tenant's.
    #[arg(long, value_name = "NAME")]
    tier: Option<TierName>,
    /// Make a secret for signing requests, too, and print it on a line of its own.
    #[arg(long)]
    signing: bool,
    /// When it ends: a date, a time, or how long it lives, such as `90d`; `365d` unless given.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Role {
    /// Calls tools and uses the admin API.
    Admin,
    /// Calls tools.
    #[default]
    User,
    /// Lists and reads, and calls tools that only read.
    #[value(name = "read_only", alias = "read-only")]
    ReadOnly,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
            Self::ReadOnly => "read_only",
        }
    }
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    /// It does.
    Active,
    /// It does until the overlap is over.
    Rotated,
    /// Its tenant is suspended.
    Suspended,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rotated => "rotated",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

pub(crate) fn dispatch(global: &Global, command: Key) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Key::Create(args) => create(&mut client, args).await,
            Key::List {
                tenant,
                state,
                json,
            } => list(&mut client, tenant.as_ref(), state, json).await,
            Key::Show { id, json } => {
                let key: Value = client.get(&format!("{KEYS}/{id}")).await?;
                print(&if json { to_json(&key)? } else { one(&key) })?;
                Ok(Exit::Done)
            }
            Key::Rotate {
                id,
                overlap,
                expires,
                reason,
                json,
            } => {
                let body = body([
                    ("overlap", overlap.map(Value::from)),
                    ("expires", expires.map(Value::from)),
                    ("reason", Some(reason.into())),
                ]);
                let made: Value = client.post(&format!("{KEYS}/{id}/rotate"), &body).await?;
                let replaced = &made["replaces"];
                eprintln!(
                    "key {} takes the place of {id}, which ends at {}",
                    text(&made["id"]),
                    time(&replaced["expires_at"])
                );
                show_once(&made, json)
            }
            Key::Revoke { id, reason, yes } => revoke(&mut client, id, &reason, yes).await,
        }
    })
}

async fn create(client: &mut Client, args: CreateArgs) -> miette::Result<Exit> {
    let body = body([
        ("tenant", Some(json!(args.tenant))),
        ("name", Some(args.name.into())),
        ("role", Some(args.role.word().into())),
        ("scopes", Some(json!(args.scopes))),
        ("tier", args.tier.map(|tier| json!(tier))),
        ("signing", args.signing.then_some(Value::Bool(true))),
        ("expires", args.expires.map(Value::from)),
        ("reason", Some(args.reason.into())),
    ]);
    let made: Value = client.post(KEYS, &body).await?;
    eprintln!(
        "key {} of tenant {}, role {}, until {}",
        text(&made["id"]),
        text(&made["tenant"]),
        text(&made["role"]),
        time(&made["expires_at"])
    );
    show_once(&made, args.json)
}

/// What is said; what is not is left out.
fn body<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let said = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(said.collect::<Map<_, _>>())
}

fn show_once(made: &Value, json: bool) -> miette::Result<Exit> {
    for note in made["notes"].as_array().into_iter().flatten() {
        eprintln!("note: {}", text(note));
    }
    eprintln!("keep it now: it is not shown again");
    print(&if json {
        to_json(made)?
    } else {
        let lines = [&made["key"], &made["signing_secret"]];
        let lines = lines.into_iter().filter_map(Value::as_str);
        lines.map(|line| line.to_owned() + "\n").collect()
    })?;
    Ok(Exit::Done)
}

async fn list(
    client: &mut Client,
    tenant: Option<&TenantId>,
    state: Option<State>,
    json: bool,
) -> miette::Result<Exit> {
    let mut query = String::new();
    if let Some(tenant) = tenant {
        query += &format!("&tenant={}", in_query(tenant.as_str()));
    }
    if let Some(state) = state {
        query += &format!("&state={}", state.word());
    }
    let keys = all(client, KEYS, "keys", &query).await?;
    print(&if json {
        to_json(&keys)?
    } else if keys.is_empty() && !query.is_empty() {
        "no such keys; `serin tenant list` shows the tenants, and `serin key list` all keys\n"
            .to_owned()
    } else {
        table(&keys)
    })?;
    Ok(Exit::Done)
}

/// A list of the admin API, page by page.
pub(crate) async fn all(
    client: &mut Client,
    path: &str,
    field: &str,
    query: &str,
) -> miette::Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page: Value = client
            .get(&format!("{path}?limit=10000{query}{after}"))
            .await?;
        if let Value::Array(items) = &page[field] {
            found.extend(items.iter().cloned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", in_query(next)),
            None => return Ok(found),
        }
    }
}

async fn revoke(client: &mut Client, id: KeyId, reason: &str, yes: bool) -> miette::Result<Exit> {
    let path = format!("{KEYS}/{id}");
    if !yes && io::stdin().is_terminal() {
        let key: Value = client.get(&path).await?;
        let about = format!(
            "whatever uses key {id} ({}) of tenant {} is refused from now on",
            text(&key["name"]),
            text(&key["tenant"])
        );
        confirm(&id.to_string(), &about)?;
    }
    let done: Value = client
        .post(&format!("{path}/revoke"), &json!({ "reason": reason }))
        .await?;
    say(&done)
}

/// What a change has done.
pub(crate) fn say(done: &Value) -> miette::Result<Exit> {
    let lines = done["done"].as_array().into_iter().flatten();
    let lines: String = lines.map(|line| text(line) + "\n").collect();
    print(if lines.is_empty() {
        "nothing to do: it is so already\n"
    } else {
        &lines
    })?;
    Ok(Exit::Done)
}

fn table(keys: &[Value]) -> String {
    if keys.is_empty() {
        return "no keys; make one with `serin key create --tenant ID`\n".to_owned();
    }
    let wide = width(keys, "tenant");
    let mut out = format!(
        "{:<12}  {:<wide$}  {:<9}  {:<9}  {:<16}  {:<16}  {:<16}  {}\n",
        "ID", "TENANT", "ROLE", "STATE", "CREATED", "EXPIRES", "LAST USED", "NAME"
    );
    for key in keys {
        out += &format!(
            "{:<12}  {:<wide$}  {:<9}  {:<9}  {:<16}  {:<16}  {:<16}  {}\n",
            text(&key["id"]),
            text(&key["tenant"]),
            text(&key["role"]),
            text(&key["state"]),
            time(&key["created_at"]),
            time(&key["expires_at"]),
            time(&key["last_used_at"]),
            text(&key["name"]),
        );
    }
    out
}

/// The width of a column.
pub(crate) fn width(rows: &[Value], field: &str) -> usize {
    let widest = rows.iter().map(|row| text(&row[field]).len()).max();
    widest.unwrap_or_default().max(field.len())
}

fn one(key: &Value) -> String {
    let mut out = format!(
        "{}...  {}  {}\n",
        text(&key["begins"]),
        text(&key["state"]),
        text(&key["name"])
    );
    let scopes = key["scopes"].as_array().into_iter().flatten();
    let scopes: Vec<_> = scopes.map(text).collect();
    let scopes = if scopes.is_empty() {
        "every service".to_owned()
    } else {
        scopes.join(", ")
    };
    for (name, value) in [
        ("tenant", text(&key["tenant"])),
        ("role", text(&key["role"])),
        ("reaches", scopes),
        ("tier", text(&key["tier"])),
        ("created", time(&key["created_at"])),
        ("expires", time(&key["expires_at"])),
        ("revoked", time(&key["revoked_at"])),
        ("replaced by", text(&key["replaced_by"])),
        ("last used", time(&key["last_used_at"])),
    ] {
        if value != NOTHING {
            out += &format!("  {name:<12} {value}\n");
        }
    }
    out
}

/// What stands where there is nothing.
const NOTHING: &str = "-";

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or(NOTHING).to_owned()
}

pub(crate) fn time(value: &Value) -> String {
    let at = value.as_str().and_then(|at| at.parse::<Timestamp>().ok());
    at.map_or_else(
        || NOTHING.to_owned(),
        |at| {
            at.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M")
                .to_string()
        },
    )
}
