//! Which spans are exported.

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;
use zako_core::observe::trace::{ROOT, STEP};

/// Takes spans of recorded traces, and warnings and errors below them. All else is out for
/// good, so that `tracing` doesn't ask for it again.
#[derive(Debug)]
pub(super) struct OfTraces;

fn is_grave(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && *metadata.level() <= Level::WARN
}

impl<S> Filter<S> for OfTraces
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        if metadata.is_span() && metadata.target() == ROOT {
            // Made only if its trace is recorded.
            return true;
        }
        let wanted = is_grave(metadata) || metadata.target() == STEP;
        wanted && context.lookup_current().is_some()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target() {
            ROOT => Interest::always(),
            STEP => Interest::sometimes(),
            _ if is_grave(metadata) => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}
