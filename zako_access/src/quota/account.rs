//! One caller's account.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota as Rate, RateLimiter};
use parking_lot::Mutex;
use zako_core::access::{Account, Direction, Exceeded, Limit};
use zako_core::cas::{CasError, Result};

use super::WallClock;
use super::key::Key;
use super::limits::Limits;
use super::pacer::Pacer;
use super::window::Window;

/// A caller whose bytes are ahead of its rate by more than this begins nothing new; up to
/// this it is slowed down.
const MOST_DEBT: Duration = Duration::from_secs(2);

/// When a caller may try again that has as many streams as it may.
const STREAM_RETRY: Duration = Duration::from_millis(200);

/// When a caller may try again whose bytes will not fit in any day.
const NEVER: Duration = Duration::from_secs(24 * 3600);

type Requests<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// What a caller has used.
pub(super) struct Ledger<C: Clock> {
    key: Key,
    limits: Limits,
    requests: Option<Requests<C>>,
    streams: AtomicU32,
    bytes_in: Option<Pacer<C>>,
    bytes_out: Option<Pacer<C>>,
    /// Shared with the accounts that come after this under other limits.
    stored: Arc<Mutex<Window>>,
    wall: WallClock,
}

impl<C: Clock + Clone> Ledger<C> {
    pub(super) fn new(
        key: Key,
        limits: Limits,
        stored: Arc<Mutex<Window>>,
        clock: &C,
        wall: WallClock,
    ) -> Self {
        let requests = limits.requests_per_second;
        let pacer = |rate| Pacer::new(rate, clock.clone());
        Self {
            key,
            limits,
            requests: requests
                .map(|rate| RateLimiter::direct_with_clock(Rate::per_second(rate), clock.clone())),
            streams: AtomicU32::new(0),
            bytes_in: limits.bytes_in_per_second.map(pacer),
            bytes_out: limits.bytes_out_per_second.map(pacer),
            stored,
            wall,
        }
    }
}

impl<C: Clock> Ledger<C> {
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn stored(&self) -> &Arc<Mutex<Window>> {
        &self.stored
    }

    /// Whether a new account would be the same.
    pub(super) fn is_as_new(&self) -> bool {
        // Requests of the last second don't matter as much as the place.
        let rests = |pacer: &Option<Pacer<C>>| pacer.as_ref().is_none_or(Pacer::rests);
        self.streams.load(Ordering::Acquire) == 0
            && rests(&self.bytes_in)
            && rests(&self.bytes_out)
            && self.stored.lock().is_empty(self.seconds())
    }

    pub(super) fn seconds(&self) -> u64 {
        seconds(&self.wall)
    }

    fn exceeded(&self, limit: Limit, message: String, after: Duration) -> CasError {
        let subject = self.key.to_string();
        Exceeded { limit, subject }.into_error(message, after)
    }

    fn pacer(&self, direction: Direction) -> Option<&Pacer<C>> {
        match direction {
            Direction::In => self.bytes_in.as_ref(),
            Direction::Out => self.bytes_out.as_ref(),
        }
    }

    fn request(&self) -> Result<()> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        requests.check().map_err(|refused| {
            let most = self.limits.requests_per_second.map_or(0, NonZeroU32::get);
            let message = format!("more than the {most} requests a second that are allowed");
            let after = refused.wait_time_from(requests.clock().now());
            self.exceeded(Limit::Requests, message, after)
        })
    }

    fn take_stream(&self, most: NonZeroU32) -> bool {
        let one_more = |streams| (streams < most.get()).then_some(streams + 1);
        let taken = self
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok()
    }
}

/// Seconds since 1970.
pub(super) fn seconds(wall: &WallClock) -> u64 {
    let since = wall().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl<C> Account for Ledger<C>
where
    C: Clock + std::fmt::Debug + Send + Sync + 'static,
{
    fn begin(&self) -> Result<()> {
        for direction in [Direction::In, Direction::Out] {
            let debt = self.debt(direction);
            if debt > MOST_DEBT {
                let message = "more bytes a second than are allowed".to_owned();
                return Err(self.exceeded(Limit::Bytes, message, debt - MOST_DEBT));
            }
        }
        match self.limits.streams {
            Some(most) if !self.take_stream(most) => {
                let message = format!("more than the {most} calls at once that are allowed");
                return Err(self.exceeded(Limit::Streams, message, STREAM_RETRY));
            }
            Some(_) => {}
            None => {
                self.streams.fetch_add(1, Ordering::AcqRel);
            }
        }
        // Last: what is refused for another reason is no request.
        self.request().inspect_err(|_| self.end())
    }

    fn end(&self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
    }

    fn moved(&self, direction: Direction, bytes: u64) {
        if let Some(pacer) = self.pacer(direction) {
            pacer.book(bytes);
        }
    }

    fn debt(&self, direction: Direction) -> Duration {
        let pacer = self.pacer(direction);
        pacer.map(Pacer::debt).unwrap_or_default()
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        let Some(most) = self.limits.stored_bytes_per_day else {
            return Ok(());
        };
        let added = self.stored.lock().add(self.seconds(), bytes, most.get());
        added.map_err(|after| {
            let message = format!("more than the {most} new bytes a day that may be stored");
            self.exceeded(Limit::Stored, message, after.unwrap_or(NEVER))
        })
    }

    fn release(&self, bytes: u64) {
        if self.limits.stored_bytes_per_day.is_some() {
            self.stored.lock().remove(bytes);
        }
    }
}

impl<C: Clock> std::fmt::Debug for Ledger<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("key", &self.key)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
