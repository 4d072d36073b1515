//! Reads one JSON text after another, each pushed in pieces: finds the few fields that matter by where
//! they stand, and lets the tokenizer skip every container that holds none of them.

use std::{ops::Range, sync::Arc};

use super::numbers::{POINTER_BYTES_MAX, Pointers, number_of};
use super::outcome::{Answer, BLAME_BYTES, Draft, Outcome, ResultType, blame};
use super::{MAX_ANSWERS, MAX_MINTED_BYTES, Mint, Output};
use crate::json::{self, Token, Tokenizer};
use crate::{META_RELATED_TASK, Minted};

/// Longest raw key that is compared, in bytes: the longest one we know, or are told to look for, with every letter escaped.
const MAX_KEY_BYTES: usize = 6 * if META_RELATED_TASK.len() > POINTER_BYTES_MAX {
    META_RELATED_TASK.len()
} else {
    POINTER_BYTES_MAX
};

/// Longest raw id, method, flag or number that is kept, in bytes.
const MAX_LEAF_BYTES: usize = 1024;

/// A container that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Batch,
    Message,
    Params,
    Result,
    Error,
    Meta,
    RelatedTask,
    Task,
    Tasks,
    /// What a subscription is for.
    Wanted,
    TaskIds,
    Content,
    Block,
    /// An object that watched pointers lead through.
    Watched(u16),
    /// An array that they lead through, and how many elements have begun.
    WatchedElements(u16, u32),
}

impl Place {
    fn is_array(self) -> bool {
        matches!(
            self,
            Place::Batch
                | Place::Tasks
                | Place::TaskIds
                | Place::Content
                | Place::WatchedElements(..)
        )
    }
}

/// A piece of text that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Key,
    Id,
    Method,
    IsError,
    ResultType,
    Code,
    Blame,
    Minted(Minted),
    /// A number, if it is one.
    Number(u16),
}

impl Leaf {
    fn bytes_max(self) -> usize {
        match self {
            Leaf::Key => MAX_KEY_BYTES,
            Leaf::Minted(_) => MAX_MINTED_BYTES,
            Leaf::Blame => BLAME_BYTES,
            _ => MAX_LEAF_BYTES,
        }
    }
}

/// What the value to come is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Ignored,
    Inner(Place),
    Leaf(Leaf),
    /// Watched pointers lead to it or through it.
    Watched(u16),
}

/// The map of everything the scanner looks at: this key in that object.
fn field(place: Place, key: &str) -> Field {
    use Field::{Inner, Leaf as L};
    match (place, key) {
        (Place::Message, "id") => L(Leaf::Id),
        (Place::Message, "method") => L(Leaf::Method),
        (Place::Message, "params") => Inner(Place::Params),
        (Place::Message, "result") => Inner(Place::Result),
        (Place::Message, "error") => Inner(Place::Error),
        (Place::Params | Place::Result, "_meta") => Inner(Place::Meta),
        (Place::Params, "notifications") => Inner(Place::Wanted),
        (Place::Wanted, "taskIds") => Inner(Place::TaskIds),
        (Place::Meta, META_RELATED_TASK) => Inner(Place::RelatedTask),
        (Place::Params | Place::Result | Place::Task | Place::RelatedTask, "taskId") => {
            L(Leaf::Minted(Minted::TaskId))
        }
        (Place::Result, "nextCursor") => L(Leaf::Minted(Minted::Cursor)),
        (Place::Result, "requestState") => L(Leaf::Minted(Minted::RequestState)),
        (Place::Result, "task") => Inner(Place::Task),
        (Place::Result, "tasks") => Inner(Place::Tasks),
        (Place::Result, "isError") => L(Leaf::IsError),
        (Place::Result, "resultType") => L(Leaf::ResultType),
        (Place::Result, "content") => Inner(Place::Content),
        (Place::Block, "text") | (Place::Error, "message") => L(Leaf::Blame),
        (Place::Error, "code") => L(Leaf::Code),
        _ => Field::Ignored,
    }
}

