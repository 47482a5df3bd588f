//! Real verbs: every case needs an RDMA device, such as soft-RoCE's.
//!
//! Where there is none, nothing is tested, which is said loudly; it is a failure if
//! `ZAKO_RDMA_DEVICE` names the device that should be there. Arguments choose cases by
//! a part of their name.
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

mod endpoints;
mod exchanges;
#[path = "../pair/mod.rs"]
mod pair;
mod processes;
mod resources;
mod sessions;
mod violations;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use zako_rdma::devices::Wish;
use zako_rdma::fabric::Fabric;
use zako_rdma::verbs::{VerbsFabric, report};

type Case = (&'static str, fn(&Arc<dyn Fabric>));

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [child, role] = arguments.as_slice()
        && child == processes::CHILD
    {
        processes::child(role, &fabric(&wish("ZAKO_RDMA")).unwrap());
        return ExitCode::SUCCESS;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        !maps.contains("libibverbs"),
        "a program with feature `verbs` needs no libibverbs"
    );
    let wish = wish("ZAKO_RDMA");
    print!("{}", report(&wish));
    let fabric = match fabric(&wish) {
        Ok(fabric) => fabric,
        Err(error) => {
            println!("\n*** NOTHING WAS TESTED: {error} ***\n");
            return match wish.device {
                Some(device) => {
                    println!("and ZAKO_RDMA_DEVICE says that there is {device}");
                    ExitCode::FAILURE
                }
                None => ExitCode::SUCCESS,
            };
        }
    };
    println!("on {}: {:?}\n", fabric.name(), fabric.limits());
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|one| !one.starts_with('-'))
        .collect();
    let cases: Vec<Case> = [
        exchanges::CASES,
        violations::CASES,
        processes::CASES,
        resources::CASES,
        sessions::CASES,
        wire::CASES,
    ]
    .concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases {
        if !filters.is_empty() && !filters.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let start = std::time::Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| case(&fabric)));
        let verdict = match ended {
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
    println!("\nverbs: {passed} passed, {failed} failed");
    match failed {
        // Those who choose may choose none of these.
        0 if passed > 0 || !filters.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The device that the environment names.
fn wish(prefix: &str) -> Wish {
    let variable = |name| std::env::var(format!("{prefix}_{name}")).ok();
    Wish {
        device: variable("DEVICE"),
        port: None,
        gid_index: variable("GID_INDEX").map(|index| index.parse().unwrap()),
    }
}

fn fabric(wish: &Wish) -> zako_rdma::fabric::Result<Arc<dyn Fabric>> {
    Ok(VerbsFabric::open(wish)?)
}
