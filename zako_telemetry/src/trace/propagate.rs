//! Traces that come with calls and go on with them: W3C Trace Context.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use rand::Rng;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use zako_core::observe::trace::{Propagator, Read, TRACEPARENT, TRACESTATE, Write};

use super::sampler::Sampler;

/// Carries traces by W3C Trace Context.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) sampler: Sampler,
    /// Whether callers are listened to and told.
    pub(super) travels: bool,
    pub(super) format: TraceContextPropagator,
}

struct Reading<'a>(Read<'a>);

struct Writing<'a>(Write<'a>);

impl Propagator for Carrier {
    fn accept(&self, read: Read<'_>, begin: &dyn Fn() -> Span) -> Span {
        let parent = match self.travels && read(TRACEPARENT).is_some() {
            // One that is malformed counts as none.
            true => self
                .format
                .extract_with_context(&Context::new(), &Reading(read)),
            false => Context::new(),
        };
        let context = parent.span().span_context().clone();
        let caller = context.is_valid().then_some(&context);
        if !self.sampler.takes(caller) {
            return Span::none();
        }
        let span = begin();
        if caller.is_some() {
            // Fails where no layer exports spans.
            let _ = span.set_parent(parent);
        }
        span
    }

    fn inject(&self, span: &Span, write: Write<'_>) {
        if !self.travels {
            return;
        }
        if span.is_disabled() {
            // Who is called must not begin a trace of its own.
            let trace: u128 = rand::rng().random_range(1..=u128::MAX);
            let caller: u64 = rand::rng().random_range(1..=u64::MAX);
            write(TRACEPARENT, &format!("00-{trace:032x}-{caller:016x}-00"));
            return;
        }
        self.format
            .inject_context(&span.context(), &mut Writing(write));
    }
}

impl Extractor for Reading<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

impl Injector for Writing<'_> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => (self.0)(TRACEPARENT, &value),
            // One that is empty says nothing.
            TRACESTATE if !value.is_empty() => (self.0)(TRACESTATE, &value),
            _ => {}
        }
    }
}
