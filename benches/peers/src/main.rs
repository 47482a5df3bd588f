//! Measures Zako beside iroh-blobs and nginx: the same blobs over loopback, server
//! and getter in processes of their own, all in turn in each round.

mod iroh_blobs_peer;
mod load;
mod nginx;
#[path = "../../server/pages.rs"]
mod pages;
mod rows;
mod run;
mod servers;
mod worker;
mod zako;

#[path = "../../server/blobs.rs"]
mod blobs;
#[path = "../../server/others.rs"]
mod others;
#[path = "../../server/process.rs"]
#[allow(dead_code, reason = "the server's bench uses more of it")]
mod process;
#[path = "../../server/report.rs"]
#[allow(dead_code, reason = "the server's bench uses more of it")]
mod report;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use self::others::Others;
use self::report::Report;
use self::run::{HELP, Run};
use self::servers::Servers;

/// A result of any step: each failure ends the run.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How much others disturbed the figures.
const OTHERS: &str = "Other processes meanwhile";

fn main() -> ExitCode {
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
    let mut args = std::env::args().skip(1).peekable();
    match args.peek().map(String::as_str) {
        Some(worker::ROLE) => {
            return runtime.block_on(worker::work(&args.skip(1).collect::<Vec<_>>()));
        }
        Some(iroh_blobs_peer::ROLE) => {
            let folder = args.nth(1).ok_or("a folder is wanted")?;
            return runtime.block_on(iroh_blobs_peer::provide(folder.as_ref()));
        }
        _ => {}
    }
    let Some(run) = Run::parse(args)? else {
        println!("{HELP}");
        return Ok(());
    };
    let report = runtime.block_on(measure(&run))?;
    print!("{}", report.text(&[]));
    Ok(())
}

async fn measure(run: &Run) -> Outcome<Report> {
    let mut report = Report::default();
    let cores = std::thread::available_parallelism()?.get() as f64;
    for load in run.loads() {
        let servers = Servers::start(run, &load).await?;
        // The first round warms up what can be, and does not count.
        rows::round(run, &load, &servers, &mut Report::default())?;
        for round in 1..=run.rounds {
            others::wait_for_quiet(run.quiet)?;
            eprintln!("{load}: round {round} of {}", run.rounds);
            let (others, before, start) = (Others::watch()?, servers.all_cpu()?, Instant::now());
            rows::round(run, &load, &servers, &mut report)?;
            // Children that still run count among the others.
            let servers = (servers.all_cpu()? - before) / start.elapsed().as_secs_f64() / cores;
            let percent = (others.share()? - servers).max(0.0) * 100.0;
            report.add(OTHERS, load.name(), &[("% of the CPU time", percent)]);
        }
    }
    Ok(report)
}
