//! Whatever is done in whatever order: bytes pulled are the bytes exposed or the transfer
//! failed, everything ends, and nothing is left.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::time::Duration;

use futures::future::join_all;
use pair::raw::Raw;
use pair::{Blobs, FREED, Pair, content, get_all, in_virtual_time, put_all, until};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use zako_digest::{BlobRange, hash};
use zako_rdma::session::{
    BudgetUsed, Client, ClientSession, Message, Role, SessionOptions, Status,
};
use zako_rdma::soft::Faults;

/// What one user of a session does.
#[derive(Clone, Debug)]
struct Use {
    upload: bool,
    bytes: usize,
    seed: u8,
    /// Milliseconds before it begins, and between its steps.
    begins: u64,
    pause: u64,
    /// Steps after which it gives up.
    gives_up: Option<usize>,
    /// Whether it keeps what it gets to the end.
    keeps: bool,
}

#[derive(Clone, Debug)]
struct Troubles {
    seed: u64,
    delay: u64,
    cut_at: Option<u64>,
    lose: Option<u64>,
    refuse: bool,
    /// Milliseconds after which the client closes the session.
    closes: Option<u64>,
    /// For each end, the pages of a slot and the slots of a READ.
    ends: [(usize, u32); 2],
}

fn one_use() -> impl Strategy<Value = Use> {
    (
        any::<bool>(),
        prop_oneof![0..3usize, 4090..4100usize, 0..80_000usize],
        any::<u8>(),
        0..50u64,
        prop_oneof![Just(0), 0..20u64],
        prop::option::weighted(0.3, 0..20usize),
        any::<bool>(),
    )
        .prop_map(
            |(upload, bytes, seed, begins, pause, gives_up, keeps)| Use {
                upload,
                bytes,
                seed,
                begins,
                pause,
                gives_up,
                keeps,
            },
        )
}

fn troubles() -> impl Strategy<Value = Troubles> {
    (
        any::<u64>(),
        prop_oneof![Just(0), 0..40u64],
        prop::option::weighted(0.3, 0..80u64),
        prop::option::weighted(0.1, 2..40u64),
        any::<bool>(),
        prop::option::weighted(0.2, 0..200u64),
        [(1..4usize, 1..6u32), (1..4usize, 1..6u32)],
    )
        .prop_map(
            |(seed, delay, cut_at, lose, refuse, closes, ends)| Troubles {
                seed,
                delay,
                cut_at,
                lose,
                refuse,
                closes,
                ends,
            },
        )
}

/// Whether all went well; panics if bytes are wrong.
async fn download(client: &ClientSession, blobs: &Blobs, one: &Use) -> bool {
    let bytes = content(one.bytes, one.seed);
    let digest = blobs.add(&bytes);
    let Ok(mut pull) = client.get(&digest, 0..digest.size()).await else {
        return false;
    };
    let (mut kept, mut at, mut steps) = (Vec::new(), 0, 0);
    while one.gives_up.is_none_or(|limit| steps < limit) {
        match pull.next().await {
            Some(Ok(step)) => {
                let end = at + step.len();
                assert!(bytes[at..end] == step, "other bytes, or in another order");
                at = end;
                steps += 1;
                if one.keeps {
                    kept.push(step);
                }
            }
            Some(Err(_)) => return false,
            None => {
                assert_eq!(at, bytes.len(), "a proper end before the last byte");
                assert!(!one.keeps || kept.concat() == bytes, "kept bytes changed");
                return true;
            }
        }
        sleep(Duration::from_millis(one.pause)).await;
    }
    false
}

async fn upload(client: &ClientSession, blobs: &Blobs, one: &Use) -> bool {
    // Not the blob of a download.
    let mut bytes = content(one.bytes, one.seed);
    bytes.extend_from_slice(b"up");
    let digest = hash::bytes(&bytes);
    let there = blobs.get(&digest).is_some();
    let mut expose = match client.put(&digest, 0).await {
        Ok(expose) => expose,
        Err(_) => return there || blobs.get(&digest).is_some(),
    };
    for (step, chunk) in bytes.chunks(3001).enumerate() {
        if one.gives_up.is_some_and(|limit| step >= limit) {
            drop(expose);
            return false;
        }
        if expose.send(chunk).await.is_err() {
            return false;
        }
        sleep(Duration::from_millis(one.pause)).await;
    }
    match expose.finish().await {
        Ok(held) => {
            assert_eq!(held, bytes.len() as u64);
            assert!(blobs.get(&digest).unwrap() == bytes);
            true
        }
        Err(_) => false,
    }
}

