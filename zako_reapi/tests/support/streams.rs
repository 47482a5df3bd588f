//! Calls of ByteStream as clients make them.

use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::byte_stream_client::ByteStreamClient;
use zako_reapi::proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteRequest,
};

/// Messages of a write are so long, in bytes.
pub const MESSAGE: usize = 64 * 1024;

pub const UUID: &str = "6f2c1f5e-2d0b-4a53-9f4a-5f3c1d2e4b6a";

pub fn client(channel: &Channel) -> ByteStreamClient<Channel> {
    ByteStreamClient::new(channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

/// `{function/}{hash}/{size}`.
pub fn path(digest: &RemoteDigest) -> String {
    let function = match digest.function() {
        DigestFunction::Blake3 => "blake3/",
        _ => "",
    };
    format!("{function}{}/{}", digest.hex(), digest.size())
}

pub fn to_read(digest: &RemoteDigest) -> String {
    format!("an/instance/blobs/{}", path(digest))
}

pub fn to_write(digest: &RemoteDigest) -> String {
    format!("an/instance/uploads/{UUID}/blobs/{}", path(digest))
}

pub fn to_read_zstd(digest: &RemoteDigest) -> String {
    format!("an/instance/compressed-blobs/zstd/{}", path(digest))
}

pub fn to_write_zstd(digest: &RemoteDigest) -> String {
    format!(
        "an/instance/uploads/{UUID}/compressed-blobs/zstd/{}",
        path(digest)
    )
}

/// The messages that write `data`, which begins at `offset`; the last one finishes.
pub fn messages(name: &str, offset: usize, data: &Bytes) -> Vec<WriteRequest> {
    let mut messages = unfinished(name, offset, data);
    match messages.last_mut() {
        Some(last) => last.finish_write = true,
        None => messages.push(WriteRequest {
            resource_name: name.to_owned(),
            write_offset: offset as i64,
            finish_write: true,
            data: Bytes::new(),
        }),
    }
    messages
}

/// The same, but nothing says that it ends there.
pub fn unfinished(name: &str, offset: usize, data: &Bytes) -> Vec<WriteRequest> {
    let starts = (0..data.len()).step_by(MESSAGE);
    let message = |start: usize| WriteRequest {
        resource_name: if start == 0 { name } else { "" }.to_owned(),
        write_offset: (offset + start) as i64,
        finish_write: false,
        data: data.slice(start..data.len().min(start + MESSAGE)),
    };
    starts.map(message).collect()
}

/// Writes these messages; the answer's `committed_size`.
pub async fn send(channel: &Channel, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    let stream = tokio_stream::iter(messages);
    let response = client(channel).write(stream).await?;
    Ok(response.into_inner().committed_size)
}

pub async fn write(channel: &Channel, name: &str, data: &Bytes) -> Result<i64, Status> {
    send(channel, messages(name, 0, data)).await
}

pub async fn read(channel: &Channel, name: &str) -> Result<Vec<u8>, Status> {
    read_part(channel, name, 0, 0).await
}

pub async fn read_part(
    channel: &Channel,
    name: &str,
    read_offset: i64,
    read_limit: i64,
) -> Result<Vec<u8>, Status> {
    let request = ReadRequest {
        resource_name: name.to_owned(),
        read_offset,
        read_limit,
    };
    let mut stream = client(channel).read(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(message) = stream.message().await? {
        data.extend_from_slice(&message.data);
    }
    Ok(data)
}

pub async fn query(channel: &Channel, name: &str) -> Result<QueryWriteStatusResponse, Status> {
    let request = QueryWriteStatusRequest {
        resource_name: name.to_owned(),
    };
    let response = client(channel).query_write_status(request).await?;
    Ok(response.into_inner())
}
