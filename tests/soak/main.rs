//! A mixed load on real servers for a given time, with every answer checked.
//!
//! Two stores are used at once: one with room for all, which may lose nothing, and a small
//! one, which evicts. Clients of every kind put, read, negotiate, interrupt and delete;
//! others are slow or vanish. For the first half of the time the servers are ended again
//! and again, by SIGTERM and by SIGKILL; for the second they run, and what they take of
//! the machine must not grow. At last all blobs are read back, nothing may be left in the
//! folders, and `zako verify` has to find all well.
//!
//! A seed decides what each worker does, in which order; not when.
//!
//! It ends with 0 if all was well, with 1 if not, with 2 if it was asked for nonsense, and
//! with 3 if the disk is full, which says nothing about the servers.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod args;
mod blobs;
mod build_tool;
#[path = "../crash_build_tools/client.rs"]
mod client;
mod figures;
mod http;
mod last;
mod log;
mod native;
#[path = "../zako_process/ports.rs"]
mod ports;
mod report;
mod room;
mod rude;
mod site;
mod worker;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use args::{Args, USAGE};
use blobs::{Content, Shared};
use bytes::Bytes;
use figures::{Figures, Trend};
use log::Log;
use parking_lot::Mutex;
use rand::Rng;
use report::{Report, SiteReport};
use site::{End, Site};
use tokio::task::JoinSet;
use worker::Worker;
use zako_reapi::digest::RemoteDigest;

/// A blob as the client of build tools has it.
pub(crate) struct Blob {
    pub(crate) digest: RemoteDigest,
    pub(crate) data: Bytes,
}

/// A store under load.
struct Run {
    site: Arc<Site>,
    number: u64,
    log: Arc<Log>,
    over: Arc<AtomicBool>,
    figures: Arc<Mutex<Vec<Figures>>>,
}

/// Workers of one site: of the own protocol, build tools, over HTTP, and rude ones.
const NATIVE: u64 = 3;
const TOOLS: u64 = 2;
const HTTP: u64 = 1;

/// For how long a store's index may be rebuilt.
const OPENS: Duration = Duration::from_secs(60);

/// What the stores may take.
const ROOMY: u64 = 1 << 30;
const SMALL: u64 = 32 << 20;

/// Blobs that many workers store.
const SHARED: usize = 24;

