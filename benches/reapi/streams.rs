//! Large blobs by ByteStream, up and down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::transport::Channel;

use crate::Outcome;
use crate::calls::{self, FUNCTIONS, GIB, MIB, Named};
use crate::process::{Cost, Server};
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Remote Execution API: blobs of 128 MiB by ByteStream";

const ROWS: [[[&str; 2]; 2]; 2] = [
    [
        ["up, 1 stream, SHA-256", "up, 4 streams, SHA-256"],
        ["down, 1 stream, SHA-256", "down, 4 streams, SHA-256"],
    ],
    [
        ["up, 1 stream, BLAKE3", "up, 4 streams, BLAKE3"],
        ["down, 1 stream, BLAKE3", "down, 4 streams, BLAKE3"],
    ],
];

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    let size = run.size(3, 128) << 20;
    for (function, row) in FUNCTIONS {
        let blobs = Arc::new(calls::named(function, 1, 4, size));
        let bytes = 4 * size as u64;
        for (at, streams) in [1, 4].into_iter().enumerate() {
            let store = run.new_folder()?;
            run.take_pages(bytes)?;
            let server = Server::start(run, store.path(), &[])?;
            let cost = all(&server, &blobs, streams, Way::Up).await?;
            add(report, ROWS[row][0][at], bytes, cost);
            // The first read of a blob hashes it.
            all(&server, &blobs, streams, Way::Down).await?;
            let cost = all(&server, &blobs, streams, Way::Down).await?;
            add(report, ROWS[row][1][at], bytes, cost);
            server.stop()?;
        }
    }
    Ok(())
}

/// Moves all blobs, so many at a time, each stream on a connection of its own.
async fn all(server: &Server, blobs: &Arc<Vec<Named>>, streams: usize, way: Way) -> Outcome<Cost> {
    let mut channels = Vec::with_capacity(streams);
    for _ in 0..streams {
        channels.push(calls::connect(server).await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let meter = server.meter()?;
    let workers = channels.into_iter().map(|channel: Channel| {
        let (blobs, next) = (Arc::clone(blobs), Arc::clone(&next));
        tokio::spawn(async move {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                match way {
                    Way::Up => calls::write(&channel, blob).await?,
                    Way::Down => calls::read(&channel, &blob.0).await?,
                }
            }
            Outcome::Ok(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    meter.end()
}

fn add(report: &mut Report, row: &'static str, bytes: u64, cost: Cost) {
    let gib = bytes as f64 / GIB;
    let cells = [
        ("GB/s", bytes as f64 / cost.wall / 1e9),
        ("server CPU-s/GiB", cost.server / gib),
        ("client CPU-s/GiB", cost.client / gib),
        ("server's peak, MiB", cost.peak as f64 / MIB),
    ];
    report.add(TITLE, row, &cells);
}