/// The reader. Answers become visible when their text is complete.
#[derive(Debug)]
pub(super) struct Text {
    tokens: Tokenizer,
    /// The text is not JSON: nothing more is read until it ends.
    is_broken: bool,
    /// The containers that are open and read, outermost first. As long as the tokenizer's depth,
    /// except inside a container that is skipped.
    places: Vec<Place>,
    /// What the value behind the last key is.
    field: Field,
    /// The string or scalar that is being kept.
    keeping: Option<Leaf>,
    /// Where its part in this piece begins.
    start: usize,
    /// Its parts in earlier pieces.
    kept: Vec<u8>,
    draft: Draft,
    /// Answers of complete texts, then those of the open one.
    answers: Vec<Answer>,
    /// How many are of complete texts.
    answers_complete: usize,
    worst: Option<Outcome>,
    worst_open: Option<Outcome>,
    server_requests: u64,
    unminted: u64,
    task_created: bool,
    is_malformed: bool,
    watched: Option<Arc<Pointers>>,
}

impl Text {
    pub(super) fn new() -> Self {
        Self {
            tokens: Tokenizer::new(),
            is_broken: false,
            places: Vec::with_capacity(8),
            field: Field::Ignored,
            keeping: None,
            start: 0,
            kept: Vec::new(),
            draft: Draft::default(),
            answers: Vec::new(),
            answers_complete: 0,
            worst: None,
            worst_open: None,
            server_requests: 0,
            unminted: 0,
            task_created: false,
            is_malformed: false,
            watched: None,
        }
    }

    pub(super) fn watch(&mut self, pointers: Arc<Pointers>) {
        self.watched = Some(pointers);
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.worst
            .or_else(|| self.is_malformed.then_some(Outcome::Malformed))
    }

    pub(super) fn answers(&self) -> &[Answer] {
        self.answers
            .get(..self.answers_complete)
            .unwrap_or_default()
    }

    pub(super) fn server_requests(&self) -> u64 {
        self.server_requests
    }

    pub(super) fn task_created(&self) -> bool {
        self.task_created
    }

    pub(super) fn is_malformed(&self) -> bool {
        self.is_malformed
    }

    pub(super) fn unminted(&self) -> u64 {
        self.unminted
    }

    /// Reads `range` of a piece.
    pub(super) fn read(
        &mut self,
        piece: &[u8],
        range: Range<usize>,
        output: &mut Output,
        mint: &mut Option<&mut dyn Mint>,
    ) {
        if self.is_broken {
            return;
        }
        let piece = piece.get(..range.end).unwrap_or(piece);
        let mut pos = range.start;
        self.start = pos;
        loop {
            match self.tokens.next(piece, &mut pos) {
                Ok(Some(token)) => self.token(token, piece, pos, output, mint),
                Ok(None) => break,
                Err(_) => return self.break_off(output),
            }
        }
        if let Some(leaf) = self.keeping {
            self.keep(leaf, piece.get(self.start..).unwrap_or_default(), output);
        }
    }

    /// A line feed that is in the text and not in the bytes: it joins two `data` fields.
    pub(super) fn line_feed(&mut self, output: &mut Output) {
        self.read(b"\n", 0..1, output, &mut None);
    }

    /// The text is over: its answers count now, if it is whole. The next text may come.
    pub(super) fn end(&mut self, output: &mut Output) {
        if !self.is_broken && !self.tokens.is_untouched() && self.tokens.finish().is_err() {
            self.break_off(output);
        }
        if !self.is_broken {
            self.answers_complete = self.answers.len();
            self.worst = worse(self.worst, self.worst_open);
        }
        self.reset();
    }

