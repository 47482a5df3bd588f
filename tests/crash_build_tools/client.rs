//! What a build tool asks of its cache, over the Remote Execution API.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use prost::Message;
use rand::Rng;
use rand::rngs::StdRng;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::byte_stream_client::ByteStreamClient;
use zako_reapi::proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use zako_reapi::proto::reapi::action_cache_client::ActionCacheClient;
use zako_reapi::proto::reapi::batch_update_blobs_request::Request;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{
    ActionResult, BatchUpdateBlobsRequest, FindMissingBlobsRequest, GetActionResultRequest,
    OutputFile, UpdateActionResultRequest,
};
use zako_reapi::proto::rpc;

use crate::Blob;

/// The bytes of a message of an upload.
const MESSAGE: usize = 64 << 10;

pub(crate) struct BuildTool {
    actions: ActionCacheClient<Channel>,
    blobs: ContentAddressableStorageClient<Channel>,
    bytes: ByteStreamClient<Channel>,
}

impl BuildTool {
    pub(crate) async fn connect(address: &str) -> Result<Self, transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await?;
        Ok(Self {
            actions: ActionCacheClient::new(channel.clone()),
            blobs: ContentAddressableStorageClient::new(channel.clone()),
            bytes: ByteStreamClient::new(channel),
        })
    }

    /// Sends what the server doesn't hold of a blob.
    pub(crate) async fn write(&mut self, blob: &Blob) -> Result<(), Status> {
        let query = QueryWriteStatusRequest {
            resource_name: upload_name(&blob.digest),
        };
        let held = self.bytes.query_write_status(query).await?.into_inner();
        if held.complete {
            return Ok(());
        }
        let from = usize::try_from(held.committed_size).unwrap();
        let messages = messages(blob, from, blob.data.len());
        let answer = self.bytes.write(tokio_stream::iter(messages)).await?;
        assert_eq!(answer.into_inner().committed_size, blob.data.len() as i64);
        Ok(())
    }

    /// Sends a part of a blob, and ends without the rest.
    pub(crate) async fn interrupt(&mut self, blob: &Blob, rng: &mut StdRng) -> Result<(), Status> {
        let end = rng.random_range(0..blob.data.len());
        let messages = messages(blob, 0, end);
        match self.bytes.write(tokio_stream::iter(messages)).await {
            Ok(_) => Ok(()),
            Err(status) if is_gone(&status) || is_full(&status) => Err(status),
            Err(_) => Ok(()),
        }
    }

    /// Stores blobs; those that the server took. The others found it full.
    pub(crate) async fn batch(&mut self, blobs: &[&Blob]) -> Result<Vec<RemoteDigest>, Status> {
        let mut stored = Vec::with_capacity(blobs.len());
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let of_it = blobs
                .iter()
                .filter(|blob| blob.digest.function() == function);
            let requests = of_it.map(|blob| Request {
                digest: Some(blob.digest.to_wire()),
                data: blob.data.clone(),
                compressor: 0,
            });
            let request = BatchUpdateBlobsRequest {
                requests: requests.collect(),
                digest_function: function.wire() as i32,
                ..BatchUpdateBlobsRequest::default()
            };
            let answer = self.blobs.batch_update_blobs(request).await?.into_inner();
            for outcome in answer.responses {
                let digest = RemoteDigest::of_wire(Some(function), &outcome.digest.unwrap());
                match outcome.status.unwrap_or_default() {
                    status if status.code == Code::Ok as i32 => stored.push(digest.unwrap()),
                    status => assert!(is_full(&to_tonic(&status)), "{status:?}"),
                }
            }
        }
        Ok(stored)
    }

    /// Those that are missing.
    pub(crate) async fn missing(
        &mut self,
        digests: &[RemoteDigest],
    ) -> Result<HashSet<RemoteDigest>, Status> {
        let mut missing = HashSet::new();
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let of_it = digests
                .iter()
                .filter(|digest| digest.function() == function);
            let request = FindMissingBlobsRequest {
                blob_digests: of_it.map(|digest| digest.to_wire()).collect(),
                digest_function: function.wire() as i32,
                ..FindMissingBlobsRequest::default()
            };
            let answer = self.blobs.find_missing_blobs(request).await?;
            for digest in answer.into_inner().missing_blob_digests {
                missing.insert(RemoteDigest::of_wire(Some(function), &digest).unwrap());
            }
        }
        Ok(missing)
    }

    /// The bytes of a blob from `offset` on, if the server has it: all, or so many.
    pub(crate) async fn read(
        &mut self,
        digest: &RemoteDigest,
        offset: usize,
        limit: usize,
    ) -> Result<Option<Bytes>, Status> {
        let request = ReadRequest {
            resource_name: format!("build/{}", blob_name(digest)),
            read_offset: offset as i64,
            read_limit: limit as i64,
        };
        let mut answer = match self.bytes.read(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        let mut data = BytesMut::new();
        while let Some(message) = answer.message().await? {
            data.extend_from_slice(&message.data);
        }
        Ok(Some(data.freeze()))
    }

    /// Stores an action's result that names these blobs.
    pub(crate) async fn act(
        &mut self,
        action: RemoteDigest,
        named: &[RemoteDigest],
    ) -> Result<(), Status> {
        let of_it = named.iter();
        let files = of_it.filter(|digest| digest.function() == DigestFunction::Sha256);
        let result = ActionResult {
            output_files: files
                .map(|digest| OutputFile {
                    path: digest.hex(),
                    digest: Some(digest.to_wire()),
                    ..OutputFile::default()
                })
                .collect(),
            ..ActionResult::default()
        };
        let request = UpdateActionResultRequest {
            instance_name: "build".to_owned(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result),
            ..UpdateActionResultRequest::default()
        };
        self.actions.update_action_result(request).await.map(|_| ())
    }

    /// The blobs that an action's result names.
    pub(crate) async fn result(
        &mut self,
        action: &RemoteDigest,
    ) -> Result<Option<Vec<RemoteDigest>>, Status> {
        let request = GetActionResultRequest {
            instance_name: "build".to_owned(),
            action_digest: Some(action.to_wire()),
            ..GetActionResultRequest::default()
        };
        match self.actions.get_action_result(request).await {
            Ok(result) => {
                let files = result.into_inner().output_files.into_iter();
                let digests = files.map(|file| file.digest.unwrap());
                let digests = digests.map(|digest| RemoteDigest::of_wire(None, &digest).unwrap());
                Ok(Some(digests.collect()))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }
}

/// The messages of an upload of the bytes from `from` to `end`; the last one finishes
/// it if that is all.
fn messages(blob: &Blob, from: usize, end: usize) -> Vec<WriteRequest> {
    let mut messages = Vec::new();
    let mut at = from;
    loop {
        let next = (at + MESSAGE).min(end);
        messages.push(WriteRequest {
            resource_name: match messages.is_empty() {
                true => upload_name(&blob.digest),
                false => String::new(),
            },
            write_offset: at as i64,
            finish_write: next == blob.data.len(),
            data: blob.data.slice(at..next),
        });
        at = next;
        if at == end {
            return messages;
        }
    }
}

fn upload_name(digest: &RemoteDigest) -> String {
    let uuid = "5f0c7a3e-0000-4000-8000-000000000000";
    format!("build/uploads/{uuid}/{}", blob_name(digest))
}

fn blob_name(digest: &RemoteDigest) -> String {
    let function = match digest.function() {
        DigestFunction::Blake3 => "blake3/",
        _ => "",
    };
    format!("blobs/{function}{}/{}", digest.hex(), digest.size())
}

/// Whether the server has no room now and says when it may have some.
pub(crate) fn is_full(status: &Status) -> bool {
    let retry = status.get_error_details().retry_info().is_some();
    status.code() == Code::ResourceExhausted && retry
}

/// How it went with a blob of a batch, as if it had been a call's.
fn to_tonic(status: &rpc::Status) -> Status {
    let code = Code::from_i32(status.code);
    let details = status.encode_to_vec().into();
    Status::with_details(code, status.message.clone(), details)
}

/// Whether the server was killed meanwhile.
pub(crate) fn is_gone(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    )
}
