//! The files of a store: the kills, the log, the blocks, the sealing keys and the admin token, side by side.

use super::failed;
use crate::problem::Problem;
use miette::Report;
use serin_admin::Token;
use serin_config::Config;
use serin_control::kills::Switchboard;
use serin_gateway::{Keyring, KeyringError};
use serin_store::{Audit, Blocks, Log, StoreError};
use serin_tenancy::signature::Master;
use std::{io, path::Path, sync::Arc};

/// What is open.
pub(super) struct Files {
    pub(super) kills: Switchboard,
    pub(super) log: Log,
    pub(super) blocks: Blocks,
    pub(super) audit: Audit,
    pub(super) keys: Keyring,
    /// What the secrets are made of by which requests are signed.
    pub(super) signing: Arc<Master>,
    pub(super) token: Token,
}

/// What is made anew although it is missing or damaged beside a log that is not empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fresh {
    pub(super) keys: bool,
    pub(super) kills: bool,
}

impl Files {
    /// For a log `serin.db`: `serin.kills`, `serin.blocks.db`, `serin.audit.db`, `serin.keys`, `serin.signing`, and the token as the configuration says.
    pub(super) async fn open(config: &Config, fresh: Fresh) -> miette::Result<Self> {
        let path = config.store.path();
        // Before anything else: whatever is wrong with the rest, what is killed stays so.
        let kills = Switchboard::open(path, fresh.kills).map_err(|error| {
            failed(
                "the kill file cannot be used",
                "the cause above says what to do",
                error,
            )
        })?;
        let log = Log::open(path).await.map_err(store)?;
        let empty = log.head().await.map_err(store)? == 0;
        let keys_path = path.with_extension("keys");
        let keys = match Keyring::open(&keys_path) {
            Err(KeyringError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if !empty && !fresh.keys {
                    return Err(Report::new(Problem::new(
                        format!(
                            "the sealing keys {} are missing, while the log {} is not empty: live sessions could not be read",
                            keys_path.display(),
                            path.display()
                        ),
                        "restore the file, or start with `--new-keys` and let those sessions end",
                    )));
                }
                Keyring::create(&keys_path)
            }
            other => other,
        };
        let keys = keys.map_err(|error| {
            failed(
                "the sealing keys cannot be used",
                "the cause above says what to do",
                error,
            )
        })?;
        let signing =
            Keyring::open_or_create(&path.with_extension("signing")).map_err(|error| {
                failed(
                    "the secret for signed requests cannot be used",
                    "the cause above says what to do",
                    error,
                )
            })?;
        let blocks = Blocks::open(&path.with_extension("blocks.db"))
            .await
            .map_err(store)?;
        let audit = open_audit(&path.with_extension("audit.db")).await?;
        let token = Token::read_or_create(&config.admin.token_file).map_err(|error| {
            failed(
                "the admin token cannot be used",
                "the cause above says what to do",
                error,
            )
        })?;
        Ok(Self {
            kills,
            log,
            blocks,
            audit,
            keys,
            signing: Arc::new(signing.master()),
            token,
        })
    }
}

/// The audit tables. Unlike the log they are not what Serin goes by: what is damaged of them is kept, and Serin starts.
async fn open_audit(path: &Path) -> miette::Result<Audit> {
    let (audit, damaged) = Audit::open_or_replace(path).await.map_err(|error| {
        failed(
            "the audit tables cannot be used",
            "the cause above says what to do; or move the file away, and an empty one is made in its place",
            error,
        )
    })?;
    if let Some(damaged) = damaged {
        tracing::error!(
            kept = %damaged.display(),
            "the audit tables are damaged: new ones are begun, and what can be saved of the old ones is in this file"
        );
    }
    Ok(audit)
}

fn store(error: StoreError) -> Report {
    failed(
        "the store cannot be used",
        "the cause above says what to do, or set `store` to another file",
        error,
    )
}
