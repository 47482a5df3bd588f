//! Sending spans: on a runtime of its own, with an account of what is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// What became of the spans.
#[derive(Debug, Default)]
pub(super) struct Account {
    ended: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
    /// Whether a loss was said.
    said: AtomicBool,
    last_error: Mutex<Option<String>>,
}

/// Sends batches on another runtime than that of its caller, which may have none.
pub(super) struct Remote<E> {
    exporter: Arc<E>,
    runtime: Handle,
    timeout: Duration,
    account: Arc<Account>,
    /// What may wait in the queue and be on its way.
    bound: u64,
    /// Losses are said when they happen, not only in the end.
    talks: bool,
}

/// Counts the spans that come to the queue.
#[derive(Debug)]
pub(super) struct Counting<P> {
    pub(super) queue: P,
    pub(super) account: Arc<Account>,
}

impl Account {
    /// Spans that ended and were not sent.
    pub(super) fn lost(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        self.ended.load(Ordering::Relaxed).saturating_sub(sent)
    }

    /// Why, if a collector refused some.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// What certainly did not fit into a queue of this length.
    fn overflow(&self, bound: u64) -> u64 {
        let refused = self.refused.load(Ordering::Relaxed);
        self.lost().saturating_sub(refused + bound)
    }
}

impl<E> Remote<E> {
    pub(super) fn new(
        exporter: E,
        runtime: Handle,
        timeout: Duration,
        account: Arc<Account>,
        bound: u64,
        talks: bool,
    ) -> Self {
        Self {
            exporter: Arc::new(exporter),
            runtime,
            timeout,
            account,
            bound,
            talks,
        }
    }

    fn note(&self, count: u64, outcome: &OTelSdkResult) {
        let account = &self.account;
        match outcome {
            Ok(()) => {
                account.sent.fetch_add(count, Ordering::Relaxed);
                let over = account.overflow(self.bound);
                if over == 0 {
                    if self.talks && account.said.swap(false, Ordering::Relaxed) {
                        tracing::info!("the collector takes traces again");
                    }
                } else if self.talks && !account.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        dropped = over,
                        "spans come faster than the collector takes them"
                    );
                }
            }
            Err(error) => {
                account.refused.fetch_add(count, Ordering::Relaxed);
                *account.last_error.lock() = Some(error.to_string());
                if self.talks && !account.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, dropped = account.lost(), "traces can't be sent; spans are dropped until the collector takes them again");
                }
            }
        }
    }
}

impl<E> SpanExporter for Remote<E>
where
    E: SpanExporter + 'static,
{
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let (exporter, timeout) = (Arc::clone(&self.exporter), self.timeout);
        let sending = self.runtime.spawn(async move {
            match tokio::time::timeout(timeout, exporter.export(batch)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(OTelSdkError::Timeout(timeout)),
            }
        });
        let outcome = match sending.await {
            Ok(outcome) => outcome,
            Err(_) => Err(OTelSdkError::AlreadyShutdown),
        };
        self.note(count, &outcome);
        outcome
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

impl<P: SpanProcessor> SpanProcessor for Counting<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.queue.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.account.ended.fetch_add(1, Ordering::Relaxed);
        self.queue.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.queue.set_resource(resource);
    }
}

impl<E> fmt::Debug for Remote<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
