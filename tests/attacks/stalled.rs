//! Calls that begin, send some, and never finish: on many connections, many on each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use tokio::task::JoinSet;
use tonic::codegen::http::Request;
use zako_digest::{Digest, Hash};

use super::target::{attacker, in_time};

/// What is sent a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `Transport.Upload` of a blob that is collected; with a token.
    Upload,
    /// `Batch.BatchUpload`; with a token.
    Batch,
    /// A request that generated code reads.
    Request,
    /// `ByteStream.Write` of a blob that is collected.
    Write,
    /// `ByteStream.Write` of a blob that is written step by step.
    LargeWrite,
}

/// Who stalls how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) connections: u32,
    /// Calls on each.
    pub(crate) calls: u32,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Upload => "zako.v1.transport.Transport/Upload",
            Self::Batch => "zako.v1.batch.Batch/BatchUpload",
            Self::Request => DETAILS,
            Self::Write | Self::LargeWrite => "google.bytestream.ByteStream/Write",
        }
    }

    /// How much of a call's bulk is sent.
    fn sent(self) -> u64 {
        match self {
            Self::Upload | Self::Batch | Self::Request | Self::Write => 1_000_000,
            // Less than is hashed and written at once.
            Self::LargeWrite => 500_000,
        }
    }

    /// How much it would be.
    fn size(self) -> u64 {
        match self {
            Self::Upload | Self::Request | Self::Write => 1_020_000,
            Self::Batch => 4_000_000,
            Self::LargeWrite => 8_000_000,
        }
    }

    fn has_token(self) -> bool {
        matches!(self, Self::Upload | Self::Batch)
    }
}

const DETAILS: &str = "zako.v1.cas.ContentAddressableStorage/GetTransportDetails";

/// After so long, it will never be enough: all of it is a gigabyte through a debug build.
const HUNG: Duration = Duration::from_secs(300);

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(500);

/// What is under way, until it is dropped.
pub(crate) struct Stalled {
    /// How much was sent on each connection.
    sent: Vec<Arc<AtomicU64>>,
    _streams: JoinSet<()>,
}

impl Stalled {
    /// Begins what is planned.
    pub(crate) async fn begin(to: SocketAddr, plan: Plan) -> Self {
        let Plan {
            kind,
            connections,
            calls,
        } = plan;
        let (mut sent, mut streams) = (Vec::new(), JoinSet::new());
        for connection in 0..connections {
            let builder = h2::client::Builder::new().handshake(attacker(to).await);
            let (client, driving) = in_time("a greeting", builder).await.unwrap();
            streams.spawn(async move {
                let _ = driving.await;
            });
            let token = match kind.has_token() {
                true => Some(token(&client).await),
                false => None,
            };
            let moved = Arc::<AtomicU64>::default();
            for at in 0..calls {
                let number = connection * calls + at;
                let (client, moved) = (client.clone(), Arc::clone(&moved));
                let token = token.clone();
                streams.spawn(async move {
                    send(client, kind, token, number, &moved).await;
                });
            }
            sent.push(moved);
        }
        Self {
            sent,
            _streams: streams,
        }
    }

    /// Waits until each connection has sent so much, and nothing more is taken of any.
    pub(crate) async fn settled(&self, least: u64) {
        let moved = || self.sent.iter().map(|sent| sent.load(Ordering::Relaxed));
        let settling = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(EVERY).await;
                let now = moved().sum();
                if before == now && moved().all(|sent| sent >= least) {
                    return;
                }
                before = now;
            }
        };
        let settled = tokio::time::timeout(HUNG, settling).await;
        settled.expect("more and more is taken of stalled calls");
    }

    /// How many bytes were taken of all.
    pub(crate) fn sent(&self) -> u64 {
        let sent = self.sent.iter().map(|sent| sent.load(Ordering::Relaxed));
        sent.sum()
    }
}

/// Sends the beginning of a call as it is let, and then nothing, until the server ends it.
async fn send(
    client: SendRequest<Bytes>,
    kind: Kind,
    token: Option<String>,
    number: u32,
    moved: &AtomicU64,
) {
    let Some((answer, mut stream)) = call(client, kind.path(), token).await else {
        return;
    };
    let sending = async {
        let mut rest = Bytes::from([head(kind, number), vec![7; kind.sent() as usize]].concat());
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let capacity = futures::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let Some(Ok(capacity)) = capacity else {
                return;
            };
            let part = rest.split_to(capacity.min(rest.len()));
            moved.fetch_add(part.len() as u64, Ordering::Relaxed);
            if stream.send_data(part, false).is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = sending => {}
        _ = answer => {}
    }
}

/// A call that is begun.
async fn call(
    client: SendRequest<Bytes>,
    path: &str,
    token: Option<String>,
) -> Option<(h2::client::ResponseFuture, SendStream<Bytes>)> {
    let mut request = Request::post(format!("http://server/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("zako-token", token);
    }
    let mut ready = client.ready().await.ok()?;
    ready.send_request(request.body(()).unwrap(), false).ok()
}

/// A one-time token for the connection.
async fn token(client: &SendRequest<Bytes>) -> String {
    let (answer, mut stream) = call(client.clone(), DETAILS, None).await.unwrap();
    // The only road: gRPC.
    let request = framed(3, &[0x0a, 1, 0]);
    stream.send_data(request.into(), true).unwrap();
    let mut body: RecvStream = in_time("a token", answer).await.unwrap().into_body();
    let mut said = Vec::new();
    while let Some(part) = body.data().await {
        said.extend_from_slice(&part.unwrap());
    }
    let text = String::from_utf8_lossy(&said).into_owned();
    let mut words = text.split(|c: char| !c.is_ascii_hexdigit());
    words.find(|word| word.len() == 64).unwrap().to_owned()
}

/// All that comes before the first bytes of the bulk.
fn head(kind: Kind, number: u32) -> Vec<u8> {
    let size = kind.size();
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    let digest = Digest::new(Hash::from_bytes(hash), size);
    // One message that would be all of the blob.
    let data = |field: u64| [varint(field << 3 | 2), varint(size)].concat();
    match kind {
        Kind::Upload => {
            let digest = [
                number_field(1, size),
                bytes_field(2, digest.hash().as_bytes()),
            ];
            // From the first byte on.
            let resource = [bytes_field(1, &digest.concat()), bytes_field(2, &[])].concat();
            let metadata = bytes_field(1, &resource);
            let chunk = data(2);
            let length = chunk.len() as u64 + size;
            [
                framed(metadata.len() as u64, &metadata),
                framed(length, &chunk),
            ]
            .concat()
        }
        Kind::Write | Kind::LargeWrite => {
            let name = format!("uploads/u/blobs/{}/{size}", digest.hash());
            let fields = [bytes_field(1, name.as_bytes()), data(10)].concat();
            framed(fields.len() as u64 + size, &fields)
        }
        Kind::Batch | Kind::Request => framed(size, &[]),
    }
}

/// The beginning of a message of this length.
fn framed(length: u64, content: &[u8]) -> Vec<u8> {
    [&[0], &(length as u32).to_be_bytes()[..], content].concat()
}

fn number_field(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes_field(field: u64, content: &[u8]) -> Vec<u8> {
    let head = [varint(field << 3 | 2), varint(content.len() as u64)].concat();
    [&head, content].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
