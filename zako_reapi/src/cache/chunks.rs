//! Blobs as chunks: cutting a blob into some, and putting one together from some.
//!
//! Neither stores a byte twice. What is cut stays one blob, of which the chunks are parts;
//! what is put together is a list of chunks that are stored. [`pieces`](super::pieces) says
//! how both are found then.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{FastCDC, Normalization};
use futures::StreamExt;
use zako_core::alias::{Alias, AliasKey};
use zako_core::cas::{Blob, CasError, ErrorKind, Lease, Result};
use zako_core::{BlobRange, Digest};
use zako_digest::hash::Hasher;

use super::Cache;
use super::blobs::{alias, mismatch, not_found};
use super::chunk_list::{ChunkList, MAX_CHUNKS};
use super::pieces::{list_key, part_key};
use crate::digest::{DigestFunction, RemoteDigest, RemoteHasher};
use crate::proto::reapi::chunking_function;

/// The chunks' sizes, in bytes: what FastCDC 2020 aims at, and its bounds.
pub(crate) const AVERAGE_CHUNK: usize = 512 << 10;
const LEAST_CHUNK: usize = AVERAGE_CHUNK / 4;
const MOST_CHUNK: usize = AVERAGE_CHUNK * 4;

/// The chunks of a blob.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) chunks: Vec<RemoteDigest>,
    /// The number of the function that cut it; 0 if nobody knows.
    pub(crate) function: i32,
}

/// A blob that is being cut.
#[derive(Default)]
struct Cutting {
    whole: Hasher,
    /// What is not cut yet: less than the longest chunk.
    rest: BytesMut,
    chunks: Vec<Digest>,
}

/// A blob that is being put together: its hash by Zako's function, and by its client's if
/// that is another.
struct Joining {
    own: Hasher,
    named: Option<RemoteHasher>,
}

impl Cache {
    /// The chunks of a blob, which is cut if it never was. It and they are leased.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::NoSpace`] for a blob of too many chunks;
    /// those of the store.
    pub(crate) async fn split(&self, digest: &RemoteDigest) -> Result<Split> {
        let absent = || not_found(digest);
        if !self.missing(&[*digest], Lease::Default).await?.is_empty() {
            return Err(absent());
        }
        let own = self.own_name(digest).ok_or_else(absent)?;
        let list = match self.chunk_list(&own).await? {
            Some(list) if self.are_here(list.chunks()).await? => list,
            _ => self.cut(own).await?.into(),
        };
        let function = list.function();
        let chunks = match list.chunks() {
            [_] => vec![*digest],
            _ => self.chunk_names(&list, digest.function()).await?,
        };
        Ok(Split { chunks, function })
    }

    /// Makes a blob of chunks that are here; they are leased, and all of them have to stay
    /// for the blob to stay. `function` is the number of the one that cut it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if a chunk is absent, [`ErrorKind::Mismatch`] if together
    /// they are not the blob of this name, [`ErrorKind::NoSpace`] if they are too many;
    /// those of the store.
    pub(crate) async fn splice(
        &self,
        digest: &RemoteDigest,
        chunks: &[RemoteDigest],
        function: i32,
    ) -> Result<()> {
        let total = chunks
            .iter()
            .try_fold(0u64, |sum, chunk| sum.checked_add(chunk.size()));
        if total != Some(digest.size()) {
            let text = format!("the sizes of the chunks don't add up to that of {digest}");
            return Err(CasError::new(ErrorKind::Mismatch, text));
        }
        if self.missing(&[*digest], Lease::Default).await?.is_empty() {
            return Ok(());
        }
        if chunks.len() > MAX_CHUNKS {
            return Err(too_many(chunks.len()));
        }
        if let Some(absent) = self.missing(chunks, Lease::Default).await?.first() {
            return Err(not_found(&chunks[*absent]));
        }
        let flat = self.flattened(chunks).await?;
        let own = self.joined(digest, &flat).await?;
        let is_stored = self.store.missing(&[own], Lease::Default).await?.is_empty();
        if !is_stored {
            let count = flat.len();
            let list = ChunkList::new(own, function, flat).ok_or_else(|| too_many(count))?;
            self.set_value(list_key(&own), list.encode(), None).await?;
        }
        if digest.blake3().is_none() {
            self.aliases.insert(vec![alias(digest, own)]).await?;
        }
        match self.missing(&[*digest], Lease::Default).await?.is_empty() {
            true => Ok(()),
            // A chunk was deleted meanwhile.
            false => Err(not_found(digest)),
        }
    }

