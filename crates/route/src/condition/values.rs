//! What a request has under the names for which conditions ask: read once, when it is first asked for.

use super::Request;
use foldhash::fast::FixedState;
use http::{HeaderMap, HeaderName, header};
use smallvec::{SmallVec, smallvec};
use std::{borrow::Cow, cell::OnceCell, collections::HashMap, hash::Hash};

/// With so few names of headers each is looked up; with more, all headers of the request are gone through, of which there are a dozen.
const LOOKED_UP_MAX: usize = 8;
/// Names whose values take no memory beside the stack.
const INLINE: usize = 8;

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
}

type Slots<'r> = SmallVec<[Slot<'r>; INLINE]>;

/// What a request has under a name.
#[derive(Clone, Debug, Default)]
enum Slot<'r> {
    #[default]
    Nothing,
    One(Cow<'r, [u8]>),
    Several(Vec<Cow<'r, [u8]>>),
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
    pub(super) const fn new(names: &'m Names, request: &'m Request<'r>) -> Self {
        Self {
            request,
            names,
            headers: OnceCell::new(),
            cookies: OnceCell::new(),
            parameters: OnceCell::new(),
        }
    }

    /// Whether the header at a place has a value that is so.
    pub(super) fn any_header(&self, at: usize, is_so: impl Fn(&[u8]) -> bool) -> bool {
        let slots = self.headers.get_or_init(|| self.read_headers());
        slots.get(at).is_some_and(|slot| slot.any(is_so))
    }

    /// Whether the cookie at a place is there and so.
    pub(super) fn any_cookie(&self, at: usize, is_so: impl Fn(&[u8]) -> bool) -> bool {
        let slots = self.cookies.get_or_init(|| self.read_cookies());
        slots.get(at).is_some_and(|slot| slot.any(is_so))
    }

    /// Whether the parameter at a place has a value that is so.
    pub(super) fn any_parameter(&self, at: usize, is_so: impl Fn(&[u8]) -> bool) -> bool {
        let slots = self.parameters.get_or_init(|| self.read_parameters());
        slots.get(at).is_some_and(|slot| slot.any(is_so))
    }

    fn read_headers(&self) -> Slots<'r> {
        let (names, headers) = (&self.names.headers, self.request.headers);
        let mut slots = empty(names.len());
        if names.len() <= LOOKED_UP_MAX {
            for (name, at) in names {
                let values = headers.get_all(name).into_iter();
                values.for_each(|value| slots[*at].add(value.as_bytes().into()));
            }
        } else {
            for (name, value) in headers {
                if let Some(at) = names.get(name) {
                    slots[*at].add(value.as_bytes().into());
                }
            }
        }
        slots
    }

    fn read_cookies(&self) -> Slots<'r> {
        let names = &self.names.cookies;
        let mut slots = empty(names.len());
        for (name, value) in cookies(self.request.headers) {
            if let Some(at) = names.get(name)
                && matches!(slots[*at], Slot::Nothing)
            {
                slots[*at].add(value.into());
            }
        }
        slots
    }

    fn read_parameters(&self) -> Slots<'r> {
        let names = &self.names.parameters;
        let mut slots = empty(names.len());
        let query = self.request.query.unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if let Some(at) = names.get(name.as_bytes()) {
                slots[*at].add(match value {
                    Cow::Borrowed(value) => value.as_bytes().into(),
                    Cow::Owned(value) => value.into_bytes().into(),
                });
            }
        }
        slots
    }
}

fn empty<'r>(count: usize) -> Slots<'r> {
    smallvec![Slot::Nothing; count]
}

impl<'r> Slot<'r> {
    fn add(&mut self, value: Cow<'r, [u8]>) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::One(value),
            Self::One(first) => Self::Several(vec![first, value]),
            Self::Several(mut values) => {
                values.push(value);
                Self::Several(values)
            }
        };
    }

    fn any(&self, is_so: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::One(value) => is_so(value),
            Self::Several(values) => values.iter().any(|value| is_so(value)),
        }
    }
}

/// The cookies of a request with their names, in the order in which they stand (RFC 6265, section 4.2). Quotes belong to a value.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let headers = headers.get_all(header::COOKIE).into_iter();
    let pairs = headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at(equals);
        Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
    })
}
