//! Ending calls whose answer is not read.
//!
//! HTTP/2 does not ask a body for more while the peer's window is full, so that a
//! body can't notice by itself that no one reads it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Arc<Watch>;
}

/// What passes after a deadline before a call is dropped that could not tell it.
const GRACE: Duration = Duration::from_millis(500);

/// How the answer of a call gets on.
#[derive(Debug)]
pub(super) struct Watch {
    idle: Duration,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    deadline: Option<Instant>,
    /// Since when a part of the answer waits for the peer; `None` while the peer
    /// waits for the server.
    unread: Option<Instant>,
}

impl Watch {
    /// Runs a call until it ends, or until its answer stays unread for `idle` or
    /// beyond its deadline. The call is dropped then, which resets its stream.
    pub(super) async fn run(idle: Duration, call: impl Future) {
        let watch = Arc::new(Self {
            idle,
            times: Mutex::default(),
        });
        let call = CURRENT.scope(Arc::clone(&watch), call);
        tokio::select! {
            biased;
            _ = call => {}
            () = watch.over() => tracing::debug!("a call was dropped: its answer is not read"),
        }
    }

    /// The watch over the call that runs in this task.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Sets the deadline of the call, before it answers.
    pub(super) fn until(&self, deadline: Option<Instant>) {
        self.times.lock().deadline = deadline;
    }

    /// The peer's turn: a part of the answer is there to be read.
    pub(super) fn answered(&self) {
        self.times.lock().unread = Some(Instant::now());
    }

    /// The server's turn: all that was answered is on its way.
    pub(super) fn read(&self) {
        self.times.lock().unread = None;
    }

    async fn over(&self) {
        loop {
            match self.check(Instant::now()) {
                Some(next) => tokio::time::sleep_until(next).await,
                None => return,
            }
        }
    }

    /// When to look again; `None` when the call is over.
    fn check(&self, now: Instant) -> Option<Instant> {
        let Times { deadline, unread } = *self.times.lock();
        let deadline = deadline.map(|at| at + GRACE);
        let idle = unread.unwrap_or(now) + self.idle;
        let first = deadline.map_or(idle, |at| at.min(idle));
        match unread {
            Some(_) => (first > now).then_some(first),
            // A deadline that passed is the call's own to tell.
            None => Some(if first > now { first } else { idle }),
        }
    }
}
