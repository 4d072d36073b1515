//! TLS: what listeners show, and how endpoints are checked.

use crate::{
    position::Path as Field,
    read::{Report, short},
};
use serde::Deserialize;
use serin_flags::Environment;
use serin_model::service::ServiceSpec;
use std::path::{Path, PathBuf};

/// What a listener shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A certificate and its key, in files (PEM).
    Files {
        /// The certificate, with those between it and a root behind it.
        cert: PathBuf,
        /// Its private key, which nobody but its owner may read.
        key: PathBuf,
    },
    /// One that is made at the first start and that nobody trusts unless told: for development.
    SelfSigned,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsFile {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    self_signed: bool,
}

impl TlsFile {
    pub(crate) fn check(self, folder: &Path, at: &Field, report: &mut Report) -> Option<Tls> {
        match (self.cert, self.key, self.self_signed) {
            (Some(cert), Some(key), false) => Some(Tls::Files {
                cert: folder.join(cert),
                key: folder.join(key),
            }),
            (None, None, true) => Some(Tls::SelfSigned),
            (None, None, false) => {
                report.error(
                    at,
                    "there is no certificate",
                    "write `{ cert: FILE, key: FILE }`, or `{ self_signed: true }` for development, or remove `tls`",
                );
                None
            }
            (_, _, true) => {
                report.error(
                    &at.key("self_signed"),
                    "a certificate of files and one that is made cannot both be shown",
                    "remove `self_signed`, or `cert` and `key`",
                );
                None
            }
            (cert, _, false) => {
                let (has, lacks) = if cert.is_some() {
                    ("cert", "key")
                } else {
                    ("key", "cert")
                };
                report.error(
                    &at.key(has),
                    format!("`{has}` stands here without `{lacks}`"),
                    format!("add `{lacks}: FILE`"),
                );
                None
            }
        }
    }
}

/// Says where a certificate that nobody trusts is shown to others than developers.
pub(crate) fn check_environment(
    environment: Environment,
    listeners: [(&str, &Option<Tls>); 2],
    report: &mut Report,
) {
    if matches!(environment, Environment::Development | Environment::Test) {
        return;
    }
    for (name, _) in listeners
        .iter()
        .filter(|(_, tls)| **tls == Some(Tls::SelfSigned))
    {
        report.warning(
            &Field::default().key(name).key("tls").key("self_signed"),
            "a certificate that is signed by itself is for development: no client trusts it unless told",
            "write `{ cert: FILE, key: FILE }`",
        );
    }
}

/// Checks how a service's endpoints are checked.
pub(crate) fn check_upstream(spec: &ServiceSpec, settings: &Field, report: &mut Report) {
    let upstream = &spec.settings.upstream;
    let at = settings.key("upstream");
    if let Some(ca) = &upstream.ca
        && !Path::new(ca).is_absolute()
    {
        report.error(
            &at.key("ca"),
            format!("`{}` is not a whole path", short(ca)),
            "write it from the root on, such as `/etc/serin/ca.pem`: `serin run` reads it, wherever it runs",
        );
    }
    if let Some(name) = &upstream.server_name {
        let field = at.key("server_name");
        if name.parse::<std::net::IpAddr>().is_ok() {
            report.error(
                &field,
                format!("`{}` is an address", short(name)),
                "write the name that the certificate of the endpoints is for, such as `mcp.example.com`",
            );
        } else {
            crate::service::check_host(name, &field, report);
        }
    }
    let mut endpoints = (spec.versions.values()).flat_map(|version| &version.endpoints);
    let said = [
        ("ca", upstream.ca.is_some()),
        ("server_name", upstream.server_name.is_some()),
    ];
    if !endpoints.any(|endpoint| endpoint.url.starts_with("https://")) {
        for (name, _) in said.iter().filter(|(_, is_said)| *is_said) {
            report.warning(
                &at.key(name),
                format!("no endpoint is at `https://`, so `{name}` says nothing"),
                "write the endpoints with `https://`, or remove this",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Severity, Tls};
    use std::path::PathBuf;

    const SERVICE: &str = "services: { tools: { protocol: http, path: /t, stable: v1, versions: { v1: { endpoints: [URL] } }, settings: { upstream: { UPSTREAM } } } }";

    /// What is said of a text, each with its field and whether it is an error.
    fn said(text: &str) -> Vec<(bool, String, String)> {
        let diagnostics = match Config::parse(text, "serin.yaml") {
            Ok(checked) => checked.warnings,
            Err(refused) => refused.diagnostics,
        };
        (diagnostics.into_iter())
            .map(|d| (d.severity == Severity::Error, d.field, d.help))
            .collect()
    }

    #[test]
    fn a_listener_shows_files_or_what_is_made() {
        let config = |tls: &str| {
            let text = format!("gateway: {{ tls: {tls} }}\nadmin: {{ tls: {tls} }}");
            let config = Config::parse(&text, "serin.yaml").unwrap().value;
            assert_eq!(config.gateway.tls, config.admin.tls);
            config.gateway.tls.unwrap()
        };
        let [cert, key] = ["a.pem", "b.pem"].map(PathBuf::from);
        assert_eq!(
            config("{ cert: a.pem, key: b.pem }"),
            Tls::Files { cert, key }
        );
        assert_eq!(config("{ self_signed: true }"), Tls::SelfSigned);
    }

    #[test]
    fn half_a_certificate_is_refused_with_what_it_lacks() {
        for (tls, field, help) in [
            ("{}", "gateway.tls", "self_signed: true"),
            ("{ cert: a }", "gateway.tls.cert", "key: FILE"),
            ("{ key: a }", "gateway.tls.key", "cert: FILE"),
            (
                "{ cert: a, key: b, self_signed: true }",
                "gateway.tls.self_signed",
                "remove",
            ),
        ] {
            let said = said(&format!("gateway: {{ tls: {tls} }}"));
            let [(true, at, says)] = &said[..] else {
                panic!("{said:?}");
            };
            assert_eq!(at, field);
            assert!(says.contains(help), "{says}");
        }
        let said = said("admin: { socket: a.sock, tls: { self_signed: true } }");
        assert_eq!(said[0].1, "admin.tls", "{said:?}");
    }

    #[test]
    fn one_signed_by_itself_is_for_development() {
        for (environment, warned) in [("development", 0), ("test", 0), ("production", 2)] {
            let tls = "tls: { self_signed: true }";
            let text =
                format!("environment: {environment}\ngateway: {{ {tls} }}\nadmin: {{ {tls} }}");
            let said = said(&text);
            assert_eq!(said.len(), warned, "{said:?}");
            assert!(said.iter().all(|(is_error, ..)| !is_error));
        }
    }

    #[test]
    fn endpoints_are_checked_by_a_whole_path_and_a_name() {
        let https = SERVICE.replace("URL", "https://localhost:1");
        for (upstream, field) in [
            ("ca: /ca.pem, server_name: a.example", None),
            ("ca: ca.pem", Some("ca")),
            ("server_name: 10.0.0.1", Some("server_name")),
            ("server_name: 'a b'", Some("server_name")),
        ] {
            let said = said(&https.replace("UPSTREAM", upstream));
            let fields: Vec<_> = said.iter().map(|(_, field, _)| field.clone()).collect();
            let want = field.map(|name| format!("services.tools.settings.upstream.{name}"));
            assert_eq!(fields, Vec::from_iter(want), "{upstream}");
        }
        let http = SERVICE.replace("URL", "http://localhost:1");
        let said = said(&http.replace("UPSTREAM", "ca: /ca.pem"));
        assert!(matches!(&said[..], [(false, ..)]), "{said:?}");
    }
}
