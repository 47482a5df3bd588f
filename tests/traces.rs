//! Traces of real processes, as a collector gets them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod collector;
mod zako_process;

use collector::{Collector, Received, tree};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use zako_process::{Home, Server, noise};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A home whose server and verbs send their traces to `collector`.
fn traced(collector: &Collector, protocol: &str) -> (Home, Server) {
    let mut home = Home::new();
    home.set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    home.set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    home.set("OTEL_EXPORTER_OTLP_HEADERS", "x-test=s3cret");
    home.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let server = Server::start(&home, &[]);
    home.set("ZAKO_SERVER", server.url());
    (home, server)
}

fn put(home: &Home, seed: u64, length: usize) -> String {
    home.write("blob", noise(seed, length));
    let listed = home.run(["put", "blob"]).ok();
    listed.split_whitespace().next().unwrap().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'a>(spans: &'a [Received], service: &str, name: &str) -> Vec<&'a Received> {
    let found = spans.iter();
    found
        .filter(|span| span.service == service && span.name == name)
        .collect()
}

/// Whether what `span` stands on leads to `ancestor`.
fn is_below(spans: &[Received], span: &Received, ancestor: &Received) -> bool {
    let mut at = span;
    while let Some(parent) = spans.iter().find(|it| it.id == at.parent) {
        if parent.id == ancestor.id {
            return true;
        }
        at = parent;
    }
    false
}

/// The spans of the one trace that the command `name` began, once all of `wanted` (service and
/// name) are there.
#[track_caller]
fn trace_of(collector: &Collector, name: &str, wanted: &[(&str, &str)]) -> Vec<Received> {
    let of = |spans: &[Received]| {
        let roots = named(spans, "zako", name);
        let root = roots.first().map(|root| root.trace.clone());
        let mut spans = spans.to_vec();
        spans.retain(|span| Some(&span.trace) == root.as_ref());
        spans
    };
    let there = |spans: &[Received]| {
        let spans = of(spans);
        let has = |(service, name): &(&str, &str)| !named(&spans, service, name).is_empty();
        wanted.iter().all(has)
    };
    of(&collector.inbox.until(there))
}

/// Every call has its two ends, the server's below the client's.
#[track_caller]
fn check_calls(spans: &[Received]) {
    for call in spans.iter().filter(|span| span.kind == SpanKind::Server) {
        let parent = spans.iter().find(|span| span.id == call.parent);
        let Some(parent) = parent else {
            panic!("{} has no client:\n{}", call.name, tree(spans));
        };
        assert_eq!(parent.name, call.name);
        assert_eq!((parent.kind, &*parent.service), (SpanKind::Client, "zako"));
        assert_eq!(call.service, "zako-server");
        for end in [parent, call] {
            let attribute = |name: &str| end.attributes.get(name).map(String::as_str);
            assert_eq!(attribute("rpc.system.name"), Some("grpc"), "{end:?}");
            assert_eq!(attribute("rpc.method"), Some(&*end.name), "{end:?}");
            let service = end.name.split('/').next();
            assert_eq!(attribute("rpc.service"), service, "{end:?}");
            assert_eq!(attribute("network.transport"), Some("tcp"), "{end:?}");
            let peer = attribute("network.peer.address");
            assert_eq!(peer, Some("127.0.0.1"), "{end:?}");
            assert_eq!(attribute("server.address"), Some("127.0.0.1"), "{end:?}");
        }
    }
}

const NEGOTIATE: &str = "zako.v1.cas.ContentAddressableStorage/NegotiateBlobs";
const DETAILS: &str = "zako.v1.cas.ContentAddressableStorage/GetTransportDetails";
const UPLOAD: &str = "zako.v1.transport.Transport/Upload";
const DOWNLOAD: &str = "zako.v1.transport.Transport/Download";
const BATCH_UPLOAD: &str = "zako.v1.batch.Batch/BatchUpload";

#[track_caller]
fn check_put_and_get(collector: &Collector, home: &Home) {
    let digest = put(home, 1, 3 << 20);
    let wanted = [
        ("zako", NEGOTIATE),
        ("zako", DETAILS),
        ("zako", UPLOAD),
        ("zako-server", NEGOTIATE),
        ("zako-server", DETAILS),
        ("zako-server", UPLOAD),
    ];
    let spans = trace_of(collector, "zako put", &wanted);
    let root = named(&spans, "zako", "zako put")[0];
    assert!(root.parent.is_empty(), "{root:?}");
    assert!(!root.failed);
    for span in spans.iter().filter(|span| span.id != root.id) {
        assert!(is_below(&spans, span, root), "{}", tree(&spans));
    }
    check_calls(&spans);

    home.run(["get", &digest, "-o", "back"]).ok();
    let wanted = [("zako", DOWNLOAD), ("zako-server", DOWNLOAD)];
    let spans = trace_of(collector, "zako get", &wanted);
    let root = named(&spans, "zako", "zako get")[0];
    for span in spans.iter().filter(|span| span.id != root.id) {
        assert!(is_below(&spans, span, root), "{}", tree(&spans));
    }
    check_calls(&spans);
    assert_eq!(collector.inbox.header().as_deref(), Some("s3cret"));
}

