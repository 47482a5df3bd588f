//! The three exchanges of RDMA between two processes, with their state changes:
//! two-sided SEND and RECEIVE, one-sided READ, one-sided WRITE.
//!
//! `cargo run -p zako_rdma --features verbs --example rdma_pingpong -- --help`
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{from_str, to_string};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use zako_rdma::devices::Wish;
use zako_rdma::fabric::{
    Access, Address, Completion, Endpoint, EndpointOptions, Fabric, RemoteMemory, Work,
};
use zako_rdma::memory::{Slab, Slot};
use zako_rdma::verbs::VerbsFabric;

/// What work is called in its completion.
const SEND: u64 = 0;
const RECEIVE: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Plays SEND/RECEIVE, READ and WRITE with a peer and checks what arrives.
///
/// One process serves, another connects; both need an RDMA device. They find each other
/// over TCP, without any authentication: for trying out, on networks that are trusted.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Command>,
    /// The peer that serves, such as 127.0.0.1:7471.
    address: Option<SocketAddr>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Waits for one peer, and ends when it has played.
    Serve {
        /// Where to listen, such as 127.0.0.1:7471.
        address: SocketAddr,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// The device to use, such as rxe0, instead of the best.
    #[arg(long, env = "ZAKO_RDMA_DEVICE")]
    device: Option<String>,
    /// The index of the GID to use, instead of the best.
    #[arg(long, env = "ZAKO_RDMA_GID_INDEX")]
    gid_index: Option<u32>,
    /// Bytes of each message, READ and WRITE; both sides must say the same.
    #[arg(long, default_value_t = 65536, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    size: u32,
    /// How often each exchange is played; both sides must say the same.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// READs that are posted at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    window: u32,
}

/// An end of the game.
struct Player {
    endpoint: Box<dyn Endpoint>,
    slab: Arc<Slab>,
    /// What the peer may READ, at the beginning of the slab.
    _shown: Slot,
    /// What the peer may WRITE, after it.
    scratch: Slot,
    theirs: RemoteMemory,
    completions: VecDeque<Completion>,
    lines: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
    options: Options,
    patterns: Vec<u8>,
    start: Instant,
}

/// What both sides have to know of each other.
#[derive(Serialize, Deserialize)]
struct Offer {
    address: Address,
    memory: RemoteMemory,
    size: u32,
    rounds: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma_pingpong: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    match (arguments.serve, arguments.address) {
        (Some(Command::Serve { address, options }), _) => {
            let listener = TcpListener::bind(address).await?;
            println!("waiting for a peer at {}", listener.local_addr()?);
            let (stream, peer) = listener.accept().await?;
            println!("{peer} connects");
            Player::new(stream, options, 1).await?.serve().await
        }
        (None, Some(address)) => {
            let stream = TcpStream::connect(address).await?;
            Player::new(stream, arguments.options, 2)
                .await?
                .play()
                .await
        }
        (None, None) => Err("an address is needed; see --help".into()),
    }
}

