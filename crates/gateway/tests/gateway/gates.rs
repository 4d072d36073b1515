//! What flags open and close.

use crate::support::*;
use ::http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use serin_flags::{Flag, FlagKey, Release, Table};
use serin_model::{
    access::Gates, event::FlagRelease, service::ServiceSettings, snapshot::ServiceRoute,
};
use std::sync::Arc;

mod features;
mod lists;
mod releases;
mod spellings;
mod streams;

/// A server of three tools that offers and uses everything.
pub(crate) async fn tools(as_events: bool) -> Server {
    Server::start(move |seen| async move {
        let body = seen.json();
        let id = &body["id"];
        let result = match seen.rpc_method().as_str() {
            "initialize" => json!({
                "protocolVersion": body["params"]["protocolVersion"],
                "capabilities": { "tools": { "listChanged": true }, "tasks": { "list": {} } },
                "serverInfo": { "name": "s", "version": "1" },
            }),
            "server/discover" => json!({
                "capabilities": { "tools": {}, "extensions": { "io.modelcontextprotocol/tasks": {} } },
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "tools/list" => json!({
                "tools": [{ "name": "add" }, { "name": "admin.drop" }, { "name": "search" }],
                "ttlMs": 60_000, "cacheScope": "public",
            }),
            "subscriptions/listen" => {
                let (sender, reply) = pieces("text/event-stream");
                let ack = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}"#;
                sender.send(piece(&format!("data: {ack}\n\n"))).unwrap();
                tokio::spawn(async move { sender.closed().await });
                return reply;
            }
            _ if seen.method == "GET" => {
                let (sender, reply) = pieces("text/event-stream");
                sender.send(piece(": here\n\n")).unwrap();
                tokio::spawn(async move { sender.closed().await });
                return reply;
            }
            _ if id.is_null() => return reply(202, &[], ""),
            _ => json!({ "content": [], "seen": body["params"] }),
        };
        let message = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
        let session = ("mcp-session-id", "s-1");
        if as_events {
            let text = format!("id: 1\ndata:\n\nevent: message\r\ndata: {message}\r\n\r\n");
            return reply(200, &[("content-type", "text/event-stream"), session], text);
        }
        reply(200, &[("content-type", "application/json"), session], message)
    })
    .await
}

/// A flag that is on or off, with its default and its targeting.
pub(crate) fn flag(of: &Value) -> (FlagKey, Arc<Flag>) {
    let key = of["key"].as_str().unwrap().parse().unwrap();
    let flag = json!({
        "state": "ENABLED",
        "variants": { "on": true, "off": false },
        "defaultVariant": of["default"],
        "targeting": of["targeting"],
        "serin": { "offVariant": "off" },
    });
    (key, Arc::new(serde_json::from_value(flag).unwrap()))
}

/// A table of these flags.
pub(crate) fn table(flags: impl IntoIterator<Item = (FlagKey, Arc<Flag>)>) -> Table {
    Table {
        flags: Arc::new(flags.into_iter().collect()),
        ..Table::default()
    }
}

pub(crate) fn flags(flags: &[(&str, bool)]) -> Table {
    table(flags.iter().map(|(key, on)| {
        let default = if *on { "on" } else { "off" };
        flag(&json!({ "key": key, "default": default }))
    }))
}

/// The service with settings, as the routing table has it with these flags.
pub(crate) fn gated(mut service: ServiceRoute, settings: Value, flags: &Table) -> ServiceRoute {
    service.settings = serde_json::from_value::<ServiceSettings>(settings).unwrap();
    service.gates = Gates::new(&service.settings, flags);
    service
}

/// One version of a server, with settings, where these flags are.
pub(crate) fn behind(server: &Server, settings: Value, flags: &Table) -> Vec<ServiceRoute> {
    let service = service(&[build("v1", &[server])], None);
    vec![gated(service, settings, flags)]
}

/// A gateway that has these flags.
pub(crate) fn start(services: Vec<ServiceRoute>, flags: &Table) -> Running {
    let gateway = Running::start(vec![]);
    gateway.swap_flags(services, flags.clone());
    gateway
}

/// Settings of a service whose tools `admin.*` are there where `admin` is on.
fn admin_tools() -> Value {
    json!({ "gates": [{ "flag": "admin", "tools": ["admin.*"] }], "tenant_header": "x-tenant" })
}

pub(crate) fn releasing(server: &Server, percentage: f64) -> (Vec<ServiceRoute>, Table) {
    let mut table = flags(&[("new_search", false)]);
    let forced = (
        "forced".parse().unwrap(),
        [("new_search".parse().unwrap(), "on".into())].into(),
    );
    table.overrides = Arc::new([forced].into());
    let release = Release {
        percentage,
        on: "on".into(),
    };
    table
        .releases
        .insert("new_search".parse().unwrap(), release);
    let mut service = service(
        &[build("v1", &[server]), build("v1+new_search", &[server])],
        Some(percentage),
    );
    let endpoints = service.versions[0].endpoints.clone();
    service.versions[1].endpoints = endpoints;
    service.settings.affinity_header = Some("x-user".into());
    service.settings.tenant_header = Some("x-tenant".into());
    service.split.as_mut().unwrap().flag = Some(FlagRelease {
        flag: "new_search".parse().unwrap(),
        on: "on".into(),
    });
    (vec![service], table)
}

/// The same, where testers choose their side by hand.
pub(crate) fn testing(server: &Server, percentage: f64) -> (Vec<ServiceRoute>, Table) {
    let (mut services, table) = releasing(server, percentage);
    services[0].settings.overrides.canary = true;
    (services, table)
}

/// The last message in an answer, be it JSON or events.
pub(crate) fn message(answer: &Answer) -> Value {
    let text = answer.text();
    let last = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(last.unwrap_or(text)).unwrap_or_else(|_| panic!("{answer:?}"))
}

pub(crate) fn names(answer: &Answer) -> Vec<String> {
    let message = message(answer);
    let tools = message["result"]["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{message}"));
    tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The answer to what a server asked under this id, as the server got it.
async fn answer_to(server: &Server, id: &str) -> Seen {
    let answered = async {
        loop {
            let mut seen = server.seen().into_iter();
            if let Some(seen) = seen.find(|seen| seen.json()["id"] == id) {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(answered).await
}

async fn next(stream: &mut Response<Incoming>) -> String {
    let frame = soon(stream.body_mut().frame())
        .await
        .expect("the stream goes on")
        .unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

pub(crate) async fn session(client: &mut Client) -> String {
    let answer = client.initialize().await;
    answer
        .header("mcp-session-id")
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_owned()
}

pub(crate) fn call(tool: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool, "arguments": {} } })
        .to_string()
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#;
