//! `zako gc`: free what can be freed.

use std::fmt;

use clap::Args;
use serde::Serialize;
use zako_core::cas::GcReport;

use crate::config::Layers;
use crate::failure::Failure;
use crate::keeper::{Keeper, KeeperArgs};
use crate::output::Output;
use crate::quantity::{bytes, plural};

/// Free disk space without losing a blob
///
/// Compacts segments that are mostly dead and drops interrupted uploads that are
/// past their time. The server does so by itself as well.
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    keeper: KeeperArgs,
}

#[derive(Serialize)]
struct Collected {
    segments_freed: u64,
    bytes_freed: u64,
    bytes_moved: u64,
    partials_expired: u64,
}

pub(crate) async fn run(
    args: GcArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let keeper = Keeper::reach(args.keeper, layers).await?;
    let outcome = keeper.maintain().collect_garbage().await;
    let told = match outcome {
        Ok(report) => output.record(&Collected::from(report)),
        Err(error) => Err(error.into()),
    };
    keeper.close_after(told, output).await
}

impl From<GcReport> for Collected {
    fn from(report: GcReport) -> Self {
        Self {
            segments_freed: report.segments_freed,
            bytes_freed: report.bytes_freed,
            bytes_moved: report.bytes_moved,
            partials_expired: report.partials_expired,
        }
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "freed {} ({}), moved {}, dropped {}",
            bytes(self.bytes_freed),
            plural(self.segments_freed, "segment"),
            bytes(self.bytes_moved),
            plural(self.partials_expired, "interrupted upload"),
        )
    }
}
