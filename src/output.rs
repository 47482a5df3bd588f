//! What goes to stdout and stderr: lines for people, or one JSON object a line.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::os::fd::AsFd;

use serde::Serialize;

use crate::failure::{Exit, Failure};

/// The standard output of a verb.
///
/// Written through a buffer that [`flush`](Self::flush) empties; a line at a time
/// on a terminal.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    buffer: Vec<u8>,
    raw: Option<File>,
}

/// Enough for a thousand lines of digest and path a syscall.
const BUFFER: usize = 64 * 1024;

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: io::stdout().is_terminal(),
            buffer: Vec::new(),
            raw: None,
        }
    }

    /// Whether one JSON object a line is asked for.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether stdout is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes a record: its `Display` for people, or its JSON.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub(crate) fn record<R: Serialize + Display>(&mut self, record: &R) -> Result<(), Failure> {
        if self.json {
            serde_json::to_writer(&mut self.buffer, record).map_err(|error| {
                Failure::new(Exit::Failed, format!("can't write this as JSON: {error}"))
            })?;
            self.buffer.push(b'\n');
            self.line_done()
        } else {
            self.line(record)
        }
    }

    /// Writes a line that is for people only.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        if !self.json {
            // Writing to a Vec doesn't fail.
            let _ = writeln!(self.buffer, "{line}");
        }
        self.line_done()
    }

    /// Writes bytes as they are, behind what was written before.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.flush()?;
        // The buffer of `Stdout` looks for line ends and would copy the rest.
        let raw = match &mut self.raw {
            Some(raw) => raw,
            none => none.insert(File::from(
                io::stdout()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|error| failed(&error))?,
            )),
        };
        raw.write_all(bytes).map_err(|error| failed(&error))
    }

    /// Hands all that was written to the system.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let outcome = write(|stdout| {
            stdout.write_all(&self.buffer)?;
            stdout.flush()
        });
        self.buffer.clear();
        outcome
    }

    fn line_done(&mut self) -> Result<(), Failure> {
        if self.terminal || self.buffer.len() >= BUFFER {
            self.flush()
        } else {
            Ok(())
        }
    }
}

/// Writes a failure to stderr.
pub(crate) fn report(failure: &Failure, json: bool) {
    if failure.exit() == Exit::ClosedOutput {
        return;
    }
    if json {
        note(failure.to_json());
    } else {
        note(format_args!("zako: {failure}"));
    }
}

/// Writes a line to stderr.
pub(crate) fn note(line: impl Display) {
    // With stderr closed there is nowhere left to complain.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn write(print: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>) -> Result<(), Failure> {
    print(&mut io::stdout().lock()).map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::BrokenPipe => Exit::ClosedOutput,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::NoSpace,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("writing the output: {error}"))
}
