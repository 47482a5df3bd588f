//! Blobs that aren't stored under their own names: those put together from chunks, and
//! chunks that are parts of other blobs.
//!
//! Both are found by the list of a blob's chunks, a value. The blob's key leads to it, and
//! so does the key of each chunk that was not a blob of its own when the list was made.
//! A blob is there if its list and all chunks are; a chunk is there if it is stored, or the
//! list and the blob around it. Lists name no blob that is put together itself, so nothing
//! nests deeper than this: a blob, a chunk of it, another stored blob around that.
//! What is reported present is leased with all of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use zako_core::alias::{Alias, AliasKey};
use zako_core::cas::{Blob, CasError, ErrorKind, Lease, Result};
use zako_core::{BlobRange, Digest};

use super::Cache;
use super::chunk_list::ChunkList;
use super::values::present;

/// Chunks up to this many bytes are checked when they are read out of another blob: a
/// store doesn't hash a part of what it has.
const CHECKED: u64 = 8 << 20;

/// What is read is kept for so long, since a read opens one chunk after the other. Not for as
/// long as what was asked for: a store that is read would soon be leased as a whole.
const READ_LEASE: Lease = Lease::For(Duration::from_secs(15 * 60));

/// Blobs that are looked for at once.
const STEP: usize = 4096;

/// The lists that were read last: what is looked for together often has the same one.
#[derive(Debug, Default)]
struct Lists(VecDeque<Read>);

/// Lists that are remembered.
const REMEMBERED: usize = 4;

#[derive(Clone, Debug)]
struct Read {
    value: Digest,
    list: Arc<ChunkList>,
    /// Whether the blob itself is stored.
    is_stored: bool,
}

/// A part of a stored blob.
#[derive(Debug)]
struct Part {
    whole: Digest,
    offset: u64,
}

/// How a blob that is put together is read: the next chunk of a range.
struct Reading {
    cache: Cache,
    list: Arc<ChunkList>,
    range: Range<u64>,
    at: usize,
    lists: Lists,
}

impl Cache {
    /// Those of some blobs, none of which is stored, that can't be had from others
    /// either, in their order. Leases the others with all that they need.
    pub(super) async fn without_pieces(
        &self,
        blobs: Vec<Digest>,
        lease: Lease,
    ) -> Result<Vec<Digest>> {
        let mut absent = Vec::with_capacity(blobs.len());
        let mut lists = Lists::default();
        for step in blobs.chunks(STEP) {
            let found = self.lists_of(step);
            for (blob, (list, around)) in step.iter().zip(found) {
                let is_here = self.is_whole(blob, list, lease, &mut lists).await?
                    || self.part(blob, around, lease, &mut lists).await?.is_some();
                if !is_here {
                    absent.push(*blob);
                }
            }
        }
        Ok(absent)
    }

    /// Opens a part of a blob that isn't stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it can't be had from others either.
    pub(super) async fn open_pieces(&self, blob: &Digest, range: BlobRange) -> Result<Blob> {
        let bytes = range.resolve(blob.size()).map_err(|error| {
            CasError::new(ErrorKind::InvalidRange, error.to_string()).with_digest(*blob)
        })?;
        let mut lists = Lists::default();
        let lease = READ_LEASE;
        let (list, around) = self.lists_of(&[*blob]).pop().unwrap_or_default();
        if self.is_whole(blob, list, lease, &mut lists).await?
            && let Some(read) = lists.last()
        {
            let list = Arc::clone(&read.list);
            let reading = Reading {
                cache: self.clone(),
                at: list.first_in(&bytes),
                list,
                range: bytes.clone(),
                lists,
            };
            return Ok(Blob::from_stream(*blob, bytes, reading.steps()));
        }
        match self.part(blob, around, lease, &mut lists).await? {
            Some(part) => self.open_part(blob, &part, bytes).await,
            None => Err(CasError::not_found(*blob)),
        }
    }

    /// The list of a blob's chunks, if there is one, stored chunks or not.
    pub(super) async fn chunk_list(&self, blob: &Digest) -> Result<Option<Arc<ChunkList>>> {
        let mut lists = Lists::default();
        match self.aliases.find(&list_key(blob)) {
            Some(alias) => {
                let read = self.list(alias.digest, Lease::Default, &mut lists).await?;
                Ok(read
                    .map(|read| read.list)
                    .filter(|list| list.whole() == *blob))
            }
            None => Ok(None),
        }
    }

    /// Whether a blob that isn't stored is a part of one that is.
    pub(super) async fn is_part(&self, blob: &Digest) -> Result<bool> {
        let (_, around) = self.lists_of(&[*blob]).pop().unwrap_or_default();
        let mut lists = Lists::default();
        let part = self.part(blob, around, Lease::Default, &mut lists).await?;
        Ok(part.is_some())
    }

    /// Of each blob, the lists that its keys lead to: its own, and that of the blob
    /// around it.
    fn lists_of(&self, blobs: &[Digest]) -> Vec<(Option<Alias>, Option<Alias>)> {
        let keys = blobs
            .iter()
            .flat_map(|blob| [list_key(blob), part_key(blob)]);
        let keys: Vec<AliasKey> = keys.collect();
        let mut found = Vec::with_capacity(keys.len());
        self.aliases.find_many(&keys, &mut found);
        found
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect()
    }