fn main() -> ExitCode {
    let args = match Args::read(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Kept when it fails.
    let folder = tempfile::tempdir().unwrap().keep();
    if let Err(full) = room::to_begin(&folder, ROOMY + SMALL) {
        room::end(&folder, &full);
    }
    println!(
        "soak: {} s, seed {}, {} operations/s, {}",
        args.time.as_secs_f64(),
        args.seed,
        args.rate,
        folder.display()
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(soak(&args, &folder));
    std::fs::remove_dir_all(&folder).unwrap();
    let text = serde_json::to_string_pretty(&report).unwrap();
    println!("{text}");
    if let Some(path) = &args.report {
        std::fs::write(path, text).unwrap();
    }
    ExitCode::SUCCESS
}

async fn soak(args: &Args, folder: &Path) -> Report {
    let log = Arc::new(Log::new());
    let partial_ttl = (args.time / 10).clamp(Duration::from_secs(3), Duration::from_secs(60));
    let site = |name, cap| Arc::new(Site::new(&args.zako, folder, name, cap, partial_ttl));
    let sites = [site("roomy", ROOMY), site("small", SMALL)];
    tell_of_panics(args, &log, &sites, folder);
    let (there, ended) = (folder.to_owned(), sites.clone());
    let room = tokio::spawn(async move {
        let full = room::is_over(&there).await;
        ended.iter().for_each(|site| site.abandon());
        room::end(&there, &full);
    });
    let runs: Vec<Run> = (0..)
        .zip(&sites)
        .map(|(number, site)| Run {
            site: Arc::clone(site),
            number,
            log: Arc::clone(&log),
            over: Arc::default(),
            figures: Arc::default(),
        })
        .collect();
    // Workers wait for their servers; by then all have their blobs.
    let working: Vec<_> = runs.iter().map(|run| run.begin(args)).collect();
    for site in &sites {
        site.start("immediate");
    }
    let start = Instant::now();
    let mut watching = JoinSet::new();
    for run in &runs {
        watching.spawn(run.restarts(args, start));
        watching.spawn(run.watch(args.time, start));
    }
    progress(args.time, &runs, &log).await;
    for run in &runs {
        run.over.store(true, Ordering::Release);
    }
    while let Some(watched) = watching.join_next().await {
        watched.unwrap();
    }
    let mut reports = Vec::new();
    for (run, working) in runs.iter().zip(working) {
        let (shared, workers) = working;
        let workers = workers.join_all().await;
        let verified = last::check(&run.site, &shared, workers).await;
        reports.push(run.report(verified, args.time));
    }
    room.abort();
    Report {
        seed: args.seed,
        seconds: args.time.as_secs_f64(),
        rate: args.rate,
        operations: log.counts(),
        sites: reports,
    }
}

impl Run {
    fn begin(&self, args: &Args) -> (Arc<Vec<Shared>>, JoinSet<Worker>) {
        let polite = (NATIVE + TOOLS + HTTP) as f64 * 2.0;
        let mut shared = Worker::generator(args.seed, 1_000 + self.number);
        let shared = (0..SHARED).map(|at| Shared::new(Content::new(shared.random(), at)));
        let shared: Arc<Vec<Shared>> = Arc::new(shared.collect());
        let worker = |kind: &str, number: u64, pace: f64| Worker {
            name: format!("{} {kind} {number}", self.site.name),
            site: Arc::clone(&self.site),
            log: Arc::clone(&self.log),
            rng: Worker::generator(args.seed, self.number * 100 + number),
            own: Vec::new(),
            by_digest: kind == "native",
            shared: Arc::clone(&shared),
            over: Arc::clone(&self.over),
            pause: Duration::from_secs_f64(polite / args.rate * pace),
        };
        let mut working = JoinSet::new();
        for number in 0..NATIVE {
            working.spawn(native::run(worker("native", number, 1.0).with_own()));
        }
        for number in 10..10 + TOOLS {
            working.spawn(build_tool::run(worker("tool", number, 1.0).with_own()));
        }
        for number in 20..20 + HTTP {
            working.spawn(http::run(worker("http", number, 1.0).with_own()));
        }
        working.spawn(rude::run(worker("rude", 30, 8.0)));
        (shared, working)
    }

    /// Ends and starts servers for half of the time.
    fn restarts(&self, args: &Args, start: Instant) -> impl Future<Output = ()> + Send + use<> {
        let (site, log) = (Arc::clone(&self.site), Arc::clone(&self.log));
        let mut rng = Worker::generator(args.seed, 2_000 + self.number);
        let half = args.time / 2;
        let longest = (half / 8).clamp(Duration::from_secs(1), Duration::from_secs(40));
        async move {
            loop {
                let life = rng.random_range(0.2..1.0) * longest.as_secs_f64();
                tokio::time::sleep(Duration::from_secs_f64(life)).await;
                if start.elapsed() >= half {
                    return;
                }
                let how = match rng.random() {
                    true => End::Kill,
                    false => End::Term,
                };
                // What a process's end takes is the same by all of them.
                let durability = ["immediate", "100ms", "none"][rng.random_range(0..3)];
                let counted = match how {
                    End::Kill => "servers killed",
                    End::Term => "servers stopped",
                };
                log.count(counted, 1);
                let about = format!("{how:?}, then --durability {durability}");
                log.note(site.name, &about);
                let site = Arc::clone(&site);
                let again = move || {
                    site.end(how);
                    site.start(durability);
                };
                tokio::task::spawn_blocking(again).await.unwrap();
            }
        }
    }

    /// Looks at the server again and again.
    fn watch(&self, time: Duration, start: Instant) -> impl Future<Output = ()> + Send + use<> {
        let (site, over) = (Arc::clone(&self.site), Arc::clone(&self.over));
        let figures = Arc::clone(&self.figures);
        async move {
            while !over.load(Ordering::Acquire) {
                tokio::time::sleep(figures::every(time)).await;
                let Some(mut now) = Figures::now(&site, start) else {
                    continue;
                };
                // A walk meets a file, and then the one that its bytes were moved to.
                for _ in 0..5 {
                    let again = figures::bytes_on_disk(&site.data());
                    now.disk_bytes = now.disk_bytes.min(again);
                    if now.disk_bytes <= site.cap {
                        break;
                    }
                }
                assert!(now.disk_bytes <= site.cap, "{}: {now:?}", site.name);
                figures.lock().push(now);
                operate(&site).await;
            }
        }
    }

    fn report(&self, verified: String, time: Duration) -> SiteReport {
        let figures = self.figures.lock();
        let half = time.as_secs_f64() / 2.0;
        let settled: Vec<Figures> = figures
            .iter()
            .copied()
            .filter(|it| it.seconds > half)
            .collect();
        let trend = Trend::of(&settled);
        if let Some(trend) = &trend {
            trend.check(self.site.name);
        }
        SiteReport::new(&self.site, &figures, trend, verified)
    }
}

/// Asks what an operator would: the server is well, and tells so.
async fn operate(site: &Site) {
    for path in ["/readyz", "/metrics", "/"] {
        let moment = site.calm().await;
        let opened = moment.began + OPENS;
        loop {
            match http::ask(site.admin(), &format!("GET {path}"), "", b"").await {
                Ok((200, body)) if !body.is_empty() => break,
                _ if !site.is_calm(moment) => break,
                // It listens before its index is whole.
                Ok((503, _)) if path == "/readyz" && Instant::now() < opened => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => panic!("{}: {path}: {other:?}", site.name),
            }
        }
    }
}

/// Prints a line now and then until the time is over.
async fn progress(time: Duration, runs: &[Run], log: &Log) {
    let start = Instant::now();
    let pause = (time / 20).clamp(Duration::from_secs(2), Duration::from_secs(60));
    while start.elapsed() < time {
        tokio::time::sleep(pause.min(time.saturating_sub(start.elapsed()))).await;
        let figures = runs.iter().filter_map(|run| {
            let now = *run.figures.lock().last()?;
            Some(report::line(run.site.name, &now))
        });
        let figures: Vec<String> = figures.collect();
        println!(
            "{:6.0} s, {} operations, {} servers killed, {} stopped; {}",
            start.elapsed().as_secs_f64(),
            report::operations(log),
            log.get("servers killed"),
            log.get("servers stopped"),
            figures.join("; ")
        );
    }
}

/// A panic ends the run, with all that may tell why.
fn tell_of_panics(args: &Args, log: &Arc<Log>, sites: &[Arc<Site>; 2], folder: &Path) {
    let (args, log, sites) = (args.clone(), Arc::clone(log), sites.clone());
    let folder = folder.to_owned();
    let usual = std::panic::take_hook();
    let told = AtomicBool::new(false);
    std::panic::set_hook(Box::new(move |info| {
        // What fails from then on fails because of that.
        while told.swap(true, Ordering::AcqRel) {
            std::thread::sleep(Duration::from_secs(60));
        }
        let said: Vec<String> = sites.iter().map(|site| site.said()).collect();
        let words = said.iter().map(String::as_str);
        let why = info.to_string();
        if let Err(full) = room::is_to_blame(&folder, words.chain([&*why])) {
            sites.iter().for_each(|site| site.abandon());
            room::end(&folder, &full);
        }
        for line in log.last() {
            eprintln!("{line}");
        }
        usual(info);
        for site in &sites {
            site.abandon();
            eprintln!("{} said: {}", site.name, site.said());
        }
        eprintln!(
            "soak FAILED: --seed {} --seconds {} --rate {}; the stores are in {}",
            args.seed,
            args.time.as_secs_f64(),
            args.rate,
            folder.display()
        );
        std::process::exit(1);
    }));
}
