//! Sessions whose card, peer or control stream fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::sync::Arc;
use std::time::Duration;

use pair::{
    ALL_FREE, Blobs, FREED, Pair, content, controls, get_all, in_virtual_time, options, put_all,
    until,
};
use tokio::time::{Instant, sleep, timeout};
use zako_digest::hash;
use zako_rdma::fabric::{Fabric, FailureKind};
use zako_rdma::session::{
    Budget, BudgetLimits, BudgetUsed, Code, Request, SessionError, TransferError, accept, connect,
};
use zako_rdma::soft::Faults;

fn kind(error: &TransferError) -> Option<FailureKind> {
    match error {
        TransferError::Session(SessionError::Fabric(error)) => Some(error.kind()),
        _ => None,
    }
}

#[test]
fn a_cut_link_fails_all_transfers_with_the_first_error() {
    in_virtual_time(async {
        // The checks of both ends are the first two.
        for cut_at in [2, 3, 20] {
            let faults = Faults {
                cut_at: Some(cut_at),
                ..Faults::default()
            };
            let pair = Pair::new(cut_at, faults);
            let (client, server) = pair.open().await;
            let blobs = Blobs::default();
            let bytes = content(1 << 20, 1);
            let digest = blobs.add(&bytes);
            let serving = blobs.serve(server);
            let (first, second, upload) = tokio::join!(
                get_all(&client, &digest),
                get_all(&client, &digest),
                async {
                    let upload = content(1 << 20, 2);
                    put_all(&client, &upload).await
                },
            );
            let errors = [first.unwrap_err(), second.unwrap_err(), upload.unwrap_err()];
            let told: Vec<_> = errors.iter().map(TransferError::to_string).collect();
            assert_eq!(told[0], told[1], "one cause");
            // Whoever saw it first tells the other.
            for error in &errors {
                let peer = matches!(error, TransferError::Session(SessionError::Peer(_)));
                assert!(
                    kind(error) == Some(FailureKind::PeerGone) || peer,
                    "{error:?}"
                );
            }
            client.freed().await;
            assert_eq!(client.free_slots(), FREED);
            assert_eq!(serving.await.unwrap().1, FREED);
            pair.assert_clean();
        }
    });
}

#[test]
fn a_broken_way_to_the_memory_is_found_before_anything_moves() {
    in_virtual_time(async {
        let wrong = Faults {
            wrong_nonce: true,
            ..Faults::default()
        };
        let silent = Faults {
            cut_at: Some(0),
            ..Faults::default()
        };
        let slow = Faults {
            delay: Duration::from_secs(3)..Duration::from_secs(4),
            ..Faults::default()
        };
        for faults in [wrong, silent, slow] {
            let pair = Pair::new(1, faults.clone());
            let began = Instant::now();
            let (client, server) = pair.try_open(options(), options()).await;
            let unreachable = |error: &SessionError| {
                matches!(error, SessionError::Unreachable(_) | SessionError::Peer(_))
            };
            let (client, server) = (client.unwrap_err(), server.unwrap_err());
            assert!(
                unreachable(&client) && unreachable(&server),
                "{client:?} {server:?}"
            );
            assert!(began.elapsed() <= Duration::from_millis(2500), "{faults:?}");
            until(|| pair.network.endpoints() == 0).await;
            // What was posted is not waited for, but ended.
            assert!(began.elapsed() <= Duration::from_millis(2500), "{faults:?}");
            pair.assert_clean();
        }
    });
}

#[test]
fn the_end_of_the_control_stream_ends_the_session_at_once() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (near, far) = controls();
        // The server's half that reads is cut off on demand.
        let (cut, mut on_cut) = tokio::sync::oneshot::channel::<()>();
        let far = zako_rdma::session::Control {
            outgoing: far.outgoing,
            incoming: Box::pin(futures::StreamExt::take_until(far.incoming, async move {
                let _cut = (&mut on_cut).await;
            })),
        };
        let (near_fabric, far_fabric): (Arc<dyn Fabric>, Arc<dyn Fabric>) =
            (pair.near.clone(), pair.far.clone());
        let (client, server) = tokio::join!(
            connect(near_fabric, near, options(), &pair.near_budget),
            accept(far_fabric, far, options(), &pair.far_budget),
        );
        let (client, mut server) = (client.unwrap(), server.unwrap());
        let upload = content(1 << 20, 1);
        let mut expose = {
            let digest = hash::bytes(&upload);
            let asked = client.put(&digest, 0);
            let (expose, request) = tokio::join!(asked, async {
                match server.next().await {
                    Some(Request::Put(put)) => put.accept(),
                    other => panic!("{other:?}"),
                }
            });
            (expose.unwrap(), request)
        };
        expose.0.send(&upload[..20_000]).await.unwrap();
        expose.1.next().await.unwrap().unwrap();
        let began = Instant::now();
        drop(cut);
        let limit = Duration::from_secs(60);
        let error = timeout(limit, server.ended()).await.expect("it is found");
        assert!(matches!(error, SessionError::ControlLost(_)), "{error:?}");
        // What was pulled before is still given out, and then the reason.
        let last = loop {
            match expose.1.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("the end of a transfer that had none"),
            }
        };
        assert_eq!(last, TransferError::Session(error));
        assert!(expose.0.send(&upload[20_000..]).await.is_err());
        drop(expose);
        server.freed().await;
        client.freed().await;
        assert!(began.elapsed() < Duration::from_millis(50));
        assert_eq!((client.free_slots(), server.free_slots()), (FREED, FREED));
        pair.assert_clean();
    });
}