    /// Whether all chunks of a blob are there. If so, its list is the one read last.
    async fn is_whole(
        &self,
        blob: &Digest,
        list: Option<Alias>,
        lease: Lease,
        lists: &mut Lists,
    ) -> Result<bool> {
        let Some(alias) = list else {
            return Ok(false);
        };
        let Some(read) = self.list(alias.digest, lease, lists).await? else {
            return Ok(false);
        };
        if read.list.whole() != *blob {
            return Ok(false);
        }
        for step in read.list.chunks().chunks(STEP) {
            let absent = self.store.missing(step, lease).await?;
            let found = self.lists_of(&absent);
            for (chunk, (_, around)) in absent.iter().zip(found) {
                if self.part(chunk, around, lease, lists).await?.is_none() {
                    return Ok(false);
                }
            }
        }
        lists.remember(read);
        Ok(true)
    }

    /// Where a chunk lies in a stored blob around it.
    async fn part(
        &self,
        chunk: &Digest,
        around: Option<Alias>,
        lease: Lease,
        lists: &mut Lists,
    ) -> Result<Option<Part>> {
        let Some(alias) = around else {
            return Ok(None);
        };
        let Some(read) = self.list(alias.digest, lease, lists).await? else {
            return Ok(None);
        };
        let offset = read.list.offset_of(chunk).filter(|_| read.is_stored);
        let whole = read.list.whole();
        Ok(offset.map(|offset| Part { whole, offset }))
    }

    /// A list and whether its blob is stored, both leased.
    async fn list(&self, value: Digest, lease: Lease, lists: &mut Lists) -> Result<Option<Read>> {
        if let Some(read) = lists.find(&value) {
            return Ok(Some(read));
        }
        if !self.store.missing(&[value], lease).await?.is_empty() {
            return Ok(None);
        }
        let data = self.store.fetch_batch(&[value]).await.pop();
        let data = data.map_or(Ok(None), present)?;
        let Some(list) = data.and_then(ChunkList::decode) else {
            return Ok(None);
        };
        let is_stored = self.store.missing(&[list.whole()], lease).await?.is_empty();
        let read = Read {
            value,
            list: Arc::new(list),
            is_stored,
        };
        lists.remember(read.clone());
        Ok(Some(read))
    }

    /// Opens a part of a chunk that is stored, or lies in a blob that is.
    async fn open_chunk(
        &self,
        chunk: &Digest,
        bytes: Range<u64>,
        lists: &mut Lists,
    ) -> Result<Blob> {
        let range = BlobRange::new(bytes.start, bytes.end - bytes.start);
        match self.store.fetch(chunk, range).await {
            Err(error) if error.is_not_found() => {}
            opened => return opened,
        }
        let (_, around) = self.lists_of(&[*chunk]).pop().unwrap_or_default();
        match self.part(chunk, around, READ_LEASE, lists).await? {
            Some(part) => self.open_part(chunk, &part, bytes).await,
            None => Err(CasError::not_found(*chunk)),
        }
    }

    /// Opens `bytes` of a chunk out of the blob around it.
    async fn open_part(&self, chunk: &Digest, part: &Part, bytes: Range<u64>) -> Result<Blob> {
        let length = bytes.end - bytes.start;
        let range = BlobRange::new(part.offset + bytes.start, length);
        let opened = self.store.fetch(&part.whole, range).await?;
        if length < chunk.size() || length > CHECKED {
            return Ok(Blob::from_stream(*chunk, bytes, opened));
        }
        let data = opened.bytes().await?;
        if zako_digest::hash::bytes(&data) != *chunk {
            // It is missing from now on, so that it can be stored anew.
            self.aliases.remove(vec![part_key(chunk)]).await?;
            let text = "a chunk's bytes in the blob around it are damaged";
            return Err(CasError::new(ErrorKind::Corrupt, text).with_digest(*chunk));
        }
        Ok(Blob::from_bytes(*chunk, bytes, data))
    }
}

impl Reading {
    fn steps(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let chunks = stream::try_unfold(self, async |mut reading| {
            let Some((chunk, part)) = reading.list.part(reading.at, &reading.range) else {
                return Ok::<_, CasError>(None);
            };
            reading.at += 1;
            let opened = reading
                .cache
                .open_chunk(&chunk, part, &mut reading.lists)
                .await?;
            Ok(Some((opened, reading)))
        });
        chunks.try_flatten()
    }
}

impl Lists {
    fn find(&self, value: &Digest) -> Option<Read> {
        self.0.iter().find(|read| read.value == *value).cloned()
    }

    fn remember(&mut self, read: Read) {
        self.0.retain(|other| other.value != read.value);
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front(read);
    }

    fn last(&self) -> Option<&Read> {
        self.0.front()
    }
}

/// Under what the list of a blob's chunks is found. The hash is its own key, as in
/// `RemoteDigest::key`, and no function there has these numbers.
pub(super) fn list_key(blob: &Digest) -> AliasKey {
    key(blob, 0x80)
}

/// Under what the list is found in which this is a chunk.
pub(super) fn part_key(chunk: &Digest) -> AliasKey {
    key(chunk, 0x81)
}

fn key(blob: &Digest, kind: u8) -> AliasKey {
    let mut key = *blob.hash().as_bytes();
    key[0] ^= kind;
    AliasKey(key)
}
