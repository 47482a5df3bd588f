//! What Remote Execution and ByteStream answer callers beyond their limits:
//! RESOURCE_EXHAUSTED, with the time to try again.
#![allow(clippy::unwrap_used)]

mod support;

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use bytes::Bytes;
use support::limited::{HOUR, Limited, day, limits};
use support::{Servers, bearer, token};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use zako_core::access::Direction;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::byte_stream_client::ByteStreamClient;
use zako_reapi::proto::bytestream::{ReadRequest, WriteRequest};
use zako_reapi::proto::reapi::action_cache_client::ActionCacheClient;
use zako_reapi::proto::reapi::batch_update_blobs_request::Request as Entry;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{ActionResult, BatchUpdateBlobsRequest, UpdateActionResultRequest};
use zako_reapi::proto::rpc;

/// Larger blobs go to the store as they come.
const SMALL: usize = 1 << 20;

const FUNCTIONS: [DigestFunction; 2] = [DigestFunction::Sha256, DigestFunction::Blake3];

const METHODS: [&str; 15] = [
    "build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
    "build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/SplitBlob",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob",
    "build.bazel.remote.asset.v1.Fetch/FetchBlob",
    "build.bazel.remote.asset.v1.Push/PushBlob",
    "build.bazel.remote.asset.v1.Push/PushDirectory",
    "google.bytestream.ByteStream/Read",
    "google.bytestream.ByteStream/Write",
    "google.bytestream.ByteStream/QueryWriteStatus",
];

/// A build tool with the token of an identity.
struct Tool {
    channel: Channel,
    name: &'static str,
}

impl Tool {
    async fn of(servers: &Servers, name: &'static str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", servers.grpc)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { channel, name }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let value = bearer(&token(self.name)).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    async fn write(&self, digest: &RemoteDigest, data: &Bytes) -> Result<i64, Status> {
        let name = format!("uploads/u/blobs/{}", path(digest));
        let starts = (0..data.len()).step_by(100_000);
        let messages: Vec<_> = starts
            .map(|start| WriteRequest {
                resource_name: if start == 0 {
                    name.clone()
                } else {
                    String::new()
                },
                write_offset: start as i64,
                finish_write: start + 100_000 >= data.len(),
                data: data.slice(start..data.len().min(start + 100_000)),
            })
            .collect();
        let request = self.request(tokio_stream::iter(messages));
        let mut client = ByteStreamClient::new(self.channel.clone());
        Ok(client.write(request).await?.into_inner().committed_size)
    }

    async fn read(&self, digest: &RemoteDigest) -> Result<usize, Status> {
        let request = self.request(ReadRequest {
            resource_name: format!("blobs/{}", path(digest)),
            ..ReadRequest::default()
        });
        let mut client = ByteStreamClient::new(self.channel.clone());
        let mut answer = client.read(request).await?.into_inner();
        let mut length = 0;
        while let Some(message) = answer.message().await? {
            length += message.data.len();
        }
        Ok(length)
    }

    async fn update(&self, blobs: &[(RemoteDigest, Bytes)]) -> Result<Vec<rpc::Status>, Status> {
        let entries = blobs.iter().map(|(digest, data)| Entry {
            digest: Some(digest.to_wire()),
            data: data.clone(),
            compressor: 0,
        });
        let request = self.request(BatchUpdateBlobsRequest {
            requests: entries.collect(),
            digest_function: blobs[0].0.function().wire() as i32,
            ..BatchUpdateBlobsRequest::default()
        });
        let mut client = ContentAddressableStorageClient::new(self.channel.clone());
        let responses = client.batch_update_blobs(request).await?.into_inner();
        let responses = responses.responses.into_iter();
        Ok(responses.map(|one| one.status.unwrap()).collect())
    }

