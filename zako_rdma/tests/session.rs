//! Sessions on which nothing goes wrong with the card.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use pair::{
    ALL_FREE, Blobs, FREED, Pair, content, get_all, in_virtual_time, options, put_all, until,
};
use tokio::time::{sleep, timeout};
use zako_digest::hash;
use zako_rdma::session::{Code, Request, SessionError, Status, TransferError};
use zako_rdma::soft::Faults;

fn code(error: TransferError) -> (Code, u64) {
    match error {
        TransferError::Peer(status) => (status.code, status.held),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blobs_of_all_sizes_go_both_ways() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let serving = blobs.serve(server);
        for size in [0, 1, 4095, 4096, 4097, 8192, 100_000, 1 << 20] {
            let there = content(size, 1);
            let digest = blobs.add(&there);
            assert!(get_all(&client, &digest).await.unwrap() == there, "{size}");
            let here = content(size, 2);
            if size > 0 {
                assert_eq!(put_all(&client, &here).await, Ok(size as u64));
                assert!(blobs.get(&hash::bytes(&here)).unwrap() == here, "{size}");
            }
        }
        until(|| client.free_slots() == ALL_FREE).await;
        client.close();
        assert_eq!(client.freed().await, SessionError::Closed);
        assert_eq!(client.free_slots(), FREED);
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
        pair.assert_clean();
    });
}

#[test]
fn a_session_is_closed_when_its_handles_are_gone() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let digest = blobs.add(&content(50_000, 1));
        let serving = blobs.serve(server);
        let mut pull = client.get(&digest, 10..20_010).await.unwrap();
        drop(client);
        let mut bytes = Vec::new();
        while let Some(step) = pull.next().await {
            bytes.extend_from_slice(&step.unwrap());
        }
        assert!(bytes == content(50_000, 1)[10..20_010]);
        drop(pull);
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
        until(|| pair.network.endpoints() == 0).await;
        pair.assert_clean();
    });
}

