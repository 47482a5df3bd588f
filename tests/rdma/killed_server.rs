//! Servers that are killed in the middle of a transfer, and started again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::sync::Mutex;
use zako_core::cas::{Cas, CasExt, ErrorKind, Stored};
use zako_core::client::{RetryPolicy, TransportChoice};

use crate::Case;
use crate::content::{
    MIB, blob, client, client_with, get, open, options, plain_client, run, sound, take,
};
use crate::servers::{Place, Server};

pub(crate) const CASES: &[Case] = &[
    ("a download outlives its server", a_download_goes_on),
    ("an upload outlives its server", an_upload_goes_on),
    (
        "a strict download fails with its server",
        a_strict_download_fails,
    ),
    (
        "a strict upload fails with its server",
        a_strict_upload_fails,
    ),
];

const BYTES: usize = 24 * MIB;

/// What tries nothing again and takes no other road.
fn strict() -> zako_core::client::ClientOptions {
    let mut options = options(TransportChoice::Rdma);
    options.retry = RetryPolicy::NEVER;
    options
}

/// A store that has a blob, and its server.
async fn stored(place: &Place) -> (Server, zako_core::Digest, Bytes) {
    let server = place.serve();
    let (digest, data) = blob(BYTES, 1);
    let writer = plain_client(&server.address).await;
    writer.put(&digest, data.clone()).await.unwrap();
    (server, digest, data)
}

fn a_download_goes_on() {
    let place = Place::new();
    run(async {
        let (server, digest, data) = stored(&place).await;
        let address = server.address.clone();
        let client = client(&address, TransportChoice::Auto).await;
        let mut blob = open(&client, &digest).await;
        let mut came = BytesMut::new();
        take(&mut blob, BYTES / 4, &mut came).await;
        server.kill();
        let rest = tokio::spawn(async move {
            while let Some(step) = blob.next().await {
                came.extend_from_slice(&step.unwrap());
            }
            came
        });
        let _server = place.serve_on(&address);
        assert!(rest.await.unwrap() == data);
        let roads = client.roads();
        println!(
            "       {} bytes by RDMA, then {} by gRPC",
            roads.rdma.received_bytes, roads.grpc.received_bytes
        );
        assert_eq!(roads.fallbacks, 1);
        assert!(roads.rdma.received_bytes >= BYTES as u64 / 4);
        let both = roads.rdma.received_bytes + roads.grpc.received_bytes;
        assert_eq!(both, BYTES as u64, "no byte came twice");
        sound(&address, 1).await;
        by_rdma_again(&client, &digest, &data).await;
    });
}

/// RDMA is taken again, when it has been held off for long enough.
async fn by_rdma_again(
    client: &zako_core::client::Client,
    digest: &zako_core::Digest,
    data: &[u8],
) {
    let before = client.roads().rdma.transfers;
    crate::content::until("a transfer over RDMA", async || {
        get(client, digest, data).await;
        client.roads().rdma.transfers > before
    })
    .await;
}

fn an_upload_goes_on() {
    let place = Place::new();
    run(async {
        let server = place.serve();
        let address = server.address.clone();
        let client = client(&address, TransportChoice::Auto).await;
        let (digest, data) = blob(BYTES, 2);
        // The server that runs; killed when half of the blob was sent.
        let server = Arc::new(Mutex::new(Some(server)));
        let again = Arc::new(Mutex::new(None));
        let place = &place;
        let stored = client
            .store_from(&digest, |offset| {
                let rest = data.slice(offset as usize..);
                let (server, again, address) = (Arc::clone(&server), Arc::clone(&again), &address);
                stream::unfold((rest, offset), move |(mut rest, at)| {
                    let (server, again) = (Arc::clone(&server), Arc::clone(&again));
                    async move {
                        if rest.is_empty() {
                            return None;
                        }
                        if at >= BYTES as u64 / 2
                            && let Some(server) = server.lock().await.take()
                        {
                            server.kill();
                            *again.lock().await = Some(place.serve_on(address));
                        }
                        let step = rest.split_to(rest.len().min(MIB));
                        let next = at + step.len() as u64;
                        Some((Ok(step), (rest, next)))
                    }
                })
            })
            .await
            .unwrap();
        assert_eq!(stored, Stored::New);
        let roads = client.roads();
        println!(
            "       {} bytes by RDMA, then {} by gRPC",
            roads.rdma.sent_bytes, roads.grpc.sent_bytes
        );
        assert_eq!(roads.fallbacks, 1);
        assert!(roads.rdma.sent_bytes >= BYTES as u64 / 2);
        sound(&address, 1).await;
        by_rdma_again(&client, &digest, &data).await;
    });
}

fn a_strict_download_fails() {
    let place = Place::new();
    run(async {
        let (server, digest, data) = stored(&place).await;
        let address = server.address.clone();
        let client = client_with(&address, strict()).await;
        let mut blob = open(&client, &digest).await;
        take(&mut blob, MIB, &mut BytesMut::new()).await;
        server.kill();
        let error = loop {
            match blob.next().await.expect("an error") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        println!("       {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(client.roads().grpc.received_bytes, 0);
        let _server = place.serve_on(&address);
        get(&client, &digest, &data).await;
        assert_eq!(client.roads().fallbacks, 0);
    });
}

fn a_strict_upload_fails() {
    let place = Place::new();
    run(async {
        let server = place.serve();
        let address = server.address.clone();
        let client = client_with(&address, strict()).await;
        let (digest, data) = blob(BYTES, 3);
        let mut writer = client.writer(&digest, 0).await.unwrap();
        writer.write(data.slice(..BYTES / 2)).await.unwrap();
        server.kill();
        let written = writer.write(data.slice(BYTES / 2..)).await;
        let error = match written {
            Ok(()) => writer.commit().await.unwrap_err(),
            Err(error) => error,
        };
        println!("       {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

        let _server = place.serve_on(&address);
        sound(&address, 0).await;
        assert!(!client.contains(&digest).await.unwrap());
        let held = client.held(&digest).await.unwrap();
        println!("       the server holds {held} of {} bytes", BYTES / 2);
        assert!(held <= BYTES as u64 / 2);
        let before = client.roads().rdma.sent_bytes;
        assert_eq!(
            client.put(&digest, data.clone()).await.unwrap(),
            Stored::New
        );
        let roads = client.roads();
        assert_eq!(roads.rdma.sent_bytes - before, BYTES as u64 - held);
        assert_eq!(roads.fallbacks, 0);
        sound(&address, 1).await;
        get(&client, &digest, &data).await;
    });
}
