//! Every store of this crate runs the suite, and the suite finds what is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use zako_core::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, CasExt, ErrorKind, Lease, Result, Stored,
};
use zako_core::conformance;
use zako_core::store::{LocalStore, MemoryStore, ReadThrough, StoreOptions};
use zako_core::{BlobRange, Digest};

fn memory() -> Arc<dyn Cas> {
    Arc::new(MemoryStore::new(64 << 20))
}

async fn conforms(make: impl AsyncFn() -> Arc<dyn Cas>) {
    let outcome = conformance::run_all(make).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store() {
    conforms(async || memory()).await;
}

#[tokio::test]
async fn the_memory_store_on_one_thread_and_one_for_all() {
    let store = memory();
    conforms(async || Arc::clone(&store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_through_pair() {
    conforms(async || Arc::new(ReadThrough::new(memory(), memory())) as _).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_through_pair_whose_near_store_is_small() {
    conforms(async || {
        let near = Arc::new(MemoryStore::new(100_000));
        Arc::new(ReadThrough::new(near, memory())) as _
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_store_in_front_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    options.max_bytes = Some(512 << 20);
    let near = LocalStore::open(folder.path(), options).await.unwrap();
    let near: Arc<dyn Cas> = Arc::new(near);
    // One near store for all: the blobs of the properties are distinct.
    conforms(async || Arc::new(ReadThrough::new(Arc::clone(&near), memory())) as _).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_in_front_of_a_pair() {
    conforms(async || {
        let far = Arc::new(ReadThrough::new(memory(), memory()));
        Arc::new(ReadThrough::new(memory(), far)) as _
    })
    .await;
}

/// A way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    TrustsPut,
    CutsRanges,
    SortsMissing,
    LeasesNothing,
    ForgetsParts,
    HoldsTooMuch,
    KeepsDeleted,
    BatchStopsEarly,
    AlwaysNew,
    DamagesReads,
}

/// A memory store with a fault.
#[derive(Debug)]
struct Faulty {
    store: MemoryStore,
    fault: Fault,
}

#[async_trait]
impl Cas for Faulty {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        let lease = match self.fault {
            Fault::LeasesNothing => Lease::None,
            _ => lease,
        };
        let mut missing = self.store.missing(digests, lease).await?;
        if self.fault == Fault::SortsMissing {
            missing.sort();
        }
        Ok(missing)
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.store.stat(digest).await
    }

    async fn fetch(&self, digest: &Digest, mut range: BlobRange) -> Result<Blob> {
        if self.fault == Fault::CutsRanges && range.resolve(digest.size()).is_err() {
            range = BlobRange::from_start(range.start().min(digest.size()));
        }
        let blob = self.store.fetch(digest, range).await?;
        if self.fault == Fault::DamagesReads && digest.size() == 1 << 20 {
            let mut data = blob.bytes().await?.to_vec();
            data[77_777] ^= 4;
            return Ok(Blob::from_bytes(*digest, 0..1 << 20, data.into()));
        }
        Ok(blob)
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        match self.store.put(digest, data.clone()).await {
            Err(error) if self.fault == Fault::TrustsPut && error.kind() == ErrorKind::Mismatch => {
                Ok(Stored::New)
            }
            Ok(_) if self.fault == Fault::AlwaysNew => Ok(Stored::New),
            outcome => outcome,
        }
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        let writer = self.store.writer(digest, offset).await?;
        if self.fault == Fault::ForgetsParts {
            return Ok(Box::new(Forgetful(writer)));
        }
        Ok(writer)
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        let held = self.store.held(digest).await?;
        Ok(match self.fault {
            Fault::HoldsTooMuch => held.max(1),
            _ => held,
        })
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        if self.fault == Fault::KeepsDeleted && digest.size() > 1 << 20 {
            return self.store.contains(digest).await;
        }
        self.store.delete(digest).await
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let mut outcomes = self.store.fetch_batch(digests).await;
        if self.fault == Fault::BatchStopsEarly {
            let failed = outcomes.iter().position(Result::is_err);
            outcomes.truncate(failed.map_or(outcomes.len(), |at| at + 1));
        }
        outcomes
    }
}

/// Says that it parked, and didn't.
struct Forgetful(Box<dyn BlobWriter>);

#[async_trait]
impl BlobWriter for Forgetful {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }
    fn held(&self) -> u64 {
        self.0.held()
    }
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.0.write(data).await
    }
    async fn commit(self: Box<Self>) -> Result<Stored> {
        self.0.commit().await
    }
    async fn park(self: Box<Self>) -> Result<u64> {
        let held = self.0.held();
        self.0.discard().await?;
        Ok(held)
    }
    async fn discard(self: Box<Self>) -> Result<()> {
        self.0.discard().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_names_what_is_broken() {
    for (fault, property) in [
        (Fault::TrustsPut, "wrong_bytes_are_refused"),
        (Fault::CutsRanges, "ranges_that_a_blob_lacks_are_refused"),
        (Fault::SortsMissing, "missing_keeps_order_and_duplicates"),
        (Fault::LeasesNothing, "missing_leases_what_is_present"),
        (Fault::ForgetsParts, "a_parked_upload_resumes"),
        (Fault::HoldsTooMuch, "absent_blobs_are_not_found"),
        (Fault::KeepsDeleted, "deleted_blobs_are_gone"),
        (Fault::BatchStopsEarly, "batches_read_what_is_there"),
        (Fault::AlwaysNew, "what_exists_is_not_stored_again"),
        (Fault::DamagesReads, "stored_bytes_come_back"),
    ] {
        let store = MemoryStore::new(64 << 20);
        let check = conformance::PROPERTIES
            .iter()
            .find(|one| one.name() == property)
            .unwrap();
        let outcome = check.check(Arc::new(Faulty { store, fault })).await;
        let violation = outcome.expect_err(property);
        assert_eq!(violation.property(), property, "{fault:?}");
    }
}

#[tokio::test]
async fn a_failing_store_is_not_taken_for_an_absent_blob() {
    #[derive(Debug)]
    struct Dead;
    fn dead<T>() -> Result<T> {
        Err(CasError::new(ErrorKind::Unavailable, "dead"))
    }
    #[async_trait]
    impl Cas for Dead {
        async fn missing(&self, _: &[Digest], _: Lease) -> Result<Vec<Digest>> {
            dead()
        }
        async fn stat(&self, _: &Digest) -> Result<BlobStat> {
            dead()
        }
        async fn fetch(&self, _: &Digest, _: BlobRange) -> Result<Blob> {
            dead()
        }
        async fn put(&self, _: &Digest, _: Bytes) -> Result<Stored> {
            dead()
        }
        async fn writer(&self, _: &Digest, _: u64) -> Result<Box<dyn BlobWriter>> {
            dead()
        }
        async fn held(&self, _: &Digest) -> Result<u64> {
            dead()
        }
        async fn delete(&self, _: &Digest) -> Result<bool> {
            dead()
        }
    }
    let violations = conformance::run_all(async || Arc::new(Dead) as _).await;
    assert_eq!(
        violations.unwrap_err().0.len(),
        conformance::PROPERTIES.len(),
        "every property notices a dead store"
    );
}
