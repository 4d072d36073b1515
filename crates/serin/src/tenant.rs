//! `serin tenant`: customers.

use crate::{
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    flag::in_query,
    key::{all, say, text, time, width},
    kill::confirm,
    rollout::{print, to_json},
};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};
use serin_flags::TenantId;
use serin_tenancy::TierName;
use std::io::{self, IsTerminal as _};

/// Where all tenants are.
const TENANTS: &str = "/admin/v1/tenants";

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Create a tenant.
    Create {
        /// Its id.
        id: TenantId,
        /// What it is called, for people.
        #[arg(long)]
        title: Option<String>,
        /// What it has bought: a tier of a manifest.
        #[arg(long, value_name = "NAME")]
        tier: Option<TierName>,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// List tenants.
    List {
        /// Those in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a tenant.
    Show {
        /// Its id.
        id: TenantId,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change a tenant.
    Set(SetArgs),
    /// Suspend a tenant: none of its keys opens anything until it is resumed.
    Suspend(TurnArgs),
    /// Resume a tenant: its keys open again what they did.
    Resume(TurnArgs),
    /// Delete a tenant whose keys are all over, and these with it.
    Delete(TurnArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct SetArgs {
    /// Its id.
    id: TenantId,
    /// What it is called, for people.
    #[arg(long, group = "what")]
    title: Option<String>,
    /// What it has bought: a tier of a manifest.
    #[arg(long, value_name = "NAME", group = "what")]
    tier: Option<TierName>,
    /// No tier.
    #[arg(long, group = "what", conflicts_with = "tier")]
    no_tier: bool,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct TurnArgs {
    /// Its id.
    id: TenantId,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not ask. Without a terminal nobody is asked anyway.
    #[arg(long)]
    yes: bool,
}

/// Whether a tenant's keys open anything.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    /// They do.
    Active,
    /// They do not, for now.
    Suspended,
}

pub(crate) fn dispatch(global: &Global, command: Tenant) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Tenant::Create {
                id,
                title,
                tier,
                reason,
            } => {
                let body = json!({ "tenant": id, "title": title, "tier": tier, "reason": reason });
                say(&client.post(TENANTS, &body).await?)
            }
            Tenant::List { state, json } => list(&mut client, state, json).await,
            Tenant::Show { id, json } => {
                let tenant: Value = client.get(&path(&id)).await?;
                print(&if json {
                    to_json(&tenant)?
                } else {
                    one(&tenant)
                })?;
                Ok(Exit::Done)
            }
            Tenant::Set(args) => set(&mut client, args).await,
            Tenant::Suspend(args) => {
                let id = &args.id;
                ask(
                    &args,
                    &format!(
                        "every request of tenant {id} is refused until `serin tenant resume {id}`"
                    ),
                )?;
                turn(&mut client, &args, "/suspend").await
            }
            Tenant::Resume(args) => turn(&mut client, &args, "/resume").await,
            Tenant::Delete(args) => {
                ask(
                    &args,
                    &format!("tenant {} is forgotten, and its keys with it", args.id),
                )?;
                let body = json!({ "reason": args.reason });
                say(&client.ask(Method::DELETE, &path(&args.id), &body).await?)
            }
        }
    })
}

fn path(id: &TenantId) -> String {
    format!("{TENANTS}/{}", in_query(id.as_str()))
}

/// Asks whoever sits at a terminal.
fn ask(args: &TurnArgs, about: &str) -> miette::Result<()> {
    if args.yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    confirm(args.id.as_str(), about)
}

async fn turn(client: &mut Client, args: &TurnArgs, tail: &str) -> miette::Result<Exit> {
    let body = json!({ "reason": args.reason });
    say(&client.post(&(path(&args.id) + tail), &body).await?)
}

async fn set(client: &mut Client, args: SetArgs) -> miette::Result<Exit> {
    let mut body = json!({ "reason": args.reason });
    if let Some(title) = args.title {
        body["title"] = title.into();
    }
    if args.no_tier || args.tier.is_some() {
        body["tier"] = json!(args.tier);
    }
    say(&client.ask(Method::PATCH, &path(&args.id), &body).await?)
}

async fn list(client: &mut Client, state: Option<State>, json: bool) -> miette::Result<Exit> {
    let query = match state {
        None => "",
        Some(State::Active) => "&state=active",
        Some(State::Suspended) => "&state=suspended",
    };
    let tenants = all(client, TENANTS, "tenants", query).await?;
    print(&if json {
        to_json(&tenants)?
    } else {
        table(&tenants)
    })?;
    Ok(Exit::Done)
}

fn table(tenants: &[Value]) -> String {
    if tenants.is_empty() {
        return "no tenants; create one with `serin tenant create ID`\n".to_owned();
    }
    let (wide, tier) = (width(tenants, "tenant"), width(tenants, "tier"));
    let mut out = format!(
        "{:<wide$}  {:<9}  {:<tier$}  {:>5}  {:<16}  {}\n",
        "TENANT", "STATE", "TIER", "KEYS", "CREATED", "TITLE"
    );
    for tenant in tenants {
        out += &format!(
            "{:<wide$}  {:<9}  {:<tier$}  {:>5}  {:<16}  {}\n",
            text(&tenant["tenant"]),
            text(&tenant["state"]),
            text(&tenant["tier"]),
            tenant["keys"].to_string(),
            time(&tenant["created_at"]),
            text(&tenant["title"]),
        );
    }
    out
}

fn one(tenant: &Value) -> String {
    let mut out = format!(
        "{}  {}  {}\n",
        text(&tenant["tenant"]),
        text(&tenant["state"]),
        text(&tenant["title"])
    );
    for (name, value) in [
        ("tier", text(&tenant["tier"])),
        ("created", time(&tenant["created_at"])),
        ("keys", tenant["keys"].to_string()),
    ] {
        out += &format!("  {name:<12} {value}\n");
    }
    out
}
