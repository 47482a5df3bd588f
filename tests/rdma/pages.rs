//! What the memory of a server's sessions is made of.

use std::fs;

use zako_core::cas::Cas;
use zako_core::client::TransportChoice;

use crate::Case;
use crate::content::{MIB, blob, client, freed, get, run, until};
use crate::servers::{Place, Server};

pub(crate) const CASES: &[Case] = &[
    ("a server with pages of each kind", pages_of_each_kind),
    (
        "a server without the huge pages it wants",
        without_huge_pages,
    ),
];

/// How many huge pages the kernel keeps.
const POOL: &str = "/proc/sys/vm/nr_hugepages";
/// More than a session takes.
const ENOUGH: u64 = 64;

/// Sets the pool of huge pages for a while.
struct Pool {
    before: String,
}

impl Pool {
    /// `None` if this process may not, or there is no room for so many.
    fn of(pages: u64) -> Option<Self> {
        let before = fs::read_to_string(POOL).ok()?;
        fs::write(POOL, pages.to_string()).ok()?;
        let pool = Self { before };
        let now = fs::read_to_string(POOL).ok()?;
        (now.trim() == pages.to_string()).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _less = fs::write(POOL, &self.before);
    }
}

/// Moves a blob both ways; what the server's memory is of while its session is open.
fn moves(server: &Server, seed: u64) -> String {
    run(async {
        let client = client(&server.address, TransportChoice::Rdma).await;
        let (digest, data) = blob(3 * MIB, seed);
        client.put(&digest, data.clone()).await.unwrap();
        get(&client, &digest, &data).await;
        let roads = client.roads();
        assert_eq!((roads.rdma.transfers, roads.grpc.transfers), (2, 0));
        let maps = server.maps();
        drop(client);
        freed(&server.address).await;
        maps
    })
}

fn serve(pages: &'static str) -> (Place, Server) {
    let mut place = Place::new();
    place.pages = Some(pages);
    let server = place.serve();
    (place, server)
}

fn pages_of_each_kind() {
    let (_place, server) = serve("plain");
    let maps = moves(&server, 1);
    assert!(!maps.contains("anon_hugepage") && !maps.contains("zako-slab"));

    let (_place, server) = serve("tmpfs");
    let maps = moves(&server, 2);
    assert!(maps.contains("memfd:zako-slab"), "{maps}");
    assert_eq!(server.said(), "");
    given_back(&server, "zako-slab");

    let Some(_pool) = Pool::of(ENOUGH) else {
        println!("       SKIPPED: huge pages can't be had here");
        return;
    };
    let (_place, server) = serve("huge");
    let maps = moves(&server, 3);
    assert!(maps.contains("anon_hugepage"), "{maps}");
    assert_eq!(server.said(), "");
    given_back(&server, "anon_hugepage");
}

fn given_back(server: &Server, memory: &str) {
    run(until("the memory is given back", async || {
        !server.maps().contains(memory)
    }));
}

fn without_huge_pages() {
    let Some(_pool) = Pool::of(0) else {
        println!("       SKIPPED: the pool of huge pages can't be set here");
        return;
    };
    let (_place, server) = serve("huge");
    let maps = moves(&server, 4);
    assert!(!maps.contains("anon_hugepage"), "{maps}");
    println!("       the server: {}", server.said().trim_end());
    for part in ["no Huge pages", "vm.nr_hugepages", "plain ones"] {
        assert!(server.said().contains(part), "{part:?}: {}", server.said());
    }
}
