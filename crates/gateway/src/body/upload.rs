//! A request's body on its way to an endpoint, whole or as the client sends it.

use super::Pace;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// A body that goes to an endpoint.
pub(crate) enum ToUpstream {
    /// All of it is here.
    Full(Option<Bytes>),
    /// It passes as the client sends it.
    Stream(Box<Streamed>),
}

/// A body that passes as the client sends it.
pub(crate) struct Streamed {
    body: Incoming,
    upload: Rc<Cell<Upload>>,
    /// How fast it must come while nobody has answered.
    pace: Pace,
    /// When it was asked for first: an endpoint had to be connected to before.
    begun: Option<Instant>,
    received_bytes: usize,
    /// How long after that the last of it came.
    last: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

/// Why a body did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client broke off")]
    Broken(#[source] hyper::Error),
    #[error("the client sent too slowly")]
    Late,
}

/// How far a request's body is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// The client sends. What came of it last is with the endpoint, or on its way there, since then.
    Sending(Instant),
    /// The client sends, and what comes next is waited for.
    Awaited,
    /// The client sends, and the endpoint answers already: it may be a talk, in which who sends waits for what it hears. The client sent
    /// something then, or the answer began.
    Answered(Instant),
    /// The endpoint has all of it since then.
    Sent(Instant),
    /// The client broke off.
    Broken,
    /// The client sent nothing for too long, or too little.
    Late,
}

impl Upload {
    /// Whether the client sends, and nobody has answered.
    pub(crate) fn is_on(self) -> bool {
        matches!(self, Self::Sending(_) | Self::Awaited)
    }
}

impl ToUpstream {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn stream(body: Incoming, pace: Pace) -> Self {
        let now = Instant::now();
        let upload = if body.is_end_stream() {
            Upload::Sent(now)
        } else {
            Upload::Sending(now)
        };
        Self::Stream(Box::new(Streamed {
            body,
            upload: Rc::new(Cell::new(upload)),
            pace,
            begun: None,
            received_bytes: 0,
            last: Duration::ZERO,
            late: None,
        }))
    }

    /// How far it is, from now on; nothing for what is here whole.
    pub(crate) fn upload(&self) -> Option<Rc<Cell<Upload>>> {
        match self {
            Self::Full(_) => None,
            Self::Stream(streamed) => Some(streamed.upload.clone()),
        }
    }

    /// Its length, as far as it is known.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX)
    }
}

impl Body for ToUpstream {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(streamed) => streamed.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(streamed) => streamed.body.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            if self.upload.get().is_on() {
                self.upload.set(Upload::Awaited);
            }
            return self.poll_late(context);
        };
        self.late = None;
        let now = Instant::now();
        self.last = now - *self.begun.get_or_insert(now);
        match &frame {
            Some(Err(_)) => self.upload.set(Upload::Broken),
            Some(Ok(frame)) if !self.body.is_end_stream() => {
                self.received_bytes += frame.data_ref().map_or(0, Bytes::len);
                self.upload.set(match self.upload.get() {
                    Upload::Answered(_) => Upload::Answered(now),
                    _ => Upload::Sending(now),
                });
            }
            Some(Ok(_)) | None => self.upload.set(Upload::Sent(now)),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(UploadError::Broken)))
    }

    fn poll_late(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let due = begun + self.pace.time_for_next(self.received_bytes, self.last);
        let sleep = || Box::pin(tokio::time::sleep_until(due.into()));
        ready!(self.late.get_or_insert_with(sleep).as_mut().poll(context));
        if !self.upload.get().is_on() {
            // It was answered meanwhile. Nobody asks any more how fast it comes.
            return Poll::Pending;
        }
        self.upload.set(Upload::Late);
        Poll::Ready(Some(Err(UploadError::Late)))
    }
}
