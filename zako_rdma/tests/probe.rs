//! Probes over a fabric in memory: what they find, and what is left of them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod pair;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pair::{Pair, incoming, until};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zako_protobuf::rdma::{
    ProbeEcho, ProbeFill, ProbeRead, ProbeRequest, ProbeResponse, ProbeVerify, ProbeWrite,
    probe_request,
};
use zako_rdma::fabric::{Access, Endpoint, EndpointOptions, Fabric, FailureKind, Work};
use zako_rdma::memory::Slab;
use zako_rdma::probe::{
    Exchange, ProbeClient, ProbeOptions, ProbeReport, ProbeServer, Road, SLOT_BYTES, SLOTS, run,
    serve,
};
use zako_rdma::session::{
    Budget, BudgetLimits, Code, Control, Hello, Message, NONCE_BYTES, Role, SessionError,
    SessionOptions, Status,
};
use zako_rdma::soft::Faults;

const LIMIT: Duration = Duration::from_secs(120);
/// What a probe pins at the server.
const PINNED: u64 = (3 * SLOTS as u64 + 1) * SLOT_BYTES as u64;

fn few() -> ProbeOptions {
    ProbeOptions {
        sizes: vec![1, 4096, SLOT_BYTES as u32],
        rounds: 11,
        ..ProbeOptions::default()
    }
}

fn controls() -> (Control<ProbeClient>, Control<ProbeServer>) {
    let (to_server, from_client) = mpsc::channel(4);
    let (to_client, from_server) = mpsc::channel(4);
    (
        Control::new(to_server, incoming(from_server)),
        Control::new(to_client, incoming(from_client)),
    )
}

fn serving(pair: &Pair, control: Control<ProbeServer>) -> JoinHandle<SessionError> {
    let fabric: Arc<dyn Fabric> = pair.far.clone();
    let budget = pair.far_budget.clone();
    tokio::spawn(async move {
        let end = async {
            tokio::time::sleep(LIMIT).await;
            SessionError::Timeout("a probe has its time".to_owned())
        };
        serve(fabric, control, &SessionOptions::default(), &budget, end).await
    })
}

async fn probe(
    pair: &Pair,
    options: ProbeOptions,
) -> (Result<ProbeReport, SessionError>, SessionError) {
    let (client, server) = controls();
    let serving = serving(pair, server);
    let near: Arc<dyn Fabric> = pair.near.clone();
    let found = run(near, client, &options, &pair.near_budget, |_| {}).await;
    (found, serving.await.unwrap())
}

/// What all of [`few`] gives, as wrong exchanges by road and kind.
fn wrong(report: &ProbeReport, road: Road, exchange: Exchange) -> u64 {
    let of = |m: &&zako_rdma::probe::Measured| m.road == road && m.exchange == exchange;
    report.measured.iter().filter(of).map(|m| m.wrong).sum()
}

