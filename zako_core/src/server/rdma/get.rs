//! A blob on its way to a client that pulls it.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use tokio::time::timeout;
use tonic::{Code, Status};
use zako_rdma::session::{Expose, GetRequest, TransferError};

use super::put::told;
use crate::BlobRange;
use crate::access::Pace;
use crate::cas::{Blob, CasError, ErrorKind, FileExtent};
use crate::server::connection::Shared;
use crate::server::meter::Meter;
use crate::server::status::to_status;

/// Why a download ends before its time.
enum End {
    /// This side can't go on.
    Here(Status),
    /// The client wants no more, or its session is over.
    There(TransferError),
}

/// Serves one download.
pub(super) async fn serve(
    shared: Arc<Shared>,
    request: GetRequest,
    meter: Option<Arc<Meter>>,
    mut pace: Option<Pace>,
) {
    let ended = |code: Code| {
        if let Some(meter) = &meter {
            meter.coded(code);
        }
    };
    let (digest, range) = (*request.digest(), request.range());
    let part = BlobRange::new(range.start, range.end - range.start);
    let blob = match shared.cas.fetch(&digest, part).await {
        Ok(blob) => blob,
        Err(error) => {
            let status = to_status(&error);
            ended(status.code());
            return request.refuse(told(&status));
        }
    };
    let length = blob.len();
    let mut expose = request.accept();
    match send(&shared, blob, &mut expose, &mut pace).await {
        Ok(()) => match timeout(shared.options.download_idle_timeout, expose.finish()).await {
            Ok(Ok(_)) => {
                ended(Code::Ok);
                if let Some(meter) = &meter {
                    meter.sent(length);
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%digest, %error, "a download over RDMA was not taken");
            }
            Err(_) => tracing::debug!(%digest, "a download over RDMA was never taken"),
        },
        Err(End::Here(status)) => {
            tracing::debug!(%digest, %status, "a download over RDMA broke off");
            ended(status.code());
            expose.fail(told(&status));
        }
        Err(End::There(error)) => {
            tracing::debug!(%digest, %error, "a download over RDMA was given up");
        }
    }
}

async fn send(
    shared: &Shared,
    mut blob: Blob,
    expose: &mut Expose,
    pace: &mut Option<Pace>,
) -> Result<(), End> {
    let idle = shared.options.download_idle_timeout;
    let late = |_| {
        let text = format!("the client pulled nothing for {idle:?}");
        End::Here(to_status(&CasError::new(ErrorKind::Timeout, text)))
    };
    let mut left = blob.len();
    while left > 0 {
        slowed(pace).await;
        if let Some(extent) = blob.raw_extent() {
            let part = FileExtent {
                file: Arc::clone(&extent.file),
                offset: extent.offset + (blob.len() - left),
            };
            let room = timeout(idle, expose.room()).await.map_err(late)?;
            let room = room.map_err(End::There)?;
            let began = Instant::now();
            let read = read_cached(&part, room, left);
            if read > 0 {
                expose.filled(read).map_err(End::There)?;
                blob.skip_bytes(read as u64);
                booked(pace, read);
                left -= read as u64;
                shared.gate.service_time().record(read, began.elapsed());
                continue;
            }
        }
        let began = Instant::now();
        let step = match blob.next().await {
            Some(Ok(step)) => step,
            Some(Err(error)) => return Err(End::Here(to_status(&error))),
            None => return Err(End::Here(wrong_length(&blob))),
        };
        let length = step.len();
        left = left
            .checked_sub(length as u64)
            .ok_or_else(|| End::Here(wrong_length(&blob)))?;
        shared.gate.service_time().record(length, began.elapsed());
        booked(pace, length);
        // A step may be longer than what the client has to take in time.
        let mut rest = &step[..];
        while !rest.is_empty() {
            let room = timeout(idle, expose.room()).await.map_err(late)?;
            let room = room.map_err(End::There)?;
            let (now, later) = rest.split_at(room.len().min(rest.len()));
            room[..now.len()].copy_from_slice(now);
            expose.filled(now.len()).map_err(End::There)?;
            rest = later;
        }
    }
    Ok(())
}

async fn slowed(pace: &mut Option<Pace>) {
    if let Some(pace) = pace {
        pace.ready().await;
    }
}

fn booked(pace: &mut Option<Pace>, bytes: usize) {
    if let Some(pace) = pace {
        pace.moved(bytes);
    }
}

/// Reads into the memory that the client pulls from, which saves a copy, as much as is in
/// the page cache; 0 if the disk would have to be waited for, or can't be read.
fn read_cached(extent: &FileExtent, room: &mut [u8], left: u64) -> usize {
    #[cfg(target_os = "linux")]
    {
        use std::io::IoSliceMut;

        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        use crate::server::sendfile::has_no_disk;

        let length = usize::try_from(left).map_or(room.len(), |left| left.min(room.len()));
        let mut buffers = [IoSliceMut::new(&mut room[..length])];
        let read = preadv2(
            &*extent.file,
            &mut buffers,
            extent.offset,
            ReadWriteFlags::NOWAIT,
        );
        match read {
            Err(Errno::OPNOTSUPP) if has_no_disk(&extent.file) => {
                use std::os::unix::fs::FileExt;
                extent.file.read_at(&mut room[..length], extent.offset)
            }
            read => read.map_err(Into::into),
        }
        // The store's own read, which is next, tells what is wrong with the file.
        .unwrap_or(0)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (extent, room, left);
        0
    }
}

fn wrong_length(blob: &Blob) -> Status {
    let text = "the store gave another number of bytes than the blob has";
    to_status(&CasError::new(ErrorKind::Internal, text).with_digest(*blob.digest()))
}
