//! `/[instance/]cas/<hash>`: blobs. All instances share them.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, StatusCode};
use zako_core::cas::{Lease, StagedSize, Stored};

use super::Shared;
use super::answer::{self, Answer};
use super::decode::Content;
use super::give;
use super::receive::{self, Gathered, SMALL};
use super::refusal::Refusal;
use crate::digest::RemoteDigest;

const METHODS: &str = "GET, HEAD, PUT, OPTIONS";

/// Answers a request; takes the content if it uses it up.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    head: &Parts,
    name: RemoteDigest,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    match head.method {
        Method::GET | Method::HEAD => match shared.cache.find_by_hash(&name) {
            Some(digest) => give::blob(shared, head, &digest).await,
            None => Err(Refusal::not_found(format!(
                "the blob {}:{} is not here",
                name.function().name(),
                name.hex()
            ))),
        },
        Method::PUT => put(shared, name, content).await,
        Method::OPTIONS => Ok(answer::options(METHODS, None)),
        _ => Err(Refusal::method(METHODS)),
    }
}

async fn put(
    shared: &Arc<Shared>,
    name: RemoteDigest,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    let Some(body) = content else {
        return Err(Refusal::bad("the request has no body"));
    };
    let size = receive::size(shared, body)?;
    if let Some(there) = shared.cache.find_by_hash(&name)
        && shared
            .cache
            .missing(&[there], Lease::Default)
            .await?
            .is_empty()
    {
        if let StagedSize::Exactly(length) = size
            && length != there.size()
        {
            let text = format!("{length} bytes are not those of the blob {there}");
            return Err(Refusal::bad(text));
        }
        body.body.skip().await?;
        return Ok(answer::empty(StatusCode::OK));
    }
    let stored = match receive::gather(shared, body, SMALL).await? {
        Gathered::Whole(data, _share) => shared.cache.put_by_hash(&name, data).await?,
        Gathered::More(begun) => {
            let Some(body) = content.take() else {
                return Err(Refusal::bad("the request has no body"));
            };
            let cache = shared.cache.clone();
            let begin = async move { cache.upload_by_hash(&name, size).await };
            let (outcome, rest) = receive::store(shared, begun, body, begin).await;
            *content = rest;
            outcome?.1
        }
    };
    Ok(answer::empty(match stored {
        Stored::New => StatusCode::CREATED,
        Stored::Existing => StatusCode::OK,
    }))
}
