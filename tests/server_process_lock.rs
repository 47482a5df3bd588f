//! Two processes on one store.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod server_process;

use server_process::{Place, noise};
use zako_core::cas::{Cas, CasExt, Maintain, Stored};

const LARGE: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_turned_away_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.serve(&[]);
    let client = first.client().await;
    let lock = place.data().join("lock");
    let owner = format!("{}\n", first.pid());
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), owner);

    let data = noise(1, LARGE);
    let digest = zako_digest::hash::bytes(&data);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..LARGE / 2)).await.unwrap();
    for round in 0..5 {
        let small = noise(10 + round, 10_000);
        let put = client.put_bytes(small);
        let folder = place.data();
        let mut second = place.command(&["serve", "--listen", "127.0.0.1:0", "--data"]);
        second.arg(&folder);
        let second = tokio::task::spawn_blocking(move || second.output().unwrap());
        let (put, second) = tokio::join!(put, second);
        assert_eq!(put.unwrap().1, Stored::New);
        let second = second.unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(7), "{said}");
        assert!(second.stdout.is_empty(), "it said it was ready");
        assert!(said.contains("another process"), "{said}");
        assert!(said.contains(lock.to_str().unwrap()), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), owner);
    writer.write(data.slice(LARGE / 2..)).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    assert!(client.fetch_bytes(&digest).await.unwrap() == data);
    assert_eq!(client.usage().await.unwrap().blobs, 6);

    // The lock ends with its process, however that ends.
    first.kill();
    let second = place.serve(&[]);
    let client = second.client().await;
    assert_eq!(client.usage().await.unwrap().blobs, 6);
    assert!(client.fetch_bytes(&digest).await.unwrap() == data);
    second.stop();
}
