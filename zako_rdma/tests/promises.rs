//! What an end says is true when it says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::time::Duration;

use pair::raw::Raw;
use pair::{Pair, content, in_virtual_time};
use tokio::time::timeout;
use zako_digest::{BlobRange, Digest, hash};
use zako_rdma::session::{Code, Expose, Message, Pull, Request, ServerSession, Status};
use zako_rdma::soft::Faults;

const STEP: usize = 4096;

fn blob() -> Digest {
    hash::bytes(&content(20 * STEP, 1))
}

async fn put(raw: &mut Raw, server: &mut ServerSession) -> Pull {
    raw.say(Message::Put {
        transfer: 1,
        digest: blob(),
        offset: 0,
    })
    .await;
    let Some(Request::Put(request)) = server.next().await else {
        panic!("no request");
    };
    let pull = request.accept();
    assert_eq!(raw.next().await, Some(Message::Accepted { transfer: 1 }));
    pull
}

async fn get(raw: &mut Raw, server: &mut ServerSession, transfer: u64) -> Expose {
    raw.say(Message::Get {
        transfer,
        digest: blob(),
        range: BlobRange::FULL,
    })
    .await;
    let Some(Request::Get(request)) = server.next().await else {
        panic!("no request");
    };
    let expose = request.accept();
    assert_eq!(raw.next().await, Some(Message::Accepted { transfer }));
    expose
}

/// The offset of the next grant.
async fn granted(raw: &mut Raw, to: u64) -> u64 {
    match raw.next().await {
        Some(Message::Grant {
            transfer, offset, ..
        }) if transfer == to => offset,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_read_after_done_or_release() {
    in_virtual_time(async {
        let faults = Faults {
            delay: Duration::from_millis(500)..Duration::from_millis(501),
            ..Faults::default()
        };
        let pair = Pair::new(1, faults);
        let (mut raw, mut server) = Raw::open(&pair).await;
        let pull = put(&mut raw, &mut server).await;
        for slot in 1..3 {
            raw.say(Message::Grant {
                transfer: 1,
                offset: slot * STEP as u64,
                length: STEP as u32,
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pair.network.outstanding(), 2);
        drop(pull);
        let Some(Message::Done { status, .. }) = raw.next().await else {
            panic!("no last word");
        };
        assert_eq!(pair.network.outstanding(), 0);
        assert_eq!(status.code, Code::Unavailable, "it was not stored");

        let (mut raw, mut server) = Raw::open(&pair).await;
        let _pull = put(&mut raw, &mut server).await;
        raw.say(Message::Grant {
            transfer: 1,
            offset: 0,
            length: 1,
        })
        .await;
        let released = Message::Release {
            transfer: 1,
            grants: 1,
        };
        assert_eq!(raw.next().await, Some(released));
        assert_eq!(pair.network.outstanding(), 0);
    });
}

#[test]
fn what_is_granted_stays_until_it_is_released_or_done() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (mut raw, mut server) = Raw::open(&pair).await;
        let mut first = get(&mut raw, &mut server, 1).await;
        first.send(&[1; 2 * STEP]).await.unwrap();
        let kept = [granted(&mut raw, 1).await, granted(&mut raw, 1).await];
        // Its last word takes nothing back.
        first.fail(Status::new(Code::DataLoss, "damaged"));
        assert!(matches!(raw.next().await, Some(Message::End { .. })));

        let mut second = get(&mut raw, &mut server, 2).await;
        let pause = Duration::from_secs(1);
        let more = timeout(pause, second.send(&[2; 12 * STEP])).await;
        assert!(more.is_err(), "there are not so many slots");
        drop(second);
        let mut grants = 0;
        while let Some(Message::Grant { offset, .. }) = raw.next().await {
            assert!(!kept.contains(&offset));
            assert_eq!(raw.read(offset, STEP as u32).await, [2; STEP]);
            grants += 1;
        }
        assert!(grants > 0);
        for offset in kept {
            assert_eq!(raw.read(offset, STEP as u32).await, [1; STEP]);
        }

        // Released ones are used again, the others stay.
        let status = Status::cancelled();
        for transfer in [1, 2] {
            let status = status.clone();
            raw.say(Message::Done { transfer, status }).await;
        }
        let mut third = get(&mut raw, &mut server, 3).await;
        third.send(&[3; 2 * STEP]).await.unwrap();
        let kept = [granted(&mut raw, 3).await, granted(&mut raw, 3).await];
        raw.say(Message::Release {
            transfer: 3,
            grants: 1,
        })
        .await;
        let more = timeout(pause, third.send(&[4; 12 * STEP])).await;
        assert!(more.is_err());
        let mut offsets = Vec::new();
        while let Ok(Some(message)) = timeout(pause, raw.next()).await {
            match message {
                Message::Grant { offset, .. } => offsets.push(offset),
                other => panic!("{other:?}"),
            }
        }
        assert!(offsets.contains(&kept[0]) && !offsets.contains(&kept[1]));
        assert_eq!(raw.read(kept[0], STEP as u32).await, [4; STEP]);
        assert_eq!(raw.read(kept[1], STEP as u32).await, [3; STEP]);
    });
}
