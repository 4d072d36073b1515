//! Where a path of the public API leads: which version, and what of it.

use super::problem::Problem;
use crate::refusal::Refusal;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serin_model::{
    api::{self, ApiSpec, ApiVersion, Notice},
    observe::Rejection,
    snapshot::{ServiceRoute, Snapshot},
};
use std::{collections::BTreeMap, sync::Arc};

static DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
static SUNSET: HeaderName = HeaderName::from_static("sunset");

/// What of a version is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// The list of its tools.
    Tools,
    /// One of them.
    Tool(String),
    /// A call of one.
    Call,
    /// Its description.
    OpenApi,
    /// JSON-RPC, as at the path of its service.
    Rpc,
    /// Nothing that there is.
    Nothing,
}

/// A path of the API.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    api: Arc<BTreeMap<ApiVersion, ApiSpec>>,
    /// The version; one that is not in `api` is unknown.
    pub(crate) version: ApiVersion,
    /// `/api` or `/v2`.
    pub(crate) prefix: String,
    /// What stands behind it.
    rest: String,
    pub(crate) resource: Resource,
    now: Timestamp,
}

impl Place {
    /// The place of the API that a path names. A service that claims more of the path goes first; one that claims all paths keeps those
    /// of versions that there are not.
    pub(crate) fn find(
        snapshot: &Snapshot,
        service: Option<&ServiceRoute>,
        path: &str,
    ) -> Option<Self> {
        if snapshot.api.is_empty() {
            return None;
        }
        let end = path.get(1..)?.find('/').map_or(path.len(), |at| at + 1);
        let (prefix, rest) = path.split_at_checked(end)?;
        let now = Timestamp::now();
        let version = match prefix.strip_prefix('/')? {
            "api" => api::newest(&snapshot.api, now)?.0,
            name => name.parse().ok()?,
        };
        let is_known = snapshot.api.contains_key(&version);
        if service.is_some_and(|service| !is_known || service.path.len() >= prefix.len()) {
            return None;
        }
        Some(Self {
            api: Arc::clone(&snapshot.api),
            version,
            resource: resource(rest, prefix != "/api"),
            prefix: prefix.to_owned(),
            rest: rest.to_owned(),
            now,
        })
    }

    /// What the version is; nothing if there is no such version.
    pub(crate) fn spec(&self) -> Option<&ApiSpec> {
        self.api.get(&self.version)
    }

    /// The service behind it, if it is reached under this host.
    pub(crate) fn service<'s>(
        &self,
        snapshot: &'s Snapshot,
        host: &str,
    ) -> Option<&'s Arc<ServiceRoute>> {
        let spec = self.spec()?;
        let service = snapshot.service(&spec.service);
        service.filter(|service| service.admits_host(Some(host)))
    }

    /// The version, where it has less than all tools of its service.
    pub(crate) fn only(&self) -> Option<Arc<ApiSpec>> {
        let spec = self.spec().filter(|spec| !spec.tools.is_empty());
        spec.map(|spec| Arc::new(spec.clone()))
    }

    /// Whether its requests have a body.
    pub(crate) fn has_body(&self) -> bool {
        self.resource == Resource::Call
    }

    /// The service behind it has no tools.
    pub(crate) fn no_tools(&self) -> Refusal {
        let detail = format!("the service behind API {} does not speak MCP", self.version);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem::new(status, "unavailable", detail)
            .help("name a service with `protocol: mcp` under `api`")
            .refuse()
    }

    /// Whether it is REST, and not JSON-RPC.
    pub(crate) fn is_rest(&self) -> bool {
        self.resource != Resource::Rpc
    }

    /// Refuses what is there no more, or never was.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let status = if self.spec().is_none() {
            StatusCode::BAD_REQUEST
        } else if self.notice().has_ended {
            StatusCode::GONE
        } else if self.resource == Resource::Nothing {
            StatusCode::NOT_FOUND
        } else {
            return Ok(());
        };
        let supported = api::supported(&self.api, self.now);
        let newest = supported.last().map(|version| format!("/v{version}"));
        let problem = match status {
            StatusCode::BAD_REQUEST => {
                let detail = format!("there is no version `{}` of the API", self.version);
                let problem = Problem::new(status, "unsupported_version", detail);
                let problem = problem.error(&"Unsupported API version");
                problem.supported(supported).help(match newest {
                    Some(newest) => format!("use `{newest}`, or `/api` for the newest"),
                    None => "no version of the API is served any more".to_owned(),
                })
            }
            StatusCode::GONE => {
                let detail = format!("API {} is past its sunset", self.version);
                let guide = self.spec().and_then(|spec| spec.guide.as_deref());
                let problem = Problem::new(status, "sunset", detail);
                let problem = problem.supported(supported);
                match (guide, newest) {
                    (Some(guide), _) => problem.help(format!("how to move on: {guide}")),
                    (None, Some(newest)) => problem.help(format!("use `{newest}`")),
                    (None, None) => problem,
                }
            }
            _ => {
                let rest: String = self.rest.chars().take(100).collect();
                let detail = format!("there is nothing at `{rest}` of API {}", self.version);
                Problem::new(status, "not_found", detail).help(format!(
                    "it has `GET {0}/tools`, `GET {0}/tools/NAME`, `POST {0}/tool` and `GET {0}/openapi.json`",
                    self.prefix
                ))
            }
        };
        Err(problem.refuse().counted(Rejection::Route))
    }

    fn notice(&self) -> Notice {
        let Some(spec) = self.spec() else {
            return Notice::default();
        };
        let newest = api::newest(&self.api, self.now).map(|(version, _)| version);
        let newest = newest.filter(|newest| *newest > self.version);
        let successor = newest.map(|newest| format!("/{newest}{}", self.rest));
        spec.notice(self.now, successor.as_deref())
    }

    /// Says in the headers of an answer what is to be said about the version's end.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        let notice = self.notice();
        let said = [(&DEPRECATION, notice.deprecation), (&SUNSET, notice.sunset)];
        for (name, value) in said {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        for link in notice.links {
            if let Ok(link) = HeaderValue::try_from(link) {
                headers.append(header::LINK, link);
            }
        }
    }
}

