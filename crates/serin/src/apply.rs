//! `serin apply` and `serin diff`: files against what is.

use crate::{
    cli::{FileArgs, Global},
    client::{Client, block_on},
    doubts,
    exit::Exit,
    problem::{self, Problem},
    rollout::{print, to_json},
};
use miette::Report;
use serde_json::Value;
use serin_model::{manifest::Manifest, name::ServiceName};
use std::{io::Read as _, path::Path};

/// Most names of what is not described that a line has.
const SHOWN_MAX: usize = 10;

pub(crate) fn apply(global: &Global, args: &FileArgs) -> miette::Result<Exit> {
    let answer = send(global, args, "apply")?;
    let doubts = serde_json::from_value(answer["doubts"].clone());
    doubts::show(doubts.unwrap_or_default());
    if args.json {
        print(&to_json(&answer)?)?;
    } else {
        print(&lines(&answer, "done", "nothing to do"))?;
    }
    Ok(Exit::Done)
}

/// Like `kubectl diff`: the code tells drift from no drift, so every failure gets another one.
pub(crate) fn diff(global: &Global, args: &FileArgs) -> Exit {
    let compared = send(global, args, "diff").and_then(|answer| {
        if args.json {
            print(&to_json(&answer)?)?;
        } else {
            print(&lines(&answer, "changes", "no drift"))?;
        }
        let drift = ["changes", "restart"].map(|field| !texts(&answer, field).is_empty());
        Ok(if drift.contains(&true) {
            Exit::Error
        } else {
            Exit::Done
        })
    });
    compared.unwrap_or_else(|error| {
        if !problem::is_broken_pipe(&error) {
            eprintln!("{error:?}");
        }
        Exit::Usage
    })
}

fn send(global: &Global, args: &FileArgs, what: &str) -> miette::Result<Value> {
    let text = read(&args.file)?;
    // Read here first: what is wrong is shown in the file's own lines.
    let name = args.file.display().to_string();
    let checked = serin_config::read_manifest(&text, &name).map_err(problem::refused)?;
    problem::warn(checked.warnings);
    let mut client = Client::find(global)?;
    let path = format!("/admin/v1/{what}?prune={}&now={}", args.prune, args.now);
    block_on(async {
        let answer = client.post_text(&path, text).await?;
        // Who may not ask is told all the rest.
        let services: Option<Value> = client.get("/admin/v1/services").await.ok();
        for line in services.iter().flat_map(|all| moved(&checked.value, all)) {
            eprintln!("{line}");
        }
        Ok(answer)
    })
}

/// The services whose stable version is another than the file says: that is where a service begins, and it moves by rollouts.
fn moved(manifest: &Manifest, services: &Value) -> Vec<String> {
    let services = services.as_array().into_iter().flatten();
    let lines = services.filter_map(|service| {
        let (name, stable) = (service["name"].as_str()?, service["stable"].as_str()?);
        let spec = manifest.services.get(&name.parse::<ServiceName>().ok()?)?;
        let wanted = &spec.stable;
        (wanted.as_str() != stable).then(|| {
            format!(
                "note: stable of `{name}` is `{stable}`, and stays so, though the file says `{wanted}`: `serin rollout start {name} --to {wanted}` changes it"
            )
        })
    });
    lines.collect()
}

/// What is done or would be, and what is not, though somebody who reads "all is as described" would think so.
fn lines(answer: &Value, key: &str, none: &str) -> String {
    let mut lines = texts(answer, key);
    let (restart, unnamed) = (texts(answer, "restart"), texts(answer, "unnamed"));
    if !restart.is_empty() {
        lines.push(format!(
            "{}: not as the process was started; restart `serin run` with this file",
            quoted(&restart)
        ));
    }
    if lines.is_empty() {
        lines.push(if unnamed.is_empty() {
            format!("{none}: all is as described")
        } else {
            format!("{none}: all that is described is so")
        });
    }
    if !unnamed.is_empty() {
        lines.push(format!(
            "left as it is, and not described: {} (`--prune` removes it)",
            some(unnamed)
        ));
    }
    lines.join("\n") + "\n"
}

fn texts(answer: &Value, key: &str) -> Vec<String> {
    let texts = answer[key].as_array().into_iter().flatten();
    let texts = texts.filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The first of a list; who has hundreds of services and applies one of them need not read all others.
fn some(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(SHOWN_MAX);
    names.truncate(SHOWN_MAX);
    let names = names.join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// A file's text, `-` being standard input; no more than a manifest may have.
pub(crate) fn read(path: &Path) -> miette::Result<String> {
    read_at_most(path, serin_config::FILE_BYTES_MAX as u64)
}

/// The same of any other size.
pub(crate) fn read_at_most(path: &Path, bytes_max: u64) -> miette::Result<String> {
    let mut text = String::new();
    // One byte more than allowed: the reader then says that it is too large.
    let limit = bytes_max + 1;
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|error| {
        Report::new(
            Problem::new(
                format!("the file {} cannot be read", path.display()),
                "name a text file in UTF-8 that this user may read",
            )
            .because(error),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stable_version_that_the_file_cannot_change_is_said() {
        let spec =
            |path: &str| json!({ "protocol": "mcp", "path": path, "stable": "v2", "versions": {} });
        let manifest = json!({ "services": { "a": spec("/a"), "b": spec("/b"), "c": spec("/c") } });
        let manifest = serde_json::from_value(manifest).unwrap();
        let services = json!([{ "name": "a", "stable": "v1" }, { "name": "b", "stable": "v2" }, { "name": "z", "stable": "v1" }]);
        let said = moved(&manifest, &services);
        assert_eq!(said.len(), 1, "{said:?}");
        for part in [
            "stable of `a` is `v1`",
            "the file says `v2`",
            "`serin rollout start a --to v2`",
        ] {
            assert!(said[0].contains(part), "{said:?}");
        }
    }
}
