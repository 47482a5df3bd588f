//! The Remote Execution API's cache, ByteStream and Remote Asset, on the server's port.

mod action_cache;
mod asset;
mod batch;
mod batch_read;
mod batch_update;
mod bytestream;
mod capabilities;
mod cas;
mod chunks;
mod fields;
mod find_missing;
mod request;
mod resource_name;
mod rights;
mod tree;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::Status;
use zako_core::server::{Call, Face, Reply};

use crate::cache::Cache;
use crate::proto;

const ACTION_CACHE: &str = "build.bazel.remote.execution.v2.ActionCache";
const BYTE_STREAM: &str = "google.bytestream.ByteStream";
const CAPABILITIES: &str = "build.bazel.remote.execution.v2.Capabilities";
const CAS: &str = "build.bazel.remote.execution.v2.ContentAddressableStorage";
const FETCH: &str = "build.bazel.remote.asset.v1.Fetch";
const PUSH: &str = "build.bazel.remote.asset.v1.Push";

/// The face that speaks the Remote Execution API.
#[derive(Debug)]
pub struct RemoteExecutionFace {
    cache: Cache,
}

impl RemoteExecutionFace {
    /// The face over this cache.
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }
}

impl Face for RemoteExecutionFace {
    fn services(&self) -> &'static [&'static str] {
        &[ACTION_CACHE, BYTE_STREAM, CAPABILITIES, CAS, FETCH, PUSH]
    }

    fn descriptors(&self) -> &'static [u8] {
        proto::FILE_DESCRIPTOR_SET
    }

    fn looks_for(&self, path: &str) -> Option<&'static str> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            (ACTION_CACHE, "GetActionResult") => Some("action"),
            (BYTE_STREAM, "Read") => Some("blob"),
            (FETCH, _) => Some("asset"),
            _ => None,
        }
    }

    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Reply> {
        async move {
            let mut path = call.path().split('/').skip(1);
            let (service, method) = (path.next(), path.next().unwrap_or_default().to_owned());
            let (cache, method) = (&self.cache, &*method);
            let answer = match service {
                Some(BYTE_STREAM) => bytestream::answer(cache, method, call).await,
                Some(CAS) if method == "GetTree" => tree::answer(cache, call).await,
                Some(CAS) => cas::answer(cache, method, call).await,
                Some(ACTION_CACHE) => action_cache::answer(cache, method, call).await,
                Some(CAPABILITIES) => capabilities::answer(cache, method, call).await,
                Some(FETCH | PUSH) => asset::answer(cache, method, call).await,
                _ => Err(unknown_method().into()),
            };
            answer.unwrap_or_else(|refused| *refused.0)
        }
        .boxed()
    }
}

/// Why a call is not answered as it asks for.
struct Refused(Box<Reply>);

impl From<Box<Reply>> for Refused {
    fn from(reply: Box<Reply>) -> Self {
        Self(reply)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(Box::new(Reply::status(status)))
    }
}

fn unknown_method() -> Status {
    Status::unimplemented("the service has no such method")
}
