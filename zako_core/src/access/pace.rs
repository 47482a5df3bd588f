//! Slowing a stream of bytes down to what its caller may move.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use super::{Allowance, Direction};

/// One direction of a call. What moved is booked, and before the next bytes the debt is
/// waited out, so that the peer is held back by its window.
#[derive(Debug)]
pub struct Pace {
    allowance: Allowance,
    direction: Direction,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// The bytes of a call that move this way.
    pub fn new(allowance: Allowance, direction: Direction) -> Self {
        Self {
            allowance,
            direction,
            wait: None,
        }
    }

    /// Books bytes.
    pub fn moved(&mut self, bytes: usize) {
        if bytes > 0 {
            self.allowance.account().moved(self.direction, bytes as u64);
        }
    }

    /// Ready when more may move.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                std::task::ready!(wait.as_mut().poll(cx));
                self.wait = None;
                // What others booked meanwhile is theirs to wait for.
                return Poll::Ready(());
            }
            let debt = self.allowance.account().debt(self.direction);
            if debt.is_zero() {
                return Poll::Ready(());
            }
            self.wait = Some(Box::pin(tokio::time::sleep(debt)));
        }
    }

    /// Waits until more may move.
    pub async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;
    use crate::access::{Account, Consumer, Quota};
    use crate::cas::Result;

    /// A byte a millisecond.
    #[derive(Debug)]
    struct Slow(Mutex<Instant>);

    impl Quota for Arc<Slow> {
        fn account(&self, _: &Consumer<'_>) -> Option<Arc<dyn Account>> {
            Some(Arc::clone(self) as _)
        }
    }

    impl Account for Slow {
        fn begin(&self) -> Result<()> {
            Ok(())
        }

        fn end(&self) {}

        fn moved(&self, _: Direction, bytes: u64) {
            *self.0.lock() += Duration::from_millis(bytes);
        }

        fn debt(&self, _: Direction) -> Duration {
            self.0.lock().saturating_duration_since(Instant::now())
        }

        fn reserve(&self, _: u64) -> Result<()> {
            Ok(())
        }

        fn release(&self, _: u64) {}
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_their_callers_rate() {
        let began = Instant::now();
        let quota = Arc::new(Slow(Mutex::new(began)));
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let streams = (0..4).map(|_| {
            let consumer = Consumer::new(None, Some(address));
            let allowance = Allowance::begin(&quota, &consumer).unwrap().unwrap();
            let mut pace = Pace::new(allowance, Direction::Out);
            tokio::spawn(async move {
                for _ in 0..50 {
                    pace.ready().await;
                    pace.moved(100);
                }
                Instant::now()
            })
        });
        let ends = futures::future::join_all(streams).await;
        // 20,000 bytes, of which each stream's last 100 are not waited for.
        let (least, most) = (Duration::from_secs(19), Duration::from_secs(21));
        for end in ends {
            let took = end.unwrap() - began;
            assert!(took >= least && took <= most, "{took:?}");
        }
    }
}
