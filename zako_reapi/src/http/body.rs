//! Reading a request's body, and noticing when next to nothing comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::EXPECT;
use http::request::Parts;
use http::{StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};
use zako_core::access::Pace;

use super::meter::Meter;
use super::refusal::Refusal;

/// A sender that brings less in the idle time is as good as silent.
const PROGRESS: usize = 4 << 10;

/// So much of a refused body is read, so that its sender reads the answer before it finds
/// the connection closed.
const LINGER: u64 = 4 << 20;

/// A request's body as it comes.
pub(super) struct RequestBody {
    body: Incoming,
    length: Option<u64>,
    idle: Duration,
    /// What came since the sender last counted as alive, and how long it was waited for.
    came: usize,
    waited: Duration,
    /// The sender waits for a word before it sends.
    unasked: bool,
    /// How fast it may come.
    pub(super) pace: Option<Pace>,
    meter: Option<Arc<Meter>>,
}

impl RequestBody {
    pub(super) fn new(head: &Parts, body: Incoming, idle: Duration) -> Self {
        let expects = head.headers.get(EXPECT).map(|value| value.as_bytes());
        let continues = expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Self {
            length: body.size_hint().exact(),
            unasked: continues && head.version > Version::HTTP_10 && !body.is_end_stream(),
            body,
            idle,
            came: 0,
            waited: Duration::ZERO,
            pace: None,
            meter: None,
        }
    }

    /// Has its bytes counted.
    pub(super) fn metered(mut self, meter: Option<Arc<Meter>>) -> Self {
        self.meter = meter;
        self
    }

    /// Its length in bytes, if that was told.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The sender went away, broke the rules or is too slow.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.unasked = false;
        if let Some(pace) = &mut self.pace {
            pace.ready().await;
        }
        loop {
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    let began = Instant::now();
                    let left = self.idle.saturating_sub(self.waited);
                    let frame = timeout(left, self.body.frame()).await;
                    self.waited += began.elapsed();
                    frame.map_err(|_| stalled())?
                }
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a body broke off");
                Refusal::bad("the body broke off or is malformed")
            })?;
            if let Ok(data) = frame.into_data() {
                if let Some(pace) = &mut self.pace {
                    pace.moved(data.len());
                }
                self.came += data.len();
                if let Some(meter) = &self.meter {
                    meter.received(data.len());
                }
                if self.came >= PROGRESS {
                    (self.came, self.waited) = (0, Duration::ZERO);
                }
                return Ok(Some(data));
            }
        }
    }

    /// Reads what is left and drops it.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) async fn skip(&mut self) -> Result<(), Refusal> {
        if self.unasked {
            return Ok(());
        }
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Reads a little more of what is refused.
    pub(super) async fn linger(&mut self) {
        let mut left = LINGER;
        while !self.unasked
            && left > 0
            && let Ok(Some(data)) = self.next().await
        {
            left = left.saturating_sub(data.len() as u64);
        }
    }
}

fn stalled() -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "next to nothing of the body came for too long",
    )
}
