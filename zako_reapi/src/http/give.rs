//! Answers that give content.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use zako_core::BlobRange;

use super::Shared;
use super::answer::{self, Answer, AnswerBody};
use super::blob_body::BlobBody;
use super::compress;
use super::conditions::{compressed_etag, etag, is_known};
use super::negotiation::wants_zstd;
use super::range::{Wanted, wanted};
use super::refusal::Refusal;
use crate::digest::RemoteDigest;

/// What isn't longer is compressed whole, so that its length can be told, in bytes.
const AT_ONCE: u64 = 256 << 10;

/// A blob, or what the request wants of it. Its tag is its hash.
pub(super) async fn blob(
    shared: &Shared,
    head: &Parts,
    digest: &RemoteDigest,
) -> Result<Answer, Refusal> {
    let hash = digest.hex();
    let tag = etag(&hash);
    let size = digest.size();
    if is_known(&head.headers, &hash) {
        // Known, and still here.
        shared.cache.open(digest, BlobRange::new(0, 0)).await?;
        let mut answer = answer::empty(StatusCode::NOT_MODIFIED);
        set(&mut answer, ETAG, &tag);
        return Ok(answer);
    }
    let is_head = head.method == Method::HEAD;
    let want = match is_head {
        true => Wanted::All,
        false => wanted(head, size, &tag),
    };
    let range = match &want {
        _ if is_head => BlobRange::new(0, 0),
        Wanted::Beyond => return Err(Refusal::range(size)),
        Wanted::Part(part) => BlobRange::from(part.clone()),
        Wanted::All => BlobRange::FULL,
    };
    let found = shared.cache.open(digest, range).await?;
    let compresses = want == Wanted::All && !is_head && size >= compress::SHORTEST;
    let mut answer = match compresses && wants_zstd(&head.headers) {
        true => compressed(shared, head, found, &hash).await?,
        false => {
            let mut answer = Response::new(AnswerBody::blob(BlobBody::new(found)));
            set(&mut answer, ETAG, &tag);
            answer
        }
    };
    if let Wanted::Part(part) = want {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        set(&mut answer, CONTENT_RANGE, &range);
    }
    if is_head {
        set(&mut answer, CONTENT_LENGTH, &size.to_string());
    }
    set(&mut answer, ACCEPT_RANGES, "bytes");
    set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    set(&mut answer, VARY, "accept-encoding");
    Ok(answer)
}

/// A whole blob, compressed if that can be done just now and pays.
async fn compressed(
    shared: &Shared,
    head: &Parts,
    blob: zako_core::cas::Blob,
    hash: &str,
) -> Result<Answer, Refusal> {
    // Older clients know of no bodies of unknown length.
    let streams = blob.len() > AT_ONCE && head.version >= Version::HTTP_11;
    let permit = Arc::clone(&shared.compressions).try_acquire_owned().ok();
    let plain = |body| {
        let mut answer = Response::new(body);
        set(&mut answer, ETAG, &etag(hash));
        answer
    };
    let squeezed = |body| {
        let mut answer = Response::new(body);
        set(&mut answer, ETAG, &compressed_etag(hash));
        set(&mut answer, CONTENT_ENCODING, "zstd");
        answer
    };
    Ok(match permit {
        Some(permit) if streams => {
            let stream = compress::stream(blob, permit).map_err(|error| {
                tracing::error!(%error, "zstd can't be set up");
                let text = "zstd can't be had just now";
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            })?;
            squeezed(AnswerBody::stream(stream))
        }
        Some(_permit) if blob.len() <= AT_ONCE => {
            let data = blob.bytes().await?;
            match compress::whole(&data) {
                Some(data) => squeezed(AnswerBody::bytes(data)),
                None => plain(AnswerBody::bytes(data)),
            }
        }
        _ => plain(AnswerBody::blob(BlobBody::new(blob))),
    })
}

/// A value that is at hand.
pub(super) fn bytes(data: Bytes) -> Answer {
    let kind = match data.first() {
        // What some clients keep in the place of an encoded message.
        Some(b'{') => "application/json",
        _ => "application/octet-stream",
    };
    answer::bytes(StatusCode::OK, Some(kind), data)
}

fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    // Hashes, numbers and fixed words.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
