//! The local store as a [`Staging`]. An upload is collected in memory until it is
//! too long for a record, and written to a file from there on.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::LocalStore;
use super::index::MOST_BLOB;
use super::shared::stopped;
use super::steps::{Steps, blocking};
use super::upload::{Ended, Upload};
use crate::Digest;
use crate::cas::{
    CasError, NoWitness, Result, StagedSize, StagedWriter, Staging, Stored, UploadKey, Witness,
};
use crate::store::upload_name::UploadName;

/// So many bytes are hashed where they are; more would hold up the runtime's thread.
const HASHED_HERE: usize = 64 << 10;

/// A [`StagedWriter`] of the local store.
struct LocalStaged {
    store: LocalStore,
    key: UploadKey,
    size: StagedSize,
    body: Body,
}

enum Body {
    /// Not more than fits in a record; can't be parked.
    Memory(Vec<u8>, Box<dyn Witness>),
    File(Box<Steps>),
}

#[async_trait]
impl Staging for LocalStore {
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        if let Err(error) = self.shared.ready().await {
            return blobs.iter().map(|_| Err(error.clone())).collect();
        }
        let blobs = match name(blobs).await {
            Ok(blobs) => blobs,
            Err((count, error)) => return (0..count).map(|_| Err(error.clone())).collect(),
        };
        let mut outcomes = Vec::with_capacity(blobs.len());
        let (mut small, mut places) = (Vec::with_capacity(blobs.len()), Vec::new());
        for (digest, data) in blobs {
            let stored = if self.shared.index.contains(&digest) {
                Ok(Stored::Existing)
            } else if digest.size() > self.shared.sizes.large_from {
                self.put_large(&digest, data, true).await
            } else {
                places.push(outcomes.len());
                small.push((digest, data));
                Ok(Stored::New)
            };
            outcomes.push(stored.map(|stored| (digest, stored)));
        }
        let stored = self.commit_in_steps(small).await;
        for (place, stored) in places.into_iter().zip(stored) {
            if let Ok((digest, _)) = outcomes[place] {
                outcomes[place] = stored.map(|stored| (digest, stored));
            }
        }
        outcomes
    }

    async fn stage(
        &self,
        key: &UploadKey,
        size: StagedSize,
        offset: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Box<dyn StagedWriter>> {
        self.shared.ready().await?;
        let may_be_small = match size {
            StagedSize::Exactly(size) => {
                self.check_size(size)?;
                size <= self.shared.sizes.large_from
            }
            StagedSize::AtMost(_) => true,
        };
        let body = if offset == 0 && may_be_small {
            Body::Memory(Vec::new(), witness)
        } else {
            let (shared, key, most) = (Arc::clone(&self.shared), *key, most(size));
            let upload = blocking(move || match offset {
                0 => Ok(Upload::stage(shared, key, most)?.watched(witness)),
                _ => Upload::stage_from(shared, key, most, offset, witness),
            });
            Body::File(Box::new(Steps::new(self.clone(), upload.await??)))
        };
        Ok(Box::new(LocalStaged {
            store: self.clone(),
            key: *key,
            size,
            body,
        }))
    }

    async fn staged(&self, key: &UploadKey) -> Result<u64> {
        self.shared.ready().await?;
        Ok(self.shared.partials.held(&(*key).into()))
    }
}

impl LocalStaged {
    /// Goes on in a file with what is in memory.
    async fn spill(&mut self) -> Result<()> {
        let (shared, key, most) = (Arc::clone(&self.store.shared), self.key, most(self.size));
        let upload = blocking(move || Upload::stage(shared, key, most)).await??;
        // No await from here on: a dropped future must not lose the witness.
        let memory = Body::Memory(Vec::new(), Box::new(NoWitness));
        if let Body::Memory(data, witness) = std::mem::replace(&mut self.body, memory) {
            let mut steps = Steps::new(self.store.clone(), upload.watched(witness));
            steps.collect(data.into())?;
            self.body = Body::File(Box::new(steps));
        }
        Ok(())
    }
}

#[async_trait]
impl StagedWriter for LocalStaged {
    fn held(&self) -> u64 {
        match &self.body {
            Body::Memory(data, _) => data.len() as u64,
            Body::File(steps) => steps.held(),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if let Body::Memory(held, _) = &mut self.body {
            let length = (held.len() + data.len()) as u64;
            if length > self.size.most() {
                return Err(UploadName::from(self.key).too_long(self.size.most()));
            }
            if length <= self.store.shared.sizes.large_from {
                held.extend_from_slice(&data);
                return Ok(());
            }
            self.spill().await?;
        }
        match &mut self.body {
            Body::File(steps) => steps.write(data).await,
            Body::Memory(..) => Ok(()),
        }
    }

    async fn commit(self: Box<Self>) -> Result<(Digest, Stored)> {
        let Self {
            store,
            key,
            size,
            body,
        } = *self;
        let ended = match body {
            Body::Memory(data, _) if !size.allows(data.len() as u64) => {
                return Err(UploadName::from(key).too_short(data.len() as u64));
            }
            Body::Memory(data, witness) if data.len() <= HASHED_HERE => check(data, witness)?,
            Body::Memory(data, witness) => blocking(move || check(data, witness)).await??,
            Body::File(steps) => {
                let mut upload = steps.complete().await?;
                blocking(move || upload.finish_staged(size)).await??
            }
        };
        let (digest, stored) = match ended {
            Ended::Stored(digest, stored) => (digest, stored),
            Ended::Small(digest, _) if store.shared.index.contains(&digest) => {
                (digest, Stored::Existing)
            }
            Ended::Small(digest, data) => {
                let stored = store.commit_in_steps(vec![(digest, data)]).await;
                let stored = stored.into_iter().next().unwrap_or_else(|| Err(stopped()));
                (digest, stored?)
            }
        };
        // Of other uploads of this key that were interrupted, or will be.
        let name = UploadName::from(key);
        if store.shared.partials.has(&name) {
            let shared = Arc::clone(&store.shared);
            blocking(move || shared.partials.discard_of(&name)).await?;
        }
        Ok((digest, stored))
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        match self.body {
            Body::File(steps) => steps.park().await,
            Body::Memory(..) => Ok(0),
        }
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        match self.body {
            Body::File(steps) => steps.discard().await,
            Body::Memory(..) => Ok(()),
        }
    }
}

/// Bytes to which the witness has no objection.
fn check(data: Vec<u8>, mut witness: Box<dyn Witness>) -> Result<Ended> {
    witness.update(&data);
    witness.check()?;
    Ok(Ended::Small(zako_digest::hash::bytes(&data), data.into()))
}

fn most(size: StagedSize) -> u64 {
    size.most().min(MOST_BLOB)
}

/// The blobs with their digests; how many there were, if that failed.
async fn name(blobs: Vec<Bytes>) -> Result<Vec<(Digest, Bytes)>, (usize, CasError)> {
    let name = |data: Bytes| (zako_digest::hash::bytes(&data), data);
    let count = blobs.len();
    if blobs.iter().map(Bytes::len).sum::<usize>() <= HASHED_HERE {
        return Ok(blobs.into_iter().map(name).collect());
    }
    let named = blocking(move || blobs.into_iter().map(name).collect()).await;
    named.map_err(|error| (count, error))
}
