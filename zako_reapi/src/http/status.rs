//! `/status`: figures of the server and its store.

use http::StatusCode;
use zako_core::cas::Usage;

use super::Shared;
use super::answer::{self, Answer};

pub(super) async fn answer(shared: &Shared) -> Answer {
    let usage = match &shared.maintain {
        Some(store) => store.usage().await.ok(),
        None => None,
    };
    let version = env!("CARGO_PKG_VERSION");
    let uptime = shared.began.elapsed().as_secs();
    let store = usage.map_or_else(String::new, |usage| format!(",{}", figures(&usage)));
    let json = format!(r#"{{"version":"{version}","uptime_seconds":{uptime}{store}}}"#);
    answer::bytes(StatusCode::OK, Some("application/json"), json.into())
}

fn figures(usage: &Usage) -> String {
    // Numbers and one word of a fixed set: nothing to escape.
    format!(
        r#""store":{{"blobs":{},"blob_bytes":{},"disk_bytes":{},"disk_cap_bytes":{},"leased_bytes":{},"partial_bytes":{},"quarantined_blobs":{},"durability":"{}"}}"#,
        usage.blobs,
        usage.blob_bytes,
        usage.disk_bytes,
        usage.disk_cap_bytes,
        usage.leased_bytes,
        usage.partial_bytes,
        usage.quarantined_blobs,
        usage.durability,
    )
}
