//! What the cache says of itself.
#![allow(clippy::unwrap_used)]

mod support;

use support::TestServer;
use zako_reapi::proto::reapi::capabilities_client::CapabilitiesClient;
use zako_reapi::proto::reapi::{GetCapabilitiesRequest, compressor, digest_function};

#[tokio::test]
async fn old_and_new_clients_find_what_they_need() {
    let server = TestServer::start().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = GetCapabilitiesRequest {
        instance_name: "any/where".to_owned(),
    };
    let all = client.get_capabilities(request).await.unwrap().into_inner();
    let (low, high) = (all.low_api_version.unwrap(), all.high_api_version.unwrap());
    assert_eq!((low.major, low.minor), (2, 0));
    assert_eq!((high.major, high.minor), (2, 12));
    let cache = all.cache_capabilities.unwrap();
    for function in [
        digest_function::Value::Sha256,
        digest_function::Value::Blake3,
    ] {
        assert!(cache.digest_functions.contains(&(function as i32)));
    }
    let zstd = [compressor::Value::Zstd as i32];
    assert_eq!(cache.supported_compressors, zstd);
    assert_eq!(cache.supported_batch_update_compressors, zstd);
    assert_eq!(cache.max_batch_total_size_bytes, 4 << 20);
    assert!(
        cache
            .action_cache_update_capabilities
            .unwrap()
            .update_enabled
    );
    server.stop().await;
}
