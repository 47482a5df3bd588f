//! What a server does between its first connection and its last: it minds signals, and ends
//! well.

use std::pin::pin;

use tokio::sync::oneshot;
use zako_admin::{Readiness, State};
use zako_core::server::Notice;

use super::signals::Wish;
use super::{Process, service_manager};
use crate::config::ServerConfig;
use crate::failure::{Exit, Failure};

/// A server that answers.
pub(super) struct Life<'a, 'p> {
    pub(super) config: &'a ServerConfig,
    pub(super) process: &'a mut Process<'p>,
    pub(super) readiness: &'a Readiness,
    pub(super) notice: Notice,
    /// Dropped, it takes no more connections and calls.
    pub(super) stop: oneshot::Sender<()>,
}

/// What comes after a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing.
    Over,
    /// Another one, with the same sockets.
    HandOver,
}

impl Life<'_, '_> {
    /// Minds signals while `serving` answers, to its end; `broken` ends it as well.
    ///
    /// # Errors
    /// Those of both; a second signal while what is in flight is being finished.
    pub(super) async fn live(
        self,
        serving: impl Future<Output = zako_core::cas::Result<()>>,
        broken: impl Future<Output = Failure>,
    ) -> Result<Ending, Failure> {
        let Self {
            config,
            process,
            readiness,
            notice,
            stop,
        } = self;
        let (mut serving, mut broken) = (pin!(serving), pin!(broken));
        let mut drain = (config.drain_delay.value.0, config.drain_timeout.value.0);
        let mut ending = loop {
            let wish = tokio::select! {
                outcome = &mut serving => return Ok(outcome.map(|()| Ending::Over)?),
                failure = &mut broken => return Err(failure),
                wish = process.signals.next() => wish,
            };
            match wish {
                Wish::End(name) => {
                    tracing::info!("{name}: finishing what is in flight");
                    break Ending::Over;
                }
                Wish::Reload => {
                    service_manager::reloading();
                    match process.reloader.reload() {
                        Ok(new) => {
                            let new = &new.server;
                            drain = (new.drain_delay.value.0, new.drain_timeout.value.0);
                            service_manager::ready();
                        }
                        Err(failure) => {
                            tracing::error!(
                                "SIGHUP: the configuration was NOT reloaded, nothing changed: \
                                 {failure}"
                            );
                            service_manager::refused();
                        }
                    }
                }
                Wish::HandOver => {
                    let checked = tokio::select! {
                        outcome = &mut serving => return Ok(outcome.map(|()| Ending::Over)?),
                        checked = process.successor.check() => checked,
                    };
                    match checked {
                        Ok(()) => {
                            tracing::info!("SIGUSR2: making room for a new process");
                            break Ending::HandOver;
                        }
                        Err(failure) => tracing::error!("SIGUSR2: going on as before: {failure}"),
                    }
                }
            }
        };
        readiness.reached(State::Draining);
        match ending {
            Ending::HandOver => service_manager::handing_over(),
            Ending::Over => {
                let (delay, timeout) = drain;
                service_manager::stopping(delay + timeout);
                notice.give();
                if !delay.is_zero() {
                    tokio::select! {
                        outcome = &mut serving => return Ok(outcome.map(|()| Ending::Over)?),
                        () = tokio::time::sleep(delay) => {}
                        name = process.signals.end() => return Err(again(name)),
                    }
                }
                process.sockets.let_go();
            }
        }
        drop(stop);
        loop {
            let name = tokio::select! {
                outcome = &mut serving => return Ok(outcome.map(|()| ending)?),
                name = process.signals.end() => name,
            };
            if ending == Ending::Over {
                return Err(again(name));
            }
            tracing::info!("{name}: no new process");
            ending = Ending::Over;
            process.sockets.let_go();
        }
    }
}

fn again(name: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{name} again: ended with transfers in flight, which are parked"),
    )
}
