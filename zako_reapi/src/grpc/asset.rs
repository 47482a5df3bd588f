//! Remote assets. Nothing is fetched from elsewhere: what was pushed is found.

use std::time::SystemTime;

use prost_types::Timestamp;
use tonic::Status;
use zako_core::access::Role;
use zako_core::server::{Call, Reply, bad_request, to_status};

use super::{Refused, request, rights, unknown_method};
use crate::cache::{Asset, AssetKind, AssetName, Cache};
use crate::digest::DigestFunction;
use crate::proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
    PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse, Qualifier,
};
use crate::proto::reapi;

/// The longest question.
const MAX_FETCH: usize = 1 << 20;

/// The most URIs of a request.
const MAX_URIS: usize = 1024;

/// What both kinds of fetch ask for.
struct Fetch {
    instance: String,
    kind: AssetKind,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    function: i32,
    oldest: Option<Timestamp>,
}

/// What was found.
struct Fetched {
    uri: String,
    qualifiers: Vec<Qualifier>,
    asset: Asset,
    function: DigestFunction,
}

/// What both kinds of push bring.
struct Push {
    instance: String,
    kind: AssetKind,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    function: i32,
    asset: Asset,
}

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    rights::check_somewhere(&caller, Role::Read)?;
    let (mut body, _) = call.open()?;
    let most = cache.options().max_message_bytes;
    Ok(match method {
        "FetchBlob" => {
            let request: FetchBlobRequest = body.message(MAX_FETCH).await?;
            rights::check(&caller, &request.instance_name, Role::Read)?;
            Reply::message(&FetchBlobResponse::from(
                fetch(cache, request.into()).await?,
            ))
        }
        "FetchDirectory" => {
            let request: FetchDirectoryRequest = body.message(MAX_FETCH).await?;
            rights::check(&caller, &request.instance_name, Role::Read)?;
            Reply::message(&FetchDirectoryResponse::from(
                fetch(cache, request.into()).await?,
            ))
        }
        "PushBlob" => {
            rights::check_somewhere(&caller, Role::Write)?;
            let request: PushBlobRequest = body.message(most).await?;
            rights::check(&caller, &request.instance_name, Role::Write)?;
            push(cache, request.into()).await?;
            Reply::message(&PushBlobResponse {})
        }
        "PushDirectory" => {
            rights::check_somewhere(&caller, Role::Write)?;
            let request: PushDirectoryRequest = body.message(most).await?;
            rights::check(&caller, &request.instance_name, Role::Write)?;
            push(cache, request.into()).await?;
            Reply::message(&PushDirectoryResponse {})
        }
        _ => return Err(unknown_method().into()),
    })
}

async fn fetch(cache: &Cache, fetch: Fetch) -> Result<Fetched, Status> {
    check_uris(&fetch.uris)?;
    // Who names no function takes an asset of any.
    let function = request::function(fetch.function)?;
    let functions = function
        .as_ref()
        .map_or(&DigestFunction::ALL[..], std::slice::from_ref);
    for uri in &fetch.uris {
        let name = AssetName {
            instance: &fetch.instance,
            kind: fetch.kind,
            uri,
            qualifiers: &fetch.qualifiers,
        };
        for function in functions {
            let asset = cache.asset(name, *function).await;
            let asset = asset.map_err(|error| to_status(&error))?;
            if let Some(asset) = asset.filter(|asset| is_new_enough(asset, fetch.oldest)) {
                return Ok(Fetched {
                    uri: uri.clone(),
                    qualifiers: fetch.qualifiers,
                    asset,
                    function: *function,
                });
            }
        }
    }
    Err(Status::not_found(format!(
        "nothing was pushed here for {}, or some of it is gone; this cache fetches nothing \
         from elsewhere",
        fetch.uris.join(", ")
    )))
}