async fn run(uses: Vec<Use>, troubles: Troubles) {
    let faults = Faults {
        delay: Duration::ZERO..Duration::from_millis(troubles.delay),
        lose: troubles.lose.into_iter().collect(),
        cut_at: troubles.cut_at,
        refuse_in_error: troubles.refuse,
        ..Faults::default()
    };
    let pair = Pair::new(troubles.seed, faults);
    let began = Instant::now();
    let [near, far] = troubles.ends.map(|(pages, run_slots)| SessionOptions {
        slot_bytes: pages * 4096,
        run_slots,
        ..pair::options()
    });
    let (client, server) = pair.try_open(near, far).await;
    let harmless =
        troubles.cut_at.is_none() && troubles.lose.is_none() && troubles.closes.is_none();
    let (Ok(client), Ok(server)) = (client, server) else {
        assert!(!harmless, "a session that nothing hinders");
        until(|| pair.network.endpoints() == 0).await;
        return pair.assert_clean();
    };
    let blobs = Blobs::default();
    let serving = blobs.serve(server);
    let closing = client.clone();
    let users = uses.iter().map(|one| {
        let (client, blobs) = (client.clone(), blobs.clone());
        async move {
            sleep(Duration::from_millis(one.begins)).await;
            let well = match one.upload {
                true => upload(&client, &blobs, one).await,
                false => download(&client, &blobs, one).await,
            };
            assert!(well || !harmless || one.gives_up.is_some(), "{one:?}");
        }
    });
    let close = async {
        if let Some(after) = troubles.closes {
            sleep(Duration::from_millis(after)).await;
            closing.close();
        }
    };
    futures::join!(join_all(users), close);
    client.close();
    client.freed().await;
    let (_, far_free) = serving.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(120));
    assert_eq!(pair.network.endpoints(), 0);
    for (free, (_, run_slots)) in [client.free_slots(), far_free].iter().zip(troubles.ends) {
        assert_eq!(free.exposed, FREED.exposed);
        // What one READ without an end went over.
        let lost = troubles.lose.map_or(0, |_| run_slots as usize);
        assert!(free.pulled + lost >= FREED.pulled, "{free:?}");
        assert!(free.pulled <= FREED.pulled, "{free:?}");
    }
    if troubles.lose.is_none() {
        pair.assert_clean();
    }
    let sessions = [pair.near_budget.used(), pair.far_budget.used()];
    assert!(sessions.iter().all(|used| used.sessions == 0));
}

/// A message of a client, sensible or not.
fn any_message() -> impl Strategy<Value = Message> {
    let transfer = 0..6u64;
    let status = || {
        any::<bool>().prop_map(|ok| match ok {
            true => Status::ok(0),
            false => Status::cancelled(),
        })
    };
    let size = 5000u64;
    let digest = hash::bytes(&content(size as usize, 1));
    prop_oneof![
        3 => (transfer.clone(), 0..size, prop::option::of(0..size)).prop_map(
            move |(transfer, start, length)| Message::Get {
                transfer,
                digest,
                range: length.map_or(BlobRange::from_start(start), |length| {
                    BlobRange::new(start, length)
                }),
            }
        ),
        3 => (transfer.clone(), 0..2 * size).prop_map(move |(transfer, offset)| Message::Put {
            transfer,
            digest: hash::bytes(b"absent"),
            offset: offset % 7,
        }),
        3 => (transfer.clone(), prop_oneof![0..40_000u64, any::<u64>()], 1..5000u32).prop_map(
            |(transfer, offset, length)| Message::Grant {
                transfer,
                offset,
                length: length.min(length % 7 + 1),
            }
        ),
        2 => (transfer.clone(), status()).prop_map(|(transfer, status)| Message::End {
            transfer,
            status
        }),
        2 => (transfer.clone(), 1..4u32)
            .prop_map(|(transfer, grants)| Message::Release { transfer, grants }),
        2 => (transfer, status()).prop_map(|(transfer, status)| Message::Done {
            transfer,
            status
        }),
        1 => Just(Message::Checked(Status::ok(0))),
    ]
}

async fn attack(messages: Vec<(Message, u64)>) {
    let pair = Pair::new(1, Faults::default());
    let blobs = Blobs::default();
    let held = content(5000, 1);
    let digest = blobs.add(&held);
    let (good, beside) = pair.open().await;
    let beside = blobs.serve(beside);
    let (raw, server) = Raw::open(&pair).await;
    let serving = blobs.serve(server);
    for (message, pause) in messages {
        raw.send(Client::write(message).unwrap()).await;
        sleep(Duration::from_millis(pause)).await;
    }
    assert!(get_all(&good, &digest).await.unwrap() == held);
    assert!(put_all(&good, b"more").await.is_ok());
    // It ends, if only since its control stream does.
    drop(raw);
    assert_eq!(serving.await.unwrap().1, FREED);
    assert!(get_all(&good, &digest).await.unwrap() == held);
    good.close();
    assert_eq!(beside.await.unwrap().1, FREED);
    good.freed().await;
    assert_eq!(good.free_slots(), FREED);
    assert_eq!(pair.far_budget.used(), BudgetUsed::default());
    pair.assert_clean();
}

proptest! {
    #[test]
    fn bytes_are_right_or_the_transfer_failed(
        uses in prop::collection::vec(one_use(), 1..10),
        troubles in troubles(),
    ) {
        in_virtual_time(run(uses, troubles));
    }

    #[test]
    fn a_hostile_client_harms_itself_only(
        messages in prop::collection::vec((any_message(), 0..3u64), 0..20),
    ) {
        in_virtual_time(attack(messages));
    }
}
