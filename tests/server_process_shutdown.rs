//! SIGTERM while bytes move.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod server_process;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rustix::process::Signal;
use server_process::{Place, Server, noise};
use zako_core::BlobRange;
use zako_core::Digest;
use zako_core::cas::{BlobWriter, Cas, CasExt, ErrorKind, Maintain, Stored};
use zako_core::client::Client;

/// Large enough for a file of its own, and to fill every window on the way.
const LARGE: usize = 24 << 20;

/// A blob of which half was sent to a server that holds some of it.
async fn half_sent(client: &Client, digest: &Digest, data: &Bytes) -> Box<dyn BlobWriter> {
    let mut writer = client.writer(digest, 0).await.unwrap();
    writer.write(data.slice(..LARGE / 2)).await.unwrap();
    while client.usage().await.unwrap().partial_bytes < LARGE as u64 / 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer
}

/// A download that nobody reads on.
async fn begun(client: &Client, digest: &Digest) -> (zako_core::cas::Blob, BytesMut) {
    let mut blob = client.fetch(digest, BlobRange::FULL).await.unwrap();
    let first = blob.next().await.unwrap().unwrap();
    (blob, BytesMut::from(&first[..]))
}

/// Returns once the server has heard of its end: it takes no more connections.
async fn draining(server: &Server) {
    server.signal(Signal::TERM);
    while std::net::TcpStream::connect(server.address()).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (up, down) = (noise(1, LARGE), noise(2, LARGE));
    let (uploaded, downloaded) = (
        zako_digest::hash::bytes(&up),
        zako_digest::hash::bytes(&down),
    );
    let client = server.client().await;
    client.put(&downloaded, down.clone()).await.unwrap();
    let mut writer = half_sent(&client, &uploaded, &up).await;
    let (mut blob, mut read) = begun(&client, &downloaded).await;

    draining(&server).await;
    writer.write(up.slice(LARGE / 2..)).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    while let Some(step) = blob.next().await {
        read.extend_from_slice(&step.unwrap());
    }
    assert!(read == down);
    drop(client);
    assert_eq!(server.ended().await, (Some(0), String::new()));

    let server = place.serve(&[]);
    let client = server.client().await;
    assert!(client.fetch_bytes(&uploaded).await.unwrap() == up);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_still_is_parked() {
    let place = Place::new();
    let server = place.serve(&["--drain-timeout", "300ms"]);
    let (up, down) = (noise(3, LARGE), noise(4, LARGE));
    let (uploaded, downloaded) = (
        zako_digest::hash::bytes(&up),
        zako_digest::hash::bytes(&down),
    );
    let client = server.client().await;
    client.put(&downloaded, down.clone()).await.unwrap();
    let writer = half_sent(&client, &uploaded, &up).await;
    let (mut blob, _) = begun(&client, &downloaded).await;

    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, (Some(0), String::new()));
    let error = writer.commit().await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
    // The client reads what had come; then it learns that the rest will not.
    let error = loop {
        match blob
            .next()
            .await
            .expect("a cut download ends with an error")
        {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");

    resumes(&place, &uploaded, &up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let server = place.serve(&["--drain-timeout", "1h"]);
    let up = noise(5, LARGE);
    let uploaded = zako_digest::hash::bytes(&up);
    let client = server.client().await;
    let writer = half_sent(&client, &uploaded, &up).await;

    draining(&server).await;
    server.signal(Signal::TERM);
    let (code, said) = server.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("SIGTERM again"), "{said}");
    drop(writer);

    resumes(&place, &uploaded, &up).await;
}

/// The next server holds what was sent before, and needs the rest only.
async fn resumes(place: &Place, digest: &Digest, data: &Bytes) {
    let server = place.serve(&[]);
    let client = server.client().await;
    let held = client.held(digest).await.unwrap();
    assert!(
        (LARGE as u64 / 4..=LARGE as u64 / 2).contains(&held),
        "{held}"
    );
    let mut writer = client.writer(digest, held).await.unwrap();
    writer.write(data.slice(held as usize..)).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    assert!(client.fetch_bytes(digest).await.unwrap() == data);
    assert_eq!(client.usage().await.unwrap().partial_bytes, 0);
    server.stop();
}
