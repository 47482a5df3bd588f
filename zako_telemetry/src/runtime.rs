//! Where exporters run: a thread of their own, so that a collector that is slow holds
//! nothing else up, and so that the last export doesn't need the program's own runtime.

use tokio::runtime::{Builder, Handle, Runtime};

use crate::TelemetryError;

/// The exporters' runtime. Dropped, it ends without waiting for what is under way.
#[derive(Debug)]
pub struct ExportRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl ExportRuntime {
    /// Starts its thread.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn start() -> Result<Self, TelemetryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .thread_name("zako-telemetry")
            .enable_all()
            .build()
            .map_err(TelemetryError::Thread)?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// What spawns on it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for ExportRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
