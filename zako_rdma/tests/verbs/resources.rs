//! What endpoints take of the machine, and that they give it back.

use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use zako_rdma::fabric::{Access, EndpointOptions, Fabric, FailureKind, Work};
use zako_rdma::memory::{PAGE, Slab};
use zako_rdma::memory_limit::MemoryLimit;

use crate::Case;
use crate::endpoints::{kinds, pair, run, until};
use crate::processes::CHILD;

pub(crate) const CASES: &[Case] = &[
    ("nothing leaks", nothing_leaks),
    ("a drop with work posted", a_drop_with_work_posted),
    ("a drop on a runtime doesn't wait", a_drop_on_a_runtime),
    (
        "too little memory may be pinned",
        too_little_memory_may_be_pinned,
    ),
];

/// Open descriptors and pinned bytes of this process.
fn held() -> (usize, u64) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (descriptors, MemoryLimit::current().pinned)
}

fn nothing_leaks(fabric: &Arc<dyn Fabric>) {
    let cycle = |id: u64| {
        let (mut one, mut other) = pair(fabric, Access::ReadWrite, PAGE);
        assert!(MemoryLimit::current().pinned > 0);
        let into = other.slot(&[]);
        other.post(id, Work::Receive { into });
        match id % 3 {
            // With work done, failed, and left.
            0 => {
                one.read(id, 64, other.memory.address, other.memory.key);
                assert_eq!(kinds(&one.completions(1)), [Ok(64)]);
            }
            1 => {
                one.read(id, 64, other.memory.address, !other.memory.key);
                assert_eq!(kinds(&one.completions(1)), [Err(FailureKind::RemoteAccess)]);
            }
            _ => {}
        }
        [Arc::downgrade(&one.slab), Arc::downgrade(&other.slab)]
    };
    // What is made once (the reaper, runtimes) is not counted.
    for id in 0..3 {
        for slab in cycle(id) {
            until("the slab's end", || slab.upgrade().is_none());
        }
    }
    let before = held();
    let slabs: Vec<_> = (0..100).flat_map(cycle).collect();
    until("the end of all slabs", || {
        slabs.iter().all(|slab| slab.upgrade().is_none())
    });
    until(&format!("what was held before: {before:?}"), || {
        held() == before
    });
    println!("       held before and after: {before:?}");
}

fn a_drop_with_work_posted(fabric: &Arc<dyn Fabric>) {
    let (mut one, other) = pair(fabric, Access::Read, 1 << 20);
    for id in 0..8 {
        one.read(id, 1 << 20, other.memory.address, other.memory.key);
    }
    for id in 8..12 {
        let into = one.slot(&[]);
        one.post(id, Work::Receive { into });
    }
    let slab = Arc::clone(&one.slab);
    assert!(slab.free() < 16);
    drop(one);
    until("all slots back", || slab.free() == 16);
    // The endpoint's end of it is deregistered, and the slab is this case's only.
    until("the region's end", || Arc::strong_count(&slab) == 1);
}

fn a_drop_on_a_runtime(fabric: &Arc<dyn Fabric>) {
    let (mut one, other) = pair(fabric, Access::Read, 1 << 20);
    run(async {
        for id in 0..8 {
            one.read(id, 1 << 20, other.memory.address, other.memory.key);
        }
        one.completed(1).await;
        drop(one);
    });
}

fn too_little_memory_may_be_pinned(_: &Arc<dyn Fabric>) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "memory limit"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for part in [
        "16384 KiB",
        "8192 KiB",
        "ulimit -l unlimited",
        "LimitMEMLOCK=infinity",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    print!("       {text}");
}

/// As a process without privileges, with the usual limit of 8 MiB.
pub(crate) fn limited(fabric: &Arc<dyn Fabric>) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
    let limit = Some(8 << 20);
    setrlimit(
        Resource::Memlock,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
    let mut endpoint = fabric.endpoint(&EndpointOptions::default()).unwrap();
    let enough = Slab::new(1, 1 << 20).unwrap();
    endpoint.register(&enough, Access::Read).unwrap();
    let much = Slab::new(16, 1 << 20).unwrap();
    let error = endpoint.register(&much, Access::Read).unwrap_err();
    assert_eq!(error.kind(), FailureKind::MemoryLimit, "{error}");
    println!("{error}");
}
