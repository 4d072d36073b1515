//! Kills on the way of a call that is under way: it is cut when its time of grace is over.
//!
//! Nothing waits for a kill. When the latch changes, the core wakes its connections, whose calls are polled and look for themselves.

use crate::core::Core;
use jiff::Timestamp;
use serin_flags::Latch;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// A call was cut because something of it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// Looks whether a call must be cut, whenever the core says that something changed.
#[derive(Default)]
pub(crate) struct Watch {
    /// The alarm at which it looked last.
    seen: u64,
    due: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// For a call that was let through when the core's alarm was this.
    pub(crate) fn since(alarm: u64) -> Self {
        Self {
            seen: alarm,
            due: None,
        }
    }

    /// Whether the call must be cut now. `ends` says when it has to be over.
    pub(crate) fn poll(
        &mut self,
        core: &Core,
        context: &mut Context<'_>,
        ends: impl FnOnce(&Latch) -> Option<Timestamp>,
    ) -> bool {
        let alarm = core.alarm();
        if alarm != self.seen {
            self.seen = alarm;
            let end = core.latch().and_then(|latch| ends(&latch));
            self.due = end.map(|end| {
                let left = Timestamp::now().duration_until(end);
                let left = Duration::try_from(left).unwrap_or_default();
                Box::pin(tokio::time::sleep_until((Instant::now() + left).into()))
            });
        }
        (self.due.as_mut()).is_some_and(|due| due.as_mut().poll(context).is_ready())
    }
}

/// Waits for something on behalf of a call, unless the call is cut before.
pub(crate) async fn unless_cut<F: Future>(
    core: &Core,
    watch: &mut Watch,
    ends: impl Fn(&Latch) -> Option<Timestamp>,
    future: F,
) -> Result<F::Output, Cut> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        if watch.poll(core, context, &ends) {
            return Poll::Ready(Err(Cut));
        }
        Poll::Pending
    })
    .await
}
