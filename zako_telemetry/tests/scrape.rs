//! What a real server tells by `/metrics`' text when it has been used.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod metrics_support;

use bytes::Bytes;
use metrics_support::{Measured, Scrape};
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::store::StoreOptions;
use zako_digest::hash;
use zako_telemetry::{CATALOG, Kind};

fn noise(seed: u64, size: usize) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let mut data = vec![0; size];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data.into()
}

/// A client redeems its token by a download of what is nowhere.
fn probes(scrape: &Scrape) -> f64 {
    let method = "/zako.v1.transport.Transport/Download";
    let labels = format!(r#"code="NOT_FOUND",interface="zako",method="{method}""#);
    let probes = scrape.0.get(&format!("zako_requests_total{{{labels}}}"));
    probes.copied().unwrap_or_default()
}

#[tokio::test]
async fn all_metrics_are_there_from_the_start_and_nothing_else() {
    let server = Measured::start(StoreOptions::default()).await;
    let client = server.client().await;
    let (digest, _) = client.put_bytes("hello").await.unwrap();
    client.fetch_bytes(&digest).await.unwrap();
    let absent = hash::bytes(b"absent");
    let error = client.fetch_bytes(&absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    drop(client);
    let ended = r#"zako_connections{interface="zako"}"#;
    let scrape = server.scrape_when(ended, 0.0).await;
    let text = server.metrics.prometheus().await;
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut told: Vec<&str> = told
        .filter(|line| !line.starts_with("target_info "))
        .collect();
    told.sort_unstable();
    let listed = CATALOG.iter();
    let listed = listed.map(|spec| format!("{} {}", spec.prometheus_name(), spec.kind.as_str()));
    let mut listed: Vec<String> = listed.collect();
    listed.sort_unstable();
    assert_eq!(told, listed);
    for name in scrape.names() {
        assert!(name.starts_with("zako_") || name.starts_with("process_") || name == "target_info");
    }
}

#[test]
fn names_follow_the_conventions() {
    for spec in CATALOG {
        let name = spec.prometheus_name();
        assert_eq!(
            name.ends_with("_total"),
            spec.kind == Kind::Counter,
            "{name}"
        );
        assert!(
            name.starts_with("zako_") || name.starts_with("process_"),
            "{name}"
        );
        assert!(spec.help.ends_with('.'), "{name}: {}", spec.help);
        let known = ["", "s", "By"];
        assert!(
            known.contains(&spec.unit) || spec.unit.starts_with('{'),
            "{name}"
        );
    }
}

#[tokio::test]
async fn calls_have_methods_codes_bytes_and_times() {
    let server = Measured::start(StoreOptions::default()).await;
    let client = server.client().await;
    let large = noise(1, 3 << 20);
    let (digest, _) = client.put_bytes(large.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), large);
    let download = r#"interface="zako",method="/zako.v1.transport.Transport/Download""#;
    let one = format!(r#"zako_requests_total{{code="OK",{download}}}"#);
    let scrape = server.scrape_when(&one, 1.0).await;
    let timed = scrape.get(&format!("zako_stream_duration_seconds_count{{{download}}}"));
    assert_eq!(timed, 1.0 + probes(&scrape));
    let bytes = |direction| {
        let labels = format!(r#"direction="{direction}",interface="zako",transport="grpc""#);
        scrape.get(&format!("zako_transferred_bytes_total{{{labels}}}"))
    };
    let size = large.len() as f64;
    for direction in ["sent", "received"] {
        let bytes = bytes(direction);
        assert!(
            (size..size + 65536.0).contains(&bytes),
            "{direction}: {bytes}"
        );
    }
    assert!(scrape.get(r#"zako_store_fsync_duration_seconds_count{what="file"}"#) >= 1.0);
    assert_eq!(scrape.get("zako_store_blobs"), 1.0);
    assert_eq!(scrape.get("zako_store_blob_size_bytes"), size);
}

#[tokio::test]
async fn lookups_tell_hits_from_misses() {
    let server = Measured::start(StoreOptions::default()).await;
    let client = server.client().await;
    let blobs: Vec<_> = (0..10u8).map(|n| Bytes::from(vec![n; 100])).collect();
    let named = blobs.iter().map(|data| (hash::bytes(data), data.clone()));
    let named: Vec<_> = named.collect();
    let digests: Vec<_> = named.iter().map(|(digest, _)| *digest).collect();
    client.put_batch(named[..6].to_vec()).await;
    let sample = |what: &str, result: &str| {
        format!(r#"zako_lookups_total{{interface="zako",result="{result}",what="{what}"}}"#)
    };
    let fetched = client.fetch_batch(&digests).await;
    assert_eq!(fetched.iter().filter(|one| one.is_ok()).count(), 6);
    let scrape = server.scrape_when(&sample("blob", "hit"), 6.0).await;
    assert_eq!(scrape.get(&sample("blob", "miss")), 4.0 + probes(&scrape));
    let missing = client.missing(&digests, Default::default()).await.unwrap();
    assert_eq!(missing.len(), 4);
    let scrape = server.scrape_when(&sample("negotiated", "miss"), 4.0).await;
    assert_eq!(scrape.get(&sample("negotiated", "hit")), 6.0);
}

#[tokio::test]
async fn http_requests_are_told() {
    let server = Measured::start(StoreOptions::default()).await;
    let data = noise(2, 100_000);
    let name = format!("/cas/blake3/{}", hash::bytes(&data).hash());
    assert_eq!(server.ask_http("GET", &name, b"").await, 404);
    assert!(server.ask_http("PUT", &name, &data).await < 300);
    assert_eq!(server.ask_http("GET", &name, b"").await, 200);
    assert_eq!(server.ask_http("INVENTED", "/status", b"").await, 501);
    let other = r#"zako_requests_total{code="501",interface="http",method="other"}"#;
    let scrape = server.scrape_when(other, 1.0).await;
    let lookups = |result| {
        let labels = format!(r#"interface="http",result="{result}",what="blob""#);
        scrape.get(&format!("zako_lookups_total{{{labels}}}"))
    };
    assert_eq!((lookups("hit"), lookups("miss")), (1.0, 1.0));
    let bytes = |direction| {
        let labels = format!(r#"direction="{direction}",interface="http",transport="http""#);
        scrape.get(&format!("zako_transferred_bytes_total{{{labels}}}"))
    };
    assert_eq!(bytes("received"), 100_000.0);
    assert!(bytes("sent") > 100_000.0);
    let opened = scrape.get(r#"zako_connections_opened_total{interface="http"}"#);
    assert_eq!(opened, 4.0);
}

#[tokio::test]
async fn strangers_make_no_names_up() {
    let server = Measured::start(StoreOptions::default()).await;
    let channel = tonic::transport::Endpoint::new(server.url.to_string()).unwrap();
    let channel = channel.connect().await.unwrap();
    for n in 0..300 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let service = ["zako.v1.batch.Batch", "nobody.Knows"][n % 2];
        let path = format!("/{service}/Invented{n}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = grpc.unary(tonic::Request::new(()), path, codec).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented);
    }
    let other = r#"zako_requests_total{code="UNIMPLEMENTED",interface="zako",method="other"}"#;
    let scrape = server.scrape_when(other, 300.0).await;
    assert!(!scrape.0.keys().any(|key| key.contains("Invented")));
}

#[tokio::test]
async fn eviction_deletion_and_damage_are_told() {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(4 << 20);
    options.lease = std::time::Duration::ZERO;
    let server = Measured::start(options).await;
    let store = &server.store;
    for seed in 0..100 {
        let data = noise(seed, 100_000);
        store.put(&hash::bytes(&data), data).await.unwrap();
    }
    let (digest, _) = store.put_bytes("short").await.unwrap();
    assert!(store.delete(&digest).await.unwrap());
    assert!(!store.delete(&digest).await.unwrap());
    let scrape = server.scrape().await;
    let evicted = |name: &str, reason: &str| {
        scrape.get(&format!(
            r#"zako_store_evicted_{name}_total{{reason="{reason}"}}"#
        ))
    };
    let gone = evicted("blobs", "capacity");
    let bytes = evicted("size_bytes", "capacity");
    assert!(gone >= 50.0 && bytes == gone * 100_000.0, "{gone} {bytes}");
    assert_eq!(
        (
            evicted("blobs", "deleted"),
            evicted("size_bytes", "deleted")
        ),
        (1.0, 5.0)
    );
    assert_eq!(evicted("blobs", "expired"), 0.0);
    assert_eq!(scrape.get("zako_store_blobs"), 100.0 - gone);
    assert!(scrape.get("zako_store_commit_blobs_count") >= 1.0);
    // The others are large for so small a store.
    assert_eq!(scrape.get("zako_store_commit_blobs_sum"), 1.0);
    assert_eq!(scrape.get("zako_store_disk_cap_bytes"), (4 << 20) as f64);
}
