//! What one end tells the other of many slots is told together, and no end relies on it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::time::Duration;

use pair::raw::Raw;
use pair::{Pair, content, in_virtual_time};
use zako_digest::{BlobRange, hash};
use zako_rdma::session::{Message, Request, Status};
use zako_rdma::soft::Faults;

const STEP: usize = 4096;
const SLOTS: usize = 40;

#[test]
fn a_peer_that_releases_one_by_one_gets_all() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (mut raw, mut server) = Raw::open(&pair).await;
        let bytes = content(SLOTS * STEP, 1);
        let transfer = 1;
        raw.say(Message::Get {
            transfer,
            digest: hash::bytes(&bytes),
            range: BlobRange::FULL,
        })
        .await;
        let Some(Request::Get(request)) = server.next().await else {
            panic!("no request");
        };
        let exposed = bytes.clone();
        let exposing = tokio::spawn(async move {
            let mut expose = request.accept();
            expose.send(&exposed).await.unwrap();
            expose.finish().await
        });
        assert_eq!(raw.next().await, Some(Message::Accepted { transfer }));
        let mut read = Vec::new();
        loop {
            match raw.next().await {
                Some(Message::Grant { offset, length, .. }) => {
                    read.extend_from_slice(&raw.read(offset, length).await);
                    raw.say(Message::Release {
                        transfer,
                        grants: 1,
                    })
                    .await;
                }
                Some(Message::End { status, .. }) => break assert!(status.is_ok()),
                other => panic!("{other:?}"),
            }
        }
        assert!(read == bytes);
        let status = Status::ok(0);
        raw.say(Message::Done { transfer, status }).await;
        exposing.await.unwrap().unwrap();
    });
}

#[test]
fn releases_wait_for_each_other_while_there_is_more_to_read() {
    in_virtual_time(async {
        let faults = Faults {
            delay: Duration::from_millis(10)..Duration::from_millis(11),
            ..Faults::default()
        };
        let pair = Pair::new(1, faults);
        let (mut raw, mut server) = Raw::open(&pair).await;
        let transfer = 1;
        raw.say(Message::Put {
            transfer,
            digest: hash::bytes(&content(SLOTS * STEP, 2)),
            offset: 0,
        })
        .await;
        let Some(Request::Put(request)) = server.next().await else {
            panic!("no request");
        };
        let mut pull = request.accept();
        let pulling = tokio::spawn(async move {
            let mut came = 0;
            while came < 8 * STEP {
                came += pull.next().await.unwrap().unwrap().len();
            }
        });
        assert_eq!(raw.next().await, Some(Message::Accepted { transfer }));
        for _ in 0..8 {
            raw.say(Message::Grant {
                transfer,
                offset: 0,
                length: STEP as u32,
            })
            .await;
        }
        let (mut released, mut messages) = (0, 0);
        while released < 8 {
            match raw.next().await {
                Some(Message::Release { grants, .. }) => released += grants,
                other => panic!("{other:?}"),
            }
            messages += 1;
        }
        assert_eq!(released, 8, "all, though no more was granted");
        assert!(messages < 8, "each was told alone");
        pulling.await.unwrap();
    });
}
