//! What a run is asked for.

use std::path::PathBuf;
use std::time::Duration;

/// How long, how fast, from which seed.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    /// Operations a second of all workers together.
    pub(crate) rate: f64,
    /// The command that is tested.
    pub(crate) zako: PathBuf,
    /// Where the report goes; stdout if nowhere else.
    pub(crate) report: Option<PathBuf>,
}

pub(crate) const USAGE: &str = "soak [--seconds N] [--seed S] [--rate OPERATIONS_A_SECOND] \
                                [--zako COMMAND] [--report FILE]";

impl Args {
    /// What stands in the arguments; a short run where nothing does.
    pub(crate) fn read(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut read = Self {
            time: Duration::from_secs(5),
            seed: 1,
            rate: 200.0,
            zako: PathBuf::from(env!("CARGO_BIN_EXE_zako")),
            report: None,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            // What the harness of other test targets takes, and this one has no use for.
            if ["--nocapture", "--quiet", "-q"].contains(&arg.as_str()) {
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} lacks a value"))?;
            let number = || {
                let number: Option<f64> = value.parse().ok();
                number
                    .filter(|number| *number > 0.0 && number.is_finite())
                    .ok_or_else(|| format!("{arg} is no number above 0: {value}"))
            };
            match arg.as_str() {
                "--seconds" => read.time = Duration::from_secs_f64(number()?),
                "--seed" => read.seed = value.parse().map_err(|_| format!("no seed: {value}"))?,
                "--rate" => read.rate = number()?,
                "--zako" => read.zako = PathBuf::from(value),
                "--report" => read.report = Some(PathBuf::from(value)),
                _ => return Err(format!("{arg} is not known")),
            }
        }
        Ok(read)
    }
}
