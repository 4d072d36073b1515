//! The version that a request chooses by hand, in headers that its service admits.

use crate::snapshot::ServiceRoute;

/// What is wrong with such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// There is no such version.
    Version,
    /// Neither yes nor no.
    Canary,
}

/// By `X-Serin-Version`, else by `X-Canary`, where the service admits them; nothing if none of them says anything.
///
/// # Errors
/// It makes no sense.
pub fn chosen_version(
    service: &ServiceRoute,
    version: Option<&[u8]>,
    canary: Option<&[u8]>,
) -> Result<Option<usize>, Misfit> {
    let overrides = service.settings.overrides;
    if let Some(wanted) = version.filter(|_| overrides.version) {
        let is_it = |name: &str| name.as_bytes() == wanted;
        let found = (service.versions.iter()).position(|version| is_it(version.name.as_str()));
        return found.map(Some).ok_or(Misfit::Version);
    }
    match canary.filter(|_| overrides.canary) {
        None => Ok(None),
        Some(b"true") => Ok(service.split.as_ref().map(|split| split.candidate)),
        Some(b"false") => Ok(Some(service.stable)),
        Some(_) => Err(Misfit::Canary),
    }
}
