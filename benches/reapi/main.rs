//! Measures what build tools see: the real `zako serve` in a process of its own, driven
//! over the Remote Execution API by clients in this one.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures are what it is for"
)]

#[path = "../../src/allocator.rs"]
mod allocator;
mod asking;
mod batches;
#[path = "../server/blobs.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod blobs;
mod calls;
mod many;
#[path = "../server/others.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod others;
#[path = "../server/pages.rs"]
mod pages;
#[path = "../server/process.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod process;
#[path = "../server/report.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod report;
mod run;
mod small;
mod streams;

use std::error::Error;
use std::process::ExitCode;

use self::others::Others;
use self::report::{Goal, Goals, Report};
use self::run::{HELP, Run};

/// A result of any step: each failure ends the run.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const GOALS: &Goals = &[
    (
        batches::TITLE,
        "update, BLAKE3",
        "blobs/s",
        Goal::AtLeast(100e3),
    ),
    (
        asking::TITLE,
        "all present",
        "digests/s, millions",
        Goal::AtLeast(1.0),
    ),
    (
        asking::TITLE,
        "all missing",
        "digests/s, millions",
        Goal::AtLeast(1.0),
    ),
    (
        many::TITLE,
        many::ROW,
        "server's peak, MiB",
        Goal::AtMost(200.0),
    ),
];

fn main() -> ExitCode {
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
    let Some(run) = Run::parse(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
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
    let mut report = Report::default();
    // All in turn in each round, so that what else the machine does falls on all.
    for round in 1..=run.rounds {
        others::wait_for_quiet(run.quiet)?;
        eprintln!("round {round} of {}", run.rounds);
        let others = Others::watch()?;
        if run.has("streams") {
            streams::round(run, &mut report).await?;
        }
        if run.has("small") {
            small::round(run, &mut report).await?;
        }
        if run.has("batches") {
            batches::round(run, &mut report).await?;
        }
        if run.has("asking") {
            asking::round(run, &mut report).await?;
        }
        if run.has("many") {
            many::round(run, &mut report).await?;
        }
        let percent = others.share()? * 100.0;
        report.add(
            "Other processes meanwhile",
            "all rounds",
            &[("% of the CPU time", percent)],
        );
    }
    Ok(report)
}
