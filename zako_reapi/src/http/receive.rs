//! Taking the content of a request: into memory if it is small, else step by step into
//! the store.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tracing::Instrument;
use zako_core::Digest;
use zako_core::access::Allowance;
use zako_core::cas::{Result as CasResult, StagedSize, Stored};
use zako_core::observe::trace;

use super::Shared;
use super::decode::Content;
use super::memory::Share;
use super::refusal::Refusal;
use crate::cache::KeyedUpload;

/// What is held in memory is not longer, in bytes; about what the store keeps with others
/// in one file.
pub(super) const SMALL: u64 = 1 << 20;

/// Shorter pieces are copied together: each may keep the buffer alive that it was received
/// in, and a sender that drips would take many times the memory of its bytes.
const SHARED_FROM: usize = 16 << 10;

/// What came of a content.
pub(super) enum Gathered {
    /// All of it.
    Whole(Bytes, Vec<Share>),
    /// There is more than was to be held.
    More(Begun),
}

/// The beginning of a content that is too long for memory.
#[derive(Default)]
pub(super) struct Begun {
    pieces: VecDeque<Bytes>,
    /// Of the memory of the pieces, and what the store holds of the upload before it
    /// writes it to a file.
    shares: Vec<Share>,
}

/// Reads a content into memory, up to `most` bytes of it.
pub(super) async fn gather(
    shared: &Shared,
    content: &mut Content,
    most: u64,
) -> Result<Gathered, Refusal> {
    let told = content.length();
    if told.is_some_and(|length| length > most) {
        return Ok(Gathered::More(Begun::default()));
    }
    let mut held = told.unwrap_or(SMALL);
    let mut shares = vec![shared.memory.share(held).await?];
    let (mut pieces, mut short, mut length) = (VecDeque::new(), BytesMut::new(), 0);
    while let Some(data) = content.next().await? {
        length += data.len() as u64;
        if data.len() < SHARED_FROM {
            short.extend_from_slice(&data);
        } else {
            end_short(&mut short, &mut pieces);
            pieces.push_back(data);
        }
        if length > most {
            end_short(&mut short, &mut pieces);
            return Ok(Gathered::More(Begun { pieces, shares }));
        }
        while held < length {
            shares.push(shared.memory.share(SMALL).await?);
            held += SMALL;
        }
    }
    end_short(&mut short, &mut pieces);
    if pieces.len() == 1 {
        let whole = pieces.pop_front().unwrap_or_default();
        return Ok(Gathered::Whole(whole, shares));
    }
    let mut whole = BytesMut::with_capacity(length as usize);
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    Ok(Gathered::Whole(whole.freeze(), shares))
}

/// Short pieces that came last become one.
fn end_short(short: &mut BytesMut, pieces: &mut VecDeque<Bytes>) {
    if !short.is_empty() {
        pieces.push_back(short.split().freeze());
    }
}

/// What may be stored of a content.
///
/// # Errors
/// It is said to be longer than what is taken.
pub(super) fn size(shared: &Shared, content: &Content) -> Result<StagedSize, Refusal> {
    let most = shared.options.max_blob_bytes;
    match content.length() {
        Some(length) if length > most => Err(Refusal::too_large(most)),
        Some(length) => Ok(StagedSize::Exactly(length)),
        None => Ok(StagedSize::AtMost(most)),
    }
}

/// Stores a content step by step, in a task of its own: it frees what it has taken also
/// when the connection is gone. Gives the content back, of which there may be a rest.
pub(super) async fn store(
    shared: &Arc<Shared>,
    begun: Begun,
    content: Content,
    begin: impl Future<Output = CasResult<KeyedUpload>> + Send + 'static,
) -> (Result<(Digest, Stored), Refusal>, Option<Content>) {
    let most = shared.options.max_blob_bytes;
    let storing = Allowance::inherited(async move {
        let mut content = content;
        let outcome = match begin.await {
            Ok(upload) => pump(upload, begun, &mut content, most).await,
            Err(error) => Err(error.into()),
        };
        (outcome, content)
    });
    let storing = storing.instrument(trace::current());
    match shared.uploads.spawn(storing).await {
        Ok((outcome, content)) => (outcome, Some(content)),
        Err(_) => {
            let text = "storing the body broke off";
            let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
            (Err(refusal), None)
        }
    }
}

async fn pump(
    mut upload: KeyedUpload,
    mut begun: Begun,
    content: &mut Content,
    most: u64,
) -> Result<(Digest, Stored), Refusal> {
    let taken = async {
        loop {
            let data = match begun.pieces.pop_front() {
                Some(data) => data,
                None => match content.next().await? {
                    Some(data) => data,
                    None => return Ok(()),
                },
            };
            if upload.held() + data.len() as u64 > most {
                return Err(Refusal::too_large(most));
            }
            upload.write(data).await?;
            if upload.held() > 2 * SMALL {
                begun.shares.clear();
            }
        }
    };
    match taken.await {
        Ok(()) => Ok(upload.commit().await?),
        Err(refusal) => {
            if let Err(error) = upload.discard().await {
                tracing::warn!(%error, "an upload that ended early could not be dropped");
            }
            Err(refusal)
        }
    }
}
