//! The client as a store.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::Client;
use crate::cas::{Blob, BlobStat, BlobWriter, Cas, CasError, Lease, Result, Stored};
use crate::{BlobRange, Digest};

/// Large blobs of one batch on their way at once.
const LARGE_AHEAD: usize = 4;

#[async_trait]
impl Cas for Client {
    /// A lease is as long as the server's default, whatever other time was asked
    /// for.
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        if lease != Lease::None {
            return self.negotiate_missing(digests).await;
        }
        let stats = self.stat_batch(digests).await?;
        let absent = stats.iter().filter(|stat| !stat.present);
        Ok(absent.map(|stat| stat.digest).collect())
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        let stats = self.stat_batch(std::slice::from_ref(digest)).await?;
        match stats.first() {
            Some(stat) if stat.present => {
                Ok(BlobStat::new(*digest, stat.leased_for, stat.location))
            }
            _ => Err(CasError::not_found(*digest)),
        }
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.download(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        if data.len() as u64 != digest.size() {
            return Err(other_size(digest, &data));
        }
        if !self.is_small(digest) {
            return self.put_large(digest, data).await;
        }
        self.put_gathered(*digest, data).await
    }

    /// The bytes that were written and not yet committed are gone for this writer
    /// when the connection breaks: open another at [`held`](Cas::held), or use
    /// [`Client::store_from`], which does.
    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.begin_upload(digest, offset).await
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.ask_held(digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        let deleted = self.delete_batch(std::slice::from_ref(digest)).await?;
        Ok(deleted.contains(digest))
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        let fits = |(digest, data): &(Digest, Bytes)| {
            self.is_small(digest) && data.len() as u64 == digest.size()
        };
        // Found out once: it may be another a moment later.
        let fits: Vec<bool> = blobs.iter().map(fits).collect();
        let small: Vec<_> = parted(&blobs, &fits, true).cloned().collect();
        let large = parted(&blobs, &fits, false)
            .map(|(digest, data)| self.put(digest, data.clone()))
            .collect::<Vec<_>>();
        let large = stream::iter(large)
            .buffered(LARGE_AHEAD)
            .collect::<Vec<_>>();
        let (small, large) = futures::join!(self.put_small(&small), large);
        merged(fits.into_iter(), small, large)
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let fits: Vec<bool> = digests.iter().map(|one| self.is_small(one)).collect();
        let small: Vec<_> = parted(digests, &fits, true).copied().collect();
        let large = parted(digests, &fits, false)
            .map(|digest| self.download_whole(digest))
            .collect::<Vec<_>>();
        let large = stream::iter(large)
            .buffered(LARGE_AHEAD)
            .collect::<Vec<_>>();
        let (small, large) = futures::join!(self.fetch_small(&small), large);
        merged(fits.into_iter(), small, large)
    }
}

/// Those that fit into a batch, or the others.
fn parted<'a, T>(all: &'a [T], fits: &'a [bool], small: bool) -> impl Iterator<Item = &'a T> {
    let all = all.iter().zip(fits);
    all.filter_map(move |(one, fits)| (*fits == small).then_some(one))
}

/// The outcomes of two parts in the order of the whole.
fn merged<T>(is_small: impl Iterator<Item = bool>, small: Vec<T>, large: Vec<T>) -> Vec<T> {
    let (mut small, mut large) = (small.into_iter(), large.into_iter());
    is_small
        .filter_map(|is_small| if is_small { small.next() } else { large.next() })
        .collect()
}

fn other_size(digest: &Digest, data: &[u8]) -> CasError {
    CasError::mismatch(*digest, zako_digest::hash::bytes(data))
}
