//! Simulates hit rates: LRU, FIFO, SIEVE, S3-FIFO and what Zako does, on made-up
//! traces of a build cache and on traces in files.

mod builds;
mod keys;
mod list;
mod policy;
mod trace;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use self::builds::Team;
use self::policy::zako::{Parameters, Zako};
use self::policy::{Fifo, Lru, Policy, S3Fifo, Sieve};
use self::trace::{Request, Summary};

const HELP: &str = "\
Simulates hit rates of eviction policies: cargo run --release -- [OPTIONS] [TRACE…]
  --seeds N     made-up traces of so many seeds (3)
  --parameters  also what Zako would reach with other parameters
TRACE is a file: .csv with lines of time,key,size, else oracleGeneral, uncompressed.
With files there are no made-up traces.";

/// Shares of the unique bytes that the caches have.
const PERCENT: [u64; 5] = [1, 5, 10, 20, 40];

/// A policy, by its name.
struct Candidate {
    name: String,
    make: Box<dyn Fn(u64) -> Box<dyn Policy> + Sync>,
}

/// What a policy reached on one trace with one size.
#[derive(Clone, Copy, Default)]
struct Reached {
    objects: f64,
    bytes: f64,
    /// Bytes copied to keep them, over bytes stored.
    moved: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut seeds, mut parameters, mut files) = (3, false, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seeds" => seeds = args.next().ok_or("--seeds needs a value")?.parse()?,
            "--parameters" => parameters = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            _ => files.push(arg),
        }
    }
    let candidates = candidates(parameters);
    if files.is_empty() {
        let made = (1..=seeds).map(|seed| builds::trace(Team::default(), seed));
        let name = format!("Made-up builds, {seeds} seeds");
        return tables(&name, &made.collect::<Vec<_>>(), &candidates);
    }
    for file in files {
        let path = Path::new(&file);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        tables(&name, &[trace::read(path)?], &candidates)?;
    }
    Ok(())
}

fn candidates(parameters: bool) -> Vec<Candidate> {
    fn add<P: Policy + 'static>(
        all: &mut Vec<Candidate>,
        name: impl Into<String>,
        make: impl Fn(u64) -> P + Sync + 'static,
    ) {
        all.push(Candidate {
            name: name.into(),
            make: Box::new(move |bytes| Box::new(make(bytes))),
        });
    }
    let mut all = Vec::new();
    let is = Parameters::default();
    add(&mut all, "FIFO", Fifo::new);
    add(&mut all, "LRU", Lru::new);
    add(&mut all, "SIEVE", Sieve::new);
    add(&mut all, "S3-FIFO", S3Fifo::new);
    add(&mut all, "Zako", move |bytes| Zako::new(bytes, is));
    if !parameters {
        return all;
    }
    let mut other = |name: &str, parameters: Parameters| {
        let name = format!("Zako, {name}");
        add(&mut all, name, move |bytes| Zako::new(bytes, parameters));
    };
    for percent in [5, 20, 40] {
        let changed = Parameters {
            probation_percent: percent,
            ..is
        };
        other(&format!("{percent} % on probation"), changed);
    }
    let twice = Parameters { kept_from: 2, ..is };
    other("kept from 2 uses", twice);
    for segments in [16, 256] {
        let changed = Parameters { segments, ..is };
        other(&format!("segments of 1/{segments}"), changed);
    }
    for percent in [25, 75, 90] {
        let changed = Parameters {
            passed_over_percent: percent,
            ..is
        };
        other(&format!("passed over from {percent} %"), changed);
    }
    other("no ghosts", Parameters { ghosts: 0, ..is });
    for percent in [30, 200] {
        let changed = Parameters {
            ghosts_percent: Some(percent),
            ..is
        };
        other(&format!("ghosts of {percent} % of the cap"), changed);
    }
    let by_number = Parameters {
        ghosts_percent: None,
        ..is
    };
    other("ghosts by number alone", by_number);
    let units = Parameters {
        large_from: Some(0),
        ..is
    };
    other("each blob a unit", units);
    all
}

/// Prints a table of objects, one of bytes, and what was moved.
fn tables(
    name: &str,
    traces: &[Vec<Request>],
    candidates: &[Candidate],
) -> Result<(), Box<dyn Error>> {
    println!("### {name}\n");
    let summaries: Vec<Summary> = traces.iter().map(|trace| Summary::of(trace)).collect();
    for it in &summaries {
        println!(
            "{} requests for {:.2} GiB; {} blobs of {:.2} GiB, {:.0} % wanted once only.\n",
            it.requests,
            it.bytes as f64 / (1u64 << 30) as f64,
            it.blobs,
            it.unique_bytes as f64 / (1u64 << 30) as f64,
            it.once as f64 * 100.0 / it.blobs.max(1) as f64,
        );
    }
    let reached: Vec<Vec<Reached>> = std::thread::scope(|scope| {
        let running: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                let summaries = &summaries;
                scope.spawn(move || {
                    let at = |percent| average(candidate, traces, summaries, percent);
                    PERCENT.map(at).to_vec()
                })
            })
            .collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.collect::<Result<_, _>>()
    })
    .map_err(|_| "a simulation panicked")?;
    type Figure = fn(&Reached) -> f64;
    let titles: [(&str, Figure); 3] = [
        ("Objects found, %", |it| it.objects),
        ("Bytes found, %", |it| it.bytes),
        ("Bytes moved, % of those stored", |it| it.moved),
    ];
    for (title, figure) in titles {
        let width = candidates.iter().map(|it| it.name.chars().count()).max();
        let width = width.unwrap_or(0).max(title.chars().count());
        print!("| {title:width$} |");
        PERCENT
            .iter()
            .for_each(|percent| print!(" {percent:3} % |"));
        print!("\n| {} |", "-".repeat(width));
        PERCENT.iter().for_each(|_| print!(" ----: |"));
        println!();
        for (candidate, reached) in candidates.iter().zip(&reached) {
            if reached.iter().all(|it| figure(it) == 0.0) {
                continue;
            }
            print!("| {:width$} |", candidate.name);
            reached
                .iter()
                .for_each(|it| print!(" {:5.1} |", figure(it) * 100.0));
            println!();
        }
        println!();
    }
    Ok(())
}

/// The mean of all traces, each with a cache of this share of its unique bytes.
fn average(
    candidate: &Candidate,
    traces: &[Vec<Request>],
    summaries: &[Summary],
    percent: u64,
) -> Reached {
    let mut sum = Reached::default();
    let share = 1.0 / traces.len() as f64;
    for (trace, summary) in traces.iter().zip(summaries) {
        let mut policy = (candidate.make)(summary.unique_bytes / 100 * percent);
        let (mut objects, mut bytes) = (0u64, 0u64);
        for request in trace {
            if policy.request(*request) {
                objects += 1;
                bytes += request.size;
            }
        }
        let stored = (summary.bytes - bytes).max(1) as f64;
        sum.objects += share * objects as f64 / summary.requests.max(1) as f64;
        sum.bytes += share * bytes as f64 / summary.bytes.max(1) as f64;
        sum.moved += share * policy.moved() as f64 / stored;
    }
    sum
}
