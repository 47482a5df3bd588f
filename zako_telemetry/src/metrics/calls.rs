//! What happens at the ways into a server: calls, lookups, connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter};
use parking_lot::RwLock;
use zako_core::observe::{CallEnd, CallKind, Interface, Lookup};

use super::catalog;
use super::instrument::{LONG_SECONDS, SHORT_SECONDS, counter, gauges, seconds};

/// The instruments of all ways into a server.
pub(super) struct Calls {
    /// In the order of [`INTERFACES`].
    faces: [Face; INTERFACES.len()],
    /// Whose series are bound when they are first needed.
    requests: Counter<u64>,
    short: Histogram<f64>,
    stream: Histogram<f64>,
    lookups: Counter<u64>,
}

/// The instruments of one way.
struct Face {
    interface: Interface,
    received: BoundCounter<u64>,
    sent: BoundCounter<u64>,
    open: Arc<AtomicU64>,
    opened: BoundCounter<u64>,
    /// By method.
    methods: RwLock<HashMap<Box<str>, Arc<Method>>>,
    /// By what was looked for.
    lookups: RwLock<HashMap<&'static str, Found>>,
}

/// The instruments of one method. A method is either short or a stream, most are asked
/// for by one kind only, and nearly all calls end by few codes.
struct Method {
    name: Box<str>,
    short: OnceLock<BoundHistogram<f64>>,
    stream: OnceLock<BoundHistogram<f64>>,
    codes: RwLock<Vec<(u16, BoundCounter<u64>)>>,
}

#[derive(Clone)]
struct Found {
    hits: BoundCounter<u64>,
    misses: BoundCounter<u64>,
}

const INTERFACES: [Interface; 5] = [
    Interface::Zako,
    Interface::Rdma,
    Interface::RemoteExecution,
    Interface::Http,
    Interface::Admin,
];

/// More methods than this a way has none: the rest is `other`, however it came about.
const MOST_METHODS: usize = 128;

const OTHER: &str = "other";

impl Calls {
    pub(super) fn new(meter: &Meter) -> Self {
        let bytes = counter(meter, catalog::TRANSFERRED);
        let opened = counter(meter, catalog::CONNECTIONS_OPENED);
        let faces = INTERFACES.map(|interface| {
            let name = KeyValue::new("interface", interface.as_str());
            let way = |direction| {
                let direction = KeyValue::new("direction", direction);
                let transport = KeyValue::new("transport", transport(interface));
                bytes.bind(&[name.clone(), transport, direction])
            };
            Face {
                interface,
                received: way("received"),
                sent: way("sent"),
                open: Arc::default(),
                opened: opened.bind(std::slice::from_ref(&name)),
                methods: RwLock::default(),
                lookups: RwLock::default(),
            }
        });
        let open = faces.each_ref().map(|face| {
            let label = [KeyValue::new("interface", face.interface.as_str())];
            (label, Arc::clone(&face.open))
        });
        gauges(meter, catalog::CONNECTIONS, move |at| {
            for (label, open) in &open {
                at.observe(open.load(Ordering::Relaxed), label);
            }
        });
        Self {
            faces,
            requests: counter(meter, catalog::REQUESTS),
            short: seconds(meter, catalog::REQUEST_DURATION, SHORT_SECONDS),
            stream: seconds(meter, catalog::STREAM_DURATION, LONG_SECONDS),
            lookups: counter(meter, catalog::LOOKUPS),
        }
    }

    pub(super) fn ended(&self, call: &CallEnd<'_>) {
        let Some(face) = self.face(call.interface) else {
            return;
        };
        face.received.add(call.received);
        face.sent.add(call.sent);
        let known = face.methods.read().get(call.method).cloned();
        let method = known.unwrap_or_else(|| self.method(face, call.method));
        let (bound, histogram) = match call.kind {
            CallKind::Stream => (&method.stream, &self.stream),
            _ => (&method.short, &self.short),
        };
        bound
            .get_or_init(|| histogram.bind(&labels(face.interface, &method.name)))
            .record(call.duration.as_secs_f64());
        let codes = method.codes.read();
        if let Some((_, counter)) = codes.iter().find(|(code, _)| *code == call.code) {
            counter.add(1);
            return;
        }
        drop(codes);
        self.code(face.interface, &method, call.code).add(1);
    }

    pub(super) fn looked_up(&self, lookup: &Lookup) {
        let Some(face) = self.face(lookup.interface) else {
            return;
        };
        let known = face.lookups.read().get(lookup.what).cloned();
        let found = known.unwrap_or_else(|| {
            let bind = |result| {
                self.lookups.bind(&[
                    KeyValue::new("interface", face.interface.as_str()),
                    KeyValue::new("what", lookup.what),
                    KeyValue::new("result", result),
                ])
            };
            let found = Found {
                hits: bind("hit"),
                misses: bind("miss"),
            };
            let mut lookups = face.lookups.write();
            lookups.entry(lookup.what).or_insert(found).clone()
        });
        found.hits.add(lookup.hits);
        found.misses.add(lookup.misses);
    }

    pub(super) fn connected(&self, interface: Interface) {
        if let Some(face) = self.face(interface) {
            face.open.fetch_add(1, Ordering::Relaxed);
            face.opened.add(1);
        }
    }

    pub(super) fn disconnected(&self, interface: Interface) {
        if let Some(face) = self.face(interface) {
            face.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn face(&self, interface: Interface) -> Option<&Face> {
        self.faces.iter().find(|face| face.interface == interface)
    }

    /// The instruments of a method that has had no call so far.
    fn method(&self, face: &Face, name: &str) -> Arc<Method> {
        let mut methods = face.methods.write();
        let name = match methods.len() {
            MOST_METHODS.. => OTHER,
            _ => name,
        };
        if let Some(method) = methods.get(name) {
            return Arc::clone(method);
        }
        let method = Arc::new(Method {
            name: name.into(),
            short: OnceLock::new(),
            stream: OnceLock::new(),
            codes: RwLock::default(),
        });
        methods.insert(name.into(), Arc::clone(&method));
        method
    }

    /// The counter of a code that has not come so far.
    fn code(&self, interface: Interface, method: &Method, code: u16) -> BoundCounter<u64> {
        let mut codes = method.codes.write();
        if let Some((_, counter)) = codes.iter().find(|(known, _)| *known == code) {
            return counter.clone();
        }
        let [interface_label, method_label] = labels(interface, &method.name);
        let code_label = KeyValue::new("code", code_text(interface, code));
        let counter = self
            .requests
            .bind(&[interface_label, method_label, code_label]);
        codes.push((code, counter.clone()));
        counter
    }
}

fn labels(interface: Interface, method: &str) -> [KeyValue; 2] {
    [
        KeyValue::new("interface", interface.as_str()),
        KeyValue::new("method", method.to_owned()),
    ]
}

/// What moves the bytes.
const fn transport(interface: Interface) -> &'static str {
    match interface {
        Interface::Rdma => "rdma",
        Interface::Http | Interface::Admin => "http",
        _ => "grpc",
    }
}

/// The name of gRPC's code, as the protocol has it, or the number of HTTP's.
fn code_text(interface: Interface, code: u16) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    match transport(interface) {
        "http" => match code {
            100..=599 => code.to_string(),
            _ => OTHER.to_owned(),
        },
        _ => (*NAMES.get(usize::from(code)).unwrap_or(&OTHER)).to_owned(),
    }
}