    /// Cuts a blob, so that its chunks are found from now on.
    async fn cut(&self, own: Digest) -> Result<ChunkList> {
        let mut steps = self
            .open(&RemoteDigest::of_blake3(&own), BlobRange::FULL)
            .await?;
        let mut cutting = Cutting::default();
        while let Some(step) = steps.next().await {
            let step = step?;
            cutting = hashing(move || cutting.and(&step)).await?;
            if cutting.chunks.len() > MAX_CHUNKS {
                return Err(too_many(cutting.chunks.len()));
            }
        }
        let Cutting { whole, chunks, .. } = hashing(move || cutting.finish()).await?;
        if whole.finish() != own {
            let text = "the blob's bytes are damaged";
            return Err(CasError::new(ErrorKind::Corrupt, text).with_digest(own));
        }
        let count = chunks.len();
        let function = chunking_function::Value::FastCdc2020 as i32;
        let list = ChunkList::new(own, function, chunks).ok_or_else(|| too_many(count))?;
        if count > 1 {
            let data = list.encode();
            let value = Alias::new(zako_digest::hash::bytes(&data));
            self.set_value(list_key(&own), data, None).await?;
            let parts = list.chunks().iter();
            let parts = parts.map(|chunk| (part_key(chunk), value));
            self.aliases.insert(parts.collect()).await?;
        }
        Ok(list)
    }

    /// What a blob's chunks are called by some function. They are hashed by it the first
    /// time.
    async fn chunk_names(
        &self,
        list: &ChunkList,
        function: DigestFunction,
    ) -> Result<Vec<RemoteDigest>> {
        let chunks = list.chunks();
        if function == DigestFunction::Blake3 {
            return Ok(chunks.iter().map(RemoteDigest::of_blake3).collect());
        }
        let key = names_key(&list.whole(), function);
        let known = self.leased_value(&key).await?;
        let known = known.and_then(|hashes| named(chunks, &hashes, function));
        if let Some(names) = known {
            let found = self.own_names(&names);
            if found
                .iter()
                .zip(chunks)
                .all(|(found, own)| *found == Some(*own))
            {
                return Ok(names);
            }
        }
        let (mut names, mut hashes) = (Vec::with_capacity(chunks.len()), BytesMut::new());
        for chunk in chunks {
            let mut steps = self
                .open(&RemoteDigest::of_blake3(chunk), BlobRange::FULL)
                .await?;
            let name = hashed(RemoteHasher::new(function), &mut steps)
                .await?
                .finish();
            hashes.extend_from_slice(name.hash());
            names.push(name);
        }
        let aliases = names
            .iter()
            .zip(chunks)
            .map(|(name, own)| alias(name, *own));
        self.aliases.insert(aliases.collect()).await?;
        self.set_value(key, hashes.freeze(), None).await?;
        Ok(names)
    }

    /// The chunks by their own names, and for one that is put together itself, its chunks.
    async fn flattened(&self, chunks: &[RemoteDigest]) -> Result<Vec<Digest>> {
        let names = self.own_names(chunks).into_iter().zip(chunks);
        let names: Vec<Digest> = names
            .map(|(own, chunk)| own.ok_or_else(|| not_found(chunk)))
            .collect::<Result<_>>()?;
        let absent = self.store.missing(&names, Lease::None).await?;
        let absent: HashSet<Digest> = absent.into_iter().collect();
        let mut flat = Vec::with_capacity(names.len());
        for own in names {
            if own == Digest::EMPTY {
                continue;
            }
            match absent.contains(&own) && !self.is_part(&own).await? {
                false => flat.push(own),
                true => {
                    let list = self.chunk_list(&own).await?;
                    let list = list.ok_or_else(|| CasError::not_found(own))?;
                    flat.extend_from_slice(list.chunks());
                }
            }
            if flat.len() > MAX_CHUNKS {
                return Err(too_many(flat.len()));
            }
        }
        Ok(flat)
    }

    /// The own name of what the chunks are together.
    async fn joined(&self, digest: &RemoteDigest, chunks: &[Digest]) -> Result<Digest> {
        let is_other = digest.blake3().is_none();
        let mut joining = Joining {
            own: Hasher::new(),
            named: is_other.then(|| RemoteHasher::new(digest.function())),
        };
        for chunk in chunks {
            let mut steps = self
                .open(&RemoteDigest::of_blake3(chunk), BlobRange::FULL)
                .await?;
            joining = hashed(joining, &mut steps).await?;
        }
        let own = joining.own.finish();
        let named = joining.named.map(RemoteHasher::finish);
        mismatch(
            digest,
            &named.unwrap_or_else(|| RemoteDigest::of_blake3(&own)),
        )?;
        Ok(own)
    }

