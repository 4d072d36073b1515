//! `serin kill`, `serin revive`, `serin kills`: stop something at once, let it go again, see what is stopped.

use crate::{
    cli::{Global, KillArgs, KillsArgs, ReviveArgs},
    client::{CONFIG_DEFAULT, Client, block_on, configured},
    exit::Exit,
    problem::Problem,
    rollout::{print, to_json},
};
use jiff::Timestamp;
use miette::Report;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serin_control::kills::{LOOK_EVERY, break_glass_folder, break_glass_request};
use serin_flags::{
    Target,
    kill::{KillError, REASON_CHARS_MAX},
};
use serin_model::text::format_duration;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{self, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where kills are.
const KILLS: &str = "/admin/v1/kills";
/// Where the log is when no configuration can be read.
const STORE_DEFAULT: &str = "serin.db";
/// How long a running `serin run` may take to see a break-glass request.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// What is typed to revive everything.
const EVERYTHING: &str = "all";

/// What the admin API knows of a target.
#[derive(Debug, Deserialize, Serialize)]
struct Shown {
    target: Target,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    one_in: Option<u32>,
    revision: u64,
    at: Timestamp,
    actor: String,
    reason: String,
    cause: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    switch: Option<String>,
    priority: String,
    grace_seconds: u32,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comes_back_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Book {
    revision: u64,
    kills: Vec<Shown>,
    revived: Vec<Shown>,
    switches: Vec<Switch>,
}

/// A kill switch; what the table does not show goes through to `--json`.
#[derive(Debug, Deserialize, Serialize)]
struct Switch {
    name: String,
    target: Target,
    state: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Changed {
    after: Option<Shown>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Spread {
    revivals: usize,
    over_seconds: f64,
}

pub(crate) fn kill(global: &Global, args: &KillArgs) -> miette::Result<Exit> {
    // Said here too: without a server nobody else would.
    let target = args.target.clone().unwrap_or(Target::System);
    if args.reason.trim().is_empty() {
        return Err(refused(&KillError::NoReason(target)));
    }
    let chars = args.reason.chars().count();
    if chars > REASON_CHARS_MAX {
        return Err(refused(&KillError::LongReason(chars)));
    }
    if args.switch.is_none() && !args.yes {
        confirm_kill(&target)?;
    }
    if args.local {
        return kill_locally(global, args, &target);
    }
    let body = json!({
        "target": args.target,
        "switch": args.switch,
        "reason": args.reason,
        "grace": args.grace.map(format_duration),
        "priority": args.priority.map(crate::cli::KillPriority::word),
    });
    let past_it = |_: &Report| {
        eprintln!(
            "if the admin API cannot help: `serin kill --local` needs neither it nor its token"
        );
    };
    let mut client = Client::find(global).inspect_err(past_it)?;
    let killed = block_on(async { client.post::<Changed>(KILLS, &body).await });
    // What the admin API refuses makes no more sense past it.
    let killed = if client.was_refused() {
        killed
    } else {
        killed.inspect_err(past_it)
    }?;
    if let Some(note) = killed.note {
        eprintln!("note: {note}");
    }
    print(&match killed.after {
        Some(kill) => format!("killed {}, at revision {}\n", kill.target, kill.revision),
        None => "nothing to do: it is killed already\n".to_owned(),
    })?;
    Ok(Exit::Done)
}

/// Asks whoever sits at a terminal before much is stopped. A script is never asked: a kill waits for nobody.
pub(crate) fn confirm_kill(target: &Target) -> miette::Result<()> {
    let about = match target {
        Target::System | Target::Environment(_) | Target::Service(_) => {
            format!("this stops every call of {target}")
        }
        Target::Flags => "every flag will answer its off variant, for everybody".to_owned(),
        _ => return Ok(()),
    };
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    confirm(&target.to_string(), &about)
}

fn refused(error: &KillError) -> Report {
    Report::new(Problem::new(error.to_string(), error.help()))
}

/// Past the admin API: a file in the folder beside the store, which a running `serin run` looks into five times a second, and one that
/// starts before anything else.
fn kill_locally(global: &Global, args: &KillArgs, target: &Target) -> miette::Result<Exit> {
    let store = store(global, args)?;
    let folder = break_glass_folder(&store);
    let folder = path::absolute(&folder).unwrap_or(folder);
    let cannot = |error: io::Error| {
        let what = format!("no request can be put into {}", folder.display());
        let help = "run this as the user of `serin run`, and name its store with `--store FILE` or its configuration with `-c FILE`";
        Report::new(Problem::new(what, help).because(error))
    };
    let actor = std::env::var("USER").unwrap_or_default();
    let actor = if actor.is_empty() {
        "unnamed".to_owned()
    } else {
        actor
    };
    let text = break_glass_request(&actor, target, &args.reason);
    let path = put(&folder, &text).map_err(cannot)?;
    let began = Instant::now();
    while began.elapsed() < TAKEN_WITHIN {
        if !path.exists() {
            print(&format!(
                "killed {target}, by way of {}\n",
                folder.display()
            ))?;
            return Ok(Exit::Done);
        }
        thread::sleep(LOOK_EVERY / 4);
    }
    print(&format!(
        "asked to kill {target}; nobody has taken the request yet: `serin run` does so when it starts with the store beside {}\n",
        folder.display()
    ))?;
    Ok(Exit::Done)
}

/// The file of the log. A configuration that cannot be read does not keep anybody from killing; a place where no `serin run` has been
/// nor will be does, because nobody would ever take the request.
fn store(global: &Global, args: &KillArgs) -> miette::Result<PathBuf> {
    if let Some(store) = &args.store {
        let folder = store.parent().unwrap_or(Path::new(""));
        let is_one = is_store(store) || folder.join(CONFIG_DEFAULT).exists();
        return is_one.then(|| store.clone()).ok_or_else(|| nobody(folder));
    }
    let named = global.config.as_deref();
    let folder = named.and_then(Path::parent).unwrap_or(Path::new(""));
    match configured(global) {
        Ok(Some(config)) => Ok(config.store.path().to_owned()),
        Ok(None) if is_store(Path::new(STORE_DEFAULT)) => Ok(STORE_DEFAULT.into()),
        Ok(None) => Err(nobody(folder)),
        Err(_) => {
            let store = folder.join(STORE_DEFAULT);
            if !is_store(&store) && !named.unwrap_or(Path::new(CONFIG_DEFAULT)).exists() {
                return Err(nobody(folder));
            }
            eprintln!(
                "the configuration cannot be read; taking {} for the store",
                store.display()
            );
            Ok(store)
        }
    }
}

/// Whether a `serin run` has used a store.
fn is_store(store: &Path) -> bool {
    store.exists() || store.with_extension("kills").exists() || break_glass_folder(store).exists()
}

fn nobody(folder: &Path) -> Report {
    let folder = match path::absolute(folder.join(".")) {
        Ok(folder) => folder,
        Err(_) => folder.to_owned(),
    };
    Report::new(Problem::new(
        format!(
            "nobody would take the request: there is neither a `{CONFIG_DEFAULT}` nor a store in {}",
            folder.display()
        ),
        "run this in the folder of `serin run`, or name its configuration with `-c FILE` or its store with `--store FILE`",
    ))
}

/// Puts a request into the folder: whole, or not at all.
fn put(folder: &Path, text: &str) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let name = format!(
        "{}-{}",
        Timestamp::now().as_nanosecond(),
        std::process::id()
    );
    let (new, path) = (folder.join(format!("{name}.new")), folder.join(name));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(path)
}

pub(crate) fn revive(global: &Global, args: &ReviveArgs) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    block_on(async {
        match &args.target {
            Some(target) => revive_one(&mut client, args, target).await,
            None => revive_all(&mut client, args).await,
        }
    })
}

async fn revive_one(
    client: &mut Client,
    args: &ReviveArgs,
    target: &Target,
) -> miette::Result<Exit> {
    let text = target.to_string();
    let revision = if let Some(revision) = args.revision.filter(|_| args.yes) {
        revision
    } else {
        let book: Book = client.get(KILLS).await?;
        let known = book.kills.iter().find(|kill| kill.target == *target);
        let known = known.ok_or_else(|| refused(&KillError::NotKilled(target.clone())))?;
        let about = format!(
            "{text} was killed by {} at {}: {} (revision {})",
            known.actor, known.at, known.reason, known.revision
        );
        seen(args, &text, &about, known.revision)?
    };
    let body =
        json!({ "target": target, "revision": revision, "confirm": text, "reason": args.reason });
    let _: Changed = client.post(&format!("{KILLS}/revive"), &body).await?;
    print(&format!("revived {text}\n"))?;
    Ok(Exit::Done)
}

async fn revive_all(client: &mut Client, args: &ReviveArgs) -> miette::Result<Exit> {
    let revision = if let Some(revision) = args.revision.filter(|_| args.yes) {
        revision
    } else {
        let book: Book = client.get(KILLS).await?;
        let about = format!(
            "{} killed (revision {} of the book)\n{}",
            targets(book.kills.len()),
            book.revision,
            table(&book.kills)
        );
        seen(args, EVERYTHING, &about, book.revision)?
    };
    let body = json!({
        "revision": revision, "confirm": EVERYTHING, "reason": args.reason, "over": args.over.map(format_duration),
    });
    let spread: Spread = client.post(&format!("{KILLS}/revive-all"), &body).await?;
    print(&format!(
        "{} revived one after another, over {} s; `serin kills` shows when\n",
        targets(spread.revivals),
        spread.over_seconds
    ))?;
    Ok(Exit::Done)
}

fn targets(count: usize) -> String {
    match count {
        1 => "1 target is".to_owned(),
        many => format!("{many} targets are"),
    }
}

/// The revision that whoever sits here has seen and confirmed.
fn seen(args: &ReviveArgs, wanted: &str, about: &str, revision: u64) -> miette::Result<u64> {
    if !io::stdin().is_terminal() {
        return Err(Report::new(Problem::new(
            "a revival needs a confirmation, and there is no terminal to ask on",
            "name the revision that `serin kills` shows, and confirm: `--revision N --yes`",
        )));
    }
    if let Some(named) = args.revision.filter(|named| *named != revision) {
        return Err(Report::new(Problem::new(
            format!("{wanted} is at revision {revision}, not {named}"),
            "look at it with `serin kills`",
        )));
    }
    confirm(wanted, about)?;
    Ok(revision)
}

pub(crate) fn confirm(wanted: &str, about: &str) -> miette::Result<()> {
    let failed = |error| {
        Report::new(Problem::new("nothing can be asked here", "add `--yes`").because(error))
    };
    eprint!("{about}\ntype `{wanted}` to go on: ");
    io::stderr().flush().map_err(failed)?;
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(failed)?;
    if typed.trim() == wanted {
        return Ok(());
    }
    Err(Report::new(Problem::new(
        format!("`{wanted}` was not typed, and nothing was changed"),
        "try again, or add `--yes`",
    )))
}

pub(crate) fn kills(global: &Global, args: &KillsArgs) -> miette::Result<Exit> {
    let mut client = Client::find(global)?;
    let book: Book = block_on(async { client.get(KILLS).await })?;
    if args.json {
        print(&to_json(&book)?)?;
        return Ok(Exit::Done);
    }
    let mut out = if book.kills.is_empty() {
        "nothing is killed\n".to_owned()
    } else {
        table(&book.kills)
    };
    out += &format!("revision of the book: {}\n", book.revision);
    let back: Vec<_> = book
        .kills
        .iter()
        .filter_map(|kill| kill.comes_back_at)
        .collect();
    if let Some(last) = back.iter().max() {
        let count = back.len();
        out += &format!(
            "being revived: {count} of them, the last at {}\n",
            whole(*last)
        );
    }
    if !book.switches.is_empty() {
        out += &format!("\n{:<24} {:<32} {}\n", "SWITCH", "TARGET", "STATE");
        for switch in &book.switches {
            let state = switch.state.replace('_', " ");
            out += &format!(
                "{:<24} {:<32} {state}\n",
                switch.name,
                switch.target.to_string()
            );
        }
    }
    print(&out)?;
    Ok(Exit::Done)
}

/// Whoever looks wants a second, not a nanosecond.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn table(kills: &[Shown]) -> String {
    let mut out = format!(
        "{:<32} {:<16} {:<9} {:<9} {:<20} {:<16} {}\n",
        "TARGET", "STATE", "REVISION", "PRIORITY", "SINCE", "BY", "REASON"
    );
    for kill in kills {
        let state = match (kill.one_in, kill.comes_back_at) {
            (Some(n), _) => format!("probing 1 in {n}"),
            (None, Some(at)) => format!("back at {}", at.strftime("%H:%M:%S")),
            (None, None) => kill.state.clone(),
        };
        let at = whole(kill.at);
        let target = kill.target.to_string();
        out += &format!(
            "{target:<32} {state:<16} {:<9} {:<9} {at:<20} {:<16} {}\n",
            kill.revision, kill.priority, kill.actor, kill.reason
        );
    }
    out
}
