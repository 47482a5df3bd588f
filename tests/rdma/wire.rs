//! A wire that is cut while gRPC still works (over loopback). Needs two devices, as
//! `scripts/soft-roce --two-devices` has them.

use std::process::Command;

use bytes::BytesMut;
use futures::StreamExt;
use zako_core::cas::{Cas, ErrorKind};
use zako_core::client::{RetryPolicy, TransportChoice};

use crate::Case;
use crate::content::{MIB, blob, client, client_with, freed, get, open, options, run, take};
use crate::device;
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[
    ("a wire that is cut, strictly", strictly),
    ("a wire that is cut, with gRPC beside", automatically),
];

const BYTES: usize = 24 * MIB;

/// Sets the network interface of the clients' device.
struct Wire(String);

impl Wire {
    fn new() -> Option<Self> {
        let Some(device) = device::wish(device::PEER).device else {
            println!("       *** NOT TESTED: there is no ZAKO_RDMA_PEER_DEVICE ***");
            return None;
        };
        let parent = format!("/sys/class/infiniband/{device}/parent");
        let parent = std::fs::read_to_string(parent).unwrap();
        Some(Self(parent.trim().to_owned()))
    }

    fn set(&self, state: &str) {
        let ip = Command::new("ip")
            .args(["link", "set", &self.0, state])
            .status();
        assert!(ip.unwrap().success());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.set("up");
    }
}

fn strictly() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let server = place.serve();
    run(async {
        let mut options = options(TransportChoice::Rdma);
        options.retry = RetryPolicy::NEVER;
        let client = client_with(&server.address, options).await;
        let (digest, data) = blob(BYTES, 1);
        client.put(&digest, data.clone()).await.unwrap();
        let mut half = open(&client, &digest).await;
        take(&mut half, MIB, &mut BytesMut::new()).await;
        wire.set("down");
        let error = loop {
            match half.next().await.expect("an error") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        println!("       in a download: {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let (other, bytes) = blob(MIB, 2);
        let error = client.put(&other, bytes.clone()).await.unwrap_err();
        println!("       then an upload: {error}");
        let roads = client.roads();
        assert_eq!((roads.grpc.transfers, roads.fallbacks), (0, 0));
        freed(&server.address).await;

        wire.set("up");
        crate::content::until("a transfer over RDMA", async || {
            client.put(&other, bytes.clone()).await.is_ok()
        })
        .await;
        get(&client, &digest, &data).await;
        assert_eq!(client.roads().grpc.transfers, 0);
    });
}

fn automatically() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let server = place.serve();
    run(async {
        let client = client(&server.address, TransportChoice::Auto).await;
        let (digest, data) = blob(BYTES, 1);
        client.put(&digest, data.clone()).await.unwrap();
        assert_eq!(client.roads().rdma.transfers, 1);
        let mut half = open(&client, &digest).await;
        let mut came = BytesMut::new();
        take(&mut half, BYTES / 4, &mut came).await;
        wire.set("down");
        while let Some(step) = half.next().await {
            came.extend_from_slice(&step.unwrap());
        }
        assert!(came == data);
        let roads = client.roads();
        println!(
            "       {} bytes by RDMA, then {} by gRPC; RDMA is {:?}",
            roads.rdma.received_bytes, roads.grpc.received_bytes, roads.rdma_state
        );
        assert_eq!(roads.fallbacks, 1);
        let both = roads.rdma.received_bytes + roads.grpc.received_bytes;
        assert_eq!(both, BYTES as u64, "no byte came twice");
        let (other, bytes) = blob(MIB, 2);
        client.put(&other, bytes.clone()).await.unwrap();
        assert_eq!(client.roads().rdma.transfers, 1);
        freed(&server.address).await;

        wire.set("up");
        crate::content::until("a transfer over RDMA", async || {
            get(&client, &other, &bytes).await;
            client.roads().rdma.transfers > 1
        })
        .await;
    });
}
