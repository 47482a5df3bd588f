//! Which blobs are missing, and many small blobs in one call.

use zako_core::server::{Call, Reply};

use super::memory::Memory;
use super::{Refused, batch_read, batch_update, chunks, find_missing, unknown_method};
use crate::cache::Cache;

pub(super) async fn answer(
    cache: &Cache,
    memory: &Memory,
    method: &str,
    call: Call,
) -> Result<Reply, Refused> {
    match method {
        "FindMissingBlobs" => find_missing::answer(cache, memory, call).await,
        "BatchUpdateBlobs" => batch_update::answer(cache, memory, call).await,
        "BatchReadBlobs" => batch_read::answer(cache, memory, call).await,
        "SplitBlob" | "SpliceBlob" => chunks::answer(cache, method, call).await,
        _ => Err(unknown_method().into()),
    }
}
