//! Blobs by the names of build tools.

use bytes::Bytes;
use zako_core::cas::{Blob, CasError, ErrorKind, Lease, Result, Stored};
use zako_core::{BlobRange, Digest};

use super::Cache;
use crate::digest::RemoteDigest;
use zako_core::alias::{Alias, AliasKey};

impl Cache {
    /// A blob's own name; `None` if no blob of this name was stored. It may be evicted.
    pub fn own_name(&self, digest: &RemoteDigest) -> Option<Digest> {
        if let Some(own) = digest.blake3() {
            return Some(own);
        }
        if digest.is_empty_blob() {
            return Some(Digest::EMPTY);
        }
        self.own(digest, self.aliases.find(&digest.key()))
    }

    /// The places in `digests` of those that are absent. All others are leased: they
    /// stay for as long as the store is configured for. The empty blob is always there.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn missing(&self, digests: &[RemoteDigest], lease: Lease) -> Result<Vec<usize>> {
        let names = self.own_names(digests);
        let known: Vec<Digest> = names
            .iter()
            .flatten()
            .filter(|own| **own != Digest::EMPTY)
            .copied()
            .collect();
        let absent = self.store.missing(&known, lease).await?;
        let absent = self.without_pieces(absent, lease).await?;
        // They come in the order of the question.
        let mut absent = absent.into_iter().peekable();
        let mut missing = Vec::new();
        for (at, own) in names.into_iter().enumerate() {
            let gone = match own {
                None => true,
                Some(Digest::EMPTY) => false,
                Some(own) => absent.next_if_eq(&own).is_some(),
            };
            if gone {
                missing.push(at);
            }
        }
        Ok(missing)
    }

    /// Opens a part of a blob.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of [`Cas::fetch`](zako_core::cas::Cas::fetch).
    pub async fn open(&self, digest: &RemoteDigest, range: BlobRange) -> Result<Blob> {
        match self.own_name(digest) {
            Some(Digest::EMPTY) => {
                let range = range
                    .resolve(0)
                    .map_err(|error| CasError::new(ErrorKind::InvalidRange, error.to_string()))?;
                Ok(Blob::from_bytes(Digest::EMPTY, range, Bytes::new()))
            }
            Some(own) => match self.store.fetch(&own, range).await {
                Err(error) if error.is_not_found() => self.open_pieces(&own, range).await,
                opened => opened,
            },
            None => Err(not_found(digest)),
        }
    }

    /// Reads small blobs whole; one outcome each, in order.
    pub async fn fetch_batch(&self, digests: &[RemoteDigest]) -> Vec<Result<Bytes>> {
        let names = self.own_names(digests);
        let known: Vec<Digest> = names
            .iter()
            .flatten()
            .filter(|own| **own != Digest::EMPTY)
            .copied()
            .collect();
        let mut fetched = self.store.fetch_batch(&known).await;
        for (own, outcome) in known.iter().zip(&mut fetched) {
            if matches!(outcome, Err(error) if error.is_not_found()) {
                *outcome = match self.open_pieces(own, BlobRange::FULL).await {
                    Ok(blob) => blob.bytes().await,
                    Err(error) => Err(error),
                };
            }
        }
        let mut fetched = fetched.into_iter();
        let outcomes = names.into_iter().zip(digests);
        outcomes
            .map(|(own, digest)| match own {
                None => Err(not_found(digest)),
                Some(Digest::EMPTY) => Ok(Bytes::new()),
                Some(_) => fetched.next().unwrap_or_else(|| Err(not_found(digest))),
            })
            .collect()
    }

    /// Stores blobs that are in memory; one outcome each, in order.
    ///
    /// The outcome is [`ErrorKind::Mismatch`] for bytes that are not those of the name.
    pub async fn put_batch(&self, blobs: Vec<(RemoteDigest, Bytes)>) -> Vec<Result<Stored>> {
        let digests: Vec<RemoteDigest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let absent = match self.missing(&digests, Lease::None).await {
            Ok(absent) => absent,
            Err(error) => return digests.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut outcomes: Vec<Result<Stored>> =
            digests.iter().map(|_| Ok(Stored::Existing)).collect();
        let (mut named, mut unnamed) = (Vec::new(), Vec::new());
        let (mut named_at, mut unnamed_at) = (Vec::new(), Vec::new());
        let mut data: Vec<Option<Bytes>> = blobs.into_iter().map(|(_, data)| Some(data)).collect();
        for at in absent {
            let Some(data) = data[at].take() else {
                continue;
            };
            let digest = digests[at];
            if let Some(own) = digest.blake3() {
                named.push((own, data));
                named_at.push(at);
                continue;
            }
            match check(&digest, &data) {
                Ok(()) => {
                    unnamed.push(data);
                    unnamed_at.push(at);
                }
                Err(error) => outcomes[at] = Err(error),
            }
        }
        if !named.is_empty() {
            let stored = self.store.put_batch(named).await;
            for (at, stored) in named_at.into_iter().zip(stored) {
                outcomes[at] = stored;
            }
        }
        if !unnamed.is_empty() {
            let stored = self.store.put_unnamed(unnamed).await;
            let mut aliases = Vec::with_capacity(stored.len());
            for (at, stored) in unnamed_at.iter().zip(stored) {
                outcomes[*at] = stored.map(|(own, stored)| {
                    aliases.push(alias(&digests[*at], own));
                    stored
                });
            }
            if let Err(error) = self.aliases.insert(aliases).await {
                for at in unnamed_at {
                    outcomes[at] = Err(error.clone());
                }
            }
        }
        outcomes
    }

    /// Stores a blob that is in memory.
    ///
    /// # Errors
    /// As the outcomes of [`put_batch`](Self::put_batch).
    pub async fn put(&self, digest: RemoteDigest, data: Bytes) -> Result<Stored> {
        let mut outcomes = self.put_batch(vec![(digest, data)]).await;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(CasError::new(ErrorKind::Internal, "no outcome came")))
    }

    pub(super) fn own_names(&self, digests: &[RemoteDigest]) -> Vec<Option<Digest>> {
        if digests.iter().all(|digest| digest.blake3().is_some()) {
            return digests.iter().map(RemoteDigest::blake3).collect();
        }
        let keys: Vec<AliasKey> = digests.iter().map(RemoteDigest::key).collect();
        let mut found = Vec::with_capacity(keys.len());
        self.aliases.find_many(&keys, &mut found);
        let names = digests.iter().zip(found);
        names
            .map(|(digest, found)| match digest.blake3() {
                Some(own) => Some(own),
                None if digest.is_empty_blob() => Some(Digest::EMPTY),
                None => self.own(digest, found),
            })
            .collect()
    }

    fn own(&self, digest: &RemoteDigest, found: Option<Alias>) -> Option<Digest> {
        found
            .map(|alias| alias.digest)
            .filter(|own| own.size() == digest.size())
    }
}

/// What makes a blob found by this name.
pub(super) fn alias(digest: &RemoteDigest, own: Digest) -> (AliasKey, Alias) {
    let alias = Alias {
        digest: own,
        expires: None,
    };
    (digest.key(), alias)
}

/// The blob is absent.
pub(super) fn not_found(digest: &RemoteDigest) -> CasError {
    CasError::new(
        ErrorKind::NotFound,
        format!("the blob {digest} is not here"),
    )
}

fn check(digest: &RemoteDigest, data: &[u8]) -> Result<()> {
    if data.len() as u64 != digest.size() {
        let text = format!("{} bytes came for the blob {digest}", data.len());
        return Err(CasError::new(ErrorKind::Mismatch, text));
    }
    mismatch(digest, &digest.function().digest(data))
}

/// Whether the bytes of `actual` are those that were announced.
pub(super) fn mismatch(expected: &RemoteDigest, actual: &RemoteDigest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let text = format!("the bytes that came for the blob {expected} are those of {actual}");
    Err(CasError::new(ErrorKind::Mismatch, text))
}
