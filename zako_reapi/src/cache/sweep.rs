//! Forgetting the names of blobs that are gone.

use std::collections::HashSet;

use zako_core::Digest;
use zako_core::alias::{Alias, AliasKey};
use zako_core::cas::{Lease, Result};

use super::Cache;

impl Cache {
    /// Forgets the names and keys whose blobs are gone; how many that were. The table of
    /// names doesn't learn of evictions by itself.
    ///
    /// # Errors
    /// Those of the store and of the table.
    pub async fn sweep(&self) -> Result<u64> {
        self.aliases.retain(|asked| self.are_present(asked)).await
    }

    async fn are_present(&self, aliases: Vec<(AliasKey, Alias)>) -> Result<Vec<bool>> {
        let blobs: Vec<Digest> = aliases.iter().map(|(_, alias)| alias.digest).collect();
        let absent = self.store.missing(&blobs, Lease::None).await?;
        let absent = self.without_pieces(absent, Lease::None).await?;
        let absent: HashSet<Digest> = absent.into_iter().collect();
        Ok(blobs.iter().map(|blob| !absent.contains(blob)).collect())
    }
}
