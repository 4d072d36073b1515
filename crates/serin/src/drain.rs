//! `serin drain` and `serin undrain`: who begins goes elsewhere, what is there finishes.

use crate::{
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    rollout::{Done, say},
};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use serin_model::{
    drain::Drained,
    name::ServiceName,
    text::{format_duration, parse_duration},
};
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The service.
    service: ServiceName,
    /// A version by its name, or an endpoint by its URL.
    #[arg(value_name = "VERSION|URL")]
    what: Drained,
    /// Sessions, tasks, streams and continuations that are there may go on for so long.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    cap: Duration,
    /// Why.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    /// The service.
    service: ServiceName,
    /// A version by its name, or an endpoint by its URL.
    #[arg(value_name = "VERSION|URL")]
    what: Drained,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) fn drain(global: &Global, args: &DrainArgs) -> miette::Result<Exit> {
    let body =
        json!({ "what": args.what, "for": format_duration(args.cap), "reason": args.reason });
    send(global, &args.service, Method::PUT, &body)
}

pub(crate) fn undrain(global: &Global, args: &UndrainArgs) -> miette::Result<Exit> {
    let body = json!({ "what": args.what, "reason": args.reason });
    send(global, &args.service, Method::DELETE, &body)
}

fn send(
    global: &Global,
    service: &ServiceName,
    method: Method,
    body: &Value,
) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        let path = format!("/admin/v1/services/{service}/drain");
        let done: Done = client.ask(method, &path, body).await?;
        say(&done)?;
        Ok(Exit::Done)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serin_model::drain::DRAIN_DEFAULT;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DrainArgs,
    }

    #[test]
    fn the_time_is_the_one_that_is_used_where_none_is_said() {
        let line = Line::parse_from(["drain", "tools", "v1", "--reason", "x"]);
        assert_eq!(line.args.cap, DRAIN_DEFAULT);
        assert_eq!(line.args.what, Drained::Version("v1".parse().unwrap()));
        let url = "http://127.0.0.1:9001/mcp";
        let line = Line::parse_from(["drain", "tools", url, "--reason", "x", "--for", "0s"]);
        assert_eq!(line.args.what, Drained::Endpoint(url.to_owned()));
        assert_eq!(format_duration(line.args.cap), "0s");
    }
}