fn resource(rest: &str, has_number: bool) -> Resource {
    match rest {
        "/tools" => Resource::Tools,
        "/tool" => Resource::Call,
        "/openapi.json" => Resource::OpenApi,
        "" if has_number => Resource::Rpc,
        _ => match rest.strip_prefix("/tools/") {
            Some(name) if !name.is_empty() => {
                Resource::Tool(percent_decode_str(name).decode_utf8_lossy().into_owned())
            }
            _ => Resource::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let spec = |sunset: Option<&str>| ApiSpec {
            service: "tools".parse().unwrap(),
            tools: vec![],
            announced: None,
            deprecated: None,
            sunset: sunset.map(|date| date.parse().unwrap()),
            guide: None,
        };
        let api = [
            (ApiVersion(1), spec(None)),
            (ApiVersion(2), spec(None)),
            (ApiVersion(3), spec(Some("2000-01-01"))),
        ];
        Snapshot {
            api: Arc::new(BTreeMap::from(api)),
            ..Snapshot::default()
        }
    }

    fn found(path: &str) -> Option<(u16, Resource)> {
        let place = Place::find(&snapshot(), None, path)?;
        Some((place.version.0, place.resource))
    }

    #[test]
    fn a_path_names_a_version_and_what_of_it() {
        for (path, want) in [
            ("/api/tools", Some((2, Resource::Tools))),
            ("/v1/tools", Some((1, Resource::Tools))),
            ("/v3/tools", Some((3, Resource::Tools))),
            ("/v9/tools", Some((9, Resource::Tools))),
            ("/v1/tool", Some((1, Resource::Call))),
            ("/v1/openapi.json", Some((1, Resource::OpenApi))),
            ("/v1", Some((1, Resource::Rpc))),
            ("/api", Some((2, Resource::Nothing))),
            ("/v1/", Some((1, Resource::Nothing))),
            ("/v1/tools/", Some((1, Resource::Nothing))),
            ("/v1/toolsy", Some((1, Resource::Nothing))),
            (
                "/v1/tools/a%2Fb/c",
                Some((1, Resource::Tool("a/b/c".into()))),
            ),
            ("/apis/tools", None),
            ("/v01/tools", None),
            ("/v/tools", None),
            ("/mcp", None),
            ("/", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(found(path), want, "{path}");
        }
    }

    #[test]
    fn without_versions_there_is_no_api() {
        assert!(Place::find(&Snapshot::default(), None, "/api/tools").is_none());
    }

    #[test]
    fn what_is_gone_or_unknown_is_said() {
        for (path, status) in [
            ("/v1/tools", None),
            ("/v1", None),
            ("/v9/tools", Some(StatusCode::BAD_REQUEST)),
            ("/v9", Some(StatusCode::BAD_REQUEST)),
            ("/v3/tools", Some(StatusCode::GONE)),
            ("/v1/other", Some(StatusCode::NOT_FOUND)),
            ("/v9/other", Some(StatusCode::BAD_REQUEST)),
        ] {
            let place = Place::find(&snapshot(), None, path).unwrap();
            let refused = place.check().err().map(|refusal| refusal.status());
            assert_eq!(refused, status, "{path}");
        }
    }
}
