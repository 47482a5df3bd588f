//! What a server takes of its machine, over time.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::site::Site;

/// What a server takes at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    /// Since the run began.
    pub(crate) seconds: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) threads: u64,
    /// As the store counts: files by their length, large ones in blocks.
    pub(crate) disk_bytes: u64,
}

/// Medians at the beginning and the end of a time without restarts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Trend {
    pub(crate) samples: usize,
    pub(crate) rss_bytes: [u64; 2],
    pub(crate) open_files: [u64; 2],
    pub(crate) threads: [u64; 2],
}

/// A server's memory may grow by this share and so much more, from the first median to
/// the last.
const RSS_SHARE: f64 = 0.10;
const RSS_BYTES: u64 = 8 << 20;

/// Open files and threads come and go with calls, by about so many.
const OPEN_FILES: u64 = 12;
const THREADS: u64 = 6;

/// Fewer say nothing.
const LEAST_SAMPLES: usize = 12;

/// Nor do they in a shorter time: a server that has just started still grows, by more
/// where there are more cores, and a thread without work goes after ten seconds only.
const LEAST_SECONDS: f64 = 20.0;

impl Figures {
    /// `None` if the server is gone.
    pub(crate) fn now(site: &Site, start: Instant) -> Option<Self> {
        let process = format!("/proc/{}", site.pid()?);
        let status = std::fs::read_to_string(format!("{process}/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let open = std::fs::read_dir(format!("{process}/fd")).ok()?.count();
        Some(Self {
            seconds: start.elapsed().as_secs_f64(),
            rss_bytes: field("VmRSS:")? << 10,
            open_files: open as u64,
            threads: field("Threads:")?,
            disk_bytes: bytes_on_disk(&site.data()),
        })
    }
}

impl Trend {
    /// Of what was seen after the first quarter, in which a server warms up.
    pub(crate) fn of(figures: &[Figures]) -> Option<Self> {
        let warm = &figures[figures.len() / 4..];
        let (first, last) = (warm.first()?, warm.last()?);
        if warm.len() < LEAST_SAMPLES || last.seconds - first.seconds < LEAST_SECONDS {
            return None;
        }
        let third = warm.len() / 3;
        let ends = [&warm[..third], &warm[warm.len() - third..]];
        let median = |of: fn(&Figures) -> u64| {
            ends.map(|end| {
                let mut values: Vec<u64> = end.iter().map(of).collect();
                values.sort_unstable();
                values[values.len() / 2]
            })
        };
        Some(Self {
            samples: warm.len(),
            rss_bytes: median(|it| it.rss_bytes),
            open_files: median(|it| it.open_files),
            threads: median(|it| it.threads),
        })
    }

    /// Panics unless nothing has grown.
    pub(crate) fn check(&self, name: &str) {
        let [rss, then] = self.rss_bytes;
        let most = rss + (rss as f64 * RSS_SHARE) as u64 + RSS_BYTES;
        assert!(then <= most, "{name}: memory grows: {self:?}");
        let [files, then] = self.open_files;
        assert!(then <= files + OPEN_FILES, "{name}: files leak: {self:?}");
        let [threads, then] = self.threads;
        assert!(then <= threads + THREADS, "{name}: threads leak: {self:?}");
    }
}

/// What a folder's files take; those that go meanwhile don't count.
pub(crate) fn bytes_on_disk(data: &Path) -> u64 {
    let files = |folder: &str| files(&data.join(folder));
    let large = files("large").into_iter();
    let large: u64 = large.map(|length| length.next_multiple_of(4096)).sum();
    let rest = ["segments", "partial", "quarantine"].map(files);
    large + rest.concat().into_iter().sum::<u64>()
}

fn files(folder: &Path) -> Vec<u64> {
    let mut lengths = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => lengths.extend(files(&entry.path())),
            Ok(meta) => lengths.push(meta.len()),
            Err(_) => {}
        }
    }
    lengths
}

/// How often a server is looked at.
pub(crate) fn every(time: Duration) -> Duration {
    (time / 400).clamp(Duration::from_millis(100), Duration::from_secs(2))
}
