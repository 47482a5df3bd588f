//! Another program in this process, which goes on with the same sockets: a new version of
//! `zako`, or one that reads its configuration anew, without a client that is refused.
//!
//! The store has one process at a time, so the new program begins when the old one has finished
//! what was in flight and closed the store; what connects in between waits in the sockets'
//! queues. The process stays the same for whoever watches over it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::sockets::Sockets;
use crate::failure::{Exit, Failure};

/// The program that follows this one.
#[derive(Clone, Debug)]
pub(super) struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
    config: Option<PathBuf>,
}

impl Successor {
    /// What is at this program's path by then, with the same arguments. To be asked at the
    /// start, since the path of a program that was replaced is not known any more.
    ///
    /// # Errors
    /// The path can't be found.
    pub(super) fn new(config: Option<&Path>) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("asking for the program's path: {error}"),
            )
        })?;
        Ok(Self {
            program,
            arguments: std::env::args_os().skip(1).collect(),
            config: config.map(Path::to_owned),
        })
    }

    /// Whether it runs on this machine and understands the configuration.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn check(&self) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.args(["config", "--check"]).args(&self.config);
        command.stdin(Stdio::null());
        let program = self.program.display().to_string();
        let run = tokio::task::spawn_blocking(move || command.output()).await;
        let output = match run {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                return Err(Failure::new(Exit::Failed, format!("{program}: {error}")));
            }
            Err(error) => return Err(Failure::new(Exit::Failed, error.to_string())),
        };
        // Without a file there is nothing to be wrong in it.
        let missing = Some(i32::from(Exit::Missing.code()));
        let sound =
            output.status.success() || (self.config.is_none() && output.status.code() == missing);
        if sound {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Err(Failure::new(
            Exit::Usage,
            format!(
                "{program} config --check: {}: {}",
                output.status,
                said.trim_end()
            ),
        ))
    }

    /// Becomes it.
    ///
    /// # Errors
    /// Always, if it returns: it can't be run.
    pub(super) fn become_it(self, sockets: &Sockets) -> Failure {
        let legacy = match sockets.bequeath() {
            Ok(legacy) => legacy,
            Err(failure) => return failure,
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(legacy.variables.iter().cloned());
        let error = command.exec();
        Failure::new(
            Exit::Failed,
            format!("running {}: {error}", self.program.display()),
        )
    }
}
