//! What a call is reported by when it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Code;

use crate::access::{Identity, Pace};
use crate::negotiate::Peer;
use crate::observe::{CallEnd, CallKind, Interface, Lookup, Observer};

/// A call under way. Its request's and its answer's body share it; when both are gone the
/// call has ended, and the observer is told.
#[derive(Debug)]
pub(super) struct Meter {
    observer: Arc<dyn Observer>,
    interface: Interface,
    kind: CallKind,
    method: Arc<str>,
    /// What it looks for, if that is one thing.
    looks_for: Option<&'static str>,
    peer: Arc<Peer>,
    identity: Option<Identity>,
    began: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    code: AtomicU16,
}

/// A request's body whose bytes count, and come no faster than its caller may send.
#[derive(Debug)]
pub(super) struct Metered {
    body: Incoming,
    meter: Option<Arc<Meter>>,
    pace: Option<Pace>,
}

/// The codes of a call that found what it looked for, and of one that did not.
const HIT: u16 = Code::Ok as u16;
const MISS: u16 = Code::NotFound as u16;

impl Meter {
    pub(super) fn new(
        observer: Arc<dyn Observer>,
        interface: Interface,
        kind: CallKind,
        method: Arc<str>,
        looks_for: Option<&'static str>,
        peer: Arc<Peer>,
        identity: Option<Identity>,
    ) -> Arc<Self> {
        Arc::new(Self {
            observer,
            interface,
            kind,
            method,
            looks_for,
            peer,
            identity,
            began: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            // What a call is that goes away without an end.
            code: AtomicU16::new(Code::Cancelled as u16),
        })
    }

    /// Counts a part of the answer.
    pub(super) fn answered<B: Buf>(&self, frame: &Frame<B>) {
        if let Some(data) = frame.data_ref() {
            // Told by the last owner only, which sees all of it.
            self.sent
                .fetch_add(data.remaining() as u64, Ordering::Relaxed);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.ended(trailers);
        }
    }

    /// Notes the code, if the trailers have it (or the headers of an answer without a
    /// body).
    pub(super) fn ended(&self, trailers: &HeaderMap) {
        if let Some(code) = trailers.get("grpc-status") {
            self.coded(Code::from_bytes(code.as_bytes()));
        }
    }

    /// Notes the code.
    pub(super) fn coded(&self, code: Code) {
        self.code.store(code as u16, Ordering::Relaxed);
    }

    /// Counts bytes that came past the request's body.
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went past the answer's body.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let code = self.code.load(Ordering::Relaxed);
        if let Some(what) = self.looks_for {
            let (hits, misses) = match code {
                HIT => (1, 0),
                MISS => (0, 1),
                _ => (0, 0),
            };
            if hits + misses > 0 {
                let lookup = Lookup::new(self.interface, what, hits, misses);
                self.observer.lookup(&lookup);
            }
        }
        self.observer.call(&CallEnd {
            kind: self.kind,
            code,
            duration: self.began.elapsed(),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            identity: self.identity.as_ref(),
            peer: self.peer.host(),
            ..CallEnd::new(self.interface, &self.method)
        });
    }
}

impl Metered {
    pub(super) fn new(body: Incoming, meter: Option<Arc<Meter>>, pace: Option<Pace>) -> Self {
        Self { body, meter, pace }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_ready(cx));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let length = data.len();
            if let Some(meter) = &self.meter {
                meter.received.fetch_add(length as u64, Ordering::Relaxed);
            }
            if let Some(pace) = &mut self.pace {
                pace.moved(length);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
