//! How fast blobs are read over RDMA, beside `ib_read_bw` (Debian's package perftest) on
//! the same devices. Only what was measured in the same run can be compared.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use zako_core::Digest;
use zako_core::cas::Cas;
use zako_core::client::{Client, TransportChoice};
use zako_digest::hash::Hasher;

use crate::Case;
use crate::content::{KIB, MIB, blob, client_with, open, options, plain_client, run};
use crate::device;
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[("throughput", throughput)];

const BYTES: usize = 64 * MIB;
/// Blobs of a round: one alone would measure the beginning of it.
const BLOBS: usize = 2;

/// What is measured, in this order in each round.
const NAMES: [&str; 7] = [
    "ib_read_bw, messages of 64 KiB",
    "ib_read_bw, messages of 256 KiB",
    "ib_read_bw, messages of 1 MiB",
    "zako, not hashed",
    "zako, not hashed, without polling",
    "zako, hashed",
    "BLAKE3 alone",
];

fn throughput() {
    let rounds = std::env::var("ZAKO_RDMA_ROUNDS").unwrap_or_else(|_| "5".to_owned());
    let rounds: usize = rounds.parse().unwrap();
    let place = Place::new();
    let server = place.serve();
    let (digest, data) = blob(BYTES, 1);
    let mut rates: [Vec<f64>; NAMES.len()] = Default::default();
    run(async {
        let mut unchecked = options(TransportChoice::Rdma);
        unchecked.verify = false;
        let fast = client_with(&server.address, unchecked).await;
        let mut sleeping = options(TransportChoice::Rdma);
        sleeping.verify = false;
        sleeping.rdma.polls = 0;
        let sleeping = client_with(&server.address, sleeping).await;
        let checking = client_with(&server.address, options(TransportChoice::Rdma)).await;
        let plain = plain_client(&server.address).await;
        plain.put(&digest, data.clone()).await.unwrap();
        // Once before, so that all is as it stays.
        for client in [&fast, &sleeping, &checking] {
            read(client, &digest).await;
        }
        for round in 1..=rounds {
            let measured = [
                ib_read_bw(64 * KIB).await,
                ib_read_bw(256 * KIB).await,
                ib_read_bw(MIB).await,
                rate(BLOBS * BYTES, read_all(&fast, &digest).await),
                rate(BLOBS * BYTES, read_all(&sleeping, &digest).await),
                rate(BLOBS * BYTES, read_all(&checking, &digest).await),
                rate(BYTES, hash(&data)),
            ];
            print!("       round {round}, MiB/s:");
            for (rate, rates) in measured.into_iter().zip(&mut rates) {
                print!(" {rate:.1}");
                rates.push(rate);
            }
            println!();
        }
        for client in [&fast, &sleeping, &checking] {
            assert_eq!(
                (client.roads().fallbacks, client.roads().grpc.transfers),
                (0, 0)
            );
        }
    });
    let medians = rates.map(median);
    println!("\n       median of {rounds} rounds, {BYTES} bytes a blob");
    for (name, median) in NAMES.iter().zip(medians) {
        println!("       {name:34} {median:8.1} MiB/s");
    }
    let best = medians[..3].iter().copied().fold(0.0, f64::max);
    for zako in 3..6 {
        let (default, best) = (medians[zako] / medians[0], medians[zako] / best);
        println!(
            "       {}: {default:.2} of ib_read_bw as it is by default (64 KiB), {best:.2} of its best",
            NAMES[zako]
        );
    }
}

async fn read_all(client: &Client, digest: &Digest) -> Duration {
    let began = Instant::now();
    for _ in 0..BLOBS {
        read(client, digest).await;
    }
    began.elapsed()
}

/// Reads a blob and leaves its bytes alone.
async fn read(client: &Client, digest: &Digest) {
    let mut blob = open(client, digest).await;
    let mut bytes = 0;
    while let Some(step) = blob.next().await {
        bytes += step.unwrap().len();
    }
    assert_eq!(bytes, BYTES);
}

fn hash(data: &[u8]) -> Duration {
    let began = Instant::now();
    let mut hasher = Hasher::new();
    // In the pieces in which they come.
    data.chunks(MIB).for_each(|piece| {
        hasher.update(piece);
    });
    std::hint::black_box(hasher.finish());
    began.elapsed()
}

/// The rate of `ib_read_bw` with messages of this length, for as many bytes.
async fn ib_read_bw(message: usize) -> f64 {
    tokio::task::spawn_blocking(move || {
        let port = free_port().to_string();
        let start = |prefix: &str, peer: &[&str]| {
            let wish = device::wish(prefix);
            let (message, count) = (message.to_string(), (BLOBS * BYTES / message).to_string());
            Command::new("ib_read_bw")
                .args(["-d", &wish.device.unwrap(), "-x"])
                .args([&wish.gid_index.unwrap().to_string(), "-p", &port, "-F"])
                .args(["-s", &message, "-n", &count])
                .args(peer)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let near = match device::wish(device::PEER).device {
            Some(_) => device::PEER,
            None => device::SERVER,
        };
        let mut server = start(device::SERVER, &[]);
        // It says nothing when it listens.
        let client = (0..50).find_map(|_| {
            std::thread::sleep(Duration::from_millis(300));
            let client = start(near, &["127.0.0.1"]).wait_with_output().unwrap();
            client.status.success().then_some(client)
        });
        let Some(client) = client else {
            let _ended = server.kill();
            panic!("ib_read_bw: {:?}", server.wait_with_output());
        };
        server.wait().unwrap();
        let text = String::from_utf8_lossy(&client.stdout).into_owned();
        let rate = average(&text, message);
        rate.unwrap_or_else(|| panic!("{text}"))
    })
    .await
    .unwrap()
}

/// The column "BW average" of the line for messages of this length.
fn average(text: &str, message: usize) -> Option<f64> {
    let line = text.lines().find(|line| {
        let first = line.split_whitespace().next();
        first == Some(message.to_string().as_str())
    })?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn free_port() -> u16 {
    let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    any.local_addr().unwrap().port()
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / MIB as f64 / time.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
