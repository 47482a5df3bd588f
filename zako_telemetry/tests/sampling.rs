//! What isn't recorded makes no spans, and what is goes on with its caller's trace.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;

use tracing::level_filters::LevelFilter;
use tracing::{Span, debug_span, info_span, warn_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use zako_core::observe::trace::{self, ROOT, step};
use zako_telemetry::{OtlpOptions, TraceGate, TraceOptions, Traces};

const PARENT: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

/// The span of a call that came with these headers.
fn accept(parent: &str, state: &str) -> Span {
    let read = |name: &str| match name {
        trace::TRACEPARENT if !parent.is_empty() => Some(parent),
        trace::TRACESTATE if !state.is_empty() => Some(state),
        _ => None,
    };
    let began = std::cell::Cell::new(false);
    let span = trace::accept(&read, &|| {
        began.set(true);
        info_span!(target: ROOT, parent: None, "root")
    });
    // Not even begun.
    assert_eq!(began.get(), !span.is_disabled());
    span
}

fn headers(span: &Span) -> BTreeMap<&'static str, String> {
    let mut headers = BTreeMap::new();
    trace::inject(span, &mut |name, value| {
        headers.insert(name, value.to_owned());
    });
    headers
}

#[test]
fn only_recorded_traces_make_spans() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let options = TraceOptions {
        otlp: OtlpOptions {
            endpoint: Some(endpoint),
            ..OtlpOptions::default()
        },
        ratio: None,
        default_name: "test",
        talks: false,
    };
    assert!(step!("before").is_disabled());
    let traces = Traces::start(&options, &|_| None).unwrap().unwrap();
    let log = tracing_subscriber::fmt::layer().with_filter(LevelFilter::ERROR);
    tracing_subscriber::registry()
        .with(vec![log.boxed(), traces.layer()])
        .with(TraceGate)
        .init();
    traces.install();

    // Nobody else's spans come to life by this.
    assert!(LevelFilter::current() <= LevelFilter::INFO);
    assert!(debug_span!("of somebody").is_disabled());
    assert!(step!("outside").is_disabled());

    let root = accept(&format!("00-{PARENT}-01"), "congo=t61rcWkgMzE");
    root.in_scope(|| {
        let inner = step!("inside", zako.bytes = 1_i64);
        assert!(!inner.is_disabled());
        // A span of the log may lie between.
        let between = warn_span!("of the log");
        between.in_scope(|| assert!(!step!("deeper").is_disabled()));
        let headers = headers(&inner);
        assert_eq!(headers[trace::TRACESTATE], "congo=t61rcWkgMzE");
        let (trace, rest) = headers[trace::TRACEPARENT].split_at(36);
        assert_eq!(trace, &format!("00-{PARENT}")[..36]);
        assert!(rest.ends_with("-01") && !PARENT.contains(&rest[..16]));
    });

    let unsampled = accept(&format!("00-{PARENT}-00"), "");
    unsampled.in_scope(|| assert!(step!("inside").is_disabled()));
    assert!(headers(&unsampled)[trace::TRACEPARENT].ends_with("-00"));

    for malformed in ["", "00", "zz", &format!("00-{PARENT}"), "00-0-0-01"] {
        let span = accept(malformed, "congo=1");
        let headers = headers(&span);
        assert!(headers[trace::TRACEPARENT].ends_with("-01"), "{malformed}");
        assert!(!headers[trace::TRACEPARENT].contains(&PARENT[..32]));
        assert!(!headers.contains_key(trace::TRACESTATE), "{malformed}");
    }
}
