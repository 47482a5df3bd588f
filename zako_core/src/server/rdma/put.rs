//! A blob that is pulled from a client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use zako_rdma::session::{self, Code, Pull, PutRequest, TransferError};

use crate::access::Pace;
use crate::cas::{CasError, ErrorKind};
use crate::server::connection::Shared;
use crate::server::memory::Share;
use crate::server::meter::Meter;
use crate::server::status::to_status;
use crate::server::upload::{self, End, Source};

/// The bytes as they are pulled.
struct Pulled {
    pull: Pull,
    /// How long nothing may come.
    idle: Duration,
    park: CancellationToken,
    meter: Option<Arc<Meter>>,
    pace: Option<Pace>,
    held: Share,
}

/// Takes one upload.
pub(super) async fn take(
    shared: Arc<Shared>,
    request: PutRequest,
    meter: Option<Arc<Meter>>,
    pace: Option<Pace>,
) {
    let ended = |code: tonic::Code| {
        if let Some(meter) = &meter {
            meter.coded(code);
        }
    };
    let (digest, start) = (*request.digest(), request.offset());
    let cas = &*shared.cas;
    if let Err(status) = upload::check(cas, &digest, start).await {
        ended(status.code());
        let held = cas.held(&digest).await.unwrap_or_default();
        return request.refuse(told(&status).with_held(held));
    }
    let mut source = Pulled {
        pull: request.accept(),
        idle: shared.options.upload_idle_timeout,
        park: shared.park.clone(),
        pace,
        meter: meter.clone(),
        held: shared.memory.share(),
    };
    let stored = match source.chunk().await {
        Ok(first) => {
            let first = first.unwrap_or_default();
            upload::store(&shared, &mut source, &digest, start, first).await
        }
        Err(end) => Err(end.status()),
    };
    let last_word = match stored {
        Ok(size) => {
            ended(tonic::Code::Ok);
            session::Status::ok(size)
        }
        Err(status) => {
            tracing::debug!(%digest, %status, "an upload over RDMA was not stored");
            ended(status.code());
            let held = cas.held(&digest).await.unwrap_or_default();
            told(&status).with_held(held)
        }
    };
    source.pull.finish(last_word);
}

/// A status as a session tells it.
pub(super) fn told(status: &Status) -> session::Status {
    let told = session::Status::new(Code::from_i32(status.code().into()), status.message());
    told.with_details(status.details())
}

impl Source for Pulled {
    fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.held.grow(bytes)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, End> {
        let unavailable =
            |text: String| End::Park(to_status(&CasError::new(ErrorKind::Unavailable, text)));
        let pull = async {
            if let Some(pace) = &mut self.pace {
                pace.ready().await;
            }
            timeout(self.idle, self.pull.next()).await
        };
        let next = tokio::select! {
            biased;
            () = self.park.cancelled() => {
                return Err(unavailable("the server is stopping".to_owned()));
            }
            next = pull => next,
        };
        match next {
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => {
                if let Some(pace) = &mut self.pace {
                    pace.moved(bytes.len());
                }
                if let Some(meter) = &self.meter {
                    meter.received(bytes.len() as u64);
                }
                Ok(Some(bytes))
            }
            // The client wants nothing of it to be kept.
            Ok(Some(Err(TransferError::Peer(status)))) if status.code == Code::InvalidArgument => {
                Err(End::Discard(Status::invalid_argument(status.message)))
            }
            Ok(Some(Err(error))) => Err(unavailable(error.to_string())),
            Err(_) => {
                let text = format!("the client exposed nothing for {:?}", self.idle);
                let error = CasError::new(ErrorKind::Timeout, text);
                Err(End::Park(to_status(&error)))
            }
        }
    }
}
