//! `zako verify`: re-hash what is stored.

use std::fmt;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use zako_core::Digest;
use zako_core::cas::{VerifyReport, VerifyScope};

use crate::config::Layers;
use crate::digests::{self, DigestArg};
use crate::failure::{Exit, Failure};
use crate::keeper::{Keeper, KeeperArgs};
use crate::output::Output;
use crate::progress::Bar;
use crate::quantity::{bytes, plural};

/// Re-hash one blob, some, or all
///
/// A damaged blob is put into quarantine and reported missing from then on; one
/// that can't be read (an I/O error) is reported and kept. Exits with 4 if a blob
/// is corrupt, 3 if one that was named is missing, 1 if one can't be read.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Digests (default: every blob); - reads them from stdin, one a line
    #[arg(value_name = "DIGEST")]
    digests: Vec<DigestArg>,

    #[command(flatten)]
    keeper: KeeperArgs,
}

#[derive(Serialize)]
struct Finding {
    digest: String,
    state: &'static str,
}

#[derive(Serialize)]
struct Summary {
    blobs_checked: u64,
    bytes_checked: u64,
    corrupt: u64,
    missing: u64,
    unreadable: u64,
}

pub(crate) async fn run(
    args: VerifyArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let scope = if args.digests.is_empty() {
        VerifyScope::All
    } else {
        VerifyScope::Blobs(digests::collect(args.digests).await?)
    };
    let keeper = Keeper::reach(args.keeper, layers).await?;
    let bar = Bar::bytes("verifying", output);
    let (sender, mut reports) = mpsc::channel(4);
    let work = keeper.maintain().verify(scope, sender);
    let watch = async {
        while let Some(report) = reports.recv().await {
            bar.set(report.bytes_checked, report.bytes_total);
        }
    };
    let (outcome, ()) = tokio::join!(work, watch);
    bar.finish();
    if let Some(formats) = keeper.formats() {
        output.line(format!("formats: {formats}"))?;
    }
    let told = match outcome {
        Ok(report) => tell(&report, output),
        Err(error) => Err(error.into()),
    };
    keeper.close_after(told, output).await
}

fn tell(report: &VerifyReport, output: &mut Output) -> Result<(), Failure> {
    let kinds: [(&[Digest], &'static str); 3] = [
        (&report.corrupt, "corrupt"),
        (&report.missing, "missing"),
        (&report.unreadable, "unreadable"),
    ];
    for (digests, state) in kinds {
        for digest in digests {
            output.record(&Finding {
                digest: digest.to_string(),
                state,
            })?;
        }
    }
    let summary = Summary {
        blobs_checked: report.blobs_checked,
        bytes_checked: report.bytes_checked,
        corrupt: report.corrupt.len() as u64,
        missing: report.missing.len() as u64,
        unreadable: report.unreadable.len() as u64,
    };
    output.record(&summary)?;
    if summary.corrupt > 0 {
        let found = plural(summary.corrupt, "corrupt blob");
        return Err(Failure::new(Exit::Corrupt, format!("found {found}"))
            .advise("They are in quarantine: put them again, and check the disk."));
    }
    if summary.missing > 0 {
        let found = plural(summary.missing, "blob");
        return Err(Failure::new(Exit::Missing, format!("missing {found}")));
    }
    if summary.unreadable > 0 {
        let found = plural(summary.unreadable, "blob");
        return Err(
            Failure::new(Exit::Failed, format!("could not read {found}"))
                .advise("Nothing was dropped: check the disk (dmesg, smartctl) and verify again."),
        );
    }
    Ok(())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10}  {}", self.state, self.digest)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checked {} ({}): {} corrupt, {} missing, {} unreadable",
            plural(self.blobs_checked, "blob"),
            bytes(self.bytes_checked),
            self.corrupt,
            self.missing,
            self.unreadable,
        )
    }
}
