//! `zako rm`: remove blobs.

use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::config::{ClientKeys, Layers};
use crate::connect::connect;
use crate::digests::{self, DigestArg};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::plural;

/// Remove blobs from the server, leased or not
///
/// A tree's digest removes the tree's own blob, not the files under it. Exits
/// with 3 if a blob was not there.
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Digests; - reads them from stdin, one a line
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<DigestArg>,

    #[command(flatten)]
    client: ClientKeys,
}

#[derive(Serialize)]
struct Removal {
    digest: String,
    removed: bool,
}

/// Removed by one call.
const BATCH: usize = 1024;

pub(crate) async fn run(
    args: RmArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let digests = digests::collect(args.digests).await?;
    let client = connect(args.client, layers).await?;
    let mut absent = 0;
    for batch in digests.chunks(BATCH) {
        let deleted = client.delete_batch(batch).await?;
        let mut deleted = deleted.iter().peekable();
        for digest in batch {
            let removed = deleted.next_if_eq(&digest).is_some();
            absent += u64::from(!removed);
            output.record(&Removal {
                digest: digest.to_string(),
                removed,
            })?;
        }
    }
    if absent == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Missing,
        format!("{} not there", plural(absent, "blob")),
    ))
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.removed { "removed" } else { "missing" };
        write!(f, "{state}  {}", self.digest)
    }
}
