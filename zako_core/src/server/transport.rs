//! `zako.v1.transport.Transport`, in the place of generated code.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Instrument;
use zako_protobuf::transport::{DownloadRequest, UploadResponse};

use super::answer::Inner;
use super::connection::Shared;
use super::download::DownloadBody;
use super::sendfile::Road;
use super::status::{bad_frame, to_status};
use super::{deadline, gated, resource, upload};
use crate::access::Allowance;
use crate::negotiate::{Access, StreamPermit};
use crate::observe::trace;
use crate::transport::grpc::frame::{self, PayloadField};

/// The longest `DownloadRequest`, with its head, in bytes.
const MAX_DOWNLOAD_REQUEST: usize = 8 * 1024;

/// The service of the bulk calls.
pub(super) const NAME: &str = "zako.v1.transport.Transport";

/// Answers a bulk call.
pub(super) async fn answer(
    shared: Arc<Shared>,
    road: Arc<Road>,
    request: Request<Body>,
) -> Response<Inner> {
    let (head, body) = request.into_parts();
    if let Some(refusal) = not_grpc(&head) {
        return refusal.map(Inner::Body);
    }
    let answer = match head.uri.path() {
        "/zako.v1.transport.Transport/Download" => download(shared, road, head, body).await,
        "/zako.v1.transport.Transport/Upload" => upload(shared, head, body).await,
        _ => Err(Status::unimplemented("the service has no such method")),
    };
    answer.unwrap_or_else(|status| status.into_http().map(Inner::Body))
}

async fn download(
    shared: Arc<Shared>,
    road: Arc<Road>,
    head: Parts,
    body: Body,
) -> Result<Response<Inner>, Status> {
    let (permit, deadline) = admit(&shared, &head, Access::Read).await?;
    let mut body = shared.request_body(body, deadline);
    let whole = body.whole(MAX_DOWNLOAD_REQUEST).await?;
    let request: DownloadRequest = frame::unary(whole).map_err(bad_frame)?;
    let (digest, range) = resource::resource(request.metadata)?;
    let blob = shared
        .cas
        .fetch(&digest, range)
        .await
        .map_err(|error| to_status(&error))?;
    let body = DownloadBody::new(
        blob,
        road,
        Some(permit),
        PayloadField::Data,
        Arc::clone(&shared),
    );
    Ok(grpc_response(Inner::Download(Box::new(body))))
}

async fn upload(shared: Arc<Shared>, head: Parts, body: Body) -> Result<Response<Inner>, Status> {
    let (permit, deadline) = admit(&shared, &head, Access::Write).await?;
    let body = shared.request_body(body, deadline);
    // A task of its own: when the caller goes away this future is dropped, and
    // what came must still be parked.
    let receiving = upload::receive(Arc::clone(&shared), body, permit);
    let receiving = receiving.instrument(trace::current());
    let task = shared.uploads.spawn(Allowance::inherited(receiving));
    let committed_size = task
        .await
        .map_err(|_| Status::internal("the upload broke off"))??;
    let message = frame::message(&UploadResponse { committed_size }).map_err(bad_frame)?;
    Ok(unary_response(message))
}

/// What every bulk call passes before its body is read.
pub(super) async fn admit(
    shared: &Shared,
    head: &Parts,
    access: Access,
) -> Result<(StreamPermit, Option<Instant>), Status> {
    let headers = &head.headers;
    uncompressed(headers)?;
    let deadline = deadline::deadline(headers)?;
    let admitted = gated::admit(&shared.gate, head, access);
    let permit = match deadline {
        None => admitted.await?,
        Some(at) => tokio::time::timeout_at(at, admitted)
            .await
            .map_err(|_| deadline::exceeded())??,
    };
    Ok((permit, deadline))
}

/// Refuses messages that are compressed by gRPC.
pub(super) fn uncompressed(headers: &HeaderMap) -> Result<(), Status> {
    let Some(encoding) = headers.get("grpc-encoding") else {
        return Ok(());
    };
    if encoding == "identity" {
        return Ok(());
    }
    let mut status = Status::unimplemented("messages must not be compressed");
    let accepted = tonic::metadata::MetadataValue::from_static("identity");
    status
        .metadata_mut()
        .insert("grpc-accept-encoding", accepted);
    Err(status)
}

/// The answer to what is no gRPC call at all.
pub(super) fn not_grpc(head: &Parts) -> Option<Response<Body>> {
    let mut response = Response::new(Body::empty());
    if head.method != Method::POST {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
        return Some(response);
    }
    let content_type = head.headers.get(CONTENT_TYPE);
    if !content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(response);
    }
    None
}

/// Whether messages come as protobuf.
fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => {
            let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
            matches!(rest.first(), None | Some(b';' | b' '))
        }
        None => false,
    }
}

pub(super) fn grpc_response<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

pub(super) fn unary_response(message: Bytes) -> Response<Inner> {
    let frames = [
        Frame::data(message),
        Frame::trailers(trailers(&Status::new(Code::Ok, ""))),
    ];
    let frames = futures::stream::iter(frames.map(Ok::<_, Infallible>));
    grpc_response(Inner::Body(Body::new(StreamBody::new(frames))))
}

/// What ends a call that has begun to answer.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    if status.add_header(&mut trailers).is_err() {
        // The status could not be written as headers: at least tell its code.
        trailers.clear();
        let code = HeaderValue::from(status.code() as i32);
        trailers.insert("grpc-status", code);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "application/grpc+proto; x=y",
        ] {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "application/json",
            "application/grpc+json",
            "application/grpcx",
        ] {
            assert!(!is_grpc(bad.as_bytes()), "{bad}");
        }
    }
}
