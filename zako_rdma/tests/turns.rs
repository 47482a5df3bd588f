//! Whoever works on a session on one thread lets the others have their turn.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pair::{Pair, content, controls, in_virtual_time, options};
use zako_digest::hash;
use zako_rdma::session::{Request, accept, connect};
use zako_rdma::soft::Faults;

/// Slots that are filled one after the other, with no need to wait for any.
const SLOTS: u32 = 64;

#[test]
fn the_first_grants_are_read_while_the_next_slots_are_filled() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let mut many = options();
        many.exposed_slots = SLOTS + many.transfers;
        let (client, server) = controls();
        let (client, server) = tokio::join!(
            connect(pair.near.clone(), client, many.clone(), &pair.near_budget),
            accept(pair.far.clone(), server, many, &pair.far_budget),
        );
        let (client, mut server) = (client.unwrap(), server.unwrap());
        let bytes = content(SLOTS as usize * 4096, 1);
        let digest = hash::bytes(&bytes);
        let read = Arc::new(AtomicUsize::new(0));

        let taken = Arc::clone(&read);
        let reader = tokio::spawn(async move {
            let mut pull = client.get(&digest, 0..digest.size()).await.unwrap();
            while let Some(step) = pull.next().await {
                taken.fetch_add(step.unwrap().len(), Ordering::Relaxed);
            }
        });
        let Some(Request::Get(get)) = server.next().await else {
            panic!("nothing is asked for");
        };
        let mut expose = get.accept();
        for slot in bytes.chunks(4096) {
            expose.room().await.unwrap()[..4096].copy_from_slice(slot);
            expose.filled(4096).unwrap();
        }
        let meanwhile = read.load(Ordering::Relaxed);
        assert!(meanwhile > 0, "nothing was read before all was filled");
        expose.finish().await.unwrap();
        reader.await.unwrap();
        assert_eq!(read.load(Ordering::Relaxed), bytes.len());
    });
}
