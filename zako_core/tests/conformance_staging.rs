//! Stores that stage uploads run their part of the suite, and it finds what is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use zako_core::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, Lease, Result, StagedSize, StagedWriter,
    Staging, Stored, UploadKey, Witness,
};
use zako_core::conformance;
use zako_core::store::MemoryStore;
use zako_core::{BlobRange, Digest};

async fn conforms(make: impl AsyncFn() -> Arc<dyn Staging>) {
    let outcome = conformance::run_all_staging(make).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store() {
    conforms(async || Arc::new(MemoryStore::new(64 << 20)) as _).await;
}

#[tokio::test]
async fn the_memory_store_on_one_thread_and_one_for_all() {
    let store = Arc::new(MemoryStore::new(64 << 20));
    conforms(async || Arc::clone(&store) as _).await;
}

/// A way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    NamesInReverse,
    HidesWhatWasKept,
    IgnoresRefusals,
    SwallowsReasons,
    KeepsDiscarded,
    TakesTooMuch,
    TakesTooFew,
    AlwaysNew,
    OneKeyForAll,
    HoldsTooMuch,
}

/// A memory store with a fault.
#[derive(Debug)]
struct Faulty {
    store: MemoryStore,
    fault: Fault,
}

#[async_trait]
impl Staging for Faulty {
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        let mut outcomes = self.store.put_unnamed(blobs).await;
        if self.fault == Fault::NamesInReverse {
            outcomes.reverse();
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
        let size = match (size, self.fault) {
            (StagedSize::AtMost(_), Fault::TakesTooMuch) => StagedSize::AtMost(u64::MAX),
            (StagedSize::Exactly(size), Fault::TakesTooFew) => StagedSize::AtMost(size),
            _ => size,
        };
        let witness = Box::new(Misled {
            witness,
            fault: self.fault,
            kept: offset,
        });
        let key = self.key(key);
        let writer = self.store.stage(&key, size, offset, witness).await?;
        Ok(Box::new(FaultyWriter {
            writer,
            fault: self.fault,
        }))
    }

    async fn staged(&self, key: &UploadKey) -> Result<u64> {
        let staged = self.store.staged(&self.key(key)).await?;
        Ok(match self.fault {
            Fault::HoldsTooMuch => staged + 1,
            _ => staged,
        })
    }
}

impl Faulty {
    fn key(&self, key: &UploadKey) -> UploadKey {
        match self.fault {
            Fault::OneKeyForAll => UploadKey::from_bytes([7; 32]),
            _ => *key,
        }
    }
}

struct Misled {
    witness: Box<dyn Witness>,
    fault: Fault,
    kept: u64,
}

impl Witness for Misled {
    fn update(&mut self, mut data: &[u8]) {
        if self.fault == Fault::HidesWhatWasKept {
            let hidden = self.kept.min(data.len() as u64);
            self.kept -= hidden;
            data = &data[hidden as usize..];
        }
        self.witness.update(data);
    }

    fn check(&mut self) -> Result<()> {
        match (self.fault, self.witness.check()) {
            (Fault::IgnoresRefusals, Err(_)) => Ok(()),
            (Fault::SwallowsReasons, Err(_)) => {
                Err(CasError::new(ErrorKind::Internal, "it failed"))
            }
            (_, outcome) => outcome,
        }
    }
}

struct FaultyWriter {
    writer: Box<dyn StagedWriter>,
    fault: Fault,
}

#[async_trait]
impl StagedWriter for FaultyWriter {
    fn held(&self) -> u64 {
        self.writer.held()
    }
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.writer.write(data).await
    }
    async fn commit(self: Box<Self>) -> Result<(Digest, Stored)> {
        let (digest, stored) = self.writer.commit().await?;
        Ok(match self.fault {
            Fault::AlwaysNew => (digest, Stored::New),
            _ => (digest, stored),
        })
    }
    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().await
    }
    async fn discard(self: Box<Self>) -> Result<()> {
        match self.fault {
            Fault::KeepsDiscarded => self.writer.park().await.map(|_| ()),
            _ => self.writer.discard().await,
        }
    }
}

#[async_trait]
impl Cas for Faulty {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.store.missing(digests, lease).await
    }
    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.store.stat(digest).await
    }
    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.store.fetch(digest, range).await
    }
    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.store.put(digest, data).await
    }
    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.store.writer(digest, offset).await
    }
    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.store.held(digest).await
    }
    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.store.delete(digest).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_names_what_is_broken() {
    for (fault, property) in [
        (Fault::NamesInReverse, "unnamed_blobs_get_their_digests"),
        (Fault::HidesWhatWasKept, "a_parked_staging_resumes"),
        (Fault::IgnoresRefusals, "the_witness_has_the_last_word"),
        (Fault::SwallowsReasons, "the_witness_has_the_last_word"),
        (Fault::KeepsDiscarded, "a_discarded_staging_leaves_nothing"),
        (Fault::TakesTooMuch, "staged_sizes_are_kept"),
        (Fault::TakesTooFew, "staged_sizes_are_kept"),
        (Fault::AlwaysNew, "staged_bytes_become_their_blob"),
        (Fault::OneKeyForAll, "keys_tell_stagings_apart"),
        (Fault::HoldsTooMuch, "a_dropped_staging_resumes"),
    ] {
        let store = MemoryStore::new(64 << 20);
        let check = conformance::STAGING_PROPERTIES
            .iter()
            .find(|one| one.name() == property)
            .unwrap();
        let outcome = check.check(Arc::new(Faulty { store, fault })).await;
        let violation = outcome.expect_err(property);
        assert_eq!(violation.property(), property, "{fault:?}");
    }
}
