//! The control stream of an RDMA session: a call on a connection of this client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use zako_protobuf::rdma::ServerMessage;
use zako_protobuf::rdma::rdma_client::RdmaClient;
use zako_rdma::session::{self, Control};

use crate::cas::CasError;
use crate::client::session::Seat;
use crate::client::status;

/// Messages between a session and its call.
const QUEUE: usize = 32;

/// The longest message of a server, in bytes.
const LONGEST: usize = 64 << 10;

/// The metadata of a server that knows of traces of transfers.
const TRACES: &str = "zako-rdma-trace";

/// Whether the server does.
pub(super) type Traces = Arc<AtomicBool>;

/// What the server says to the call, or what broke it.
pub(super) type Refusal = Arc<OnceLock<CasError>>;

/// A control stream on the connection of `seat`. It takes none of the streams that the
/// server recommends: nothing of a blob moves on it. Its call is made when it is read
/// first, and what that fails with is left in `refusal`.
pub(super) fn open(seat: &Seat, refusal: Refusal, traces: Traces) -> Control<session::Client> {
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let request = seat.request(ReceiverStream::new(messages));
    let mut client = RdmaClient::new(seat.http2()).max_decoding_message_size(LONGEST);
    // Not waited for: a server may answer only after the offer.
    let call = async move {
        client.session(request).await.map(|answer| {
            let knows = answer.metadata().contains_key(TRACES);
            traces.store(knows, Ordering::Relaxed);
            answer.into_inner()
        })
    };
    Control::new(outgoing, answers(stream::once(call).try_flatten(), refusal))
}

fn answers(
    answers: impl Stream<Item = Result<ServerMessage, tonic::Status>> + Send + 'static,
    refusal: Refusal,
) -> impl Stream<Item = Result<ServerMessage, CasError>> + Send + 'static {
    answers.map(move |answer| {
        answer.map_err(|status| {
            let error = status::from_status(&status);
            refusal.get_or_init(|| error).clone()
        })
    })
}
