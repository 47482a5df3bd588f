//! `zako stat`: what the server knows of blobs.

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use zako_core::client::RemoteStat;

use crate::config::{ClientKeys, Layers};
use crate::connect::connect;
use crate::digests::{self, DigestArg};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::{Period, bytes, plural};

/// Tell what the server knows of blobs
///
/// Size, place and lease of a blob; how much is held of an interrupted upload.
/// Exits with 3 if a blob is missing.
#[derive(Args, Debug)]
pub(crate) struct StatArgs {
    /// Digests; - reads them from stdin, one a line
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<DigestArg>,

    #[command(flatten)]
    client: ClientKeys,
}

#[derive(Serialize)]
struct Known {
    digest: String,
    size: u64,
    present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'static str>,
    lease_seconds: u64,
    partial_bytes: u64,
}

/// Asked and printed at once.
const BATCH: usize = 8192;

pub(crate) async fn run(
    args: StatArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let digests = digests::collect(args.digests).await?;
    let client = connect(args.client, layers).await?;
    let mut absent = 0;
    for batch in digests.chunks(BATCH) {
        for stat in client.stat_batch(batch).await? {
            absent += u64::from(!stat.present);
            output.record(&Known::from(stat))?;
        }
    }
    if absent == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Missing,
        format!("{} missing", plural(absent, "blob")),
    ))
}

impl From<RemoteStat> for Known {
    fn from(stat: RemoteStat) -> Self {
        Self {
            digest: stat.digest.to_string(),
            size: stat.digest.size(),
            present: stat.present,
            location: stat.present.then(|| stat.location.as_str()),
            lease_seconds: stat.leased_for.as_secs(),
            partial_bytes: stat.partial_bytes,
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.present { "present" } else { "missing" };
        write!(f, "{state}  {}  {}", self.digest, bytes(self.size))?;
        if let Some(location) = self.location {
            write!(f, "  in {location}")?;
        }
        if self.lease_seconds > 0 {
            let lease = Period(Duration::from_secs(self.lease_seconds));
            write!(f, "  leased for {lease}")?;
        }
        if self.partial_bytes > 0 && !self.present {
            write!(f, "  {} of an upload held", bytes(self.partial_bytes))?;
        }
        Ok(())
    }
}
