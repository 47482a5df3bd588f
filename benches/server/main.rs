//! Measures whole servers: the real `zako serve` in a process of its own, driven
//! by the client in this one, beside what the machine can do.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures are what it is for"
)]

#[path = "../../src/allocator.rs"]
mod allocator;
mod beyond;
mod blobs;
mod commit;
mod iperf3;
mod large;
mod limits;
mod million;
mod others;
mod pages;
mod process;
mod report;
mod run;
mod small;
mod tree;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use self::beyond::Beyond;
use self::million::Million;
use self::others::Others;
use self::report::{Goal, Goals, Report};
use self::run::{HELP, Run};
use self::tree::Tree;

/// A result of any step: each failure ends the run.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How much others disturbed the figures; the kernel's threads, which write to
/// disk, count among them.
const OTHERS: &str = "Other processes meanwhile";

const GOALS: &Goals = &[
    (
        large::TITLE,
        "get, 1 stream, not hashed",
        "server CPU-s/GiB",
        Goal::AtMost(0.30),
    ),
    (
        large::TITLE,
        "get, 1 stream, not hashed",
        "÷ iperf3",
        Goal::AtLeast(0.8),
    ),
    (
        large::TITLE,
        "get, 4 streams, not hashed",
        "server CPU-s/GiB",
        Goal::AtMost(0.30),
    ),
    (
        large::TITLE,
        "get, 4 streams, not hashed",
        "÷ iperf3",
        Goal::AtLeast(0.8),
    ),
    (
        large::TITLE,
        "get, 4 streams, hashed",
        "÷ iperf3",
        Goal::AtLeast(0.8 / 1.3),
    ),
    (
        large::TITLE,
        "put, 4 streams",
        "server CPU-s/GiB",
        Goal::AtMost(0.75),
    ),
    (
        beyond::TITLE,
        "put, 4 streams",
        "÷ disk",
        Goal::AtLeast(0.9),
    ),
    (
        large::TITLE,
        "put, 4 streams, write-back",
        "GB/s",
        Goal::AtLeast(1.0),
    ),
    (
        large::TITLE,
        "put, 4 streams",
        "server's peak, MiB",
        Goal::AtMost(68.0),
    ),
    (
        large::TITLE,
        "get, 4 streams, hashed",
        "server's peak, MiB",
        Goal::AtMost(68.0),
    ),
    (
        small::TITLE,
        "put, 64 clients",
        "blobs/s",
        Goal::AtLeast(25e3),
    ),
    (
        small::TITLE,
        "put, batched",
        "blobs/s",
        Goal::AtLeast(100e3),
    ),
    (
        small::TITLE,
        "get, batched",
        "blobs/s",
        Goal::AtLeast(200e3),
    ),
    (
        small::TITLE,
        small::STEPPED,
        "blobs/s",
        Goal::AtLeast(200e3),
    ),
    (small::TITLE, "get, 64 clients", "p99 ms", Goal::AtMost(5.0)),
    (
        million::ASKING,
        "again",
        "digests/s, millions",
        Goal::AtLeast(2.0),
    ),
    (
        million::OPENING,
        "after a clean stop",
        "answering, s",
        Goal::AtMost(0.5),
    ),
    (
        million::OPENING,
        "after kill -9",
        "answering, s",
        Goal::AtMost(2.0),
    ),
    (
        million::OPENING,
        "after a clean stop",
        "memory, B a blob",
        Goal::AtMost(64.0),
    ),
    (tree::TITLE, tree::FIRST, tree::PER_COPY, Goal::AtMost(1.5)),
    (tree::TITLE, tree::AGAIN, tree::PER_HASH, Goal::AtMost(1.3)),
];

fn main() -> ExitCode {
    // The client here is as the command's.
    allocator::keep_buffers();
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [limits::TCP_SOURCE, bytes] => return limits::tcp_source(bytes.parse()?, None),
        [limits::TCP_SOURCE, bytes, file] => {
            return limits::tcp_source(bytes.parse()?, Some(Path::new(file)));
        }
        [million::FILL, folder, count] => {
            let count = count.parse()?;
            return runtime.block_on(million::fill_and_wait(Path::new(folder), count));
        }
        _ => {}
    }
    let Some(run) = Run::parse(args.into_iter())? else {
        println!("{HELP}");
        return Ok(());
    };
    let report = runtime.block_on(measure(&run))?;
    if run.json {
        print!("{}", report.json());
    } else {
        // Small sizes reach no goals and miss none.
        print!("{}", report.text(if run.short { &[] } else { GOALS }));
    }
    Ok(())
}

async fn measure(run: &Run) -> Outcome<Report> {
    let sizes = |short, full| if run.short { short } else { full };
    let mut report = Report::default();
    let large = match run.has("large") {
        true => Some(Arc::new(blobs::blobs(1, 8, sizes(3, 128) << 20))),
        false => None,
    };
    let small = match run.has("small") {
        true => Some(Arc::new(blobs::blobs(2, sizes(500, 20_000), 8 << 10))),
        false => None,
    };
    let million = match run.has("million") {
        true => Some(Million::new(run, sizes(20_000, 1_000_000)).await?),
        false => None,
    };
    let tree = match run.has("tree") {
        true => Some(Tree::new(run, sizes(300, 30_000))?),
        false => None,
    };
    let beyond = match run.has("beyond") {
        true => Some(Arc::new(Beyond::new(run.short)?)),
        false => None,
    };
    // All in turn in each round, so that what else the machine does falls on all.
    for round in 1..=run.rounds {
        others::wait_for_quiet(run.quiet)?;
        eprintln!("round {round} of {}", run.rounds);
        let others = Others::watch()?;
        if let Some(blobs) = &large {
            large::round(run, blobs, &mut report).await?;
        }
        if let Some(blobs) = &small {
            small::round(run, blobs, &mut report).await?;
        }
        if run.has("commit") {
            commit::round(run, &mut report).await?;
        }
        if let Some(million) = &million {
            million.round(run, &mut report).await?;
        }
        if let Some(tree) = &tree {
            tree.round(run, &mut report).await?;
        }
        if let Some(beyond) = &beyond {
            beyond.round(run, &mut report).await?;
        }
        let percent = others.share()? * 100.0;
        report.add(OTHERS, "all rounds", &[("% of the CPU time", percent)]);
    }
    Ok(report)
}
