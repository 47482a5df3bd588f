//! A client of generated code, as others have it, against the bulk calls that go
//! past generated code.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use bytes::{Bytes, BytesMut};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use wire_harness::{Running, pattern};
use zako_core::Digest;
use zako_core::server::ServerOptions;
use zako_digest::hash;
use zako_protobuf::cas::GetTransportDetailsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::range::BlobRange;
use zako_protobuf::transport::transport_client::TransportClient;
use zako_protobuf::transport::upload_request::Payload;
use zako_protobuf::transport::{BlobResource, DownloadRequest, UploadRequest};

async fn channel(server: &Running) -> Channel {
    let endpoint = Endpoint::try_from(format!("http://{}", server.addr)).unwrap();
    endpoint.connect().await.unwrap()
}

async fn token(channel: Channel) -> String {
    let request = GetTransportDetailsRequest {
        supported_protocols: vec![0],
        scope: 0,
    };
    let mut cas = ContentAddressableStorageClient::new(channel);
    let details = cas.get_transport_details(request).await.unwrap();
    details.into_inner().auth_token
}

fn resource(digest: Digest) -> BlobResource {
    BlobResource {
        digest: Some(digest.into()),
        range: Some(BlobRange::default()),
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("zako-token", token.parse().unwrap());
    request
}

async fn upload(
    client: &mut TransportClient<Channel>,
    token: &str,
    digest: Digest,
    data: &Bytes,
    step: usize,
) -> Result<u64, Status> {
    let mut payloads = vec![Payload::Metadata(resource(digest))];
    let mut rest = data.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(step.min(rest.len()));
        payloads.push(Payload::Chunk(piece));
    }
    let messages = futures::stream::iter(payloads.into_iter().map(|payload| UploadRequest {
        payload: Some(payload),
    }));
    let response = client.upload(with_token(messages, token)).await?;
    Ok(response.into_inner().committed_size)
}

async fn download(client: &mut TransportClient<Channel>, digest: Digest) -> Result<Bytes, Status> {
    let request = DownloadRequest {
        metadata: Some(resource(digest)),
    };
    let mut messages = client.download(request).await?.into_inner();
    let mut data = BytesMut::new();
    while let Some(message) = messages.message().await? {
        data.extend_from_slice(&message.data);
    }
    Ok(data.freeze())
}

#[tokio::test]
async fn blobs_of_all_sizes_there_and_back() {
    let server = Running::start(ServerOptions::default()).await;
    let channel = channel(&server).await;
    let token = token(channel.clone()).await;
    let mut client = TransportClient::new(channel);
    for (size, step) in [(0, 1), (1, 1), (100_000, 777), (9_000_000, 1 << 20)] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let committed = upload(&mut client, &token, digest, &data, step).await;
        assert_eq!(committed.unwrap(), size as u64);
        assert!(download(&mut client, digest).await.unwrap() == data);
        let again = upload(&mut client, &token, digest, &data, 1 << 20).await;
        assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);
    }
}

#[tokio::test]
async fn statuses_and_their_details_are_read() {
    let server = Running::start(ServerOptions::default()).await;
    let channel = channel(&server).await;
    let token = token(channel.clone()).await;
    let mut client = TransportClient::new(channel);
    let data = pattern(2_000_000);
    let digest = hash::bytes(&data);
    let status = download(&mut client, digest).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let short = data.slice(..1_000_000);
    let status = upload(&mut client, &token, digest, &short, 1 << 16).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((&*info.domain, &*info.reason), ("zako", "MISMATCH"));
    assert_eq!(info.metadata["digest"], digest.to_string());
    assert!(details.bad_request().is_some());

    let status = download(&mut client, digest).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
