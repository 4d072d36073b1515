//! `serin route`: where a request would go, and why.

use crate::{
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    rollout::{print, to_json},
    screen,
};
use clap::{ArgGroup, Args, Subcommand};
use serin_admin::routes::{Asked, Explained};
use serin_model::name::ServiceName;
use std::net::IpAddr;

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Say which rule, key, bucket, version and endpoint a request would get, and why. Nothing is sent anywhere.
    Explain(Box<ExplainArgs>),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).multiple(true).args(["service", "path"])))]
pub(crate) struct ExplainArgs {
    /// The service; without it, the one at the host and path.
    service: Option<ServiceName>,
    /// The path from the root, with its query.
    #[arg(long)]
    path: Option<String>,
    /// The host; unless given, the first of the service's own, else `localhost`.
    #[arg(long)]
    host: Option<String>,
    /// The method; POST to an MCP service unless given, else GET.
    #[arg(long)]
    method: Option<String>,
    /// A header; may be given often.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A cookie; may be given often.
    #[arg(long = "cookie", value_name = "NAME=VALUE")]
    cookies: Vec<String>,
    /// The tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Who of the tenant the caller proved to be: the id of a key, or the subject of a token.
    #[arg(long, requires = "tenant")]
    subject: Option<String>,
    /// The role of the caller's key: `admin`, `user` or `read_only`.
    #[arg(long)]
    role: Option<String>,
    /// A tool that is called; may be given often.
    #[arg(long = "tool", value_name = "NAME")]
    tools: Vec<String>,
    /// The client's address; 127.0.0.1 unless given.
    #[arg(long)]
    address: Option<IpAddr>,
    /// The version chosen by hand.
    #[arg(long, value_name = "VERSION")]
    chosen: Option<String>,
    /// The id of the session to which the request belongs.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn dispatch(global: &Global, command: Route) -> miette::Result<Exit> {
    let Route::Explain(args) = command;
    let mut client = Client::find(global)?;
    let json = args.json;
    let asked = asked(*args);
    block_on(async {
        let explained: Explained = client.post("/admin/v1/routes:explain", &asked).await?;
        let columns = screen::terminal().unwrap_or(screen::PAPER).columns;
        print(&if json {
            to_json(&explained)?
        } else {
            screen::explain::draw(&explained, columns).join("\n") + "\n"
        })?;
        Ok(Exit::Done)
    })
}

fn asked(args: ExplainArgs) -> Asked {
    Asked {
        service: args.service,
        method: args.method,
        host: args.host,
        path: args.path,
        query: None,
        headers: args.headers,
        cookies: args.cookies,
        tenant: args.tenant,
        subject: args.subject,
        role: args.role,
        tools: args.tools,
        address: args.address,
        chosen: args.chosen,
        session: args.session,
    }
}
