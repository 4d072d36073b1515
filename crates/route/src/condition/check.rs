//! What is asked of one text, ready to be asked.

use super::{DFA_BYTES_MAX, REGEX_BYTES_MAX, Test};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use std::cmp::Ordering;

/// What is asked of a text.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Nothing but that it is there.
    There,
    /// It is one of these.
    Among(Among),
    /// It begins so.
    Prefix(Part),
    /// It ends so.
    Suffix(Part),
    /// All of it is described by this.
    Matches(Box<Pattern>),
}

/// Texts in the order of [`order`], each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Among {
    texts: Box<[Box<[u8]>]>,
    ignore_case: bool,
    /// The bit of each length that there is: most texts that are none of them have another.
    lengths: u64,
}

/// The beginning or the end of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    text: Box<[u8]>,
    ignore_case: bool,
}

/// A regular expression with what it was made from.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    ignore_case: bool,
    pub(super) regex: Regex,
    /// Where the expressions of its input stand together.
    pub(super) set: usize,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.ignore_case) == (&other.text, other.ignore_case)
    }
}

/// How the cases of letters count for an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// As the test says.
    AsSaid,
    /// Never the same: methods.
    Kept,
    /// Always the same: hosts.
    Ignored,
}

impl Check {
    /// Of a test, which has to have exactly one operator that can be understood. `present` is there only as that: what is not there is
    /// for the caller.
    pub(super) fn compile(test: &Test, case: Case) -> Option<Self> {
        let ignore_case = match case {
            Case::AsSaid => test.ignore_case,
            Case::Kept => false,
            Case::Ignored => true,
        };
        let part = |text: &String| Part {
            text: text.as_bytes().into(),
            ignore_case,
        };
        let among = |texts: &[String]| Self::Among(Among::new(texts, ignore_case));
        let all = [
            test.equals
                .as_ref()
                .map(|text| Some(among(std::slice::from_ref(text)))),
            test.prefix
                .as_ref()
                .map(|text| Some(Self::Prefix(part(text)))),
            test.suffix
                .as_ref()
                .map(|text| Some(Self::Suffix(part(text)))),
            test.matches.as_ref().map(|text| {
                Some(Self::Matches(Box::new(Pattern {
                    text: text.clone(),
                    ignore_case,
                    regex: regex(text, ignore_case).ok()?,
                    set: 0,
                })))
            }),
            (!test.one_of.is_empty()).then(|| Some(among(&test.one_of))),
            test.present.map(|_| Some(Self::There)),
        ];
        let mut there = all.into_iter().flatten();
        there.next().filter(|_| there.next().is_none()).flatten()
    }

    /// Whether a text is so.
    pub(super) fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::There => true,
            Self::Among(among) => among.contains(text),
            Self::Prefix(part) => part.begins(text),
            Self::Suffix(part) => part.ends(text),
            Self::Matches(pattern) => pattern.regex.is_match(text),
        }
    }

    /// Of texts that are so, what each begins with one of, as far as the cases of its letters go; nothing if that cannot be told.
    pub(super) fn beginnings(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let texts = match self {
            Self::Among(among) => &*among.texts,
            Self::Prefix(part) => std::slice::from_ref(&part.text),
            Self::There | Self::Suffix(_) | Self::Matches(_) => &[],
        };
        texts.iter().map(|text| &**text)
    }

    /// Whether every text that is so is as `other` says too. What cannot be told is not so.
    pub(super) fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::There) => true,
            (Self::Among(among), _) => {
                (!among.ignore_case || other.ignores_case())
                    && among.texts.iter().all(|text| other.holds(text))
            }
            (Self::Prefix(part), Self::Prefix(wider)) => {
                (!part.ignore_case || wider.ignore_case) && wider.begins(&part.text)
            }
            (Self::Suffix(part), Self::Suffix(wider)) => {
                (!part.ignore_case || wider.ignore_case) && wider.ends(&part.text)
            }
            (Self::Matches(pattern), Self::Matches(other)) => pattern == other,
            _ => false,
        }
    }

    /// Whether no text is as both say. What cannot be told is not so.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Among(among), _) if among.is_all_said_to(other) => {
                !among.texts.iter().any(|text| other.holds(text))
            }
            (_, Self::Among(among)) if among.is_all_said_to(self) => {
                !among.texts.iter().any(|text| self.holds(text))
            }
            (Self::Prefix(a), Self::Prefix(b)) => !a.alike(b, |a, b| a.begins(&b.text)),
            (Self::Suffix(a), Self::Suffix(b)) => !a.alike(b, |a, b| a.ends(&b.text)),
            _ => false,
        }
    }

    /// Whether it is the same for a text whatever the case of its letters. What cannot be told is not so.
    fn ignores_case(&self) -> bool {
        match self {
            Self::There => true,
            Self::Among(among) => among.ignore_case,
            Self::Prefix(part) | Self::Suffix(part) => part.ignore_case,
            // Part of it may say otherwise.
            Self::Matches(_) => false,
        }
    }

    /// How much asking it takes, so that what is cheap is asked first.
    pub(super) fn cost(&self) -> u8 {
        u8::from(matches!(self, Self::Matches(_)))
    }

    /// How much there is to look at when two are compared.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Among(among) => among.texts.len(),
            Self::There | Self::Prefix(_) | Self::Suffix(_) | Self::Matches(_) => 1,
        }
    }
}

