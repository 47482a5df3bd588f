//! Clients that break the rules: their sessions end, and others go on.

use zako_core::cas::Cas;
use zako_core::client::{Client, TransportChoice};
use zako_rdma::fabric::{FailureKind, Work};
use zako_rdma::session::{Code, Message, NONCE_BYTES, Status};

use crate::Case;
use crate::content::{MIB, blob, client, freed, get, run, status, until};
use crate::raw::{Raw, SLOT};
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[
    ("hostile offers", hostile_offers),
    ("hostile grants", hostile_grants),
    ("hostile reads and writes", hostile_access),
    ("hostile silence", hostile_silence),
];

/// A server with a client that goes on whatever others do.
struct Fixture {
    place: Place,
}

/// An honest client, and what it moves.
struct Honest {
    client: Client,
    address: String,
    seed: u64,
}

impl Fixture {
    fn run(test: impl AsyncFnOnce(&mut Honest)) {
        let fixture = Self {
            place: Place::new(),
        };
        let server = fixture.place.serve();
        run(async {
            let mut honest = Honest {
                client: client(&server.address, TransportChoice::Rdma).await,
                address: server.address.clone(),
                seed: 0,
            };
            honest.goes_on().await;
            test(&mut honest).await;
            honest.goes_on().await;
            let Honest { client, .. } = honest;
            drop(client);
            freed(&server.address).await;
        });
        assert_eq!(server.pinned(), 0);
        assert!(!server.said().contains("panicked"), "{}", server.said());
    }
}

impl Honest {
    /// Moves a blob on the session that it had from the beginning.
    async fn goes_on(&mut self) {
        self.seed += 1;
        let (digest, data) = blob(MIB, self.seed);
        self.client.put(&digest, data.clone()).await.unwrap();
        get(&self.client, &digest, &data).await;
        let roads = self.client.roads();
        assert_eq!(roads.rdma.transfers, 2 * self.seed);
        assert_eq!((roads.grpc.transfers, roads.fallbacks), (0, 0));
    }

    /// The other's session has ended so, nothing is left of it, and this one goes on.
    async fn survives(&mut self, what: &str, mut other: Raw) -> Status {
        let end = other.end().await;
        println!("       {what}: {:?}: {}", end.code, end.message);
        until("one session only", async || {
            status(&self.address).await.rdma_sessions == 1
        })
        .await;
        self.goes_on().await;
        end
    }
}

fn hostile_offers() {
    type Change = fn(&mut Raw);
    let lies: [(&str, Change); 4] = [
        ("a wrong key", |raw| raw.hello.memory.key ^= 0xff00),
        ("memory before its own", |raw| {
            raw.hello.memory.address -= 1 << 20;
        }),
        ("memory behind its own", |raw| {
            raw.hello.memory.address += 1 << 20;
        }),
        ("another queue pair", |raw| {
            raw.hello.address.queue_pair ^= 0xff;
        }),
    ];
    Fixture::run(async |honest| {
        for (what, lie) in lies {
            let mut raw = Raw::new(&honest.address).await;
            lie(&mut raw);
            raw.offer([7; NONCE_BYTES]).await;
            let end = honest.survives(what, raw).await;
            assert_eq!(end.code, Code::Unavailable);
        }
        let mut raw = Raw::new(&honest.address).await;
        raw.offer([8; NONCE_BYTES]).await;
        let end = honest.survives("another nonce", raw).await;
        assert_eq!(end.code, Code::Unavailable);
    });
}

/// Begins an upload of so many bytes.
async fn put(raw: &mut Raw, bytes: usize) {
    let (digest, _) = blob(bytes, 1000);
    let (transfer, offset) = (1, 0);
    raw.say(Message::Put {
        transfer,
        digest,
        offset,
    })
    .await;
    assert_eq!(raw.next().await, Some(Message::Accepted { transfer }));
}

async fn grant(raw: &Raw, offset: u64, length: u32) {
    let transfer = 1;
    raw.say(Message::Grant {
        transfer,
        offset,
        length,
    })
    .await;
}

fn hostile_grants() {
    let length = SLOT as u32;
    Fixture::run(async |honest| {
        for (what, offset) in [
            ("a grant behind its memory", 8 * SLOT as u64),
            ("a grant over the end of its memory", 8 * SLOT as u64 - 1),
            ("a grant over the end of all memory", u64::MAX),
        ] {
            let mut raw = Raw::open(&honest.address).await;
            put(&mut raw, MIB).await;
            grant(&raw, offset, length).await;
            let end = honest.survives(what, raw).await;
            assert_eq!(end.code, Code::InvalidArgument);
        }

        let mut raw = Raw::open(&honest.address).await;
        put(&mut raw, SLOT - 1).await;
        grant(&raw, SLOT as u64, length).await;
        let end = honest.survives("more than the blob has", raw).await;
        assert_eq!(end.code, Code::InvalidArgument);

        // Only the card can know these.
        let mut raw = Raw::new(&honest.address).await;
        raw.hello.memory.length *= 2;
        raw.shake().await;
        put(&mut raw, MIB).await;
        grant(&raw, SLOT as u64, length).await;
        grant(&raw, 8 * SLOT as u64, length).await;
        let end = honest.survives("memory that is not its own", raw).await;
        assert_eq!(end.code, Code::Unavailable);

        let mut raw = Raw::open(&honest.address).await;
        put(&mut raw, MIB).await;
        raw.unplug();
        grant(&raw, SLOT as u64, length).await;
        let end = honest.survives("memory that is deregistered", raw).await;
        assert_eq!(end.code, Code::Unavailable);
    });
}

/// A client that reaches into the server. The server's card refuses and says nothing to
/// the server; it learns of it from the next work there, or from the end of the stream.
fn hostile_access() {
    Fixture::run(async |honest| {
        let length = SLOT as u32;
        for (what, offset, key, writes) in [
            ("a READ over the end", u64::MAX, 0, false),
            ("a READ with another key", 0, 0xff00, false),
            ("a WRITE", 0, 0, true),
        ] {
            let mut raw = Raw::open(&honest.address).await;
            put(&mut raw, MIB).await;
            let memory = raw.server.unwrap().memory;
            let address = memory.address + offset.min(memory.length - u64::from(length) / 2);
            let key = memory.key ^ key;
            let slot = raw.slab.take().unwrap();
            let done = raw
                .done(match writes {
                    false => Work::Read {
                        into: slot,
                        length,
                        address,
                        key,
                    },
                    true => Work::Write {
                        from: slot,
                        length,
                        address,
                        key,
                    },
                })
                .await;
            let refused = done.outcome.unwrap_err();
            assert_eq!(refused.kind(), FailureKind::RemoteAccess, "{what}");
            drop(done.slot);
            grant(&raw, SLOT as u64, length).await;
            let end = honest.survives(what, raw).await;
            assert_eq!(end.code, Code::Unavailable);
        }
    });
}

/// Clients that go away without a word, in all states.
fn hostile_silence() {
    Fixture::run(async |honest| {
        let address = honest.address.clone();
        drop(Raw::new(&address).await);
        let mut raw = Raw::new(&address).await;
        raw.offer([7; NONCE_BYTES]).await;
        drop(raw);
        drop(Raw::open(&address).await);
        let mut raw = Raw::open(&address).await;
        put(&mut raw, MIB).await;
        grant(&raw, SLOT as u64, SLOT as u32).await;
        drop(raw);
        until("one session only", async || {
            status(&address).await.rdma_sessions == 1
        })
        .await;
    });
}
