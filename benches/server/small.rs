//! Many small blobs, one by one and in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, stream};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt};
use zako_core::client::Client;

use crate::Outcome;
use crate::limits;
use crate::process::{Cost, Server};
use crate::report::{Report, quantile};
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Small blobs of 8 KiB";

/// What a group of blobs that are synced together may come to, for the limit.
const BLOCK: usize = 1 << 20;

/// Blobs that are asked for at once and let go before more are, as by who writes them to
/// files: the other batches keep all, in memory that is new to the process.
const STEP: usize = 2048;
pub(crate) const STEPPED: &str = "get, batched, 2,048 by 2,048";

/// Calls under way at once.
const IN_FLIGHT: usize = 64;

type Blobs = Arc<Vec<(Digest, Bytes)>>;

#[derive(Clone, Copy)]
enum Call {
    Put,
    Get,
}

/// One round.
pub(crate) async fn round(run: &Run, blobs: &Blobs, report: &mut Report) -> Outcome<()> {
    let bytes: u64 = blobs.iter().map(|(digest, _)| digest.size()).sum();
    run.take_pages(bytes)?;
    let limit = limits::appends(
        &run.folder().join("file"),
        BLOCK,
        bytes.div_ceil(BLOCK as u64),
    )?;
    report.add(
        limits::TITLE,
        "append 1 MiB and fdatasync, again and again",
        &[
            ("GB/s", limit.rate / 1e9),
            (
                "CPU-s/GiB",
                limit.sender * (1u64 << 30) as f64 / bytes as f64,
            ),
        ],
    );
    run.take_pages(bytes)?;
    let store = run.new_folder()?;
    let server = Server::start(run, store.path(), &[])?;
    let clients = vec![server.client(true).await?];
    one_by_one(
        &server,
        &clients,
        blobs,
        Call::Put,
        "put, one client",
        report,
    )
    .await?;
    one_by_one(
        &server,
        &clients,
        blobs,
        Call::Get,
        "get, one client",
        report,
    )
    .await?;
    drop(clients);
    server.stop()?;

    run.take_pages(bytes)?;
    let store = run.new_folder()?;
    let server = Server::start(run, store.path(), &[])?;
    let clients = server.clients(IN_FLIGHT).await?;
    one_by_one(
        &server,
        &clients,
        blobs,
        Call::Put,
        "put, 64 clients",
        report,
    )
    .await?;
    one_by_one(
        &server,
        &clients,
        blobs,
        Call::Get,
        "get, 64 clients",
        report,
    )
    .await?;
    drop(clients);
    server.stop()?;

    run.take_pages(bytes)?;
    let store = run.new_folder()?;
    let server = Server::start(run, store.path(), &[])?;
    let client = server.client(true).await?;
    let batch: Vec<_> = blobs.iter().cloned().collect();
    let meter = server.meter()?;
    for outcome in client.put_batch(batch).await {
        outcome?;
    }
    add(report, "put, batched", blobs.len(), meter.end()?, &[]);
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    // The first read of a blob hashes it at the server.
    for name in ["get, batched, first", "get, batched"] {
        let meter = server.meter()?;
        for outcome in client.fetch_batch(&digests).await {
            outcome?;
        }
        add(report, name, blobs.len(), meter.end()?, &[]);
    }
    let meter = server.meter()?;
    let mut steps = stream::iter(digests.chunks(STEP))
        .map(|step| client.fetch_batch(step))
        .buffered(2);
    while let Some(outcomes) = steps.next().await {
        for outcome in outcomes {
            outcome?;
        }
    }
    add(report, STEPPED, blobs.len(), meter.end()?, &[]);
    server.stop()
}

fn add(report: &mut Report, name: &'static str, count: usize, cost: Cost, milliseconds: &[f64]) {
    let each = 1e6 / count as f64;
    let mut cells = vec![
        ("blobs/s", count as f64 / cost.wall),
        ("server CPU µs", cost.server * each),
        ("client CPU µs", cost.client * each),
        ("server's peak, MiB", cost.peak as f64 / (1 << 20) as f64),
    ];
    for (name, at) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
        cells.extend(quantile(milliseconds, at).map(|time| (name, time)));
    }
    report.add(TITLE, name, &cells);
}

/// Moves each blob by a call of its own.
async fn one_by_one(
    server: &Server,
    clients: &[Client],
    blobs: &Blobs,
    call: Call,
    name: &'static str,
    report: &mut Report,
) -> Outcome<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let meter = server.meter()?;
    let workers = (0..IN_FLIGHT).map(|at| {
        let (blobs, next) = (Arc::clone(blobs), Arc::clone(&next));
        let client = clients[at % clients.len()].clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while let Some((digest, data)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let start = Instant::now();
                match call {
                    Call::Put => drop(client.put(digest, data.clone()).await?),
                    Call::Get => drop(client.fetch_bytes(digest).await?),
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
    add(report, name, blobs.len(), meter.end()?, &times);
    Ok(())
}
