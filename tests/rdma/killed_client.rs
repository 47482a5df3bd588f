//! Clients that are killed: what the server keeps of them.

use zako_core::cas::Cas;
use zako_core::client::TransportChoice;

use crate::Case;
use crate::child::Process;
use crate::content::{MIB, blob, client, freed, get, plain_client, run, status};
use crate::servers::{Place, Server};

pub(crate) const CASES: &[Case] = &[
    ("a client killed in a download", killed_in_a_download),
    ("a client killed in an upload", killed_in_an_upload),
];

/// Kills a child that is midway, while another client goes on.
fn kill(server: &Server, mut child: Process) {
    assert_eq!(child.hear(), "midway");
    run(async {
        let other = client(&server.address, TransportChoice::Rdma).await;
        let (digest, data) = blob(MIB, 7);
        other.put(&digest, data.clone()).await.unwrap();
        let before = status(&server.address).await;
        assert_eq!(before.rdma_sessions, 2);
        let pinned = server.pinned();
        child.kill();
        get(&other, &digest, &data).await;
        crate::content::until("one session only", async || {
            status(&server.address).await.rdma_sessions == 1
        })
        .await;
        let after = status(&server.address).await;
        println!(
            "       pinned {} bytes (VmPin {pinned}) before, {} (VmPin {}) after",
            before.rdma_pinned_bytes,
            after.rdma_pinned_bytes,
            server.pinned()
        );
        assert_eq!(after.rdma_pinned_bytes, before.rdma_pinned_bytes / 2);
        get(&other, &digest, &data).await;
        assert_eq!(other.roads().fallbacks, 0);
        drop(other);
        freed(&server.address).await;
    });
    assert_eq!(server.pinned(), 0);
}

fn killed_in_a_download() {
    let place = Place::new();
    let server = place.serve();
    let (digest, data) = blob(24 * MIB, 1);
    run(async {
        let client = plain_client(&server.address).await;
        client.put(&digest, data).await.unwrap();
    });
    kill(
        &server,
        Process::start(&["hold", &server.address, &digest.to_string()]),
    );
}

fn killed_in_an_upload() {
    let place = Place::new();
    let server = place.serve();
    let bytes = 24 * MIB;
    kill(
        &server,
        Process::start(&["give", &server.address, &bytes.to_string()]),
    );
    // What came is kept for whoever goes on with it.
    let (digest, data) = blob(bytes, 99);
    run(async {
        let client = client(&server.address, TransportChoice::Rdma).await;
        let held = client.held(&digest).await.unwrap();
        println!("       the server holds {held} of {} bytes", bytes / 2);
        assert!(held > 0 && held <= bytes as u64 / 2);
        client.put(&digest, data.clone()).await.unwrap();
        assert_eq!(client.roads().rdma.sent_bytes, bytes as u64 - held);
        get(&client, &digest, &data).await;
    });
}
