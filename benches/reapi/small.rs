//! Small blobs by ByteStream, a call each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tonic::transport::Channel;

use crate::Outcome;
use crate::calls::{self, FUNCTIONS, Named};
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Remote Execution API: blobs of 8 KiB by ByteStream, 64 in flight";

/// Calls under way at once.
const IN_FLIGHT: usize = 64;

/// Connections that they share.
const CONNECTIONS: usize = 4;

const ROWS: [[&str; 2]; 2] = [
    ["write, SHA-256", "read, SHA-256"],
    ["write, BLAKE3", "read, BLAKE3"],
];

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    for (function, row) in FUNCTIONS {
        let count = run.size(500, 20_000);
        let blobs = Arc::new(calls::named(function, 2, count, 8 << 10));
        let store = run.new_folder()?;
        run.take_pages(count as u64 * (8 << 10))?;
        let server = Server::start(run, store.path(), &[])?;
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            channels.push(calls::connect(&server).await?);
        }
        for (at, name) in ROWS[row].into_iter().enumerate() {
            let meter = server.meter()?;
            let times = all(&channels, &blobs, at == 0).await?;
            let cells = calls::cells("blobs/s", count, meter.end()?, &times);
            report.add(TITLE, name, &cells);
        }
        server.stop()?;
    }
    Ok(())
}

/// How long each call took, in milliseconds.
async fn all(channels: &[Channel], blobs: &Arc<Vec<Named>>, writes: bool) -> Outcome<Vec<f64>> {
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..IN_FLIGHT).map(|at| {
        let (blobs, next) = (Arc::clone(blobs), Arc::clone(&next));
        let channel = channels[at % channels.len()].clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let start = Instant::now();
                match writes {
                    true => calls::write(&channel, blob).await?,
                    false => calls::read(&channel, &blob.0).await?,
                }
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Outcome::Ok(times)
        })
    });
    let mut times = Vec::with_capacity(blobs.len());
    for worker in workers.collect::<Vec<_>>() {
        times.extend(worker.await??);
    }
    Ok(times)
}
