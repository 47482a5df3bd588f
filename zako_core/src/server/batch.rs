//! `zako.v1.batch.Batch`: many small blobs in one call, in the place of generated
//! code.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Instrument;
use zako_protobuf::batch::{
    BatchDownloadRequest, BatchUploadRequest, BatchUploadResponse, DownloadedBlob, Outcome,
};

use super::answer::Inner;
use super::body::RequestBody;
use super::connection::Shared;
use super::entries;
use super::resource::{digests, some_digest};
use super::status::{bad_frame, bad_request, code};
use super::transport::{admit, grpc_response, not_grpc, trailers};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Stored};
use crate::negotiate::{Access, StreamPermit};
use crate::observe::{Interface, Lookup, trace};
use crate::transport::grpc::{BatchWriter, Pieces, frame};

/// What the sizes of a call's blobs may add up to, in bytes.
const MAX_TOTAL: u64 = 4 * 1024 * 1024;

/// The longest request in bytes: the blobs, their digests and the message's head.
const MAX_REQUEST: usize = 6 * 1024 * 1024 + frame::HEAD_LEN;

/// The service of batch calls.
pub(super) const NAME: &str = "zako.v1.batch.Batch";

/// The pieces of an answer, and trailers.
pub(super) struct BatchBody {
    pieces: Pieced,
    /// The stream is taken until the answer is sent.
    permit: Option<StreamPermit>,
    ended: bool,
}

enum Pieced {
    One(Option<Bytes>),
    Blobs(BatchWriter),
}

/// Answers a batch call.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Response<Inner> {
    let answer = answer_or_refusal(&shared, request).await;
    answer.unwrap_or_else(|refusal| refusal).map(Inner::Body)
}

async fn answer_or_refusal(
    shared: &Shared,
    request: Request<Body>,
) -> Result<Response<Body>, Response<Body>> {
    let (head, body) = request.into_parts();
    if let Some(refusal) = not_grpc(&head) {
        return Err(refusal);
    }
    let access = match head.uri.path() {
        "/zako.v1.batch.Batch/BatchUpload" => Access::Write,
        "/zako.v1.batch.Batch/BatchDownload" => Access::Read,
        _ => return Err(Status::unimplemented("the service has no such method").into_http()),
    };
    let answered = async {
        let (permit, _) = admit(shared, &head, access).await?;
        let receiving = trace::step!("network receive");
        // What was read is held until the call is answered.
        let mut body = shared.request_body(body, None);
        let request = request_of(&mut body).instrument(receiving).await?;
        let pieces = match access {
            Access::Write => Pieced::One(Some(upload(shared, request).await?)),
            Access::Read => Pieced::Blobs(download(shared, request).await?),
        };
        Ok(grpc_response(Body::new(BatchBody {
            pieces,
            permit: Some(permit),
            ended: false,
        })))
    };
    answered.await.map_err(Status::into_http)
}

/// The request's body, once it is known not to decode to much more memory.
async fn request_of(body: &mut RequestBody) -> Result<Pieces, Status> {
    let mut request = body.pieces(MAX_REQUEST).await?;
    if entries::count(request.share()) > entries::MAX_ENTRIES {
        let most = entries::MAX_ENTRIES;
        return Err(bad_request("", format!("a batch has at most {most} blobs")));
    }
    Ok(request)
}

async fn upload(shared: &Shared, request: Pieces) -> Result<Bytes, Status> {
    let request: BatchUploadRequest = request.unary().map_err(bad_frame)?;
    let mut blobs = Vec::with_capacity(request.blobs.len());
    for blob in request.blobs {
        let digest = some_digest("blobs.digest", blob.digest.as_ref())?;
        blobs.push((digest, blob.data));
    }
    // By what came: a wrong size in a digest is that blob's own failure.
    let total = total(blobs.iter().map(|(_, data)| data.len() as u64))?;
    let named: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let began = Instant::now();
    let stored = shared.cas.put_batch(blobs).await;
    shared.gate.service_time().record(total, began.elapsed());
    let outcomes = named
        .iter()
        .zip(stored)
        .map(|(digest, stored)| match stored {
            Ok(Stored::New) => outcome(digest, Code::Ok, ""),
            Ok(Stored::Existing) => outcome(digest, Code::AlreadyExists, ""),
            Err(error) => failure(digest, &error),
        })
        .collect();
    frame::message(&BatchUploadResponse { outcomes }).map_err(bad_frame)
}

async fn download(shared: &Shared, request: Pieces) -> Result<BatchWriter, Status> {
    let request: BatchDownloadRequest = request.unary().map_err(bad_frame)?;
    let asked = digests("digests", &request.digests)?;
    // Before anything is read: nothing large is fetched to be refused.
    let total = total(asked.iter().map(Digest::size))?;
    let began = Instant::now();
    let fetched = shared.cas.fetch_batch(&asked).await;
    shared.gate.service_time().record(total, began.elapsed());
    let absent = |fetched: &&Result<_, CasError>| matches!(fetched, Err(error) if error.kind() == ErrorKind::NotFound);
    let misses = fetched.iter().filter(absent).count() as u64;
    let hits = asked.len() as u64 - misses;
    shared.looked_up(&Lookup::new(Interface::Zako, "blob", hits, misses));
    // A store that gives fewer outcomes than it was asked for gives fewer entries.
    let entries = asked.iter().zip(fetched).map(|(digest, fetched)| {
        let (outcome, data) = match fetched {
            Ok(data) => (outcome(digest, Code::Ok, ""), data),
            Err(error) => (failure(digest, &error), Bytes::new()),
        };
        let fields = DownloadedBlob {
            outcome: Some(outcome),
            data: Bytes::new(),
        };
        (fields, data)
    });
    BatchWriter::new(entries, BatchWriter::PIECE).map_err(bad_frame)
}

/// The sum of the blobs' sizes, which is bounded.
fn total(sizes: impl Iterator<Item = u64>) -> Result<usize, Status> {
    let mut total = 0u64;
    for size in sizes {
        total = total.saturating_add(size);
        if total > MAX_TOTAL {
            return Err(bad_request(
                "",
                format!("the sizes of a batch's blobs may add up to {MAX_TOTAL} bytes"),
            ));
        }
    }
    Ok(total as usize)
}

fn failure(digest: &Digest, error: &CasError) -> Outcome {
    outcome(digest, code(error.kind()), error.message())
}

fn outcome(digest: &Digest, code: Code, message: &str) -> Outcome {
    Outcome {
        digest: Some((*digest).into()),
        code: code as i32,
        message: message.to_owned(),
    }
}

impl BatchBody {
    pub(super) fn of_blobs(blobs: BatchWriter, permit: Option<StreamPermit>) -> Self {
        Self {
            pieces: Pieced::Blobs(blobs),
            permit,
            ended: false,
        }
    }
}

impl http_body::Body for BatchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let piece = match &mut self.pieces {
            Pieced::One(message) => message.take(),
            Pieced::Blobs(writer) => writer.next_piece(),
        };
        Poll::Ready(match piece {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.ended => None,
            None => {
                self.permit = None;
                self.ended = true;
                Some(Ok(Frame::trailers(trailers(&Status::new(Code::Ok, "")))))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
