//! What is well formed and will not do all the same: files and variables that a description names and that cannot be read here, and flags
//! that there are not.

use crate::{credentials, jwks};
use serde::{Deserialize, Serialize};
use serin_flags::FlagKey;
use serin_model::{
    auth::{Auth, Signing},
    manifest::Manifest,
    name::ServiceName,
    service::ServiceSettings,
    state::State,
};
use std::path::Path;

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// What will not do.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

/// Those of a manifest's services. Files are read where that keeps nobody from their turn.
pub async fn of_manifest(manifest: &Manifest) -> Vec<Doubt> {
    let services = manifest.services.iter();
    of_all(services.map(|(name, service)| (name, &service.settings))).await
}

/// Those of the services that there are.
pub async fn of_state(state: &State) -> Vec<Doubt> {
    let services = state.services.iter();
    of_all(services.map(|(name, service)| (name, &service.settings))).await
}

async fn of_all(services: impl Iterator<Item = (&ServiceName, &ServiceSettings)>) -> Vec<Doubt> {
    let reads =
        |settings: &ServiceSettings| !settings.upstream.is_plain() || settings.jwt.is_some();
    let services = services.filter(|(_, settings)| reads(settings));
    let services: Vec<_> = services
        .map(|(name, settings)| (name.clone(), settings.clone()))
        .collect();
    let look = move || {
        let services = services.iter();
        let doubts = services.flat_map(|(name, settings)| of_service(name, settings));
        doubts.collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// The gates of a service whose flags are not known, which are closed, and the flag that says whose requests must be signed: everybody's
/// must where it is not known.
pub fn of_flags(
    name: &ServiceName,
    settings: &ServiceSettings,
    is_flag: impl Fn(&FlagKey) -> bool,
) -> Vec<Doubt> {
    let doubt = |flag: &FlagKey, what: String| Doubt {
        what: format!("{what}: there is no flag `{flag}`"),
        help: format!("mend its name, or create it: `serin flag create {flag}`"),
    };
    let gates = settings.gates.iter().map(|gate| &gate.flag);
    let closed = gates.filter(|flag| !is_flag(flag)).map(|flag| {
        let what = format!("a gate of service `{name}` is closed for everybody");
        doubt(flag, what)
    });
    let signing = match &settings.signing {
        Signing::Flag(flag) if !is_flag(flag) => {
            let what = format!("every request to service `{name}` must be signed");
            Some(doubt(flag, what))
        }
        Signing::Flag(_) | Signing::Optional | Signing::Required => None,
    };
    closed.chain(signing).collect()
}

/// Those of one service.
pub fn of_service(name: &ServiceName, settings: &ServiceSettings) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let upstream = &settings.upstream;
    if let Some(reference) = &upstream.credential
        && let Err(why) = credentials::read(reference)
    {
        doubts.push(Doubt {
            what: format!(
                "service `{name}`: the credential for its endpoints cannot be read from {reference} ({why}); its calls are answered 503 without it"
            ),
            help: if reference.starts_with("env:") {
                "start `serin run` with this variable".to_owned()
            } else {
                "let `serin run` read this file; it is looked at every 2 s".to_owned()
            },
        });
    }
    if let Some(ca) = &upstream.ca
        && let Err(error) = serin_tls::Trusts::default().config(Some(Path::new(ca)))
    {
        doubts.push(Doubt {
            what: format!(
                "service `{name}`: endpoints at `https://` cannot be checked: {}; their calls are answered 502 until they can",
                crate::chain(&error)
            ),
            help: "let `serin run` read the file that `upstream.ca` names".to_owned(),
        });
    }
    let jwt = settings.jwt.as_ref();
    let jwt = jwt.filter(|_| settings.auth == Auth::Serin);
    if let Some(path) = jwt.and_then(|jwt| jwt.jwks.strip_prefix("file:"))
        && let Err(why) = jwks::check_file(path)
    {
        doubts.push(Doubt {
            what: format!(
                "service `{name}`: the keys of its identity provider cannot be read from {path} ({why}); tokens are answered 503 without them"
            ),
            help: "let `serin run` read this file; it is looked at every 2 s".to_owned(),
        });
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_that_there_are_not_are_named_with_what_comes_of_it() {
        let name = "tools".parse().unwrap();
        let settings = json!({
            "gates": [{ "flag": "known", "tools": ["a"] }, { "flag": "unknown", "tools": ["b"] }],
            "signing": { "flag": "reqest_signing" },
        });
        let settings = serde_json::from_value(settings).unwrap();
        let doubts = of_flags(&name, &settings, |key| key.as_str() == "known");
        let [gate, signing] = doubts.as_slice() else {
            panic!("{doubts:?}");
        };
        assert!(gate.what.contains("closed") && gate.what.contains("no flag `unknown`"));
        assert!(
            signing.what.contains("signed") && signing.what.contains("no flag `reqest_signing`")
        );
        assert_eq!(of_flags(&name, &settings, |_| true), []);
        for signing in ["required", "optional"] {
            let settings = serde_json::from_value(json!({ "signing": signing })).unwrap();
            assert_eq!(of_flags(&name, &settings, |_| false), []);
        }
    }

    #[test]
    fn what_a_service_names_and_cannot_be_read_is_said_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let of = |settings: serde_json::Value| {
            let settings = serde_json::from_value(settings).unwrap();
            of_service(&"tools".parse().unwrap(), &settings)
        };
        let settings = json!({
            "auth": "serin",
            "upstream": { "credential": format!("file:{}", path("token")), "ca": path("ca.pem") },
            "jwt": { "issuer": "https://id.example/", "audience": "a", "jwks": format!("file:{}", path("jwks.json")) },
        });
        let doubts = of(settings.clone());
        let said: Vec<_> = doubts.iter().map(|doubt| doubt.what.as_str()).collect();
        assert!(
            matches!(said.as_slice(), [credential, ca, keys]
                if credential.contains("token") && ca.contains("ca.pem") && keys.contains("jwks.json")),
            "{said:?}"
        );
        let beginning = folder.path().join("x");
        let made = serin_tls::Pair::self_signed(&beginning, vec!["localhost".to_owned()]).unwrap();
        std::fs::rename(made.cert, path("ca.pem")).unwrap();
        std::fs::write(path("token"), "Bearer abc").unwrap();
        std::fs::write(
            path("jwks.json"),
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
        )
        .unwrap();
        assert_eq!(of(settings), []);
        assert_eq!(of(json!({ "upstream": { "server_name": "x" } })), []);
        let unset = of(json!({ "upstream": { "credential": "env:SERIN_NO_SUCH_VARIABLE" } }));
        assert!(
            unset.len() == 1 && unset[0].help.contains("variable"),
            "{unset:?}"
        );
    }
}
