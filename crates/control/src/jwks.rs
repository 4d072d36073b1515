//! The keys of identity providers, fetched by the control side: the data plane only reads them. While a provider does not answer, the
//! keys that it gave last go on verifying, for a day at most.

use crate::{ask, probe::Found};
use futures_util::StreamExt as _;
use reqwest::Client;
use serin_model::{
    auth::Auth,
    degraded::{Dependency, Outage},
    state::State,
};
use serin_tenancy::token::KeySet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

/// Time from one look at a provider's keys to the next.
const REFRESH_EVERY: Duration = Duration::from_mins(5);
/// The same where they are in a file, which costs nobody anything.
const FILE_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two looks, however many tokens name keys that are not known: who makes up tokens must not make us a burden to the
/// provider.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Time to the next look while there are no keys at all.
const FIRST_EVERY: Duration = Duration::from_secs(2);

/// For how long keys go on verifying that their provider gives no more: long enough for a mishap while it is set up anew, and short enough
/// for one that takes its keys back.
const WITHDRAWN_KEPT: Duration = Duration::from_hours(1);
/// For how long they do while it cannot be asked: longer than outages are.
const SILENT_KEPT: Duration = Duration::from_hours(24);

/// How often a source is looked at, and for how long its keys are kept.
#[derive(Clone, Copy)]
struct Pace {
    every: Duration,
    asked: Duration,
    first: Duration,
    withdrawn_kept: Duration,
    silent_kept: Duration,
}

impl Pace {
    fn of(source: &str) -> Self {
        let every = if source.starts_with("file:") {
            FILE_EVERY
        } else {
            REFRESH_EVERY
        };
        Self {
            every,
            asked: ASK_EVERY,
            first: FIRST_EVERY,
            withdrawn_kept: WITHDRAWN_KEPT,
            silent_kept: SILENT_KEPT,
        }
    }
}

/// Largest document that is read: a hundred keys with their certificates.
const BYTES_MAX: usize = 1024 * 1024;

/// Those who fetch keys, one task a source. Dropping it ends them.
pub(crate) struct Providers {
    client: Client,
    report: mpsc::Sender<Found>,
    pace: fn(&str) -> Pace,
    running: BTreeMap<String, (Arc<Notify>, AbortHandle)>,
}

impl Providers {
    /// None yet; what they find goes to `report`.
    pub(crate) fn new(client: Client, report: mpsc::Sender<Found>) -> Self {
        Self {
            client,
            report,
            pace: Pace::of,
            running: BTreeMap::new(),
        }
    }

    /// Fetches the keys of the sources that services name, and no others; returns those.
    pub(crate) fn follow(&mut self, state: &State) -> BTreeSet<String> {
        let services = state.services.values();
        let asking = services.filter(|service| service.settings.auth == Auth::Serin);
        let wanted: BTreeSet<String> = asking
            .filter_map(|service| Some(service.settings.jwt.as_ref()?.jwks.clone()))
            .collect();
        self.running.retain(|source, (_, task)| {
            let keep = wanted.contains(source);
            if !keep {
                task.abort();
            }
            keep
        });
        for source in &wanted {
            self.running.entry(source.clone()).or_insert_with(|| {
                let wish = Arc::new(Notify::new());
                let watch = watch(
                    self.client.clone(),
                    source.clone(),
                    (self.pace)(source),
                    Arc::clone(&wish),
                    self.report.clone(),
                );
                (wish, tokio::spawn(watch).abort_handle())
            });
        }
        wanted
    }

    /// A token named a key that is not known: there may be newer ones.
    pub(crate) fn wish(&self, source: &str) {
        if let Some((wish, _)) = self.running.get(source) {
            wish.notify_one();
        }
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

async fn watch(
    client: Client,
    source: String,
    pace: Pace,
    wish: Arc<Notify>,
    report: mpsc::Sender<Found>,
) {
    let outage = Outage::of(Dependency::Jwks);
    let mut last = None;
    let mut good_at = Instant::now();
    loop {
        let asked_at = Instant::now();
        let mut kept = None;
        let keys = match fetch(&client, &source).await {
            Ok(document) if last.as_ref() == Some(&document) => {
                good_at = asked_at;
                if outage.ended() {
                    tracing::info!(
                        source,
                        "the keys of the identity provider can be read again"
                    );
                }
                None
            }
            Ok(document) => match KeySet::parse(&document) {
                Ok(keys) => {
                    if outage.ended() {
                        tracing::info!(
                            source,
                            "the keys of the identity provider can be read again"
                        );
                    }
                    good_at = asked_at;
                    last = Some(document);
                    Some(Some(Arc::new(keys)))
                }
                Err(error) => {
                    failed(&outage, &source, last.is_some(), &error.to_string());
                    kept = Some(pace.withdrawn_kept);
                    Some(None)
                }
            },
            Err(error) => {
                failed(&outage, &source, last.is_some(), &error);
                kept = Some(pace.silent_kept);
                Some(None)
            }
        };
        let is_over = kept.is_some_and(|kept| asked_at.duration_since(good_at) >= kept);
        if is_over && last.take().is_some() {
            tracing::error!(
                source,
                "the keys of the identity provider are too old to go on; its tokens open nothing until it gives others"
            );
            let (source, keys) = (source.clone(), Some(Arc::default()));
            if report.send(Found::Keys { source, keys }).await.is_err() {
                return;
            }
        }
        if let Some(keys) = keys {
            let source = source.clone();
            if report.send(Found::Keys { source, keys }).await.is_err() {
                return;
            }
        }
        let next = if last.is_none() {
            pace.first
        } else {
            pace.every
        };
        tokio::select! {
            () = sleep_until(asked_at + next) => {}
            () = wish.notified() => sleep_until(asked_at + pace.asked.min(next)).await,
        }
    }
}

/// The keys that were there last, if there were any, take the place of what cannot be read.
fn failed(outage: &Outage, source: &str, are_known: bool, why: &str) {
    if !outage.began() {
        return;
    }
    if are_known {
        tracing::warn!(
            source,
            why,
            "the keys of the identity provider cannot be read; those that were read last go on"
        );
    } else {
        tracing::warn!(
            source,
            why,
            "the keys of the identity provider cannot be read; its tokens are answered 503 until they can"
        );
    }
}

/// Reads a document; else why not.
async fn fetch(client: &Client, source: &str) -> Result<Vec<u8>, String> {
    if let Some(path) = source.strip_prefix("file:") {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
        return read
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string());
    }
    let fetching = async {
        let response = client.get(source).send().await;
        let response = response.map_err(|error| ask::no_answer(source, error).to_string())?;
        if !response.status().is_success() {
            return Err(format!("it answers with status {}", response.status()));
        }
        let mut document = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| ask::no_answer(source, error).to_string())?;
            if document.len() + piece.len() > BYTES_MAX {
                return Err(format!("it has more than {BYTES_MAX} bytes"));
            }
            document.extend_from_slice(&piece);
        }
        Ok(document)
    };
    timeout(ask::TIMEOUT, fetching)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", ask::TIMEOUT.as_secs())))
}

