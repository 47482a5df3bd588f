//! The span of a call, in the trace that its caller tells of.

use http::HeaderMap;
use tonic::Code;
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::Digest;
use crate::negotiate::{Peer, PeerAddr};
use crate::observe::trace::{self, ROOT};

/// The span of the call `/package.Service/Method`; none if its trace isn't recorded.
pub(super) fn call(headers: &HeaderMap, path: &str, peer: &Peer) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let read = |name: &str| headers.get(name)?.to_str().ok();
    trace::accept(&read, &|| begin(path, peer))
}

fn begin(path: &str, peer: &Peer) -> Span {
    let method = path.trim_start_matches('/');
    let (service, _) = method.split_once('/').unwrap_or((method, ""));
    let (transport, server, port) = match peer.addr() {
        PeerAddr::Tcp { local, remote } => {
            let server = local.ip().to_canonical().to_string();
            ("tcp", Some(server), Some((local.port(), remote.port())))
        }
        PeerAddr::Unix { .. } => ("unix", None, None),
    };
    info_span!(
        target: ROOT,
        parent: None,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.response.status_code = Empty,
        rpc.grpc.status_code = Empty,
        error.type = Empty,
        network.transport = transport,
        network.peer.address = peer.host(),
        network.peer.port = port.map(|(_, remote)| i64::from(remote)),
        server.address = server,
        server.port = port.map(|(local, _)| i64::from(local)),
        zako.transport = "grpc",
    )
}

/// The span of a blob's way over RDMA, in the trace that its client tells of.
pub(super) fn over_rdma(
    read: trace::Read<'_>,
    name: &'static str,
    digest: &Digest,
    bytes: u64,
) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    trace::accept(read, &|| {
        info_span!(
            target: ROOT,
            parent: None,
            "rdma",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            error.type = Empty,
            zako.digest = %digest,
            zako.bytes = bytes as i64,
            zako.transport = "rdma",
        )
    })
}

/// Notes what a call ended with, if these headers or trailers tell.
pub(super) fn ended(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    if let Some(code) = headers.get("grpc-status") {
        trace::answered(span, Code::from_bytes(code.as_bytes()), is_fault);
    }
}

/// What is the server's fault; the rest of what isn't success is its caller's.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
