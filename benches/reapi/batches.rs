//! Small blobs by batches.

use futures::{StreamExt, TryStreamExt, stream};
use tonic::transport::Channel;
use zako_reapi::digest::DigestFunction;
use zako_reapi::proto::reapi::batch_update_blobs_request::Request;
use zako_reapi::proto::reapi::{BatchReadBlobsRequest, BatchUpdateBlobsRequest};

use crate::Outcome;
use crate::calls::{self, FUNCTIONS, Named};
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Remote Execution API: blobs of 8 KiB by batches";

/// As many as the server offers to take.
const BATCH: usize = (4 << 20) / (8 << 10);

/// Calls under way at once, each on a connection of its own.
const IN_FLIGHT: usize = 4;

const ROWS: [[&str; 2]; 2] = [
    ["update, SHA-256", "read, SHA-256"],
    ["update, BLAKE3", "read, BLAKE3"],
];

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    for (function, row) in FUNCTIONS {
        let count = run.size(2 * BATCH, 60_000);
        let blobs = calls::named(function, 3, count, 8 << 10);
        let store = run.new_folder()?;
        run.take_pages(count as u64 * (8 << 10))?;
        let server = Server::start(run, store.path(), &[])?;
        let mut channels = Vec::with_capacity(IN_FLIGHT);
        for _ in 0..IN_FLIGHT {
            channels.push(calls::connect(&server).await?);
        }
        for (at, name) in ROWS[row].into_iter().enumerate() {
            // The first read of a blob hashes it.
            if at == 1 {
                all(&channels, function, &blobs, false).await?;
            }
            let meter = server.meter()?;
            all(&channels, function, &blobs, at == 0).await?;
            let cells = calls::cells("blobs/s", count, meter.end()?, &[]);
            report.add(TITLE, name, &cells);
        }
        server.stop()?;
    }
    Ok(())
}

async fn all(
    channels: &[Channel],
    function: DigestFunction,
    blobs: &[Named],
    writes: bool,
) -> Outcome<()> {
    let calls = blobs.chunks(BATCH).zip(channels.iter().cycle());
    let calls = calls.map(|(blobs, channel)| async move {
        match writes {
            true => update(channel, function, blobs).await,
            false => read(channel, function, blobs).await,
        }
    });
    let calls = stream::iter(calls).buffer_unordered(IN_FLIGHT);
    calls.try_collect().await
}

async fn update(channel: &Channel, function: DigestFunction, blobs: &[Named]) -> Outcome<()> {
    let entries = blobs.iter().map(|(digest, data)| Request {
        digest: Some(digest.to_wire()),
        data: data.clone(),
        ..Request::default()
    });
    let request = BatchUpdateBlobsRequest {
        requests: entries.collect(),
        digest_function: function.wire() as i32,
        ..BatchUpdateBlobsRequest::default()
    };
    let response = calls::cas(channel).batch_update_blobs(request).await?;
    let responses = response.into_inner().responses;
    let stored = |status: Option<i32>| status == Some(0);
    let all = responses
        .iter()
        .all(|one| stored(one.status.as_ref().map(|status| status.code)));
    match all && responses.len() == blobs.len() {
        true => Ok(()),
        false => Err("not all blobs of a batch were stored".into()),
    }
}

async fn read(channel: &Channel, function: DigestFunction, blobs: &[Named]) -> Outcome<()> {
    let request = BatchReadBlobsRequest {
        digests: blobs.iter().map(|(digest, _)| digest.to_wire()).collect(),
        digest_function: function.wire() as i32,
        ..BatchReadBlobsRequest::default()
    };
    let response = calls::cas(channel).batch_read_blobs(request).await?;
    let responses = response.into_inner().responses;
    let read = responses.iter().zip(blobs);
    match responses.len() == blobs.len()
        && read
            .into_iter()
            .all(|(one, (_, data))| one.data.len() == data.len())
    {
        true => Ok(()),
        false => Err("not all blobs of a batch were read".into()),
    }
}