    /// The stream is over inside a text: its answers never arrive.
    pub(super) fn cut_off(&mut self, output: &mut Output) {
        if !self.tokens.is_untouched() {
            self.break_off(output);
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.answers.truncate(self.answers_complete);
        self.worst_open = None;
        self.tokens = Tokenizer::new();
        self.is_broken = false;
        self.places.clear();
        self.keeping = None;
        self.kept.clear();
        self.draft = Draft::default();
    }

    fn break_off(&mut self, output: &mut Output) {
        self.is_broken = true;
        self.is_malformed = true;
        self.keeping = None;
        output.release();
    }

    fn token(
        &mut self,
        token: Token,
        piece: &[u8],
        pos: usize,
        output: &mut Output,
        mint: &mut Option<&mut dyn Mint>,
    ) {
        if let Token::ObjectBegin | Token::ArrayBegin | Token::StringBegin | Token::ScalarBegin =
            token
            && let Some(Place::WatchedElements(_, begun)) = self.places.last_mut()
        {
            *begun = begun.saturating_add(1);
        }
        match token {
            Token::ObjectBegin => self.enter(false),
            Token::ArrayBegin => self.enter(true),
            Token::ObjectEnd | Token::ArrayEnd => self.leave(),
            Token::KeyBegin => {
                self.field = Field::Ignored;
                self.keeping = Some(Leaf::Key);
                self.start = pos;
            }
            Token::StringBegin => {
                self.keeping = self.leaf().filter(|leaf| match leaf {
                    Leaf::Minted(_) => mint.is_some() && self.is_mintable(),
                    Leaf::IsError | Leaf::Code | Leaf::Number(_) => false,
                    _ => true,
                });
                self.start = pos;
                match self.keeping {
                    Some(Leaf::Minted(_)) => output.hold(piece, pos - 1),
                    Some(Leaf::Method) => self.draft.about_tasks = Some(false),
                    Some(Leaf::Id) => {
                        self.draft.has_id = true;
                        self.start = pos - 1;
                    }
                    _ => {}
                }
            }
            Token::ScalarBegin => {
                let is_scalar = |leaf: &Leaf| {
                    matches!(
                        leaf,
                        Leaf::Id | Leaf::IsError | Leaf::Code | Leaf::Number(_)
                    )
                };
                self.keeping = self.leaf().filter(is_scalar);
                self.draft.has_id |= self.keeping == Some(Leaf::Id);
                self.start = pos - 1;
            }
            Token::KeyEnd | Token::StringEnd if self.keeping != Some(Leaf::Id) => {
                self.kept(piece, pos - 1, pos, output, mint);
            }
            Token::KeyEnd | Token::StringEnd | Token::ScalarEnd => {
                self.kept(piece, pos, pos, output, mint);
            }
        }
    }

    /// What the value that begins now is.
    fn value(&self) -> Field {
        match self.places.last() {
            Some(Place::Batch) => Field::Inner(Place::Message),
            Some(Place::Tasks) => Field::Inner(Place::Task),
            Some(Place::TaskIds) => Field::Leaf(Leaf::Minted(Minted::TaskId)),
            Some(Place::Content) if self.draft.blocks == 0 => Field::Inner(Place::Block),
            Some(Place::Content) | None => Field::Ignored,
            Some(Place::WatchedElements(node, begun)) => {
                let pointers = self.watched.as_deref();
                let inner = pointers.and_then(|p| p.element(*node, begun.saturating_sub(1)));
                inner.map_or(Field::Ignored, Field::Watched)
            }
            Some(_) => self.field,
        }
    }

    fn leaf(&self) -> Option<Leaf> {
        match self.value() {
            Field::Leaf(leaf) => Some(leaf),
            Field::Watched(node) => Some(Leaf::Number(node)),
            Field::Ignored | Field::Inner(_) => None,
        }
    }

    /// `params.taskId` is the server's own only in notifications about tasks: in a request it is the id of
    /// a task that the client made. Where `params` comes first, a message without id so far counts as one.
    fn is_mintable(&self) -> bool {
        self.places.last() != Some(&Place::Params)
            || self.draft.about_tasks.unwrap_or(!self.draft.has_id)
    }

    fn enter(&mut self, is_array: bool) {
        let place = match (self.value(), self.places.is_empty(), is_array) {
            (_, true, true) => Place::Batch,
            (_, true, false) => Place::Message,
            (Field::Inner(place), false, _) if place.is_array() == is_array => place,
            (Field::Watched(node), false, _) if self.leads_on(node) => {
                if is_array {
                    Place::WatchedElements(node, 0)
                } else {
                    Place::Watched(node)
                }
            }
            _ => return self.tokens.skip_container(),
        };
        match place {
            Place::Message => self.draft = Draft::default(),
            Place::Error => self.draft.error_code = Some(0),
            Place::Block => self.draft.blocks += 1,
            Place::Task if self.places.last() == Some(&Place::Result) => self.task_created = true,
            _ => {}
        }
        self.places.push(place);
    }

    fn leads_on(&self, node: u16) -> bool {
        let watched = self.watched.as_ref();
        watched.is_some_and(|pointers| pointers.leads_on(node))
    }

    fn leave(&mut self) {
        let is_skipped = self.places.len() == self.tokens.depth() as usize;
        if is_skipped || self.places.pop() != Some(Place::Message) {
            return;
        }
        self.server_requests += u64::from(self.draft.is_server_request());
        let Some(answer) = self.draft.answer() else {
            return;
        };
        self.task_created |= answer.result_type == Some(ResultType::Task);
        self.worst_open = worse(self.worst_open, Some(answer.outcome));
        if self.answers.len() < MAX_ANSWERS {
            self.answers.push(answer);
        }
    }

    /// Puts a part by, as far as it is of use.
    fn keep(&mut self, leaf: Leaf, part: &[u8], output: &mut Output) {
        let room = leaf.bytes_max() - self.kept.len().min(leaf.bytes_max());
        if part.len() <= room || leaf == Leaf::Blame {
            let part = part.get(..room).unwrap_or(part);
            self.kept.extend_from_slice(part);
            return;
        }
        self.keeping = None;
        self.kept.clear();
        if let Leaf::Minted(_) = leaf {
            self.unminted += 1;
            output.release();
        }
    }

    /// What is kept is complete: its last part ends at `end`, its literal at `literal_end`.
    fn kept(
        &mut self,
        piece: &[u8],
        end: usize,
        literal_end: usize,
        output: &mut Output,
        mint: &mut Option<&mut dyn Mint>,
    ) {
        let Some(leaf) = self.keeping else { return };
        let mut part = piece.get(self.start..end).unwrap_or_default();
        if leaf == Leaf::Blame {
            part = part.get(..BLAME_BYTES).unwrap_or(part);
        }
        let fits_here = self.kept.is_empty() && part.len() <= leaf.bytes_max();
        if !fits_here {
            self.keep(leaf, part, output);
            if self.keeping.is_none() {
                return;
            }
        }
        self.keeping = None;
        let mut kept = std::mem::take(&mut self.kept);
        let raw = if fits_here { part } else { &*kept };
        match leaf {
            Leaf::Minted(kind) => {
                let ours = json::unescape(raw)
                    .and_then(|value| mint.as_mut().and_then(|mint| mint.mint(kind, &value)));
                match ours {
                    Some(ours) => output.replace(&json::quote(&ours), literal_end),
                    None => output.release(),
                }
            }
            Leaf::Blame => self.draft.blame = blame(raw),
            Leaf::Number(node) => {
                if let (Some(number), Some(pointers)) = (number_of(raw), &self.watched) {
                    for pointer in pointers.ends(node) {
                        self.draft.found(*pointer, number);
                    }
                }
            }
            Leaf::Id => {
                self.draft.has_id = raw != b"null";
                self.draft.id = std::str::from_utf8(raw)
                    .ok()
                    .filter(|_| self.draft.has_id)
                    .map(Box::from);
            }
            _ => self.short_leaf(leaf, raw),
        }
        kept.clear();
        self.kept = kept;
    }

    fn short_leaf(&mut self, leaf: Leaf, raw: &[u8]) {
        let unescaped = json::unescape(raw);
        let text = unescaped.as_deref().unwrap_or_default();
        match leaf {
            Leaf::Key => {
                self.field = match (self.places.last(), &self.watched) {
                    (Some(Place::Result), Some(_)) if text == "structuredContent" => {
                        Field::Watched(0)
                    }
                    (Some(Place::Watched(node)), Some(pointers)) => pointers
                        .inner(*node, text)
                        .map_or(Field::Ignored, Field::Watched),
                    (Some(place), _) => field(*place, text),
                    (None, _) => Field::Ignored,
                };
                self.draft.has_result |= self.field == Field::Inner(Place::Result);
            }
            Leaf::Method => self.draft.about_tasks = Some(text.starts_with("notifications/tasks")),
            Leaf::IsError => self.draft.is_error = text == "true",
            Leaf::ResultType => self.draft.result_type = Some(ResultType::of(text)),
            Leaf::Code => self.draft.error_code = Some(text.parse().unwrap_or_default()),
            Leaf::Id | Leaf::Blame | Leaf::Minted(_) | Leaf::Number(_) => {}
        }
    }
}

fn worse(one: Option<Outcome>, other: Option<Outcome>) -> Option<Outcome> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.worse(other)),
        (one, other) => one.or(other),
    }
}
