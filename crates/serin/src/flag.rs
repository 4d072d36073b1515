//! `serin flag`: flags, as the admin API has them.

mod args;
mod table;

pub(crate) use args::Flag;

use crate::{
    apply::read,
    cli::Global,
    client::{Client, block_on},
    exit::Exit,
    kill::confirm_kill,
    problem::Problem,
    rollout::{print, to_json},
};
use args::{CreateArgs, EvalArgs, Expiry, SetArgs, WhyArgs};
use jiff::Timestamp;
use miette::Report;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use serin_flags::{FlagKey, Target};
use std::path::Path;

/// Where all flags are.
const FLAGS: &str = "/admin/v1/flags";

/// What a change has done.
#[derive(Deserialize)]
struct Done {
    done: Vec<String>,
}

pub(crate) fn dispatch(global: &Global, command: Flag) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match command {
            Flag::List { stale, json } => list(&mut client, stale, json).await,
            Flag::Get { key, json } => get(&mut client, &key, json).await,
            Flag::Create(args) => create(&mut client, args).await,
            Flag::Set(args) => set(&mut client, args).await,
            Flag::Delete { key, why } => {
                let body = with_why(Map::new(), &why);
                change(
                    &mut client,
                    Method::DELETE,
                    &format!("{FLAGS}/{key}"),
                    &body,
                )
                .await
            }
            Flag::Override {
                key,
                tenant,
                variant,
                reason,
                ..
            } => {
                let path = format!("{FLAGS}/{key}/overrides/{tenant}");
                let (method, body) = match variant {
                    Some(variant) => (Method::PUT, json!({ "variant": variant, "reason": reason })),
                    None => (Method::DELETE, json!({ "reason": reason })),
                };
                change(&mut client, method, &path, &body).await
            }
            Flag::Eval(args) => evaluate(&mut client, args).await,
            Flag::Import {
                file,
                dry_run,
                start,
                reason,
                json,
            } => {
                let mut query = format!("dry_run={dry_run}&reason={}", in_query(&reason));
                if let Some(start) = start {
                    query += &format!("&start={}", in_query(&start.to_string()));
                }
                import(&mut client, &file, &query, json).await
            }
            Flag::Export {
                effective,
                tenant,
                env,
            } => {
                let mut query = format!("effective={effective}");
                for (name, value) in [
                    ("tenant", tenant.map(|tenant| tenant.to_string())),
                    ("environment", env.map(|env| env.to_string())),
                ] {
                    if let Some(value) = value {
                        query += &format!("&{name}={}", in_query(&value));
                    }
                }
                let document: Value = client
                    .get(&format!("/admin/v1/export/flags?{query}"))
                    .await?;
                print(&to_json(&document)?)?;
                Ok(Exit::Done)
            }
            Flag::History { key, json } => history(&mut client, &key, json).await,
            Flag::DisableAll { reason, yes } => disable_all(&mut client, &reason, yes).await,
        }
    })
}

async fn list(client: &mut Client, stale: bool, json: bool) -> miette::Result<Exit> {
    let answer: Value = client.get(&format!("{FLAGS}?stale={stale}")).await?;
    print(&if json {
        to_json(&answer)?
    } else {
        table::list(&answer, stale)
    })?;
    Ok(Exit::Done)
}

async fn get(client: &mut Client, key: &FlagKey, json: bool) -> miette::Result<Exit> {
    let flag: Value = client.get(&format!("{FLAGS}/{key}")).await?;
    print(&if json {
        to_json(&flag)?
    } else {
        table::one(&flag)
    })?;
    Ok(Exit::Done)
}

async fn create(client: &mut Client, args: CreateArgs) -> miette::Result<Exit> {
    let flag = if let Some(file) = &args.file {
        definition(file)?
    } else {
        let on = !args.off && (args.on || args.percentage.is_some());
        let mut fields = Map::new();
        fields.insert("enabled".to_owned(), json!(on));
        put_common(
            &mut fields,
            args.percentage,
            &args.env,
            args.expires,
            args.owner.as_deref(),
        );
        Value::Object(fields)
    };
    let body = json!({ "flag": flag, "reason": args.reason });
    change(
        client,
        Method::POST,
        &format!("{FLAGS}/{}", args.key),
        &body,
    )
    .await
}

async fn set(client: &mut Client, args: SetArgs) -> miette::Result<Exit> {
    let path = format!("{FLAGS}/{}", args.key);
    if let Some(file) = &args.file {
        let mut fields = Map::new();
        fields.insert("flag".to_owned(), definition(file)?);
        return change(client, Method::PUT, &path, &with_why(fields, &args.why)).await;
    }
    let mut fields = Map::new();
    if args.enable || args.disable {
        fields.insert("enabled".to_owned(), json!(args.enable));
    }
    if let Some(variant) = &args.default {
        fields.insert("default_variant".to_owned(), json!(variant));
    }
    put_common(
        &mut fields,
        args.percentage,
        &args.env,
        args.expires,
        args.owner.as_deref(),
    );
    change(client, Method::PATCH, &path, &with_why(fields, &args.why)).await
}

