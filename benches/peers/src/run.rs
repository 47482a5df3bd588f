//! What is run, as told on the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::Outcome;
use crate::load::Load;

/// What is run.
pub(crate) struct Run {
    pub(crate) short: bool,
    pub(crate) rounds: usize,
    /// How long each round waits for other processes to be quiet, at most.
    pub(crate) quiet: Duration,
    /// The command that is measured.
    pub(crate) zako: PathBuf,
    only: Vec<String>,
    folder: TempDir,
}

/// The arguments, for those who ask.
pub(crate) const HELP: &str = "\
Measures Zako beside iroh-blobs and nginx:
  cargo run --release -- --zako FILE [OPTIONS] [large|small]
  --zako FILE  the command `zako`, built for release
  --rounds N   medians of N rounds (5)
  --short      one round with small sizes, to see that all works
  --quiet S    before each round wait for other processes to be quiet, S seconds at most (0)
  --folder DIR where the stores lie, so that it is the disk to measure (the current folder)";

impl Run {
    /// Reads the arguments; `None` if help is wanted.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Outcome<Option<Self>> {
        let (mut short, mut rounds, mut quiet) = (false, None, Duration::ZERO);
        let mut only = Vec::new();
        let (mut folder, mut zako) = (PathBuf::from("."), None);
        let value = |args: &mut dyn Iterator<Item = String>, name| {
            args.next().ok_or_else(|| format!("{name} needs a value"))
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--short" => short = true,
                "--rounds" => rounds = Some(value(&mut args, "--rounds")?.parse()?),
                "--quiet" => quiet = Duration::from_secs(value(&mut args, "--quiet")?.parse()?),
                "--folder" => folder = value(&mut args, "--folder")?.into(),
                "--zako" => zako = Some(PathBuf::from(value(&mut args, "--zako")?)),
                "--help" | "-h" => return Ok(None),
                "large" | "small" => only.push(arg),
                other => return Err(format!("{other:?} is not known here\n{HELP}").into()),
            }
        }
        let zako = zako.ok_or("the command is told by --zako FILE")?;
        Ok(Some(Self {
            short,
            rounds: rounds.unwrap_or(if short { 1 } else { 5 }),
            quiet,
            zako: zako.canonicalize()?,
            only,
            folder: tempfile::tempdir_in(folder.canonicalize()?)?,
        }))
    }

    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut loads = vec![Load::large(self.short), Load::small(self.short)];
        loads.retain(|load| self.only.is_empty() || self.only.iter().any(|it| it == load.name()));
        loads
    }

    /// A folder on the disk that is measured.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder for a store, gone when dropped.
    pub(crate) fn new_folder(&self) -> Outcome<TempDir> {
        Ok(tempfile::tempdir_in(&self.folder)?)
    }
}
