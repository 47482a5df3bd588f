//! What happens to sessions over RDMA.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, Meter};
use zako_core::observe::RdmaEvent;

use super::catalog;
use super::instrument::counter;

/// The instruments of sessions.
pub(super) struct RdmaEvents(Vec<Series>);

struct Series {
    event: RdmaEvent,
    counters: Vec<BoundCounter<u64>>,
}

const EVENTS: [RdmaEvent; 5] = [
    RdmaEvent::NotOffered,
    RdmaEvent::Opened,
    RdmaEvent::SetUpFailed,
    RdmaEvent::Closed,
    RdmaEvent::Failed,
];

impl RdmaEvents {
    pub(super) fn new(meter: &Meter) -> Self {
        let events = counter(meter, catalog::RDMA_EVENTS);
        let fallbacks = counter(meter, catalog::RDMA_FALLBACKS);
        let series = EVENTS.into_iter().map(|event| {
            let mut counters = Vec::new();
            // What is not offered is no session.
            if event != RdmaEvent::NotOffered {
                counters.push(events.bind(&[KeyValue::new("event", event.as_str())]));
            }
            if event.is_fallback() {
                counters.push(fallbacks.bind(&[KeyValue::new("reason", event.as_str())]));
            }
            Series { event, counters }
        });
        Self(series.collect())
    }

    pub(super) fn happened(&self, event: RdmaEvent) {
        for series in self.0.iter().filter(|series| series.event == event) {
            series.counters.iter().for_each(|counter| counter.add(1));
        }
    }
}