async fn push(cache: &Cache, mut push: Push) -> Result<(), Status> {
    check_uris(&push.uris)?;
    let digest = request::digest("digest", push.function, push.asset.digest.as_ref())?;
    if let Some(expires) = &push.asset.expires_at
        && (expires.seconds < 0 || !(0..1_000_000_000).contains(&expires.nanos))
    {
        return Err(bad_request("expire_at", "expire_at is no time"));
    }
    push.asset.pushed_at = Some(SystemTime::now().into());
    for uri in &push.uris {
        let name = AssetName {
            instance: &push.instance,
            kind: push.kind,
            uri,
            qualifiers: &push.qualifiers,
        };
        let pushed = cache.push_asset(name, digest.function(), &push.asset).await;
        pushed.map_err(|error| to_status(&error))?;
    }
    Ok(())
}

fn check_uris(uris: &[String]) -> Result<(), Status> {
    match uris.len() {
        0 => Err(bad_request(
            "uris",
            "uris is empty: there is nothing to find by",
        )),
        1..=MAX_URIS => Ok(()),
        count => {
            let text = format!("{count} uris; {MAX_URIS} are taken");
            Err(bad_request("uris", text))
        }
    }
}

fn is_new_enough(asset: &Asset, oldest: Option<Timestamp>) -> bool {
    let parts = |time: &Timestamp| (time.seconds, time.nanos);
    let Some(oldest) = oldest.as_ref().map(parts) else {
        return true;
    };
    asset
        .pushed_at
        .as_ref()
        .is_some_and(|at| parts(at) >= oldest)
}

impl From<FetchBlobRequest> for Fetch {
    fn from(request: FetchBlobRequest) -> Self {
        Self {
            instance: request.instance_name,
            kind: AssetKind::Blob,
            uris: request.uris,
            qualifiers: request.qualifiers,
            function: request.digest_function,
            oldest: request.oldest_content_accepted,
        }
    }
}

impl From<FetchDirectoryRequest> for Fetch {
    fn from(request: FetchDirectoryRequest) -> Self {
        Self {
            instance: request.instance_name,
            kind: AssetKind::Directory,
            uris: request.uris,
            qualifiers: request.qualifiers,
            function: request.digest_function,
            oldest: request.oldest_content_accepted,
        }
    }
}

impl From<Fetched> for FetchBlobResponse {
    fn from(fetched: Fetched) -> Self {
        Self {
            // None is OK.
            status: None,
            uri: fetched.uri,
            qualifiers: fetched.qualifiers,
            expires_at: fetched.asset.expires_at,
            blob_digest: fetched.asset.digest,
            digest_function: fetched.function.wire() as i32,
        }
    }
}

impl From<Fetched> for FetchDirectoryResponse {
    fn from(fetched: Fetched) -> Self {
        Self {
            status: None,
            uri: fetched.uri,
            qualifiers: fetched.qualifiers,
            expires_at: fetched.asset.expires_at,
            root_directory_digest: fetched.asset.digest,
            digest_function: fetched.function.wire() as i32,
        }
    }
}

impl From<PushBlobRequest> for Push {
    fn from(request: PushBlobRequest) -> Self {
        Self {
            instance: request.instance_name,
            kind: AssetKind::Blob,
            uris: request.uris,
            qualifiers: request.qualifiers,
            function: request.digest_function,
            asset: asset(
                request.blob_digest,
                request.references_blobs,
                request.references_directories,
                request.expire_at,
            ),
        }
    }
}

impl From<PushDirectoryRequest> for Push {
    fn from(request: PushDirectoryRequest) -> Self {
        Self {
            instance: request.instance_name,
            kind: AssetKind::Directory,
            uris: request.uris,
            qualifiers: request.qualifiers,
            function: request.digest_function,
            asset: asset(
                request.root_directory_digest,
                request.references_blobs,
                request.references_directories,
                request.expire_at,
            ),
        }
    }
}

fn asset(
    digest: Option<reapi::Digest>,
    blobs: Vec<reapi::Digest>,
    directories: Vec<reapi::Digest>,
    expires_at: Option<Timestamp>,
) -> Asset {
    Asset {
        digest,
        blobs,
        directories,
        pushed_at: None,
        expires_at,
    }
}
