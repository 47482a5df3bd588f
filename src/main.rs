//! The `zako` command.

mod access;
mod allocator;
mod args;
mod completions;
mod config;
mod connect;
mod demo;
mod digests;
mod disk;
mod doctor;
mod fabric;
mod failure;
mod gc;
mod get;
mod has;
mod hash;
mod interrupt;
mod keeper;
mod local_store;
mod log;
mod output;
mod progress;
mod put;
mod quantity;
mod rdma;
mod rm;
mod roads;
mod serve;
mod spool;
mod stat;
mod tracer;
mod verify;
mod walk;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::Layer;
use zako_admin::RecentEvents;

use args::{Cli, Verb};
use config::{ConfigFile, Layers, TelemetryConfig, TelemetryKeys};
use failure::{Exit, Failure};
use interrupt::until_interrupted;
use output::Output;
use tracer::Tracer;

fn main() -> ExitCode {
    allocator::keep_buffers();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.global.json;
    let mut output = Output::new(json);
    let outcome = run(cli, &mut output);
    // What was printed before a failure is worth its lines.
    let flushed = output.flush();
    let outcome = outcome.and(flushed);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::report(&failure, json);
            ExitCode::from(failure.exit().code())
        }
    }
}

fn run(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    if let Verb::Completions(args) = &cli.verb {
        return completions::run(args, output);
    }
    let default_log = match cli.verb {
        Verb::Serve(_) => "info",
        Verb::Put(_) | Verb::Get(_) => "warn",
        _ => "error",
    };
    if let Verb::Config(args) = &cli.verb {
        // It tells itself what is wrong in the file.
        log::start(&cli.global, None, default_log, Vec::new(), None)?;
        return config::run(args, cli.global.config.as_deref(), output);
    }
    let file = ConfigFile::load(cli.global.config.as_deref())?;
    let layers = Layers::new(&file);
    let (telemetry, is_server) = match &cli.verb {
        Verb::Serve(args) => (args.telemetry().clone(), true),
        _ => (TelemetryKeys::default(), false),
    };
    let telemetry = TelemetryConfig::resolve(telemetry, &layers)?;
    // Its drop sends the last spans, when the verb has ended.
    let tracer = Tracer::new(&telemetry, is_server);
    let events = RecentEvents::default();
    let kept = matches!(cli.verb, Verb::Serve(_)).then(|| events.layer().boxed());
    let beside = tracer.layer().into_iter().chain(kept).collect();
    let log = telemetry.log.as_deref();
    let filter = log::start(&cli.global, log, default_log, beside, tracer.gate())?;
    tracer.install();
    match cli.verb {
        Verb::Completions(_) | Verb::Config(_) => Ok(()),
        Verb::Access(args) => access::run(&args, output),
        Verb::Hash(args) => hash::run(&args, output),
        Verb::Serve(args) => block_on(serve::run(args, &layers, events, filter, output)),
        Verb::Put(args) => block_on(traced("zako put", put::run(args, &layers, output))),
        Verb::Get(args) => block_on(traced("zako get", get::run(args, &layers, output))),
        Verb::Has(args) => block_on(traced("zako has", has::run(args, &layers, output))),
        Verb::Stat(args) => block_on(traced("zako stat", stat::run(args, &layers, output))),
        Verb::Rm(args) => block_on(traced("zako rm", rm::run(args, &layers, output))),
        Verb::Verify(args) => block_on(traced("zako verify", verify::run(args, &layers, output))),
        Verb::Gc(args) => block_on(traced("zako gc", gc::run(args, &layers, output))),
        Verb::Rdma(args) => block_on(traced("zako rdma", rdma::run(args, &layers, output))),
        Verb::Demo(args) => block_on(traced("zako demo", demo::run(args, output))),
        Verb::Doctor(args) => block_on(traced("zako doctor", doctor::run(args, &layers, output))),
    }
}

/// A verb of a client: interrupted cleanly, and the first span of its trace.
async fn traced(
    name: &'static str,
    verb: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    Tracer::command(name, until_interrupted(verb)).await
}

/// Help and version go to stdout, all else to stderr with the code for usage.
fn usage(error: &clap::Error) -> ExitCode {
    let is_answer = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if !is_answer && std::env::args_os().any(|arg| arg == "--json") {
        output::report(&Failure::usage(error.to_string().trim_end()), true);
    } else {
        // Fails on a closed pipe only, and then there is nobody to tell.
        let _ = error.print();
    }
    if is_answer {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Usage.code())
    }
}

fn block_on(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("starting threads: {error}")))?;
    let outcome = runtime.block_on(verb);
    // A read of stdin that nobody waits for any more must not hold the exit up.
    runtime.shutdown_background();
    outcome
}
