//! Traces across processes: the spans that are exported, and how a trace travels with a
//! call.
//!
//! Spans are `tracing`'s, under two targets that nothing else uses. A trace begins with a
//! span under [`ROOT`], which is made only once it is decided that the trace is recorded;
//! [`step!`](crate::trace_step) makes the spans below it. As long as no [`Propagator`] is
//! installed there are none, and each place where one would be costs a look at an atomic.
//! A subscriber that exports them takes spans under [`STEP`] only where the current span is
//! one of the trace.

mod parts;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Span;

pub use self::parts::Parts;
pub use crate::{trace_parts as parts, trace_step as step};

/// The target of the span that a trace begins with in this process.
pub const ROOT: &str = "zako::trace::root";

/// The target of all others.
pub const STEP: &str = "zako::trace::step";

/// What begins every target of a trace's spans.
pub const TARGETS: &str = "zako::trace::";

/// The header and the gRPC metadata that name the span of the caller.
pub const TRACEPARENT: &str = "traceparent";

/// The header that goes with it.
pub const TRACESTATE: &str = "tracestate";

/// Reads what came with a call, by its name.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<&'a str>;

/// Takes what is to go with a call: a name and a value.
pub type Write<'a> = &'a mut dyn FnMut(&'static str, &str);

/// Carries traces from process to process.
pub trait Propagator: fmt::Debug + Send + Sync + 'static {
    /// The span of `begin`, as a part of the trace that `read` tells of, or the first of a
    /// new one. [`Span::none`], without a call of `begin`, if the trace isn't recorded.
    fn accept(&self, read: Read<'_>, begin: &dyn Fn() -> Span) -> Span;

    /// Tells `write` what the other end needs to go on with the trace of `span`, or not to
    /// begin one if it is disabled.
    fn inject(&self, span: &Span, write: Write<'_>);
}

static PROPAGATOR: OnceLock<Box<dyn Propagator>> = OnceLock::new();
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Makes this process trace. Only the first one counts.
pub fn install(propagator: Box<dyn Propagator>) {
    if PROPAGATOR.set(propagator).is_ok() {
        IS_ON.store(true, Ordering::Relaxed);
    }
}

/// Whether this process traces.
#[inline]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The span of `begin` in the trace that `read` tells of, as
/// [`accept`](Propagator::accept) says.
pub fn accept(read: Read<'_>, begin: &dyn Fn() -> Span) -> Span {
    match PROPAGATOR.get() {
        Some(propagator) => propagator.accept(read, begin),
        None => Span::none(),
    }
}

/// Tells `write` what travels with a call of this span.
pub fn inject(span: &Span, write: Write<'_>) {
    if let Some(propagator) = PROPAGATOR.get() {
        propagator.inject(span, write);
    }
}

/// The current span, to go on with in another task or thread; none where nothing is traced.
pub fn current() -> Span {
    match is_on() {
        true => Span::current(),
        false => Span::none(),
    }
}

/// A span that lasts until this is dropped, however it was used before.
#[derive(Debug)]
pub struct UntilDropped(pub Span);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        // A span ends when it was entered last.
        self.0.in_scope(|| {});
    }
}

/// Notes that what the span stands for failed.
pub fn failed(span: &Span, kind: &str) {
    if !span.is_disabled() {
        span.record("error.type", kind);
        span.record("otel.status_code", "ERROR");
    }
}

/// A step of the trace that the current span is a part of: a span by the name, with the
/// fields of `tracing`'s macros; none where nothing is traced.
#[macro_export]
macro_rules! trace_step {
    ($name:expr $(, $($fields:tt)*)?) => {
        if $crate::observe::trace::is_on() {
            ::tracing::info_span!(target: $crate::observe::trace::STEP, $name $(, $($fields)*)?)
        } else {
            ::tracing::Span::none()
        }
    };
}

/// Notes the code that a call ended with; a failure if it is one for this end.
#[cfg(feature = "grpc")]
pub(crate) fn answered(span: &Span, code: tonic::Code, is_failure: fn(tonic::Code) -> bool) {
    if span.is_disabled() {
        return;
    }
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    span.record("rpc.grpc.status_code", code as i64);
    if is_failure(code) {
        failed(span, name);
    }
}

#[cfg(feature = "grpc")]
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
