//! `serin apply` and `serin diff`: files against what is.

use crate::{
    cli::{FileArgs, Global},
    client::{Client, block_on},
    exit::Exit,
    problem::{self, Problem},
    rollout::{print, to_json},
};
use miette::Report;
use serde_json::Value;
use std::{io::Read as _, path::Path};

pub(crate) fn apply(global: &Global, args: &FileArgs) -> miette::Result<Exit> {
    let answer = send(global, args, "apply")?;
    if args.json {
        print(&to_json(&answer)?)?;
    } else {
        print(&lines(
            &answer,
            "done",
            "nothing to do: all is as described",
        ))?;
    }
    Ok(Exit::Done)
}

/// Like `kubectl diff`: the code tells drift from no drift, so every failure gets another one.
pub(crate) fn diff(global: &Global, args: &FileArgs) -> Exit {
    let compared = send(global, args, "diff").and_then(|answer| {
        if args.json {
            print(&to_json(&answer)?)?;
        } else {
            print(&lines(&answer, "changes", "no drift: all is as described"))?;
        }
        let drift = answer["changes"]
            .as_array()
            .is_some_and(|changes| !changes.is_empty());
        Ok(if drift { Exit::Error } else { Exit::Done })
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
    block_on(client.post_text(
        &format!("/admin/v1/{what}?prune={}&now={}", args.prune, args.now),
        text,
    ))
}

fn lines(answer: &Value, key: &str, none: &str) -> String {
    let lines: Vec<_> = answer[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if lines.is_empty() {
        format!("{none}\n")
    } else {
        lines.join("\n") + "\n"
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