#[test]
fn many_transfers_share_a_session() {
    in_virtual_time(async {
        share_a_session().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_transfers_share_a_session_on_many_threads() {
    share_a_session().await;
}

async fn share_a_session() {
    let pair = Pair::new(3, Faults::default());
    let (client, server) = pair.open().await;
    let blobs = Blobs::default();
    let serving = blobs.serve(server);
    let moves = (0..24u8).map(|seed| {
        let (client, blobs) = (client.clone(), blobs.clone());
        // In tasks of their own.
        tokio::spawn(async move {
            let bytes = content(40_000 + usize::from(seed), seed);
            match seed % 2 {
                0 => {
                    let digest = blobs.add(&bytes);
                    assert!(get_all(&client, &digest).await.unwrap() == bytes);
                }
                _ => {
                    let held = put_all(&client, &bytes).await;
                    assert_eq!(held, Ok(bytes.len() as u64));
                    assert!(blobs.get(&hash::bytes(&bytes)).unwrap() == bytes);
                }
            }
        })
    });
    for moved in join_all(moves).await {
        moved.unwrap();
    }
    drop(client);
    assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
}

#[test]
fn what_nobody_reads_holds_up_nobody() {
    in_virtual_time(async {
        let pair = Pair::new(4, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let long = blobs.add(&content(1 << 20, 1));
        let serving = blobs.serve(server);
        let limit = Duration::from_secs(600);
        // As many as may be, less one; none is read.
        let mut unread = Vec::new();
        for _ in 0..3 {
            unread.push(client.get(&long, 0..long.size()).await.unwrap());
        }
        sleep(Duration::from_secs(1)).await;
        for seed in 2..5 {
            let bytes = content(200_000, seed);
            let put = timeout(limit, put_all(&client, &bytes)).await;
            assert_eq!(put, Ok(Ok(200_000)));
            let digest = blobs.add(&content(300_000, seed));
            let got = timeout(limit, get_all(&client, &digest)).await.unwrap();
            assert_eq!(got.unwrap().len(), 300_000);
        }
        let mut last = unread.pop().unwrap();
        let mut bytes = Vec::new();
        while let Some(step) = last.next().await {
            bytes.extend_from_slice(&step.unwrap());
        }
        assert!(bytes == content(1 << 20, 1));
        drop((unread, last, client));
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
    });
}

#[test]
fn who_keeps_bytes_holds_up_nobody() {
    in_virtual_time(async {
        let pair = Pair::new(5, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let bytes = content(500_000, 1);
        let digest = blobs.add(&bytes);
        let serving = blobs.serve(server);
        let mut pull = client.get(&digest, 0..digest.size()).await.unwrap();
        let mut kept: Vec<Bytes> = Vec::new();
        let limit = Duration::from_secs(600);
        while let Some(step) = timeout(limit, pull.next()).await.expect("it goes on") {
            kept.push(step.unwrap());
        }
        assert!(kept.concat() == bytes);
        assert_eq!(client.free_slots().pulled, 8, "those that may be lent are");
        drop(pull);
        client.close();
        client.freed().await;
        assert!(kept.concat() == bytes, "they outlive the session");
        serving.await.unwrap();
        pair.assert_clean();
        drop(kept);
        assert_eq!(client.free_slots(), FREED);
    });
}

#[test]
fn a_refusal_concerns_one_transfer() {
    in_virtual_time(async {
        let pair = Pair::new(6, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let held = content(10_000, 1);
        let digest = blobs.add(&held);
        let serving = blobs.serve(server);
        // More than there may be at once: refused ones don't add up.
        for _ in 0..10 {
            let absent = hash::bytes(b"absent");
            let error = client.get(&absent, 0..6).await.unwrap_err();
            assert_eq!(code(error).0, Code::NotFound);
            let error = client.get(&digest, 5..20_000).await.unwrap_err();
            assert_eq!(code(error).0, Code::InvalidArgument);
            let error = client.put(&digest, 0).await.unwrap_err();
            assert_eq!(code(error), (Code::AlreadyExists, 10_000));
            let error = client.put(&hash::bytes(b"half"), 2).await.unwrap_err();
            assert_eq!(code(error), (Code::InvalidArgument, 0));
            // Bytes that are not those of their digest.
            let mut expose = client.put(&hash::bytes(b"right"), 0).await.unwrap();
            expose.send(b"wrong").await.unwrap();
            let error = expose.finish().await.unwrap_err();
            assert_eq!(code(error).0, Code::InvalidArgument);
        }
        assert!(get_all(&client, &digest).await.unwrap() == held);
        until(|| client.free_slots() == ALL_FREE).await;
        drop(client);
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
    });
}

#[test]
fn what_was_given_before_a_transfer_is_interrupted_is_read() {
    in_virtual_time(async {
        let pair = Pair::new(7, Faults::default());
        let (client, mut server) = pair.open().await;
        let bytes = content(100_000, 1);
        let digest = hash::bytes(&bytes);
        let serving = tokio::spawn(async move {
            let mut came = Vec::new();
            while let Some(Request::Put(request)) = server.next().await {
                let mut pull = request.accept();
                let mut bytes = Vec::new();
                let end = loop {
                    match pull.next().await.unwrap() {
                        Ok(step) => bytes.extend_from_slice(&step),
                        Err(error) => break error,
                    }
                    // Slower than the client.
                    sleep(Duration::from_millis(1)).await;
                };
                let held = bytes.len() as u64;
                pull.finish(Status::new(Code::Unavailable, "kept").with_held(held));
                came.push((end.status().code, bytes));
            }
            came
        });
        let amounts = [0, 1, 4096, 5000, 90_001];
        for given in amounts {
            let mut expose = client.put(&digest, 0).await.unwrap();
            expose.send(&bytes[..given]).await.unwrap();
            expose.drain().await.unwrap();
            let last_word = expose.give_up(Status::cancelled()).await.unwrap();
            assert_eq!(last_word.code, Code::Unavailable);
            assert_eq!(last_word.held, given as u64);
        }
        until(|| client.free_slots() == ALL_FREE).await;

        // Whoever waits is told if the session ends.
        let mut expose = client.put(&digest, 0).await.unwrap();
        expose.send(&bytes[..50]).await.unwrap();
        client.close();
        let closed = TransferError::Session(SessionError::Closed);
        client.ended().await;
        assert_eq!(expose.drain().await, Err(closed.clone()));
        assert_eq!(expose.give_up(Status::cancelled()).await, Err(closed));
        let mut came = serving.await.unwrap();
        came.truncate(amounts.len());
        let expected: Vec<_> = amounts
            .iter()
            .map(|given| (Code::Cancelled, bytes[..*given].to_vec()))
            .collect();
        assert!(came == expected);
    });
}

#[test]
fn either_end_gives_a_transfer_up() {
    in_virtual_time(async {
        let pair = Pair::new(7, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let bytes = content(300_000, 1);
        let digest = blobs.add(&bytes);
        let serving = blobs.serve(server);
        for steps in 0..10 {
            // Who pulls.
            let mut pull = client.get(&digest, 0..digest.size()).await.unwrap();
            for _ in 0..steps {
                pull.next().await.unwrap().unwrap();
            }
            drop(pull);
            // Who exposes; and a future that is dropped.
            let upload = content(300_000, 2);
            let mut expose = client.put(&hash::bytes(&upload), 0).await.unwrap();
            expose.send(&upload[..steps * 2000]).await.unwrap();
            match steps % 3 {
                0 => drop(expose),
                1 => expose.fail(Status::new(Code::DataLoss, "no more")),
                _ => {
                    let mut torn = Box::pin(expose.send(&upload[steps * 2000..]));
                    assert!(futures::poll!(&mut torn).is_pending());
                    drop(torn);
                    let error = expose.send(b"more").await.unwrap_err();
                    assert!(matches!(error, TransferError::Misuse(_)));
                }
            }
        }
        // Before the server says anything.
        for _ in 0..10 {
            let mut asked = Box::pin(client.get(&digest, 0..digest.size()));
            assert!(futures::poll!(&mut asked).is_pending());
            drop(asked);
        }
        until(|| client.free_slots() == ALL_FREE).await;
        assert!(get_all(&client, &digest).await.unwrap() == bytes);
        drop(client);
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
        until(|| pair.network.endpoints() == 0).await;
        pair.assert_clean();
    });
}

#[test]
fn ends_with_different_options_agree() {
    in_virtual_time(async {
        let pair = Pair::new(8, Faults::default());
        let mut near = options();
        near.slot_bytes = 3 * 4096;
        near.transfers = 2;
        near.exposed_slots = 2;
        let (client, server) = pair.try_open(near, options()).await;
        let (client, blobs) = (client.unwrap(), Blobs::default());
        let serving = blobs.serve(server.unwrap());
        let moves = (0..6u8).map(|seed| {
            let (client, blobs) = (client.clone(), blobs.clone());
            async move {
                let bytes = content(50_000, seed);
                assert_eq!(put_all(&client, &bytes).await, Ok(50_000));
                let digest = blobs.add(&content(60_000, seed));
                assert_eq!(get_all(&client, &digest).await.unwrap().len(), 60_000);
            }
        });
        join_all(moves).await;
        drop(client);
        assert_eq!(serving.await.unwrap(), (SessionError::Closed, FREED));
    });
}

#[test]
fn a_slot_is_filled_without_a_copy() {
    in_virtual_time(async {
        let pair = Pair::new(9, Faults::default());
        let (client, server) = pair.open().await;
        let blobs = Blobs::default();
        let serving = blobs.serve(server);
        let bytes = content(10_001, 1);
        let mut expose = client.put(&hash::bytes(&bytes), 0).await.unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let room = expose.room().await.unwrap();
            let length = room.len().min(rest.len()).min(1500);
            room[..length].copy_from_slice(&rest[..length]);
            expose.filled(length).unwrap();
            rest = &rest[length..];
        }
        assert!(expose.filled(1).is_err(), "that is more than the blob has");
        assert_eq!(expose.finish().await, Ok(10_001));
        drop(client);
        serving.await.unwrap();
    });
}
