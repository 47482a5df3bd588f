//! Sessions of the protocol on real verbs.

use std::sync::Arc;
use std::time::Instant;

use zako_digest::hash;
use zako_rdma::fabric::Fabric;
use zako_rdma::session::{
    Budget, BudgetLimits, BudgetUsed, ClientSession, ServerSession, SessionError, SessionOptions,
    accept, connect,
};

use crate::Case;
use crate::endpoints::{pattern, until};
use crate::pair::{Blobs, controls, get_all, put_all};

pub(crate) const CASES: &[Case] = &[
    ("a session moves blobs both ways", a_session_moves_blobs),
    ("sessions at once", sessions_at_once),
];

struct Ends {
    client: ClientSession,
    server: ServerSession,
    budgets: [Budget; 2],
}

impl Ends {
    async fn open(fabric: &Arc<dyn Fabric>) -> Self {
        let budgets = [(); 2].map(|()| Budget::new(BudgetLimits::default()));
        let (near, far) = controls();
        let options = SessionOptions::default;
        let (client, server) = tokio::join!(
            connect(Arc::clone(fabric), near, options(), &budgets[0]),
            accept(Arc::clone(fabric), far, options(), &budgets[1]),
        );
        Self {
            client: client.unwrap(),
            server: server.unwrap(),
            budgets,
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// All that was taken of the budgets comes back.
fn clean(budgets: &[Budget]) {
    until("empty budgets", || {
        budgets
            .iter()
            .all(|one| one.used() == BudgetUsed::default())
    });
}

async fn moves(client: &ClientSession, blobs: &Blobs, size: usize, seed: u64) {
    let there = pattern(size, seed);
    let digest = blobs.add(&there);
    let start = Instant::now();
    assert!(get_all(client, &digest).await.unwrap() == there, "{size}");
    let got = start.elapsed();
    let here = pattern(size, seed + 1000);
    let start = Instant::now();
    if size > 0 {
        assert_eq!(put_all(client, &here).await.unwrap(), size as u64);
        assert!(blobs.get(&hash::bytes(&here)).unwrap() == here, "{size}");
    }
    if size >= 1 << 20 {
        let put = start.elapsed();
        println!("       {size} bytes: got in {got:?}, put in {put:?}");
    }
}

fn a_session_moves_blobs(fabric: &Arc<dyn Fabric>) {
    let budgets = run(async {
        let ends = Ends::open(fabric).await;
        let blobs = Blobs::default();
        let serving = blobs.serve(ends.server);
        let mib = 1 << 20;
        for size in [0, 1, 65536, mib - 1, mib, mib + 1, 16 * mib] {
            moves(&ends.client, &blobs, size, size as u64).await;
        }
        ends.client.close();
        assert_eq!(ends.client.freed().await, SessionError::Closed);
        drop(ends.client);
        assert_eq!(serving.await.unwrap().0, SessionError::Closed);
        ends.budgets
    });
    clean(&budgets);
}

fn sessions_at_once(fabric: &Arc<dyn Fabric>) {
    let budgets = run(async {
        let mut tasks = Vec::new();
        for seed in 0..4 {
            let fabric = Arc::clone(fabric);
            tasks.push(tokio::spawn(async move {
                let ends = Ends::open(&fabric).await;
                let blobs = Blobs::default();
                let serving = blobs.serve(ends.server);
                for size in [100, 300_000, 2_000_000] {
                    let (one, other) = (seed * 10, seed * 10 + 5);
                    tokio::join!(
                        moves(&ends.client, &blobs, size, one),
                        moves(&ends.client, &blobs, size + 1, other),
                    );
                }
                drop(ends.client);
                assert_eq!(serving.await.unwrap().0, SessionError::Closed);
                ends.budgets
            }));
        }
        let mut budgets = Vec::new();
        for task in tasks {
            budgets.extend(task.await.unwrap());
        }
        budgets
    });
    clean(&budgets);
}
