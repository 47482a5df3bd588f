//! Two processes: what they exchange, and what one sees when the other is killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use serde_json::{from_str, to_string};
use zako_rdma::fabric::{Access, Address, Fabric, FailureKind, RemoteMemory, Work};
use zako_rdma::memory::PAGE;

use crate::Case;
use crate::endpoints::{End, kinds, pattern};

pub(crate) const CASES: &[Case] = &[
    ("between processes", between_processes),
    (
        "a peer that was killed is gone",
        a_peer_that_was_killed_is_gone,
    ),
    ("killed while it reads", killed_while_it_reads),
];

/// The argument that makes this program a child.
pub(crate) const CHILD: &str = "--child";

const SIZE: usize = 1 << 20;

/// A connected peer in a process of its own.
struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    memory: RemoteMemory,
}

impl Peer {
    fn start(role: &str, end: &mut End) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, role])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Self {
            child,
            to,
            from,
            memory: end.memory,
        };
        let offer = to_string(&(end.endpoint.address(), end.memory)).unwrap();
        peer.tell(&offer);
        let (address, memory): (Address, RemoteMemory) = from_str(&peer.hear()).unwrap();
        end.endpoint.connect(&address).unwrap();
        peer.memory = memory;
        peer.tell("ready");
        assert_eq!(peer.hear(), "ready");
        peer
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the child has ended");
        line.trim().to_owned()
    }
}

/// What a child does.
pub(crate) fn child(role: &str, fabric: &Arc<dyn Fabric>) {
    if role == "memory limit" {
        return crate::resources::limited(fabric);
    }
    let mut lines = std::io::stdin().lines();
    let mut hear = || lines.next().unwrap().unwrap();
    let mut end = End::new(fabric, Access::ReadWrite, SIZE);
    let (address, theirs): (Address, RemoteMemory) = from_str(&hear()).unwrap();
    println!(
        "{}",
        to_string(&(end.endpoint.address(), end.memory)).unwrap()
    );
    end.endpoint.connect(&address).unwrap();
    let mine = end.slot(&pattern(SIZE, 1));
    let scratch = end.slot(&[]);
    assert_eq!((mine.offset(), scratch.offset()), (0, SIZE as u64));
    match role {
        "exchanges" => {
            let into = end.slot(&[]);
            end.post(1, Work::Receive { into });
            assert_eq!(hear(), "ready");
            println!("ready");
            let got = end.completions(1);
            assert!(got[0].slot[..100] == pattern(100, 2));
            let from = end.slot(&pattern(200, 3));
            end.post(2, Work::Send { from, length: 200 });
            assert_eq!(kinds(&end.completions(1)), [Ok(200)]);
            assert_eq!(hear(), "written");
            assert!(scratch[..] == pattern(SIZE, 4));
            println!("verified");
        }
        "waits" => {
            assert_eq!(hear(), "ready");
            println!("ready");
        }
        "reads" => {
            assert_eq!(hear(), "ready");
            println!("ready");
            loop {
                end.read(1, SIZE as u32, theirs.address, theirs.key);
                assert_eq!(kinds(&end.completions(1)), [Ok(SIZE as u32)]);
                println!("read");
            }
        }
        _ => panic!("no role {role}"),
    }
    // Until the parent has ended or kills this.
    let _ = lines.count();
}

fn between_processes(fabric: &Arc<dyn Fabric>) {
    let mut end = End::new(fabric, Access::Read, SIZE);
    let into = end.slot(&[]);
    end.post(1, Work::Receive { into });
    let mut peer = Peer::start("exchanges", &mut end);

    let from = end.slot(&pattern(100, 2));
    end.post(2, Work::Send { from, length: 100 });
    let mut ended = Vec::new();
    while ended.len() < 2 {
        ended.extend(end.completions(1));
    }
    ended.sort_by_key(|one| one.id);
    assert_eq!(kinds(&ended), [Ok(200), Ok(100)]);
    assert!(ended[0].slot[..200] == pattern(200, 3));

    end.read(3, SIZE as u32, peer.memory.address, peer.memory.key);
    let ended = end.completions(1);
    assert_eq!(kinds(&ended), [Ok(SIZE as u32)]);
    assert!(ended[0].slot[..] == pattern(SIZE, 1));

    let from = end.slot(&pattern(SIZE, 4));
    end.post(
        4,
        Work::Write {
            from,
            length: SIZE as u32,
            address: peer.memory.part(SIZE as u64, SIZE as u64).unwrap(),
            key: peer.memory.key,
        },
    );
    assert_eq!(kinds(&end.completions(1)), [Ok(SIZE as u32)]);
    peer.tell("written");
    assert_eq!(peer.hear(), "verified");
    drop(peer.to);
    assert!(peer.child.wait().unwrap().success());
}

fn a_peer_that_was_killed_is_gone(fabric: &Arc<dyn Fabric>) {
    let mut end = End::new(fabric, Access::Read, SIZE);
    let mut peer = Peer::start("waits", &mut end);
    peer.child.kill().unwrap();
    peer.child.wait().unwrap();
    for id in 0..2 {
        end.read(id, PAGE as u32, peer.memory.address, peer.memory.key);
    }
    let (gone, flushed) = (Err(FailureKind::PeerGone), Err(FailureKind::Flushed));
    assert_eq!(kinds(&end.completions(2)), [gone, flushed]);
}

/// The end that is read from gets no completion from that: it has to be told, and then
/// everything is flushed and given back.
fn killed_while_it_reads(fabric: &Arc<dyn Fabric>) {
    let mut end = End::new(fabric, Access::Read, SIZE);
    let into = end.slot(&[]);
    end.post(5, Work::Receive { into });
    let mut peer = Peer::start("reads", &mut end);
    for _ in 0..3 {
        assert_eq!(peer.hear(), "read");
    }
    peer.child.kill().unwrap();
    peer.child.wait().unwrap();
    assert_eq!(end.endpoint.outstanding(), 1);
    end.endpoint.fail().unwrap();
    assert_eq!(kinds(&end.completions(1)), [Err(FailureKind::Flushed)]);
    let slab = Arc::downgrade(&end.slab);
    drop(end);
    assert!(slab.upgrade().is_none(), "its memory is given back");
}
