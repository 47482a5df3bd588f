//! Traces of the command: set up before its verb, sent to the end behind it.

use std::time::Duration;

use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};
use zako_core::observe::trace::{self, ROOT};
use zako_telemetry::{TelemetryError, TraceGate, TraceOptions, Traces, process_environment};

use crate::config::TelemetryConfig;
use crate::failure::Failure;

/// What a command may wait for its last spans to be sent.
const CLIENT_FLUSH: Duration = Duration::from_secs(2);

/// What a server may.
const SERVER_FLUSH: Duration = Duration::from_secs(5);

/// Traces of a verb.
pub(crate) struct Tracer {
    traces: Option<Traces>,
    /// Why there are none although somebody asked for them.
    failure: Option<TelemetryError>,
    is_server: bool,
}

impl Tracer {
    /// Sets traces up, if they are asked for. A command without them is better than none.
    pub(crate) fn new(config: &TelemetryConfig, is_server: bool) -> Self {
        let is_told = |name: &str| process_environment(name).is_some_and(|text| !text.is_empty());
        let options = TraceOptions {
            otlp: config.otlp(is_told),
            ratio: config.ratio(is_told),
            default_name: if is_server { "zako-server" } else { "zako" },
            talks: is_server,
        };
        let (traces, failure) = match Traces::start(&options, &process_environment) {
            Ok(traces) => (traces, None),
            Err(error) => (None, Some(error)),
        };
        Self {
            traces,
            failure,
            is_server,
        }
    }

    /// What exports the spans.
    pub(crate) fn layer(&self) -> Option<crate::log::BoxedLayer> {
        self.traces.as_ref().map(Traces::layer)
    }

    /// What makes none of those that aren't recorded.
    pub(crate) fn gate(&self) -> Option<TraceGate> {
        self.traces.as_ref().map(|_| TraceGate)
    }

    /// From here on there are spans: the log and the layer are in place.
    pub(crate) fn install(&self) {
        if let Some(traces) = &self.traces {
            traces.install();
        }
        if let Some(error) = &self.failure {
            tracing::warn!(%error, "there are no traces");
        }
    }

    /// Runs a verb as the first span of a trace, or of that which `TRACEPARENT` names.
    pub(crate) async fn command(
        name: &'static str,
        verb: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        if !trace::is_on() {
            return verb.await;
        }
        let parent = process_environment("TRACEPARENT");
        let state = process_environment("TRACESTATE");
        let read = |name: &str| match name {
            trace::TRACEPARENT => parent.as_deref(),
            trace::TRACESTATE => state.as_deref(),
            _ => None,
        };
        let span = trace::accept(&read, &|| begin(name));
        let outcome = verb.instrument(span.clone()).await;
        if let Err(failure) = &outcome {
            span.in_scope(|| trace::failed(&span, &format!("{:?}", failure.exit())));
        }
        outcome
    }
}

fn begin(name: &'static str) -> Span {
    info_span!(
        target: ROOT,
        parent: None,
        "command",
        otel.name = name,
        otel.kind = "internal",
        otel.status_code = Empty,
        error.type = Empty,
    )
}

impl Drop for Tracer {
    /// Sends what is left, within a bound.
    fn drop(&mut self) {
        if let Some(traces) = &self.traces {
            traces.shutdown(match self.is_server {
                true => SERVER_FLUSH,
                false => CLIENT_FLUSH,
            });
        }
    }
}
