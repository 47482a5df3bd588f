//! What is run, as told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Outcome, pages};

/// What is run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Small sizes and one round: not for figures, but to see that it works.
    pub(crate) short: bool,
    pub(crate) rounds: usize,
    /// How long each round waits for other processes to be quiet, at most.
    pub(crate) quiet: Duration,
    /// One JSON object for each figure, in place of tables.
    pub(crate) json: bool,
    /// The command that is measured.
    pub(crate) zako: PathBuf,
    /// Only the scenarios with such names; all if there are none.
    only: Vec<String>,
    folder: TempDir,
}

/// The arguments, for those who ask.
pub(crate) const HELP: &str = "\
Measures what build tools see: cargo bench --bench reapi -- [OPTIONS] [SCENARIO…]
Scenarios: streams, small, batches, asking, many; all if none is named.
  --rounds N   medians of N rounds (5)
  --short      one round with small sizes, to see that all works
  --quiet S    before each round wait for other processes to be quiet, S seconds at most (0)
  --folder DIR where the stores lie, so that it is the disk to measure (the target folder)
  --zako FILE  the command to measure, to compare builds (the one built with this)
  --json       one object a line for each figure";

impl Run {
    /// Reads the arguments; `None` if help is wanted.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Outcome<Option<Self>> {
        let (mut bench, mut short, mut json) = (false, false, false);
        let (mut rounds, mut quiet, mut only) = (None, Duration::ZERO, Vec::new());
        let mut folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut zako = PathBuf::from(env!("CARGO_BIN_EXE_zako"));
        let value = |args: &mut dyn Iterator<Item = String>, name| {
            args.next().ok_or_else(|| format!("{name} needs a value"))
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => bench = true,
                "--short" => short = true,
                "--json" => json = true,
                "--rounds" => rounds = Some(value(&mut args, "--rounds")?.parse()?),
                "--quiet" => {
                    quiet = Duration::from_secs(value(&mut args, "--quiet")?.parse()?);
                }
                "--folder" => folder = value(&mut args, "--folder")?.into(),
                "--zako" => zako = value(&mut args, "--zako")?.into(),
                "--help" | "-h" => return Ok(None),
                "streams" | "small" | "batches" | "asking" | "many" => only.push(arg),
                other => return Err(format!("{other:?} is not known here\n{HELP}").into()),
            }
        }
        // Among the tests, which don't say --bench, it is a test.
        let short = short || !bench;
        let rounds = rounds.unwrap_or(if short { 1 } else { 5 });
        Ok(Some(Self {
            short,
            rounds,
            quiet,
            json,
            zako,
            only,
            folder: tempfile::tempdir_in(folder)?,
        }))
    }

    pub(crate) fn has(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == scenario)
    }

    /// The size for figures, or the one to see that it works.
    pub(crate) fn size(&self, short: usize, full: usize) -> usize {
        if self.short { short } else { full }
    }

    /// Has pages at hand for so many bytes that are written next.
    pub(crate) fn take_pages(&self, bytes: u64) -> Outcome<()> {
        match self.short {
            true => Ok(()),
            false => pages::take(self.folder.path(), bytes),
        }
    }

    /// A folder for a store, gone when dropped.
    pub(crate) fn new_folder(&self) -> Outcome<TempDir> {
        Ok(tempfile::tempdir_in(&self.folder)?)
    }
}
