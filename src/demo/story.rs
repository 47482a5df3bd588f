//! What the demo tells, for people and as JSON.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use zako_core::Digest;
use zako_core::tree::{RestoreReport, TreeReport};

use super::folder::Contents;
use crate::quantity::{bytes, count, plural, rate, took};

/// The folder that goes through.
#[derive(Serialize)]
pub(super) struct Source {
    folder: String,
    files: u64,
    folders: u64,
    bytes: u64,
}

/// Before anything moves.
#[derive(Serialize)]
pub(super) struct Opening {
    #[serde(flatten)]
    pub(super) source: Source,
    pub(super) server: String,
}

/// One put of the folder.
#[derive(Clone, Serialize)]
pub(super) struct Put {
    step: &'static str,
    files: u64,
    blobs: u64,
    bytes: u64,
    blobs_sent: u64,
    bytes_sent: u64,
    seconds: f64,
    #[serde(skip)]
    took: Duration,
}

/// The folder restored.
#[derive(Clone, Serialize)]
pub(super) struct Got {
    step: &'static str,
    files: u64,
    bytes: u64,
    bytes_fetched: u64,
    seconds: f64,
    #[serde(skip)]
    took: Duration,
}

/// The comparison of both.
#[derive(Serialize)]
pub(super) struct Compared {
    step: &'static str,
    identical: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<String>,
    seconds: f64,
    #[serde(skip)]
    took: Duration,
}

/// The whole story in one record.
#[derive(Serialize)]
pub(super) struct Finale {
    pub(super) identical: bool,
    digest: String,
    files: u64,
    bytes: u64,
    bytes_saved: u64,
    first_put: Put,
    second_put: Put,
    get: Got,
}

impl Source {
    pub(super) fn new(folder: &Path, contents: &Contents) -> Self {
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        Self {
            folder: folder.display().to_string(),
            files: contents.files,
            folders: contents.folders,
            bytes: contents.bytes,
        }
    }
}

impl Put {
    pub(super) fn new(step: &'static str, report: &TreeReport, took: Duration) -> Self {
        Self {
            step,
            files: report.files,
            blobs: report.upload.blobs,
            bytes: report.upload.bytes,
            blobs_sent: report.upload.sent_blobs,
            bytes_sent: report.upload.sent_bytes,
            seconds: took.as_secs_f64(),
            took,
        }
    }

    fn saved(&self) -> u64 {
        self.bytes.saturating_sub(self.bytes_sent)
    }
}

impl Got {
    pub(super) fn new(report: &RestoreReport, took: Duration) -> Self {
        Self {
            step: "get",
            files: report.files,
            bytes: report.file_bytes,
            bytes_fetched: report.fetched_bytes,
            seconds: took.as_secs_f64(),
            took,
        }
    }
}

impl Compared {
    pub(super) fn new(difference: Option<String>, took: Duration) -> Self {
        Self {
            step: "compare",
            identical: difference.is_none(),
            difference,
            seconds: took.as_secs_f64(),
            took,
        }
    }
}

impl Finale {
    /// `puts` are the first and the second.
    pub(super) fn new(digest: Digest, puts: [Put; 2], get: Got, compared: &Compared) -> Self {
        let [first_put, second_put] = puts;
        Self {
            identical: compared.identical,
            digest: digest.to_string(),
            files: get.files,
            bytes: get.bytes,
            bytes_saved: first_put.saved() + second_put.saved(),
            first_put,
            second_put,
            get,
        }
    }
}

/// Per second, for a person.
fn each_second(number: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-9);
    count((number as f64 / seconds) as u64)
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source {
            folder,
            files,
            folders,
            bytes,
        } = &self.source;
        writeln!(f, "A folder goes to a zako server and comes back.\n")?;
        writeln!(f, "  folder     {folder}")?;
        writeln!(
            f,
            "             {} in {}, {}",
            plural(*files, "file"),
            plural(*folders, "folder"),
            self::bytes(*bytes),
        )?;
        writeln!(
            f,
            "  server     {}, in this process, with a temporary store",
            self.server
        )
    }
}

impl fmt::Display for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<9}  ", self.step)?;
        if self.blobs_sent == 0 {
            writeln!(
                f,
                "nothing sent: all {} are there already",
                plural(self.blobs, "blob")
            )?;
        } else {
            write!(
                f,
                "{} sent, {}",
                bytes(self.bytes_sent),
                plural(self.blobs_sent, "blob")
            )?;
            match self.saved() {
                0 => writeln!(f)?,
                saved => writeln!(f, "; {} not, in equal files", bytes(saved))?,
            }
        }
        write!(
            f,
            "             {}   {}   {} files/s",
            took(self.took),
            rate(self.bytes, self.took),
            each_second(self.files, self.took),
        )
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<9}  {} fetched, {} written, {}",
            self.step,
            bytes(self.bytes_fetched),
            bytes(self.bytes),
            plural(self.files, "file"),
        )?;
        write!(
            f,
            "             {}   {}   {} files/s",
            took(self.took),
            rate(self.bytes, self.took),
            each_second(self.files, self.took),
        )
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<9}  ", self.step)?;
        match &self.difference {
            None => writeln!(f, "every file, link and permission is the same")?,
            Some(difference) => writeln!(f, "DIFFERENT: {difference}")?,
        }
        write!(f, "             {}", took(self.took))
    }
}

impl fmt::Display for Finale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.first_put.bytes_sent + self.second_put.bytes_sent;
        writeln!(
            f,
            "\nBoth puts had {} to store; {} travelled, {} were saved.",
            bytes(self.first_put.bytes + self.second_put.bytes),
            bytes(sent),
            bytes(self.bytes_saved),
        )?;
        writeln!(f, "One digest names the whole folder:\n  {}", self.digest)?;
        write!(
            f,
            "\nNext: `zako serve` in one shell, `zako put --tree DIR` and `zako get DIGEST -o DIR` in another."
        )
    }
}