    async fn are_here(&self, chunks: &[Digest]) -> Result<bool> {
        let chunks: Vec<RemoteDigest> = chunks.iter().map(RemoteDigest::of_blake3).collect();
        Ok(self.missing(&chunks, Lease::Default).await?.is_empty())
    }
}

impl Cutting {
    fn and(mut self, data: &[u8]) -> Self {
        self.whole.update(data);
        self.rest.extend_from_slice(data);
        while self.rest.len() >= MOST_CHUNK {
            self.cut();
        }
        self
    }

    fn finish(mut self) -> Self {
        while !self.rest.is_empty() {
            self.cut();
        }
        self
    }

    /// Takes one chunk off what is there: as much as the longest chunk, or all the rest.
    fn cut(&mut self) {
        let (least, average, most) = (LEAST_CHUNK, AVERAGE_CHUNK, MOST_CHUNK);
        let level = Normalization::Level2;
        let cutter = FastCDC::with_level_and_seed(&self.rest, least, average, most, level, 0);
        let (_, end) = cutter.cut(0, self.rest.len());
        let chunk = self.rest.split_to(end.clamp(1, self.rest.len()));
        self.chunks.push(zako_digest::hash::bytes(&chunk));
    }
}

/// A hash that takes bytes.
trait Take: Send + Sized + 'static {
    fn and(self, data: &[u8]) -> Self;
}

impl Take for RemoteHasher {
    fn and(mut self, data: &[u8]) -> Self {
        self.update(data);
        self
    }
}

impl Take for Joining {
    fn and(mut self, data: &[u8]) -> Self {
        self.own.update(data);
        if let Some(named) = &mut self.named {
            named.update(data);
        }
        self
    }
}

async fn hashed<T: Take>(mut hasher: T, steps: &mut Blob) -> Result<T> {
    while let Some(step) = steps.next().await {
        let step: Bytes = step?;
        hasher = hashing(move || hasher.and(&step)).await?;
    }
    Ok(hasher)
}

/// Hashes where that holds up nobody else.
async fn hashing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| CasError::new(ErrorKind::Internal, "hashing panicked"))
}

fn names_key(whole: &Digest, function: DigestFunction) -> AliasKey {
    let parts = [&whole.hash().as_bytes()[..], function.name().as_bytes()];
    AliasKey::derive("zako 2026-11 names of chunks", &parts)
}

/// The chunks by their hashes one behind another; `None` if these are not theirs.
fn named(chunks: &[Digest], hashes: &[u8], function: DigestFunction) -> Option<Vec<RemoteDigest>> {
    let length = function.hash_len();
    if hashes.len() != chunks.len() * length {
        return None;
    }
    let named = chunks.iter().zip(hashes.chunks_exact(length));
    named
        .map(|(own, hash)| RemoteDigest::of_hash(function, hash, own.size()))
        .collect()
}

fn too_many(count: usize) -> CasError {
    let text = format!("{count} chunks of one blob; {MAX_CHUNKS} are taken");
    CasError::new(ErrorKind::NoSpace, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_where_the_whole_would_be() {
        // Bytes that are alike nowhere for long, and then alike for long: no cut is found
        // there before the longest chunk.
        let mut state = 1u64;
        let mut data: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(9 << 20)
        .collect();
        data.resize(14 << 20, 7);
        let (least, average, most) = (LEAST_CHUNK, AVERAGE_CHUNK, MOST_CHUNK);
        let level = Normalization::Level2;
        let whole = FastCDC::with_level_and_seed(&data, least, average, most, level, 0);
        let expected: Vec<Digest> = whole
            .map(|chunk| zako_digest::hash::bytes(&data[chunk.offset..chunk.offset + chunk.length]))
            .collect();
        assert!(expected.len() > 15);
        for step in [100_000, MOST_CHUNK, 5 << 20] {
            let steps = data.chunks(step);
            let cutting = steps.fold(Cutting::default(), |cutting, step| cutting.and(step));
            let cut = cutting.finish();
            assert_eq!(cut.chunks, expected);
            assert_eq!(cut.whole.finish(), zako_digest::hash::bytes(&data));
        }
    }
}
