//! A step that is done in parts, as the writing of a large blob: one span for all of them.

use std::time::{Duration, Instant};

use tracing::Span;

/// The span of a step and what its parts took. Its fields `zako.parts`, `zako.bytes` and
/// `zako.busy_us` are told in the end; it lasts from its first part to its last one.
#[derive(Debug, Default)]
pub struct Parts {
    span: Option<Span>,
    count: i64,
    bytes: u64,
    busy: Duration,
}

impl Parts {
    /// Begins a part; with the first one the span of `step`. `None` where nothing is traced.
    pub fn begin(&mut self, step: impl FnOnce() -> Span) -> Option<Instant> {
        if !super::is_on() {
            return None;
        }
        let span = self.span.get_or_insert_with(step);
        (!span.is_disabled()).then(Instant::now)
    }

    /// Ends the part that began then.
    pub fn end(&mut self, began: Option<Instant>, bytes: u64) {
        let (Some(began), Some(span)) = (began, &self.span) else {
            return;
        };
        self.count += 1;
        self.bytes += bytes;
        self.busy += began.elapsed();
        // It ends with the last part, not when this is dropped.
        span.in_scope(|| {});
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(span) = self.span.take().filter(|span| !span.is_disabled()) else {
            return;
        };
        span.record("zako.parts", self.count);
        span.record("zako.bytes", self.bytes as i64);
        span.record("zako.busy_us", self.busy.as_micros() as i64);
    }
}

/// The span of a step in parts, by the name.
#[macro_export]
macro_rules! trace_parts {
    ($name:expr) => {
        || {
            $crate::trace_step!(
                $name,
                zako.parts = ::tracing::field::Empty,
                zako.bytes = ::tracing::field::Empty,
                zako.busy_us = ::tracing::field::Empty,
            )
        }
    };
}
