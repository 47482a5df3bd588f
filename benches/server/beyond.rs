//! Puts of more than memory holds, so that the page cache can't hide the disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::{Cas, Stored};
use zako_core::client::Client;
use zako_digest::hash::Hasher;

use crate::Outcome;
use crate::blobs::noise;
use crate::limits;
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "More than memory holds";

const STREAMS: usize = 4;
const STEP: usize = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// Blobs of which only the first step differs, so that all fit into memory.
#[derive(Debug)]
pub(crate) struct Beyond {
    blobs: Vec<(Digest, Bytes)>,
    /// The steps behind the first, in turn.
    rest: Vec<Bytes>,
}

impl Beyond {
    /// A fifth more than this machine has of memory, in blobs of 1 GiB; little if
    /// `short`.
    pub(crate) fn new(short: bool) -> Outcome<Self> {
        let (count, steps) = match short {
            true => (3, 8),
            false => ((memory()? as f64 * 1.2 / GIB).ceil() as u64, 1024),
        };
        // Enough that no cache of a core holds them.
        let base: Vec<Bytes> = (0..64).map(|seed| noise(seed, STEP).into()).collect();
        let rest: Vec<Bytes> = base.iter().cycle().take(steps - 1).cloned().collect();
        let blobs = (0..count)
            .map(|number| {
                let first = Bytes::from(noise(1 << 32 | number, STEP));
                let mut hasher = Hasher::new();
                hasher.update(&first);
                rest.iter().for_each(|step| {
                    hasher.update(step);
                });
                (hasher.finish(), first)
            })
            .collect();
        Ok(Self { blobs, rest })
    }

    /// One round.
    pub(crate) async fn round(self: &Arc<Self>, run: &Run, report: &mut Report) -> Outcome<()> {
        let bytes: u64 = self.blobs.iter().map(|(digest, _)| digest.size()).sum();
        let gib = bytes as f64 / GIB;
        let file = run.folder().join("file");
        let disk = limits::disk(&file, bytes)?;
        fs::remove_file(file)?;
        let cells = [
            ("GB/s", disk.rate / 1e9),
            ("server CPU-s/GiB", disk.sender / gib),
        ];
        report.add(TITLE, "write and fdatasync", &cells);
        let store = run.new_folder()?;
        let server = Server::start(run, store.path(), &[])?;
        let client = server.client(true).await?;
        let meter = server.meter()?;
        self.put(&client).await?;
        let cost = meter.end()?;
        server.stop()?;
        let rate = bytes as f64 / cost.wall;
        let cells = [
            ("GB/s", rate / 1e9),
            ("server CPU-s/GiB", cost.server / gib),
            ("client CPU-s/GiB", cost.client / gib),
            ("server's peak, MiB", cost.peak as f64 / MIB),
            ("÷ disk", rate / disk.rate),
        ];
        report.add(TITLE, "put, 4 streams", &cells);
        Ok(())
    }

    async fn put(self: &Arc<Self>, client: &Client) -> Outcome<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..STREAMS)
            .map(|_| {
                let (this, next, client) = (Arc::clone(self), Arc::clone(&next), client.clone());
                tokio::spawn(async move {
                    while let Some(blob) = this.blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        this.put_one(&client, blob).await?;
                    }
                    Outcome::Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.await??;
        }
        Ok(())
    }

    async fn put_one(&self, client: &Client, (digest, first): &(Digest, Bytes)) -> Outcome<()> {
        let mut writer = client.writer(digest, 0).await?;
        writer.write(first.clone()).await?;
        for step in &self.rest {
            writer.write(step.clone()).await?;
        }
        match writer.commit().await? {
            Stored::New => Ok(()),
            Stored::Existing => Err("a blob was there already".into()),
        }
    }
}

/// The machine's memory, in bytes.
fn memory() -> Outcome<u64> {
    let told = fs::read_to_string("/proc/meminfo")?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib
        .ok_or("/proc/meminfo tells no MemTotal")?
        .parse::<u64>()?
        << 10)
}
