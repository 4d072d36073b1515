//! Who is told of a kill switch: webhooks. Addresses may hold secrets, so that no more of one than its host is ever logged.

use jiff::Timestamp;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use serin_flags::{
    Kill,
    kill::{Position, Priority},
};
use serin_model::switch::KillSwitch;
use std::{io::Read as _, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts; after the last one it is given up.
const AGAIN_AFTER: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];
/// Messages under way at a time. Beyond it they are dropped and logged: the log has what they would say.
const UNDER_WAY_MAX: usize = 64;
/// Largest file that holds an address.
const ADDRESS_BYTES_MAX: u64 = 4096;

/// Tells people.
pub(crate) struct Messenger {
    client: Client,
    under_way: Arc<Semaphore>,
}

impl Messenger {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        }
    }

    /// Tells all who are to be told that the target of a switch has changed.
    pub(crate) fn tell(&self, name: &str, switch: &KillSwitch, record: &Kill) {
        let text = message(name, switch, record);
        for address in &switch.notify {
            self.send(address, text.clone());
        }
    }

    /// Calls a webhook at the beginning of an attempt to recover.
    pub(crate) fn call(&self, name: &str, switch: &KillSwitch, address: &str) {
        let text = json!({
            "event": "kill_switch_recovery", "switch": name, "target": switch.target, "at": Timestamp::now(),
        });
        self.send(address, text);
    }

    fn send(&self, address: &str, text: Value) {
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            tracing::error!("too many notifications are under way; one is dropped");
            return;
        };
        let (client, address) = (self.client.clone(), address.to_owned());
        tokio::spawn(async move {
            deliver(&client, &address, &text).await;
            drop(permit);
        });
    }
}

async fn deliver(client: &Client, address: &str, text: &Value) {
    let url = match resolve(address) {
        Ok(url) => url,
        Err(why) => {
            tracing::error!(why, "a notification has no address");
            return;
        }
    };
    let host = url.host_str().unwrap_or_default().to_owned();
    for pause in AGAIN_AFTER.into_iter().map(Some).chain([None]) {
        let answer = client
            .post(url.clone())
            .timeout(TIMEOUT)
            .json(text)
            .send()
            .await;
        let why = match answer {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => format!("it answers {}", answer.status()),
            // An error names its address, unless it is taken out.
            Err(error) => error.without_url().to_string(),
        };
        let Some(pause) = pause else {
            tracing::error!(
                host,
                why,
                "a notification was not delivered and is given up"
            );
            return;
        };
        tracing::warn!(
            host,
            why,
            "a notification was not delivered and is sent again"
        );
        tokio::time::sleep(pause).await;
    }
}

/// The address behind `env:NAME`, `file:PATH`, or one that stands there. What is wrong with it is said without it.
fn resolve(address: &str) -> Result<Url, String> {
    let text = if let Some(name) = address.strip_prefix("env:") {
        std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?
    } else if let Some(path) = address.strip_prefix("file:") {
        let cannot = |error: std::io::Error| format!("the file {path} cannot be read: {error}");
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(ADDRESS_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        text
    } else {
        address.to_owned()
    };
    let url = Url::parse(text.trim()).map_err(|_| "the address is not a URL".to_owned())?;
    if matches!(url.scheme(), "http" | "https") {
        return Ok(url);
    }
    Err("the address is not one of http or https".to_owned())
}

fn message(name: &str, switch: &KillSwitch, record: &Kill) -> Value {
    let (state, one_in) = match record.position {
        Position::Killed => ("killed", None),
        Position::Probing { one_in } => ("probing", Some(one_in)),
        Position::Revived => ("revived", None),
    };
    json!({
        "event": "kill_switch",
        "switch": name,
        "description": switch.description,
        "target": record.target,
        "state": state,
        "one_in": one_in,
        "revision": record.generation,
        "reason": record.reason,
        "actor": record.actor,
        "priority": record.priority,
        "severity": severity(record.priority),
        "attempts": record.attempts,
        "at": record.at,
    })
}

/// The severity that a priority is in other systems.
pub(crate) const fn severity(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "P0",
        Priority::High => "P1",
        Priority::Medium => "P2",
        Priority::Low => "P3",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_resolved_and_never_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        std::fs::write(&path, "https://hooks.example/secret\n").unwrap();
        let from_file = resolve(&format!("file:{}", path.display())).unwrap();
        assert_eq!(from_file.as_str(), "https://hooks.example/secret");
        assert!(resolve("http://127.0.0.1:1/x").is_ok());
        std::fs::write(&path, "secret").unwrap();
        for wrong in [
            format!("file:{}", path.display()),
            "secret".into(),
            "ftp://secret".into(),
        ] {
            let why = resolve(&wrong).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        assert!(
            resolve("env:SERIN_TEST_NOT_SET")
                .unwrap_err()
                .contains("SERIN_TEST_NOT_SET")
        );
    }
}
