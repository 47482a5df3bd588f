//! The trace of blobs that wait for the committer.

use tracing::Span;

use crate::observe::trace;

/// A put in the committer's queue: who waits for it, and the step of waiting.
#[derive(Debug)]
pub(super) struct Waiting {
    whole: Span,
    wait: Span,
}

impl Waiting {
    /// Begins to wait, as a step of the current span.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            whole: trace::current(),
            wait: trace::step!("queue wait", zako.bytes = bytes as i64),
        }
    }

    /// The wait is over; the span to go on with, if it is traced.
    pub(super) fn taken(self) -> Option<Span> {
        (!self.wait.is_disabled()).then_some(self.whole)
    }
}

/// A step for each of those that wait for it.
pub(super) fn steps_of(waiting: &[Span], step: impl Fn() -> Span) -> Vec<Span> {
    let steps = waiting.iter();
    steps.map(|whole| whole.in_scope(&step)).collect()
}
