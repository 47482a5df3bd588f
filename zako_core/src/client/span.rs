//! The spans of transfers: which blobs, and which transport they took.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tonic::Code;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use crate::Digest;
use crate::cas::{BlobWriter, Result, Stored};
use crate::observe::trace;

/// A call that this end makes.
pub(super) fn call(path: &str, server: &str, peer: Option<SocketAddr>) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let method = path.trim_start_matches('/');
    let (service, _) = method.split_once('/').unwrap_or((method, ""));
    let (host, port) = match (peer, server.rsplit_once(':')) {
        (Some(_), Some((host, port))) => (host, port.parse::<i64>().ok()),
        _ => (server, None),
    };
    trace::step!(
        "call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.response.status_code = Empty,
        rpc.grpc.status_code = Empty,
        error.type = Empty,
        network.transport = if peer.is_some() { "tcp" } else { "unix" },
        network.peer.address = peer.map(|peer| peer.ip().to_canonical().to_string()),
        network.peer.port = peer.map(|peer| i64::from(peer.port())),
        server.address = host,
        server.port = port,
        zako.transport = "grpc",
    )
}

/// A blob's way over RDMA.
pub(super) fn over_rdma(name: &'static str, digest: &Digest, bytes: u64) -> Span {
    trace::step!(
        "rdma",
        otel.name = name,
        otel.kind = "client",
        zako.digest = %digest,
        zako.bytes = bytes as i64,
        zako.transport = "rdma",
    )
}

/// Has the call go on with the trace of its span.
pub(super) fn inject(span: &Span, headers: &mut HeaderMap) {
    if trace::is_on() {
        trace::inject(span, &mut |name, value| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        });
    }
}

/// Notes what a call ended with, if these headers or trailers tell.
pub(super) fn ended(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled()
        && let Some(code) = headers.get("grpc-status")
    {
        let code = Code::from_bytes(code.as_bytes());
        trace::answered(span, code, |code| code != Code::Ok);
    }
}

/// A download; its transport is recorded when it is chosen.
pub(super) fn download(digest: &Digest) -> Span {
    of_blob(
        "download",
        digest,
        || debug_span!("download", %digest, transport = Empty),
    )
}

/// An upload; its transport is recorded when it is chosen.
pub(super) fn upload(digest: &Digest) -> Span {
    of_blob(
        "upload",
        digest,
        || debug_span!("upload", %digest, transport = Empty),
    )
}

/// Small blobs in one call.
pub(super) fn batch_download(blobs: usize) -> Span {
    of_blobs("batch download", blobs, || {
        debug_span!("batch_download", blobs, transport = "grpc")
    })
}

/// Small blobs in one call.
pub(super) fn batch_upload(blobs: usize) -> Span {
    of_blobs("batch upload", blobs, || {
        debug_span!("batch_upload", blobs, transport = "grpc")
    })
}

/// The step of a trace, where this is traced; else `plain`, for the log.
fn of_blob(name: &'static str, digest: &Digest, plain: impl FnOnce() -> Span) -> Span {
    let step = trace::step!(
        "blob",
        otel.name = name,
        zako.digest = %digest,
        zako.bytes = digest.size() as i64,
        zako.transport = Empty,
    );
    if step.is_disabled() { plain() } else { step }
}

/// As [`of_blob`], for many of them.
fn of_blobs(name: &'static str, blobs: usize, plain: impl FnOnce() -> Span) -> Span {
    let step = trace::step!(
        "blobs",
        otel.name = name,
        zako.blobs = blobs as i64,
        zako.transport = "grpc",
    );
    if step.is_disabled() { plain() } else { step }
}

/// Notes the transport that a transfer takes, or goes on with.
pub(super) fn took(span: &Span, by_rdma: bool) {
    let transport = if by_rdma { "rdma" } else { "grpc" };
    span.record("transport", transport);
    span.record("zako.transport", transport);
}

/// A writer whose steps are in the span of its upload.
pub(super) fn writer(span: Span, writer: Box<dyn BlobWriter>) -> Box<dyn BlobWriter> {
    match span.is_disabled() {
        true => writer,
        false => Box::new(Spanned { writer, span }),
    }
}

struct Spanned {
    writer: Box<dyn BlobWriter>,
    span: Span,
}

#[async_trait]
impl BlobWriter for Spanned {
    fn digest(&self) -> &Digest {
        self.writer.digest()
    }

    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let span = self.span.clone();
        self.writer.write(data).instrument(span).await
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        self.writer.commit().instrument(self.span).await
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().instrument(self.span).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.writer.discard().instrument(self.span).await
    }
}
