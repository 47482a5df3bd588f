//! The server: reachable, how far away, which version, what its clock says.

use std::time::{Duration, Instant, SystemTime};

use zako_core::client::ServerStatus;

use super::Check;
use crate::config::{ClientConfig, Origin};
use crate::connect::connect_to;
use crate::quantity::{Period, bytes, plural};

/// Round trips that are measured; the shortest counts.
const ROUNDS: usize = 5;

/// Tokens and expiry bear a difference of clocks up to this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

pub(super) async fn checks(config: &ClientConfig) -> Vec<Check> {
    const NAME: &str = "server";
    let url = &config.server.value;
    let client = match connect_to(config).await {
        Ok(client) => client,
        Err(failure) => {
            let advice = "Start it (zako serve), or name another with --server or ZAKO_SERVER.";
            // The default is nobody's wish: a machine may be a client or nothing yet.
            let check = match config.server.origin {
                Origin::Default => Check::warning,
                _ => Check::broken,
            };
            return vec![check(NAME, failure.summary(), advice)];
        }
    };
    let mut best: Option<(Duration, ServerStatus, SystemTime)> = None;
    for _ in 0..ROUNDS {
        let (begun, start) = (SystemTime::now(), Instant::now());
        match client.status().await {
            Ok(status) => {
                let took = start.elapsed();
                if best.as_ref().is_none_or(|(least, ..)| took < *least) {
                    // The answer was written about half a round trip after the start.
                    best = Some((took, status, begun + took / 2));
                }
            }
            Err(error) => {
                return vec![Check::broken(
                    NAME,
                    format!("{url} takes connections but tells no status: {error}"),
                    "Is it a zako server, and of this version?",
                )];
            }
        }
    }
    let Some((took, status, now)) = best else {
        return Vec::new();
    };
    vec![
        Check::ok(
            NAME,
            format!(
                "{url} answers in {:.2} ms, moves large blobs over {}, recommends {} streams",
                took.as_secs_f64() * 1e3,
                client.transport(),
                client.recommended_concurrency(),
            ),
        ),
        version(&status),
        contents(&status),
        clock(&status, now),
    ]
}

fn version(status: &ServerStatus) -> Check {
    const NAME: &str = "server version";
    let ours = env!("CARGO_PKG_VERSION");
    let up = Period(Duration::from_secs(status.uptime.as_secs()));
    let found = format!("{}, up for {up}", status.version);
    if status.version == ours {
        Check::ok(NAME, found)
    } else {
        Check::warning(
            NAME,
            format!("{found}; this is {ours}"),
            "Versions that differ understand one another; update the older for all features.",
        )
    }
}

fn contents(status: &ServerStatus) -> Check {
    const NAME: &str = "server's store";
    let usage = &status.usage;
    let mut found = format!(
        "{}, {} of {} on disk, durability {}",
        plural(usage.blobs, "blob"),
        bytes(usage.disk_bytes),
        bytes(usage.disk_cap_bytes),
        usage.durability,
    );
    if status.rdma_sessions > 0 {
        found += &format!(
            "; {} pinning {}",
            plural(status.rdma_sessions, "RDMA session"),
            bytes(status.rdma_pinned_bytes)
        );
    }
    if usage.quarantined_blobs > 0 {
        return Check::warning(
            NAME,
            format!(
                "{found}; {} in quarantine",
                plural(usage.quarantined_blobs, "blob")
            ),
            "Bytes were damaged: check the server's disk, run zako verify, and put the blobs again.",
        );
    }
    Check::ok(NAME, found)
}

fn clock(status: &ServerStatus, now: SystemTime) -> Check {
    const NAME: &str = "clock";
    let (apart, direction) = match status.server_time.duration_since(now) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let found = format!(
        "the server's is {:.3} s {direction} this machine's",
        apart.as_secs_f64()
    );
    if apart <= CLOCK_TOLERANCE {
        Check::ok(NAME, found)
    } else {
        Check::warning(
            NAME,
            found,
            "Run a time service (chrony, systemd-timesyncd) on both machines: logs and expiry times differ.",
        )
    }
}
