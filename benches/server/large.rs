//! Large blobs, up and down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use zako_core::cas::{Cas, Stored};
use zako_core::client::Client;
use zako_core::{BlobRange, Digest};

use crate::Outcome;
use crate::iperf3;
use crate::limits::{self, Limit};
use crate::process::{Cost, Server};
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Large blobs";

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

type Blobs = Arc<Vec<(Digest, Bytes)>>;

/// One round.
pub(crate) async fn round(run: &Run, blobs: &Blobs, report: &mut Report) -> Outcome<()> {
    let bytes: u64 = blobs.iter().map(|(digest, _)| digest.size()).sum();
    let data: Vec<Bytes> = blobs.iter().map(|(_, data)| data.clone()).collect();
    let hash = limits::hash(&data)?;
    let file = run.folder().join("file");
    run.take_pages(bytes)?;
    let disk = limits::disk(&file, bytes)?;
    let tcp = limits::tcp(bytes, None)?;
    let read = limits::tcp(bytes, Some(&file))?;
    std::fs::remove_file(file)?;
    // A process that runs for longer: its start and its connection count, too.
    let iperf3_bytes = bytes * 4;
    let iperf3 = iperf3::loopback(iperf3_bytes)?;
    if iperf3.is_none() {
        eprintln!("iperf3 is not installed: going on without what is compared with it");
    }
    for (name, limit, bytes) in [
        ("BLAKE3, one thread", Some(hash), bytes),
        ("write and fdatasync", Some(disk), bytes),
        ("TCP over loopback", Some(tcp), bytes),
        ("TCP over loopback, from a file", Some(read), bytes),
        ("iperf3 over loopback", iperf3, iperf3_bytes),
    ] {
        let Some(limit) = limit else { continue };
        let mut cells = vec![
            ("GB/s", limit.rate / 1e9),
            ("CPU-s/GiB", limit.sender * GIB / bytes as f64),
        ];
        if limit.receiver > 0.0 {
            cells.push(("receiver's", limit.receiver * GIB / bytes as f64));
        }
        report.add(limits::TITLE, name, &cells);
    }
    let over_tcp: Vec<(&'static str, Limit)> = [
        ("÷ iperf3", iperf3),
        ("÷ TCP", Some(tcp)),
        ("÷ file to TCP", Some(read)),
    ]
    .into_iter()
    .filter_map(|(name, limit)| Some((name, limit?)))
    .collect();

    for (name, streams, durability) in [
        ("put, 4 streams", 4, "immediate"),
        ("put, 4 streams, write-back", 4, "1s"),
        ("put, 1 stream", 1, "immediate"),
    ] {
        let store = run.new_folder()?;
        run.take_pages(bytes)?;
        let server = Server::start(run, store.path(), &["--durability", durability])?;
        let cost = put(&server, blobs, streams).await?;
        add(report, name, bytes, cost, &[("÷ disk", disk)]);
        if streams == 1 {
            let cost = get(&server, blobs, 1, false).await?;
            add(
                report,
                "get, 1 stream, first after the start",
                bytes,
                cost,
                &over_tcp,
            );
            for (name, streams, verify) in [
                ("get, 1 stream, not hashed", 1, false),
                ("get, 1 stream, hashed", 1, true),
                ("get, 4 streams, not hashed", 4, false),
                ("get, 4 streams, hashed", 4, true),
            ] {
                let cost = get(&server, blobs, streams, verify).await?;
                add(report, name, bytes, cost, &over_tcp);
            }
        }
        server.stop()?;
    }
    Ok(())
}

fn add(
    report: &mut Report,
    name: &'static str,
    bytes: u64,
    cost: Cost,
    limits: &[(&'static str, Limit)],
) {
    let gib = bytes as f64 / GIB;
    let rate = bytes as f64 / cost.wall;
    let mut cells = vec![
        ("GB/s", rate / 1e9),
        ("server CPU-s/GiB", cost.server / gib),
        ("client CPU-s/GiB", cost.client / gib),
        ("server's peak, MiB", cost.peak as f64 / MIB),
    ];
    cells.extend(
        limits
            .iter()
            .map(|(name, limit)| (*name, rate / limit.rate)),
    );
    report.add(TITLE, name, &cells);
}

async fn put(server: &Server, blobs: &Blobs, streams: usize) -> Outcome<Cost> {
    let client = server.client(true).await?;
    let meter = server.meter()?;
    each(blobs, streams, &client, |client, digest, data| async move {
        match client.put(&digest, data).await? {
            Stored::New => Ok(()),
            Stored::Existing => Err("a blob was there already".into()),
        }
    })
    .await?;
    meter.end()
}

async fn get(server: &Server, blobs: &Blobs, streams: usize, verify: bool) -> Outcome<Cost> {
    let client = server.client(verify).await?;
    let meter = server.meter()?;
    each(blobs, streams, &client, |client, digest, _| async move {
        let mut blob = client.fetch(&digest, BlobRange::FULL).await?;
        let mut came = 0;
        while let Some(step) = blob.next().await {
            came += step?.len() as u64;
        }
        if came != digest.size() {
            return Err("a blob came short".into());
        }
        Ok(())
    })
    .await?;
    meter.end()
}

/// Does `work` for each blob, for `streams` of them at once.
async fn each<F, W>(blobs: &Blobs, streams: usize, client: &Client, work: F) -> Outcome<()>
where
    F: Fn(Client, Digest, Bytes) -> W + Clone + Send + 'static,
    W: Future<Output = Outcome<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..streams).map(|_| {
        let (blobs, next, client, work) = (
            Arc::clone(blobs),
            Arc::clone(&next),
            client.clone(),
            work.clone(),
        );
        tokio::spawn(async move {
            while let Some((digest, data)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(client.clone(), *digest, data.clone()).await?;
            }
            Outcome::Ok(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(())
}
