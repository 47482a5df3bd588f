//! The local store runs the suite, in all its modes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use zako_core::cas::{Cas, Staging};
use zako_core::conformance;
use zako_core::store::{
    Durability, LocalStore, MemoryStore, ReadThrough, StoreOptions, VerifyOnRead,
};

async fn conforms(change: impl Fn(&mut StoreOptions)) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    options.max_bytes = Some(512 << 20);
    change(&mut options);
    let store = LocalStore::open(folder.path(), options).await.unwrap();
    let outcome = conformance::run_all(async || Arc::new(store.clone()) as Arc<dyn Cas>).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
    let staging = async || Arc::new(store.clone()) as Arc<dyn Staging>;
    let outcome = conformance::run_all_staging(staging).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_at_once() {
    conforms(|_| {}).await;
}

#[tokio::test]
async fn on_one_thread() {
    conforms(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_after_a_while() {
    conforms(|options| options.durability = Durability::Interval(Duration::from_millis(5))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_some_time() {
    conforms(|options| options.durability = Durability::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_always() {
    conforms(|options| options.verify_on_read = VerifyOnRead::Always).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_small_segments_and_many_files() {
    conforms(|options| {
        options.segment_bytes = Some(256 << 10);
        options.large_from = Some(4 << 10);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_as_few_files_as_possible() {
    conforms(|options| {
        options.max_bytes = Some(1 << 30);
        options.segment_bytes = Some(64 << 20);
        options.large_from = Some(8 << 20);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_another_local_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    options.max_bytes = Some(256 << 20);
    let far = LocalStore::open(folder.path(), options).await.unwrap();
    let outcome = conformance::run_all(async || {
        let near = Arc::new(MemoryStore::new(1 << 20));
        Arc::new(ReadThrough::new(near, Arc::new(far.clone()))) as Arc<dyn Cas>
    })
    .await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
}
