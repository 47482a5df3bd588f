//! What keeps steps of traces that aren't recorded from being made at all.

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use zako_core::observe::trace::{STEP, TARGETS};

/// Refuses steps outside of recorded traces. A filter of a layer can't: with such filters
/// the registry keeps a span that none of them wants.
#[derive(Clone, Copy, Debug)]
pub struct TraceGate;

impl<S> Layer<S> for TraceGate
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target() {
            STEP => Interest::sometimes(),
            _ => Interest::always(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        if metadata.target() != STEP {
            return true;
        }
        let Some(current) = context.lookup_current() else {
            return false;
        };
        // The log's own spans may lie between.
        let mut around = current.scope();
        around.any(|span| span.metadata().target().starts_with(TARGETS))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The other layers' hint is the higher one, and counts.
        Some(LevelFilter::OFF)
    }
}
