//! Checks of the versions of the public API: their dates, their tools, their guides, and the paths that services must leave to them.

use crate::{
    gate::check_patterns,
    position::Path,
    read::{Report, short},
};
use jiff::{Timestamp, civil::Date};
use serin_model::{
    api::{ApiSpec, ApiVersion},
    manifest::Manifest,
    service::Protocol,
};

/// Most versions of the API. Who keeps more alive than this has another problem than their number.
const VERSIONS_MAX: usize = 50;
/// Longest URL of a guide, in bytes: it stands in a header of every answer.
const GUIDE_BYTES_MAX: usize = 1024;
/// What the API itself has below a version.
const RESOURCES: [&str; 3] = ["tools", "tool", "openapi.json"];

/// Checks the versions of the API, and the services' paths against theirs. `now` is for warnings only.
pub(crate) fn check_api(manifest: &Manifest, now: Timestamp, report: &mut Report) {
    let at = Path::default().key("api");
    if manifest.api.is_empty() {
        return;
    }
    if manifest.api.len() > VERSIONS_MAX {
        report.error(
            &at,
            format!("{} versions of the API are too many", manifest.api.len()),
            format!("keep at most {VERSIONS_MAX}"),
        );
    }
    for (version, spec) in &manifest.api {
        let at = at.key(version.to_string());
        check_dates(spec, &at, report);
        if !spec.tools.is_empty() {
            check_patterns(&spec.tools, &at.key("tools"), report);
        }
        check_guide(spec, &at, report);
        if spec.has_ended(now) {
            report.warning(
                &at.key("sunset"),
                format!("API {version} is past its sunset: it answers 410"),
                "choose a later date if it is still to serve",
            );
        }
        let service = manifest.services.get(&spec.service);
        if service.is_some_and(|service| service.protocol != Protocol::Mcp) {
            report.error(
                &at.key("service"),
                format!(
                    "service `{}` speaks plain HTTP and has no tools",
                    spec.service
                ),
                "name a service with `protocol: mcp`",
            );
        }
    }
    let services = Path::default().key("services");
    for (name, service) in &manifest.services {
        if let Some(taken) = taken(&service.path) {
            report.error(
                &services.key(name).key("path"),
                format!("the API itself answers at `{taken}`"),
                "choose another path, such as `/mcp`; the tools of this service are reached by both",
            );
        }
    }
}

/// The place of the API that a service's path would cover, if it would.
fn taken(path: &str) -> Option<&str> {
    let (prefix, rest) = path.strip_prefix('/').map(|path| {
        let (prefix, rest) = path.split_once('/').unwrap_or((path, ""));
        (prefix, rest)
    })?;
    let is_api = prefix == "api" || prefix.parse::<ApiVersion>().is_ok();
    let resource = rest.split('/').next().unwrap_or_default();
    (is_api && (resource.is_empty() || RESOURCES.contains(&resource))).then_some(path)
}

fn check_dates(spec: &ApiSpec, at: &Path, report: &mut Report) {
    let dates = [
        ("announced", spec.announced),
        ("deprecated", spec.deprecated),
        ("sunset", spec.sunset),
    ];
    let mut last: Option<(&str, Date)> = None;
    for (name, date) in dates {
        let Some(date) = date else { continue };
        if let Some((before, other)) = last.filter(|(_, other)| *other > date) {
            report.error(
                &at.key(name),
                format!("`{name}` ({date}) comes before `{before}` ({other})"),
                "write them in the order `announced`, `deprecated`, `sunset`",
            );
        }
        last = Some((name, date));
    }
    if last.is_some() && spec.guide.is_none() {
        report.warning(
            at,
            "this version ends, and nobody is told how to move on",
            "add `guide: https://...`; the answers link to it",
        );
    }
}

