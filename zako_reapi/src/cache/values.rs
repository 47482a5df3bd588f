//! Values under keys: a value is a blob, its key an alias of it.

use std::time::SystemTime;

use bytes::Bytes;
use zako_core::BlobRange;
use zako_core::cas::{Blob, CasError, ErrorKind, Result};

use super::Cache;
use zako_core::alias::{Alias, AliasKey};

impl Cache {
    /// Opens the value under a key; `None` if there is none, or its blob was evicted.
    ///
    /// # Errors
    /// Those of [`Cas::fetch`](zako_core::cas::Cas::fetch) but for an absent blob.
    pub async fn value(&self, key: &AliasKey, range: BlobRange) -> Result<Option<Blob>> {
        let Some(alias) = self.aliases.find(key) else {
            return Ok(None);
        };
        match self.store.fetch(&alias.digest, range).await {
            Ok(blob) => Ok(Some(blob)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