fn put_common(
    fields: &mut Map<String, Value>,
    percentage: Option<f64>,
    environments: &[serin_flags::Environment],
    expires: Option<Expiry>,
    owner: Option<&str>,
) {
    if let Some(percentage) = percentage {
        fields.insert("rollout_percentage".to_owned(), json!(percentage));
    }
    if !environments.is_empty() {
        fields.insert("environments".to_owned(), json!(environments));
    }
    match expires {
        None => {}
        Some(Expiry::Never) => {
            fields.insert("expires".to_owned(), Value::Null);
        }
        Some(Expiry::At(at)) => {
            if at <= Timestamp::now() {
                eprintln!("note: {at} is past, so it is off for everybody at once");
            }
            fields.insert("expires".to_owned(), json!(at));
        }
    }
    if let Some(owner) = owner {
        fields.insert("owner".to_owned(), json!(owner));
    }
}

fn with_why(mut fields: Map<String, Value>, why: &WhyArgs) -> Value {
    fields.insert("reason".to_owned(), json!(why.reason));
    if let Some(revision) = why.revision {
        fields.insert("revision".to_owned(), json!(revision));
    }
    Value::Object(fields)
}

/// A definition in a file.
fn definition(file: &Path) -> miette::Result<Value> {
    json_in(&read(file)?, &format!("the file {}", file.display()))
}

fn json_in(text: &str, what: &str) -> miette::Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        Report::new(Problem::new(
            format!("{what} is no JSON: {error}"),
            "mend it at the place that the message names",
        ))
    })
}

async fn change(
    client: &mut Client,
    method: Method,
    path: &str,
    body: &Value,
) -> miette::Result<Exit> {
    let done: Done = client.ask(method, path, body).await?;
    if done.done.is_empty() {
        print("nothing to do: it is so already\n")?;
    } else {
        print(&(done.done.join("\n") + "\n"))?;
    }
    Ok(Exit::Done)
}

async fn evaluate(client: &mut Client, args: EvalArgs) -> miette::Result<Exit> {
    let context = if let Some(context) = &args.context {
        json_in(context, "`--context`")?
    } else {
        let mut context = Map::new();
        for (name, value) in [
            ("targetingKey", args.targeting_key),
            ("tenant", args.tenant),
            ("environment", args.env.map(|env| env.to_string())),
        ] {
            context.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        Value::Object(context)
    };
    let answer: Value = client
        .post(
            &format!("{FLAGS}/{}/evaluate", args.key),
            &json!({ "context": context }),
        )
        .await?;
    print(&if args.json {
        to_json(&answer)?
    } else {
        table::evaluation(&answer)
    })?;
    Ok(Exit::Done)
}

async fn import(client: &mut Client, file: &Path, query: &str, json: bool) -> miette::Result<Exit> {
    let text = read(file)?;
    if text.len() > serin_config::FILE_BYTES_MAX {
        return Err(Report::new(Problem::new(
            format!(
                "the file {} has more than 1 MiB, which is the most that one import takes",
                file.display()
            ),
            "import it in parts, or let `serin run` follow it (`flags.file` in the configuration, up to 4 MiB)",
        )));
    }
    let path = format!("/admin/v1/import/flags?{query}");
    let answer: Value = client.post_text(&path, text).await?;
    print(&if json {
        to_json(&answer)?
    } else {
        table::imported(&answer)
    })?;
    Ok(Exit::Done)
}

/// A text as part of a query.
pub(crate) fn in_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

async fn history(client: &mut Client, key: &FlagKey, json: bool) -> miette::Result<Exit> {
    let mut events = Vec::new();
    let mut after = Some(0);
    while let Some(position) = after {
        let page: Value = client
            .get(&format!(
                "{FLAGS}/{key}/history?limit=1000&after={position}"
            ))
            .await?;
        if let Value::Array(found) = &page["events"] {
            events.extend(found.iter().cloned());
        }
        after = page["next"].as_u64();
    }
    print(&if json {
        to_json(&events)?
    } else {
        table::history(&events)
    })?;
    Ok(Exit::Done)
}

async fn disable_all(client: &mut Client, reason: &str, yes: bool) -> miette::Result<Exit> {
    if !yes {
        confirm_kill(&Target::Flags)?;
    }
    let kill: Value = client
        .post(
            "/admin/feature_flags/disable_all",
            &json!({ "reason": reason }),
        )
        .await?;
    print(&match kill["generation"].as_u64() {
        Some(revision) => format!(
            "all flags are off (revision {revision}); `serin revive flags` brings them back as they were\n"
        ),
        None => "all flags were off already\n".to_owned(),
    })?;
    Ok(Exit::Done)
}
