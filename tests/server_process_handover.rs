//! Servers that take one another's place under load: nobody is refused, and no call fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "server_process_handover/load.rs"]
mod load;
#[path = "server_process_handover/manager.rs"]
mod manager;
mod server_process;

use load::Load;
use manager::{Manager, Running};
use rustix::process::Signal;
use server_process::Place;

/// Servers that follow one another in a test.
const SUCCESSORS: usize = 2;

/// Calls of each kind that are made before and after each change.
const CALLS: u64 = 5;

/// A service manager holds the sockets; the next server is started while the last one drains.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sockets_of_a_service_manager_outlive_their_servers() {
    let place = Place::new();
    let manager = Manager::new();
    let mut server = manager.start(&place).ready().await;
    let load = Load::start(manager.grpc(), manager.http());
    load.goes_on(CALLS).await;
    for _ in 0..SUCCESSORS {
        server.signal(Signal::TERM);
        let next = manager.start(&place);
        assert_eq!(server.ended().await, Some(0), "{}", manager.errors());
        server = next.ready().await;
        load.goes_on(CALLS).await;
    }
    load.end().await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, Some(0), "{}", manager.errors());
}

/// Without a service manager: the process becomes the next server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_runs_its_program_anew_with_its_own_sockets() {
    let place = Place::new();
    let mut server = Running::by_itself(&place).ready().await;
    let (grpc, http) = (server.grpc(), server.http());
    let load = Load::start(grpc, http);
    load.goes_on(CALLS).await;
    for _ in 0..SUCCESSORS {
        server.signal(Signal::USR2);
        server = server.ready().await;
        assert_eq!((server.grpc(), server.http()), (grpc, http));
        load.goes_on(CALLS).await;
    }
    load.end().await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, Some(0));
    // Its sockets are its own: now they are gone.
    assert!(std::net::TcpStream::connect(grpc).is_err());
    assert!(std::net::TcpStream::connect(http).is_err());
}

/// A program that would not come up again doesn't take the place of one that is up.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_makes_no_sense_is_no_successor() {
    let place = Place::new();
    let config = place.data().with_file_name("zako.toml");
    std::fs::write(&config, "[server]\nlease = \"2h\"\n").unwrap();
    let mut server = Running::by_itself(&place).ready().await;
    let load = Load::start(server.grpc(), server.http());
    load.goes_on(1).await;
    std::fs::write(&config, "[server]\nlease = \"soon\"\n").unwrap();
    server.signal(Signal::USR2);
    server.says("SIGUSR2: going on as before").await;
    server.says("line 2, column 9: \"soon\"").await;
    load.goes_on(CALLS).await;
    std::fs::write(&config, "[server]\nlease = \"3h\"\n").unwrap();
    server.signal(Signal::USR2);
    server = server.ready().await;
    load.goes_on(CALLS).await;
    load.end().await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, Some(0));
}
