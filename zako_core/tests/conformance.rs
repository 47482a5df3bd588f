//! Every store of this crate runs the suite.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use zako_core::conformance::{self, Property};
use zako_core::store::MemoryStore;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let outcome = conformance::run_all(async || Arc::new(MemoryStore::new(256 << 20)) as _).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test]
async fn memory_on_one_thread_and_one_store() {
    let store = Arc::new(MemoryStore::new(64 << 20));
    for property in conformance::PROPERTIES {
        let outcome = property.check(Arc::clone(&store) as _).await;
        outcome.unwrap_or_else(|violation| panic!("{violation}"));
    }
}

#[test]
fn names_are_the_functions() {
    let names: Vec<_> = conformance::PROPERTIES.iter().map(Property::name).collect();
    assert!(names.contains(&"ranges_at_all_edges"));
    assert!(names.len() > 25);
}