#[tokio::test(start_paused = true)]
async fn all_exchanges_of_all_sizes_are_made_and_verified() {
    for delay in [Duration::ZERO, Duration::from_micros(90)] {
        let faults = Faults {
            delay: delay / 2..delay,
            ..Faults::default()
        };
        let pair = Pair::new(1, faults);
        let (found, ended) = probe(&pair, few()).await;
        let report = found.unwrap();
        assert_eq!(ended, SessionError::Closed);
        assert_eq!(report.at_once, SLOTS);
        assert_eq!(report.measured.len(), 3 * 3 * 2);
        for measured in &report.measured {
            assert_eq!(measured.rounds, 22, "{measured:?}");
            assert!(measured.is_right() && measured.rate > 0.0, "{measured:?}");
            assert!(measured.p50 <= measured.p99, "{measured:?}");
            if measured.road == Road::Rdma {
                assert!(measured.p50 >= delay / 2, "{measured:?}");
            }
        }
        pair.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_are_found_in_each_exchange() {
    // The two READs of the nonces and the server's receives come first.
    let pair = Pair::new(
        2,
        Faults {
            corrupt: 2 + u64::from(SLOTS)..u64::MAX,
            ..Faults::default()
        },
    );
    let (found, _) = probe(&pair, few()).await;
    let report = found.unwrap();
    for exchange in [Exchange::Read, Exchange::Write] {
        assert_eq!(wrong(&report, Road::Rdma, exchange), 66, "{exchange:?}");
    }
    for exchange in Exchange::ALL {
        assert_eq!(wrong(&report, Road::Grpc, exchange), 0, "{exchange:?}");
    }
    pair.assert_clean();

    // What is spoiled twice, on its way there and back, is as it was. So spoil one.
    let first_send = 2 + u64::from(SLOTS) + 1;
    let pair = Pair::new(
        3,
        Faults {
            corrupt: first_send..first_send + 1,
            ..Faults::default()
        },
    );
    let (found, _) = probe(&pair, few()).await;
    let report = found.unwrap();
    assert_eq!(wrong(&report, Road::Rdma, Exchange::Send), 1);
    assert_eq!(wrong(&report, Road::Rdma, Exchange::Read), 0);
    pair.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_row_ends_when_its_time_is_up() {
    let delay = Duration::from_millis(200);
    let pair = Pair::new(
        4,
        Faults {
            delay: delay..delay,
            ..Faults::default()
        },
    );
    let options = ProbeOptions {
        sizes: vec![64],
        rounds: u32::MAX,
        ..ProbeOptions::default()
    };
    // Over the stream of this test no time passes; so only RDMA's is bounded by it.
    let (client, server) = controls();
    let serving = serving(&pair, server);
    let near: Arc<dyn Fabric> = pair.near.clone();
    let (told, mut rows) = mpsc::unbounded_channel();
    let budget = pair.near_budget.clone();
    let running = tokio::spawn(async move {
        run(near, client, &options, &budget, move |row| {
            told.send(row.clone()).unwrap();
        })
        .await
    });
    let first = rows.recv().await.unwrap();
    assert!(first.rounds < 50, "{first:?}");
    // Given up in the middle of the next one.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert!(matches!(
        serving.await.unwrap(),
        SessionError::ControlLost(_)
    ));
    until(|| pair.network.endpoints() == 0).await;
    pair.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_probe_from_working_is_told() {
    // No way to the other end.
    let pair = Pair::new(5, Faults::default());
    pair.network.cut();
    let (found, ended) = probe(&pair, few()).await;
    assert!(matches!(
        found,
        Err(SessionError::Unreachable(_) | SessionError::Peer(_))
    ));
    assert!(matches!(
        ended,
        SessionError::Unreachable(_) | SessionError::Peer(_)
    ));
    pair.assert_clean();

    // No memory may be pinned.
    let pair = Pair::new(
        6,
        Faults {
            memory_limit: 1 << 20,
            ..Faults::default()
        },
    );
    let (found, _) = probe(&pair, few()).await;
    let Err(SessionError::Fabric(error)) = found else {
        panic!("{found:?}");
    };
    assert_eq!(error.kind(), FailureKind::MemoryLimit);

    // The server's budget is too small, or taken.
    for limits in [
        BudgetLimits {
            session_bytes: PINNED - 1,
            ..BudgetLimits::default()
        },
        BudgetLimits {
            sessions: 0,
            ..BudgetLimits::default()
        },
    ] {
        let mut pair = Pair::new(7, Faults::default());
        pair.far_budget = Budget::new(limits);
        let (found, _) = probe(&pair, few()).await;
        let Err(SessionError::Peer(status)) = found else {
            panic!("{found:?}");
        };
        assert_eq!(status.code, Code::ResourceExhausted);
        pair.assert_clean();
    }
    for options in [
        ProbeOptions { rounds: 0, ..few() },
        ProbeOptions {
            sizes: vec![],
            ..few()
        },
        ProbeOptions {
            sizes: vec![SLOT_BYTES as u32 + 1],
            ..few()
        },
    ] {
        let (found, _) = probe(&Pair::new(8, Faults::default()), options).await;
        assert!(matches!(found, Err(SessionError::Internal(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_in_the_middle_ends_both_ends() {
    for at in [12, 40, 100, 160] {
        let pair = Pair::new(
            9,
            Faults {
                cut_at: Some(at),
                ..Faults::default()
            },
        );
        let (found, ended) = probe(&pair, few()).await;
        assert!(found.is_err() && ended != SessionError::Closed, "{ended}");
        pair.assert_clean();
    }
}

/// A client that says and does what it likes.
struct Raw {
    outgoing: mpsc::Sender<ProbeRequest>,
    incoming: mpsc::Receiver<ProbeResponse>,
    hello: Hello,
    peer: Option<Hello>,
    endpoint: Box<dyn Endpoint>,
    slab: Arc<Slab>,
}

impl Raw {
    fn new(pair: &Pair) -> (Self, JoinHandle<SessionError>) {
        let (outgoing, from_client) = mpsc::channel(4);
        let (to_client, from_server) = mpsc::channel(4);
        let serving = serving(pair, Control::new(to_client, incoming(from_client)));
        let mut endpoint = pair.near.endpoint(&EndpointOptions::default()).unwrap();
        let slab = Slab::new(4, SLOT_BYTES).unwrap();
        let mut nonce = slab.take().unwrap();
        nonce[..NONCE_BYTES].fill(7);
        let memory = endpoint.register(&slab, Access::Read).unwrap();
        let hello = Hello {
            address: endpoint.address(),
            memory,
            grant_bytes: SLOT_BYTES as u32,
            transfers: SLOTS,
        };
        let raw = Self {
            outgoing,
            incoming: from_server,
            hello,
            peer: None,
            endpoint,
            slab,
        };
        (raw, serving)
    }

    async fn open(pair: &Pair) -> (Self, JoinHandle<SessionError>) {
        let (mut raw, serving) = Self::new(pair);
        raw.say(Message::Hello(raw.hello)).await;
        let Message::Hello(peer) = raw.next().await else {
            panic!("no answer");
        };
        raw.peer = Some(peer);
        raw.endpoint.connect(&peer.address).unwrap();
        raw.say(Message::Ready([7; NONCE_BYTES])).await;
        assert!(matches!(raw.next().await, Message::Ready(_)));
        raw.say(Message::Checked(Status::ok(0))).await;
        assert_eq!(raw.next().await, Message::Checked(Status::ok(0)));
        (raw, serving)
    }

    async fn say(&self, message: Message) {
        let message = ProbeClient::write(message).unwrap();
        // A probe that has ended hears nothing.
        let _gone = self.outgoing.send(message).await;
    }

    async fn ask(&self, message: probe_request::Message) {
        let message = Some(message);
        let _gone = self.outgoing.send(ProbeRequest { message }).await;
    }

    async fn next(&mut self) -> Message {
        ProbeClient::read(self.incoming.recv().await.unwrap()).unwrap()
    }

    /// What the work ends with.
    async fn works(&mut self, work: Work) -> Result<u32, FailureKind> {
        self.endpoint.post(0, work).unwrap();
        let mut completions = Vec::new();
        while completions.is_empty() {
            self.endpoint.poll(&mut completions).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        completions.remove(0).outcome.map_err(|error| error.kind())
    }
}

fn echo(length: usize) -> probe_request::Message {
    probe_request::Message::Echo(ProbeEcho {
        data: vec![1; length].into(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_hostile_client_ends_its_own_probe_and_its_memory_is_freed() {
    use probe_request::Message as Wire;
    let (seed, slot) = (1, 0);
    let length = SLOT_BYTES as u32 + 1;
    let slots = SLOTS + 1;
    let again = ProbeClient::write(Message::Ready([7; NONCE_BYTES]));
    let asks = [
        (Wire::Fill(ProbeFill { seed, length }), true),
        (Wire::Fill(ProbeFill { seed, length: 0 }), true),
        (
            Wire::Verify(ProbeVerify {
                seed,
                length: 1,
                slots,
            }),
            true,
        ),
        (Wire::Read(ProbeRead { slot, length }), true),
        (
            Wire::Read(ProbeRead {
                slot: u32::MAX,
                length: 1,
            }),
            true,
        ),
        (
            Wire::Write(ProbeWrite {
                slot: SLOTS,
                data: vec![1].into(),
            }),
            true,
        ),
        (echo(SLOT_BYTES + 1), true),
        (echo(0), true),
        (again.unwrap().message.unwrap(), false),
    ];
    for (ask, malformed) in asks {
        let pair = Pair::new(10, Faults::default());
        let (raw, serving) = Raw::open(&pair).await;
        assert_eq!(pair.far_budget.used().bytes, PINNED);
        raw.ask(ask).await;
        let error = serving.await.unwrap();
        assert!(error.is_violation(), "{error:?}");
        assert_eq!(matches!(error, SessionError::Malformed(_)), malformed);
        drop(raw);
        pair.assert_clean();
    }
    // Before it is set up.
    let pair = Pair::new(11, Faults::default());
    let (raw, serving) = Raw::new(&pair);
    raw.ask(echo(1)).await;
    assert!(serving.await.unwrap().is_violation());
    drop(raw);
    pair.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_nothing_or_goes_leaves_nothing() {
    // It never says a word, or is never ready.
    for offers in [false, true] {
        let pair = Pair::new(12, Faults::default());
        let (raw, serving) = Raw::new(&pair);
        if offers {
            raw.say(Message::Hello(raw.hello)).await;
        }
        let error = serving.await.unwrap();
        assert!(matches!(error, SessionError::Timeout(_)), "{error:?}");
        drop(raw);
        pair.assert_clean();
    }
    // It is set up and rests for too long.
    let pair = Pair::new(13, Faults::default());
    let (raw, serving) = Raw::open(&pair).await;
    let error = serving.await.unwrap();
    assert_eq!(error.status().code, Code::DeadlineExceeded);
    drop(raw);
    pair.assert_clean();
    // It asks and never reads what is answered.
    let pair = Pair::new(14, Faults::default());
    let (raw, serving) = Raw::open(&pair).await;
    for _ in 0..100 {
        raw.ask(echo(SLOT_BYTES)).await;
    }
    let error = serving.await.unwrap();
    assert!(matches!(error, SessionError::Timeout(_)), "{error:?}");
    drop(raw);
    pair.assert_clean();
    // It dies.
    let pair = Pair::new(15, Faults::default());
    let (raw, serving) = Raw::open(&pair).await;
    drop(raw);
    let error = serving.await.unwrap();
    assert!(matches!(error, SessionError::ControlLost(_)), "{error:?}");
    pair.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn the_scratch_memory_is_all_that_can_be_reached() {
    for (offset, length, inside) in [
        (0, 8, true),
        ((u64::from(SLOTS) + 1) * SLOT_BYTES as u64 - 8, 8, true),
        ((u64::from(SLOTS) + 1) * SLOT_BYTES as u64 - 7, 8, false),
        ((u64::from(SLOTS) + 1) * SLOT_BYTES as u64, 8, false),
    ] {
        let pair = Pair::new(16, Faults::default());
        let (mut raw, serving) = Raw::open(&pair).await;
        let memory = raw.peer.unwrap().memory;
        assert_eq!(
            memory.length,
            (u64::from(SLOTS) + 1) * SLOT_BYTES as u64,
            "no more is exposed"
        );
        let work = Work::Write {
            from: raw.slab.take().unwrap(),
            length,
            address: memory.address + offset,
            key: memory.key,
        };
        match raw.works(work).await {
            Ok(_) => assert!(inside, "{offset}"),
            Err(kind) => {
                assert!(!inside, "{offset}");
                assert_eq!(kind, FailureKind::RemoteAccess);
                // The server's queue pair has failed with it.
                assert!(matches!(serving.await.unwrap(), SessionError::Fabric(_)));
                drop(raw);
                pair.assert_clean();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_something_else_is_found_out() {
    let pair = Pair::new(17, Faults::default());
    let (client, server) = controls();
    // Each answer comes twice.
    let Control { outgoing, incoming } = server;
    let (twice, mut once) = mpsc::channel::<ProbeResponse>(4);
    let requests = incoming.map(|item| item.map_err(|text| text.clone()));
    let serving = serving(&pair, Control::new(twice, requests));
    tokio::spawn(async move {
        while let Some(answer) = once.recv().await {
            let is_data = ProbeClient::read(answer.clone()).is_err();
            let _gone = outgoing.send(answer.clone()).await;
            if is_data {
                let _gone = outgoing.send(answer).await;
            }
        }
    });
    let near: Arc<dyn Fabric> = pair.near.clone();
    let found = run(near, client, &few(), &pair.near_budget, |_| {}).await;
    assert!(found.unwrap_err().is_violation());
    let ended = serving.await.unwrap();
    assert!(matches!(ended, SessionError::Peer(_)), "{ended:?}");
    pair.assert_clean();
}
