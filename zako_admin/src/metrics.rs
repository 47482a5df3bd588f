//! Where the text of `/metrics` comes from.

use std::fmt;

use async_trait::async_trait;

/// Gives the metrics of this process as Prometheus text, format 0.0.4.
#[async_trait]
pub trait MetricsText: fmt::Debug + Send + Sync + 'static {
    /// The text as of now.
    async fn render(&self) -> String;
}
