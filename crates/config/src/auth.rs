//! How callers prove who they are, and how the gateway proves itself to endpoints: what fits together, and what would never work.

use crate::{
    position::Path,
    read::{Report, short},
};
use serin_model::{
    auth::{Auth, Jwt, Signing, Upstream},
    service::ServiceSettings,
};
use url::Url;

/// Longest issuer and audience, in bytes; a token with longer ones fits into no header.
const TEXT_BYTES_MAX: usize = 2048;
/// Headers that carry something else than a credential, or belong to one connection.
const HEADERS_TAKEN: [&str; 12] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Checks what a service's settings say of authentication.
pub(crate) fn check_auth(settings: &ServiceSettings, at: &Path, report: &mut Report) {
    let asks = settings.auth == Auth::Serin;
    if let Some(jwt) = &settings.jwt {
        let at = at.key("jwt");
        if !asks {
            report.error(
                &at,
                "tokens are looked at only where callers must prove who they are",
                "add `auth: serin`, or remove `jwt`: callers' tokens then go to the endpoints as they came",
            );
        }
        check_jwt(jwt, &at, report);
    }
    if !asks && settings.signing != Signing::Optional {
        report.error(
            &at.key("signing"),
            "requests are signed with keys, and no keys are asked for here",
            "add `auth: serin`, or remove `signing`",
        );
    }
    check_upstream(&settings.upstream, asks, &at.key("upstream"), report);
}

fn check_jwt(jwt: &Jwt, at: &Path, report: &mut Report) {
    let issuer = Url::parse(&jwt.issuer)
        .ok()
        .filter(|_| jwt.issuer.len() <= TEXT_BYTES_MAX);
    match issuer {
        Some(url) if matches!(url.scheme(), "http" | "https") => {
            warn_of_plain(&url, &at.key("issuer"), report);
        }
        _ => report.error(
            &at.key("issuer"),
            format!("`{}` is not the URL of an issuer", short(&jwt.issuer)),
            "write what stands in `iss` of its tokens, letter by letter, such as `https://id.example.com/`",
        ),
    }
    if jwt.audience.trim().is_empty() || jwt.audience.len() > TEXT_BYTES_MAX {
        report.error(
            &at.key("audience"),
            "without an audience, a token for any other service would open this one",
            "write what stands in `aud` of the tokens that are for this service, such as `https://mcp.example.com/mcp`",
        );
    }
    check_jwks(&jwt.jwks, &at.key("jwks"), report);
    for (name, claim) in [
        ("tenant_claim", &jwt.tenant_claim),
        ("scope_claim", &jwt.scope_claim),
        ("role_claim", &jwt.role_claim),
    ] {
        if claim.is_empty() {
            report.error(
                &at.key(name),
                "a claim has a name",
                format!("write the name of the claim, or remove `{name}`"),
            );
        }
    }
}

fn check_jwks(jwks: &str, at: &Path, report: &mut Report) {
    let help = "write for example `https://id.example.com/.well-known/jwks.json` or `file:/etc/serin/jwks.json`";
    if let Some(path) = jwks.strip_prefix("file:") {
        if !path.starts_with('/') {
            report.error(at, format!("`{}` is not a whole path", short(path)), help);
        }
        return;
    }
    match Url::parse(jwks) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            report.error(
                at,
                format!("keys are not fetched by `{}`", url.scheme()),
                help,
            );
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => report.error(
            at,
            "credentials in a URL end up in logs",
            "remove what stands before the `@`: the keys of a provider are public",
        ),
        Ok(url) => warn_of_plain(&url, at, report),
        Err(error) => report.error(at, format!("`{}` is not a URL: {error}", short(jwks)), help),
    }
}

/// Who can change what is fetched in the open can sign tokens.
fn warn_of_plain(url: &Url, at: &Path, report: &mut Report) {
    let is_local = match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !is_local {
        report.warning(
            at,
            "whoever is on the way can change what is fetched without TLS, and then make tokens",
            "use `https://`",
        );
    }
}

fn check_upstream(upstream: &Upstream, asks: bool, at: &Path, report: &mut Report) {
    if let Some(reference) = &upstream.credential {
        let at = at.key("credential");
        if !is_reference(reference) {
            // What was written may be the secret itself.
            report.error(
                &at,
                "this is not where a credential is",
                "write `env:NAME` or `file:/PATH`, never the credential itself: it would stand in the log of events",
            );
        } else if !asks {
            report.warning(
                &at,
                "callers who prove nothing to the gateway use its credential",
                "add `auth: serin`, unless anybody who reaches the gateway may do what the credential allows",
            );
        }
    } else if upstream.header.is_some() {
        report.error(
            &at.key("header"),
            "there is no credential that this header could carry",
            "add `credential: env:NAME`, or remove `header`",
        );
    }
    let Some(header) = &upstream.header else {
        return;
    };
    let name = header.to_ascii_lowercase();
    let is_taken = HEADERS_TAKEN.contains(&name.as_str())
        || ["mcp-", "x-serin-", "x-forwarded-"]
            .iter()
            .any(|beginning| name.starts_with(beginning));
    if http::HeaderName::try_from(name.as_str()).is_err() {
        report.error(
            &at.key("header"),
            format!("`{}` is not a header name", short(header)),
            "write letters, digits and `-`, such as `X-Api-Key`",
        );
    } else if is_taken {
        report.error(
            &at.key("header"),
            format!("the header `{}` says something else", short(header)),
            "take another one, such as `X-Api-Key`, or remove `header`: it is then `Authorization`",
        );
    }
}

