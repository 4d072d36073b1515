//! The services of a snapshot, found by host and path or by name in a time that does not grow with their number.

use super::ServiceRoute;
use crate::name::ServiceName;
use foldhash::fast::FixedState;
use std::{borrow::Cow, cmp::Reverse, collections::HashMap, ops::Deref, sync::Arc};

/// The services, longest path first, those with hosts of their own before those for any host.
#[derive(Clone, Debug, Default)]
pub struct Services {
    all: Vec<Arc<ServiceRoute>>,
    /// Where the services of a path stand in `all`.
    by_path: Map<Box<str>, AtPath>,
    by_name: Map<ServiceName, usize>,
    /// Bytes of the longest path: what of a request's path lies beyond them finds nothing.
    path_bytes_max: usize,
}

// What is looked up comes from outside, but what is in it does not: nobody can fill it with names that collide.
type Map<K, V> = HashMap<K, V, FixedState>;

/// The services of one path.
#[derive(Clone, Debug, Default)]
struct AtPath {
    /// By host, in lower case.
    by_host: Map<Box<str>, usize>,
    for_any: Option<usize>,
}

impl Services {
    /// In their order, whatever theirs was. Where two claim the same host and path, or the same name, the first has it.
    pub fn new(mut all: Vec<Arc<ServiceRoute>>) -> Self {
        all.sort_by_key(|service| (Reverse(service.path.len()), service.hosts.is_empty()));
        let mut by_path: Map<Box<str>, AtPath> = Map::default();
        let mut by_name = Map::default();
        for (index, service) in all.iter().enumerate() {
            by_name.entry(service.name.clone()).or_insert(index);
            let at = by_path.entry(service.path.as_str().into()).or_default();
            if service.hosts.is_empty() {
                at.for_any.get_or_insert(index);
            }
            for host in &service.hosts {
                let host = host.to_ascii_lowercase().into();
                at.by_host.entry(host).or_insert(index);
            }
        }
        Self {
            path_bytes_max: all.first().map_or(0, |longest| longest.path.len()),
            all,
            by_path,
            by_name,
        }
    }

    /// The service for a request: the longest path that is a whole-segment prefix, on a host the service admits. Looks once for each
    /// segment of the request's path that the longest path of a service could have.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<ServiceRoute>> {
        let mut prefix = self.within_longest(path)?;
        loop {
            let found = self.at(host, prefix);
            if found.is_some() {
                return found;
            }
            prefix = prefix.rsplit_once('/')?.0;
        }
    }

    /// The service whose path is this one, without a slash at the end, on a host that it admits.
    pub fn at(&self, host: Option<&str>, path: &str) -> Option<&Arc<ServiceRoute>> {
        let at = self.by_path.get(path)?;
        let by_host = || {
            let host = host.filter(|_| !at.by_host.is_empty())?;
            at.by_host.get(&*lower(host)).copied()
        };
        self.all.get(by_host().or(at.for_any)?)
    }

    /// The service of this name.
    pub fn named(&self, name: &ServiceName) -> Option<&Arc<ServiceRoute>> {
        self.all.get(*self.by_name.get(name)?)
    }

    /// The part of a path, in whole segments, that is no longer than the longest path of a service.
    fn within_longest<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Some(head) = path.as_bytes().get(..=self.path_bytes_max) else {
            return Some(path);
        };
        let slash = head.iter().rposition(|byte| *byte == b'/')?;
        path.get(..slash)
    }
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

impl Deref for Services {
    type Target = [Arc<ServiceRoute>];

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl FromIterator<Arc<ServiceRoute>> for Services {
    fn from_iter<I: IntoIterator<Item = Arc<ServiceRoute>>>(services: I) -> Self {
        Self::new(services.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Services {
    type Item = &'a Arc<ServiceRoute>;
    type IntoIter = std::slice::Iter<'a, Arc<ServiceRoute>>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;
    use proptest::prelude::*;

    fn service(name: usize, path: &str, hosts: &[String]) -> Arc<ServiceRoute> {
        let name = format!("s{name}").parse().unwrap();
        Arc::new(ServiceRoute {
            hosts: hosts.to_vec(),
            ..ServiceRoute::new(name, Protocol::Http, path, vec![])
        })
    }

    /// What is found, by looking at one after the other.
    fn search<'a>(
        all: &'a [Arc<ServiceRoute>],
        host: Option<&str>,
        path: &str,
    ) -> Option<&'a Arc<ServiceRoute>> {
        all.iter().find(|service| {
            let rest = path.strip_prefix(service.path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                && service.admits_host(host)
        })
    }

    fn path() -> impl Strategy<Value = String> {
        // Few words, so that they meet; one is another's beginning, and one is no ASCII.
        let segment = prop::sample::select(vec!["/a", "/ab", "/b", "/ä", "/", ""]);
        prop::collection::vec(segment, 0..6).prop_map(|segments| segments.concat())
    }

    fn host() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a.test", "b.test", "A.TEST", "c.test"]).prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_search_finds(
            services in prop::collection::vec((path(), prop::collection::vec(host(), 0..3)), 0..12),
            asked in prop::collection::vec((prop::option::of(host()), path()), 1..40),
        ) {
            let services: Services = services
                .iter()
                .enumerate()
                .map(|(name, (path, hosts))| service(name, path, hosts))
                .collect();
            let name = |service: Option<&Arc<ServiceRoute>>| service.map(|s| s.name.clone());
            for (host, path) in &asked {
                let found = services.find(host.as_deref(), path);
                let searched = search(&services, host.as_deref(), path);
                prop_assert_eq!(name(found), name(searched), "{:?} {}", host, path);
            }
            for service in &services {
                prop_assert_eq!(name(services.named(&service.name)), Some(service.name.clone()));
            }
        }
    }

    #[test]
    fn a_path_without_a_slash_is_nobodys_but_its_own() {
        let services = Services::new(vec![service(0, "", &[])]);
        assert!(services.find(None, "/any/thing").is_some());
        assert!(services.find(None, "").is_some());
        assert!(services.find(None, "*").is_none());
        assert!(Services::default().find(None, "/mcp").is_none());
    }

    #[test]
    fn nobody_is_found_by_a_name_that_nobody_has() {
        let services = Services::new(vec![service(0, "/a", &[])]);
        assert!(services.named(&"s1".parse().unwrap()).is_none());
        assert!(services.named(&"s0".parse().unwrap()).is_some());
    }
}