impl Player {
    /// Makes an endpoint and connects it with the peer's.
    async fn new(stream: TcpStream, options: Options, seed: u8) -> Result<Self> {
        let start = Instant::now();
        let fabric = VerbsFabric::open(&Wish {
            device: options.device.clone(),
            port: None,
            gid_index: options.gid_index,
        })?;
        println!("using {}", fabric.name());
        let mut endpoint = fabric.endpoint(&EndpointOptions::default())?;
        let slab = Slab::new(8 + options.window, options.size as usize)?;
        let memory = endpoint.register(&slab, Access::ReadWrite)?;
        let patterns = patterns(options.size as usize);
        let mut shown = slab.take().ok_or("no slot is free")?;
        fill(&mut shown, &patterns, seed);
        let scratch = slab.take().ok_or("no slot is free")?;
        let (from, to) = stream.into_split();
        let mut player = Self {
            endpoint,
            slab,
            _shown: shown,
            scratch,
            theirs: memory,
            completions: VecDeque::new(),
            lines: BufReader::new(from).lines(),
            to,
            options,
            patterns,
            start,
        };
        let address = player.endpoint.address();
        player.state("Init", &format!("queue pair {:#x}", address.queue_pair));
        let offer = Offer {
            address,
            memory,
            size: player.options.size,
            rounds: player.options.rounds,
        };
        player.tell(&to_string(&offer)?).await?;
        let theirs: Offer = from_str(&player.hear().await?)?;
        if (theirs.size, theirs.rounds) != (offer.size, offer.rounds) {
            return Err(format!(
                "the peer plays {} rounds of {} bytes; give both the same --rounds and --size",
                theirs.rounds, theirs.size
            )
            .into());
        }
        player.theirs = theirs.memory;
        // So that whatever comes first finds where to go.
        player.receive()?;
        player.endpoint.connect(&theirs.address)?;
        player.state(
            "Ready to Receive, Ready to Send",
            &format!("with queue pair {:#x}", theirs.address.queue_pair),
        );
        // Nobody posts before both know that the other is ready.
        player.tell("ready").await?;
        player.expect("ready").await?;
        player.state("Ready on both sides", "");
        Ok(player)
    }

    /// The side that starts everything.
    async fn play(mut self) -> Result<()> {
        let size = self.options.size;
        let seed = |round: u32| round as u8;

        let begin = Instant::now();
        for round in 0..self.options.rounds {
            self.send(seed(round))?;
            let answer = self.ended(RECEIVE).await?.slot;
            self.verify(&answer, seed(round))?;
            self.receive()?;
        }
        self.report("SEND/RECEIVE", "there and back", begin.elapsed(), 2);

        let begin = Instant::now();
        let (mut posted, mut ended) = (0, 0);
        while ended < self.options.rounds {
            while posted < self.options.rounds && posted - ended < self.options.window {
                let work = Work::Read {
                    into: self.slot()?,
                    length: size,
                    address: self.theirs.address,
                    key: self.theirs.key,
                };
                self.endpoint.post(READ, work).map_err(|(error, _)| error)?;
                posted += 1;
            }
            let read = self.ended(READ).await?;
            self.verify(&read.slot, 1)?;
            ended += 1;
        }
        self.report("READ", "of the peer's memory", begin.elapsed(), 1);

        let begin = Instant::now();
        let offset = self.scratch.offset();
        let address = self
            .theirs
            .part(offset, size.into())
            .ok_or("the peer has less memory")?;
        for round in 0..self.options.rounds {
            let mut from = self.slot()?;
            fill(&mut from, &self.patterns, seed(round));
            let work = Work::Write {
                from,
                length: size,
                address,
                key: self.theirs.key,
            };
            self.endpoint
                .post(WRITE, work)
                .map_err(|(error, _)| error)?;
            self.ended(WRITE).await?;
        }
        self.report("WRITE", "to the peer's memory", begin.elapsed(), 1);
        self.tell("written").await?;
        self.expect("verified").await?;
        println!("the peer has verified what was written");
        self.end().await
    }

    /// The side that answers.
    async fn serve(mut self) -> Result<()> {
        for _ in 0..self.options.rounds {
            let question = self.ended(RECEIVE).await?.slot;
            self.receive()?;
            let seed = question.first().copied().unwrap_or(0);
            self.verify(&question, seed)?;
            self.send(seed)?;
        }
        println!("SEND/RECEIVE: answered {} messages", self.options.rounds);
        println!("READ: nothing to do; the peer takes what it wants");
        self.expect("written").await?;
        let last = (self.options.rounds - 1) as u8;
        self.verify(&self.scratch, last)?;
        println!("WRITE: verified what the peer has written");
        self.tell("verified").await?;
        self.end().await
    }

