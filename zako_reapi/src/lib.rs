//! The faces of Zako that build tools speak: the cache part of the Remote Execution API
//! v2, and the HTTP cache, over one store.
#![forbid(unsafe_code)]

pub mod cache;
mod compression;
pub mod digest;
pub mod grpc;
pub mod http;
pub mod proto;

pub use cache::{ActionUpdates, Cache, CacheOptions};
