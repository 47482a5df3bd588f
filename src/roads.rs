//! Which road the bytes of blobs took.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use zako_core::client::{Client, Roads};
use zako_telemetry::{process_environment, report_roads};

use crate::config::{Layers, TelemetryConfig, TelemetryKeys};
use crate::quantity::{bytes, plural};

/// What moved between two moments, by road.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    rdma: u64,
    grpc: u64,
    /// Transfers that RDMA failed on, and that went on by gRPC.
    fallbacks: u64,
    /// Why the last of them did.
    reason: Option<String>,
}

/// The road as records tell it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Road {
    /// `rdma`, `grpc`, `rdma+grpc`; absent if nothing had to move.
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    /// How many transfers RDMA failed on; absent if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallbacks: Option<u64>,
    /// Why RDMA failed on the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_reason: Option<String>,
}

impl Moved {
    /// All that a client moved after `before`.
    pub(crate) fn since(client: &Client, before: &Roads) -> Self {
        let now = client.roads();
        let rdma = (now.rdma.received_bytes + now.rdma.sent_bytes)
            .saturating_sub(before.rdma.received_bytes + before.rdma.sent_bytes);
        let grpc = (now.grpc.received_bytes + now.grpc.sent_bytes)
            .saturating_sub(before.grpc.received_bytes + before.grpc.sent_bytes);
        let fallbacks = now.fallbacks.saturating_sub(before.fallbacks);
        let reason = now.fallback_reason.filter(|_| fallbacks > 0);
        Self {
            rdma,
            grpc,
            fallbacks,
            reason,
        }
    }

    pub(crate) fn road(&self) -> Road {
        Road {
            transport: match (self.rdma, self.grpc) {
                (0, 0) => None,
                (0, _) => Some("grpc"),
                (_, 0) => Some("rdma"),
                _ => Some("rdma+grpc"),
            },
            fallbacks: (self.fallbacks > 0).then_some(self.fallbacks),
            fallback_reason: self.reason.clone(),
        }
    }
}

/// The longest that a command waits for its metrics to be sent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends what a client moved by OTLP, if that is asked for. A command that can't do that is
/// as good as one that can.
pub(crate) async fn report(client: &Client, layers: &Layers<'_>) {
    let Ok(config) = TelemetryConfig::resolve(TelemetryKeys::default(), layers) else {
        return;
    };
    let is_told = |name: &str| process_environment(name).is_some_and(|text| !text.is_empty());
    let (roads, otlp) = (client.roads(), config.otlp(is_told));
    let sent = report_roads(&roads, &otlp, &process_environment, PATIENCE).await;
    if let Err(error) = sent {
        tracing::warn!(%error, "metrics can't be sent");
    }
}

/// The end of a sentence on what moved: ` over rdma`; nothing if nothing did.
impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rdma, self.grpc) {
            (0, 0) => {}
            (0, _) => write!(f, " over grpc")?,
            (_, 0) => write!(f, " over rdma")?,
            (rdma, grpc) => write!(f, " over rdma ({}) and grpc ({})", bytes(rdma), bytes(grpc))?,
        }
        if self.fallbacks > 0 {
            let transfers = plural(self.fallbacks, "transfer");
            write!(f, "; RDMA failed on {transfers}, which went on by gRPC")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roads_are_named() {
        let shown = |rdma, grpc, fallbacks| {
            let moved = Moved {
                rdma,
                grpc,
                fallbacks,
                reason: None,
            };
            let json = serde_json::to_string(&moved.road()).unwrap();
            (moved.to_string(), json)
        };
        assert_eq!(shown(0, 0, 0), (String::new(), "{}".to_owned()));
        assert_eq!(
            shown(5, 0, 0),
            (" over rdma".into(), r#"{"transport":"rdma"}"#.into())
        );
        assert_eq!(
            shown(2048, 1024, 1),
            (
                " over rdma (2.0 KiB) and grpc (1.0 KiB); \
                 RDMA failed on 1 transfer, which went on by gRPC"
                    .into(),
                r#"{"transport":"rdma+grpc","fallbacks":1}"#.into()
            )
        );
    }
}
