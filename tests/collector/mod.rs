//! Receivers of OTLP on loopback, which keep what they are sent.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{span, status};
use prost::Message;
use tonic::{Request, Response, Status};

/// How long something may take to arrive before the test gives it up.
const LATE: Duration = Duration::from_secs(60);

/// A span that was received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) service: String,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: span::SpanKind,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// All that came.
#[derive(Clone, Default)]
pub(crate) struct Inbox {
    spans: Arc<Mutex<Vec<Received>>>,
    /// The header `x-test` of the last export.
    header: Arc<Mutex<Option<String>>>,
}

/// A receiver. It ends with the test's process.
pub(crate) struct Collector {
    pub(crate) inbox: Inbox,
    pub(crate) port: u16,
}

impl Collector {
    /// One by gRPC.
    pub(crate) fn grpc() -> Self {
        let inbox = Inbox::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = TraceServiceServer::new(inbox.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let server = tonic::transport::Server::builder().add_service(service);
                server.serve_with_incoming(connections).await.unwrap();
            });
        });
        Self { inbox, port }
    }

    /// One by HTTP.
    pub(crate) fn http() -> Self {
        let inbox = Inbox::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = inbox.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let to = to.clone();
                std::thread::spawn(move || answer(&to, connection.unwrap()));
            }
        });
        Self { inbox, port }
    }

    /// One that takes connections and never says anything.
    pub(crate) fn silent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let held: Vec<_> = listener.incoming().collect();
            drop(held);
        });
        let inbox = Inbox::default();
        Self { inbox, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Inbox {
    /// Waits until what is there is enough.
    #[track_caller]
    pub(crate) fn until(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let began = Instant::now();
        loop {
            let spans = self.spans.lock().unwrap().clone();
            if enough(&spans) {
                return spans;
            }
            assert!(began.elapsed() < LATE, "only these came:\n{}", tree(&spans));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn spans(&self) -> Vec<Received> {
        self.spans.lock().unwrap().clone()
    }

    pub(crate) fn header(&self) -> Option<String> {
        self.header.lock().unwrap().clone()
    }

    fn take(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.spans.lock().unwrap();
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let resource = attributes(&resource.attributes);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|it| it.spans) {
                spans.push(Received {
                    service: service.clone(),
                    kind: span.kind(),
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    state: span.trace_state,
                    name: span.name,
                    failed: span
                        .status
                        .is_some_and(|status| status.code() == status::StatusCode::Error),
                    attributes: attributes(&span.attributes),
                    begin: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                });
            }
        }
    }
}

/// The spans as a tree, to be read when a test fails.
pub(crate) fn tree(spans: &[Received]) -> String {
    fn below(spans: &[Received], parent: &Received, depth: usize, text: &mut String) {
        let Received {
            service,
            name,
            kind,
            attributes,
            ..
        } = parent;
        let indent = "  ".repeat(depth);
        let micros = (parent.end - parent.begin) / 1000;
        *text += &format!("{indent}{service}: {name} {kind:?} {micros} µs {attributes:?}\n");
        let mut children: Vec<_> = spans.iter().filter(|it| it.parent == parent.id).collect();
        children.sort_by_key(|it| it.begin);
        for child in children {
            below(spans, child, depth + 1, text);
        }
    }
    let mut text = String::new();
    let is_root = |span: &&Received| spans.iter().all(|other| other.id != span.parent);
    for root in spans.iter().filter(is_root) {
        below(spans, root, 0, &mut text);
    }
    text
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = pairs.iter();
    pairs
        .map(|pair| (pair.key.clone(), text(pair.value.clone())))
        .collect()
}

/// Answers exports over HTTP/1.1 until the connection ends.
fn answer(inbox: &Inbox, connection: TcpStream) {
    let mut writer = connection.try_clone().unwrap();
    let mut reader = BufReader::new(connection);
    loop {
        let (mut head, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            head.push(line.trim_end().to_lowercase());
            line.clear();
        }
        let Some(request) = head.first() else {
            return;
        };
        assert!(request.starts_with("post /v1/traces "), "{request}");
        let header = |name: &str| {
            let found = head.iter().find_map(|line| line.strip_prefix(name));
            found.map(|value| value.trim().to_owned())
        };
        assert_eq!(header("content-type:").unwrap(), "application/x-protobuf");
        *inbox.header.lock().unwrap() = header("x-test:");
        let length = header("content-length:").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        inbox.take(ExportTraceServiceRequest::decode(&body[..]).unwrap());
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Inbox {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let header = request.metadata().get("x-test");
        *self.header.lock().unwrap() = header.map(|value| value.to_str().unwrap().to_owned());
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
