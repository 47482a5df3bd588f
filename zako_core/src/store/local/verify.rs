//! Re-hashing what is stored: one blob, all of them, or all again and again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use zako_digest::hash::Hasher;

use super::LocalStore;
use super::index::Place;
use super::io::read_exact_at;
use super::pool::STEP;
use super::record::HEADER_LEN;
use super::shared::Shared;
use super::steps::blocking;
use crate::Digest;
use crate::cas::{CasError, Result, VerifyReport, VerifyScope};

/// What reading a blob has shown.
enum Verdict {
    Right,
    Gone,
    /// Its bytes, if they are those of a record.
    Damaged(Place, Bytes),
    Unreadable(CasError),
}

/// Reports are sent this often.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Hashes all blobs of the scope.
pub(super) async fn verify(
    store: &LocalStore,
    scope: VerifyScope,
    progress: &mpsc::Sender<VerifyReport>,
) -> Result<VerifyReport> {
    let all = scope == VerifyScope::All;
    let blobs = match scope {
        VerifyScope::Blobs(digests) => digests,
        VerifyScope::All => in_disk_order(&store.shared),
    };
    let mut report = VerifyReport {
        blobs_total: blobs.len() as u64,
        bytes_total: blobs.iter().map(Digest::size).sum(),
        ..VerifyReport::default()
    };
    let mut reported = Instant::now();
    for digest in blobs {
        verify_one(store, digest, &mut report).await?;
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            if progress.send(report.clone()).await.is_err() {
                break;
            }
        }
    }
    if all {
        // Deleted or evicted on the way; nobody asked for them.
        report.missing.clear();
    }
    Ok(report)
}

async fn verify_one(store: &LocalStore, digest: Digest, report: &mut VerifyReport) -> Result<()> {
    store.shared.check_open()?;
    let shared = Arc::clone(&store.shared);
    match blocking(move || check(&shared, &digest)).await? {
        Verdict::Right => {}
        Verdict::Gone => {
            report.missing.push(digest);
            return Ok(());
        }
        Verdict::Damaged(place, data) => {
            tracing::error!(%digest, "a stored blob is damaged");
            match store.quarantine(&digest, place, data).await {
                Ok(()) => report.corrupt.push(digest),
                Err(error) => {
                    tracing::error!(%digest, %error, "it could not be put into quarantine");
                    report.unreadable.push(digest);
                }
            }
        }
        Verdict::Unreadable(error) => {
            tracing::warn!(%digest, %error, "a stored blob can't be read");
            report.unreadable.push(digest);
        }
    }
    report.blobs_checked += 1;
    report.bytes_checked += digest.size();
    Ok(())
}

/// Re-hashes everything again and again at this rate, in bytes a second, until the
/// store is closed or dropped, which it doesn't hold up.
pub(super) async fn scrub(shared: Weak<Shared>, threads: super::WeakThreads, rate: u64) {
    /// Between two rounds, so that an empty store doesn't spin.
    const PAUSE: Duration = Duration::from_secs(60);
    let upgrade = || super::upgrade(&shared, &threads);
    loop {
        let blobs = match upgrade() {
            Some(store) if store.shared.ready().await.is_ok() => in_disk_order(&store.shared),
            _ => return,
        };
        let (mut report, start) = (VerifyReport::default(), Instant::now());
        for digest in blobs {
            let Some(store) = upgrade() else {
                return;
            };
            if let Err(error) = verify_one(&store, digest, &mut report).await {
                tracing::debug!(%error, "scrubbing ends");
                return;
            }
            drop(store);
            let due = Duration::from_secs_f64(report.bytes_checked as f64 / rate.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        }
        tracing::info!(
            blobs = report.blobs_checked,
            bytes = report.bytes_checked,
            corrupt = report.corrupt.len(),
            "a scrub round is done"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// All blobs, in the order in which a disk reads them best.
fn in_disk_order(shared: &Shared) -> Vec<Digest> {
    let mut all = shared.index.all();
    all.sort_by_key(|(_, place)| match place {
        Place::Record { segment, offset } => (*segment, *offset),
        Place::File { number } => (u32::MAX, *number),
    });
    all.into_iter().map(|(digest, _)| digest).collect()
}

/// Reads a blob and hashes it.
fn check(shared: &Shared, digest: &Digest) -> Verdict {
    // Evicted or moved while we look: look again.
    loop {
        let Some(found) = shared.index.find(digest) else {
            return Verdict::Gone;
        };
        let verdict = match found.place {
            Place::Record { segment, offset } => {
                let Some(segment) = shared.segments.by_id(segment) else {
                    if shared.index.find(digest).map(|again| again.place) == Some(found.place) {
                        return Verdict::Damaged(found.place, Bytes::new());
                    }
                    continue;
                };
                let mut data = vec![0; digest.size() as usize];
                let at = u64::from(offset) + HEADER_LEN as u64;
                match read_exact_at(&*segment.file, &mut data, at) {
                    Ok(()) if zako_digest::hash::bytes(&data) == *digest => Verdict::Right,
                    Ok(()) => Verdict::Damaged(found.place, Bytes::from(data)),
                    Err(error) => unreadable(error, found.place, &segment.path, digest),
                }
            }
            Place::File { .. } => match shared.large.open(digest) {
                Err(error) => Verdict::Unreadable(error),
                Ok(None)
                    if shared.index.find(digest).map(|again| again.place) != Some(found.place) =>
                {
                    continue;
                }
                Ok(None) => Verdict::Damaged(found.place, Bytes::new()),
                Ok(Some(file)) => {
                    let path = shared.large.path(digest);
                    let mut hasher = Hasher::new();
                    let mut buffer = shared.pool.take(STEP);
                    let mut at = 0;
                    loop {
                        let step = (digest.size() - at).min(STEP as u64) as usize;
                        if step == 0 {
                            break if hasher.finish() == *digest {
                                Verdict::Right
                            } else {
                                Verdict::Damaged(found.place, Bytes::new())
                            };
                        }
                        match read_exact_at(&*file, &mut buffer[..step], at) {
                            Ok(()) => hasher.update(&buffer[..step]),
                            Err(error) => break unreadable(error, found.place, &path, digest),
                        };
                        at += step as u64;
                    }
                }
            },
        };
        if matches!(verdict, Verdict::Right) {
            shared.index.set_verified(digest, found.place);
        }
        return verdict;
    }
}

/// A file that ends early has lost bytes; any other error may pass.
fn unreadable(
    error: std::io::Error,
    place: Place,
    path: &std::path::Path,
    digest: &Digest,
) -> Verdict {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return Verdict::Damaged(place, Bytes::new());
    }
    Verdict::Unreadable(CasError::io("verifying a blob", path, error).with_digest(*digest))
}
