//! What a service manager such as systemd is told (sd_notify(3)), if there is one.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

use super::abort_on_drop::AbortOnDrop;

/// How often it is told that opening goes on, and for how long it may go on after that.
const STILL_OPENING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// What ending may take beyond what it may take by the configuration.
const ENDING: Duration = Duration::from_secs(20);

/// The server takes calls.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The server opens its store, until what this gives is dropped.
pub(super) fn opening() -> AbortOnDrop {
    tell(&[NotifyState::Status("opening the store")]);
    AbortOnDrop::spawn(async {
        let (pause, more) = STILL_OPENING;
        loop {
            tell(&[NotifyState::ExtendTimeoutUsec(micros(more))]);
            sleep(pause).await;
        }
    })
}

/// The configuration is read again; [`ready`] or [`refused`] follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// What was read can't be used, and what was in force still is.
pub(super) fn refused() {
    tell(&[
        NotifyState::Ready,
        NotifyState::Status("serving; the configuration was NOT reloaded: see the log"),
    ]);
}

/// The server ends; it may take so long.
pub(super) fn stopping(takes: Duration) {
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros(takes + ENDING)),
        NotifyState::Status("finishing what is in flight"),
    ]);
}

/// The process makes room for another program, which says when it is ready.
pub(super) fn handing_over() {
    reloading();
    tell(&[NotifyState::Status("making room for a new process")]);
}

/// Says again and again that the server lives, if it is to say so, until what this gives is
/// dropped. As a task it says so only while tasks run.
pub(super) fn watchdog() -> Option<AbortOnDrop> {
    let period = sd_notify::watchdog_enabled()?;
    Some(AbortOnDrop::spawn(async move {
        loop {
            tell(&[NotifyState::Watchdog]);
            sleep(period / 3).await;
        }
    }))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}

fn micros(period: Duration) -> u32 {
    u32::try_from(period.as_micros()).unwrap_or(u32::MAX)
}
