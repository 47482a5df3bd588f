//! What a request is reported by when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Instant;

use http::request::Parts;
use http::{Method, StatusCode};
use zako_core::access::Identity;
use zako_core::negotiate::Peer;
use zako_core::observe::{CallEnd, CallKind, Interface, Lookup, Observer};

/// A request under way. Its body and its answer's share it; when both are gone the request
/// has ended, and the observer is told.
#[derive(Debug)]
pub(super) struct Meter {
    observer: Arc<dyn Observer>,
    method: Method,
    peer: Arc<Peer>,
    identity: Option<Identity>,
    began: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// 0 until it is answered.
    status: AtomicU16,
}

/// A request of more bytes than these takes as long as they do.
const STREAM_FROM: u64 = 1 << 20;

/// What is told of a request that went away unanswered.
const GONE: u16 = 499;

impl Meter {
    pub(super) fn new(observer: Arc<dyn Observer>, head: &Parts, peer: Arc<Peer>) -> Arc<Self> {
        Arc::new(Self {
            observer,
            method: head.method.clone(),
            peer,
            identity: head.extensions.get().cloned(),
            began: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            status: AtomicU16::new(0),
        })
    }

    /// Counts bytes of the request's body.
    pub(super) fn received(&self, bytes: usize) {
        // Told by the last owner only, which sees all of it.
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of the answer's body.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes the answer, and whether `what`, if it was read, was found.
    pub(super) fn answered(&self, status: StatusCode, what: Option<&'static str>) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
        let is_read = matches!(self.method, Method::GET | Method::HEAD);
        let Some(what) = what.filter(|_| is_read) else {
            return;
        };
        let found = status.is_success() || status == StatusCode::NOT_MODIFIED;
        if found || status == StatusCode::NOT_FOUND {
            let (hits, misses) = (u64::from(found), u64::from(!found));
            let lookup = Lookup::new(Interface::Http, what, hits, misses);
            self.observer.lookup(&lookup);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut end = CallEnd::new(Interface::Http, name(&self.method));
        end.received = self.received.load(Ordering::Relaxed);
        end.sent = self.sent.load(Ordering::Relaxed);
        end.kind = match end.received + end.sent {
            STREAM_FROM.. => CallKind::Stream,
            _ => CallKind::Short,
        };
        end.code = match self.status.load(Ordering::Relaxed) {
            0 => GONE,
            status => status,
        };
        end.duration = self.began.elapsed();
        end.peer = self.peer.host();
        end.identity = self.identity.as_ref();
        self.observer.call(&end);
    }
}

/// The method, if it is one that has a meaning here: strangers can make up others.
fn name(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "PROPFIND" | "MKCOL" | "POST") => {
            known
        }
        _ => "other",
    }
}
