//! Sees to the end of work whose endpoint is gone.
//!
//! A card may touch the memory of what is posted until it says that it is done, and a
//! thread of tokio can't wait for that: one thread does for all of them.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::work_queue::WorkQueue;

/// After this, work counts as never ending.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

struct Dying {
    work: WorkQueue,
    until: Instant,
}

/// Drops it when all its work has ended, or its memory is given up. The queue pair has
/// been made to fail.
pub(super) fn reap(work: WorkQueue) {
    static REAPER: OnceLock<Option<Sender<Dying>>> = OnceLock::new();
    let dying = Dying {
        work,
        until: Instant::now() + PATIENCE,
    };
    match REAPER.get_or_init(start) {
        // It gives back what can't be sent; dropping that keeps the memory for good.
        Some(reaper) => drop(reaper.send(dying)),
        None => drop(dying),
    }
}

fn start() -> Option<Sender<Dying>> {
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("rdma-reaper".to_owned());
    match thread.spawn(move || run(&receiver)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::error!(%error, "no thread to see to the end of work");
            None
        }
    }
}

fn run(new: &Receiver<Dying>) {
    let mut dying: Vec<Dying> = Vec::new();
    loop {
        if dying.is_empty() {
            match new.recv() {
                Ok(one) => dying.push(one),
                Err(_) => return,
            }
        }
        dying.retain_mut(|one| !ended(one));
        match new.recv_timeout(PAUSE) {
            Ok(one) => dying.push(one),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(PAUSE),
        }
    }
}

fn ended(one: &mut Dying) -> bool {
    let mut completions = Vec::new();
    let polled = one.work.poll(&mut completions);
    polled.is_err() || one.work.outstanding() == 0 || Instant::now() >= one.until
}
