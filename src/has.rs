//! `zako has`: which blobs are there.

use std::fmt;

use clap::Args;
use serde::Serialize;
use zako_core::Digest;
use zako_core::cas::{Cas, Lease};

use crate::config::{ClientKeys, Layers};
use crate::connect::connect;
use crate::digests::{self, DigestArg};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::{count, plural};

/// Tell which blobs the server has
///
/// Exits with 3 if one is missing.
#[derive(Args, Debug)]
pub(crate) struct HasArgs {
    /// Digests; - reads them from stdin, one a line
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<DigestArg>,

    /// Print missing digests only
    #[arg(long)]
    missing: bool,

    #[command(flatten)]
    client: ClientKeys,
}

#[derive(Serialize)]
struct Presence {
    digest: String,
    present: bool,
}

/// Asked at once; an answer's digests stay well under a message's limit.
const BATCH: usize = 8192;

pub(crate) async fn run(
    args: HasArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let digests = digests::collect(args.digests).await?;
    let client = connect(args.client, layers).await?;
    let mut absent = 0;
    for batch in digests.chunks(BATCH) {
        let missing = client.missing(batch, Lease::None).await?;
        absent += missing.len() as u64;
        for (digest, present) in presence(batch, &missing) {
            if !(present && args.missing) {
                output.record(&Presence {
                    digest: digest.to_string(),
                    present,
                })?;
            }
        }
    }
    if absent == 0 {
        return Ok(());
    }
    let all = digests.len() as u64;
    Err(Failure::new(
        Exit::Missing,
        format!("missing {} of {}", count(absent), plural(all, "blob")),
    ))
}

/// Marks each of `asked`; `missing` are those absent, in the same order.
fn presence<'a>(
    asked: &'a [Digest],
    missing: &'a [Digest],
) -> impl Iterator<Item = (&'a Digest, bool)> {
    let mut missing = missing.iter().peekable();
    asked.iter().map(move |digest| {
        let absent = missing.next_if_eq(&digest).is_some();
        (digest, !absent)
    })
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.present { "present" } else { "missing" };
        write!(f, "{state}  {}", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_follows_the_order_with_duplicates() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| zako_digest::hash::bytes(bytes));
        let found: Vec<_> = presence(&[a, b, a, c], &[a, a])
            .map(|(_, here)| here)
            .collect();
        assert_eq!(found, [false, true, false, true]);
    }
}
