//! Blobs of all sizes, both ways.

use std::time::Instant;

use zako_core::cas::{Cas, Stored};
use zako_core::client::TransportChoice;

use crate::Case;
use crate::content::{KIB, MIB, blob, client, freed, get, run, status};
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[
    ("blobs of all sizes go by RDMA", blobs_of_all_sizes),
    (
        "small blobs and plain clients go by gRPC",
        what_goes_by_grpc,
    ),
];

const SIZES: [usize; 9] = [
    0,
    1,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    64 * MIB,
];

fn blobs_of_all_sizes() {
    let place = Place::new();
    let server = place.serve();
    run(async {
        let writer = client(&server.address, TransportChoice::Rdma).await;
        let reader = client(&server.address, TransportChoice::Rdma).await;
        let (mut moved, mut bytes) = (0, 0);
        for (seed, size) in SIZES.into_iter().enumerate() {
            let (digest, data) = blob(size, seed as u64);
            let began = Instant::now();
            assert_eq!(
                writer.put(&digest, data.clone()).await.unwrap(),
                Stored::New,
                "{size}"
            );
            let put = began.elapsed();
            let began = Instant::now();
            get(&reader, &digest, &data).await;
            if size >= MIB {
                let got = began.elapsed();
                println!("       {size} bytes: put in {put:?}, got and compared in {got:?}");
            }
            moved += u64::from(size > 0);
            bytes += size as u64;
            let (sent, received) = (writer.roads(), reader.roads());
            assert_eq!((sent.rdma.transfers, sent.rdma.sent_bytes), (moved, bytes));
            assert_eq!(
                (received.rdma.transfers, received.rdma.received_bytes),
                (moved, bytes)
            );
            assert_eq!((sent.fallbacks, received.fallbacks), (0, 0));
            assert_eq!((sent.grpc.sent_bytes, received.grpc.received_bytes), (0, 0));
        }
        let status = status(&server.address).await;
        println!(
            "       server: {} sessions, {} bytes pinned, VmPin {} bytes",
            status.rdma_sessions,
            status.rdma_pinned_bytes,
            server.pinned()
        );
        assert_eq!(status.rdma_sessions, 2);
        assert_eq!(status.rdma_pinned_bytes, server.pinned());
        drop((writer, reader));
        freed(&server.address).await;
        assert_eq!(server.pinned(), 0);
    });
}

fn what_goes_by_grpc() {
    let place = Place::new();
    let server = place.serve();
    run(async {
        let mut options = crate::content::options(TransportChoice::Auto);
        options.rdma_from_bytes = 64 * KIB as u64;
        let auto = crate::content::client_with(&server.address, options).await;
        let plain = crate::content::plain_client(&server.address).await;
        for (seed, (size, by_rdma)) in [(64 * KIB - 1, false), (64 * KIB, true)]
            .into_iter()
            .enumerate()
        {
            let (digest, data) = blob(size, seed as u64);
            let before = auto.roads();
            auto.put(&digest, data.clone()).await.unwrap();
            get(&auto, &digest, &data).await;
            get(&plain, &digest, &data).await;
            let after = auto.roads();
            let moved = after.rdma.transfers - before.rdma.transfers;
            assert_eq!(moved, if by_rdma { 2 } else { 0 }, "{size} bytes");
            assert_eq!(after.fallbacks, 0);
        }
        assert_eq!(plain.roads().rdma.transfers, 0);
    });
}
