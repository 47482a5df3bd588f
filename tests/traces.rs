//! Traces of real processes, as a collector gets them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod collector;
mod zako_process;

use std::io::{BufRead, Read, Write};

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
    home.set("OTEL_METRICS_EXPORTER", "none");
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
        // A call's server tells of it last: below it nothing more is to come.
        let has_server = |call: &&Received| spans.iter().any(|span| span.parent == call.id);
        let mut calls = spans.iter().filter(|span| span.kind == SpanKind::Client);
        wanted.iter().all(has) && calls.all(|call| has_server(&call))
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

/// The server's steps are below its call, and within it.
#[track_caller]
fn check_steps(spans: &[Received], call: &str, steps: &[&str]) {
    let calls = named(spans, "zako-server", call);
    for step in steps {
        let found = named(spans, "zako-server", step);
        let call = calls.iter().find_map(|call| {
            let step = found.iter().find(|step| is_below(spans, step, call))?;
            Some((step, call))
        });
        let Some((step, call)) = call else {
            panic!("no {step} below {:?}:\n{}", calls[0].name, tree(spans));
        };
        assert_eq!(step.kind, SpanKind::Internal);
        assert!(
            call.begin <= step.begin && step.end <= call.end,
            "{}",
            tree(spans)
        );
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
        ("zako-server", "store blob"),
    ];
    let spans = trace_of(collector, "zako put", &wanted);
    let root = named(&spans, "zako", "zako put")[0];
    assert!(root.parent.is_empty(), "{root:?}");
    assert!(!root.failed);
    for span in spans.iter().filter(|span| span.id != root.id) {
        assert!(is_below(&spans, span, root), "{}", tree(&spans));
    }
    check_calls(&spans);
    check_steps(&spans, NEGOTIATE, &["index lookup"]);
    let steps = ["network receive", "disk write", "hash", "disk sync"];
    check_steps(&spans, UPLOAD, &steps);
    for span in [
        named(&spans, "zako", "upload")[0],
        named(&spans, "zako-server", "store blob")[0],
    ] {
        let attribute = |name: &str| span.attributes.get(name).map(String::as_str);
        assert_eq!(attribute("zako.digest"), Some(&*digest), "{span:?}");
        assert_eq!(attribute("zako.bytes"), Some("3145728"), "{span:?}");
        assert_eq!(attribute("zako.transport"), Some("grpc"), "{span:?}");
    }
    let written = named(&spans, "zako-server", "disk write")[0];
    assert_eq!(written.attributes["zako.bytes"], "3145728");

    home.run(["get", &digest, "-o", "back"]).ok();
    let wanted = [("zako", DOWNLOAD), ("zako-server", DOWNLOAD)];
    let spans = trace_of(collector, "zako get", &wanted);
    let root = named(&spans, "zako", "zako get")[0];
    for span in spans.iter().filter(|span| span.id != root.id) {
        assert!(is_below(&spans, span, root), "{}", tree(&spans));
    }
    check_calls(&spans);
    let steps = ["index lookup", "disk read", "network send"];
    check_steps(&spans, DOWNLOAD, &steps);
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
    let steps = [
        "network receive",
        "hash",
        "queue wait",
        "disk write",
        "disk sync",
    ];
    check_steps(&spans, BATCH_UPLOAD, &steps);
}

#[test]
fn requests_of_the_http_cache_go_on_with_traces() {
    let collector = Collector::http();
    let mut home = Home::new();
    // The table of zako.toml, in the place of variables.
    let config = format!(
        "[telemetry]\nendpoint = \"{}\"\nheaders = \"x-test=of-file\"\nservice-name = \"cache\"\n",
        collector.url()
    );
    let config = home.write("traced.toml", config);
    home.set("ZAKO_CONFIG", config.to_str().unwrap());
    home.set("OTEL_METRICS_EXPORTER", "none");
    home.set("OTEL_METRICS_EXPORTER", "none");
    home.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let mut server = home.command([
        "serve",
        "--log",
        "error",
        "--listen",
        "127.0.0.1:0",
        "--http",
    ]);
    server
        .args(["127.0.0.1:0", "--data"])
        .arg(home.path("data"));
    let mut server = Running(server.spawn().unwrap());
    let mut line = String::new();
    let stdout = server.0.stdout.take().unwrap();
    std::io::BufReader::new(stdout)
        .read_line(&mut line)
        .unwrap();
    let http = line
        .split_once(" http=")
        .unwrap()
        .1
        .split_whitespace()
        .next()
        .unwrap();
    let mut stream = std::net::TcpStream::connect(http).unwrap();
    let hash = "0".repeat(64);
    let request = format!(
        "GET /cas/{hash} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let spans = collector
        .inbox
        .until(|spans| !named(spans, "cache", "GET").is_empty());
    let request = named(&spans, "cache", "GET")[0];
    assert_eq!(
        (&*hex(&request.trace), &*hex(&request.parent)),
        (TRACE, CALLER)
    );
    assert_eq!(request.kind, SpanKind::Server);
    assert_eq!(request.attributes["http.response.status_code"], "404");
    assert_eq!(request.attributes["url.path"], format!("/cas/{hash}"));
    assert!(!request.failed);
    assert_eq!(collector.inbox.header().as_deref(), Some("of-file"));
}

/// A child that is killed in the end.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    // Bound, so that nobody else gets the port, and not listening.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = bound.local_addr().unwrap().port();
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
