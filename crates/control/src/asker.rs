//! Who asks endpoints: the common client, or where a service says how its endpoints are checked, one that checks them so.

use crate::{ask, credentials};
use reqwest::{
    Client, IntoUrl, Method, RequestBuilder, Url,
    dns::{Name, Resolve, Resolving},
    header::{HOST, HeaderMap, HeaderName, HeaderValue},
};
use serin_model::auth::Upstream;
use serin_tls::{ClientConfig, Trusts};
use std::{
    error::Error,
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
};

/// The certificates that are read, one copy for all probes.
static TRUSTS: LazyLock<Trusts> = LazyLock::new(Trusts::default);

/// Asks the endpoints of one service.
#[derive(Clone)]
pub(crate) struct Asker {
    plain: Client,
    ca: Option<String>,
    server_name: Option<String>,
    /// By what we prove ourselves, as calls do.
    credential: Option<(HeaderName, HeaderValue)>,
}

impl Asker {
    pub(crate) fn new(plain: Client, upstream: &Upstream) -> Self {
        Self {
            plain,
            ca: upstream.ca.clone(),
            server_name: upstream.server_name.clone(),
            credential: credential(upstream),
        }
    }

    pub(crate) fn get(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    pub(crate) fn post(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    pub(crate) fn delete(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        match url.into_url().and_then(|url| self.at(url)) {
            Ok((client, url)) => {
                let request = client.request(method, url);
                match &self.credential {
                    Some((name, value)) => request.header(name, value),
                    None => request,
                }
            }
            // The request then says that it is none. Nobody is asked who would not be checked.
            Err(_) => self.plain.request(method, ""),
        }
    }

    /// With whom a URL is asked, and by which URL.
    fn at(&self, url: Url) -> reqwest::Result<(Client, Url)> {
        let is_plain = self.ca.is_none() && self.server_name.is_none();
        if is_plain || url.scheme() != "https" {
            return Ok((self.plain.clone(), url));
        }
        let config = TRUSTS.config(self.ca.as_deref().map(Path::new));
        let config = config.map(|config| (*config).clone());
        let config = config.unwrap_or_else(|error| {
            let why = error.source().map(ToString::to_string);
            tracing::warn!(%error, why, "endpoints cannot be checked");
            // Nobody is trusted then.
            serin_tls::trusts_nobody()
        });
        let renamed = self
            .server_name
            .as_deref()
            .and_then(|name| rename(&url, name));
        let Some((url, host, place)) = renamed else {
            return Ok((ask::client_with(config, |builder| builder)?, url));
        };
        let client = ask::client_with(config, |builder| {
            builder
                .default_headers(HeaderMap::from_iter([(HOST, host)]))
                .dns_resolver(Arc::new(place))
        })?;
        Ok((client, url))
    }
}

/// What a service's endpoints are shown; without it they say why they do not answer.
fn credential(upstream: &Upstream) -> Option<(HeaderName, HeaderValue)> {
    let secret = credentials::read(upstream.credential.as_deref()?).ok()?;
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(upstream.header()).ok()?, value))
}

/// The system's certificates. A machine without any, such as a bare container, trusts nobody at `https://`.
pub(crate) fn system_trust() -> ClientConfig {
    match TRUSTS.config(None) {
        Ok(config) => (*config).clone(),
        Err(error) => {
            tracing::debug!(%error, "nobody is trusted");
            serin_tls::trusts_nobody()
        }
    }
}

/// A URL with another name in it, the `Host` that it had, and where it is.
fn rename(url: &Url, name: &str) -> Option<(Url, HeaderValue, Place)> {
    let host = url.host_str()?;
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let place = Place(host.trim_matches(['[', ']']).to_owned());
    let mut renamed = url.clone();
    renamed.set_host(Some(name)).ok()?;
    Some((renamed, authority.parse().ok()?, place))
}

/// Where every name leads.
struct Place(String);

impl Resolve for Place {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port is that of the URL.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_checked_in_its_own_way_is_renamed() {
        let upstream = Upstream {
            server_name: Some("mcp.example".into()),
            ..Upstream::default()
        };
        let asker = Asker::new(ask::client(), &upstream);
        for (url, asked) in [
            ("http://10.0.0.1:80/mcp", "http://10.0.0.1/mcp"),
            ("https://10.0.0.1:8443/mcp", "https://mcp.example:8443/mcp"),
            ("https://[::1]/a?b", "https://mcp.example/a?b"),
        ] {
            let (_, url) = asker.at(url.parse().unwrap()).unwrap();
            assert_eq!(url.as_str(), asked);
        }
    }

    #[test]
    fn the_name_that_was_there_is_still_told() {
        let url = "https://[::1]:8443/mcp".parse().unwrap();
        let (_, host, place) = rename(&url, "mcp.example").unwrap();
        assert_eq!(host, "[::1]:8443");
        assert_eq!(place.0, "::1");
    }
}
