//! Verbs that end cleanly when they are interrupted.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::{Exit, Failure};

/// What cleaning up may take.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a verb until it is done or a signal comes; then it is dropped, which
/// removes its temporary files and parks its uploads.
///
/// # Errors
/// Those of the verb; [`Exit::Interrupted`] after a signal.
pub(crate) async fn until_interrupted(
    verb: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let failed = |error| Failure::new(Exit::Failed, format!("listening for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sender.send(());
        // The verb may be in a read that nothing ends, as of stdin, or have much to
        // remove.
        tokio::time::sleep(GRACE).await;
        tracing::error!(
            "ended before all was removed: of a restore a folder .zako-*.part may be left, \
             beside its target or in it"
        );
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    tokio::select! {
        outcome = verb => outcome,
        _ = receiver => Err(Failure::new(Exit::Interrupted, "interrupted")),
    }
}
