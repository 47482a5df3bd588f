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
