//! `/[instance/]dav/<path>`: values under free names, with as much of WebDAV as caches need.
//!
//! Folders aren't kept: every one is there, and none can be listed.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use zako_core::BlobRange;
use zako_core::alias::AliasKey;
use zako_core::cas::ErrorKind;

use super::Shared;
use super::answer::{self, Answer};
use super::conditions::only_if_absent;
use super::decode::Content;
use super::multistatus;
use super::path::ValuePath;
use super::receive::{self, Gathered, SMALL};
use super::refusal::Refusal;
use super::{body::RequestBody, give};
use crate::digest::RemoteDigest;

const METHODS: &str = "GET, HEAD, PUT, DELETE, PROPFIND, MKCOL, OPTIONS";

/// Answers a request; takes the content if it uses it up.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    head: &Parts,
    instance: &str,
    path: &ValuePath,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    let key = key(instance, path);
    match head.method.as_str() {
        "GET" | "HEAD" if path.is_folder => Err(Refusal::not_found("folders are not listed")),
        "GET" | "HEAD" => match found(shared, &key) {
            Some(value) => give::blob(shared, head, &value).await,
            None => Err(absent()),
        },
        "PUT" if path.is_folder => Err(Refusal::bad("a value's name does not end with \"/\"")),
        "PUT" => put(shared, head, key, content).await,
        "DELETE" if path.is_folder => Err(Refusal::not_found("folders are not kept")),
        "DELETE" => match shared.cache.remove_value(key).await? {
            true => Ok(answer::empty(StatusCode::NO_CONTENT)),
            false => Err(absent()),
        },
        "PROPFIND" => propfind(shared, head, &key, path).await,
        "MKCOL" => {
            mkcol(
                shared,
                &key,
                path,
                content.as_ref().map(|content| &content.body),
            )
            .await
        }
        "OPTIONS" => Ok(answer::options(METHODS, Some("1"))),
        _ => Err(Refusal::method(METHODS)),
    }
}

async fn put(
    shared: &Arc<Shared>,
    head: &Parts,
    key: AliasKey,
    content: &mut Option<Content>,
) -> Result<Answer, Refusal> {
    let Some(body) = content else {
        return Err(Refusal::bad("the request has no body"));
    };
    let size = receive::size(shared, body)?;
    let is_there = is_there(shared, &key).await?;
    if is_there && only_if_absent(&head.headers) {
        let text = "there is such a value already";
        return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, text));
    }
    match receive::gather(shared, body, SMALL).await? {
        Gathered::Whole(data, _share) => shared.cache.set_value(key, data, None).await?,
        Gathered::More(begun) => {
            let Some(body) = content.take() else {
                return Err(Refusal::bad("the request has no body"));
            };
            let cache = shared.cache.clone();
            let begin = async move { cache.upload_value(key, size).await };
            let (outcome, rest) = receive::store(shared, begun, body, begin).await;
            *content = rest;
            outcome?;
        }
    }
    Ok(answer::empty(match is_there {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::CREATED,
    }))
}

async fn propfind(
    shared: &Shared,
    head: &Parts,
    key: &AliasKey,
    path: &ValuePath,
) -> Result<Answer, Refusal> {
    if path.is_folder {
        if !is_depth_0(&head.headers) {
            let text = "folders are not listed: ask with Depth: 0";
            return Err(Refusal::new(StatusCode::FORBIDDEN, text));
        }
        return Ok(multistatus::folder(head.uri.path()));
    }
    match found(shared, key) {
        Some(value) if is_there(shared, key).await? => {
            Ok(multistatus::value(head.uri.path(), value.size()))
        }
        _ => Err(absent()),
    }
}

async fn mkcol(
    shared: &Shared,
    key: &AliasKey,
    path: &ValuePath,
    body: Option<&RequestBody>,
) -> Result<Answer, Refusal> {
    if body.is_some_and(|body| body.length() != Some(0)) {
        let text = "a folder is made without a body";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    // The root is there; so is a value of that name.
    if path.path.is_empty() || is_there(shared, key).await? {
        return Err(Refusal::method(METHODS));
    }
    Ok(answer::empty(StatusCode::CREATED))
}

/// The value under a key, which may be evicted.
fn found(shared: &Shared, key: &AliasKey) -> Option<RemoteDigest> {
    let digest = shared.cache.value_name(key)?;
    Some(RemoteDigest::of_blake3(&digest))
}

async fn is_there(shared: &Shared, key: &AliasKey) -> Result<bool, Refusal> {
    let Some(value) = found(shared, key) else {
        return Ok(false);
    };
    match shared.cache.open(&value, BlobRange::new(0, 0)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// No two instances have a value in common.
fn key(instance: &str, path: &ValuePath) -> AliasKey {
    let path = path.path.as_bytes();
    match instance {
        "" => AliasKey::derive("zako 2026-11 http value", &[path]),
        instance => AliasKey::derive(
            "zako 2026-11 http value of an instance",
            &[instance.as_bytes(), path],
        ),
    }
}

fn is_depth_0(headers: &HeaderMap) -> bool {
    // Without one, all depths are asked for.
    headers.get("depth").is_some_and(|depth| depth == "0")
}

fn absent() -> Refusal {
    Refusal::not_found("there is no such value")
}
