//! Servers in processes of their own, and what clients move to and from them over real
//! verbs: every case needs an RDMA device, such as soft-RoCE's.
//!
//! Where there is none, nothing is tested, which is said loudly; it is a failure if
//! `ZAKO_RDMA_DEVICE` names the device that should be there. Arguments choose cases by
//! a part of their name. With two devices (`ZAKO_RDMA_PEER_DEVICE`) clients have the
//! second one.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod at_once;
mod child;
mod content;
mod device;
mod hostile;
mod killed_client;
mod killed_server;
mod memory_limit;
mod pages;
mod raw;
mod servers;
mod sizes;
mod throughput;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((child::CHILD, role)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        child::act(role);
        return ExitCode::SUCCESS;
    }
    if let Err(error) = device::open(device::SERVER) {
        println!("\n*** NOTHING WAS TESTED: {error} ***\n");
        return match std::env::var("ZAKO_RDMA_DEVICE") {
            Ok(device) => {
                println!("and ZAKO_RDMA_DEVICE says that there is {device}");
                ExitCode::FAILURE
            }
            Err(_) => ExitCode::SUCCESS,
        };
    }
    println!(
        "servers on {}, clients on {}\n",
        device::open(device::SERVER).unwrap().name(),
        device::near().name()
    );
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|one| !one.starts_with('-'))
        .collect();
    let chosen = |name: &str| filters.iter().any(|part| name.contains(part.as_str()));
    let all: Vec<Case> = [
        sizes::CASES,
        at_once::CASES,
        killed_server::CASES,
        killed_client::CASES,
        hostile::CASES,
        memory_limit::CASES,
        pages::CASES,
        // Last, since it cuts the wire that all use.
        wire::CASES,
    ]
    .concat();
    let mut cases: Vec<Case> = all
        .into_iter()
        .filter(|(name, _)| filters.is_empty() || chosen(name))
        .collect();
    // A measurement, so only by its name.
    cases.extend(throughput::CASES.iter().filter(|(name, _)| chosen(name)));
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases {
        let start = std::time::Instant::now();
        let verdict = match catch_unwind(AssertUnwindSafe(case)) {
            Ok(()) => {
                passed += 1;
                "ok"
            }
            Err(_) => {
                failed += 1;
                "FAILED"
            }
        };
        println!("{verdict:6} {name} ({} ms)", start.elapsed().as_millis());
    }
    println!("\nrdma: {passed} passed, {failed} failed");
    match failed {
        // Those who choose may choose none of these.
        0 if passed > 0 || !filters.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