impl Among {
    fn new(texts: &[String], ignore_case: bool) -> Self {
        let bytes = |text: &String| {
            if ignore_case {
                text.to_ascii_lowercase().into_bytes().into_boxed_slice()
            } else {
                text.as_bytes().into()
            }
        };
        let mut texts: Vec<Box<[u8]>> = texts.iter().map(bytes).collect();
        texts.sort_unstable_by(|a, b| order(a, b));
        texts.dedup();
        Self {
            lengths: texts.iter().fold(0, |bits, text| bits | bit(text.len())),
            texts: texts.into(),
            ignore_case,
        }
    }

    fn contains(&self, text: &[u8]) -> bool {
        if self.lengths & bit(text.len()) == 0 {
            return false;
        }
        if let [only] = &*self.texts {
            return if self.ignore_case {
                only.eq_ignore_ascii_case(text)
            } else {
                **only == *text
            };
        }
        let found = if self.ignore_case {
            self.texts.binary_search_by(|own| {
                let lower = text.iter().map(u8::to_ascii_lowercase);
                own.len()
                    .cmp(&text.len())
                    .then_with(|| own.iter().copied().cmp(lower))
            })
        } else {
            self.texts.binary_search_by(|own| order(own, text))
        };
        found.is_ok()
    }

    /// Whether what `check` says of each of the texts is what it says of all that they stand for: of other cases of their letters too.
    fn is_all_said_to(&self, check: &Check) -> bool {
        !self.ignore_case || check.ignores_case()
    }
}

/// Stands for a length; very long ones stand together.
fn bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// Shorter ones first: most comparisons end with the lengths.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl Part {
    fn begins(&self, text: &[u8]) -> bool {
        let head = text.get(..self.text.len());
        head.is_some_and(|head| self.is(head))
    }

    fn ends(&self, text: &[u8]) -> bool {
        let from = text.len().checked_sub(self.text.len());
        let tail = from.and_then(|from| text.get(from..));
        tail.is_some_and(|tail| self.is(tail))
    }

    fn is(&self, text: &[u8]) -> bool {
        if self.ignore_case {
            self.text.eq_ignore_ascii_case(text)
        } else {
            *self.text == *text
        }
    }

    /// Whether one text can have both: the shorter is in the longer, by the laxer of their cases.
    fn alike(&self, other: &Self, fits: impl Fn(&Self, &Self) -> bool) -> bool {
        let ignore_case = self.ignore_case || other.ignore_case;
        let lax = |part: &Self| Self {
            ignore_case,
            ..part.clone()
        };
        let (a, b) = (lax(self), lax(other));
        fits(&a, &b) || fits(&b, &a)
    }
}

impl Pattern {
    /// As one of several in a set.
    pub(super) fn whole(&self) -> String {
        whole(&self.text, self.ignore_case)
    }
}

/// An expression for the whole of a text and nothing else.
fn whole(text: &str, ignore_case: bool) -> String {
    format!(r"\A(?{}:{text})\z", if ignore_case { "i" } else { "" })
}

/// A regular expression that describes the whole of a text.
///
/// # Errors
/// It is none, or too large.
pub(super) fn regex(text: &str, ignore_case: bool) -> Result<Regex, regex::Error> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            // What requests say is ASCII nearly always, and the classes of Unicode are large.
            .unicode(false)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(DFA_BYTES_MAX)
            .build()
    };
    // By itself first: `a)|(b` is none, and would be one in brackets.
    build(text)?;
    build(&whole(text, ignore_case))
}

/// What tells in one go whether any of several expressions of the same input fits; none if that would take much memory.
pub(super) fn set(wholes: &[String]) -> Option<RegexSet> {
    const SEVERAL: usize = 3;
    let mut set = RegexSetBuilder::new(wholes);
    let set = set.unicode(false).size_limit(SEVERAL * REGEX_BYTES_MAX);
    let set = set.dfa_size_limit(SEVERAL * DFA_BYTES_MAX);
    (wholes.len() >= SEVERAL)
        .then(|| set.build().ok())
        .flatten()
}