    async fn set_action(&self, action: &RemoteDigest, result: Bytes) -> Result<(), Status> {
        let result = ActionResult {
            stdout_raw: result,
            ..ActionResult::default()
        };
        let request = self.request(UpdateActionResultRequest {
            action_digest: Some(action.to_wire()),
            action_result: Some(result),
            digest_function: action.function().wire() as i32,
            ..UpdateActionResultRequest::default()
        });
        let mut client = ActionCacheClient::new(self.channel.clone());
        client.update_action_result(request).await.map(drop)
    }
}

fn path(digest: &RemoteDigest) -> String {
    let function = match digest.function() {
        DigestFunction::Blake3 => "blake3/",
        _ => "",
    };
    format!("{function}{}/{}", digest.hex(), digest.size())
}

/// `length` bytes that no other blob of a test has.
fn blob(function: DigestFunction, number: u8, length: usize) -> (RemoteDigest, Bytes) {
    let mut data = vec![number; length];
    data[..4].copy_from_slice(&(length as u32).to_be_bytes());
    (function.digest(&data), data.into())
}

/// It says what was exceeded, by whom, and when to try again.
#[track_caller]
fn refused(status: &Status, reason: &str, after: Duration) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, reason);
    let retry = details.retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(after), "{status:?}");
    let violations = &details.quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "identity:ci");
}

#[tokio::test]
async fn each_method_is_refused_beyond_the_rate() {
    let rate = limits(|limits| limits.requests_per_second = NonZeroU32::new(4));
    let limited = Limited::new([("ci", rate)]);
    let servers = limited.servers().await;
    let grpc = servers.grpc().await;
    let (ci, other) = (bearer(&token("ci")), bearer(&token("other")));
    let account = limited.account();
    while account.begin().is_ok() {
        account.end();
    }
    for method in METHODS {
        let path = format!("/{method}");
        let ended = grpc.call(&path, &[("authorization", &ci)], b"").await;
        let details = decoded(&ended.details);
        let status = Status::with_details(Code::from(ended.code), "", details);
        refused(&status, "RATE_LIMITED", Duration::from_millis(250));
        let ended = grpc.call(&path, &[("authorization", &other)], b"").await;
        assert_ne!(ended.code, Code::ResourceExhausted as i32, "{method}");
    }
    let (digest, data) = blob(DigestFunction::Sha256, 1, 1000);
    let tool = Tool::of(&servers, "ci").await;
    let status = tool.write(&digest, &data).await.unwrap_err();
    refused(&status, "RATE_LIMITED", Duration::from_millis(250));
    limited.pass(Duration::from_millis(250));
    assert_eq!(tool.write(&digest, &data).await.unwrap(), 1000);
    let status = tool.read(&digest).await.unwrap_err();
    refused(&status, "RATE_LIMITED", Duration::from_millis(250));
}

fn decoded(details: &str) -> Bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let bare = details.trim_end_matches('=');
    STANDARD_NO_PAD.decode(bare).unwrap().into()
}

