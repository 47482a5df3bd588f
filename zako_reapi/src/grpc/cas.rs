//! Which blobs are missing, and many small blobs in one call.

use zako_core::server::{Call, Reply};

use super::{Refused, batch_read, batch_update, chunks, find_missing, unknown_method};
use crate::cache::Cache;

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    match method {
        "FindMissingBlobs" => find_missing::answer(cache, call).await,
        "BatchUpdateBlobs" => batch_update::answer(cache, call).await,
        "BatchReadBlobs" => batch_read::answer(cache, call).await,
        "SplitBlob" | "SpliceBlob" => chunks::answer(cache, method, call).await,
        _ => Err(unknown_method().into()),
    }
}
