//! What a request has under the names for which conditions ask: read once, when it is first asked for.

use super::Request;
use foldhash::fast::FixedState;
use http::{HeaderMap, HeaderName, header};
use memchr::{memchr, memchr2};
use smallvec::{SmallVec, smallvec};
use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
};

/// With so few names of headers each is looked up; with more, all headers of the request are gone through, of which there are a dozen.
const LOOKED_UP_MAX: usize = 8;
/// Names whose values take no memory beside the stack.
const INLINE: usize = 16;

/// The headers, cookies and parameters for which a set of conditions asks, each with its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    headers: HashMap<HeaderName, usize, FixedState>,
    cookies: HashMap<Box<[u8]>, usize, FixedState>,
    parameters: HashMap<Box<[u8]>, usize, FixedState>,
}

/// What a request has under them.
pub(super) struct Values<'m, 'r> {
    pub(super) request: &'m Request<'r>,
    names: &'m Names,
    headers: OnceCell<Slots<'r>>,
    cookies: OnceCell<Slots<'r>>,
    parameters: OnceCell<Slots<'r>>,
    address: IpAddr,
    /// For each set of expressions, whether any of it may fit.
    may_match: SmallVec<[Cell<Option<bool>>; INLINE]>,
}

/// What a request has under some names.
#[derive(Clone, Debug)]
struct Slots<'r> {
    /// The first value of each, where it is as it was sent.
    first: SmallVec<[Option<&'r [u8]>; INLINE]>,
    /// All others, with the places of their names.
    others: Vec<(usize, Cow<'r, [u8]>)>,
}

impl Names {
    pub(super) fn header(&mut self, name: &str) -> Option<usize> {
        Some(place(&mut self.headers, HeaderName::try_from(name).ok()?))
    }

    pub(super) fn cookie(&mut self, name: &str) -> usize {
        place(&mut self.cookies, name.as_bytes().into())
    }

    pub(super) fn parameter(&mut self, name: &str) -> usize {
        place(&mut self.parameters, name.as_bytes().into())
    }
}

fn place<T: Hash + Eq>(places: &mut HashMap<T, usize, FixedState>, name: T) -> usize {
    let next = places.len();
    *places.entry(name).or_insert(next)
}

impl<'m, 'r> Values<'m, 'r> {
    pub(super) fn new(names: &'m Names, request: &'m Request<'r>, sets: usize) -> Self {
        Self {
            request,
            names,
            headers: OnceCell::new(),
            cookies: OnceCell::new(),
            parameters: OnceCell::new(),
            address: request.address.to_canonical(),
            may_match: smallvec![Cell::new(None); sets],
        }
    }

    /// The client's address, one of IPv4 as such.
    pub(super) const fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether any expression of a set may fit, as `look` finds out the first time.
    pub(super) fn may_match(&self, set: usize, look: impl FnOnce() -> bool) -> bool {
        let Some(known) = self.may_match.get(set) else {
            return true;
        };
        known.get().unwrap_or_else(|| {
            let found = look();
            known.set(Some(found));
            found
        })
    }

    /// Whether the header at a place has a value that is so.
    pub(super) fn any_header(&self, at: usize, is_so: impl FnMut(&[u8]) -> bool) -> bool {
        let slots = self.headers.get_or_init(|| self.read_headers());
        slots.any(at, is_so)
    }

    /// Whether the cookie at a place is there and so.
    pub(super) fn any_cookie(&self, at: usize, is_so: impl FnMut(&[u8]) -> bool) -> bool {
        let slots = self.cookies.get_or_init(|| self.read_cookies());
        slots.any(at, is_so)
    }

    /// Whether the parameter at a place has a value that is so.
    pub(super) fn any_parameter(&self, at: usize, is_so: impl FnMut(&[u8]) -> bool) -> bool {
        let slots = self.parameters.get_or_init(|| self.read_parameters());
        slots.any(at, is_so)
    }

    fn read_headers(&self) -> Slots<'r> {
        let (names, headers) = (&self.names.headers, self.request.headers);
        let mut slots = Slots::of(names.len());
        if names.len() <= LOOKED_UP_MAX {
            for (name, at) in names {
                let values = headers.get_all(name).into_iter();
                values.for_each(|value| slots.add(*at, value.as_bytes().into()));
            }
        } else {
            for (name, value) in headers {
                if let Some(at) = names.get(name) {
                    slots.add(*at, value.as_bytes().into());
                }
            }
        }
        slots
    }

    fn read_cookies(&self) -> Slots<'r> {
        let names = &self.names.cookies;
        let mut slots = Slots::of(names.len());
        for (name, value) in cookies(self.request.headers) {
            if let Some(at) = names.get(name)
                && slots.first.get(*at) == Some(&None)
            {
                slots.add(*at, value.into());
            }
        }
        slots
    }

    fn read_parameters(&self) -> Slots<'r> {
        let names = &self.names.parameters;
        let mut slots = Slots::of(names.len());
        let query = self.request.query.unwrap_or_default();
        for pair in split(b'&', query.as_bytes()) {
            if memchr2(b'%', b'+', pair).is_none() {
                let (name, value) = cut(b'=', pair).unwrap_or((pair, b""));
                if let Some(at) = names.get(name) {
                    slots.add(*at, value.into());
                }
                continue;
            }
            for (name, value) in form_urlencoded::parse(pair) {
                if let Some(at) = names.get(name.as_bytes()) {
                    slots.add(*at, value.into_owned().into_bytes().into());
                }
            }
        }
        slots
    }
}

impl<'r> Slots<'r> {
    fn of(count: usize) -> Self {
        Self {
            first: smallvec![None; count],
            others: Vec::new(),
        }
    }

    fn add(&mut self, at: usize, value: Cow<'r, [u8]>) {
        match (self.first.get_mut(at), value) {
            (Some(first @ None), Cow::Borrowed(value)) => *first = Some(value),
            (_, value) => self.others.push((at, value)),
        }
    }

    fn any(&self, at: usize, mut is_so: impl FnMut(&[u8]) -> bool) -> bool {
        self.first
            .get(at)
            .copied()
            .flatten()
            .is_some_and(&mut is_so)
            || self
                .others
                .iter()
                .any(|(of, value)| *of == at && is_so(value))
    }
}

/// The cookies of a request with their names, in the order in which they stand (RFC 6265, section 4.2). Quotes belong to a value.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let headers = headers.get_all(header::COOKIE).into_iter();
    let pairs = headers.flat_map(|header| split(b';', header.as_bytes()));
    let pairs = pairs.filter_map(|pair| cut(b'=', pair));
    pairs.map(|(name, value)| (name.trim_ascii(), value.trim_ascii()))
}

/// The parts of a text between the places of a byte.
fn split(at: u8, text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, left) = cut(at, text).map_or((text, None), |(part, left)| (part, Some(left)));
        rest = left;
        Some(part)
    })
}

/// What stands before the first of a byte, and what behind it.
fn cut(at: u8, text: &[u8]) -> Option<(&[u8], &[u8])> {
    let place = memchr(at, text)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}
