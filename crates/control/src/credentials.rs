//! Credentials for endpoints: read from where the settings say, when the process begins and when a service changes.

use serin_model::{
    auth::{Secret, Upstream},
    name::ServiceName,
    snapshot::Observed,
    state::State,
};
use std::{collections::BTreeMap, fs::File, io::Read as _};

/// Largest credential, in bytes: servers take no header of more than 8 KB.
const BYTES_MAX: u64 = 8 * 1024;

/// Which credentials were read.
#[derive(Default)]
pub(crate) struct Credentials {
    of: BTreeMap<ServiceName, Upstream>,
}

impl Credentials {
    /// Reads those that the services name, if they are not those that were read before.
    pub(crate) fn follow(&mut self, state: &State, observed: &mut Observed) {
        let services = state.services.iter();
        let named = services.filter(|(_, service)| service.settings.upstream.credential.is_some());
        let named: BTreeMap<_, _> = named
            .map(|(name, service)| (name.clone(), service.settings.upstream.clone()))
            .collect();
        if named == self.of {
            return;
        }
        observed.credentials.clear();
        for (service, upstream) in &named {
            let Some(reference) = &upstream.credential else {
                continue;
            };
            match read(reference) {
                Ok(value) => {
                    observed.credentials.insert(reference.clone(), value);
                }
                Err(why) => tracing::warn!(
                    %service, reference, why,
                    "a credential for endpoints cannot be read; the service's calls are refused until it is there and the service is applied again"
                ),
            }
        }
        self.of = named;
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
