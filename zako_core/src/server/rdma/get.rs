//! A blob on its way to a client that pulls it.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use tokio::time::timeout;
use tonic::Status;
use zako_rdma::session::{Expose, GetRequest, TransferError};

use super::put::told;
use crate::BlobRange;
use crate::cas::{Blob, CasError, ErrorKind};
use crate::server::connection::Shared;
use crate::server::status::to_status;

/// Why a download ends before its time.
enum End {
    /// This side can't go on.
    Here(Status),
    /// The client wants no more, or its session is over.
    There(TransferError),
}

/// Serves one download.
pub(super) async fn serve(shared: Arc<Shared>, request: GetRequest) {
    let (digest, range) = (*request.digest(), request.range());
    let part = BlobRange::new(range.start, range.end - range.start);
    let blob = match shared.cas.fetch(&digest, part).await {
        Ok(blob) => blob,
        Err(error) => return request.refuse(told(&to_status(&error))),
    };
    let mut expose = request.accept();
    match send(&shared, blob, &mut expose).await {
        Ok(()) => {
            if let Err(error) = expose.finish().await {
                tracing::debug!(%digest, %error, "a download over RDMA was not taken");
            }
        }
        Err(End::Here(status)) => {
            tracing::debug!(%digest, %status, "a download over RDMA broke off");
            expose.fail(told(&status));
        }
        Err(End::There(error)) => {
            tracing::debug!(%digest, %error, "a download over RDMA was given up");
        }
    }
}

async fn send(shared: &Shared, mut blob: Blob, expose: &mut Expose) -> Result<(), End> {
    let idle = shared.options.download_idle_timeout;
    loop {
        let began = Instant::now();
        let step = match blob.next().await {
            Some(Ok(step)) => step,
            Some(Err(error)) => return Err(End::Here(to_status(&error))),
            None => return Ok(()),
        };
        shared
            .gate
            .service_time()
            .record(step.len(), began.elapsed());
        match timeout(idle, expose.send(&step)).await {
            Ok(sent) => sent.map_err(End::There)?,
            Err(_) => {
                let text = format!("the client pulled nothing for {idle:?}");
                return Err(End::Here(to_status(&CasError::new(
                    ErrorKind::Timeout,
                    text,
                ))));
            }
        }
    }
}
