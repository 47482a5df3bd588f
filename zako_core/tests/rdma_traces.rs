//! The trace of a transfer travels with it through the control stream.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::sync::Arc;

use parking_lot::Mutex;
use rdma_support::{Joined, noise};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Span, Subscriber};
use zako_core::cas::CasExt;
use zako_core::observe::trace::{self, Propagator, Read, Write};
use zako_rdma::soft::Faults;

/// Names each span by its number, and keeps what calls came with.
#[derive(Clone, Debug, Default)]
struct Named(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// The names of the spans, by their number.
    spans: Vec<&'static str>,
    /// Entered and not left.
    current: Vec<u64>,
    /// The span of a caller, and the span that it was given.
    accepted: Vec<(String, String, &'static str)>,
}

impl Propagator for Named {
    fn accept(&self, read: Read<'_>, begin: &dyn Fn() -> Span) -> Span {
        let span = begin();
        let told = |name| read(name).unwrap_or_default().to_owned();
        let (parent, state) = (told(trace::TRACEPARENT), told(trace::TRACESTATE));
        let name = span.metadata().unwrap().name();
        self.0.lock().accepted.push((parent, state, name));
        span
    }

    fn inject(&self, span: &Span, write: Write<'_>) {
        let number = span.id().map_or(0, |id| id.into_u64());
        write(trace::TRACEPARENT, &format!("span {number}"));
        write(trace::TRACESTATE, "kept=1");
    }
}

impl Subscriber for Named {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with(trace::TARGETS)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut kept = self.0.lock();
        kept.spans.push(attributes.metadata().name());
        Id::from_u64(kept.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.0.lock().current.push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        let mut kept = self.0.lock();
        let at = kept.current.iter().rposition(|it| *it == id.into_u64());
        kept.current.remove(at.unwrap());
    }

    fn current_span(&self) -> tracing_core::span::Current {
        let kept = self.0.lock();
        match kept.current.last() {
            Some(id) => tracing_core::span::Current::new(Id::from_u64(*id), &METADATA),
            None => tracing_core::span::Current::none(),
        }
    }
}

/// Of what is current: only its number counts here.
static METADATA: Metadata<'static> = {
    struct Nowhere;
    impl tracing_core::Callsite for Nowhere {
        fn set_interest(&self, _: tracing_core::Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            &METADATA
        }
    }
    static NOWHERE: Nowhere = Nowhere;
    tracing_core::metadata! {
        name: "current",
        target: trace::STEP,
        level: tracing_core::Level::INFO,
        fields: &[],
        callsite: &NOWHERE,
        kind: tracing_core::metadata::Kind::SPAN,
    }
};

#[tokio::test]
async fn a_put_and_a_get_go_on_at_the_server() {
    let named = Named::default();
    let _guard = tracing::subscriber::set_default(named.clone());
    trace::install(Box::new(named.clone()));
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);

    let kept = named.0.lock();
    let transfers: Vec<_> = kept
        .accepted
        .iter()
        .filter(|(.., name)| *name == "rdma")
        .collect();
    assert_eq!(transfers.len(), 2, "{kept:?}");
    for (parent, state, _) in transfers {
        let number: usize = parent.strip_prefix("span ").unwrap().parse().unwrap();
        assert_eq!(kept.spans[number - 1], "rdma", "{kept:?}");
        assert_eq!(state, "kept=1");
    }
}