fn check_guide(spec: &ApiSpec, at: &Path, report: &mut Report) {
    let Some(guide) = &spec.guide else { return };
    let fits = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
    };
    // It stands in a header, between `<` and `>`.
    let plain = |b: u8| b.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&b);
    if guide.len() > GUIDE_BYTES_MAX
        || !guide.bytes().all(plain)
        || !url::Url::parse(guide).is_ok_and(|url| fits(&url))
    {
        report.error(
            &at.key("guide"),
            format!("`{}` is not the URL of a guide", short(guide)),
            format!("write up to {GUIDE_BYTES_MAX} bytes such as `https://docs.example.com/v2`"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigError, Severity, config::File, read::read};

    const SERVICES: &str = "services:\n  tools: { protocol: mcp, path: /mcp, stable: v1, versions: { v1: { endpoints: [http://127.0.0.1:1/mcp] } } }\n  web: { protocol: http, path: PATH, stable: v1, versions: { v1: { endpoints: [http://127.0.0.1:1/] } } }\n";

    /// What is found in an API, by the field.
    fn found(api: &str, path: &str, now: &str) -> Vec<(Severity, String, String)> {
        let text = format!("{}api: {api}\n", SERVICES.replace("PATH", path));
        let (mut file, mut report): (File, Report) = read(&text, "serin.yaml").unwrap();
        let manifest = file.take_manifest();
        check_api(&manifest, now.parse().unwrap(), &mut report);
        let diagnostics = match report.finish(()) {
            Ok(checked) => checked.warnings,
            Err(ConfigError { diagnostics }) => diagnostics,
        };
        let short = |d: crate::Diagnostic| (d.severity, d.field, d.message);
        diagnostics.into_iter().map(short).collect()
    }

    #[test]
    fn a_good_api_is_taken() {
        let api = "{ v1: { service: tools, tools: [generate_content, 'get_*'], announced: 2026-02-08, deprecated: 2026-05-10, sunset: 2026-11-10, guide: 'https://docs.example.com/v2' }, v2: { service: tools } }";
        for path in ["/", "/web", "/api/other", "/v1/other", "/vx", "/apis"] {
            let found = found(api, path, "2026-11-09T00:00:00Z");
            assert_eq!(found, [], "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (api, path, field, severity, message) in [
            (
                "{ v1: { service: tools, deprecated: 2027-05-10, sunset: 2027-05-09, guide: 'https://a.example' } }",
                "/web",
                "api.v1.sunset",
                Severity::Error,
                "comes before `deprecated`",
            ),
            (
                "{ v1: { service: tools, announced: 2027-06-10, sunset: 2027-05-09, guide: 'https://a.example' } }",
                "/web",
                "api.v1.sunset",
                Severity::Error,
                "comes before `announced`",
            ),
            (
                "{ v1: { service: tools, tools: ['*.x'] } }",
                "/web",
                "api.v1.tools[0]",
                Severity::Error,
                "before its end",
            ),
            (
                "{ v1: { service: tools, guide: 'docs.example' } }",
                "/web",
                "api.v1.guide",
                Severity::Error,
                "not the URL of a guide",
            ),
            (
                "{ v1: { service: tools, guide: 'https://a.example/>; rel=x' } }",
                "/web",
                "api.v1.guide",
                Severity::Error,
                "not the URL of a guide",
            ),
            (
                "{ v1: { service: web } }",
                "/web",
                "api.v1.service",
                Severity::Error,
                "has no tools",
            ),
            (
                "{ v1: { service: tools } }",
                "/api",
                "services.web.path",
                Severity::Error,
                "`/api`",
            ),
            (
                "{ v1: { service: tools } }",
                "/v7",
                "services.web.path",
                Severity::Error,
                "`/v7`",
            ),
            (
                "{ v1: { service: tools } }",
                "/v1/tools/x",
                "services.web.path",
                Severity::Error,
                "`/v1/tools/x`",
            ),
            (
                "{ v1: { service: tools, sunset: 2026-11-20, guide: 'https://a.example' } }",
                "/web",
                "api.v1.sunset",
                Severity::Warning,
                "it answers 410",
            ),
            (
                "{ v1: { service: tools, sunset: 2027-11-20 } }",
                "/web",
                "api.v1",
                Severity::Warning,
                "how to move on",
            ),
        ] {
            let found = found(api, path, "2026-11-21T00:00:00Z");
            let fits = |(s, f, m): &(Severity, String, String)| {
                *s == severity && f == field && m.contains(message)
            };
            assert!(
                found.len() == 1 && fits(&found[0]),
                "{api} {path}: {found:?}"
            );
        }
    }

    #[test]
    fn a_date_is_written_as_iso_8601_has_it() {
        let api = "{ v1: { service: tools, sunset: 10.05.2027 } }";
        let text = format!("{SERVICES}api: {api}\n");
        let refused = read::<File>(&text, "serin.yaml").err().unwrap();
        let found = &refused.diagnostics[0];
        assert_eq!(
            (found.field.as_str(), found.message.as_str()),
            ("api.v1.sunset", "`10.05.2027` is not a date")
        );
        assert!(found.help.contains("`2027-05-10`"), "{found:?}");
    }

    #[test]
    fn versions_are_bounded() {
        let versions: Vec<_> = (1..=VERSIONS_MAX + 1)
            .map(|n| format!("v{n}: {{ service: tools }}"))
            .collect();
        let api = format!("{{ {} }}", versions.join(", "));
        let found = found(&api, "/web", "2026-11-21T00:00:00Z");
        assert!(
            found.len() == 1 && found[0].2.contains("too many"),
            "{found:?}"
        );
    }
}