#[test]
fn a_lost_completion_is_found_and_its_memory_is_kept() {
    in_virtual_time(async {
        // The last READ of a blob of three: nothing comes behind it.
        for lost in [2, 4] {
            let faults = Faults {
                lose: vec![lost],
                ..Faults::default()
            };
            let pair = Pair::new(1, faults);
            let (client, server) = pair.open().await;
            let blobs = Blobs::default();
            let digest = blobs.add(&content(3 * 4096, 1));
            let serving = blobs.serve(server);
            let began = Instant::now();
            let error = get_all(&client, &digest).await.unwrap_err();
            assert_eq!(kind(&error), Some(FailureKind::Device), "{error:?}");
            assert!(began.elapsed() <= Duration::from_secs(16));
            let ended = Instant::now();
            client.freed().await;
            assert!(ended.elapsed() <= Duration::from_secs(6), "the cap");
            let kept = pair.near_budget.used();
            assert_eq!(kept.sessions, 0);
            assert_eq!(kept.bytes, (9 + 12) * 4096, "a card may still touch it");
            assert_eq!(client.free_slots().pulled, FREED.pulled - 1);
            assert_eq!(serving.await.unwrap().1, FREED);
            assert_eq!(pair.far_budget.used(), BudgetUsed::default());
        }
    });
}

#[test]
fn a_silent_peer_is_given_up() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (near, _far) = controls();
        let fabric: Arc<dyn Fabric> = pair.near.clone();
        let error = connect(fabric, near, options(), &pair.near_budget)
            .await
            .unwrap_err();
        assert!(matches!(error, SessionError::Timeout(_)), "{error:?}");
        until(|| pair.network.endpoints() == 0).await;

        let (_near, far) = controls();
        let fabric: Arc<dyn Fabric> = pair.far.clone();
        let error = accept(fabric, far, options(), &pair.far_budget)
            .await
            .unwrap_err();
        assert!(matches!(error, SessionError::Timeout(_)), "{error:?}");
        pair.assert_clean();
    });
}

#[test]
fn a_setup_that_is_dropped_leaves_nothing() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        for milliseconds in [0, 1, 100] {
            let (near, _far) = controls();
            let fabric: Arc<dyn Fabric> = pair.near.clone();
            let connecting = connect(fabric, near, options(), &pair.near_budget);
            let limit = Duration::from_millis(milliseconds);
            assert!(timeout(limit, connecting).await.is_err());
            until(|| pair.near_budget.used() == BudgetUsed::default()).await;
            until(|| pair.network.endpoints() == 0).await;
        }
        pair.assert_clean();
    });
}

#[test]
fn limits_are_checked_before_anything_is_registered() {
    in_virtual_time(async {
        let limits = BudgetLimits {
            sessions: 1,
            bytes: (9 + 12) * 4096,
            session_bytes: (9 + 12) * 4096 - 1,
        };
        // The server's card would have no endpoint, and would say so.
        let faults = Faults {
            endpoints: 1,
            ..Faults::default()
        };
        let mut pair = Pair::new(1, faults);
        pair.far_budget = Budget::new(limits);
        let (client, server) = pair.try_open(options(), options()).await;
        assert!(matches!(server, Err(SessionError::Limit(_))), "{server:?}");
        let client = client.unwrap_err();
        assert_eq!(client.status().code, Code::ResourceExhausted, "{client:?}");
        until(|| pair.network.endpoints() == 0).await;

        pair.near_budget = Budget::new(limits);
        let (client, _server) = pair.try_open(options(), options()).await;
        assert!(matches!(client, Err(SessionError::Limit(_))), "{client:?}");
        pair.assert_clean();

        // The card's own limit.
        let faults = Faults {
            memory_limit: 12 * 4096,
            ..Faults::default()
        };
        let pair = Pair::new(1, faults);
        let (client, server) = pair.try_open(options(), options()).await;
        let SessionError::Fabric(error) = client.unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(error.kind(), FailureKind::MemoryLimit);
        assert!(server.is_err());
        until(|| pair.network.endpoints() == 0).await;
        pair.assert_clean();
    });
}

#[test]
fn a_session_on_which_nothing_moves_is_closed() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let mut idle = options();
        idle.idle_timeout = Some(Duration::from_secs(30));
        let (client, server) = pair.try_open(options(), idle).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        let blobs = Blobs::default();
        let digest = blobs.add(&content(100_000, 1));
        let serving = blobs.serve(server);
        for _ in 0..5 {
            sleep(Duration::from_secs(20)).await;
            get_all(&client, &digest).await.unwrap();
        }
        // A transfer that nobody reads is none that moves.
        let unread = client.get(&digest, 0..digest.size()).await.unwrap();
        let began = Instant::now();
        let error = client.ended().await;
        assert_eq!(error.status().code, Code::DeadlineExceeded, "{error:?}");
        assert!(began.elapsed() >= Duration::from_secs(30));
        assert!(began.elapsed() <= Duration::from_secs(36));
        drop(unread);
        assert!(matches!(serving.await.unwrap().0, SessionError::Timeout(_)));
        client.freed().await;
        assert_eq!(client.free_slots(), FREED);
        pair.assert_clean();
    });
}

#[test]
fn a_server_that_closes_ends_what_is_under_way() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (client, mut server) = pair.open().await;
        assert_eq!(client.free_slots(), ALL_FREE);
        let digest = hash::bytes(&content(100_000, 1));
        let asked = tokio::spawn({
            let client = client.clone();
            async move { client.get(&digest, 0..100_000).await.map(|_| ()) }
        });
        let request = server.next().await.unwrap();
        server.close();
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error, TransferError::Session(SessionError::Closed));
        drop(request);
        assert_eq!(client.freed().await, SessionError::Closed);
        let error = client.get(&digest, 0..1).await.unwrap_err();
        assert_eq!(error, TransferError::Session(SessionError::Closed));
        server.freed().await;
        pair.assert_clean();
    });
}
