//! Which blobs are missing, and many small blobs in one call.

use zako_core::server::{Call, Reply};

use super::{Refused, unknown_method};
use crate::cache::Cache;

pub(super) async fn answer(_: &Cache, _: &str, _: Call) -> Result<Reply, Refused> {
    Err(unknown_method().into())
}