#[test]
fn a_put_and_a_get_are_one_trace_each_by_grpc() {
    let collector = Collector::grpc();
    let (home, _server) = traced(&collector, "grpc");
    check_put_and_get(&collector, &home);
}

#[test]
fn a_put_and_a_get_are_one_trace_each_by_http() {
    let collector = Collector::http();
    let (home, _server) = traced(&collector, "http/protobuf");
    check_put_and_get(&collector, &home);
}

#[test]
fn callers_are_followed() {
    let collector = Collector::grpc();
    let (mut home, _server) = traced(&collector, "grpc");
    home.set("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"));
    home.set("TRACESTATE", "congo=t61rcWkgMzE,rojo=1");
    put(&home, 2, 1000);
    let spans = trace_of(&collector, "zako put", &[("zako-server", BATCH_UPLOAD)]);
    let root = named(&spans, "zako", "zako put")[0];
    assert_eq!((&*hex(&root.trace), &*hex(&root.parent)), (TRACE, CALLER));
    for span in &spans {
        assert_eq!(span.state, "congo=t61rcWkgMzE,rojo=1", "{}", tree(&spans));
    }
    check_calls(&spans);
}

#[test]
fn an_unsampled_caller_gets_no_spans_and_a_malformed_one_is_ignored() {
    let collector = Collector::grpc();
    let (mut home, server) = traced(&collector, "grpc");
    home.set("TRACEPARENT", format!("00-{TRACE}-{CALLER}-00"));
    put(&home, 3, 1000);
    home.set("TRACEPARENT", "01-nothing-of-the-kind");
    put(&home, 4, 1000);
    // All spans are sent when both processes have ended.
    assert_eq!(server.stop(Signal::TERM), Some(0));
    let spans = trace_of(&collector, "zako put", &[("zako-server", BATCH_UPLOAD)]);
    assert!(named(&spans, "zako", "zako put")[0].parent.is_empty());
    let all = collector.inbox.spans();
    let of_another = all.iter().any(|span| span.trace != spans[0].trace);
    assert!(!of_another, "{}", tree(&all));
}

#[test]
fn a_ratio_of_nothing_makes_no_spans() {
    let collector = Collector::grpc();
    let (mut home, server) = traced(&collector, "grpc");
    home.set("OTEL_TRACES_SAMPLER", "traceidratio");
    home.set("OTEL_TRACES_SAMPLER_ARG", "0");
    put(&home, 5, 1000);
    assert_eq!(server.stop(Signal::TERM), Some(0));
    let all = collector.inbox.spans();
    assert!(all.is_empty(), "{}", tree(&all));
}

#[test]
fn failures_are_told() {
    let collector = Collector::grpc();
    let (home, _server) = traced(&collector, "grpc");
    let absent = zako_digest::hash::bytes(&noise(6, 1 << 20)).to_string();
    home.run(["get", &absent, "-o", "x"]).fails(3);
    let spans = trace_of(&collector, "zako get", &[("zako-server", DOWNLOAD)]);
    assert!(named(&spans, "zako", "zako get")[0].failed);
    let call = named(&spans, "zako", DOWNLOAD)[0];
    assert!(call.failed);
    assert_eq!(call.attributes["rpc.response.status_code"], "NOT_FOUND");
    assert_eq!(call.attributes["error.type"], "NOT_FOUND");
    // It is no fault of the server.
    let answer = named(&spans, "zako-server", DOWNLOAD)[0];
    assert!(!answer.failed);
    assert_eq!(answer.attributes["rpc.grpc.status_code"], "5");
}

#[test]
fn a_collector_that_is_down_or_silent_breaks_nothing() {
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = down.local_addr().unwrap().port();
    drop(down);
    let down = Collector {
        inbox: collector::Inbox::default(),
        port,
    };
    for collector in [down, Collector::silent()] {
        for protocol in ["grpc", "http/protobuf"] {
            let (home, server) = traced(&collector, protocol);
            home.write("blob", noise(7, 1 << 20));
            let said = home.run(["put", "blob"]);
            let listed = said.ok();
            // Said once, without the secret.
            assert_eq!(said.stderr.matches("spans were lost").count(), 1, "{said}");
            assert!(!said.stderr.contains("s3cret"), "{said}");
            let digest = listed.split_whitespace().next().unwrap();
            home.run(["get", digest, "-o", "back"]).ok();
            assert_eq!(server.stop(Signal::TERM), Some(0));
        }
    }
}
