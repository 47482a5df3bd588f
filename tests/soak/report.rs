//! What a run tells when it is over.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::Serialize;

use crate::figures::{Figures, Trend};
use crate::log::Log;
use crate::site::Site;

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    /// What was done, and how often; "bytes" are counted as such.
    pub(crate) operations: BTreeMap<&'static str, u64>,
    pub(crate) sites: Vec<SiteReport>,
}

#[derive(Serialize)]
pub(crate) struct SiteReport {
    name: &'static str,
    disk_cap_bytes: u64,
    most_disk_bytes: u64,
    most_rss_bytes: u64,
    most_open_files: u64,
    most_threads: u64,
    /// Of the second half; missing if it was too short to tell.
    trend: Option<Trend>,
    /// What `zako verify` said at last.
    verified: String,
}

impl SiteReport {
    pub(crate) fn new(
        site: &Site,
        figures: &[Figures],
        trend: Option<Trend>,
        verified: String,
    ) -> Self {
        let most = |of: fn(&Figures) -> u64| figures.iter().map(of).max().unwrap_or(0);
        Self {
            name: site.name,
            disk_cap_bytes: site.cap,
            most_disk_bytes: most(|it| it.disk_bytes),
            most_rss_bytes: most(|it| it.rss_bytes),
            most_open_files: most(|it| it.open_files),
            most_threads: most(|it| it.threads),
            trend,
            verified,
        }
    }
}

/// A server's figures for people.
pub(crate) fn line(name: &str, now: &Figures) -> String {
    format!(
        "{name}: {} of memory, {} files, {} threads, {} on disk",
        ByteSize(now.rss_bytes).display().iec(),
        now.open_files,
        now.threads,
        ByteSize(now.disk_bytes).display().iec()
    )
}

/// How many operations there were.
pub(crate) fn operations(log: &Log) -> u64 {
    const NONE: [&str; 2] = ["servers killed", "servers stopped"];
    let counts = log.counts();
    let counted = counts.iter().filter(|(what, _)| {
        !NONE.contains(what) && !what.contains("bytes") && !what.contains("refused")
    });
    counted.map(|(_, count)| count).sum()
}