#[tokio::test]
async fn bytes_are_booked_as_they_move_and_who_is_far_ahead_is_refused() {
    let rate = 1_000_000_000;
    let both = limits(|limits| {
        limits.bytes_in_per_second = NonZeroU64::new(rate);
        limits.bytes_out_per_second = NonZeroU64::new(rate);
    });
    let limited = Limited::new([("ci", both)]);
    let servers = limited.servers().await;
    let (tool, account) = (Tool::of(&servers, "ci").await, limited.account());
    // What is free after a rest is used up: what moves is the debt, a nanosecond a byte.
    account.moved(Direction::In, rate);
    account.moved(Direction::Out, rate);
    let debt = |way| account.debt(way).as_nanos();
    for (number, function) in (1..).zip(FUNCTIONS) {
        for length in [1000, 3 * SMALL] {
            let (digest, data) = blob(function, number, length);
            let (came, went) = (debt(Direction::In), debt(Direction::Out));
            let stored = tool.write(&digest, &data).await.unwrap();
            assert_eq!(stored, length as i64);
            let came = debt(Direction::In) - came;
            let (least, most) = (length as u128, length as u128 + 5_000);
            assert!((least..most).contains(&came), "{length}: {came}");
            assert_eq!(tool.read(&digest).await.unwrap(), length);
            let went = debt(Direction::Out) - went;
            assert!((least..most).contains(&went), "{length}: {went}");
        }
        let (digest, data) = blob(function, number, 500_000);
        let before = debt(Direction::In);
        tool.update(&[(digest, data)]).await.unwrap();
        assert!(debt(Direction::In) - before >= 500_000);
    }
    account.moved(Direction::In, 3 * rate);
    let ahead = account.debt(Direction::In) - Duration::from_secs(2);
    let (digest, data) = blob(DigestFunction::Sha256, 3, 1000);
    let status = tool.write(&digest, &data).await.unwrap_err();
    refused(&status, "RATE_LIMITED", ahead);
    limited.pass(ahead);
    account.moved(Direction::In, rate / 2);
    let status = tool.update(&[(digest, data.clone())]).await.unwrap_err();
    refused(&status, "RATE_LIMITED", Duration::from_millis(500));
    limited.pass(Duration::from_secs(3));
    assert_eq!(tool.write(&digest, &data).await.unwrap(), 1000);
}

#[tokio::test]
async fn who_has_used_up_its_day_writes_nothing_new() {
    for function in FUNCTIONS {
        let limited = Limited::new([("ci", day(3 * SMALL as u64))]);
        let servers = limited.servers().await;
        let (tool, other) = (
            Tool::of(&servers, "ci").await,
            Tool::of(&servers, "other").await,
        );
        let (known, known_data) = blob(function, 1, SMALL);
        assert!(tool.write(&known, &known_data).await.is_ok());
        limited.pass_hours(23);
        // When the hour ends that is a day ago by then.
        let hour = Duration::from_secs(HOUR);
        let (beyond, beyond_data) = blob(function, 2, 2 * SMALL + 1);
        let status = tool.write(&beyond, &beyond_data).await.unwrap_err();
        refused(&status, "QUOTA_EXCEEDED", hour);
        let status = tool.set_action(&beyond, beyond_data.clone()).await;
        refused(&status.unwrap_err(), "QUOTA_EXCEEDED", hour);
        // Each blob of a batch has its own outcome.
        let fits = blob(function, 3, 2 * SMALL - 100);
        let batch = [
            (beyond, beyond_data.clone()),
            (known, known_data.clone()),
            fits.clone(),
        ];
        let outcomes = tool.update(&batch).await.unwrap();
        let codes: Vec<_> = outcomes.iter().map(|one| Code::from(one.code)).collect();
        assert_eq!(codes, [Code::ResourceExhausted, Code::Ok, Code::Ok]);
        let details: Vec<_> = outcomes[0].details.iter().collect();
        let kinds: Vec<_> = details.iter().map(|one| &*one.type_url).collect();
        assert_eq!(kinds, ["type.googleapis.com/google.rpc.RetryInfo"]);
        // Now there is room for 100 bytes: what was refused has taken none.
        let (small, small_data) = blob(function, 4, 200);
        let status = tool.write(&small, &small_data).await.unwrap_err();
        refused(&status, "QUOTA_EXCEEDED", hour);
        let status = tool.set_action(&small, small_data.clone()).await;
        refused(&status.unwrap_err(), "QUOTA_EXCEEDED", hour);
        // What is there needs none, and is read.
        assert_eq!(tool.write(&known, &known_data).await.unwrap(), SMALL as i64);
        assert_eq!(tool.read(&known).await.unwrap(), SMALL);
        assert_eq!(
            other.write(&beyond, &beyond_data).await.unwrap(),
            beyond.size() as i64
        );
        limited.pass_hours(1);
        assert_eq!(tool.write(&small, &small_data).await.unwrap(), 200);
        tool.set_action(&small, small_data).await.unwrap();
    }
}
