//! What traces cost a server: CPU and instructions for each small blob, with traces off, and
//! with a share of them recorded and sent to a collector on loopback. Builds can be compared.
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use zako_core::cas::{Cas, CasExt};
use zako_core::client::{Client, ClientOptions, ServerUrl};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const HELP: &str = "\
What traces cost a server: cargo bench --bench traces -- [OPTIONS] [BUILD…]
Each BUILD is FILE, a command `zako` with traces off, or FILE@RATIO, with this share of them
recorded. The first one is what the others are compared with. Without any: the command built with
this, off and with ratios of 0, 0.01 and 1.
  --rounds N   rounds, in which the builds take turns (5)
  --blobs N    blobs of 4 KiB in each, put and got by 64 clients (20000)
  --callgrind  count instructions with valgrind's callgrind instead of taking the time: once, with
               and without so many blobs more (3000), so that what a start costs is left out
Otherwise instructions are counted too if `perf` is there and the machine lets it.";

/// A command and how it traces.
struct Build {
    zako: PathBuf,
    ratio: Option<String>,
}

/// What a blob cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Microseconds of CPU, in the process and in the kernel.
    cpu: f64,
    /// Instructions in user mode.
    instructions: f64,
}

struct Load {
    collector: u16,
    counter: Counter,
}

/// What counts a server's instructions in user mode.
#[derive(Clone, Copy, PartialEq)]
enum Counter {
    Nothing,
    Perf,
    Callgrind,
}

/// Calls under way at once, each of another client.
const CLIENTS: usize = 64;

fn main() -> Outcome<()> {
    let (mut rounds, mut blobs, mut builds) = (5, 20_000, Vec::new());
    let mut args = std::env::args().skip(1);
    let (mut is_bench, mut is_counted) = (false, false);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).ok_or(HELP);
        match arg.as_str() {
            "--bench" => is_bench = true,
            "--callgrind" => {
                is_counted = true;
                (rounds, blobs) = (1, 3_000);
            }
            "--rounds" => rounds = number()?,
            "--blobs" => blobs = number()?,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            text => builds.push(Build::of(text)),
        }
    }
    if let (true, Some(own)) = (builds.is_empty(), option_env!("CARGO_BIN_EXE_zako")) {
        builds.push(Build::of(own));
        builds.extend(["0", "0.01", "1"].map(|ratio| Build::of(&format!("{own}@{ratio}"))));
    }
    // Among the tests it only shows that it works.
    if !is_bench {
        (rounds, blobs) = (1, 200);
    }
    let received = Arc::new(AtomicU64::new(0));
    let load = Load {
        collector: collector(Arc::clone(&received))?,
        counter: match has_perf() {
            _ if is_counted => Counter::Callgrind,
            true => Counter::Perf,
            false => Counter::Nothing,
        },
    };
    let mut costs = vec![Vec::new(); builds.len()];
    for round in 0..rounds {
        // Who goes first changes from round to round.
        for at in 0..builds.len() {
            let at = (at + round) % builds.len();
            let build = &builds[at];
            costs[at].push(match is_counted {
                true => {
                    let few = load.run(build, blobs / 2)?.instructions;
                    let many = load.run(build, blobs / 2 + blobs)?.instructions;
                    // Both are averages: of half as many blobs, and of half as many again.
                    let (cpu, instructions) = (f64::NAN, many * 1.5 - few * 0.5);
                    Cost { cpu, instructions }
                }
                false => load.run(build, blobs)?,
            });
        }
    }
    let medians: Vec<Cost> = costs.iter().map(|costs| median(costs)).collect();
    println!("| server | CPU µs a blob | ratio | instructions a blob | ratio |");
    println!("| --- | --- | --- | --- | --- |");
    for (build, cost) in builds.iter().zip(&medians) {
        let first = medians[0];
        println!(
            "| {} | {:.2} | {:.3} | {:.0} | {:.3} |",
            build.name(),
            cost.cpu,
            cost.cpu / first.cpu,
            cost.instructions,
            cost.instructions / first.instructions
        );
    }
    println!("Exports received: {}", received.load(Ordering::Relaxed));
    Ok(())
}

impl Build {
    fn of(text: &str) -> Self {
        let (zako, ratio) = match text.rsplit_once('@') {
            Some((zako, ratio)) => (zako, Some(ratio.to_owned())),
            None => (text, None),
        };
        let zako = PathBuf::from(zako);
        Self { zako, ratio }
    }

    fn name(&self) -> String {
        let name = self.zako.file_name().unwrap_or_default().to_string_lossy();
        match &self.ratio {
            Some(ratio) => format!("{name}, {ratio} recorded"),
            None => format!("{name}, off"),
        }
    }
}

