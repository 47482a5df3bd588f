//! `zako config`: what can be configured, what is, and what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::fault::Fault;
use super::shown::{Shown, resolve_all};
use super::{ConfigFile, Layers, Ledger, template};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Show what can be configured, what is in force, or what is wrong with a zako.toml
///
/// --check exits with 0 if nothing is wrong, 2 if something is, 3 if there is no such file.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigArgs {
    /// Print a zako.toml with every key, commented out, with its default and what it is
    #[arg(long)]
    default: bool,

    /// Find what is wrong in a file: in the one that would be read, if none is named
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    check: Option<Option<PathBuf>>,

    /// Print every value in force and where it comes from
    #[arg(long)]
    show: bool,
}

/// The outcome of a check that found nothing.
#[derive(Serialize)]
struct Sound {
    file: String,
    ok: bool,
}

/// Runs the verb; `named` is the file that `--config` names.
///
/// # Errors
/// There is no such file, it can't be read, or something is wrong with it.
pub(crate) fn run(
    args: &ConfigArgs,
    named: Option<&Path>,
    output: &mut Output,
) -> Result<(), Failure> {
    if args.default {
        return output.bytes(template::template().as_bytes());
    }
    if let Some(file) = &args.check {
        return check(file.as_deref().or(named), output);
    }
    let file = ConfigFile::load(named)?;
    let ledger = Ledger::default();
    resolve_all(&Layers::new(&file).noting(&ledger))?;
    for entry in ledger.entries() {
        output.record(&Shown::new(entry))?;
    }
    Ok(())
}

fn check(named: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let Some((path, text)) = ConfigFile::read(named)? else {
        let places: Vec<_> = ConfigFile::places();
        let places = places.iter().map(|place| place.display().to_string());
        let places = places.collect::<Vec<_>>().join(" nor ");
        return Err(
            Failure::new(Exit::Missing, format!("there is neither {places}"))
                .advise("Name a file: zako config --check FILE."),
        );
    };
    let faults = faults(&path, &text);
    for fault in &faults {
        output.record(fault)?;
    }
    let file = path.display().to_string();
    if faults.is_empty() {
        return output.record(&Sound { file, ok: true });
    }
    let count = crate::quantity::plural(faults.len() as u64, "fault");
    Err(Failure::usage(format!("{file}: {count}")))
}

/// What can't be read, or else what makes no sense.
fn faults(path: &Path, text: &str) -> Vec<Fault> {
    match ConfigFile::parse_or_faults(path, text) {
        Err(faults) => faults,
        Ok(file) => {
            let wrong = crate::serve::contradictions(&Layers::of_file(&file));
            let faults = wrong.into_iter().map(|(flag, failure)| {
                let (table, key) = super::catalog::place(flag).unwrap_or(("", flag));
                let span = super::check::span_of(text, table, key);
                Fault::new(&path.display().to_string(), text, span, failure.summary())
                    .advise(failure.advice().map(str::to_owned))
            });
            faults.collect()
        }
    }
}

impl fmt::Display for Sound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: nothing is wrong", self.file)
    }
}
