//! The calls that clients make.

use bytes::Bytes;
use futures::{Stream, stream};
use tonic::transport::{Channel, Endpoint};
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::byte_stream_client::ByteStreamClient;
use zako_reapi::proto::bytestream::{ReadRequest, WriteRequest};
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;

use crate::blobs::noise;
use crate::process::{Cost, Server};
use crate::{Outcome, report};

pub(crate) const GIB: f64 = (1u64 << 30) as f64;
pub(crate) const MIB: f64 = (1u64 << 20) as f64;

/// The hash functions that are measured, with the names of their rows.
pub(crate) const FUNCTIONS: [(DigestFunction, usize); 2] =
    [(DigestFunction::Sha256, 0), (DigestFunction::Blake3, 1)];

/// Data of a message: what most clients send.
const MESSAGE: usize = 1 << 20;

/// A blob and its name.
pub(crate) type Named = (RemoteDigest, Bytes);

/// A connection of its own, with windows that don't hold it up.
pub(crate) async fn connect(server: &Server) -> Outcome<Channel> {
    let endpoint = Endpoint::from_shared(server.url.to_string())?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

pub(crate) fn streams(channel: &Channel) -> ByteStreamClient<Channel> {
    ByteStreamClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}

pub(crate) fn cas(channel: &Channel) -> ContentAddressableStorageClient<Channel> {
    ContentAddressableStorageClient::new(channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

/// Blobs that differ from one another and from other seeds', with their names.
pub(crate) fn named(function: DigestFunction, seed: u64, count: usize, size: usize) -> Vec<Named> {
    let blobs = (0..count as u64).map(|at| Bytes::from(noise(seed << 32 | at, size)));
    blobs.map(|data| (function.digest(&data), data)).collect()
}

fn path(digest: &RemoteDigest) -> String {
    let function = digest.function().name();
    format!("blobs/{function}/{}/{}", digest.hex(), digest.size())
}

/// The messages of a write of these bytes, which finish it or not.
pub(crate) fn writes(
    digest: &RemoteDigest,
    data: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>,
    finish: bool,
) -> impl Stream<Item = WriteRequest> + Send + 'static {
    let name = format!(
        "uploads/6f2c1f5e-2d0b-4a53-9f4a-5f3c1d2e4b6a/{}",
        path(digest)
    );
    let (mut offset, size) = (0, digest.size() as i64);
    let messages = data.into_iter().map(move |data| {
        let write_offset = offset;
        offset += data.len() as i64;
        WriteRequest {
            resource_name: if write_offset == 0 {
                name.clone()
            } else {
                String::new()
            },
            write_offset,
            finish_write: finish && offset == size,
            data,
        }
    });
    stream::iter(messages)
}

pub(crate) async fn write(channel: &Channel, (digest, data): &Named) -> Outcome<()> {
    let pieces: Vec<Bytes> = data
        .chunks(MESSAGE)
        .map(|piece| data.slice_ref(piece))
        .collect();
    let response = streams(channel).write(writes(digest, pieces, true)).await?;
    match response.into_inner().committed_size as u64 == digest.size() {
        true => Ok(()),
        false => Err("another size was committed".into()),
    }
}

pub(crate) async fn read(channel: &Channel, digest: &RemoteDigest) -> Outcome<()> {
    let request = ReadRequest {
        resource_name: path(digest),
        ..ReadRequest::default()
    };
    let mut messages = streams(channel).read(request).await?.into_inner();
    let mut length = 0;
    while let Some(message) = messages.message().await? {
        length += message.data.len() as u64;
    }
    match length == digest.size() {
        true => Ok(()),
        false => Err("another size was read".into()),
    }
}

/// What `count` small things of each kind cost.
pub(crate) fn cells(
    what: &'static str,
    count: usize,
    cost: Cost,
    milliseconds: &[f64],
) -> Vec<(&'static str, f64)> {
    let each = 1e6 / count as f64;
    let mut cells = vec![
        (what, count as f64 / cost.wall),
        ("server CPU µs", cost.server * each),
        ("client CPU µs", cost.client * each),
        ("server's peak, MiB", cost.peak as f64 / MIB),
    ];
    for (name, at) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
        cells.extend(report::quantile(milliseconds, at).map(|time| (name, time)));
    }
    cells
}
