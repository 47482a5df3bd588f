//! How a command fails: what is said, what to do next, and the exit code.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;
use zako_core::access::{Exceeded, Limit};
use zako_core::cas::{CasError, ErrorKind};

use crate::output::report;

/// The exit codes, as `zako --help` and the README list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Missing = 3,
    Corrupt = 4,
    Unreachable = 5,
    NoSpace = 6,
    Busy = 7,
    Unsupported = 8,
    Denied = 9,
    /// What a shell reports for a program that SIGINT ended.
    Interrupted = 130,
    /// What a shell reports for a program that SIGPIPE ended.
    ClosedOutput = 141,
}

/// The part of `--help` that explains the exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    all done
  1    failed for a reason that has no code of its own (an I/O error, …)
  2    wrong usage or configuration
  3    a blob, or a file to read, is missing
  4    corrupt bytes, or bytes that don't match their digest
  5    the server can't be reached, went away or took too long
  6    no space: disk, quota or a limit of the server
  7    the store is in use by another process
  8    not built in, not to be had on this machine, or not offered by the server
  9    refused: token, permission or certificate, of the server or of the client
  130  interrupted by SIGINT or SIGTERM
  141  whatever read the output has closed it

When several things fail, the code is that of the first.";

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    advice: Option<String>,
}

/// The failures of a verb that goes on past them: the first becomes the verb's
/// own, the others are reported as they come.
pub(crate) struct Failures {
    json: bool,
    first: Option<Failure>,
}

#[derive(Serialize)]
struct ErrorRecord<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
    exit_code: u8,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The code for an I/O error of this machine.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            advice: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An I/O error while doing what `doing` says with the file `path`.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            Exit::of_io(error),
            format!("{doing} {}: {error}", path.display()),
        )
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Says first what was being done.
    #[must_use]
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What failed, without the advice.
    pub(crate) fn summary(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// One line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let record = ErrorRecord {
            error: &self.message,
            advice: self.advice.as_deref(),
            exit_code: self.exit.code(),
        };
        // Strings and a number always serialise.
        serde_json::to_string(&record).unwrap_or_default()
    }
}

impl Failures {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, first: None }
    }

    pub(crate) fn add(&mut self, failure: Failure) {
        match &self.first {
            None => self.first = Some(failure),
            Some(_) => report(&failure, self.json),
        }
    }

    /// # Errors
    /// The first failure.
    pub(crate) fn into_result(self) -> Result<(), Failure> {
        self.first.map_or(Ok(()), Err)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

impl From<CasError> for Failure {
    fn from(error: CasError) -> Self {
        let (exit, advice) = match Exceeded::of(&error).map(|exceeded| exceeded.limit) {
            Some(Limit::Stored) => (Exit::NoSpace, Some(QUOTA_ADVICE)),
            Some(_) => (Exit::NoSpace, Some(RATE_ADVICE)),
            None => judge(error.kind()),
        };
        let failure = Self::new(exit, error.to_string());
        match advice {
            Some(advice) => failure.advise(advice),
            None => failure,
        }
    }
}

const RATE_ADVICE: &str =
    "Do less at once (--jobs), or ask who runs the server for more: [limits] in its zako.toml.";

const QUOTA_ADVICE: &str = "There is room again when a day has passed since the bytes were stored; \
                            who runs the server may allow more: [limits] in its zako.toml.";

/// The exit code of a kind of error, and what to do about it.
fn judge(kind: ErrorKind) -> (Exit, Option<&'static str>) {
    match kind {
        ErrorKind::NotFound => (
            Exit::Missing,
            Some("It was never stored here, or was evicted to make room: store it again."),
        ),
        ErrorKind::InvalidRange | ErrorKind::InvalidArgument => (Exit::Usage, None),
        ErrorKind::Mismatch => (
            Exit::Corrupt,
            Some(
                "Something changed the bytes on their way (a file edited while it is read, a bad disk or memory): try again.",
            ),
        ),
        ErrorKind::Corrupt => (
            Exit::Corrupt,
            Some(
                "The store keeps the damaged bytes in quarantine: store the blob again, and check the disk.",
            ),
        ),
        ErrorKind::NoSpace => (
            Exit::NoSpace,
            Some("Free disk space, raise --max-size of the server, or wait for leases to end."),
        ),
        ErrorKind::Locked => (
            Exit::Busy,
            Some("Ask the server that has it (--server), or stop that server first."),
        ),
        ErrorKind::Format => (
            Exit::Unsupported,
            Some("Use the version of zako that wrote the store, or another --data folder."),
        ),
        ErrorKind::Unauthenticated => (
            Exit::Denied,
            Some(
                "Show who you are with --token-file or ZAKO_TOKEN. If you do, ask the server's operator whether it is known there.",
            ),
        ),
        ErrorKind::PermissionDenied => (
            Exit::Denied,
            Some(
                "The server allows this to others only: see [access] and `maintenance` in its configuration.",
            ),
        ),
        ErrorKind::Untrusted => (
            Exit::Denied,
            Some(
                "--tls-ca FILE names whom to trust, --tls-server-name the server's name, --client-cert and --client-key what to show.",
            ),
        ),
        ErrorKind::Unsupported => (Exit::Unsupported, None),
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Closed => (
            Exit::Unreachable,
            Some(
                "Is the server running (zako serve) and is --server right? `zako doctor` checks both.",
            ),
        ),
        _ => (Exit::Failed, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        for exit in [
            Exit::Failed,
            Exit::Usage,
            Exit::Missing,
            Exit::Corrupt,
            Exit::Unreachable,
            Exit::NoSpace,
            Exit::Busy,
            Exit::Unsupported,
            Exit::Denied,
            Exit::Interrupted,
            Exit::ClosedOutput,
        ] {
            let start = format!("\n  {:<5}", exit.code());
            assert!(EXIT_CODES.contains(&start), "{exit:?}");
        }
    }

    #[test]
    fn a_failure_says_what_and_what_next() {
        let failure = Failure::from(CasError::not_found(zako_core::Digest::EMPTY)).context("get");
        assert_eq!(failure.exit(), Exit::Missing);
        let text = failure.to_string();
        assert!(
            text.starts_with("get: the blob is not here (blob af13"),
            "{text}"
        );
        assert!(text.contains("\n  It was never stored"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&failure.to_json()).unwrap();
        assert_eq!(json["exit_code"], 3);
    }
}
