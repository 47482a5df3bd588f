//! What is told of the last minutes.

use std::time::SystemTime;

use serde::Serialize;

use super::failures::code_name;
use super::peers::{PeerKey, Traffic};
use super::ring::Ring;
use super::slot::{REASONS, Slot};
use super::{INTERFACES, SLOTS, SPAN};
use crate::timestamp::rfc3339;

/// Callers that are listed.
pub(super) const PEERS: usize = 12;

/// Spans that make "now": a minute of them.
const NOW: usize = 12;

/// What happened in the last minutes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Activity {
    /// The length of a point, in seconds.
    pub(crate) span_seconds: u64,
    /// The oldest first; the last one has ended.
    pub(crate) points: Vec<Point>,
    /// The mean of the last minute.
    pub(crate) now: Point,
    pub(crate) interfaces: Vec<InterfaceRow>,
    /// The largest of the last quarter of an hour, about.
    pub(crate) peers: Vec<PeerRow>,
    pub(crate) other_peers: OtherPeers,
    pub(crate) evictions: Vec<ReasonRow>,
    pub(crate) corrupt_blobs: u64,
    pub(crate) commits: Commits,
    /// The last first.
    pub(crate) failures: Vec<FailureRow>,
}

/// One span of time, or several.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Point {
    pub(crate) calls_per_second: f64,
    pub(crate) received_bytes_per_second: f64,
    pub(crate) sent_bytes_per_second: f64,
    /// Of all that was looked for; absent if nothing was.
    pub(crate) hit_ratio: Option<f64>,
    /// Of short calls; absent if there were none.
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p99_seconds: Option<f64>,
}

/// What came by one interface since the start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InterfaceRow {
    pub(crate) name: &'static str,
    pub(crate) connections: u64,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// What one caller did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PeerRow {
    pub(crate) peer: String,
    pub(crate) identity: Option<String>,
    pub(crate) calls: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// What those did that are not listed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct OtherPeers {
    pub(crate) calls: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// What was given up for one reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReasonRow {
    pub(crate) reason: &'static str,
    /// Since the start.
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    pub(crate) recent_blobs: u64,
    pub(crate) recent_bytes: u64,
}

/// Groups of small blobs that became durable together.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Commits {
    pub(crate) recent: u64,
    pub(crate) blobs_per_commit: Option<f64>,
    pub(crate) sync_p50_seconds: Option<f64>,
    pub(crate) sync_p99_seconds: Option<f64>,
}

/// Calls of one method that were refused or failed alike, since the start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailureRow {
    pub(crate) interface: &'static str,
    pub(crate) method: String,
    pub(crate) code: u16,
    pub(crate) code_name: &'static str,
    pub(crate) count: u64,
    pub(crate) last: String,
    #[serde(skip)]
    pub(crate) seconds_ago: u64,
}

/// What is told in this span.
pub(super) fn activity(
    ring: &mut Ring,
    span: u64,
    now: SystemTime,
    connections: [i64; INTERFACES.len()],
) -> Activity {
    let slots = match span.checked_sub(1) {
        Some(last) => ring.range(last.saturating_sub(SLOTS as u64 - 2), last),
        None => Vec::new(),
    };
    let all = sum(&slots);
    let (peers, other_peers) = peers(ring.largest(span));
    let totals = &ring.totals;
    let interfaces = INTERFACES.iter().zip(&totals.interfaces).zip(connections);
    let reasons = REASONS.iter().zip(&totals.evicted);
    Activity {
        span_seconds: SPAN.as_secs(),
        points: slots.iter().map(|slot| point(slot, 1)).collect(),
        now: {
            let latest = &slots[slots.len().saturating_sub(NOW)..];
            point(&sum(latest), latest.len().max(1))
        },
        interfaces: interfaces
            .map(|((interface, totals), connections)| InterfaceRow {
                name: interface.as_str(),
                connections: connections.unsigned_abs(),
                calls: totals.traffic.calls,
                failed: totals.failed,
                received_bytes: totals.traffic.received,
                sent_bytes: totals.traffic.sent,
            })
            .collect(),
        peers,
        other_peers,
        evictions: reasons
            .zip(&all.evicted)
            .map(|((reason, total), recent)| ReasonRow {
                reason: reason.as_str(),
                blobs: total.0,
                bytes: total.1,
                recent_blobs: recent.0,
                recent_bytes: recent.1,
            })
            .collect(),
        corrupt_blobs: totals.corrupt,
        commits: Commits {
            recent: all.commits,
            blobs_per_commit: ratio(all.committed_blobs, all.commits),
            sync_p50_seconds: all.sync.quantile(0.5),
            sync_p99_seconds: all.sync.quantile(0.99),
        },
        failures: ring
            .failures
            .latest()
            .into_iter()
            .map(|failure| FailureRow {
                interface: failure.interface.as_str(),
                method: failure.method.into(),
                code: failure.code,
                code_name: code_name(failure.code),
                count: failure.count,
                last: rfc3339(failure.last),
                seconds_ago: now
                    .duration_since(failure.last)
                    .unwrap_or_default()
                    .as_secs(),
            })
            .collect(),
    }
}

/// By bytes, then by calls.
fn peers((mut all, rest): (Vec<(PeerKey, Traffic)>, Traffic)) -> (Vec<PeerRow>, OtherPeers) {
    all.sort_by(|(one_key, one), (key, other)| {
        let order = |traffic: &Traffic| (traffic.bytes(), traffic.calls);
        order(other).cmp(&order(one)).then_with(|| one_key.cmp(key))
    });
    let mut others = rest;
    for (_, traffic) in all.drain(PEERS.min(all.len())..) {
        others.add(traffic);
    }
    let rows = all.into_iter().map(|(key, traffic)| PeerRow {
        peer: key.host.into(),
        identity: key.identity.map(Into::into),
        calls: traffic.calls,
        received_bytes: traffic.received,
        sent_bytes: traffic.sent,
    });
    let others = OtherPeers {
        calls: others.calls,
        received_bytes: others.received,
        sent_bytes: others.sent,
    };
    (rows.collect(), others)
}

fn point(slot: &Slot, spans: usize) -> Point {
    let seconds = SPAN.as_secs_f64() * spans as f64;
    Point {
        calls_per_second: slot.calls as f64 / seconds,
        received_bytes_per_second: slot.received as f64 / seconds,
        sent_bytes_per_second: slot.sent as f64 / seconds,
        hit_ratio: ratio(slot.hits, slot.hits + slot.misses),
        p50_seconds: slot.latency.quantile(0.5),
        p99_seconds: slot.latency.quantile(0.99),
    }
}

fn sum(slots: &[Slot]) -> Slot {
    let mut sum = Slot::default();
    for slot in slots {
        sum.add(slot);
    }
    sum
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
