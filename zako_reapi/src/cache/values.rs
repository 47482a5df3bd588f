//! Values under keys: a value is a blob, its key an alias of it.

use std::time::SystemTime;

use bytes::Bytes;
use zako_core::BlobRange;
use zako_core::cas::{Blob, CasError, ErrorKind, Lease, Result};

use super::Cache;
use zako_core::alias::{Alias, AliasKey};

impl Cache {
    /// Opens the value under a key; `None` if there is none, or its blob was evicted.
    ///
    /// # Errors
    /// Those of [`Cas::fetch`](zako_core::cas::Cas::fetch) but for an absent or a damaged
    /// blob.
    pub async fn value(&self, key: &AliasKey, range: BlobRange) -> Result<Option<Blob>> {
        let Some(alias) = self.aliases.find(key) else {
            return Ok(None);
        };
        present(self.store.fetch(&alias.digest, range).await)
    }

    /// The value under a key, if it is short enough to be held in memory. It is leased, so
    /// that it stays as long as what was found by it.
    pub(super) async fn leased_value(&self, key: &AliasKey) -> Result<Option<Bytes>> {
        let Some(Alias { digest, .. }) = self.aliases.find(key) else {
            return Ok(None);
        };
        let absent = self.store.missing(&[digest], Lease::Default).await?;
        if !absent.is_empty() || digest.size() > self.options.max_value_bytes {
            return Ok(None);
        }
        let mut fetched = self.store.fetch_batch(&[digest]).await;
        fetched.pop().map_or(Ok(None), present)
    }

    /// Puts a value under a key, in the place of what was there, until it expires.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_value(
        &self,
        key: AliasKey,
        value: Bytes,
        expires: Option<SystemTime>,
    ) -> Result<()> {
        let mut stored = self.store.put_unnamed(vec![value]).await;
        let none = || Err(CasError::new(ErrorKind::Internal, "no outcome came"));
        let (digest, _) = stored.pop().unwrap_or_else(none)?;
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let expires = expires.and_then(since).map(|since| since.as_secs());
        self.aliases
            .insert(vec![(key, Alias { digest, expires })])
            .await
    }

    /// Removes the value under a key; whether there was one. Its blob stays.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn remove_value(&self, key: AliasKey) -> Result<bool> {
        let removed = self.aliases.remove(vec![key]).await?;
        Ok(removed.contains(&true))
    }
}

/// What was read, if it is there whole: what is damaged counts as absent, and is.
pub(super) fn present<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}