fn is_reference(text: &str) -> bool {
    let is_name = |name: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(is_plain)
    };
    match text.split_once(':') {
        Some(("env", name)) => is_name(name),
        Some(("file", path)) => path.starts_with('/') && !path.chars().any(char::is_control),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::read_manifest;

    const SERVICE: &str = "services: { tools: { protocol: mcp, path: /mcp, stable: v1, versions: { v1: { endpoints: [http://127.0.0.1:9001/mcp] } }, settings: { SETTINGS } } }";
    const JWT: &str = "issuer: 'https://id.example/', audience: a, jwks: 'https://id.example/keys'";

    fn check(settings: &str) -> String {
        match read_manifest(&SERVICE.replace("SETTINGS", settings), "test.yaml") {
            Ok(checked) if checked.warnings.is_empty() => String::new(),
            Ok(checked) => format!("warning {:?}", checked.warnings),
            Err(error) => format!("error {error:?}"),
        }
    }

    #[test]
    fn what_makes_sense_is_taken() {
        for settings in [
            "auth: serin".to_owned(),
            format!("auth: serin, jwt: {{ {JWT} }}"),
            "auth: serin, jwt: { issuer: 'http://127.0.0.1:1/', audience: a, jwks: 'file:/etc/keys.json' }".to_owned(),
            "auth: serin, signing: required".to_owned(),
            "auth: serin, signing: { flag: request_signing }".to_owned(),
            "auth: serin, upstream: { credential: 'env:TOKEN_1', header: X-Api-Key }".to_owned(),
            "auth: serin, upstream: { credential: 'file:/run/secrets/token' }".to_owned(),
        ] {
            assert_eq!(check(&settings), "", "{settings}");
        }
    }

    #[test]
    fn what_would_never_work_is_refused_where_it_stands() {
        for (settings, field, help) in [
            (format!("jwt: {{ {JWT} }}"), "settings.jwt", "auth: serin"),
            (
                "signing: required".to_owned(),
                "settings.signing",
                "auth: serin",
            ),
            (
                "auth: serin, jwt: { issuer: id, audience: a, jwks: 'file:/k' }".to_owned(),
                "jwt.issuer",
                "letter by letter",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: '', jwks: 'file:/k' }".to_owned(),
                "jwt.audience",
                "`aud`",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: a, jwks: 'file:keys' }".to_owned(),
                "jwt.jwks",
                "file:/etc",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: a, jwks: 'ftp://k' }".to_owned(),
                "jwt.jwks",
                "https://",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: a, jwks: 'https://u:p@k/' }".to_owned(),
                "jwt.jwks",
                "before the `@`",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: a, jwks: 'https://k', tenant_claim: '' }".to_owned(),
                "jwt.tenant_claim",
                "the name of the claim",
            ),
            (
                "auth: serin, upstream: { credential: 's3cr3t' }".to_owned(),
                "upstream.credential",
                "env:NAME",
            ),
            (
                "auth: serin, upstream: { credential: 'env:A B' }".to_owned(),
                "upstream.credential",
                "env:NAME",
            ),
            (
                "auth: serin, upstream: { header: X-Key }".to_owned(),
                "upstream.header",
                "add `credential",
            ),
            (
                "auth: serin, upstream: { credential: 'env:A', header: Host }".to_owned(),
                "upstream.header",
                "another one",
            ),
            (
                "auth: serin, upstream: { credential: 'env:A', header: 'a b' }".to_owned(),
                "upstream.header",
                "letters",
            ),
        ] {
            let said = check(&settings);
            assert!(said.starts_with("error"), "{settings}: {said}");
            assert!(said.contains(field) && said.contains(help), "{settings}: {said}");
            assert!(!said.contains("s3cr3t"), "{said}");
        }
    }

    #[test]
    fn what_is_open_to_others_carries_a_warning() {
        for (settings, field) in [
            ("upstream: { credential: 'env:A' }", "upstream.credential"),
            (
                "auth: serin, jwt: { issuer: 'http://id.example', audience: a, jwks: 'file:/k' }",
                "jwt.issuer",
            ),
            (
                "auth: serin, jwt: { issuer: 'https://i', audience: a, jwks: 'http://id.example/k' }",
                "jwt.jwks",
            ),
        ] {
            let said = check(settings);
            assert!(
                said.starts_with("warning") && said.contains(field),
                "{settings}: {said}"
            );
        }
    }
}