    /// Ends what is posted still.
    async fn end(mut self) -> Result<()> {
        self.tell("end").await?;
        self.expect("end").await?;
        self.endpoint.fail()?;
        self.state("Error", "on purpose, to flush what is posted");
        while self.endpoint.outstanding() > 0 || !self.completions.is_empty() {
            let completion = self.completion().await?;
            if let Err(error) = completion.outcome {
                println!("           a receive ends: {error}");
            }
        }
        drop(self.endpoint);
        println!("all is given back");
        Ok(())
    }

    fn slot(&self) -> Result<Slot> {
        Ok(self.slab.take().ok_or("no slot is free")?)
    }

    fn receive(&mut self) -> Result<()> {
        let into = self.slot()?;
        let posted = self.endpoint.post(RECEIVE, Work::Receive { into });
        Ok(posted.map_err(|(error, _)| error)?)
    }

    fn send(&mut self, seed: u8) -> Result<()> {
        let mut from = self.slot()?;
        fill(&mut from, &self.patterns, seed);
        let length = self.options.size;
        let posted = self.endpoint.post(SEND, Work::Send { from, length });
        Ok(posted.map_err(|(error, _)| error)?)
    }

    /// The next of this kind to end; all before it must have succeeded.
    async fn ended(&mut self, id: u64) -> Result<Completion> {
        loop {
            let completion = self.completion().await?;
            match &completion.outcome {
                Ok(_) if completion.id == id => return Ok(completion),
                Ok(_) => {}
                Err(error) => return Err(error.clone().into()),
            }
        }
    }

    /// The next work that ends in whatever way.
    async fn completion(&mut self) -> Result<Completion> {
        loop {
            if let Some(completion) = self.completions.pop_front() {
                return Ok(completion);
            }
            let mut completions = Vec::new();
            self.endpoint.poll(&mut completions)?;
            if completions.is_empty() {
                poll_fn(|context| self.endpoint.poll_ready(context)).await?;
            }
            self.completions.extend(completions);
        }
    }

    async fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.to.write_all(format!("{line}\n").as_bytes()).await?)
    }

    async fn hear(&mut self) -> Result<String> {
        let line = self.lines.next_line().await?;
        Ok(line.ok_or("the peer has ended")?)
    }

    async fn expect(&mut self, line: &str) -> Result<()> {
        match self.hear().await? {
            heard if heard == line => Ok(()),
            heard => Err(format!("the peer said {heard:?} instead of {line:?}").into()),
        }
    }

    /// Fails unless the slot begins with what goes with the seed.
    fn verify(&self, slot: &Slot, seed: u8) -> Result<()> {
        let size = self.options.size as usize;
        match slot.get(..size) == self.patterns.get(seed.into()..).map(|rest| &rest[..size]) {
            true => Ok(()),
            false => Err("what arrived is not what was sent".into()),
        }
    }

    fn state(&self, state: &str, detail: &str) {
        let after = self.start.elapsed().as_secs_f64();
        println!("{after:8.3} s state: {state} {detail}");
    }

    fn report(&self, what: &str, how: &str, took: Duration, ways: u64) {
        let (rounds, size) = (self.options.rounds, self.options.size);
        let bytes = u64::from(rounds) * u64::from(size) * ways;
        println!(
            "{what}: {rounds} times {size} bytes {how}, verified: {:.1} µs each, {:.1} MB/s",
            took.as_secs_f64() * 1e6 / f64::from(rounds),
            bytes as f64 / 1e6 / took.as_secs_f64(),
        );
    }
}

/// What a slot begins with, for every seed: the seed is its first byte.
fn patterns(size: usize) -> Vec<u8> {
    (0..size + 256).map(|at| (at ^ (at >> 8)) as u8).collect()
}

fn fill(slot: &mut Slot, patterns: &[u8], seed: u8) {
    // A slot is a whole number of pages, and the patterns may be shorter.
    let rest = &patterns[seed.into()..];
    let length = rest.len().min(slot.len());
    slot[..length].copy_from_slice(&rest[..length]);
}
