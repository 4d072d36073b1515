//! Credentials for endpoints: read from where the settings say, when they are first named, and files again when they change.

use crate::probe::Found;
use serin_model::{auth::Secret, snapshot::Observed, state::State};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    time::Duration,
};
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

/// Largest credential, in bytes: servers take no header of more than 8 KB.
const BYTES_MAX: u64 = 8 * 1024;
/// Time from one look at a file to the next, as for certificates and the keys of identity providers.
const FILE_EVERY: Duration = Duration::from_secs(2);

/// Those who look after credentials, one task a file. Dropping it ends them.
pub(crate) struct Credentials {
    report: mpsc::Sender<Found>,
    every: Duration,
    /// By where they are. The environment of a process does not change, so nobody looks after what is in it.
    known: BTreeMap<String, Option<AbortHandle>>,
}

impl Credentials {
    /// None yet; what changes goes to `report`.
    pub(crate) fn new(report: mpsc::Sender<Found>) -> Self {
        Self {
            report,
            every: FILE_EVERY,
            known: BTreeMap::new(),
        }
    }

    /// Reads those that services name now and did not before, and forgets those that none names any more. What cannot be read is said by
    /// [`crate::doubts`], where a description is taken.
    pub(crate) fn follow(&mut self, state: &State, observed: &mut Observed) {
        let services = state.services.values();
        let named = services.filter_map(|service| service.settings.upstream.credential.as_ref());
        let named: BTreeSet<&String> = named.collect();
        self.known.retain(|reference, task| {
            let keep = named.contains(reference);
            if let (false, Some(task)) = (keep, task) {
                task.abort();
            }
            keep
        });
        observed
            .credentials
            .retain(|reference, _| named.contains(reference));
        for reference in named {
            if self.known.contains_key(reference) {
                continue;
            }
            let value = read(reference).ok();
            let is_file = reference.starts_with("file:");
            let watch = is_file.then(|| {
                let report = self.report.clone();
                watch(reference.clone(), value.clone(), self.every, report)
            });
            let task = watch.map(|watch| tokio::spawn(watch).abort_handle());
            self.known.insert(reference.clone(), task);
            if let Some(value) = value {
                observed.credentials.insert(reference.clone(), value);
            }
        }
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        for task in self.known.values().flatten() {
            task.abort();
        }
    }
}

/// Tells of a file's credential when it is there and when it is another. One that is gone or of no use goes on as it was read last.
async fn watch(
    reference: String,
    mut last: Option<Secret>,
    every: Duration,
    report: mpsc::Sender<Found>,
) {
    let mut is_lost = false;
    loop {
        sleep(every).await;
        let file = reference.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || read(&file)).await else {
            continue;
        };
        match found {
            Ok(value) => {
                is_lost = false;
                if last.as_ref() == Some(&value) {
                    continue;
                }
                tracing::info!(reference, "a credential for endpoints was read");
                last = Some(value.clone());
                let reference = reference.clone();
                let told = report.send(Found::Credential { reference, value }).await;
                if told.is_err() {
                    return;
                }
            }
            Err(why) => {
                if last.is_some() && !std::mem::replace(&mut is_lost, true) {
                    tracing::warn!(
                        reference,
                        why,
                        "a credential for endpoints cannot be read any more; the one that was read last goes on"
                    );
                }
            }
        }
    }
}

/// Reads what `env:NAME` or `file:PATH` stands for; else why not, without a word of what was read.
pub(crate) fn read(reference: &str) -> Result<Secret, String> {
    let text = if let Some(name) = reference.strip_prefix("env:") {
        std::env::var(name)
            .map_err(|_| "there is no such environment variable, or it is no text".to_owned())?
    } else if let Some(path) = reference.strip_prefix("file:") {
        read_file(path).map_err(|error| error.to_string())?
    } else {
        return Err("it is neither `env:NAME` nor `file:PATH`".to_owned());
    };
    let text = text.trim();
    let is_plain = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain {
        return Err("it is empty, or does not fit into a header".to_owned());
    }
    Ok(Secret::new(text))
}

fn read_file(path: &str) -> std::io::Result<String> {
    // A pipe would keep us waiting.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut text = String::new();
    let file = File::open(path)?;
    if file.take(BYTES_MAX + 1).read_to_string(&mut text)? as u64 > BYTES_MAX {
        return Err(std::io::Error::other("it is too large"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// With a service for each credential.
    fn state(references: &[&str]) -> State {
        let mut state = serde_json::to_value(State::default()).unwrap();
        for (index, reference) in references.iter().enumerate() {
            let name = format!("s{index}");
            state["services"][&name] = json!({
                "name": name, "protocol": "http", "path": format!("/{name}"), "hosts": [], "stable": "v1", "versions": {},
                "settings": { "upstream": { "credential": reference } },
            });
        }
        serde_json::from_value(state).unwrap()
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_is_there_and_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reference = format!("file:{}", path.display());
        let (report, mut found) = mpsc::channel(1);
        let mut credentials = Credentials::new(report);
        credentials.every = Duration::from_millis(1);
        let mut observed = Observed::default();
        let state = state(&[&reference, &reference, "env:SERIN_NO_SUCH_VARIABLE"]);
        credentials.follow(&state, &mut observed);
        assert!(observed.credentials.is_empty());
        // What takes the place of what was read is read whole: the file is replaced and not written into.
        let put = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        for text in ["Bearer a", "Bearer b"] {
            // One that is gone in between stays as it was.
            let _ = std::fs::remove_file(&path);
            put(text);
            let told = tokio::time::timeout(Duration::from_secs(10), found.recv());
            match told.await.unwrap().unwrap() {
                Found::Credential {
                    reference: of,
                    value,
                } => {
                    assert_eq!((of, value.expose()), (reference.clone(), text));
                    observed.credentials.insert(reference.clone(), value);
                }
                other => panic!("{other:?}"),
            }
            credentials.follow(&state, &mut observed);
            assert_eq!(observed.credentials[&reference].expose(), text);
        }
        credentials.follow(&State::default(), &mut observed);
        assert!(observed.credentials.is_empty() && credentials.known.is_empty());
    }

    #[test]
    fn a_credential_is_one_line_of_a_file_that_fits_into_a_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reference = format!("file:{}", path.display());
        assert!(read(&reference).is_err());
        for (content, want) in [
            ("Bearer abc\n", Some("Bearer abc")),
            ("", None),
            ("\n", None),
            ("a\nb", None),
            ("gr\u{fc}n", None),
        ] {
            std::fs::write(&path, content).unwrap();
            let read = read(&reference).ok();
            assert_eq!(read.as_ref().map(Secret::expose), want, "{content:?}");
        }
        std::fs::write(&path, vec![b'a'; 9000]).unwrap();
        assert!(read(&reference).is_err());
        for reference in [
            "env:SERIN_NO_SUCH_VARIABLE",
            "secret",
            &format!("file:{}", folder.path().display()),
        ] {
            assert!(read(reference).is_err(), "{reference}");
        }
    }
}
