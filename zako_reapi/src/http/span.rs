//! The span of a request, in the trace that its sender tells of.

use http::{Method, Request, StatusCode};
use tracing::field::Empty;
use tracing::{Span, info_span};
use zako_core::negotiate::Peer;
use zako_core::observe::trace::{self, ROOT};

/// The span of a request; none if its trace isn't recorded.
pub(super) fn request<B>(request: &Request<B>, peer: &Peer) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let read = |name: &str| request.headers().get(name)?.to_str().ok();
    trace::accept(&read, &|| {
        begin(request.method(), request.uri().path(), peer)
    })
}

fn begin(method: &Method, path: &str, peer: &Peer) -> Span {
    // Strangers can't make up names.
    let (name, method) = match super::route::is_known(method) {
        true => (method.as_str(), method.as_str()),
        false => ("HTTP", "_OTHER"),
    };
    info_span!(
        target: ROOT,
        parent: None,
        "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.response.status_code = Empty,
        url.path = path,
        url.scheme = "http",
        error.type = Empty,
        network.peer.address = peer.host(),
        zako.transport = "http",
    )
}

/// Notes what a request was answered with.
pub(super) fn ended(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        trace::failed(span, status.as_str());
    }
}
