//! The `zako` command.

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
mod verify;
mod walk;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};
use zako_admin::RecentEvents;

use args::{Cli, GlobalArgs, Verb};
use config::{ConfigFile, Layers};
use failure::{Exit, Failure};
use interrupt::until_interrupted;
use output::Output;

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
    let events = RecentEvents::default();
    let kept = matches!(cli.verb, Verb::Serve(_)).then(|| events.layer());
    start_log(&cli.global, default_log, kept)?;
    let file = ConfigFile::load(cli.global.config.as_deref())?;
    let layers = Layers::new(&file);
    match cli.verb {
        Verb::Completions(_) => Ok(()),
        Verb::Hash(args) => hash::run(&args, output),
        Verb::Serve(args) => block_on(serve::run(args, &layers, events, output)),
        Verb::Put(args) => block_on(until_interrupted(put::run(args, &layers, output))),
        Verb::Get(args) => block_on(until_interrupted(get::run(args, &layers, output))),
        Verb::Has(args) => block_on(until_interrupted(has::run(args, &layers, output))),
        Verb::Stat(args) => block_on(until_interrupted(stat::run(args, &layers, output))),
        Verb::Rm(args) => block_on(until_interrupted(rm::run(args, &layers, output))),
        Verb::Verify(args) => block_on(until_interrupted(verify::run(args, &layers, output))),
        Verb::Gc(args) => block_on(until_interrupted(gc::run(args, &layers, output))),
        Verb::Rdma(args) => block_on(until_interrupted(rdma::run(args, &layers, output))),
        Verb::Demo(args) => block_on(until_interrupted(demo::run(args, output))),
        Verb::Doctor(args) => block_on(until_interrupted(doctor::run(args, &layers, output))),
    }
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

/// `kept` is told what is logged, too.
fn start_log(
    global: &GlobalArgs,
    default: &str,
    kept: Option<impl Layer<Registry> + Send + Sync>,
) -> Result<(), Failure> {
    let variable = std::env::var("ZAKO_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let (origin, text) = match (&global.log, &variable) {
        (Some(flag), _) => ("--log", flag.as_str()),
        (None, Some(variable)) => ("the variable ZAKO_LOG", variable.as_str()),
        (None, None) => ("the default", default),
    };
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map_err(|error| Failure::usage(format!("{origin}: {text:?} is no log filter: {error}")))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry()
        .with(kept)
        .with(lines.with_filter(filter))
        .init();
    Ok(())
}
