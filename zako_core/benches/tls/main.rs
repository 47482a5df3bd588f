//! What TLS costs: large blobs to and from a server in a process of its own, with it and
//! without it in turn, beside what the TLS library makes of memory alone.
//!
//! `cargo bench -p zako_core --bench tls -- [--short] [--rounds N]`
#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "figures are what it is for"
)]

#[path = "../../../src/allocator.rs"]
mod allocator;
mod alone;
mod server;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions};
use zako_core::{BlobRange, Digest};

use self::server::{SERVE, Server, cpu};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const GIB: f64 = (1u64 << 30) as f64;

/// What a stretch of work cost, for each GiB.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: f64,
    server: f64,
    client: f64,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    name: &'static str,
    streams: usize,
    put: bool,
}

const LOADS: [Load; 4] = [
    Load {
        name: "put, 1 stream",
        streams: 1,
        put: true,
    },
    Load {
        name: "put, 4 streams",
        streams: 4,
        put: true,
    },
    Load {
        name: "get, 1 stream, not hashed",
        streams: 1,
        put: false,
    },
    Load {
        name: "get, 4 streams, not hashed",
        streams: 4,
        put: false,
    },
];

fn main() -> ExitCode {
    // Both ends are as the command's.
    allocator::keep_buffers();
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [SERVE, folder, tls] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return runtime.block_on(server::serve(folder.as_ref(), tls == "true"));
    }
    // Among the tests, which don't say --bench, it is a test.
    let short = args.iter().any(|arg| arg == "--short") || !args.iter().any(|arg| arg == "--bench");
    let rounds = args.iter().position(|arg| arg == "--rounds");
    let rounds = rounds.and_then(|at| args.get(at + 1)?.parse().ok());
    let rounds = rounds.unwrap_or(if short { 1 } else { 5 });
    runtime.block_on(measure(short, rounds))
}

async fn measure(short: bool, rounds: usize) -> Outcome<()> {
    let (count, size) = if short { (4, 1 << 20) } else { (8, 64 << 20) };
    let blobs: Vec<(Digest, Bytes)> = (0..count)
        .map(|seed| {
            let data = Bytes::from(noise(seed, size));
            (zako_digest::hash::bytes(&data), data)
        })
        .collect();
    let gib = (count * size as u64) as f64 / GIB;
    let (mut plain, mut tls) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
    let mut alone = Vec::new();
    for _ in 0..rounds {
        alone.push(alone::measure(if short { 8 << 20 } else { 1 << 30 })?);
        for (encrypted, costs) in [(false, &mut plain), (true, &mut tls)] {
            for (load, costs) in LOADS.iter().zip(costs) {
                costs.push(run(*load, encrypted, &blobs, gib).await?);
            }
        }
    }
    let encrypt = median(alone.iter().map(|one| one.encrypt));
    let decrypt = median(alone.iter().map(|one| one.decrypt));
    println!(
        "| TLS | GB/s | ÷ plaintext | server CPU-s/GiB | plaintext's | its TLS ÷ library | client CPU-s/GiB | plaintext's | its TLS ÷ library |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    println!(
        "| the library alone, {} | {:.2} | | {encrypt:.3} encrypting | | | {decrypt:.3} decrypting | | |",
        alone[0].suite,
        GIB / 1e9 / (encrypt + decrypt)
    );
    for (load, (plain, tls)) in LOADS.iter().zip(plain.iter().zip(&tls)) {
        let of = |costs: &[Cost], part: fn(&Cost) -> f64| median(costs.iter().map(part));
        let (fast, slow) = (of(plain, |cost| cost.wall), of(tls, |cost| cost.wall));
        let server = (of(tls, |cost| cost.server), of(plain, |cost| cost.server));
        let client = (of(tls, |cost| cost.client), of(plain, |cost| cost.client));
        let (at_server, at_client) = if load.put {
            (decrypt, encrypt)
        } else {
            (encrypt, decrypt)
        };
        println!(
            "| {} | {:.2} | {:.2} | {:.3} | {:.3} | {:.2} | {:.3} | {:.3} | {:.2} |",
            load.name,
            GIB / 1e9 / slow,
            fast / slow,
            server.0,
            server.1,
            (server.0 - server.1) / at_server,
            client.0,
            client.1,
            (client.0 - client.1) / at_client,
        );
    }
    Ok(())
}

/// A server of its own for each load: nothing is there already.
async fn run(load: Load, tls: bool, blobs: &[(Digest, Bytes)], gib: f64) -> Outcome<Cost> {
    let server = Server::start(tls)?;
    let mut options = ClientOptions::default();
    options.verify = false;
    options.tls = server.trusting();
    let client = Client::connect(&server.url, options).await?;
    if !load.put {
        each(&client, blobs, 4, true).await?;
        // Once to have it read before: the store hashes a blob that it gives for the first
        // time.
        each(&client, blobs, 4, false).await?;
    }
    let before = (server.cpu()?, cpu("self")?);
    let began = Instant::now();
    each(&client, blobs, load.streams, load.put).await?;
    let wall = began.elapsed().as_secs_f64();
    Ok(Cost {
        wall: wall / gib,
        server: (server.cpu()? - before.0) / gib,
        client: (cpu("self")? - before.1) / gib,
    })
}

async fn each(
    client: &Client,
    blobs: &[(Digest, Bytes)],
    streams: usize,
    put: bool,
) -> Outcome<()> {
    let work = blobs.iter().cloned().map(|(digest, data)| {
        let client = client.clone();
        let task = tokio::spawn(async move {
            if put {
                client.put(&digest, data).await?;
                return Outcome::Ok(());
            }
            let mut blob = client.fetch(&digest, BlobRange::FULL).await?;
            while let Some(step) = blob.next().await {
                step?;
            }
            Ok(())
        });
        async { task.await? }
    });
    let mut work = futures::stream::iter(work).buffer_unordered(streams);
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}

/// `length` bytes that don't compress (splitmix64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.next_multiple_of(8)];
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