/// Looks whether a file has keys; else why not.
pub(crate) fn check_file(path: &str) -> Result<(), String> {
    let document = read_file(path).map_err(|error| error.to_string())?;
    let keys = KeySet::parse(&document).map_err(|error| error.to_string())?;
    drop(keys);
    Ok(())
}

fn read_file(path: &str) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut document = Vec::new();
    let file = File::open(path)?;
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut document)?;
    if document.len() > BYTES_MAX {
        return Err(std::io::Error::other("it is too large"));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"KID","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn state(source: &str, auth: &str) -> State {
        let mut state = serde_json::to_value(State::default()).unwrap();
        state["services"]["tools"] = json!({
            "name": "tools", "protocol": "mcp", "path": "/mcp", "hosts": [], "stable": "v1", "versions": {},
            "settings": { "auth": auth, "jwt": { "issuer": "i", "audience": "a", "jwks": source } },
        });
        serde_json::from_value(state).unwrap()
    }

    async fn next(found: &mut mpsc::Receiver<Found>) -> Option<Arc<KeySet>> {
        let found = timeout(Duration::from_secs(10), found.recv()).await;
        match found.unwrap().unwrap() {
            Found::Keys { keys, .. } => keys,
            other => panic!("{other:?}"),
        }
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn keys_are_read_anew_and_kept_while_they_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        let source = format!("file:{}", path.display());
        let (report, mut found) = mpsc::channel(4);
        let mut providers = Providers::new(ask::client(), report);
        providers.pace = |_| Pace {
            every: Duration::from_millis(5),
            asked: Duration::from_millis(5),
            first: Duration::from_millis(5),
            ..Pace::of("")
        };
        assert!(providers.follow(&state(&source, "passthrough")).is_empty());
        assert_eq!(providers.follow(&state(&source, "serin")).len(), 1);
        assert!(next(&mut found).await.is_none(), "there is no file yet");
        write(&path, SET);
        while next(&mut found).await.is_none() {}
        write(&path, "<html>");
        assert!(next(&mut found).await.is_none());
        write(&path, &SET.replace("KID", "newer"));
        loop {
            if let Some(keys) = next(&mut found).await {
                assert_eq!(format!("{keys:?}"), "[Some(\"newer\")]");
                break;
            }
        }
    }

    #[tokio::test]
    async fn keys_that_are_not_given_any_more_end_at_last() {
        const LONG: Duration = Duration::from_hours(1);
        for (kept, gone) in [
            // It answers, without a key.
            ((Duration::ZERO, LONG), Some(r#"{"keys":[]}"#)),
            // It does not answer.
            ((LONG, Duration::ZERO), None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("jwks.json");
            let source = format!("file:{}", path.display());
            write(&path, SET);
            let (report, mut found) = mpsc::channel(4);
            let pace = Pace {
                every: Duration::from_millis(5),
                asked: Duration::from_millis(5),
                first: Duration::from_millis(5),
                withdrawn_kept: kept.0,
                silent_kept: kept.1,
            };
            let wish = Arc::new(Notify::new());
            let watching = tokio::spawn(watch(ask::client(), source, pace, wish, report));
            assert_eq!(next(&mut found).await.unwrap().len(), 1);
            match gone {
                Some(text) => write(&path, text),
                None => std::fs::remove_file(&path).unwrap(),
            }
            assert!(next(&mut found).await.unwrap().is_empty(), "{gone:?}");
            // The same as before is good again.
            write(&path, SET);
            while next(&mut found).await.is_none_or(|keys| keys.is_empty()) {}
            watching.abort();
        }
        let pace = Pace::of("https://id.example/keys");
        assert_eq!(pace.withdrawn_kept.as_secs(), 3600);
        assert_eq!(pace.silent_kept.as_secs(), 24 * 3600);
    }

    #[tokio::test]
    async fn a_provider_that_does_not_answer_well_is_said_to_be_so() {
        let client = ask::client();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    )
                    .await;
            }
        });
        assert!(fetch(&client, &url).await.unwrap_err().contains("404"));
        serving.abort();
        assert!(fetch(&client, "file:/no/such/file").await.is_err());
    }
}
