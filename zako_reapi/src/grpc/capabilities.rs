//! What this cache can do.

use zako_core::access::Role;
use zako_core::server::{Call, Reply};

use super::{Refused, unknown_method};
use crate::cache::{AVERAGE_CHUNK, ActionUpdates, Cache};
use crate::digest::DigestFunction;
use crate::proto::reapi::{
    ActionCacheUpdateCapabilities, CacheCapabilities, FastCdc2020Params, GetCapabilitiesRequest,
    ServerCapabilities, compressor, symlink_absolute_path_strategy,
};
use crate::proto::semver::SemVer;

/// The longest request: the name of an instance.
const MAX_REQUEST: usize = 64 * 1024;

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    if method != "GetCapabilities" {
        return Err(unknown_method().into());
    }
    let caller = call.caller();
    let (mut body, _) = call.open()?;
    let request: GetCapabilitiesRequest = body.message(MAX_REQUEST).await?;
    // Clients don't send results where they are told that they may not.
    let may_write = caller.check(&request.instance_name, Role::Write).is_ok();
    Ok(Reply::message(&capabilities(cache, may_write)))
}

fn capabilities(cache: &Cache, may_write: bool) -> ServerCapabilities {
    let options = cache.options();
    let zstd = vec![compressor::Value::Zstd as i32];
    let functions = DigestFunction::ALL.iter();
    let cache_capabilities = CacheCapabilities {
        digest_functions: functions.map(|function| function.wire() as i32).collect(),
        action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
            update_enabled: may_write && options.action_updates != ActionUpdates::Refused,
        }),
        // 0 would mean that there is no limit.
        max_batch_total_size_bytes: i64::try_from(options.max_batch_bytes.max(1))
            .unwrap_or(i64::MAX),
        symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed as i32,
        supported_compressors: zstd.clone(),
        supported_batch_update_compressors: zstd,
        split_blob_support: true,
        splice_blob_support: true,
        fast_cdc_2020_params: Some(FastCdc2020Params {
            avg_chunk_size_bytes: AVERAGE_CHUNK as u64,
            seed: 0,
        }),
        ..CacheCapabilities::default()
    };
    ServerCapabilities {
        cache_capabilities: Some(cache_capabilities),
        // Bazel 4 refuses a server whose lowest version is above 2.0.
        low_api_version: Some(version(2, 0)),
        high_api_version: Some(version(2, 12)),
        ..ServerCapabilities::default()
    }
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer {
        major,
        minor,
        ..SemVer::default()
    }
}
