//! Many clients at once.

use crate::Case;
use crate::child::Process;
use crate::content::{MIB, freed, run, sound, status};
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[("clients of many processes at once", many_processes)];

fn many_processes() {
    const PROCESSES: usize = 4;
    let place = Place::new();
    let server = place.serve();
    let bytes = (3 * MIB + 1).to_string();
    let mut clients: Vec<Process> = (0..PROCESSES)
        .map(|number| {
            let seed = (number * 10).to_string();
            Process::start(&["move", &server.address, &seed, &bytes])
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.hear(), "moved");
    }
    run(async {
        let status = status(&server.address).await;
        println!(
            "       {} sessions, {} bytes pinned",
            status.rdma_sessions, status.rdma_pinned_bytes
        );
        assert_eq!(status.rdma_sessions, PROCESSES as u64);
    });
    clients.into_iter().for_each(Process::end);
    run(async {
        freed(&server.address).await;
        sound(&server.address, 3 * PROCESSES as u64).await;
    });
    assert_eq!(server.pinned(), 0);
}