impl Load {
    /// Puts and gets so many blobs at a new server.
    fn run(&self, build: &Build, blobs: usize) -> Outcome<Cost> {
        let folder = tempfile::tempdir()?;
        let (mut server, url, pid) = self.start(build, folder.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let before = cpu_ticks(pid)?;
        runtime.block_on(drive(&url, blobs))?;
        let ticks = cpu_ticks(pid)? - before;
        let target = rustix::process::Pid::from_raw(pid).ok_or("no process")?;
        rustix::process::kill_process(target, rustix::process::Signal::TERM)?;
        server.wait()?;
        let calls = 2.0 * blobs as f64;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Cost {
            cpu: ticks as f64 / per_second * 1e6 / calls,
            instructions: match self.counter {
                Counter::Perf => counted(&folder.path().join("perf"))? / calls,
                Counter::Callgrind => total(&folder.path().join("callgrind"))? / calls,
                Counter::Nothing => f64::NAN,
            },
        })
    }

    /// A server, its address, and its number (perf's is another).
    fn start(&self, build: &Build, folder: &Path) -> Outcome<(Child, ServerUrl, i32)> {
        let mut command = match self.counter {
            Counter::Perf => {
                let mut perf = Command::new("perf");
                perf.args(["stat", "-x,", "-e", "instructions:u", "-o"])
                    .arg(folder.join("perf"))
                    .arg(&build.zako);
                perf
            }
            Counter::Callgrind => {
                let mut valgrind = Command::new("valgrind");
                let mut file = std::ffi::OsString::from("--callgrind-out-file=");
                file.push(folder.join("callgrind"));
                valgrind.args(["-q", "--tool=callgrind"]).arg(file);
                valgrind.arg(&build.zako);
                valgrind
            }
            Counter::Nothing => Command::new(&build.zako),
        };
        command
            .args(["serve", "--log", "error", "--listen", "127.0.0.1:0"])
            .args(["--durability", "none", "--data"])
            .arg(folder.join("data"))
            .stdout(Stdio::piped());
        if let Some(ratio) = &build.ratio {
            let endpoint = format!("http://127.0.0.1:{}", self.collector);
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
                .env("OTEL_METRICS_EXPORTER", "none")
                .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
                .env("OTEL_TRACES_SAMPLER_ARG", ratio);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let address = line.trim_end().strip_prefix("zako: ready grpc=");
        let address = address.ok_or_else(|| format!("the server began with {line:?}"))?;
        let address = address.split(' ').next().unwrap_or(address);
        let url = format!("http://{address}").parse()?;
        let pid = match self.counter {
            Counter::Perf => {
                let path = format!("/proc/{0}/task/{0}/children", child.id());
                std::fs::read_to_string(path)?.trim().parse()?
            }
            Counter::Callgrind | Counter::Nothing => child.id() as i32,
        };
        Ok((child, url, pid))
    }
}

async fn drive(url: &ServerUrl, count: usize) -> Outcome<()> {
    let mut options = ClientOptions::default();
    options.max_connections = 1;
    let blobs: Vec<_> = (0..count as u64)
        .map(|seed| {
            let data = Bytes::from(seed.to_le_bytes().repeat(512));
            (zako_digest::hash::bytes(&data), data)
        })
        .collect();
    let blobs = Arc::new(blobs);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(url, options.clone()).await?);
    }
    for is_put in [true, false] {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for client in &clients {
            let (client, next, blobs) = (client.clone(), Arc::clone(&next), Arc::clone(&blobs));
            tasks.push(tokio::spawn(async move {
                while let Some((digest, data)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match is_put {
                        true => drop(client.put(digest, data.clone()).await?),
                        false => drop(client.fetch_bytes(digest).await?),
                    }
                }
                Outcome::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
    }
    Ok(())
}

/// A receiver of OTLP over HTTP that takes all and looks at nothing.
fn collector(received: Arc<AtomicU64>) -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let received = Arc::clone(&received);
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().ok();
                let mut reader = BufReader::new(stream);
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).unwrap_or(0) > 0 {
                    let lower = line.to_lowercase();
                    if let Some(text) = lower.strip_prefix("content-length:") {
                        length = text.trim().parse().unwrap_or(0);
                    }
                    if line == "\r\n" {
                        let mut body = vec![0; length];
                        let taken = reader.read_exact(&mut body).is_ok();
                        received.fetch_add(u64::from(taken), Ordering::Relaxed);
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        let _ = writer.as_mut().map(|writer| writer.write_all(answer));
                    }
                    line.clear();
                }
            });
        }
    });
    Ok(port)
}

fn has_perf() -> bool {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "instructions:u", "true"]);
    let output = perf.stdout(Stdio::null()).output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success() && !text.contains("<not")
    })
}

/// What perf wrote: a number before the first comma of a line.
fn counted(path: &Path) -> Outcome<f64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.contains("instructions"));
    let number = line.and_then(|line| line.split(',').next());
    Ok(number.ok_or("perf counted nothing")?.parse()?)
}

/// What callgrind wrote: the sum over all functions.
fn total(path: &Path) -> Outcome<f64> {
    let text = std::fs::read_to_string(path)?;
    let number = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(number.ok_or("callgrind counted nothing")?.trim().parse()?)
}

/// The process's time in user mode and in the kernel.
fn cpu_ticks(pid: i32) -> Outcome<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(ticks)
}

fn median(costs: &[Cost]) -> Cost {
    let of = |pick: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost {
        cpu: of(|cost| cost.cpu),
        instructions: of(|cost| cost.instructions),
    }
}
